"""Recorded trainings in tests/curves, labelled before any rule was run on them: which rules end them, and when. README.md there has the criterion."""

from __future__ import annotations

import json
import re
import runpy
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
LABELS = json.loads((CURVES / "labels.json").read_text(encoding="utf-8"))
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


def fired(name, rules):
    """The step at which each rule fires first."""
    written = [{"name": re.sub(r"\W", "-", f"r-{key}"), **rule} for key, rule in rules.items()]
    spec = TrainingRunSpec.parse(
        {
            "template": {"spec": {"containers": [{"name": "train", "image": "none"}]}},
            "checkpoint": {"destination": "s3://bucket/runs"},
            "autoStopLoss": -1,
            "stopRules": written,
        }
    )
    run = Run("default", "curve", "curve", "1", 1, spec, TrainingRunStatus())
    found = {
        one.rule: one.step
        for one in simulate(run, rows_of(CURVES / f"{name}.jsonl", spec.metrics.names), Defaults()).fired
    }
    return {key: found.get(one["name"]) for key, one in zip(rules, written, strict=True)}


def is_false(step, label) -> bool:
    """Whether a stop gives away more than it is allowed to."""
    return step is not None and step < label["enoughStep"]


def is_missed(step, label) -> bool:
    """Whether most of the training was not worth anything, and nothing ended it."""
    return step is None and label["rowsAfterEnough"] * 2 > label["rows"]


@pytest.mark.parametrize("name", LABELS)
def test_no_rule_at_its_defaults_ends_a_training_too_early(name):
    steps, label = fired(name, DEFAULTS), LABELS[name]
    assert not is_false(steps["plateau"], label)
    assert not is_false(steps["rising"], label)
    broken = label["nonFiniteStep"]
    assert (steps["nonFinite"] is None) == (broken is None)
    assert broken is None or steps["nonFinite"] > broken


def test_the_labels_are_those_of_the_criterion():
    label = runpy.run_path(str(CURVES / "label.py"))["label"]
    rows = {
        path.stem: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in CURVES.glob("*.jsonl")
    }
    assert len(rows) >= 30
    assert {name: label(one) for name, one in rows.items()} == LABELS


def test_what_each_setting_stops_and_misses():
    """The table of docs/training/stop-rules.md."""
    rules = {key: rule for key, rule in (DEFAULTS | TIGHTER).items() if key != "nonFinite"}
    steps = {name: fired(name, rules) for name in LABELS}
    lines = []
    for key in rules:
        stops = [name for name in LABELS if steps[name][key] is not None]
        false = [name for name in stops if is_false(steps[name][key], LABELS[name])]
        missed = [name for name in LABELS if is_missed(steps[name][key], LABELS[name])]
        lines.append(
            f"{key}: {len(stops)} stops, {len(false)} false ({', '.join(false) or '-'}), {len(missed)} missed ({', '.join(missed) or '-'})"
        )
    assert_golden("cli/curves.txt", "\n".join(lines) + "\n")
