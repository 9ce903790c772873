"""Pods from which nothing is heard: whether their node is lost, and their machine with it.

A node that dies leaves its pods as they were: Running for minutes, then Terminating for as long as its Node is there. Silence alone proves nothing: a node that
is only cut off may still train. What the provider says of the machine does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from trainingrun_operator.core.facts.nodes import Instance, NodeFacts
from trainingrun_operator.core.stop.transitions import pause
from trainingrun_operator.edge.gather.nodes import answers, machine

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trainingrun_operator.core.facts.nodes import Pool
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.edge.kube import Kube
    from trainingrun_operator.edge.memory import Memory

SILENT_SECONDS: Final = 5
"""An agent that says nothing for so long is worth a look at its node."""
LOOK_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Fate:
    """What became of a pod from which nothing is heard."""

    unreachable: bool = False
    lost: bool = False
    node: NodeFacts | None = None
    """Its node as it is now, if it is unreachable and was recorded."""


async def ask(
    kube: Kube, run: Run, pods: Sequence[Pod], pools: Mapping[str, Pool], memory: Memory, now: float
) -> tuple[Pod, ...]:
    """Say of each pod whether its node, and its machine, are lost. Pods that are heard of cost no call."""
    newest = pods[-1] if pods else None
    silent = memory.silence.of((newest.uid, memory.agent is None) if newest else None, now)
    unheard = memory.agent is None and silent >= SILENT_SECONDS
    suspects = [pod for pod in pods if pod.node and not pod.terminal and (unheard or pod is not newest)]
    if not suspects:
        memory.fates = {}
    elif now - memory.fates_at >= pause(silent, LOOK_SECONDS):
        memory.fates, memory.fates_at = {pod.uid: await _fate(kube, run, pod, pools) for pod in suspects}, now
    fates = {pod.uid: memory.fates.get(pod.uid, Fate()) for pod in pods}
    return tuple(replace(pod, unreachable=fates[pod.uid].unreachable, lost=fates[pod.uid].lost) for pod in pods)


async def _fate(kube: Kube, run: Run, pod: Pod, pools: Mapping[str, Pool]) -> Fate:
    found = await kube.node(pod.node)
    if found is not None and answers(found):
        return Fate()
    uid = found["metadata"]["uid"] if found is not None else None
    recorded = [node for node in run.status.nodes if node.name == pod.node and uid in (None, node.uid)]
    pool = pools.get(recorded[-1].pool) if recorded else None
    if pool is None:
        return Fate(unreachable=True)
    known = recorded[-1]
    instance, _, problem = await machine(pool, known.provider_id)
    facts = NodeFacts(known.name, uid, known.provider_id, instance=instance, problem=problem)
    return Fate(unreachable=True, lost=instance is Instance.GONE, node=facts)
