"""When a training is complete by the final step, or the number of epochs, that its spec names."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import (
    NOW,
    POD_UID,
    WALL,
    exited_pod,
    final_epoch,
    make_agent,
    make_found,
    make_observed,
    make_pod,
    make_rank,
    make_reading,
    make_run,
    make_status,
    make_workload,
    track_of,
)

from trainingrun_operator.api.exchange import MarkerSeen
from trainingrun_operator.api.status import Progress
from trainingrun_operator.core.facts.gathered import Facts
from trainingrun_operator.core.facts.reading import Failure
from trainingrun_operator.core.memory import Memory, remember
from trainingrun_operator.core.rules import completion
from trainingrun_operator.core.rules.chain import why_end

FINAL = 500
SAVED = make_agent(newest=make_found(step=FINAL, age_seconds=20), last_change_seconds=20)
REFUSED = Failure("Timeout", "No answer.")


def steps(*made, until=NOW, epoch=None, total=None):
    """A track with these steps, ten seconds apart."""
    start = until - 10 * len(made) + 10
    readings = (make_reading(loss=2, step=step, epoch=epoch, total_epochs=total) for step in made)
    return track_of(*((start + 10 * number, reading) for number, reading in enumerate(readings)))


def trained(*, final=FINAL, completion_spec=None, spec=None, **fields):
    """It stands at its final step for a minute, and the checkpoint of this step is written."""
    named = {"completion": {"finalStep": final, **(completion_spec or {})}, **(spec or {})}
    made = {
        "run": make_run(spec=named),
        "track": steps(300, 400, FINAL, FINAL, FINAL),
        "agent": SAVED,
        "final_step_seconds": 60,
    }
    return make_observed(**{**made, **fields})


def agent(**fields):
    return SAVED.model_copy(update=fields)


def of_step(step, **fields):
    return agent(newest=make_found(step=step, **{"age_seconds": 20, **fields}))


BEYOND = steps(300, 400, 500, 600, 700)


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        pytest.param(trained(), "Settling", id="at the final step, with its checkpoint"),
        pytest.param(trained(track=steps(400, 499, 501), agent=of_step(501)), "Settling", id="one step beyond it, as where steps count from 1"),
        pytest.param(trained(track=steps(400, 499)), "NotReached", id="one step before it"),
        pytest.param(trained(track=steps(FINAL, FINAL)), "NeverAdvanced", id="a pod that begins there has made no step"),
        pytest.param(trained(track=steps(400, FINAL, 480)), "StepFell", id="a step below the final one, of another rank or a new stage"),
        pytest.param(trained(track=track_of((980, make_reading(loss=2, step=400)), (990, make_reading(loss=2, step=FINAL)), (NOW, REFUSED))), "Settling", id="a failed scrape takes nothing back"),
        pytest.param(trained(agent=None), "NoReport", id="an agent that does not answer"),
        pytest.param(trained(agent=agent(newest=None)), "NoCheckpoint", id="no checkpoint"),
        pytest.param(trained(agent=agent(unfinished=make_found(complete=False))), "StillWritten", id="a checkpoint that is being written"),
        pytest.param(trained(agent=agent(last_change_seconds=2)), "StillWritten", id="a file that grows"),
        pytest.param(trained(agent=agent(newest=make_found(step=499, age_seconds=90), last_change_seconds=90)), "OlderCheckpoint", id="a checkpoint of the step before"),
        pytest.param(trained(agent=of_step(None, age_seconds=60)), "Settling", id="a checkpoint without a step, written since"),
        pytest.param(trained(agent=agent(newest=make_found(step=None, age_seconds=90), last_change_seconds=90)), "OlderCheckpoint", id="a checkpoint without a step, written before"),
        pytest.param(trained(agent=of_step(400, age_seconds=90)), "Settling", id="an older checkpoint, and the final model beside it"),
        pytest.param(trained(track=BEYOND, agent=of_step(700)), "Settling", id="a training that goes on, with a later checkpoint"),
        pytest.param(trained(track=BEYOND, agent=agent(newest=make_found(step=600), last_change_seconds=1)), "Settling", id="a training that goes on and writes its log"),
        pytest.param(trained(track=BEYOND, agent=of_step(400, age_seconds=90)), "OlderCheckpoint", id="a training that goes on, with an earlier checkpoint and files that change"),
        pytest.param(trained(track=BEYOND, agent=agent(newest=make_found(step=600), unfinished=make_found(complete=False))), "StillWritten", id="a training that goes on and saves"),
        pytest.param(trained(pods=(exited_pod(1),)), None, id="a training that has exited with an error"),
        pytest.param(trained(pods=(exited_pod(0),)), None, id="a training that has exited"),
        pytest.param(trained(spec={"checkpoint": {"mode": "Disabled"}}), "CheckpointsDisabled", id="nothing is saved"),
        pytest.param(trained(agent=agent(markers=(MarkerSeen(name="COMPLETE", age_seconds=5),))), None, id="the marker says so already"),
        pytest.param(make_observed(track=BEYOND), None, id="no final step is named"),
    ],
)  # fmt: skip
def test_final_step(seen, reason):
    found = completion.final_step(seen)
    assert (found.reason if found else None) == reason
    assert not (found and found.fires), "It settles first."
    held = replace(seen, candidate_seconds=300)
    end = completion.final_step(held)
    assert bool(end and end.fires) == (reason == "Settling")


def test_the_end_says_the_step_and_is_inferred():
    found = why_end(trained(candidate_seconds=300))
    assert found is not None
    assert (found.rule, found.status, found.actor, found.inferred) == (
        "finalStep",
        "auto_complete",
        "finalStep",
        True,
    )
    assert [(one.what, one.value, one.step) for one in found.evidence] == [("step", "500", 500)]


def test_no_completion_after_another_rank_has_crashed():
    ranks = (
        make_rank(0, track=steps(400, FINAL), report=SAVED),
        make_rank(1, pod=exited_pod(1, rank=1), report=SAVED),
    )
    found = completion.final_step(trained(ranks=ranks, candidate_seconds=300))
    assert found is not None
    assert (found.reason, found.fires) == ("RankCrashed", False)


def stall(**fields):
    """The final epoch stands still, and all is written; the spec's completion are the keywords."""
    return make_observed(
        run=make_run(spec={"completion": fields}),
        track=replace(final_epoch(), epochs=final_epoch().epochs.naming(fields.get("totalEpochs"))),
        agent=SAVED,
    )


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        pytest.param(stall(finalStep=501), "BeforeFinalStep", id="one step before the final one"),
        pytest.param(stall(finalStep=500), "Settling", id="at the final step"),
        pytest.param(stall(totalEpochs=3), "Settling", id="the number of epochs that the metrics show, too"),
        pytest.param(stall(totalEpochs=3.01), "Settling", id="a rounding of it"),
        pytest.param(stall(totalEpochs=2), "TotalsDiffer", id="fewer epochs than the metrics show"),
        pytest.param(stall(totalEpochs=5), "TotalsDiffer", id="more epochs than the metrics show"),
    ],
)
def test_what_the_spec_names_contradicts_a_stall(seen, reason):
    found = completion.final_epoch_stall(seen)
    assert found is not None
    assert found.reason == reason


