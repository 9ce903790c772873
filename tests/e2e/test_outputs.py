"""What kubectl shows: kept under build/outputs as it was, for the README to quote."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def test_kubectl_reads_well_while_a_run_trains_and_when_it_is_done(space):
    # The first steps are read: without one of the first epoch, there is no progress to show.
    trains = ("--epochs", "20", "--step-seconds", "0.1", "--save-every", "20", "--reads", "2")
    run = space.run("digits", *trains, autoStopLoss=0.4)
    run.wait_training()
    run.wait(lambda s: (s.get("checkpoint") or {}).get("uri"), "a first checkpoint is verified")
    assert "running" not in space.captured("get-running", "kubectl get trun").lower().split("\n")[0]

    run.wait_finished()
    assert "condition met" in space.captured("wait", "kubectl wait --for=condition=Finished trun/digits --timeout=120s")
    header, row = table(space.captured("get", "kubectl get trun"))
    assert header == ["NAME", "PHASE", "LOSS", "TARGET", "STEP", "PROGRESS", "REASON", "AGE"]
    assert row[:2] == ["digits", "Succeeded"]
    assert float(row[2]) < 0.4
    assert (row[3], row[6]) == ("0.4", "auto_low_loss")

    header, row = table(space.captured("get-wide", "kubectl get trun -o wide"))
    assert header[8:] == ["BEST", "ETA", "CHECKPOINT", "NODES", "COST"]
    cells = dict(zip(header, row, strict=False))
    assert float(cells["BEST"]) < 0.4
    assert any(cell.startswith("s3://") and "checkpoint-" in cell for cell in row), (
        "The checkpoint can be copied from here."
    )

    described = space.captured("describe", "kubectl describe trun digits")
    for words in (
        "Termination Message:",
        "Loss 0.",
        "CheckpointSaved",
        "Finished",
        "Events:",
        "Stopping",
        "auto_low_loss",
    ):
        assert words in described, f"`kubectl describe` shows {words}"
    events = described.split("Events:")[1]
    for reason in ("Started", "Stopping", "CheckpointSaved", "Finished"):
        assert reason in events, f"The events tell the story, {reason} included: {events}"

    chosen = space.captured("get-selected", "kubectl get trun --field-selector status.terminationStatus=auto_low_loss")
    assert "digits" in chosen
    assert "No resources found" in space.shell("kubectl get trun --field-selector status.phase=Running")
    assert "digits" in space.captured("get-category", "kubectl get training")


def test_kubectl_explain_is_the_reference(space):
    explained = space.captured("explain", "kubectl explain trun.spec")
    for field, words in {
        "autoStopLoss": "negative",
        "stop": "Final",
        "pollIntervalSeconds": "in seconds",
        "checkpoint": "-required-",
    }.items():
        assert field in explained
        assert words in explained, f"`kubectl explain trun.spec` says {words!r} of {field}"
    assert "DESCRIPTION" in space.captured("explain-checkpoint", "kubectl explain trun.spec.checkpoint")
    assert "awsAutoScaling" in space.captured("explain-pool", "kubectl explain gnp.spec")
    tree = space.captured("explain-recursive", "kubectl explain trun --recursive")
    for field in ("terminationStatus", "terminationMessage", "verifiedAt", "wouldStopAt"):
        assert field in tree


def test_the_pool_is_listed(space):
    assert "gpu" in space.captured("get-pools", "kubectl get gnp -o wide")


def table(text):
    lines = [line.split() for line in text.strip().splitlines()]
    assert len(lines) == 2, text
    return lines
