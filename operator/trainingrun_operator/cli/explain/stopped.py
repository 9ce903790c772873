"""Why a run stops, how far that is, and why it ended as it did."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from trainingrun_operator.api.endings import ending_of
from trainingrun_operator.api.status import NodePhase, Phase, StopMode
from trainingrun_operator.cli import words
from trainingrun_operator.cli.explain import checkpoint
from trainingrun_operator.cli.explain.facts import Explanation
from trainingrun_operator.core.release import unsettled
from trainingrun_operator.core.rules import people
from trainingrun_operator.core.stop import suspension

if TYPE_CHECKING:
    from trainingrun_operator.api.status import Termination
    from trainingrun_operator.cli.explain.facts import Facts


def stopping(facts: Facts, stop: Termination) -> Explanation:
    """An end is decided, and on its way."""
    held = stop.phase is Phase.HELD
    what = f"{facts.name} {'is held' if held else 'is stopping'} ({stop.status}): {stop.message}"
    if stop.suspends:
        what = f"{facts.name} is being suspended{', and held' if held else ''}: spec.suspend is true."
    because = (
        _by(facts, stop),
        *_evidence(stop),
        _phase(facts, stop),
        facts.run.status.signal_trouble or "",
        *_loss_told(stop),
        *_afterwards(facts, stop),
    )
    return Explanation(what, because, _help(facts, stop))


def suspended(facts: Facts, stop: Termination) -> Explanation:
    """It rests, and may go on."""
    run = facts.run
    because = (_by(facts, stop), *filter(None, (checkpoint.of_an_end(facts), _nodes(facts))), *_afterwards(facts, stop))
    if run.spec.stop or run.deleting or not run.spec.suspend:
        return Explanation(
            f"{facts.name} is suspended{facts.lasting(stop.phase_at)}, and about to leave that.", because
        )
    goes_on = "from that checkpoint" if stop.saved is not None and stop.saved.files else "from its beginning"
    return Explanation(
        f"{facts.name} is suspended{facts.lasting(stop.phase_at)}: it can go on {goes_on}.",
        because,
        ("To have it go on:", facts.command("resume"), "To end it with what it has:", facts.command("stop")),
    )


def ended(facts: Facts, stop: Termination) -> Explanation:
    """It is over."""
    when = facts.ago(facts.run.status.completion_time)
    because = (
        _by(facts, stop),
        *_evidence(stop),
        *filter(None, (checkpoint.of_an_end(facts), _nodes(facts), _success(facts, stop), _shadow(facts))),
    )
    return Explanation(f"{facts.name} ended as {stop.status}{when}: {stop.message}", because)


# -- why ------------------------------------------------------------------------------------------------------


def _by(facts: Facts, stop: Termination) -> str:
    """Which rule decided, or who asked."""
    run, who = facts.run, stop.actor or "somebody"
    if stop.rule and stop.rule not in (people.STOP, suspension.RULE):
        inferred = ", inferred from what was seen" if stop.inferred else ""
        return f"Decided by the rule {stop.rule} ({stop.reason}){inferred}."
    if not ending_of(stop.status).by_hand and not stop.suspends:
        return f"Decided by {who}."
    field, manager = ("suspend", run.suspend_manager) if stop.suspends else ("stop", run.stop_manager)
    program = f" That is the program that wrote spec.{field}." if who == manager else ""
    return f"Asked for by {who}.{program}"


def _evidence(stop: Termination) -> tuple[str, ...]:
    """The observations that decided."""
    told = [
        f"{one.what} {one.value}" + (f" at step {one.step}" if one.step is not None else "") for one in stop.evidence
    ]
    return (f"What decided: {words.listed(told)}.",) if told else ()


# -- how far --------------------------------------------------------------------------------------------------


def _phase(facts: Facts, stop: Termination) -> str:
    since = facts.lasting(stop.phase_at)
    match stop.phase:
        case Phase.REQUESTED:
            return "It is decided and written down; next its training is asked to leave."
        case Phase.DRAINING:
            return _draining(facts, since)
        case Phase.SAVING:
            since = since.replace("(", f"(attempt {stop.attempt}, ") if stop.attempt > 1 else since
            return f"What is not in the bucket yet is being saved{since}, before its pod may go.{_trouble(facts)}"
        case Phase.VERIFYING:
            return (
                f"The operator reads the bucket back and compares the checksum of every file{since}.{_trouble(facts)}"
            )
        case Phase.HELD:
            return f"Pod and bytes are kept, because its checkpoint cannot be proven{since}: {stop.hold_reason or 'the status does not say why.'}"
        case Phase.DELETING:
            proven = (
                "Its checkpoint is proven"
                if stop.saved is not None and stop.saved.files
                else "Nothing more has to be proven"
            )
            return f"{proven}, and its pod is being ended{since}."
        case Phase.RELEASING:
            return f"Its pod is gone, and its nodes are given back{since}. {_nodes(facts)}".rstrip()
        case Phase.DONE:  # pragma: no cover - told as an end
            return ""
        case _ as never:  # pragma: no cover - mypy proves that there is no other phase
            assert_never(never)


def _draining(facts: Facts, since: str) -> str:
    shutdown = facts.run.spec.shutdown
    asked = f"Its training is asked to save and leave{since}, by the file {shutdown.file}"
    if shutdown.signal:
        asked += f" and at half time by {shutdown.signal}"
    content = {
        StopMode.AUTO: "",
        StopMode.NEXT_CHECKPOINT: " Its next complete checkpoint will do (stopMode NextCheckpoint).",
        StopMode.LAST_CHECKPOINT: " Its last complete checkpoint will do (stopMode LastCheckpoint).",
    }[facts.run.spec.stop_mode]
    return f"{asked}; it has {words.duration(shutdown.grace_seconds)} for that (shutdown.graceSeconds).{content}"


def _trouble(facts: Facts) -> str:
    """What keeps it from being proven, if the operator has said."""
    state, reason, message = facts.state("CheckpointSaved")
    return f" That does not work yet ({reason}): {message}" if state == "False" and reason != "NothingFound" else ""


def _loss_told(stop: Termination) -> tuple[str, ...]:
    return (f"Something was lost: {stop.data_loss}",) if stop.data_loss else ()


def _help(facts: Facts, stop: Termination) -> tuple[str, ...]:
    """What a person may do to end the waiting."""
    if stop.phase is Phase.HELD:
        return (
            "It is tried again by itself, for as long as it takes: mend the way to the bucket, and it goes on.",
            "To end it without a proven checkpoint, which may lose what was not saved:",
            facts.command("proceed"),
        )
    # Asked of a suspension, it would end the run.
    if stop.phase is Phase.DRAINING and not stop.suspends and facts.run.spec.stop_mode is not StopMode.LAST_CHECKPOINT:
        return (
            "To wait no longer, and be content with its last checkpoint:",
            facts.command("stop", "--mode LastCheckpoint"),
        )
    if stop.phase is Phase.RELEASING and unsettled(facts.run.status.nodes):
        return ("To wait no longer, keep these nodes and look after them yourself:", facts.command("abandon"))
    return ()


def _afterwards(facts: Facts, stop: Termination) -> tuple[str, ...]:
    """What people have asked for meanwhile, which comes after a suspension."""
    run = facts.run
    if not stop.suspends:
        return ()
    if run.spec.stop or run.deleting:
        return (f"Then it ends: {'it is being deleted' if run.deleting else 'spec.stop is true'}.",)
    return () if run.spec.suspend else ("Then it goes on: spec.suspend is not true any more.",)


# -- the end --------------------------------------------------------------------------------------------------


def _nodes(facts: Facts) -> str:
    nodes = facts.run.status.nodes
    waiting = unsettled(nodes)
    released = [node.name for node in nodes if node.phase is NodePhase.RELEASED]
    kept = [node for node in nodes if node.phase is NodePhase.RETAINED]
    return " ".join(
        (
            *(f"{node.name} ({node.phase.value}): {node.message or 'nothing is said of it yet.'}" for node in waiting),
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
    """Why an end that sounds good does not count as success."""
    state, reason, message = facts.state("Succeeded")
    if state != "False" or reason == ending_of(stop.status).reason:
        return ""
    _, saved, _ = facts.state("CheckpointSaved")
    # What became of the checkpoint has a sentence of its own.
    return f"It does not count as succeeded ({reason})" + ("." if reason == saved else f": {message}")


def _shadow(facts: Facts) -> str:
    for one in facts.run.status.shadow:
        step = f" at step {one.step}" if one.step is not None else ""
        return f"{one.rule}, had it been enforced, would have ended it{step} with loss {one.value}."
    return ""
