"""What is said of a run's past: what its training started from, and what was lost before."""

from __future__ import annotations

import pytest
from builders import checkpoint_spec, make_run, make_status, make_stop

from trainingrun_operator.api.restored import PassedOver, Restored
from trainingrun_operator.api.status import SUSPENDED, CheckpointStatus, Phase, PhaseChange
from trainingrun_operator.core.past import beginning, earlier_losses, origin

COMMIT = "team/ml/bert/u/commits/i1-g0003.json"
OVER = (PassedOver(commit="i2-g0007", why="a.bin has other bytes."), PassedOver(commit="i2-g0006", why="it is gone"))
FROM_RUN = {"restoreFrom": {"run": "base", "namespace": "vision"}}
FROM_URI = {"restoreFrom": {"uri": "s3://bucket/team/vision/base/u"}}


def run_of(restored=None, of=None, **status):
    status = {"start_time": "2026-01-02T03:00:00Z"} | status
    return make_run(spec={"checkpoint": checkpoint_spec(**(of or {}))}, status=make_status(restored=restored, **status))


@pytest.mark.parametrize(
    ("restored", "said"),
    [
        pytest.param(None, (), id="not known"),
        pytest.param(Restored(pod="bert-0"), (), id="the beginning, as usual"),
        pytest.param(
            Restored(pod="bert-0", commit=COMMIT, dir="checkpoint-1100", step=1100),
            ("Pod bert-0 started from checkpoint-1100 of step 1100, restored from i1-g0003.",),
            id="its own checkpoint",
        ),
        pytest.param(
            Restored(pod="bert-0", commit=COMMIT, dir="."),
            ("Pod bert-0 started from the checkpoint, restored from i1-g0003.",),
            id="one without a name or a step",
        ),
        pytest.param(
            Restored(commit=COMMIT, dir="last.ckpt", step=0),
            ("The training started from last.ckpt of step 0, restored from i1-g0003.",),
            id="of a pod that is not named, at step 0",
        ),
        pytest.param(
            Restored(pod="bert-0", commit=COMMIT, dir="a", run="vision/base", kept=1),
            ("Pod bert-0 started from a, restored from i1-g0003 of run vision/base. 1 newer file in its volume stayed.",),
            id="another run's, with a newer file in the volume",
        ),
        pytest.param(
            Restored(pod="bert-0", dir="step_100", step=100, in_volume=True, kept=12),
            (
                "Pod bert-0 started from step_100 of step 100 in its volume, which is further than all in the bucket. 12 newer files in its volume stayed.",
            ),
            id="the volume's",
        ),
        pytest.param(
            Restored(pod="bert-0", commit=COMMIT, dir="a", passed_over=OVER[:1]),
            (
                "Pod bert-0 started from a, restored from i1-g0003.",
                "The restore passed over i2-g0007: a.bin has other bytes.",
            ),
            id="after one that is damaged",
        ),
        pytest.param(
            Restored(pod="bert-0", commit=COMMIT, dir="a", passed_over=OVER, left_out=("latest: it leads out", "x: y")),
            (
                "Pod bert-0 started from a, restored from i1-g0003.",
                "The restore passed over i2-g0007: a.bin has other bytes. And 1 more, see status.restored.",
                "The restore left out latest: it leads out. And 1 more, see status.restored.",
            ),
            id="after several, without some links",
        ),
        pytest.param(
            Restored(pod="bert-0", passed_over=OVER[1:]),
            (
                "Pod bert-0 started from the beginning: there was no checkpoint.",
                "The restore passed over i2-g0006: it is gone.",
            ),
            id="the beginning, after one that could not be read",
        ),
    ],
)  # fmt: skip
def test_what_a_training_started_from_is_said_unless_it_is_the_beginning_as_usual(restored, said):
    assert beginning(run_of(restored)) == said


@pytest.mark.parametrize(
    ("of", "where"),
    [
        pytest.param({}, "", id="none"),
        pytest.param(FROM_RUN, "the furthest checkpoint of run vision/base", id="a run"),
        pytest.param({"restoreFrom": {"run": "base"}}, "the furthest checkpoint of run ml/base", id="of its own namespace"),
        pytest.param(FROM_URI, "s3://bucket/team/vision/base/u", id="an address"),
    ],
)  # fmt: skip
def test_where_a_run_is_to_start_from_is_said_until_its_training_has_started(of, where):
    waiting = (f"It is to start from {where} (spec.checkpoint.restoreFrom).",) if where else ()
    assert origin(run_of(of=of)) == where
    assert beginning(run_of(of=of, start_time=None)) == waiting
    assert beginning(run_of(of=of)) == (), "an older operator has not written it"
    ended = {"start_time": None, "termination": make_stop(Phase.DONE)}
    assert beginning(run_of(of=of, **ended)) == ()


def test_a_run_that_saves_nothing_starts_from_nothing():
    assert origin(make_run(spec={"checkpoint": {"mode": "Disabled"}})) == ""


def test_the_beginning_is_said_where_another_run_should_have_been_it():
    started = run_of(Restored(pod="bert-0"), FROM_RUN)
    assert beginning(started) == ("Pod bert-0 started from the beginning: there was no checkpoint.",)


LOST = PhaseChange(phase="Suspended", at="2026-01-02T03:00:00Z", data_loss="Steps 1100 to 1200 are lost.")
AGAIN = PhaseChange(phase="Suspended", at="2026-01-03T03:00:00Z", data_loss="x" * 1023 + "…")
CALM = PhaseChange(phase="Running", at="2026-01-02T04:00:00Z")


@pytest.mark.parametrize(
    ("status", "losses"),
    [
        pytest.param({"history": (CALM,)}, (), id="none"),
        pytest.param({"history": (LOST, CALM, AGAIN, CALM)}, (LOST, AGAIN), id="two suspensions"),
        pytest.param({"history": (LOST,), "termination": make_stop(Phase.DONE, status=SUSPENDED, data_loss=LOST.data_loss)}, (), id="of the suspension that lasts"),
        pytest.param({"history": (LOST, AGAIN), "termination": make_stop(Phase.DONE, data_loss="x" * 2000)}, (LOST,), id="of the end, cut"),
        pytest.param({"history": (LOST, CALM), "checkpoint": CheckpointStatus(data_loss=LOST.data_loss)}, (), id="the checkpoint still shows it"),
        pytest.param({"history": (LOST, CALM), "checkpoint": CheckpointStatus(commit=COMMIT)}, (LOST,), id="a later one is proven"),
    ],
)  # fmt: skip
def test_what_was_lost_before_is_told_unless_the_state_shows_it_now(status, losses):
    assert earlier_losses(run_of(**status)) == losses
