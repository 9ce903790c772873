"""A run comes to the same end however often the operator is struck, before or after any single effect (I1, I2, I3, I6)."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import get_args

import pytest
from chaos.objects import POD_GRACE_SECONDS
from chaos.scenario import ENDS, NEVER, Fault, Scenario
from chaos.story import Story
from chaos.world import TRAINING_GRACE_SECONDS, World

from trainingrun_operator.core.effects import Effect

pytestmark = pytest.mark.timeout(900)
"""Many examples: on a busy machine they take minutes."""

CAUSES = [pytest.param(cause, id=cause) for cause in ENDS]
ONE_FAULT = [pytest.param(kind, id=kind) for kind in ("killed before", "killed after", "answer lost")]


def told(scenario):
    """The story, come to its end with nothing to complain of."""
    story = Story(scenario)
    account = story.tell()
    assert account.good, account
    return story


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize("mode", [pytest.param("Upload", id="saved"), pytest.param("Disabled", id="not saved")])
def test_every_way_out_comes_to_an_end(cause, mode):
    story = told(Scenario(cause, mode))
    run = story.world.runs[0]
    assert run.run.status.termination_status == ENDS[cause]
    assert sorted(story.world.deletions.values()) == [1] * len(run.all_pods)
    # Stopped before there was a Job, nothing was used.
    assert dict(story.world.releases) == ({"i-1": 1} if run.all_pods else {})


def ending(story):
    """The end state of a story's runs, and what was done to pods and machines on the way."""
    stops = [(sim.exists, sim.run.status.termination) for sim in story.world.runs]
    ends = [(exists, stop.status, stop.phase, stop.saved.final, stop.data_loss) for exists, stop in stops]
    # Which of two runs gives back a node that both have used depends on when each of them ends.
    alone = len(story.world.runs) == 1
    nodes = [[node.phase for node in sim.run.status.nodes] for sim in story.world.runs if alone]
    return ends, nodes, set(story.world.deletions.values()), set(story.world.releases.values())


CLAIMS = ("shared", "one node", "disk")
VOLUMES = (*CLAIMS, "network", "folder")
AFTER_PROOF = Scenario(
    "user stop", stop_mode="LastCheckpoint", leaves_after=NEVER, upload_seconds=20, saves_when_told=True
)
"""A training that runs on after its checkpoint was proven, and writes more when its pod is deleted; an upload of that takes longer than the pod has."""


DEAF = Scenario("user stop", leaves_after=NEVER, ignores_sigterm=True)
"""A training that does not react to its stop file, and is process 1 of its container without a handler for SIGTERM."""


def lost_after_proof(kind, how="vanishes", **trouble):
    return replace(AFTER_PROOF, claim=kind, lost_in_deleting=(how, 3.0), **trouble)


EVERY_EFFECT = [
    *(pytest.param(Scenario(cause), id=cause) for cause in ENDS),
    pytest.param(Scenario("exit", suspended=(20, 100)), id="suspended and resumed"),
    pytest.param(Scenario("exit", second_run=("exit", 90.0)), id="another run wants the node that is being released"),
    pytest.param(Scenario("exit", goes_after=5), id="it goes some time after its end"),
    *(
        pytest.param(
            Scenario("user stop", claim=kind, evicted_at=42), id=f"its pod goes, its files are in a claim: {kind}"
        )
        for kind in CLAIMS
    ),
    pytest.param(lost_after_proof("shared"), id="its pod goes after the proof, its files are in a claim"),
    pytest.param(DEAF, id="its training is process 1 and ignores SIGTERM"),
]


@pytest.mark.parametrize("kind", ONE_FAULT)
@pytest.mark.parametrize("scenario", EVERY_EFFECT)
def test_struck_once_at_every_single_effect_it_ends_as_it_would_have(scenario, kind):
    """Writing what was observed is an effect as well."""
    undisturbed = told(scenario)
    for number, effect in enumerate(undisturbed.effects):
        story = told(replace(scenario, faults=((number, Fault(kind)),)))
        assert story.faulted[kind] == 1, f"{number}: {effect}"
        assert ending(story) == ending(undisturbed), f"{number}: {effect}"


