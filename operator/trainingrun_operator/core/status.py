"""The derived status of a run: phase, conditions, progress, message. It is computed from the observation alone.

`status.termination`, `terminationStatus`, `nodes` and `completionTime` are written by compare-and-swap with the decision, and `notified` by the
webhook's notifier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from trainingrun_operator.api import endings, names
from trainingrun_operator.api.endings import ending_of
from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.api.status import (
    CheckpointStatus,
    Condition,
    Lag,
    NodePhase,
    NodeStatus,
    Phase,
    PhaseChange,
    PodStatus,
    Termination,
    TrainingRunStatus,
    WorkloadRef,
)
from trainingrun_operator.checkpoints.keys import order_of_commit
from trainingrun_operator.core import (
    acceptance,
    budget,
    completion_line,
    data_loss,
    identity,
    notices,
    progress,
    quiet,
    refuted,
    release,
    watch,
)
from trainingrun_operator.core import idle as idleness
from trainingrun_operator.core.bounds import COUNT_MAX, MESSAGE_MAX, TEXT_MAX, WORD_MAX, clipped, counted
from trainingrun_operator.core.facts.bucket import Mismatch, Unreachable
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.facts.rank import REPORT_REFUSED
from trainingrun_operator.core.rules import chain, hang, idle, loss, same_step, stop_rules, workload
from trainingrun_operator.core.stop import furthest, published
from trainingrun_operator.core.stop.proving import saved_from

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from trainingrun_operator.api.restored import Restored
    from trainingrun_operator.api.status import Refuted
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.observed import Observed

HISTORY_MAX: Final = 20
WRITTEN_BY_THE_STOP: Final = frozenset({"termination", "terminationStatus", "nodes", "completionTime", "notified"})


class Fact(NamedTuple):
    """A condition without its transition time."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str = ""


def observed_fields(status: TrainingRunStatus) -> dict[str, Any]:
    """Return the fields of a rendered status that the observer writes, without those of the stop."""
    return {name: value for name, value in status.dump().items() if name not in WRITTEN_BY_THE_STOP}


def render(seen: Observed, rules: Sequence[chain.Rule] = chain.RULES) -> TrainingRunStatus:
    """Return everything that the observer writes.

    Args:
        seen: everything known about the run now.
        rules: as for `decide`.
    """
    before = seen.run.status
    stop = before.termination
    found = chain.findings(seen, rules)
    facts = _facts(seen)
    phase = _phase(seen, {fact.type: fact for fact in facts})
    return TrainingRunStatus(
        conditions=_dated(seen, facts),
        observed_generation=seen.run.generation,
        phase=phase,
        termination_message=_sentence(seen, stop) if stop else None,
        operator=clipped(seen.defaults.installation, WORD_MAX) or None,
        signal_trouble=_signal_trouble(seen, stop),
        findings=chain.stored(found),
        effective=loss.in_force(seen).model_copy(
            update={"node_pool": next((n.pool for n in before.nodes if n.pool), "")}
        ),
        start_time=before.start_time or next((pod.started_at for pod in seen.pods if pod.started_at), None),
        trained=budget.render(seen),
        completion_line=completion_line.render(seen),
        quiet=quiet.render(seen, told=notices.holds(seen, hang.hang)),
        idle=idleness.render(seen, told=notices.holds(seen, idle.idle)),
        progress=progress.render(seen),
        crashes=same_step.row(seen),
        workload=_workload(seen),
        pods=tuple(_pod(pod, stop) for pod in seen.pods[-64:]) if seen.pods else (),
        checkpoint=_checkpoint(seen),
        save_times=seen.saves or before.save_times,
        restored=_restored(seen),
        rules=watch.stored(seen.watches) if seen.watches else before.rules if seen.run.spec.stop_rules else (),
        shadow=chain.shadows(seen, found),
        history=_history(seen, phase),
    )


# -- phase, sentence ------------------------------------------------------------------------------------------


def _phase(seen: Observed, facts: dict[str, Fact]) -> str:
    stop = seen.run.status.termination
    if stop is None:
        return _phase_of_run(seen)
    if stop.phase is not Phase.DONE:
        return "Held" if stop.phase is Phase.HELD else "Stopping"
    if stop.suspends:
        return "Suspended"
    if facts["Succeeded"].status == "True":
        return "Succeeded"
    phase = ending_of(stop.status).phase
    return "Failed" if phase == "Succeeded" else phase


