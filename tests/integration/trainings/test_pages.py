"""The training scripts of the docs, as they stand, on the real libraries: seen by the operator, saved, stopped, and gone on from."""

from __future__ import annotations

import math
import shutil
import signal
import time
from typing import Any, NamedTuple

import pytest
from integration.trainings.script import GUIDE, START_SECONDS, Training, script_of
from waiting import eventually

from trainingrun_operator.agent.volume import detect

pytestmark = [pytest.mark.trainings, pytest.mark.timeout(420)]

FIRST_CHECKPOINT_SECONDS = 180
SAVE_EVERY = 100
"""Of all of the scripts, in steps."""


class Page(NamedTuple):
    share: float
    """Of the time, that its training gets until it is asked to leave: 2,000 small steps take a second or two."""
    epochs: int
    steps: int
    """All that it would train."""
    saves_on_sigterm: bool
    sigterm: int = 0
    """What it exits with then."""
    keeps: int | None = None
    """How many checkpoints its script leaves in the folder; None: all."""


PAGES = {
    "pytorch": Page(0.1, 20, 2000, saves_on_sigterm=True),
    "hugging-face": Page(1, 3, 1875, saves_on_sigterm=False, sigterm=-signal.SIGTERM, keeps=3),
    "lightning": Page(0.5, 20, 2000, saves_on_sigterm=False),
    "jax": Page(0.1, 20, 2000, saves_on_sigterm=True, keeps=3),
    "keras": Page(0.1, 20, 2000, saves_on_sigterm=True),
}


@pytest.fixture
def start(frameworks, tmp_path):
    return lambda page, script="": Training(frameworks, tmp_path, page, script)


def samples_of(training, *, until, then):
    """What the operator reads, a sample for each step that it sees, until there are two and something is so; then something is done at once."""
    samples: list[Any] = []

    def enough():
        if (sample := training.sample()) and (not samples or sample.step != samples[-1].step):
            samples.append(sample)
        return len(samples) > 1 and until()

    eventually(training.sample, "its page has a step", START_SECONDS, every=0.05)
    with training.slowed(PAGES[training.page].share):
        eventually(
            enough, "two steps were on its page, and what the test waits for", FIRST_CHECKPOINT_SECONDS, every=0.05
        )
        then()

    assert [one for one in samples if None in (one.loss, one.step, one.epoch, one.total_epochs)] == []
    steps, epochs = [one.step for one in samples], [one.epoch for one in samples]
    assert steps == sorted(steps)
    assert epochs == sorted(epochs)
    assert {one.total_epochs for one in samples} == {PAGES[training.page].epochs}
    assert all(0 < one.epoch <= one.total_epochs for one in samples)
    assert all(math.isfinite(one.loss) for one in samples)
    return samples


def complete(training):
    """The steps of the complete checkpoints, ascending, while it trains."""
    return [one.unit.step for one in training.look().seen if one.complete]


def left_behind(training):
    """The checkpoints that it has left, ascending: each with a step, and each complete."""
    view = training.look(ended=True)
    assert not view.error
    assert [(one.unit.name, one.verdict.evidence) for one in view.seen if not one.complete] == []
    units = [one.unit for one in view.seen]
    assert detect.newest(view.seen, since_ns=0) == view.seen[-1]
    assert None not in [unit.step for unit in units]
    return units


def keep_only(training, unit):
    """As a restore from the bucket makes it: the newest checkpoint, and no stop file."""
    for path in training.folder.iterdir():
        if path.name != unit.dir:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("page", PAGES)
def test_a_script_is_seen_and_saves_and_leaves_when_asked_and_goes_on(page, start):
    training = start(page)
    with training.running():
        samples = samples_of(training, until=lambda: complete(training), then=training.ask_to_stop)
        assert training.exit_code() == 0
    saved = left_behind(training)[-1]
    assert samples[-1].step <= saved.step < PAGES[page].steps

    keep_only(training, saved)
    with training.running():
        samples = samples_of(training, until=lambda: True, then=training.sigterm)
        assert samples[0].step > saved.step
        assert training.exit_code() == PAGES[page].sigterm
    steps = [unit.step for unit in left_behind(training)]
    later = [step for step in steps if step > saved.step]
    # A fast training has saved so often before it is slowed that its script has deleted the first.
    kept = [] if len(later) == PAGES[page].keeps else [saved.step]
    assert steps == [*kept, *later]
    if PAGES[page].saves_on_sigterm:
        assert samples[-1].step <= later[-1] < PAGES[page].steps
    else:
        assert [step for step in later if step % SAVE_EVERY] == []


@pytest.mark.parametrize(
    ("page", "argument", "waits"),
    [
        ("hugging-face", ("report_to=[],", "report_to=[], enable_jit_checkpoint=True,"), 3),
        ("lightning", ("save_top_k=-1)", "save_top_k=-1, save_on_exception=True)"), 0),
    ],
    ids=["just-in-time checkpoints", "save_on_exception"],
)
def test_one_argument_makes_it_save_the_step_of_the_moment_on_sigterm(page, argument, waits, start):
    script = script_of(page).replace(*argument)
    assert script != script_of(page)
    assert argument[1].split()[-1].split("=")[0] in (GUIDE / f"{page}.md").read_text()
    training = start(page, script)
    with training.running():
        samples = samples_of(training, until=lambda: True, then=training.sigterm)
        asked = time.monotonic()
        assert training.exit_code() == 0
        assert time.monotonic() - asked > waits
    saved = left_behind(training)[-1]
    assert samples[-1].step <= saved.step < PAGES[page].steps
    with training.running():
        samples = samples_of(training, until=lambda: True, then=training.sigterm)
        assert samples[0].step > saved.step


DISTRIBUTED = """
import os
import torch
import torch.distributed.checkpoint as dcp

dcp.save({"model": torch.ones(1000)}, checkpoint_id=os.environ["TRAININGRUN_CHECKPOINT_DIR"] + "/step_1200")
"""


def test_what_torch_distributed_checkpoint_saves_is_recognised_and_its_metadata_is_written_last(start):
    training = start("pytorch", DISTRIBUTED)
    with training.running():
        assert training.exit_code() == 0
    (saved,) = left_behind(training)
    assert saved.step == 1200
    assert detect.format_of(saved) == "TorchDCP"
    assert max(saved.files, key=lambda path: saved.files[path].mtime_ns) == "step_1200/.metadata"


def test_the_guide_names_the_versions_that_were_tried(frameworks):
    said = " ".join((GUIDE / "index.md").read_text().partition("## What was tried")[2].split())
    versions = dict(line.split() for line in (frameworks / "versions").read_text().splitlines())
    tried = [f"{name} {version.partition('+')[0]}" for name, version in versions.items()]
    assert [one for one in tried if one not in said] == []
