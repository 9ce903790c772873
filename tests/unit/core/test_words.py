"""What is worded the same in every place."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from trainingrun_operator.core.words import moment, size


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (999, "999 B"), (39_600, "39.6 kB"), (1_234_567, "1.23 MB"), (438e6, "438 MB"), (5e9, "5 GB"), (3e12, "3 TB"), (7e15, "7 PB"), (2e19, "2e+04 PB")],
)  # fmt: skip
def test_a_size_has_three_digits(count, said):
    assert size(count) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [(1000, "1 kB"), (999_499, "999 kB"), (999_500, "1 MB"), (999_950, "1 MB"), (999_999_999, "1 GB"), (999.7e9, "1 TB"), (999.5e12, "1 PB")],
)  # fmt: skip
def test_a_size_that_rounds_up_to_the_next_unit_is_in_it(count, said):
    assert size(count) == said


@pytest.mark.parametrize("stamp", ["2026-01-02T03:04:05Z", "2026-01-02T04:04:05+01:00", "2026-01-02T03:04:05"])
def test_a_moment_is_in_a_zone(stamp):
    assert moment(stamp) == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize("stamp", [None, "", "yesterday"])
def test_what_is_no_moment_is_none(stamp):
    assert moment(stamp) is None
