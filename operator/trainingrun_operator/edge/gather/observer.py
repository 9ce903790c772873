"""Gathers one `Observed`: the run, its children, its metrics, its agent, the bucket, its nodes. Reads only.

What a look costs depends on where the run stands: a training run costs its scrape; a stop in progress reads pods and Job from the API server
itself, because deletions hang on them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from datetime import UTC, datetime
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from pydantic import ValidationError

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import AgentReport
from trainingrun_operator.api.status import NodePhase, Phase
from trainingrun_operator.core import manifests
from trainingrun_operator.core.facts.pod import Pod, Training
from trainingrun_operator.core.facts.run import Run
from trainingrun_operator.core.facts.workload import Job
from trainingrun_operator.core.observed import Observed
from trainingrun_operator.core.release import unsettled
from trainingrun_operator.core.rules import completion, workload
from trainingrun_operator.core.stop import disruption
from trainingrun_operator.core.track import Track, fold, resumed
from trainingrun_operator.edge import calls
from trainingrun_operator.edge.calls import Api
from trainingrun_operator.edge.gather import lost
from trainingrun_operator.edge.gather.bucket import SAVING, Evidence, asked
from trainingrun_operator.edge.gather.nodes import gather, identity
from trainingrun_operator.edge.gather.preflight import Preflight
from trainingrun_operator.edge.kube import KubeError
from trainingrun_operator.edge.memory import Stopwatch
from trainingrun_operator.edge.metrics import prometheus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainingrun_operator.core.defaults import Defaults
    from trainingrun_operator.core.facts.nodes import NodeFacts
    from trainingrun_operator.edge.cache import Cache
    from trainingrun_operator.edge.gather.store import Store
    from trainingrun_operator.edge.kube import Kube
    from trainingrun_operator.edge.memory import Memory

log = logging.getLogger(__name__)

AGENT_TIMEOUT_SECONDS: Final = 3
REPORT_MAX_BYTES: Final = 256 * 1024
BUDGET_RETRY_SECONDS: Final = 10
LOG_LINES: Final = 5
LOG_BYTES: Final = 1000


def wall_clock() -> str:
    """Now, for people: RFC 3339 in UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Observer:
    """Knows everyone who can be asked."""

    def __init__(
        self,
        kube: Kube,
        store: Store,
        session: aiohttp.ClientSession,
        cache: Cache,
        defaults: Defaults,
        *,
        recheck_seconds: float,
        relist_seconds: float,
    ) -> None:
        self._kube, self._session, self._cache, self._defaults = kube, session, cache, defaults
        self._relist_seconds = relist_seconds
        self._listing_pools = asyncio.Lock()
        self._evidence = Evidence(kube, store, defaults.allowed_destinations)
        self._preflight = Preflight(kube, store, self._evidence, cache, defaults, recheck_seconds)

    async def observe(self, stored: dict[str, Any], memory: Memory) -> Observed:
        """Take one look at a run.

        Raises:
            KubeError: the API server could not be asked.
            pydantic.ValidationError: the stored run is not one that this version understands.
        """
        run = Run.of(stored)
        now = time.monotonic()
        await self._know_pools(now)
        pods, job = await self._children(run, memory, now)
        pod = pods[-1] if pods else None
        await self._ask_pod(run, pod, memory, now)
        if self._defaults.release_nodes:
            pods = await lost.ask(self._kube, run, pods, self._cache.pools, memory, now)
        answer = await self._evidence.ask(run, pods, memory)
        stop = run.status.termination
        nodes = await self._nodes(run, pods, memory, now)
        labels = await self._namespace_labels(run, job, nodes, memory, now)
        seen = Observed(
            run=run,
            now=now,
            wall=wall_clock(),
            track=memory.track,
            defaults=self._defaults,
            job=job,
            pods=pods,
            agent=memory.agent,
            verified=memory.verified,
            answer=answer,
            save_failing_seconds=_saving_seconds(run, pods, memory, now),
            phase_seconds=memory.phase.of((stop.phase, stop.attempt) if stop else None, now),
            nodes=nodes,
            node_seconds={
                node.uid: memory.nodes.setdefault(node.uid, Stopwatch()).of(node.phase, now)
                for node in run.status.nodes
            },
            gate_seconds=memory.gate_seconds(run, nodes, now),
            ending_runs=self._cache.ending_runs() if stop and stop.phase is Phase.RELEASING else frozenset(),
            pools=tuple(self._cache.pools.values()),
            namespace_labels=labels,
            namespace_ends=await self._namespace_ends(run, pods, job),
            problem=await self._preflight.problem(run, job, memory, now, labels),
            ended_before=memory.ended_before,
            log_tail=await self._log_tail(run, pod, memory),
            waiting_seconds=memory.waiting.of((pod.uid, workload.lacks(pod)) if pod else None, now),
            budget=await self._budget(run, job, memory, now),
        )
        proven = disruption.all_proven(seen)
        proven_seconds = memory.proven.of(proven, now)
        verdict = completion.inferred(seen)
        held = memory.candidate.of((verdict.actor, pod.uid) if verdict and pod else None, now)
        return replace(
            seen,
            proven_seconds=proven_seconds if proven else None,
            candidate_seconds=held if verdict is not None else None,
        )

    async def _know_pools(self, now: float) -> None:
        """No run is refused for, and no node recorded without, a pool that the watch has not brought yet, or has missed.

        Once they are known, a list that fails is no reason to look at no run.
        """
        if not self._defaults.release_nodes or now - self._cache.pools_at < self._relist_seconds:
            return
        async with self._listing_pools:
            if now - self._cache.pools_at < self._relist_seconds:
                return
            try:
                self._cache.put_pools(await self._kube.pools(), now)
            except KubeError as error:
                if not isfinite(self._cache.pools_at):
                    raise
                log.warning("GPUNodePools cannot be listed, those that are known are used: %s", error)
                self._cache.pools_at = now

    # -- children ----------------------------------------------------------------------------------------

    async def _children(self, run: Run, memory: Memory, now: float) -> tuple[tuple[Pod, ...], Job | None]:
        """From the watch while a run is on its way, but now and then, and in every stop, from the API server itself."""
        cached = self._cache.jobs.get(run.uid)
        recent = now - memory.children_at < self._relist_seconds
        if run.status.termination is None and not run.deleting and cached is not None and recent:
            return _own(run, list(self._cache.pods.get(run.uid, {}).values()), cached)
        pods, job = await self._read_children(run)
        self._cache.put_children(run.uid, pods, job)
        memory.children_at = now
        return _own(run, pods, job)

    async def _read_children(self, run: Run) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
        return await asyncio.gather(
            self._kube.pods_of(run.namespace, run.uid),
            self._kube.job(run.namespace, names.job_name(run.name)),
        )

    async def _budget(self, run: Run, job: Job | None, memory: Memory, now: float) -> str | None:
        """Read seldom: it is the operator's own, and is put up again should somebody take it away."""
        if job is None or names.FINALIZER not in run.finalizers:
            return None
        believed = self._relist_seconds if memory.budget is not None else BUDGET_RETRY_SECONDS
        if now - memory.budget_at >= believed:
            memory.budget, memory.budget_at = await self._read_budget(run), now
        return memory.budget

    async def _read_budget(self, run: Run) -> str | None:
        """Its uid; empty if there is none of ours; None if it cannot be read, which nothing else may wait for."""
        try:
            found = await self._kube.budget(run.namespace, manifests.budget_name(run.name))
        except KubeError as error:
            log.warning("%s: the disruption budget cannot be read: %s", run.key, error)
            return None
        ours = found is not None and (found["metadata"].get("labels") or {}).get(names.RUN_UID_LABEL) == run.uid
        return found["metadata"]["uid"] if found and ours else ""

    async def confirms(self, seen: Observed) -> bool:
        """Whether pods and Job are, in the API server itself, what a decision to end the run was made from."""
        stored, job = await self._read_children(seen.run)
        if _gist(*_own(seen.run, stored, job)) == _gist(seen.pods, seen.job):
            return True
        # An event was missed, or is still on its way: the next look must not see the same again.
        self._cache.put_children(seen.run.uid, stored, job)
        return False

    # -- the pod: metrics and agent ----------------------------------------------------------------------

    async def _ask_pod(self, run: Run, pod: Pod | None, memory: Memory, now: float) -> None:
        """Read the metrics when they are due, and the agent's report at every look."""
        if pod is None or pod.terminal or not pod.ip or pod.host_network:
            memory.agent = None
            return
        trains = pod.training is Training.RUNNING and run.status.termination is None
        due = trains and now >= memory.next_scrape
        looks = [self._report(pod)] if not due else [self._report(pod), self._scrape(run, pod, memory, now)]
        memory.agent, *_ = await asyncio.gather(*looks)

    async def _scrape(self, run: Run, pod: Pod, memory: Memory, now: float) -> None:
        metrics = run.spec.metrics
        memory.next_scrape = now + run.spec.poll_interval_seconds
        reading = await prometheus.scrape(
            self._session, f"http://{_host(pod.ip)}:{metrics.port}{metrics.path}", metrics.names
        )
        if memory.track == Track():
            memory.track = resumed(run.status.progress, pod_uid=pod.uid, now=now)
        memory.track = fold(memory.track, reading, pod_uid=pod.uid, now=now)

    async def _report(self, pod: Pod) -> AgentReport | None:
        """What the pod's agent says; None if it does not answer, or answers for another pod."""
        url = f"http://{_host(pod.ip)}:{names.AGENT_PORT}/progress"
        calls.count(Api.AGENT)
        try:
            async with self._session.get(
                url, timeout=aiohttp.ClientTimeout(total=AGENT_TIMEOUT_SECONDS), allow_redirects=False
            ) as answer:
                body = bytearray()
                async for chunk in answer.content.iter_any():
                    body += chunk
                    if len(body) > REPORT_MAX_BYTES:
                        return None
                report = AgentReport.model_validate_json(body) if answer.status == 200 else None  # noqa: PLR2004 - HTTP's OK
        except (aiohttp.ClientError, TimeoutError, OSError, ValidationError):
            return None
        return report if report is not None and report.pod_uid == pod.uid else None

    async def _log_tail(self, run: Run, pod: Pod | None, memory: Memory) -> str:
        if (
            pod is None
            or pod.training is not Training.EXITED
            or pod.exit_code == 0
            or run.status.termination is not None
        ):
            return ""
        if pod.uid not in memory.log_tails:
            container = manifests.main_container(run.spec)
            tail = await self._kube.log_tail(run.namespace, pod.name, container, lines=LOG_LINES, most_bytes=LOG_BYTES)
            memory.log_tails[pod.uid] = " | ".join(line.strip() for line in tail.splitlines() if line.strip())
        return memory.log_tails[pod.uid]

    # -- nodes -------------------------------------------------------------------------------------------

    async def _nodes(self, run: Run, pods: Sequence[Pod], memory: Memory, now: float) -> tuple[NodeFacts, ...]:
        """Identity of nodes that are in use; everything about them once they are to be released."""
        if not self._defaults.release_nodes:
            return ()
        stop = run.status.termination
        if stop is not None and stop.phase is Phase.RELEASING:
            waiting = unsettled(run.status.nodes)
            pools = self._cache.pools
            return tuple(
                await asyncio.gather(
                    *(gather(self._kube, run.uid, node, pools.get(node.pool), memory.provider_said) for node in waiting)
                )
            )
        if now - memory.identities_at >= self._relist_seconds:
            memory.identities, memory.identities_at = {}, now
        for pod in pods:
            unknown = pod.node and not pod.terminal and pod.uid not in memory.identities
            if unknown and (found := await identity(self._kube, pod.node)) is not None:
                memory.identities[pod.uid] = found
        gone = {pod.uid: fate.node for pod in pods if (fate := memory.fates.get(pod.uid)) and fate.node and pod.lost}
        known = memory.identities | gone
        return tuple({facts.uid: facts for pod in pods if (facts := known.get(pod.uid))}.values())

    async def _namespace_ends(self, run: Run, pods: Sequence[Pod], job: Job | None) -> bool:
        """Whether all that is in the run's namespace goes. Asked only where it makes a difference: its Job may go before the run itself."""
        stop, job_gone = run.status.termination, job is None and run.status.workload is not None
        if stop is None:
            matters = job_gone and not run.deleting
        else:
            matters = stop.phase in SAVING and (run.deleting or job_gone) and all(pod.terminal for pod in pods)
        return matters and await self._kube.namespace_ends(run.namespace)

    async def _namespace_labels(
        self, run: Run, job: Job | None, nodes: Sequence[NodeFacts], memory: Memory, now: float
    ) -> dict[str, str] | None:
        """Labels of the run's namespace, where a pool depends on them; None: not read, and no pool may be chosen by them.

        Read before the first Job and when a node is to be recorded; now and then while a node in use has no pool.
        """
        if all(pool.spec.namespace_selector is None for pool in self._cache.pools.values()):
            return None
        settled = {node.uid: node.pool != "" or node.phase is not NodePhase.IN_USE for node in run.status.nodes}
        present = {facts.uid for facts in nodes if facts.uid is not None}
        new = (job is None and run.status.termination is None) or not present <= settled.keys()
        if not new and all(settled[uid] for uid in present):
            return None
        if new or now - memory.namespace_labels_at >= self._relist_seconds:
            memory.namespace_labels = await self._kube.namespace_labels(run.namespace)
            memory.namespace_labels_at = now
        return memory.namespace_labels


