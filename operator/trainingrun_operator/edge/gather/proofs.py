"""Proofs of the checkpoints that agents report, made beside the looks.

A look waits for one only for a moment. It is woken when the proof is made. A stop proves in its own look, because its deletion depends on it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar
from weakref import WeakValueDictionary

from trainingrun_operator.edge import waits

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PATIENCE_SECONDS: Final = 0.25
"""Time for which a look waits."""
AT_ONCE: Final = 64
"""Proofs of all runs. Each has a thread, which mostly waits."""
OF_A_NAMESPACE: Final = 8
"""Proofs of the runs of one namespace: its buckets may hang."""
KNOWN_AT_ONCE: Final = 2
"""Proofs of checkpoints that their status already records as verified: after a start of the operator, all of them are made again."""

T = TypeVar("T")


@dataclass
class _Proof(Generic[T]):
    """The proof of one run that is being made, or whose result is to be taken."""

    task: asyncio.Task[T]
    waits: bool = False
    """Whether a look is to be woken."""


class Proofs(Generic[T]):
    """One proof at a time of each run."""

    def __init__(self, wake: Callable[[str], None], *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """``wake``: called with the run's uid when a proof is made for which a look has not waited."""
        self._wake, self._patience = wake, patience_seconds
        self._made: dict[str, _Proof[T]] = {}
        """By run uid."""
        self._all, self._known = asyncio.Semaphore(AT_ONCE), asyncio.Semaphore(KNOWN_AT_ONCE)
        self._namespaces: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def result(self, uid: str, namespace: str, prove: Callable[[], Awaitable[T]], *, known: bool) -> T | None:
        """Return the result of the run's proof, once; None: it is still being made.

        Args:
            uid: of the run.
            namespace: of the run.
            prove: begins a proof. It is not called while an earlier one is being made, whose result comes first.
            known: the run's status already records the checkpoint as verified.
        """
        proof = self._made.get(uid)
        if proof is None:
            task = asyncio.create_task(self._prove(namespace, prove, known=known), name=f"proof {uid}")
            proof = self._made[uid] = _Proof(task)
            task.add_done_callback(lambda _: self._end(uid, proof))
        with waits.for_tenant():
            done, _ = await asyncio.wait({proof.task}, timeout=self._patience)
        if not done:
            proof.waits = True
            return None
        if self._made.get(uid) is proof:
            del self._made[uid]
        return proof.task.result()

    def forget(self, uid: str) -> None:
        """Cancel the proof of a run."""
        if (proof := self._made.pop(uid, None)) is not None:
            proof.task.cancel()

    async def close(self) -> None:
        """Cancel all proofs; returns when they have ended."""
        tasks = [proof.task for proof in self._made.values()]
        self.forget_all()
        await asyncio.gather(*tasks, return_exceptions=True)

    def forget_all(self) -> None:
        """Cancel all proofs."""
        for uid in list(self._made):
            self.forget(uid)

    async def _prove(self, namespace: str, prove: Callable[[], Awaitable[T]], *, known: bool) -> T:
        of_namespace = self._namespaces.setdefault(namespace, asyncio.Semaphore(OF_A_NAMESPACE))
        # A known one waits for its turn before it takes the place of a new one.
        if known:
            async with self._known, of_namespace, self._all:
                return await prove()
        async with of_namespace, self._all:
            return await prove()

    def _end(self, uid: str, proof: _Proof[T]) -> None:
        if proof.waits and self._made.get(uid) is proof:
            self._wake(uid)
