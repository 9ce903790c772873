"""A save that makes no progress, and a commit that no upload makes right: the stop is held, once, with the cause."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import (
    POD_UID,
    STOP_ID,
    checkpoint_spec,
    exited_pod,
    make_agent,
    make_mismatch,
    make_rank,
    make_verified,
    stopping_at,
)

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import CommitSeen, ManifestSeen, SaveRequest
from trainingrun_operator.api.status import Phase
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.effects import Advance, Annotate, RecordEvent
from trainingrun_operator.core.facts.rank import RefusedReport
from trainingrun_operator.core.stop import failing

PROCEED = {"checkpoint": checkpoint_spec(onFailure="Proceed")}
LONG = 120.0
IDLE = make_agent(working_on=None)
BUSY = make_agent(working_on=STOP_ID)
NO_CHECKSUMS = make_mismatch(complaint="the store has no CRC64NVME of 'model.safetensors'", curable=False)


def advanced(seen):
    return next((e.termination for e in decide(seen).effects if isinstance(e, Advance)), None)


def events(seen):
    return [e.reason for e in decide(seen).effects if isinstance(e, RecordEvent)]


def asked(seen):
    values = [e.value for e in decide(seen).effects if isinstance(e, Annotate) and e.key == names.SAVE_ANNOTATION]
    return [SaveRequest.model_validate_json(value).attempt for value in values]


# -- no progress --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agent", "why"),
    [
        pytest.param(BUSY, "The agent reports no error, but has neither read nor sent a byte for 120 s of the save request", id="it hangs"),
        pytest.param(IDLE, "The agent reports no error, but has neither read nor sent a byte for 120 s, and does not work on the save request", id="it saves nothing"),
    ],
)  # fmt: skip
def test_a_save_without_progress_is_held(agent, why):
    fields: dict[str, Any] = {"pods": (exited_pod(0),), "agent": agent, "save_failing_seconds": 9 * LONG}
    assert advanced(stopping_at(Phase.SAVING, **fields, no_progress_seconds=LONG - 1)) is None
    stuck = stopping_at(Phase.SAVING, **fields, no_progress_seconds=LONG)
    stop = advanced(stuck)
    assert (stop.phase, stop.hold_reason) == (
        Phase.HELD,
        f"{why}: see the log of container checkpoint-agent.",
    )
    assert events(stuck) == ["CheckpointHeld"]


def test_a_hold_says_that_a_report_is_refused_and_not_that_the_agent_is_silent():
    refused = RefusedReport("bert-0", "it has 70000 bytes, more than the 65536 bytes of a report")
    fields: dict[str, Any] = {"pods": (exited_pod(0),), "agent": None, "save_failing_seconds": LONG}
    assert advanced(stopping_at(Phase.SAVING, **fields)).hold_reason == "The agent in the pod does not answer."
    stop = advanced(stopping_at(Phase.SAVING, **fields, refused=refused))
    assert (stop.phase, stop.hold_reason) == (Phase.HELD, refused.sentence)
    assert stop.saved is None


def test_proceed_counts_for_a_save_without_progress():
    fields: dict[str, Any] = {
        "pods": (exited_pod(0),),
        "agent": IDLE,
        "save_failing_seconds": LONG,
        "no_progress_seconds": LONG,
    }
    stop = advanced(stopping_at(Phase.SAVING, spec=PROCEED, **fields))
    assert stop.phase is Phase.DELETING
    assert stop.data_loss.startswith(
        "Ended without proof (spec.checkpoint.onFailure is Proceed). The agent reports no error"
    )
    moving = stopping_at(Phase.SAVING, spec=PROCEED, **fields | {"no_progress_seconds": 1.0})
    assert advanced(moving) is None, "An upload that moves is not given up, however long it takes."


def test_a_hold_without_progress_ends_with_the_answer():
    held: dict[str, Any] = {
        "pods": (exited_pod(0),),
        "agent": IDLE,
        "save_failing_seconds": LONG,
        "no_progress_seconds": LONG,
    }
    assert advanced(stopping_at(Phase.HELD, **held)) is None
    assert events(stopping_at(Phase.HELD, **held)) == []
    assert advanced(stopping_at(Phase.HELD, **held, answer=make_verified())).phase is Phase.VERIFYING


@pytest.mark.parametrize(
    ("first", "second", "rank"),
    [
        pytest.param(BUSY, IDLE, 1, id="the one that does not work on it"),
        pytest.param(BUSY, BUSY, 0, id="else the first that has not answered"),
        pytest.param(make_agent(commit=CommitSeen(key="k", incarnation=1, generation=1, id=STOP_ID)), BUSY, 1, id="not one whose commit answers"),
        pytest.param(make_agent(manifest=ManifestSeen(key="k", incarnation=1, generation=1, id=STOP_ID)), BUSY, 1, id="nor one whose manifest answers"),
    ],
)  # fmt: skip
def test_the_rank_without_progress_is_named(first, second, rank):
    seen = stopping_at(Phase.SAVING, save_failing_seconds=LONG, no_progress_seconds=LONG)
    ranks = (make_rank(0, pod=exited_pod(0), report=first), make_rank(1, pod=exited_pod(0, uid="b"), report=second))
    assert f"of rank {rank} " in failing.why(replace(seen, ranks=ranks))


def test_if_all_ranks_have_answered_no_rank_is_blamed():
    done = make_agent(commit=CommitSeen(key="k", incarnation=1, generation=1, id=STOP_ID))
    seen = stopping_at(Phase.SAVING, save_failing_seconds=LONG, no_progress_seconds=LONG, agent=done)
    assert failing.why(seen).startswith("The agent reports no error")


# -- a commit that does not verify --------------------------------------------------------------------------------


def test_a_mismatch_that_no_upload_can_cure_is_held_at_once():
    seen = stopping_at(Phase.VERIFYING, pods=(exited_pod(0),), answer=NO_CHECKSUMS)
    stop = advanced(seen)
    assert (stop.phase, stop.attempt) == (Phase.HELD, 1)
    assert stop.hold_reason == (
        "The commit does not verify, and another upload would not change that: the store has no CRC64NVME of 'model.safetensors'"
    )
    assert (events(seen), asked(seen)) == (["CheckpointHeld"], [])


def test_and_stays_held_without_another_upload_or_event():
    later = stopping_at(Phase.HELD, pods=(exited_pod(0),), answer=NO_CHECKSUMS, phase_seconds=1e6)
    assert (advanced(later), events(later), asked(later)) == (None, [], [])


@pytest.mark.parametrize("attempt", [1, 5, 99])
def test_a_held_stop_continues_when_its_commit_verifies_after_all(attempt):
    cured = stopping_at(
        Phase.HELD, stop={"attempt": attempt}, pods=(exited_pod(0),), answer=make_verified(attempt=attempt)
    )
    assert advanced(cured).phase is Phase.VERIFYING


def test_a_mismatch_that_an_upload_may_cure_is_uploaded_again_a_few_times_and_then_held():
    phases = []
    for attempt in range(1, 7):
        seen = stopping_at(Phase.VERIFYING, stop={"attempt": attempt}, pods=(exited_pod(0),), answer=make_mismatch())
        phases.append((advanced(seen).phase, advanced(seen).attempt))
    assert phases[:4] == [(Phase.SAVING, attempt) for attempt in (2, 3, 4, 5)]
    assert phases[4:] == [(Phase.HELD, 5), (Phase.HELD, 6)]
    last = stopping_at(Phase.VERIFYING, stop={"attempt": 5}, pods=(exited_pod(0),), answer=make_mismatch())
    assert advanced(last).hold_reason == (
        "The commit does not verify, after 5 attempts: model.safetensors has 10 bytes, not 12"
    )


def test_then_it_is_uploaded_once_an_hour():
    held: dict[str, Any] = {"stop": {"attempt": 5, "hold_reason": "It does not verify."}, "pods": (exited_pod(0),)}
    early = stopping_at(Phase.HELD, **held, answer=make_mismatch(), phase_seconds=3599)
    assert (advanced(early), asked(early)) == (None, [])
    due = stopping_at(Phase.HELD, **held, answer=make_mismatch(), phase_seconds=3600)
    stop = advanced(due)
    assert (stop.phase, stop.attempt, stop.hold_reason) == (Phase.HELD, 6, "It does not verify.")
    assert events(due) == []
    asks = stopping_at(Phase.HELD, **held | {"stop": {"attempt": 6}})
    assert asked(asks) == [6]


@pytest.mark.parametrize(
    "answer",
    [pytest.param(NO_CHECKSUMS, id="no upload helps"), pytest.param(make_mismatch(), id="uploads did not help")],
)
@pytest.mark.parametrize("phase", [pytest.param(Phase.VERIFYING, id="verifying"), pytest.param(Phase.HELD, id="held")])
def test_proceed_ends_the_run_with_what_does_not_verify(answer, phase):
    seen = stopping_at(
        phase, stop={"attempt": 5}, spec=PROCEED, pods=(exited_pod(0),), answer=answer, phase_seconds=9999
    )
    stop = advanced(seen)
    assert stop.phase is Phase.DELETING
    assert answer.complaint in stop.data_loss


# -- a crashed pod ------------------------------------------------------------------------------------------------


def crashed(answer, attempt):
    save = SaveRequest(id=f"crash-{POD_UID}", attempt=attempt, ended=True)
    seen = stopping_at(Phase.SAVING, pods=(exited_pod(1, save=save),), answer=answer)
    status = seen.run.status.model_copy(update={"termination": None, "termination_status": None})
    return replace(seen, run=replace(seen.run, status=status))


def test_a_crashed_pods_commit_is_uploaded_again_only_if_that_may_help():
    assert asked(crashed(make_mismatch(), 1)) == [2]
    assert asked(crashed(make_mismatch(), failing.ATTEMPTS_MAX)) == []
    assert asked(crashed(NO_CHECKSUMS, 1)) == []


def test_a_crashed_pods_gate_opens_only_for_a_commit_from_after_its_end():
    def opens(seen):
        return any(isinstance(e, Annotate) and e.key == names.OPEN_GATE_ANNOTATION for e in decide(seen).effects)

    assert opens(crashed(make_verified(final=True), 1))
    assert not opens(crashed(make_verified(final=False), 1))


def test_an_address_that_the_schema_refuses_is_left_out_of_the_record_with_words():
    seen = stopping_at(
        Phase.VERIFYING, pods=(exited_pod(0),), answer=replace(make_verified(), uri="s3://b/" + "d" * 2048)
    )
    saved = advanced(seen).saved
    assert (saved.uri, saved.files, saved.commit) == ("", 3, make_verified().key)
    assert saved.note == "Its address has more than 2048 characters: the manifests of the commit have it."
    whole = replace(make_verified(), uri="s3://" + "d" * 2043)
    kept = stopping_at(Phase.VERIFYING, pods=(exited_pod(0),), answer=whole)
    assert advanced(kept).saved.uri == whole.uri
