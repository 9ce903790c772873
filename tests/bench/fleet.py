"""Thousands of runs that train, for `scale`: an API server with their objects, as long as real ones are, and the pages of their pods and buckets.

An API server, and pods and buckets, are a process each. What is simulated: an API server without etcd, admission or latency; pods whose pages are
answered at once, on loopback, and whose agent answers with the training's page too, as the real one; buckets with one checkpoint of one file. Every page closes its connection, as the agent and prometheus_client do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web
from bench import world
from bench.world import GOOD, Member
from builders import WALL
from fakes import path_of, stored_job, stored_node, stored_pod, stored_pool, stored_run

from trainingrun_operator.agent import relay
from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import REPORT_BYTES_HEADER, AgentReport, CheckpointSeen, CommitSeen
from trainingrun_operator.api.run import TrainingRunSpec
from trainingrun_operator.core import manifests
from trainingrun_operator.core.facts.run import Run
from trainingrun_operator.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from fakes import Sent

Json = dict[str, Any]

NAMESPACES: Final = 50
POLL_SECONDS: Final = 10
"""Between two polls of a run: the default of `spec.pollIntervalSeconds`."""
PAGE_LINES: Final = 200
STEPS_PER_POLL: Final = 20
STOP_SECONDS: Final = 0.5
"""Between two stops."""
_STATES: Final = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")


class Trainer(Member):
    """A run that trains, with its Job, its pod and its node."""

    polled: list[float]
    """When its metrics were read."""

    def __init__(self, number: int, s3: str, metrics_port: int, *, commits: bool) -> None:
        super().__init__(number, GOOD, s3, metrics_port)
        self.commits, self.polled = commits, []

    @property
    def namespace(self) -> str:
        return f"team-{self.number % NAMESPACES:02d}"

    def objects(self) -> Iterator[Json]:
        """Parts that are the same in all runs are one object in memory."""
        run, job, pod, node = whole(self.s3, self.metrics_port)
        space: Json = {"namespace": self.namespace}
        labels = names.child_labels(self.name, self.uid)
        mine = run["spec"]["checkpoint"]
        s3 = {**mine["s3"], "credentialsSecretName": f"secret-{self.number}"}
        spec = {
            **run["spec"],
            "checkpoint": {**mine, "destination": f"s3://{self.layout.bucket}/runs", "s3": s3},
        }
        yield stored_run(
            name=self.name, spec=spec, uid=self.uid, managedFields=run["metadata"]["managedFields"], **space
        )
        owner: Json = {"apiVersion": "batch/v1", "kind": "Job", "uid": f"job-uid-{self.number}", "controller": True}
        meta = {"managedFields": job["metadata"]["managedFields"], "labels": labels, "creationTimestamp": WALL}
        yield stored_job(
            name=names.job_name(self.name),
            uid=owner["uid"],
            spec=job["spec"],
            status=job["status"],
            **meta | space,
        )
        meta |= {
            "managedFields": pod["metadata"]["managedFields"],
            "ownerReferences": [owner | {"name": names.job_name(self.name)}],
        }
        yield stored_pod(
            name=f"pod-{self.number}",
            uid=f"pod-uid-{self.number}",
            spec={**pod["spec"], "nodeName": f"gpu-{self.number}"},
            status={**pod["status"], "podIP": self.address, "podIPs": [{"ip": self.address}]},
            **meta | space,
        )
        yield stored_node(
            name=f"gpu-{self.number}", uid=f"node-uid-{self.number}", managedFields=node["metadata"]["managedFields"]
        )

    def report(self) -> bytes:
        """The agent's page."""
        self.asked["report"] += 1
        newest = CheckpointSeen(dir="step-100", step=100, complete=True, age_seconds=33.3, bytes=16 << 30)
        seen = CommitSeen(key=self.commit_key, incarnation=1, generation=1, step=100) if self.commits else None
        made = AgentReport(pod_uid=f"pod-uid-{self.number}", newest=newest, files=24, bytes=16 << 30, commit=seen)
        return made.model_dump_json(by_alias=True).encode()

    def page(self) -> bytes:
        """The training's page: the loss falls from poll to poll, and each run is at another step."""
        self.polled.append(time.monotonic())
        self.asked["page"] += 1
        step = 100 + self.number + STEPS_PER_POLL * self.asked["page"]
        return b"training_loss %.5f\ntraining_step %d\n%b" % (1.0 + 1000 / step, step, _other_lines())


