"""How long each step of a stop takes, for the table in docs/concepts.md: measured by `make exhaustive`, not judged.

A timed test would fail on a busy machine. What is asserted is that each stop went the whole road, in its order.
"""

from __future__ import annotations

import statistics
import time

import pytest
from e2e.outputs import tell
from e2e.own_operator import OwnOperator
from waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.exhaustive, pytest.mark.timeout(900)]

STOPS = 5
STUB = ("stub-training", "--epochs", "100", "--step-seconds", "0.2", "--save-every", "5")
ROAD = ("begin", "annotate stop", "annotate save", "advance Verifying", "advance Deleting", "advance Done")
"""Effects that every stop has, in this order. An effect's time is when its request came."""
POLL_SECONDS = 0.02


def test_how_long_each_step_of_a_stop_takes(space, capsys):
    own = OwnOperator.open(space)
    roads = [road(space, own, f"run{number}") for number in range(STOPS)]
    steps = list(dict.fromkeys(step for one in roads for step in one))
    for one in roads:
        times = [one[step] for step in ROAD]
        assert times == sorted(times), "It went the road in its order."
        assert one["advance Deleting"] < one["the pod is gone"]
    rows = {step: [one[step] for one in roads if step in one] for step in steps}
    lines = [
        f"  {step:44} {statistics.median(at):6.2f} s   ({min(at):.2f} to {max(at):.2f})"
        for step, at in sorted(rows.items(), key=lambda row: statistics.median(row[1]))
    ]
    title = f"seconds after the patch, median of {STOPS} stops one after another; a checkpoint of one small file; no machine"
    tell(capsys, "road-of-a-stop", "\n".join([title, *lines]))


def road(space, own, name):
    """By step, the seconds since the patch when it first came."""
    image = {"image": space.ground["TRAININGRUN_IMAGE"]}
    run = space.run(name, *STUB, container=image, labels=own.labels)
    run.wait_condition("CheckpointSaved")
    patched = time.time()
    run.merge({"spec": {"stop": True}})
    eventually(lambda: not run.pods(), "the pod is gone", every=POLL_SECONDS)
    gone = time.time() - patched
    run.wait_finished()
    run.assert_checkpoint_proven(run.status)
    since: dict[str, float] = {}
    for one in own.effects(name):
        if one["at"] >= patched:
            since.setdefault(one["effect"], one["at"] - patched)
    return since | {"the pod is gone": gone}
