"""One fake per seam of the edge: an API server in memory, behind HTTP on loopback; the page that a pod serves; a bucket; a cloud.

What the API server is known to answer is kept: one resourceVersion for everything, status apart from spec, uid preconditions (409), a failed
`test` and a missing parent as 422 without causes, chunked lists that expire (410), finalizers, watches.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import builders
from aiohttp import web

from trainingrun_operator.api import names
from trainingrun_operator.checkpoints.s3 import Listed
from trainingrun_operator.core.facts.nodes import Instance
from trainingrun_operator.edge.apiserver.connection import Connection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from trainingrun_operator.api.exchange import AgentReport
    from trainingrun_operator.checkpoints.documents import Commit
    from trainingrun_operator.checkpoints.keys import Layout
    from trainingrun_operator.checkpoints.s3 import Access
    from trainingrun_operator.core.facts.bucket import Answer, Mismatch, Unreachable, Verified
    from trainingrun_operator.core.facts.nodes import NodeRef, Pool

Json = dict[str, Any]

RUNS: Final = f"/apis/{names.API_VERSION}/namespaces/{builders.NAMESPACE}/{names.RUN_PLURAL}"
RUN: Final = f"{RUNS}/{builders.NAME}"
ALL_RUNS: Final = f"/apis/{names.API_VERSION}/{names.RUN_PLURAL}"
JOBS: Final = f"/apis/batch/v1/namespaces/{builders.NAMESPACE}/jobs"
JOB: Final = f"{JOBS}/{builders.NAME}"
PODS: Final = f"/api/v1/namespaces/{builders.NAMESPACE}/pods"
POD: Final = f"{PODS}/{builders.NAME}-x7k2p"
NODE: Final = "/api/v1/nodes/gpu-1"
SECRET: Final = f"/api/v1/namespaces/{builders.NAMESPACE}/secrets/s3-credentials"
EVENTS: Final = f"/api/v1/namespaces/{builders.NAMESPACE}/events"

_PATH: Final = re.compile(
    r"(?P<root>/api/v1|/apis/[^/]+/[^/]+)(?:/namespaces/(?P<ns>[^/]+))?/(?P<plural>[a-z]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>status|log))?"
)
_DISCOVERY: Final[Mapping[str, Json]] = {
    "/version": {"major": "1", "minor": "34"},
    "/api": {"versions": ["v1"]},
    "/apis": {
        "groups": [
            {
                "name": group,
                "versions": [{"groupVersion": f"{group}/{version}", "version": version}],
                "preferredVersion": {"groupVersion": f"{group}/{version}", "version": version},
            }
            for group, version in (("apiextensions.k8s.io", "v1"), ("batch", "v1"), (names.GROUP, names.VERSION))
        ]
    },
    **{
        path: {
            "resources": [
                {"name": plural, "singularName": kind.lower(), "kind": kind, "namespaced": namespaced, "verbs": verbs}
                for plural, kind, namespaced in kinds
                for verbs in [["get", "list", "watch", "patch", "delete", "create"]]
            ]
        }
        for path, kinds in {
            "/api/v1": [("pods", "Pod", True), ("namespaces", "Namespace", False), ("events", "Event", True)],
            "/apis/apiextensions.k8s.io/v1": [("customresourcedefinitions", "CustomResourceDefinition", False)],
            "/apis/batch/v1": [("jobs", "Job", True)],
            f"/apis/{names.API_VERSION}": [
                (names.RUN_PLURAL, names.RUN_KIND, True),
                (names.POOL_PLURAL, names.POOL_KIND, False),
            ],
        }.items()
    },
}


class Plain(Connection):
    """To a server on loopback: no certificates are loaded, which takes longer than most tests."""

    def ssl_context(self) -> ssl.SSLContext:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


# -- stored objects -------------------------------------------------------------------------------------------


def stored_run(*, spec: Json | None = None, status: Json | None = None, name: str = builders.NAME, **meta: Any) -> Json:
    """A run as the API server stores it; keywords go into its metadata."""
    said = {
        "name": name,
        "namespace": builders.NAMESPACE,
        "uid": builders.RUN_UID,
        "resourceVersion": "7",
        "generation": 1,
        "creationTimestamp": builders.EARLIER,
        "finalizers": [names.FINALIZER],
    }
    made = {
        "apiVersion": names.API_VERSION,
        "kind": names.RUN_KIND,
        "metadata": said | meta,
        "spec": builders.spec_dict(**(spec or {})),
    }
    return made | ({"status": status} if status is not None else {})


def stored_job(*, spec: Json | None = None, status: Json | None = None, **meta: Any) -> Json:
    """The Job of the run."""
    said = {
        "name": builders.NAME,
        "namespace": builders.NAMESPACE,
        "uid": builders.JOB_UID,
        "resourceVersion": "7",
        "generation": 1,
        "labels": names.child_labels(builders.NAME, builders.RUN_UID),
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": said | meta,
        "spec": {"backoffLimit": 2**31 - 1, **(spec or {})},
        "status": status or {},
    }


def stored_pod(
    *, spec: Json | None = None, status: Json | None = None, exit_code: int | None = None, **meta: Any
) -> Json:
    """A pod of the Job that trains on gpu-1, or whose training has ended behind its gate."""
    said = {
        "name": f"{builders.NAME}-x7k2p",
        "namespace": builders.NAMESPACE,
        "uid": builders.POD_UID,
        "resourceVersion": "7",
        "creationTimestamp": builders.EARLIER,
        "labels": names.child_labels(builders.NAME, builders.RUN_UID),
        "ownerReferences": [
            {
                "apiVersion": "batch/v1",
                "kind": "Job",
                "name": builders.NAME,
                "uid": builders.JOB_UID,
                "controller": True,
            }
        ],
    }
    state: Json = {"running": {"startedAt": builders.EARLIER}}
    if exit_code is not None:
        state = {"terminated": {"exitCode": exit_code, "startedAt": builders.EARLIER}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": said | meta,
        "spec": {
            "nodeName": "gpu-1",
            "containers": [{"name": "train"}, {"name": names.GATE_CONTAINER}],
            **(spec or {}),
        },
        "status": {
            "phase": "Running",
            "podIP": "127.0.0.1",
            "containerStatuses": [{"name": "train", "state": state}],
            **(status or {}),
        },
    }


def stored_budget(**meta: Any) -> Json:
    """What keeps the run's pods from being evicted."""
    said = {"namespace": builders.NAMESPACE, "name": f"{builders.NAME}-checkpoint", "uid": "budget-uid"}
    labels = names.child_labels(builders.NAME, builders.RUN_UID)
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {**said, "resourceVersion": "7", "labels": labels} | meta,
        "spec": {},
    }


