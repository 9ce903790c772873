"""Crashes that are not worth another attempt: a fatal pattern in the log, and no step forward."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import (
    NOW,
    POD_UID,
    exited_pod,
    finished_pod,
    make_agent,
    make_observed,
    make_pod,
    make_reading,
    make_run,
    make_status,
    make_stop,
    make_workload,
    track_of,
)
from pydantic import ValidationError

from trainingrun_operator.api.exchange import MarkerSeen
from trainingrun_operator.api.status import CrashRow, Effective, Phase, Progress
from trainingrun_operator.core.facts.reading import Failure
from trainingrun_operator.core.rules import exits
from trainingrun_operator.core.rules.chain import why_end
from trainingrun_operator.core.status import render
from trainingrun_operator.core.track import Track

COMPLETE, FAILED = "auto_complete", "failed"
MARKED = make_agent(markers=(MarkerSeen(name="COMPLETE", age_seconds=5),))
ASSERT = "CUDA error: device-side assert"


def ends(seen):
    found = why_end(seen, (exits.exit_code, exits.crashed))
    return (found.status, found.reason) if found else None


# -- a pattern in the log -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pod", "agent", "found", "expected"),
    [
        pytest.param(exited_pod(1), make_agent(), ASSERT, (FAILED, "FatalLogPattern"), id="its log has the pattern"),
        pytest.param(finished_pod(1), None, ASSERT, (FAILED, "FatalLogPattern"), id="and its pod is over"),
        pytest.param(exited_pod(1), make_agent(), "", None, id="its log has none, or was not read"),
        pytest.param(exited_pod(1), make_agent(), "OOM", None, id="a pattern that the spec does not have any more"),
        pytest.param(exited_pod(0), make_agent(), ASSERT, (COMPLETE, "ExitCodeZero"), id="no error"),
        pytest.param(exited_pod(1), MARKED, ASSERT, (COMPLETE, "ExitAfterMarker"), id="after the marker"),
        pytest.param(exited_pod(1, disruption="Evicted"), make_agent(), ASSERT, None, id="of a pod that was told to leave"),
        pytest.param(exited_pod(1, starts_again=True), make_agent(), ASSERT, None, id="of a training that is started again"),
        pytest.param(exited_pod(1, gate_open=True), make_agent(), ASSERT, None, id="of a pod that is replaced already"),
        pytest.param(make_pod(), make_agent(), ASSERT, None, id="it trains"),
    ],
)  # fmt: skip
def test_a_fatal_pattern_in_its_log_ends_the_run_at_its_first_crash(pod, agent, found, expected):
    run = make_run(spec={"crash": {"fatalLogPatterns": [ASSERT, "OutOfMemoryError"]}})
    assert ends(make_observed(run=run, pods=(pod,), agent=agent, fatal_pattern=found)) == expected


def test_a_fatal_pattern_is_named_with_its_field_and_the_log_is_not_quoted():
    run = make_run(spec={"crash": {"fatalLogPatterns": [ASSERT]}})
    found = exits.crashed(make_observed(run=run, pods=(exited_pod(1),), fatal_pattern=ASSERT, log_tail="token=hf_x"))
    assert found is not None
    assert "spec.crash.fatalLogPatterns" in found.message
    assert ASSERT in found.message
    assert "hf_x" not in repr(found)
    assert [(e.what, e.value) for e in found.evidence] == [("exitCode", "1"), ("logPattern", ASSERT)]


def test_a_fatal_exit_code_comes_before_a_fatal_pattern():
    run = make_run(spec={"crash": {"fatalLogPatterns": [ASSERT], "fatalExitCodes": [1]}})
    assert ends(make_observed(run=run, pods=(exited_pod(1),), fatal_pattern=ASSERT)) == (FAILED, "FatalExitCode")


@pytest.mark.parametrize("patterns", [[""], ["x" * 256], ["x"] * 17])
def test_patterns_are_bounded(patterns):
    with pytest.raises(ValidationError):
        make_run(spec={"crash": {"fatalLogPatterns": patterns}})


# -- no step forward ----------------------------------------------------------------------------------------------


def steps(*read, uid=POD_UID):
    """What was read of an attempt's step, every ten seconds."""
    return track_of(*((NOW - 10 * (len(read) - n), make_reading(loss=1, step=step)) for n, step in enumerate(read)), pod_uid=uid)  # fmt: skip


