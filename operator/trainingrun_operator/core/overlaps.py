"""Destinations that would put one run's folder in the bucket into another's.

A run's agent lists its own folder, its training may write beside it, retention aborts uploads in it, and people copy and delete whole folders.
What another run keeps there would be counted for the first run's, or removed with it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.checkpoints.keys import Layout
from trainingrun_operator.core.destinations import layout_of
from trainingrun_operator.core.facts.run import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from trainingrun_operator.core.facts.run import Run

REASON: Final = "DestinationOverlaps"
_UID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_BELOW: Final = 2
"""Segments of a run's folder above its uid: namespace and name."""


class _Other(NamedTuple):
    """Another run, as its stored object shows it."""

    namespace: str
    name: str
    uid: str
    created: str
    layout: Layout
    begun: bool
    refused: bool

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> _Other | None:
        """Read a stored run, without the cost of all its fields; None: it writes to no bucket."""
        meta, status = stored["metadata"], stored.get("status") or {}
        checkpoint = stored["spec"].get("checkpoint") or {}
        destination = checkpoint.get("destination")
        if checkpoint.get("mode") == CheckpointMode.DISABLED or not isinstance(destination, str):
            return None
        try:
            layout = Layout.of(destination, meta["namespace"], meta["name"], meta["uid"])
        except ValueError:
            return None
        states = {one.get("type"): one.get("status") for one in status.get("conditions") or ()}
        begun = bool(status.get("workload") or status.get("termination"))
        created = meta.get("creationTimestamp", "")
        return cls(
            meta["namespace"], meta["name"], meta["uid"], created, layout, begun, states.get("Accepted") == "False"
        )

    def is_before(self, run: Run) -> bool:
        """Whether it has its place in the bucket before a run that has not begun: of two that are new, the older one has."""
        return self.begun or (not self.refused and (self.created, self.uid) < (run.created, run.uid))


def with_runs(run: Run, stored: Iterable[Mapping[str, Any]]) -> Problem | None:
    """Refuse a run whose folder would lie in that of another run of the cluster, or around it. Servers are not compared: one may have several names.

    Args:
        run: a new one, with a valid destination or none.
        stored: all runs of the cluster that are known.
    """
    if run.spec.checkpoint.mode is CheckpointMode.DISABLED:
        return None
    mine, bucket = layout_of(run), f"s3://{layout_of(run).bucket}"
    for each in stored:
        # Of thousands of runs, few name this bucket.
        written = (each["spec"].get("checkpoint") or {}).get("destination")
        if each["metadata"]["uid"] == run.uid or not str(written).startswith(bucket):
            continue
        other = _Other.of(each)
        if other is None or other.layout.bucket != mine.bucket or not other.is_before(run):
            continue
        if _lie_in_each_other(mine, other.layout):
            return _refused(run, mine, other)
    return None


def folders_around(run: Run) -> tuple[str, ...]:
    """Return the key prefixes, ending with a slash, that contain a run's folder and have the form of a run's folder: they end with a uid."""
    parts = layout_of(run).base.split("/")[:-2]
    return tuple(
        "/".join(parts[: place + 1]) + "/"
        for place, part in enumerate(parts)
        if place >= _BELOW and _UID.fullmatch(part)
    )


def with_folder(run: Run, folder: str) -> Problem:
    """Refuse a run whose folder would lie in a folder that a run has written, wherever that run is."""
    layout = layout_of(run)
    namespace, name, uid = folder.rstrip("/").split("/")[-3:]
    return _problem(run, f"{layout.uri(folder)}, the folder of run {namespace}/{name} with uid {uid}", "in")


def _lie_in_each_other(mine: Layout, other: Layout) -> bool:
    # The trainings write beside the folders of their runs, too: in the folder of the run's name.
    return mine.of_run != other.of_run and (
        mine.of_run.startswith(other.of_run) or other.of_run.startswith(mine.of_run)
    )


def _refused(run: Run, mine: Layout, other: _Other) -> Problem:
    inside = mine.of_run.startswith(other.layout.of_run)
    # A message in one namespace does not name the runs of another.
    whose = f"TrainingRun {other.name}" if other.namespace == run.namespace else "a TrainingRun of another namespace"
    where = mine.uri(other.layout.of_run if inside else mine.of_run)
    return _problem(run, f"{where}, where {whose} writes", "in" if inside else "around")


def _problem(run: Run, where: str, how: str) -> Problem:
    return Problem(
        REASON,
        f"spec.checkpoint.destination is {run.spec.checkpoint.destination!r}: this run's folder would lie {how} {where}, and neither run's checkpoints would"
        " be safe from the other. No object was written. Create the run with a destination that is neither in nor around another run's folder.",
        permanent=False,
    )
