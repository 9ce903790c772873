"""Silent pods: whether their node is lost, and their machine with it.

A node that dies leaves its pods as they were: Running for minutes, then Terminating for as long as its Node is there. Silence alone proves nothing: a node that
is only cut off may still train. What the provider says of the machine does.
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
"""An agent that says nothing for so long is worth a look at its node."""
LOOK_SECONDS: Final = 5.0


async def ask(  # noqa: PLR0913 - whom to ask, what about, and what is known
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
    """Return the fates of silent pods by pod uid, and whether they were asked for now. Pods that are heard of cost no call.

    Args:
        kube: the API server.
        providers: of the pools.
        run: the run.
        ranks: its pods by rank, oldest first.
        pools: by name.
        memory: of the run.
        now: seconds on the monotonic clock.
        heard: ranks whose agents have answered at this look.
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
    """Say of each pod whether its node, and its machine, are lost."""
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
