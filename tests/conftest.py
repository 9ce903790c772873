"""What every test has."""

from __future__ import annotations

import asyncio


def pytest_configure() -> None:
    # Up to Python 3.13, asking for the loop of a thread that never had one makes one; pytest-asyncio asks, and nobody
    # closes it. Said once that there is none, asking fails as it does from 3.14 on.
    asyncio.set_event_loop(None)
