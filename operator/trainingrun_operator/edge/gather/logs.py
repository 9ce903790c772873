"""Reads the end of a crashed training's log: its last lines for people, and a search for known causes and for the patterns that make the crash fatal.

A search may take half a second of a hostile pattern, so it is made in a thread; RE2 does not hold Python's lock.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from trainingrun_operator.core import crash_causes, log_patterns, manifests
from trainingrun_operator.core.facts.log import LogSearch
from trainingrun_operator.core.facts.pod import Training

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.core.memory import Memory
    from trainingrun_operator.edge.ports import Reads

LINES: Final = 5
"""Last lines that people see."""
BYTES: Final = 1000
SEARCHED_LINES: Final = 100
SEARCHED_BYTES: Final = 8192


async def of_crashed(
    kube: Reads, run: Run, ranks: Sequence[Sequence[Pod]], memory: Memory
) -> tuple[dict[str, str], dict[str, LogSearch]]:
    """Return by pod uid the last lines of the newest pods' logs, if their training has crashed, and what was found in them.

    Each log is read once; again if the API server did not answer, or if the patterns have changed. None is read in a stop.
    """
    tails: dict[str, str] = {}
    searches: dict[str, LogSearch] = {}
    if run.status.termination is not None:
        return tails, searches
    patterns = run.spec.crash.fatal_log_patterns
    for pod in (group[-1] for group in ranks if group):
        if pod.training is not Training.EXITED or not pod.exit_code:
            continue
        known = memory.log_searches.get(pod.uid)
        if known is not None and known.patterns == patterns:
            tails[pod.uid], searches[pod.uid] = memory.log_tails.get(pod.uid, ""), known
        elif (log := await _end_of(kube, run, pod)) is not None:
            found = await asyncio.to_thread(log_patterns.first_found, patterns, log) if patterns else ""
            tails[pod.uid] = _last_lines(log)
            searches[pod.uid] = LogSearch(patterns, found, crash_causes.in_log(log))
    return tails, searches


async def _end_of(kube: Reads, run: Run, pod: Pod) -> str | None:
    container = manifests.main_container(run.spec)
    return await kube.log_tail(run.namespace, pod.name, container, lines=SEARCHED_LINES, most_bytes=SEARCHED_BYTES)


def _last_lines(log: str) -> str:
    last = "\n".join(log.splitlines()[-LINES:])[-BYTES:]
    return " | ".join(line.strip() for line in last.splitlines() if line.strip())
