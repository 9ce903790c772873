"""What a stop waits for, who may give up on a release, and when a run that is over deletes itself."""

from __future__ import annotations

import pytest
from builders import (
    NODE_UID,
    POD_UID,
    RUN_UID,
    WALL,
    exited_pod,
    losses,
    make_agent,
    make_found,
    make_node,
    make_node_facts,
    make_observed,
    make_pod,
    make_run,
    make_status,
    make_stop,
    make_workload,
    occupant,
    releasing,
    stopping_at,
)

from trainingrun_operator.api import names
from trainingrun_operator.api.saves import SaveInterval, SaveTimes, StopWait
from trainingrun_operator.api.status import Effective, NodePhase, Phase, StopMode
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.effects import (
    Advance,
    Annotate,
    Begin,
    Decision,
    DeleteRun,
    RecordEvent,
    RecordNodes,
    UntaintNode,
)
from trainingrun_operator.core.facts.nodes import Instance
from trainingrun_operator.core.facts.run import Run
from trainingrun_operator.core.status import render
from trainingrun_operator.core.words import before

NEXT, LAST = StopMode.NEXT_CHECKPOINT, StopMode.LAST_CHECKPOINT
DISABLED = {"mode": "Disabled"}


def advanced(seen):
    return next((effect.termination for effect in decide(seen).effects if isinstance(effect, Advance)), None)


# -- spec.stopMode ------------------------------------------------------------------------------------------------


def draining(mode, *, newest=30.0, seconds=20.0, **spec):
    """A stop in this mode; its newest checkpoint was written so many seconds ago, None if there is none."""
    found = None if newest is None else make_found(age_seconds=newest)
    return stopping_at(
        Phase.DRAINING,
        stop={"mode": mode},
        spec={"stopMode": mode.value, **spec},
        agent=make_agent(newest=found),
        phase_seconds=seconds,
    )


def test_a_stop_begins_in_the_mode_that_the_spec_says():
    begin = decide(make_observed(run=make_run(spec={"stop": True, "stopMode": "NextCheckpoint"}))).effects[0]
    assert isinstance(begin, Begin)
    assert begin.termination.mode is NEXT


@pytest.mark.parametrize(
    ("seen", "phase"),
    [
        pytest.param(draining(StopMode.AUTO, newest=1), None, id="Auto: a checkpoint is not the training's end"),
        pytest.param(draining(NEXT, newest=30), None, id="NextCheckpoint: one from before the stop is not the next"),
        pytest.param(draining(NEXT, newest=20), None, id="NextCheckpoint: nor is one from its very moment"),
        pytest.param(draining(NEXT, newest=19.9), Phase.SAVING, id="NextCheckpoint: one from after it is"),
        pytest.param(draining(NEXT, newest=None), None, id="NextCheckpoint: none yet"),
        pytest.param(draining(NEXT, newest=None, seconds=120), Phase.SAVING, id="NextCheckpoint: the grace is spent all the same"),
        pytest.param(draining(LAST, newest=3000), Phase.SAVING, id="LastCheckpoint: any is enough, at once"),
        pytest.param(draining(LAST, newest=None), None, id="LastCheckpoint: without any, the training is asked like any other"),
        pytest.param(draining(LAST, newest=None, checkpoint=DISABLED), Phase.DELETING, id="LastCheckpoint: nothing is waited for where nothing is saved"),
        pytest.param(draining(NEXT, newest=None, checkpoint=DISABLED), None, id="NextCheckpoint: it has its grace though nothing is saved"),
    ],
)  # fmt: skip
def test_a_mode_ends_the_draining(seen, phase):
    stop = advanced(seen)
    assert (stop.phase if stop else None) == phase


def test_the_training_is_asked_to_leave_in_every_mode_that_waits():
    for seen in (draining(StopMode.AUTO), draining(NEXT), draining(LAST, newest=None)):
        assert [e.key for e in decide(seen).effects if isinstance(e, Annotate)] == [names.STOP_ANNOTATION]


def test_an_agent_that_does_not_answer_is_waited_for():
    seen = stopping_at(Phase.DRAINING, stop={"mode": LAST}, spec={"stopMode": "LastCheckpoint"}, agent=None)
    assert advanced(seen) is None


def test_a_mode_that_changes_is_written_and_told_before_it_is_followed():
    seen = stopping_at(Phase.DRAINING, spec={"stopMode": "LastCheckpoint"}, phase_seconds=300)
    written, told = decide(seen).effects
    assert isinstance(written, Advance)
    assert seen.run.status.termination is not None
    assert written.termination == seen.run.status.termination.model_copy(update={"mode": LAST}), "Nothing else changes."
    assert (written.was_phase, written.was_attempt) == (Phase.DRAINING, 1)
    assert told == RecordEvent("StopModeChanged", "spec.stopMode is LastCheckpoint now; it was Auto.")


