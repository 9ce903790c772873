# shellcheck shell=bash disable=SC2034  # read by the other parts
# Where things live, and the versions this ground is made of.

CHECKOUT=$(cd "$HERE/../.." && pwd -P)
LOCAL=$CHECKOUT/.cluster                                    # this checkout's cluster; git-ignored
STEP_LOGS=$LOCAL/log
ENGINE_DIR=$CACHE/engine
FRAMEWORKS_DIR=$CACHE/frameworks                            # what tools/frameworks installs; nodes see it
FRAMEWORKS_IN_CLUSTER=/frameworks

# required MODULE   Its version in kubernetes/go.mod, without the v.
required() { awk -v module="$1" '$1 == module && $2 ~ /^v/ {print substr($2, 2); exit}' "$HERE/kubernetes/go.mod"; }
KUBERNETES=$(required k8s.io/kubernetes)
KIND=v0.33.0
OFFICIAL_NODE=kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5    # the default of that kind
HELM=v4.3.1                                                 # of helm.in, where its package has one for this machine
VERSITYGW=v1.8.0
DEBIAN=bookworm

OFFICIAL_BASE=python:3.11-slim-bookworm
OWN_BASE=trainingrun-base:bookworm
OPERATOR_IMAGE=trainingrun-operator:dev
TRAINING_IMAGE=trainingrun-training:dev

GPUS_PER_NODE=8
S3_NODE_PORT=30443
CLOUD_NODE_PORT=30500
REGION=us-east-1
GROUP=gpu
BUCKET=trainingrun-checkpoints
S3_USER=trainingrun
S3_SECRET=trainingrun-secret

CLUSTER=tr-$(printf %s "$CHECKOUT" | digest 6)
CONTROL_PLANE=$CLUSTER-control-plane
MAX_GPU_NODES=4

# What our own engine has outside its folder carries the folder's hash, so that `down` takes away its own and nobody else's.
ENGINE_ID=$(printf %s "$ENGINE_DIR" | digest 6)
CGROUP=trainingrun-$ENGINE_ID
BUILD_BRIDGE=tr-build-$ENGINE_ID
BUILD_ADDRESS=10.99.$((16#${ENGINE_ID:0:2})).1/24
NODE_BRIDGE=tr-nodes-$ENGINE_ID
NODE_NETWORK=trainingrun
