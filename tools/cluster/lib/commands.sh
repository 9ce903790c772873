# shellcheck shell=bash
# The commands, each from its first step to its last.

up() {
  local began=$SECONDS
  lock_checkout
  lock_cache
  choose_engine
  [ "$ENGINE" = machine ] || packages
  python
  engine
  name_simulation_images
  name_node_image
  aside without_go
  binaries
  tool_folder
  joined without_go 'the images that need no Go'
  s3_image
  register_checkout
  if cluster_stands; then
    mention_older_image
  else
    rm -f "$LOCAL/env"
    stop_room
    node_image
    step 'Kubernetes' create_nodes
  fi
  unlock_cache    # from here on the engine is in use, and nobody stops it
  cloud_stands || step 'S3 and cloud' deploy_cloud
  step 'bucket' s3_bucket
  room_pid > /dev/null || step 'machine room' start_room
  crds
  write_env
  printf '\nCluster %s is up after %s s.\n\n' "$CLUSTER" $((SECONDS - began))
  kubectl get nodes
  printf '\nFor a shell or a test:  . %s\n' "$LOCAL/env"
}

crds() {
  if compgen -G "$CHECKOUT/crds/*.yaml" > /dev/null; then step 'custom resources' apply_crds; fi
  if kubectl get crd gpunodepools.trainingrun.dev > /dev/null 2>&1; then
    step 'node pool' kubectl apply -f "$HERE/gpunodepool.yaml"
  else
    say 'no node pool yet: the custom resource GPUNodePool is not defined (crds/*.yaml)'
  fi
}

apply_crds() {
  kubectl apply --server-side --force-conflicts -f "$CHECKOUT/crds"
  kubectl wait --for=condition=Established --timeout=30s -f "$CHECKOUT/crds"
}

down() {
  lock_checkout
  lock_cache
  use_recorded_engine
  # Without a record there may still be a killed engine of ours.
  if [ -z "$ENGINE" ] && own_engine_here; then use_own_engine; fi
  rm -f "$LOCAL/env"
  stop_room
  if [ -n "$ENGINE" ] && engine_answers; then step 'removing the nodes' remove_machines "$CLUSTER"; fi
  forget_checkout "$CLUSTER"
  if [ "$ENGINE" = own ]; then
    if engine_answers && [ -n "$(docker ps -q)" ]; then
      say "the container engine stays: others use it ($(docker ps --format '{{.Names}}' | tr '\n' ' '))"
    else
      step 'stopping the container engine' stop_engine
    fi
  fi
  rm -rf "$LOCAL/created" "$LOCAL/engine" "$LOCAL/deployed" "$LOCAL/kubeconfig" "$LOCAL/images"
}

require_cluster() {
  use_recorded_engine
  if [ -z "$ENGINE" ] || [ ! -f "$LOCAL/created" ] || ! running "$CONTROL_PLANE"; then
    die 'no cluster runs for this checkout; start it with: cluster up'
  fi
  PATH=$LOCAL/bin:$PATH
}

load() {
  local image
  [ $# -gt 0 ] || die 'which images? cluster load IMAGE...'
  require_cluster
  lock_checkout
  for image in "$@"; do has_image "$image" || die "image $image is not there; build it first, with DOCKER_HOST from $LOCAL/env"; done
  step "loading $*" load_images "$@"
}

# Its last line, alone on standard output, is the reference.
base_image_command() {
  {
    lock_checkout
    lock_cache
    choose_engine
    [ "$ENGINE" = machine ] || packages
    engine
    base_image
  } >&2
  printf '%s\n' "$BASE"
}

# Likewise. What is there already is not waited for.
helm_command() {
  local binary
  binary=$(bin_dir "helm-$HELM")/helm
  if [ ! -x "$binary" ]; then
    {
      lock_cache
      helm_binary
    } >&2
  fi
  printf '%s\n' "$binary"
}

status() {
  local pid
  use_recorded_engine
  printf 'checkout      %s\ncluster       %s\n' "$CHECKOUT" "$CLUSTER"
  if [ -z "$ENGINE" ]; then echo 'engine        none (cluster up)'; return; fi
  if ! engine_answers; then echo "engine        $ENGINE, does not answer (cluster up)"; return; fi
  printf 'engine        %s, %s\n' "$ENGINE" "$(docker version --format 'Docker {{.Server.Version}}')"
  if pid=$(room_pid); then echo "machine room  process $pid, log $LOCAL/machine-room.log"; else echo 'machine room  does not run (cluster up)'; fi
  printf 'images        %s\n' "$(tr '\n' ' ' < "$LOCAL/images/list" 2> /dev/null || true)"
  docker ps -a --filter "label=io.x-k8s.kind.cluster=$CLUSTER" --format 'machine       {{.Names}}  {{.Status}}'
  if [ -f "$LOCAL/created" ] && running "$CONTROL_PLANE"; then
    PATH=$LOCAL/bin:$PATH
    environment | sed -n "s/^export TRAININGRUN_\(S3\|CLOUD\)_ENDPOINT=/endpoint      /p"
    kubectl get nodes
  fi
}

# machine join NODE INSTANCE ZONE | mend NODE | end NODE
machine() {
  local action=$1
  shift
  use_recorded_engine
  PATH=$LOCAL/bin:$PATH
  "${action}_machine" "$@"
}
