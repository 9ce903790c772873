"""Each effect as the request that it becomes, and what happens when it was done already or is not allowed any more."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from builders import (
    EARLIER,
    JOB_UID,
    NAME,
    NAMESPACE,
    NODE_UID,
    OPERATION,
    POD_UID,
    PROVIDER_ID,
    RUN_UID,
    STOP_ID,
    WALL,
    make_node,
    make_observed,
    make_pool,
    make_run,
    make_stop,
    make_workload,
)
from fakes import (
    EVENTS,
    JOB,
    JOBS,
    NODE,
    POD,
    RUN,
    ApiError,
    FakeProvider,
    Plain,
    api_server,
    stored_job,
    stored_node,
    stored_pod,
    stored_run,
)

from trainingrun_operator.api import names
from trainingrun_operator.api.status import Phase, RefusalKind, Rescue
from trainingrun_operator.core.effects import (
    AddFinalizer,
    AdoptWorkload,
    Advance,
    Annotate,
    Begin,
    CreateDisruptionBudget,
    CreateRescue,
    CreateWorkload,
    DeleteDisruptionBudget,
    DeleteNode,
    DeletePod,
    DeleteRescue,
    DeleteRun,
    DeleteWorkload,
    EndReplacements,
    RecordEvent,
    RecordNodes,
    ReleaseMachine,
    RemoveFinalizer,
    Resume,
    ResumeWorkload,
    StartRescue,
    SuspendWorkload,
    TaintNode,
    UntaintNode,
)
from trainingrun_operator.core.facts.learned import DisruptionBudgetChanged, ProviderAnswered, RescueRefused
from trainingrun_operator.core.facts.nodes import Refusal
from trainingrun_operator.core.facts.run import Run
from trainingrun_operator.core.manifests import disruption_budget
from trainingrun_operator.edge.cache import Cache
from trainingrun_operator.edge.execute import Executor, NotLeadingError, StaleError
from trainingrun_operator.edge.kube import Kube, KubeError
from trainingrun_operator.edge.nodes.provider import Denied, Refused, Retryable

POD_NAME = f"{NAME}-x7k2p"


def stored_rescue(**meta):
    return stored_job(
        name=f"{NAME}-rescue", uid=meta.pop("uid", "rescue-uid"), labels={names.RESCUE_LABEL: STOP_ID}, **meta
    )


STOP = make_stop(Phase.SAVING)
STOPPING = {"termination": STOP.dump(), "terminationStatus": STOP.status}
MERGE, JSON_PATCH, PLAIN = "application/merge-patch+json", "application/json-patch+json", "application/json"
OURS = {"key": names.RELEASING_TAINT, "value": RUN_UID, "effect": "NoSchedule"}
RELEASE = ReleaseMachine("a100", PROVIDER_ID, "gpu-1", NODE_UID, OPERATION)
THEIRS = {**OURS, "value": "other-run"}
GPU = {"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}
CORDON = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule", "timeAdded": EARLIER}


@pytest.fixture
async def place():
    """An executor, and everything that it can be told to touch."""
    provider = FakeProvider()
    stored = (stored_run(status=STOPPING), stored_job(), stored_pod(), stored_node())
    async with api_server(*stored) as api, Kube(Plain(api.url)) as kube:
        cache, lease = Cache(), SimpleNamespace(held=True)
        cache.pools["a100"] = make_pool()
        executor = Executor(kube, cache, lambda: lease.held, lambda _: provider)

        async def do(*effects, seen=None):
            seen = seen or make_observed(run=Run.of(api.objects[RUN]), wall=WALL)
            there.outcome = await executor.execute(seen, effects)
            if there.outcome.stopped is not None:
                raise there.outcome.stopped
            return there.outcome.written

        there = SimpleNamespace(api=api, cache=cache, provider=provider, do=do, lease=lease)
        yield there


def unchanged(version="7"):
    return [
        {"op": "test", "path": "/metadata/uid", "value": RUN_UID},
        {"op": "test", "path": "/metadata/resourceVersion", "value": version},
    ]


def add(path, value):
    return {"op": "add", "path": path, "value": value}


NODES = (make_node(),)
ADVANCED = make_stop(Phase.VERIFYING)
SUSPENSION = make_stop(Phase.REQUESTED, status="suspended")
GUARDED = [
    {"op": "test", "path": "/metadata/uid", "value": RUN_UID},
    {"op": "test", "path": "/status/termination/id", "value": STOP_ID},
    {"op": "test", "path": "/status/termination/phase", "value": "Saving"},
    {"op": "test", "path": "/status/termination/attempt", "value": 1},
    {"op": "replace", "path": "/status/termination", "value": ADVANCED.dump()},
]
OWNER = {
    "apiVersion": names.API_VERSION,
    "kind": names.RUN_KIND,
    "name": NAME,
    "uid": RUN_UID,
    "controller": False,
    "blockOwnerDeletion": False,
}


def delete_options(uid, **preconditions):
    return {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": uid, **preconditions},
        "propagationPolicy": "Background",
    }


@pytest.mark.parametrize(
    ("effect", "line", "content_type", "body"),
    [
        pytest.param(
            RemoveFinalizer(),
            f"PATCH {RUN}",
            JSON_PATCH,
            [*unchanged(), {"op": "replace", "path": "/metadata/finalizers", "value": []}],
            id="our finalizer is taken off",
        ),
        pytest.param(
            Begin(STOP),
            f"PATCH {RUN}/status",
            JSON_PATCH,
            [
                *unchanged(),
                add("/status/termination", STOP.dump()),
                add("/status/terminationStatus", "auto_low_loss"),
            ],
            id="the intent is written with its reason",
        ),
        pytest.param(
            Begin(SUSPENSION),
            f"PATCH {RUN}/status",
            JSON_PATCH,
            [*unchanged(), add("/status/termination", SUSPENSION.dump())],
            id="a run that is suspended has no reason to have ended",
        ),
        pytest.param(
            Advance(ADVANCED, Phase.SAVING, 1),
            f"PATCH {RUN}/status",
            JSON_PATCH,
            GUARDED,
            id="the next phase is written from the one before",
        ),
        pytest.param(
            Advance(ADVANCED, Phase.SAVING, 1, completion=True),
            f"PATCH {RUN}/status",
            JSON_PATCH,
            [*GUARDED, add("/status/completionTime", WALL)],
            id="the last phase is written with its time",
        ),
        pytest.param(
            RecordNodes(NODES),
            f"PATCH {RUN}/status",
            JSON_PATCH,
            [*unchanged(), add("/status/nodes", [node.dump() for node in NODES])],
            id="nodes are recorded",
        ),
        pytest.param(
            AdoptWorkload(JOB_UID),
            f"PATCH {JOB}",
            MERGE,
            {"metadata": {"uid": JOB_UID, "ownerReferences": [OWNER]}},
            id="the Job is handed to the garbage collector",
        ),
        pytest.param(
            EndReplacements(JOB_UID),
            f"PATCH {JOB}",
            MERGE,
            {"metadata": {"uid": JOB_UID}, "spec": {"backoffLimit": 0}},
            id="no pod is replaced any more",
        ),
        pytest.param(
            SuspendWorkload(JOB_UID, 1),
            f"PATCH {JOB}",
            JSON_PATCH,
            [
                {"op": "test", "path": "/metadata/uid", "value": JOB_UID},
                {"op": "test", "path": "/metadata/generation", "value": 1},
                {"op": "add", "path": "/spec/suspend", "value": True},
            ],
            id="the Job is suspended",
        ),
        pytest.param(
            ResumeWorkload(JOB_UID, 1),
            f"PATCH {JOB}",
            JSON_PATCH,
            [
                {"op": "test", "path": "/metadata/uid", "value": JOB_UID},
                {"op": "test", "path": "/metadata/generation", "value": 1},
                {"op": "add", "path": "/spec/suspend", "value": False},
            ],
            id="the Job goes on",
        ),
        pytest.param(
            Annotate(POD_NAME, POD_UID, names.OPEN_GATE_ANNOTATION, STOP_ID),
            f"PATCH {POD}",
            MERGE,
            {"metadata": {"uid": POD_UID, "annotations": {names.OPEN_GATE_ANNOTATION: STOP_ID}}},
            id="a pod is annotated by its uid",
        ),
        pytest.param(
            DeletePod(POD_NAME, POD_UID),
            f"DELETE {POD}",
            PLAIN,
            delete_options(POD_UID),
            id="a pod is deleted by its uid",
        ),
        pytest.param(
            DeletePod(POD_NAME, POD_UID, 150),
            f"DELETE {POD}",
            PLAIN,
            {**delete_options(POD_UID), "gracePeriodSeconds": 150},
            id="a pod is deleted with another grace than its own",
        ),
        pytest.param(
            DeleteWorkload(NAME, JOB_UID),
            f"DELETE {JOB}",
            PLAIN,
            delete_options(JOB_UID),
            id="the Job is deleted by its uid",
        ),
        pytest.param(
            DeleteRun(),
            f"DELETE {RUN}",
            PLAIN,
            delete_options(RUN_UID, resourceVersion="7"),
            id="the run is deleted as it was read",
        ),
        pytest.param(
            DeleteNode("gpu-1", NODE_UID),
            f"DELETE {NODE}",
            PLAIN,
            delete_options(NODE_UID),
            id="a Node is deleted by its uid",
        ),
        pytest.param(
            CreateWorkload({"kind": "Job", "metadata": {"namespace": NAMESPACE, "name": "new"}}),
            f"POST {JOBS}",
            PLAIN,
            {"kind": "Job", "metadata": {"namespace": NAMESPACE, "name": "new"}},
            id="a Job is created as it was built",
        ),
        pytest.param(
            TaintNode("gpu-1", NODE_UID),
            f"PATCH {NODE}",
            MERGE,
            {"metadata": {"uid": NODE_UID, "resourceVersion": "7"}, "spec": {"taints": [OURS]}},
            id="a node is tainted as it was read",
        ),
    ],
)
async def test_the_request_that_an_effect_becomes(place, effect, line, content_type, body):
    await place.do(effect)
    sent = next(request for request in place.api.sent if request.line == line)
    assert (sent.line, sent.content_type, sent.body) == (line, content_type, body)
    if sent.method in ("PATCH", "POST"):
        assert sent.query == {"fieldManager": "trainingrun-operator"}


async def test_an_event_is_told_of_the_run(place):
    await place.do(RecordEvent("Stopping", "auto_low_loss: Loss 0.3 < 0.5."))
    sent = place.api.sent[-1]
    assert sent.line == f"POST {EVENTS}"
    said = (sent.body["type"], sent.body["reason"], sent.body["message"], sent.body["firstTimestamp"])
    assert said == ("Normal", "Stopping", "auto_low_loss: Loss 0.3 < 0.5.", WALL)
    assert sent.body["involvedObject"]["uid"] == RUN_UID


async def test_nothing_waits_for_an_event_that_cannot_be_told(place, caplog):
    place.api.refuse(f"POST {EVENTS}", ApiError(403, "Forbidden", "the namespace is being terminated"))
    await place.do(RecordEvent("Stopping", "It stops."), DeletePod(POD_NAME, POD_UID))
    assert POD not in place.api.objects
    assert "the namespace is being terminated" in caplog.text


GOING = [
    {"reason": "NamespaceTerminating", "message": "namespace ml is being terminated", "field": "metadata.namespace"}
]


async def test_what_was_lost_in_a_namespace_that_goes_is_told_about_the_namespace(place):
    place.api.refuse(f"POST {EVENTS}", ApiError(403, "Forbidden", "ml is being terminated", GOING))
    await place.do(RecordEvent("DataLoss", "All is lost.", warning=True))
    sent = place.api.sent[-1]
    assert sent.line == "POST /api/v1/namespaces/default/events"
    assert sent.body["involvedObject"] == {"apiVersion": "v1", "kind": "Namespace", "name": NAMESPACE}
    assert (sent.body["metadata"]["namespace"], sent.body["reason"]) == ("default", "DataLoss")
    assert sent.body["message"] == f"TrainingRun {NAMESPACE}/{NAME}: All is lost."


async def test_nothing_else_is_told_about_a_namespace(place):
    place.api.refuse(f"POST {EVENTS}", ApiError(403, "Forbidden", "ml is being terminated", GOING))
    await place.do(RecordEvent("Finished", "It is over."))
    place.api.refuse(f"POST {EVENTS}", ApiError(403, "Forbidden", "quota"))
    await place.do(RecordEvent("DataLoss", "All is lost.", warning=True))
    assert [line for line in place.api.lines() if "default" in line] == []


async def test_nothing_waits_for_what_cannot_be_told_anywhere(place, caplog):
    place.api.refuse(f"POST {EVENTS}", ApiError(403, "Forbidden", "ml is being terminated", GOING))
    place.api.refuse("POST /api/v1/namespaces/default/events", ApiError(403, "Forbidden", "not there either"))
    await place.do(RecordEvent("DataLoss", "All is lost.", warning=True), DeletePod(POD_NAME, POD_UID))
    assert POD not in place.api.objects
    assert "not there either" in caplog.text


# -- the disruption budget ----------------------------------------------------------------------------------------

BUDGET = f"/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets/{NAME}-checkpoint"


async def test_a_budget_is_put_up_and_taken_down_by_its_uid(place):
    await place.do(CreateDisruptionBudget(disruption_budget(make_run(), make_workload())))
    uid = place.api.objects[BUDGET]["metadata"]["uid"]
    assert place.outcome.learned == (DisruptionBudgetChanged(uid),)
    await place.do(DeleteDisruptionBudget(f"{NAME}-checkpoint", uid))
    assert place.api.sent[-1].body["preconditions"]["uid"]
    assert BUDGET not in place.api.objects
    assert place.outcome.learned == (DisruptionBudgetChanged(""),)


@pytest.mark.parametrize(
    ("effect", "line"),
    [
        pytest.param(
            CreateDisruptionBudget(disruption_budget(make_run(), make_workload())),
            f"POST {BUDGET.rpartition('/')[0]}",
            id="put up",
        ),
        pytest.param(DeleteDisruptionBudget(f"{NAME}-checkpoint", "budget-uid"), f"DELETE {BUDGET}", id="taken down"),
    ],
)
async def test_nothing_waits_for_a_budget_that_cannot_be(place, effect, line):
    place.api.refuse(line, ApiError(403, "Forbidden", "the namespace is being terminated"))
    await place.do(effect, DeletePod(POD_NAME, POD_UID))
    assert POD not in place.api.objects
    assert place.outcome.learned == (DisruptionBudgetChanged(None),), "It is looked for again."


async def test_a_run_that_never_had_a_status_gets_one_before_its_parts(place):
    place.api.put(stored_run())
    await place.do(Begin(STOP))
    assert place.api.sent[-1].body[2] == add("/status", {})
    assert place.api.objects[RUN]["status"] == STOPPING
    place.api.put(stored_run())
    await place.do(RecordNodes(NODES))
    assert place.api.objects[RUN]["status"]["nodes"][0]["uid"] == NODE_UID


async def test_finalizers_of_others_stay(place):
    place.api.put(stored_run(finalizers=["foregroundDeletion", names.FINALIZER, "acme/backup"]))
    await place.do(RemoveFinalizer())
    assert place.api.objects[RUN]["metadata"]["finalizers"] == ["foregroundDeletion", "acme/backup"]
    await place.do(AddFinalizer())
    version = place.api.sent[-1].body[1]["value"]
    value = ["foregroundDeletion", "acme/backup", names.FINALIZER]
    assert place.api.sent[-1].body == [*unchanged(version), add("/metadata/finalizers", value)]
    assert place.api.objects[RUN]["metadata"]["finalizers"] == ["foregroundDeletion", "acme/backup", names.FINALIZER]


# -- order and results --------------------------------------------------------------------------------------------


async def test_effects_are_done_in_order_and_the_last_write_to_the_run_is_returned(place):
    written = await place.do(
        EndReplacements(JOB_UID), Advance(ADVANCED, Phase.SAVING, 1), Annotate(POD_NAME, POD_UID, "a", "b")
    )
    assert place.api.lines("PATCH") == [f"PATCH {JOB}", f"PATCH {RUN}/status", f"PATCH {POD}"]
    assert written["status"]["termination"]["phase"] == "Verifying"


async def test_without_a_write_to_the_run_nothing_is_returned(place):
    assert await place.do(EndReplacements(JOB_UID)) is None
    assert await place.do() is None


async def test_nothing_behind_an_effect_that_is_stale_is_done(place):
    place.api.objects[RUN]["status"]["termination"]["phase"] = "Verifying"
    with pytest.raises(StaleError, match=r"^Advance: 422 Invalid"):
        await place.do(Advance(ADVANCED, Phase.SAVING, 1), DeletePod(POD_NAME, POD_UID))
    assert POD in place.api.objects


async def test_nothing_behind_an_effect_that_fails_is_done(place):
    place.api.refuse(f"PATCH {RUN}/status", ApiError(500, "InternalError"))
    with pytest.raises(KubeError):
        await place.do(Advance(ADVANCED, Phase.SAVING, 1), DeletePod(POD_NAME, POD_UID))
    assert POD in place.api.objects


# -- the Lease ----------------------------------------------------------------------------------------------------

TO_DO = (
    AddFinalizer(),
    RemoveFinalizer(),
    DeleteRun(),
    Begin(STOP),
    Advance(ADVANCED, Phase.SAVING, 1),
    RecordNodes(NODES),
    CreateWorkload(stored_job()),
    AdoptWorkload(JOB_UID),
    EndReplacements(JOB_UID),
    SuspendWorkload(JOB_UID, 1),
    ResumeWorkload(JOB_UID, 1),
    Resume(STOP_ID, NODES),
    DeleteWorkload(NAME, JOB_UID),
    CreateRescue(stored_rescue(), STOP_ID),
    StartRescue(f"{NAME}-rescue", "rescue-uid", 1),
    DeleteRescue(f"{NAME}-rescue", "rescue-uid"),
    Annotate(POD_NAME, POD_UID, "a", "b"),
    DeletePod(POD_NAME, POD_UID),
    TaintNode("gpu-1", NODE_UID),
    UntaintNode("gpu-1", NODE_UID),
    RELEASE,
    DeleteNode("gpu-1", NODE_UID),
    RecordEvent("Stopping", "It stops.", warning=False),
)


@pytest.mark.parametrize("effect", TO_DO, ids=lambda effect: type(effect).__name__)
async def test_without_the_lease_nothing_is_begun(place, effect):
    place.lease.held = False
    with pytest.raises(NotLeadingError):
        await place.do(effect)
    assert (place.api.sent, place.provider.released) == ([], [])


async def test_the_lease_is_asked_right_before_each_effect(place):
    def run_out(sent):
        place.lease.held = False

    place.api.before = run_out
    with pytest.raises(NotLeadingError):
        await place.do(EndReplacements(JOB_UID), DeletePod(POD_NAME, POD_UID))
    assert place.api.lines() == [f"PATCH {JOB}"]
    assert POD in place.api.objects


@pytest.mark.parametrize(
    "effect", [TaintNode("gpu-1", NODE_UID), UntaintNode("gpu-1", NODE_UID)], ids=lambda e: type(e).__name__
)
async def test_a_node_that_was_read_too_late_is_not_written(place, effect):
    """It may have been tainted, given back and used by others while this operator was stopped; what was read in time is written only on what was read."""

    def run_out(sent):
        place.lease.held = False

    place.api.before = run_out
    with pytest.raises(NotLeadingError):
        await place.do(effect)
    assert [line.split()[0] for line in place.api.lines()] == ["GET"]


# -- preconditions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "effect", [AddFinalizer(), RemoveFinalizer(), Begin(STOP), RecordNodes(NODES)], ids=lambda e: type(e).__name__
)
@pytest.mark.parametrize(
    "now_stored",
    [
        pytest.param([stored_run(status=STOPPING, resourceVersion="8")], id="changed meanwhile"),
        pytest.param([stored_run(status=STOPPING, uid="another")], id="another of its name"),
        pytest.param([], id="gone"),
    ],
)
async def test_a_run_that_is_not_as_it_was_read_is_not_written_to(place, effect, now_stored):
    seen = make_observed(run=Run.of(place.api.objects[RUN]))
    del place.api.objects[RUN]
    place.api.put(*now_stored)
    before = json.dumps(place.api.objects, sort_keys=True)
    with pytest.raises(StaleError, match=type(effect).__name__):
        await place.do(effect, seen=seen)
    assert json.dumps(place.api.objects, sort_keys=True) == before


async def test_a_suspension_that_is_over_is_forgotten(place):
    place.api.objects[RUN]["status"] = {"termination": make_stop(Phase.DONE, status="suspended").dump()}
    written = await place.do(Resume(STOP_ID, NODES))
    assert written["status"] == {"nodes": [node.dump() for node in NODES]}


@pytest.mark.parametrize(
    "now",
    [
        pytest.param({"id": "another"}, id="it is another one"),
        pytest.param({"phase": "Releasing"}, id="it is not over"),
    ],
)
async def test_and_only_that_one(place, now):
    rests = make_stop(Phase.DONE, status="suspended").dump()
    place.api.objects[RUN]["status"] = {"termination": {**rests, **now}}
    with pytest.raises(StaleError, match=r"^Resume: 422 Invalid"):
        await place.do(Resume(STOP_ID, NODES))
    assert "termination" in place.api.objects[RUN]["status"]


@pytest.mark.parametrize(
    "now",
    [
        pytest.param({"id": "another stop"}, id="another stop"),
        pytest.param({"phase": "Held"}, id="another phase"),
        pytest.param({"attempt": 2}, id="another attempt"),
    ],
)
async def test_a_stop_that_is_not_where_it_was_is_not_advanced(place, now):
    place.api.put(stored_run(status={**STOPPING, "termination": {**STOP.dump(), **now}}))
    with pytest.raises(StaleError):
        await place.do(Advance(ADVANCED, Phase.SAVING, 1))


async def test_a_stop_is_advanced_though_something_else_in_the_run_has_changed(place):
    place.api.objects[RUN]["metadata"] |= {"resourceVersion": "99", "labels": {"team": "a"}}
    await place.do(Advance(ADVANCED, Phase.SAVING, 1))
    assert place.api.objects[RUN]["status"]["termination"]["phase"] == "Verifying"


async def test_two_operators_that_decide_the_same_do_it_once(place):
    seen = make_observed(run=Run.of(place.api.objects[RUN]))
    await place.do(Advance(ADVANCED, Phase.SAVING, 1), seen=seen)
    with pytest.raises(StaleError):
        await place.do(Advance(ADVANCED, Phase.SAVING, 1), seen=seen)


async def test_a_refusal_by_the_schema_is_not_stale_but_an_error(place):
    place.api.refuse(f"PATCH {RUN}/status", ApiError(422, "Invalid", causes=[{"field": "status.nodes"}]))
    with pytest.raises(KubeError):
        await place.do(RecordNodes(NODES))


@pytest.mark.parametrize(
    "effect",
    [
        AdoptWorkload("another"),
        EndReplacements("another"),
        SuspendWorkload("another", 1),
        ResumeWorkload("another", 1),
        SuspendWorkload(JOB_UID, 0),
        ResumeWorkload(JOB_UID, 2),
        Annotate(POD_NAME, "another", "key", "value"),
        Annotate("nobody", POD_UID, "key", "value"),
        TaintNode("gpu-1", "another"),
        UntaintNode("gpu-1", "another"),
        TaintNode("nobody", NODE_UID),
    ],
    ids=lambda e: type(e).__name__,
)
async def test_an_object_that_is_not_the_one_meant_is_not_changed(place, effect):
    before = json.dumps(place.api.objects, sort_keys=True)
    with pytest.raises(StaleError):
        await place.do(effect)
    assert json.dumps(place.api.objects, sort_keys=True) == before


@pytest.mark.parametrize(
    ("effect", "path"),
    [
        pytest.param(DeletePod(POD_NAME, POD_UID), POD, id="pod"),
        pytest.param(DeleteWorkload(NAME, JOB_UID), JOB, id="job"),
        pytest.param(DeleteNode("gpu-1", NODE_UID), NODE, id="node"),
    ],
)
async def test_what_is_deleted_already_is_deleted(place, effect, path):
    await place.do(effect)
    await place.do(effect)
    assert path not in place.api.objects


@pytest.mark.parametrize(
    ("effect", "path"),
    [
        pytest.param(DeletePod(POD_NAME, "ours"), POD, id="pod"),
        pytest.param(DeleteWorkload(NAME, "ours"), JOB, id="job"),
        pytest.param(DeleteNode("gpu-1", "ours"), NODE, id="node"),
    ],
)
async def test_one_of_the_same_name_means_that_ours_is_gone_and_is_left_alone(place, effect, path):
    await place.do(effect)
    assert path in place.api.objects


async def test_a_run_that_changed_after_it_was_read_is_not_deleted(place):
    seen = make_observed(run=Run.of(place.api.objects[RUN]))
    place.api.put(stored_run(finalizers=None, resourceVersion="8"))
    with pytest.raises(StaleError):
        await place.do(DeleteRun(), seen=seen)
    assert RUN in place.api.objects


async def test_a_run_that_is_gone_already_is_deleted(place):
    seen = make_observed(run=Run.of(place.api.objects[RUN]))
    del place.api.objects[RUN]
    await place.do(DeleteRun(), seen=seen)
    assert place.api.lines() == [f"DELETE {RUN}"]


# -- the Job ------------------------------------------------------------------------------------------------------


async def test_a_created_job_is_known_before_the_watch_brings_it(place):
    del place.api.objects[JOB]
    await place.do(CreateWorkload({"kind": "Job", "metadata": stored_job()["metadata"]}))
    assert place.cache.jobs[RUN_UID]["metadata"]["name"] == NAME


async def test_a_job_that_is_created_for_a_run_that_is_gone_is_taken_back(place):
    """As an operator does that stood still between its decision and its request."""
    seen = make_observed(run=Run.of(place.api.objects[RUN]), wall=WALL)
    del place.api.objects[RUN], place.api.objects[JOB]
    with pytest.raises(StaleError):
        await place.do(CreateWorkload({"kind": "Job", "metadata": stored_job()["metadata"]}), seen=seen)
    assert JOB not in place.api.objects
    assert RUN_UID not in place.cache.jobs


async def test_a_job_that_is_there_already_is_looked_at_again(place):
    with pytest.raises(StaleError):
        await place.do(CreateWorkload({"kind": "Job", "metadata": {"namespace": NAMESPACE, "name": NAME}}))
    assert place.api.objects[JOB]["metadata"]["uid"] == JOB_UID


@pytest.mark.parametrize(
    ("answer", "permanent"),
    [
        pytest.param(ApiError(422, "Invalid", "spec.template: bad", causes=[{"field": "spec"}]), True, id="invalid"),
        pytest.param(ApiError(400, "BadRequest", "spec.template: bad"), True, id="not a Job at all"),
        pytest.param(ApiError(403, "Forbidden", "exceeded quota"), False, id="a quota may be raised"),
    ],
)
async def test_a_job_that_is_refused_becomes_the_runs_problem(place, answer, permanent):
    place.api.refuse(f"POST {JOBS}", answer)
    with pytest.raises(KubeError):
        await place.do(CreateWorkload({"kind": "Job", "metadata": {"namespace": NAMESPACE, "name": "new"}}))
    (refused,) = place.outcome.learned
    assert refused.problem.reason == "InvalidTemplate"
    assert answer.status["message"] in refused.problem.message
    assert refused.problem.permanent is permanent


async def test_an_api_server_in_trouble_is_not_the_runs_problem(place):
    place.api.refuse(f"POST {JOBS}", ApiError(500, "InternalError"))
    with pytest.raises(KubeError):
        await place.do(CreateWorkload({"kind": "Job", "metadata": {"namespace": NAMESPACE, "name": "new"}}))
    assert place.outcome.learned == ()


# -- the rescue Job -----------------------------------------------------------------------------------------------

RESCUE = f"{JOBS}/{NAME}-rescue"
BEGUN = make_stop(Phase.SAVING, rescue=Rescue(claim="checkpoints")).dump()
RESCUING = {**STOPPING, "termination": BEGUN}


def rescuing_late(**fields):
    """A stop in Deleting with a rescue that began there."""
    stop = make_stop(Phase.DELETING, rescue=Rescue(claim="checkpoints", attempt=2, **fields))
    return {**STOPPING, "termination": stop.dump()}


@pytest.mark.parametrize(
    "status", [pytest.param(RESCUING, id="before the proof"), pytest.param(rescuing_late(), id="after the proof")]
)
async def test_a_rescue_is_created_for_the_stop_that_waits_for_it(place, status):
    place.api.put(stored_run(status=status))
    await place.do(CreateRescue(stored_rescue(), STOP_ID))
    assert RESCUE in place.api.objects
    assert place.outcome.learned == ()
    assert RUN_UID not in place.cache.jobs, "It is not the run's Job."


@pytest.mark.parametrize(
    "status",
    [
        pytest.param(None, id="the run is gone"),
        pytest.param(STOPPING, id="the stop has no rescue"),
        pytest.param({**RESCUING, "termination": {**BEGUN, "phase": "Deleting"}}, id="everything is proven"),
        pytest.param(rescuing_late(over=True), id="the rescue after the proof is over"),
        pytest.param({**RESCUING, "termination": {**BEGUN, "id": "suspend-x"}}, id="it is another stop"),
        pytest.param({}, id="there is no stop"),
    ],
)  # fmt: skip
async def test_a_rescue_that_nobody_waits_for_is_taken_back(place, status):
    """As an operator makes it that stood still between its decision and its request."""
    seen = make_observed(run=Run.of(stored_run(status=RESCUING)), wall=WALL)
    if status is None:
        del place.api.objects[RUN]
    else:
        place.api.put(stored_run(status=status))
    with pytest.raises(StaleError):
        await place.do(CreateRescue(stored_rescue(), STOP_ID), seen=seen)
    assert RESCUE not in place.api.objects


async def test_a_rescue_that_is_there_already_is_looked_at_again(place):
    place.api.put(stored_rescue())
    with pytest.raises(StaleError):
        await place.do(CreateRescue(stored_rescue(), STOP_ID))


@pytest.mark.parametrize("status", [400, 403, 422])
async def test_a_refused_rescue_is_learned_and_stops_no_other_effect(place, status):
    place.api.refuse(f"POST {JOBS}", ApiError(status, "Refused", "exceeded quota"))
    await place.do(CreateRescue(stored_rescue(), STOP_ID), DeletePod(POD_NAME, POD_UID))
    assert place.outcome.learned == (RescueRefused("exceeded quota"),)
    assert POD not in place.api.objects


async def test_an_api_server_in_trouble_refuses_no_rescue(place):
    place.api.refuse(f"POST {JOBS}", ApiError(500, "InternalError"))
    with pytest.raises(KubeError):
        await place.do(CreateRescue(stored_rescue(), STOP_ID))
    assert place.outcome.learned == ()


def waiting_rescue(**meta):
    """Created, and not started yet."""
    made = stored_rescue(**meta)
    made["spec"]["suspend"] = True
    return made


async def test_a_rescue_starts_by_its_uid(place):
    place.api.put(waiting_rescue())
    await place.do(StartRescue(f"{NAME}-rescue", "rescue-uid", 1))
    assert place.api.objects[RESCUE]["spec"]["suspend"] is False
    assert RUN_UID not in place.cache.jobs, "It is not the run's Job."


@pytest.mark.parametrize(
    "there",
    [
        pytest.param(None, id="its stop is over, and it was deleted"),
        pytest.param(waiting_rescue(uid="created-late"), id="another has its name"),
        pytest.param(waiting_rescue(generation=2), id="somebody has changed it"),
    ],
)
async def test_a_late_start_starts_no_other_rescue(place, there):
    if there is not None:
        place.api.put(there)
    with pytest.raises(StaleError):
        await place.do(StartRescue(f"{NAME}-rescue", "rescue-uid", 1))
    assert place.api.objects.get(RESCUE) == there


async def test_a_rescue_is_deleted_by_its_uid_and_gone_is_deleted(place):
    place.api.put(stored_rescue(uid="another"))
    await place.do(DeleteRescue(f"{NAME}-rescue", "rescue-uid"))
    assert RESCUE in place.api.objects
    await place.do(DeleteRescue(f"{NAME}-rescue", "another"))
    assert RESCUE not in place.api.objects
    await place.do(DeleteRescue(f"{NAME}-rescue", "another"))


# -- the node -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("taints", "effect", "expected"),
    [
        pytest.param([], TaintNode, [OURS], id="a bare node is tainted"),
        pytest.param([GPU, CORDON], TaintNode, [GPU, CORDON, OURS], id="taints and cordons of others stay"),
        pytest.param([OURS, GPU], UntaintNode, [GPU], id="only our taint is taken back"),
        pytest.param([OURS, CORDON], UntaintNode, [CORDON], id="a cordon of others stays"),
    ],
)
async def test_taints(place, taints, effect, expected):
    place.api.put(stored_node(spec={"taints": taints, "unschedulable": True}))
    await place.do(effect("gpu-1", NODE_UID))
    assert place.api.objects[NODE]["spec"]["taints"] == expected
    assert place.api.objects[NODE]["spec"]["unschedulable"] is True
    assert "unschedulable" not in place.api.sent[-1].body["spec"]


@pytest.mark.parametrize(
    ("taints", "effect"),
    [
        pytest.param([GPU, OURS], TaintNode, id="tainted already"),
        pytest.param([GPU], UntaintNode, id="not tainted"),
        pytest.param([], UntaintNode, id="without any taint"),
    ],
)
async def test_a_node_that_is_as_wanted_is_not_written_to(place, taints, effect):
    place.api.put(stored_node(spec={"taints": taints}))
    await place.do(effect("gpu-1", NODE_UID))
    assert place.api.lines() == [f"GET {NODE}"]


@pytest.mark.parametrize("effect", [TaintNode, UntaintNode])
async def test_the_taint_of_another_run_is_not_touched(place, effect):
    place.api.put(stored_node(spec={"taints": [THEIRS]}))
    with pytest.raises(StaleError, match="is being released by run other-run"):
        await place.do(effect("gpu-1", NODE_UID))
    assert place.api.lines("PATCH") == []


@pytest.mark.parametrize(("taints", "left"), [([THEIRS, GPU], [GPU]), ([GPU], [GPU])])
async def test_the_taint_of_a_run_that_is_gone_is_removed(place, taints, left):
    place.api.put(stored_node(spec={"taints": taints}))
    await place.do(UntaintNode("gpu-1", NODE_UID, "other-run"))
    assert place.api.objects[NODE]["spec"]["taints"] == left


async def test_a_taint_that_is_no_more_the_orphaned_one_stays(place):
    place.api.put(stored_node(spec={"taints": [OURS]}))
    with pytest.raises(StaleError):
        await place.do(UntaintNode("gpu-1", NODE_UID, "other-run"))


async def test_a_taint_that_came_between_reading_and_writing_is_not_lost(place):
    def meanwhile(sent):
        if sent.line == f"PATCH {NODE}":
            place.api.put(stored_node(spec={"taints": [GPU]}, resourceVersion="8"))

    place.api.before = meanwhile
    with pytest.raises(StaleError):
        await place.do(TaintNode("gpu-1", NODE_UID))
    assert place.api.objects[NODE]["spec"]["taints"] == [GPU]


# -- the machine --------------------------------------------------------------------------------------------------


async def test_a_machine_is_released_through_its_pool(place):
    await place.do(RELEASE)
    assert place.provider.released == [("a100", PROVIDER_ID, OPERATION)]
    assert place.outcome.learned == (ProviderAnswered(PROVIDER_ID),)


async def test_what_the_cloud_refuses_is_remembered_and_ends_nothing(place):
    said = "The group is at its minimum of 2."
    place.provider.trouble = Refused(said)
    await place.do(RELEASE, DeletePod(POD_NAME, POD_UID))
    assert place.outcome.learned == (ProviderAnswered(PROVIDER_ID, Refusal(RefusalKind.REFUSED, said)),)
    assert POD not in place.api.objects


@pytest.mark.parametrize(
    ("trouble", "refusal"),
    [
        (Retryable("Throttled.", after=30), Refusal(RefusalKind.RETRYABLE, "Throttled.", 30)),
        (Denied("Not permitted."), Refusal(RefusalKind.DENIED, "Not permitted.")),
    ],
)
async def test_a_refusal_keeps_its_kind(place, trouble, refusal):
    place.provider.trouble = trouble
    await place.do(RELEASE)
    assert place.outcome.learned == (ProviderAnswered(PROVIDER_ID, refusal),)


async def test_a_pool_that_is_gone_releases_nothing(place):
    await place.do(replace(RELEASE, pool="gone"))
    assert place.provider.released == []
