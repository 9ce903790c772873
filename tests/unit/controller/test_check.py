"""What `helm test` runs: a sentence for each thing that works, and one for the first that does not."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from builders import NAMESPACE
from fakes import ALL_RUNS, ApiError, Plain, api_server, stored_pool, stored_run

from trainingrun_operator.controller import check, front
from trainingrun_operator.settings import Settings

BUILD = 'trainingrun_build_info{version="0.1.0"} 1.0'
SETTINGS = Settings(lease_namespace="sys", lease_name="op")
LEASES = "/apis/coordination.k8s.io/v1/namespaces/sys/leases/op"


def lease(holder):
    meta = {"namespace": "sys", "name": "op", "uid": "lease", "resourceVersion": "7"}
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": meta,
        "spec": {"holderIdentity": holder},
    }


class Pages:
    """What the operator answers; each in turn, the last one for ever."""

    def __init__(self):
        self.ready, self.metrics = [web.Response(text="ok: leading\n")], f"# TYPE\n{BUILD}\n"

    async def readyz(self, _):
        said = self.ready.pop(0) if len(self.ready) > 1 else self.ready[0]
        return web.Response(status=said.status, text=said.text)

    async def page(self, _):
        return web.Response(text=self.metrics)


@asynccontextmanager
async def installed(monkeypatch, *objects):
    """An operator, an API server, and a way to ask what the check says of them."""
    pages, app = Pages(), web.Application()
    app.add_routes([web.get("/readyz", pages.readyz), web.get("/metrics", pages.page)])
    async with api_server(*objects) as api, TestServer(app) as server:
        monkeypatch.setattr(front, "connection", lambda: (None, {"server": api.url}))
        monkeypatch.setattr(check, "Connection", Plain)
        monkeypatch.setattr(check, "AGAIN_SECONDS", 0.01)

        async def says(settings=SETTINGS):
            return [said async for said in check.checked(settings, str(server.make_url("")).rstrip("/"))]

        yield pages, api, says


async def test_an_operator_that_works_is_told_line_by_line(monkeypatch):
    async with installed(monkeypatch, lease("op-1"), stored_run(), stored_pool()) as (_, _, says):
        ready, metrics, *rest = await says()
        assert ready.endswith("/readyz answers: ok: leading")
        assert metrics.endswith(f"/metrics answers: {BUILD}")
        assert rest == [
            "TrainingRuns of all namespaces are served: 1 found",
            "GPUNodePools are served: 1 found",
            "the Lease sys/op is held by op-1",
        ]


async def test_only_what_the_release_may_ask_is_asked(monkeypatch):
    settings = Settings(
        watch_namespaces=f"{NAMESPACE},empty",
        release_nodes=False,
        run_selector="team=vision",
        lease_namespace="sys",
        lease_name="op",
    )
    async with installed(monkeypatch, lease("op-1"), stored_run(labels={"team": "vision"})) as (_, api, says):
        *_, mine, empty, _ = await says(settings)
        assert mine == f"TrainingRuns of namespace {NAMESPACE} are served: 1 found"
        assert empty == "TrainingRuns of namespace empty are served: none yet"
        assert not [line for line in api.lines() if "gpunodepools" in line or line == f"GET {ALL_RUNS}"]


async def test_an_operator_that_is_ready_a_little_later_works(monkeypatch):
    async with installed(monkeypatch, lease("op-1")) as (pages, _, says):
        pages.ready.insert(0, web.Response(status=503, text="the TrainingRuns have not been listed yet"))
        assert await says()


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        pytest.param(
            lambda pages, _: setattr(pages, "ready", [web.Response(status=503, text="the Lease has not been read yet")]),
            "/readyz answers 503: the Lease has not been read yet. Look at the operator's log: kubectl logs deployment/NAME.",
            id="an operator that is never ready",
        ),
        pytest.param(
            lambda pages, _: setattr(pages, "metrics", "<html>"),
            "/metrics has no trainingrun_build_info: another program listens there.",
            id="somebody else's page",
        ),
        pytest.param(
            lambda _, api: api.refuse(f"GET {ALL_RUNS}", ApiError(404, "NotFound")),
            "The API server does not serve TrainingRuns. Install the CustomResourceDefinitions (crds.enabled in one release).",
            id="no definitions",
        ),
        pytest.param(
            lambda _, api: api.refuse(f"GET {ALL_RUNS}", ApiError(403, "Forbidden", "cannot list")),
            "The operator's ServiceAccount may not list TrainingRuns: cannot list",
            id="no rights",
        ),
        pytest.param(
            lambda _, api: api.refuse("GET .*/gpunodepools", ApiError(500, "InternalError", "etcd is away")),
            "GPUNodePools cannot be listed: 500 InternalError: etcd is away",
            id="pools that cannot be listed",
        ),
        pytest.param(
            lambda _, api: api.refuse(f"GET {LEASES}", ApiError(403, "Forbidden", "cannot get")),
            "The Lease op cannot be read: 403 Forbidden: cannot get",
            id="a Lease that may not be read",
        ),
        pytest.param(
            lambda _, api: api.put(lease(None)),
            "The Lease op has no holder, so no operator acts. Look at the operator's log.",
            id="nobody who acts",
        ),
        pytest.param(
            lambda _, api: api.objects.pop(LEASES),
            "The Lease op has no holder, so no operator acts. Look at the operator's log.",
            id="no Lease",
        ),
    ],
)  # fmt: skip
async def test_the_first_thing_that_does_not_work_is_said(monkeypatch, breaks, said):
    monkeypatch.setattr(check, "PATIENCE_SECONDS", 0.05)
    async with installed(monkeypatch, lease("op-1"), stored_pool()) as (pages, api, says):
        breaks(pages, api)
        with pytest.raises(check.CheckError) as caught:
            await says()
        assert str(caught.value).endswith(said)


async def test_an_address_where_nobody_is_is_said(monkeypatch):
    monkeypatch.setattr(check, "PATIENCE_SECONDS", 0)
    with pytest.raises(check.CheckError, match=r"http://127.0.0.1:1/readyz does not answer: Cannot connect"):
        _ = [said async for said in check.checked(SETTINGS, "http://127.0.0.1:1")]


@pytest.mark.parametrize(("fails", "code"), [pytest.param(False, 0, id="works"), pytest.param(True, 1, id="does not")])
def test_the_exit_code_tells(monkeypatch, caplog, fails, code):
    async def checked(settings, address):
        yield f"{address} of {settings.lease_name}"
        if fails:
            raise check.CheckError("it does not work.")

    monkeypatch.setattr(check, "checked", checked)
    caplog.set_level("INFO")
    assert check.run(SETTINGS, "http://x") == code
    assert caplog.messages == ["ok      http://x of op", *(["FAILED  it does not work."] if fails else [])]
