"""Of two operators one is stopped in mid-write for longer than its Lease, and goes on when the other has ended the run (I2, I3)."""

from __future__ import annotations

import pytest
from e2e.own_operator import OwnOperator
from e2e.runs import WAIT_SECONDS
from waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

STUB = ("stub-training", "--epochs", "100", "--step-seconds", "0.2", "--save-every", "5")
LEASE_SECONDS = 5
CLOUD = "cloud TerminateInstanceInAutoScalingGroup"
# What the frozen one was about to do, and what becomes of it when it is sent after all.
REFUSED = {
    "the decision and what it leads to": {"begin": (422,), "delete pod": (404, 409), "advance Done": (422,)},
    "the open gate, and the finalizer": {"annotate released": (404,), "remove finalizer": (422,)},
}
# Each is a compare-and-swap of the phase, as `advance Done` is (docs/decisions/0032).
OTHER_PHASES = {"advance Draining": (422,), "advance Deleting": (422,)}


@pytest.fixture
def two(space):
    # However slow the machine: the pods are ended in the way in which all these effects come.
    env = {"TRAININGRUN_LEASE_SECONDS": str(LEASE_SECONDS), "TRAININGRUN_TERMINAL_POD_SECONDS": "120"}
    # Nor does either lose its short Lease only because it had no turn.
    first = OwnOperator.open(space, env=env, cpu="100m")
    return first, OwnOperator.open(space, shard=first.shard, env=env, cpu="100m")


def frozen_while_the_other_ends_it(space, two, name, effect, **how):
    """Returns the frozen operator, its halt and the status that the other has left."""
    image = {"image": space.ground["TRAININGRUN_IMAGE"]}
    run = space.run(name, *STUB, container=image, labels=two[0].labels, **how)
    run.wait_condition("CheckpointSaved")
    halts = [own.halt(f"{name}|", effect, "before", do="freeze") for own in two]
    run.merge({"spec": {"stop": True}})
    places = list(zip(two, halts, strict=True))
    frozen, halt = eventually(
        lambda: next((p for p in places if p[0].frozen(p[1])), None), f"{name} stands at {effect}", WAIT_SECONDS
    )
    # The other's own halt must not hold it up.
    for own, other in places:
        if own is not frozen:
            own.disarm(other)
            if own.frozen(other):  # It took over, and came there, before it was disarmed.
                own.thaw(other)
    run.wait_finished()
    run.api.wait(
        run.path.rpartition("/")[0],
        lambda one: not one["metadata"].get("finalizers"),
        f"{name} is left in peace",
        WAIT_SECONDS,
        name=name,
    )
    return run, frozen, halt


def assert_nothing_more(run, frozen, halt, allowed):
    before = run.read()
    told = len(frozen.effects(run.name))
    frozen.thaw(halt)
    late = eventually(
        lambda: next((e for e in frozen.effects(run.name) if e.get("halted") and "status" in e), None),
        "it was sent",
    )
    assert late["status"] in allowed, f"{late['effect']} was answered {late['status']}"
    eventually(lambda: "standby" in frozen.page("readyz"), "it knows that it does not lead any more")
    after = run.read()
    assert after["status"] == before["status"], "Nothing of the status has changed."
    assert len(frozen.effects(run.name)) == told, "It has begun nothing more."
    run.assert_ended_once()


@pytest.mark.parametrize(
    "refused",
    [
        *(pytest.param(effects, id=name) for name, effects in REFUSED.items()),
        pytest.param(OTHER_PHASES, id="the other phases", marks=pytest.mark.exhaustive),
    ],
)
def test_what_a_frozen_operator_was_about_to_write_is_refused(space, two, refused):
    for number, (effect, allowed) in enumerate(refused.items()):
        run, frozen, halt = frozen_while_the_other_ends_it(space, two, f"run{number}", effect)
        assert run.status["terminationStatus"] == "user_stop"
        assert_nothing_more(run, frozen, halt, allowed)
        begins = [
            one for own in two for one in own.effects(run.name) if one["effect"] == "begin" and one.get("status") == 200
        ]
        assert len(begins) == 1, "It was decided once."


def test_a_machine_that_a_frozen_operator_was_about_to_release_is_released_once(gpu_nodes, space, two, cloud):
    run, frozen, halt = frozen_while_the_other_ends_it(space, two, "gpu", CLOUD, gpus=8)
    desired = cloud.desired
    assert_nothing_more(run, frozen, halt, range(400, 500))
    assert cloud.desired == desired, "The group was not made smaller a second time."
