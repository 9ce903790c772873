"""Runs beside an operator of a test's own, in its pod: kubelet, training and agent of a crowd of simulated pods, and buckets that never answer.

The pods are objects in the API server and nothing else: no scheduler and no kubelet knows of them. This process gives each an address of its own in
127.1.0.0/16, which in this pod's network leads back here; by the address at which it is asked it knows for whom it answers. It answers as a training and its
agent would, or as one in trouble; and it does what a kubelet does when the training leaves and when the gate opens. It notes when it was asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import ssl
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import AgentError, AgentReport
from trainingrun_operator.checkpoints.documents import Commit, Manifest, PodRef, RankManifest, RunRef

if TYPE_CHECKING:
    from collections.abc import Iterator

Json = dict[str, Any]

METRICS_PORT, RECORD_PORT, SILENT_PORT = 8000, 9100, 20000
API = "https://kubernetes.default.svc"
CA = Path("/var/run/account/ca.crt")
CROWD, KIND = "e2e-crowd", "e2e-crowd-kind"
"""Labels of a pod: whose it is, and how it behaves: `steady`, `hangs`, `big`, or hostile by its `page`, its `report` or an error that `flips`."""
LISTING_PORT, MANIFEST_PORT = 19000, 19001
"""Of buckets that are hostile by their lists, and by their manifests."""
PAGE = b'training_loss{rank="1"} 1\n' * 40_000
REPORT = b'{"podUid":"p","markers":[' + b",".join([b"{}"] * 20_000) + b"]}"
LISTING = b"<ListBucketResult>" + b"<a/>" * 2**21 + b"</ListBucketResult>"
BIG_BYTES, CHUNK_BYTES = 10 * 2**20, 2**16
BIG_SECONDS = 2.0
"""So long a big page takes if it is read to its end: less than a scrape may, and long enough that several are on their way at once."""
BEAT_SECONDS = 0.1


_HEAD = Manifest(
    run=RunRef(namespace="n", name="r", uid="u"), pod=PodRef(name="p", uid="p"), incarnation=1, generation=1
)
BOMB = _HEAD.model_dump_json(by_alias=True, exclude_none=True).removesuffix("]}").encode() + b",".join(
    [b'{"path":""}'] * 2**20
)
"""12 MiB of files without a name, and no end."""


@dataclass
class Member:
    """One simulated pod."""

    run: str
    namespace: str
    pod: str
    uid: str
    kind: str
    address: str
    containers: list[str]
    image: str
    began: float = field(default_factory=time.time)
    polls: list[float] = field(default_factory=list)
    """When its metrics were asked for."""
    reports: int = 0
    """How often its agent was asked."""
    exited: bool = False
    ended: bool = False


class Crowd:
    """All of them."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session
        self.members: dict[str, Member] = {}
        """By uid."""
        self.at: dict[str, Member] = {}
        """By address."""
        self.holding: Counter[str] = Counter()
        """Requests that hang now: by the run's name, or the port of a silent bucket."""
        self.most = 0
        """Most of `holding` at once: runs and buckets, not requests."""
        self.beats: list[float] = []
        """How late this process itself was woken, every so often: what the machine costs anybody."""

    # -- kubelet --------------------------------------------------------------------------------------------------

    async def watch(self, namespace: str) -> None:
        """Keep the pods of one namespace as a kubelet would."""
        path = f"{API}/api/v1/namespaces/{namespace}/pods?labelSelector={CROWD}%3D{os.environ['CROWD']}"
        while True:
            try:
                async with self.session.get(path) as answer:
                    listed = await answer.json()
                for pod in listed["items"]:
                    await self.keep(pod)
                version = listed["metadata"]["resourceVersion"]
                async with self.session.get(f"{path}&watch=true&resourceVersion={version}") as events:
                    while line := await events.content.readline():
                        event = json.loads(line)
                        if event["type"] in ("ADDED", "MODIFIED"):
                            await self.keep(event["object"])
                        elif event["type"] == "ERROR":
                            break
            except (aiohttp.ClientError, TimeoutError, KeyError, ValueError) as error:
                say(f"pods of {namespace}: {error!r}")
                await asyncio.sleep(1)

    async def keep(self, pod: Json) -> None:
        """Start a new pod; let its training leave when it was asked to; end it when its gate was opened."""
        meta = pod["metadata"]
        member = self.members.get(meta["uid"]) or self.place(pod)
        said = meta.get("annotations") or {}
        before = member.exited, member.ended
        member.exited |= names.STOP_ANNOTATION in said
        member.ended |= names.OPEN_GATE_ANNOTATION in said
        if (member.exited, member.ended) != before or not (pod.get("status") or {}).get("podIP"):
            await self.report(member)

    def place(self, pod: Json) -> Member:
        """Give it an address."""
        meta, number = pod["metadata"], len(self.members)
        spec = pod["spec"]
        member = Member(
            run=meta["labels"][names.RUN_LABEL],
            namespace=meta["namespace"],
            pod=meta["name"],
            uid=meta["uid"],
            kind=meta["labels"][KIND],
            address=f"127.1.{number // 250}.{number % 250 + 1}",
            containers=[one["name"] for one in spec["containers"]],
            image=spec["containers"][0]["image"],
        )
        self.members[member.uid] = self.at[member.address] = member
        return member

    async def report(self, member: Member) -> None:
        """Write the pod's status."""
        body = {"status": status_of(member)}
        path = f"{API}/api/v1/namespaces/{member.namespace}/pods/{member.pod}/status"
        headers = {"Content-Type": "application/merge-patch+json"}
        async with self.session.patch(path, data=json.dumps(body), headers=headers) as answer:
            if not answer.ok and answer.status != 404:
                say(f"{member.pod}: {answer.status} {await answer.text()}")

    # -- training and agent ---------------------------------------------------------------------------------------

    async def metrics(self, request: web.Request) -> web.StreamResponse:
        """The page of whoever has the address that was asked."""
        member = self.member_of(request)
        member.polls.append(time.time())
        match member.kind:
            case "hangs":
                await self.hang(member.run)
            case "big":
                return await self.pour(request)
            case "page":
                return web.Response(body=PAGE)
            case _:
                pass
        step = int(10 * (time.time() - member.began)) + 1
        return web.Response(text=f"training_loss 2.0\ntraining_step {step}\n")

    async def progress(self, request: web.Request) -> web.Response:
        """The agent's page."""
        member = self.member_of(request)
        if member.kind == "hangs":
            await self.hang(member.run)
        member.reports += 1
        if member.kind == "report":
            return web.Response(body=REPORT)
        error = AgentError(code=f"Flips{member.reports}", message="x" * 1000) if member.kind == "flips" else None
        return web.Response(text=AgentReport(pod_uid=member.uid, error=error).model_dump_json(by_alias=True))

    def member_of(self, request: web.Request) -> Member:
        assert request.transport is not None
        return self.at[request.transport.get_extra_info("sockname")[0]]

    async def pour(self, request: web.Request) -> web.StreamResponse:
        """A page that is far too large, its length not said."""
        response = web.StreamResponse()
        await response.prepare(request)
        line = b"# nobody wants to know this\n"
        with contextlib.suppress(ConnectionError):
            for _ in range(BIG_BYTES // CHUNK_BYTES):
                await response.write(line * (CHUNK_BYTES // len(line)))
                await asyncio.sleep(BIG_SECONDS * CHUNK_BYTES / BIG_BYTES)
        return response

    async def hang(self, what: str) -> None:
        """Until whoever asked has gone away."""
        with self.held(what):
            await asyncio.get_running_loop().create_future()

    @contextlib.contextmanager
    def held(self, what: str) -> Iterator[None]:
        self.holding[what] += 1
        self.most = max(self.most, len(self.holding))
        try:
            yield
        finally:
            self.holding[what] -= 1
            if not self.holding[what]:
                del self.holding[what]

    # -- buckets --------------------------------------------------------------------------------------------------

    async def silent(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A server that takes every request and answers none."""
        with self.held(str(writer.get_extra_info("sockname")[1])), contextlib.suppress(ConnectionError):
            while await reader.read(CHUNK_BYTES):
                pass
        writer.close()

    async def listing(self, _: web.Request) -> web.Response:
        """A bucket whose lists are 8 MiB that nobody asked for."""
        return web.Response(body=LISTING, content_type="application/xml")

    async def manifest(self, request: web.Request) -> web.Response:
        """A bucket with one commit of each run, which says that the run has ended, and 12 MiB of files in its manifest."""
        key, prefix = request.match_info["key"], request.query.get("prefix", "")
        if prefix:
            listed = f"<Contents><Key>{prefix}i1-g0001.json</Key></Contents>" if prefix.endswith("commits/") else ""
            return web.Response(body=f"<ListBucketResult>{listed}</ListBucketResult>".encode())
        if key.endswith(".manifest.json"):
            span = request.headers["Range"].removeprefix("bytes=").split("-")
            first, last = int(span[0]), min(int(span[1]), len(BOMB) - 1)
            said = {"Content-Range": f"bytes {first}-{last}/{len(BOMB)}"}
            return web.Response(status=206, body=BOMB[first : last + 1], headers=said)
        base = key.removesuffix("commits/i1-g0001.json")
        namespace, run, uid = base.rstrip("/").split("/")[-3:]
        digest = hashlib.sha256(BOMB).hexdigest()
        entry = RankManifest(rank=0, incarnation=1, key=f"{base}r0/i1-g0001-pod.manifest.json", sha256=digest)
        commit = Commit(
            run=RunRef(namespace=namespace, name=run, uid=uid),
            incarnation=1,
            generation=1,
            reason="save",
            termination_id=names.stop_id(uid),
            ranks=(entry,),
        )
        return web.Response(body=commit.model_dump_json(by_alias=True, exclude_none=True).encode())

    # -- what a test may ask --------------------------------------------------------------------------------------

    async def record(self, _: web.Request) -> web.Response:
        """Everything that was noted, times in seconds since the epoch."""
        return web.json_response(
            {
                "members": [
                    {"run": one.run, "namespace": one.namespace, "kind": one.kind, "polls": one.polls}
                    for one in self.members.values()
                ],
                "holding": len(self.holding),
                "most": self.most,
                "beats": self.beats,
            }
        )

    async def counts(self, _: web.Request) -> web.Response:
        """How many of each kind were polled at least twice, and how much hangs now: cheap enough to be asked again and again."""
        polled = Counter(one.kind for one in self.members.values() if len(one.polls) > 1)
        return web.json_response({**polled, "holding": len(self.holding)})

    async def beat(self) -> None:
        """Note how late it is."""
        while True:
            before = time.monotonic()
            await asyncio.sleep(BEAT_SECONDS)
            self.beats.append(round(time.monotonic() - before - BEAT_SECONDS, 4))


def status_of(member: Member) -> Json:
    """As a kubelet writes it: running, its training exited with 0, or all of it over."""
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(member.began))
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    running = {"running": {"startedAt": began}}
    over = {"terminated": {"exitCode": 0, "startedAt": began, "finishedAt": now, "reason": "Completed"}}

    def container(name: str, *, left: bool) -> Json:
        state = over if left else running
        shared = {"image": member.image, "imageID": "", "restartCount": 0, "ready": not left, "started": not left}
        return {"name": name, "state": state, **shared}

    def left(name: str) -> bool:
        return member.ended or (member.exited and name not in names.OWN_CONTAINERS)

    ready = "False" if member.exited or member.ended else "True"
    return {
        "phase": "Succeeded" if member.ended else "Running",
        "podIP": member.address,
        "podIPs": [{"ip": member.address}],
        "startTime": began,
        "conditions": [
            {"type": kind, "status": ready, "lastTransitionTime": now} for kind in ("Ready", "ContainersReady")
        ],
        "containerStatuses": [container(name, left=left(name)) for name in member.containers],
        "initContainerStatuses": [container(names.AGENT_CONTAINER, left=member.ended)],
    }


def say(line: str) -> None:
    """Into the container's log."""
    sys.stderr.write(f"--- {line}\n")
    sys.stderr.flush()


async def serve(port: int, *routes: web.RouteDef) -> None:
    """Listen at every address; a handler ends with its connection."""
    app = web.Application()
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "0.0.0.0", port, backlog=512).start()  # noqa: S104 - the pod's own network


async def main() -> None:
    """Until the pod is deleted."""
    trust = ssl.create_default_context(cafile=str(CA))
    headers = {"Authorization": f"Bearer {os.environ['TOKEN']}"}
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=trust, limit=0),
        headers=headers,
        timeout=aiohttp.ClientTimeout(total=None),
        read_bufsize=2**20,
    ) as session:
        crowd = Crowd(session)
        for number in range(int(os.environ["SILENT"])):
            await asyncio.start_server(crowd.silent, "127.0.0.1", SILENT_PORT + number)
        await serve(METRICS_PORT, web.get("/metrics", crowd.metrics))
        await serve(names.AGENT_PORT, web.get("/progress", crowd.progress))
        await serve(LISTING_PORT, web.get("/{key:.*}", crowd.listing))
        await serve(MANIFEST_PORT, web.get("/{bucket}/{key:.*}", crowd.manifest), web.get("/{key}", crowd.manifest))
        await serve(RECORD_PORT, web.get("/record", crowd.record), web.get("/counts", crowd.counts))
        await asyncio.gather(crowd.beat(), *(crowd.watch(space) for space in os.environ["NAMESPACES"].split()))


asyncio.run(main())