def stored_node(*, spec: Json | None = None, status: Json | None = None, **meta: Any) -> Json:
    """The node of the pool."""
    said = {"name": "gpu-1", "uid": builders.NODE_UID, "resourceVersion": "7", "labels": {"pool": "a100"}}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": said | meta,
        "spec": {"providerID": builders.PROVIDER_ID, **(spec or {})},
        "status": {
            "capacity": {"cpu": "96", "nvidia.com/gpu": "8"},
            "allocatable": {"nvidia.com/gpu": "8"},
            "conditions": [{"type": "Ready", "status": "True"}],
            **(status or {}),
        },
    }


def stored_pool(name: str = "a100", *, spec: Json | None = None) -> Json:
    """A pool of EC2 Auto Scaling."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.POOL_KIND,
        "metadata": {"name": name, "uid": f"pool-{name}", "resourceVersion": "7"},
        "spec": {
            "nodeSelector": {"pool": "a100"},
            "awsAutoScaling": {"region": "us-east-1", "groups": ["gpu-a100"]},
            **(spec or {}),
        },
    }


def stored_secret(**data: str) -> Json:
    """A Secret with these keys, base64 as stored."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": "s3-credentials",
            "namespace": builders.NAMESPACE,
            "uid": "secret",
            "resourceVersion": "7",
        },
        "data": data,
    }


CREDENTIALS: Final = stored_secret(AWS_ACCESS_KEY_ID="a2V5", AWS_SECRET_ACCESS_KEY="c2VjcmV0Cg==")


