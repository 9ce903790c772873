"""What is in the small world as the API server stores it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from builders import NAMESPACE

from trainingrun_operator.api import names
from trainingrun_operator.core.facts.nodes import Instance
from trainingrun_operator.core.facts.pod import Training

if TYPE_CHECKING:
    from collections.abc import Sequence

    from chaos.world import Machine, SimPod, SimRun

Json = dict[str, Any]

POD_GRACE_SECONDS = 330
"""What the operator gives the pods of a run: the grace of the training, and 300 s for the agent."""
SILENT_SECONDS = 5.0
"""A Node is no longer Ready so long after its machine has died."""
CONTAINERS = [{"name": "train", "resources": {"limits": {"nvidia.com/gpu": 1}}}, {"name": names.GATE_CONTAINER}]


def stored_job(sim: SimRun) -> Json | None:
    """The Job of a run."""
    job = sim.job
    if job is None:
        return None
    owners = [names.run_owner(sim.name, sim.uid)] if job.owned else []
    return {
        "metadata": {
            "name": job.name,
            "namespace": NAMESPACE,
            "uid": job.uid,
            "generation": job.generation,
            "labels": names.child_labels(sim.name, sim.uid),
            "ownerReferences": owners,
        },
        "spec": {"backoffLimit": job.backoff_limit, "suspend": job.suspended},
        "status": {
            "failed": job.failed,
            "conditions": [{"type": "Complete", "status": "True"}] if job.finished else [],
        },
    }


def stored_claim(sim: SimRun, kind: str, name: str) -> Json:
    """The claim with a run's checkpoints."""
    modes = ["ReadWriteMany" if kind == "shared" else "ReadWriteOnce"]
    return {
        "metadata": {"name": name, "uid": f"{sim.name}-claim", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"accessModes": modes, "volumeName": f"{sim.name}-volume"},
        "status": {"phase": "Bound"},
    }


