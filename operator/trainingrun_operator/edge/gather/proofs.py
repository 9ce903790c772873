"""Proofs of the checkpoints that agents report, made beside the looks.

A look waits for one only for a moment. The first look at a run does not wait, nor does any look for a checkpoint that the status already records:
after a start of the operator the proofs of all runs are made, and every look would wait. Nor do these proofs begin before the first looks are over:
both take the same CPU, and looks are what a run waits for. The run is woken when the proof is made; for one that only
confirms the status it is woken late, because its next look takes it. The proofs that a stop depends on are those of `stop_proofs`.
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
QUIET_SECONDS: Final = 1.0
"""Time without another such proof asked for, after which they begin: after a start, first looks ask for many of them in a row."""
QUIET_MAX_SECONDS: Final = 60.0
"""The longest time for which they wait for that."""
CONFIRMED_SECONDS: Final = 30.0
"""Time after which a run is woken for a proof that only confirms its status, unless a look has taken it before."""

T = TypeVar("T")


@dataclass
class _Proof(Generic[T]):
    """The proof of one run that is being made, or whose result is to be taken."""

    task: asyncio.Task[T]
    known: bool
    """Whether the run's status already records the checkpoint as verified."""
    waits: bool = False
    """Whether a look is to be woken."""


class Proofs(Generic[T]):
    """One proof at a time of each run."""

    def __init__(
        self,
        wake: Callable[[str], None],
        confirms: Callable[[T], bool],
        *,
        patience_seconds: float = PATIENCE_SECONDS,
        confirmed_seconds: float = CONFIRMED_SECONDS,
        quiet_seconds: float = QUIET_SECONDS,
        at_once: int = AT_ONCE,
        of_a_namespace: int = OF_A_NAMESPACE,
    ) -> None:
        """Begin none yet.

        Args:
            wake: called with the run's uid when a proof is made for which a look has not waited.
            confirms: whether a result says that the checkpoint is verified.
            patience_seconds: as `PATIENCE_SECONDS`.
            confirmed_seconds: as `CONFIRMED_SECONDS`.
            quiet_seconds: as `QUIET_SECONDS`.
            at_once: as `AT_ONCE`.
            of_a_namespace: as `OF_A_NAMESPACE`.
        """
        self._wake, self._confirms = wake, confirms
        self._patience, self._confirmed_seconds, self._quiet_seconds = (
            patience_seconds,
            confirmed_seconds,
            quiet_seconds,
        )
        self._asked_at, self._burst_at = float("-inf"), float("-inf")
        """When a proof of a recorded checkpoint was last asked for, and the first one of those in a row."""
        self._made: dict[str, _Proof[T]] = {}
        """By run uid."""
        self._all, self._known = asyncio.Semaphore(at_once), asyncio.Semaphore(KNOWN_AT_ONCE)
        self._of_a_namespace = of_a_namespace
        self._namespaces: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def result(
        self, uid: str, namespace: str, prove: Callable[[], Awaitable[T]], *, known: bool, patient: bool
    ) -> T | None:
        """Return the result of the run's proof, once; None: it is still being made.

        Args:
            uid: of the run.
            namespace: of the run.
            prove: begins a proof. It is not called while an earlier one is being made, whose result comes first.
            known: the run's status already records the checkpoint as verified.
            patient: wait for it for a moment.
        """
        proof = self._made.get(uid)
        if proof is None:
            if known:
                self._note_burst()
            task = asyncio.create_task(self._prove(namespace, prove, known=known), name=f"proof {uid}")
            proof = self._made[uid] = _Proof(task, known)
            task.add_done_callback(lambda _: self._end(uid, proof))
        if patient:
            with waits.for_tenant():
                await asyncio.wait({proof.task}, timeout=self._patience)
        if not proof.task.done():
            proof.waits = True
            return None
        if self._made.get(uid) is proof:
            del self._made[uid]
        return proof.task.result()

    def begun(self, uid: str) -> bool:
        """Whether a proof of the run is being made, or its result is to be taken."""
        return uid in self._made

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
        of_namespace = self._namespaces.setdefault(namespace, asyncio.Semaphore(self._of_a_namespace))
        # A known one waits for its turn before it takes the place of a new one.
        if known:
            async with self._known:
                await self._quiet()
                async with of_namespace, self._all:
                    return await prove()
        async with of_namespace, self._all:
            return await prove()

    def _note_burst(self) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._asked_at >= self._quiet_seconds:
            self._burst_at = now
        self._asked_at = now

    async def _quiet(self) -> None:
        """Wait until the looks ask for no more proofs of recorded checkpoints."""
        now = asyncio.get_running_loop().time
        while now() - self._asked_at < self._quiet_seconds and now() - self._burst_at < QUIET_MAX_SECONDS:  # noqa: ASYNC110 - each proof that is asked for moves the end
            await asyncio.sleep(self._asked_at + self._quiet_seconds - now())

    def _end(self, uid: str, proof: _Proof[T]) -> None:
        if not proof.waits or self._made.get(uid) is not proof:
            return
        task = proof.task
        failed = task.cancelled() or task.exception() is not None
        if proof.known and not failed and self._confirms(task.result()):
            asyncio.get_running_loop().call_later(self._confirmed_seconds, self._wake_for, uid, proof)
        else:
            self._wake(uid)

    def _wake_for(self, uid: str, proof: _Proof[T]) -> None:
        if self._made.get(uid) is proof:
            self._wake(uid)
