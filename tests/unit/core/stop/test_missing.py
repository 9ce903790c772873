"""The words of a data loss: which steps, seconds and files are missing, as far as they are known."""

from __future__ import annotations

import pytest
from builders import (
    EARLIER,
    NOW,
    POD_UID,
    losses,
    make_agent,
    make_found,
    make_observed,
    make_rank,
    make_reading,
    make_run,
    make_saved,
    make_status,
    track_of,
)

from trainingrun_operator.api.status import CheckpointStatus, Progress, Saved
from trainingrun_operator.core.facts.rank import LastSaid
from trainingrun_operator.core.stop import missing
from trainingrun_operator.core.track import Track

STEPPED = losses(2.0, 1.5, 1.2, until=NOW - 5)
"""To step 1300, five seconds ago."""
NOTHING = Saved(final=True, note="nothing")


def after(saved=None, *, track=STEPPED, said=None, **status):
    seen = make_observed(run=make_run(status=make_status(**status)), track=track, last_said=said)
    return missing.after(seen, saved or make_saved())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        pytest.param({}, "Missing: 100 steps, 1201 to 1300.", id="after a checkpoint"),
        pytest.param({"saved": NOTHING, "start_time": None}, "Missing: 1300 steps, 1 to 1300.", id="of the whole training"),
        pytest.param({"saved": make_saved(step=1300)}, "", id="not one"),
        pytest.param({"saved": make_saved(step=None)}, "Missing: what was trained up to step 1300.", id="after one without a step"),
        pytest.param({"track": Track()}, "", id="nothing is known"),
        pytest.param(
            {"track": Track(), "progress": Progress(step=1250, pod_uid=POD_UID)}, "Missing: 50 steps, 1201 to 1250.", id="known from the status"
        ),
        pytest.param({"track": Track(), "progress": Progress(pod_uid=POD_UID)}, "", id="no step was seen"),
        pytest.param(
            {"track": Track(), "progress": Progress(step=20, fell_from=1200, fell_to=0)}, "Missing: what was trained up to step 20.", id="in another stage"
        ),
    ],
)  # fmt: skip
def test_the_steps(fields, words):
    assert after(**fields) == words


PROVEN = CheckpointStatus(commit=make_saved().commit, verified_at="2026-01-02T03:02:05Z")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        pytest.param({"checkpoint": PROVEN}, "115 s of training after its proof", id="since the proof, by this process"),
        pytest.param({"saved": NOTHING}, "240 s of training in all", id="since the start"),
        pytest.param({"checkpoint": CheckpointStatus(commit="another", verified_at=EARLIER)}, None, id="of another commit"),
        pytest.param(
            {"checkpoint": PROVEN, "track": Track(), "progress": Progress(step=1300, last_observation_time="2026-01-02T03:03:05Z")},
            "60 s of training after its proof", id="by an operator before this one",
        ),
        pytest.param({"checkpoint": PROVEN, "track": Track(), "progress": Progress(step=1300)}, None, id="nobody saw when"),
        pytest.param({"saved": NOTHING, "track": Track()}, None, id="nobody saw a step"),
        pytest.param(
            {"checkpoint": PROVEN, "track": track_of((NOW - 2000, make_reading(step=1)), (NOW - 1000, make_reading(step=2)), (NOW - 990, make_reading(step=0)))},
            None, id="a new stage without a step",
        ),
    ],
)  # fmt: skip
def test_the_seconds_by_one_clock(fields, words):
    found = after(**fields)
    assert (words in found) if words else (" s of training" not in found)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        pytest.param(None, None, id="it never answered"),
        pytest.param(LastSaid(POD_UID), None, id="everything was saved"),
        pytest.param(LastSaid(POD_UID, 4096), "4096 bytes that the agent last reported as unsaved.", id="bytes"),
        pytest.param(
            LastSaid(POD_UID, 4096, "checkpoint-1300", "checkpoint-1400"),
            "4096 bytes that the agent last reported as unsaved (newest checkpoint checkpoint-1300, unfinished checkpoint-1400).",
            id="checkpoints",
        ),
    ],
)  # fmt: skip
def test_the_files(said, words):
    found = after(said=said)
    assert found.endswith(words) if words else "bytes" not in found


def test_of_several_ranks_each_is_named():
    ranks = (make_rank(0, last_said=LastSaid("a", 1)), make_rank(1, last_said=LastSaid("b", 2)))
    found = missing.after(make_observed(ranks=ranks), make_saved())
    assert "1 bytes that the agent of rank 0" in found
    assert "2 bytes that the agent of rank 1" in found


def test_what_an_agent_says_about_its_files():
    report = make_agent(unsaved_bytes=7, unfinished=make_found(dir="checkpoint-1400", complete=False))
    assert LastSaid.of(report) == LastSaid(POD_UID, 7, "checkpoint-1200", "checkpoint-1400")
    assert LastSaid.of(make_agent(newest=None)) == LastSaid(POD_UID)
