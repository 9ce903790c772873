"""Proofs that a stop, or the save of a crashed pod, depends on, made beside the look.

A look waits for one for a second. One that takes longer puts the look off: nothing is decided, remembered or written, as if the look still waited,
but it takes no slot of the scheduler, and the end of the proof wakes the run. The next look reads pods and reports again, and takes the answer if it
still asks the same question.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from trainingrun_operator.edge.gather.proofs import Proofs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable

PATIENCE_SECONDS: Final = 1.0
"""Time for which a look waits: a list and a small checkpoint take less, and a look that is put off reads pods and Job once more."""
AT_ONCE: Final = 256
"""Proofs of all runs. Each has a thread of the store's, which mostly waits."""
OF_A_NAMESPACE: Final = 32
"""Proofs of the runs of one namespace: its buckets may hang."""
ANSWER_SECONDS: Final = 10.0
"""Time for which an answer may wait for its look. An older one is not taken: a deletion depends on it."""

T = TypeVar("T")


class ProvingError(Exception):
    """The look is put off: the proof that its decision depends on is being made, and its end wakes the run."""


@dataclass(frozen=True)
class _Answer(Generic[T]):
    answer: T
    at: float


class StopProofs(Generic[T]):
    """One question at a time of each run."""

    def __init__(self, wake: Callable[[str], None], *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """``wake``: called with the run's uid when a proof ends for which a look was put off."""
        self._proofs: Proofs[_Answer[T]] = Proofs(
            wake, lambda _: True, patience_seconds=patience_seconds, at_once=AT_ONCE, of_a_namespace=OF_A_NAMESPACE
        )
        self._questions: dict[str, Hashable] = {}
        """By run uid, what the running proof answers."""

    async def answer(self, uid: str, namespace: str, question: Hashable, prove: Callable[[], Awaitable[T]]) -> T:
        """Return the answer to a question about a run. Another question cancels the proof for an earlier one.

        Raises:
            ProvingError: the proof is still being made.
        """
        if self._questions.get(uid) != question:
            self.forget(uid)
            self._questions[uid] = question
        while True:
            made = await self._proofs.result(uid, namespace, lambda: _timed(prove), known=False, patient=True)
            if made is None:
                raise ProvingError
            if asyncio.get_running_loop().time() - made.at <= ANSWER_SECONDS:
                return made.answer

    def forget(self, uid: str) -> None:
        """Cancel the proof of a run."""
        self._questions.pop(uid, None)
        self._proofs.forget(uid)

    def forget_all(self) -> None:
        """Cancel all proofs."""
        self._questions.clear()
        self._proofs.forget_all()

    async def close(self) -> None:
        """Cancel all proofs; returns when they have ended."""
        await self._proofs.close()


async def _timed(prove: Callable[[], Awaitable[T]]) -> _Answer[T]:
    answer = await prove()
    return _Answer(answer, asyncio.get_running_loop().time())
