"""What every story has."""

from __future__ import annotations

import logging
import sys

import pytest


@pytest.fixture(autouse=True)
def untraced():
    """Stories show what becomes of a run, not which lines ran; without coverage's tracer they take half the time."""
    tracer = sys.gettrace()
    sys.settrace(None)
    # A story logs mostly errors, as it should.
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
    sys.settrace(tracer)
