"""What a look adds to the counters, and what it measures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import (
    EARLIER,
    NOW,
    POD_UID,
    commit_key,
    exited_pod,
    finished_pod,
    losses,
    make_agent,
    make_found,
    make_node,
    make_node_facts,
    make_observed,
    make_pod,
    make_reading,
    make_run,
    make_stop,
    make_unreachable,
    pending_pod,
    releasing,
    track_of,
    with_rank,
)

from trainingrun_operator.api.exchange import AgentError, CommitSeen, Upload
from trainingrun_operator.api.status import SUSPENDED, NodePhase, Phase
from trainingrun_operator.controller import tally
from trainingrun_operator.core.effects import Begin, Decision, RecordEvent, RecordNodes
from trainingrun_operator.core.facts.gathered import Facts
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.facts.rank import RefusedReport
from trainingrun_operator.core.facts.reading import Failure
from trainingrun_operator.core.memory import Memory, remember
from trainingrun_operator.exporter import Telemetry

LATER = "2026-01-02T03:02:00Z"
EIGHT = {"spec": {"containers": [{"name": "train", "resources": {"limits": {"nvidia.com/gpu": 8}}}]}}
COMMIT = CommitSeen(key=commit_key(1, 7), incarnation=1, generation=7, step=1200)


class Place:
    """One operator that looks at one run."""

    def __init__(self):
        self.telemetry, self.memory, self.counted, self.due = Telemetry(), Memory(), tally.Counted(), 0

    def look(self, seen=None, *effects, read=True, **fields):
        """Look once; the metrics are read each time."""
        self.due += 10 if read else 0
        seen = replace(seen or make_observed(**fields), next_reading_at=self.due)
        self.counted = tally.count(self.telemetry, seen, Decision(effects), self.counted)

    def count(self, name, **labels):
        return self.telemetry.registry.get_sample_value(f"trainingrun_{name}", labels)

    def measured(self, **fields):
        seen = make_observed(**fields)
        (rank,) = seen.ranks
        reports = {0: rank.report} if rank.report is not None else {}
        self.memory, timed = remember(
            self.memory, Facts(seen.run, seen.wall, pods=seen.pods, reports=reports), seen.now
        )
        return tally.measured(with_rank(seen, unshipped_seconds=timed.ranks[0].unshipped_seconds))


@pytest.fixture
def place():
    return Place()


# -- GPUs and nodes -----------------------------------------------------------------------------------------------


def halfway(*, until=NOW):
    """One of four epochs took 100 seconds, and the second has just begun: 300 are left."""
    rows = [(until - 110, 0, 0.0), (until - 100, 100, 0.0), (until, 200, 1.0)]
    return track_of(*((at, make_reading(loss=1.0, step=step, epoch=epoch, total_epochs=4)) for at, step, epoch in rows))


@pytest.mark.parametrize("status", ["auto_low_loss", "user_stop"])
def test_a_stop_saves_what_the_training_would_still_have_taken(place, status):
    seen = make_observed(run=make_run(spec={"template": EIGHT}), track=halfway())
    place.look(seen, Begin(make_stop(Phase.REQUESTED, status=status)))
    assert place.count("gpu_seconds_saved_total", status=status) == 8 * 300
    assert place.count("terminations_total", status=status) == 1


@pytest.mark.parametrize("status", ["auto_complete", "failed", "deleted"])
def test_what_ended_otherwise_has_saved_nothing(place, status):
    place.look(make_observed(track=halfway()), Begin(make_stop(Phase.REQUESTED, status=status)))
    assert place.count("gpu_seconds_saved_total", status="auto_low_loss") == 0
    assert place.count("gpu_seconds_saved_total", status=status) is None


@pytest.mark.parametrize(
    ("spec", "track"),
    [
        pytest.param({"template": EIGHT}, losses(2.0, 0.4), id="nobody knows how long it would have taken"),
        pytest.param({"template": {"spec": {"containers": [{"name": "cpu"}]}}}, halfway(), id="it had no GPUs"),
    ],
)
def test_nothing_is_saved_where(place, spec, track):
    place.look(make_observed(run=make_run(spec=spec), track=track), Begin(make_stop(Phase.REQUESTED)))
    assert place.count("gpu_seconds_saved_total", status="auto_low_loss") == 0


def test_a_suspension_ends_nothing_and_saves_nothing_yet(place):
    place.look(make_observed(track=halfway()), Begin(make_stop(Phase.REQUESTED, status=SUSPENDED)))
    assert place.count("terminations_total", status=SUSPENDED) is None
    assert place.count("gpu_seconds_saved_total", status=SUSPENDED) is None


def test_the_time_that_pods_hold_gpus_is_counted_as_it_passes(place):
    run = make_run(spec={"template": EIGHT})
    story = [
        (0, (pending_pod(),), 0),
        (30, (make_pod(),), 0),
        (40, (make_pod(),), 10),
        (50, (exited_pod(),), 20),
        (55, (finished_pod(),), 25),
        (90, (), 25),
        (91, (make_pod(name="the-next"),), 25),
        (95, (make_pod(name="the-next"),), 29),
    ]
    for seconds, pods, held in story:
        place.look(make_observed(run=run, pods=pods, now=NOW + seconds))
        assert place.count("gpu_seconds_total") == 8 * held, seconds


def test_a_run_without_gpus_holds_none(place):
    run = make_run(spec={"template": {"spec": {"containers": [{"name": "cpu"}]}}})
    for now in (NOW, NOW + 60):
        place.look(make_observed(run=run, now=now))
    assert place.count("gpu_seconds_total") == 0


def test_how_long_a_node_took_to_go_is_counted_from_the_end_of_the_pods(place):
    seen = releasing(make_node(NodePhase.VERIFYING), None, wall=LATER)
    assert seen.run.status.termination is not None
    assert seen.run.status.termination.phase_at == EARLIER
    place.look(seen, RecordNodes((make_node(NodePhase.RELEASED), make_node(NodePhase.RETAINED, uid="kept"))))
    assert place.count("node_release_seconds_count", pool="a100") == 1
    assert place.count("node_release_seconds_sum", pool="a100") == 120


def test_a_node_that_is_gone_already_is_not_counted_again(place):
    seen = releasing(make_node(NodePhase.RELEASED), None)
    place.look(seen, RecordNodes((make_node(NodePhase.RELEASED), make_node(uid="another"))))
    assert place.count("node_release_seconds_count", pool="a100") is None


def test_a_node_that_is_recorded_while_the_run_trains_is_not_released(place):
    place.look(make_observed(), RecordNodes((make_node(NodePhase.RELEASED),)))
    assert place.count("node_release_seconds_count", pool="a100") is None


def test_a_loss_is_counted_when_it_is_told(place):
    place.look(None, RecordEvent("DataLoss", "Everything.", warning=True), RecordEvent("Finished", "auto_low_loss"))
    assert place.count("data_losses_total") == 1


# -- readings -----------------------------------------------------------------------------------------------------


def silent_track():
    return replace(losses(2.0), oddity=Failure("Timeout", "It is silent."))


def test_a_reading_that_failed_is_counted_once_however_often_the_run_is_looked_at(place):
    for _ in range(2):
        place.look(track=silent_track())
    for _ in range(5):
        place.look(track=silent_track(), read=False)
    assert place.count("poll_errors_total", source="metrics", reason="Timeout") == 2


def test_a_training_that_has_not_made_its_first_step_yet_is_no_error(place):
    place.look(track=losses())
    assert losses().oddity is not None
    assert place.count("poll_errors_total", source="metrics", reason="NeverAdvanced") is None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({"agent": None}, 1, id="an agent that does not answer"),
        pytest.param({"agent": None, "pods": ()}, None, id="no pod"),
        pytest.param({"agent": None, "pods": (make_pod(training=Training.NOT_STARTED),)}, None, id="a pod that starts"),
        pytest.param({"agent": None, "pods": (make_pod(ip=""),)}, None, id="a pod without an address"),
        pytest.param({"agent": None, "pods": (make_pod(host_network=True),)}, None, id="a pod that is not asked"),
        pytest.param({}, None, id="an agent that answers"),
    ],
)
def test_an_agent_is_counted_as_silent(place, fields, expected):
    place.look(**fields)
    assert place.count("poll_errors_total", source="agent", reason="NoReport") == expected


def test_a_refused_report_is_counted_as_such_and_not_as_silence(place):
    place.look(agent=None, refused=RefusedReport("bert-0", "its JSON is invalid (json_invalid)"))
    assert place.count("poll_errors_total", source="agent", reason="ReportRefused") == 1
    assert place.count("poll_errors_total", source="agent", reason="NoReport") is None


def test_a_bucket_that_cannot_be_read_is_counted(place):
    place.look(answer=make_unreachable())
    assert place.count("poll_errors_total", source="store", reason="AccessDenied") == 1


# -- what agents report -------------------------------------------------------------------------------------------


def upload(generation, **fields):
    return Upload(incarnation=1, generation=generation, **{"bytes": 100, "seconds": 2, **fields})


def reports(place, *uploads, failures=0, pod_uid=POD_UID):
    place.look(agent=make_agent(uploads=uploads, upload_failures=failures, pod_uid=pod_uid))


def counted(place):
    return tuple(
        place.count(f"checkpoint_upload_{name}") for name in ("duration_seconds_count", "bytes_total", "failures_total")
    )


def test_each_upload_and_each_failure_is_counted_once(place):
    place.look(pods=(), agent=None)
    for _ in range(2):
        reports(place, upload(1), failures=1)
    for _ in range(2):
        reports(place, upload(1), upload(2), upload(3), failures=3)
    assert counted(place) == (3, 300, 3)


def test_what_an_agent_did_before_this_operator_came_is_not_counted(place):
    reports(place, upload(1), failures=5)
    assert counted(place) == (0, 0, 0)
    reports(place, upload(1), upload(2), failures=6)
    assert counted(place) == (1, 100, 1)


@pytest.mark.parametrize("pod", [POD_UID, "the next pod"])
def test_an_agent_that_is_started_again_counts_from_the_beginning(place, pod):
    reports(place, upload(7), failures=5)
    reports(place, failures=2, pod_uid=pod)
    reports(place, Upload(incarnation=2, generation=1, bytes=50, seconds=1), failures=2, pod_uid=pod)
    assert counted(place) == (1, 50, 2)


def test_the_next_pod_is_new_however_many_failures_it_has_had(place):
    reports(place, failures=2)
    reports(place, failures=3, pod_uid="the next pod")
    assert counted(place) == (0, 0, 3)


@pytest.mark.parametrize(
    "odd",
    [{"bytes": -1}, {"bytes": 10**30}, {"seconds": -1.0}, {"seconds": float("inf")}, {"seconds": float("nan")}],
    ids=str,
)
def test_a_number_beyond_reason_is_not_believed(place, odd):
    place.look(pods=(), agent=None)
    reports(place, upload(1, **odd))
    reports(place, upload(1, **odd), upload(2))
    assert counted(place) == (1, 100, 0)


@pytest.mark.parametrize("odd", [-1, 10**30])
def test_failures_beyond_reason_are_not_believed(place, odd):
    place.look(pods=(), agent=None)
    reports(place, failures=odd)
    assert counted(place) == (0, 0, 0)


# -- measuring ----------------------------------------------------------------------------------------------------


def unshipped(**fields: Any):
    return make_agent(
        **{"commit": COMMIT, "unsaved_bytes": 9, "newest": make_found(step=1300, age_seconds=5), **fields}
    )


@pytest.mark.parametrize(
    ("fields", "lag"),
    [
        pytest.param({"agent": make_agent(commit=COMMIT)}, 0, id="everything is in the bucket"),
        pytest.param({"agent": unshipped()}, 5, id="a checkpoint was written 5 seconds ago"),
        pytest.param({"agent": unshipped(commit=None)}, 5, id="the first checkpoint"),
        pytest.param({"agent": None}, None, id="nobody says"),
        pytest.param({"agent": make_agent(newest=None)}, None, id="there is no checkpoint"),
        pytest.param(
            {"agent": unshipped(), "run": make_run(spec={"checkpoint": {"mode": "Disabled"}})},
            None,
            id="nothing is ever saved",
        ),
    ],
)
def test_the_bucket_lags_behind(place, fields, lag):
    assert place.measured(**fields).checkpoint_lag_seconds == lag


def test_while_nothing_is_committed_newer_checkpoints_make_the_lag_no_shorter(place):
    lags = []
    for seconds in (0, 4, 20, 90):
        newest = make_found(step=1300 + seconds, age_seconds=5)
        lags.append(place.measured(agent=unshipped(newest=newest), now=NOW + seconds).checkpoint_lag_seconds)
    assert lags == [5, 5, 20, 90]
    committed = COMMIT.model_copy(update={"key": commit_key(1, 8)})
    assert place.measured(agent=unshipped(commit=committed), now=NOW + 95).checkpoint_lag_seconds == 5


def test_for_how_long_uploads_fail(place):
    failing = make_agent(error=AgentError(code="AccessDenied", message="No.", since_seconds=42))
    assert place.measured(agent=failing).upload_failing_seconds == 42
    assert place.measured().upload_failing_seconds is None


def test_overdue_nodes_and_ghosts_are_told_of(place):
    ghost = releasing(make_node(NodePhase.VERIFYING), make_node_facts(uid=None), seconds=900)
    measured = tally.measured(ghost)
    assert (measured.nodes_overdue, measured.ghosts) == (1, {"a100": 1})
    assert (place.measured().nodes_overdue, place.measured().ghosts) == (0, {})
