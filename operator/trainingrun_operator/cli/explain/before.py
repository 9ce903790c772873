"""Explain why a run has not started, or does not train now."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainingrun_operator.cli.explain.facts import Explanation
from trainingrun_operator.core.commands import command

if TYPE_CHECKING:
    from trainingrun_operator.cli.explain.facts import Facts

UNCHANGEABLE: Final = frozenset({"InvalidTemplate", "InvalidDestination", "DestinationOverlaps"})
"""Reasons that concern immutable fields: only a new run can correct them."""


def unheard(facts: Facts) -> Explanation | None:
    """The operator has not processed the run, or has not acted on its newest spec."""
    run = facts.run
    if not run.status.conditions:
        return Explanation(
            f"{facts.name} has not started: no operator has processed it yet.",
            (f"It was created{facts.ago(run.created)}." if run.created else "",),
            facts.operator_away(),
        )
    if run.deleting:
        return Explanation(
            f"{facts.name} is being deleted, but the operator has not started to save its checkpoint yet.",
            (),
            facts.operator_away(),
        )
    if run.spec.stop:
        return Explanation(
            f"{facts.name} is to stop (spec.stop is true), but the operator has not acted on it yet.",
            (f"{run.spec.stopped_by or run.stop_manager} set spec.stop.",)
            if run.spec.stopped_by or run.stop_manager
            else (),
            facts.operator_away(),
        )
    if run.spec.suspend and run.status.phase in ("Running", "Pending") and run.status.workload is not None:
        return Explanation(
            f"{facts.name} is to be suspended (spec.suspend is true), but the operator has not acted on it yet.",
            (),
            facts.operator_away(),
        )
    return None


def asleep(facts: Facts) -> Explanation | None:
    """The run was suspended before it started."""
    if facts.run.status.phase != "Suspended":
        return None
    return Explanation(
        f"{facts.name} has not started: it is suspended (spec.suspend is true).",
        (),
        ("To start it:", facts.command("resume")),
    )


def refused(facts: Facts) -> Explanation | None:
    """The operator does not accept the spec."""
    state, reason, message = facts.state("Accepted")
    if state == "Unknown":
        return Explanation(f"{facts.name} has not started: the operator is checking its spec.")
    if state != "False":
        return None
    again = (
        "Template and destination are immutable: delete the run, correct the manifest, and apply it again."
        if reason in UNCHANGEABLE
        else "The run starts once this is corrected."
    )
    return Explanation(f"{facts.name} has not started ({reason}): {message}", (), (again,))


def waiting(facts: Facts) -> Explanation | None:
    """The run has no running pod: the first has not started, or one is being replaced."""
    status = facts.run.status
    if status.phase != "Pending":
        return None
    _, reason, message = facts.state("MetricsAvailable")
    why = (message,) if reason == "NodeLost" else _why_idle(facts)
    begun = status.start_time is not None
    answer = f"{facts.name} does not train now" if begun else f"{facts.name} has not started to train"
    because = [*(why or ("The pod is starting: it is scheduled, its images are pulled, a checkpoint is restored.",))]
    if begun and facts.run.status.checkpoint is not None:
        because.append("The next pod resumes from the newest checkpoint.")
    return Explanation(f"{answer}: it has no running pod.", tuple(because), _look(facts))


def _why_idle(facts: Facts) -> tuple[str, ...]:
    """Return why the newest pod does not train, as Kubernetes reports it, and how the last pod failed before its training could start."""
    pod = facts.run.status.pods[-1] if facts.run.status.pods else None
    failed = (
        one.message for one in facts.run.status.findings if (one.rule, one.reason) == ("neverStarted", "RestartsLeft")
    )
    why = [] if pod is None or not pod.waiting else [f"The pod waits: {pod.waiting}: {pod.waiting_message}"]
    if pod is not None and pod.told_to_leave:
        why.append(f"The pod was told to leave ({pod.told_to_leave}): it is replaced.")
    return (*why, *failed)


def _look(facts: Facts) -> tuple[str, ...]:
    selector = f"trainingrun.dev/run={facts.name}"
    return (
        "To see in full what the pod waits for:",
        "$ " + command("kubectl", "describe", "pods", "--selector", selector, "--namespace", facts.run.namespace),
    )
