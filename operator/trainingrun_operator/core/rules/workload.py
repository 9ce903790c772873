"""Rules for the Job and for pods that do not start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainingrun_operator.api import endings
from trainingrun_operator.api.status import Evidence
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.rules.finding import Finding

if TYPE_CHECKING:
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.facts.rank import Rank
    from trainingrun_operator.core.observed import Observed

UNSCHEDULABLE: Final = "Unschedulable"
CANNOT_START: Final = frozenset(
    {
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "CreateContainerConfigError",
        "CreateContainerError",
    }
)


def job_gone(seen: Observed) -> Finding | None:
    """The run's Job no longer exists. Applies after it was recorded."""
    if seen.workload is not None or seen.run.status.workload is None:
        return None
    if seen.namespace_ends:
        message = "The namespace was deleted."
        return Finding("jobGone", "NamespaceDeleted", message, endings.DELETED, actor="kubectl delete")
    message = f"Its Job {seen.run.status.workload.name} was deleted, and not by the operator."
    return Finding("jobGone", "JobDeleted", message, endings.FAILED, actor="Job")


def never_started(seen: Observed) -> Finding | None:
    """Pods failed before any training started, or the Job ended without a pod. It fires only without a live pod."""
    workload, limit = seen.workload, seen.run.spec.backoff_limit
    if workload is None:
        return None
    count, last = failed(seen), last_failure_before_start(seen)
    if not seen.live_pods and count > limit:
        message = (
            f"{count} {'pod' if count == 1 else 'pods'} failed before their training could start (backoffLimit {limit})."
            f"{' Last: ' + last + '.' if last else ''}"
        )
        return Finding("neverStarted", "PodsFailed", message, endings.FAILED, actor="Job")
    if not seen.live_pods and workload.finished:
        message = "The Job ended and its pod was deleted or evicted: the training's result is unknown."
        return Finding("neverStarted", "JobEnded", message, endings.FAILED, actor="Job")
    if last:
        message = f"The training could not start: {last}. Failed pods so far: {count}; more than {limit} (spec.backoffLimit) end the run."
        return Finding("neverStarted", "RestartsLeft", message)
    return None


def failed(seen: Observed) -> int:
    """Return how many pods of the workload failed by themselves.

    The workload counts a pod that was told to leave as failed if none of its rules says so, as after a refusal by the kubelet, and does not count a
    crash whose gate was killed. Both are corrected as long as the pod exists.
    """
    over = [pod for pod in seen.pods if pod.phase == "Failed" and not pod.gate_open]
    innocent = sum(bool(pod.told_to_leave) and not pod.ignored for pod in over)
    uncounted = sum(pod.ignored and bool(pod.result) for pod in over)
    return max(0, (seen.workload.failed if seen.workload is not None else 0) - innocent + uncounted)


def last_failure_before_start(seen: Observed) -> str:
    """Return how the newest pod failed before its training could start; empty: none did, or a training has run since."""
    for pod in reversed(seen.pods):
        if pod.failure_before_start and not pod.told_to_leave:
            return f"{pod.failure_before_start} in pod {pod.name}"
        if pod.training is not Training.NOT_STARTED:
            return ""
    return ""


def cannot_start(seen: Observed) -> Finding | None:
    """A pod waited too long for an image or a node. Applies while a pod lacks one."""
    found = [one for rank in seen.ranks if (one := _cannot_start(seen, rank)) is not None]
    return next((one for one in found if one.fires), found[0] if found else None)


def _cannot_start(seen: Observed, rank: Rank) -> Finding | None:
    pod, waited = rank.pod, rank.waiting_seconds
    if pod is None:
        return None
    match lacks(pod):
        case "image":
            actor, patience = "kubelet", seen.defaults.image_error_seconds
        case "node":
            actor, patience = "scheduler", seen.defaults.unschedulable_seconds
        case _:
            return None
    waits = f"{pod.waiting_reason}: {pod.waiting_message}"
    if not patience:
        message = f"The pod waits for a node ({waits}). There is no time limit: timing.unschedulableSeconds is 0."
        return Finding("cannotStart", "Waiting", message)
    if waited < patience:
        message = f"The pod cannot start yet ({waits}). It has waited for {waited:.0f} of at most {patience:g} s."
        return Finding("cannotStart", "Waiting", message)
    return Finding(
        "cannotStart",
        "WaitedTooLong",
        f"The pod cannot start: {waits}",
        endings.FAILED,
        actor=actor,
        evidence=(Evidence(what="waiting", value=pod.waiting_reason),),
    )


def lacks(pod: Pod) -> str:
    """Return what keeps a training from starting: ``image`` (or another kubelet error), ``node``; empty: nothing, or it has started."""
    if pod.training is not Training.NOT_STARTED:
        return ""
    if pod.waiting_reason in CANNOT_START:
        return "image"
    return "node" if pod.waiting_reason == UNSCHEDULABLE else ""
