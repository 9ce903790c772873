"""What every test has."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest
    from e2e.scheduling import Scheduling
    from xdist.remote import Producer


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    """Of the tests on the cluster (`--dist loadscope`), some must share a worker."""
    if config.getoption("dist") != "loadscope":
        return None
    from e2e.scheduling import Scheduling  # noqa: PLC0415 - xdist is not there where it is not asked for

    return Scheduling(config, log)


def pytest_configure() -> None:
    # Up to Python 3.13, asking for the loop of a thread that never had one makes one; pytest-asyncio asks, and nobody
    # closes it. Said once that there is none, asking fails as it does from 3.14 on.
    asyncio.set_event_loop(None)
