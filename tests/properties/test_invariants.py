"""The invariants of docs/, over anything that may be observed. Each of them can fail."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from properties.strategies import READINGS, WALL, StoredPod, beginning, observations, releasing, saving

from trainingrun_operator.api import names
from trainingrun_operator.api.run import CheckpointMode, OnFailure
from trainingrun_operator.api.status import NodePhase, Phase, TrainingRunStatus
from trainingrun_operator.controller import tally
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.effects import (
    Advance,
    Annotate,
    Begin,
    CreateRescue,
    DeleteNode,
    DeletePod,
    DeleteRescue,
    DeleteRun,
    DeleteWorkload,
    RecordNodes,
    ReleaseMachine,
    RemoveFinalizer,
    Resume,
    ResumeWorkload,
    StartRescue,
    SuspendWorkload,
    TaintNode,
    UntaintNode,
)
from trainingrun_operator.core.facts.bucket import Mismatch, Unreachable, Verified
from trainingrun_operator.core.facts.nodes import Instance
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.release import facts_of as facts_of_node
from trainingrun_operator.core.rules import chain
from trainingrun_operator.core.status import render
from trainingrun_operator.core.stop.proving import saved_from
from trainingrun_operator.core.stop.requests import rescues_late
from trainingrun_operator.core.track import Track, fold
from trainingrun_operator.exporter import Telemetry, series_of

pytestmark = pytest.mark.timeout(900)
"""Many examples: on a busy machine they take minutes."""

CRD = Path(__file__).parents[2] / "crds" / "trainingrun.dev_trainingruns.yaml"
SCHEMA = yaml.safe_load(CRD.read_text(encoding="utf-8"))["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
STATUS = jsonschema.Draft202012Validator(SCHEMA["properties"]["status"])

ENDING = (Phase.DELETING, Phase.RELEASING, Phase.DONE)
RANK = {p: i for i, p in enumerate((Phase.REQUESTED, Phase.DRAINING, Phase.SAVING, *ENDING))}
RANK |= {Phase.VERIFYING: RANK[Phase.SAVING], Phase.HELD: RANK[Phase.SAVING]}

look = settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))


def effects_of(seen, *kinds):
    return [effect for effect in decide(seen).effects if isinstance(effect, kinds)]


def refused(status: TrainingRunStatus):
    """What the API server would complain about."""
    return [f"{'/'.join(map(str, error.path))}: {error.message[:200]}" for error in STATUS.iter_errors(status.dump())]


def facts_of(seen, node):
    return [f for f in seen.nodes if f.name == node.name and f.uid in (node.uid, None)]


# -- I9 -----------------------------------------------------------------------------------------------------------


def whatever_is_seen_there_is_a_decision_and_a_status_that_the_api_server_takes(seen):
    decision = decide(seen)
    status = render(seen)
    assert refused(status) == []
    for effect in decision.effects:
        match effect:
            case Begin(termination) | Advance(termination):
                assert refused(TrainingRunStatus(termination=termination)) == []
            case RecordNodes(nodes):
                assert refused(TrainingRunStatus(nodes=nodes)) == []
            case _:
                pass


def whatever_is_seen_can_be_counted_and_shown(seen):
    telemetry = Telemetry(CollectorRegistry())
    counted = tally.count(telemetry, seen, decide(seen), tally.Counted())
    tally.count(telemetry, replace(seen, now=seen.now + 1), decide(seen), counted)
    run, status = seen.run, render(seen)
    telemetry.runs.put(run.uid, series_of(run.namespace, run.name, run.spec, status, tally.measured(seen)))
    assert telemetry.page()


def deciding_twice_is_deciding_once_and_changes_nothing_that_was_seen(seen):
    template = deepcopy(seen.run.spec.template)
    status = seen.run.status.dump()
    first, shown = decide(seen), render(seen)
    assert (decide(seen), render(seen)) == (first, shown)
    assert seen.run.spec.template == template
    assert seen.run.status.dump() == status


@look
@given(READINGS, READINGS, READINGS)
def test_any_readings_can_be_folded(one, two, three):
    track = Track()
    for now, reading in enumerate((one, two, three)):
        track = fold(track, reading, pod_uid="p", now=float(now))
    assert track.loss is None or track.best_loss is not None
    assert [o.step for o in track.observations] == sorted({o.step for o in track.observations})
    assert track.eta_seconds(1e9) is None or track.advanced


# -- I1 -----------------------------------------------------------------------------------------------------------


def nothing_is_deleted_without_a_record_of_what_was_saved(seen):
    stop = seen.run.status.termination
    destroying = effects_of(seen, DeletePod, SuspendWorkload, DeleteWorkload, ReleaseMachine, DeleteNode, TaintNode)
    releasing = [e for e in effects_of(seen, Annotate) if e.key == names.OPEN_GATE_ANNOTATION]
    if stop is None:
        # What is left of a pod once its gate was opened, which is asserted below, and has let go of it.
        finished = {p.uid for p in seen.live_pods if p.gate_open and p.gate_left and p.training is Training.EXITED}
        assert all(isinstance(effect, DeletePod) and effect.uid in finished for effect in destroying)
    elif destroying:
        assert stop.phase in ENDING or files_stay_in_their_claim(seen, stop, destroying)
    if releasing and stop is not None:
        assert not stop.suspends
        assert stop.phase is Phase.DELETING
        assert stop.saved is not None
        assert stop.saved.final
    if releasing and stop is None:
        spec, useless = seen.run.spec.checkpoint, isinstance(seen.answer, Mismatch) and not seen.answer.curable
        given_up = useless or seen.save_failing_seconds >= seen.defaults.hold_after_seconds
        assert (
            (isinstance(seen.answer, Verified) and seen.answer.commit.final)
            or spec.mode is CheckpointMode.DISABLED
            or (spec.on_failure is OnFailure.PROCEED and given_up)
        )


def a_grace_that_a_stop_gives_is_shorter_than_the_pods_own_and_leaves_the_training_all_of_its_own(seen):
    for effect in effects_of(seen, DeletePod):
        if effect.grace_seconds is None:
            continue
        pod = next(pod for pod in seen.pods if pod.uid == effect.uid)
        # Without any grace, the API server would forget a pod that still runs.
        assert max(1, seen.run.spec.shutdown.grace_seconds) <= effect.grace_seconds < pod.grace_seconds
        assert not pod.deleting
        if pod.training is Training.RUNNING:
            assert pod.trains_alone
            assert all(report.temporary_files == 0 and report.unfinished is None for report in seen.reports)
        else:
            assert pod.gate_left
            assert not pod.writers
        event(f"shortens the grace of a pod whose training is {pod.training.value}")


def files_stay_in_their_claim(seen, stop, destroying) -> bool:
    """A rescue lets go of what has no files: pods that never trained, and nodes without the volume. The claim itself is never touched."""
    assert not any(has_run(pod) for pod in seen.live_pods)
    of_nodes = [effect for effect in destroying if not isinstance(effect, SuspendWorkload)]
    assert all(isinstance(effect, ReleaseMachine | DeleteNode | TaintNode) for effect in of_nodes)
    return stop.rescue is not None and seen.rescue is not None and not (of_nodes and stop.rescue.node)


def every_record_of_a_deletion_is_a_proof_or_an_exception_that_is_told(seen):
    """Where the record comes from that lets a stop delete, not only that there is one."""
    stop = seen.run.status.termination
    for effect in effects_of(seen, Advance):
        after = effect.termination
        if after.phase is not Phase.DELETING:
            continue
        assert after.saved is not None
        if stop.phase is Phase.DELETING:
            given_up = after.saved.gave_up and after.saved.note
            # The same record, with what may be missing from it: a container beside the training could still write.
            told = after.saved.note and after.saved == stop.saved.model_copy(update={"note": after.saved.note})
            # A commit from before the training's last write: nothing is deleted for it, another save is requested.
            asks = isinstance(seen.answer, Verified) and after.saved == saved_from(seen.answer)
            asks = asks and after.attempt > stop.attempt and waits_for_its_last_save(seen, stop)
            # The steps of a rescue leave the record as it is.
            kept = after.saved == stop.saved and after.rescue
            assert given_up or told or kept or asks or is_proof(seen, after.saved)
            event("deletes with a later record")
            continue
        origin = origin_of(seen, stop, after)
        event(f"deletes: {origin}")
        assert origin


def origin_of(seen, stop, after) -> str:
    """The one thing that allows this record; empty: nothing does."""
    saved, spec = after.saved, seen.run.spec.checkpoint
    told = bool(after.data_loss and saved.note)
    if stop.phase is Phase.VERIFYING and is_proof(seen, saved):
        return "the answer to the save request, read now"
    if spec.mode is CheckpointMode.DISABLED and stop.phase is Phase.DRAINING:
        return "nothing is to be saved" if saved.note else ""
    if told and (spec.on_failure is OnFailure.PROCEED or seen.namespace_ends):
        return "given up"
    if any(has_run(pod) for pod in seen.live_pods):
        return "nothing was written" if saved.note and not saved.final and is_known_to_have_nothing(seen) else ""
    if isinstance(seen.answer, Unreachable):
        return ""
    if stop.saved is not None:
        return "the record of the suspension" if saved == stop.saved or after.data_loss else ""
    read = [found for found in (seen.verified, seen.answer) if isinstance(found, Verified)]
    if read:
        last = next((found for found in read if saved == saved_from(found)), None)
        return "the last commit, and no pod" if last is not None and (after.data_loss or last.commit.final) else ""
    if after.data_loss:
        return "no pod, and no commit"
    started = seen.run.status.start_time or any(has_run(pod) for pod in seen.pods)
    return "never started" if saved.note and not saved.final and not started else ""


def waits_for_its_last_save(seen, stop) -> bool:
    """Whether the training has exited by itself in Deleting, and what it wrote at last is not proven."""
    behind_gate = bool(seen.live_pods) and all(pod.waits_behind_gate for pod in seen.live_pods)
    record = stop.saved is not None and not (stop.saved.final or stop.saved.gave_up) and stop.data_loss is None
    works = seen.workload is not None and not (seen.workload.finished or seen.workload.suspended)
    return behind_gate and record and works and stop.phase is Phase.DELETING and not rescues_late(stop)


def what_exited_by_itself_is_saved_before_it_is_deleted(seen):
    stop = seen.run.status.termination
    if stop is None or seen.run.spec.checkpoint.mode is CheckpointMode.DISABLED:
        return
    if waits_for_its_last_save(seen, stop):
        event("waits for the last save of what exited by itself")
        alive = {pod.uid for pod in seen.live_pods}
        assert not effects_of(seen, SuspendWorkload, DeleteWorkload)
        assert not any(effect.uid in alive for effect in effects_of(seen, DeletePod))


def is_proof(seen, saved) -> bool:
    """Whether the record is of a commit that answers the request and was read after the last write."""
    if not isinstance(seen.answer, Verified) or saved != saved_from(seen.answer):
        return False
    runs = any(pod.training is Training.RUNNING for pod in seen.live_pods)
    return runs or seen.answer.commit.final


def has_run(pod) -> bool:
    """Whether a container of the author has ever run in the pod, by its stored object where there is one."""
    return pod.anything_ran if isinstance(pod, StoredPod) else pod.training is not Training.NOT_STARTED


def is_known_to_have_nothing(seen) -> bool:
    """Whether it is known, not only not known otherwise, that the training has nothing to lose."""
    reports = [rank.report for rank in seen.ranks]
    looked = all(report is not None and (report.files, report.temporary_files) == (0, 0) for report in reports)
    shipped = any(report is not None and (report.commit or report.manifest) for report in reports)
    recorded = (
        seen.run.status.checkpoint is not None or seen.verified is not None or seen.run.status.progress is not None
    )
    track = seen.track
    failed = track.oddity is not None and track.oddity.reason in ("Timeout", "HTTPStatus")
    stands = track.baseline == 0 and not failed and not any(rank.track.advanced for rank in seen.ranks)
    trains = any(pod.training is Training.RUNNING for pod in seen.live_pods)
    return bool(looked and stands and trains and not shipped and not recorded)


# -- I3 -----------------------------------------------------------------------------------------------------------


def why_a_run_ends_never_changes_and_its_phases_only_go_forward(seen):
    stop = seen.run.status.termination
    begins, advances = effects_of(seen, Begin), effects_of(seen, Advance)
    assert len(begins) + len(advances) <= 1
    if stop is not None and not rests(stop):
        assert begins == []
    for effect in advances:
        assert stop is not None
        after = effect.termination
        assert (after.id, after.status, after.message, after.actor, after.evidence, after.requested_at) == (
            stop.id, stop.status, stop.message, stop.actor, stop.evidence, stop.requested_at,
        )  # fmt: skip
        assert (effect.was_phase, effect.was_attempt) == (stop.phase, stop.attempt)
        mode = seen.run.spec.stop_mode
        only_its_mode = after != stop and after == stop.model_copy(update={"mode": mode})
        only_a_wait = (
            stop.wait is None and after.wait is not None and after == stop.model_copy(update={"wait": after.wait})
        )
        assert (
            after.phase is not stop.phase
            or after.attempt > stop.attempt
            or only_its_mode
            or only_a_wait
            or only_its_note(stop, after)
        )
        assert RANK[after.phase] >= RANK[stop.phase]
        assert after.attempt >= stop.attempt


def only_its_note(stop, after) -> bool:
    """Whether nothing changes but what the record says of itself, once."""
    if stop.saved is None or after.saved is None or stop.saved.note == after.saved.note:
        return False
    said = {"note": after.saved.note, "gave_up": after.saved.gave_up}
    told = stop.model_copy(update={"saved": stop.saved.model_copy(update=said), "phase_at": after.phase_at})
    return bool(after == told)


def rests(stop):
    return stop.suspends and stop.phase is Phase.DONE


def only_a_suspension_that_is_over_is_forgotten(seen):
    stop = seen.run.status.termination
    for effect in effects_of(seen, Resume):
        assert stop is not None
        assert rests(stop)
        assert effect.id == stop.id
    for _ in effects_of(seen, ResumeWorkload):
        assert rests(stop)
        assert not seen.run.spec.suspend
        assert not seen.run.spec.stop
        assert not seen.run.deleting


def a_rescue_starts_only_if_its_unfinished_stop_has_named_it(seen):
    for effect in effects_of(seen, StartRescue):
        stop, job = seen.run.status.termination, seen.rescue.job
        assert stop.phase in (Phase.SAVING, Phase.VERIFYING, Phase.HELD) or saves_after_the_proof(stop)
        assert (stop.id, stop.rescue.job) == (job.termination_id, effect.uid)
        assert (effect.uid, effect.generation) == (job.uid, job.generation)
        event("starts a rescue")
    for effect in effects_of(seen, Advance):
        if effect.termination.phase is Phase.RELEASING and effect.termination.rescue and seen.rescue is not None:
            job = seen.rescue.job
            assert job is None or job.uid != effect.termination.rescue.job, "It may run."


def saves_after_the_proof(stop) -> bool:
    rescued = stop.rescue
    return stop.phase is Phase.DELETING and rescued is not None and rescued.attempt > 0 and not rescued.over


def a_rescue_after_the_proof_keeps_the_node_with_its_files(seen):
    stop = seen.run.status.termination
    if stop is not None and saves_after_the_proof(stop) and stop.rescue.node:
        assert not effects_of(seen, ReleaseMachine, TaintNode)
    for _ in effects_of(seen, CreateRescue):
        if stop.phase is Phase.DELETING:
            assert saves_after_the_proof(stop)
            assert not seen.live_pods, "They may still write."
            event("rescues after the proof")


def intent_comes_before_effect(seen):
    """A decision that writes a stop's next phase does nothing else to the world."""
    if effects_of(seen, Advance, Begin):
        assert (
            effects_of(
                seen,
                Annotate,
                CreateRescue,
                StartRescue,
                DeleteRescue,
                DeletePod,
                DeleteWorkload,
                SuspendWorkload,
                ReleaseMachine,
                DeleteNode,
                TaintNode,
            )
            == []
        )


