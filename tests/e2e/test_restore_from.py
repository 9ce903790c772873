"""A run starts from the checkpoint of another one, and only from one that it may read."""

from __future__ import annotations

import pytest
from e2e.runs import condition_of

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

SHORT = ("--epochs", "1", "--batch", "72", "--step-seconds", "0.1", "--save-every", "10")
LONGER = ("--epochs", "2", *SHORT[2:])


def test_a_run_starts_from_the_checkpoint_of_another(space):
    first = space.run("first", *SHORT)
    proven = first.wait_finished()["checkpoint"]
    objects = space.bucket.etags(first.layout.base)

    stranger = space.run("stranger", *SHORT, checkpoint={"restoreFrom": {"run": "first", "namespace": "default"}})
    refused = stranger.wait_condition("Accepted", "False", "RestoreNotAllowed")
    assert "may not start from checkpoints of namespace default" in refused["message"]

    second = space.run("second", *LONGER, checkpoint={"restoreFrom": {"run": "first"}})
    second.wait_training()
    second.log.wait(f"resumed from checkpoint-{proven['step']} at step {proven['step']}")
    status = second.wait_finished()
    restored = status["restored"]
    assert (restored["run"], restored["commit"]) == (f"{space.name}/first", proven["commit"])
    assert (restored["uri"], restored["step"]) == (proven["uri"], proven["step"])
    assert status["checkpoint"]["step"] == 2 * proven["step"]
    assert condition_of(status, "CheckpointSaved")["status"] == "True"
    second.assert_checkpoint_proven(status)
    assert space.bucket.etags(first.layout.base) == objects, "The other run's objects stay as they were."
