"""Curves in characters."""

from __future__ import annotations

import math

import pytest
from goldens import assert_golden

from trainingrun_operator.cli.draw import Plot, plot, sparkline

FALLING = [(float(step), 0.25 + 2 * math.exp(-step / 200)) for step in range(0, 1001, 10)]


def test_a_sparkline_is_tall_where_the_loss_is_high():
    assert sparkline([1, 2, 3, 4, 5, 6, 7, 8], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([8, 1], 8, plain=True) == "#_"


def test_a_sparkline_takes_no_more_than_its_width():
    assert len(sparkline(list(range(500)), 16)) == 16


@pytest.mark.parametrize(
    ("values", "drawn"), [([], ""), ([math.nan], ""), ([3.0], "▁"), ([3.0, 3.0], "▁▁"), ([math.inf, 1, 2], "▁█")]
)
def test_a_sparkline_of_hardly_anything(values, drawn):
    assert sparkline(values, 8) == drawn


PLOTS = {
    "80 columns": (Plot(FALLING, 0.5), 80, {}),
    "120 columns, with its end": (Plot(FALLING, 0.5, stop=990.0), 120, {}),
    "an end in the middle": (Plot(FALLING, 0.5, stop=300.0), 80, {}),
    "without a threshold": (Plot(FALLING), 60, {}),
    "logarithmic": (Plot(FALLING, 0.3), 80, {"logarithmic": True}),
    "a threshold far below": (Plot(FALLING, -3.0), 80, {}),
    "plain characters": (Plot(FALLING, 0.5, stop=990.0), 60, {"plain": True}),
    "one point": (Plot([(10.0, 1.0)], 0.5), 40, {}),
    "one level": (Plot([(0.0, 1.0), (10.0, 1.0)]), 40, {}),
    "a pod that was replaced": (
        Plot([(0.0, 3.0), (100.0, 2.0), (200.0, 1.0), (100.0, 1.9), (300.0, 0.6)], 0.5),
        60,
        {},
    ),
}


def test_plots_look_as_they_should():
    whole = "".join(
        f"## {name}\n\n" + "\n".join(plot(curve, width, 12, **how)) + "\n\n"
        for name, (curve, width, how) in PLOTS.items()
    )
    assert_golden("cli/plot.txt", whole)


@pytest.mark.parametrize("case", PLOTS)
@pytest.mark.parametrize("width", [20, 80, 120])
@pytest.mark.parametrize("height", [4, 16])
def test_no_line_is_wider_than_the_terminal(case, width, height):
    curve, _, how = PLOTS[case]
    lines = plot(curve, width, height, **how)
    assert max(len(line) for line in lines if "ended at" not in line) <= width
    assert len(lines) in (height + 2, height + 3)


def test_the_threshold_is_in_the_picture_and_named():
    lines = plot(Plot(FALLING, 0.125), 80, 12)
    assert [line for line in lines if line.strip().startswith("0.125┤╌")]


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize(
    "losses",
    [(1.7e308, -1.7e308), (1.7e308, 1.7e308), (1e-300, 1e300), (5e-324, 1.0), (-1e308, -1e308), (1e16, 1e16)],
    ids=str,
)
def test_losses_at_the_limits_of_numbers_are_drawn(losses, logarithmic):
    lines = plot(Plot(list(enumerate(losses)), 1.7e308), 80, 12, logarithmic=logarithmic)
    assert len(lines) == (0 if logarithmic and max(losses) <= 0 else 14)


def test_a_logarithmic_plot_leaves_out_what_has_no_logarithm():
    assert plot(Plot([(0.0, 0.0), (1.0, -1.0)]), 80, 12, logarithmic=True) == []
    assert plot(Plot([(0.0, 0.0), (1.0, 1.0), (2.0, 0.1)], -1.0), 80, 12, logarithmic=True)


def test_a_point_that_is_no_number_is_left_out():
    assert plot(Plot([(0.0, math.nan)]), 80, 12) == []
