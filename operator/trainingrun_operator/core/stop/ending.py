"""The grace with which a stop deletes a pod whose training still runs, or whose leftovers do.

A process that is process 1 of its container and has no handler ignores SIGTERM, and runs until SIGKILL at the end of the pod's grace. Most of a pod's own
grace is for the agent, which gets its SIGTERM only after all other containers have ended. A kubelet does not shorten the grace of a pod that ends
already (kubernetes/kubernetes#83916), so it is decided when the pod is deleted.

Whether a training ignores SIGTERM is not known before. So every training keeps its whole grace once more; only the time of the agent is shortened, to
what its uploads have shown that it needs. Where that is not known, the pod keeps its own grace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainingrun_operator.core.effects import DeletePod
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.manifests import AGENT_GRACE_SECONDS
from trainingrun_operator.core.stop import transitions

if TYPE_CHECKING:
    from trainingrun_operator.api.exchange import AgentReport
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.observed import Observed

AGENT_LEAST_SECONDS: Final = 30
"""Time for an agent's last commit, however short its uploads were."""
UPLOADS: Final = 3
"""Times the longest upload that an agent has for another one."""


def deletions(seen: Observed) -> tuple[DeletePod, ...]:
    """Delete the pods whose training runs and whose grace can be less than their own. The workload deletes the others, with theirs."""
    return tuple(
        DeletePod(pod.name, pod.uid, seconds)
        for pod in seen.live_pods
        if not pod.deleting and (seconds := grace(seen, pod)) is not None
    )


def delete(seen: Observed, pod: Pod) -> DeletePod:
    """Delete a pod with the grace that it needs."""
    return DeletePod(pod.name, pod.uid, grace(seen, pod))


def grace(seen: Observed, pod: Pod) -> int | None:
    """Return the seconds after which what runs in a deleted pod is killed; None: its own grace.

    Its own if anything but training and agent could use up the grace. After a data loss as well: the agent may still save.
    """
    stop = seen.run.status.termination
    if stop is None or stop.data_loss is not None or pod.terminal or pod.unreachable:
        return None
    if pod.training is not Training.RUNNING or not pod.trains_alone:
        return None
    agent = _agent_seconds(seen)
    return None if agent is None else _if_less(pod, _training_seconds(seen) + agent)


def leftovers(seen: Observed) -> tuple[DeletePod, ...]:
    """Delete pods that run only because of another container after training and gate have exited. Everything is proven, and the agent is released.

    Where such a container can write checkpoints, the agent saves them after its end, and keeps its time.
    """
    return tuple(
        DeletePod(
            pod.name, pod.uid, None if pod.writers else _if_less(pod, _training_seconds(seen) + AGENT_LEAST_SECONDS)
        )
        for pod in seen.live_pods
        if pod.gate_open and pod.gate_left and pod.training is Training.EXITED and not pod.deleting
    )


def _if_less(pod: Pod, seconds: int) -> int | None:
    """Return a grace if it is less than the pod's own; at least 1: without any grace, the API server removes a pod that still runs."""
    wanted = max(1, seconds)
    return wanted if wanted < pod.grace_seconds else None


def _training_seconds(seen: Observed) -> int:
    """Return the seconds that a training has after SIGTERM: `shutdown.graceSeconds`, or more if the author's template says so."""
    # A template that was refused may have anything in it, or nothing: its pods are another client's.
    pod = seen.run.spec.template.get("spec")
    of_template = pod.get("terminationGracePeriodSeconds") if isinstance(pod, dict) else None
    return max(seen.run.spec.shutdown.grace_seconds, of_template if isinstance(of_template, int) else 0)


def _agent_seconds(seen: Observed) -> int | None:
    """Return the seconds that the agents need after the training's end, those of the slowest; None: not known, or a checkpoint is being written."""
    if seen.reports is None or any(map(_writes, seen.reports)):
        return None
    if transitions.disabled(seen):
        return 0
    uploads = [_upload_seconds(report) for report in seen.reports]
    known = [seconds for seconds in uploads if seconds is not None]
    return max(AGENT_LEAST_SECONDS, int(UPLOADS * max(known))) if len(known) == len(uploads) else None


def _writes(report: AgentReport) -> bool:
    """Whether a checkpoint is being written, or may be: it would be cut off."""
    return report.unfinished is not None or report.temporary_files != 0


def _upload_seconds(report: AgentReport) -> float | None:
    """Return the seconds that an agent needs to send a checkpoint as large as the newest: its longest upload, or more if all were smaller. None: not known."""
    # Not a number or endless, if an agent reports that.
    valid = all(0 <= one.seconds < AGENT_GRACE_SECONDS for one in report.uploads)
    if report.error is not None or not report.uploads or not valid:
        return None
    largest = max(report.uploads, key=lambda one: one.bytes)
    size = report.newest.bytes if report.newest is not None else 0
    if largest.bytes <= 0 < size:
        return None
    of_newest = largest.seconds * size / max(1, largest.bytes)
    needs = max(of_newest, *(one.seconds for one in report.uploads))
    return needs if needs < AGENT_GRACE_SECONDS else None
