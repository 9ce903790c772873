"""The workload of a run: the object that owns its pods, of any kind."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Workload:
    """The owner of the run's pods, as its adapter (`edge.workloads`) reads it."""

    api_version: str
    kind: str
    name: str
    uid: str
    run_uid: str
    """Of the TrainingRun that its label names."""
    world_size: int = 1
    """Number of ranks. It comes from the workload, never from an agent."""
    generation: int = 1
    """Generation of its spec, so that suspend and resume apply only to the observed spec."""
    suspended: bool = False
    replaces: bool = True
    """Whether it replaces a failed pod."""
    failed: int = 0
    """Number of its failed pods."""
    finished: bool = False
    deleting: bool = False
    owned: bool = False
    """Whether the garbage collector deletes it with the run."""
