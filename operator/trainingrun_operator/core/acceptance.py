"""Whether a run can be acted on. Everything that can be told from the spec alone is told here, before anything is created."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import StrictInt, ValidationError

from trainingrun_operator.api import names
from trainingrun_operator.api.base import Model
from trainingrun_operator.api.manifest import Layout
from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.core.bounds import clipped
from trainingrun_operator.core.observed import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainingrun_operator.api.run import TrainingRunSpec
    from trainingrun_operator.core.observed import Pool, Run


class _Named(Model):
    name: str


class _Mount(_Named):
    mount_path: str


class _Resources(Model):
    limits: dict[str, Any] | None = None


class _SecurityContext(Model):
    run_as_user: StrictInt | None = None
    run_as_group: StrictInt | None = None


class _Container(_Named):
    env: list[_Named] | None = None
    resources: _Resources | None = None
    security_context: _SecurityContext | None = None
    volume_mounts: list[_Mount] | None = None


class _Pod(Model):
    containers: list[_Container]
    init_containers: list[_Named] | None = None
    security_context: _SecurityContext | None = None
    termination_grace_period_seconds: StrictInt | None = None
    volumes: list[_Named] | None = None


class _Metadata(Model):
    annotations: dict[str, str] | None = None
    labels: dict[str, str] | None = None


class _Template(Model):
    """As much of a pod template as `children` reads; the rest is the API server's to check, when the Job is dry-run."""

    metadata: _Metadata | None = None
    spec: _Pod


def complaint(run: Run, pools: tuple[Pool, ...]) -> Problem | None:
    """Return the first thing in the spec that cannot be acted on, with the offending value and what to do."""
    return _template(run.spec) or _containers(run.spec) or _checkpoint(run) or _pool(run.spec, pools)


def _template(spec: TrainingRunSpec) -> Problem | None:
    pod = spec.template.get("spec")
    if not isinstance(pod, dict) or not pod.get("containers"):
        return Problem(
            "InvalidTemplate",
            "spec.template.spec.containers is empty: give it at least one container with a name and an image, as in a Job.",
        )
    try:
        _Template.parse(spec.template)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in ("spec", "template", *first["loc"]))
        written = clipped(repr(first["input"]), 100)
        said = first["msg"].lower().partition(" or instance")[0]
        return Problem("InvalidTemplate", f"{path} is {written}: {said}, as in a Job.")
    if (seconds := pod.get("activeDeadlineSeconds")) is not None:
        return Problem(
            "InvalidTemplate",
            f"spec.template.spec.activeDeadlineSeconds is {seconds}: it would end the pod before its checkpoint is saved. Remove it.",
        )
    return None


def _containers(spec: TrainingRunSpec) -> Problem | None:
    pod: Mapping[str, Any] = spec.template["spec"]
    written = [c["name"] for c in pod["containers"]]
    if taken := names.OWN_CONTAINERS.intersection(written):
        return Problem(
            "InvalidTemplate",
            f"spec.template.spec.containers: the name {min(taken)!r} is the operator's own. Choose another.",
        )
    if spec.metrics.container and spec.metrics.container not in written:
        return Problem(
            "InvalidTemplate",
            f"spec.metrics.container is {spec.metrics.container!r}, but the template has only {', '.join(written)}.",
        )
    return None


def _checkpoint(run: Run) -> Problem | None:
    checkpoint = run.spec.checkpoint
    if checkpoint.mode is CheckpointMode.DISABLED:
        return None
    try:
        Layout.of(checkpoint.destination or "", run.namespace, run.name, run.uid)
    except ValueError as error:
        return Problem("InvalidDestination", f"spec.checkpoint: {error}.")
    if not checkpoint.s3.credentials_secret_name:
        return Problem(
            "NoCredentials",
            "spec.checkpoint.s3.credentialsSecretName is empty: name a Secret of this namespace with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            " (kubectl create secret generic s3-credentials --from-literal=...).",
        )
    return None


def _pool(spec: TrainingRunSpec, pools: tuple[Pool, ...]) -> Problem | None:
    wanted = spec.node_pool.ref
    if not wanted or any(pool.name == wanted for pool in pools):
        return None
    known = ", ".join(pool.name for pool in pools) or "none"
    return Problem(
        "UnknownNodePool",
        f"spec.nodePool.ref is {wanted!r}, but there is no such GPUNodePool (there is: {known}). kubectl get gnp lists them.",
        permanent=False,
    )
