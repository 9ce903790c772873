"""The sample whose code knows nothing of the operator, on the real numpy: its losses are read in its log, and what it saves is complete."""

from __future__ import annotations

import os
import re
import time
from itertools import pairwise
from typing import Any

import pytest
import yaml
from documented import ROOT
from integration.trainings.test_sources import NAMES, Trained

from trainingrun_operator.agent.volume.look import Watcher
from trainingrun_operator.api.exchange import AgentConfig
from trainingrun_operator.api.run import Shutdown
from trainingrun_operator.core.facts.reading import Reading
from trainingrun_operator.edge.metrics.log.fold import Fold

pytestmark = [pytest.mark.trainings, pytest.mark.timeout(420)]

SAMPLE: dict[str, Any] = yaml.safe_load((ROOT / "manifests" / "samples" / "log-only.yaml").read_text())
# The digits are in the image of the trainings alone; here, a pixel in ten is brighter, and says which digit it is.
TABLE = (
    "np.hstack([np.random.default_rng(1).integers(0, 8, (1797, 64)) + 8 * (np.arange(1797)[:, None] % 10 == np.arange(64) % 10),"
    " np.arange(1797)[:, None] % 10])"
)
PLACES = {
    r"np\.loadtxt\(.*\)": TABLE,
    r"EPOCHS, BATCHES, RATE = 20,": "EPOCHS, BATCHES, RATE = 2,",
    r"time\.sleep\(0\.2\)": "time.sleep(0)",
}


@pytest.fixture(scope="module")
def trained(frameworks, tmp_path_factory):
    script = SAMPLE["spec"]["template"]["spec"]["containers"][0]["args"][0]
    for pattern, place in PLACES.items():
        script, found = re.subn(pattern, place, script)
        assert found == 1, pattern
    return Trained(frameworks, tmp_path_factory.mktemp("log-only"), script)


def test_every_line_that_it_prints_is_a_loss_at_its_step(trained):
    fold = Fold(NAMES)
    read: list[Any] = []
    for line in trained.printed.splitlines():
        fold.add(f"{line}\n")
        read.append(fold.reading())
    assert all(isinstance(one, Reading) for one in read)
    assert [one.step for one in read] == list(range(10, 241, 10))
    assert {one.total_epochs for one in read} == {2}
    assert [one.epoch for one in read] == [1] * 12 + [2] * 12


def test_its_loss_falls_below_the_threshold_in_two_observations_in_a_row(trained):
    losses = [float(one) for one in re.findall(r"loss (\S+)", trained.printed)]
    low = [one < SAMPLE["spec"]["autoStopLoss"] for one in losses]
    assert not low[0]
    assert (True, True) in pairwise(low)


def test_its_checkpoints_are_complete_without_a_word_of_the_operator(trained):
    config = AgentConfig(
        namespace="ml", run="log-only", run_uid="1", path=str(trained.folder), destination="", quiet_seconds=3600
    )
    a_minute_ago = time.time() - 60
    for path in trained.folder.rglob("*"):
        os.utime(path, (a_minute_ago, a_minute_ago))
    view = Watcher(config, Shutdown().file).look()
    assert {(one.unit.step, one.complete) for one in view.seen} == {(step, True) for step in range(20, 241, 20)}
