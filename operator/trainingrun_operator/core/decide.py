"""The story of a run, top to bottom: what to do next with what is seen."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import SaveRequest
from trainingrun_operator.api.run import CheckpointMode, OnFailure
from trainingrun_operator.api.status import Evidence, Phase, TerminationStatus
from trainingrun_operator.core import acceptance, manifests, release
from trainingrun_operator.core.bounds import TEXT_MAX, clipped
from trainingrun_operator.core.effects import AddFinalizer, Annotate, CreateJob, Decision, Effect, RecordNodes, Tell
from trainingrun_operator.core.facts.bucket import Mismatch, Verified
from trainingrun_operator.core.rules import completion, loss
from trainingrun_operator.core.rules.verdict import Verdict
from trainingrun_operator.core.stop import disruption, suspension, termination, transitions

if TYPE_CHECKING:
    from trainingrun_operator.api.status import Termination
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.observed import Observed

NODES_MAX: Final = 64
"""As the schema bounds ``status.nodes``; of a run that wandered over more, the newest are given back."""


def decide(seen: Observed) -> Decision:
    """Return what to do now. Total: whatever is seen, there is a decision."""
    decision = _story(seen)
    return replace(decision, effects=(*disruption.effects(seen), *release.deserted(seen), *decision.effects))


def _story(seen: Observed) -> Decision:
    stop = seen.run.status.termination
    if stop is not None and stop.phase is Phase.DONE:
        return _suspended(seen, stop) if stop.suspends else termination.step(seen, stop)
    if (nodes := release.recorded(seen)[-NODES_MAX:]) != seen.run.status.nodes:
        return Decision((RecordNodes(nodes),), again_seconds=0)
    if stop is not None:
        return termination.step(seen, stop)
    if seen.run.deleting and names.FINALIZER not in seen.run.finalizers:
        return Decision(note="deleted before anything of it existed")
    if verdict := why_end(seen):
        return termination.begin(seen, verdict)
    if seen.job is None:
        return _start(seen)
    if seen.run.spec.suspend:
        return suspension.begin(seen)
    if (pod := seen.pod) is not None and pod.waits_behind_gate:
        return _replace(seen, pod)
    return Decision(again_seconds=seen.run.spec.poll_interval_seconds, note="watching")


def why_end(seen: Observed) -> Verdict | None:
    """Return the first reason to end the run: what people said, what the training said, what its numbers say."""
    return (
        _deleted(seen)
        or _ended_before(seen)
        or _user_stop(seen)
        or _stop_file(seen)
        or _job_gone(seen)
        or completion.exited(seen)
        or completion.never_started(seen)
        or loss.low_loss(seen)
        or _settled_completion(seen)
    )


def _suspended(seen: Observed, stop: Termination) -> Decision:
    """A run that rests ends only for what people do to it, and with the checkpoint that it was suspended with."""
    if verdict := _deleted(seen) or _user_stop(seen) or _job_gone(seen):
        return termination.begin(seen, verdict, stop)
    return suspension.rest(seen, stop)


def _deleted(seen: Observed) -> Verdict | None:
    return (
        Verdict(TerminationStatus.DELETED, "The TrainingRun was deleted.", actor="kubectl delete")
        if seen.run.deleting
        else None
    )


def _ended_before(seen: Observed) -> Verdict | None:
    """A cluster that was restored from a backup may know less of a run than the bucket: a run ends once."""
    if seen.job is not None or seen.ended_before is None:
        return None
    commit = seen.ended_before.commit
    known = next((status for status in TerminationStatus if status.value == commit.status), None)
    why = f"as {known.value}" if known else "for a reason that is not known any more"
    return Verdict(
        known or TerminationStatus.FAILED,
        f"This run had ended before, {why}: its bucket knows more of it than the cluster, which was restored from a backup.",
        actor="bucket",
        evidence=(Evidence(what="commit", value=clipped(seen.ended_before.key, TEXT_MAX)),),
    )


def _user_stop(seen: Observed) -> Verdict | None:
    if not seen.run.spec.stop:
        return None
    reason = f" ({seen.run.spec.stop_reason})" if seen.run.spec.stop_reason else ""
    return Verdict(
        TerminationStatus.USER_STOP,
        f"Stopped by hand: spec.stop is true{reason}.",
        actor=seen.run.spec.stopped_by or seen.run.stop_manager or "spec.stop",
    )


def _stop_file(seen: Observed) -> Verdict | None:
    if seen.agent is None or not seen.agent.foreign_stop_file:
        return None
    name = seen.run.spec.shutdown.file
    return Verdict(
        TerminationStatus.USER_STOP,
        f"Stopped by hand: somebody wrote the stop file {name}.",
        actor="stop file",
        evidence=(Evidence(what="stopFile", value=name),),
    )


def _job_gone(seen: Observed) -> Verdict | None:
    if seen.job is not None or seen.run.status.workload is None:
        return None
    if seen.namespace_ends:
        return Verdict(TerminationStatus.DELETED, "The namespace was deleted.", actor="kubectl delete")
    return Verdict(
        TerminationStatus.FAILED, f"Its Job {seen.run.status.workload.name} was deleted by somebody else.", actor="Job"
    )


def _settled_completion(seen: Observed) -> Verdict | None:
    """A completion that is only inferred must have held for as long as the last writes may take."""
    verdict = completion.inferred(seen)
    long_enough = (
        seen.candidate_seconds is not None and seen.candidate_seconds >= seen.run.spec.completion.settle_seconds
    )
    return verdict if long_enough else None


def _start(seen: Observed) -> Decision:
    """Refuse with words, or protect the run and only then create something; of a run that is suspended from its beginning, nothing."""
    if (problem := seen.problem or acceptance.refusal(seen)) is not None:
        return Decision(
            again_seconds=None if problem.permanent else seen.run.spec.poll_interval_seconds, note=problem.message
        )
    if seen.run.spec.suspend:
        return Decision(note="suspended before it began")
    if names.FINALIZER not in seen.run.finalizers:
        return Decision((AddFinalizer(),), again_seconds=0)
    return Decision(
        (CreateJob(manifests.job(seen.run, seen.defaults)), Tell("Started", "The Job was created.")),
        again_seconds=seen.run.spec.poll_interval_seconds,
    )


def _replace(seen: Observed, pod: Pod) -> Decision:
    """Save what a crashed pod left behind its gate, prove it, then let the Job replace the pod."""
    if seen.run.spec.checkpoint.mode is CheckpointMode.DISABLED or isinstance(seen.answer, Verified):
        return _let_go(seen, pod)
    hopeless = seen.save_failing_seconds >= seen.defaults.hold_after_seconds
    if hopeless and seen.run.spec.checkpoint.on_failure is OnFailure.PROCEED:
        return _let_go(seen, pod)
    attempt = pod.save.attempt if pod.save is not None else 1
    request = SaveRequest(id=f"crash-{pod.uid}", attempt=attempt + isinstance(seen.answer, Mismatch), ended=True)
    ask = transitions.ask_to_save(pod, request)
    nudge = transitions.nudges(seen, "Saving", seen.save_failing_seconds)
    return Decision(
        (ask, *nudge) if ask else nudge,
        again_seconds=transitions.patience(seen, seen.save_failing_seconds),
        note="a crashed pod is saved behind its gate",
    )


def _let_go(seen: Observed, pod: Pod) -> Decision:
    effects: tuple[Effect, ...] = (
        Annotate(pod.name, pod.uid, names.RELEASED_ANNOTATION, f"crash-{pod.uid}"),
        Tell(
            "Restarting",
            f"Training ended with exit code {pod.exit_code}; what it left is saved, and pod {pod.name} is replaced ({completion.crashes(seen, pod)} of {seen.run.spec.backoff_limit} restarts).",
            warning=True,
        ),
    )
    return Decision(effects, again_seconds=seen.defaults.termination_look_seconds)