def attempts(*tracks, spec=None):
    """Crash one attempt after another; returns after which one the run ends, and by what. None: it does not."""
    status = make_status()
    for number, read in enumerate(tracks, 1):
        uid = f"pod-{number}"
        track = read(uid) if callable(read) else steps(*read, uid=uid)
        run = make_run(spec={"backoffLimit": 1000, **(spec or {})}, status=status)
        seen = make_observed(run=run, pods=(exited_pod(1, uid=uid),), track=track, workload=make_workload())
        if found := why_end(seen, (exits.exit_code, exits.crashed)):
            return number, found.reason
        status = status.model_copy(update={"crashes": render(seen).crashes, "progress": render(seen).progress})
    return None


def unread(uid):
    return track_of((NOW, Failure("ConnectionRefused", "Nothing listens.")), pod_uid=uid)


def fell(uid):
    return steps(0, 100, 200, 0, 50, uid=uid)


STUCK = "NoStepForward"
ONCE = {"crash": {"sameStepLimit": 1}}
ROW = CrashRow(pod_uid=POD_UID, step=15, without_step=2)
OTHER = CrashRow(pod_uid="before", step=15, without_step=2)


@pytest.mark.parametrize(
    ("tracks", "spec", "expected"),
    [
        pytest.param([(0, 10), (10,), (10,), (10,)], None, (4, STUCK), id="three crashes after the first at its step"),
        pytest.param([(0, 10), (5, 8), (5, 9), (5, 10)], None, (4, STUCK), id="or below it, resumed from a checkpoint"),
        pytest.param([(0,), (0,), (0,)], None, (3, STUCK), id="never a step"),
        pytest.param([(500,), (500,), (500,), (500,)], None, (4, STUCK), id="steps before the first reading may have been made"),
        pytest.param([(0, 10), (10,), (10,), (10, 11), (11,), (11,), (11,)], None, (7, STUCK), id="a step forward begins the row again"),
        pytest.param([(0, 10), (5, 12), (5, 13), (5, 14), (5, 15), (5, 16)], None, None, id="always a step forward"),
        pytest.param([(0, 10), (10,)], ONCE, (2, STUCK), id="the limit of the spec"),
        pytest.param([(0, 10), (5, 9), (5, 11), (5, 10)], {"crash": {"sameStepLimit": 2}}, None, id="never two in a row"),
        pytest.param([unread] * 9, None, None, id="nothing was read of any attempt"),
        pytest.param([lambda uid: Track()] * 9, None, None, id="nobody asked"),
        pytest.param([(0, 10), (10,), unread, (10,), unread, (10,)], None, (6, STUCK), id="an attempt of which nothing was read does not count"),
        pytest.param([(0, 10), (10,), (10,), unread, (40,)], None, None, id="nor hides that it got further"),
        pytest.param([fell] * 9, None, None, id="a step that falls within an attempt is not compared"),
        pytest.param([(0, 10), (10,), (10,), (10,)], {"backoffLimit": 0}, (1, "BackoffLimitExceeded"), id="the backoff limit comes first"),
    ],
)  # fmt: skip
def test_crashes_in_a_row_without_a_step_forward_end_the_run(tracks, spec, expected):
    assert attempts(*tracks, spec=spec) == expected


@pytest.mark.parametrize(
    ("spec", "source", "expected"),
    [
        pytest.param({}, "Logs", None, id="a log that nobody has chosen"),
        pytest.param({}, "Files", None, id="files that nobody has chosen"),
        pytest.param({}, "Prometheus", (4, STUCK), id="a page"),
        pytest.param({"metrics": {"source": "Logs"}}, "Logs", (4, STUCK), id="a log that the spec names"),
        pytest.param({"metrics": {"source": "Auto"}}, "Logs", (4, STUCK), id="a log that Auto has taken"),
    ],
)
def test_only_steps_of_a_source_that_was_chosen_or_of_a_page_are_counted(spec, source, expected):
    def read(uid):
        return replace(steps(0, 10, uid=uid), source=source)

    assert attempts(*[read] * 9, spec=spec) == expected


