"""Which of two checkpoints is further: the one order of agent, restore, operator and plugin."""

from __future__ import annotations

from dataclasses import dataclass
from functools import total_ordering
from typing import TYPE_CHECKING, NamedTuple, Self

from trainingrun_operator.checkpoints.keys import Order, order_of_commit

if TYPE_CHECKING:
    from trainingrun_operator.api.status import CheckpointStatus, Saved
    from trainingrun_operator.checkpoints.documents import Commit

UNKNOWN = -1
"""Takes the place of a step or an epoch that is not known: every known one is higher."""


@total_ordering
@dataclass(frozen=True)
class Moment:
    """How far a training had come: by its step, else by its epoch. Of two with both, the epoch decides first.

    Some trainings count the steps of each epoch from 0 (`epoch2_iter100.pth` follows `epoch1_iter500.pth`). Where the steps go on, both agree.
    """

    step: int
    epoch: int

    @classmethod
    def of(cls, step: int | None, epoch: int | None) -> Self:
        """Return the moment of a step and an epoch, either of which may be unknown."""
        return cls(UNKNOWN if step is None else step, UNKNOWN if epoch is None else epoch)

    def __lt__(self, other: object) -> bool:
        """Whether the other moment is further."""
        if not isinstance(other, Moment):
            return NotImplemented
        if UNKNOWN not in (self.step, self.epoch, other.step, other.epoch):
            return (self.epoch, self.step) < (other.epoch, other.step)
        return (self.step, self.epoch) < (other.step, other.epoch)


class Reached(NamedTuple):
    """The place of a commit among all commits of its run; the highest is the one to resume from. It compares as a tuple.

    What is whole comes before what is not. What a run that was no longer finite has published as its result comes before its later checkpoints. What
    the run wrote itself comes before what an earlier run had left in the volume. Then the
    moment decides (`Moment`), else the time: the writer's incarnation and generation, because clocks of machines differ.
    """

    complete: bool
    result: bool
    own: bool
    moment: Moment
    written: Order

    @classmethod
    def of(cls, commit: Commit) -> Self:
        """Return the place of a commit. A commit without a checkpoint is incomplete."""
        found = commit.checkpoint
        if found is None or not commit.total_files:
            return cls(complete=False, result=False, own=False, moment=Moment.of(None, None), written=commit.order)
        return cls(
            found.complete, found.finite is True, not found.inherited, Moment.of(found.step, found.epoch), commit.order
        )

    @classmethod
    def recorded(cls, record: Saved | CheckpointStatus) -> Self:
        """Return the place of a commit of which the status has a record. A record without a commit is before all others."""
        written = order_of_commit(record.commit) or Order(0, 0)
        if not record.files:
            return cls(complete=False, result=False, own=False, moment=Moment.of(None, None), written=written)
        return cls(
            record.complete, record.finite is True, not record.inherited, Moment.of(record.step, record.epoch), written
        )
