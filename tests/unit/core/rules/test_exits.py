"""When a training that has exited is complete, and when it has crashed."""

from __future__ import annotations

import pytest
from builders import (
    NOW,
    POD_UID,
    checkpoint_spec,
    exited_pod,
    final_epoch,
    finished_pod,
    make_agent,
    make_observed,
    make_pod,
    make_reading,
    make_run,
    make_saved,
    make_status,
    make_verified,
    make_workload,
    pending_pod,
    track_of,
)
from pydantic import ValidationError

from trainingrun_operator.api.exchange import MarkerSeen
from trainingrun_operator.api.status import Phase, Progress
from trainingrun_operator.checkpoints.documents import Checkpoint
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.effects import Annotate, Begin, RecordEvent
from trainingrun_operator.core.rules import exits
from trainingrun_operator.core.rules.chain import why_end
from trainingrun_operator.core.status import render
from trainingrun_operator.core.track import Track

COMPLETE, FAILED = "auto_complete", "failed"
MARKED = make_agent(markers=(MarkerSeen(name="COMPLETE", age_seconds=5),))


def exited(seen):
    """What the exit code of the training ends the run by; None: it does not."""
    return why_end(seen, (exits.exit_code, exits.crashed))


@pytest.mark.parametrize(
    ("pod", "agent", "failed", "status"),
    [
        pytest.param(make_pod(), None, 0, None, id="a training that runs has not exited"),
        pytest.param(pending_pod(), None, 0, None, id="nor has one that never started"),
        pytest.param(exited_pod(0), None, 0, COMPLETE, id="exit code 0 is complete"),
        pytest.param(exited_pod(0), None, 99, COMPLETE, id="exit code 0 is complete after any number of crashes"),
        pytest.param(finished_pod(0), None, 0, COMPLETE, id="exit code 0 is complete though the pod is over"),
        pytest.param(exited_pod(1), MARKED, 0, COMPLETE, id="a marker and then a non-zero exit code is complete"),
        pytest.param(exited_pod(1), make_agent(), 3, FAILED, id="a crash with no attempt left is the end"),
        pytest.param(exited_pod(1), make_agent(), 2, None, id="a crash with attempts left is not"),
        pytest.param(exited_pod(137), None, 0, None, id="nor is the first crash, whatever its code"),
        pytest.param(exited_pod(0, gate_open=True), None, 0, None, id="a pod that was let go is judged no more"),
        pytest.param(
            exited_pod(0, deleting=True), None, 0, None, id="exit code 0 of a pod that was told to go is not complete"
        ),
        pytest.param(exited_pod(143, deleting=True), None, 3, None, id="nor is it a crash"),
        pytest.param(finished_pod(1), None, 3, None, id="a crashed pod that is over is counted by its Job"),
        pytest.param(finished_pod(1), None, 4, FAILED, id="and is the end when it was one too many"),
    ],
)
def test_exit_codes(pod, agent, failed, status):
    seen = make_observed(pods=(pod,), agent=agent, workload=make_workload(failed=failed))
    found = exited(seen)
    assert (found.status if found else None) == status


def test_without_a_pod_nothing_has_exited():
    assert exited(make_observed(pods=())) is None


def test_a_marker_before_a_crash_is_told_as_a_warning():
    found = exited(make_observed(pods=(exited_pod(134),), agent=MARKED))
    assert found is not None
    assert found.message == "Training wrote the marker COMPLETE and then ended with exit code 134."
    assert (
        found.warning
        == "The training ended with exit code 134 after the completion marker COMPLETE: the run counts as complete."
    )
    assert [(e.what, e.value) for e in found.evidence] == [("marker", "COMPLETE"), ("exitCode", "134")]


@pytest.mark.parametrize(
    ("limit", "failed", "log", "message"),
    [
        pytest.param(0, 0, "", "Training crashed once (backoffLimit 0), last with exit code 2.", id="once"),
        pytest.param(3, 3, "", "Training crashed 4 times (backoffLimit 3), last with exit code 2.", id="more often"),
        pytest.param(
            0,
            0,
            "CUDA out of memory",
            "Training crashed once (backoffLimit 0), last with exit code 2.",
            id="without the end of its log, which may have secrets",
        ),
    ],
)
def test_a_crash_for_good_says_how_often_and_how(limit, failed, log, message):
    run = make_run(spec={"backoffLimit": limit})
    seen = make_observed(run=run, pods=(exited_pod(2),), workload=make_workload(failed=failed), log_tail=log)
    found = exited(seen)
    assert found is not None
    assert (found.message, found.actor) == (message, "exit code")


def test_crashes_are_counted_without_a_job_too():
    assert exits.crashes(make_observed(workload=None, pods=(exited_pod(1),))) == 1
    assert exits.crashes(make_observed(workload=make_workload(failed=2), pods=())) == 2


def test_a_crash_with_attempts_left_is_saved_behind_its_gate_first():
    run = make_run(spec={"checkpoint": checkpoint_spec()})
    effects = decide(make_observed(run=run, pods=(exited_pod(1),))).effects
    assert [type(effect) for effect in effects] == [Annotate]
    assert not any(isinstance(effect, Begin) for effect in effects)


