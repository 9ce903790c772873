"""The page as Prometheus reads it."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from trainingrun_operator.exporter import Telemetry


@pytest.fixture
def telemetry():
    return Telemetry()


@pytest.fixture
def page(telemetry):
    """Return the page as it is now."""
    return lambda: b"".join(telemetry.page()).decode()


@pytest.fixture
def samples(page):
    """Return name and labels to value, of all series whose name begins so."""

    def read(metric=""):
        families = text_string_to_metric_families(page())
        found = [sample for family in families for sample in family.samples]
        return {
            (one.name, tuple(sorted(one.labels.items()))): one.value for one in found if one.name.startswith(metric)
        }

    return read
