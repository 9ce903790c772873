"""The decision about a run: from everything observed to the next effects."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import SaveRequest
from trainingrun_operator.api.run import CheckpointMode, OnFailure
from trainingrun_operator.api.status import Phase
from trainingrun_operator.core import acceptance, crash_causes, manifests, node_pools, release, restoring
from trainingrun_operator.core.effects import (
    AddFinalizer,
    Annotate,
    CreateWorkload,
    Decision,
    RecordEvent,
    RecordNodes,
)
from trainingrun_operator.core.facts.bucket import Mismatch, Verified
from trainingrun_operator.core.rules import exits, hang, idle, limit, loss
from trainingrun_operator.core.rules.chain import AT_REST, RULES, why_end
from trainingrun_operator.core.stop import disruption, ending, failing, suspension, termination, transitions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainingrun_operator.api.status import Termination
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.observed import Observed
    from trainingrun_operator.core.rules.chain import Rule

NODES_MAX: Final = 64
"""Bound of ``status.nodes`` in the schema; of a run that used more nodes, only the newest are released."""


def decide(seen: Observed, rules: Sequence[Rule] = RULES) -> Decision:
    """Return what to do now. Total: any observation has a decision.

    Args:
        seen: everything known about the run now.
        rules: the reasons to end it, in order; the first that fires decides.
    """
    decision = _story(seen, rules)
    return replace(decision, effects=(*disruption.effects(seen), *release.deserted(seen), *decision.effects))


def _story(seen: Observed, rules: Sequence[Rule]) -> Decision:
    stop = seen.run.status.termination
    if stop is not None and stop.phase is Phase.DONE:
        return _suspended(seen, stop) if stop.suspends else termination.transition(seen, stop)
    if (nodes := node_pools.recorded(seen)[-NODES_MAX:]) != seen.run.status.nodes:
        return Decision((RecordNodes(nodes),), again_seconds=0)
    if stop is not None:
        return termination.transition(seen, stop)
    if seen.run.deleting and names.FINALIZER not in seen.run.finalizers:
        return Decision(note="deleted before it had a Job")
    if found := why_end(seen, rules):
        return termination.begin(seen, found)
    if seen.workload is None:
        return _start(seen)
    if seen.run.spec.suspend:
        return suspension.begin(seen)
    if crashed := tuple(rank.pod for rank in seen.ranks if rank.pod is not None and rank.crashed):
        return _replace(seen, crashed)
    said = {
        "MaxDurationNear": limit.warning(seen),
        "Hung": hang.warning(seen),
        "Idle": idle.warning(seen),
    } | dict([limit.budget_warning(seen)])
    warnings = (RecordEvent(reason, message, warning=True) for reason, message in said.items() if message)
    return Decision(
        (*ending.leftovers(seen), *warnings),
        again_seconds=seen.run.spec.poll_interval_seconds,
        note="watching",
    )


def _suspended(seen: Observed, stop: Termination) -> Decision:
    """End a suspended run only on a person's request or without its Job, with the checkpoint of its suspension."""
    if found := why_end(seen, AT_REST):
        return termination.begin(seen, found, stop)
    return suspension.rest(seen, stop)


def _start(seen: Observed) -> Decision:
    """Refuse the run, or add its finalizer and then create its Job; a run created suspended gets no Job."""
    if (problem := seen.problem or acceptance.refusal(seen)) is not None:
        return Decision(
            again_seconds=None if problem.permanent else seen.run.spec.poll_interval_seconds, note=problem.message
        )
    if seen.run.spec.suspend:
        return Decision(note="suspended before it began")
    if seen.origin is None and restoring.is_wanted(seen.run):
        return Decision(
            again_seconds=seen.run.spec.poll_interval_seconds, note="the checkpoint to start from is looked up"
        )
    if names.FINALIZER not in seen.run.finalizers:
        return Decision((AddFinalizer(),), again_seconds=0)
    said = {
        "RestartPolicyIgnored": manifests.changed_restart_policy(seen.run.spec),
        "AutoStopLossOff": loss.misunderstood(seen.run.spec),
    }
    warnings = (RecordEvent(reason, message, warning=True) for reason, message in said.items() if message)
    return Decision(
        (
            CreateWorkload(manifests.job(seen.run, seen.defaults, seen.origin)),
            RecordEvent("Started", "The Job was created."),
            *warnings,
        ),
        again_seconds=seen.run.spec.poll_interval_seconds,
    )


def _replace(seen: Observed, crashed: Sequence[Pod]) -> Decision:
    """Save and prove the files of crashed pods behind their gates, then open the gates: the workload replaces the pods.

    All their agents answer one request, named after the first pod.
    """
    proven = isinstance(seen.answer, Verified) and seen.answer.commit.final
    if proven or seen.run.spec.checkpoint.mode is CheckpointMode.DISABLED:
        return _open_gates(seen, crashed)
    attempt = max((pod.save.attempt for pod in crashed if pod.save is not None), default=1)
    spent = isinstance(seen.answer, Mismatch) and failing.is_spent(attempt, seen.answer)
    if (spent or failing.why(seen)) and seen.run.spec.checkpoint.on_failure is OnFailure.PROCEED:
        return _open_gates(seen, crashed)
    again = isinstance(seen.answer, Mismatch) and not spent
    request = SaveRequest(id=_request_id(crashed), attempt=attempt + again, ended=True)
    asks = tuple(ask for pod in crashed if (ask := transitions.ask_to_save(pod, request)))
    nudge = transitions.nudges(seen, "Saving", seen.save_failing_seconds)
    return Decision(
        (*asks, *nudge),
        again_seconds=transitions.patience(seen, seen.save_failing_seconds),
        note="a crashed pod is saved behind its gate",
    )


def _request_id(crashed: Sequence[Pod]) -> str:
    return f"crash-{crashed[0].uid}"


def _open_gates(seen: Observed, crashed: Sequence[Pod]) -> Decision:
    opens = (Annotate(pod.name, pod.uid, names.OPEN_GATE_ANNOTATION, _request_id(crashed)) for pod in crashed)
    count, limit = exits.crashes(seen), seen.run.spec.backoff_limit
    causes = {rank.pod.uid: crash_causes.sentence(rank) for rank in seen.ranks if rank.pod is not None}
    events = (
        RecordEvent(
            "Restarting",
            f"Training ended with {pod.exit_words}; its files are saved, and pod {pod.name} is replaced ({count} of {limit} restarts).{causes[pod.uid]}",
            warning=True,
        )
        for pod in crashed
    )
    return Decision((*opens, *events), again_seconds=seen.defaults.termination_look_seconds)
