"""One rank of a training: its pods, and what is known of the newest of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.track import Track

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainingrun_operator.api.exchange import AgentReport
    from trainingrun_operator.core.facts.pod import Pod


@dataclass(frozen=True)
class Rank:
    """A training on one node has one rank, number 0."""

    number: int = 0
    pod: Pod | None = None
    """The newest pod; None: there is none now."""
    earlier: tuple[Pod, ...] = ()
    """Pods that the newest one replaces and that are still there, oldest first."""
    report: AgentReport | None = None
    """Of the newest pod's agent; None: it was not asked or did not answer."""
    track: Track = field(default_factory=Track)
    """The readings of the newest pod."""
    log_tail: str = ""
    """The last lines of the newest pod's log, if its training crashed."""
    waiting_seconds: float = 0
    """How long the newest pod has lacked the same thing, in the words of `rules.workload.lacks`."""
    unshipped_seconds: float = 0
    """How long the agent's newest commit has been the same one, while a checkpoint lies in the volume."""

    @classmethod
    def of(cls, number: int, pods: Sequence[Pod], **known: Any) -> Self:
        """Build a rank from its pods, oldest first, and what is known of the newest of them."""
        if not pods:
            return cls(number, **known)
        *earlier, newest = pods
        return cls(number, newest, tuple(earlier), **known)

    @property
    def pods(self) -> tuple[Pod, ...]:
        """All pods of the rank, oldest first."""
        return (*self.earlier, self.pod) if self.pod is not None else ()

    @property
    def runs(self) -> bool:
        """Whether the training of the newest pod runs."""
        return self.pod is not None and self.pod.training is Training.RUNNING

    @property
    def crashed(self) -> bool:
        """Whether the training of the newest pod has ended with an error, and its gate keeps the pod."""
        return self.pod is not None and self.pod.waits_behind_gate and self.pod.exit_code != 0


def by_rank(pods: Sequence[Pod], world_size: int | None) -> tuple[tuple[Pod, ...], ...]:
    """Group pods by their rank.

    Args:
        pods: oldest first. One whose rank is not below `world_size` counts as of the last rank.
        world_size: how many ranks there are; None: as many as have pods, because the workload is gone.

    Returns:
        One group per rank from 0 up, oldest first; a rank without pods has an empty one. There is always rank 0.
    """
    size = max((pod.rank + 1 for pod in pods), default=1) if world_size is None else max(1, world_size)
    groups: list[list[Pod]] = [[] for _ in range(size)]
    for pod in pods:
        groups[min(pod.rank, size - 1)].append(pod)
    return tuple(tuple(group) for group in groups)
