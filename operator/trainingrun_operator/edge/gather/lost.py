"""Silent pods: whether their node is lost, and their machine with it.

A node that dies leaves its pods as they were: Running for minutes, then Terminating for as long as its Node is there. Silence alone proves nothing: a node that
is only cut off may still train. What the provider says of the machine does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from trainingrun_operator.core.facts.gathered import Source
from trainingrun_operator.core.facts.nodes import Fate, Instance, NodeFacts, NodeRef
from trainingrun_operator.core.memory import silence
from trainingrun_operator.core.stop.transitions import pause
from trainingrun_operator.edge.gather.nodes import answers, machine

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
    pods: Sequence[Pod],
    pools: Mapping[str, Pool],
    memory: Memory,
    now: float,
    *,
    heard: bool,
) -> tuple[Mapping[str, Fate], bool]:
    """Return the fates of silent pods by pod uid, and whether they were asked for now. Pods that are heard of cost no call."""
    newest = pods[-1] if pods else None
    silent = silence(memory, newest, now, heard=heard).seconds(now)
    unheard = not heard and silent >= SILENT_SECONDS
    suspects = [pod for pod in pods if pod.node and not pod.terminal and (unheard or pod is not newest)]
    if not suspects:
        return {}, False
    if memory.age(Source.FATES, now) < pause(silent, LOOK_SECONDS):
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
