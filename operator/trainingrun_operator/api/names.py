"""Names shared between processes or written to objects: group, labels, annotations, finalizer, child names.

Operator, agent, gate and restore read this module, so each name is defined once.
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
"""Set on a run before its Job exists, removed when all its children are settled."""

# -- labels on children -----------------------------------------------------------------------------------
RUN_LABEL: Final = f"{GROUP}/run"
RUN_UID_LABEL: Final = f"{GROUP}/run-uid"
RESCUE_LABEL: Final = f"{GROUP}/rescue"
"""On a rescue Job and its pods: id of the stop."""
KUEUE_QUEUE_LABEL: Final = "kueue.x-k8s.io/queue-name"

# -- annotations on a pod: requests of the operator to the agent, level-triggered --------------------------
STOP_ANNOTATION: Final = f"{GROUP}/stop"
"""`exchange.StopRequest` as JSON: ask the training to stop."""
SAVE_ANNOTATION: Final = f"{GROUP}/save"
"""`exchange.SaveRequest` as JSON: upload missing files and commit under this id."""
OPEN_GATE_ANNOTATION: Final = f"{GROUP}/released"
"""If present, agent and gate may exit: all relevant data is verified or deliberately given up."""
NUDGE_ANNOTATION: Final = f"{GROUP}/nudge"
"""Requests nothing: the change makes the kubelet update the other annotations."""

# -- annotations on a run, written by a person -------------------------------------------------------------
ABANDON_RELEASE_ANNOTATION: Final = f"{GROUP}/abandon-release"
"""If present and not ``false``: unreleased nodes are kept, and the run no longer waits for them."""

# -- taint and annotation on a node -----------------------------------------------------------------------
RELEASING_TAINT: Final = f"{GROUP}/releasing"
"""`NoSchedule`; the value is the UID of the run that releases the node."""

# -- additions to a pod -----------------------------------------------------------------------------------
AGENT_CONTAINER: Final = "checkpoint-agent"
GATE_CONTAINER: Final = "checkpoint-gate"
RESTORE_CONTAINER: Final = "checkpoint-restore"
GATE_SIGTERMED: Final = 128 + 15
"""Exit code of a gate terminated without a release: the pod is being ended, whatever the result of its training."""
GATE_KILLED: Final = (128 + 9, GATE_SIGTERMED, 255)
"""Exit codes of a gate that something else ended: SIGKILL, SIGTERM, and containerd's code after a reboot of the machine. In ascending order, as a
Job's rules need them."""
OWN_CONTAINERS: Final = frozenset({AGENT_CONTAINER, GATE_CONTAINER, RESTORE_CONTAINER})

CONTROL_VOLUME: Final = "trainingrun-control"
PODINFO_VOLUME: Final = "trainingrun-podinfo"
CHECKPOINT_VOLUME: Final = "trainingrun-checkpoints"
SECRET_VOLUME: Final = "trainingrun-s3"

SHM_VOLUME: Final = "trainingrun-shm"
OWN_VOLUMES: Final = frozenset({CONTROL_VOLUME, PODINFO_VOLUME, CHECKPOINT_VOLUME, SECRET_VOLUME, SHM_VOLUME})

OWN_PATH: Final = "/var/run/trainingrun"
CONTROL_PATH: Final = f"{OWN_PATH}/control"
PODINFO_PATH: Final = f"{OWN_PATH}/podinfo"
SECRET_PATH: Final = f"{OWN_PATH}/s3"
AGENT_PORT: Final = 18790

CHECKPOINT_DIR_ENV: Final = "TRAININGRUN_CHECKPOINT_DIR"
CONTROL_ENV: Final = "TRAININGRUN_CONTROL"
PUSH_ENV: Final = "TRAININGRUN_PUSH_URL"
"""Where the training posts its numbers."""
PUSH_PATH: Final = "/push"
PUSH_TOKEN: Final = "push_token"
"""File in the control directory."""
KUBEFLOW_URL_ENV: Final = "KUBEFLOW_TRAINER_SERVER_URL"
KUBEFLOW_TOKEN_ENV: Final = "KUBEFLOW_TRAINER_SERVER_TOKEN"
"""Variables of Kubeflow Trainer, by which Hugging Face's Trainer posts its numbers."""
TRAINER_SUMMARY: Final = "train_runtime"
"""A value that Hugging Face's Trainer logs at its end, beside a loss that is the mean of all steps."""
TRAINS_ENV: Final = "TRAININGRUN_TRAINS"
"""Only in the container that trains, and only where it may be sent a signal: the agent knows its process by it."""
RANK_ENV: Final = "JOB_COMPLETION_INDEX"
"""Kubernetes sets it in every container of an Indexed Job; absent: rank 0."""

# -- keys of a run's Secret -------------------------------------------------------------------------------
ACCESS_KEY: Final = "AWS_ACCESS_KEY_ID"
SECRET_KEY: Final = "AWS_SECRET_ACCESS_KEY"
SESSION_TOKEN: Final = "AWS_SESSION_TOKEN"
"""Optional."""
CA: Final = "ca.crt"
"""Optional."""

JOB_NAME_MAX: Final = 52
"""A run's Job has the run's name, and pod names extend it: DNS-1035, at most this many characters."""

CURVE_KEY: Final = "curve.json"
"""Key in the ConfigMap of a run's loss curve; the value is a `curve.Curve`."""


def stop_id(run_uid: str) -> str:
    """Id of a run's only stop, used in its status, on its pods and in the bucket: a run ends once."""
    return f"stop-{run_uid}"


def suspension_id(run_uid: str, wall: str) -> str:
    """Id of a suspension that began at `wall` (RFC 3339, UTC). Not a counter: a cluster restored from a backup would repeat numbers."""
    return f"suspend-{run_uid}-{''.join(filter(str.isalnum, wall))}"


def job_name(run_name: str) -> str:
    """Name of a run's Job: the run's own name."""
    return run_name


def rescue_name(run_name: str) -> str:
    """Name of a run's rescue Job; at most 63 characters."""
    return f"{run_name}-rescue"


def curve_name(run_name: str) -> str:
    """Name of the ConfigMap with a run's loss curve; at most 63 characters, because a run's name has at most `JOB_NAME_MAX`."""
    return f"{run_name}-curve"


def run_reference(namespace: str, name: str, uid: str) -> dict[str, str]:
    """Object reference of a run in Events."""
    return {"apiVersion": API_VERSION, "kind": RUN_KIND, "namespace": namespace, "name": name, "uid": uid}


def run_owner(name: str, uid: str) -> dict[str, str | bool]:
    """Owner reference to a run; it does not block the run's deletion."""
    return {
        "apiVersion": API_VERSION,
        "kind": RUN_KIND,
        "name": name,
        "uid": uid,
        "controller": False,
        "blockOwnerDeletion": False,
    }


def child_labels(run_name: str, run_uid: str) -> dict[str, str]:
    """Labels of all objects that the operator creates for a run."""
    return {
        RUN_LABEL: run_name,
        RUN_UID_LABEL: run_uid,
        "app.kubernetes.io/name": "trainingrun",
        "app.kubernetes.io/instance": run_name,
        "app.kubernetes.io/managed-by": "trainingrun-operator",
    }
