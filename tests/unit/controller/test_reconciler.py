"""One look at a run: what is written and when, and what becomes of a look that fails."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiohttp import web
from builders import (
    NAME,
    NAMESPACE,
    NOW,
    RUN_UID,
    losses,
    make_node_facts,
    make_observed,
    make_pod,
    make_pool,
    make_stop,
    make_workload,
)
from fakes import EVENTS, RUN, ApiError, Plain, api_server, stored_job, stored_pod, stored_run

from trainingrun_operator.api.status import Phase
from trainingrun_operator.controller.reconciler import BACKOFF_MAX_SECONDS, PROVING_SECONDS, Reconciler
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.facts.reading import Failure
from trainingrun_operator.core.facts.run import Run
from trainingrun_operator.core.status import WRITTEN_BY_THE_STOP
from trainingrun_operator.edge.background.curve import CurveWriter
from trainingrun_operator.edge.cache import Cache
from trainingrun_operator.edge.execute import Executor
from trainingrun_operator.edge.gather.stop_proofs import ProvingError
from trainingrun_operator.edge.kube import Kube, KubeError
from trainingrun_operator.edge.nodes.registry import Registry
from trainingrun_operator.exporter import Telemetry

STATUS = f"PATCH {RUN}/status"
OTHER_UID = "other-run"


class FakeObserver:
    """Sees the run as it is stored, and around it whatever the test says."""

    def __init__(self):
        self.fields, self.confirmed, self.looks, self.trouble = {}, True, 0, None

    async def observe(self, stored, memory):
        self.looks += 1
        if self.trouble is not None:
            raise self.trouble
        run = Run.of(stored)
        own = {"workload": make_workload(name=run.name, run_uid=run.uid)}
        return memory, make_observed(run=run, **{**own, **self.fields})

    def forget(self, uid):
        """It keeps nothing."""

    def forget_all(self):
        """It keeps nothing."""

    async def confirms(self, seen):
        return self.confirmed


@pytest.fixture
async def place():
    """A reconciler on an API server in memory with one run that trains on a recorded node."""
    async with api_server(stored_run(status={}), stored_job(), stored_pod()) as api, Kube(Plain(api.url)) as kube:
        cache, observer, telemetry = Cache(), FakeObserver(), Telemetry()
        cache.put_run(api.objects[RUN])
        lease = SimpleNamespace(held=True)
        executor = Executor(kube, cache, lambda: lease.held, Registry({}))
        curves = CurveWriter(kube, executor.leads, 30)
        reconciler = Reconciler(kube, cache, cast("Any", observer), executor, telemetry, curves, 60)
        yield SimpleNamespace(
            api=api,
            cache=cache,
            observer=observer,
            telemetry=telemetry,
            reconciler=reconciler,
            look=reconciler.look,
            lease=lease,
        )


def written(api):
    """The bodies of all status applies."""
    return [sent.body["status"] for sent in api.sent if sent.content_type == "application/apply-patch+yaml"]


def count(telemetry, name):
    return telemetry.registry.get_sample_value(f"trainingrun_{name}")


def stop(phase, **fields):
    return make_stop(phase, **fields).dump()


# -- writing the status -----------------------------------------------------------------------------------------


async def test_the_first_look_writes_the_status_with_uid_and_version(place):
    assert await place.look(RUN_UID) == 10
    (sent,) = [sent for sent in place.api.sent if sent.method == "PATCH"]
    assert sent.line == STATUS
    assert sent.query == {"fieldManager": "trainingrun-observer", "force": "true"}
    assert sent.body["metadata"] == {"name": NAME, "namespace": NAMESPACE, "uid": RUN_UID, "resourceVersion": "7"}
    assert sent.body["status"]["phase"] == "Running"


async def test_what_was_written_is_what_is_known(place):
    await place.look(RUN_UID)
    assert place.cache.runs[RUN_UID] == place.api.objects[RUN] | {
        "metadata": {**place.api.objects[RUN]["metadata"], "managedFields": []}
    }


async def test_looking_again_at_the_same_writes_nothing(place):
    for _ in range(5):
        await place.look(RUN_UID)
    assert len(written(place.api)) == 1


def starts_again(place):
    """Another process goes on from what is stored."""
    place.reconciler.forget_all()
    place.api.sent.clear()


async def test_a_status_that_says_the_same_after_a_start_is_written_within_a_minute_and_not_at_once(place):
    place.observer.fields = {"track": losses(2.0, 1.5, until=NOW, first_step=1000)}
    await place.look(RUN_UID)
    starts_again(place)
    written_at = []
    for seconds in range(0, 61, 10):
        now = NOW + seconds
        place.observer.fields = {"now": now, "track": losses(2.0, 1.5, until=now, first_step=1000 + 10 * seconds)}
        await place.look(RUN_UID)
        written_at += [seconds] * len(written(place.api))
        place.api.sent.clear()
    assert len(written_at) == 1
    assert written_at[0] > 0


async def test_after_a_start_not_all_statuses_are_written_at_the_same_time(place):
    await place.look(RUN_UID)
    run = Run.of(place.api.objects[RUN])
    at = {round(place.reconciler._stored(replace(run, uid=f"run-{number}"), NOW).at) for number in range(100)}
    assert len(at) > 30
    assert NOW - 60 <= min(at) <= max(at) <= NOW


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param({"phase": "Pending"}, id="another phase"),
        pytest.param({"observedGeneration": 0}, id="another generation"),
        pytest.param({"operator": "elsewhere/operator"}, id="another operator"),
        pytest.param({"terminationMessage": "It ends."}, id="another message"),
        pytest.param({"conditions": []}, id="nothing, as of a cluster that was restored"),
    ],
)
async def test_a_status_that_says_anything_else_after_a_start_is_written_at_once(place, stored):
    await place.look(RUN_UID)
    starts_again(place)
    status = {**place.api.objects[RUN]["status"], **stored}
    place.api.put({**place.api.objects[RUN], "status": status})
    place.cache.put_run(place.api.objects[RUN])
    await place.look(RUN_UID)
    assert len(written(place.api)) == 1


async def test_progress_alone_is_written_once_a_minute(place):
    for seconds in range(0, 130, 10):
        now = NOW + seconds
        place.observer.fields = {"now": now, "track": losses(2.0, 1.5, until=now, first_step=1000 + 10 * seconds)}
        await place.look(RUN_UID)
    steps = [status["progress"]["step"] for status in written(place.api)]
    assert steps == [1200, 1800, 2400]


async def test_what_rules_have_found_is_written_with_the_status_and_not_for_itself(place):
    waits = make_pod(phase="Pending", training=Training.NOT_STARTED, waiting_reason="ErrImagePull")
    for seconds in range(0, 130, 10):
        place.observer.fields = {"now": NOW + seconds, "pods": (waits,), "waiting_seconds": seconds}
        await place.look(RUN_UID)
    said = [
        finding["message"]
        for status in written(place.api)
        for finding in status["findings"]
        if finding["rule"] == "cannotStart"
    ]
    assert ["for 0 of" in said[0], "for 60 of" in said[1], "for 120 of" in said[2]] == [True] * 3
    assert len(said) == 3


async def test_findings_that_say_the_same_are_not_written_again(place):
    waits = make_pod(phase="Pending", training=Training.NOT_STARTED, waiting_reason="Unschedulable")
    for seconds in range(0, 130, 10):
        place.observer.fields = {"now": NOW + seconds, "pods": (waits,), "waiting_seconds": seconds}
        await place.look(RUN_UID)
    assert len(written(place.api)) == 1


async def test_what_an_operator_that_starts_could_not_find_out_is_written_at_once(place):
    place.observer.fields = {"now": NOW, "track": losses(2.0, until=NOW)}
    await place.look(RUN_UID)
    for seconds, values in ((1, (2.0, 1.9)), (2, (2.0, 1.9, 1.8)), (3, (2.0, 1.9, 1.8, 1.7))):
        place.observer.fields = {"now": NOW + seconds, "track": losses(*values, until=NOW + seconds)}
        await place.look(RUN_UID)
    usual = [status["progress"].get("stepInterval") for status in written(place.api)]
    assert usual == [None, "10"], "as soon as the usual time between steps is known, and not again with every step"


async def test_a_transition_is_written_at_once(place):
    await place.look(RUN_UID)
    place.observer.fields = {"now": NOW + 1, "pods": (make_pod(deleting=True),), "agent": None}
    place.observer.fields["track"] = losses(2.0, 1.5, until=NOW - 500)
    await place.look(RUN_UID)
    before, after = [{c["type"]: c["status"] for c in status["conditions"]} for status in written(place.api)]
    assert (before["MetricsAvailable"], after["MetricsAvailable"]) == ("True", "False")


async def test_that_a_changed_spec_was_seen_is_written_at_once(place):
    await place.look(RUN_UID)
    changed = {**place.api.objects[RUN], "metadata": {**place.api.objects[RUN]["metadata"], "generation": 2}}
    place.api.put(changed)
    place.cache.put_run(changed)
    place.observer.fields = {"now": NOW + 1}
    await place.look(RUN_UID)
    assert [status["observedGeneration"] for status in written(place.api)] == [1, 2]


async def test_another_reason_for_the_same_state_is_written_at_once(place):
    for i, reason in enumerate(("Timeout", "ConnectionRefused")):
        track = losses(2.0, 1.5)
        track = type(track)(**{**vars(track), "oddity": Failure(reason, "It does not answer.")})
        place.observer.fields = {"now": NOW + i, "track": track}
        await place.look(RUN_UID)
    assert len(written(place.api)) == 2


async def test_the_observer_never_names_what_the_stop_writes(place):
    place.observer.fields = {"nodes": (make_node_facts(),)}
    await place.look(RUN_UID)
    assert place.api.objects[RUN]["status"]["nodes"]
    stored = stored_run(
        status={
            "termination": stop(Phase.DONE),
            "terminationStatus": "auto_low_loss",
            "completionTime": "2026-01-01T00:00:00Z",
        },
        resourceVersion="900",
        finalizers=[],
    )
    place.api.put(stored)
    place.cache.put_run(stored)
    place.observer.fields = {"workload": make_workload(finished=True, owned=True), "pods": (), "agent": None}
    await place.look(RUN_UID)
    assert len(written(place.api)) == 2
    assert not any(status.keys() & WRITTEN_BY_THE_STOP for status in written(place.api))
    assert place.api.objects[RUN]["status"]["termination"]["phase"] == "Done"
    assert place.api.objects[RUN]["status"]["completionTime"]


async def test_a_node_is_recorded_before_anything_else_is_said(place):
    place.observer.fields = {"nodes": (make_node_facts(),)}
    await place.look(RUN_UID)
    first, second = place.api.sent
    assert [operation["path"] for operation in first.body][-1] == "/status/nodes"
    assert second.content_type == "application/apply-patch+yaml"
    assert place.api.objects[RUN]["status"]["nodes"][0]["name"] == "gpu-1"


async def test_what_is_exported_has_what_the_stop_wrote_too(place):
    stored = stored_run(status={"termination": stop(Phase.HELD), "terminationStatus": "auto_low_loss"})
    place.api.put(stored)
    place.cache.put_run(stored)
    await place.look(RUN_UID)
    page = b"".join(place.telemetry.runs.chunks()).decode()
    assert f'trainingrun_termination_phase{{namespace="{NAMESPACE}",name="{NAME}",phase="Held"}} 1\n' in page
    assert f'trainingrun_checkpoint_held{{namespace="{NAMESPACE}",name="{NAME}"}} 1\n' in page


async def test_a_look_notes_the_loss_and_waits_for_no_curve(place):
    place.observer.fields = {"track": losses(2.0, 1.5)}
    await place.look(RUN_UID)
    assert not [line for line in place.api.lines() if "configmaps" in line]
    await place.reconciler.curves.write()
    assert [line for line in place.api.lines("POST") if line.endswith("/configmaps")]


async def test_the_curve_of_a_run_that_is_forgotten_is_forgotten(place):
    place.observer.fields = {"track": losses(2.0, 1.5)}
    for forget in (lambda: place.reconciler.forget(RUN_UID), place.reconciler.forget_all):
        await place.look(RUN_UID)
        forget()
        await place.reconciler.curves.write()
    assert not [line for line in place.api.lines() if "configmaps" in line]


class FakeNotifier:
    """Notes what it is told to."""

    def __init__(self):
        self.noted, self.forgotten = [], []

    def note(self, seen, status):
        self.noted.append(status)

    def forget(self, uid):
        self.forgotten.append(uid)

    def forget_all(self):
        self.forgotten.append("all")


async def test_who_tells_of_runs_is_shown_the_status_as_it_is_now_with_what_was_told_already(place):
    notifier = place.reconciler.notifier = FakeNotifier()
    held = stored_run(status={"termination": stop(Phase.HELD), "terminationStatus": "auto_low_loss", "notified": ["x"]})
    place.api.put(held)
    place.cache.put_run(held)
    await place.look(RUN_UID)
    (status,) = notifier.noted
    assert (status.phase, status.termination.phase, status.notified) == ("Held", "Held", ("x",))
    assert status.termination_message.startswith("Loss 0.2931 < 0.5 at step 1200.")
    assert place.api.objects[RUN]["status"]["notified"] == ["x"], "The observer does not name it."
    place.reconciler.forget(RUN_UID)
    place.reconciler.forget_all()
    assert notifier.forgotten == [RUN_UID, "all"]


class FakeBeside:
    """Notes what it is shown."""

    def __init__(self):
        self.noted, self.forgotten = [], []

    def note(self, seen, *status):
        self.noted.append((seen.run.uid, *(one.phase for one in status)))

    def forget(self, uid):
        self.forgotten.append(uid)

    def forget_all(self):
        self.forgotten.append("all")


async def test_work_on_the_bucket_is_shown_every_look_and_the_story_the_whole_status(place):
    beside, story = FakeBeside(), FakeBeside()
    place.reconciler.beside, place.reconciler.story = (beside,), story
    held = stored_run(status={"termination": stop(Phase.HELD), "terminationStatus": "auto_low_loss"})
    place.api.put(held)
    place.cache.put_run(held)
    await place.look(RUN_UID)
    assert {*beside.noted} == {(RUN_UID,)}
    assert story.noted == [(RUN_UID, "Held")]
    place.reconciler.forget(RUN_UID)
    place.reconciler.forget_all()
    assert beside.forgotten == story.forgotten == [RUN_UID, "all"]


# -- ending a run -----------------------------------------------------------------------------------------------


async def test_a_decision_to_end_is_written_and_counted_once(place):
    place.observer.fields = {"track": losses(2.0, 0.4, 0.3)}
    await place.look(RUN_UID)
    patches = [sent.body for sent in place.api.sent if sent.content_type == "application/json-patch+json"]
    begun = [body for body in patches if body[-1]["path"] == "/status/terminationStatus"]
    assert len(begun) == 1
    assert place.api.objects[RUN]["status"]["terminationStatus"] == "auto_low_loss"
    assert place.telemetry.registry.get_sample_value("trainingrun_terminations_total", {"status": "auto_low_loss"}) == 1
    assert f"POST {EVENTS}" in place.api.lines()


async def test_a_decision_to_end_that_the_api_server_does_not_confirm_is_not_written(place):
    place.observer.fields = {"track": losses(2.0, 0.4, 0.3)}
    place.observer.confirmed = False
    assert await place.look(RUN_UID) > 0
    assert place.api.lines("PATCH", "POST") == []


async def test_what_needs_no_ending_needs_no_confirmation(place):
    place.observer.confirmed = False
    assert await place.look(RUN_UID) == 10
    assert len(written(place.api)) == 1


# -- stale, gone, refused ---------------------------------------------------------------------------------------


async def test_a_stale_look_reads_again_and_looks_again_soon(place):
    place.api.objects[RUN]["metadata"]["resourceVersion"] = "8"
    place.api.objects[RUN]["spec"]["stop"] = True
    assert await place.look(RUN_UID) == 0.2
    assert place.cache.runs[RUN_UID]["spec"]["stop"] is True
    await place.look(RUN_UID)
    assert place.api.objects[RUN]["status"]["terminationStatus"] == "user_stop"


async def test_the_same_refusal_of_an_unchanged_run_is_no_tight_loop(place):
    waits = []
    for _ in range(4):
        place.api.refuse(STATUS, ApiError(422, "Invalid"))
        waits.append(await place.look(RUN_UID))
    assert waits == [1, 2, 4, 8]


@pytest.mark.parametrize(
    "now_stored",
    [
        pytest.param([], id="nothing"),
        pytest.param([stored_run(uid=OTHER_UID, resourceVersion="900")], id="another run of the same name"),
    ],
)
async def test_a_run_that_turns_out_to_be_gone_is_forgotten(place, now_stored):
    await place.look(RUN_UID)
    place.observer.fields = {"now": NOW + 100, "track": losses(2.0, 1.5, until=NOW + 100)}
    place.api.objects.clear()
    place.api.put(*now_stored)
    assert await place.look(RUN_UID) is None
    assert RUN_UID not in place.cache.runs
    assert not place.reconciler.known
    assert RUN_UID not in place.telemetry.runs


async def test_a_stale_look_that_cannot_read_again_backs_off(place):
    place.api.refuse(STATUS, ApiError(409, "Conflict"))
    place.api.refuse(f"GET {RUN}", ApiError(503, "ServiceUnavailable"))
    assert await place.look(RUN_UID) == 1


async def test_a_run_that_the_watch_forgets_during_a_look_is_not_read_again(place):
    place.api.refuse(STATUS, ApiError(409, "Conflict"))
    place.api.before = lambda _: place.cache.forget_run(RUN_UID)
    assert await place.look(RUN_UID) is None
    assert f"GET {RUN}" not in place.api.lines()


async def test_a_stop_that_runs_through_its_phases_gives_others_their_turn(place):
    place.observer.fields = {"workload": None, "pods": (), "agent": None, "nodes": ()}
    place.api.put(stored_run(status={}, finalizers=[]))
    place.cache.put_run(place.api.objects[RUN])

    real = place.observer.observe

    async def observe(stored, memory):
        # Somebody takes our finalizer off as often as it is written.
        stored["metadata"]["finalizers"] = []
        return await real(stored, memory)

    place.observer.observe = observe
    assert await place.look(RUN_UID) == 0
    assert place.api.lines("PATCH") == [f"PATCH {RUN}"] * 12


async def test_a_run_that_nobody_knows_is_not_looked_at(place):
    assert await place.look("nobody") is None
    assert place.observer.looks == 0


async def test_a_run_that_goes_with_its_finalizer_ends_in_peace(place):
    stored = stored_run(
        deletionTimestamp="2026-01-01T00:00:00Z",
        status={
            "termination": stop(Phase.DONE),
            "terminationStatus": "deleted",
            "completionTime": "2026-01-01T00:00:00Z",
        },
    )
    place.api.put(stored)
    place.cache.put_run(stored)
    place.observer.fields = {"workload": None, "pods": (), "agent": None}
    await place.look(RUN_UID)
    assert RUN not in place.api.objects
    assert count(place.telemetry, "reconcile_errors_total") == 0


async def test_of_a_run_whose_end_is_told_while_it_is_looked_at_nothing_is_left(place):
    done = {"termination": stop(Phase.DONE), "terminationStatus": "deleted", "completionTime": "2026-01-01T00:00:00Z"}
    place.api.put(stored_run(deletionTimestamp="2026-01-01T00:00:00Z", status=done))
    place.cache.put_run(place.api.objects[RUN])
    place.observer.fields = {"workload": None, "pods": (), "agent": None}

    def told(sent):
        # As the watch does: the finalizer is off, and the event is there before the answer.
        place.api.before = lambda _: None
        place.cache.forget_run(RUN_UID)
        place.reconciler.forget(RUN_UID)

    place.api.before = told
    await place.look(RUN_UID)
    assert RUN_UID not in place.telemetry.runs
    assert not place.reconciler.known


# -- failing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(ApiError(500, "InternalError"), id="an internal error"),
        pytest.param(ApiError(403, "Forbidden"), id="a missing permission"),
        pytest.param(ApiError(422, "Invalid", causes=[{"field": "status.phase"}]), id="a refusal by the schema"),
        pytest.param(web.Response(text="<html>"), id="a page of something in between"),
    ],
)
async def test_a_call_that_fails_is_tried_again_later_and_counted(place, answer):
    place.api.refuse(STATUS, answer)
    assert await place.look(RUN_UID) == 1
    assert count(place.telemetry, "reconcile_errors_total") == 1


async def test_the_backoff_grows_to_a_minute_and_a_success_resets_it(place):
    place.observer.trouble = KubeError(503, "ServiceUnavailable", "away")
    waits = [await place.look(RUN_UID) for _ in range(8)]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
    place.observer.trouble = None
    assert await place.look(RUN_UID) == 10
    place.observer.trouble = KubeError(503, "ServiceUnavailable", "away")
    assert await place.look(RUN_UID) == 1


async def test_a_look_that_a_proof_puts_off_writes_nothing_and_is_no_failure(place):
    place.observer.trouble = ProvingError()
    for _ in range(3):
        assert await place.look(RUN_UID) == PROVING_SECONDS
    assert place.api.sent == []
    assert count(place.telemetry, "reconcile_errors_total") == 0
    place.observer.trouble = None
    assert await place.look(RUN_UID) == 10
    assert len(written(place.api)) == 1


async def test_a_proof_after_an_effect_puts_off_the_status_and_not_the_effect(place):
    """The look goes on from what it has written, and asks the bucket again."""
    place.observer.fields = {"track": losses(2.0, 0.4, 0.3)}
    observe, looks = place.observer.observe, place.observer

    async def proving_after_the_first(stored, memory):
        if looks.looks:
            raise ProvingError
        return await observe(stored, memory)

    place.observer.observe = proving_after_the_first
    assert await place.look(RUN_UID) == PROVING_SECONDS
    assert place.cache.runs[RUN_UID]["status"]["terminationStatus"] == "auto_low_loss"
    assert written(place.api) == []
    place.observer.observe = observe
    await place.look(RUN_UID)
    assert len(written(place.api)) == 1


async def test_the_failures_of_one_run_are_not_anothers(place):
    place.cache.put_run(stored_run(name="other", uid=OTHER_UID))
    place.observer.trouble = KubeError(0, "Unreachable", "away")
    for _ in range(5):
        await place.look(RUN_UID)
    assert await place.look(OTHER_UID) == 1


async def test_a_stored_run_that_is_not_understood_is_said_and_harms_nobody_else(place, caplog):
    place.cache.put_run(stored_run(name="odd", uid=OTHER_UID, spec={"pollIntervalSeconds": "often"}))
    assert await place.look(OTHER_UID) == BACKOFF_MAX_SECONDS
    assert f"{NAMESPACE}/odd: stored object is invalid" in caplog.text
    assert "pollIntervalSeconds" in caplog.text
    assert await place.look(RUN_UID) == 10


async def test_a_status_that_is_not_understood_is_not_overwritten(place):
    place.cache.put_run(stored_run(status={"termination": {"phase": "Someday"}}, resourceVersion="8"))
    assert await place.look(RUN_UID) == BACKOFF_MAX_SECONDS
    assert place.api.sent == []


async def test_a_look_is_timed(place):
    await place.look(RUN_UID)
    assert count(place.telemetry, "reconcile_duration_seconds_count") == 1


# -- the Lease --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [pytest.param({}, id="a status to write"), pytest.param({"track": losses(0.1)}, id="an end to write")],
)
async def test_without_the_lease_a_look_writes_nothing_and_counts_as_no_error(place, fields):
    place.observer.fields = fields
    place.lease.held = False
    assert await place.look(RUN_UID) == 1
    assert place.api.lines("PATCH", "POST", "DELETE") == []
    assert count(place.telemetry, "reconcile_errors_total") == 0
    place.lease.held = True
    await place.look(RUN_UID)
    assert place.api.lines("PATCH")


async def test_with_everything_forgotten_nothing_is_exported_and_the_next_look_is_a_first_one(place):
    await place.look(RUN_UID)
    before = place.reconciler.known[RUN_UID]
    assert RUN_UID in place.telemetry.runs
    place.reconciler.forget_all()
    assert (len(place.telemetry.runs), place.reconciler.known) == (0, {})
    await place.look(RUN_UID)
    assert place.reconciler.known[RUN_UID] is not before


# -- what others can make it do ------------------------------------------------------------------------------------


def with_oddity(number):
    track = losses(2.0, 1.5)
    return type(track)(**{**vars(track), "oddity": Failure(f"Reason{number}", "It does not answer.")})


async def test_a_reason_that_is_another_at_each_look_is_not_written_at_each(place):
    again = None
    for second in range(120):
        place.observer.fields = {"now": NOW + second, "track": with_oddity(second)}
        again = await place.look(RUN_UID)
    assert len(written(place.api)) <= 6 + 120 / 10
    assert again is not None
    # What it settles on is written, if not at once.
    for second in range(120, 140):
        place.observer.fields = {"now": NOW + second, "track": with_oddity("AtLast")}
        await place.look(RUN_UID)
    reasons = {condition["reason"] for condition in written(place.api)[-1]["conditions"]}
    assert "ReasonAtLast" in reasons


async def test_a_change_that_waits_is_looked_at_again_also_if_nothing_else_is_due(place, monkeypatch):
    monkeypatch.setattr(Reconciler, "_until_next_look", lambda *_: None)
    places = []
    for second in range(8):
        place.observer.fields = {"now": NOW + second / 10, "track": with_oddity(second)}
        places.append(await place.look(RUN_UID))
    assert places == [None] * 6 + [10, 10]


async def test_a_phase_is_written_at_once_whatever_was_written_before(place):
    for second in range(20):
        place.observer.fields = {"now": NOW + second, "track": with_oddity(second)}
        await place.look(RUN_UID)
    before = len(written(place.api))
    place.observer.fields = {"now": NOW + 20, "track": with_oddity(20), "pods": ()}
    await place.look(RUN_UID)
    assert [status["phase"] for status in written(place.api)[before - 1 :]] == ["Running", "Pending"]


async def test_a_changed_price_is_written_at_once_because_time_counts_at_it_from_there(place):
    node, run = make_node_facts(gpus=8), place.observer
    costs = [{"perGpuHour": price, "currency": "USD"} for price in (4, 4, 5)]
    for second, price in enumerate(costs):
        run.fields = {"now": NOW + second, "nodes": (node,), "pools": (make_pool(price=price),)}
        await place.look(RUN_UID)
    stored = [
        status["trained"]["cost"]["perHour"] for status in written(place.api) if status.get("trained", {}).get("cost")
    ]
    assert stored == [4, 5]


async def test_all_runs_together_are_paced(place):
    bucket = place.reconciler._pace
    bucket.fill(NOW)
    bucket.tokens = 1
    for second in range(3):
        place.observer.fields = {"now": NOW + second / 1000, "track": with_oddity(second)}
        await place.look(RUN_UID)
    assert len(written(place.api)) == 1


UNCOUNTABLE = [
    pytest.param({"spec": {"containers": ["x"]}}, id="a container that is a text"),
    pytest.param({"spec": {"containers": {"name": "x"}}}, id="containers that are an object"),
    pytest.param({"spec": "x"}, id="a spec that is a text"),
    pytest.param({"spec": []}, id="a spec that is a list"),
    pytest.param({"spec": {"containers": [{"name": "x", "resources": []}]}}, id="resources that are a list"),
    pytest.param({"spec": {"containers": [{"name": "x", "resources": {"limits": []}}]}}, id="limits that are a list"),
    pytest.param({"spec": {"containers": [{"name": "x", "resources": {"limits": "x"}}]}}, id="limits that are a text"),
    pytest.param({"spec": {"containers": [None]}}, id="a container that is null"),
    pytest.param({"spec": {"containers": [{"name": 7}]}}, id="a name that is a number"),
    pytest.param({"x": [{}] * 100_000}, id="a template that is too large"),
]


@pytest.mark.parametrize("template", UNCOUNTABLE)
async def test_a_template_that_cannot_be_counted_is_refused_with_words(place, template):
    stored = stored_run(status={}, spec={"template": template}, resourceVersion="900", generation=2)
    place.api.put(stored)
    place.cache.put_run(stored)
    place.observer.fields = {"workload": None, "pods": ()}
    await place.look(RUN_UID)
    (accepted,) = [c for c in written(place.api)[-1]["conditions"] if c["type"] == "Accepted"]
    assert (accepted["status"], accepted["reason"]) == ("False", "InvalidTemplate")
    assert accepted["message"].startswith("spec.template")
    assert count(place.telemetry, "reconcile_errors_total") == 0


@pytest.mark.parametrize("broken", ["count", "measured"])
async def test_what_cannot_be_counted_is_an_error_and_the_status_is_written(place, monkeypatch, broken):
    def fail(*_):
        raise OverflowError

    monkeypatch.setattr(f"trainingrun_operator.controller.tally.{broken}", fail)
    await place.look(RUN_UID)
    assert len(written(place.api)) == 1
    assert count(place.telemetry, "reconcile_errors_total") == 1


async def test_a_look_that_fails_for_a_bug_is_counted_and_comes_again_later_each_time(place):
    place.observer.trouble = RecursionError()
    waits = [await place.look(RUN_UID) for _ in range(8)]
    assert waits == sorted(waits)
    assert waits[-1] == 60
    assert count(place.telemetry, "reconcile_errors_total") == 8
