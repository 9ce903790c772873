"""Crashes in a row without a step forward, counted in ``status.crashes``.

A crash of which no step was read, or none from a source that the spec names or a page, neither counts nor ends the row: if that attempt got further, the next one begins at a higher step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainingrun_operator.api.status import CrashRow
from trainingrun_operator.core import metric_source
from trainingrun_operator.core.track import resumed

if TYPE_CHECKING:
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.observed import Observed
    from trainingrun_operator.core.track import Track


NO_STEP_FORWARD: Final = "NoStepForward"
"""Reason of the stop that the count has led to."""


def row(seen: Observed) -> CrashRow | None:
    """Return ``status.crashes``, with the present crash; None: no crash has been counted."""
    before = seen.run.status.crashes
    newest = [rank.pod for rank in seen.ranks if rank.pod is not None]
    crashed = next((pod for pod in newest if pod.result), None)
    counted = before is not None and any(pod.uid == before.pod_uid for pod in newest)
    stop = seen.run.status.termination
    # After a stop nothing more is counted; but the crash that has led to it is.
    if crashed is None or counted or (stop is not None and stop.reason != NO_STEP_FORWARD):
        return before
    track = track_of_attempt(seen)
    # The limit has a default: it ends no run by steps of a source that the spec does not name.
    return before if metric_source.is_unasked(seen.run, track.source) else _with(before, crashed, track)


def _with(before: CrashRow | None, crashed: Pod, track: Track) -> CrashRow | None:
    step = track.step
    # After a fall inside the pod, its steps are not comparable with those of other attempts.
    if step is None or track.fell is not None:
        return before
    if before is None:
        # Steps before the first reading were made, or restored: only step 0 shows that there was none.
        return CrashRow(pod_uid=crashed.uid, step=step, without_step=0 if step else 1)
    forward = step > before.step
    return CrashRow(
        pod_uid=crashed.uid, step=max(step, before.step), without_step=0 if forward else before.without_step + 1
    )


def track_of_attempt(seen: Observed) -> Track:
    """Return what was read of the newest pod of rank 0, also before a restart of the operator."""
    track, pod = seen.track, seen.ranks[0].pod
    if pod is not None and track.pod_uid == pod.uid:
        return track
    return resumed(seen.run.status.progress, pod_uid=pod.uid if pod is not None else "", now=seen.now)
