"""When a run can never start: its Job is gone, its pods fail before any training, or wait for too long."""

from __future__ import annotations

import pytest
from builders import exited_pod, finished_pod, make_observed, make_pod, make_workload, pending_pod

from trainingrun_operator.core.defaults import Defaults
from trainingrun_operator.core.rules import workload
from trainingrun_operator.core.rules.chain import why_end

FETCH = "init container fetch-data ended with exit code 42 (Error: no such host)"


def refused(**fields):
    """A pod whose init container failed."""
    return pending_pod(**{"phase": "Failed", "failure_before_start": FETCH, **fields})


def never_started(seen):
    """What ends a run whose training did not start; None: nothing."""
    return why_end(seen, (workload.never_started, workload.cannot_start))


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
        pytest.param("CrashLoopBackOff", 9999, False, id="a sidecar that fails may succeed"),
    ],
)
def test_image_errors(reason, seconds, ends):
    pod = pending_pod(waiting_reason=reason, waiting_message='pull "acme/bert": not found')
    found = never_started(make_observed(pods=(pod,), waiting_seconds=seconds))
    assert (found is not None) == ends
    if found is not None:
        assert found.status == "failed"
        assert found.message == f'The pod cannot start: {reason}: pull "acme/bert": not found'


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
    found = never_started(make_observed(pods=(pod,), waiting_seconds=seconds, defaults=defaults))
    assert (found is not None) == ends
    if found is not None:
        assert (found.status, found.actor) == ("failed", "scheduler")
        assert found.message == "The pod cannot start: Unschedulable: 0/3 nodes are available"


@pytest.mark.parametrize(
    ("reason", "lacks"),
    [("ErrImagePull", "image"), ("ImagePullBackOff", "image"), ("Unschedulable", "node"), ("SchedulingGated", ""), ("", "")],
)  # fmt: skip
def test_waiting_is_timed_by_what_a_pod_lacks_whatever_it_is_called(reason, lacks):
    assert workload.lacks(pending_pod(waiting_reason=reason)) == lacks


@pytest.mark.parametrize(
    ("pods", "job", "log", "message"),
    [
        pytest.param((), make_workload(failed=3), "", None, id="as many failed pods as allowed"),
        pytest.param((pending_pod(),), make_workload(failed=9), "", None, id="another pod is already on its way"),
        pytest.param((), None, "", None, id="no Job"),
        pytest.param(
            (),
            make_workload(failed=4),
            "",
            "4 pods failed before their training could start (backoffLimit 3).",
            id="one failed pod too many",
        ),
        pytest.param(
            (),
            make_workload(failed=4),
            "no such file",
            "4 pods failed before their training could start (backoffLimit 3).",
            id="without the end of its log, which may have secrets",
        ),
        pytest.param(
            (make_pod(),), make_workload(finished=True), "", None, id="a Job that ended while a pod still runs"
        ),
        pytest.param(
            (),
            make_workload(finished=True),
            "",
            "The Job ended and its pod was deleted or evicted: the training's result is unknown.",
            id="a Job that ended with nobody left to ask",
        ),
    ],
)
def test_pods_that_never_trained(pods, job, log, message):
    found = never_started(make_observed(pods=pods, workload=job, log_tail=log))
    assert (found.message if found else None) == message


@pytest.mark.parametrize(
    ("pods", "failed", "reason", "named"),
    [
        pytest.param((refused(),), 4, "PodsFailed", True, id="one failed pod too many"),
        pytest.param((refused(), pending_pod(uid="next")), 1, "RestartsLeft", True, id="the next one waits"),
        pytest.param(
            (refused(), pending_pod(uid="next")),
            9,
            "RestartsLeft",
            True,
            id="the next one waits, though too many failed",
        ),
        pytest.param((refused(),), 0, "RestartsLeft", True, id="its Job has not counted it yet"),
        pytest.param((refused(), make_pod(uid="next")), 1, None, False, id="the next one trains"),
        pytest.param((refused(), finished_pod(1, uid="next")), 4, "PodsFailed", False, id="the next one trained"),
        pytest.param(
            (refused(disruption="Evicted"), pending_pod(uid="next")), 0, None, False, id="it was told to leave"
        ),
    ],
)
def test_the_init_container_that_failed_is_named(pods, failed, reason, named):
    found = workload.never_started(make_observed(pods=pods, workload=make_workload(failed=failed)))
    assert (found.reason if found else None) == reason
    if found is not None:
        assert (FETCH in found.message) == named
        assert found.fires == (reason == "PodsFailed")


def test_the_end_names_how_the_last_pod_failed():
    found = workload.never_started(make_observed(pods=(refused(),), workload=make_workload(failed=4)))
    assert found is not None
    assert found.message == (
        f"4 pods failed before their training could start (backoffLimit 3). Last: {FETCH} in pod bert-x7k2p."
    )


@pytest.mark.parametrize(
    "pod",
    [
        pytest.param(make_pod(waiting_reason="ImagePullBackOff"), id="trains"),
        pytest.param(exited_pod(0, waiting_reason="ImagePullBackOff"), id="has exited"),
        pytest.param(exited_pod(1, waiting_reason="CreateContainerError", starts_again=True), id="is started again"),
    ],
)
def test_what_cannot_start_beside_a_training_that_started_ends_nothing(pod):
    assert workload.cannot_start(make_observed(pods=(pod,), waiting_seconds=9e9)) is None
    assert workload.lacks(pod) == ""
