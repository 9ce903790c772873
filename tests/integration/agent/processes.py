"""Processes that have imported the agent already: forked from one that has, each with an environment and a log of its own.

A Python that starts takes a second of processor time to import boto3 and the agent; hundreds of agents are started here.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from multiprocessing.context import ForkServerProcess
    from pathlib import Path

PRELOADED: Final = (
    "boto3",
    "botocore.httpchecksum",
    "trainingrun_operator.agent.main",
    "trainingrun_operator.agent.restore",
)
_context: Final = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(list(PRELOADED))


class Process:
    """One of them; what is used here of `subprocess.Popen`."""

    def __init__(
        self, run: Callable[..., int], arguments: Sequence[Path], environ: Mapping[str, str], log: Path
    ) -> None:
        self._process: ForkServerProcess = _context.Process(
            target=_begin, args=(run, list(arguments), dict(environ), log), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """Of the process that runs the agent."""
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Exit code.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Nothing, if it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _begin(run: Callable[..., int], arguments: list[Path], environ: dict[str, str], log: Path) -> None:
    os.environ.clear()
    os.environ.update(environ)
    with log.open("ab") as written:
        os.dup2(written.fileno(), 1)
        os.dup2(written.fileno(), 2)
    sys.exit(run(*arguments))