def _phase_of_run(seen: Observed) -> str:
    """Return the phase of a run without a termination."""
    if seen.workload is None and seen.run.spec.suspend:
        return "Suspended"
    started = any(pod.training is not Training.NOT_STARTED for pod in seen.live_pods)
    return "Running" if started else "Pending"


def _sentence(seen: Observed, stop: Termination) -> str:
    waits = stop.wait.message if stop.wait is not None and stop.saved is None else ""
    parts = [stop.message, waits, _checkpoint_sentence(seen, stop), _nodes_sentence(seen.run.status.nodes)]
    return clipped(" ".join(part for part in parts if part), MESSAGE_MAX)


def _checkpoint_sentence(seen: Observed, stop: Termination) -> str:
    if stop.data_loss and (stop.saved is None or not stop.saved.files):
        return stop.data_loss
    if stop.saved is not None:
        said = (furthest.sentence(seen, stop.saved), published.sentence(stop), stop.data_loss)
        return " ".join(filter(None, said))
    return f"Held: {stop.hold_reason}" if stop.hold_reason else ""


def _nodes_sentence(nodes: tuple[NodeStatus, ...]) -> str:
    released = [node.name for node in nodes if node.phase is NodePhase.RELEASED]
    kept = [f"{node.name}: {node.message}" for node in nodes if node.phase is NodePhase.RETAINED]
    gone = f"{'Node' if len(released) == 1 else 'Nodes'} {', '.join(released)} released." if released else ""
    return " ".join(filter(None, (gone, *(f"Node {one}" for one in kept))))


# -- conditions -----------------------------------------------------------------------------------------------


def _facts(seen: Observed) -> tuple[Fact, ...]:
    accepted = _accepted(seen)
    saved = _checkpoint_saved(seen)
    return (
        accepted,
        _metrics_available(seen),
        *_rules_measured(seen),
        *_plateaued(seen),
        *_limit(seen, "Hung", hang.hang),
        *_limit(seen, "Idle", idle.idle),
        saved,
        _nodes_released(seen),
        _finished(seen),
        _succeeded(seen, saved),
        # kstatus: Argo CD, Flux and Helm show a refused run as failed.
        Fact(
            "Stalled",
            "True" if accepted.status == "False" else "False",
            accepted.reason,
            accepted.message if accepted.status == "False" else "",
        ),
    )


def _accepted(seen: Observed) -> Fact:
    problem = seen.problem
    if problem is None and seen.run.status.termination is None:
        problem = acceptance.refusal(seen) if seen.workload is None else acceptance.while_running(seen.run.spec)
    if problem is not None:
        return Fact("Accepted", "False", problem.reason, problem.message)
    if seen.workload is None and seen.run.status.termination is None and not seen.run.spec.suspend:
        return Fact("Accepted", "Unknown", "Checking", "The spec is being checked.")
    off = loss.misunderstood(seen.run.spec)
    who = identity.sentence(seen.run, seen.defaults.allowed_destinations)
    said = ("The spec can be acted on.", off, who, *identity.troubles(seen))
    return Fact("Accepted", "True", "Accepted", " ".join(filter(None, said)))


def _metrics_available(seen: Observed) -> Fact:
    kind = "MetricsAvailable"
    running = any(pod.training is Training.RUNNING for pod in seen.live_pods)
    if not running:
        return _not_running(seen, kind)
    if (trouble := loss.unread(seen)) is not None:
        state: Literal["Unknown", "False"] = "Unknown" if trouble.reason == loss.NOT_READ_YET else "False"
        return Fact(kind, state, trouble.reason, " ".join(filter(None, (trouble.message, loss.stage_note(seen)))))
    return Fact(kind, "True", "Fresh", " ".join(filter(None, ("A finite, fresh loss is read.", loss.stage_note(seen)))))


def _rules_measured(seen: Observed) -> tuple[Fact, ...]:
    """Whether the values that the stop rules name are read; no condition without stop rules."""
    kind = "RulesMeasured"
    if not seen.run.spec.stop_rules:
        return ()
    if all(pod.training is not Training.RUNNING for pod in seen.live_pods):
        return (_not_running(seen, kind),)
    lacking = stop_rules.unseen(seen)
    if lacking:
        said = (f"{rule.called}: {trouble.message}" for rule, trouble in lacking)
        known = f" The newest reading has {', '.join(seen.track.names)}." if seen.track.names else ""
        return (Fact(kind, "False", lacking[0][1].reason, f"{' '.join(said)}{known}"),)
    watches = [seen.watches.get(rule.called) for rule in seen.run.spec.stop_rules]
    if any(one is None or one.at is None for one in watches):
        return (Fact(kind, "Unknown", loss.NOT_READ_YET, "The metrics have not been read yet."),)
    return (Fact(kind, "True", "Measured", "The value of every stop rule was read in this pod."),)


