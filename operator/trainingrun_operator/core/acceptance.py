"""Acceptance of a run: all checks that need the spec alone, made before anything is created."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import StrictInt, ValidationError

from trainingrun_operator.api import names
from trainingrun_operator.api.base import Model
from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.core import (
    destinations,
    identity,
    limits,
    log_patterns,
    manifests,
    outputs,
    own_volumes,
    restoring,
    unwritable,
)
from trainingrun_operator.core.bounds import clipped
from trainingrun_operator.core.facts.run import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainingrun_operator.api.run import TrainingRunSpec
    from trainingrun_operator.core.defaults import Defaults
    from trainingrun_operator.core.destinations import Destination
    from trainingrun_operator.core.facts.nodes import Pool
    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.core.observed import Observed


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
    volume_devices: list[_Named] | None = None


class _Pod(Model):
    containers: list[_Container]
    init_containers: list[_Container] | None = None
    ephemeral_containers: list[_Container] | None = None
    security_context: _SecurityContext | None = None
    share_process_namespace: bool | None = None
    termination_grace_period_seconds: StrictInt | None = None
    volumes: list[_Named] | None = None


class _Metadata(Model):
    annotations: dict[str, str] | None = None
    labels: dict[str, str] | None = None


class _Template(Model):
    """The part of a pod template that `manifests` reads. The API server checks the rest in a dry run of the Job."""

    metadata: _Metadata | None = None
    spec: _Pod


def has_usable_template(spec: TrainingRunSpec) -> bool:
    """Whether `manifests` can build a Job of the template; a run whose template is refused may be stopped as well."""
    return (_template(spec) or _containers(spec)) is None


def refusal(seen: Observed) -> Problem | None:
    """Return the first problem of the observed run; None: it is accepted."""
    return complaint(seen.run, seen.pools, seen.defaults, seen.namespace_labels)


def complaint(
    run: Run,
    pools: tuple[Pool, ...],
    defaults: Defaults,
    namespace_labels: Mapping[str, str] | None = None,
) -> Problem | None:
    """Return the first problem of a spec, with the offending value and what to do.

    Args:
        run: as stored.
        pools: all of them.
        defaults: of the installation: allowed destinations, metric sources, and whether it releases nodes.
        namespace_labels: of the run's namespace.
    """
    return (
        _template(run.spec)
        or _ours(run.spec)
        or _containers(run.spec)
        or own_volumes.reached(run.spec, manifests.main_container(run.spec))
        or _source(run.spec, defaults)
        or _signal(run.spec)
        or patterns(run.spec)
        or _outputs(run.spec)
        or limits.complaint(run.spec)
        or limits.budget(run.spec)
        or limits.unpriced(run.spec, defaults)
        or _checkpoint(run, defaults.allowed_destinations)
        or _pool(run, pools, namespace_labels, defaults)
    )


def _template(spec: TrainingRunSpec) -> Problem | None:
    template = spec.template.parse()
    if spec.template.problem:
        return Problem(
            "InvalidTemplate",
            f"spec.template {spec.template.problem}: put scripts and data into the image, a ConfigMap or a volume.",
        )
    pod = template.get("spec")
    if not isinstance(pod, dict) or not pod.get("containers"):
        return Problem(
            "InvalidTemplate",
            "spec.template.spec.containers is empty: give it at least one container with a name and an image, as in a Job.",
        )
    try:
        _Template.parse(template)
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


def _ours(spec: TrainingRunSpec) -> Problem | None:
    """Refuse annotations by which the operator controls its agent."""
    written = (spec.template.get("metadata") or {}).get("annotations") or {}
    taken = [key for key in written if key.startswith(f"{names.GROUP}/")]
    if not taken:
        return None
    return Problem(
        "InvalidTemplate",
        f"spec.template.metadata.annotations has {clipped(min(taken), 100)!r}: annotations of {names.GROUP} are reserved for the operator. Remove it.",
    )


def _containers(spec: TrainingRunSpec) -> Problem | None:
    pod: Mapping[str, Any] = spec.template["spec"]
    written = [c["name"] for c in pod["containers"]]
    for field in ("containers", "initContainers"):
        if taken := names.OWN_CONTAINERS.intersection(c["name"] for c in pod.get(field) or ()):
            return Problem(
                "InvalidTemplate",
                f"spec.template.spec.{field}: the name {min(taken)!r} is reserved for the operator. Choose another.",
            )
    if spec.metrics.container and spec.metrics.container not in written:
        return Problem(
            "InvalidTemplate",
            f"spec.metrics.container is {spec.metrics.container!r}, but the template has only {', '.join(written)}.",
        )
    return None


def _source(spec: TrainingRunSpec, defaults: Defaults) -> Problem | None:
    source, known = spec.metrics.source, defaults.metric_sources
    if source is None or source in known:
        return None
    return Problem(
        "UnknownMetricSource",
        f"spec.metrics.source is {source!r}, which this operator does not have (it has {', '.join(known)}). Use one of them, or ask the operator's"
        " administrator to install the package that provides it.",
    )


def while_running(spec: TrainingRunSpec) -> Problem | None:
    """Return the problem of a spec that was changed while its run trains; what has it does not count."""
    return patterns(spec) or _outputs(spec) or limits.complaint(spec) or limits.budget(spec)


def patterns(spec: TrainingRunSpec) -> Problem | None:
    """Refuse a pattern that cannot be searched for. The spec of a running run may get one, too: it is not searched for."""
    searched = (
        ("crash.fatalLogPatterns", spec.crash.fatal_log_patterns, log_patterns.complaint_of_line),
        ("completion.logPatterns", spec.completion.log_patterns, log_patterns.complaint_of_line),
    )
    read = (("metrics.logs.patterns", spec.metrics.logs.patterns, log_patterns.complaint_of_groups),)
    for field, written, complaint_of in (*searched, *read):
        for number, pattern in enumerate(written):
            if why := complaint_of(pattern):
                return Problem(
                    "InvalidPattern",
                    f"spec.{field}[{number}] is {clipped(repr(pattern), 100)}, which is no RE2 pattern that can be used: {clipped(why, 200)}."
                    " Correct it: https://github.com/google/re2/wiki/Syntax.",
                )
    return None


def _outputs(spec: TrainingRunSpec) -> Problem | None:
    """Refuse outputs that no object can be, and those of a run that has no access to a bucket."""
    for number, output in enumerate(spec.completion.outputs):
        if why := outputs.complaint(output):
            message = f"spec.completion.outputs[{number}] is {output!r}: {why}. Name a key below the run's folder in the bucket."
            return Problem("InvalidOutputs", message)
    if spec.completion.outputs and spec.checkpoint.mode is CheckpointMode.DISABLED:
        return Problem(
            "InvalidOutputs",
            "spec.completion.outputs needs checkpoint.mode: Upload, because a run that saves nothing has no access to a bucket. Remove it.",
        )
    return None


def _signal(spec: TrainingRunSpec) -> Problem | None:
    """Refuse a signal that cannot reach the training: the agent must see its process and run as the same user."""
    signal, pod = spec.shutdown.signal, spec.template["spec"]
    if not signal:
        return None
    if pod.get("shareProcessNamespace") is False:
        return Problem(
            "InvalidTemplate",
            f"spec.template.spec.shareProcessNamespace is false, but spec.shutdown.signal is {signal}: the agent could not see the training. Remove one.",
        )
    if manifests.training_user(spec) is None:
        main = manifests.main_container(spec)
        return Problem(
            "InvalidTemplate",
            f"spec.shutdown.signal is {signal}, but the template does not say as which user {main!r} runs: set securityContext.runAsUser, of the pod or"
            " of this container, so that the agent runs as the same user and may signal it.",
        )
    return None


def _checkpoint(run: Run, listed: tuple[Destination, ...]) -> Problem | None:
    checkpoint = run.spec.checkpoint
    if checkpoint.mode is CheckpointMode.DISABLED:
        return None
    if isinstance(answer := destinations.allowed(run, listed), Problem):
        return answer
    return (
        destinations.too_long(run)
        or identity.missing(run, answer)
        or restoring.complaint(run, listed)
        or unwritable.complaint(run)
    )


def _pool(
    run: Run, pools: tuple[Pool, ...], namespace_labels: Mapping[str, str] | None, defaults: Defaults
) -> Problem | None:
    wanted = run.spec.node_pool.ref
    if not wanted:
        return None
    if not defaults.release_nodes:
        return Problem(
            "NodesNotReleased",
            f"spec.nodePool.ref is {wanted!r}, but the operator of this namespace releases no nodes (nodeRelease.enabled of its chart): remove it, or"
            " ask the operator's administrator.",
            permanent=False,
        )
    usable = [pool.name for pool in pools if pool.allows(namespace_labels)]
    if wanted in usable:
        return None
    known = ", ".join(usable) or "none"
    if any(pool.name == wanted for pool in pools):
        return Problem(
            "NodePoolNotAllowed",
            f"spec.nodePool.ref is {wanted!r}, which does not allow runs of namespace {run.namespace} (these do: {known}). Use another, or ask"
            " the administrator of the pools to change its spec.namespaceSelector.",
            permanent=False,
        )
    return Problem(
        "UnknownNodePool",
        f"spec.nodePool.ref is {wanted!r}, but there is no such GPUNodePool (there is: {known}). kubectl get gnp lists them.",
        permanent=False,
    )
