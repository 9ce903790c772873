"""Why a run has not begun, or does not train at the moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainingrun_operator.cli.explain.facts import Explanation

if TYPE_CHECKING:
    from trainingrun_operator.cli.explain.facts import Facts

UNCHANGEABLE: Final = frozenset({"InvalidTemplate", "InvalidDestination"})
"""Complaints about fields that cannot be changed: only another run can be right."""


def unheard(facts: Facts) -> Explanation | None:
    """Nobody has ever looked at it, or acts on what a person wrote."""
    run = facts.run
    if not run.status.conditions:
        return Explanation(
            f"{facts.name} has not started: no operator has looked at it yet.",
            (f"It was created{facts.ago(run.created)}." if run.created else "",),
            facts.operator_away(),
        )
    if run.deleting:
        return Explanation(
            f"{facts.name} is being deleted, and the operator has not begun to save its checkpoint yet.",
            (),
            facts.operator_away(),
        )
    if run.spec.stop:
        return Explanation(
            f"{facts.name} has been told to stop (spec.stop is true), and the operator has not acted on it yet.",
            (f"It was written by {run.spec.stopped_by or run.stop_manager}.",)
            if run.spec.stopped_by or run.stop_manager
            else (),
            facts.operator_away(),
        )
    if run.spec.suspend and run.status.phase in ("Running", "Pending") and run.status.workload is not None:
        return Explanation(
            f"{facts.name} has been told to suspend (spec.suspend is true), and the operator has not acted on it yet.",
            (),
            facts.operator_away(),
        )
    return None


def asleep(facts: Facts) -> Explanation | None:
    """It was suspended before anything of it was made."""
    if facts.run.status.phase != "Suspended":
        return None
    return Explanation(
        f"{facts.name} has not started: it is suspended (spec.suspend is true).",
        (),
        ("To have it start:", facts.command("resume")),
    )


def refused(facts: Facts) -> Explanation | None:
    """The spec cannot be acted on."""
    state, reason, message = facts.state("Accepted")
    if state == "Unknown":
        return Explanation(f"{facts.name} has not started: its spec is still being checked.")
    if state != "False":
        return None
    again = (
        "The template and the destination of a run cannot be changed: delete it, put that right, and apply it again."
        if reason in UNCHANGEABLE
        else "It starts by itself once that is put right."
    )
    return Explanation(f"{facts.name} has not started ({reason}): {message}", (), (again,))


def waiting(facts: Facts) -> Explanation | None:
    """No pod of it trains: none has yet, or one is being replaced."""
    status = facts.run.status
    if status.phase != "Pending":
        return None
    _, reason, message = facts.state("MetricsAvailable")
    why = message if reason == "NodeLost" else _pod_waits(facts)
    begun = status.start_time is not None
    answer = f"{facts.name} does not train at the moment" if begun else f"{facts.name} has not started to train"
    because = [why or "Its pod is on its way: a node is found for it, its image is pulled, a checkpoint is restored."]
    if begun and facts.run.status.checkpoint is not None:
        because.append("The next pod goes on from its newest checkpoint.")
    return Explanation(f"{answer}: it has no running pod.", tuple(because), _look(facts))


def _pod_waits(facts: Facts) -> str:
    """What keeps its newest pod from starting, in the words of Kubernetes."""
    pod = facts.run.status.pods[-1] if facts.run.status.pods else None
    return f"The pod waits: {pod.waiting}: {pod.waiting_message}" if pod is not None and pod.waiting else ""


def _look(facts: Facts) -> tuple[str, ...]:
    selector = f"trainingrun.dev/run={facts.name}"
    return (
        "What its pod waits for, in full:",
        f"$ kubectl describe pods --selector {selector} --namespace {facts.run.namespace}",
    )
