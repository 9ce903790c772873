"""Wrapper of a provider with retry delays, a timeout and known errors only."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any, Final, TypeVar

from trainingrun_operator.edge.nodes.provider import ProviderError, Retryable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trainingrun_operator.core.facts.nodes import Instance, NodeRef, Pool
    from trainingrun_operator.edge.nodes.provider import Provider

T = TypeVar("T")

CALL_SECONDS: Final = 120.0
BROKEN_SECONDS: Final = 30.0
"""Delay after a timeout or an unexpected error."""
WAIT_MAX_SECONDS: Final = 600.0
"""Limit of a provider's retry delay."""

log = logging.getLogger(__name__)


class Patient:
    """Implements `Provider`. After `Retryable` with a delay, the same call fails without a request until the delay has passed."""

    def __init__(self, name: str, provider: Provider, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._name, self._provider, self._monotonic = name, provider, monotonic
        self._until: dict[tuple[str, str, str], tuple[float, str]] = {}
        """By call, pool and machine: time of the next request, and the message."""

    async def instance(self, pool: Pool, node: NodeRef) -> Instance:
        """See `Provider`."""
        return await self._ask("instance", pool, node, lambda: self._provider.instance(pool, node))

    async def at_minimum(self, pool: Pool, node: NodeRef) -> bool:
        """See `Provider`."""
        return await self._ask("at_minimum", pool, node, lambda: self._provider.at_minimum(pool, node))

    async def release(self, pool: Pool, node: NodeRef, operation: str) -> None:
        """See `Provider`."""
        await self._ask("release", pool, node, lambda: self._provider.release(pool, node, operation))

    async def close(self) -> None:
        """See `Provider`."""
        try:
            await self._provider.close()
        except Exception:
            log.exception("cannot close node provider %s", self._name)

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
                f"The provider {self._name} failed ({type(error).__name__}): see the operator's log.",
                BROKEN_SECONDS,
            )
        self._wait(key, slow)
        raise slow

    def _wait(self, key: Any, error: Retryable) -> None:
        now = self._monotonic()
        self._until = {one: wait for one, wait in self._until.items() if wait[0] > now}
        self._until[key] = (now + min(error.after, WAIT_MAX_SECONDS), str(error))
