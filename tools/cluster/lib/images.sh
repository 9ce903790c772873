# shellcheck shell=bash
# The images beside the node's: a Python base, the S3 server, the cloud. Each is named by the hash of what it is made of.

has_image() { docker image inspect "$1" > /dev/null 2>&1; }

build_own_base() {
  local root=$CACHE/build-base
  debian_root python3,ca-certificates "$root"
  # pip as in the official image; `python` too, and no lock on the system's own packages
  wheels "$CACHE/wheels-pip" pip
  cp "$CACHE"/wheels-pip/pip-*.whl "$root/tmp/"
  rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
  # shellcheck disable=SC2016  # expanded in there
  chroot "$root" bash -ec '
    for wheel in /tmp/pip-*.whl; do python3 -B "$wheel/pip" install --no-cache-dir --no-index --root-user-action ignore "$wheel"; rm "$wheel"; done
    ln -sf python3 /usr/bin/python'
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

# wheels DIR ARGUMENT-OF-PIP...   For Python 3.11 in a Linux container, whatever this machine runs.
wheels() {
  local dir=$1 arch platforms=()
  shift
  case $(docker version --format '{{.Server.Arch}}') in arm64) arch=aarch64 ;; *) arch=x86_64 ;; esac
  for p in manylinux2014 manylinux_2_17 manylinux_2_28; do platforms+=(--platform "${p}_$arch"); done
  rm -rf "$dir"
  mkdir -p "$dir"
  python3 -m pip download --disable-pip-version-check --dest "$dir" --only-binary=:all: --python-version 3.11 --implementation cp "${platforms[@]}" "$@"
}

build_cloud_image() {
  local context=$CACHE/build-cloud
  rm -rf "$context"
  mkdir -p "$context"
  cp "$HERE"/cloud/{Dockerfile,server.py} "$context/"
  wheels "$context/wheels" -r "$HERE/cloud/requirements.txt"
  cp "$HERE/cloud/requirements.txt" "$context/wheels/"
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

simulation_images() {
  S3_IMAGE=trainingrun-s3:$VERSITYGW-$(digest < "$HERE/s3/Dockerfile")
  CLOUD_IMAGE=trainingrun-cloud:$(cat "$HERE"/cloud/* | digest)
  has_image "$S3_IMAGE" || step 'S3 image (versitygw)' build_s3_image
  has_image "$CLOUD_IMAGE" && return
  base_image
  step 'cloud image (moto)' build_cloud_image
}
