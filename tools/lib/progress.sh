# shellcheck shell=bash
# What a person sees of a script: one line per step with its seconds; a long step counts aloud; a failed one shows the end of its log.
# (No `| grep -q` anywhere: it ends its writer early, which `pipefail` takes for a failure.)
#
# Source it, set STEP_LOGS to a folder for the logs, and `trap finish EXIT`. A script that says more about a failed step defines `explain`.

PROGRESS_SECONDS=${PROGRESS_SECONDS:-10}    # how long a line may stand still
STEP='' STEP_LOG='' ALIVE=''

say() { printf '    %s\n' "$*"; }
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# step TITLE COMMAND...   The command runs in a shell of its own: what it changes of folder and environment ends with it.
# Not under `if`, so that `set -e` holds inside it. A title says in brackets how long a long step takes.
step() {
  : "${STEP_LOGS:?a folder for the logs of the steps}"
  STEP=$1; shift
  local began=$SECONDS
  STEP_LOG=$STEP_LOGS/$(printf %s "${STEP%% (*}" | tr -c 'A-Za-z0-9\n' -).log
  mkdir -p "$STEP_LOGS"
  printf '==> %s ...' "$STEP"
  count_aloud "$began" & ALIVE=$!
  (
    CLEANUPS=()
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
  local nap=
  trap 'kill $nap 2> /dev/null; exit' TERM
  # Without our output, which whoever reads it would else wait for if the nap is not caught.
  while sleep "$PROGRESS_SECONDS" > /dev/null 2>&1 & nap=$!; wait "$nap"; do printf ' %s' $((SECONDS - $1)); done
}

# A process that outlives the script must not hold its locks: those are open descriptors.
unlocked() { exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-; }

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
    {
      printf ' failed\n'
      { tail -n "${STEP_TAIL:-20}" "$STEP_LOG"; if declare -F explain > /dev/null; then explain || true; fi; } 2>&1 | sed 's/^/    | /'
      printf '%s: "%s" failed with status %s; the whole log is %s. Every command may be repeated.\n' "${0##*/}" "$STEP" "$status" "$STEP_LOG"
    } >&2
  fi
  cleanups
  exit "$status"
}

# What a step, or the script, must undo however it ends.
CLEANUPS=()
on_exit() { CLEANUPS+=("$1"); }
cleanups() {
  local i
  for ((i = ${#CLEANUPS[@]} - 1; i >= 0; i--)); do eval "${CLEANUPS[i]}" > /dev/null 2>&1 || true; done
  CLEANUPS=()
}

# --- beside the steps -----------------------------------------------------------------------------------------------------------

# aside COMMAND   Begins it in the background, with a log of its own; its steps are not shown. Ends with the script, whatever happens.
aside() {
  mkdir -p "$STEP_LOGS"
  rm -f "$STEP_LOGS/$1.status"
  set -m    # in a group of its own, to be ended with its children
  (
    set +m
    CLEANUPS=()
    ASIDE=$STEP_LOGS/$1
    trap 'status=$?; quieten; cleanups; echo $status > "$ASIDE.part"; mv "$ASIDE.part" "$ASIDE.status"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    "$@"
  ) > "$STEP_LOGS/$1.log" 2>&1 < /dev/null &
  set +m
  echo $! > "$STEP_LOGS/$1.pid"
  on_exit "kill -- -$!"
}

# joined COMMAND TITLE   What was begun aside is done; only a wait that is needed is shown. If it failed, so does this.
joined() {
  if [ -e "$STEP_LOGS/$1.status" ] && [ "$(cat "$STEP_LOGS/$1.status")" = 0 ]; then return 0; fi
  step "$2" await_aside "$1"
}

await_aside() {
  while [ ! -e "$STEP_LOGS/$1.status" ] && kill -0 "$(cat "$STEP_LOGS/$1.pid")" 2> /dev/null; do sleep 0.2; done
  cat "$STEP_LOGS/$1.log"
  return "$(cat "$STEP_LOGS/$1.status")"
}
