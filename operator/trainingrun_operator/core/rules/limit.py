"""The limit of the time for which a run may train, `spec.maxDurationSeconds`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainingrun_operator.api import endings
from trainingrun_operator.api.status import Evidence
from trainingrun_operator.core import duration
from trainingrun_operator.core.rules.finding import Finding

if TYPE_CHECKING:
    from trainingrun_operator.core.observed import Observed

RULE: Final = "maxDuration"


def max_duration(seen: Observed) -> Finding | None:
    """The training has run for as long as it may. Does not apply without a limit, and before the workload exists."""
    limit, end = seen.run.spec.max_duration_seconds, duration.ends_after(seen)
    if limit is None or end is None or seen.workload is None:
        return None
    trained = duration.seconds(seen)
    reserve = f"{limit - end} s before, so that it can save" if end < limit else "then"
    if trained < end:
        reason = "NearLimit" if duration.is_near(seen) else "WithinLimit"
        message = f"The training has run for {trained} of {limit} s (maxDurationSeconds). The run ends {reserve}."
        return Finding(RULE, reason, message)
    return Finding(
        RULE,
        "LimitReached",
        f"The training has run for {trained} s; the limit is {limit} s (maxDurationSeconds), and the run ends {reserve}.",
        endings.MAX_DURATION,
        actor=RULE,
        evidence=(Evidence(what="trainedSeconds", value=str(trained), step=seen.track.step),),
    )


def warning(seen: Observed) -> str:
    """Return what an Event says once before the limit; empty: nothing now."""
    if not duration.warns(seen):
        return ""
    end = duration.ends_after(seen) or 0
    left = max(0, end - duration.seconds(seen))
    return f"The run ends in {left} s of training: spec.maxDurationSeconds is {seen.run.spec.max_duration_seconds}. Raise it to let the training go on."
