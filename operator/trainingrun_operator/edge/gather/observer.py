"""One look at a run: gather the facts, fold them into the memory.

Gathering only reads; the memory says what is due. A look at a training run costs its scrape. A stop in progress reads pods and Job from the API
server, because deletions depend on them.
"""

from __future__ import annotations

import asyncio
import logging
from math import isfinite
from typing import TYPE_CHECKING, Any, Final

from trainingrun_operator.api import names
from trainingrun_operator.api.status import NodePhase, Phase
from trainingrun_operator.core import idle
from trainingrun_operator.core.facts.gathered import Facts, Source
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.facts.rank import RefusedReport, by_rank
from trainingrun_operator.core.facts.run import Run
from trainingrun_operator.core.memory import remember
from trainingrun_operator.core.release import unsettled
from trainingrun_operator.core.stop import rescue
from trainingrun_operator.core.stop.requests import SAVING, rescues_late
from trainingrun_operator.edge import waits
from trainingrun_operator.edge.clock import SystemClock
from trainingrun_operator.edge.gather import logs, lost, workload
from trainingrun_operator.edge.gather.bucket import BucketReader
from trainingrun_operator.edge.gather.nodes import gather, identity
from trainingrun_operator.edge.gather.owners import Owners
from trainingrun_operator.edge.gather.preflight import Preflight
from trainingrun_operator.edge.gather.printed import PrintedLines
from trainingrun_operator.edge.gather.proofs import QUIET_SECONDS
from trainingrun_operator.edge.gather.rescue import RescueReader
from trainingrun_operator.edge.gather.waiting import WaitingPods
from trainingrun_operator.edge.kube import KubeError
from trainingrun_operator.edge.workloads import Workloads

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from trainingrun_operator.api.exchange import AgentReport
    from trainingrun_operator.core.defaults import Defaults
    from trainingrun_operator.core.facts.gpus import Gpus
    from trainingrun_operator.core.facts.nodes import Fate, NodeFacts
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.facts.reading import Failure, Reading
    from trainingrun_operator.core.facts.workload import Workload
    from trainingrun_operator.core.memory import Memory
    from trainingrun_operator.core.observed import Observed
    from trainingrun_operator.edge.cache import Cache
    from trainingrun_operator.edge.clock import Clock
    from trainingrun_operator.edge.ports import BucketStore, GpuReader, Pages, Providers, Reads

Json = dict[str, Any]

DISRUPTION_BUDGET_RETRY_SECONDS: Final = 10

log = logging.getLogger(__name__)


def _needs_reading(run: Run, memory: Memory) -> bool:
    """Whether the metrics may decide anything: all do before a stop; in a stop, only whether a step was ever made (`core.stop.nothing`)."""
    stop = run.status.termination
    if stop is None:
        return True
    stepped = run.status.progress is not None or memory.rank(0).track.advanced
    return not stepped and stop.phase in (Phase.DRAINING, Phase.SAVING, Phase.HELD)


