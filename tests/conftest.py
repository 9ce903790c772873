"""What every test has."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from trainingrun_operator.edge import calls

if TYPE_CHECKING:
    from collections.abc import Callable

    from e2e.scheduling import Scheduling
    from xdist.remote import Producer


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    """Of the tests on the cluster (`--dist loadscope`), some must share a worker."""
    if config.getoption("dist") != "loadscope":
        return None
    from e2e.scheduling import Scheduling  # noqa: PLC0415 - xdist is not there where it is not asked for

    return Scheduling(config, log)


@pytest.fixture
def requests_made() -> Callable[[], dict[str, int]]:
    """Return how many requests the code under test has made since the test began, by whom it asked."""
    before = calls.made()
    return lambda: {api: count - before[api] for api, count in calls.made().items() if count != before[api]}


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.import_plugin("heartbeat")
    # Up to Python 3.13, asking for the loop of a thread that never had one makes one; pytest-asyncio asks, and nobody
    # closes it. Said once that there is none, asking fails as it does from 3.14 on.
    asyncio.set_event_loop(None)