# -- how far the training was -----------------------------------------------------------------------------------


def read(*rows, total=3):
    """A track of readings 10 seconds apart: step and epoch of each."""
    start = NOW - 10 * len(rows)
    return track_of(
        *(
            (start + 10 * n, make_reading(loss=1.9, step=step, epoch=epoch, total_epochs=total))
            for n, (step, epoch) in enumerate(rows)
        )
    )


@pytest.mark.parametrize(
    ("track", "where"),
    [
        pytest.param(read((100, 0.18), (150, 0.27), (200, 0.36)), "with epoch 0.36 of 3 at step 200", id="a fraction of the first epoch"),
        pytest.param(read((100, 0.1), (200, 0.2), total=1), "with epoch 0.2 of 1 at step 200", id="a fraction of the only epoch"),
        pytest.param(read((2100, 2.1), (2200, 2.2)), "with epoch 2.2 of 3 at step 2200", id="a fraction of the last epoch"),
        pytest.param(read((100, 0), (200, 1), total=5), "with epoch 1 of 5 at step 200", id="a whole epoch, counted from 0"),
        pytest.param(read((50, 1), (100, 1), (200, 2)), "with epoch 2 of 3 at step 200", id="a whole epoch, counted from 1"),
        pytest.param(read((100, 1), (200, 3)), "", id="the last of them"),
        pytest.param(read((100, 0), (200, 2)), "", id="the last of them, counted from 0"),
        pytest.param(read((100, 2.7), (200, 2.75)), "", id="nearly the end"),
        pytest.param(read((0, 0), (1000, 1.1)), "", id="no further from the end than two readings"),
        pytest.param(read((0, 1), (10, 1), (110, 11), (210, 21), total=22), "", id="no further, in whole epochs"),
        pytest.param(read((100, 0), (200, 0)), "with epoch 0 of 3 at step 200", id="the first epoch, counted from 0"),
        pytest.param(read((100, 0.2), (200, 0.4), total=None), "", id="no total is known"),
        pytest.param(read((100, None), (200, None)), "", id="no epoch is known"),
        pytest.param(read((100, 0.2), (200, 0.4), total=0), "", id="a total of nothing"),
        pytest.param(Track(), "", id="nothing was read"),
    ],
)  # fmt: skip
def test_exit_code_0_far_from_the_end_is_complete_and_told(track, where):
    seen = make_observed(pods=(exited_pod(0),), track=track)
    found = exited(seen)
    assert found is not None
    assert (found.status, found.reason) == (COMPLETE, "ExitedEarly" if where else "ExitCodeZero")
    assert found.message == f"Training finished with exit code 0{', ' + where if where else ''}."
    begin, *events = decide(seen).effects[-3:] if where else decide(seen).effects[-2:]
    assert isinstance(begin, Begin)
    warnings = [one.message for one in events if isinstance(one, RecordEvent) and one.warning]
    assert warnings == ([found.warning] if where else [])
    assert where in found.warning


@pytest.mark.parametrize(
    ("of_pod", "where"),
    [
        pytest.param(POD_UID, "with epoch 0.36 of 3 at step 200", id="of this pod"),
        pytest.param("earlier", "", id="of a pod that it replaced"),
    ],
)
def test_how_far_it_was_is_known_after_a_restart_of_the_operator(of_pod, where):
    progress = Progress(step=200, epoch="0.36", total_epochs=3, percent=12, epoch_base=0, pod_uid=of_pod)
    run = make_run(status=make_status(progress=progress))
    found = exited(make_observed(run=run, pods=(exited_pod(0),), track=Track()))
    assert found is not None
    assert where in found.warning
    assert bool(found.warning) == bool(where)


@pytest.mark.parametrize(("epoch", "percent", "step"), [(0.36, 12, 200), (2.9, 100, 210)])
def test_the_progress_of_a_training_that_exited_early_stays_what_the_metrics_said(epoch, percent, step):
    track = read((100, epoch / 2), (200, epoch))
    begin = next(e for e in decide(make_observed(pods=(exited_pod(0),), track=track)).effects if isinstance(e, Begin))
    for phase in (Phase.SAVING, Phase.DONE):
        stop = begin.termination.model_copy(update={"phase": phase, "saved": make_saved(step=210)})
        run = make_run(status=make_status(termination=stop))
        shown = render(make_observed(run=run, pods=(exited_pod(0),), track=track)).progress
        assert shown is not None
        assert (shown.percent, shown.step, shown.eta_seconds) == (percent, step, None)


# -- what the kubelet says of it ---------------------------------------------------------------------------------


def test_exit_code_0_of_a_training_that_lacked_memory_is_complete_and_told():
    found = exited(make_observed(pods=(exited_pod(0, exit_reason="OOMKilled"),)))
    assert found is not None
    assert (found.status, found.message) == (COMPLETE, "Training finished with exit code 0 (OOMKilled).")
    assert found.warning == "The kubelet says OOMKilled of a training that exited with 0: the run counts as complete."
    assert [(e.what, e.value) for e in found.evidence] == [("exitCode", "0"), ("exitReason", "OOMKilled")]


