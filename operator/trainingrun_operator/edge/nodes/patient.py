"""Wrapper of a provider with retry delays, a timeout, known errors only, and one release per pool at a time."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

from trainingrun_operator.core.facts.nodes import Instance
from trainingrun_operator.edge.nodes.provider import ProviderError, Refused, Retryable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trainingrun_operator.core.facts.nodes import NodeRef, Pool
    from trainingrun_operator.edge.nodes.provider import Provider

T = TypeVar("T")

CALL_SECONDS: Final = 120.0
BROKEN_SECONDS: Final = 30.0
"""Delay after a timeout or an unexpected error."""
WAIT_MAX_SECONDS: Final = 600.0
"""Limit of a provider's retry delay."""
VISIBLE_SECONDS: Final = 2.0
"""Delay of a release while the provider does not show an earlier one of the pool."""
ACCEPTED_SECONDS: Final = 60.0
"""Time after an accepted release in which the machine no longer counts for the minimum, whatever the provider answers."""

HANDOVER_SECONDS: Final = CALL_SECONDS + ACCEPTED_SECONDS
"""Time after an operator began to lead, in which a release that its predecessor began may still reach the cloud, or not be shown by it yet."""

log = logging.getLogger(__name__)


class Patient:
    """Implements `Provider`. After `Retryable` with a delay, the same call fails without a request until the delay has passed."""

    def __init__(self, name: str, provider: Provider, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._name, self._provider, self._monotonic = name, provider, monotonic
        self._until: dict[tuple[str, str, str], tuple[float, str]] = {}
        """By call, pool and machine: time of the next request, and the message."""
        self._releasing: dict[str, asyncio.Lock] = {}
        """By pool."""
        self._accepted: dict[tuple[str, str], tuple[NodeRef, float]] = {}
        """By pool and machine, the node and when the provider accepted its release."""
        self._leads_since = float("-inf")

    def begin(self) -> None:
        """Note that this process leads from now on, perhaps after another one."""
        self._leads_since = self._monotonic()

    async def instance(self, pool: Pool, node: NodeRef) -> Instance:
        """See `Provider`."""
        return await self._ask("instance", pool, node, lambda: self._provider.instance(pool, node))

    async def at_minimum(self, pool: Pool, node: NodeRef) -> bool:
        """See `Provider`. A machine whose release was just accepted is no longer kept by the minimum."""
        if self._was_accepted(pool, node):
            return False
        return await self._ask("at_minimum", pool, node, lambda: self._provider.at_minimum(pool, node))

    async def release(self, pool: Pool, node: NodeRef, operation: str) -> None:
        """See `Provider`. Of each pool one machine at a time, and the minimum is checked again: runs may end at once."""
        await self._ask("release", pool, node, lambda: self._release(pool, node, operation))

    async def close(self) -> None:
        """See `Provider`."""
        try:
            await self._provider.close()
        except Exception:
            log.exception("cannot close node provider %s", self._name)

    async def _release(self, pool: Pool, node: NodeRef, operation: str) -> None:
        async with self._releasing.setdefault(pool.name, asyncio.Lock()):
            if not self._was_accepted(pool, node):
                await self._check_minimum(pool, node)
            await self._provider.release(pool, node, operation)
            now = self._monotonic()
            recent = {key: one for key, one in self._accepted.items() if now - one[1] < ACCEPTED_SECONDS}
            self._accepted = recent | {(pool.name, node.provider_id): (node, now)}

    async def _check_minimum(self, pool: Pool, node: NodeRef) -> None:
        """Refuse a release at the minimum, and while the provider does not count an earlier one yet, also one of an operator that led before."""
        left = self._leads_since + HANDOVER_SECONDS - self._monotonic()
        if pool.spec.min_nodes and left > 0:
            raise Retryable(
                f"GPUNodePool {pool.name} keeps {pool.spec.min_nodes} nodes, and this operator has just begun to lead: a release that the one before it"
                f" began may not show yet. The node {node.name} waits {HANDOVER_SECONDS:.0f} s.",
                after=left,
            )
        for name, other in list(self._accepted):
            known = self._accepted[name, other][0]
            if pool.spec.min_nodes == 0 or name != pool.name or not self._was_accepted(pool, known):
                continue
            if await self._provider.instance(pool, known) is Instance.RUNNING:
                raise Retryable(
                    f"GPUNodePool {pool.name} keeps {pool.spec.min_nodes} nodes, and its provider does not show yet that node {known.name} goes.",
                    after=VISIBLE_SECONDS,
                )
        if await self._provider.at_minimum(pool, node):
            raise Refused(f"GPUNodePool {pool.name} is at its minimum: the node {node.name} is kept.")

    def _was_accepted(self, pool: Pool, node: NodeRef) -> bool:
        _, at = self._accepted.get((pool.name, node.provider_id), (node, float("-inf")))
        return self._monotonic() - at < ACCEPTED_SECONDS

    async def _ask(self, what: str, pool: Pool, node: NodeRef, call: Callable[[], Awaitable[T]]) -> T:
        key, now = (what, pool.name, node.provider_id), self._monotonic()
        until, said = self._until.get(key, (now, ""))
        if until > now:
            raise Retryable(said, after=until - now)
        self._until.pop(key, None)
        try:
            async with asyncio.timeout(CALL_SECONDS):
                return await call()
        except Retryable as error:
            self._wait(key, error)
            raise
        except ProviderError:
            raise
        except TimeoutError:
            slow = Retryable(f"The provider {self._name} did not answer within {CALL_SECONDS:.0f} s.", BROKEN_SECONDS)
        except Exception as error:
            # Code of another package: its message is not shown to users.
            log.exception("node provider %s, %s of %s in pool %s", self._name, what, node.provider_id, pool.name)
            slow = Retryable(
                f"The provider {self._name} failed ({type(error).__name__}) for node {node.name} of GPUNodePool {pool.name}: see the operator's log.",
                BROKEN_SECONDS,
            )
        self._wait(key, slow)
        raise slow

    def _wait(self, key: Any, error: Retryable) -> None:
        now = self._monotonic()
        self._until = {one: wait for one, wait in self._until.items() if wait[0] > now}
        self._until[key] = (now + min(error.after, WAIT_MAX_SECONDS), str(error))