# -- the API server -------------------------------------------------------------------------------------------


class Sent(NamedTuple):
    """One request, as it arrived."""

    method: str
    path: str
    query: dict[str, str]
    content_type: str
    body: Any
    authorization: str

    @property
    def line(self) -> str:
        """``PATCH /api/v1/nodes/gpu-1``."""
        return f"{self.method} {self.path}"


class ApiError(Exception):
    """An answer other than success."""

    def __init__(self, code: int, reason: str, message: str = "refused", causes: list[Json] | None = None) -> None:
        super().__init__(message)
        self.code = code
        details = {"causes": causes} if causes else {}
        self.status = {
            "kind": "Status",
            "status": "Failure",
            "code": code,
            "reason": reason,
            "message": message,
            "details": details,
        }


@dataclass
class ApiServer:
    """Objects by path; every request is kept; answers can be made to fail."""

    objects: dict[str, Json] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)
    refusals: list[tuple[str, Exception | web.Response]] = field(default_factory=list)
    """The next request whose ``METHOD /path`` matches is answered by it, once."""
    before: Callable[[Sent], None] = field(default=lambda _: None)
    """Called with every request before it is answered."""
    url: str = ""
    version: int = 100
    expired: bool = False
    """Continue tokens have expired."""
    _history: list[tuple[int, str, str, Json]] = field(default_factory=list)
    _owned: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    _changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    # -- for tests ----------------------------------------------------------------------------------------

    def put(self, *stored: Json) -> None:
        """Store objects as they are; no event is sent."""
        for one in stored:
            self.objects[path_of(one)] = deepcopy(one)

    def refuse(self, line: str, answer: Exception | web.Response) -> None:
        """Answer the next request that matches this regular expression so."""
        self.refusals.append((line, answer))

    def lines(self, *methods: str) -> list[str]:
        """What was asked, in order; of all methods, or of some."""
        return [sent.line for sent in self.sent if not methods or sent.method in methods]

    async def tell(self, kind: str, stored: Json) -> None:
        """Add, change or delete an object, and let the watches know."""
        self._touch(stored)
        if kind == "DELETED":
            self.objects.pop(path_of(stored), None)
        else:
            self.objects[path_of(stored)] = stored
        self._history.append((self.version, path_of(stored), kind, deepcopy(stored)))
        async with self._changed:
            self._changed.notify_all()

    # -- HTTP ---------------------------------------------------------------------------------------------

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        text = await request.text()
        sent = Sent(
            request.method,
            request.path,
            dict(request.query),
            request.content_type,
            json.loads(text) if text else None,
            request.headers.get("Authorization", ""),
        )
        self.sent.append(sent)
        self.before(sent)
        try:
            for refusal in self.refusals:
                if re.fullmatch(refusal[0], sent.line):
                    self.refusals.remove(refusal)
                    if isinstance(refusal[1], web.Response):
                        return refusal[1]
                    raise refusal[1]
            if request.path in _DISCOVERY:
                return web.json_response(_DISCOVERY[request.path])
            if request.query.get("watch") == "true":
                return await self._watch(request)
            return self._answer(sent)
        except ApiError as error:
            return web.json_response(error.status, status=error.code)

    def _answer(self, sent: Sent) -> web.Response:
        found = _PATH.fullmatch(sent.path)
        if found is None:
            raise ApiError(404, "NotFound", f"no such path {sent.path}")
        base = sent.path.removesuffix("/status") if found["sub"] == "status" else sent.path
        if found["sub"] == "log":
            return web.Response(text=self._get(sent.path.removesuffix("/log")).get("log", ""))
        match sent.method:
            case "GET" if found["name"] is None:
                return web.json_response(self._list(sent, found))
            case "GET":
                return web.json_response(self._get(base))
            case "POST":
                return web.json_response(self._create(sent), status=201)
            case "PATCH":
                return web.json_response(self._patch(base, sent, status=found["sub"] == "status"))
            case "DELETE":
                return web.json_response(self._delete(base, sent.body or {}))
            case _:
                raise ApiError(405, "MethodNotAllowed")

    def _get(self, path: str) -> Json:
        if path not in self.objects:
            raise ApiError(404, "NotFound", f"{path} not found")
        return self.objects[path]

    def _list(self, sent: Sent, found: re.Match[str]) -> Json:
        fits = [stored for path, stored in self.objects.items() if _belongs(path, found) and _selected(stored, sent)]
        start, limit = int(sent.query.get("continue", "0")), int(sent.query.get("limit", "0")) or len(fits)
        if start and self.expired:
            raise ApiError(410, "Expired", "The provided continue parameter is too old")
        meta: Json = {"resourceVersion": str(self.version)}
        if start + limit < len(fits):
            meta["continue"] = str(start + limit)
        return {"kind": "List", "metadata": meta, "items": fits[start : start + limit]}

    def _create(self, sent: Sent) -> Json:
        made = deepcopy(sent.body)
        meta = made["metadata"]
        if "generateName" in meta:
            meta["name"] = f"{meta['generateName']}{self.version}"
        path = f"{sent.path}/{meta['name']}"
        if path in self.objects:
            raise ApiError(409, "AlreadyExists", f"{sent.path.rpartition('/')[2]} {meta['name']!r} already exists")
        meta |= {"uid": f"uid-{self.version}", "generation": 1}
        if "dryRun" not in sent.query:
            self._touch(made)
            self.objects[path] = made
        return dict(made)

    def _patch(self, path: str, sent: Sent, *, status: bool) -> Json:
        before = self._get(path)
        match sent.content_type:
            case "application/json-patch+json":
                after = _json_patched(before, sent.body)
            case "application/merge-patch+json":
                if (sent.body.get("metadata") or {}).get("uid", before["metadata"]["uid"]) != before["metadata"]["uid"]:
                    immutable = [{"reason": "FieldValueInvalid", "field": "metadata.uid", "message": "immutable"}]
                    raise ApiError(422, "Invalid", "metadata.uid: Invalid value: field is immutable", immutable)
                _check_version(before, sent.body)
                after = _merged(before, sent.body)
            case "application/apply-patch+yaml":
                # Seen on a real one: a uid in an apply to a status is not looked at.
                _check_version(before, sent.body)
                after = self._applied(path, before, sent)
            case _:
                raise ApiError(415, "UnsupportedMediaType", sent.content_type)
        # The status is changed through its own door only, and nothing else is.
        if status:
            after = {**before, "status": after.get("status", {}), "metadata": dict(before["metadata"])}
        elif "status" in before:
            after["status"] = before["status"]
        else:
            after.pop("status", None)
        if after == before:
            return before
        if after.get("spec") != before.get("spec"):
            after["metadata"]["generation"] = before["metadata"].get("generation", 1) + 1
        self._touch(after)
        self.objects[path] = after
        if "deletionTimestamp" in after["metadata"] and not after["metadata"].get("finalizers"):
            del self.objects[path]
        return after

    def _applied(self, path: str, before: Json, sent: Sent) -> Json:
        """Of the status only: what this manager applied before and does not list any more is dropped."""
        manager, wanted = sent.query["fieldManager"], sent.body["status"]
        had = self._owned.get((path, manager), set())
        kept = {name: value for name, value in (before.get("status") or {}).items() if name not in had}
        self._owned[path, manager] = set(wanted)
        return {**deepcopy(before), "status": kept | deepcopy(wanted)}

    def _delete(self, path: str, options: Json) -> Json:
        stored = self._get(path)
        for key, wanted in (options.get("preconditions") or {}).items():
            if wanted != stored["metadata"].get(key):
                raise ApiError(409, "Conflict", f"the {key} in the precondition does not match")
        if stored["metadata"].get("finalizers"):
            stored["metadata"]["deletionTimestamp"] = builders.WALL
            self._touch(stored)
        else:
            del self.objects[path]
        return {"kind": "Status", "status": "Success"}

    def _touch(self, stored: Json) -> None:
        self.version += 1
        stored["metadata"]["resourceVersion"] = str(self.version)

    def event(self, request: web.Request, kind: str, stored: Json) -> Json:
        """As a watch sends it."""
        return {"type": kind, "object": stored}

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        found = _PATH.fullmatch(request.path)
        answer = web.StreamResponse()
        await answer.prepare(request)
        since = int(request.query.get("resourceVersion", "0") or 0)
        while True:
            for version, path, kind, stored in list(self._history):
                if version > since and found is not None and _belongs(path, found):
                    since = version
                    await answer.write(json.dumps(self.event(request, kind, stored)).encode() + b"\n")
            async with self._changed:
                await self._changed.wait()


