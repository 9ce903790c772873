# shellcheck shell=bash
# The images beside the node's: a Python base, the S3 server, the cloud. Each is named by the hash of what it is made of.

has_image() { docker image inspect "$1" > /dev/null 2>&1; }

BASE_PACKAGES=python3,ca-certificates

build_own_base() {
  local root=$CACHE/build-base
  "$HERE/../debian-root" "$DEBIAN" "$BASE_PACKAGES" "$root"
  ln -sf python3 "$root/usr/bin/python"
  rm -rf "$root"/usr/share/{bash-completion,zoneinfo/right}/* "$root"/var/cache/debconf/* "$root"/usr/share/i18n
  tar -C "$root" -c . | docker import -c "ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8" -c 'CMD ["python3"]' - "$OWN_BASE"
  rm -rf "$root"
}

# Sets BASE to what a Dockerfile takes as --build-arg BASE=
base_image() {
  if has_image "$OFFICIAL_BASE" || { [ "$ENGINE" = machine ] && docker pull "$OFFICIAL_BASE" > /dev/null 2>&1; }; then
    BASE=$OFFICIAL_BASE
    return
  fi
  BASE=$OWN_BASE
  has_image "$OWN_BASE" || step 'Python base image from Debian' build_own_base
}

build_cloud_image() {
  local context=$CACHE/build-cloud
  rm -rf "$context"
  mkdir -p "$context"
  cp "$HERE"/cloud/{Dockerfile,server.py} "$context/"
  "$HERE/../site-packages" "$HERE/cloud/requirements.lock" "$context/packages"
  docker build --build-arg "BASE=$BASE" -t "$CLOUD_IMAGE" "$context"
  rm -rf "$context"
}

build_s3_image() {
  local context=$CACHE/build-s3
  rm -rf "$context"
  mkdir -p "$context"
  cp "$HERE/s3/Dockerfile" "$(bin_dir "versitygw-$VERSITYGW")/versitygw" "$context/"
  docker build -t "$S3_IMAGE" "$context"
  rm -rf "$context"
}

name_simulation_images() {
  S3_IMAGE=trainingrun-s3:$VERSITYGW-$(digest < "$HERE/s3/Dockerfile")
  CLOUD_IMAGE=trainingrun-cloud:$(cat "$HERE"/cloud/* | digest)
}

s3_image() { has_image "$S3_IMAGE" || step 'S3 image (versitygw)' build_s3_image; }

# What needs no Go, made while Go compiles: it waits for the network and the disk more than it computes.
without_go() {
  if ! has_image "$CLOUD_IMAGE"; then
    base_image
    step 'cloud image (moto)' build_cloud_image
  fi
  [ "$ENGINE" = machine ] || has_image "$NODE_IMAGE" || step 'Debian of the node image' "$HERE/../debian-root" "$DEBIAN" "$NODE_PACKAGES"
}