def test_every_kind_of_effect_is_among_them():
    """`make exhaustive` strikes the same kinds on the cluster; a new kind needs a story in which it is done."""
    struck = Counter(effect for param in EVERY_EFFECT for effect in told(param.values[0]).effects)
    print(*(f"{effect} x (before, after): {count} times" for effect, count in sorted(struck.items())), sep="\n")  # noqa: T201 - `pytest -s` lists them
    assert set(struck) == {kind.__name__ for kind in get_args(Effect)} | {"status"}


@pytest.mark.parametrize("seconds", [pytest.param(15.0, id="15 s"), pytest.param(200.0, id="until all is over")])
def test_another_operator_acts_while_the_first_stands_still_with_a_decision_in_hand(seconds):
    undisturbed = told(Scenario("exit"))
    for number in range(len(undisturbed.effects)):
        told(Scenario("exit", faults=((number, Fault("paused", seconds)),)))


@pytest.mark.parametrize(
    "seconds", [pytest.param(s, id=f"{s} s") for s in (1, 20, NEVER, *(round(28 + 0.2 * i, 1) for i in range(50)))]
)
def test_a_training_may_leave_at_any_moment_of_its_stop(seconds):
    told(Scenario("user stop", leaves_after=seconds))


@pytest.mark.parametrize("code", [pytest.param(0, id="as if complete"), pytest.param(143, id="as if crashed")])
@pytest.mark.parametrize("trace", ["condition", "reason", "none"])
@pytest.mark.parametrize("cause", ["exit", "crashes"])
def test_a_pod_that_was_told_to_leave_is_replaced_and_its_exit_code_counts_for_nothing(cause, trace, code):
    undisturbed = told(Scenario(cause)).world.runs[0]
    run = told(Scenario(cause, told_to_leave_at=30, trace=trace, leaves_with=code)).world.runs[0]
    assert run.run.status.termination_status == ENDS[cause]
    assert len(run.all_pods) == len(undisturbed.all_pods) + 1
    assert run.all_pods[1].step > run.all_pods[1].restored > 0, "It went on from its checkpoint."


@pytest.mark.parametrize("cause", ["exit", "user stop", "delete"])
@pytest.mark.parametrize("at", [5.0, 40.0, 80.0, 100.0, 110.0])
def test_the_taint_of_a_run_that_is_gone_keeps_no_node(cause, at):
    story = told(Scenario(cause, orphan_taint_at=at))
    assert dict(story.world.releases) == {"i-1": 1}


def test_struck_once_at_every_single_effect_of_an_orphaned_taint():
    scenario = Scenario("exit", orphan_taint_at=40.0)
    undisturbed = told(scenario)
    assert "UntaintNode" in undisturbed.effects
    for number in range(len(undisturbed.effects)):
        for kind in ("killed before", "killed after", "answer lost"):
            story = told(replace(scenario, faults=((number, Fault(kind)),)))
            assert dict(story.world.releases) == {"i-1": 1}


@pytest.mark.parametrize("kind", VOLUMES)
@pytest.mark.parametrize("trouble", [
    pytest.param({}, id="none"),
    pytest.param({"agent_away": (43, 300)}, id="its agent is away for a while"),
    pytest.param({"bucket_away": (50, 400)}, id="the bucket is away"),
    pytest.param({"cloud_away": (43, 500)}, id="the cloud does not answer"),
    pytest.param({"two_operators": (43, 200)}, id="two operators"),
    pytest.param({"api_away": (50, 90)}, id="the API server is away"),
    pytest.param({"node_lost_at": 41.0, "evicted_at": 0.0}, id="its machine dies"),
])  # fmt: skip
def test_what_a_dead_pod_has_left_in_a_volume_is_saved(kind, trouble):
    story = told(Scenario("user stop", claim=kind, **({"evicted_at": 42.0} | trouble)))
    run, stop = story.world.runs[0], story.world.runs[0].run.status.termination
    disk_is_gone = kind in ("disk", "folder") and "node_lost_at" in trouble
    assert run.rescues == (0 if disk_is_gone else 1)
    assert bool(stop.data_loss) == disk_is_gone
    assert stop.saved.step == (max((World.step_of(c) for c in run.bucket), default=0) if disk_is_gone else run.in_claim)
    assert dict(story.world.releases) == ({} if "node_lost_at" in trouble else {"i-1": 1})


