"""What surrounds an operator that many hostile runs share with good ones: the API server, the pods' pages and the buckets, in a process of their own.

Every pod has an address of its own in 127.0.0.0/8; by the address at which it is asked, this process knows for whom it answers.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from bench import bombs
from fakes import ApiServer, path_of, stored_job, stored_pod, stored_run

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import AgentError, AgentReport, CommitSeen
from trainingrun_operator.checkpoints.bucket import crc64, encode
from trainingrun_operator.checkpoints.documents import Checkpoint, Commit, FileEntry, Manifest, PodRef, RunRef
from trainingrun_operator.checkpoints.keys import Layout, Order

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from re import Match

    from fakes import Sent

Json = dict[str, Any]

GOOD: Final = "good"
KINDS: Final = ("template", "manifest", "listing", "page", "report", "authority", "status", "credentials")
"""The ways in which a run is hostile."""
LOUD, CALM = "loud", "calm"
"""The namespaces of the hostile and of the good."""
FILE: Final = b"weights"
ORDER: Final = Order(1, 1)
GOOD_SECONDS: Final = 30
STIR_SECONDS: Final = 0.5


@dataclass
class Member:
    """One run, with what it was asked for."""

    number: int
    kind: str
    s3: str
    metrics_port: int
    asked: Counter[str] = field(default_factory=Counter)
    status: Json = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        return CALM if self.kind == GOOD else LOUD

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.number:05d}"

    @property
    def uid(self) -> str:
        return f"uid-{self.number}"

    @property
    def address(self) -> str:
        return f"127.77.{self.number // 250}.{self.number % 250 + 1}"

    @property
    def has_pod(self) -> bool:
        return self.kind not in ("template", "listing")

    @property
    def layout(self) -> Layout:
        return Layout.of(f"s3://bucket-{self.number}/runs", self.namespace, self.name, self.uid)

    @cached_property
    def manifest(self) -> bytes:
        """One file; of a run that is hostile by its manifest, hundreds of thousands."""
        if self.kind == "manifest":
            made = bombs.MANIFESTS[self.number % len(bombs.MANIFESTS)]
            return bombs.manifest(made)
        folder = self.layout.folder(0, ORDER, f"pod-{self.number}")
        file = FileEntry(path="step-100/w", size=len(FILE), key=f"{folder}step-100/w", crc64nvme=encode(crc64(FILE)))
        return self._manifest(file).model_dump_json(by_alias=True, exclude_none=True).encode()

    @property
    def commit_key(self) -> str:
        return self.layout.commit(ORDER)

    @property
    def manifest_key(self) -> str:
        return self.layout.manifest(0, ORDER, f"pod-{self.number}")

    @cached_property
    def commit(self) -> bytes:
        entry = {"rank": 0, "incarnation": 1, "key": self.manifest_key, "sha256": bombs.digest(self.manifest)}
        made = Commit(
            run=self._run,
            incarnation=1,
            generation=1,
            reason="checkpoint",
            checkpoint=_CHECKPOINT,
            ranks=(entry,),  # type: ignore[arg-type]  # validated by the model
            total_files=1,
            total_bytes=len(FILE),
        )
        return made.model_dump_json(by_alias=True, exclude_none=True).encode()

    @property
    def _run(self) -> RunRef:
        return RunRef(namespace=self.namespace, name=self.name, uid=self.uid)

    def _manifest(self, file: FileEntry) -> Manifest:
        return Manifest(
            run=self._run,
            pod=PodRef(name=f"pod-{self.number}", uid=f"pod-uid-{self.number}"),
            incarnation=1,
            generation=1,
            checkpoint=_CHECKPOINT,
            folder=self.layout.folder(0, ORDER, f"pod-{self.number}"),
            total_files=1,
            total_bytes=len(FILE),
            files=(file,),
        )

    # -- objects of the API server --------------------------------------------------------------------------------

    def objects(self) -> Iterator[Json]:
        """The run, its Secret and, once it trains, its Job and its pod."""
        spec = self._spec()
        meta: Json = {"namespace": self.namespace, "uid": self.uid, "resourceVersion": str(self.number + 1)}
        yield stored_run(name=self.name, spec=spec, **meta)
        yield self.secret()
        if self.has_pod:
            labels = names.child_labels(self.name, self.uid)
            child: Json = {"namespace": self.namespace, "labels": labels}
            owner = {"apiVersion": "batch/v1", "kind": "Job", "uid": f"job-uid-{self.number}", "controller": True}
            owned: Json = {"ownerReferences": [owner | {"name": names.job_name(self.name)}]}
            yield stored_job(name=names.job_name(self.name), **child | {"uid": f"job-uid-{self.number}"})
            status = {"podIP": self.address}
            yield stored_pod(
                name=f"pod-{self.number}", status=status, **child | owned | {"uid": f"pod-uid-{self.number}"}
            )

    def secret(self) -> Json:
        """The keys: of an authority a long chain of certificates, of credentials others each time."""
        self.asked["secret"] += 1
        data = {names.ACCESS_KEY: "key", names.SECRET_KEY: "secret"}
        if self.kind == "authority":
            data[names.CA] = bombs.authorities(self.number)
        if self.kind == "credentials":
            token = f"{self.number}-{self.asked['secret']}-"
            data |= {names.ACCESS_KEY: f"key-{token}", names.SESSION_TOKEN: token * (7_000 // len(token))}
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": f"secret-{self.number}",
                "namespace": self.namespace,
                "uid": "s",
                "resourceVersion": "1",
            },
            "data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()},
        }

    def _spec(self) -> Json:
        s3: Json = {"credentialsSecretName": f"secret-{self.number}", "endpointURL": self.s3}
        if self.kind == "authority":
            s3["endpointURL"] = self.s3.replace("http:", "https:")
        if self.kind == "credentials":
            s3["region"] = f"made-up-{self.number}"
        spec: Json = {
            "checkpoint": {"destination": f"s3://{self.layout.bucket}/runs", "s3": s3},
            "pollIntervalSeconds": GOOD_SECONDS if self.kind == GOOD else 1,
            "metrics": {"port": self.metrics_port},
        }
        if self.kind == "template":
            spec["template"] = bombs.TEMPLATE_MARK.format(self.number % len(bombs.UNITS))
        if self.kind == "listing":
            spec["suspend"] = True
        return spec

    # -- pages ----------------------------------------------------------------------------------------------------

    def report(self) -> bytes:
        """The agent's page."""
        self.asked["report"] += 1
        if self.kind == "report":
            return bombs.REPORTS[(self.number + self.asked["report"]) % len(bombs.REPORTS)]
        seen = CommitSeen(key=self.commit_key, incarnation=1, generation=1, step=100)
        error = None
        if self.kind == "status":
            error = AgentError(code=f"Flips{self.asked['report']}", message="x" * 5000)
        made = AgentReport(pod_uid=f"pod-uid-{self.number}", files=1, commit=seen, error=error)
        return made.model_dump_json(by_alias=True, exclude_none=True).encode()

    def page(self) -> bytes:
        """The training's page."""
        self.asked["page"] += 1
        if self.kind == "page":
            return bombs.PAGES[(self.number + self.asked["page"]) % len(bombs.PAGES)]
        return b"training_loss 1.25\ntraining_step %d\n" % (100 + self.asked["page"])


