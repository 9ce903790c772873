"""A run that is stopped: the real controller, store and agent, on an API server in memory, with a training that has exited behind its gate."""

from __future__ import annotations

import asyncio
import base64
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from builders import checkpoint_spec
from fakes import (
    FakeProvider,
    Plain,
    api_server,
    path_of,
    stored_job,
    stored_node,
    stored_pod,
    stored_run,
    stored_secret,
)
from integration.agent.pods import BUCKET, SOON_SECONDS, wait_for

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import SaveRequest
from trainingrun_operator.api.status import Phase, Termination
from trainingrun_operator.controller.reconciler import Reconciler
from trainingrun_operator.core.defaults import Defaults
from trainingrun_operator.core.destinations import destinations_of
from trainingrun_operator.core.facts.run import Run
from trainingrun_operator.edge.background.curve import CurveWriter
from trainingrun_operator.edge.cache import Cache
from trainingrun_operator.edge.execute import Executor
from trainingrun_operator.edge.gather.observer import Observer
from trainingrun_operator.edge.gather.pages import PodPages
from trainingrun_operator.edge.gather.store import Store as StoreReader
from trainingrun_operator.edge.kube import Kube
from trainingrun_operator.edge.metrics import prometheus
from trainingrun_operator.edge.metrics.registry import Sources
from trainingrun_operator.edge.metrics.source import Tools
from trainingrun_operator.exporter import Telemetry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from fakes import ApiServer, Sent
    from integration.agent.pods import Pod, Store

    from trainingrun_operator.checkpoints.documents import Commit

NAMESPACE, NAME = "team", "llm"
JOB_UID = "the-job"
AFTER_PROOF = frozenset({Phase.DELETING, Phase.RELEASING, Phase.DONE})
REQUESTS = (names.STOP_ANNOTATION, names.SAVE_ANNOTATION)


@dataclass
class Stopping:
    """The stop of one run, seen by somebody who looks at everything between two looks of the operator."""

    api: ApiServer
    reconciler: Reconciler
    cache: Cache
    pod: Pod
    store: Store
    run_path: str
    pod_path: str
    too_early: list[str] = field(default_factory=list)
    """What ended the pod, or deleted anything, before the status recorded a proof."""
    in_time: list[str] = field(default_factory=list)
    """And after."""

    @property
    def stop(self) -> Termination | None:
        return Run.of(self.api.objects[self.run_path]).status.termination

    @property
    def events(self) -> list[str]:
        """Reasons of the run's Events, in order."""
        return [
            sent.body["reason"] for sent in self.api.sent if sent.method == "POST" and sent.path.endswith("/events")
        ]

    @property
    def asked(self) -> int:
        """The attempt of the save request on the pod; 0: there is none."""
        text = self._annotations().get(names.SAVE_ANNOTATION)
        return SaveRequest.model_validate_json(text).attempt if text else 0

    def _annotations(self) -> dict[str, str]:
        found: dict[str, str] = self.api.objects[self.pod_path]["metadata"].get("annotations", {})
        return found

    async def look(self) -> None:
        """Look at the run once."""
        await self.reconciler.look(self.store.uid)

    def hand_over(self) -> None:
        """Have the kubelet hand the pod's annotations to the agent."""
        annotations = self._annotations()
        known = {name: text for name, text in annotations.items() if name in REQUESTS}
        if known != self.pod.annotations:
            self.pod.annotations = {}
            self.pod.annotate(**{name.removeprefix(f"{names.GROUP}/"): text for name, text in known.items()})

    async def until(self, fits: Callable[[Termination], Any], what: str, *, hands_over: bool = True) -> Termination:
        """Look until the stop is so, with a kubelet that hands over to the agent what each look asks."""
        deadline = time.monotonic() + SOON_SECONDS
        while (stop := self.stop) is None or not fits(stop):
            assert time.monotonic() < deadline, f"{what}: {stop}\n{self.pod.log.read_text()}"
            await self.look()
            if hands_over:
                self.hand_over()
            await asyncio.sleep(0.05)
        return stop

    async def asks(self, attempt: int) -> Termination:
        """Look until the pod has this save request, which the agent does not know yet."""
        return await self.until(lambda _: self.asked == attempt, f"attempt {attempt}", hands_over=False)

    async def committed(self, attempt: int) -> Commit:
        """The agent's answer to a save request, which the operator has not read yet: it does not look meanwhile."""
        stop = await self.asks(attempt)
        self.hand_over()

        def answer() -> Commit | None:
            asked = (stop.id, attempt)
            return next((one for one in self.store.commits() if (one.termination_id, one.attempt) == asked), None)

        return await asyncio.to_thread(wait_for, answer)

    async def proven(self) -> Commit:
        """The commit that the status records as the proof that allows the deletion."""
        stop = await self.until(lambda stop: stop.phase in AFTER_PROOF, "a proof")
        assert stop.saved is not None
        assert not stop.saved.note, stop.saved.note
        return next(one for one in self.store.commits() if self.store.layout.commit(one.order) == stop.saved.commit)

    def note(self, sent: Sent) -> None:
        """Called with each request to the API server."""
        opens = sent.method == "PATCH" and names.OPEN_GATE_ANNOTATION in str(sent.body)
        deletes = sent.method == "DELETE" and "poddisruptionbudgets" not in sent.path
        stop = self.stop
        if deletes or opens:
            proven = stop is not None and stop.phase in AFTER_PROOF and stop.saved is not None
            (self.in_time if proven else self.too_early).append(sent.line)