@cache
def _other_lines() -> bytes:
    """What else a training's page has."""
    series = (
        f'data_loader_seconds_{number}{{gpu="{number % 8}",rank="0",UUID="GPU-91b7584a2265b1f5"}} {number}.25\n'
        for number in range(PAGE_LINES)
    )
    return "".join(series).encode()


@cache
def whole(s3: str, metrics_port: int) -> tuple[Json, Json, Json, Json]:
    """A run, its Job, its pod and its node, with all that an API server stores of them."""
    written = stored_run(
        spec={
            "autoStopLoss": 0.3,
            "checkpoint": {"destination": "s3://bucket/runs", "s3": {"credentialsSecretName": "s3", "endpointURL": s3}},
            "pollIntervalSeconds": POLL_SECONDS,
            "metrics": {"port": metrics_port},
            "template": _template(),
        }
    )
    # As the API server fills in the schema's defaults.
    written["spec"] = json.loads(
        TrainingRunSpec.parse(written["spec"]).model_dump_json(by_alias=True, exclude_none=True)
    )
    built = json.loads(json.dumps(manifests.job(Run.of(written), Settings(agent_image="operator:1")), default=dict))
    written["metadata"]["managedFields"] = [_managed("kubectl-create", {"spec": written["spec"]})]
    spec = built["spec"]["template"]["spec"]
    job = {
        "metadata": {"managedFields": [_managed("trainingrun-operator", {"spec": built["spec"]})]},
        "spec": {**built["spec"], "completions": 1, "parallelism": 1, "suspend": False},
        "status": {"active": 1, "ready": 1, "startTime": WALL, "uncountedTerminatedPods": {}},
    }
    started = [_started(one, ended=one.get("restartPolicy") != "Always") for one in spec.get("initContainers", ())]
    status = {
        "phase": "Running",
        "hostIP": "10.0.0.7",
        "startTime": WALL,
        "conditions": [{"type": one, "status": "True", "lastTransitionTime": WALL} for one in _STATES],
        "containerStatuses": [_started(one) for one in spec["containers"]],
        "initContainerStatuses": started,
    }
    by = [_managed("kube-controller-manager", {"spec": spec}), _managed("kubelet", {"status": status})]
    node = {"metadata": {"managedFields": [_managed("kubelet", {"status": {"images": [{"name": "i"}] * 40}})]}}
    return written, job, {"metadata": {"managedFields": by}, "spec": spec, "status": status}, node