_CHECKPOINT: Final = Checkpoint(dir="step-100", step=100, complete=True, evidence="bench")


class _Objects(dict[str, Json]):
    """Objects by path, and by what lists ask for."""

    def __init__(self) -> None:
        super().__init__()
        self.by_plural: defaultdict[str, dict[str, None]] = defaultdict(dict)
        self.by_run: defaultdict[str, dict[str, None]] = defaultdict(dict)

    def __setitem__(self, path: str, stored: Json) -> None:
        super().__setitem__(path, stored)
        self.by_plural[path.split("/")[-2]][path] = None
        if uid := (stored["metadata"].get("labels") or {}).get(names.RUN_UID_LABEL):
            self.by_run[uid][path] = None

    def __delitem__(self, path: str) -> None:
        stored = self[path]
        super().__delitem__(path)
        self.by_plural[path.split("/")[-2]].pop(path, None)
        if uid := (stored["metadata"].get("labels") or {}).get(names.RUN_UID_LABEL):
            self.by_run[uid].pop(path, None)


class Api(ApiServer):
    """The API server: thousands of objects, templates that are only put into what it sends, and an event for each change."""

    def __init__(self, members: dict[str, Member]) -> None:
        super().__init__()
        self.members = members
        self.indexed = _Objects()
        self.objects = self.indexed
        self.sent = deque(maxlen=1)  # type: ignore[assignment]  # nobody reads what was asked
        self._watches: list[tuple[Match[str], asyncio.Queue[bytes]]] = []
        for member in members.values():
            for one in member.objects():
                self.objects[path_of(one)] = one

    def _answer(self, sent: Sent) -> web.Response:
        before = self.version
        if sent.method == "GET" and "/secrets/secret-" in sent.path:
            member = self.members[sent.path.rpartition("-")[2]]
            return web.json_response(member.secret())
        answer = super()._answer(sent)
        if self.version > before and sent.method == "PATCH":
            self._publish(sent.path.removesuffix("/status"), "MODIFIED")
        if sent.path.endswith("/status"):
            self._note(sent)
        answer.body = bombs.with_templates(answer.body)  # type: ignore[arg-type]  # bytes, as `json_response` makes it
        return answer

    def _note(self, sent: Sent) -> None:
        member = self.members.get(sent.path.removesuffix("/status").rpartition("-")[2].lstrip("0") or "0")
        if member is not None:
            member.asked["status"] += 1
            member.status = self.objects[sent.path.removesuffix("/status")].get("status", {})

    def _list(self, sent: Sent, found: Match[str]) -> Json:
        everything = self.objects
        uid = sent.query.get("labelSelector", "").partition(f"{names.RUN_UID_LABEL}=")[2]
        paths = self.indexed.by_run.get(uid, {}) if uid else self.indexed.by_plural.get(found["plural"], {})
        try:
            self.objects = {path: everything[path] for path in paths}
            return super()._list(sent, found)
        finally:
            self.objects = everything

    def _publish(self, path: str, kind: str) -> None:
        stored = self.objects[path]
        line = bombs.with_templates(json.dumps({"type": kind, "object": stored}).encode()) + b"\n"
        for found, queue in self._watches:
            if path.split("/")[-2] == found["plural"]:
                queue.put_nowait(line)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        from fakes import _PATH  # noqa: PLC0415 - the same paths as the server it extends

        found = _PATH.fullmatch(request.path)
        assert found is not None
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._watches.append((found, queue))
        answer = web.StreamResponse()
        await answer.prepare(request)
        try:
            while True:
                await answer.write(await queue.get())
        finally:
            self._watches = [one for one in self._watches if one[1] is not queue]

    async def stir(self, paths: list[str]) -> None:
        """Change one of these objects after the other, as their author does."""
        while paths:
            for path in paths:
                await asyncio.sleep(STIR_SECONDS)
                self.objects[path]["metadata"]["labels"] = {"changed": str(self.version)}
                self._touch(self.objects[path])
                self._publish(path, "MODIFIED")


