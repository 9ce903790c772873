"""The Job that saves what dead pods have left in a volume: the agent alone, without a GPU, with the volume mounted read-only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from trainingrun_operator.api import names
from trainingrun_operator.core import manifests
from trainingrun_operator.core.kept_volume import kept_volume
from trainingrun_operator.core.release import unsettled

if TYPE_CHECKING:
    from trainingrun_operator.api.status import Rescue, Termination
    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.core.observed import Observed

Manifest = dict[str, Any]

DEADLINE_SECONDS: Final = 24 * 3600
"""Active time of the Job; then it fails, and the stop is held."""
RETRIES: Final = 6
"""Failed pods of the Job; evicted ones do not count."""
GRACE_SECONDS: Final = 60
_POD_SECURITY: Final = ("fsGroup", "fsGroupChangePolicy", "seLinuxOptions", "supplementalGroups")
"""Fields of the author's pod securityContext that decide who may read the volume."""


def job(seen: Observed, stop: Termination, rescue: Rescue) -> Manifest:
    """Build the rescue Job of a stop. It makes no pod before `StartRescue`: a late request to create it must not let an agent run."""
    run = seen.run
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": names.rescue_name(run.name),
            "namespace": run.namespace,
            # Without the label run-uid: by it the run's own Job is found.
            "labels": {names.RUN_LABEL: run.name, names.RESCUE_LABEL: stop.id},
            "ownerReferences": _owner(seen),
        },
        "spec": {
            "suspend": True,
            "backoffLimit": RETRIES,
            "activeDeadlineSeconds": DEADLINE_SECONDS,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": [manifests.NO_CRASHES[0]]},
            "template": _pod_template(seen, stop, rescue),
        },
    }


def _owner(seen: Observed) -> list[Manifest]:
    """Return the run's Job as the owner: a foreground deletion of the run would delete what the run itself owns, before its files are saved."""
    if (workload := seen.workload) is not None and not workload.deleting:
        return [
            {
                "apiVersion": workload.api_version,
                "kind": workload.kind,
                "name": workload.name,
                "uid": workload.uid,
                "controller": False,
                "blockOwnerDeletion": False,
            }
        ]
    return [] if seen.run.deleting else [names.run_owner(seen.run.name, seen.run.uid)]


def _pod_template(seen: Observed, stop: Termination, rescue: Rescue) -> Manifest:
    run = seen.run
    author = run.spec.template.parse()["spec"]
    mount, _ = manifests.checkpoint_volume(run)
    # The status names the Job before it starts, and thereby raises the attempt.
    about = {"rescues": True, "rescues_since": rescue.since, "first_attempt": stop.attempt + 1}
    volume = {"name": mount["name"], **_source(run, rescue)}
    kept = ("automountServiceAccountToken", "imagePullSecrets", "priorityClassName", "serviceAccountName")
    security = {key: value for key, value in (author.get("securityContext") or {}).items() if key in _POD_SECURITY}
    return {
        "metadata": {"labels": names.child_labels(run.name, run.uid) | {names.RESCUE_LABEL: stop.id}},
        "spec": {
            **manifests.agent_alone(run, seen.defaults, {**mount, "readOnly": True}, volume, **about),
            **{key: author[key] for key in kept if author.get(key) is not None},
            # Without it the kubelet may change the owner of every file.
            **({"securityContext": {"fsGroupChangePolicy": "OnRootMismatch", **security}} if security else {}),
            **_placement(seen, author, rescue),
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": GRACE_SECONDS,
        },
    }


def _source(run: Run, rescue: Rescue) -> Manifest:
    """Return the volume with the files: the claim, or what the template says."""
    if rescue.claim:
        return {"persistentVolumeClaim": {"claimName": rescue.claim}}
    kept = kept_volume(run)
    source = dict(kept.source) if kept is not None else {}
    if kept is not None and kept.on_host:
        # Another machine of this name may lack the folder: no empty one is made in its place.
        source["hostPath"] = {**source["hostPath"], "type": "Directory"}
    return source


def _placement(seen: Observed, author: Manifest, rescue: Rescue) -> Manifest:
    """Return where the pod may run.

    On the Node with the volume, whatever keeps other pods off it. Else off the nodes that are being released; for a volume of one Node at a time also
    on nodes that only the training's pods tolerate: a disk is often tied to a zone, and there may be no others in it.
    """
    if rescue.node:
        return _nodes([_field("In", rescue.node)]) | {
            "tolerations": [*(author.get("tolerations") or ()), {"operator": "Exists", "effect": "NoSchedule"}]
        }
    facts = seen.rescue
    anywhere = facts is not None and facts.shared and seen.defaults.release_nodes
    tolerated = {"tolerations": author["tolerations"]} if author.get("tolerations") and not anywhere else {}
    leaving = [_field("NotIn", node.name) for node in unsettled(seen.run.status.nodes)]
    return tolerated | (_nodes(leaving) if leaving and seen.defaults.release_nodes else {})


def _field(operator: str, node: str) -> Manifest:
    return {"key": "metadata.name", "operator": operator, "values": [node]}


def _nodes(fields: list[Manifest]) -> Manifest:
    wanted = {"nodeSelectorTerms": [{"matchFields": fields}]}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": wanted}}}
