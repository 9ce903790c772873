"""What the API server answers when something is not what it was: the refusals that every safe write rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from trainingrun_operator.api import names
from trainingrun_operator.edge.kube import KubeError

if TYPE_CHECKING:
    from e2e.api import Api, Json

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

NOW = "2026-01-01T00:00:00Z"
NOBODY = "00000000-0000-0000-0000-000000000000"
TERMINATION = {
    "id": "stop-1",
    "status": "user_stop",
    "message": "Stopped by hand.",
    "phase": "Requested",
    "attempt": 1,
    "inferred": False,
    "requestedAt": NOW,
    "phaseAt": NOW,
}


def unchanged(run: Json) -> list[Json]:
    return [
        {"op": "test", "path": "/metadata/uid", "value": run["metadata"]["uid"]},
        {"op": "test", "path": "/metadata/resourceVersion", "value": run["metadata"]["resourceVersion"]},
    ]


def add(path: str, value: object) -> Json:
    return {"op": "add", "path": path, "value": value}


async def refused(call) -> KubeError:
    with pytest.raises(KubeError) as error:
        await call
    return error.value


# -- JSON patches with `test` ------------------------------------------------------------------------------------


async def test_a_patch_of_what_is_as_it_was_read_is_written(kube, runs, namespace):
    run = runs.make()
    written = await kube.patch_run_status(namespace, "run", [*unchanged(run), add("/status/termination", TERMINATION)])
    assert written["status"]["termination"]["id"] == "stop-1"
    assert written["status"]["conditions"] == run["status"]["conditions"], "What the observer wrote stays."


@pytest.mark.parametrize("path", ["/metadata/uid", "/metadata/resourceVersion"])
async def test_a_patch_of_what_has_changed_is_a_conflict_and_writes_nothing(path, kube, runs, namespace):
    runs.make()
    stale = {"op": "test", "path": path, "value": "1"}
    error = await refused(kube.patch_run_status(namespace, "run", [stale, add("/status/termination", TERMINATION)]))
    assert (error.status, error.causes) == (422, ())
    assert error.conflict
    assert "termination" not in runs.read()["status"]


async def test_of_two_writers_with_the_same_reading_one_wins(kube, runs, namespace):
    run = runs.make()
    first = [*unchanged(run), add("/status/termination", TERMINATION)]
    second = [*unchanged(run), add("/status/termination", TERMINATION | {"status": "auto_low_loss"})]
    await kube.patch_run_status(namespace, "run", first)
    error = await refused(kube.patch_run_status(namespace, "run", second))
    assert error.conflict
    assert runs.read()["status"]["termination"]["status"] == "user_stop"


async def test_an_advance_needs_id_phase_and_attempt_to_be_what_they_were(kube, runs, namespace):
    run = runs.make()
    await kube.patch_run_status(namespace, "run", [*unchanged(run), add("/status/termination", TERMINATION)])
    step = {"op": "replace", "path": "/status/termination/phase", "value": "Draining"}
    same = {"op": "test", "path": "/status/termination/phase", "value": "Requested"}
    await kube.patch_run_status(namespace, "run", [same, step])
    error = await refused(kube.patch_run_status(namespace, "run", [same, step]))
    assert error.conflict, "It was taken already: whoever comes second reads again."


async def test_a_missing_parent_is_the_same_refusal_as_a_failed_test(kube, runs, namespace):
    runs.make()
    error = await refused(kube.patch_run_status(namespace, "run", [add("/status/termination/phase", "Draining")]))
    assert (error.status, error.causes, error.conflict) == (422, (), True)


async def test_a_patch_of_a_run_that_is_gone_says_gone(kube, namespace):
    error = await refused(kube.patch_run_status(namespace, "nobody", [add("/status/termination", TERMINATION)]))
    assert (error.gone, error.conflict) == (True, False)
    assert await kube.run(namespace, "nobody") is None


# -- the schema ----------------------------------------------------------------------------------------------------


async def test_a_refusal_by_the_schema_has_causes_and_is_no_conflict(kube, runs, namespace):
    run = runs.make()
    error = await refused(
        kube.patch_run_status(
            namespace, "run", [*unchanged(run), add("/status/termination", TERMINATION | {"phase": "Sometime"})]
        )
    )
    assert (error.status, error.conflict, error.gone) == (422, False, False)
    assert error.causes, "Looking again would never help, and the causes say so."
    assert "status.termination.phase" in error.message


async def test_a_refusal_by_a_transition_rule_has_causes_too(kube, runs, namespace):
    run = runs.make()
    written = await kube.patch_run_status(
        namespace, "run", [*unchanged(run), add("/status/terminationStatus", "user_stop")]
    )
    error = await refused(
        kube.patch_run_status(namespace, "run", [*unchanged(written), add("/status/terminationStatus", "failed")])
    )
    assert (error.status, error.conflict) == (422, False)
    assert "terminationStatus never changes once written" in error.message


# -- server-side apply by the observer ---------------------------------------------------------------------------


async def test_what_the_observer_applies_leaves_the_stop_alone(kube, runs, namespace):
    run = runs.make()
    run = await kube.patch_run_status(
        namespace,
        "run",
        [*unchanged(run), add("/status/termination", TERMINATION), add("/status/terminationStatus", "user_stop")],
    )
    meta = run["metadata"]
    applied = await kube.apply_run_status(
        namespace, "run", meta["uid"], meta["resourceVersion"], {"phase": "Stopping", "observedGeneration": 1}
    )
    assert applied["status"]["phase"] == "Stopping"
    assert applied["status"]["termination"] == run["status"]["termination"]
    assert applied["status"]["terminationStatus"] == "user_stop"
    assert "conditions" not in applied["status"], (
        "What is no longer applied is dropped: a status is always written whole."
    )


async def test_an_apply_of_what_has_changed_is_a_conflict(kube, runs, namespace):
    # The version is what protects: no two objects share one. A uid in an apply to /status is not looked at.
    meta = runs.make()["metadata"]
    error = await refused(kube.apply_run_status(namespace, "run", meta["uid"], "1", {"phase": "Running"}))
    assert (error.status, error.conflict) == (409, True)
    assert runs.read()["status"]["phase"] == "Pending"


async def test_an_apply_never_makes_a_run_that_is_gone(kube, runs, namespace):
    error = await refused(kube.apply_run_status(namespace, "nobody", NOBODY, "1", {"phase": "Running"}))
    assert error.gone or error.conflict
    assert not runs.api.list(runs.collection)


# -- preconditions -------------------------------------------------------------------------------------------------


@pytest.fixture
def pod(api: Api, namespace: str) -> Json:
    """One that no node takes."""
    body = {
        "metadata": {"name": "pod", "labels": {names.RUN_UID_LABEL: "run-1"}},
        "spec": {
            "schedulingGates": [{"name": "e2e.trainingrun.dev/never"}],
            "containers": [{"name": "c", "image": "c:1"}],
        },
    }
    return api.create(f"/api/v1/namespaces/{namespace}/pods", body)


@pytest.fixture
def manifest(namespace: str) -> Json:
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "job", "namespace": namespace},
        "spec": {
            "suspend": True,
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "c:1"}]}},
        },
    }


async def test_another_pod_of_the_same_name_is_not_annotated(kube, pod, namespace):
    error = await refused(kube.annotate_pod(namespace, "pod", NOBODY, names.OPEN_GATE_ANNOTATION, "stop-1"))
    assert error.conflict, f"Read again: it is another pod now. {error}"
    (stored,) = await kube.pods_of(namespace, "run-1")
    assert "annotations" not in stored["metadata"]
    await kube.annotate_pod(namespace, "pod", pod["metadata"]["uid"], names.OPEN_GATE_ANNOTATION, "stop-1")
    (stored,) = await kube.pods_of(namespace, "run-1")
    assert stored["metadata"]["annotations"] == {names.OPEN_GATE_ANNOTATION: "stop-1"}


async def test_deleting_another_pod_of_the_same_name_is_success_and_deletes_nothing(kube, pod, namespace):
    await kube.delete_pod(namespace, "pod", NOBODY)
    (stored,) = await kube.pods_of(namespace, "run-1")
    assert "deletionTimestamp" not in stored["metadata"]
    await kube.delete_pod(namespace, "pod", pod["metadata"]["uid"])
    assert await kube.pods_of(namespace, "run-1") == []
    await kube.delete_pod(namespace, "pod", pod["metadata"]["uid"])


async def test_a_job_is_made_once_and_patched_and_deleted_by_its_uid_alone(kube, manifest, namespace):
    await kube.create_job(manifest, dry_run=True)
    assert await kube.job(namespace, "job") is None, "A dry run makes nothing."
    created = await kube.create_job(manifest)
    error = await refused(kube.create_job(manifest))
    assert (error.exists, error.status) == (True, 409)

    error = await refused(kube.patch_job(namespace, "job", NOBODY, {"spec": {"backoffLimit": 0}}))
    assert error.conflict
    await kube.delete_job(namespace, "job", NOBODY)
    stored = await kube.job(namespace, "job")
    assert stored is not None
    assert stored["spec"]["backoffLimit"] == 6

    patched = await kube.patch_job(namespace, "job", created["metadata"]["uid"], {"spec": {"backoffLimit": 0}})
    assert patched["spec"]["backoffLimit"] == 0
    await kube.delete_job(namespace, "job", created["metadata"]["uid"])


async def test_a_job_that_kubernetes_refuses_says_why(kube, manifest):
    manifest["spec"]["template"]["spec"]["containers"][0]["name"] = "Not a name"
    error = await refused(kube.create_job(manifest, dry_run=True))
    assert error.status == 422
    assert "Not a name" in error.message


async def test_taints_are_set_only_on_the_node_as_it_was_read(kube, api):
    node = api.list("/api/v1/nodes", labelSelector="node-role.kubernetes.io/control-plane")[0]["metadata"]
    for uid, version in ((NOBODY, node["resourceVersion"]), (node["uid"], "1")):
        error = await refused(kube.set_taints(node["name"], uid, version, []))
        assert error.conflict, f"Read again: it is another node, or it has changed. {error}"


# -- lists -----------------------------------------------------------------------------------------------------------


async def test_a_list_in_chunks_brings_every_run_once(kube, runs, namespace, monkeypatch):
    monkeypatch.setattr("trainingrun_operator.edge.apiserver.transport.CHUNK", 2)
    for number in range(5):
        runs.api.create(runs.collection, runs.body(f"run-{number}"))
    found = [run["metadata"]["name"] async for run in kube.runs() if run["metadata"]["namespace"] == namespace]
    assert sorted(found) == [f"run-{number}" for number in range(5)]