def kinds_of(runs: int, hostile: int) -> list[str]:
    """The kinds of all runs, by number."""
    bad = [kind for kind in KINDS for _ in range(hostile)]
    return bad + [GOOD] * (runs - len(bad))


class World:
    """All of it."""

    def __init__(self, runs: int, hostile: int, s3: str, metrics_port: int) -> None:
        kinds = kinds_of(runs, hostile)
        self.members = {str(number): Member(number, kind, s3, metrics_port) for number, kind in enumerate(kinds)}

    def of(self, request: web.Request) -> Member:
        assert request.transport is not None
        *_, high, low = request.transport.get_extra_info("sockname")[0].split(".")
        return self.members[str(int(high) * 250 + int(low) - 1)]

    async def report(self, request: web.Request) -> web.Response:
        return web.Response(body=self.of(request).report())

    async def page(self, request: web.Request) -> web.Response:
        return web.Response(body=self.of(request).page())

    async def bucket(self, request: web.Request) -> web.Response:
        """S3, addressed by path."""
        bucket, _, key = request.path.removeprefix("/").partition("/")
        member = self.members[bucket.rpartition("-")[2]]
        if not key:
            member.asked["listed"] += 1
            return web.Response(body=self._listed(member), content_type="application/xml")
        if request.method == "HEAD":
            member.asked["headed"] += 1
            checksum = {"x-amz-checksum-crc64nvme": encode(crc64(FILE)), "Content-Length": str(len(FILE))}
            return web.Response(headers=checksum)
        member.asked["got"] += 1
        body = {member.commit_key: lambda: member.commit, member.manifest_key: lambda: member.manifest}.get(key)
        if body is None:
            return web.Response(status=404, body=b"<Error><Code>NoSuchKey</Code></Error>")
        return _ranged(request, body())

    def _listed(self, member: Member) -> bytes:
        if member.kind == "listing":
            listings = bombs.LISTINGS
            return listings[member.asked["listed"] % len(listings)](member.layout.commits, member.asked["listed"])
        return bombs.listing([member.commit_key], "")

    def seen(self) -> Json:
        """By number, what each run was asked for, and what its status tells."""
        return {key: {**one.asked, "said": _said(one.status)} for key, one in self.members.items()}


