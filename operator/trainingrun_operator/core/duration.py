"""How long the training of a run has run, over all its pods, and the limit of that time.

The time of the present pod follows from its container's start. That of earlier pods is known from ``status.trained``: of a pod that ended unseen, the
time up to the last status counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainingrun_operator.api.status import Trained
from trainingrun_operator.core.bounds import WORD_MAX, clipped
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.words import moment

if TYPE_CHECKING:
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.observed import Observed

WARN_SHARE: Final = 0.9
"""Share of the time until the limit ends the run after which an Event warns."""
RESERVE_SHARE: Final = 0.25
"""Largest share of the limit that is kept for saving."""
_SECONDS_MAX: Final = 315_360_000
"""Bound of `api.base.Seconds`."""


def trained(seen: Observed) -> Trained | None:
    """Return ``status.trained``; None: no training of the run has started."""
    before, pod = seen.run.status.trained, seen.ranks[0].pod
    if pod is None or moment(pod.started_at) is None:
        return before
    uid = clipped(pod.uid, WORD_MAX)
    if before is None:
        before = Trained(seconds=0)
    same = (before.pod_uid, before.started_at) == (uid, pod.started_at)
    known = before.last_seconds if same else 0
    # A clock that is set back takes nothing away.
    last = max(known, min(_SECONDS_MAX, _of_pod(seen, pod)))
    return Trained(
        seconds=min(_SECONDS_MAX, before.seconds - known + last) if before.seconds >= known else last,
        last_seconds=last,
        pod_uid=uid,
        started_at=pod.started_at,
        warned_at=before.warned_at,
    )


def _of_pod(seen: Observed, pod: Pod) -> int:
    """Seconds since the training was started last, up to its end."""
    end = seen.wall if pod.training is Training.RUNNING else pod.ended_at
    start, stop = moment(pod.started_at), moment(end)
    return 0 if start is None or stop is None else max(0, int((stop - start).total_seconds()))


def seconds(seen: Observed) -> int:
    """Seconds for which the training has run."""
    now = trained(seen)
    return 0 if now is None else now.seconds


def ends_after(seen: Observed) -> int | None:
    """Return the seconds of training after which the limit ends the run, early enough to save; None: there is no limit."""
    limit = seen.run.spec.max_duration_seconds
    return None if limit is None else limit - int(reserve(seen, limit))


def reserve(seen: Observed, limit: float) -> float:
    """Return the seconds of training before a limit that are kept for saving."""
    uploads = [one.seconds for report in seen.reports or () for one in report.uploads if 0 <= one.seconds <= limit]
    wanted = seen.run.spec.shutdown.grace_seconds + max(uploads, default=0)
    return min(wanted, limit * RESERVE_SHARE)


def is_near(seen: Observed) -> bool:
    """Whether the training comes near to the limit."""
    end = ends_after(seen)
    return end is not None and seconds(seen) >= end * WARN_SHARE


def warns(seen: Observed) -> bool:
    """Whether an Event is to say that the limit is near: once."""
    if not is_near(seen):
        return False
    now = trained(seen)
    return now is not None and now.warned_at is None


def render(seen: Observed) -> Trained | None:
    """Return ``status.trained``, with the time of the warning."""
    now = trained(seen)
    if now is None or not is_near(seen):
        # A limit that was raised comes near once more.
        return now.model_copy(update={"warned_at": None}) if now is not None and now.warned_at is not None else now
    return now.model_copy(update={"warned_at": now.warned_at or seen.wall})


def gpu_hours(seen: Observed) -> float:
    """GPU hours that the training has used."""
    return seconds(seen) * gpus(seen) / 3600


def saved_gpu_hours(seen: Observed, since_seconds: int) -> float:
    """Return the GPU hours that the training has used since it had run for `since_seconds`."""
    return min(1e9, round(max(0, seconds(seen) - since_seconds) * gpus(seen) / 3600, 2))


def gpus(seen: Observed) -> int:
    """GPUs that all pods of the training request."""
    return seen.run.spec.template.gpus * len(seen.ranks)
