"""Every name that crosses a process or ends up on an object: group, labels, annotations, finalizer, child names.

Operator, agent, gate and restore all read this module, so a name is spelled once.
"""

from __future__ import annotations

from typing import Final

GROUP: Final = "trainingrun.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

RUN_KIND: Final = "TrainingRun"
RUN_PLURAL: Final = "trainingruns"
POOL_KIND: Final = "GPUNodePool"
POOL_PLURAL: Final = "gpunodepools"

FINALIZER: Final = f"{GROUP}/checkpoint"
"""On a run from before its Job exists until everything it owned is settled."""

# -- labels on children -----------------------------------------------------------------------------------
RUN_LABEL: Final = f"{GROUP}/run"
RUN_UID_LABEL: Final = f"{GROUP}/run-uid"
KUEUE_QUEUE_LABEL: Final = "kueue.x-k8s.io/queue-name"

# -- annotations on a pod: the operator's side of the conversation with the agent, level-triggered --------
STOP_ANNOTATION: Final = f"{GROUP}/stop"
"""`exchange.StopRequest` as JSON: ask the training to leave."""
SAVE_ANNOTATION: Final = f"{GROUP}/save"
"""`exchange.SaveRequest` as JSON: ship what is missing and commit under this id."""
RELEASED_ANNOTATION: Final = f"{GROUP}/released"
"""Present: agent and gate may leave; everything that matters is verified or given up on purpose."""
NUDGE_ANNOTATION: Final = f"{GROUP}/nudge"
"""Asks for nothing: a change that makes the kubelet look at the other annotations again."""

# -- annotations on a run: a person's side -----------------------------------------------------------------
ABANDON_RELEASE_ANNOTATION: Final = f"{GROUP}/abandon-release"
"""Present, and not ``false``: nodes that are still to be released are kept as they are, and nobody waits for them any more."""

# -- taint and annotation on a node -----------------------------------------------------------------------
RELEASING_TAINT: Final = f"{GROUP}/releasing"
"""`NoSchedule`; the value is the uid of the run that releases the node."""

# -- what the operator adds to a pod ----------------------------------------------------------------------
AGENT_CONTAINER: Final = "checkpoint-agent"
GATE_CONTAINER: Final = "checkpoint-gate"
RESTORE_CONTAINER: Final = "checkpoint-restore"
GATE_SIGTERMED: Final = 128 + 15
"""Exit code of a gate that was told to leave without a release: somebody ends the pod, whatever its training made of it."""
OWN_CONTAINERS: Final = frozenset({AGENT_CONTAINER, GATE_CONTAINER, RESTORE_CONTAINER})

CONTROL_VOLUME: Final = "trainingrun-control"
PODINFO_VOLUME: Final = "trainingrun-podinfo"
CHECKPOINT_VOLUME: Final = "trainingrun-checkpoints"
SECRET_VOLUME: Final = "trainingrun-s3"

CONTROL_PATH: Final = "/var/run/trainingrun/control"
PODINFO_PATH: Final = "/var/run/trainingrun/podinfo"
SECRET_PATH: Final = "/var/run/trainingrun/s3"
AGENT_PORT: Final = 18790

CHECKPOINT_DIR_ENV: Final = "TRAININGRUN_CHECKPOINT_DIR"
CONTROL_ENV: Final = "TRAININGRUN_CONTROL"
TRAINS_ENV: Final = "TRAININGRUN_TRAINS"
"""Only in the container that trains, and only where it may be sent a signal: the agent knows its process by it."""
RANK_ENV: Final = "JOB_COMPLETION_INDEX"
"""Kubernetes sets it in every container of an Indexed Job; absent: rank 0."""

# -- the keys of a run's Secret ---------------------------------------------------------------------------
ACCESS_KEY: Final = "AWS_ACCESS_KEY_ID"
SECRET_KEY: Final = "AWS_SECRET_ACCESS_KEY"
SESSION_TOKEN: Final = "AWS_SESSION_TOKEN"
"""Need not be there."""
CA: Final = "ca.crt"
"""Need not be there."""

JOB_NAME_MAX: Final = 52
"""A run's name becomes its Job's, and pods append to that: DNS-1035, at most this long."""

CURVE_KEY: Final = "curve.json"
"""In the ConfigMap of a run's loss curve: `curve.Curve`."""


def stop_id(run_uid: str) -> str:
    """Names a run's only stop, in its status, on its pods and in the bucket: a run ends once."""
    return f"stop-{run_uid}"


def suspension_id(run_uid: str, wall: str) -> str:
    """Names one suspension of a run, begun at `wall` (RFC 3339, UTC). Never counted: a cluster that was restored from a backup would count again."""
    return f"suspend-{run_uid}-{''.join(filter(str.isalnum, wall))}"


def job_name(run_name: str) -> str:
    """The Job of a run carries the run's own name."""
    return run_name


def curve_name(run_name: str) -> str:
    """The ConfigMap of a run's loss curve. A run's name is at most `JOB_NAME_MAX` long, so this is a label's size as well."""
    return f"{run_name}-curve"


def run_reference(namespace: str, name: str, uid: str) -> dict[str, str]:
    """A run as Events speak of it."""
    return {"apiVersion": API_VERSION, "kind": RUN_KIND, "namespace": namespace, "name": name, "uid": uid}


def run_owner(name: str, uid: str) -> dict[str, str | bool]:
    """A run as the owner of what goes with it; it waits for none of it."""
    return {
        "apiVersion": API_VERSION,
        "kind": RUN_KIND,
        "name": name,
        "uid": uid,
        "controller": False,
        "blockOwnerDeletion": False,
    }


def child_labels(run_name: str, run_uid: str) -> dict[str, str]:
    """Labels of everything the operator makes for a run."""
    return {
        RUN_LABEL: run_name,
        RUN_UID_LABEL: run_uid,
        "app.kubernetes.io/name": "trainingrun",
        "app.kubernetes.io/instance": run_name,
        "app.kubernetes.io/managed-by": "trainingrun-operator",
    }