@pytest.mark.parametrize("seconds", [pytest.param(15.0, id="15 s"), pytest.param(300.0, id="until all is over")])
@pytest.mark.parametrize(
    "scenario",
    [
        *(pytest.param(Scenario("user stop", claim=kind, evicted_at=42), id=f"stopped: {kind}") for kind in CLAIMS),
        pytest.param(lost_after_proof("disk"), id="stopped, and lost after the proof"),
        pytest.param(
            Scenario("exit", claim="shared", suspended=(40, 150), evicted_at=42, leaves_after=10),
            id="suspended, and resumed while it stands still",
        ),
    ],
)
def test_no_rescue_begins_after_its_stop_however_long_an_operator_stands_still(scenario, seconds):
    """In the request itself: what it asks for is done when another operator has come to the end of the stop, or the run trains again."""
    undisturbed = told(scenario)
    assert undisturbed.world.runs[0].rescues == 1
    for number, effect in enumerate(undisturbed.effects):
        if effect in ("Advance", "CreateRescue", "StartRescue", "SuspendWorkload", "DeleteRescue"):
            story = told(replace(scenario, faults=((number, Fault("paused", seconds)),)))
            assert story.faulted["paused"] == 1


@pytest.mark.parametrize("how", ["vanishes", "dies"])
@pytest.mark.parametrize("kind", VOLUMES)
@pytest.mark.parametrize("trouble", [
    pytest.param({}, id="none"),
    pytest.param({"agent_away": (80, 300)}, id="its agent is away for a while"),
    pytest.param({"bucket_away": (80, 400)}, id="the bucket is away for a while"),
    pytest.param({"cloud_away": (66, 700)}, id="the cloud does not answer"),
    pytest.param({"two_operators": (60, 200)}, id="two operators"),
    pytest.param({"api_away": (82, 130)}, id="the API server is away"),
    pytest.param({"spoilt": (3,)}, id="a commit does not verify"),
    pytest.param({"suspended": (40, 300)}, id="the run is being suspended, and is resumed"),
])  # fmt: skip
def test_what_a_pod_wrote_after_the_proof_is_saved_wherever_a_volume_has_it(kind, how, trouble):
    story = told(lost_after_proof(kind, how, **trouble))
    run = story.world.runs[0]
    disk_is_gone = kind in ("disk", "folder") and how == "dies"
    if "suspended" not in trouble:
        stop, only = run.run.status.termination, run.all_pods[0]
        assert run.rescues == (0 if disk_is_gone else 1)
        assert bool(stop.data_loss) == disk_is_gone
        assert stop.saved.step == only.written or disk_is_gone
        assert stop.saved.final or disk_is_gone
    assert story.world.struck >= {"lost_in_deleting"}


@pytest.mark.parametrize("away", ["bucket_away", "agent_away"])
@pytest.mark.parametrize("kind", VOLUMES)
def test_what_cannot_be_saved_after_the_proof_is_given_up_and_said(kind, away):
    """The proof holds all the time, so the phase is not held for ever."""
    run = told(lost_after_proof(kind, **{away: (80, 9000)})).world.runs[0]
    stop = run.run.status.termination
    assert (run.rescues, stop.phase) == (1, "Done")
    assert stop.data_loss


def test_a_pod_that_ended_in_order_needs_no_rescue_after_the_proof():
    run = told(replace(AFTER_PROOF, claim="shared")).world.runs[0]
    assert (run.rescues, run.run.status.termination.data_loss) == (0, None)
    assert run.run.status.termination.saved.step == run.in_claim


@pytest.mark.parametrize(("scenario", "seconds"), [
    pytest.param(DEAF, 30 + 30, id="stopped: its grace once more, and the least for the agent"),
    pytest.param(replace(DEAF, mode="Disabled"), 30, id="it saves nothing: its grace once more"),
    pytest.param(replace(DEAF, stop_mode="LastCheckpoint"), 30 + 30, id="with its last checkpoint"),
    pytest.param(replace(DEAF, upload_seconds=20), 30 + 60, id="its uploads take long: the agent has three times as long"),
    pytest.param(Scenario("marker", leaves_after=NEVER, ignores_sigterm=True, suspended=(12, 300)), 30 + 30, id="suspended"),
    pytest.param(replace(DEAF, two_operators=(60, 400)), 30 + 30, id="two operators"),
    pytest.param(replace(DEAF, upload_seconds=100), POD_GRACE_SECONDS, id="its uploads take as long as its own grace: that"),
])  # fmt: skip
def test_a_training_that_ignores_sigterm_runs_for_its_grace_once_more_and_as_long_as_its_agent_needs(scenario, seconds):
    story = told(scenario)
    first = story.world.runs[0].all_pods[0]
    assert (first.grace_seconds, story.world.deletions[first.uid]) == (seconds, 1)