@asynccontextmanager
async def api_server(*stored: Json) -> AsyncIterator[ApiServer]:
    """Serve on loopback, with these objects in it."""
    made = ApiServer()
    made.put(*stored)
    async with served(made.handle) as made.url:
        yield made


def path_of(stored: Json) -> str:
    """Where an object lies."""
    meta, version = stored["metadata"], stored["apiVersion"]
    root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
    space = f"/namespaces/{meta['namespace']}" if "namespace" in meta else ""
    return f"{root}{space}/{stored['kind'].lower()}s/{meta['name']}"


def _belongs(path: str, collection: re.Match[str]) -> bool:
    one = _PATH.fullmatch(path)
    return (
        one is not None
        and (one["root"], one["plural"]) == (collection["root"], collection["plural"])
        and collection["ns"] in (None, one["ns"])
    )


def _selected(stored: Json, sent: Sent) -> bool:
    labels = stored["metadata"].get("labels") or {}
    for term in filter(None, sent.query.get("labelSelector", "").split(",")):
        key, equals, value = term.partition("=")
        if key not in labels or (equals and labels[key] != value):
            return False
    for term in filter(None, sent.query.get("fieldSelector", "").split(",")):
        path, _, value = term.partition("=")
        at: Any = stored
        for part in path.split("."):
            at = (at or {}).get(part)
        if (at or "") != value:
            return False
    return True


