"""A training that runs and does nothing, `spec.hangDetection`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainingrun_operator.api import endings
from trainingrun_operator.api.limits import LimitAction
from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.api.status import Evidence
from trainingrun_operator.core import notices
from trainingrun_operator.core.facts.reading import LOGS
from trainingrun_operator.core.quiet import START
from trainingrun_operator.core.rules.finding import Finding

if TYPE_CHECKING:
    from trainingrun_operator.core.observed import Observed

RULE: Final = "hang"
PAUSES: Final = 2
"""A training hangs after this many times the longest pause between two steps so far, too."""


def hang(seen: Observed) -> Finding | None:
    """Nothing of the training has moved for long enough. Does not apply if it is off, while no training runs, and before the first reading."""
    spec, quiet = seen.run.spec.hang_detection, seen.quiet
    pod = seen.ranks[0].pod
    if not spec.no_progress_seconds or quiet is None or not seen.runs or pod is None or quiet.pod_uid != pod.uid:
        return None
    if seen.candidate_seconds is not None:
        return Finding(RULE, "Completes", "The training looks complete, which is no hang.")
    if quiet.unread:
        message = f"A hang cannot be detected ({quiet.what}): what cannot be read counts as progress."
        return Finding(RULE, quiet.what, message)
    if quiet.what == START and not seen.track.advanced:
        return Finding(RULE, "NeverAdvanced", "A hang cannot be detected: the step has not advanced yet.")
    seconds, limit, longest = quiet.seconds, spec.no_progress_seconds, seen.track.longest_pause or 0
    nothing = f"{_nothing(seen)} for {seconds:.0f}"
    if seconds < limit:
        return Finding(RULE, "Progresses", f"{nothing} of {limit} s (hangDetection.noProgressSeconds).")
    if seconds < PAUSES * longest:
        message = f"{nothing} of {PAUSES * longest:.0f} s, {PAUSES} times the longest pause so far."
        return Finding(RULE, "WithinPause", message)
    return Finding(
        RULE,
        "NoProgress",
        f"{nothing} s, the last step was {seen.track.step}: the training hangs (hangDetection.noProgressSeconds {limit}).",
        endings.HUNG,
        actor=RULE,
        evidence=(Evidence(what="quietSeconds", value=f"{seconds:.0f}", step=seen.track.step),),
        enforced=spec.action is LimitAction.STOP,
    )


def warning(seen: Observed) -> str:
    """Return what an Event says once when the training hangs and nothing ends it; empty: nothing now."""
    since = seen.quiet.wall if seen.quiet is not None else ""
    return notices.warning(hang(seen), seen.run.status.quiet, since, "hangDetection")


def _nothing(seen: Observed) -> str:
    """Say what was looked at and has not moved."""
    looked = ["No step"]
    if seen.run.spec.checkpoint.mode is not CheckpointMode.DISABLED:
        looked.append(f"no growing file under {seen.run.spec.checkpoint.path}")
    if seen.track.source == LOGS:
        looked.append("no line in the log")
    return f"{', '.join(looked[:-1])} and {looked[-1]}" if len(looked) > 1 else looked[0]