# -- over time ------------------------------------------------------------------------------------------------------


def looked(spec, *readings, status=None, every=10.0, report=SAVED, memory=None, pod=None):
    """What is remembered and seen after readings, ten seconds apart."""
    memory, seen, now = memory or Memory(), None, NOW
    run = make_run(spec={"autoStopLoss": -1, **spec}, status=status or make_status())
    for reading in readings:
        now += every
        facts = Facts(
            run=run,
            wall=WALL,
            workload=make_workload(),
            pods=(pod or make_pod(),),
            reports={0: report},
            readings={0: reading},
        )
        memory, seen = remember(memory, facts, now)
    assert seen is not None
    return memory, seen


def epochs(*rows, total=None):
    return [make_reading(loss=2, step=step, epoch=epoch, total_epochs=total) for step, epoch in rows]


RUN_OF_TWO = ((0, 0.1), (100, 0.5), (200, 1.0), (300, 1.5), (400, 1.9), (500, 2.0), *[(500, 2.0)] * 5)


@pytest.mark.parametrize(
    ("named", "shown", "reason"),
    [
        pytest.param(2, None, "Settling", id="named by the spec"),
        pytest.param(None, 2, "Settling", id="shown by the training"),
        pytest.param(2, 2, "Settling", id="both"),
        pytest.param(2, 0, "Settling", id="a gauge that stays at 0 shows none"),
        pytest.param(None, None, "NoEpoch", id="neither"),
        pytest.param(4, None, "NotFinalEpoch", id="more are named than trained"),
        pytest.param(1.9, None, "BeyondTotal", id="fewer are named than trained"),
        pytest.param(2, 4, "TotalsDiffer", id="the training shows more"),
        pytest.param(4, 2, "TotalsDiffer", id="the training shows fewer"),
    ],
)
def test_the_number_of_epochs_that_the_spec_names_is_used_where_the_training_shows_none(named, shown, reason):
    spec = {"completion": {"totalEpochs": named}} if named is not None else {}
    rows = epochs(*RUN_OF_TWO[:6], *RUN_OF_TWO[6:] * 3, total=shown)
    _, seen = looked(spec, *rows)
    found = completion.final_epoch_stall(seen)
    assert found is not None
    assert found.reason == reason


