"""What is left of a run in the bucket: its story, its curve and the end of its log; and that it is read without the cluster."""

from __future__ import annotations

import gzip
import json

import pytest
from waiting import eventually

from trainingrun_operator.api.curve import Curve

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

READ = ("--epochs", "2", "--batch", "72", "--step-seconds", "0.4", "--save-every", "10")
"""Long enough for some readings: a curve needs them."""


def test_the_story_of_a_run_is_beside_its_commits_once_it_has_ended(space):
    run = space.run("told", *READ)
    status = run.wait_finished()
    keys = {run.layout.story, run.layout.curve, run.layout.log()}

    def written():
        there = {one["Key"] for one in space.bucket.objects(run.layout.base)}
        return there if keys <= there else None

    eventually(written, "run.json, curve.json and log.txt.gz are in the bucket", 150)
    told = json.loads(space.bucket.read(run.layout.story))
    assert told["status"]["terminationStatus"] == status["terminationStatus"] == "auto_complete"
    assert told["metadata"]["uid"] == run.read()["metadata"]["uid"]
    assert "env" not in json.dumps(told["spec"]["template"])
    assert Curve.model_validate_json(space.bucket.read(run.layout.curve)).points
    assert b"step" in gzip.decompress(space.bucket.read(run.layout.log()))
