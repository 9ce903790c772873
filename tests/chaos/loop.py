"""An event loop that waits for nothing: in the small world everything is there at once, and time is the story's."""

from __future__ import annotations

import asyncio
import selectors
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")


class _Deaf(selectors.SelectSelector):
    """Asks the kernel nothing: no call is on its way."""

    def select(self, timeout: float | None = None) -> list[Any]:
        return []


class Loop(asyncio.SelectorEventLoop):
    """Runs one look at a time, until it ends or is halted in the middle."""

    def __init__(self) -> None:
        super().__init__(_Deaf())
        self._halted: dict[asyncio.Task[Any], asyncio.Future[None]] = {}

    def begin(self, look: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine until it ends or halts; `Task.done` says which."""
        task = self.create_task(look)
        task.add_done_callback(lambda _: self.stop())
        self.run_forever()
        return task

    async def halt(self) -> None:
        """Stand still here until `go_on`."""
        task = asyncio.current_task()
        assert task is not None
        halted = self._halted[task] = self.create_future()
        self.stop()
        await halted

    def go_on(self, task: asyncio.Task[Any]) -> None:
        """Run what has halted until it ends, or halts again."""
        self._halted.pop(task).set_result(None)
        self.run_forever()

    def now(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return what a coroutine that never halts returns."""
        return self.begin(coroutine).result()


@cache
def loop() -> Loop:
    """Return the loop of this process: making one takes longer than a look."""
    return Loop()
