"""A run's story: what is kept of it beside its commits after its end.

It is a TrainingRun without secrets. Of the pod template only names, images and resources are kept: people put tokens into variables, commands,
arguments and headers, and nothing tells them from other text. The last lines of a log are left out of the status: logs are in `log.txt.gz` and `log-1.txt.gz`, … alone.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from trainingrun_operator.api import names
from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.api.status import Phase

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainingrun_operator.api.status import TrainingRunStatus
    from trainingrun_operator.core.facts.run import Run

STORY_MAX_BYTES: Final = 1 << 20
"""Of `run.json`; status and spec are bounded far below it."""
LOG_BYTES: Final = 10 * 10**6
"""Of the end of rank 0's log, before it is compressed."""
OTHER_LOG_BYTES: Final = 10**6
"""Of the end of any other rank's log, at most."""
OTHER_LOGS_BYTES: Final = 64 * 10**6
"""Of the logs of all other ranks together, which share it."""
_KEPT: Final = ("name", "image", "resources")


def is_told(run: Run, status: TrainingRunStatus) -> bool:
    """Whether a run has ended for good and has a bucket, so that its story is written."""
    stop = status.termination
    ended = stop is not None and stop.phase is Phase.DONE and not stop.suspends
    return ended and run.spec.checkpoint.mode is not CheckpointMode.DISABLED


def log_bytes(rank: int, ranks: int) -> int:
    """Return how much is kept of the end of a rank's log, in bytes, in a run with this number of ranks."""
    return LOG_BYTES if rank == 0 else min(OTHER_LOG_BYTES, OTHER_LOGS_BYTES // max(1, ranks - 1))


def story(run: Run, status: TrainingRunStatus) -> bytes:
    """Return `run.json`. The same run and status give the same bytes."""
    spec = run.spec.dump()
    spec["template"] = _template(run.spec.template.parse())
    told = status.dump()
    if stop := told.get("termination"):
        stop.pop("lastLogLines", None)
    document = {
        "apiVersion": names.API_VERSION,
        "kind": names.RUN_KIND,
        "metadata": {
            "namespace": run.namespace,
            "name": run.name,
            "uid": run.uid,
            "generation": run.generation,
            "creationTimestamp": run.created,
        },
        "spec": spec,
        "status": told,
    }
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False).encode(errors="replace")


def _template(template: Mapping[str, Any]) -> dict[str, Any]:
    pod = template.get("spec")
    written = pod if isinstance(pod, dict) else {}
    kept = {kind: [_container(one) for one in written.get(kind) or ()] for kind in ("initContainers", "containers")}
    return {"spec": {kind: containers for kind, containers in kept.items() if containers}}


def _container(container: Mapping[str, Any]) -> dict[str, Any]:
    return {field: container[field] for field in _KEPT if field in container}
