"""What is remembered of a run between two looks, and what of it is seen."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest
from builders import (
    NODE_UID,
    POD_UID,
    PROVIDER_ID,
    WALL,
    commit_key,
    exited_pod,
    make_agent,
    make_node,
    make_node_facts,
    make_pod,
    make_reading,
    make_refusal,
    make_run,
    make_status,
    make_stop,
    make_verified,
    make_workload,
    pending_pod,
)

from trainingrun_operator.api.exchange import CommitSeen, MarkerSeen, SaveRequest
from trainingrun_operator.api.spoiled import Spoiled
from trainingrun_operator.api.status import NodePhase, Phase
from trainingrun_operator.checkpoints.documents import Checkpoint
from trainingrun_operator.core.facts.gathered import Facts, Source
from trainingrun_operator.core.facts.learned import DisruptionBudgetChanged, JobRefused, ProviderAnswered, RescueRefused
from trainingrun_operator.core.facts.nodes import Instance
from trainingrun_operator.core.facts.rank import LastSaid
from trainingrun_operator.core.facts.rescue import Claim, RescueFacts, RescueJob
from trainingrun_operator.core.facts.run import Problem
from trainingrun_operator.core.memory import Memory, Stopwatch, remember, remember_effects
from trainingrun_operator.core.track import Track

COMMIT = CommitSeen(key=commit_key(1, 7), incarnation=1, generation=7, step=1200)
PROBLEM = Problem("AccessDenied", "s3://bucket answers AccessDenied.", permanent=False)


def make_facts(**fields):
    """A look at a run that trains."""
    made = Facts(make_run(), WALL, workload=make_workload(), pods=(make_pod(),), reports={0: make_agent()})
    if "agent" in fields:
        fields["reports"] = {0: agent} if (agent := fields.pop("agent")) is not None else {}
    if "reading" in fields:
        fields["readings"] = {0: fields.pop("reading")}
    return replace(made, **fields)


def stopping(phase, **stop):
    return make_run(status=make_status(termination=make_stop(phase, **stop), termination_status="auto_low_loss"))


def after(*looks, memory=None):
    """What is remembered and seen after looks, each with when it was taken."""
    memory = memory or Memory()
    seen = None
    for now, facts in looks:
        memory, seen = remember(memory, facts, now)
    return memory, seen


# -- stopwatches --------------------------------------------------------------------------------------------------


def test_a_stopwatch_starts_with_the_first_look():
    watch = Stopwatch().at("Saving", 1000)
    assert watch.seconds(1000) == 0
    assert watch.at("Saving", 1007.5).seconds(1007.5) == 7.5


def test_another_thing_starts_it_again():
    watch = Stopwatch().at(("Saving", 1), 1000).at(("Saving", 2), 1010)
    assert watch.seconds(1010) == 0
    watch = watch.at(("Saving", 1), 1020)
    assert watch.seconds(1020) == 0, "an interruption counts"
    assert watch.at(("Saving", 1), 1021).seconds(1021) == 1


def test_nothing_is_also_a_thing():
    watch = Stopwatch().at("Saving", 1000).at(None, 1010)
    assert watch.seconds(1010) == 0
    assert watch.at("Saving", 1020).seconds(1020) == 0


def test_nobody_can_change_a_memory():
    with pytest.raises(FrozenInstanceError):
        Memory().disruption_budget = "uid"  # type: ignore[misc]


def test_a_source_that_was_never_read_is_infinitely_old():
    assert {Memory().age(source, 0) for source in Source} == {float("inf")}


def test_a_source_is_as_old_as_its_last_reading():
    memory, _ = after(
        (1000, make_facts(read=frozenset({Source.DISRUPTION_BUDGET}), disruption_budget="uid")), (1010, make_facts())
    )
    assert memory.age(Source.DISRUPTION_BUDGET, 1025) == 25
    assert memory.age(Source.CHILDREN, 1025) == float("inf")


# -- readings -----------------------------------------------------------------------------------------------------


def test_a_reading_is_folded_and_the_next_one_is_due_a_poll_later():
    memory, seen = after(
        (1000, make_facts(reading=make_reading(loss=2.0, step=100))),
        (1010, make_facts(reading=make_reading(loss=1.5, step=200))),
    )
    assert (seen.track.step, seen.track.loss) == (200, 1.5)
    assert (memory.next_reading_at, seen.next_reading_at) == (1020, 1020)


def test_a_look_without_a_reading_leaves_the_track_as_it_was():
    memory, _ = after((1000, make_facts(reading=make_reading(loss=2.0, step=100))))
    again, seen = after((1003, make_facts()), memory=memory)
    track = memory.rank(0).track
    assert (again.rank(0).track, again.next_reading_at, seen.track) == (track, 1010, track)


def test_the_first_reading_goes_on_from_what_another_operator_wrote():
    progress = {"step": 1200, "epoch_base": 0, "step_interval": "10", "pod_uid": POD_UID}
    run = make_run(status=make_status(progress=progress))
    _, seen = after((1000, make_facts(run=run, reading=make_reading(loss=2.0, step=1200))))
    assert (seen.track.advanced, seen.track.polls_without_advance, seen.track.typical_interval) == (True, 1, 10)


def test_a_reading_of_no_pod_is_dropped():
    memory, _ = after((1000, make_facts(pods=(), reading=make_reading(loss=2.0, step=100))))
    assert memory.rank(0).track == Track()


# -- the bucket ---------------------------------------------------------------------------------------------------


def test_an_older_commit_never_replaces_a_newer():
    _, seen = after(
        (1000, make_facts(verified=make_verified(generation=9))), (1001, make_facts(verified=make_verified()))
    )
    assert seen.verified.commit.generation == 9


def test_a_commit_that_does_not_verify_is_known_until_another_one_does_not():
    memory, _ = after((1000, make_facts(unverifiable="one")), (1001, make_facts()))
    assert memory.unverifiable == "one"
    memory, _ = after((1002, make_facts(unverifiable="two")), memory=memory)
    assert memory.unverifiable == "two"


def test_how_long_everything_has_been_proven():
    proven = make_facts(agent=make_agent(commit=COMMIT), verified=make_verified())
    memory, seen = after((1000, proven), (1031, proven))
    assert seen.proven_seconds == 31
    memory, seen = after((1032, make_facts()), memory=memory)
    assert seen.proven_seconds is None
    _, seen = after((1040, proven), memory=memory)
    assert seen.proven_seconds == 0


def test_saving_is_timed_by_its_request_over_phases_and_attempts():
    facts = [make_facts(run=stopping(phase)) for phase in (Phase.SAVING, Phase.VERIFYING)]
    facts.append(make_facts(run=stopping(Phase.SAVING, attempt=2)))
    _, seen = after((1000, facts[0]), (1004, facts[1]), (1010, facts[2]))
    assert (seen.save_failing_seconds, seen.phase_seconds) == (10, 0)


def test_the_save_request_of_a_crashed_pod_is_timed_on_its_own():
    pods = [exited_pod(1, uid=uid, save=SaveRequest(id=f"crash-{uid}", attempt=1, ended=True)) for uid in "ab"]
    memory, seen = after((1000, make_facts(pods=(pods[0],))), (1007, make_facts(pods=(pods[0],))))
    assert seen.save_failing_seconds == 7
    memory, seen = after((1008, make_facts()), memory=memory)
    assert seen.save_failing_seconds == 0
    _, seen = after((1009, make_facts(pods=tuple(pods))), memory=memory)
    assert seen.save_failing_seconds == 0


@pytest.mark.parametrize(
    ("phase", "attempt", "seconds"),
    [
        pytest.param(Phase.DELETING, 2, 5, id="asked for again after the proof"),
        pytest.param(Phase.DELETING, 1, 0, id="answered by the proof"),
        pytest.param(Phase.DRAINING, 2, 0, id="of before the stop"),
    ],
)
def test_a_request_on_a_pod_counts_while_its_stop_deletes_if_it_is_newer(phase, attempt, seconds):
    pod = exited_pod(save=SaveRequest(id="late", attempt=attempt, ended=True))
    facts = make_facts(run=stopping(phase, attempt=1), pods=(pod,))
    _, seen = after((1000, facts), (1005, facts))
    assert seen.save_failing_seconds == seconds


def test_checkpoints_wait_from_the_last_commit_on():
    waits = make_facts(agent=make_agent(unsaved_bytes=9))
    shipped = make_facts(agent=make_agent(commit=COMMIT))
    memory, seen = after((1000, waits), (1020, make_facts(agent=None)), (1030, waits))
    assert seen.ranks[0].unshipped_seconds == 30
    _, seen = after((1031, shipped), memory=memory)
    assert seen.ranks[0].unshipped_seconds == 0


# -- rules that look at a time ------------------------------------------------------------------------------------


def test_a_completion_is_timed_for_as_long_as_it_is_inferred_for_the_same_pod():
    marked = make_agent(markers=(MarkerSeen(name="done", age_seconds=1),))
    memory, seen = after((1000, make_facts(agent=marked)), (1012, make_facts(agent=marked)))
    assert seen.candidate_seconds == 12
    _, other = after((1013, make_facts(agent=marked, pods=(make_pod(uid="next"),))), memory=memory)
    assert other.candidate_seconds == 0
    memory, seen = after((1013, make_facts()), memory=memory)
    assert seen.candidate_seconds is None
    _, seen = after((1014, make_facts(agent=marked)), memory=memory)
    assert seen.candidate_seconds == 0


def test_a_pod_waits_for_the_same_thing():
    lacks_image = pending_pod(waiting_reason="ErrImagePull")
    memory, seen = after((1000, make_facts(pods=(lacks_image,))), (1009, make_facts(pods=(lacks_image,))))
    assert seen.ranks[0].waiting_seconds == 9
    _, seen = after((1010, make_facts(pods=(pending_pod(waiting_reason="Unschedulable"),))), memory=memory)
    assert seen.ranks[0].waiting_seconds == 0


# -- nodes --------------------------------------------------------------------------------------------------------


def releasing(phase, *nodes):
    status = make_status(termination=make_stop(Phase.RELEASING), nodes=(make_node(phase),))
    return make_facts(run=make_run(status=status), pods=(), agent=None, nodes=nodes)


def test_a_nodes_phase_and_what_it_waits_through_are_timed_apart():
    idle, busy = make_node_facts(), make_node_facts(occupants=None)
    memory, seen = after(
        (1000, releasing(NodePhase.WAIT_IDLE, busy)),
        (1005, releasing(NodePhase.WAIT_IDLE, idle)),
        (1012, releasing(NodePhase.WAIT_IDLE, idle)),
    )
    assert (seen.node_seconds, seen.gate_seconds) == ({NODE_UID: 12}, {NODE_UID: 7})
    _, seen = after((1013, releasing(NodePhase.WAIT_IDLE, busy)), memory=memory)
    assert (seen.node_seconds, seen.gate_seconds) == ({NODE_UID: 13}, {NODE_UID: 0})


def test_what_the_cloud_said_to_the_release_is_remembered_until_it_says_otherwise():
    memory = remember_effects(Memory(), [ProviderAnswered(PROVIDER_ID, make_refusal("The minimum is reached."))])
    _, seen = after((1000, releasing(NodePhase.RELEASING, make_node_facts())), memory=memory)
    assert [node.problem for node in seen.nodes] == ["The minimum is reached."]
    worse = make_node_facts(refusal=make_refusal("Not one of the pool's."))
    _, seen = after((1001, releasing(NodePhase.RELEASING, worse)), memory=memory)
    assert [node.problem for node in seen.nodes] == ["Not one of the pool's."]
    memory = remember_effects(memory, [ProviderAnswered("another"), ProviderAnswered(PROVIDER_ID)])
    _, seen = after((1002, releasing(NodePhase.RELEASING, make_node_facts())), memory=memory)
    assert [node.problem for node in seen.nodes] == [""]


def test_a_refusal_says_nothing_of_a_node_in_use():
    memory = remember_effects(Memory(), [ProviderAnswered(PROVIDER_ID, make_refusal("The minimum is reached."))])
    lost = make_node_facts(instance=Instance.GONE)
    _, seen = after((1000, make_facts(nodes=(lost,))), memory=memory)
    assert seen.nodes == (lost,)


def test_an_agents_silence_is_timed_and_ends_with_a_word():
    memory, _ = after((1000, make_facts(agent=None)), (1004, make_facts(agent=None)))
    known = memory.rank(0)
    assert known.silent(make_pod(), 1006, heard=False).seconds(1006) == 6
    assert known.silent(make_pod(), 1006, heard=True).seconds(1006) == 0
    assert known.silent(make_pod(uid="next"), 1006, heard=False).seconds(1006) == 0


# -- what is read from time to time -------------------------------------------------------------------------------


def test_what_was_read_replaces_what_was_known_and_nothing_else_does():
    read = frozenset({Source.DISRUPTION_BUDGET, Source.NAMESPACE, Source.PREFLIGHT})
    memory, _ = after(
        (1000, make_facts(read=read, disruption_budget="uid", namespace_labels={"team": "ml"}, problem=PROBLEM))
    )
    memory, seen = after((1001, make_facts()), memory=memory)
    assert (memory.disruption_budget, memory.namespace_labels, memory.problem) == ("uid", {"team": "ml"}, PROBLEM)
    assert (seen.disruption_budget, seen.namespace_labels, seen.problem) == (None, None, None), (
        "A look sees what it was told."
    )
    memory, _ = after((1002, make_facts(read=read)), memory=memory)
    assert (memory.disruption_budget, memory.namespace_labels, memory.problem) == (None, {}, None)


def test_a_problem_is_known_with_the_spec_that_it_was_found_in():
    facts = make_facts(run=make_run(generation=3), problem=PROBLEM, read=frozenset({Source.PREFLIGHT}))
    assert after((1000, facts))[0].problem_generation == 3


def test_an_end_that_the_bucket_knows_of_is_not_forgotten():
    _, seen = after((1000, make_facts(ended_before=make_verified())), (1001, make_facts()))
    assert seen.ended_before == make_verified()


def test_last_words_are_those_of_the_newest_pod():
    tails = {POD_UID: "CUDA out of memory"}
    memory, seen = after((1000, make_facts(pods=(exited_pod(1),), log_tails=tails)))
    assert (memory.log_tails, seen.ranks[0].log_tail) == (tails, "CUDA out of memory")
    replaced = make_facts(pods=(exited_pod(1), make_pod(uid="next")), log_tails=tails)
    _, seen = after((1001, replaced), memory=memory)
    assert seen.ranks[0].log_tail == ""


# -- effects ------------------------------------------------------------------------------------------------------


def test_what_the_executor_learned_is_known_to_the_next_look():
    memory = remember_effects(Memory(), [DisruptionBudgetChanged("uid"), JobRefused(PROBLEM)])
    assert (memory.disruption_budget, memory.problem) == ("uid", PROBLEM)
    assert remember_effects(memory, [DisruptionBudgetChanged(None)]).disruption_budget is None
    assert remember_effects(memory, []) is memory


def test_what_an_agent_has_said_last_is_known_after_its_pod():
    said = make_facts(agent=make_agent(unsaved_bytes=7))
    known = LastSaid(POD_UID, 7, "checkpoint-1200")
    memory, seen = after((0, said))
    assert seen.ranks[0].last_said == known
    memory, seen = after((1, make_facts(agent=None)), (2, make_facts(agent=None, pods=())), memory=memory)
    assert seen.ranks[0].last_said == known, "It is what a data loss is told by."
    _, seen = after((3, make_facts(agent=None, pods=(make_pod(uid="next"),))), memory=memory)
    assert seen.ranks[0].last_said is None, "It was said of another volume."


RESCUE = RescueFacts(Claim("checkpoints", "u", "Bound"))
RESCUE_JOB = RescueJob("bert-rescue", "u", "stop")


def rescuing(**facts):
    return make_facts(run=stopping(Phase.SAVING), pods=(), agent=None, rescue=replace(RESCUE, **facts))


def test_a_refused_rescue_is_known_until_its_job_exists():
    memory, seen = after((0, rescuing()))
    assert seen.rescue == RESCUE
    memory = remember_effects(memory, [RescueRefused("exceeded quota")])
    memory, seen = after((1, rescuing()), memory=memory)
    assert seen.rescue == replace(RESCUE, refused="exceeded quota")
    memory, seen = after((2, rescuing(job=RESCUE_JOB)), memory=memory)
    assert seen.rescue == replace(RESCUE, job=RESCUE_JOB)
    assert after((3, rescuing()), memory=memory)[1].rescue == RESCUE


def test_a_rescue_makes_progress_with_its_job_its_pod_and_its_bytes():
    pod = exited_pod(uid="rescue", exit_code=None)
    looks = [
        rescuing(),
        rescuing(job=RESCUE_JOB),
        rescuing(job=RESCUE_JOB, pod=replace(pod, phase="Pending")),
        rescuing(job=RESCUE_JOB, pod=pod),
        rescuing(job=RESCUE_JOB, pod=pod, report=make_agent(hashed_bytes=1)),
        rescuing(job=RESCUE_JOB, pod=pod, report=make_agent(hashed_bytes=1, uploaded_bytes=1)),
    ]
    memory = None
    for number, facts in enumerate(looks):
        memory, seen = after((10 * number, facts), memory=memory)
        assert seen.no_progress_seconds == 0
        _, seen = after((10 * number + 5, facts), memory=memory)
        assert seen.no_progress_seconds == 5


# -- a training that is no longer finite -----------------------------------------------------------------------------


def of_step(step, generation):
    about = Checkpoint(dir=f"checkpoint-{step}", step=step, complete=True, evidence="x")
    return make_verified(generation=generation, checkpoint=about)


@pytest.mark.parametrize(
    ("spoiled", "verified", "generation"),
    [
        pytest.param(None, (of_step(400, 4), of_step(200, 2)), 4, id="the newer one counts"),
        pytest.param(None, (of_step(200, 2), of_step(400, 4)), 4, id="in whatever order they are proven"),
        pytest.param(Spoiled(step=300), (of_step(400, 4), of_step(200, 2)), 2, id="one from before it, though it is older"),
        pytest.param(Spoiled(step=300), (of_step(200, 2), of_step(400, 4)), 2, id="no later one takes its place"),
        pytest.param(Spoiled(step=300), (of_step(100, 1), of_step(200, 2)), 2, id="of two from before it, the newer one"),
        pytest.param(Spoiled(step=300), (of_step(400, 4), of_step(500, 5)), 5, id="of two from after it, the newer one"),
    ],
)  # fmt: skip
def test_the_proven_commit_of_a_run_that_is_no_longer_finite_is_one_from_before(spoiled, verified, generation):
    run = stopping(Phase.SAVING, status="auto_non_finite", spoiled=spoiled)
    _, seen = after(*((number * 10.0, make_facts(run=run, verified=one)) for number, one in enumerate(verified)))
    assert seen.verified.commit.generation == generation
