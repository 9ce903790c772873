"""A few runs that are hostile in every way at once, beside a good one: it ends in time, and the operator neither ends nor grows. `make bench` has 2,000 runs."""

from __future__ import annotations

import pytest
from bench.mix import memory_limit_mib
from e2e.crowd import LISTING_PORT, MANIFEST_PORT, Crowd
from e2e.outputs import tell
from e2e.runs import WAIT_SECONDS
from waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

EACH = 3
"""Hostile runs of each kind."""
STUB = ("stub-training", "--epochs", "100", "--step-seconds", "0.2", "--save-every", "20")
MIB = 2**20
GROWTH_MIB = 96
"""By all of them."""


def test_runs_that_are_hostile_in_every_way_at_once_take_nothing_from_a_good_one(space, capsys):
    crowd = Crowd.open(space, ["loud"], silent=0, env={"TRAININGRUN_RECHECK_SECONDS": "2"})
    own = crowd.own
    good = space.run("good", *STUB, container={"image": space.ground["TRAININGRUN_IMAGE"]}, labels=own.labels)
    good.wait_condition("CheckpointSaved")
    before = own.usage()

    refused = {
        "InvalidTemplate": crowd.add_templates("loud", "template", EACH),
        "SecretTooLarge": crowd.add_authorities("loud", "authority", EACH),
        "AnswerTooLarge": [
            *crowd.add_dead_buckets("loud", "listing", [LISTING_PORT] * EACH, every=1),
            *crowd.add_credentials("loud", "credentials", EACH),
        ],
        "EndedBefore": crowd.add_dead_buckets("loud", "manifest", [MANIFEST_PORT] * EACH, every=1),
    }
    crowd.add("loud", "page", EACH, every=1)
    reports = crowd.add("loud", "report", EACH, every=1, saves=True)
    crowd.add("loud", "flips", EACH, every=1, saves=True)
    for reason, runs in refused.items():
        for run in runs:
            run.wait_condition("Accepted", "False", reason)
    for run in reports:
        told = run.wait_condition("CheckpointSaved", "Unknown", "ReportRefused")
        assert "field markers" in told["message"], told
    eventually(
        lambda: all(crowd.counts().get(kind, 0) == EACH for kind in ("page", "flips")), "all are polled", WAIT_SECONDS
    )

    good.merge({"spec": {"stop": True}})
    good.wait_finished()
    good.assert_checkpoint_proven(good.status)
    usage = own.usage()
    text = (
        f"{EACH} hostile runs of each of 8 kinds: {before['rss_bytes'] / MIB:.0f} MiB before, {usage['peak_bytes'] / MIB:.0f} at most,"
        f" {usage['cpu_seconds'] - before['cpu_seconds']:.1f} s of CPU"
    )
    tell(capsys, "hostile-mix", text)
    assert own.state()["starts"] == 1, "The operator was started once."
    assert usage["peak_bytes"] < memory_limit_mib() * MIB, text
    assert usage["peak_bytes"] - before["peak_bytes"] < GROWTH_MIB * MIB, text
