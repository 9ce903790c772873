"""What is sent to the API server, and what its answers mean."""

from __future__ import annotations

import pytest
from aiohttp import web
from builders import JOB_UID, NAME, NAMESPACE, NODE_UID, POD_UID, RUN_UID
from fakes import (
    ALL_RUNS,
    EVENTS,
    JOB,
    JOBS,
    NODE,
    POD,
    PODS,
    RUN,
    SECRET,
    ApiError,
    Plain,
    api_server,
    stored_job,
    stored_node,
    stored_pod,
    stored_run,
    stored_secret,
)

from trainingrun_operator.api import names
from trainingrun_operator.edge.apiserver import connection, transport
from trainingrun_operator.edge.kube import Kube, KubeError

pytestmark = pytest.mark.usefixtures("no_token_file")


@pytest.fixture
def no_token_file(monkeypatch, tmp_path):
    """The tests may themselves run in a pod."""
    monkeypatch.setattr(connection, "TOKEN_FILE", tmp_path / "token")
    return tmp_path / "token"


@pytest.fixture
async def api():
    async with api_server(stored_run(), stored_job(), stored_pod(), stored_node()) as api:
        yield api


@pytest.fixture
async def kube(api):
    async with Kube(Plain(api.url, token="from kubeconfig")) as kube:
        yield kube


async def refused(call):
    with pytest.raises(KubeError) as caught:
        await call
    return caught.value


async def test_a_busy_api_server_is_asked_again(api, kube):
    api.refuse(
        f"GET {RUN}", web.Response(status=429, text='{"reason": "TooManyRequests"}', headers={"Retry-After": "0"})
    )
    assert await kube.run(NAMESPACE, NAME) is not None
    assert api.lines() == [f"GET {RUN}"] * 2


@pytest.mark.parametrize("call", ["run", "job", "secret"])
async def test_reading_what_is_not_there_is_none(kube, call):
    assert await getattr(kube, call)(NAMESPACE, "nobody") is None


async def test_a_node_that_is_not_there_is_none(kube):
    assert await kube.node("nobody") is None


async def test_reading_what_may_not_be_read_is_an_error(api, kube):
    api.refuse(f"GET {JOB}", ApiError(403, "Forbidden"))
    assert (await refused(kube.job(NAMESPACE, NAME))).status == 403


# -- what is read, and who we are -------------------------------------------------------------------------------------------------


async def test_the_token_of_a_kubeconfig_is_shown(api, kube):
    await kube.run(NAMESPACE, NAME)
    assert api.sent[-1].authorization == "Bearer from kubeconfig"


async def test_without_a_token_none_is_shown(api, no_token_file):
    no_token_file.write_text("not for a client certificate")
    async with Kube(Plain(api.url)) as kube:
        await kube.run(NAMESPACE, NAME)
    assert api.sent[-1].authorization == ""


async def test_the_token_of_a_service_account_is_read_again_every_minute(api, kube, no_token_file, monkeypatch):
    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(connection, "time", clock)
    shown = []
    for seconds, token in ((0, "first\n"), (30, "second"), (61, "third"), (100, "fourth")):
        no_token_file.write_text(token)
        clock.now = seconds
        await kube.run(NAMESPACE, NAME)
        shown.append(api.sent[-1].authorization.removeprefix("Bearer "))
    assert shown == ["first", "first", "third", "third"]


# -- lists ------------------------------------------------------------------------------------------------------


@pytest.fixture
def chunks_of_two(monkeypatch):
    monkeypatch.setattr(transport, "CHUNK", 2)


@pytest.mark.usefixtures("chunks_of_two")
async def test_a_list_comes_in_chunks_and_is_complete(api, kube):
    api.put(*(stored_run(name=f"run-{i}", uid=f"uid-{i}") for i in range(4)))
    found = [run["metadata"]["name"] async for run in kube.runs()]
    assert sorted(found) == [NAME, "run-0", "run-1", "run-2", "run-3"]
    assert api.lines() == [f"GET {ALL_RUNS}"] * 3
    assert [sent.query.get("continue") for sent in api.sent] == [None, "2", "4"]
    assert {sent.query["limit"] for sent in api.sent} == {"2"}