# -- I5 -----------------------------------------------------------------------------------------------------------


def no_decision_from_a_stale_an_odd_or_a_never_advanced_sample(seen):
    for effect in effects_of(seen, Begin):
        by_loss = effect.termination.status == "auto_low_loss"
        if by_loss or effect.termination.actor == "stallPolls":
            assert seen.track.advanced
            assert seen.track.oddity is None
        if by_loss:
            assert seen.track.loss_at is not None
            assert seen.now - seen.track.loss_at <= seen.defaults.stale_after_seconds


# -- nodes --------------------------------------------------------------------------------------------------------


def a_machine_goes_only_when_it_is_empty_and_ours(seen):
    for effect in effects_of(seen, ReleaseMachine):
        asked = [n for n in seen.run.status.nodes if n.provider_id == effect.provider_id and n.pool == effect.pool]
        assert any(node.phase in (NodePhase.RELEASING, NodePhase.VERIFYING) for node in asked)
        found = [f for node in asked for f in facts_of(seen, node)]
        assert any(f.uid is None or (f.occupants == () and f.tainted_by == seen.run.uid) for f in found)
    for effect in effects_of(seen, DeleteNode):
        assert any(f.uid == effect.uid and f.instance is Instance.GONE for f in seen.nodes)


def only_our_own_taint_is_taken_back_and_none_is_written_over(seen):
    taints = {(f.name, f.uid): f.tainted_by for f in reversed(seen.nodes)}
    for effect in effects_of(seen, UntaintNode):
        assert taints[effect.name, effect.uid] == (effect.orphan_of or seen.run.uid)
        orphaned = {(f.name, f.uid): f.taint_orphaned for f in reversed(seen.nodes)}
        assert not effect.orphan_of or orphaned[effect.name, effect.uid]
    for effect in effects_of(seen, TaintNode):
        assert taints[effect.name, effect.uid] is None


