"""Gradient norms that are NaN or infinite are found under the names that trainings give them, and nothing else is."""

from __future__ import annotations

import math

import pytest

from trainingrun_operator.api.run import MetricNames
from trainingrun_operator.core.facts.reading import GRADIENT_NORM, Reading
from trainingrun_operator.edge.metrics import gradient
from trainingrun_operator.edge.metrics.page import parse

NUMBERS = "training_loss 0.4\ntraining_step 20\n"


def norm(page):
    reading = parse(page.encode(), MetricNames())
    assert isinstance(reading, Reading), reading
    return reading.values.get(GRADIENT_NORM)


@pytest.mark.parametrize(
    "name",
    [
        "grad_norm",
        "grad_norms",
        "gradnorm",
        "gnorm",
        "train_gnorm",
        "training_grad_norm",
        "train_grad_norm",
        "train/grad_norm",
        "actor/grad_norm",
        "grad-norm",
        "gradient_norm",
        "train_gradient_norm",
        "gradients_norm",
        "global_grad_norm",
        "total_grad_norm",
        "grad_global_norm",
        "grad_l2_norm",
        "grad_l2norm",
        "grad_2.0_norm_total",
        "l2_norm_grad_global",
        "GradNorm",
        "trainGradNorm",
        "GRAD_NORM",
        "grad_norm_before_clip",
        "grad_norm_clipped",
        "unclipped_grad_norm",
        "norm_of_gradients",
    ],
)
@pytest.mark.parametrize("value", ["NaN", "nan", "+Inf", "inf", "-Infinity"])
def test_a_gradient_norm_that_is_not_finite_is_found_by_its_name(name, value):
    found = norm(f"{NUMBERS}{name} {value}\n")
    assert found is not None
    assert not math.isfinite(found)
    assert norm(f"{name} {value} 1700000000000\n{NUMBERS}") is not None
    assert norm(f"{NUMBERS}{name} 1.5\n") is None


@pytest.mark.parametrize(
    "line",
    [
        'grad_norm{layer="0"} NaN',
        'grad_norm{layer="}",rank="0"} NaN',
        '{"train/grad_norm"} NaN',
        '{"train/grad_norm", rank="0"} NaN',
        '  grad_norm {rank="0"}NaN',
        "\tgrad_norm\tNaN",
        'grad_norm{rank="0"} 1.0\ngrad_norm{rank="1"} NaN',
    ],
)
def test_its_series_may_have_labels(line):
    assert norm(f"# HELP grad_norm NaN\n{line}\n{NUMBERS}") is not None


@pytest.mark.parametrize(
    "line",
    [
        "eval_loss NaN",
        "eval_grad_norm NaN",
        'grad_norm{split="eval"} NaN',
        'grad_norm{phase="Validation"} NaN',
        "max_grad_norm +Inf",
        "grad_norm_clip +Inf",
        "clip_grad_norm inf",
        "grad_norm_threshold inf",
        "grad_norm_sum NaN",
        "grad_norm_std NaN",
        "grad_norm_var NaN",
        'grad_norm{quantile="0.5"} NaN',
        'grad_norm_bucket{le="+Inf"} 7',
        'grad_norm{le="+Inf"} NaN',
        "weight_norm NaN",
        "param_norm NaN",
        "layer_norm_eps NaN",
        "normalized_gradient_angle NaN",
        "gradient_penalty NaN",
        "gradual_norm NaN",
        "learning_rate NaN",
        "# grad_norm NaN",
        "# TYPE grad_norm gauge NaN",
        "grad_norm NaN7",
        'note{text="grad_norm NaN"} 1',
        'grad_norm_info{value="nan"} 1',
        "x" * 5000 + "grad_norm NaN",
    ],
)
def test_what_is_no_gradient_norm_of_the_training_says_nothing(line):
    assert norm(f"{line}\n{NUMBERS}") is None


@pytest.mark.parametrize(
    ("split", "found"),
    [("train", True), ("other", False)],
)
def test_a_gradient_norm_belongs_to_the_loss_whose_labels_it_has(split, found):
    page = 'training_loss{split="train"} 0.4\ntraining_step 20\n' + f'grad_norm{{split="{split}"}} NaN\n'
    assert (norm(page) is not None) == found


def test_a_page_without_a_loss_may_show_it():
    assert norm("training_step 20\ngrad_norm NaN") is not None


def test_only_so_many_lines_are_looked_at():
    lines = "weight_norm 1\n" * gradient.LINES_MAX
    assert norm(f"{NUMBERS}{lines}grad_norm NaN\n") is None
    assert norm(f"{NUMBERS}grad_norm NaN\n{lines}") is not None
