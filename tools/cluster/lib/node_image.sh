# shellcheck shell=bash
# The node image where none can be pulled: Debian, kind's own node files out of its Go module, and the Kubernetes binaries, with the
# images of the control plane and of the simulation already in the node's containerd. Named by the hash of all it is made of.

NODE_PACKAGES=systemd,systemd-sysv,dbus,ca-certificates,curl,jq,procps,mount,util-linux,iproute2,iptables,nftables,conntrack,ethtool,socat
NODE_PACKAGES+=,kmod,hostname,libseccomp2,containerd,runc,containernetworking-plugins,nfs-common,openssl
IMAGE_PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# What the node image's Dockerfile of kind does after its packages, and what differs without --privileged.
kind_files() {
  local root=$1 files
  files=$(cd "$CACHE" && go mod download -json "sigs.k8s.io/kind@$KIND" | python3 -c 'import json, sys; print(json.load(sys.stdin)["Dir"])')/images/base/files
  cp --no-preserve=mode -r "$files/kind" "$root/"
  cp --no-preserve=mode -r "$files/etc/." "$root/etc/"
  install -m 755 "$files"/usr/local/bin/* "$root/usr/local/bin/"
  chmod 755 "$root/kind" "$root/kind/bin" "$root"/kind/bin/*
  # shellcheck disable=SC2016  # expanded in the node
  chroot "$root" bash -ec '
    rm -f /lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service /lib/systemd/system/multi-user.target.wants/* \
      /etc/systemd/system/*.wants/* /lib/systemd/system/local-fs.target.wants/* /lib/systemd/system/sockets.target.wants/*udev* \
      /lib/systemd/system/basic.target.wants/*
    echo ReadKMsg=no >> /etc/systemd/journald.conf
    ln -sf /usr/lib/systemd/systemd /sbin/init
    mkdir -p /etc/kubernetes/manifests /opt/cni/bin
    cp /usr/lib/cni/* /opt/cni/bin/
    for b in containerd ctr containerd-shim-runc-v2; do ln -sf /usr/bin/$b /usr/local/bin/$b; done
    systemctl enable kubelet.service containerd.service undo-mount-hacks.service
    systemctl mask systemd-binfmt.service'
  # The sandbox image of this Kubernetes, and no oom score below the parent's, which needs CAP_SYS_RESOURCE.
  sed -i "s#sandbox_image = .*#sandbox_image = \"$("$KUBERNETES_BIN/kubeadm" config images list --kubernetes-version "v$KUBERNETES" | grep pause)\"#
    s#restrict_oom_score_adj = false#restrict_oom_score_adj = true#" "$root/etc/containerd/config.toml"
  # Without --privileged the cgroup mounts come read-only.
  # shellcheck disable=SC2016  # expanded in the node
  sed -i '0,/^set -o errexit/s//for m in $(awk '\''$2 ~ "^\/sys\/fs\/cgroup" {print $2}'\'' \/proc\/mounts); do mount -o remount,rw,bind "$m" || true; done\nset -o errexit/' \
    "$root/usr/local/bin/entrypoint"
  # Without CAP_SYS_RESOURCE no container may ask for it, raise a limit or lower its oom score.
  chroot "$root" ctr oci spec | python3 -c '
import json, sys
spec = json.load(sys.stdin)
spec.setdefault("hooks", {}).setdefault("createContainer", []).append({"path": "/kind/bin/mount-product-files.sh"})
process = spec["process"]
process.pop("rlimits", None)
process.pop("oomScoreAdj", None)
for kind, names in process.get("capabilities", {}).items():
    process["capabilities"][kind] = [n for n in names if n != "CAP_SYS_RESOURCE"]
json.dump(spec, sys.stdout)' > "$root/etc/containerd/cri-base.json"
  install -m 755 "$HERE"/node/{seal,seed,add}-images "$root/kind/bin/"
  install -D -m 644 "$HERE/node/seed-images.conf" "$root/etc/systemd/system/containerd.service.d/seed-images.conf"
  install -m 755 "$KUBERNETES_BIN"/{kubeadm,kubelet,kubectl} "$root/usr/bin/"
  printf 'v%s' "$KUBERNETES" > "$root/kind/version"
}

# one_file_image TAG BINARY [CHANGE...]
one_file_image() {
  local tag=$1 binary=$2 change
  local changes=(-c "ENV PATH=$IMAGE_PATH")
  shift 2
  for change in "$@"; do changes+=(-c "$change"); done
  tar -C "$(dirname "$binary")" --mode 755 --transform 's,^,usr/local/bin/,' -c "$(basename "$binary")" | docker import "${changes[@]}" - "$tag"
}

# kube-proxy calls iptables, nft and conntrack: those of the node, with the libraries they load.
kube_proxy_image() {
  local root=$1
  install -m 755 "$KUBERNETES_BIN/kube-proxy" "$root/usr/local/bin/"
  # shellcheck disable=SC2016  # expanded in the node
  chroot "$root" bash -ec '
    programs="/usr/sbin/xtables-nft-multi /usr/sbin/xtables-legacy-multi /usr/sbin/nft /usr/sbin/conntrack /usr/bin/ip /usr/bin/kmod"
    links=$(ls -d /usr/sbin/ip{,6}tables* /etc/alternatives/ip{,6}tables* /usr/sbin/modprobe)
    plugins=$(ls /usr/lib/*/xtables/*.so)
    { printf "%s\n" /bin /sbin /lib /lib64 /usr/local/bin/kube-proxy $links $plugins
      for f in $programs $(ldd $programs $plugins | grep -oE "/\S+\.so\S*" | grep -v ":$" | sort -u); do
        printf "%s\n%s/%s\n" "$(readlink -f $f)" "$(readlink -f "$(dirname $f)")" "$(basename $f)"
      done
    } | sort -u | sed "s,^/,," > /tmp/kube-proxy.files'
  tar -C "$root" -c --ignore-failed-read -T "$root/tmp/kube-proxy.files" | docker import -c "ENV PATH=$IMAGE_PATH" - "registry.k8s.io/kube-proxy:v$KUBERNETES"
  rm -f "$root/usr/local/bin/kube-proxy" "$root/tmp/kube-proxy.files"
}

# The images kubeadm asks for, under the names it asks for.
control_plane_images() {
  local work=$1 component listed tag
  for component in apiserver controller-manager scheduler; do
    one_file_image "registry.k8s.io/kube-$component:v$KUBERNETES" "$KUBERNETES_BIN/kube-$component" > /dev/null
  done
  cat > "$work/pause.c" << 'C'
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
static void stop(int s) { _exit(0); }
static void reap(int s) { while (waitpid(-1, NULL, WNOHANG) > 0); }
int main() { signal(SIGINT, stop); signal(SIGTERM, stop); signal(SIGCHLD, reap); for (;;) pause(); }
C
  gcc -static -Os -o "$work/pause" "$work/pause.c"
  listed=$("$KUBERNETES_BIN/kubeadm" config images list --kubernetes-version "v$KUBERNETES")
  for tag in $listed; do
    case $tag in
      */etcd:*) one_file_image "$tag" "$KUBERNETES_BIN/etcd" ;;
      */coredns:*) one_file_image "$tag" "$KUBERNETES_BIN/coredns" 'ENTRYPOINT ["/usr/local/bin/coredns"]' ;;
      */pause:*) one_file_image "$tag" "$work/pause" 'ENTRYPOINT ["/usr/local/bin/pause"]' ;;
    esac > /dev/null
  done
  printf '%s\n' "$listed" > "$work/images.list"
}

