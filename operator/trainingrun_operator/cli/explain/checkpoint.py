"""Explain the state of a run's checkpoints while it trains and after its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.core.facts.rank import REPORT_REFUSED
from trainingrun_operator.core.words import size

if TYPE_CHECKING:
    from trainingrun_operator.cli.explain.facts import Facts

WHOLE: Final = (".", "")


def disabled(facts: Facts) -> bool:
    """Whether the run saves no checkpoints."""
    return facts.run.spec.checkpoint.mode is CheckpointMode.DISABLED


def of_a_training(facts: Facts) -> str:
    """Return a sentence on the checkpoints of a run that trains."""
    state, reason, message = facts.state("CheckpointSaved")
    if disabled(facts):
        return "No checkpoints are saved: spec.checkpoint.mode is Disabled."
    if state == "False":
        held = (
            ""
            if reason in ("NothingFound", "DataLoss")
            else " Until then, a stop is held: nothing is deleted without a proven checkpoint."
        )
        return f"The checkpoints are not saved ({reason}): {message}{held}"
    if reason == REPORT_REFUSED:
        return f"Whether the checkpoints are saved is not known ({reason}): {message}"
    known = facts.run.status.checkpoint
    if known is None or state != "True":
        return "No checkpoint has been proven yet."
    lag = f" {size(known.lag.bytes)} in the pod are not saved yet." if known.lag and known.lag.bytes else ""
    return f"{name_of(facts)} is proven in the bucket{facts.ago(known.verified_at)}.{lag}"


def of_an_end(facts: Facts) -> str:
    """Return a sentence on the checkpoint of a run that has ended; empty while its state is not known."""
    state, reason, message = facts.state("CheckpointSaved")
    stop = facts.run.status.termination
    if stop is not None and stop.data_loss:
        return f"Data was lost: {stop.data_loss}"
    if disabled(facts):
        return "Nothing was saved: spec.checkpoint.mode is Disabled."
    if state == "True":
        return message
    if reason == "NothingFound":
        return f"Nothing was saved: {message}"
    return f"The checkpoint is not proven ({reason}): {message}" if state == "False" else ""


def name_of(facts: Facts) -> str:
    """Return the name of the newest proven checkpoint for a sentence."""
    known = facts.run.status.checkpoint
    what = "The checkpoint" if known is None or known.dir in WHOLE else f"Checkpoint {known.dir}"
    step = f" of step {known.step}" if known is not None and known.step is not None else ""
    return f"{what}{step}"
