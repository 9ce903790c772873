"""The metric source Logs: reads what the training container of rank 0 prints, through the API server.

Each read asks for the lines since the last one, by the node's clock, and a few seconds more; what was read before is recognized by its text. After a
rotation, or a restart of the container, the numbers that were read stay until newer ones are printed. A line of which only the beginning was read is
then given up: what comes next may be its end, or another line.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Final

from trainingrun_operator.core import manifests
from trainingrun_operator.core.facts.reading import Failure, Reading
from trainingrun_operator.edge.apiserver.transport import KubeError
from trainingrun_operator.edge.metrics.log.fold import Fold
from trainingrun_operator.edge.metrics.log.line import LINE_MAX
from trainingrun_operator.edge.metrics.log.words import names

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainingrun_operator.api.run import Metrics
    from trainingrun_operator.edge.metrics.source import Target, Tools
    from trainingrun_operator.edge.ports import LogPiece

FIRST_LINES: Final = 1000
"""Last lines that are read of a log that is not known yet."""
NEW_LINES: Final = 10_000
"""New lines that are read at most: of more, the last ones."""
CATCH_UP_LINES: Final = 50
"""Last lines that are read after a read that did not reach the end of the log: long lines, each 16 KiB of which counts as one."""
KEPT_BYTES: Final = 512 * 1024
OVERLAP_SECONDS: Final = 5
PODS_MAX: Final = 10_000
"""Pods whose numbers are kept; of more, those that were not read for longest are read again from their last lines."""
_TAIL: Final = 512
_INLINE_BYTES: Final = 1 << 15


@dataclass
class _Followed:
    """The log of one pod, as far as it was read."""

    metrics: Metrics
    fold: Fold
    at: float | None = None
    """Time of the last read; None: it was never read."""
    behind: bool = False
    """Whether the last read did not reach the end."""
    tail: str = ""
    """The last text that was read."""
    rest: str = ""
    """The end of it that was no whole line yet."""
    printed: int = 0
    """Characters that were read."""

    def add(self, text: str, *, cut: bool) -> None:
        """Add the newest text of the log, which may begin with what was read before."""
        known = self._known(text)
        if known:
            new = self.rest + text[known:]
        elif text and (cut or self.behind or self.rest):
            # The first line may not be whole, or it may be the end of one whose beginning is no longer in the log.
            new = _after_first_end(text)
        else:
            new = self.rest + text
        self.printed += len(text) - known
        self.tail = (self.tail + text[known:])[-_TAIL:]
        whole = max(new.rfind("\n"), new.rfind("\r")) + 1
        self.rest = new[whole:][: LINE_MAX + 1]
        self.fold.add(new[:whole])

    def _known(self, text: str) -> int:
        """Return how many characters of a text were read before. A part of an unfinished line alone is no proof that any were."""
        at = text.rfind(self.tail) if self.tail else -1
        if at >= 0:
            return at + len(self.tail)
        least = max(len(self.rest), 1)
        return next((size for size in range(len(self.tail), least - 1, -1) if text.startswith(self.tail[-size:])), 0)


class LogSource:
    """Implements `MetricSource` for what the training prints."""

    def __init__(self, tools: Tools, clock: Callable[[], float] = time.monotonic) -> None:
        self._logs, self._clock = tools.logs, clock
        self._followed: OrderedDict[str, _Followed] = OrderedDict()
        """By pod uid, the one that was read last at the end."""

    async def read(self, target: Target) -> Reading | Failure:
        """See `MetricSource`."""
        run, pod = target.run, target.pod
        if pod.rank:
            return Failure("OtherRank", "The log of rank 0 is read; other ranks print the same numbers.")
        one, now = self._known(pod.uid, run.spec.metrics), self._clock()
        try:
            piece = await self._logs.log_new(
                run.namespace,
                pod.name,
                manifests.main_container(run.spec),
                since_seconds=None if one.at is None else ceil(now - one.at) + OVERLAP_SECONDS,
                lines=CATCH_UP_LINES if one.behind else FIRST_LINES if one.at is None else NEW_LINES,
                most_bytes=KEPT_BYTES,
            )
        except KubeError as error:
            return Failure("LogUnreadable", f"The log of pod {pod.name} cannot be read: {error}.")
        await self._add(one, piece)
        one.at, one.behind = now, piece.behind
        reading = one.fold.reading()
        return replace(reading, printed=one.printed) if isinstance(reading, Reading) else reading

    async def _add(self, one: _Followed, piece: LogPiece) -> None:
        text = piece.text.decode(errors="replace")
        # Of the last lines of a long log, the first one may be the end of a longer line.
        cut = piece.cut or (one.at is None and text.count("\n") >= FIRST_LINES)
        if len(text) <= _INLINE_BYTES:
            one.add(text, cut=cut)
        else:
            await asyncio.to_thread(one.add, text, cut=cut)

    def _known(self, uid: str, metrics: Metrics) -> _Followed:
        one = self._followed.get(uid)
        if one is None or (one.metrics.names, one.metrics.logs) != (metrics.names, metrics.logs):
            one = self._followed[uid] = _Followed(metrics, Fold(names(metrics.names), metrics.logs.patterns))
        self._followed.move_to_end(uid)
        while len(self._followed) > PODS_MAX:
            self._followed.popitem(last=False)
        return one


def _after_first_end(text: str) -> str:
    ends = [at for at in (text.find("\n"), text.find("\r")) if at >= 0]
    return text[min(ends) + 1 :] if ends else ""