# preload ROOT ARCHIVE   Into the store a node is born with, by a containerd over it. Not under /var, which is a volume that the
# engine would fill by copying, for each node.
preload() {
  local root=$1 archive=$2 work=$3 pid i
  printf 'version = 2\nroot = "%s/preloaded/seed"\nstate = "%s/state"\n[grpc]\n  address = "%s/containerd.sock"\n' "$root" "$work" "$work" > "$work/containerd.toml"
  (unlocked; exec containerd --config "$work/containerd.toml" > "$work/containerd.log" 2>&1) &
  pid=$!
  on_exit "kill $pid"
  for ((i = 0; i < 100; i++)); do ctr -a "$work/containerd.sock" version > /dev/null 2>&1 && break; sleep 0.1; done
  ctr -a "$work/containerd.sock" -n k8s.io images import "$archive"
  kill "$pid"
  wait "$pid" || true
  "$HERE/node/seal-images" "$root/preloaded/seed" "$root/preloaded" /preloaded
  rm -rf "$root/var/lib/containerd"
}

build_node_image() {
  local work=$CACHE/build-node root
  root=$work/root
  unmount_under "$work"
  rm -rf "$work"
  mkdir -p "$work"
  "$HERE/../debian-root" "$DEBIAN" "$NODE_PACKAGES" "$root"
  kind_files "$root"
  kube_proxy_image "$root"
  control_plane_images "$work"
  # shellcheck disable=SC2046  # a list of names
  docker save -o "$work/images.tar" $(cat "$work/images.list") "$S3_IMAGE" "$CLOUD_IMAGE"
  preload "$root" "$work/images.tar" "$work"
  # shellcheck disable=SC2046  # a list of names
  docker rmi $(cat "$work/images.list") > /dev/null || true
  tar -C "$root" -c . | docker import -c 'ENV container=docker' -c 'ENTRYPOINT ["/usr/local/bin/entrypoint","/sbin/init"]' - "$NODE_IMAGE" > /dev/null
  unmount_under "$work"
  rm -rf "$work"
  # the newest three stay, and what a container uses
  docker images --format '{{.Repository}}:{{.Tag}}' trainingrun-node | tail -n +4 | xargs -r /usr/bin/docker rmi || true
}

name_node_image() {
  if [ "$ENGINE" = machine ]; then NODE_IMAGE=$OFFICIAL_NODE; return; fi
  NODE_IMAGE=trainingrun-node:v$KUBERNETES-$({ cat "$HERE/lib/node_image.sh" "$HERE"/node/*; printf '%s\n' "$KIND" "$(kubernetes_dir)" "$DEBIAN" "$S3_IMAGE" "$CLOUD_IMAGE"; } | digest)
}

node_image() {
  has_image "$NODE_IMAGE" && return
  KUBERNETES_BIN=$(kubernetes_dir)
  golang
  step 'node image from Debian and the binaries (a minute and a half)' build_node_image
}
