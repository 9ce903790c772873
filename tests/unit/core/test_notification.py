"""Which events a run calls for, from its status alone, and never one that was told."""

from __future__ import annotations

import json

import pytest
from builders import (
    EARLIER,
    NAME,
    NAMESPACE,
    RUN_UID,
    STOP_ID,
    WALL,
    make_node,
    make_node_facts,
    make_observed,
    make_run,
    make_saved,
    make_status,
    make_stop,
    releasing,
)
from receiving import event_of

from trainingrun_operator.api.notification import CONTENT_TYPE, CloudEvent, EventType
from trainingrun_operator.api.status import (
    SUSPENDED,
    CheckpointStatus,
    NodePhase,
    Phase,
    PhaseChange,
    Progress,
    TrainingRunStatus,
)
from trainingrun_operator.core.notification import due, recorded

ENDED, HELD, LOST, UNRELEASED = (
    EventType.RUN_ENDED,
    EventType.CHECKPOINT_HELD,
    EventType.DATA_LOST,
    EventType.NODE_UNRELEASED,
)
OVER, YESTERDAY = "2026-01-02T03:04:00Z", "2026-01-01T03:04:00Z"


def status_of(phase, *, completed=OVER, history=(), notified=(), **stop):
    done = phase is Phase.DONE and stop.get("status") != SUSPENDED
    return make_status(
        phase="Stopping",
        termination=make_stop(phase, **stop),
        termination_message="Loss 0.2931 < 0.5 at step 1200. Saved.",
        completion_time=completed if done else None,
        history=history,
        notified=notified,
        progress=Progress(loss="0.2931", step=1200),
        checkpoint=CheckpointStatus(uri="s3://bucket/runs/x"),
    )


def told(status, **fields):
    seen = make_observed(run=make_run(status=status), **fields)
    return [event.type for event in due(seen, status)]


def held(at):
    return (PhaseChange(phase="Running", at=YESTERDAY), PhaseChange(phase=Phase.HELD, at=at))


@pytest.mark.parametrize(
    ("status", "types"),
    [
        pytest.param(make_status(), [], id="a run that trains: nothing"),
        pytest.param(status_of(Phase.SAVING), [], id="a stop on its way: nothing"),
        pytest.param(status_of(Phase.RELEASING), [], id="nodes on their way: nothing yet"),
        pytest.param(status_of(Phase.DONE), [ENDED], id="a run that is over"),
        pytest.param(status_of(Phase.HELD, hold_reason="No bucket."), [HELD], id="a checkpoint that is held"),
        pytest.param(status_of(Phase.DELETING, data_loss="Step 7."), [LOST], id="a loss, as soon as it is known"),
        pytest.param(status_of(Phase.DONE, data_loss="Step 7."), [LOST, ENDED], id="a loss, and the end"),
        pytest.param(
            status_of(Phase.DONE, history=held(EARLIER)), [HELD, ENDED], id="a Hold that is over and was not told"
        ),
        pytest.param(
            status_of(Phase.DONE, history=held(YESTERDAY)), [ENDED], id="a Hold of a suspension before this stop is not this stop's"
        ),
        pytest.param(status_of(Phase.DONE, status=SUSPENDED), [], id="a suspended run has not ended"),
        pytest.param(status_of(Phase.HELD, status=SUSPENDED), [HELD], id="a suspension may be held as well"),
        pytest.param(
            status_of(Phase.DONE, notified=(f"{STOP_ID}-run-ended",)), [], id="what was told is not told again"
        ),
        pytest.param(
            status_of(Phase.DONE, data_loss="Step 7.", notified=(f"{STOP_ID}-run-ended",)), [LOST], id="each by itself"
        ),
        pytest.param(status_of(Phase.DONE, notified=("suspend-x-run-ended",)), [ENDED], id="another's is not this one's"),
        pytest.param(status_of(Phase.DONE, completed=YESTERDAY, data_loss="x"), [], id="last day's runs are history"),
        pytest.param(
            status_of(Phase.DONE, status=SUSPENDED, data_loss="x", phase_at=YESTERDAY), [], id="so are its suspensions"
        ),
        pytest.param(
            status_of(Phase.HELD, phase_at=YESTERDAY, requested_at=YESTERDAY), [HELD], id="what is held since is not"
        ),
    ],
)  # fmt: skip
def test_a_run_calls_for(status, types):
    assert told(status) == types