@pytest.mark.usefixtures("chunks_of_two")
async def test_a_chunk_that_has_expired_is_an_error_and_not_a_shorter_list(api, kube):
    api.put(*(stored_run(name=f"run-{i}", uid=f"uid-{i}") for i in range(4)))
    api.expired = True

    async def listed():
        return [run async for run in kube.runs()]

    assert (await refused(listed())).status == 410


@pytest.mark.usefixtures("chunks_of_two")
async def test_the_selector_is_repeated_with_every_chunk(api, kube):
    api.put(*(stored_pod(name=f"pod-{i}", uid=f"uid-{i}") for i in range(3)), stored_pod(name="x", uid="x", labels={}))
    assert len(await kube.pods_of(NAMESPACE, RUN_UID)) == 4
    assert {sent.query["labelSelector"] for sent in api.sent} == {f"{names.RUN_UID_LABEL}={RUN_UID}"}
    assert api.lines() == [f"GET {PODS}"] * 2


async def test_a_quorum_read_names_no_version(api, kube):
    await kube.pods_of(NAMESPACE, RUN_UID)
    await kube.pods_on("gpu-1")
    assert not any("resourceVersion" in sent.query for sent in api.sent)


async def test_the_pods_on_a_node_are_those_of_every_namespace(api, kube):
    api.put(
        stored_pod(name="theirs", uid="theirs", namespace="team"),
        stored_pod(name="elsewhere", uid="elsewhere", spec={"nodeName": "gpu-2"}),
    )
    found = await kube.pods_on("gpu-1")
    assert sorted(pod["metadata"]["name"] for pod in found) == [f"{NAME}-x7k2p", "theirs"]
    assert api.sent[-1].query["fieldSelector"] == "spec.nodeName=gpu-1"


async def test_pods_that_wait_are_those_without_a_node(api, kube):
    api.put(stored_pod(name="waits", uid="waits", spec={"nodeName": ""}, status={"phase": "Pending"}))
    assert [pod["metadata"]["name"] for pod in await kube.pending_pods()] == ["waits"]


# -- requests ---------------------------------------------------------------------------------------------------


async def test_a_secret_is_decoded(api, kube):
    api.put(stored_secret(AWS_ACCESS_KEY_ID="a2V5"))
    assert await kube.secret(NAMESPACE, "s3-credentials") == {"AWS_ACCESS_KEY_ID": b"key"}
    assert api.lines() == [f"GET {SECRET}"]


@pytest.mark.parametrize("name", ["../../other/secrets/s3-credentials", "..%2F..%2Fother%2Fsecrets%2Fs3-credentials"])
async def test_a_secret_is_looked_for_in_the_runs_own_namespace_whatever_its_name_says(api, kube, name):
    api.put(stored_secret() | {"metadata": {"name": "s3-credentials", "namespace": "other"}})
    assert await kube.secret(NAMESPACE, name) is None
    (line,) = api.lines()
    assert line.startswith(f"GET /api/v1/namespaces/{NAMESPACE}/secrets/")


async def test_labels_of_a_namespace_are_read_and_those_of_one_that_is_gone_are_none(api, kube):
    api.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ml", "labels": {"team": "ml"}}})
    api.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "plain"}})
    assert [await kube.namespace_labels(name) for name in ("ml", "plain", "gone")] == [{"team": "ml"}, {}, {}]


async def test_a_secret_without_data_is_empty(api, kube):
    api.put({**stored_secret(), "data": None})
    assert await kube.secret(NAMESPACE, "s3-credentials") == {}


