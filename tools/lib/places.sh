# shellcheck shell=bash disable=SC2034  # read by who sources it
# Where everything lies that all of this user's checkouts share.

CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/trainingrun

# digest [LENGTH]   Of standard input.
digest() { if command -v sha256sum > /dev/null; then sha256sum; else shasum -a 256; fi | cut -c "1-${1:-12}"; }