@pytest.mark.parametrize(("seconds", "types"), [(899, []), (900, [UNRELEASED])])
def test_a_node_that_does_not_go_is_told_once_it_is_overdue(seconds, types):
    seen = releasing(make_node(NodePhase.VERIFYING), make_node_facts(), seconds=seconds)
    events = due(seen, seen.run.status)
    assert [event.type for event in events] == types
    assert [event.data.unreleased_nodes for event in events] == [("gpu-1",)] * len(types)


def test_an_event_says_all_that_a_person_asks():
    status = status_of(Phase.DONE, saved=make_saved())
    (event,) = due(make_observed(run=make_run(status=status)), status)
    assert json.loads(event.body()) == {
        "specversion": "1.0",
        "id": f"{STOP_ID}-run-ended",
        "source": f"/apis/trainingrun.dev/v1alpha1/namespaces/{NAMESPACE}/trainingruns/{NAME}",
        "type": "dev.trainingrun.run.ended",
        "subject": f"{NAMESPACE}/{NAME}",
        "time": OVER,
        "datacontenttype": "application/json",
        "data": {
            "namespace": NAMESPACE,
            "name": NAME,
            "uid": RUN_UID,
            "terminationId": STOP_ID,
            "status": "auto_low_loss",
            "phase": "Stopping",
            "message": "Loss 0.2931 < 0.5 at step 1200. Saved.",
            "actor": "autoStopLoss",
            "requestedAt": EARLIER,
            "completionTime": OVER,
            "step": 1200,
            "loss": "0.2931",
            "checkpoint": "s3://bucket/runs/x",
            "unreleasedNodes": [],
        },
    }
    assert CloudEvent.model_validate_json(event.body()) == event


@pytest.mark.parametrize(
    "status",
    [
        pytest.param(status_of(Phase.DONE, saved=make_saved()), id="over"),
        pytest.param(status_of(Phase.HELD, hold_reason="No bucket."), id="held"),
        pytest.param(status_of(Phase.DELETING, data_loss="Step 7: größer als 1 %."), id="lost"),
    ],
)
def test_an_event_is_one_that_the_sdk_of_cloud_events_reads(status):
    (event,) = due(make_observed(run=make_run(status=status)), status)
    read = event_of({"content-type": CONTENT_TYPE}, event.body())
    assert read.get_specversion() == "1.0"
    assert (read.get_id(), read.get_type(), read.get_source(), read.get_subject()) == (
        event.id,
        event.type.value,
        event.source,
        event.subject,
    )
    assert read.get_data() == event.data.dump()


def test_a_run_that_never_got_far_has_less_to_say():
    status = TrainingRunStatus(termination=make_stop(Phase.DONE, phase_at=WALL))
    (event,) = due(make_observed(run=make_run(status=status)), status)
    assert (event.time, event.data.step, event.data.checkpoint, event.data.phase) == (WALL, None, "", "")
    assert event.data.message == "Loss 0.2931 < 0.5 at step 1200."


@pytest.mark.parametrize("kind", list(EventType))
def test_no_id_has_a_full_stop_of_its_own(kind):
    """Standard Webhooks divides what is signed by full stops."""
    assert "." not in kind.slug


@pytest.mark.parametrize(
    ("notified", "expected"),
    [
        pytest.param((), [f"{STOP_ID}-run-ended"], id="the first"),
        pytest.param((f"{STOP_ID}-data-lost",), [f"{STOP_ID}-data-lost", f"{STOP_ID}-run-ended"], id="another"),
        pytest.param((f"{STOP_ID}-run-ended",), [f"{STOP_ID}-run-ended"], id="the same again"),
        pytest.param(("suspend-uid-2026-checkpoint-held",), [f"{STOP_ID}-run-ended"], id="those of a suspension before go"),
    ],
)  # fmt: skip
def test_what_was_told_is_kept_for_the_stop_that_is(notified, expected):
    status = status_of(Phase.DONE, notified=notified)
    assert list(recorded(status, f"{STOP_ID}-run-ended")) == expected


def test_without_a_stop_nothing_else_is_kept():
    assert recorded(make_status(notified=("suspend-uid-x",)), "new") == ("new",)
