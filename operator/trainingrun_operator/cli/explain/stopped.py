"""Explain why a run stops, which phase the stop is in, and how the run ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from trainingrun_operator.api.endings import ending_of
from trainingrun_operator.api.status import NodePhase, Phase, StopMode
from trainingrun_operator.cli import words
from trainingrun_operator.cli.explain import checkpoint
from trainingrun_operator.cli.explain.facts import Explanation
from trainingrun_operator.core.release import unsettled
from trainingrun_operator.core.rules import loss, people
from trainingrun_operator.core.stop import suspension
from trainingrun_operator.core.stop.requests import rescues_late

if TYPE_CHECKING:
    from trainingrun_operator.api.status import Termination
    from trainingrun_operator.cli.explain.facts import Facts


def stopping(facts: Facts, stop: Termination) -> Explanation:
    """Explain a stop in progress."""
    held = stop.phase is Phase.HELD
    what = f"{facts.name} {'is held' if held else 'is stopping'} ({stop.status}): {stop.message}"
    if stop.suspends:
        what = f"{facts.name} is being suspended{', and held' if held else ''}: spec.suspend is true."
    because = (
        _by(facts, stop),
        *_evidence(stop),
        _phase(facts, stop),
        *_wait(stop),
        facts.run.status.signal_trouble or "",
        *_data_loss(stop),
        *_afterwards(facts, stop),
    )
    return Explanation(what, because, _help(facts, stop))


def suspended(facts: Facts, stop: Termination) -> Explanation:
    """Explain a suspended run."""
    run = facts.run
    because = (
        _by(facts, stop),
        *filter(None, (checkpoint.of_an_end(facts), _nodes(facts))),
        *words.cost(run.status),
        *_afterwards(facts, stop),
    )
    if run.spec.stop or run.deleting or not run.spec.suspend:
        return Explanation(
            f"{facts.name} is suspended{facts.lasting(stop.phase_at)} and is about to leave this state.", because
        )
    start = "from its checkpoint" if stop.saved is not None and stop.saved.files else "from the beginning"
    return Explanation(
        f"{facts.name} is suspended{facts.lasting(stop.phase_at)}: it can resume {start}.",
        because,
        ("To resume it:", facts.command("resume"), "To end it:", facts.command("stop")),
    )


def ended(facts: Facts, stop: Termination) -> Explanation:
    """Explain a run that has ended."""
    when = facts.ago(facts.run.status.completion_time)
    because = (
        _by(facts, stop),
        *_evidence(stop),
        *_wait(stop),
        *((f"Last lines of its log: {stop.last_log_lines}",) if stop.last_log_lines else ()),
        *filter(
            None,
            (
                checkpoint.of_an_end(facts),
                _nodes(facts),
                _success(facts, stop),
                *_shadows(facts),
                *words.cost(facts.run.status),
            ),
        ),
    )
    return Explanation(f"{facts.name} ended as {stop.status}{when}: {stop.message}", because)


# -- why ------------------------------------------------------------------------------------------------------


def _by(facts: Facts, stop: Termination) -> str:
    """Return the rule that decided, or who requested the stop."""
    run, who = facts.run, stop.actor or "an unknown user"
    if stop.rule and stop.rule not in (people.STOP, suspension.RULE):
        inferred = ", inferred from the observations" if stop.inferred else ""
        return f"Decided by the rule {stop.rule} ({stop.reason}){inferred}."
    if not ending_of(stop.status).by_hand and not stop.suspends:
        return f"Decided by {who}."
    field, manager = ("suspend", run.suspend_manager) if stop.suspends else ("stop", run.stop_manager)
    program = f" This is the program that set spec.{field}." if who == manager else ""
    return f"Requested by {who}.{program}"


def _evidence(stop: Termination) -> tuple[str, ...]:
    """Return the observations that decided."""
    told = [
        f"{one.what} {one.value}" + (f" at step {one.step}" if one.step is not None else "") for one in stop.evidence
    ]
    return (f"Evidence: {words.listed(told)}.",) if told else ()


def _wait(stop: Termination) -> tuple[str, ...]:
    """Return what a stop with stopMode Auto chose after the grace, with both figures."""
    return (stop.wait.message,) if stop.wait is not None else ()


# -- how far --------------------------------------------------------------------------------------------------


def _phase(facts: Facts, stop: Termination) -> str:
    since = facts.lasting(stop.phase_at)
    match stop.phase:
        case Phase.REQUESTED:
            return "The stop is decided and recorded. Next, the training is asked to save and exit."
        case Phase.DRAINING:
            return _draining(facts, stop, since)
        case Phase.SAVING:
            since = since.replace("(", f"(attempt {stop.attempt}, ") if stop.attempt > 1 else since
            return (
                f"The agent uploads what is not in the bucket yet{since}; the pod is kept until then.{_trouble(facts)}"
            )
        case Phase.VERIFYING:
            return f"The operator compares the checksum of every file in the bucket{since}.{_trouble(facts)}"
        case Phase.HELD:
            return f"The pod and its data are kept, because the checkpoint cannot be proven{since}: {stop.hold_reason or 'the status does not say why.'}"
        case Phase.DELETING if rescues_late(stop):
            return f"The checkpoint is proven; the pod is gone, and a rescue Job saves what it wrote after that{since}."
        case Phase.DELETING:
            proven = (
                "The checkpoint is proven"
                if stop.saved is not None and stop.saved.files
                else "There is nothing to prove"
            )
            return f"{proven}; the pod is being deleted{since}."
        case Phase.RELEASING:
            return f"The pod is gone; its nodes are being released{since}. {_nodes(facts)}".rstrip()
        case Phase.DONE:  # pragma: no cover - explained as an end
            return ""
        case _ as never:  # pragma: no cover - mypy proves that there is no other phase
            assert_never(never)


def _draining(facts: Facts, stop: Termination, since: str) -> str:
    if stop.wait is not None and stop.wait.until is not None:
        return f"The training was asked to save and exit{since}, and the stop waits for its next checkpoint until {stop.wait.until} at the latest."
    shutdown = facts.run.spec.shutdown
    asked = f"The training is asked to save and exit{since}, by the file {shutdown.file}"
    if shutdown.signal:
        asked += f" and after half the grace period by {shutdown.signal}"
    content = {
        StopMode.AUTO: "",
        StopMode.NEXT_CHECKPOINT: " The next complete checkpoint is enough (stopMode NextCheckpoint).",
        StopMode.LAST_CHECKPOINT: " The last complete checkpoint is enough (stopMode LastCheckpoint).",
    }[facts.run.spec.stop_mode]
    return f"{asked}. It has {words.duration(shutdown.grace_seconds)} (shutdown.graceSeconds).{content}"


def _trouble(facts: Facts) -> str:
    """Return why the checkpoint is not proven, if the status says so."""
    state, reason, message = facts.state("CheckpointSaved")
    return f" This fails ({reason}): {message}" if state == "False" and reason != "NothingFound" else ""


def _data_loss(stop: Termination) -> tuple[str, ...]:
    return (f"Data was lost: {stop.data_loss}",) if stop.data_loss else ()


def _help(facts: Facts, stop: Termination) -> tuple[str, ...]:
    """Return what the user can do to end the wait."""
    if stop.phase is Phase.HELD:
        return (
            "The operator retries without a limit: correct the access to the bucket, and the stop continues.",
            "To end the run without a proven checkpoint and lose what is not saved:",
            facts.command("proceed"),
        )
    # For a suspension, this command would end the run.
    if stop.phase is Phase.DRAINING and not stop.suspends and facts.run.spec.stop_mode is not StopMode.LAST_CHECKPOINT:
        return (
            "To end the wait and keep the last checkpoint:",
            facts.command("stop", "--mode", "LastCheckpoint"),
        )
    if stop.phase is Phase.RELEASING and unsettled(facts.run.status.nodes):
        return ("To end the wait and take care of these nodes yourself:", facts.command("abandon"))
    return ()


def _afterwards(facts: Facts, stop: Termination) -> tuple[str, ...]:
    """Return what follows a suspension, because the spec has changed since."""
    run = facts.run
    if not stop.suspends:
        return ()
    if run.spec.stop or run.deleting:
        return (f"Then the run ends: {'it is being deleted' if run.deleting else 'spec.stop is true'}.",)
    return () if run.spec.suspend else ("Then the run resumes: spec.suspend is no longer true.",)


# -- the end --------------------------------------------------------------------------------------------------


def _nodes(facts: Facts) -> str:
    nodes = facts.run.status.nodes
    waiting = unsettled(nodes)
    released = [node.name for node in nodes if node.phase is NodePhase.RELEASED]
    kept = [node for node in nodes if node.phase is NodePhase.RETAINED]
    return " ".join(
        (
            *(f"{node.name} ({node.phase.value}): {node.message or 'no message yet.'}" for node in waiting),
            *(
                [
                    f"{words.listed(released)} {'is' if len(released) == 1 else 'are'} released: machine and Node are gone."
                ]
                if released
                else []
            ),
            *(f"{node.name}: {node.message}" for node in kept),
        )
    )


def _success(facts: Facts, stop: Termination) -> str:
    """Return why an ending that can be a success does not count as one."""
    state, reason, message = facts.state("Succeeded")
    if state != "False" or reason == ending_of(stop.status).reason:
        return ""
    _, saved, _ = facts.state("CheckpointSaved")
    # The checkpoint has a sentence of its own.
    return f"The run does not count as succeeded ({reason})" + ("." if reason == saved else f": {message}")


def _shadows(facts: Facts) -> tuple[str, ...]:
    """Return when rules that only report would have ended the run."""
    told = []
    for one in facts.run.status.shadow:
        step = f" at step {one.step}" if one.step is not None else ""
        what = "loss " if one.rule == loss.RULE else ""
        told.append(
            f"If enforced, {one.rule} would have ended the run{step} with {what}{one.value}.{words.saved_by(one)}"
        )
    return tuple(told)