def test_a_changed_number_of_epochs_counts_from_the_next_reading_on():
    memory, seen = looked({"completion": {"totalEpochs": 2}}, *epochs(*RUN_OF_TWO[:4]))
    assert seen.track.total_epochs == 2
    _, seen = looked({"completion": {"totalEpochs": 5}}, *epochs((310, 1.6)), memory=memory)
    assert seen.track.total_epochs == 5
    _, seen = looked({}, *epochs((320, 1.7)), memory=memory)
    assert seen.track.total_epochs is None


@pytest.mark.parametrize(("shown", "total"), [(None, 5), (3, 3)])
def test_a_restarted_operator_takes_the_recorded_total_not_for_the_trainings(shown, total):
    """The status records one number, whoever has named it."""
    status = make_status(progress=Progress(step=300, epoch="1.5", total_epochs=3, epoch_base=0, pod_uid=POD_UID))
    _, seen = looked({"completion": {"totalEpochs": 5}}, *epochs((310, 1.6), total=shown), status=status)
    assert seen.track.total_epochs == total


def test_the_final_step_is_timed_from_when_it_was_reached():
    spec = {"completion": {"finalStep": FINAL}}
    made = [make_reading(loss=2, step=step) for step in (300, 400, FINAL, FINAL, 600)]
    memory, seen = looked(spec, *made[:2])
    assert seen.final_step_seconds is None
    memory, seen = looked(spec, *made[2:], memory=memory)
    assert seen.final_step_seconds == 20
    _, seen = looked({"completion": {"finalStep": 700}}, make_reading(loss=2, step=610), memory=memory)
    assert seen.final_step_seconds is None
    again = [make_reading(loss=2, step=0), make_reading(loss=2, step=FINAL)]
    _, seen = looked(spec, *again, memory=memory, pod=make_pod(uid="another"))
    assert seen.final_step_seconds == 0


def test_one_reading_far_beyond_does_not_end_a_training():
    """A line of the log that was misread, and the true steps after it."""
    spec = {"completion": {"finalStep": FINAL, "settleSeconds": 30}}
    memory, said = Memory(), []
    for step in (300, 310, 10**9, 320, 330, 340, 350):
        report = make_agent(newest=make_found(step=300))
        memory, seen = looked(spec, make_reading(loss=2, step=step), memory=memory, report=report)
        found = completion.final_step(seen)
        assert found is not None
        assert why_end(seen) is None
        said.append(found.reason)
    assert said[-1] == "NotReached"