def _own(run: Run, pods: list[dict[str, Any]], stored: dict[str, Any] | None) -> tuple[tuple[Pod, ...], Job | None]:
    """The run's Job, and the pods that this Job owns, oldest first: a label is anybody's to write."""
    job = Job.of(stored) if stored else None
    job = job if job is not None and job.run_uid == run.uid else None
    owners = {job.uid if job else None, run.status.workload.uid if run.status.workload else None} - {None}
    owned = [pod for pod in pods if _owners(pod) & owners and pod["metadata"]["namespace"] == run.namespace]
    owned.sort(key=lambda pod: (pod["metadata"].get("creationTimestamp", ""), pod["metadata"]["name"]))
    return tuple(Pod.of(pod) for pod in owned), job


def _owners(pod: dict[str, Any]) -> set[str]:
    return {owner["uid"] for owner in pod["metadata"].get("ownerReferences") or ()}


def _gist(pods: Sequence[Pod], job: Job | None) -> tuple[object, ...]:
    return (job.uid if job else None, *((pod.uid, pod.ip, pod.training, pod.exit_code) for pod in pods))


def _saving_seconds(run: Run, pods: Sequence[Pod], memory: Memory, now: float) -> float:
    request = asked(run, pods)
    return memory.saving.of(request[0], now) if request else 0


def _host(ip: str) -> str:
    return f"[{ip}]" if ":" in ip else ip