SAVES = Scenario("user stop", stop_mode="LastCheckpoint", leaves_after=NEVER, saves_when_told=True)
"""A training that begins to save on SIGTERM, and not before."""


@pytest.mark.parametrize("upload_seconds", [1, 5, 20, 60])
@pytest.mark.parametrize("saves_for", [pytest.param(s, id=f"{s} s") for s in (1, 29, TRAINING_GRACE_SECONDS)])
def test_a_training_that_saves_on_sigterm_has_its_whole_grace_for_that_and_its_agent_enough_to_send_it(
    saves_for, upload_seconds
):
    run = told(replace(SAVES, saves_for=saves_for, upload_seconds=upload_seconds)).world.runs[0]
    (pod,), stop = run.all_pods, run.run.status.termination
    assert pod.grace_seconds < POD_GRACE_SECONDS
    assert pod.exit_code == 143, "It has left by itself."
    assert (stop.saved.step, stop.saved.final) == (pod.written, True)


@pytest.mark.parametrize("seconds", [pytest.param(s, id=f"away for {s} s") for s in (15, 70, 120, 400)])
@pytest.mark.parametrize("scenario", [pytest.param(DEAF, id="ignores SIGTERM"), pytest.param(SAVES, id="reacts to it")])
def test_a_pod_that_ends_before_its_job_is_suspended_is_replaced_by_one_that_the_stop_ends_as_well(scenario, seconds):
    """Its operator is away for so long between the two requests. No GPU is held longer than by a pod that has its own grace when it is back."""
    undisturbed = told(scenario)
    number = undisturbed.effects.index("DeletePod")
    assert undisturbed.effects[number + 1] == "SuspendWorkload"
    story = told(replace(scenario, faults=((number, Fault("killed after", seconds)),)))
    assert ending(story) == ending(undisturbed), "Each pod was deleted once, and what is recorded is proven."
    pods = story.world.runs[0].all_pods
    assert len(pods) == (2 if seconds > pods[0].grace_seconds or scenario is SAVES else 1)
    assert all(pod.restored > 0 for pod in pods[1:]), "It goes on from the proven checkpoint."
    gone, would_be = (max(one.gone_at for one in it.world.machines) for it in (story, undisturbed))
    assert gone - would_be <= seconds + POD_GRACE_SECONDS


SUSPENDED = [
    pytest.param(Scenario("exit", suspended=(20, 100)), 2, id="resumed, it goes on and completes"),
    pytest.param(Scenario("exit", suspended=(20, 26)), 2, id="resumed while it is being suspended"),
    pytest.param(Scenario("user stop", suspended=(8, NEVER)), 1, id="stopped while it is suspended"),
    pytest.param(Scenario("user stop", suspended=(38, NEVER)), 1, id="stopped while it is being suspended"),
    pytest.param(Scenario("delete", suspended=(8, NEVER)), 1, id="deleted while it is suspended"),
    pytest.param(Scenario("user stop", suspended=(0, NEVER)), 0, id="suspended from its beginning, and stopped"),
    pytest.param(Scenario("low loss", suspended=(0, 30)), 1, id="suspended from its beginning, and resumed"),
]


@pytest.mark.parametrize(("scenario", "pods"), SUSPENDED)
def test_a_suspended_run_trains_on_or_ends_with_its_checkpoint(scenario, pods):
    story = told(scenario)
    run = story.world.runs[0]
    assert run.run.status.termination_status == ENDS[scenario.cause]
    assert len(run.all_pods) == pods
    assert len(story.world.releases) == pods, "Suspended, it gave its node back."
    assert [pod.restored > 0 for pod in run.all_pods] == [False, True][:pods], "It went on from its checkpoint."


@pytest.mark.parametrize("kind", ONE_FAULT)
@pytest.mark.parametrize(("scenario", "pods"), SUSPENDED)
def test_struck_once_at_every_single_effect_of_a_suspension(scenario, pods, kind):
    undisturbed = told(scenario)
    for number in range(len(undisturbed.effects)):
        story = told(replace(scenario, faults=((number, Fault(kind)),)))
        assert story.world.runs[0].run.status.termination_status == ENDS[scenario.cause]
        assert len(story.world.runs[0].all_pods) == pods
