"""Event files as their writers leave them: whole, half written, damaged and replaced."""

from __future__ import annotations

from math import isnan

import pytest
from event_files import TENSORBOARD, TENSORBOARD_X
from hypothesis import given
from hypothesis import strategies as st

from trainingrun_operator.agent.measure.events import is_damaged, records, scalars


def read(data):
    return [one for _, record in records(data) if record is not None for one in scalars(record)]


def test_scalars_of_both_forms_are_read():
    *losses, last = read(TENSORBOARD)
    assert losses == [
        ("train/loss", 2.0, 10),
        ("train/grad_norm", 1.0, 10),
        ("train/loss", 1.5, 20),
        ("train/grad_norm", 2.0, 20),
    ]
    assert (last.tag, last.step) == ("eval/loss", 20)
    assert isnan(last.value)
    assert read(TENSORBOARD_X) == [("Loss/train", 0.75, 30), ("Loss/test", 0.25, 30)]


@pytest.mark.parametrize("data", [TENSORBOARD, TENSORBOARD_X], ids=["tensorboard", "tensorboardX"])
def test_a_file_that_is_being_written_is_read_as_far_as_it_is_whole(data):
    everything, ends = repr(read(data)), [0, *(end for end, _ in records(data))]
    assert ends[-1] == len(data)
    for size in range(len(data)):
        whole = max(end for end in ends if end <= size)
        assert [end for end, _ in records(data[:size])] == [end for end in ends[1:] if end <= whole]
        assert not is_damaged(data[whole:size])
        # Read on from there, nothing is missing and nothing comes twice.
        assert repr(read(data[:whole]) + read(data[whole:])) == everything


def test_a_damaged_record_is_left_out_and_the_next_one_is_read():
    at = TENSORBOARD.index(b"train/loss")
    damaged = TENSORBOARD[:at] + b"wrong" + TENSORBOARD[at + 5 :]
    assert [one.tag for one in read(damaged)] == ["train/grad_norm", "train/loss", "train/grad_norm", "eval/loss"]


def test_bytes_that_are_no_record_are_damaged():
    assert is_damaged(TENSORBOARD[1:])
    assert read(TENSORBOARD[1:]) == []


def test_a_large_record_is_skipped(monkeypatch):
    monkeypatch.setattr("trainingrun_operator.agent.measure.events.RECORD_MAX", 30)
    ends = [end for end, _ in records(TENSORBOARD)]
    assert ends[-1] == len(TENSORBOARD)
    assert read(TENSORBOARD) == []
    # Its end is known before it is written.
    assert [end for end, _ in records(TENSORBOARD[:20])] == [ends[0]]


@given(st.binary(max_size=200))
def test_any_bytes_have_an_answer(data):
    assert read(data) == []
    for one in scalars(data):
        assert 0 < len(one.tag) <= 128


@given(st.integers(0, 500), st.binary(min_size=1, max_size=4))
def test_any_damage_of_a_record_has_an_answer(at, data):
    _, record = list(records(TENSORBOARD))[1]
    assert record is not None
    scalars(record[:at] + data + record[at + len(data) :])
