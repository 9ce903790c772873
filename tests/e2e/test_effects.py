"""The operator is killed before and after effects of a stop, and the run ends as if nothing had happened (I2).

An effect is a request of the operator to API server or cloud that changes something. S3 it only reads; what the agent writes there, and being killed at
any of it, is in tests/integration/agent/test_killed.py.

Every test run has one effect of each kind here; tests/chaos has every effect, in memory. `make exhaustive` has every effect here too
(docs/decisions/0032).
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier

import pytest
from e2e.effects import BUDGET, CLOUD, KINDS
from e2e.outputs import tell
from e2e.own_operator import OwnOperator

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1500)]

SIDES = ("before", "after")
AT_ONCE = 8
SECONDS = 300
"""For what a single run does in ten: every second or so the operator of all of them is killed."""
ATTEMPTS = 3
PATIENT = {"TRAININGRUN_TERMINAL_POD_SECONDS": "120"}
"""On a busy machine the pods take longer to end; the operator would end them in another way than it does when there is time."""
STUB = ("stub-training", "--epochs", "100", "--step-seconds", "0.2", "--save-every", "5")
# How often these come, or whether, depends on how long things take: the operator deletes a Node only if the cloud's controller has not yet.
UNSTEADY = {"annotate nudge", "delete node"}


@dataclass(frozen=True)
class End:
    """What must be the same however often the operator was killed."""

    phase: str
    status: str
    message: str
    conditions: frozenset[tuple[str, str, str]]
    proven: tuple[bool, bool]
    nodes: tuple[str, ...]
    finalizers: tuple[str, ...]


def train(space, own, name, **how):
    image = {"image": space.ground["TRAININGRUN_IMAGE"]}
    run = space.run(name, *STUB, container=image, labels=own.labels, **how)
    run.wait_condition("CheckpointSaved", timeout=SECONDS)
    return run


def stop(run):
    run.merge({"spec": {"stop": True}})
    run.wait_finished(SECONDS)
    run.api.wait(
        run.path.rpartition("/")[0],
        lambda stored: not stored["metadata"].get("finalizers"),
        "nothing protects it",
        SECONDS,
        name=run.name,
    )


def end_of(run):
    """And everything that must be true of any end."""
    stored = run.read()
    status = stored["status"]
    run.assert_checkpoint_proven(status)
    assert not run.pods(), "Its pods are gone."
    stop_id = status["termination"]["id"]
    answers = [commit for commit in run.commits() if commit.termination_id == stop_id]
    assert len(answers) == 1, f"One commit answers the stop, not {len(answers)}."
    return End(
        phase=status["phase"],
        status=status["terminationStatus"],
        message=re.sub(r"checkpoint-\d+|s3://\S+|[a-z0-9-]*gpu[a-z0-9-]*|tr-\S+", "…", status["terminationMessage"]),
        conditions=frozenset((c["type"], c["status"], c["reason"]) for c in status["conditions"]),
        proven=(status["termination"]["saved"]["final"], status["termination"]["saved"]["complete"]),
        nodes=tuple(node["phase"] for node in status["nodes"]),
        finalizers=tuple(stored["metadata"].get("finalizers") or ()),
    )


def steps_of(effects):
    """Each effect once, in the order in which they first came."""
    return list(dict.fromkeys(one["effect"] for one in effects if one["effect"] not in UNSTEADY))


def killed_at(space, own, name, effects, side, gpus, machines):
    """Of a run whose operator is killed at each of these effects: its end, and what it is expected to be."""
    halts = {effect: own.halt(name + "|", effect, side) for effect in effects}
    run = train(space, own, name, gpus=gpus)
    if gpus:
        # A machine is kept for a pod that waits for one like it: all have theirs before the first is given back.
        machines.wait(SECONDS)
    recorded = run.status.get("nodes") or []
    stop(run)
    missed = [effect for effect, halt in halts.items() if not own.halted(halt)]
    assert not missed, f"{name}: never came, {side} which the operator was to be killed: {missed}"
    end = end_of(run)
    assert (end.phase, end.status, end.proven, end.finalizers) == ("Stopped", "user_stop", (True, True), ())
    return run, recorded, end


def test_killed_at_one_effect_of_each_kind_it_ends_the_same(gpu_nodes, space, cloud, capsys):
    """Four runs side by side, each with an operator of its own: for either side, those of two halves of the kinds."""
    halves = [(side, half) for side in SIDES for half in (0, 1)]
    machines = Barrier(len(SIDES))

    def story(side, half):
        own = OwnOperator.open(space, env=PATIENT)
        effects = [kind.effect for kind in KINDS[half::2]]
        # The half with the machine needs one.
        gpus = 8 if CLOUD in effects else 0
        run, recorded, end = killed_at(space, own, f"{side}{half}", effects, side, gpus, machines)
        return own, run, recorded, end

    with ThreadPoolExecutor(len(halves)) as pool:
        stories = list(pool.map(lambda one: story(*one), halves))
    ends = [end for *_, end in stories]
    assert ends[:2] == ends[2:], "Killed before or after: it ends the same."
    run_deletions_are_single(space)
    for own, run, recorded, end in stories:
        mine = [node["providerID"].rpartition("/")[2] for node in recorded if node.get("pool")]
        asked = [one for one in own.effects(run.name) if one["effect"] == CLOUD and one.get("status") == 200]
        assert end.nodes[: len(mine)] == ("Released",) * len(mine)
        assert len(asked) == len(mine), "Each machine was terminated once."
        assert not set(mine) & cloud.running()
    assert sum(bool(node.get("pool")) for _, _, recorded, _ in stories for node in recorded) == len(SIDES)
    lines = [f"  {side:6} {kind.effect:42} {kind.name}" for side in SIDES for kind in KINDS]
    title = f"killed at an effect of each kind: {len(stories)} runs, {len(lines)} kills, each ended the same"
    tell(capsys, "effects-by-kind", "\n".join([title, *lines]))


@pytest.mark.exhaustive
def test_killed_at_every_effect_of_a_stop_it_ends_the_same(space, capsys):
    own = OwnOperator.open(space, env=PATIENT)
    clean = train(space, own, "clean")
    stop(clean)
    expected, effects = end_of(clean), steps_of(own.effects("clean"))
    assert (expected.status, expected.finalizers) == ("user_stop", ())
    assert {"begin", "advance Draining", "advance Done", "delete pod", "remove finalizer", BUDGET} <= set(effects)

    def story(number, effect, side):
        """Several at once: each is also disturbed by the kills of the others, at whatever it is about then."""
        for attempt in range(ATTEMPTS):
            name = f"run{number:02d}{side[0]}{attempt}"
            halt = own.halt(name, effect, side)
            run = train(space, own, name)
            stop(run)
            assert end_of(run) == expected, f"killed {side} {effect}"
            space.api.delete(run.path)
            if own.halted(halt):
                return attempt
        pytest.fail(f"{effect} never came again: a kill of another run always fell between")

    plan = [(number, effect, side) for number, effect in enumerate(effects) for side in SIDES]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(lambda one: story(*one), plan))
    run_deletions_are_single(space)
    kills = own.state()["starts"] - 1
    lines = [
        f"  {side:6} {effect}{f'   (attempt {n + 1})' if n else ''}"
        for (_, effect, side), n in zip(plan, results, strict=True)
    ]
    title = f"killed at every effect of a stop: {len(plan)} runs, {kills} kills, each ended the same"
    tell(capsys, "effects-of-a-stop", "\n".join([title, *lines]))


def run_deletions_are_single(space):
    # What a kubelet deletes, without any grace left, is what somebody had told to go.
    asked = (one for one in space.audit("delete", "pods") if not one.user.startswith("system:node:"))
    deleted = [one.name for one in asked]
    assert len(deleted) == len(set(deleted)), f"A pod was deleted more than once: {deleted}"


@pytest.mark.exhaustive
def test_killed_at_every_effect_of_a_release_exactly_one_machine_goes(gpu_nodes, space, cloud, capsys):
    own = OwnOperator.open(space, env=PATIENT)
    clean = train(space, own, "clean", gpus=8)
    stop(clean)
    expected, effects = end_of(clean), steps_of(own.effects("clean"))
    assert expected.nodes == ("Released",)
    releasing = effects[effects.index("advance Releasing") + 1 : effects.index("advance Done")]
    assert {"taint node", CLOUD, "record nodes Released"} <= set(releasing)
    done = []
    # One machine for each half of the effects and each side: what is killed twice in one release must come through that, too.
    for number, (side, half) in enumerate((side, half) for side in SIDES for half in (0, 1)):
        name = f"run{number}"
        halts = {effect: own.halt(name + "|", effect, side) for effect in releasing[half::2]}
        run = train(space, own, name, gpus=8)
        (node,) = run.status["nodes"]
        stop(run)
        assert end_of(run) == expected, f"killed {side} {', '.join(halts)}"
        instance = node["providerID"].rpartition("/")[2]
        assert instance not in cloud.running()
        asked = [one for one in own.effects(name) if one["effect"] == CLOUD and one.get("status") == 200]
        assert len(asked) == number + 2, (
            "Each machine was terminated once: one of the clean run, and one of each since."
        )
        for effect, halt in halts.items():
            assert own.halted(halt), f"{effect} never came again"
            done.append((effect, side))
    lines = [f"  {side:6} {effect}" for effect, side in done]
    tell(
        capsys,
        "effects-of-a-release",
        "\n".join([f"killed at every effect of a release: {len(done)} kills in 4 releases", *lines]),
    )
