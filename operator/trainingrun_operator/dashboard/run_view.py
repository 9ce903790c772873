"""One run as its page shows it: what it is doing, how a stop of it stands, and what its person may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainingrun_operator.api.endings import ending_of
from trainingrun_operator.api.run import CheckpointMode, OnFailure
from trainingrun_operator.api.status import Phase
from trainingrun_operator.core.facts.run import Run
from trainingrun_operator.core.release import gpus_of, unsettled
from trainingrun_operator.core.rules.loss import OFF, STOP
from trainingrun_operator.core.words import moment, size
from trainingrun_operator.dashboard.words import STEPS, SUSPENDING, Look, count, duration, look

if TYPE_CHECKING:
    from datetime import datetime

    from trainingrun_operator.api.status import NodeStatus, PodStatus, Termination

Json = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One phase of a stop."""

    title: str
    about: str
    state: str
    """done, now, held or next."""
    at: str
    """When it began, if that is known."""


@dataclass(frozen=True)
class RunView(Run):
    """A run, read; `of` refuses one that was written by an operator that is newer than this dashboard."""

    # -- how it looks ----------------------------------------------------------------------------------------

    @property
    def stop(self) -> Termination | None:
        """The stop in progress, or the one that ended it."""
        return self.status.termination

    @property
    def finished(self) -> bool:
        """It has ended, and everything is done."""
        return self.stop is not None and self.stop.over

    @property
    def suspending(self) -> bool:
        """It gives its GPU back for a while, or has: not an end."""
        return not self.finished and (self.stop.suspends if self.stop is not None else bool(self.spec.suspend))

    @property
    def ending(self) -> bool:
        """Somebody asked for its end, or it was decided."""
        return bool(self.spec.stop) or self.deleting or (self.stop is not None and not self.stop.suspends)

    @property
    def stopped_by_hand(self) -> bool:
        """A person asked for its end: which checkpoint it waits for is theirs to say."""
        return self.stop is not None and ending_of(self.stop.status).by_hand

    @property
    def held(self) -> bool:
        """Its checkpoint cannot be proven: it is kept."""
        return self.stop is not None and self.stop.phase is Phase.HELD

    @property
    def look(self) -> Look:
        """How its state is shown: a stop that was asked for is one at once, before the operator has seen it."""
        phase = self.status.phase or ""
        if self.ending and phase in {"", "Pending", "Running", "Suspended"}:
            phase = "Stopping"
        if self.suspending and not self.ending and phase in {"Pending", "Running", "Stopping"}:
            return SUSPENDING
        return look(phase, self.status.termination_status or (self.stop.status if self.stop else ""))

    @property
    def message(self) -> str:
        """The operator's sentence about the end; before there is one, what keeps the run from starting."""
        if self.status.termination_message:
            return self.status.termination_message
        if self.stop is not None and not self.ending:
            return self.stop.message
        if self.ending:
            return (
                f"Stopped by hand: waiting for the operator to see it ({self.spec.stop_reason or 'no reason given'})."
                if self.spec.stop
                else "It was deleted: waiting for the operator to see it."
            )
        accepted = self.status.condition("Accepted")
        return accepted.message if accepted is not None and accepted.status == "False" else ""

    @property
    def announcement(self) -> str:
        """What a screen reader is told when it changes."""
        where = f", {self.stop.phase.value}" if self.stop is not None and not self.finished else ""
        return f"{self.name}: {self.look.words}{where}"

    # -- its numbers -----------------------------------------------------------------------------------------

    @property
    def threshold(self) -> str:
        """The loss that ends it, in words."""
        force = self.status.effective
        if force is None or force.auto_stop_loss is None or force.auto_stop_action == OFF:
            return "No threshold"
        shown = f"{force.auto_stop_loss:.4g}"
        return f"Ends below {shown}" if force.auto_stop_action == STOP else f"Would end below {shown} (shadow)"

    @property
    def gpus(self) -> int:
        """GPUs of one pod, as its template asks for them."""
        return gpus_of(self.spec.template)

    @property
    def training_container(self) -> str:
        """Whose log is shown."""
        if self.spec.metrics.container:
            return self.spec.metrics.container
        containers: list[Json] = (self.spec.template.get("spec") or {}).get("containers") or [{}]
        return str(containers[0].get("name", ""))

    @property
    def newest_pod(self) -> PodStatus | None:
        """The pod that trains, or the last that did."""
        return self.status.pods[-1] if self.status.pods else None

    def seconds_in_use(self, now: datetime) -> float | None:
        """Since the training started, until the run ended, without the time in which it was suspended; None if it has not started."""
        if not (start := moment(self.status.start_time)):
            return None
        end = moment(self.status.completion_time) or now
        changes = [(change.phase, at) for change in self.status.history if (at := moment(change.at)) is not None]
        until = [at for _, at in changes[1:]] + [end]
        rests = zip(changes, until, strict=False)
        asleep = sum(
            (after - at).total_seconds() for (phase, at), after in rests if phase == "Suspended" and at >= start
        )
        return max(0.0, (end - start).total_seconds() - asleep)

    def gpu_time(self, now: datetime) -> str:
        """GPU hours: the GPUs of a pod, for as long as it has been in use."""
        seconds = self.seconds_in_use(now)
        if not self.gpus:
            return "none"
        if seconds is None:
            return "Not started"
        hours = self.gpus * seconds / 3600
        return f"{hours:,.0f} h" if hours >= 100 else f"{hours:.3g} h"  # noqa: PLR2004 - three digits do

    def running_time(self, now: datetime) -> str:
        """For how long it has been in use."""
        seconds = self.seconds_in_use(now)
        return "Not started" if seconds is None else duration(seconds)

    @property
    def saved(self) -> str:
        """What of the progress is safe now, in a sentence."""
        if self.spec.checkpoint.mode is CheckpointMode.DISABLED:
            return "Nothing is saved: spec.checkpoint.mode is Disabled, so all of its progress is lost."
        checkpoint = self.status.checkpoint
        if checkpoint is not None and checkpoint.dir:
            step = f" (step {count(checkpoint.step)})" if checkpoint.step is not None else ""
            return f"Progress is saved up to {checkpoint.dir}{step}: it lies in the bucket, checked file by file."
        if self.status.start_time is None:
            return "It has not started, so there is no progress to save."
        return "No checkpoint of it is in the bucket yet. What it saves on its way out is uploaded and checked before its pod goes."

    @property
    def lag(self) -> str:
        """What is not saved yet."""
        lag = self.status.checkpoint.lag if self.status.checkpoint else None
        return size(lag.bytes) if lag is not None and lag.bytes else ""

    # -- a stop, phase by phase ------------------------------------------------------------------------------

    @property
    def steps(self) -> tuple[Step, ...]:
        """The phases of the stop, with where it stands."""
        if self.stop is None:
            return ()
        now = Phase.SAVING if self.stop.phase is Phase.HELD else self.stop.phase
        order = [phase for phase, _, _ in STEPS]
        place = order.index(now)
        steps = []
        for at, (phase, title, about) in enumerate(STEPS):
            state = "done" if at < place or now is Phase.DONE else "next"
            if at == place and now is not Phase.DONE:
                state = "held" if self.held else "now"
            began = self.stop.requested_at if at == 0 else self.stop.phase_at if phase is self.stop.phase else ""
            steps.append(Step(title, about, state, began))
        return tuple(steps)

    # -- what may be done ------------------------------------------------------------------------------------

    @property
    def stoppable(self) -> bool:
        """Nobody has asked for its end yet. One that is suspended ends with the checkpoint that it has."""
        return not self.ending and not self.finished

    @property
    def can_suspend(self) -> bool:
        """It is pending or running, and shall go on."""
        return self.stoppable and not self.suspending and not self.spec.suspend

    @property
    def can_resume(self) -> bool:
        """It is suspended, or about to be, and nobody has said yet that it shall go on."""
        return self.stoppable and bool(self.spec.suspend)

    @property
    def can_proceed(self) -> bool:
        """It is held, and nobody has said yet that it may end all the same."""
        return self.held and self.spec.checkpoint.on_failure is OnFailure.HOLD

    @property
    def unreleased(self) -> tuple[NodeStatus, ...]:
        """Nodes that a stop still waits for."""
        releasing = self.stop is not None and self.stop.phase is Phase.RELEASING
        return unsettled(self.status.nodes) if releasing else ()

    @property
    def can_abandon(self) -> bool:
        """Nodes are waited for, and nobody has given up on them yet."""
        return bool(self.unreleased) and not self.abandoned_by