@pytest.mark.parametrize("phase", [Phase.SAVING, Phase.VERIFYING, Phase.HELD, Phase.DELETING, Phase.RELEASING])
def test_once_the_training_is_waited_for_no_longer_the_mode_does_not_matter(phase):
    decision = decide(stopping_at(phase, spec={"stopMode": "LastCheckpoint"}))
    assert "StopModeChanged" not in [effect.reason for effect in decision.effects if isinstance(effect, RecordEvent)]


# -- spec.stopMode Auto, once the grace is over --------------------------------------------------------------------

LATE = 120.0
"""Seconds in Draining: the grace is over."""


def deaf(*, since=60.0, every=(100,), step=None, stop=None, spec=None, **fields):
    """A training that has not exited within its grace. Its newest checkpoint is so many seconds old, those before it came in these intervals."""
    times = None
    if since is not None:
        intervals = tuple(SaveInterval(seconds=seconds) for seconds in every)
        times = SaveTimes(pod_uid=POD_UID, at=before(WALL, since), step=step, intervals=intervals)
    pods = (make_pod(started_at=before(WALL, 10_000)),)
    seen = {"phase_seconds": LATE, "pods": pods, "saves": times, **fields}
    return stopping_at(Phase.DRAINING, stop={"mode": StopMode.AUTO, **(stop or {})}, spec=spec, **seen)


def events(seen):
    return [(one.reason, one.message) for one in decide(seen).effects if isinstance(one, RecordEvent)]


@pytest.mark.parametrize(
    ("seen", "figures", "longest"),
    [
        pytest.param(deaf(since=60, every=(100, 100)), (40, 60), 60, id="the wait is shorter than the work: it waits, at most as long as that work"),
        pytest.param(deaf(since=600, every=(610, 610)), (10, 600), 20, id="at most twice as long as predicted"),
        pytest.param(deaf(since=40, every=(100, 100)), (60, 40), None, id="the wait is longer than the work"),
        pytest.param(deaf(since=50, every=(100, 100)), (50, 50), None, id="as long as the work"),
        pytest.param(deaf(since=600, every=()), (None, 600), None, id="one checkpoint: its interval is not known"),
        pytest.param(deaf(since=600, every=(500, 400)), (None, 600), None, id="overdue"),
        pytest.param(deaf(since=None), (None, None), None, id="none"),
        pytest.param(deaf(since=60, agent=None), (None, None), None, id="the agent does not answer"),
        pytest.param(deaf(since=60, stop={"status": "user_stop"}), (40, 60), 60, id="a user's stop"),
        pytest.param(deaf(since=60, stop={"status": "suspended"}), (40, 60), 60, id="a suspension"),
    ],
)  # fmt: skip
def test_auto_compares_the_predicted_wait_with_the_work_that_would_be_rolled_back(seen, figures, longest):
    written = advanced(seen)
    assert written is not None
    assert written.phase is (Phase.DRAINING if longest is not None else Phase.SAVING), (
        "A wait is written before it begins."
    )
    wait = written.wait
    assert wait is not None
    assert (wait.predicted_seconds, wait.rolled_back_seconds) == figures
    assert wait.until == (before(WALL, -longest) if longest is not None else None)
    assert events(seen) == [("WaitsForCheckpoint" if longest is not None else "TakesLastCheckpoint", wait.message)]


def waiting_for(seconds, *, since=60.0, newest_at=None, **fields):
    """A stop that waits for the next checkpoint for so many more seconds; `newest_at` is that of the checkpoint at its choice."""
    wait = StopWait(
        predicted_seconds=40,
        rolled_back_seconds=60,
        newest_at=newest_at or before(WALL, since),
        until=before(WALL, -seconds) if seconds is not None else None,
        message="It waits.",
    )
    stop = {"wait": wait, **fields.pop("stop", {})}
    return deaf(since=since, stop=stop, **fields)


