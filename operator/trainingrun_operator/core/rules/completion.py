"""When a run is complete: exit code, marker file, final-epoch stall. And when it has crashed.

Order matters and is the order of trust: what a process said by its exit code, what the training wrote on purpose, what can only be inferred.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.api.status import Evidence, TerminationStatus
from trainingrun_operator.core.bounds import TEXT_MAX, clipped
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.rules.verdict import Verdict

if TYPE_CHECKING:
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.observed import Observed

STALL_INTERVALS: Final = 3
"""A final epoch stalls only after so many times the usual seconds between steps."""


def exited(seen: Observed) -> Verdict | None:
    """The training has ended by itself and must not, or need not, run again."""
    pod = seen.pod
    # A pod that is being deleted was told to leave: whatever code its training leaves with, nobody knows what it would have done.
    if pod is None or pod.training is not Training.EXITED or pod.released or pod.deleting:
        return None
    if pod.exit_code == 0:
        return Verdict(
            TerminationStatus.AUTO_COMPLETE,
            "Training finished with exit code 0.",
            actor="exit code",
            evidence=(Evidence(what="exitCode", value="0"),),
        )
    if seen.agent is not None and seen.agent.markers:
        name = clipped(seen.agent.markers[0].name, TEXT_MAX)
        return Verdict(
            TerminationStatus.AUTO_COMPLETE,
            f"Training wrote the marker {name} and then ended with exit code {pod.exit_code}.",
            actor="marker",
            evidence=(Evidence(what="marker", value=name), Evidence(what="exitCode", value=str(pod.exit_code))),
            warning=f"Exit code {pod.exit_code} came after the completion marker {name}: taken for complete.",
        )
    return _crashed_for_good(seen, pod)


def crashes(seen: Observed, pod: Pod | None) -> int:
    """How many pods have crashed, the one that waits behind its gate included."""
    failed = seen.job.failed if seen.job is not None else 0
    behind_gate = pod is not None and not pod.terminal and pod.training is Training.EXITED and pod.exit_code != 0
    return failed + behind_gate


def _crashed_for_good(seen: Observed, pod: Pod) -> Verdict | None:
    count = crashes(seen, pod)
    if count <= seen.run.spec.backoff_limit:
        return None
    times = "once" if count == 1 else f"{count} times"
    tail = f" Last lines of its log: {seen.log_tail}" if seen.log_tail else ""
    return Verdict(
        TerminationStatus.FAILED,
        f"Training crashed {times} (backoffLimit {seen.run.spec.backoff_limit}), last with exit code {pod.exit_code}.{tail}",
        actor="exit code",
        evidence=(Evidence(what="exitCode", value=str(pod.exit_code)),),
    )


def never_started(seen: Observed) -> Verdict | None:
    """Pods fail before any training starts, the image cannot be had, or the Job ended and left nobody to tell how."""
    pod = seen.pod
    if seen.job is not None and not seen.live_pods and seen.job.failed > seen.run.spec.backoff_limit:
        return Verdict(
            TerminationStatus.FAILED,
            f"{seen.job.failed} pods failed before their training could start (backoffLimit {seen.run.spec.backoff_limit})."
            f"{' Last lines of the log: ' + seen.log_tail if seen.log_tail else ''}",
            actor="Job",
        )
    if seen.job is not None and seen.job.finished and not seen.live_pods:
        return Verdict(
            TerminationStatus.FAILED,
            "The Job ended, and no pod is left to tell how its training did: somebody deleted or evicted it.",
            actor="Job",
        )
    return _cannot_start(seen, pod) if pod is not None else None


def _cannot_start(seen: Observed, pod: Pod) -> Verdict | None:
    """The pod has waited for too long for what it lacks: an image, or a node."""
    match lacks(pod):
        case "image":
            actor, patience = "kubelet", seen.defaults.image_error_seconds
        case "node" if seen.defaults.unschedulable_seconds:
            actor, patience = "scheduler", seen.defaults.unschedulable_seconds
        case _:
            return None
    if seen.waiting_seconds < patience:
        return None
    return Verdict(
        TerminationStatus.FAILED,
        f"The pod cannot start: {pod.waiting_reason}: {pod.waiting_message}",
        actor=actor,
        evidence=(Evidence(what="waiting", value=pod.waiting_reason),),
    )


def lacks(pod: Pod) -> str:
    """What keeps a pod from starting: ``image`` (or another thing of the kubelet's), ``node``, or nothing that is known. Its waiting is timed by it."""
    if pod.waiting_reason in CANNOT_START:
        return "image"
    return "node" if pod.waiting_reason == UNSCHEDULABLE else ""


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


def inferred(seen: Observed) -> Verdict | None:
    """The training still runs but has nothing more to do: it wrote its marker, or its final epoch stands still."""
    if seen.pod is None or seen.pod.training is not Training.RUNNING or seen.agent is None:
        return None
    return _marker(seen) or _final_epoch_stall(seen)


def _marker(seen: Observed) -> Verdict | None:
    if seen.agent is None or not seen.agent.markers:
        return None
    name = clipped(seen.agent.markers[0].name, TEXT_MAX)
    return Verdict(
        TerminationStatus.AUTO_COMPLETE,
        f"Training wrote the completion marker {name}.",
        "marker",
        (Evidence(what="marker", value=name),),
        inferred=True,
    )


def _final_epoch_stall(seen: Observed) -> Verdict | None:
    """No step in the final epoch for `stallPolls` polls, under every guard against a slow step or a long evaluation."""
    track, newest, interval = seen.track, seen.track.newest, seen.track.typical_interval
    if newest is None or interval is None or track.oddity is not None or not track.in_final_epoch:
        return None
    quiet = seen.now - newest.at
    stalled = track.polls_without_advance >= seen.run.spec.stall_polls and quiet >= STALL_INTERVALS * interval
    if not stalled or not _everything_written(seen, newest.step, quiet):
        return None
    return Verdict(
        TerminationStatus.AUTO_COMPLETE,
        f"Final epoch reached and no step since {newest.step} for {track.polls_without_advance} polls.",
        "stallPolls",
        (
            Evidence(what="epoch", value=f"{track.epoch:g} of {track.total_epochs:g}"),
            Evidence(what="stallPolls", value=str(track.polls_without_advance), step=newest.step),
        ),
        inferred=True,
    )


def _everything_written(seen: Observed, step: int, quiet: float) -> bool:
    """Nothing grows under the path, and a checkpoint lies there that is not older than the last step."""
    if seen.run.spec.checkpoint.mode is CheckpointMode.DISABLED:
        return False
    agent = seen.agent
    if agent is None or agent.newest is None or agent.unfinished is not None:
        return False
    poll = seen.run.spec.poll_interval_seconds
    if agent.last_change_seconds is not None and agent.last_change_seconds < poll:
        return False
    if agent.newest.step is not None:
        return agent.newest.step >= step
    # The step may have advanced up to one poll before it was seen to.
    return agent.newest.age_seconds <= quiet + poll
