"""What is left of a run in the bucket: its story, its curve and the end of its log; and that it is read without the cluster."""

from __future__ import annotations

import gzip
import json

import pytest
from e2e.runs import WAIT_SECONDS
from waiting import eventually

from trainingrun_operator.api.curve import Curve

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

READ = ("--epochs", "2", "--batch", "72", "--step-seconds", "0.1", "--save-every", "10", "--reads", "4")
"""The first steps are read: a curve needs readings."""


def test_the_story_of_a_run_is_beside_its_commits_once_it_has_ended(steady_operator, space):
    run = space.run("told", *READ)
    status = run.wait_finished()
    keys = {run.layout.story, run.layout.curve, run.layout.log()}

    def written():
        there = {one["Key"] for one in space.bucket.objects(run.layout.base)}
        return there if keys <= there else None

    eventually(written, "run.json, curve.json and log.txt.gz are in the bucket", WAIT_SECONDS)
    told = json.loads(space.bucket.read(run.layout.story))
    assert told["status"]["terminationStatus"] == status["terminationStatus"] == "auto_complete"
    assert told["metadata"]["uid"] == run.read()["metadata"]["uid"]
    assert "env" not in json.dumps(told["spec"]["template"])
    assert Curve.model_validate_json(space.bucket.read(run.layout.curve)).points
    assert b"step" in gzip.decompress(space.bucket.read(run.layout.log()))