def test_after_a_restart_the_recorded_source_says_whether_a_crash_is_counted():
    taken = Effective(metrics_source="Logs", metrics_source_note="why")
    status = make_status(crashes=OTHER, progress=Progress(step=15, pod_uid=POD_UID), effective=taken)
    crashed = {"pods": (exited_pod(1),), "track": Track()}
    assert render(make_observed(run=make_run(status=status), **crashed)).crashes == OTHER
    by_page = status.model_copy(update={"effective": Effective()})
    counted = render(make_observed(run=make_run(status=by_page), **crashed)).crashes
    assert counted is not None
    assert counted.without_step == OTHER.without_step + 1


def test_a_crash_without_a_step_forward_says_so_with_its_numbers():
    row = CrashRow(pod_uid="before", step=15, without_step=2)
    seen = make_observed(
        run=make_run(status=make_status(crashes=row)), pods=(exited_pod(3),), track=steps(10, 15), workload=make_workload(failed=2)
    )  # fmt: skip
    found = exits.crashed(seen)
    assert found is not None
    assert found.message == (
        "Training crashed 3 times in a row without a step forward (spec.crash.sameStepLimit 3), last with exit code 3: no attempt got further than step"
        " 15."
    )
    assert [(e.what, e.value, e.step) for e in found.evidence] == [("exitCode", "3", None), ("step", "15", 15)]
    alone = make_run(spec=ONCE, status=make_status(crashes=row.model_copy(update={"without_step": 0})))
    once = exits.crashed(make_observed(run=alone, pods=(exited_pod(3),), track=steps(10, 15)))
    assert once is not None
    assert "crashed once without" in once.message


@pytest.mark.parametrize(
    ("row", "fields", "expected"),
    [
        pytest.param(ROW, {"pods": (exited_pod(1),)}, ROW, id="a crash is counted once"),
        pytest.param(OTHER, {"pods": (make_pod(),)}, OTHER, id="a training that runs counts for nothing"),
        pytest.param(OTHER, {"pods": ()}, OTHER, id="nor does no pod"),
        pytest.param(OTHER, {"pods": (exited_pod(0),)}, OTHER, id="nor does exit code 0"),
        pytest.param(OTHER, {"pods": (exited_pod(1, deleting=True),)}, OTHER, id="nor a pod that was told to leave"),
        pytest.param(None, {"pods": (make_pod(),)}, None, id="without a crash there is no row"),
    ],
)
def test_what_is_counted_in_the_status(row, fields, expected):
    seen = make_observed(run=make_run(status=make_status(crashes=row)), track=steps(15), **fields)
    assert render(seen).crashes == expected


def test_a_crash_in_a_stop_is_not_counted():
    status = make_status(crashes=OTHER, termination=make_stop(Phase.SAVING))
    assert render(make_observed(run=make_run(status=status), pods=(exited_pod(1),), track=steps(15))).crashes == OTHER


@pytest.mark.parametrize(
    ("pod_uid", "expected"),
    [
        pytest.param(POD_UID, CrashRow(pod_uid=POD_UID, step=15, without_step=3), id="of this attempt"),
        pytest.param("earlier", OTHER, id="of an earlier attempt, which says nothing about this one"),
    ],
)
def test_the_step_of_a_crashed_attempt_is_known_after_a_restart_of_the_operator(pod_uid, expected):
    status = make_status(crashes=OTHER, progress=Progress(step=15, pod_uid=pod_uid))
    seen = make_observed(run=make_run(status=status), pods=(exited_pod(1),), track=Track())
    assert render(seen).crashes == expected
    assert ends(seen) == ((FAILED, STUCK) if expected is not OTHER else None)