@pytest.mark.parametrize(
    ("reason", "more"),
    [
        ("OOMKilled", " It used more host memory than its limit allows."),
        ("StartError: exec: pyhton: executable file not found in $PATH", ""),
    ],
)
def test_a_crash_is_told_with_the_kubelets_reason(reason, more):
    run = make_run(spec={"backoffLimit": 0})
    found = exited(make_observed(run=run, pods=(exited_pod(137, exit_reason=reason),)))
    assert found is not None
    assert found.message == f"Training crashed once (backoffLimit 0), last with exit code 137 ({reason}).{more}"
    assert [(e.what, e.value) for e in found.evidence] == [("exitCode", "137"), ("exitReason", reason)]
    saved = make_observed(
        pods=(exited_pod(137, exit_reason=reason),), answer=make_verified(termination_id=f"crash-{POD_UID}")
    )
    (event,) = [one for one in decide(saved).effects if isinstance(one, RecordEvent)]
    assert f"exit code 137 ({reason})" in event.message


def checkpoint(step=500, *, complete=True):
    return make_verified(checkpoint=Checkpoint(dir=f"checkpoint-{step}", step=step, complete=complete, evidence="all"))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        pytest.param({}, True, id="the last epoch is over and proven"),
        pytest.param({"verified": checkpoint(600)}, True, id="a later checkpoint is proven"),
        pytest.param({"track": final_epoch(epoch=2)}, True, id="a whole number of the last epoch"),
        pytest.param({"track": final_epoch(epoch=2.4)}, False, id="within the last epoch"),
        pytest.param({"track": final_epoch(epoch=1)}, False, id="before the last epoch"),
        pytest.param({"track": Track()}, False, id="no epoch is known"),
        pytest.param({"verified": None}, False, id="nothing is proven"),
        pytest.param({"verified": checkpoint(400)}, False, id="only an older checkpoint is proven"),
        pytest.param({"verified": checkpoint(complete=False)}, False, id="only a part of it is proven"),
        pytest.param({"verified": make_verified(checkpoint=None)}, False, id="only files are proven"),
    ],
)
@pytest.mark.parametrize("failed", [0, 3])
def test_a_crash_after_the_last_epoch_says_so_and_what_to_do(fields, said, failed):
    given = {"track": final_epoch(epoch=3), "verified": checkpoint(), **fields}
    seen = make_observed(pods=(exited_pod(139),), workload=make_workload(failed=failed), **given)
    found = exits.crashed(seen)
    assert found is not None
    assert found.fires == (failed == 3)
    assert ("is proven" in found.message and "COMPLETE" in found.message) == said


def test_without_marker_files_a_crash_after_the_last_epoch_names_the_field():
    run = make_run(spec={"completion": {"markerFiles": []}})
    seen = make_observed(run=run, pods=(exited_pod(139),), track=final_epoch(epoch=3), verified=checkpoint())
    found = exits.crashed(seen)
    assert found is not None
    assert "spec.completion.markerFiles" in found.message


# -- exit codes that are not worth another attempt ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("pod", "agent", "ends"),
    [
        pytest.param(exited_pod(2), make_agent(), (FAILED, "FatalExitCode"), id="a code of the list"),
        pytest.param(exited_pod(3), make_agent(), None, id="another code"),
        pytest.param(exited_pod(0), make_agent(), (COMPLETE, "ExitCodeZero"), id="no error"),
        pytest.param(exited_pod(2), MARKED, (COMPLETE, "ExitAfterMarker"), id="after the marker"),
        pytest.param(exited_pod(2, disruption="Evicted"), make_agent(), None, id="of a pod that was told to leave"),
        pytest.param(exited_pod(2, starts_again=True), make_agent(), None, id="of a training that is started again"),
        pytest.param(exited_pod(2, gate_open=True), make_agent(), None, id="of a pod that is replaced already"),
        pytest.param(make_pod(), make_agent(), None, id="it trains"),
    ],
)
def test_a_fatal_exit_code_ends_the_run_at_its_first_crash(pod, agent, ends):
    run = make_run(spec={"crash": {"fatalExitCodes": [2, 78]}})
    found = exited(make_observed(run=run, pods=(pod,), agent=agent))
    assert ((found.status, found.reason) if found else None) == ends


@pytest.mark.parametrize("log", ["", "bad flag"])
def test_a_fatal_exit_code_says_which_field_made_it_fatal(log):
    run = make_run(spec={"crash": {"fatalExitCodes": [2]}})
    found = exited(make_observed(run=run, pods=(exited_pod(2),), log_tail=log))
    assert found is not None
    message = "Training crashed with exit code 2, which spec.crash.fatalExitCodes names: it is not tried again."
    assert (found.message, found.actor) == (message, "exit code")
    assert [(e.what, e.value) for e in found.evidence] == [("exitCode", "2")]


@pytest.mark.parametrize("code", [0, -1, 256])
def test_only_an_exit_code_of_a_failure_can_be_fatal(code):
    with pytest.raises(ValidationError):
        make_run(spec={"crash": {"fatalExitCodes": [code]}})
