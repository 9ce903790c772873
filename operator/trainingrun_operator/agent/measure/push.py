"""Numbers that the training posts to the agent: ``{"step": 10, "loss": 0.5}``, or the trainer status of Kubeflow Trainer.

Hugging Face's Trainer posts the latter (transformers 5.4, `KubeflowCallback`): ``{"trainerStatus": {"metrics": [{"name": …, "value": "…"}]}}``, at most
every 5 seconds, with all numbers that it has logged so far.
"""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING, Any, Final

from trainingrun_operator.agent.measure.tables import Values, row_of
from trainingrun_operator.api import names

if TYPE_CHECKING:
    from pathlib import Path

VALUES_MAX: Final = 256
"""Names that are kept: the newest."""
_MEAN: Final = "train_loss"
"""The mean of all steps, beside `names.TRAINER_SUMMARY`."""


class Pushed:
    """The newest value of each name that was posted. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values = Values()
        self._at: float | None = None

    def take(self, body: bytes) -> bool:
        """Add what was posted. Return whether it has numbers."""
        try:
            row = _row(json.loads(body))
        except (ValueError, RecursionError):
            return False
        if not row:
            return False
        with self._lock:
            self._values.add_row(row)
            self._at = time.monotonic()
            for name in list(self._values.newest)[:-VALUES_MAX]:
                del self._values.newest[name]
        return True

    def newest(self) -> tuple[dict[str, tuple[float, float | None]], float] | None:
        """Return the values with their steps, and the seconds since the last one; None: nothing was posted."""
        with self._lock:
            return None if self._at is None else (dict(self._values.newest), time.monotonic() - self._at)


def write_token(control: Path) -> None:
    """Write the file without which Kubeflow's clients post nothing. It is no secret: the agent takes posts from the pod alone."""
    try:
        (control / names.PUSH_TOKEN).write_text("none\n")
    except OSError:
        return


def _row(posted: Any) -> dict[str, float]:
    if not isinstance(posted, dict):
        return {}
    status = posted.get("trainerStatus")
    if not isinstance(status, dict):
        return row_of(posted)
    metrics = status.get("metrics")
    named = [one for one in metrics if isinstance(one, dict)] if isinstance(metrics, list) else []
    row = row_of({str(one.get("name")): one.get("value") for one in named})
    if names.TRAINER_SUMMARY in row:
        row.pop(_MEAN, None)
    return row
