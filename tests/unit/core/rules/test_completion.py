"""When a training is complete although it still runs."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import (
    NOW,
    POD_UID,
    exited_pod,
    final_epoch,
    make_agent,
    make_found,
    make_observed,
    make_reading,
    make_run,
)

from trainingrun_operator.api.exchange import MarkerSeen
from trainingrun_operator.api.status import Progress
from trainingrun_operator.core.facts.reading import Failure
from trainingrun_operator.core.rules import completion, exits
from trainingrun_operator.core.rules.chain import why_end
from trainingrun_operator.core.track import Track, fold, resumed

COMPLETE = "auto_complete"
MARKED = make_agent(markers=(MarkerSeen(name="COMPLETE", age_seconds=5),))


QUIET = final_epoch()
LAST_STEP = 500
SAVED = make_agent(newest=make_found(step=LAST_STEP, age_seconds=20), last_change_seconds=20)


def stalled(**fields):
    """Every guard holds: the last epoch has stood still for 30 seconds with a step every 10, and its checkpoint is written."""
    made = {"track": QUIET, "agent": SAVED, "now": NOW}
    return make_observed(**{**made, **fields})


def told_by(source, *, of_bar=False, **spec):
    """The same, of a run that is measured by a source; a total that the spec names is known."""
    named = spec.get("completion", {}).get("totalEpochs")
    epochs = replace(QUIET.epochs, of_bar=of_bar, named=named)
    return stalled(run=make_run(spec=spec), track=replace(QUIET, source=source, epochs=epochs))


def agent(**fields):
    return SAVED.model_copy(update=fields)


SLOW = final_epoch(total=1, epoch=0.6, every=40.0, polls=15)


def written_down(**fields):
    """What an operator wrote of the last epoch before it was restarted; then as many polls as it takes."""
    before = {
        "step": 500,
        "epoch": "2",
        "total_epochs": 3,
        "epoch_base": 0,
        "step_interval": "10",
        "longest_epoch_pause": "10",
        "pod_uid": POD_UID,
    }
    track = resumed(Progress(**{**before, **fields}), pod_uid=POD_UID, now=NOW - 30)
    for poll in (1, 2, 3):
        track = fold(
            track, make_reading(loss=1, step=500, epoch=2, total_epochs=3), pod_uid=POD_UID, now=NOW - 30 + 10 * poll
        )
    return track


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        pytest.param(stalled(), "Settling", id="every guard holds"),
        pytest.param(stalled(track=written_down()), "Settling", id="seen to begin by the operator before this one"),
        pytest.param(stalled(track=written_down(step_interval=None)), "Settling", id="the one before had seen two steps, with an epoch's end between them"),
        pytest.param(stalled(track=written_down(step_interval=None, longest_epoch_pause="15")), "WithinPace", id="the same, quiet for less than three times that pause"),
        pytest.param(stalled(track=written_down(step_interval=None, longest_epoch_pause=None)), "PaceUnknown", id="the one before had not seen enough steps"),
        pytest.param(stalled(track=written_down(step_interval="15")), "WithinPace", id="after a restart it must be quiet anew"),
        pytest.param(stalled(track=final_epoch(base=1)), "Settling", id="also where epochs count from 1"),
        pytest.param(stalled(track=final_epoch(polls=2)), "StillAdvances", id="too few polls without a step"),
        pytest.param(stalled(track=final_epoch(then=(make_reading(loss=1, step=399, epoch=2, total_epochs=3),))), "StepFell", id="another rank, or a new stage, answers"),
        pytest.param(stalled(track=final_epoch(total=2, epoch=5)), "BeyondTotal", id="the epoch is beyond the total"),
        pytest.param(told_by("Logs"), "Settling", id="the total is printed by the training itself"),
        pytest.param(told_by("Logs", of_bar=True), "TotalOfBar", id="the total is that of a bar, in a log that nobody has named"),
        pytest.param(told_by("Logs", of_bar=True, metrics={"source": "Auto"}), "TotalOfBar", id="the same with Auto"),
        pytest.param(told_by("Logs", of_bar=True, metrics={"source": "Logs"}), "Settling", id="the log is named, and so is what its bars say"),
        pytest.param(told_by("Logs", of_bar=True, completion={"totalEpochs": 3}), "Settling", id="the spec has the same total as the bar"),
        pytest.param(told_by("Logs", of_bar=True, completion={"totalEpochs": 4}), "TotalsDiffer", id="the spec has another total than the bar"),
        pytest.param(told_by("Prometheus", of_bar=True), "Settling", id="a page has no bars"),
        pytest.param(stalled(track=replace(QUIET, longest_epoch_pause=None)), "PauseUnknown", id="no pause at the end of an epoch was seen"),
        pytest.param(stalled(track=replace(QUIET, longest_epoch_pause=100.0)), "WithinPause", id="an evaluation took longer before"),
        pytest.param(stalled(track=final_epoch(epoch=1)), "NotFinalEpoch", id="not the last epoch"),
        pytest.param(stalled(track=final_epoch(base=2)), "EpochBaseUnknown", id="unknown how epochs are counted"),
        pytest.param(stalled(track=final_epoch(total=None, epoch=2)), "NoEpoch", id="unknown how many there are"),
        pytest.param(stalled(track=final_epoch(every=15, polls=4)), "WithinPace", id="quiet for less than three times the usual"),
        pytest.param(stalled(track=final_epoch(steps=2)), "Settling", id="two steps were seen, with an epoch's end between them"),
        pytest.param(stalled(track=replace(final_epoch(steps=2, polls=9), longest_epoch_pause=None)), "PaceUnknown", id="too few steps to know what is usual"),
        pytest.param(
            stalled(track=final_epoch(then=(Failure("Timeout", "No answer."),))), "Timeout", id="a failed scrape is not a stall"
        ),
        pytest.param(stalled(track=Track()), "NeverAdvanced", id="a step that never advanced"),
        pytest.param(stalled(agent=None), "NoReport", id="an agent that does not answer"),
        pytest.param(stalled(agent=agent(newest=None)), "NoCheckpoint", id="no checkpoint"),
        pytest.param(stalled(agent=agent(unfinished=make_found(complete=False))), "StillWritten", id="a checkpoint still being written"),
        pytest.param(stalled(agent=agent(last_change_seconds=3)), "StillWritten", id="a file that still grows"),
        pytest.param(stalled(agent=agent(last_change_seconds=None)), "Settling", id="no file that ever changed"),
        pytest.param(stalled(agent=agent(newest=make_found(step=LAST_STEP - 1, age_seconds=20))), "OlderCheckpoint", id="a checkpoint of an earlier step, still written after the last one"),
        pytest.param(stalled(agent=agent(newest=make_found(step=LAST_STEP - 1, age_seconds=22))), "OlderCheckpoint", id="the same, seen by the agent a moment later"),
        pytest.param(stalled(agent=agent(newest=make_found(step=LAST_STEP - 1, age_seconds=60), last_change_seconds=60)), "OlderCheckpoint", id="a checkpoint older than the last step"),
        pytest.param(stalled(agent=agent(newest=make_found(step=LAST_STEP - 100, age_seconds=60))), "Settling", id="a file without a number, newer than the last step, beside an older checkpoint"),
        pytest.param(stalled(agent=agent(newest=make_found(step=LAST_STEP - 100, age_seconds=60), last_change_seconds=3)), "StillWritten", id="a file without a number that still grows"),
        pytest.param(stalled(agent=agent(newest=make_found(step=LAST_STEP - 100, age_seconds=60), last_change_seconds=None)), "OlderCheckpoint", id="an older checkpoint, and it is unknown when a file changed"),
        pytest.param(stalled(agent=agent(newest=make_found(dir="checkpoint12.pt", step=12, age_seconds=35))), "Settling", id="a number that counts epochs, written after the last step"),
        pytest.param(stalled(agent=agent(newest=make_found(dir="checkpoint12.pt", step=12, age_seconds=60), last_change_seconds=60)), "OlderCheckpoint", id="a number that counts epochs, written before the last step"),
        pytest.param(stalled(agent=agent(newest=make_found(dir="samples-64000", step=64_000, age_seconds=60), last_change_seconds=60)), "OlderCheckpoint", id="a number that counts samples is no later step"),
        pytest.param(stalled(agent=agent(newest=make_found(step=None, age_seconds=35))), "Settling", id="a checkpoint without a step, newer than the last"),
        pytest.param(stalled(agent=agent(newest=make_found(step=None, age_seconds=60), last_change_seconds=60)), "OlderCheckpoint", id="a checkpoint without a step, older than the last"),
        pytest.param(stalled(run=make_run(spec={"checkpoint": {"mode": "Disabled"}})), "CheckpointsDisabled", id="nothing is saved, so nothing proves the end"),
        pytest.param(stalled(run=make_run(spec={"stallPolls": 4})), "StillAdvances", id="a person wants more polls"),
        pytest.param(stalled(pods=(exited_pod(1),)), None, id="a training that has exited"),
        pytest.param(stalled(pods=()), None, id="no pod"),
        pytest.param(
            stalled(track=SLOW, agent=agent(newest=make_found(step=400))),
            "NotAtEnd",
            id="one epoch of 40 s steps with a long evaluation does not fire",
        ),
        pytest.param(
            stalled(track=final_epoch(total=1, epoch=0.98, every=40.0, polls=11), agent=agent(newest=make_found(step=LAST_STEP))),
            "WithinPace",
            id="nor does it just after a checkpoint, within three steps' time",
        ),
    ],
)  # fmt: skip
def test_final_epoch_stall(seen, reason):
    newest = seen.track.newest
    seen = replace(seen, now=newest.at + 10 * seen.track.polls_without_advance) if newest else seen
    found = completion.final_epoch_stall(seen)
    assert (found.reason if found else None) == reason
    assert not (found and found.fires), "It settles first."
    assert (completion.inferred(seen) is not None) == (reason == "Settling")


def test_a_stall_of_a_day_needs_nothing_to_compare_with():
    """An operator that came late saw too few steps to know the pace."""
    seen = stalled(track=replace(final_epoch(steps=2), longest_epoch_pause=None))
    newest = seen.track.newest
    assert newest is not None
    for quiet, reason in ((86_399, "PaceUnknown"), (86_400, "Settling")):
        found = completion.final_epoch_stall(replace(seen, now=newest.at + quiet))
        assert found is not None
        assert found.reason == reason, f"{quiet} s without a step"


def test_a_stall_says_epoch_polls_and_step():
    found = completion.inferred(stalled())
    assert found is not None
    assert (found.status, found.message, found.actor, found.inferred) == (
        COMPLETE, "Final epoch reached and no step since 500 for 3 polls.", "stallPolls", True,
    )  # fmt: skip
    assert [(e.what, e.value, e.step) for e in found.evidence] == [
        ("epoch", "2 of 3", None),
        ("stallPolls", "3", 500),
    ]


def test_a_marker_while_the_training_still_runs_is_inferred():
    found = completion.inferred(make_observed(agent=MARKED))
    assert found is not None
    assert (found.status, found.message, found.inferred) == (
        COMPLETE, "Training wrote the completion marker COMPLETE.", True,
    )  # fmt: skip


def test_a_marker_of_any_length_is_cut_to_what_the_status_can_say():
    endless = make_agent(markers=(MarkerSeen(name="x" * 5000, age_seconds=5),))
    for found in (
        completion.inferred(make_observed(agent=endless)),
        exits.exit_code(make_observed(agent=endless, pods=(exited_pod(1),))),
    ):
        assert found is not None
        assert len(found.evidence[0].value) == 1024


@pytest.mark.parametrize(
    ("seconds", "ends"),
    [
        pytest.param(None, False, id="not yet concluded"),
        pytest.param(299, False, id="the last writes may still land"),
        pytest.param(300, True, id="they have had their time"),
    ],
)
def test_an_inferred_completion_settles_first(seconds, ends):
    seen = make_observed(agent=MARKED, candidate_seconds=seconds)
    assert (why_end(seen) is not None) == ends