def _plateaued(seen: Observed) -> tuple[Fact, ...]:
    """Whether a plateau rule holds, also one that only reports; no condition without such a rule. A stop keeps what it was."""
    kind, stop = "LossPlateaued", seen.run.status.termination
    numbers = [number for number, rule in enumerate(seen.run.spec.stop_rules) if rule.plateau is not None]
    if not numbers:
        return ()
    if stop is not None:
        if stop.status == endings.AUTO_PLATEAU.status:
            return (Fact(kind, "True", "Plateau", stop.message),)
        before = seen.run.status.condition(kind)
        return (Fact(kind, before.status, before.reason, before.message) if before else _not_running(seen, kind),)
    found = [one for number in numbers if (one := stop_rules.judged(number, seen)) is not None]
    if holding := [one for one in found if one.fires or one.reason == "NoCheckpoint"]:
        return (Fact(kind, "True", "Plateau", " ".join(f"{one.rule}: {one.message}" for one in holding)),)
    unread = all(one.reason in (loss.NOT_READ_YET, "NotRunning") for one in found)
    said = " ".join(f"{one.rule}: {one.message}" for one in found)
    return (Fact(kind, "Unknown" if unread else "False", found[0].reason, said),)


def _limit(seen: Observed, kind: str, rule: chain.Rule) -> tuple[Fact, ...]:
    """Whether the training hangs, or is idle; no condition before it was."""
    before = seen.run.status.condition(kind)
    found = notices.present(seen, rule)
    if found is not None and found.fires:
        return (Fact(kind, "True", found.reason, found.message),)
    if before is None:
        return ()
    if found is None:
        return (_not_running(seen, kind)._replace(status="False"),)
    return (Fact(kind, "False", found.reason, found.message),)


def _not_running(seen: Observed, kind: str) -> Fact:
    if seen.run.status.termination is not None:
        return Fact(kind, "False", "NotRunning", "No training is running.")
    if (lost := next((pod for pod in seen.pods if pod.lost), None)) is not None:
        gone = f"The machine of node {lost.node} and its pod {lost.name} are gone: the Job replaces the pod once the Node is removed."
        return Fact(kind, "Unknown", "NodeLost", gone)
    return Fact(kind, "Unknown", "NotRunning", " ".join(filter(None, ("No training is running.", *_why_idle(seen)))))


def _why_idle(seen: Observed) -> Iterator[str]:
    """Say of the newest pods why their training does not run, and of the last pod that failed before its training started."""
    for pod in (rank.pod for rank in seen.ranks if rank.pod is not None):
        if pod.told_to_leave:
            yield f"Pod {pod.name} was told to leave ({pod.told_to_leave}): the Job replaces it."
        if pod.waiting_reason:
            yield f"The pod waits: {pod.waiting_reason}: {pod.waiting_message}"
            break
    if last := workload.last_failure_before_start(seen):
        yield f"The training could not start: {last}."