@pytest.mark.parametrize(
    ("seen", "phase"),
    [
        pytest.param(waiting_for(30), None, id="it waits"),
        pytest.param(waiting_for(30, phase_seconds=1), None, id="also after a restart of the operator"),
        pytest.param(waiting_for(30, since=61, newest_at=before(WALL, 60)), None, id="the same checkpoint, its age exact to a look"),
        pytest.param(waiting_for(30, since=2, newest_at=before(WALL, 60)), Phase.SAVING, id="a checkpoint came: the wait ends"),
        pytest.param(waiting_for(0), Phase.SAVING, id="longer than it may: the wait ends"),
        pytest.param(waiting_for(-500, phase_seconds=1), Phase.SAVING, id="it ended while no operator ran"),
        pytest.param(waiting_for(30, pods=(exited_pod(),)), Phase.SAVING, id="the training exits: the wait ends"),
        pytest.param(waiting_for(30, pods=()), Phase.SAVING, id="the pod is gone"),
        pytest.param(waiting_for(30, stop={"mode": LAST}, spec={"stopMode": "LastCheckpoint"}), Phase.SAVING, id="the mode was changed"),
        pytest.param(waiting_for(None), Phase.SAVING, id="it was chosen not to wait"),
    ],
)  # fmt: skip
def test_a_wait_for_the_next_checkpoint_ends(seen, phase):
    stop = advanced(seen)
    assert (stop.phase if stop else None) == phase


def test_the_next_look_is_not_after_the_end_of_the_wait():
    seen = waiting_for(3, phase_seconds=1000)
    assert decide(seen).again_seconds == 3


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param(deaf(phase_seconds=119), id="within the grace"),
        pytest.param(deaf(pods=(exited_pod(),), phase_seconds=20), id="the training exits"),
    ],
)
def test_within_the_grace_auto_waits_for_the_trainings_exit_alone(seen):
    stop = advanced(seen)
    assert stop is None or stop.wait is None
    assert "WaitsForCheckpoint" not in [reason for reason, _ in events(seen)]


@pytest.mark.parametrize(
    "status",
    ["max_duration", "budget_exhausted", "hung", "idle", "auto_complete", "auto_non_finite", "failed", "deleted"],
)
def test_a_training_that_would_not_go_on_gets_its_grace_and_no_more(status):
    stop = advanced(deaf(stop={"status": status}))
    assert stop is not None
    assert (stop.phase, stop.wait) == (Phase.SAVING, None)


def test_where_nothing_is_saved_there_is_nothing_to_wait_for():
    stop = advanced(deaf(spec={"checkpoint": DISABLED}))
    assert stop is not None
    assert stop.phase is Phase.DELETING


def test_the_status_says_both_figures_while_nothing_is_proven():
    wait = StopWait(message="Expected in 40 s, and 60 s of training would be lost.", until=before(WALL, -60))
    shown = [
        render(stopping_at(phase, stop={"wait": wait})).termination_message
        for phase in (Phase.DRAINING, Phase.SAVING, Phase.DELETING)
    ]
    assert [wait.message in (message or "") for message in shown] == [True, True, False]


# -- the annotation that abandons a release -----------------------------------------------------------------------

ABANDONED = "Abandoned by field manager 'kubectl-annotate' (trainingrun.dev/abandon-release) while"
UNSETTLED = [phase for phase in NodePhase if phase not in (NodePhase.RELEASED, NodePhase.RETAINED)]


def abandoned(phase, facts, by="field manager 'kubectl-annotate'"):
    seen = releasing(make_node(phase, message="Occupied by team/notebook."), facts)
    return make_observed(
        run=make_run(status=seen.run.status, abandoned_by=by),
        pods=(),
        workload=make_workload(finished=True),
        agent=None,
        nodes=seen.nodes,
    )


@pytest.mark.parametrize("phase", UNSETTLED, ids=str)
def test_a_release_that_is_abandoned_keeps_the_node_and_says_who_did_it(phase):
    record, told = decide(abandoned(phase, make_node_facts(occupants=(occupant(),)))).effects
    assert isinstance(record, RecordNodes)
    (node,) = record.nodes
    message = (
        f"{ABANDONED} {phase.value}: the run no longer waits for it, and its machine may still run and be billed."
        " Occupied by team/notebook."
    )
    assert (node.phase, node.message, node.released_at) == (NodePhase.RETAINED, message, None)
    assert told == RecordEvent("ReleaseAbandoned", f"Node gpu-1: {message}", warning=True)


@pytest.mark.parametrize(
    ("facts", "untaints"),
    [
        pytest.param(make_node_facts(tainted_by=RUN_UID), True, id="our taint is taken back"),
        pytest.param(make_node_facts(tainted_by="other-run"), False, id="another's is not"),
        pytest.param(make_node_facts(), False, id="none is none"),
        pytest.param(None, False, id="nothing is known of the node"),
        pytest.param(
            make_node_facts(tainted_by=RUN_UID, instance=Instance.TERMINATING), False, id="its machine goes: nothing shall come to it"
        ),
    ],
)  # fmt: skip
def test_an_abandoned_node_takes_pods_again(facts, untaints):
    effects = decide(abandoned(NodePhase.RELEASING, facts)).effects
    assert (UntaintNode("gpu-1", NODE_UID) in effects) == untaints


