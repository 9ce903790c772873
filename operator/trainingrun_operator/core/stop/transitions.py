"""What all phases of a stop share: write the next phase, wait, ask an agent again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import SaveRequest
from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.core.effects import Advance, Annotate, Decision, Effect, RecordEvent
from trainingrun_operator.core.facts.pod import Training

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainingrun_operator.api.status import Phase, Rescue, Saved, Termination
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.observed import Observed

NUDGE_SECONDS: Final = 3
NUDGES: Final = 5
PAUSE_MAX_SECONDS: Final = 60.0


def advance(  # noqa: PLR0913 - the values of a phase, each by its name
    seen: Observed,
    stop: Termination,
    phase: Phase,
    *,
    attempt: int | None = None,
    saved: Saved | None = None,
    hold_reason: str | None = None,
    data_loss: str | None = None,
    rescue: Rescue | None = None,
    event: RecordEvent | None = None,
) -> Decision:
    """Write the next phase, then record its Events. A data loss always has one."""
    changes = {
        "phase": phase,
        "phase_at": seen.wall,
        "attempt": attempt or stop.attempt,
        "saved": saved or stop.saved,
        "hold_reason": hold_reason,
        "data_loss": data_loss or stop.data_loss,
        "rescue": rescue or stop.rescue,
    }
    after = stop.model_copy(update=changes)
    write = Advance(after, stop.phase, stop.attempt, completion=after.over)
    loss = RecordEvent("DataLoss", data_loss, warning=True) if data_loss else None
    return Decision((write, *(one for one in (loss, event) if one is not None)), again_seconds=0)


def wait(seen: Observed, *effects: Effect, note: str) -> Decision:
    """Do the effects and look again soon."""
    stop = seen.run.status.termination
    nudge = nudges(seen, stop.phase.value if stop else "", seen.phase_seconds)
    return Decision((*effects, *nudge), again_seconds=patience(seen, seen.phase_seconds), note=note)


def patience(seen: Observed, waited: float) -> float:
    """Return the seconds to the next look at a stop without an event."""
    return pause(waited, seen.defaults.termination_look_seconds)


def pause(waited: float, least: float) -> float:
    """Return a tenth of the seconds waited, at least `least` and at most `PAUSE_MAX_SECONDS`."""
    return min(PAUSE_MAX_SECONDS, max(least, waited / 10))


def nudges(seen: Observed, what: str, seconds: float) -> tuple[Annotate, ...]:
    """Change an annotation so that the kubelet projects the requests again, after 3, 6, 12, 24 and 48 seconds without an effect.

    Seen on 1.34: one in thirty annotations written just as the training exits reaches the pod only with the kubelet's next sync, a minute later.
    """
    turn = int(seconds / NUDGE_SECONDS).bit_length()
    asked = [pod for pod in seen.live_pods if 0 < turn <= NUDGES and (pod.stop or pod.save or pod.gate_open)]
    nudge = f"{what} {turn}"
    return tuple(Annotate(pod.name, pod.uid, names.NUDGE_ANNOTATION, nudge) for pod in asked if pod.nudge != nudge)


def asks(seen: Observed, stop: Termination, holders: Sequence[Pod], attempt: int | None = None) -> tuple[Annotate, ...]:
    """Ask each pod's agent to save, for the stop's attempt or for the given one."""
    request = SaveRequest(
        id=stop.id, attempt=attempt or stop.attempt, ended=ended(seen), status=stop.status, spoiled=stop.spoiled
    )
    return tuple(ask for pod in holders if (ask := ask_to_save(pod, request)))


def ask_to_save(pod: Pod, request: SaveRequest) -> Annotate | None:
    """Ask a pod's agent to save; None: it was already asked."""
    return (
        None
        if pod.save == request
        else Annotate(pod.name, pod.uid, names.SAVE_ANNOTATION, request.model_dump_json(by_alias=True))
    )


def ended(seen: Observed) -> bool:
    """Whether no training of the run is running."""
    return all(pod.training is not Training.RUNNING for pod in seen.live_pods)


def disabled(seen: Observed) -> bool:
    """Whether the run saves no checkpoints."""
    return seen.run.spec.checkpoint.mode is CheckpointMode.DISABLED
