"""A run comes to the same end however often the operator is struck, before or after any single effect (I1, I2, I3, I6)."""

from __future__ import annotations

import pytest
from chaos.scenario import ENDS, NEVER, Fault, Scenario
from chaos.story import Story

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


@pytest.mark.parametrize("kind", ONE_FAULT)
@pytest.mark.parametrize("cause", CAUSES)
def test_struck_once_at_every_single_effect(cause, kind):
    """Writing what was observed is an effect as well."""
    undisturbed = told(Scenario(cause))
    assert {"AddFinalizer", "Begin", "Advance", "RemoveFinalizer", "Tell", "status"} <= set(undisturbed.effects)
    for number in range(len(undisturbed.effects)):
        story = told(Scenario(cause, faults=((number, Fault(kind)),)))
        assert story.faulted[kind] == 1
        assert story.world.runs[0].run.status.termination_status == ENDS[cause]


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