def test_nodes_that_are_settled_are_not_abandoned():
    seen = abandoned(NodePhase.RELEASED, None)
    assert isinstance(decide(seen).effects[0], Advance)


def annotated(value, *managed):
    meta = {"namespace": "ml", "name": "bert", "uid": "u", "annotations": {names.ABANDON_RELEASE_ANNOTATION: value}}
    spec = {"template": {}, "checkpoint": {"destination": "s3://bucket/runs"}}
    return Run.of({"metadata": {**meta, "managedFields": list(managed)}, "spec": spec}).abandoned_by


def manages(key, manager="kubectl-annotate"):
    return {"manager": manager, "fieldsV1": {"f:metadata": {"f:annotations": {f"f:{key}": {}}}}}


@pytest.mark.parametrize(
    ("value", "managed", "actor"),
    [
        pytest.param("true", [manages(names.ABANDON_RELEASE_ANNOTATION)], "field manager 'kubectl-annotate'", id="the manager of the annotation"),
        pytest.param("", [manages(names.ABANDON_RELEASE_ANNOTATION)], "field manager 'kubectl-annotate'", id="its presence is enough"),
        pytest.param("true", [manages("other"), {"manager": "m"}], "an annotation", id="a manager that is not told"),
        pytest.param("false", [manages(names.ABANDON_RELEASE_ANNOTATION)], "", id="false is no"),
    ],
)  # fmt: skip
def test_who_abandons_a_release(value, managed, actor):
    assert annotated(value, *managed) == actor


# -- ttlSecondsAfterFinished --------------------------------------------------------------------------------------

# WALL is five seconds past four minutes.
DONE_AT = "2026-01-02T03:00:05Z"


def over(ttl=300, *, completion_time=DONE_AT, **run):
    """A run that is done, and no longer protected."""
    status = make_status(termination=make_stop(Phase.DONE), completion_time=completion_time)
    return make_observed(
        run=make_run(spec={} if ttl is None else {"ttlSecondsAfterFinished": ttl}, status=status, **{"finalizers": (), **run}),
        pods=(),
        workload=make_workload(finished=True, owned=True),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "decision"),
    [
        pytest.param(over(240), Decision((DeleteRun(),)), id="its time is over"),
        pytest.param(over(0), Decision((DeleteRun(),)), id="at once"),
        pytest.param(over(241), Decision(again_seconds=1, note="waiting for ttlSecondsAfterFinished"), id="a second is left"),
        pytest.param(over(None), Decision(), id="without a time it is kept"),
        pytest.param(over(0, deleting=True), Decision(), id="it is deleted already"),
        pytest.param(over(0, completion_time=None), Decision(), id="when it was done is not known"),
    ],
)  # fmt: skip
def test_a_run_that_is_over_deletes_itself(seen, decision):
    assert decide(seen) == decision


def test_a_run_that_is_still_protected_is_not_deleted():
    assert DeleteRun() not in decide(over(0, finalizers=(names.FINALIZER,))).effects


# -- what changes nothing -----------------------------------------------------------------------------------------


def test_what_was_in_force_when_a_run_ended_stays_in_its_status():
    force = Effective(auto_stop_loss=0.3, auto_stop_action="Stop")
    status = make_status(termination=make_stop(Phase.DONE), effective=force)
    assert render(make_observed(run=make_run(spec={"autoStopLoss": 9}, status=status))).effective == force


def test_a_run_that_has_ended_casts_no_shadow_any_more():
    status = make_status(termination=make_stop(Phase.DONE))
    seen = make_observed(run=make_run(spec={"autoStopLoss": None}, status=status), track=losses(0.6, 0.2, 0.1))
    assert render(seen).shadow == ()
    trains = make_observed(run=make_run(spec={"autoStopLoss": None}), track=losses(0.6, 0.2, 0.1))
    assert [one.would_stop_at for one in render(trains).shadow] == [WALL]


def test_a_signal_that_could_not_be_sent_is_said_while_the_training_is_asked_to_leave():
    agent = make_agent(signal_trouble="checkpoint-40 is being written")
    seen = stopping_at(Phase.DRAINING, agent=agent, spec={"shutdown": {"signal": "SIGTERM"}})
    status = render(seen)
    (finished,) = [one for one in status.conditions if one.type == "Finished"]
    assert finished.message.endswith(" SIGTERM was not sent to the training: checkpoint-40 is being written.")
    assert status.signal_trouble == "SIGTERM was not sent to the training: checkpoint-40 is being written."
