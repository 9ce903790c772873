"""Recorded trainings in tests/curves, labelled before any rule was run on them: which rules end them, and when. README.md there has the criterion."""

from __future__ import annotations

import json
import re
import runpy
from functools import cache
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
"""Recorded after the defaults were chosen."""
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


def fired(path, rules):
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
    found = {one.rule: one.step for one in simulate(run, rows_of(path, spec.metrics.names), Defaults()).fired}
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
            for path, label in (*KNOWN.items(), *HELD_OUT.items())
        ],
    )


@every_curve()
def test_a_plateau_at_its_defaults_ends_no_training_too_early(path, label):
    assert not is_false(at_defaults(path)["plateau"], label)


@every_curve(
    but=["parity-late-drop"],
    because="its evaluation loss rises five times in a row, by 1 %, before it falls: docs/decisions/0073-curves-that-are-held-out.md",
)
def test_a_rise_at_its_defaults_ends_no_training_too_early(path, label):
    assert not is_false(at_defaults(path)["rising"], label)


@every_curve()
def test_not_finite_at_its_defaults_ends_those_trainings_that_are_not_finite_and_no_others(path, label):
    step, broken = at_defaults(path)["nonFinite"], label["nonFiniteStep"]
    assert (step is None) == (broken is None)
    assert broken is None or step > broken


@pytest.mark.parametrize(("curves", "least"), [(KNOWN, 30), (HELD_OUT, 10)], ids=["known", "held out"])
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
    known = {path.read_bytes() for path in KNOWN}
    assert not {path.stem for path in KNOWN} & {path.stem for path in HELD_OUT}
    assert not any(path.read_bytes() in known for path in HELD_OUT)


@pytest.mark.parametrize(("golden", "curves"), [("curves", KNOWN), ("curves-held-out", HELD_OUT)])
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
    assert_golden(f"cli/{golden}.txt", "\n".join(lines) + "\n")
