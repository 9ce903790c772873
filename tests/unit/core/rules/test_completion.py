"""When a run is complete, when it has crashed, and when it can never start."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import (
    NOW,
    POD_UID,
    checkpoint_spec,
    exited_pod,
    finished_pod,
    make_agent,
    make_found,
    make_job,
    make_observed,
    make_pod,
    make_reading,
    make_run,
    pending_pod,
)

from trainingrun_operator.api.exchange import MarkerSeen
from trainingrun_operator.api.status import Progress, TerminationStatus
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.defaults import Defaults
from trainingrun_operator.core.effects import Annotate, Begin
from trainingrun_operator.core.facts.reading import Failure
from trainingrun_operator.core.rules import completion
from trainingrun_operator.core.track import Track, fold, resumed

COMPLETE, FAILED = TerminationStatus.AUTO_COMPLETE, TerminationStatus.FAILED
MARKED = make_agent(markers=(MarkerSeen(name="COMPLETE", age_seconds=5),))


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
        pytest.param(exited_pod(0, released=True), None, 0, None, id="a pod that was let go is judged no more"),
        pytest.param(
            exited_pod(0, deleting=True), None, 0, None, id="exit code 0 of a pod that was told to go is not complete"
        ),
        pytest.param(exited_pod(143, deleting=True), None, 3, None, id="nor is it a crash"),
        pytest.param(finished_pod(1), None, 3, None, id="a crashed pod that is over is counted by its Job"),
        pytest.param(finished_pod(1), None, 4, FAILED, id="and is the end when it was one too many"),
    ],
)
def test_exit_codes(pod, agent, failed, status):
    seen = make_observed(pods=(pod,), agent=agent, job=make_job(failed=failed))
    verdict = completion.exited(seen)
    assert (verdict.status if verdict else None) == status


def test_without_a_pod_nothing_has_exited():
    assert completion.exited(make_observed(pods=())) is None


def test_a_marker_before_a_crash_is_told_as_a_warning():
    verdict = completion.exited(make_observed(pods=(exited_pod(134),), agent=MARKED))
    assert verdict is not None
    assert verdict.message == "Training wrote the marker COMPLETE and then ended with exit code 134."
    assert verdict.warning == "Exit code 134 came after the completion marker COMPLETE: taken for complete."
    assert [(e.what, e.value) for e in verdict.evidence] == [("marker", "COMPLETE"), ("exitCode", "134")]


@pytest.mark.parametrize(
    ("limit", "failed", "log", "message"),
    [
        pytest.param(0, 0, "", "Training crashed once (backoffLimit 0), last with exit code 2.", id="once"),
        pytest.param(3, 3, "", "Training crashed 4 times (backoffLimit 3), last with exit code 2.", id="more often"),
        pytest.param(
            0,
            0,
            "CUDA out of memory",
            "Training crashed once (backoffLimit 0), last with exit code 2. Last lines of its log: CUDA out of memory",
            id="with the end of its log",
        ),
    ],
)
def test_a_crash_for_good_says_how_often_and_how(limit, failed, log, message):
    run = make_run(spec={"backoffLimit": limit})
    seen = make_observed(run=run, pods=(exited_pod(2),), job=make_job(failed=failed), log_tail=log)
    verdict = completion.exited(seen)
    assert verdict is not None
    assert (verdict.message, verdict.actor) == (message, "exit code")


def test_crashes_are_counted_without_a_job_too():
    assert completion.crashes(make_observed(job=None), exited_pod(1)) == 1
    assert completion.crashes(make_observed(job=make_job(failed=2)), None) == 2


# -- that can never start -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "seconds", "ends"),
    [
        pytest.param("ImagePullBackOff", 299, False, id="an image may fail to be pulled for a while"),
        pytest.param("ImagePullBackOff", 300, True, id="but not for ever"),
        pytest.param("ErrImagePull", 300, True, id="by any of its names"),
        pytest.param("InvalidImageName", 300, True, id="an image name may be wrong"),
        pytest.param("CreateContainerConfigError", 300, True, id="a secret may be missing"),
        pytest.param("Unschedulable", 9999, False, id="waiting for a node is patience, not failure"),
        pytest.param("", 9999, False, id="so is waiting for nothing in particular"),
    ],
)
def test_image_errors(reason, seconds, ends):
    pod = pending_pod(waiting_reason=reason, waiting_message='pull "acme/bert": not found')
    verdict = completion.never_started(make_observed(pods=(pod,), waiting_seconds=seconds))
    assert (verdict is not None) == ends
    if verdict is not None:
        assert verdict.status is FAILED
        assert verdict.message == f'The pod cannot start: {reason}: pull "acme/bert": not found'


@pytest.mark.parametrize(
    ("limit", "seconds", "ends"),
    [
        pytest.param(0, 9e9, False, id="for ever where the installation does not say how long"),
        pytest.param(600, 599, False, id="for as long as it says"),
        pytest.param(600, 600, True, id="and no longer"),
    ],
)
def test_a_pod_waits_for_a_node(limit, seconds, ends):
    pod = pending_pod(waiting_reason="Unschedulable", waiting_message="0/3 nodes are available")
    defaults = Defaults(unschedulable_seconds=limit)
    verdict = completion.never_started(make_observed(pods=(pod,), waiting_seconds=seconds, defaults=defaults))
    assert (verdict is not None) == ends
    if verdict is not None:
        assert (verdict.status, verdict.actor) == (FAILED, "scheduler")
        assert verdict.message == "The pod cannot start: Unschedulable: 0/3 nodes are available"


@pytest.mark.parametrize(
    ("reason", "lacks"),
    [("ErrImagePull", "image"), ("ImagePullBackOff", "image"), ("Unschedulable", "node"), ("SchedulingGated", ""), ("", "")],
)  # fmt: skip
def test_waiting_is_timed_by_what_a_pod_lacks_whatever_it_is_called(reason, lacks):
    assert completion.lacks(pending_pod(waiting_reason=reason)) == lacks


@pytest.mark.parametrize(
    ("pods", "job", "log", "message"),
    [
        pytest.param((), make_job(failed=3), "", None, id="as many failed pods as allowed"),
        pytest.param((pending_pod(),), make_job(failed=9), "", None, id="another pod is already on its way"),
        pytest.param((), None, "", None, id="no Job"),
        pytest.param(
            (),
            make_job(failed=4),
            "",
            "4 pods failed before their training could start (backoffLimit 3).",
            id="one failed pod too many",
        ),
        pytest.param(
            (),
            make_job(failed=4),
            "no such file",
            "4 pods failed before their training could start (backoffLimit 3). Last lines of the log: no such file",
            id="with the end of its log",
        ),
        pytest.param((make_pod(),), make_job(finished=True), "", None, id="a Job that ended while a pod still runs"),
        pytest.param(
            (),
            make_job(finished=True),
            "",
            "The Job ended, and no pod is left to tell how its training did: somebody deleted or evicted it.",
            id="a Job that ended with nobody left to ask",
        ),
    ],
)
def test_pods_that_never_trained(pods, job, log, message):
    verdict = completion.never_started(make_observed(pods=pods, job=job, log_tail=log))
    assert (verdict.message if verdict else None) == message


# -- inferred -----------------------------------------------------------------------------------------------------


def final_epoch(*, base=0, total=3, epoch=None, every=10.0, steps=5, polls=3, then=()):
    """A track that came to its last epoch with a step every so many seconds, and then stood still for some polls 10 seconds apart."""
    epochs = [base, base, *[epoch if epoch is not None else total - 1 + base] * (steps - 1)]
    track, now = Track(), NOW - every * (steps + 1) - 10 * polls
    for step, at in enumerate(epochs):
        now += every if step else 0
        track = fold(
            track, make_reading(loss=1, step=100 * step, epoch=at, total_epochs=total), pod_uid=POD_UID, now=now
        )
    last = make_reading(loss=1, step=100 * (len(epochs) - 1), epoch=epochs[-1], total_epochs=total)
    for reading in (*[last] * polls, *then):
        now += 10
        track = fold(track, reading, pod_uid=POD_UID, now=now)
    return track


QUIET = final_epoch()
LAST_STEP = 500
SAVED = make_agent(newest=make_found(step=LAST_STEP, age_seconds=20), last_change_seconds=20)


def stalled(**fields):
    """Every guard holds: the last epoch has stood still for 30 seconds with a step every 10, and its checkpoint is written."""
    made = {"track": QUIET, "agent": SAVED, "now": NOW}
    return make_observed(**{**made, **fields})


def agent(**fields):
    return SAVED.model_copy(update=fields)


SLOW = final_epoch(total=1, epoch=0.6, every=40.0, polls=15)


def written_down(**fields):
    """What an operator wrote of the last epoch before it was restarted; then as many polls as it takes."""
    before = {"step": 500, "epoch": "2", "total_epochs": 3, "epoch_base": 0, "step_interval": "10", "pod_uid": POD_UID}
    track = resumed(Progress(**{**before, **fields}), pod_uid=POD_UID, now=NOW - 30)
    for poll in (1, 2, 3):
        track = fold(
            track, make_reading(loss=1, step=500, epoch=2, total_epochs=3), pod_uid=POD_UID, now=NOW - 30 + 10 * poll
        )
    return track


@pytest.mark.parametrize(
    ("seen", "fires"),
    [
        pytest.param(stalled(), True, id="every guard holds"),
        pytest.param(stalled(track=written_down()), True, id="seen to begin by the operator before this one"),
        pytest.param(stalled(track=written_down(step_interval=None)), False, id="the one before had not seen enough steps"),
        pytest.param(stalled(track=written_down(step_interval="15")), False, id="after a restart it must be quiet anew"),
        pytest.param(stalled(track=final_epoch(base=1)), True, id="also where epochs count from 1"),
        pytest.param(stalled(track=final_epoch(polls=2)), False, id="too few polls without a step"),
        pytest.param(stalled(track=final_epoch(epoch=1)), False, id="not the last epoch"),
        pytest.param(stalled(track=final_epoch(base=2)), False, id="unknown how epochs are counted"),
        pytest.param(stalled(track=final_epoch(total=None, epoch=2)), False, id="unknown how many there are"),
        pytest.param(stalled(track=final_epoch(every=15, polls=4)), False, id="quiet for less than three times the usual"),
        pytest.param(stalled(track=final_epoch(steps=2, polls=9)), False, id="too few steps to know what is usual"),
        pytest.param(
            stalled(track=final_epoch(then=[Failure("Timeout", "No answer.")])), False, id="a failed scrape is not a stall"
        ),
        pytest.param(stalled(track=Track()), False, id="a step that never advanced"),
        pytest.param(stalled(agent=None), False, id="an agent that does not answer"),
        pytest.param(stalled(agent=agent(newest=None)), False, id="no checkpoint"),
        pytest.param(stalled(agent=agent(unfinished=make_found(complete=False))), False, id="a checkpoint still being written"),
        pytest.param(stalled(agent=agent(last_change_seconds=3)), False, id="a file that still grows"),
        pytest.param(stalled(agent=agent(last_change_seconds=None)), True, id="no file that ever changed"),
        pytest.param(stalled(agent=agent(newest=make_found(step=LAST_STEP - 1))), False, id="a checkpoint older than the last step"),
        pytest.param(stalled(agent=agent(newest=make_found(step=None, age_seconds=35))), True, id="a checkpoint without a step, newer than the last"),
        pytest.param(stalled(agent=agent(newest=make_found(step=None, age_seconds=60))), False, id="a checkpoint without a step, older than the last"),
        pytest.param(stalled(run=make_run(spec={"checkpoint": {"mode": "Disabled"}})), False, id="nothing is saved, so nothing proves the end"),
        pytest.param(stalled(run=make_run(spec={"stallPolls": 4})), False, id="a person wants more polls"),
        pytest.param(stalled(pods=(exited_pod(1),)), False, id="a training that has exited"),
        pytest.param(stalled(pods=()), False, id="no pod"),
        pytest.param(
            stalled(track=SLOW, agent=agent(newest=make_found(step=400))),
            False,
            id="one epoch of 40 s steps with a long evaluation does not fire",
        ),
        pytest.param(
            stalled(track=final_epoch(total=1, epoch=0.6, every=40.0, polls=11), agent=agent(newest=make_found(step=LAST_STEP))),
            False,
            id="nor does it just after a checkpoint, within three steps' time",
        ),
    ],
)  # fmt: skip
def test_final_epoch_stall(seen, fires):
    newest = seen.track.newest
    verdict = completion.inferred(
        replace(seen, now=newest.at + 10 * seen.track.polls_without_advance) if newest else seen
    )
    assert (verdict is not None) == fires


def test_a_stall_says_epoch_polls_and_step():
    verdict = completion.inferred(stalled())
    assert verdict is not None
    assert (verdict.status, verdict.message, verdict.actor, verdict.inferred) == (
        COMPLETE, "Final epoch reached and no step since 500 for 3 polls.", "stallPolls", True,
    )  # fmt: skip
    assert [(e.what, e.value, e.step) for e in verdict.evidence] == [
        ("epoch", "2 of 3", None),
        ("stallPolls", "3", 500),
    ]


def test_a_marker_while_the_training_still_runs_is_inferred():
    verdict = completion.inferred(make_observed(agent=MARKED))
    assert verdict is not None
    assert (verdict.status, verdict.message, verdict.inferred) == (
        COMPLETE, "Training wrote the completion marker COMPLETE.", True,
    )  # fmt: skip


def test_a_marker_of_any_length_is_cut_to_what_the_status_can_say():
    endless = make_agent(markers=(MarkerSeen(name="x" * 5000, age_seconds=5),))
    for seen in (make_observed(agent=endless), make_observed(agent=endless, pods=(exited_pod(1),))):
        verdict = completion.inferred(seen) or completion.exited(seen)
        assert verdict is not None
        assert len(verdict.evidence[0].value) == 1024


@pytest.mark.parametrize(
    ("seconds", "ends"),
    [
        pytest.param(None, False, id="not yet concluded"),
        pytest.param(299, False, id="the last writes may still land"),
        pytest.param(300, True, id="they have had their time"),
    ],
)
def test_an_inferred_completion_settles_first(seconds, ends):
    seen = make_observed(agent=MARKED, candidate_seconds=seconds)
    assert (why_end(seen) is not None) == ends


def test_a_crash_with_attempts_left_is_saved_behind_its_gate_first():
    run = make_run(spec={"checkpoint": checkpoint_spec()})
    effects = decide(make_observed(run=run, pods=(exited_pod(1),))).effects
    assert [type(effect) for effect in effects] == [Annotate]
    assert not any(isinstance(effect, Begin) for effect in effects)
