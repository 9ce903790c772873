# shellcheck shell=bash
# The cluster's nodes: made by kind, joined later as kind's own would be, wired, given GPUs and images.

kubectl() { command kubectl --kubeconfig "$LOCAL/kubeconfig" "$@"; }

# Beside our own engine its own client; a newer one on PATH may refuse to speak with it.
docker() { if [ "$ENGINE" = own ]; then command /usr/bin/docker "$@"; else command docker "$@"; fi; }
docker_run() { if [ "$ENGINE" = own ]; then "$HERE/standin/docker" run "$@"; else command docker run "$@"; fi; }
kind() { KIND_EXPERIMENTAL_DOCKER_NETWORK=$NODE_NETWORK command kind "$@"; }

address() { docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$1"; }
running() { [ "$(docker inspect -f '{{.State.Running}}' "$1" 2> /dev/null)" = true ]; }

# kubeadm's flags are a map up to its v1beta3, which kind writes for Kubernetes before 1.36, and a list after it.
api_server_flags() {
  local name value
  while read -r name value; do
    if [ "$ENGINE" = own ]; then printf '      %s: "%s"\n' "$name" "$value"; else printf '    - {name: %s, value: "%s"}\n' "$name" "$value"; fi
  done << 'FLAGS'
audit-policy-file /etc/kubernetes/audit/policy.yaml
audit-log-path /var/log/kubernetes/audit/audit.log
audit-log-maxsize 1000
default-not-ready-toleration-seconds 30
default-unreachable-toleration-seconds 5
FLAGS
}

kind_config() {
  cat << CONFIG
kind: Cluster
apiVersion: kind.x-k8s.io/v1alpha4
$([ "$ENGINE" = machine ] || echo 'networking: {disableDefaultCNI: true, podSubnet: 10.244.0.0/16}')
kubeadmConfigPatches:
- |
  kind: ClusterConfiguration
  apiServer:
    extraArgs:
$(api_server_flags)
    extraVolumes:
    - {name: audit-policy, hostPath: /etc/kubernetes/audit, mountPath: /etc/kubernetes/audit, readOnly: true, pathType: Directory}
    - {name: audit-log, hostPath: /var/log/kubernetes/audit, mountPath: /var/log/kubernetes/audit, pathType: DirectoryOrCreate}
- |
  kind: KubeletConfiguration
  imageGCHighThresholdPercent: 100
  evictionHard: {nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%"}
$([ "$ENGINE" = machine ] || echo '  failCgroupV1: false')
nodes:
- role: control-plane
  extraMounts:
  - {hostPath: "$LOCAL/audit-policy", containerPath: /etc/kubernetes/audit}
  - {hostPath: "$LOCAL/audit", containerPath: /var/log/kubernetes/audit}
  - {hostPath: "$LOCAL/images", containerPath: /images}
  - {hostPath: "$FRAMEWORKS_DIR", containerPath: $FRAMEWORKS_IN_CLUSTER, readOnly: true}
  extraPortMappings:
  - {containerPort: $S3_NODE_PORT, listenAddress: 127.0.0.1}
  - {containerPort: $CLOUD_NODE_PORT, listenAddress: 127.0.0.1}
CONFIG
}

# `created` names the control plane that was made to the end, and its image.
cluster_stands() {
  [ -f "$LOCAL/created" ] && running "$CONTROL_PLANE" &&
    [ "$(cut -d ' ' -f 1 "$LOCAL/created")" = "$(docker inspect -f '{{.Id}}' "$CONTROL_PLANE")" ]
}

# Clusters that older scripts made have no such folder.
has_frameworks() { docker inspect -f '{{range .Mounts}}{{.Destination}} {{end}}' "$CONTROL_PLANE" | grep -qw -- "$FRAMEWORKS_IN_CLUSTER"; }

# A running cluster is not thrown away because a script changed.
mention_older_image() {
  [ "$(cut -d ' ' -f 2 "$LOCAL/created")" = "$NODE_IMAGE" ] || say 'its node image is not the one these scripts make: down and up renew it'
}

create_nodes() {
  rm -f "$LOCAL/created"
  remove_machines "$CLUSTER"
  rm -rf "$LOCAL/audit" "$LOCAL/images"
  mkdir -p "$LOCAL/audit" "$LOCAL/audit-policy" "$LOCAL/images" "$FRAMEWORKS_DIR"
  cp "$HERE/audit-policy.yaml" "$LOCAL/audit-policy/policy.yaml"
  kind_config > "$LOCAL/kind.yaml"
  kind create cluster --name "$CLUSTER" --image "$NODE_IMAGE" --config "$LOCAL/kind.yaml" --kubeconfig "$LOCAL/kubeconfig" --wait 0s
  command -v kubectl > /dev/null || docker cp "$CONTROL_PLANE:/usr/bin/kubectl" "$LOCAL/bin/kubectl"
  kubectl taint node "$CONTROL_PLANE" node-role.kubernetes.io/control-plane- 2> /dev/null || true
  kubectl -n kube-system scale deployment coredns --replicas 1
  wire "$CONTROL_PLANE"
  ready "$CONTROL_PLANE"
  printf '%s %s\n' "$(docker inspect -f '{{.Id}}' "$CONTROL_PLANE")" "$NODE_IMAGE" > "$LOCAL/created"
}

# wire NODE   Stands in for kindnet where its image is not to be had: a bridge by the node's podCIDR, and routes both ways.
# A restarted node has lost its routes, so this is repeated then.
wire() {
  [ "$ENGINE" = own ] || return 0
  local node=$1 cidr='' other other_cidr i
  for ((i = 0; i < 120; i++)); do
    cidr=$(kubectl get node "$node" -o jsonpath='{.spec.podCIDR}' 2> /dev/null || true)
    [ -z "$cidr" ] || break
    sleep 0.25
  done
  docker exec -i "$node" tee /etc/cni/net.d/10-bridge.conflist > /dev/null << CNI
{"cniVersion": "0.4.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$cidr"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
CNI
  kubectl get nodes -o jsonpath='{range .items[*]}{.metadata.name} {.spec.podCIDR}{"\n"}{end}' > "$LOCAL/log/nodes.$node"
  while read -r other other_cidr; do
    if [ "$other" = "$node" ] || [ -z "$other_cidr" ] || ! running "$other"; then continue; fi
    docker exec "$other" ip route replace "$cidr" via "$(address "$node")" || true
    docker exec "$node" ip route replace "$other_cidr" via "$(address "$other")" || true
  done < "$LOCAL/log/nodes.$node"
  rm -f "$LOCAL/log/nodes.$node"
}

ready() { kubectl wait --for=condition=Ready --timeout=90s "node/$1"; }

# A GPU is an extended resource on the Node's status, admitted like a device plugin's.
give_gpus() {
  local path=nvidia.com~1gpu
  kubectl patch node "$1" --subresource=status --type json -p "[
    {\"op\": \"add\", \"path\": \"/status/capacity/$path\", \"value\": \"$GPUS_PER_NODE\"},
    {\"op\": \"add\", \"path\": \"/status/allocatable/$path\", \"value\": \"$GPUS_PER_NODE\"}]"
}

# --- images on nodes ------------------------------------------------------------------------------------------------------------

import_archive() { docker exec -i "$1" ctr -n k8s.io images import --snapshotter overlayfs - < "$2" > /dev/null; }

# What machines that join later are born with. Beside our own engine they share one unpacked copy (`current`, whose number changes
# with each load); elsewhere each imports the archive.
births() { if [ "$ENGINE" = own ]; then readlink "$LOCAL/images/current" || true; else ls -li "$LOCAL/images/archive.tar" 2> /dev/null || true; fi; }

remember_images() {
  if [ "$ENGINE" = own ]; then
    docker exec -i "$CONTROL_PLANE" /kind/bin/add-images "$(date +%s%N)" < "$1"
  else
    # shellcheck disable=SC2046  # a list of names; saved together, so that shared layers are there once
    docker save -o "$LOCAL/images/archive.part" $(cat "$LOCAL/images/list")
    mv "$LOCAL/images/archive.part" "$LOCAL/images/archive.tar"
  fi
}

# A `load` may come between a machine's birth and its joining: then what was loaded is imported.
import_remembered() {
  local node=$1 born_with=$2
  while [ "$born_with" != "$(births)" ]; do
    born_with=$(births)
    # shellcheck disable=SC2046  # a list of names
    docker save $(cat "$LOCAL/images/list") | docker exec -i "$node" ctr -n k8s.io images import --snapshotter overlayfs - > /dev/null
  done
}

load_images() {
  local node pids=() pid failed='' archive=$LOCAL/images/load.tar
  { cat "$LOCAL/images/list" 2> /dev/null || true; printf '%s\n' "$@"; } | sort -u > "$LOCAL/images/list.part"
  mv "$LOCAL/images/list.part" "$LOCAL/images/list"
  docker save -o "$archive" "$@"
  remember_images "$archive"
  for node in $(kubectl get nodes -o name); do
    node=${node#node/}
    running "$node" || continue
    import_archive "$node" "$archive" &
    pids+=($!)
  done
  for pid in "${pids[@]}"; do wait "$pid" || failed=yes; done
  rm -f "$archive"
  [ -z "$failed" ]
}

# --- machines of the cloud ------------------------------------------------------------------------------------------------------

# join_machine NODE INSTANCE ZONE   A brand-new worker: kind's own container, joined by kubeadm under the cloud's id.
# It shows its GPUs and turns Ready only when everything it needs is there.
join_machine() {
  local node=$1 instance=$2 zone=$3 i importing born_with='' sharing=()
  docker rm -f -v "$node" > /dev/null 2>&1 || true
  kubectl delete node "$node" --ignore-not-found    # of an interrupted join
  if [ "$ENGINE" = own ]; then
    born_with=$(births)
    sharing=(--volume "$LOCAL/images:/images:ro")
  fi
  docker_run -d --tty --name "$node" --hostname "$node" --label "io.x-k8s.kind.cluster=$CLUSTER" --label io.x-k8s.kind.role=worker \
    --label "trainingrun.dev/instance=$instance" ${sharing[@]+"${sharing[@]}"} --privileged --security-opt seccomp=unconfined --security-opt apparmor=unconfined \
    --tmpfs /tmp --tmpfs /run --volume /var --volume /lib/modules:/lib/modules:ro --net "$NODE_NETWORK" --restart=on-failure:1 \
    --init=false --cgroupns=private "$(docker inspect -f '{{.Config.Image}}' "$CONTROL_PLANE")" > /dev/null
  for ((i = 0; i < 150; i++)); do docker exec "$node" ctr version > /dev/null 2>&1 && break; sleep 0.2; done
  import_remembered "$node" "$born_with" &
  importing=$!
  docker exec "$CONTROL_PLANE" kubeadm token create abcdef.0123456789abcdef > /dev/null 2>&1 || true    # kind's own; it lives a day
  docker exec -i "$node" tee /kind/kubeadm.conf > /dev/null << CONFIG
apiVersion: kubeadm.k8s.io/v1beta4
kind: JoinConfiguration
nodeRegistration:
  criSocket: unix:///run/containerd/containerd.sock
  kubeletExtraArgs:
    - {name: node-ip, value: "$(address "$node")"}
    - {name: provider-id, value: "aws:///$zone/$instance"}
    - {name: node-labels, value: "pool=$GROUP,topology.kubernetes.io/zone=$zone,node.kubernetes.io/instance-type=p5.48xlarge"}
  taints: [{key: nvidia.com/gpu, value: present, effect: NoSchedule}]
discovery:
  bootstrapToken: {token: abcdef.0123456789abcdef, apiServerEndpoint: "$CONTROL_PLANE:6443", unsafeSkipCAVerification: true}
CONFIG
  docker exec "$node" kubeadm join --config /kind/kubeadm.conf --skip-phases=preflight
  wait "$importing"
  docker exec "$node" touch /kind/joined
  mend_machine "$node"
}

# After a boot: its routes and GPUs are gone. A machine whose join was interrupted is removed, to be built again.
mend_machine() {
  docker exec "$1" test -e /kind/joined || { end_machine "$1"; return; }
  give_gpus "$1"
  wire "$1"
  ready "$1"
}

wire_machine() { wire "$1"; }

# A terminated instance: gone with its disk; its Node stays until the cloud controller removes it.
end_machine() { docker rm -f -v "$1"; }
