"""One run as one row of `list` and `watch`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from trainingrun_operator.api.status import Phase
from trainingrun_operator.cli import words
from trainingrun_operator.core.facts.run import Run
from trainingrun_operator.core.rules.loss import OFF, SHADOW

if TYPE_CHECKING:
    from datetime import datetime

    from trainingrun_operator.api.status import TrainingRunStatus


@dataclass(frozen=True)
class Row:
    """The cells of one row as text; empty if there is no value."""

    namespace: str
    name: str
    phase: str = ""
    loss: str = ""
    target: str = ""
    step: str = ""
    done: str = ""
    left: str = ""
    age: str = ""
    why: str = ""
    best: str = ""
    checkpoint: str = ""
    nodes: str = ""


def read(stored: dict[str, Any]) -> Run | None:
    """Parse a stored run; None if this version does not understand it."""
    try:
        return Run.of(stored)
    except ValidationError:
        return None


def row_of(stored: dict[str, Any], run: Run | None, now: datetime) -> Row:
    """Return the row of a stored run. A run that did not parse (``run`` is None) shows only metadata and phase."""
    if run is None:
        meta = stored["metadata"]
        phase = str((stored.get("status") or {}).get("phase") or "")
        return Row(
            meta["namespace"],
            meta["name"],
            phase=phase,
            why="not readable by this version",
            age=words.age(meta.get("creationTimestamp"), now),
        )
    status, progress = run.status, run.status.progress
    return Row(
        namespace=run.namespace,
        name=run.name,
        phase=status.phase or "",
        loss=(progress.loss or "") if progress else "",
        target=_target(status),
        step=str(progress.step) if progress and progress.step is not None else "",
        done=f"{progress.percent}%" if progress and progress.percent is not None else "",
        left=words.duration(progress.eta_seconds) if progress and progress.eta_seconds is not None else "",
        age=words.age(run.created, now),
        why=words.clean(why(run)),
        best=(progress.best_loss or "") if progress else "",
        checkpoint=status.checkpoint.uri if status.checkpoint else "",
        nodes=", ".join(sorted({node.phase.value for node in status.nodes})),
    )


def _target(status: TrainingRunStatus) -> str:
    force = status.effective
    if force is None or force.auto_stop_loss is None or force.auto_stop_action == OFF:
        return ""
    return f"{force.auto_stop_loss:g}{' watched' if force.auto_stop_action == SHADOW else ''}"


def why(run: Run) -> str:
    """Return the reason for the run's state in a few words: what ended it, what it waits for, or what is wrong."""
    status, stop = run.status, run.status.termination
    if stop is not None:
        if stop.phase is not Phase.DONE:
            return f"{stop.status}: {stop.phase.value}"
        return "" if stop.suspends else stop.status
    if not status.conditions:
        return "not processed yet"
    if run.deleting or run.spec.stop:
        return "deleted" if run.deleting else "stop requested"
    limits = ((kind.lower(), status.condition(kind)) for kind in ("Hung", "Idle"))
    holds = next((word for word, one in limits if one is not None and one.status == "True"), "")
    return _trouble(run) or holds or next((f"{one.rule} would have" for one in status.shadow), "")


def _trouble(run: Run) -> str:
    """Return the first problem that a condition reports; empty without one."""
    accepted, metrics, saved = (
        run.status.condition(kind) for kind in ("Accepted", "MetricsAvailable", "CheckpointSaved")
    )
    if accepted is not None and accepted.status == "False":
        return accepted.reason
    if metrics is not None and run.status.phase == "Pending":
        waits = run.status.pods[-1].waiting if run.status.pods else ""
        return metrics.reason if metrics.reason == "NodeLost" else waits
    if metrics is not None and metrics.status == "False":
        return f"no loss: {metrics.reason}"
    if saved is not None and saved.status == "False" and saved.reason != "Disabled":
        return f"not saved: {saved.reason}"
    return ""