async def test_a_dry_run_creates_nothing(api, kube):
    manifest = stored_job(name="new")
    made = await kube.create_job(manifest, dry_run=True)
    assert made["metadata"]["name"] == "new"
    assert f"{JOBS}/new" not in api.objects
    assert api.sent[-1].query == {"fieldManager": "trainingrun-operator", "dryRun": "All"}


async def test_an_event_is_about_the_run_and_never_too_long(api, kube):
    involved = {
        "apiVersion": names.API_VERSION,
        "kind": names.RUN_KIND,
        "namespace": NAMESPACE,
        "name": "n" * 52,
        "uid": RUN_UID,
    }
    await kube.record_event(involved, "CheckpointHeld", "w" * 5000, warning=True, wall="2026-01-01T00:00:00Z")
    sent = api.sent[-1]
    assert sent.line == f"POST {EVENTS}"
    assert sent.body == {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": "n" * 40 + "-", "namespace": NAMESPACE},
        "involvedObject": involved,
        "type": "Warning",
        "reason": "CheckpointHeld",
        "message": "w" * 1024,
        "source": {"component": "trainingrun-operator"},
        "firstTimestamp": "2026-01-01T00:00:00Z",
        "lastTimestamp": "2026-01-01T00:00:00Z",
        "count": 1,
    }


@pytest.mark.parametrize(
    ("call", "path"),
    [
        pytest.param(lambda kube, uid: kube.delete_pod(NAMESPACE, f"{NAME}-x7k2p", uid), POD, id="pod"),
        pytest.param(lambda kube, uid: kube.delete_job(NAMESPACE, NAME, uid), JOB, id="job"),
        pytest.param(lambda kube, uid: kube.delete_node("gpu-1", uid), NODE, id="node"),
    ],
)
async def test_a_delete_is_of_this_uid_alone_and_what_is_gone_already_is_success(api, kube, call, path):
    uid = {POD: POD_UID, JOB: JOB_UID, NODE: NODE_UID}[path]
    await call(kube, "another")
    assert path in api.objects
    await call(kube, uid)
    assert path not in api.objects
    await call(kube, uid)
    assert api.lines() == [f"DELETE {path}"] * 3
    assert api.sent[1].body == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": uid},
        "propagationPolicy": "Background",
    }


async def test_a_delete_that_is_forbidden_is_an_error(api, kube):
    api.refuse(f"DELETE {POD}", ApiError(403, "Forbidden"))
    assert (await refused(kube.delete_pod(NAMESPACE, f"{NAME}-x7k2p", POD_UID))).status == 403


LEASES = "/apis/coordination.k8s.io/v1/namespaces/operators/leases"


async def test_a_lease_is_made_once_and_changed_only_as_it_was_read(api, kube):
    assert await kube.lease("operators", "one") is None
    made = await kube.create_lease("operators", "one", {"holderIdentity": "a", "leaseTransitions": 0})
    assert (made["kind"], made["apiVersion"]) == ("Lease", "coordination.k8s.io/v1")
    assert (await refused(kube.create_lease("operators", "one", {"holderIdentity": "b"}))).exists
    version = made["metadata"]["resourceVersion"]
    changed = await kube.patch_lease("operators", "one", version, {"holderIdentity": "b"})
    assert changed["spec"] == {"holderIdentity": "b", "leaseTransitions": 0}
    assert (await refused(kube.patch_lease("operators", "one", version, {"holderIdentity": "c"}))).status == 409
    assert await kube.lease("operators", "one") == api.objects[f"{LEASES}/one"] == changed
    assert [sent.content_type for sent in api.sent if sent.method == "PATCH"] == ["application/merge-patch+json"] * 2


async def test_the_end_of_a_log_is_what_tells(api, kube):
    api.put(stored_pod() | {"log": "x" * 100 + "CUDA out of memory"})
    assert await kube.log_tail(NAMESPACE, f"{NAME}-x7k2p", "train", lines=5, most_bytes=18) == "CUDA out of memory"
    assert api.sent[-1].query == {"container": "train", "tailLines": "5"}