class Observer:
    """Observes runs."""

    def __init__(  # noqa: PLR0913 - the sources, each by its name
        self,
        kube: Reads,
        store: BucketStore,
        pages: Pages,
        cache: Cache,
        defaults: Defaults,
        *,
        providers: Providers,
        recheck_seconds: float,
        relist_seconds: float,
        clock: Clock | None = None,
        wake: Callable[[str], None] = lambda _: None,
        gpus: GpuReader | None = None,
        quiet_seconds: float = QUIET_SECONDS,
    ) -> None:
        self._kube, self._pages, self._cache, self._defaults = kube, pages, cache, defaults
        self._providers, self._clock, self._gpus = providers, clock or SystemClock(), gpus
        self._workloads = Workloads(kube)
        self._waiting_pods = WaitingPods(kube, cache)
        self._owners = Owners(kube, cache)
        self._relist_seconds = relist_seconds
        self._listing_pools = asyncio.Lock()
        self._bucket_reader = BucketReader(
            kube, store, defaults.allowed_destinations, wake=wake, quiet_seconds=quiet_seconds
        )
        self._preflight = Preflight(self._workloads, store, self._bucket_reader, cache, defaults, recheck_seconds)
        self._printed = PrintedLines(kube)
        self._rescue = RescueReader(kube, pages, reads_nodes=defaults.release_nodes)
        self._parsed: dict[str, tuple[Json, Run]] = {}
        """By uid, the stored and the parsed run."""

    async def observe(self, stored: Json, memory: Memory) -> tuple[Memory, Observed]:
        """Look at a run once. Returns its new memory and the observation.

        Raises:
            KubeError: the API server refused or did not answer.
            pydantic.ValidationError: this version does not understand the stored run.
            ProvingError: a proof that a deletion depends on is still being made; the run is woken when it ends.
        """
        if not memory.read_at and not (stored.get("status") or {}).get("termination"):
            await self._cache.listed.wait()
        now = self._clock.monotonic()
        return remember(memory, await self.gather(stored, memory, now), now)

    async def confirms(self, seen: Observed) -> bool:
        """Return whether the API server still has the pods and Job of a decision to end the run."""
        return await workload.confirms(self._kube, self._workloads.of(seen.run), seen, self._cache)

    def forget(self, uid: str) -> None:
        """Drop everything about a run that is gone."""
        self._parsed.pop(uid, None)
        self._bucket_reader.forget(uid)

    def forget_all(self) -> None:
        """Drop everything: another process observes the runs."""
        self._parsed.clear()
        self._printed.forget_all()
        self._bucket_reader.forget_all()

    async def close(self) -> None:
        """End what is made beside the looks."""
        await self._bucket_reader.close()

    async def gather(self, stored: Json, memory: Memory, now: float) -> Facts:
        """Read the facts about the run that are due at `now`.

        Raises:
            KubeError: the API server refused or did not answer.
            pydantic.ValidationError: this version does not understand the stored run.
            ProvingError: a proof that a deletion depends on is still being made; the run is woken when it ends.
        """
        run, wall, read = self._run(stored), self._clock.wall(), set[Source]()
        await self._know_pools(now)
        pods, owner = await self._children(run, memory, now, read)
        ranks = by_rank(pods, owner.world_size if owner is not None else None)
        (answers, readings), gpus = await asyncio.gather(
            self._ask_pods(run, ranks, memory, now), self._read_gpus(run, ranks)
        )
        reports = {rank: one for rank, one in answers.items() if not isinstance(one, RefusedReport)}
        fates = await self._fates(run, ranks, memory, now, read, heard=reports.keys())
        pods = lost.with_fates(pods, fates)
        said = await self._bucket_reader.ask(run, pods, reports, memory)
        looked = await self._bucket_reader.look_for(run, ranks, memory, wall, now)
        identities, nodes = await self._nodes(run, pods, fates, memory, now, read)
        labels = await self._namespace_labels(run, owner, nodes, memory, now, read)
        ends = await self._namespace_ends(run, pods, owner)
        checked = await self._preflight.check(run, owner, memory, now, labels)
        if checked.read:
            read.add(Source.PREFLIGHT)
        # After the numbers: what was printed before them has its step by then.
        printed = await self._printed.read(run, ranks[0][-1], wall, now) if 0 in readings else None
        log_tails, log_searches = await logs.of_crashed(self._kube, run, ranks, memory)
        return Facts(
            run=run,
            wall=wall,
            defaults=self._defaults,
            pools=tuple(self._cache.pools.values()),
            workload=owner,
            pods=pods,
            reports=reports,
            refused={rank: one for rank, one in answers.items() if isinstance(one, RefusedReport)},
            readings=readings,
            gpus=gpus,
            fates=fates,
            answer=said.answer,
            verified=said.verified,
            unverifiable=said.unverifiable,
            refuted=said.refuted,
            looked=looked,
            identities=identities,
            nodes=nodes,
            ending_runs=self._cache.ending_runs() if rescue.releases(run.status.termination) else frozenset(),
            namespace_labels=labels,
            namespace_ends=ends,
            problem=checked.problem,
            ended_before=checked.ended_before,
            origin=checked.origin,
            log_tails=log_tails,
            log_searches=log_searches,
            printed=printed,
            disruption_budget=await self._disruption_budget(run, owner, memory, now, read),
            rescue=await self._rescue.look(run, pods),
            read=frozenset(read),
        )

    def _run(self, stored: Json) -> Run:
        """Parse a run; the same stored object is parsed once."""
        uid = stored["metadata"]["uid"]
        known = self._parsed.get(uid)
        if known is None or known[0] is not stored:
            known = self._parsed[uid] = (stored, Run.of(stored))
        return known[1]

    async def _know_pools(self, now: float) -> None:
        """List the pools if the last list is too old: the watch may be late or have missed one.

        If a later list fails, the known pools are used.
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
                log.warning("cannot list GPUNodePools, using the known ones: %s", error)
                self._cache.pools_at = now

    # -- workload ----------------------------------------------------------------------------------------

    async def _children(self, run: Run, memory: Memory, now: float, read: set[Source]) -> workload.Children:
        """Return pods and workload: from the watch, or at intervals and in every stop from the API server.

        A first look takes what the watch's first lists have just brought: the same answers of the API server, in fewer requests.
        """
        recent = run.uid in self._cache.jobs and memory.age(Source.CHILDREN, now) < self._relist_seconds
        if not recent:
            read.add(Source.CHILDREN)
            recent = not memory.read_at and self._cache.lists_children(run.uid)
        if run.status.termination is None and not run.deleting and recent:
            return workload.watched(self._workloads.of(run), run, self._cache)
        read.add(Source.CHILDREN)
        return await workload.read(self._kube, self._workloads.of(run), run, self._cache)

    async def _disruption_budget(
        self, run: Run, owner: Workload | None, memory: Memory, now: float, read: set[Source]
    ) -> str | None:
        """Return the disruption budget's uid; None: not known. Read at long intervals: only the operator changes it."""
        if owner is None or names.FINALIZER not in run.finalizers:
            return None
        if not memory.read_at and run.status.termination is None:
            # The first look after a start: other runs wait for theirs, and the next look at this one reads it.
            return None
        believed = self._relist_seconds if memory.disruption_budget is not None else DISRUPTION_BUDGET_RETRY_SECONDS
        if memory.age(Source.DISRUPTION_BUDGET, now) < believed:
            return memory.disruption_budget
        read.add(Source.DISRUPTION_BUDGET)
        return await workload.disruption_budget(self._kube, run)

    # -- the newest pod of each rank ---------------------------------------------------------------------

    async def _ask_pods(
        self, run: Run, ranks: Sequence[Sequence[Pod]], memory: Memory, now: float
    ) -> tuple[dict[int, AgentReport | RefusedReport], dict[int, Reading | Failure]]:
        """Read the agents' reports, and the metrics if they are due."""
        pods = {rank: group[-1] for rank, group in enumerate(ranks) if group and group[-1].answers}
        due = now >= memory.next_reading_at and _needs_reading(run, memory)
        trains = {rank: pod for rank, pod in pods.items() if due and pod.training is Training.RUNNING}
        if not pods:
            return {}, {}
        others = {rank: pod for rank, pod in pods.items() if rank not in trains}
        with waits.for_tenant():
            polled, reports = await asyncio.gather(
                asyncio.gather(*(self._pages.poll(run, pod) for pod in trains.values())),
                asyncio.gather(*(self._pages.report(pod) for pod in others.values())),
            )
        said = dict(zip(others, reports, strict=True))
        said |= {rank: report for rank, (report, _) in zip(trains, polled, strict=True)}
        answered = {rank: one for rank in pods if (one := said[rank]) is not None}
        return answered, {rank: reading for rank, (_, reading) in zip(trains, polled, strict=True)}

    async def _read_gpus(self, run: Run, ranks: Sequence[Sequence[Pod]]) -> dict[int, Gpus | Failure]:
        """Read the GPUs of the pods whose training runs; nothing once a stop is decided."""
        reader = self._gpus
        if reader is None or run.status.termination is not None or not idle.is_wanted(run.spec, self._defaults):
            return {}
        newest = {rank: group[-1] for rank, group in enumerate(ranks) if group}
        trains = {rank: pod for rank, pod in newest.items() if pod.training is Training.RUNNING and not pod.lost}
        read = await asyncio.gather(*(reader.of(run.namespace, pod.name) for pod in trains.values()))
        return dict(zip(trains, read, strict=True))

    async def _fates(
        self,
        run: Run,
        ranks: Sequence[Sequence[Pod]],
        memory: Memory,
        now: float,
        read: set[Source],
        *,
        heard: Collection[int],
    ) -> Mapping[str, Fate]:
        if not self._defaults.release_nodes:
            return {}
        pools = self._cache.pools
        fates, asked = await lost.ask(self._kube, self._providers, run, ranks, pools, memory, now, heard=heard)
        if asked:
            read.add(Source.FATES)
        return fates

    # -- nodes and namespace -----------------------------------------------------------------------------

    async def _nodes(
        self,
        run: Run,
        pods: Sequence[Pod],
        fates: Mapping[str, Fate],
        memory: Memory,
        now: float,
        read: set[Source],
    ) -> tuple[Mapping[str, NodeFacts], tuple[NodeFacts, ...]]:
        """Return the identities of nodes in use, or all facts of nodes in release."""
        if not self._defaults.release_nodes:
            return memory.identities, ()
        stop = run.status.termination
        if rescue.releases(stop):
            waiting, pools = unsettled(run.status.nodes), self._cache.pools
            asked = (
                gather(self._kube, self._providers, self._waiting_pods, run.uid, node, pools.get(node.pool))
                for node in waiting
            )
            released = [await self._owners.marked(run.uid, facts) for facts in await asyncio.gather(*asked)]
            return memory.identities, tuple(released)
        known = dict(memory.identities)
        if memory.age(Source.IDENTITIES, now) >= self._relist_seconds:
            known.clear()
            read.add(Source.IDENTITIES)
        for pod in pods:
            unknown = pod.node and not pod.terminal and pod.uid not in known
            if unknown and (found := await identity(self._kube, pod.node)) is not None:
                known[pod.uid] = found
        gone = {pod.uid: fate.node for pod in pods if pod.lost and (fate := fates.get(pod.uid)) and fate.node}
        there = known | gone
        return known, tuple({facts.uid: facts for pod in pods if (facts := there.get(pod.uid))}.values())

    async def _namespace_ends(self, run: Run, pods: Sequence[Pod], owner: Workload | None) -> bool:
        """Return whether the run's namespace is being deleted. Read only where it matters: the Job may be deleted before the run."""
        stop, gone = run.status.termination, owner is None and run.status.workload is not None
        if stop is None:
            matters = gone and not run.deleting
        else:
            matters = (
                (stop.phase in SAVING or rescues_late(stop))
                and (run.deleting or gone)
                and all(pod.terminal for pod in pods)
            )
        return matters and await self._kube.namespace_ends(run.namespace)

    async def _namespace_labels(
        self,
        run: Run,
        owner: Workload | None,
        nodes: Sequence[NodeFacts],
        memory: Memory,
        now: float,
        read: set[Source],
    ) -> Mapping[str, str] | None:
        """Return the labels of the run's namespace if a pool selects by them; None: not read.

        Read before the first Job, for a new node, and at intervals while a node in use has no pool, or one that does not exist.
        """
        pools = self._cache.pools
        if all(pool.spec.namespace_selector is None for pool in pools.values()):
            return None
        settled = {node.uid: node.pool in pools or node.phase is not NodePhase.IN_USE for node in run.status.nodes}
        present = {facts.uid for facts in nodes if facts.uid is not None}
        new = (owner is None and run.status.termination is None) or not present <= settled.keys()
        if not new and all(settled[uid] for uid in present):
            return None
        if not new and memory.age(Source.NAMESPACE, now) < self._relist_seconds:
            return memory.namespace_labels
        read.add(Source.NAMESPACE)
        return await self._kube.namespace_labels(run.namespace)
