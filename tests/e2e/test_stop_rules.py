"""Trainings of every kind are ended by their stop rules, by the numbers that they post, write or serve; and a limit of time holds over a suspension."""

from __future__ import annotations

import math

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

LONG = ("--epochs", "200", "--step-seconds", "0.05", "--save-every", "20")
# digits.py, whose metrics page shows nothing: its numbers leave it in another way.
ALTERED = """
import contextlib, importlib.util, json, os, sys, urllib.request
spec = importlib.util.spec_from_file_location("digits", "/usr/local/bin/digits.py")
digits = sys.modules["digits"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(digits)
digits.MetricsPage.publish = lambda *args: None
{}
sys.exit(digits.main())
"""
POSTS = """
def publish(self, step, epoch, epochs, loss):
    body = json.dumps({"step": step, "loss": loss}).encode()
    with contextlib.suppress(OSError):
        urllib.request.urlopen(os.environ["TRAININGRUN_PUSH_URL"], body, timeout=5)
digits.MetricsPage.publish = publish
"""
WRITES = """
log, save = [], digits.Checkpoints.save
def with_log(self, weights, state):
    log.append({"step": state["step"], "loss": state["loss"], "eval_accuracy": state["accuracy"]})
    save(self, weights, {**state, "log_history": log})
digits.Checkpoints.save = with_log
"""


def altered(how):
    return ["python3", "-u", "-c", ALTERED.replace("{}", how)]


def test_each_training_is_ended_by_the_rule_that_holds_for_its_numbers(steady_operator, space):
    # Beside each other: what takes long is that pods start and end. A plateau is one after an improvement: the first steps are read.
    low = {"name": "low", "threshold": {"value": 0.5}}
    good = {"name": "good", "metric": "eval_accuracy", "goal": "Maximize", "threshold": {"value": 0.6}}
    flat = {"name": "flat", "plateau": {"patience": 3, "minDelta": 0.3}}
    runs = {
        "posts": space.run("posts", *LONG, command=altered(POSTS), metrics={"source": "Push"}, stopRules=[low]),
        "writes": space.run("writes", *LONG, command=altered(WRITES), metrics={"source": "Files"}, stopRules=[good]),
        "flat": space.run("flat", *LONG, "--reads", "2", stopRules=[flat]),
        "nan": space.run("nan", *LONG, "--gauge", "nan", "--gauge-from", "80", stopRules=[{"nonFinite": {}}]),
    }
    runs["writes"].wait_training()
    ended = {name: run.wait_finished() for name, run in runs.items()}

    assert {
        name: (one["phase"], one["terminationStatus"], one["termination"]["actor"]) for name, one in ended.items()
    } == {
        "posts": ("Succeeded", "auto_threshold", "low"),
        "writes": ("Succeeded", "auto_threshold", "good"),
        "flat": ("Succeeded", "auto_plateau", "flat"),
        "nan": ("Failed", "auto_non_finite", "nonFinite"),
    }
    for name, run in runs.items():
        run.assert_checkpoint_proven(ended[name])
    evidence = {
        name: [(one["what"], float(one["value"])) for one in end["termination"]["evidence"]]
        for name, end in ended.items()
    }
    # The last two decided; what was read before them is shown as well.
    assert all(what == "loss" and value < 0.5 for what, value in evidence["posts"][-2:])
    assert all(what == "eval_accuracy" and value > 0.6 for what, value in evidence["writes"][-2:])
    assert evidence["flat"][0][0] == "best loss"
    assert math.isnan(evidence["nan"][-1][1])
    saved, spoiled = (ended["nan"]["termination"][name] for name in ("saved", "spoiled"))
    assert spoiled["step"] >= 80, "The training shows NaN from then on."
    assert saved["finite"] is (saved["step"] < spoiled["step"]), (
        "The agent has published one from before, if there is one."
    )
    assert ended["posts"]["effective"]["metricsSource"] == "Push"
    assert ended["writes"]["effective"]["metricsSource"] == "Files"

    # A value that only a file has is drawn as well, as it is there.
    drawn = runs["writes"].wait_curve(lambda curve: curve.values, "it has curves of other values")
    (accuracy,) = [one for one in drawn.values if one.name == "eval_accuracy"]
    assert accuracy.points
    runs["writes"].log.wait_end()
    saved = [line.text for line in runs["writes"].log.lines if line.text.startswith("saved ")]
    for point in accuracy.points:
        (line,) = [line for line in saved if line.startswith(f"saved checkpoint-{point.step} ")]
        assert line.endswith(f"accuracy {point.value:.4f}")


def test_a_limit_of_time_counts_what_was_trained_before_a_suspension(space):
    run = space.run("limited", *LONG)
    first = run.wait_training()["metadata"]["name"]
    run.wait_step(10)
    run.merge({"spec": {"suspend": True}})
    before = run.wait_phase("Suspended")["trained"]["seconds"]
    assert before > 0, "It has trained."

    # The run ends by a quarter of the limit earlier, so that it can save: some 5 s of training are left.
    limit = math.ceil((before + 5) / 0.75)
    run.merge({"spec": {"suspend": False, "maxDurationSeconds": limit}})
    run.wait_training(but=(first,))
    status = run.wait_finished()
    assert (status["phase"], status["terminationStatus"]) == ("Stopped", "max_duration")
    trained = status["trained"]
    assert trained["seconds"] == before + trained["lastSeconds"], "Both pods count, and nothing in between."
    (evidence,) = status["termination"]["evidence"]
    assert evidence["what"] == "trainedSeconds"
    assert limit - limit // 4 <= int(evidence["value"]) <= trained["seconds"]
    run.assert_checkpoint_proven(status)
