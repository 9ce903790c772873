# shellcheck shell=bash
# The container engine. `machine`: the Docker engine that is there, when it can pull kind's node image. `own`: Debian's engine on a
# socket, a data folder, a cgroup and two bridges of its own, one for all of this user's checkouts, for Linux with root elsewhere.
# It publishes ports by its proxy process and routes nothing, so it writes no iptables rule and there is none to leave behind.

SOCKET=$ENGINE_DIR/docker.sock

own_engine_here() { [ "$(uname -s)" = Linux ] && [ "$(id -u)" -eq 0 ]; }
use_own_engine() { ENGINE=own; export DOCKER_HOST=unix://$SOCKET; }
engine_answers() { docker version > /dev/null 2>&1; }

# The engine this checkout's cluster was made with; empty when there is none.
recorded_engine() { cat "$LOCAL/engine" 2> /dev/null || cat "$CACHE/clusters/$CLUSTER.engine" 2> /dev/null || true; }

use_recorded_engine() {
  ENGINE=$(recorded_engine)
  [ "$ENGINE" != own ] || use_own_engine
}

pull_node_image() { docker image inspect "$OFFICIAL_NODE" > /dev/null 2>&1 || docker pull "$OFFICIAL_NODE"; }

# On `machine` everything after this goes to the engine that answered, with the context and environment it answered in.
choose_engine() {
  use_recorded_engine
  [ -z "$ENGINE" ] || return 0
  if [ "${DOCKER_HOST:-}" != "unix://$SOCKET" ] && command -v docker > /dev/null && engine_answers; then
    say 'a Docker engine answers; asking it for the node image of kind'
    if (pull_node_image); then ENGINE=machine; return; fi
    say 'its registry does not answer'
  fi
  own_engine_here || die 'needs a Docker engine whose registry answers, or Linux and root to run one of its own'
  say 'using an engine of our own and a node image built here'
  use_own_engine
}

# --- our own engine -------------------------------------------------------------------------------------------------------------

# To the kernel, a cgroup beside a process is one process: without a weight, all nodes and pods together would get as little of a busy
# machine as any single program on it.
weigh_cgroup() {
  local cores root=/sys/fs/cgroup
  cores=$(nproc)
  if [ -e "$root/cgroup.controllers" ]; then
    mkdir -p "$root/$CGROUP"
    echo $((200 * cores)) > "$root/$CGROUP/cpu.weight"
  elif [ -d "$root/cpu" ]; then
    mkdir -p "$root/cpu/$CGROUP"
    echo $((2048 * cores)) > "$root/cpu/$CGROUP/cpu.shares"
  fi
}

start_engine() {
  [ "${#SOCKET}" -lt 104 ] || { echo "$SOCKET is too long for a socket: set XDG_CACHE_HOME to a shorter folder"; return 1; }
  mkdir -p "$ENGINE_DIR"
  sweep_wreck
  weigh_cgroup || true    # a machine that does not delegate it: the tests take longer there
  # Nodes are made to restart on failure. After a killed engine they would come back half, without network, and those of a lost checkout
  # would make its folders again: they stay down until their own `up` replaces them.
  find "$ENGINE_DIR/data/containers" -name hostconfig.json -exec sed -i 's/"Name":"on-failure"/"Name":"no"/' {} + 2> /dev/null || true
  ip link add name "$BUILD_BRIDGE" type bridge
  ip address add "$BUILD_ADDRESS" dev "$BUILD_BRIDGE"
  ip link set "$BUILD_BRIDGE" up
  (
    unlocked
    exec setsid dockerd --data-root "$ENGINE_DIR/data" --exec-root "$ENGINE_DIR/exec" --pidfile "$ENGINE_DIR/docker.pid" -H "$DOCKER_HOST" \
      --bridge "$BUILD_BRIDGE" --iptables=false --ip-forward=false --ip-masq=false --cgroup-parent "/$CGROUP" --shutdown-timeout 3 \
      > "$ENGINE_DIR/docker.log" 2>&1 < /dev/null
  ) &
  local i
  for ((i = 0; i < 150; i++)); do
    if engine_answers; then return 0; fi
    sleep 0.2
  done
  tail -n 20 "$ENGINE_DIR/docker.log"
  return 1
}

engine() {
  [ "$ENGINE" = own ] || return 0
  if ! engine_answers; then
    step 'container engine' start_engine
    remove_machines "$CLUSTER"    # wrecks by now; `up` makes them anew
  fi
  forget_lost_checkouts
  docker network inspect "$NODE_NETWORK" > /dev/null 2>&1 ||
    docker network create --driver bridge --opt "com.docker.network.bridge.name=$NODE_BRIDGE" "$NODE_NETWORK" > /dev/null
}

# The engine's processes carry its folder in their command line.
engine_processes() {
  local file line
  for file in /proc/[0-9]*/cmdline; do
    line=$(tr '\0' ' ' 2> /dev/null < "$file") || continue
    case $line in
      dockerd\ *"$ENGINE_DIR/"* | */dockerd\ *"$ENGINE_DIR/"* | *containerd*" $ENGINE_DIR/exec/"*) file=${file%/cmdline}; echo "${file##*/}" ;;
    esac
  done
}

