"""Gathers one `Observed`: the run, its children, its metrics, its agent, the bucket, its nodes. Reads only.

What a look costs depends on where the run stands: a training run costs its scrape; a stop in progress reads pods and Job from the API server
itself, because deletions hang on them.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from pydantic import ValidationError

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import AgentReport
from trainingrun_operator.api.manifest import Layout
from trainingrun_operator.api.run import CheckpointMode, NodePhase, Phase
from trainingrun_operator.core import acceptance, children, completion
from trainingrun_operator.core.observed import (
    Job,
    Mismatch,
    Observed,
    Pod,
    Problem,
    Run,
    Training,
    Unreachable,
    Verified,
)
from trainingrun_operator.core.track import fold
from trainingrun_operator.edge.kube import KubeError
from trainingrun_operator.edge.memory import Stopwatch
from trainingrun_operator.edge.metrics import prometheus
from trainingrun_operator.edge.nodes.facts import gather, identity
from trainingrun_operator.edge.s3 import Access

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainingrun_operator.api.manifest import Commit
    from trainingrun_operator.api.run import TrainingRunSpec
    from trainingrun_operator.core.observed import Answer, Defaults, NodeFacts
    from trainingrun_operator.edge.cache import Cache
    from trainingrun_operator.edge.kube import Kube
    from trainingrun_operator.edge.memory import Memory
    from trainingrun_operator.edge.store import Store

AGENT_TIMEOUT_SECONDS: Final = 3
REPORT_MAX_BYTES: Final = 256 * 1024
LOG_LINES: Final = 5
PROOF_SECONDS: Final = 300
LOG_BYTES: Final = 1000

_SAVING: Final = frozenset({Phase.SAVING, Phase.HELD, Phase.VERIFYING})


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
    ) -> None:
        self._kube, self._store, self._session = kube, store, session
        self._cache, self._defaults = cache, defaults
        self._recheck_seconds = recheck_seconds

    async def observe(self, stored: dict[str, Any], memory: Memory) -> Observed:
        """Take one look at a run.

        Raises:
            KubeError: the API server could not be asked.
            pydantic.ValidationError: the stored run is not one that this version understands.
        """
        run = Run.of(stored)
        now = time.monotonic()
        pods, job = await self._children(run, memory)
        pod = pods[-1] if pods else None
        await self._ask_pod(run, pod, memory, now)
        answer = await self._ask_bucket(run, pods, memory)
        stop = run.status.termination
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
            nodes=await self._nodes(run, pods, memory),
            node_seconds={
                node.uid: memory.nodes.setdefault(node.uid, Stopwatch()).of(node.phase, now)
                for node in run.status.nodes
            },
            ending_runs=self._cache.ending_runs() if stop and stop.phase is Phase.RELEASING else frozenset(),
            pools=tuple(self._cache.pools.values()),
            problem=await self._problem(run, job, memory, now),
            log_tail=await self._log_tail(run, pod, memory),
            waiting_seconds=memory.waiting.of(
                (pod.uid, pod.waiting_reason in completion.CANNOT_START) if pod else None, now
            ),
        )
        verdict = completion.inferred(seen)
        held = memory.candidate.of((verdict.actor, pod.uid) if verdict and pod else None, now)
        return seen if verdict is None else replace(seen, candidate_seconds=held)

    # -- children ----------------------------------------------------------------------------------------

    async def _children(self, run: Run, memory: Memory) -> tuple[tuple[Pod, ...], Job | None]:
        """From the API server while a stop is in progress or the Job is not known, else from the watch."""
        cached = self._cache.jobs.get(run.uid)
        if run.status.termination is None and not run.deleting and cached is not None:
            stored, raw = list(self._cache.pods.get(run.uid, {}).values()), cached
        else:
            stored, found = await asyncio.gather(
                self._kube.pods_of(run.namespace, run.uid),
                self._kube.job(run.namespace, names.job_name(run.name)),
            )
            raw = found or {}
        job = Job.of(raw) if raw else None
        memory.created_job = memory.created_job and job is None
        stored.sort(key=lambda pod: (pod["metadata"].get("creationTimestamp", ""), pod["metadata"]["name"]))
        return tuple(Pod.of(pod) for pod in stored), job if job is not None and job.run_uid == run.uid else None

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
        memory.track = fold(memory.track, reading, pod_uid=pod.uid, now=now)

    async def _report(self, pod: Pod) -> AgentReport | None:
        """What the pod's agent says; None if it does not answer, or answers for another pod."""
        url = f"http://{_host(pod.ip)}:{names.AGENT_PORT}/progress"
        try:
            async with self._session.get(
                url, timeout=aiohttp.ClientTimeout(total=AGENT_TIMEOUT_SECONDS), allow_redirects=False
            ) as answer:
                body = await answer.content.read(REPORT_MAX_BYTES)
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
            container = children.main_container(run.spec)
            tail = await self._kube.log_tail(run.namespace, pod.name, container, lines=LOG_LINES, most_bytes=LOG_BYTES)
            memory.log_tails[pod.uid] = " | ".join(line.strip() for line in tail.splitlines() if line.strip())
        return memory.log_tails[pod.uid]

    # -- the bucket --------------------------------------------------------------------------------------

    async def _ask_bucket(self, run: Run, pods: Sequence[Pod], memory: Memory) -> Answer | None:
        """What the bucket says to the save request in hand; on the way, the newest verified commit is remembered."""
        stop = run.status.termination
        if run.spec.checkpoint.mode is CheckpointMode.DISABLED or (
            stop is not None and stop.phase in (Phase.REQUESTED, Phase.RELEASING, Phase.DONE)
        ):
            return None
        access = await self._access(run)
        if isinstance(access, Problem):
            return Unreachable(access.reason, access.message)
        layout = Layout.of(run.spec.checkpoint.destination or "", run.namespace, run.name, run.uid)
        if wanted := _wanted(run, pods):
            # Deletion rests on what Verifying reads: all of it, now. Before that a recent proof will do.
            fresh = stop is not None and stop.phase is Phase.VERIFYING
            answer = await self._store.find(access, layout, wanted, max_age_seconds=0 if fresh else PROOF_SECONDS)
            _remember(memory, answer)
            holds = any(pod.training is not Training.NOT_STARTED for pod in pods if not pod.terminal)
            return answer if answer is not None or holds else await self._newest(access, layout, memory)
        if stop is not None and stop.phase is Phase.DELETING and not pods:
            return await self._newest(access, layout, memory)
        return await self._new_commit(access, layout, memory)

    async def _newest(self, access: Access, layout: Layout, memory: Memory) -> Answer | None:
        """Whatever the bucket has, once no pod can add to it. Only a failure to read it is an answer."""
        found = await self._store.find(access, layout, lambda _: True, fall_back=True)
        _remember(memory, found)
        return found if isinstance(found, Unreachable) else None

    async def _new_commit(self, access: Access, layout: Layout, memory: Memory) -> Answer | None:
        """Verify a checkpoint that the agent says it has shipped while the training goes on."""
        commit = memory.agent.commit if memory.agent is not None else None
        known = memory.verified.key if memory.verified is not None else ""
        if commit is None or commit.key in (known, memory.unverifiable) or not layout.owns(commit.key):
            return None
        found = await self._store.verify(access, layout, commit.key)
        _remember(memory, found)
        if isinstance(found, Mismatch):
            memory.unverifiable = commit.key
        return None if isinstance(found, Verified) else found

    async def _access(self, run: Run) -> Access | Problem:
        s3 = run.spec.checkpoint.s3
        secret = await self._kube.secret(run.namespace, s3.credentials_secret_name)
        return access_of(run.spec, secret)

    # -- before the first Job ----------------------------------------------------------------------------

    async def _problem(self, run: Run, job: Job | None, memory: Memory, now: float) -> Problem | None:
        """Why nothing can be created yet; looked at again every so often, and whenever the spec has changed."""
        if job is not None or run.status.termination is not None or run.status.workload is not None or run.deleting:
            return None
        if (
            memory.problem is not None
            and run.generation == memory.problem_generation
            and now - memory.problem_at < self._recheck_seconds
        ):
            return memory.problem
        memory.problem, memory.problem_at, memory.problem_generation = (
            await self._look_for_problem(run),
            now,
            run.generation,
        )
        return memory.problem

    async def _look_for_problem(self, run: Run) -> Problem | None:
        if found := acceptance.complaint(run, tuple(self._cache.pools.values())):
            return found
        if run.spec.checkpoint.mode is not CheckpointMode.DISABLED:
            access = await self._access(run)
            if isinstance(access, Problem):
                return access
            layout = Layout.of(run.spec.checkpoint.destination or "", run.namespace, run.name, run.uid)
            if (refusal := await self._store.probe(access, layout)) is not None:
                return Problem(refusal.code, refusal.message, permanent=False)
        return await self._dry_run(run)

    async def _dry_run(self, run: Run) -> Problem | None:
        try:
            await self._kube.create_job(children.job(run, self._defaults), dry_run=True)
        except KubeError as error:
            if error.exists:
                return await self._name_taken(run)
            if error.status in (400, 403, 422):
                return Problem(
                    "InvalidTemplate", f"The API server refuses the Job that spec.template makes: {error.message}"
                )
            raise
        return None

    async def _name_taken(self, run: Run) -> Problem | None:
        found = await self._kube.job(run.namespace, names.job_name(run.name))
        if found is None or Job.of(found).run_uid == run.uid:
            return None
        return Problem(
            "JobNameTaken",
            f"There is a Job {run.name!r} already, and it is not this run's: delete it, or give the run another name.",
            permanent=False,
        )

    # -- nodes -------------------------------------------------------------------------------------------

    async def _nodes(self, run: Run, pods: Sequence[Pod], memory: Memory) -> tuple[NodeFacts, ...]:
        """Identity of nodes that are in use; everything about them once they are to be released."""
        stop = run.status.termination
        if stop is not None and stop.phase is Phase.RELEASING:
            waiting = [node for node in run.status.nodes if node.phase not in (NodePhase.RELEASED, NodePhase.RETAINED)]
            pools = self._cache.pools
            return tuple(
                await asyncio.gather(
                    *(gather(self._kube, run.uid, node, pools.get(node.pool), memory.provider_said) for node in waiting)
                )
            )
        used = {pod.node for pod in pods if pod.node and not pod.terminal}
        for name in used - memory.identities.keys():
            if (found := await identity(self._kube, name)) is not None:
                memory.identities[name] = found
        return tuple(memory.identities[name] for name in sorted(used) if name in memory.identities)


