# shellcheck shell=bash
# What stands in for the cloud: S3, EC2/Auto Scaling, and the machine room that makes nodes follow instances.

NAMESPACE=trainingrun-cloud

host_port() { docker port "$CONTROL_PLANE" "$1/tcp" | head -n 1; }    # 127.0.0.1:12345

certificates() {
  local tls=$LOCAL/tls
  [ -f "$tls/s3.crt" ] && return
  rm -rf "$tls.part"
  mkdir -p "$tls.part"
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 -subj '/CN=TrainingRun local CA' \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign -keyout "$tls.part/ca.key" -out "$tls.part/ca.crt"
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj '/CN=s3' -keyout "$tls.part/s3.key" -out "$tls.part/s3.csr"
  printf '%s\n' "subjectAltName=DNS:s3.$NAMESPACE.svc,DNS:*.$NAMESPACE.svc,DNS:s3.$NAMESPACE.svc.cluster.local,DNS:localhost,IP:127.0.0.1" \
    'extendedKeyUsage=serverAuth' 'basicConstraints=CA:FALSE' > "$tls.part/s3.ext"
  openssl x509 -req -in "$tls.part/s3.csr" -CA "$tls.part/ca.crt" -CAkey "$tls.part/ca.key" -CAcreateserial -days 3650 -extfile "$tls.part/s3.ext" -out "$tls.part/s3.crt"
  move_into_place "$tls.part" "$tls"
}

apply_from() { kubectl "$@" --dry-run=client -o yaml | kubectl apply -f -; }

manifests() {
  sed -e "s#\${S3_IMAGE}#$S3_IMAGE#; s#\${CLOUD_IMAGE}#$CLOUD_IMAGE#; s#\${S3_NODE_PORT}#$S3_NODE_PORT#; s#\${CLOUD_NODE_PORT}#$CLOUD_NODE_PORT#" \
    -e "s#\${REGION}#$REGION#; s#\${GROUP}#$GROUP#; s#\${MAX_GPU_NODES}#$MAX_GPU_NODES#" "$HERE/cloud.yaml"
}

deploy_cloud() {
  local image
  certificates
  rm -f "$LOCAL/deployed"
  for image in "$S3_IMAGE" "$CLOUD_IMAGE"; do    # the node image built here was born with them
    docker exec "$CONTROL_PLANE" ctr -n k8s.io images ls -q | grep -x "docker.io/library/$image" > /dev/null ||
      docker save "$image" | docker exec -i "$CONTROL_PLANE" ctr -n k8s.io images import --snapshotter overlayfs -
  done
  apply_from create namespace "$NAMESPACE"
  apply_from -n "$NAMESPACE" create secret tls s3-tls --cert "$LOCAL/tls/s3.crt" --key "$LOCAL/tls/s3.key"
  apply_from -n "$NAMESPACE" create configmap ca --from-file "ca.crt=$LOCAL/tls/ca.crt"
  apply_from -n "$NAMESPACE" create secret generic s3-root --from-literal "ROOT_ACCESS_KEY=$S3_USER" --from-literal "ROOT_SECRET_KEY=$S3_SECRET"
  manifests | kubectl apply -f -
  kubectl -n "$NAMESPACE" rollout status --timeout=120s deployment/s3
  kubectl -n "$NAMESPACE" rollout status --timeout=120s deployment/cloud
  manifests | digest > "$LOCAL/deployed"
}

cloud_stands() {
  [ "$(cat "$LOCAL/deployed" 2> /dev/null)" = "$(manifests | digest)" ] &&
    [ "$(kubectl -n "$NAMESPACE" get deployments s3 cloud -o jsonpath='{.items[*].status.readyReplicas}' 2> /dev/null)" = '1 1' ]
}

s3_bucket() { with_env "$PYTHON" "$HERE/s3_check.py" "$BUCKET"; }

# --- the environment of tests and people ----------------------------------------------------------------------------------------

environment() {
  cat << ENV
export TRAININGRUN_CLUSTER=$CLUSTER
export KUBECONFIG='$LOCAL/kubeconfig'
export PATH='$LOCAL/bin':"\$PATH"
export TRAININGRUN_S3_ENDPOINT=https://$(host_port "$S3_NODE_PORT")
export TRAININGRUN_S3_ENDPOINT_IN_CLUSTER=https://s3.$NAMESPACE.svc
export TRAININGRUN_S3_CA='$LOCAL/tls/ca.crt'
export AWS_ACCESS_KEY_ID=$S3_USER
export AWS_SECRET_ACCESS_KEY=$S3_SECRET
export AWS_REGION=$REGION
export TRAININGRUN_BUCKET=$BUCKET
export TRAININGRUN_CLOUD_ENDPOINT=http://$(host_port "$CLOUD_NODE_PORT")
export TRAININGRUN_CLOUD_ENDPOINT_IN_CLUSTER=http://cloud.$NAMESPACE.svc
export TRAININGRUN_IMAGE=$OPERATOR_IMAGE
export TRAININGRUN_TRAINING_IMAGE=$TRAINING_IMAGE
export TRAININGRUN_AUDIT_LOG='$LOCAL/audit/audit.log'
ENV
  if has_frameworks; then echo "export TRAININGRUN_FRAMEWORKS_IN_CLUSTER=$FRAMEWORKS_IN_CLUSTER"; fi
  if [ "$ENGINE" = own ]; then printf "export DOCKER_HOST='%s'\n" "$DOCKER_HOST"; fi
}

with_env() { (eval "$(environment)"; "$@"); }

write_env() { environment > "$LOCAL/env.part"; mv "$LOCAL/env.part" "$LOCAL/env"; }

# --- the machine room -----------------------------------------------------------------------------------------------------------

room_pid() {
  local pid
  pid=$(cat "$LOCAL/machine-room.pid" 2> /dev/null) || return 1
  # the id may have been given to another process since
  ps -o args= -p "$pid" 2> /dev/null | grep -F "$HERE/machine_room.py" > /dev/null && echo "$pid"
}

start_room() {
  room_pid > /dev/null && return 0
  (
    unlocked
    eval "$(environment)"
    export CLUSTER_COMMAND=$HERE/cluster CONTROL_PLANE GROUP GPUS_PER_NODE MAX_GPU_NODES
    [ "$ENGINE" = machine ] || export DOCKER=/usr/bin/docker
    # A session of its own: a Ctrl-C meant for `up` does not reach it, and `down` ends it with its children.
    exec python3 -c 'import os, sys; os.setsid(); os.execv(sys.argv[1], sys.argv[1:])' \
      "$PYTHON" -u "$HERE/machine_room.py" "$LOCAL/machine-room.pid" >> "$LOCAL/machine-room.log" 2>&1 < /dev/null
  ) &
  local i
  for ((i = 0; i < 50; i++)); do room_pid > /dev/null && return 0; sleep 0.1; done
  tail -n 5 "$LOCAL/machine-room.log"
  return 1
}

stop_room() {
  local pid i
  if pid=$(room_pid); then
    kill -TERM -- "-$pid" || true
    for ((i = 0; i < 30; i++)); do kill -0 -- "-$pid" 2> /dev/null || break; sleep 0.1; done
    kill -KILL -- "-$pid" 2> /dev/null || true
  fi
  rm -f "$LOCAL/machine-room.pid"
}
