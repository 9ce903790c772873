"""When a training is complete by a line of its log, and when the line is none of its last."""

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
    make_pod,
    make_rank,
    make_reading,
    make_run,
    track_of,
)
from pydantic import ValidationError

from trainingrun_operator.api.exchange import MarkerSeen
from trainingrun_operator.core.completion_line import CompletionLine
from trainingrun_operator.core.facts.reading import Failure
from trainingrun_operator.core.rules import completion
from trainingrun_operator.core.rules.chain import why_end
from trainingrun_operator.core.track import Track

PATTERN = "^Training (complete|finished)"
NAMED = {"completion": {"logPatterns": ["^DONE$", PATTERN]}}
LINE = "Training complete: token=hf_x"
SAVED = make_agent(newest=make_found(step=500, age_seconds=20), last_change_seconds=20)
FAILED = Failure("LogUnreadable", "The log of pod bert cannot be read: 403 Forbidden.")
STARTED = make_pod().started_at


def said(**fields):
    """It has printed the line a minute ago, and has shown nothing since that it goes on."""
    known = CompletionLine(POD_UID, STARTED, pattern=PATTERN, line=LINE, step=500, since=NOW - 60)
    return replace(known, **fields)


def steps(*made, until=NOW - 60, every=10):
    """A track with these steps, the last one a minute ago."""
    start = until - every * (len(made) - 1)
    return track_of(*((start + every * number, make_reading(loss=2, step=step)) for number, step in enumerate(made)))


STANDS = steps(300, 400, 500)


def trained(spec=None, **fields):
    """It stands still for a minute after its line, and the checkpoint of its last step is written."""
    made = {"run": make_run(spec={**NAMED, **(spec or {})}), "track": STANDS, "agent": SAVED, "completion_line": said()}
    return make_observed(**{**made, **fields})


def agent(**fields):
    return SAVED.model_copy(update=fields)


def of_step(step, **fields):
    return agent(newest=make_found(step=step, **{"age_seconds": 20, **fields}))


def in_epoch(epoch, *, pause=None, total=3):
    """The last reading shows this epoch, and the longest pause at the end of one so far was `pause`."""
    track = final_epoch(epoch=epoch, total=total, polls=0)
    return replace(track, longest_pause=10, longest_epoch_pause=pause)


