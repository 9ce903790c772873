"""Reads of a rescue: the claim with the files of dead pods, the Node with its volume, the rescue Job and its agent."""

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
        stop, volume = run.status.termination, rescue.claim_to_read(run, pods)
        if stop is None or volume is None:
            return None
        claim = Claim.of(volume.claim, await self.kube.claim(run.namespace, volume.claim))
        last = _last_node(run, pods)
        stored = await self.kube.job(run.namespace, names.rescue_name(run.name))
        job = RescueJob.of(stored) if stored is not None else None
        own = await self._own(run, stop.id, job) if stop.rescue is not None else []
        newest = own[-1] if own else None
        return RescueFacts(
            claim=claim,
            hosts=await self._hosts(claim),
            last_node=last,
            home=await self._home(run, last),
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

    async def _home(self, run: Run, last: str) -> str:
        """Return the Node of the last pod if it still takes pods and is the same machine."""
        found = await self.kube.node(last) if self.reads_nodes and last else None
        if found is None or not answers(found) or found["spec"].get("unschedulable"):
            return ""
        recorded = {node.uid for node in run.status.nodes if node.name == last}
        return last if not recorded or found["metadata"]["uid"] in recorded else ""


def _last_node(run: Run, pods: Sequence[Pod]) -> str:
    named = [*(pod.node for pod in run.status.pods), *(pod.node for pod in pods)]
    return next((node for node in reversed(named) if node), "")


def saver_of(stored: Json) -> Pod:
    """Read a pod of a rescue Job. Nothing trains in it, and only its agent runs: it counts as a pod whose training has exited."""
    running = (stored.get("status") or {}).get("phase") == "Running"
    return replace(Pod.of(stored), training=Training.EXITED if running else Training.NOT_STARTED)
