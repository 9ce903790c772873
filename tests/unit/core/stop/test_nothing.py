"""What is evidence that a running training has nothing to save, and what is not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import (
    NOW,
    POD_UID,
    exited_pod,
    losses,
    make_agent,
    make_found,
    make_observed,
    make_pod,
    make_reading,
    make_run,
    make_status,
    make_stop,
    make_unreachable,
    make_verified,
    make_workload,
    pending_pod,
    with_rank,
)

from trainingrun_operator.api.exchange import AgentReport, CommitSeen, ManifestSeen
from trainingrun_operator.api.status import CheckpointStatus, Phase, Progress
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.effects import Advance, Annotate
from trainingrun_operator.core.facts.gathered import Facts
from trainingrun_operator.core.facts.reading import Failure
from trainingrun_operator.core.memory import Memory, remember
from trainingrun_operator.core.track import Track

EMPTY = make_agent(newest=None, files=0, bytes=0, temporary_files=0, last_change_seconds=None)
AT_START = {"track": Track(), "agent": EMPTY, "unmoved": True}
COMMIT = CommitSeen(key="k", incarnation=1, generation=1)
MANIFEST = ManifestSeen(key="k", incarnation=1, generation=1)


def saving(*, phase=Phase.SAVING, status=None, **fields):
    given = make_status(termination=make_stop(phase), termination_status="auto_low_loss", **(status or {}))
    of_rank: dict[str, Any] = {**AT_START}
    of_rank |= {name: fields.pop(name) for name in ("track", "agent", "unmoved", "pods") if name in fields}
    return replace(with_rank(make_observed(run=make_run(status=given)), **of_rank), **fields)


def advanced(seen):
    return next((e.termination for e in decide(seen).effects if isinstance(e, Advance)), None)


@pytest.mark.parametrize("phase", [pytest.param(Phase.SAVING, id="saving"), pytest.param(Phase.HELD, id="held")])
def test_a_training_at_step_0_with_an_empty_volume_and_no_checkpoint_has_nothing_to_save(phase):
    stop = advanced(saving(phase=phase))
    assert (stop.phase, stop.data_loss, stop.saved.note, stop.saved.final) == (
        Phase.DELETING, None, "Nothing to save: the training made no step and wrote no file.", False,
    )  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"agent": None}, id="an agent that does not answer"),
        pytest.param({"agent": EMPTY.model_copy(update={"files": None, "temporary_files": None})}, id="an agent that has not looked yet"),
        pytest.param({"agent": AgentReport(pod_uid=POD_UID, files=0)}, id="an agent of an earlier version, which does not count temporary names"),
        pytest.param({"agent": EMPTY.model_copy(update={"files": 1})}, id="a file"),
        pytest.param({"agent": EMPTY.model_copy(update={"temporary_files": 1})}, id="a file under a temporary name"),
        pytest.param({"agent": EMPTY.model_copy(update={"commit": COMMIT})}, id="a commit of this agent"),
        pytest.param({"agent": EMPTY.model_copy(update={"manifest": MANIFEST})}, id="a manifest of this agent"),
        pytest.param({"verified": make_verified()}, id="a commit that this process has verified"),
        pytest.param({"status": {"checkpoint": CheckpointStatus(commit="k", digest="d")}}, id="a checkpoint that an earlier process has verified"),
        pytest.param({"answer": make_unreachable()}, id="a bucket that cannot be read"),
        pytest.param({"unmoved": False}, id="metrics that were not read, or not since a failure"),
        pytest.param({"track": losses(2.0, 1.0)}, id="a step that has advanced"),
        pytest.param({"status": {"progress": Progress(step=5)}}, id="a step that an earlier process has read"),
        pytest.param({"pods": (exited_pod(0),)}, id="a training that has ended: its agent says what lies there"),
    ],
)  # fmt: skip
def test_the_stop_goes_on_asking_if_there_may_be_something(fields):
    seen = saving(**fields)
    assert advanced(seen) is None
    assert [e.pod_uid for e in decide(seen).effects if isinstance(e, Annotate)] == [POD_UID]


def test_it_becomes_held_like_any_other_missing_proof_with_what_it_waits_for():
    seen = saving(agent=EMPTY.model_copy(update={"temporary_files": 2}), save_failing_seconds=120)
    stop = advanced(seen)
    assert (stop.phase, stop.saved) == (Phase.HELD, None)
    assert stop.hold_reason == "The training still runs and has not written a complete checkpoint yet."


def test_a_checkpoint_that_comes_after_all_is_waited_for_without_a_hold():
    written = EMPTY.model_copy(update={"files": 3, "newest": make_found(step=1)})
    assert advanced(saving(agent=written, save_failing_seconds=120)) is None


# -- the step that was read ---------------------------------------------------------------------------------------

ZERO, FAILED = make_reading(2.0, 0), Failure("Timeout", "The page does not answer.")


TRAINS = (make_pod(),)


def look(memory, reading, now, *, pods=TRAINS):
    readings = {} if reading is None else {0: reading}
    return remember(memory, Facts(make_run(), "2026-01-02T03:04:05Z", pods=pods, readings=readings), now)


@pytest.mark.parametrize(
    ("readings", "unmoved"),
    [
        pytest.param([], False, id="nothing was read yet"),
        pytest.param([ZERO], True, id="its first value is 0"),
        pytest.param([make_reading(None, 0)], True, id="there is no loss before the first step"),
        pytest.param([make_reading(float("nan"), 0)], True, id="nor a finite one"),
        pytest.param([ZERO, ZERO], True, id="it has not advanced"),
        pytest.param([ZERO, None], True, id="no reading was due since"),
        pytest.param([FAILED], False, id="the page cannot be read"),
        pytest.param([ZERO, FAILED], False, id="the page cannot be read any more"),
        pytest.param([FAILED, ZERO], True, id="it can be read again"),
        pytest.param([make_reading(2.0)], False, id="the page has no step"),
        pytest.param([make_reading(2.0, float("nan"))], False, id="the step is no number"),
        pytest.param([make_reading(2.0, 500)], False, id="the first step that this process reads is not the first of the training"),
        pytest.param([make_reading(2.0, 500), make_reading(2.0, 500)], False, id="also if it stands still there"),
        pytest.param([ZERO, make_reading(2.0, 1)], False, id="it has advanced"),
    ],
)  # fmt: skip
def test_the_step_is_known_not_to_have_moved(readings, unmoved):
    memory, seen = look(Memory(), None, NOW)
    for now, reading in enumerate(readings, int(NOW)):
        memory, seen = look(memory, reading, now)
    assert seen.ranks[0].unmoved is unmoved


def test_the_next_pod_has_its_own_readings():
    memory, _ = look(Memory(), ZERO, NOW)
    for pods in ((make_pod(uid="next"),), (pending_pod(uid="next"),), ()):
        assert look(memory, None, NOW + 1, pods=pods)[1].ranks[0].unmoved is False


# -- progress of saving -------------------------------------------------------------------------------------------


def saving_facts(*, answer=None, **report):
    run = make_run(status=make_status(termination=make_stop(Phase.SAVING)))
    reports = {0: make_agent(**report)} if report else {}
    return Facts(
        run, "2026-01-02T03:04:05Z", pods=(make_pod(),), workload=make_workload(), reports=reports, answer=answer
    )


STILL = {"uploaded_bytes": 5, "hashed_bytes": 7}


@pytest.mark.parametrize(
    ("looks", "seconds"),
    [
        pytest.param([STILL, STILL, STILL], 20, id="nothing moves"),
        pytest.param([STILL, {}, STILL], 20, id="an agent that is silent now and then has not moved"),
        pytest.param([STILL, STILL, STILL | {"uploaded_bytes": 6}], 0, id="bytes were sent"),
        pytest.param([STILL, STILL | {"hashed_bytes": 8}, STILL | {"hashed_bytes": 9}], 0, id="bytes were read again"),
        pytest.param([STILL, STILL | {"manifest": MANIFEST}, STILL | {"manifest": MANIFEST}], 10, id="a manifest was written"),
        pytest.param([STILL, STILL | {"commit": COMMIT}, STILL | {"commit": COMMIT}], 10, id="a commit was written"),
        pytest.param([STILL, STILL | {"bytes": 9}, STILL | {"unsaved_bytes": 9}], 20, id="a volume that grows is no progress of saving"),
        pytest.param([STILL, STILL | {"upload_failures": 9}, STILL | {"upload_failures": 99}], 20, id="nor are failures"),
    ],
)  # fmt: skip
def test_time_without_progress_is_measured(looks, seconds):
    memory, seen = remember(Memory(), saving_facts(**looks[0]), NOW)
    for turn, report in enumerate(looks[1:], 1):
        memory, seen = remember(memory, saving_facts(**report), NOW + 10 * turn)
    assert seen.no_progress_seconds == seconds


def test_the_buckets_answer_is_progress_and_without_a_request_there_is_none_to_make():
    memory, seen = remember(Memory(), saving_facts(**STILL), NOW)
    memory, seen = remember(memory, saving_facts(**STILL), NOW + 10)
    assert seen.no_progress_seconds == 10
    _, seen = remember(memory, saving_facts(answer=make_verified(), **STILL), NOW + 20)
    assert seen.no_progress_seconds == 0
    idle = Facts(make_run(), "2026-01-02T03:04:05Z", pods=(make_pod(),))
    memory, _ = remember(memory, idle, NOW + 30)
    assert remember(memory, idle, NOW + 90)[1].no_progress_seconds == 0
