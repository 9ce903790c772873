"""Rows of numbers: JSON lines, Lightning's CSV and Hugging Face's state, whole and half written."""

from __future__ import annotations

import json
from math import inf, isnan

import pytest

from trainingrun_operator.agent.measure.tables import json_lines, table, trainer_state


def test_of_json_lines_the_newest_value_of_each_name_counts():
    text = '{"step": 1, "loss": 2.5}\n{"step": 2, "eval_loss": 0.5}\n\n{"step": 3, "loss": "1.5", "train": {"acc": 0.9}, "ok": true, "name": "a"}\n'
    assert json_lines(text, whole=True).newest == {
        "eval_loss": (0.5, 2),
        "step": (3, 3),
        "loss": (1.5, 3),
        "train/acc": (0.9, 3),
    }


@pytest.mark.parametrize(
    ("text", "whole", "loss"),
    [
        pytest.param('{"loss": 2.5}\n{"loss": 1', True, 2.5, id="the last line is being written"),
        pytest.param('{"loss": 2.5}\n{"loss": 1.5}', True, 2.5, id="a line without an end may go on"),
        pytest.param('"x": {"loss": 9}}\n{"loss": 1.5}\n', False, 1.5, id="the first line is cut"),
        pytest.param('{"loss": 2.5}\nno json\n[1]\n7\n', True, 2.5, id="other lines"),
        pytest.param('{"loss": 2.5}\n' + "[" * 100_000 + "\n", True, 2.5, id="a line that nests without end"),
        pytest.param('{"loss": 2.5}\n{"loss": null}\n', True, 2.5, id="no number"),
        pytest.param('{"loss": 1' + "0" * 400 + "}\n", True, inf, id="a number beyond all floats"),
        pytest.param('{"loss": -1' + "0" * 400 + "}\n", True, -inf, id="and below"),
    ],
)
def test_json_lines_are_read_as_far_as_they_are_whole(text, whole, loss):
    assert json_lines(text, whole=whole).newest["loss"][0] == loss


def test_not_finite_numbers_are_kept():
    assert isnan(json_lines('{"loss": NaN}\n', whole=True).newest["loss"][0])


def test_cells_of_lightning_s_csv_may_be_empty_and_its_last_line_half():
    rows = "0,,9,2.5\n0,0.75,9,\n1,,19,1.5\n1,,2"
    assert table("epoch,val_loss,step,train_loss", rows, whole=True).newest == {
        "val_loss": (0.75, 9),
        "epoch": (1, 19),
        "step": (19, 19),
        "train_loss": (1.5, 19),
    }
    assert table("epoch,step,train_loss", "9,9,9\n1,19,1.5\n1,19\n", whole=False).newest["train_loss"] == (1.5, 19)
    assert table("", "", whole=True).newest == {}


STATE = {
    "global_step": 20,
    "num_train_epochs": 3,
    "log_history": [
        {"loss": 2.5, "grad_norm": 1.0, "epoch": 0.5, "step": 10},
        {"eval_loss": 0.75, "epoch": 1.0, "step": 20},
        {"loss": 1.5, "grad_norm": 2.0, "epoch": 1.0, "step": 20},
        {"train_runtime": 12.5, "train_loss": 0.1, "epoch": 1.0, "step": 20},
    ],
}


def test_the_log_of_hugging_face_s_state_is_read_without_the_mean_at_its_end():
    assert trainer_state(json.dumps(STATE)).newest == {
        "eval_loss": (0.75, 20),
        "loss": (1.5, 20),
        "grad_norm": (2.0, 20),
        "epoch": (1.0, 20),
        "step": (20, 20),
        "num_train_epochs": (3, None),
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        json.dumps(STATE)[:-20],
        "[]",
        "{}",
        '{"log_history": 7, "num_train_epochs": 3}',
        '{"log_history": [7]}',
        "[" * 100_000,
    ],
)
def test_a_state_that_is_not_whole_or_none_has_no_numbers(text):
    assert trainer_state(text).newest == {}
