"""The rescue of files that dead pods have left in a volume: a PersistentVolumeClaim, a network file system, a folder of a Node.

::

    Saving: intent → no pod of the run is replaced → its nodes are released → the rescue Job, suspended → its uid in the
            status → the Job starts → its agent saves → Verifying
    Deleting: the rescue Job is deleted; what pods wrote after the proof is rescued in the same way (`late_rescue`)

The nodes are released first unless the volume is on one of them. Whatever keeps the files from being saved for now holds the stop, because they
are still there; what has destroyed them is a data loss.

No agent of a rescue runs after its stop. A Job starts only by its uid, after the status of a stop that rescues has named it; and a stop does not
leave Deleting before that Job is gone. So a Job that is created late is never started, and a late start finds no Job of this uid.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from trainingrun_operator.api import names
from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.api.status import Phase, Rescue
from trainingrun_operator.core import release, rescue_job
from trainingrun_operator.core.bounds import TEXT_MAX, clipped
from trainingrun_operator.core.effects import (
    CreateRescue,
    DeleteRescue,
    Effect,
    StartRescue,
    SuspendWorkload,
)
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.kept_volume import ended_volume, kept_volume
from trainingrun_operator.core.stop import transitions
from trainingrun_operator.core.stop.requests import SAVING, rescues_late

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainingrun_operator.api.status import Termination
    from trainingrun_operator.core.effects import Decision
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.facts.rescue import Claim, RescueFacts
    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.core.kept_volume import KeptVolume
    from trainingrun_operator.core.observed import Observed


def volume_to_read(run: Run, pods: Sequence[Pod]) -> KeptVolume | None:
    """Return the volume that a look has to read about: a stop is to save, no pod can, and the files may be there. None: there is none."""
    stop = run.status.termination
    if stop is None or stop.phase is Phase.DONE:
        return None
    wanted = (stop.phase in SAVING and stop.saved is None) or may_lack(run)
    if stop.rescue is None and (not wanted or any(_still_saves(pod, stop) for pod in pods)):
        return None
    volume = kept_volume(run, last_pod(run, pods))
    return replace(volume, claim=stop.rescue.claim) if volume is not None and stop.rescue is not None else volume


def _still_saves(pod: Pod, stop: Termination) -> bool:
    """Whether a pod may still save its files itself. In Deleting, none does that is silent and was told to go."""
    given_up = stop.phase is Phase.DELETING and pod.unreachable and pod.deleting
    return pod.holds_files and not given_up


def may_lack(run: Run) -> bool:
    """Whether a stop in Deleting rests on a proof of less than everything, and no rescue has begun in this phase."""
    stop = run.status.termination
    if stop is None or stop.phase is not Phase.DELETING or stop.saved is None or stop.saved.final or stop.data_loss:
        return False
    began = stop.rescue is not None and stop.rescue.attempt
    return not began and run.spec.checkpoint.mode is not CheckpointMode.DISABLED


def impossible(seen: Observed, volume: KeptVolume) -> str:
    """Return why no rescue Job can save the files, although they are there; empty: one can."""
    if len(seen.ranks) > 1:
        return f"the run has {len(seen.ranks)} ranks, and a rescue saves the files of one"
    facts = seen.rescue
    if facts is not None and volume.on_host and not facts.last_node:
        return "it is not known on which Node they are"
    if facts is not None and volume.on_host and facts.other_machine:
        return f"Node {facts.last_node} has another uid than the one that the pod ran on, so it may be another machine"
    return volume.unmountable


def releases_first(stop: Termination | None) -> bool:
    """Whether the nodes of the run are being released before its files are saved: the volume is on none of them."""
    if stop is None or stop.rescue is None or stop.rescue.node:
        return False
    return stop.phase in SAVING or rescues_late(stop)


def releases(stop: Termination | None) -> bool:
    """Whether the nodes of the run are being released."""
    return releases_first(stop) or (stop is not None and stop.phase is Phase.RELEASING)


def saver(seen: Observed) -> Pod | None:
    """Return the pod of the rescue Job if its agent can save."""
    facts = seen.rescue
    return facts.pod if facts is not None and facts.saves else None


def intent(seen: Observed) -> Rescue | None:
    """Return the rescue to begin; None: one has begun, or there is nothing to rescue from."""
    facts, stop = seen.rescue, seen.run.status.termination
    return None if facts is None or stop is None or stop.rescue is not None else plan(seen, facts)


def plan(seen: Observed, facts: RescueFacts) -> Rescue:
    """Return a rescue of what the facts say: from which volume, and where."""
    # A volume of one Node at a time is easiest mounted where it was; one on a disk of a Node can be mounted nowhere else.
    if len(facts.hosts) == 1:
        node = facts.last_node or facts.hosts[0]
    else:
        node = facts.home if facts.hosts or not facts.shared else ""
    started = next((pod.started_at for pod in reversed(seen.pods) if pod.started_at), "")
    claim, volume = (facts.claim.name, "") if facts.claim is not None else ("", clipped(facts.named, TEXT_MAX))
    return Rescue(claim=claim, volume=volume, node=node, since=clipped(started, TEXT_MAX))


def gone(seen: Observed) -> str:
    """Return why the volume has no files of the run any more; empty: it may have them."""
    facts = seen.rescue
    if facts is None:
        return ""
    if facts.claim is not None and (why := _claim_gone(seen, facts.claim, facts.named)):
        return why
    dead = {pod.node for pod in seen.pods if pod.lost}
    if facts.hosts and dead.issuperset(facts.hosts):
        named = facts.named
        what = f"The volume of {named}" if facts.claim is not None else f"{named[:1].upper()}{named[1:]}"
        return f"{what} is on {', '.join(facts.hosts)}, whose machine is gone."
    return ""


def whereabouts(seen: Observed) -> str:
    """Return the sentence about where the files of a data loss were, or still are; empty: it is not known."""
    if why := gone(seen):
        return why
    volume = kept_volume(seen.run, last_pod(seen.run, seen.pods))
    if volume is None:
        ended = ended_volume(seen.run)
        return f"Those files were in {ended}, which ends with its pod." if ended else ""
    if seen.namespace_ends and volume.claim:
        return f"Those files were in {volume.words}, which is deleted with its namespace."
    if volume.of_pod:
        return f"Those files were in {volume.words}, which is deleted with its pod."
    if volume.on_host:
        node = next((pod.node for pod in reversed(seen.pods) if pod.node), "of the pod")
        return f"Those files were in {volume.words}, on the disk of Node {node}."
    return f"Those files may still be in {volume.words}: the operator deletes nothing there."


def _claim_gone(seen: Observed, claim: Claim, named: str) -> str:
    if not claim.uid:
        return f"{named} was deleted, and with it what only it had."
    if claim.deleting:
        return f"{named} is being deleted, so that no pod can mount it any more."
    if claim.phase == "Lost":
        return f"{named} has lost its PersistentVolume {claim.volume}."
    if claim.phase == "Pending":
        return f"{named} is not bound to a volume: it is not the one that the training wrote to."
    if claim.created and seen.seconds_since(claim.created) < _since_training(seen):
        return f"{named} was created at {claim.created}, after the training had started: the one before it is gone."
    return ""


def _since_training(seen: Observed) -> float:
    """Return the seconds since the last moment at which a training is known to have run: its claim is older. Each pod may have a claim of its own."""
    status = seen.run.status
    rescue = status.termination.rescue if status.termination is not None else None
    known = [status.start_time, rescue.since if rescue is not None else "", *(pod.started_at for pod in seen.pods)]
    known.append(status.progress.last_observation_time if status.progress is not None else None)
    return min((seen.seconds_since(moment) for moment in known if moment), default=float("-inf"))


def effects(seen: Observed, stop: Termination) -> tuple[Effect, ...]:
    """Return what to do next for a rescue that has begun."""
    facts, rescue = seen.rescue, stop.rescue
    if facts is None or rescue is None:
        return ()
    released = release.next_effects(seen) if releases_first(stop) and release.unsettled(seen.run.status.nodes) else ()
    if seen.workload is not None and not replaces_none(seen):
        return (SuspendWorkload(seen.workload.uid, seen.workload.generation),)
    if facts.job is not None and facts.job.termination_id and facts.job.termination_id != stop.id:
        # Of a suspension before this stop.
        return released if facts.job.deleting else (*released, DeleteRescue(facts.job.name, facts.job.uid))
    if facts.job is not None and facts.job.waits and facts.job.termination_id and facts.job.uid == rescue.job:
        return (*released, StartRescue(facts.job.name, facts.job.uid, facts.job.generation))
    if facts.job is not None or _waits_for_release(seen, stop) or _still_there(seen):
        return released
    return (*released, CreateRescue(rescue_job.job(seen, stop, rescue), stop.id))


def named(seen: Observed, stop: Termination) -> Decision | None:
    """Name the rescue Job in the status before it starts; None: there is none to start, or it is named.

    The attempt is raised, so that whoever decided without this Job cannot write the stop's next phase.
    """
    job, rescue = seen.rescue.job if seen.rescue is not None else None, stop.rescue
    if job is None or rescue is None or not job.waits or job.termination_id != stop.id or job.uid == rescue.job:
        return None
    phase = Phase.SAVING if stop.phase is Phase.VERIFYING else stop.phase
    after = rescue.model_copy(update={"job": job.uid})
    return transitions.advance(seen, stop, phase, attempt=stop.attempt + 1, rescue=after, hold_reason=stop.hold_reason)


def replaces_none(seen: Observed) -> bool:
    """Whether the workload replaces no pod any more, so that those left end."""
    workload = seen.workload
    return workload is None or workload.suspended or workload.finished or workload.deleting


def where(seen: Observed) -> str:
    """Return the sentence about the place of the files."""
    named = seen.rescue.named if seen.rescue is not None else "the volume of the run"
    return f"The files of the dead pod are in {named}."


def waits(seen: Observed, stop: Termination) -> str:
    """Return what the rescue waits for."""
    facts = seen.rescue
    if facts is None or stop.rescue is None:
        return "the volume with the files is read"
    if _still_there(seen):
        return "the pods of the run end"
    if facts.job is None and _waits_for_release(seen, stop):
        return "the nodes are released before the rescue Job starts"
    return trouble(seen, stop)


def trouble(seen: Observed, stop: Termination) -> str:
    """Return what keeps the files from being saved, in the words of whoever knows."""
    facts = seen.rescue
    if facts is None or stop.rescue is None:
        return "The volume with the files was not read."
    return f"{where(seen)} {_of_job(facts, names.rescue_name(seen.run.name)) or _of_pod(facts, names.rescue_name(seen.run.name))}"


def _of_job(facts: RescueFacts, name: str) -> str:
    """Return why the rescue Job has no pod that could save; empty: it may have one."""
    job = facts.job
    if facts.refused:
        return f"The API server refuses the rescue Job {name}: {facts.refused}"
    if job is None:
        return f"The rescue Job {name} is not there yet."
    if not job.termination_id:
        return f"Job {name} is in the way of the rescue: it belongs to another owner. Delete or rename it."
    if job.failed or job.complete:
        how = f"failed ({job.failed})" if job.failed else "ended before the files were saved"
        return f"The rescue Job {name} {how}. Delete it, and the operator creates another."
    if job.waits:
        return f"The rescue Job {name} has not started yet."
    if job.suspended:
        return f"The rescue Job {name} is suspended, and not by the operator. Resume it: set its spec.suspend to false."
    return ""


def _of_pod(facts: RescueFacts, name: str) -> str:
    """Return what the rescue pod lacks or does."""
    pod = facts.pod
    if pod is None:
        return f"The rescue Job {name} has no pod yet."
    if facts.report is not None and (error := facts.report.error) is not None:
        return f"The agent of the rescue pod {pod.name} cannot save: {error.code}: {error.message}"
    if facts.saves:
        said = "does not answer" if facts.report is None else "saves"
        return f"The agent of the rescue pod {pod.name} {said}."
    why = ": ".join(filter(None, (pod.waiting_reason, pod.waiting_message))) or pod.phase
    resized = f" {facts.named} is being resized." if facts.claim is not None and facts.claim.resizing else ""
    return f"The rescue pod {pod.name} does not run yet ({why}).{resized}"


def patient(seen: Observed, stop: Termination, seconds: float) -> bool:
    """Whether it is too early to say that the rescue fails: it has made no progress for less than these seconds."""
    job = seen.rescue.job if seen.rescue is not None else None
    if job is None and _waits_for_release(seen, stop):
        return True
    return seen.no_progress_seconds < seconds


def end(seen: Observed) -> tuple[Effect, ...] | None:
    """Return what ends the rescue Job after the proof; None: nothing of it is left."""
    facts, stop = seen.rescue, seen.run.status.termination
    if facts is None or stop is None or stop.rescue is None:
        return None
    if (job := facts.job) is not None and (job.termination_id == stop.id or job.uid == stop.rescue.job):
        return () if job.deleting else (DeleteRescue(job.name, job.uid),)
    return () if facts.left else None


def _waits_for_release(seen: Observed, stop: Termination) -> bool:
    """Whether nodes are still being released. A release that takes too long delays the rescue no further: the Job runs on other nodes."""
    waiting = releases_first(stop) and release.unsettled(seen.run.status.nodes)
    return bool(waiting) and seen.phase_seconds < seen.defaults.node_removal_seconds


def _still_there(seen: Observed) -> bool:
    """Whether a pod has yet to end: one that has not trained, or, in Deleting, one that is silent."""
    late = rescues_late(seen.run.status.termination)
    return any(late or pod.training is Training.NOT_STARTED for pod in seen.live_pods)


def last_pod(run: Run, pods: Sequence[Pod]) -> str:
    """Return the name of the run's last pod; empty: none is known."""
    if pods:
        return pods[-1].name
    return run.status.pods[-1].name if run.status.pods else ""