def a_node_that_is_kept_keeps_no_taint_of_ours(seen):
    """Unless its machine goes, or the same Node is recorded once more."""
    before = {node.uid: node for node in seen.run.status.nodes}
    taken_back = {(effect.name, effect.uid) for effect in effects_of(seen, UntaintNode)}
    for effect in effects_of(seen, RecordNodes):
        kept = [node for node in effect.nodes if node.phase is NodePhase.RETAINED]
        for node in (node for node in kept if node.uid in before and before[node.uid].phase is not NodePhase.RETAINED):
            found = facts_of_node(seen.nodes, before[node.uid])
            if found is None or found.tainted_by != seen.run.uid or found.uid is None:
                continue
            goes = found.instance in (Instance.TERMINATING, Instance.GONE)
            twice = found.uid != node.uid and found.uid in before
            assert goes or twice or (found.name, found.uid) in taken_back


def a_settled_node_stays_settled(seen):
    settled = {n.uid: n for n in seen.run.status.nodes if n.phase in (NodePhase.RELEASED, NodePhase.RETAINED)}
    for effect in effects_of(seen, RecordNodes):
        written = {node.uid: node for node in effect.nodes}
        assert all(written[uid] == node for uid, node in settled.items())


# -- the end ------------------------------------------------------------------------------------------------------