@pytest.mark.parametrize(
    ("log", "kept"),
    [
        pytest.param("one\ntwo\n", b"one\ntwo\n", id="all of a short one"),
        pytest.param("", b"", id="an empty one"),
        pytest.param("first line that is long\nsecond\nthird\n", b"second\nthird\n", id="whole lines of a long one"),
        pytest.param("x" * 100, b"x" * 20, id="the end of one without lines"),
        pytest.param("é" * 100, "é".encode() * 10, id="bytes, not characters"),
        pytest.param("line\n" * 100_000, b"line\n" * 3, id="many times as long"),
    ],
)
async def test_the_end_of_a_log_is_kept_in_whole_lines(api, kube, log, kept):
    api.put(stored_pod() | {"log": log})
    assert await kube.log_end(NAMESPACE, f"{NAME}-x7k2p", "train", most_bytes=20) == kept


@pytest.mark.parametrize(
    ("most_bytes", "lines"), [(10_000_000, "500000"), (1_000_000, "50000"), (62_500, "3125"), (1, "1")]
)
async def test_of_a_long_log_no_more_lines_are_requested_than_its_end_may_have(api, kube, most_bytes, lines):
    api.put(stored_pod() | {"log": "one\n"})
    await kube.log_end(NAMESPACE, f"{NAME}-x7k2p", "train", most_bytes=most_bytes)
    assert api.sent[-1].query == {"container": "train", "tailLines": lines}


async def test_what_was_printed_lately_is_asked_for_by_the_node_s_clock(api, kube):
    api.put(stored_pod() | {"log": "one\ntwo\n"})
    piece = await kube.log_new(NAMESPACE, f"{NAME}-x7k2p", "train", since_seconds=15, lines=7, most_bytes=20)
    assert piece == (b"one\ntwo\n", False, False)
    assert api.sent[-1].query == {"container": "train", "tailLines": "7", "sinceSeconds": "15"}
    await kube.log_new(NAMESPACE, f"{NAME}-x7k2p", "train", since_seconds=15, lines=7, most_bytes=20, stamped=True)
    assert api.sent[-1].query == {"container": "train", "tailLines": "7", "sinceSeconds": "15", "timestamps": "true"}


async def test_the_end_of_what_was_printed_since_the_start_is_kept(api, kube, monkeypatch):
    api.put(stored_pod() | {"log": "x" * 100})
    piece = await kube.log_new(NAMESPACE, f"{NAME}-x7k2p", "train", since_seconds=None, lines=7, most_bytes=20)
    assert piece == (b"x" * 20, True, False)
    assert api.sent[-1].query == {"container": "train", "tailLines": "7"}
    monkeypatch.setattr("trainingrun_operator.edge.kube.LOG_READ_MAX", 50)
    piece = await kube.log_new(NAMESPACE, f"{NAME}-x7k2p", "train", since_seconds=None, lines=7, most_bytes=20)
    assert piece == (b"x" * 20, True, True)
    assert (await refused(kube.log_new(NAMESPACE, "nobody", "train", since_seconds=1, lines=7, most_bytes=20))).gone


async def test_a_log_that_may_not_be_read_is_an_error_of_its_own(api, kube):
    assert (await refused(kube.log_end(NAMESPACE, "nobody", "train", most_bytes=20))).gone


async def test_a_log_that_does_not_exist_is_empty_and_one_that_cannot_be_read_is_none(api, kube, unused_tcp_port):
    assert await kube.log_tail(NAMESPACE, "nobody", "train", lines=5, most_bytes=18) == ""
    async with Kube(Plain(f"http://127.0.0.1:{unused_tcp_port}")) as away:
        assert await away.log_tail(NAMESPACE, "nobody", "train", lines=5, most_bytes=18) is None