def looks_of(kind: str, asked: Mapping[str, int]) -> int:
    """How often a run was looked at in the way that its kind is about."""
    wanted = {
        "template": ("status",),
        "listing": ("listed",),
        "manifest": ("report", "got"),
        "authority": ("report", "secret"),
        "credentials": ("report", "secret"),
        GOOD: ("page", "headed"),
    }
    return min(asked.get(what, 0) for what in wanted.get(kind, ("report",)))


def _said(status: Json) -> str:
    """Some conditions of a status, each with its reason."""
    shown = ("Accepted", "MetricsAvailable", "CheckpointSaved")
    found = [one for one in status.get("conditions", ()) if one["type"] in shown]
    return " ".join(f"{one['type']}={one['reason'].rstrip('0123456789')}" for one in found)


def _ranged(request: web.Request, body: bytes) -> web.Response:
    span = request.headers.get("Range", "").removeprefix("bytes=")
    if not span:
        return web.Response(body=body)
    first, _, last = span.partition("-")
    start, end = int(first), min(int(last) + 1, len(body))
    return web.Response(
        status=206, body=body[start:end], headers={"Content-Range": f"bytes {start}-{end - 1}/{len(body)}"}
    )


async def serve(port: int, host: str, *routes: web.RouteDef) -> int:
    app = web.Application(client_max_size=2**24)
    app.add_routes(routes)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, host, port, backlog=1024).start()
    return int(runner.addresses[0][1])


async def _tenants(world: World) -> None:
    """Serve the pods' pages and the buckets."""
    everywhere = "0.0.0.0"  # noqa: S104 - the addresses of the pods
    agents = await serve(0, everywhere, web.get("/progress", world.report))
    pages = await serve(0, everywhere, web.get("/metrics", world.page))
    say(await serve(0, "127.0.0.1", _seen(world), web.route("*", "/{path:.*}", world.bucket)), agents, pages)


async def _api(world: World) -> None:
    """Serve the API server."""
    api = Api(world.members)
    say(await serve(0, "127.0.0.1", _seen(world), web.route("*", "/{path:.*}", api.handle)))
    await api.stir([path for path in api.indexed.by_plural[names.RUN_PLURAL] if "/template-" in path])


def _seen(world: World) -> web.RouteDef:
    async def handle(_: web.Request) -> web.Response:
        return web.json_response(world.seen())

    return web.get("/bench/seen", handle)


def say(port: int, *others: int) -> None:
    print(f"http://127.0.0.1:{port}", *others, flush=True)


async def _main(wanted: argparse.Namespace) -> None:
    world = World(wanted.runs, wanted.hostile, wanted.s3, wanted.metrics_port)
    await (_api(world) if wanted.s3 else _tenants(world))
    await asyncio.Event().wait()


def main() -> None:
    """Serve until the process is killed. Prints the address of the API server; or of the buckets, and the ports of agents and trainings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=int)
    parser.add_argument("hostile", type=int)
    parser.add_argument(
        "--s3", default="", help="address of the buckets: serve the API server, otherwise pods and buckets"
    )
    parser.add_argument("--metrics-port", type=int, default=0, help="of the trainings' pages")
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