def the_finalizer_goes_only_when_everything_is_done(seen):
    if effects_of(seen, RemoveFinalizer):
        stop = seen.run.status.termination
        assert stop is not None
        assert stop.phase is Phase.DONE
        assert not stop.suspends


def done_without_a_finalizer_does_nothing_but_go_when_its_time_is_over(seen):
    stop = seen.run.status.termination
    if stop is None or stop.suspends:
        return
    done = seen.run.status.model_copy(update={"termination": stop.model_copy(update={"phase": Phase.DONE})})
    workload = replace(seen.workload, finished=True) if seen.workload is not None else None
    after = replace(seen, run=replace(seen.run, status=done, finalizers=()), workload=workload)
    goes = after.run.spec.ttl_seconds_after_finished in (0, 300) and done.completion_time and not after.run.deleting
    effects = decide(after).effects
    assert effects in ((), (DeleteRun(),) if goes else ())
    assert render(replace(after, wall=WALL)).phase in ("Succeeded", "Stopped", "Failed")


# -- findings -----------------------------------------------------------------------------------------------------


def a_run_ends_only_by_a_finding_that_fires_and_every_rule_speaks_once(seen):
    found = chain.findings(seen)
    assert len({one.rule for one in found}) == len(found)
    assert all(one.message and one.reason for one in found)
    assert [one.rule for one in render(seen).findings] == [one.rule for one in found]
    begun = [e.termination for e in effects_of(seen, Begin) if not e.termination.suspends]
    if begun and seen.run.status.termination is None:
        first = next(one for one in found if one.fires and one.enforced)
        assert begun[0].status == first.status


