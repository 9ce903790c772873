"""What the tests of the documentation have."""

from __future__ import annotations

from unit.chart.conftest import helm

__all__ = ["helm"]