def stored_volume(sim: SimRun, kind: str) -> Json:
    """The volume of that claim; a disk is that of the machine on which the run trained first."""
    used = [pod.machine.name for pod in sim.all_pods if pod.machine is not None]
    if kind != "disk" or not used:
        return {"spec": {}}
    host = {"key": "kubernetes.io/hostname", "operator": "In", "values": used[:1]}
    return {"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [host]}]}}}}


def stored_rescue(sim: SimRun) -> Json | None:
    """The rescue Job of a run."""
    if sim.rescue is None:
        return None
    return {
        "metadata": {
            "name": names.rescue_name(sim.name),
            "namespace": NAMESPACE,
            "uid": sim.rescue.uid,
            "labels": {names.RUN_LABEL: sim.name, names.RESCUE_LABEL: sim.rescue.termination_id},
            "generation": sim.rescue.generation,
        },
        "spec": {"suspend": sim.rescue.suspended},
    }


def stored_rescue_pod(sim: SimRun) -> Json | None:
    """The pod of that Job, on a machine without GPUs."""
    if sim.rescue is None or sim.rescue.pod is None:
        return None
    pod = sim.rescue.pod
    meta = {
        "name": pod.uid,
        "namespace": NAMESPACE,
        "uid": pod.uid,
        "creationTimestamp": pod.created,
        "labels": names.child_labels(sim.name, sim.uid) | {names.RESCUE_LABEL: sim.rescue.termination_id},
        "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "uid": sim.rescue.uid}],
        "annotations": dict(pod.annotations),
    }
    spec = {"nodeName": "cpu-1", "containers": [{"name": names.AGENT_CONTAINER}]}
    return {"metadata": meta, "spec": spec, "status": {"phase": pod.phase, "podIP": "10.0.0.9"}}


def stored_pod(sim: SimRun, pod: SimPod, trace: str) -> Json:
    """A pod of a run's Job; `trace`: what a kubelet leaves on one that it has ended."""
    meta: Json = {
        "name": pod.uid,
        "namespace": NAMESPACE,
        "uid": pod.uid,
        "creationTimestamp": pod.created,
        "labels": names.child_labels(sim.name, sim.uid),
        "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "uid": pod.job_uid}],
        "annotations": dict(pod.annotations),
    }
    if pod.deleting_since is not None:
        meta["deletionTimestamp"] = pod.created
    spec: Json = {"containers": CONTAINERS, "terminationGracePeriodSeconds": POD_GRACE_SECONDS}
    spec |= {"nodeName": pod.machine.name} if pod.machine else {}
    status: Json = {"phase": pod.phase} | ({"podIP": "10.0.0.7"} if pod.machine else {})
    if (state := _state(sim, pod)) is not None:
        status["containerStatuses"] = [{"name": "train", "state": state}]
    if pod.told_to_leave_at is not None:
        _leave_trace(status, trace)
    return {"metadata": meta, "spec": spec, "status": status}


def _leave_trace(status: Json, trace: str) -> None:
    """Leave on a pod what a kubelet leaves that has ended it."""
    gate = {"name": names.GATE_CONTAINER, "state": {"terminated": {"exitCode": names.GATE_SIGTERMED}}}
    status["containerStatuses"] = [*status.get("containerStatuses", ()), gate]
    match trace:
        case "condition":
            status["conditions"] = [{"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet"}]
        case "reason":
            status |= {"reason": "Evicted", "message": "The node was low on resource: memory."}
        case _:
            pass


def _state(sim: SimRun, pod: SimPod) -> Json | None:
    match pod.training:
        case Training.RUNNING:
            return {"running": {"startedAt": pod.created}}
        case Training.EXITED:
            return {"terminated": {"exitCode": pod.exit_code, "startedAt": pod.created}}
        case Training.NOT_STARTED if sim.cause == "bad image" and pod.machine is not None:
            return {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
    return None


def stored_guest(machine: Machine) -> Json:
    """Somebody's notebook."""
    meta = {"name": "notebook", "namespace": "team", "uid": "the-guest"}
    return {"metadata": meta, "spec": {"nodeName": machine.name}, "status": {"phase": "Running"}}


def stored_node(machine: Machine, now: float) -> Json:
    """The Node of a machine."""
    dead = machine.state is Instance.GONE and now >= machine.gone_at + SILENT_SECONDS
    return {
        "metadata": {
            "name": machine.name,
            "uid": machine.uid,
            "resourceVersion": str(machine.changes),
            "labels": {"pool": "a100"},
        },
        "spec": {"providerID": machine.provider_id, "taints": list(machine.taints)},
        "status": {
            "capacity": {"nvidia.com/gpu": "8"},
            "allocatable": {"nvidia.com/gpu": "8"},
            "conditions": [{"type": "Ready", "status": "Unknown" if dead else "True"}],
        },
    }


def tainted_by(taints: Sequence[Json]) -> str | None:
    """The run that is releasing a Node with these taints."""
    return next((taint.get("value") for taint in taints if taint["key"] == names.RELEASING_TAINT), None)


class FailedTestError(Exception):
    """A `test` of a JSON patch does not hold, or a parent is missing."""


def patched(before: Json, operations: Sequence[Json]) -> Json:
    """Apply a JSON patch below `metadata` and `status`; what was there stays as it was."""
    after = {
        **before,
        "metadata": dict(before["metadata"]),
        **({"status": dict(before["status"])} if "status" in before else {}),
    }
    for operation in operations:
        *parents, last = operation["path"].removeprefix("/").split("/")
        at: Any = after
        for part in parents:
            at = at.get(part) if isinstance(at, dict) else None
        if not isinstance(at, dict):
            raise FailedTestError(f"{operation['path']} has no parent")
        match operation["op"]:
            case "test" if at.get(last) != operation["value"]:
                raise FailedTestError(f"testing {operation['path']} failed")
            case "test":
                pass
            case "replace" | "remove" if last not in at:
                raise FailedTestError(f"{operation['path']} is not there")
            case "remove":
                del at[last]
            case _:
                at[last] = operation["value"]
    return after