INVARIANTS = (
    whatever_is_seen_there_is_a_decision_and_a_status_that_the_api_server_takes,
    whatever_is_seen_can_be_counted_and_shown,
    deciding_twice_is_deciding_once_and_changes_nothing_that_was_seen,
    nothing_is_deleted_without_a_record_of_what_was_saved,
    a_grace_that_a_stop_gives_is_shorter_than_the_pods_own_and_leaves_the_training_all_of_its_own,
    every_record_of_a_deletion_is_a_proof_or_an_exception_that_is_told,
    what_exited_by_itself_is_saved_before_it_is_deleted,
    why_a_run_ends_never_changes_and_its_phases_only_go_forward,
    only_a_suspension_that_is_over_is_forgotten,
    a_rescue_starts_only_if_its_unfinished_stop_has_named_it,
    a_rescue_after_the_proof_keeps_the_node_with_its_files,
    intent_comes_before_effect,
    no_decision_from_a_stale_an_odd_or_a_never_advanced_sample,
    a_machine_goes_only_when_it_is_empty_and_ours,
    only_our_own_taint_is_taken_back_and_none_is_written_over,
    a_node_that_is_kept_keeps_no_taint_of_ours,
    a_settled_node_stays_settled,
    a_run_ends_only_by_a_finding_that_fires_and_every_rule_speaks_once,
    the_finalizer_goes_only_when_everything_is_done,
    done_without_a_finalizer_does_nothing_but_go_when_its_time_is_over,
)


@look
@given(observations())
def test_every_invariant_holds(seen):
    """Together, because making up what is seen costs more than looking at it."""
    event(f"phase {seen.run.status.termination.phase.value if seen.run.status.termination else 'none'}")
    for holds in INVARIANTS:
        holds(seen)


@look
@given(releasing())
def test_every_invariant_holds_for_a_node_on_its_way_back(seen):
    for holds in INVARIANTS:
        holds(seen)


@settings(look, max_examples=600)
@given(st.one_of(saving(), beginning()))
def test_a_stop_deletes_only_by_a_proof_or_by_an_exception_that_is_told(seen):
    every_record_of_a_deletion_is_a_proof_or_an_exception_that_is_told(seen)
