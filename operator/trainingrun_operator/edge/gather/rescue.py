"""Reads of a rescue: the volume with the files of dead pods, the Node that it is on, the rescue Job and its agent."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trainingrun_operator.api import names
from trainingrun_operator.core.facts.pod import Pod, Training
from trainingrun_operator.core.facts.rank import RefusedReport
from trainingrun_operator.core.facts.rescue import Claim, RescueFacts, RescueJob, bound_to
from trainingrun_operator.core.stop import rescue
from trainingrun_operator.edge.gather.nodes import answers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainingrun_operator.api.exchange import AgentReport
    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.edge.ports import Pages, Reads

Json = dict[str, Any]


@dataclass(frozen=True)
class RescueReader:
    """Reads what a rescue depends on."""

    kube: Reads
    pages: Pages
    reads_nodes: bool
    """Whether the operator may read Nodes and PersistentVolumes. If not, the scheduler alone knows where the volume can be mounted."""

    async def look(self, run: Run, pods: Sequence[Pod]) -> RescueFacts | None:
        """Return the facts; None: no rescue is to be decided or in progress.

        Raises:
            KubeError: the API server refused or did not answer.
        """
        stop, volume = run.status.termination, rescue.volume_to_read(run, pods)
        if stop is None or volume is None:
            return None
        name = volume.claim
        claim = Claim.of(name, await self.kube.claim(run.namespace, name)) if name else None
        last = _last_node(run, pods)
        home, other = await self._home(run, last)
        stored = await self.kube.job(run.namespace, names.rescue_name(run.name))
        job = RescueJob.of(stored) if stored is not None else None
        own = await self._own(run, stop.id, job) if stop.rescue is not None else []
        newest = own[-1] if own else None
        return RescueFacts(
            claim=claim,
            volume=volume,
            hosts=await self._hosts(claim) if claim is not None else (last,) if volume.on_host and last else (),
            last_node=last,
            home=home,
            other_machine=other,
            job=job,
            pod=newest,
            report=await self._report(newest),
            left=bool(own),
        )

    async def _report(self, saver: Pod | None) -> AgentReport | None:
        """Return what the rescuing agent reports; None: it does not answer, or its report is refused."""
        said = await self.pages.report(saver) if saver is not None and saver.answers else None
        return None if isinstance(said, RefusedReport) else said

    async def _own(self, run: Run, stop_id: str, job: RescueJob | None) -> list[Pod]:
        """Return the pods of this stop's rescue Job, oldest first. Ownership decides while the Job exists: the name of a label can be written by others."""
        listed = [
            pod
            for pod in await self.kube.pods_of(run.namespace, run.uid)
            if (pod["metadata"].get("labels") or {}).get(names.RESCUE_LABEL) == stop_id
            and (job is None or any(one["uid"] == job.uid for one in pod["metadata"].get("ownerReferences") or ()))
        ]
        listed.sort(key=lambda pod: (pod["metadata"].get("creationTimestamp", ""), pod["metadata"]["name"]))
        return [saver_of(pod) for pod in listed]

    async def _hosts(self, claim: Claim) -> tuple[str, ...]:
        if not self.reads_nodes or not claim.volume:
            return ()
        return bound_to(await self.kube.volume(claim.volume))

    async def _home(self, run: Run, last: str) -> tuple[str, bool]:
        """Return the Node of the last pod if it takes pods and is the same machine, and whether it is another machine of this name."""
        found = await self.kube.node(last) if self.reads_nodes and last else None
        if found is None:
            return "", False
        recorded = {node.uid for node in run.status.nodes if node.name == last}
        if recorded and found["metadata"]["uid"] not in recorded:
            return "", True
        return last if answers(found) and not found["spec"].get("unschedulable") else "", False


def _last_node(run: Run, pods: Sequence[Pod]) -> str:
    """Return the Node of the last pod; empty: it is not known. The status names a pod only as long as that exists."""
    stop = run.status.termination
    begun = stop.rescue.node if stop is not None and stop.rescue is not None else ""
    only = run.status.nodes[0].name if len(run.status.nodes) == 1 else ""
    named = [only, begun, *(pod.node for pod in run.status.pods), *(pod.node for pod in pods)]
    return next((node for node in reversed(named) if node), "")


def saver_of(stored: Json) -> Pod:
    """Read a pod of a rescue Job. Nothing trains in it, and only its agent runs: it counts as a pod whose training has exited."""
    running = (stored.get("status") or {}).get("phase") == "Running"
    return replace(Pod.of(stored), training=Training.EXITED if running else Training.NOT_STARTED)
