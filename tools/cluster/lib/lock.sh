# shellcheck shell=bash
# Two locks: one per checkout (descriptor 8: one command at a time on one cluster), one per user (descriptor 9: the engine and the
# cache). A lock is held by an open descriptor, so a killed command gives it back; daemons are started with both closed (`unlocked`),
# and with whatever a caller may hold: `flock file make cluster` would else be held for as long as the cluster is up.

FLOCK='
import fcntl, sys
fd, who = int(sys.argv[1]), sys.argv[2]
try:
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print(f"    waiting for another command that works on {who}", file=sys.stderr, flush=True)
    fcntl.flock(fd, fcntl.LOCK_EX)
'
# Python and not flock(1), which macOS lacks.
lock_checkout() { mkdir -p "$LOCAL"; exec 8> "$LOCAL/lock"; python3 -c "$FLOCK" 8 "this checkout's cluster"; }
lock_cache() { mkdir -p "$CACHE"; exec 9> "$CACHE/lock"; python3 -c "$FLOCK" 9 "the shared engine and cache"; }
unlock_cache() { exec 9>&-; }
