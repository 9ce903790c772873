"""Recorded trainings in tests/curves, labelled before any rule was run on them: which rules end them, and when. README.md there has the criterion."""

from __future__ import annotations

import json
import re
import runpy
from dataclasses import replace
from functools import cache
from math import isfinite
from pathlib import Path

import pytest
from goldens import assert_golden

from trainingrun_operator.api.run import TrainingRunSpec
from trainingrun_operator.api.status import TrainingRunStatus
from trainingrun_operator.cli.recorded import rows_of
from trainingrun_operator.core.defaults import Defaults
from trainingrun_operator.core.facts.run import Run
from trainingrun_operator.core.simulation import simulate

CURVES = Path(__file__).parents[2] / "curves"


def labelled(folder):
    """The curves of a folder, with their labels."""
    labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    return {folder / f"{name}.jsonl": label for name, label in labels.items()}


KNOWN = labelled(CURVES)
HELD_OUT = labelled(CURVES / "held-out")
"""Recorded after the defaults were chosen; the mechanism of rising was changed with them at hand."""
SECOND = labelled(CURVES / "held-out-second")
"""Recorded and labelled before that change, and held out from it."""
DEFAULTS = {
    "plateau": {"metric": "eval_loss", "plateau": {}},
    "rising": {"metric": "eval_loss", "rising": {}},
    "nonFinite": {"nonFinite": {}},
}
TIGHTER = {
    "patience 10": {"metric": "eval_loss", "plateau": {"patience": 10}},
    "patience 5": {"metric": "eval_loss", "plateau": {"patience": 5}},
    "3 in a row": {"metric": "eval_loss", "rising": {"observations": 3}},
    "4 in a row": {"metric": "eval_loss", "rising": {"observations": 4}},
}


def run_of(**fields):
    """A run with these fields in its spec, besides those that it needs."""
    needed = {
        "template": {"spec": {"containers": [{"name": "train", "image": "none"}]}},
        "checkpoint": {"destination": "s3://bucket/runs"},
    }
    return Run("default", "curve", "curve", "1", 1, TrainingRunSpec.parse({**needed, **fields}), TrainingRunStatus())


EVERY_SECONDS = 60
"""Between two rows, for the rules that need times."""


@cache
def by_a_spec_without_rules(path):
    """What the operator does with a run whose spec has no rule at all: the default threshold, the stall, and all the others."""
    run = run_of()
    rows = rows_of(path, run.spec.metrics.names)
    timed = [replace(row, time=float(number * EVERY_SECONDS)) for number, row in enumerate(rows)]
    return simulate(run, timed, Defaults())


def fired(path, rules):
    """The step at which each rule fires first."""
    written = [{"name": re.sub(r"\W", "-", f"r-{key}"), **rule} for key, rule in rules.items()]
    run = run_of(autoStopLoss=-1, stopRules=written)
    found = {one.rule: one.step for one in simulate(run, rows_of(path, run.spec.metrics.names), Defaults()).fired}
    return {key: found.get(one["name"]) for key, one in zip(rules, written, strict=True)}


def is_false(step, label) -> bool:
    """Whether a stop gives away more than it is allowed to."""
    return step is not None and step < label["enoughStep"]


def is_missed(step, label) -> bool:
    """Whether most of the training was not worth anything, and nothing ended it."""
    return step is None and label["rowsAfterEnough"] * 2 > label["rows"]


@cache
def at_defaults(path):
    return fired(path, DEFAULTS)


def every_curve(*, but=(), because=""):
    """The curves with their labels; those of the names `but` are known to fail, and must."""
    failing = pytest.mark.xfail(strict=True, reason=because)
    return pytest.mark.parametrize(
        ("path", "label"),
        [
            pytest.param(path, label, id=path.stem, marks=[failing] if path.stem in but else [])
            for path, label in (*KNOWN.items(), *HELD_OUT.items(), *SECOND.items())
        ],
    )


@every_curve()
def test_a_plateau_at_its_defaults_ends_no_training_too_early(path, label):
    assert not is_false(at_defaults(path)["plateau"], label)


@every_curve()
def test_a_rise_at_its_defaults_ends_no_training_too_early(path, label):
    assert not is_false(at_defaults(path)["rising"], label)


@every_curve()
def test_a_spec_without_any_rule_ends_no_training_too_early(path, label):
    found = by_a_spec_without_rules(path)
    assert found.rows == label["rows"]
    assert found.decision is None or not is_false(found.decision.step, label)
    assert [one.rule for one in found.fired if one.rule == "autoStopLoss" and one.enforced] == [], "It only reports."


