"""What runs the training: the object that owns the run's pods, whatever kind it is."""

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
    """How many ranks train together. It comes from here, never from an agent."""
    generation: int = 1
    """Of its spec: an operator that was away while the workload was suspended and resumed does neither a second time."""
    suspended: bool = False
    replaces: bool = True
    """Whether it starts another pod for one that has failed."""
    failed: int = 0
    """How many of its pods have failed."""
    finished: bool = False
    deleting: bool = False
    owned: bool = False
    """Whether the garbage collector deletes it with the run."""