# Every process of every container stands in the engine's cgroup, in each of cgroup v1's hierarchies or in the one of v2.
container_processes() { find /sys/fs/cgroup -path "*/$CGROUP/*" -name cgroup.procs -exec cat {} + 2> /dev/null | sort -un; }

kill_all() { # COMMAND that lists ids
  local i ids
  for ((i = 0; i < 50; i++)); do
    ids=$("$1" | grep -vx 0 || true)
    [ -n "$ids" ] || return 0
    # shellcheck disable=SC2086  # a list of ids
    kill -9 $ids 2> /dev/null || true
    sleep 0.1
  done
}

unmount_under() {
  local at
  awk -v prefix="$1/" 'index($2, prefix) == 1 {print $2}' /proc/self/mounts | sort -r | while read -r at; do umount -l "$(printf '%b' "$at")" || true; done
}

delete_interfaces() {
  local bridge end
  for bridge in "$BUILD_BRIDGE" "$NODE_BRIDGE"; do
    ip link show "$bridge" > /dev/null 2>&1 || continue
    for end in $(ip -o link show master "$bridge" | awk -F': ' '{sub(/@.*/, "", $2); print $2}'); do ip link delete "$end" || true; done
    ip link delete "$bridge" || true
  done
}

# Whatever a killed engine left: its other processes, containers, mounts, interfaces, cgroups. Safe where there is nothing.
sweep_wreck() {
  kill_all engine_processes
  kill_all container_processes
  unmount_under "$ENGINE_DIR"
  delete_interfaces
  find /sys/fs/cgroup -depth -type d \( -name "$CGROUP" -o -path "*/$CGROUP/*" \) -exec rmdir {} + 2> /dev/null || true
  rm -rf "$ENGINE_DIR/docker.pid" "$ENGINE_DIR/exec" "$SOCKET"
}

stop_engine() {
  local i pid
  if engine_answers; then docker network rm "$NODE_NETWORK" || true; fi
  pid=$(cat "$ENGINE_DIR/docker.pid" 2> /dev/null || true)
  if [ -n "$pid" ] && engine_processes | grep -x "$pid" > /dev/null; then
    kill "$pid"
    for ((i = 0; i < 100; i++)); do engine_processes | grep -x "$pid" > /dev/null || break; sleep 0.1; done    # not kill -0: it may be a zombie
  fi
  sweep_wreck
}

# --- clusters on it -------------------------------------------------------------------------------------------------------------

# Name to checkout, and once more the engine, for a checkout whose .cluster was deleted by hand.
register_checkout() {
  mkdir -p "$CACHE/clusters"
  printf '%s\n' "$CHECKOUT" > "$CACHE/clusters/$CLUSTER"
  printf '%s\n' "$ENGINE" | tee "$CACHE/clusters/$CLUSTER.engine" > "$LOCAL/engine"
}
forget_checkout() { rm -f "$CACHE/clusters/$1" "$CACHE/clusters/$1.engine"; }

machines_of() { docker ps -aq --filter "label=io.x-k8s.kind.cluster=$1"; }
all_clusters() { docker ps -a --filter label=io.x-k8s.kind.cluster --format '{{.Label "io.x-k8s.kind.cluster"}}' | sort -u; }

remove_machines() {
  local ids
  ids=$(machines_of "$1")
  # shellcheck disable=SC2086  # a list of ids
  [ -z "$ids" ] || docker rm -f -v $ids > /dev/null
}

forget_lost_checkouts() {
  local name home
  for name in $(all_clusters); do
    home=$(cat "$CACHE/clusters/$name" 2> /dev/null || true)
    if [ "$name" = "$CLUSTER" ] || { [ -n "$home" ] && [ -e "$home/tools/cluster/cluster" ]; }; then continue; fi
    say "removing cluster $name: its checkout ${home:-(unknown)} is gone"
    remove_machines "$name"
    forget_checkout "$name"
  done
}
