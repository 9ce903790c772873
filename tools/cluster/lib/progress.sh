# shellcheck shell=bash
# What a person sees: one line per step with its seconds; a long step counts aloud; a failed one shows the end of its log.
# (No `| grep -q` anywhere: it ends its writer early, which `pipefail` takes for a failure.)

STEP='' ALIVE=''

say() { printf '    %s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# step TITLE COMMAND...   The command runs in a shell of its own: what it changes of folder and environment ends with it.
# Not under `if`, so that `set -e` holds inside it.
step() {
  STEP=$1; shift
  local began=$SECONDS
  STEP_LOG=$LOCAL/log/$(printf %s "$STEP" | tr -c 'A-Za-z0-9\n' -).log
  mkdir -p "$LOCAL/log"
  printf '==> %s ...' "$STEP"
  count_aloud "$began" & ALIVE=$!
  (
    trap cleanups EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    "$@"
  ) > "$STEP_LOG" 2>&1 < /dev/null
  quieten
  printf ' %s s\n' $((SECONDS - began))
  STEP=''
}

count_aloud() {
  unlocked
  trap 'kill "$nap" 2> /dev/null; exit' TERM
  local nap
  while sleep 15 & nap=$!; wait "$nap"; do printf ' %s' $((SECONDS - $1)); done
}

quieten() {
  [ -n "$ALIVE" ] || return 0
  kill "$ALIVE" 2> /dev/null || true
  wait "$ALIVE" 2> /dev/null || true
  ALIVE=''
}

finish() {
  local status=$?
  trap '' INT TERM
  quieten
  if [ "$status" -ne 0 ] && [ -n "$STEP" ]; then
    printf ' failed\n' >&2
    tail -n 20 "$STEP_LOG" | sed 's/^/    | /' >&2
    printf '%s: "%s" did not finish; the whole log is %s. Every command may be repeated.\n' "${0##*/}" "$STEP" "$STEP_LOG" >&2
  fi
  exit "$status"
}

# What a step must undo however it ends.
CLEANUPS=()
on_exit() { CLEANUPS+=("$1"); }
cleanups() {
  local i
  for ((i = ${#CLEANUPS[@]} - 1; i >= 0; i--)); do eval "${CLEANUPS[i]}" > /dev/null 2>&1 || true; done
  CLEANUPS=()
}