def test_the_default_threshold_is_reported_of_those_trainings_that_come_below_it():
    told = {
        path.stem
        for path in (*KNOWN, *HELD_OUT, *SECOND)
        for one in by_a_spec_without_rules(path).fired
        if one.rule == "autoStopLoss"
    }
    assert {"good-usual-rate", "cnn-adam", "parity-adam"} <= told, "It is judged at all."
    assert not {"never-learns", "transformer", "variational-autoencoder"} & told


@every_curve()
def test_not_finite_at_its_defaults_ends_those_trainings_that_are_not_finite_and_no_others(path, label):
    step, broken = at_defaults(path)["nonFinite"], label["nonFiniteStep"]
    assert (step is None) == (broken is None)
    assert broken is None or step > broken


@pytest.mark.parametrize(
    ("curves", "least"), [(KNOWN, 30), (HELD_OUT, 10), (SECOND, 12)], ids=["known", "held out", "second"]
)
def test_the_labels_are_those_of_the_criterion(curves, least):
    label = runpy.run_path(str(CURVES / "label.py"))["label"]
    (folder,) = {path.parent for path in curves}
    rows = {
        path: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in folder.glob("*.jsonl")
    }
    assert len(rows) >= least
    assert {path: label(one) for path, one in rows.items()} == curves


def test_no_curve_that_is_held_out_is_one_of_the_others():
    every = (*KNOWN, *HELD_OUT, *SECOND)
    assert len({path.stem for path in every}) == len(every)
    assert len({path.read_bytes() for path in every}) == len(every)


def default_threshold(path):
    """The step at which the default threshold would end a training, if the installation enforced it."""
    return next((one.step for one in by_a_spec_without_rules(path).fired if one.rule == "autoStopLoss"), None)


def longest(path):
    """The longest rows of evaluations without a new best value, and of rises, of the finite ones."""
    best, since, without, rising, rises, before = None, 0, 0, 0, 0, None
    for line in path.read_text(encoding="utf-8").splitlines():
        value = json.loads(line)["eval_loss"]
        if not isfinite(value):
            continue
        better = best is None or value < best
        best, since = (value, 0) if better else (best, since + 1)
        rising = rising + 1 if before is not None and value > before else 0
        without, rises, before = max(without, since), max(rises, rising), value
    return {"plateau": without, "rising": rises}


def test_every_training_that_is_held_out_and_missed_is_explained():
    """The table of README.md: each with the longest row of evaluations that its rule counts, by the rows alone."""
    told = re.findall(
        r"(?m)^\| `([\w-]+)` \| (plateau|rising) \| (\d+) \| (\S.*\S) \|$",
        (CURVES / "README.md").read_text(encoding="utf-8"),
    )
    missed = [
        (path.stem, rule, str(longest(path)[rule]))
        for rule in ("plateau", "rising")
        for path, label in (*HELD_OUT.items(), *SECOND.items())
        if is_missed(at_defaults(path)[rule], label)
    ]
    assert [row[:3] for row in told] == missed


@pytest.mark.parametrize(
    ("golden", "curves"), [("curves", KNOWN), ("curves-held-out", HELD_OUT), ("curves-held-out-second", SECOND)]
)
def test_what_each_setting_stops_and_misses(golden, curves):
    """The tables of docs/training/stop-rules.md."""
    rules = {key: rule for key, rule in (DEFAULTS | TIGHTER).items() if key != "nonFinite"}
    steps = {path: fired(path, rules) for path in curves}
    lines = []
    for key in rules:
        stops = [path.stem for path in curves if steps[path][key] is not None]
        false = [path.stem for path, label in curves.items() if is_false(steps[path][key], label)]
        missed = [path.stem for path, label in curves.items() if is_missed(steps[path][key], label)]
        lines.append(
            f"{key}: {len(stops)} stops, {len(false)} false ({', '.join(false) or '-'}), {len(missed)} missed ({', '.join(missed) or '-'})"
        )
    shadow = {path: default_threshold(path) for path in curves}
    false = [path.stem for path, label in curves.items() if is_false(shadow[path], label)]
    missed = [path.stem for path, label in curves.items() if is_missed(shadow[path], label)]
    reported = sum(step is not None for step in shadow.values())
    lines.append(
        f"autoStopLoss, only reported: {reported} stops, {len(false)} false ({', '.join(false) or '-'}), {len(missed)} missed ({', '.join(missed) or '-'})"
    )
    assert_golden(f"cli/{golden}.txt", "\n".join(lines) + "\n")