BEFORE = make_agent(newest=make_found(step=100, age_seconds=9_000), last_change_seconds=9_000)


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        pytest.param(trained(), "Settling", id="after the line it stands still, with its checkpoint"),
        pytest.param(trained(completion_line=None), "NotReadYet", id="the log was not read yet"),
        pytest.param(trained(completion_line=said(pattern="", line="")), "NotPrinted", id="no line has a pattern"),
        pytest.param(trained(completion_line=said(pattern="", line="", trouble=FAILED)), "LogUnreadable", id="a log that cannot be read is no evidence"),
        pytest.param(trained(completion_line=said(trouble=FAILED)), "Settling", id="the line was read before the log became unreadable"),
        pytest.param(trained(completion_line=said(pattern="", line="", taken_back=True)), "GoesOn", id="steps after the line"),
        pytest.param(trained(completion_line=said(since=NOW)), "JustPrinted", id="the poll that has read the line"),
        pytest.param(trained(track=steps(300, 400, 500, every=31)), "WithinPause", id="a pause as long as earlier ones"),
        pytest.param(trained(track=steps(300, 400, 500, every=30)), "Settling", id="twice the longest pause"),
        pytest.param(trained(track=steps(499, 500)), "WithinPause", id="one step was seen, which came after most of the time that the pod runs"),
        pytest.param(trained(track=steps(499, 500, until=NOW - 200), completion_line=said(since=NOW - 200)), "Settling", id="it stands for longer than it took to come to its only step"),
        pytest.param(trained(track=steps(500, 500)), "NeverAdvanced", id="a line before the first step, such as that of the data set"),
        pytest.param(trained(track=Track(), agent=of_step(None)), "Settling", id="no step is read, and the log is silent"),
        pytest.param(trained(track=Track(), agent=agent(newest=None)), "NoCheckpoint", id="no step is read, and no checkpoint"),
        pytest.param(trained(track=Track(), agent=BEFORE), "OlderCheckpoint", id="no step is read, and the checkpoint is that of the restore"),
        pytest.param(trained(track=Track(), pods=(make_pod(started_at=""),)), "OlderCheckpoint", id="no step is read, and it is not known when the pod began"),
        pytest.param(trained(agent=None), "NoReport", id="an agent that does not answer"),
        pytest.param(trained(agent=agent(newest=None)), "NoCheckpoint", id="no checkpoint"),
        pytest.param(trained(agent=agent(unfinished=make_found(complete=False))), "StillWritten", id="a checkpoint that is being written after the line"),
        pytest.param(trained(agent=agent(last_change_seconds=2)), "StillWritten", id="the model is being written after the line"),
        pytest.param(trained(agent=agent(newest=make_found(step=499, age_seconds=90), last_change_seconds=90)), "OlderCheckpoint", id="the last steps are in no checkpoint"),
        pytest.param(trained(agent=of_step(400, age_seconds=90)), "Settling", id="an older checkpoint, and the final model beside it"),
        pytest.param(trained(track=in_epoch(0.9)), "PauseUnknown", id="the first epoch of three, which may be evaluated"),
        pytest.param(trained(track=in_epoch(1.9, pause=40)), "WithinPause", id="the second epoch of three, and the evaluation of the first was as long"),
        pytest.param(trained(track=in_epoch(1.9, pause=25)), "Settling", id="it stopped early, and stands for longer than any evaluation"),
        pytest.param(trained(track=in_epoch(3)), "Settling", id="the end of the last epoch"),
        pytest.param(trained(track=in_epoch(1.0, total=1)), "Settling", id="the end of the only epoch"),
        pytest.param(trained(pods=(exited_pod(1),)), None, id="an error after the line"),
        pytest.param(trained(pods=(exited_pod(0),)), None, id="it has exited"),
        pytest.param(trained(spec={"checkpoint": {"mode": "Disabled"}}), "CheckpointsDisabled", id="nothing is saved"),
        pytest.param(trained(agent=agent(markers=(MarkerSeen(name="COMPLETE", age_seconds=5),))), None, id="the marker says so already"),
        pytest.param(make_observed(track=STANDS), None, id="no pattern is named"),
    ],
)  # fmt: skip
def test_a_line_of_the_log(seen, reason):
    found = completion.log_line(seen)
    assert (found.reason if found else None) == reason
    assert not (found and found.fires), "It settles first."
    end = completion.log_line(replace(seen, candidate_seconds=300))
    assert bool(end and end.fires) == (reason == "Settling")
    assert (completion.inferred(seen) is not None) == (reason == "Settling" or completion.marker_of(seen) is not None)


def ranks(*pods):
    """A training of two ranks, of which rank 0 has printed the line."""
    made = (make_rank(number, pod=pod, report=SAVED) for number, pod in enumerate(pods))
    return trained(ranks=tuple(replace(rank, track=STANDS) for rank in made), candidate_seconds=300)


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        pytest.param(ranks(make_pod(), make_pod(rank=1)), "Printed", id="both run"),
        pytest.param(ranks(make_pod(), exited_pod(0, rank=1)), "Printed", id="the other one has exited well"),
        pytest.param(ranks(make_pod(), exited_pod(1, rank=1)), "RankCrashed", id="the other one has crashed"),
        pytest.param(ranks(exited_pod(1), make_pod(rank=1)), None, id="it has crashed itself, and the other one runs"),
        pytest.param(
            ranks(exited_pod(0), make_pod(rank=1)),
            None,
            id="it has exited, and nothing shows whether the other one goes on",
        ),
    ],
)
def test_a_line_of_rank_0_is_no_completion_of_ranks_that_have_failed(seen, reason):
    found = completion.log_line(seen)
    assert (found and found.reason) == reason
    end = why_end(seen)
    assert (end and end.rule) == ("logPatterns" if reason == "Printed" else None)


def test_the_evidence_has_the_line_and_the_message_only_the_pattern():
    found = why_end(trained(candidate_seconds=300))
    assert found is not None
    assert (found.rule, found.status, found.actor, found.inferred) == (
        "logPatterns",
        "auto_complete",
        "logPatterns",
        True,
    )
    assert [(one.what, one.value, one.step) for one in found.evidence] == [("logLine", LINE, 500)]
    assert PATTERN in found.message
    assert "hf_x" not in found.message


@pytest.mark.parametrize("patterns", [[""], ["x" * 256], ["x"] * 17])
def test_patterns_are_bounded(patterns):
    with pytest.raises(ValidationError):
        make_run(spec={"completion": {"logPatterns": patterns}})
