"""The final step that the spec names: whether the training has come to it, and whether its checkpoint is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainingrun_operator.api import endings
from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.api.status import Evidence
from trainingrun_operator.core.rules import stall
from trainingrun_operator.core.rules.finding import Finding
from trainingrun_operator.core.track import STEP_FELL

if TYPE_CHECKING:
    from trainingrun_operator.core.observed import Observed

RULE: Final = "finalStep"
_OFF_BY_ONE: Final = 1
"""Steps that a training at its end may show beyond the named one, if it counts from 1 and the person counted from 0."""


def is_reached(seen: Observed) -> bool:
    """Whether the present pod has made the step that the spec names. The first step seen may be that of an earlier pod, or a gauge's initial value."""
    newest, final = seen.track.newest, seen.run.spec.completion.final_step
    return final is not None and newest is not None and newest.step >= final


def missing(seen: Observed, final: int) -> Finding | None:
    """Return what is missing for a completion by the final step; None: nothing."""
    track = seen.track
    if seen.run.spec.checkpoint.mode is CheckpointMode.DISABLED:
        message = "The final step does not end the run: without checkpoints (spec.checkpoint.mode Disabled) it is unknown whether all files are written."
        return Finding(RULE, "CheckpointsDisabled", message)
    if track.newest is None:
        return Finding(RULE, "NeverAdvanced", "The step has not advanced yet.")
    if track.newest.step < final:
        return Finding(RULE, "NotReached", f"Step {track.newest.step} of {final} (completion.finalStep).")
    if track.below:
        return Finding(RULE, STEP_FELL, f"The step is below {track.step}, the newest one.")
    words = _words(seen, final)
    seconds = (seen.final_step_seconds or 0) + seen.run.spec.poll_interval_seconds
    goes_on = track.newest.step > final + _OFF_BY_ONE
    return stall.refuted(seen, RULE, words) or stall.unwritten(
        seen, RULE, words, f"the final step is {final}", final, seconds, goes_on=goes_on
    )


def reached(seen: Observed, final: int) -> Finding:
    """Return the finding of a final step that nothing is missing for."""
    return Finding(
        RULE,
        "Reached",
        f"{_words(seen, final)}.",
        endings.AUTO_COMPLETE,
        actor=RULE,
        evidence=(Evidence(what="step", value=str(seen.track.step), step=seen.track.step),),
        inferred=True,
    )


def _words(seen: Observed, final: int) -> str:
    return f"Step {seen.track.step} reached the final step {final} (completion.finalStep)"
