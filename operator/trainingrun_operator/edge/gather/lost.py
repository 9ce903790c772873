"""Fates of silent pods: whether their node is unreachable and their machine is gone.

The pods of a dead node stay Running for minutes, then Terminating while its Node exists. A silent agent is no proof: a disconnected node may still
train. The provider's answer about the machine is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from trainingrun_operator.core.facts.gathered import Source
from trainingrun_operator.core.facts.nodes import Fate, Instance, NodeFacts, NodeRef
from trainingrun_operator.core.stop.transitions import pause
from trainingrun_operator.edge.gather.nodes import answers, machine

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from trainingrun_operator.core.facts.nodes import Pool
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.core.memory import Memory
    from trainingrun_operator.edge.ports import Providers, Reads

SILENT_SECONDS: Final = 5
"""Silence of an agent after which its node is checked."""
LOOK_SECONDS: Final = 5.0


async def ask(  # noqa: PLR0913 - the sources, the run and its memory
    kube: Reads,
    providers: Providers,
    run: Run,
    ranks: Sequence[Sequence[Pod]],
    pools: Mapping[str, Pool],
    memory: Memory,
    now: float,
    *,
    heard: Collection[int],
) -> tuple[Mapping[str, Fate], bool]:
    """Return the fates of silent pods by pod uid, and whether they were read now. Pods with an answering agent need no call.

    Args:
        kube: the API server.
        providers: of the pools.
        run: the run.
        ranks: its pods by rank, oldest first.
        pools: by name.
        memory: of the run.
        now: seconds on the monotonic clock.
        heard: ranks whose agents answered at this look.
    """
    suspects: list[Pod] = []
    silence = 0.0
    for number, group in enumerate(ranks):
        newest = group[-1] if group else None
        silent = memory.rank(number).silent(newest, now, heard=number in heard).seconds(now)
        unheard = number not in heard and silent >= SILENT_SECONDS
        own = [pod for pod in group if pod.node and not pod.terminal and (unheard or pod is not newest)]
        suspects, silence = suspects + own, max(silence, silent if own else 0.0)
    if not suspects:
        return {}, False
    if memory.age(Source.FATES, now) < pause(silence, LOOK_SECONDS):
        return memory.fates, False
    return {pod.uid: await _fate(kube, providers, run, pod, pools) for pod in suspects}, True


def with_fates(pods: Sequence[Pod], fates: Mapping[str, Fate]) -> tuple[Pod, ...]:
    """Return the pods with `unreachable` and `lost` set from their fates."""
    known = ((pod, fates.get(pod.uid)) for pod in pods)
    return tuple(
        pod if fate is None else replace(pod, unreachable=fate.unreachable, lost=fate.lost) for pod, fate in known
    )


async def _fate(kube: Reads, providers: Providers, run: Run, pod: Pod, pools: Mapping[str, Pool]) -> Fate:
    found = await kube.node(pod.node)
    if found is not None and answers(found):
        return Fate()
    uid = found["metadata"]["uid"] if found is not None else None
    recorded = [node for node in run.status.nodes if node.name == pod.node and uid in (None, node.uid)]
    pool = pools.get(recorded[-1].pool) if recorded else None
    if pool is None:
        return Fate(unreachable=True)
    known = recorded[-1]
    instance, _, refusal = await machine(providers, pool, NodeRef(known.name, known.uid, known.provider_id))
    facts = NodeFacts(known.name, uid, known.provider_id, instance=instance, refusal=refusal)
    return Fate(unreachable=True, lost=instance is Instance.GONE, node=facts)