@asynccontextmanager
async def stopping(pod: Pod, store: Store, endpoint: str) -> AsyncIterator[Stopping]:
    """Stop the run of an agent's pod; `endpoint`: by which the operator reaches the store."""
    run, rest = _stored(pod, store, endpoint)
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(api_server(run, *rest))
        kube = await stack.enter_async_context(Kube(Plain(api.url)))
        session = await stack.enter_async_context(prometheus.make_session())
        reader = StoreReader(threads=8)
        stack.callback(reader.close)
        cache, telemetry = Cache(), Telemetry()
        observer = Observer(
            kube,
            reader,
            PodPages(session, Sources.of(Tools(session, kube)), agent_port=pod.port),
            cache,
            Defaults(allowed_destinations=destinations_of([{"endpoint": endpoint}])),
            recheck_seconds=30,
            relist_seconds=300,
            providers=lambda _: FakeProvider(),
        )
        stack.push_async_callback(observer.close)
        executor = Executor(kube, cache, lambda: True, lambda _: FakeProvider())
        curves = CurveWriter(kube, executor.leads, 60)
        made = Stopping(
            api,
            Reconciler(kube, cache, observer, executor, telemetry, curves, 60),
            cache,
            pod,
            store,
            path_of(run),
            path_of(rest[-1]),
        )
        cache.put_run(api.objects[made.run_path])
        for kind, stored in (("Job", rest[0]), ("Pod", rest[-1])):
            cache.put_child(kind, stored, deleted=False)
        api.before = made.note
        yield made


def _stored(pod: Pod, store: Store, endpoint: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The run, and its Job, Secret, Node and pod."""
    server, labels = store.server, names.child_labels(NAME, store.uid)
    s3 = {"endpointURL": endpoint, "region": server.region, "credentialsSecretName": "s3-credentials"}
    spec = {"stop": True, "checkpoint": checkpoint_spec(destination=f"s3://{BUCKET}/prefix", s3=s3)}
    run = stored_run(spec=spec, status={}, name=NAME, namespace=NAMESPACE, uid=store.uid)
    job = stored_job(name=NAME, namespace=NAMESPACE, uid=JOB_UID, labels=labels)
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": NAME, "uid": JOB_UID, "controller": True}
    trained = stored_pod(
        exit_code=0,
        name=pod.name,
        namespace=NAMESPACE,
        uid=f"{store.uid}-{pod.name}",
        labels=labels,
        ownerReferences=[owner],
    )
    encoded = {
        name: base64.b64encode(value.encode()).decode()
        for name, value in ((names.ACCESS_KEY, server.access_key), (names.SECRET_KEY, server.secret_key))
    }
    secret = stored_secret(**encoded)
    secret["metadata"]["namespace"] = NAMESPACE
    return run, [job, secret, stored_node(), trained]
