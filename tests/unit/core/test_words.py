"""What is worded the same in every place."""

from __future__ import annotations

import pytest

from trainingrun_operator.core.words import size


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