def _checkpoint_saved(seen: Observed) -> Fact:
    kind, stop = "CheckpointSaved", seen.run.status.termination
    if seen.run.spec.checkpoint.mode is CheckpointMode.DISABLED:
        return Fact(kind, "False", "Disabled", "spec.checkpoint.mode is Disabled: nothing is saved.")
    if (lost := data_loss.of(seen)) is not None and (stop is None or stop.phase is not Phase.HELD):
        return Fact(kind, "False", "DataLoss", lost)
    if stop is not None and stop.saved is not None:
        said = " ".join(filter(None, (furthest.sentence(seen, stop.saved), published.sentence(stop))))
        return (
            Fact(kind, "True", "Verified", said)
            if stop.saved.files
            else Fact(kind, "False", "NothingFound", stop.saved.note)
        )
    if stop is not None and stop.phase is Phase.HELD:
        return Fact(kind, "False", "Held", stop.hold_reason or "")
    if (refused := next((rank.refused for rank in seen.ranks if rank.refused is not None), None)) is not None:
        return Fact(kind, "Unknown", REPORT_REFUSED, refused.sentence)
    if trouble := _saving_trouble(seen):
        return Fact(kind, "False", *trouble)
    if (proven := _proven(seen)) is not None:
        return proven
    if (
        seen.reports
        and all(report.files == 0 and not report.temporary_files for report in seen.reports)
        and seen.track.advanced
    ):
        path = seen.run.spec.checkpoint.path
        return Fact(
            kind,
            "False",
            "NothingFound",
            f"Steps advance, but no file is under {path}: does the training write its checkpoints there (${names.CHECKPOINT_DIR_ENV})?",
        )
    before = seen.run.status.condition(kind)
    if before is not None and before.status == "True":
        return Fact(kind, before.status, before.reason, before.message)
    return Fact(kind, "Unknown", "NothingYet", "No checkpoint has been verified yet.")


def _proven(seen: Observed) -> Fact | None:
    """Return what is proven, and what no longer is; None: neither is known."""
    kind, bad = "CheckpointSaved", _refuted(seen)
    no_longer = refuted.sentence(bad) if bad is not None else ""
    if seen.verified is not None and seen.verified.commit.total_files:
        said = (furthest.sentence(seen, saved_from(seen.verified)), no_longer)
        return Fact(kind, "True", "Verified", " ".join(filter(None, said)))
    return Fact(kind, "False", "Mismatch", no_longer) if no_longer else None


def _saving_trouble(seen: Observed) -> tuple[str, str] | None:
    errors = (rank.report.error for rank in seen.ranks if rank.report is not None)
    if (error := next((one for one in errors if one is not None), None)) is not None:
        return error.code, error.message
    if isinstance(seen.answer, Mismatch):
        return "Mismatch", seen.answer.complaint
    if isinstance(seen.answer, Unreachable):
        return seen.answer.code, seen.answer.message
    return None


def _nodes_released(seen: Observed) -> Fact:
    kind, nodes, stop = "NodesReleased", seen.run.status.nodes, seen.run.status.termination
    if not nodes and not seen.defaults.release_nodes:
        return Fact(kind, "Unknown", "NodesNotReleased", "This operator does not release nodes (nodeRelease.enabled).")
    if not nodes:
        return Fact(
            kind,
            "True" if stop and stop.phase is Phase.DONE else "Unknown",
            "NoNodes",
            "No node was used." if stop else "No node is used yet.",
        )
    waiting = release.unsettled(nodes)
    if waiting:
        busy = stop is not None and stop.phase is Phase.RELEASING
        message = " ".join(f"{node.name}: {node.message or node.phase.value}" for node in waiting)
        return Fact(kind, "False", waiting[0].phase.value if busy else "InUse", message)
    reason = "Released" if all(node.phase is NodePhase.RELEASED for node in nodes) else "Retained"
    return Fact(kind, "True", reason, _nodes_sentence(nodes))


def _finished(seen: Observed) -> Fact:
    stop = seen.run.status.termination
    if stop is None:
        return Fact("Finished", "False", "NotStopping", "The run has not ended.")
    if stop.phase is not Phase.DONE:
        trouble = _signal_trouble(seen, stop)
        return Fact("Finished", "False", stop.phase.value, " ".join(filter(None, (stop.message, trouble))))
    if stop.suspends:
        return Fact("Finished", "False", "Suspended", stop.message)
    return Fact("Finished", "True", ending_of(stop.status).reason, stop.message)


def _signal_trouble(seen: Observed, stop: Termination | None) -> str | None:
    """Return why the stop signal was not sent to the training; None: it was, or none is due."""
    troubles = (rank.report.signal_trouble for rank in seen.ranks if rank.report is not None)
    trouble = next(filter(None, troubles), "")
    if stop is None or stop.phase is Phase.DONE or not trouble:
        return None
    why = f"{seen.run.spec.shutdown.signal} was not sent to the training: {trouble}."
    return clipped(why, MESSAGE_MAX)


def _succeeded(seen: Observed, saved: Fact) -> Fact:
    stop = seen.run.status.termination
    if stop is None or not stop.over:
        return Fact("Succeeded", "Unknown", "NotFinished")
    ending = ending_of(stop.status)
    if not ending.succeeds:
        return Fact("Succeeded", "False", ending.reason, stop.message)
    if saved.status != "True" and saved.reason != "Disabled":
        return Fact("Succeeded", "False", saved.reason, saved.message)
    return Fact("Succeeded", "True", ending.reason, stop.message)


