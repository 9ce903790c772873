# shellcheck shell=bash
# Kubernetes and the tools beside it, built from Go modules into the cache; one folder per name and version, complete or absent.

bin_dir() { printf '%s/bin/%s' "$CACHE" "$1"; }

# A module per tool: its own versions, nobody else's.
new_module() {
  rm -rf "$1"
  mkdir -p "$1/out"
  cd "$1" || return
  printf 'module cluster.test/build\n\ngo 1.24.0\n' > go.mod
  export CGO_ENABLED=0 GOFLAGS=-trimpath GOOS=linux
}

# go_tool NAME VERSION MODULE PACKAGE [HOST]   HOST: it runs on this machine and not in a container
build_go_tool() {
  new_module "$CACHE/build-$1"
  [ -z "${5:-}" ] || unset GOOS
  go get "$3@$2"
  go get -tool "$4"
  go build -ldflags '-s -w' -o "out/$1" "$4"
  mkdir -p "$CACHE/bin"
  move_into_place "$CACHE/build-$1/out" "$(bin_dir "$1-$2")"
  rm -rf "$CACHE/build-$1"
}

go_tool() {
  [ -x "$(bin_dir "$1-$2")/$1" ] && return
  golang
  step "$1 $2 from its Go module" build_go_tool "$@"
}

# k8s.io/kubernetes needs every staging module replaced by its published twin.
kubernetes_module() {
  local gomod component
  new_module "$1"
  printf '\nrequire k8s.io/kubernetes v%s\n' "$KUBERNETES" >> go.mod
  gomod=$(go mod download -json "k8s.io/kubernetes@v$KUBERNETES" | python3 -c 'import json, sys; print(json.load(sys.stdin)["GoMod"])')
  {
    printf '\nreplace (\n'
    grep -oE '^\s*k8s\.io/\S+ => \./staging' "$gomod" | awk -v v="0.${KUBERNETES#*.}" '{print "\t" $1 " => " $1 " v" v}'
    printf ')\n\ntool (\n'
    for component in kube-apiserver kube-controller-manager kube-scheduler kube-proxy kubelet kubectl; do
      printf '\tk8s.io/kubernetes/cmd/%s\n' "$component"
    done
    printf ')\n'
  } >> go.mod
  go mod tidy -e
  go get "k8s.io/kubernetes/pkg/proxy/nftables@v$KUBERNETES" || true    # tidy misses kube-proxy's knftables
  go get "k8s.io/kubernetes/cmd/kubeadm@v$KUBERNETES"
}

build_kubernetes() {
  local minor=${KUBERNETES#*.} version=k8s.io/component-base/version
  kubernetes_module "$CACHE/build-kubernetes"
  go build -o out/ \
    -ldflags "-s -w -X $version.gitVersion=v$KUBERNETES -X $version.gitMajor=1 -X $version.gitMinor=${minor%%.*}" \
    k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kube-proxy,kubelet,kubectl,kubeadm}
  mkdir -p "$CACHE/bin"
  move_into_place "$CACHE/build-kubernetes/out" "$(bin_dir "kubernetes-$KUBERNETES")"
  rm -rf "$CACHE/build-kubernetes"
}

kubernetes_binaries() {
  [ -x "$(bin_dir "kubernetes-$KUBERNETES")/kubeadm" ] && return
  golang
  step "Kubernetes $KUBERNETES from its Go module (six minutes on two cores)" build_kubernetes
}

helm_binary() { go_tool helm "$HELM" helm.sh/helm/v4 helm.sh/helm/v4/cmd/helm host; }

binaries() {
  go_tool kind "$KIND" sigs.k8s.io/kind sigs.k8s.io/kind host
  helm_binary
  go_tool versitygw "$VERSITYGW" github.com/versity/versitygw github.com/versity/versitygw/cmd/versitygw
  [ "$ENGINE" = own ] || return 0
  kubernetes_binaries
  go_tool etcd "$ETCD" go.etcd.io/etcd/server/v3 go.etcd.io/etcd/server/v3
  go_tool coredns "$COREDNS" github.com/coredns/coredns github.com/coredns/coredns
}

# A folder for PATH: the tools of this ground, and with our own engine the `docker` that fits it.
tool_folder() {
  rm -rf "${LOCAL:?}/bin"
  mkdir -p "$LOCAL/bin"
  ln -s "$(bin_dir "kind-$KIND")/kind" "$(bin_dir "helm-$HELM")/helm" "$LOCAL/bin/"
  if [ "$ENGINE" = own ]; then
    ln -s "$(bin_dir "kubernetes-$KUBERNETES")/kubectl" "$HERE/standin/docker" "$LOCAL/bin/"
  fi
  PATH=$LOCAL/bin:$PATH
}
