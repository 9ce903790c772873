"""What a training posts: plain numbers, or Kubeflow's trainer status as Hugging Face's Trainer sends it."""

from __future__ import annotations

import json
from math import isnan

import pytest

from trainingrun_operator.agent.measure import push as module
from trainingrun_operator.agent.measure.files import Measures
from trainingrun_operator.agent.measure.push import Pushed, write_token
from trainingrun_operator.api.exchange import Measured


def status(**metrics):
    """As huggingface/transformers, src/transformers/integrations/integration_utils.py, KubeflowCallback._update_status posts it."""
    named = [{"name": name, "value": str(value)} for name, value in metrics.items()]
    return {
        "trainerStatus": {"lastUpdatedTime": "2026-01-02T03:04:05+00:00", "progressPercentage": 12, "metrics": named}
    }


def pushed(*posts):
    found = Pushed()
    for post in posts:
        assert found.take(json.dumps(post).encode())
    newest = found.newest()
    assert newest is not None
    return newest[0]


def test_plain_numbers_are_taken_with_their_step():
    assert pushed({"step": 10, "loss": 0.5, "note": "x"}, {"step": 20, "eval": {"loss": "0.25"}}) == {
        "loss": (0.5, 10),
        "step": (20, 20),
        "eval/loss": (0.25, 20),
    }


def test_the_trainer_status_of_hugging_face_is_taken():
    found = pushed(
        status(total_steps=100), status(loss=1.5, grad_norm=2.0, current_step=10, total_steps=100, current_epoch=0.5)
    )
    assert (found["loss"], found["current_step"], found["current_epoch"]) == ((1.5, 10), (10, 10), (0.5, 10))
    assert isnan(pushed(status(loss="nan", current_step=10))["loss"][0])


def test_the_mean_of_all_steps_at_the_end_is_no_loss():
    found = pushed(status(loss=1.5, current_step=10), status(loss=1.5, train_loss=0.1, train_runtime=12.5))
    assert "train_loss" not in found
    assert found["current_step"] == (10, 10)
    assert pushed({"train_loss": 0.5, "step": 1})["train_loss"] == (0.5, 1)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no json",
        b"[1]",
        b"{}",
        b'{"loss": "low"}',
        b'{"trainerStatus": {}}',
        b'{"trainerStatus": {"metrics": 7}}',
        b'{"trainerStatus": {"metrics": [7, {"name": "loss"}]}}',
        b"[" * 60_000,
    ],
)
def test_what_has_no_numbers_is_refused(body):
    found = Pushed()
    assert not found.take(body)
    assert found.newest() is None


def test_names_are_bounded_and_the_newest_stay(monkeypatch):
    monkeypatch.setattr(module, "VALUES_MAX", 3)
    assert pushed({f"v{number}": number for number in range(9)}).keys() == {"v6", "v7", "v8"}


def test_the_answer_has_what_was_posted(tmp_path):
    found = Pushed()
    measures = Measures(str(tmp_path), "uid", 0, found)
    assert Measured.model_validate_json(measures.page()).pushed is None
    found.take(b'{"step": 10, "loss": 0.5}')
    answered = Measured.model_validate_json(measures.page()).pushed
    assert answered is not None
    assert [(one.name, one.value, one.step) for one in answered.values] == [("step", "10.0", 10), ("loss", "0.5", 10)]


def test_the_token_is_not_empty_and_a_directory_that_cannot_be_written_stops_nothing(tmp_path):
    write_token(tmp_path)
    assert (tmp_path / "push_token").read_text().strip()
    write_token(tmp_path / "missing")