def access_of(spec: TrainingRunSpec, secret: dict[str, bytes] | None) -> Access | Problem:
    """Read the credentials out of the run's Secret, or say what is missing in it."""
    s3 = spec.checkpoint.s3
    name = s3.credentials_secret_name
    if secret is None:
        return Problem(
            "SecretNotFound",
            f"spec.checkpoint.s3.credentialsSecretName is {name!r}, but there is no such Secret in this namespace.",
            permanent=False,
        )
    missing = [key for key, optional in children.CREDENTIALS if not optional and not secret.get(key)]
    if missing:
        return Problem("SecretIncomplete", f"Secret {name!r} has no {' and no '.join(missing)}.", permanent=False)
    text = {key: value.decode(errors="replace").strip() for key, value in secret.items()}
    return Access(
        endpoint_url=s3.endpoint_url,
        region=s3.region,
        access_key=text["AWS_ACCESS_KEY_ID"],
        secret_key=text["AWS_SECRET_ACCESS_KEY"],
        session_token=text.get("AWS_SESSION_TOKEN", ""),
        ca_pem=text.get("ca.crt", ""),
    )


def _wanted(run: Run, pods: Sequence[Pod]) -> Any:
    """Which commit answers the request in hand; None if nothing is asked for."""
    stop = run.status.termination
    if stop is not None:
        asked = (stop.id, stop.attempt) if stop.phase in _SAVING else None
    else:
        pod = pods[-1] if pods else None
        crashed = pod is not None and not pod.terminal and pod.save is not None and not pod.released
        asked = (pod.save.id, pod.save.attempt) if crashed and pod is not None and pod.save is not None else None
    if asked is None:
        return None

    def matches(commit: Commit) -> bool:
        return (commit.termination_id, commit.attempt) == asked

    return matches


def _remember(memory: Memory, found: Answer | None) -> None:
    if isinstance(found, Verified) and (memory.verified is None or found.commit.order >= memory.verified.commit.order):
        memory.verified = found


def _saving_seconds(run: Run, pods: Sequence[Pod], memory: Memory, now: float) -> float:
    stop = run.status.termination
    if stop is not None:
        return memory.saving.of(stop.id, now) if stop.phase in _SAVING else 0
    pod = pods[-1] if pods else None
    crashed = pod is not None and pod.save is not None and not pod.released
    return memory.saving.of(pod.uid, now) if crashed and pod is not None else 0


def _host(ip: str) -> str:
    return f"[{ip}]" if ":" in ip else ip