def _check_version(before: Json, body: Json) -> None:
    known = before["metadata"]["resourceVersion"]
    if (body.get("metadata") or {}).get("resourceVersion", known) != known:
        raise ApiError(409, "Conflict", "the object has been modified; please apply your changes to the latest version")


def _merged(before: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    after = dict(before) if isinstance(before, dict) else {}
    for name, value in patch.items():
        if value is None:
            after.pop(name, None)
        else:
            after[name] = _merged(after.get(name), value)
    return after


def _json_patched(before: Json, operations: list[Json]) -> Json:
    """RFC 6902, as far as it is used: test, add, replace, remove below objects."""
    after = deepcopy(before)
    for operation in operations:
        *parents, last = operation["path"].removeprefix("/").split("/")
        at: Any = after
        for part in parents:
            at = at.get(part)
            if not isinstance(at, dict):
                raise ApiError(422, "Invalid", f"the server rejected our request: {operation['path']} has no parent")
        match operation["op"]:
            case "test" if at.get(last) != operation["value"]:
                raise ApiError(422, "Invalid", f"the server rejected our request: testing {operation['path']} failed")
            case "test":
                pass
            case "replace" | "remove" if last not in at:
                raise ApiError(422, "Invalid", f"the server rejected our request: {operation['path']} is not there")
            case "add" | "replace":
                at[last] = deepcopy(operation["value"])
            case _:
                del at[last]
    return after


@asynccontextmanager
async def served(handle: Callable[[web.Request], Any]) -> AsyncIterator[str]:
    """Serve on loopback; gives the address."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


# -- a pod's pages ----------------------------------------------------------------------------------------------


@dataclass
class PodPages:
    """What training and agent of a pod answer; which pages were asked for is kept."""

    report: AgentReport | bytes | web.StreamResponse | Callable[[web.Request], Any] | None = None
    metrics: str = "training_loss 1.25\ntraining_step 1200\n"
    asked: list[str] = field(default_factory=list)
    port: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        self.asked.append(request.path)
        if request.path != "/progress":
            return web.Response(text=self.metrics)
        match self.report:
            case None:
                return web.Response(status=404)
            case bytes() as body:
                return web.Response(body=body)
            case web.StreamResponse() as answer:
                return answer
            case report if callable(report):
                answered: web.StreamResponse = await report(request)
                return answered
            case report:
                return web.Response(text=report.model_dump_json(by_alias=True))


@asynccontextmanager
async def pod_pages() -> AsyncIterator[PodPages]:
    """Serve a pod's pages on loopback, all of them on one port."""
    pages = PodPages()
    async with served(pages.handle) as url:
        pages.port = int(url.rpartition(":")[2])
        yield pages


# -- a webhook's receiver ---------------------------------------------------------------------------------------


class Message(NamedTuple):
    """One message, as it arrived."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def id(self) -> str:
        """Of the event; the same however often it is told."""
        return self.headers["webhook-id"]


@dataclass
class Receiver:
    """Takes what is posted to it; its next answers can be others than success."""

    messages: list[Message] = field(default_factory=list)
    answers: list[web.Response] = field(default_factory=list)
    url: str = ""
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def handle(self, request: web.Request) -> web.Response:
        """Take one message."""
        self.messages.append(Message(request.path, dict(request.headers), await request.read()))
        async with self.arrived:
            self.arrived.notify_all()
        return self.answers.pop(0) if self.answers else web.Response(status=204)


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    """Serve a receiver on loopback."""
    made = Receiver()
    async with served(made.handle) as made.url:
        yield made


# -- bucket and cloud -------------------------------------------------------------------------------------------


@dataclass
class FakeStore:
    """A bucket with some proven commits in it, newest first, or with one answer to everything."""

    commits: list[Verified | Mismatch] = field(default_factory=list)
    always: Unreachable | None = None
    asked: list[str] = field(default_factory=list)
    accesses: list[Access] = field(default_factory=list)
    listed: Listed | None = None

    async def probe(self, access: Access, layout: Layout) -> Unreachable | None:
        """Whether the prefix can be listed."""
        self._note(access, "probe")
        return self.always

    async def ages(self, access: Access, layout: Layout, prefix: str) -> Listed | Unreachable:
        """One page of keys and ages."""
        self._note(access, f"ages {prefix}")
        return self.always or self.listed or Listed((), more=False)

    async def verify(self, access: Access, layout: Layout, commit_key: str) -> Answer:
        """Prove one commit."""
        self._note(access, f"verify {commit_key}")
        return self.always or next(one for one in self.commits if one.key == commit_key)

    async def find(
        self,
        access: Access,
        layout: Layout,
        wanted: Callable[[Commit], bool],
        *,
        depth: int = 8,
        max_age_seconds: float = 300,
        fall_back: bool = False,
    ) -> Answer | None:
        """The newest that is wanted."""
        self._note(access, f"find max_age={max_age_seconds:g}{' fall back' if fall_back else ''}")
        if self.always is not None:
            return self.always
        return next(self._wanted(wanted), None)

    def _wanted(self, wanted: Callable[[Commit], bool]) -> Iterator[Verified | Mismatch]:
        for one in self.commits:
            commit = getattr(one, "commit", None)
            if commit is None or wanted(commit):
                yield one

    def _note(self, access: Access, what: str) -> None:
        self.accesses.append(access)
        self.asked.append(what)


@dataclass
class FakeProvider:
    """A cloud with one machine."""

    state: Instance = Instance.RUNNING
    minimum: bool = False
    trouble: BaseException | None = None
    released: list[tuple[str, str, str]] = field(default_factory=list)
    """Pool, providerID and operation."""
    asked: int = 0

    async def instance(self, pool: Pool, node: NodeRef) -> Instance:
        """How the machine is."""
        self._stumble()
        return self.state

    async def at_minimum(self, pool: Pool, node: NodeRef) -> bool:
        """Whether the pool may not lose it."""
        self._stumble()
        return self.minimum

    async def release(self, pool: Pool, node: NodeRef, operation: str) -> None:
        """End it."""
        self._stumble()
        self.released.append((pool.name, node.provider_id, operation))

    async def close(self) -> None:
        """Nothing was opened."""

    def _stumble(self) -> None:
        self.asked += 1
        if self.trouble is not None:
            raise self.trouble
