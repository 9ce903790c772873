"""Runs in every state, with all that a run in that state can have, for measuring what ten thousand of them cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from builders import make_spec, template

from trainingrun_operator.api.status import TrainingRunStatus
from trainingrun_operator.exporter import Measured, series_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainingrun_operator.exporter import RunSeries

_START: Final = "2026-01-01T00:00:00Z"
_SPEC: Final = make_spec(template=template(), autoStopLoss=0.25)
_TRAINED: Final[dict[str, Any]] = {
    "startTime": _START,
    "effective": {"autoStopLoss": 0.25},
    "progress": {
        "loss": "0.30741",
        "bestLoss": "0.29998",
        "step": 128500,
        "epoch": "1.71",
        "totalEpochs": 3,
        "epochBase": 0,
        "percent": 57,
        "etaSeconds": 54321,
        "stallPolls": 2,
        "lastObservationTime": "2026-01-01T00:30:00Z",
    },
    "checkpoint": {
        "generation": 123,
        "bytes": 15_000_000_000,
        "verifiedAt": "2026-01-01T00:40:00Z",
        "lag": {"bytes": 15_000_000_000},
    },
    "pods": [{"name": "p", "uid": "1", "node": "a", "phase": "Running"}],
    "conditions": [{"type": "MetricsAvailable", "status": "True", "reason": "Fresh", "lastTransitionTime": _START}],
}
_ENDED: Final[dict[str, Any]] = {
    **_TRAINED,
    "progress": {**_TRAINED["progress"], "epoch": "3", "percent": 100, "etaSeconds": None},
    "checkpoint": {**_TRAINED["checkpoint"], "lag": None},
    "completionTime": "2026-01-01T01:00:00Z",
    "pods": [],
    "nodes": [{"name": "a", "uid": "1", "phase": "Released"}],
    "termination": {
        "id": "stop-1",
        "status": "user_stop",
        "message": "Because.",
        "phase": "Done",
        "requestedAt": "2026-01-01T00:41:00Z",
        "phaseAt": "2026-01-01T00:42:00Z",
    },
}

STATUSES: Final = {
    "training": TrainingRunStatus.parse({"phase": "Running", **_TRAINED}),
    "in its final epoch": TrainingRunStatus.parse(
        {"phase": "Running", **_TRAINED, "progress": {**_TRAINED["progress"], "epoch": "2.71", "percent": 90}}
    ),
    "over": TrainingRunStatus.parse({"phase": "Succeeded", **_ENDED}),
}
_MIX: Final = ("training", "over", "training", "over", "in its final epoch")


def series(status: TrainingRunStatus, *, namespace: str, name: str) -> RunSeries:
    """All series of a run; only what trains has an agent to be measured."""
    measured = Measured(checkpoint_lag_seconds=123.4) if status.termination is None else Measured()
    return series_of(namespace, name, _SPEC, status, measured)


def mixed(count: int) -> Iterator[tuple[str, RunSeries]]:
    """So many runs by uid, in a hundred namespaces: two fifths train, two fifths are over, one fifth is in its final epoch."""
    for number in range(count):
        status = STATUSES[_MIX[number % len(_MIX)]]
        yield f"uid-{number}", series(status, namespace=f"team-{number % 100:02d}", name=f"llama-sft-{number:07d}")
