"""Reads what the training of rank 0 prints, and searches its lines for `completion.logPatterns`. No log is read without patterns.

Each read asks for the lines since the last one, and a few seconds more; their times say which of them were read before, however often one is repeated.
The first read of a container by this process goes back to the last step that an earlier process has recorded: a line before it was not the last.
"""

from __future__ import annotations

import asyncio
import re
from collections import OrderedDict
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Final

from trainingrun_operator.core import log_patterns, manifests
from trainingrun_operator.core.facts.log import Printed
from trainingrun_operator.core.facts.reading import Failure
from trainingrun_operator.core.words import moment
from trainingrun_operator.edge.kube import KubeError
from trainingrun_operator.edge.metrics.log.fold import lines_of
from trainingrun_operator.edge.metrics.log.line import LINE_MAX
from trainingrun_operator.edge.metrics.log.source import CATCH_UP_LINES, KEPT_BYTES, NEW_LINES, OVERLAP_SECONDS

if TYPE_CHECKING:
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.edge.ports import PodLogs

SEARCHED_LINES: Final = 2048
"""Lines of one read that are searched: the newest."""
PODS_MAX: Final = 10_000
"""Pods whose logs are followed; of more, those that were not read for longest are read again."""
_STAMPED: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[0-9.:Z+-]{0,24}) (.*)", re.DOTALL)
"""A line with its time."""


@dataclass
class _Log:
    """The log of one container, as far as it was read."""

    started_at: str
    printed: Printed
    """What was found so far: a look that fails after the read loses nothing."""
    at: float | None = None
    """Time of the last read; None: it was never read."""
    behind: bool = False
    """Whether the last read did not reach the end."""
    last: str = ""
    """The time of the last whole line that was read."""
    begun: str = ""
    """The time of the line after it, if that one was not whole yet."""

    def add(self, text: str, *, cut: bool) -> None:
        """Search the newest text of the log, which may begin with what was read before.

        Args:
            text: of which each line has its time.
            cut: the first line may not be whole.
        """
        *whole, rest = text.split("\n")
        lines = [stamped.groups() for one in whole[cut:] if (stamped := _STAMPED.fullmatch(one)) is not None]
        known = max((number for number, (at, _) in enumerate(lines, 1) if at == self.last), default=0)
        new = lines[known:]
        count = self.printed.lines + len(new)
        if new and self.begun and all(at != self.begun for at, _ in new):
            # It is the end of a line whose beginning was read before.
            new = new[1:]
        if lines:
            self.last, self.begun = lines[-1][0], ""
        if (part := _STAMPED.fullmatch(rest)) is not None:
            self.begun = part[1]
        shown = [one for _, said in new[-SEARCHED_LINES:] for one in lines_of(said) if 0 < len(one) <= LINE_MAX]
        patterns, found = self.printed.patterns, self.printed.found
        self.printed = replace(self.printed, lines=count)
        if (having := log_patterns.last_line(patterns, shown[-SEARCHED_LINES:])) is not None:
            self.printed = Printed(patterns, count, found + 1, *having)


class PrintedLines:
    """The logs of the trainings whose runs name patterns."""

    def __init__(self, logs: PodLogs) -> None:
        self._logs = logs
        self._followed: OrderedDict[str, _Log] = OrderedDict()
        """By pod uid, the one that was read last at the end."""

    async def read(self, run: Run, pod: Pod, wall: str, now: float) -> Printed | Failure | None:
        """Return what the pod has printed so far, or why it is not known; None: it is not asked for."""
        patterns = run.spec.completion.log_patterns
        if not patterns or run.status.termination is not None:
            return None
        one = self._known(pod, patterns)
        lines = CATCH_UP_LINES if one.behind else NEW_LINES
        since = _since_last_step(run, pod, wall) if one.at is None else ceil(now - one.at) + OVERLAP_SECONDS
        try:
            piece = await self._logs.log_new(
                run.namespace,
                pod.name,
                manifests.main_container(run.spec),
                since_seconds=since,
                lines=lines,
                most_bytes=KEPT_BYTES,
                stamped=True,
            )
        except KubeError as error:
            return Failure("LogUnreadable", f"The log of pod {pod.name} cannot be read: {error}.")
        text = piece.text.decode(errors="replace")
        cut = piece.cut or one.behind or text.count("\n") >= lines
        # A pattern of a tenant may take long, and RE2 does not hold Python's lock.
        await asyncio.to_thread(one.add, text, cut=cut)
        one.at, one.behind = now, piece.behind
        return one.printed

    def forget_all(self) -> None:
        """Drop all logs: another process observes the runs."""
        self._followed.clear()

    def _known(self, pod: Pod, patterns: tuple[str, ...]) -> _Log:
        """Return the log of a container. A container that was started again has a new one; for new patterns it is read again."""
        one = self._followed.get(pod.uid)
        if one is None or (one.started_at, one.printed.patterns) != (pod.started_at, patterns):
            one = self._followed[pod.uid] = _Log(pod.started_at, Printed(patterns))
        self._followed.move_to_end(pod.uid)
        while len(self._followed) > PODS_MAX:
            self._followed.popitem(last=False)
        return one


def _since_last_step(run: Run, pod: Pod, wall: str) -> int | None:
    """Return the seconds since an earlier process saw this pod's step advance, and the poll before; None: it has recorded none."""
    progress = run.status.progress
    at = moment(progress.last_observation_time) if progress is not None and progress.pod_uid == pod.uid else None
    read = moment(wall)
    if at is None or read is None:
        return None
    return max(0, ceil((read - at).total_seconds())) + run.spec.poll_interval_seconds + OVERLAP_SECONDS