def _dated(seen: Observed, facts: tuple[Fact, ...]) -> tuple[Condition, ...]:
    before = {condition.type: condition for condition in seen.run.status.conditions}
    return tuple(
        Condition(
            type=fact.type,
            status=fact.status,
            reason=clipped(fact.reason, WORD_MAX),
            message=clipped(fact.message, MESSAGE_MAX),
            observed_generation=seen.run.generation,
            last_transition_time=was.last_transition_time
            if (was := before.get(fact.type)) and was.status == fact.status
            else seen.wall,
        )
        for fact in facts
    )


# -- pods, checkpoint -----------------------------------------------------------------------------------------


def _workload(seen: Observed) -> WorkloadRef | None:
    """Return the owner of the pods, or the recorded one if it is gone."""
    owner = seen.workload
    if owner is None:
        return seen.run.status.workload
    return WorkloadRef(api_version=owner.api_version, kind=owner.kind, name=owner.name, uid=owner.uid)


def _pod(pod: Pod, stop: Termination | None) -> PodStatus:
    # A stop deletes the pods itself.
    told = pod.told_to_leave if stop is None else pod.disruption
    exited = pod.training is Training.EXITED and not pod.terminal
    return PodStatus(
        name=pod.name,
        uid=pod.uid,
        rank=pod.rank,
        node=pod.node,
        phase="Exited" if exited else pod.phase,
        exit_code=pod.exit_code,
        exit_reason=clipped(pod.exit_reason, TEXT_MAX),
        told_to_leave=clipped(told, TEXT_MAX),
        waiting=clipped(pod.waiting_reason, WORD_MAX),
        waiting_message=clipped(pod.waiting_message, TEXT_MAX),
    )


def _checkpoint(seen: Observed) -> CheckpointStatus | None:
    before = seen.run.status.checkpoint
    saved = furthest.furthest(seen)
    reports = seen.reports
    unsaved = sum(max(report.unsaved_bytes, 0) for report in reports) if reports is not None else None
    lag = Lag(bytes=min(unsaved, COUNT_MAX)) if unsaved is not None else None
    lost, bad = data_loss.of(seen), _refuted(seen)
    if saved is None or not saved.commit:
        if before is None and lost is None:
            return None
        kept = before if before is not None and (bad is None or bad.commit != before.commit) else CheckpointStatus()
        return kept.model_copy(update={"data_loss": lost, "refuted": bad})
    return CheckpointStatus(
        uri=saved.uri,
        commit=saved.commit,
        generation=_generation(saved.commit),
        dir=saved.dir,
        step=saved.step,
        epoch=saved.epoch,
        format=saved.format,
        inherited=saved.inherited,
        finite=saved.finite,
        digest=saved.digest,
        bytes=saved.bytes,
        files=saved.files,
        complete=saved.complete,
        verified_at=before.verified_at if before and before.digest == saved.digest else seen.wall,
        lag=lag,
        data_loss=lost,
        refuted=bad,
    )


def _refuted(seen: Observed) -> Refuted | None:
    """Return the shown checkpoint that does not verify any more."""
    last = furthest.newest(seen)
    return refuted.shown(seen.run.status.checkpoint, seen.refuted, last.commit if last is not None else "")


def _restored(seen: Observed) -> Restored | None:
    """Return what the newest pod of rank 0 starts from; until it is known, what the pod before started from."""
    pod = seen.ranks[0].pod
    if pod is None or pod.restored is None:
        return seen.run.status.restored
    return pod.restored.model_copy(update={"pod": pod.name})


def _generation(commit_key: str) -> int | None:
    order = order_of_commit(commit_key)
    return counted(order.generation) if order else None


def _history(seen: Observed, phase: str) -> tuple[PhaseChange, ...]:
    before = seen.run.status.history
    if before and before[-1].phase == phase:
        return before
    stop = seen.run.status.termination
    lost = (
        clipped(stop.data_loss, TEXT_MAX) if stop is not None and stop.phase is Phase.DONE and stop.data_loss else None
    )
    return (*before, PhaseChange(phase=phase, at=seen.wall, data_loss=lost))[-HISTORY_MAX:]
