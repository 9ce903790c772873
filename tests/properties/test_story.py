"""A run comes to the same end however often the operator is killed, before or after any single effect (I2, I3, I6)."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import Phase as HypothesisPhase
from hypothesis import strategies as st
from properties.world import Scenario, World, node_phase

from trainingrun_operator.api.status import NodePhase
from trainingrun_operator.core.decide import decide

ENDS = {
    "low loss": "auto_low_loss",
    "exit": "auto_complete",
    "marker": "auto_complete",
    "crashes": "failed",
    "user stop": "user_stop",
    "user stop while pending": "user_stop",
    "delete": "deleted",
    "bad image": "failed",
}


def told(scenario, kills=None):
    """The world at the end of a story, with everything that must be true of any end."""
    world = World(scenario, kills)
    world.tell()
    status = world.run.status
    assert world.settled, f"stuck in {status.termination and status.termination.phase} at {world.now:.0f} s"
    assert status.termination is not None
    assert status.termination_status == status.termination.status == ENDS[scenario.cause]
    assert status.completion_time is not None
    assert len(world.deleted) == len(set(world.deleted)), "a pod was deleted twice"
    if world.made:
        assert world.released == ["i-1"]
        assert (node_phase(world), world.node) == (NodePhase.RELEASED, None)
    else:  # stopped before there was a Job
        assert (world.released, world.node) == ([], "node-uid")
    assert world.pods == []
    world.advance(60)
    assert decide(world.observe()).effects == (), "it does not rest"
    return world


@pytest.mark.parametrize("cause", [pytest.param(cause, id=cause) for cause in ENDS])
@pytest.mark.parametrize("mode", [pytest.param("Upload", id="saved"), pytest.param("Disabled", id="not saved")])
def test_every_way_out_comes_to_an_end(cause, mode):
    told(Scenario(cause, mode))


@pytest.mark.parametrize("when", [pytest.param("before", id="before"), pytest.param("after", id="after")])
@pytest.mark.parametrize("cause", [pytest.param(cause, id=cause) for cause in ENDS])
def test_killed_once_at_every_single_effect(cause, when):
    undisturbed = told(Scenario(cause))
    assert undisturbed.count > 10
    for effect in range(undisturbed.count):
        world = told(Scenario(cause), {effect: when})
        assert world.run.status.termination_status == undisturbed.run.status.termination_status


@pytest.mark.parametrize(
    "seconds", [pytest.param(s, id=f"{s} s") for s in (1, 20, 999, *(round(28 + 0.2 * i, 1) for i in range(50)))]
)
def test_a_training_may_leave_at_any_moment_of_its_stop(seconds):
    told(Scenario("user stop", leaves_after=seconds))


INTERVALS = st.one_of(
    st.just((0.0, 0.0)), st.tuples(st.integers(0, 90), st.integers(20, 400)).map(lambda t: (float(t[0]), float(sum(t))))
)
SCENARIOS = st.builds(
    Scenario,
    cause=st.sampled_from(list(ENDS)),
    mode=st.sampled_from(["Upload", "Upload", "Disabled"]),
    leaves_after=st.sampled_from([3.0, 30.0, 31.0, 32.0, 33.0, 34.0, 35.0, float("inf")]),
    bucket_away=INTERVALS,
    corrupt=st.booleans(),
    neighbour=INTERVALS,
    evicted_at=st.sampled_from([0, 0, 25, 50, 70]),
)
KILLS = st.dictionaries(st.integers(0, 60), st.sampled_from(["before", "after"]), max_size=12)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(
        HypothesisPhase.explicit,
        HypothesisPhase.reuse,
        HypothesisPhase.generate,
    ),  # to shrink a story takes minutes
)
@given(SCENARIOS, KILLS)
def test_whatever_happens_it_comes_to_the_same_end(scenario, kills):
    told(scenario, kills)
