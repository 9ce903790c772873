"""One rank of a training: its pods, and the facts about the newest."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Self

from trainingrun_operator.api import names
from trainingrun_operator.core.bounds import WORD_MAX, clipped
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.track import Track

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainingrun_operator.api.exchange import AgentReport
    from trainingrun_operator.core.facts.pod import Pod


REPORT_REFUSED: Final = "ReportRefused"
"""Reason of a CheckpointSaved that is Unknown because of what an agent answers."""


@dataclass(frozen=True)
class RefusedReport:
    """What an agent's port served instead of a report of its pod. It is no evidence: the agent counts as silent."""

    pod: str
    """The pod's name."""
    why: str
    """The end of a sentence about the report: its size or field, and the limit."""

    @property
    def sentence(self) -> str:
        """What was refused, from which pod, why, and what to do."""
        return (
            f"The report of the agent in pod {self.pod} is refused: {self.why}. It counts as no answer, so what the volume holds is not known: see the log of"
            f" container {names.AGENT_CONTAINER}, and let nothing else in the pod listen on port {names.AGENT_PORT}."
        )


@dataclass(frozen=True)
class LastSaid:
    """What the newest pod's agent has said last about files that are not in the bucket."""

    pod_uid: str
    unsaved_bytes: int = 0
    newest: str = ""
    """Directory of the newest complete checkpoint; empty: there is none."""
    unfinished: str = ""
    """Directory of a newer checkpoint that is incomplete; empty: there is none."""

    @classmethod
    def of(cls, report: AgentReport) -> Self:
        """Take it from a report."""
        dirs = (clipped(one.dir, WORD_MAX) if one is not None else "" for one in (report.newest, report.unfinished))
        return cls(report.pod_uid, report.unsaved_bytes, *dirs)


@dataclass(frozen=True)
class Rank:
    """A training on one node has one rank, number 0."""

    number: int = 0
    pod: Pod | None = None
    """The newest pod; None: there is none."""
    earlier: tuple[Pod, ...] = ()
    """Replaced pods that still exist, oldest first."""
    report: AgentReport | None = None
    """Of the newest pod's agent; None: it was not asked or did not answer."""
    refused: RefusedReport | None = None
    """What the newest pod's agent answered at this look instead of a report; None: nothing was refused."""
    last_said: LastSaid | None = None
    """Of the newest pod's agent, also when it no longer answers; None: it has never answered this process."""
    track: Track = field(default_factory=Track)
    """The readings of the newest pod."""
    unmoved: bool = False
    """Whether the newest reading of the newest pod succeeded and shows step 0."""
    log_tail: str = ""
    """The last lines of the newest pod's log, if its training crashed."""
    fatal_pattern: str = ""
    """The first of ``crash.fatalLogPatterns`` that is in the end of this log; empty: none is, or it could not be read."""
    crash_cause: str = ""
    """What the end of this log says about CUDA, NCCL and memory, in words of ours; empty: nothing, or it could not be read."""
    waiting_seconds: float = 0
    """Time for which the newest pod has lacked the same thing (`rules.workload.lacks`)."""
    unshipped_seconds: float = 0
    """Time for which the agent's newest commit has not changed, while the volume has a checkpoint."""

    @classmethod
    def of(cls, number: int, pods: Sequence[Pod], **known: Any) -> Self:
        """Build a rank from its pods, oldest first, and facts about the newest."""
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
        """Whether the newest pod's training exited with an error and its gate keeps the pod running."""
        return self.pod is not None and self.pod.waits_behind_gate and self.pod.result != 0


def by_rank(pods: Sequence[Pod], world_size: int | None) -> tuple[tuple[Pod, ...], ...]:
    """Group pods by their rank.

    Args:
        pods: oldest first. A rank not below `world_size` counts as the last rank.
        world_size: number of ranks; None: taken from the pods, because the workload is gone.

    Returns:
        One group per rank from 0 up, oldest first; empty for a rank without pods. Rank 0 always exists.
    """
    size = max((pod.rank + 1 for pod in pods), default=1) if world_size is None else max(1, world_size)
    groups: list[list[Pod]] = [[] for _ in range(size)]
    for pod in pods:
        groups[min(pod.rank, size - 1)].append(pod)
    return tuple(tuple(group) for group in groups)
