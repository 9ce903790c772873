"""A pytest plugin: a sign of life whenever no test has ended for a while, so that a line of dots never stands still.

Where xdist's workers run the tests, as in every target of the Makefile: a process that runs them itself has its output captured meanwhile.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pytest

SECONDS: Final = float(os.environ.get("PROGRESS_SECONDS", "10"))
"""Between two signs, as in tools/lib/progress.sh."""


class Heartbeat:
    """Writes for how long the session has run, from a thread of its own."""

    def __init__(self, reporter: pytest.TerminalReporter):
        self._reporter = reporter
        self._began = self._seen = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._over.wait(max(0.1, self._seen + SECONDS - time.monotonic())):
            if time.monotonic() - self._seen >= SECONDS:
                self._seen = time.monotonic()
                self._reporter.write(f" {self._seen - self._began:.0f}s ", flush=True)

    def pytest_runtest_logreport(self) -> None:
        """A test has begun or ended; with xdist, on any worker."""
        self._seen = time.monotonic()

    def pytest_sessionfinish(self) -> None:
        """What is printed from here on is a summary."""
        self._over.set()
        self._thread.join()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Begin, in the process that shows what the workers report."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and session.config.pluginmanager.hasplugin("dsession"):
        session.config.pluginmanager.register(Heartbeat(reporter), "heartbeat of this session")
