"""One run on its page: its state, its stop, and the actions that are possible."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainingrun_operator.api.endings import ending_of
from trainingrun_operator.api.run import CheckpointMode, OnFailure
from trainingrun_operator.api.status import Phase
from trainingrun_operator.core import past, refuted
from trainingrun_operator.core.commands import UnprintableError, command
from trainingrun_operator.core.facts.run import Run
from trainingrun_operator.core.release import unsettled
from trainingrun_operator.core.rules.loss import OFF, STOP
from trainingrun_operator.core.words import moment, size
from trainingrun_operator.dashboard.words import STEPS, SUSPENDING, Look, count, duration, look

if TYPE_CHECKING:
    from datetime import datetime

    from trainingrun_operator.api.status import NodeStatus, PhaseChange, PodStatus, Termination

Json = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One phase of a stop."""

    title: str
    about: str
    state: str
    """done, now, held or next."""
    at: str
    """When the phase began; empty if unknown."""


@dataclass(frozen=True)
class RunView(Run):
    """A run with the texts of its page. `of` refuses a run that this version does not understand."""

    # -- how it looks ----------------------------------------------------------------------------------------

    @property
    def stop(self) -> Termination | None:
        """The stop in progress, or the one that ended it."""
        return self.status.termination

    @property
    def finished(self) -> bool:
        """Whether the run has ended and its stop is complete."""
        return self.stop is not None and self.stop.over

    @property
    def suspending(self) -> bool:
        """Whether the run is suspended or is being suspended."""
        return not self.finished and (self.stop.suspends if self.stop is not None else bool(self.spec.suspend))

    @property
    def ending(self) -> bool:
        """Whether the run's end is requested or decided."""
        return bool(self.spec.stop) or self.deleting or (self.stop is not None and not self.stop.suspends)

    @property
    def stopped_by_hand(self) -> bool:
        """Whether a user requested the end and so may choose the checkpoint to wait for."""
        return self.stop is not None and ending_of(self.stop.status).by_hand

    @property
    def held(self) -> bool:
        """Whether the run is held because its checkpoint cannot be proven."""
        return self.stop is not None and self.stop.phase is Phase.HELD

    @property
    def look(self) -> Look:
        """The look of the state. A requested stop or suspension shows at once, before the operator has processed it."""
        phase = self.status.phase or ""
        if self.ending and phase in {"", "Pending", "Running", "Suspended"}:
            phase = "Stopping"
        if self.suspending and not self.ending and phase in {"Pending", "Running", "Stopping"}:
            return SUSPENDING
        return look(phase, self.status.termination_status or (self.stop.status if self.stop else ""))

    @property
    def message(self) -> str:
        """The operator's message about the end; without one, why the run does not start."""
        if self.status.termination_message:
            return self.status.termination_message
        if self.stop is not None and not self.ending:
            return self.stop.message
        if self.ending:
            return (
                f"Stopped by hand: waiting for the operator ({self.spec.stop_reason or 'no reason given'})."
                if self.spec.stop
                else "Deleted: waiting for the operator."
            )
        accepted = self.status.condition("Accepted")
        return accepted.message if accepted is not None and accepted.status == "False" else ""

    @property
    def announcement(self) -> str:
        """The text for screen readers."""
        where = f", {self.stop.phase.value}" if self.stop is not None and not self.finished else ""
        return f"{self.name}: {self.look.words}{where}"

    # -- its numbers -----------------------------------------------------------------------------------------

    @property
    def threshold(self) -> str:
        """The loss that ends the run, as text."""
        force = self.status.effective
        if force is None or force.auto_stop_loss is None or force.auto_stop_action == OFF:
            return "No threshold"
        shown = f"{force.auto_stop_loss:.4g}"
        return f"Ends below {shown}" if force.auto_stop_action == STOP else f"Would end below {shown} (shadow)"

    @property
    def gpus(self) -> int:
        """GPUs of one pod in the template."""
        return self.spec.template.gpus

    @property
    def training_container(self) -> str:
        """Name of the container whose log is shown."""
        return self.spec.metrics.container or self.spec.template.first_container

    @property
    def newest_pod(self) -> PodStatus | None:
        """The pod that trains, or the last one that did."""
        return self.status.pods[-1] if self.status.pods else None

    def seconds_in_use(self, now: datetime) -> float | None:
        """Return seconds from the start of the training to the run's end, without suspensions; None if it has not started."""
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
        """Return the GPU hours: GPUs of one pod times the time in use."""
        seconds = self.seconds_in_use(now)
        if not self.gpus:
            return "none"
        if seconds is None:
            return "Not started"
        hours = self.gpus * seconds / 3600
        return f"{hours:,.0f} h" if hours >= 100 else f"{hours:.3g} h"  # noqa: PLR2004 - three digits do

    @property
    def cost(self) -> str:
        """What the training has cost, with its currency; empty: no price is known."""
        trained = self.status.trained
        return trained.cost.shown if trained is not None and trained.cost is not None else ""

    def running_time(self, now: datetime) -> str:
        """Return the time in use as text."""
        seconds = self.seconds_in_use(now)
        return "Not started" if seconds is None else duration(seconds)

    @property
    def saved(self) -> str:
        """How far the progress is saved, as a sentence."""
        if self.spec.checkpoint.mode is CheckpointMode.DISABLED:
            return "No checkpoints are saved (spec.checkpoint.mode is Disabled), so all progress is lost."
        checkpoint = self.status.checkpoint
        if checkpoint is not None and checkpoint.dir:
            step = f" (step {count(checkpoint.step)})" if checkpoint.step is not None else ""
            return f"Progress is saved up to {checkpoint.dir}{step}: every file in the bucket is verified."
        if checkpoint is not None and checkpoint.refuted is not None:
            return refuted.sentence(checkpoint.refuted)
        if self.status.start_time is None:
            return "The training has not started, so there is no progress to save."
        return "The bucket has no checkpoint yet. What the training saves at its exit is uploaded and verified before the pod is deleted."

    @property
    def lag(self) -> str:
        """Size of what is not saved yet; empty if nothing is."""
        lag = self.status.checkpoint.lag if self.status.checkpoint else None
        return size(lag.bytes) if lag is not None and lag.bytes else ""

    @property
    def beginning(self) -> tuple[str, ...]:
        """What the newest pod's training started from, a sentence for each fact."""
        return past.beginning(self)

    @property
    def earlier_losses(self) -> tuple[PhaseChange, ...]:
        """When data was lost before, oldest first."""
        return past.earlier_losses(self)

    @property
    def fetch_command(self) -> str:
        """The command that downloads the checkpoint; the plugin's where the training chose a name that no command can show."""
        uri = self.status.checkpoint.uri if self.status.checkpoint else ""
        try:
            return command("aws", "s3", "sync", uri, ".")
        except UnprintableError:
            plugin = "kubectl", "trainingrun", "checkpoints", "download"
            return command(*plugin, self.name, "--namespace", self.namespace)

    # -- a stop, phase by phase ------------------------------------------------------------------------------

    @property
    def steps(self) -> tuple[Step, ...]:
        """The phases of the stop with their states."""
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
        """Whether the run can be stopped: its end is not requested yet. A suspended run ends with its last checkpoint."""
        return not self.ending and not self.finished

    @property
    def can_suspend(self) -> bool:
        """Whether the run can be suspended: it is pending or running."""
        return self.stoppable and not self.suspending and not self.spec.suspend

    @property
    def can_resume(self) -> bool:
        """Whether the run can be resumed: it is suspended or is to be suspended."""
        return self.stoppable and bool(self.spec.suspend)

    @property
    def can_proceed(self) -> bool:
        """Whether the run is held and may be ended without a proven checkpoint."""
        return self.held and self.spec.checkpoint.on_failure is OnFailure.HOLD

    @property
    def unreleased(self) -> tuple[NodeStatus, ...]:
        """Nodes that the stop waits for."""
        releasing = self.stop is not None and self.stop.phase is Phase.RELEASING
        return unsettled(self.status.nodes) if releasing else ()

    @property
    def can_abandon(self) -> bool:
        """Whether the stop waits for nodes that can be abandoned."""
        return bool(self.unreleased) and not self.abandoned_by