def _template() -> Json:
    environment = {"WANDB_PROJECT": "sft", "NCCL_DEBUG": "WARN", "HF_HOME": "/cache/hf"}
    container = {
        "name": "train",
        "image": "registry.example.com/team/llama-sft:2026.01.01",
        "command": ["python", "-m", "train.main"],
        "args": ["--model", "meta-llama/Llama-3.1-8B", "--dataset", "s3://datasets/sft-v7", "--lr", "2e-5", "--bf16"],
        "env": [{"name": name, "value": value} for name, value in environment.items()],
        "ports": [{"name": "metrics", "containerPort": 8000, "protocol": "TCP"}],
        "resources": {"requests": {"cpu": "8", "memory": "96Gi"}, "limits": {"memory": "96Gi", "nvidia.com/gpu": "1"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    user = {"runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000}
    pod = {"securityContext": user, "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]}
    return {"metadata": {"labels": {"team": "a", "app": "llama-sft"}}, "spec": {**pod, "containers": [container]}}


def _started(container: Json, *, ended: bool = False) -> Json:
    hashed = "cd" * 32
    state: Json = {"running": {"startedAt": WALL}}
    if ended:
        said = {"exitCode": 0, "reason": "Completed", "startedAt": WALL, "finishedAt": WALL}
        state = {"terminated": {**said, "containerID": f"containerd://{hashed}"}}
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": f"{container['image']}@sha256:{hashed}",
        "containerID": f"containerd://{hashed}",
        "ready": not ended,
        "started": not ended,
        "restartCount": 0,
        "lastState": {},
        "state": state,
        "volumeMounts": [{**one, "recursiveReadOnly": "Disabled"} for one in container.get("volumeMounts", ())],
    }


def _managed(manager: str, owned: Json) -> Json:
    about = {"manager": manager, "operation": "Update", "apiVersion": "v1", "time": WALL, "fieldsType": "FieldsV1"}
    return {**about, "fieldsV1": _fields(owned)}


def _fields(value: Any) -> Json:
    """What a manager owns of a value, as the API server writes it down."""
    if isinstance(value, dict):
        return {f"f:{key}": _fields(one) for key, one in value.items()}
    if isinstance(value, list) and value and all(isinstance(one, dict) and "name" in one for one in value):
        return {".": {}} | {f"k:{json.dumps({'name': one['name']})}": {".": {}} | _fields(one) for one in value}
    return {}


class Fleet(world.World):
    """All runs, without hostile ones."""

    def __init__(self, runs: int, s3: str, metrics_port: int, *, commits: bool) -> None:
        made = {str(number): Trainer(number, s3, metrics_port, commits=commits) for number in range(runs)}
        self.members = dict[str, Member](made)
        self.trainers = list(made.values())

    def polls(self) -> Json:
        """Runs that were never polled, and by how much each poll since `clear` came later than it should."""
        late = [
            after - before - POLL_SECONDS
            for one in self.trainers
            for before, after in zip(one.polled, one.polled[1:], strict=False)
        ]
        return {"never": sum(not one.polled for one in self.trainers), "late": _ranks(late), "polls": len(late)}

    def clear(self) -> None:
        """Count polls from the latest on."""
        for one in self.trainers:
            del one.polled[:-1]

    def forget(self) -> None:
        """Count each run as never polled."""
        for one in self.trainers:
            one.polled.clear()


class Api(world.Api):
    """The API server, which also tells a run to stop, and when the operator's answer reaches the pod."""

    def __init__(self, members: Mapping[str, Member]) -> None:
        super().__init__(dict(members))
        self.put(stored_pool())
        self.requests = 0
        self.told: dict[str, float] = {}
        """When each run was stopped, by its pod's path."""
        self.heard: dict[str, float] = {}

    def _answer(self, sent: Sent) -> web.Response:
        self.requests += 1
        answer = super()._answer(sent)
        if sent.method == "PATCH" and sent.path in self.told:
            self.heard.setdefault(sent.path, time.monotonic() - self.told[sent.path])
        return answer

    async def stop(self, members: Sequence[Member]) -> None:
        """Stop these runs, one after the other, as a person does."""
        for one in members:
            run, *_, pod, _ = one.objects()
            path = path_of(run)
            before = self.objects[path]
            meta = {**before["metadata"], "generation": before["metadata"]["generation"] + 1}
            self.objects[path] = {**before, "metadata": meta, "spec": {**before["spec"], "stop": True}}
            self._touch(self.objects[path])
            self.told[path_of(pod)] = time.monotonic()
            self._publish(path, "MODIFIED")
            await asyncio.sleep(STOP_SECONDS)

    def counts(self) -> Json:
        """Requests so far, and how long a stop took to reach the pod."""
        return {"requests": self.requests, "told": len(self.told), "heard": len(self.heard)} | {
            "stop": _ranks(self.heard.values())
        }


def _ranks(seconds: Any) -> Json:
    ordered = sorted(seconds)
    if not ordered:
        return {}
    return {f"p{part}": round(ordered[min(len(ordered) - 1, len(ordered) * part // 100)], 3) for part in (50, 99)}


def answered(trainer: Trainer, head: bytes, relayed: relay.Page | None) -> bytes:
    """An agent's answer to a request: the report, and the training's page behind it if the one that the agent relays is asked for."""
    report, page, more = trainer.report(), b"", b""
    if relayed is not None and relayed.is_asked_for(head):
        page, more = trainer.page(), b"%b: %d\r\n" % (REPORT_BYTES_HEADER.encode(), len(report))
    return _answer(report + page, more)


def _answer(body: bytes, more: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\n%bConnection: close\r\nContent-Length: %d\r\n\r\n" % (more, len(body)) + body


class Page(asyncio.Protocol):
    """One request for a page. In plain asyncio: the pages must not take more of the machine than the operator does."""

    def __init__(self, fleet: Fleet, made: Callable[[Trainer, bytes], bytes]) -> None:
        self._fleet, self._made = fleet, made
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._head += data
        if self._head.endswith(b"\r\n\r\n"):
            *_, high, low = self._transport.get_extra_info("sockname")[0].split(".")
            self._transport.write(self._made(self._fleet.trainers[int(high) * 250 + int(low) - 1], self._head))
            self._transport.close()


async def _pages(fleet: Fleet, made: Callable[[Trainer, bytes], bytes]) -> int:
    everywhere = "0.0.0.0"  # noqa: S104 - the addresses of the pods
    server = await asyncio.get_running_loop().create_server(lambda: Page(fleet, made), everywhere, 0, backlog=4096)
    return int(server.sockets[0].getsockname()[1])


async def _tenants(fleet: Fleet, *, relays: bool) -> None:
    """Serve the pods' pages and the buckets."""
    pages = await _pages(fleet, lambda trainer, _: _answer(trainer.page()))
    relayed = relay.page(f"{pages}/metrics") if relays else None
    agents = await _pages(fleet, partial(answered, relayed=relayed))

    async def polls(_: web.Request) -> web.Response:
        return web.json_response(fleet.polls())

    async def clear(_: web.Request) -> web.Response:
        fleet.clear()
        return web.Response()

    async def forget(_: web.Request) -> web.Response:
        fleet.forget()
        return web.Response()

    routes = (
        web.get("/bench/polls", polls),
        web.post("/bench/clear", clear),
        web.post("/bench/forget", forget),
        web.route("*", "/{path:.*}", fleet.bucket),
    )
    world.say(await world.serve(0, "127.0.0.1", *routes), agents, pages)


async def _api(fleet: Fleet) -> None:
    """Serve the API server."""
    api = Api(fleet.members)
    stopping: set[asyncio.Task[None]] = set()

    async def counts(_: web.Request) -> web.Response:
        return web.json_response(api.counts())

    async def stop(request: web.Request) -> web.Response:
        every = max(1, len(fleet.trainers) // int(request.query["runs"]))
        stopping.add(asyncio.create_task(api.stop(fleet.trainers[::every])))
        return web.Response()

    routes = web.get("/bench/counts", counts), web.post("/bench/stop", stop), web.route("*", "/{path:.*}", api.handle)
    world.say(await world.serve(0, "127.0.0.1", *routes))


async def _main(wanted: argparse.Namespace) -> None:
    fleet = Fleet(wanted.runs, wanted.s3, wanted.metrics_port, commits=wanted.commits)
    await (_api(fleet) if wanted.s3 else _tenants(fleet, relays=not wanted.older_agents))
    await asyncio.Event().wait()


def main() -> None:
    """Serve until the process is killed. Prints the address of the API server; or of the buckets, and the ports of agents and trainings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=int)
    parser.add_argument(
        "--s3", default="", help="address of the buckets: serve the API server, otherwise pods and buckets"
    )
    parser.add_argument("--metrics-port", type=int, default=0, help="of the trainings' pages")
    parser.add_argument("--older-agents", action="store_true", help="agents that answer with their report alone")
    parser.add_argument("--commits", action="store_true", help="each run has a checkpoint in its bucket")
    asyncio.run(_main(parser.parse_args()))


if __name__ == "__main__":
    main()
