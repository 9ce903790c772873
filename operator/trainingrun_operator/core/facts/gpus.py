"""How busy the GPUs of one pod are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one slice of it."""

    utilization: float | None = None
    """In percent; None: it is not shown, or is no percentage."""
    power: float | None = None
    """In watts; None: it is not shown, or is no power."""


@dataclass(frozen=True)
class Gpus:
    """One reading of the GPUs of a pod."""

    at: float
    """When it was read, on the monotonic clock of this process."""
    gpus: tuple[Gpu, ...]
    """At least one."""
