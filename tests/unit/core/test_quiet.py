"""What counts as progress of a training, for how long nothing has moved, and when that is a hang."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import nan

import pytest
from builders import (
    POD_UID,
    exited_pod,
    losses,
    make_agent,
    make_observed,
    make_pod,
    make_run,
    make_status,
    make_stop,
    make_verified,
    make_workload,
)

from trainingrun_operator.api.exchange import AgentError
from trainingrun_operator.api.status import Phase
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.effects import Begin, RecordEvent
from trainingrun_operator.core.facts.gathered import Facts
from trainingrun_operator.core.facts.reading import LOGS, LOSS, Failure, Reading
from trainingrun_operator.core.memory import Memory, remember
from trainingrun_operator.core.rules import chain
from trainingrun_operator.core.rules.hang import hang
from trainingrun_operator.core.status import render
from trainingrun_operator.exporter.series import series_of

START = datetime(2026, 1, 2, 3, 0, tzinfo=UTC)
OLD = make_agent(last_change_seconds=90_000)
REFUSED = Failure("ConnectionRefused", "Nothing listens at http://10.0.0.7:8000/metrics.")
SLOW_DISK = OLD.model_copy(update={"error": AgentError(code="Unreadable", message="/checkpoints: input/output error")})
STOP = {"hangDetection": {"action": "Stop"}}


def wall(now):
    return (START + timedelta(seconds=now)).strftime("%Y-%m-%dT%H:%M:%SZ")


def at_step(step, **values):
    return Reading(step, values={LOSS: 1.0, **values})


class Training:
    """A run that is looked at; its status is stored after each look."""

    def __init__(self, spec=None, *, world_size=1):
        self.spec, self.status, self.memory, self.world_size = spec or {}, make_status(), Memory(), world_size
        self.pods = tuple(
            make_pod(rank=rank, name=f"bert-{rank}", uid=f"{POD_UID}-{rank}") for rank in range(world_size)
        )

    def look(self, now, reading, *agents, pods=None, restart=False):
        if restart:
            self.memory = Memory()
        facts = Facts(
            make_run(spec=self.spec, status=self.status),
            wall(now),
            workload=make_workload(world_size=self.world_size),
            pods=self.pods if pods is None else pods,
            reports={rank: one for rank, one in enumerate(agents or (OLD,)) if one is not None},
            readings={} if reading is None else {0: reading},
        )
        # The clock of a process begins anywhere.
        self.memory, seen = remember(self.memory, facts, now + (50_000 if restart else 0))
        if restart:
            self.memory = replace(self.memory, quiet=None)
        self.status = render(seen)
        return seen

    def stand(self, until, *, since=10, every=10, reading=None, agents=(OLD,)):
        """Look at a training that stands at step 1."""
        seen = None
        for now in range(since, until + 1, every):
            seen = self.look(now, reading or at_step(1), *agents)
        return seen


def stands(spec=None, until=700, **fields):
    one = Training(spec)
    one.look(0, at_step(0))
    return one, one.stand(until, **fields)


def reason(seen):
    found = hang(seen)
    return found and found.reason


def message(seen):
    found = hang(seen)
    assert found is not None
    return found.message


@pytest.mark.parametrize(
    ("spec", "until", "expected"),
    [
        pytest.param({}, 600, "Progresses", id="just before it is long enough"),
        pytest.param({}, 610, "NoProgress", id="long enough"),
        pytest.param({"hangDetection": {"noProgressSeconds": 30}}, 40, "NoProgress", id="a shorter time of the spec"),
        pytest.param({"hangDetection": {"noProgressSeconds": 3600}}, 610, "Progresses", id="a longer time of the spec"),
        pytest.param({"hangDetection": {"noProgressSeconds": 0}}, 610, None, id="off"),
        pytest.param(
            {"checkpoint": {"mode": "Disabled"}}, 610, "NoProgress", id="nothing is saved, so that no file is looked at"
        ),
    ],
)
def test_nothing_moves_for_long_enough(spec, until, expected):
    assert reason(stands(spec, until)[1]) == expected


@pytest.mark.parametrize(
    ("reading", "agents", "what"),
    [
        pytest.param(at_step(2), (OLD,), "Step", id="a step"),
        pytest.param(at_step(1, accuracy=0.7), (OLD,), "Value", id="another number"),
        pytest.param(Reading(1, epoch=2, values={LOSS: 1.0}), (OLD,), "Value", id="an epoch"),
        pytest.param(at_step(0), (OLD,), "Value", id="a step of another rank"),
        pytest.param(at_step(1), (make_agent(last_change_seconds=4),), "File", id="a file that was written"),
        pytest.param(at_step(1), (OLD.model_copy(update={"bytes": 9999}),), "File", id="a file that has grown"),
        pytest.param(at_step(1), (OLD.model_copy(update={"temporary_bytes": 5}),), "File", id="a file under a temporary name"),
        pytest.param(replace(at_step(1), printed=9), (OLD,), "Log", id="a line in the log"),
        pytest.param(REFUSED, (OLD,), "ConnectionRefused", id="a page that cannot be read"),
        pytest.param(Reading(None, values={LOSS: 1.0}), (OLD,), "NoStep", id="a step that is missing"),
        pytest.param(Reading(nan, values={LOSS: 1.0}), (OLD,), "NoStep", id="a step that is no number"),
        pytest.param(at_step(1), (None,), "NoReport", id="an agent that does not answer"),
        pytest.param(at_step(1), (OLD.model_copy(update={"files": None}),), "NoReport", id="an agent that has not looked yet"),
        pytest.param(at_step(1), (SLOW_DISK,), "Unreadable", id="a volume that cannot be read"),
    ],
)  # fmt: skip
def test_progress_and_what_cannot_be_read_begin_the_time_again(reading, agents, what):
    one, _ = stands({"hangDetection": {"noProgressSeconds": 300}}, until=100)
    seen = one.look(110, reading, *agents)
    assert seen.quiet.what == what
    assert reason(seen) != "NoProgress"
    after = one.stand(400, since=120)
    assert reason(after) == "Progresses", "it counts from there"
    assert reason(one.stand(430, since=410)) == "NoProgress"


def test_what_cannot_be_read_is_said():
    one, _ = stands()
    seen = one.look(710, REFUSED)
    assert reason(seen) == "ConnectionRefused"
    assert one.status.condition("Hung").status == "False"


@pytest.mark.parametrize("age", [-5.0, nan], ids=["a file of the future", "an age that is no number"])
def test_an_age_that_cannot_be_is_no_progress_and_no_failure(age):
    _, seen = stands(agents=(OLD.model_copy(update={"last_change_seconds": age}),))
    assert reason(seen) == "NoProgress"


def test_a_volume_without_files_says_nothing():
    empty = make_agent(newest=None, files=0, bytes=0, last_change_seconds=None)
    assert reason(stands(agents=(empty,))[1]) == "NoProgress"


def test_a_file_between_two_readings_counts_from_when_it_was_written():
    one, _ = stands(until=500)
    seen = one.look(560, at_step(1), OLD.model_copy(update={"last_change_seconds": 30}))
    assert (seen.quiet.what, seen.quiet.seconds, one.status.quiet.since) == ("File", 30, wall(530))


def test_the_files_of_every_rank_count():
    one = Training(world_size=2)
    one.look(0, at_step(0), OLD, OLD)
    one.stand(500, agents=(OLD, OLD))
    seen = one.look(510, at_step(1), OLD, make_agent(last_change_seconds=1))
    assert seen.quiet.what == "File"
    assert one.look(520, at_step(1), OLD, None).quiet.what == "NoReport"


def test_nothing_counts_before_the_first_step():
    one = Training()
    seen = one.stand(9000, reading=at_step(0), every=100)
    assert reason(seen) == "NeverAdvanced"


def test_a_pause_as_long_as_an_earlier_one_is_no_hang():
    one, _ = stands(until=500)
    one.look(1510, at_step(2))
    long = one.stand(3900, since=1520, reading=at_step(2), every=100)
    assert reason(long) == "WithinPause"
    assert reason(one.stand(4600, since=4000, reading=at_step(2), every=100)) == "NoProgress"


def test_a_new_pod_begins_again():
    one, _ = stands()
    other = (make_pod(uid="other"),)
    assert reason(one.look(705, None, pods=other)) is None, "nothing of it was read"
    assert reason(one.look(710, at_step(1), pods=other)) == "NeverAdvanced"
    assert one.status.quiet.pod_uid == "other"


def test_a_training_that_is_started_again_in_its_pod_moves():
    one, _ = stands()
    pod = replace(one.pods[0], started_at=wall(700))
    assert one.look(710, at_step(1), pods=(pod,)).quiet.what == "Value"


def test_a_training_that_has_ended_does_not_hang():
    one, _ = stands()
    seen = one.look(710, None, pods=(exited_pod(uid=one.pods[0].uid),))
    assert reason(seen) is None
    assert one.status.condition("Hung").reason == "NotRunning"


def test_without_a_pod_nothing_changes():
    one, _ = stands(until=300)
    before = one.status.quiet
    assert reason(one.look(310, at_step(1), pods=())) is None
    assert one.status.quiet == before


def test_a_training_that_looks_complete_does_not_hang():
    _, seen = stands(STOP)
    assert reason(replace(seen, candidate_seconds=20)) == "Completes"


def test_a_restart_of_the_operator_changes_nothing():
    one, _ = stands(until=400)
    again = one.look(410, at_step(1), restart=True)
    assert again.quiet.seconds == 400
    assert reason(again) == "Progresses"
    assert reason(one.look(610, at_step(1), restart=True)) == "NoProgress"


def test_what_was_printed_while_no_operator_read_the_log_is_not_known():
    one, _ = stands(until=400)
    assert one.look(610, replace(at_step(1), printed=9), restart=True).quiet.seconds == 0


def test_a_step_that_was_made_while_no_operator_ran_is_progress():
    one, _ = stands(until=400)
    assert one.look(610, at_step(2), restart=True).quiet.seconds == 0


def test_a_time_that_somebody_wrote_by_hand_is_not_used():
    one, _ = stands(until=400)
    one.status = one.status.model_copy(update={"quiet": one.status.quiet.model_copy(update={"since": "yesterday"})})
    assert one.look(1410, at_step(1), restart=True).quiet.seconds == 0


def test_a_longer_time_never_finds_a_hang_earlier():
    seen = [stands({"hangDetection": {"noProgressSeconds": limit}}, 700)[1] for limit in (60, 300, 690, 700, 6000)]
    assert [reason(one) == "NoProgress" for one in seen] == [True, True, True, False, False]


def events(seen):
    return [one for one in decide(seen).effects if isinstance(one, RecordEvent) and one.reason == "Hung"]


def test_notify_says_so_once_and_ends_nothing():
    one, _ = stands(until=600)
    seen = one.look(610, at_step(1))
    (event,) = events(seen)
    assert event.warning
    assert not [effect for effect in decide(seen).effects if isinstance(effect, Begin)]
    assert one.status.quiet.warned_at == wall(610)
    assert events(one.look(620, at_step(1))) == []
    hung = one.status.condition("Hung")
    assert (hung.status, hung.reason) == ("True", "NoProgress")
    assert [shadow.rule for shadow in one.status.shadow] == ["hang"]
    gauges = series_of("ml", "bert", seen.run.spec, one.status).gauges
    assert gauges["trainingrun_hung_since_timestamp_seconds"] == (START + timedelta(seconds=10)).timestamp()

    one.look(630, at_step(2))
    assert one.status.condition("Hung").status == "False"
    assert one.status.quiet.warned_at is None
    assert "trainingrun_hung_since_timestamp_seconds" not in series_of("ml", "bert", seen.run.spec, one.status).gauges
    again = [event for now in range(640, 2500, 60) for event in events(one.look(now, at_step(2)))]
    assert len(again) == 1, "the next hang is told again"


def test_a_run_that_never_hung_has_no_such_condition():
    one, _ = stands(until=300)
    assert one.status.condition("Hung") is None


def test_stop_ends_the_run_as_hung():
    one, seen = stands(STOP, 610)
    (begin,) = [effect for effect in decide(seen).effects if isinstance(effect, Begin)]
    stop = begin.termination
    assert (stop.status, stop.rule, stop.actor) == ("hung", "hang", "hang")
    assert [(e.what, e.value, e.step) for e in stop.evidence] == [("quietSeconds", "600", 1)]
    assert events(seen) == []
    assert one.status.shadow == ()


def test_a_stop_takes_the_condition_back():
    one, seen = stands(STOP, 610)
    stopping = replace(
        seen, run=replace(seen.run, status=one.status.model_copy(update={"termination": make_stop(Phase.DRAINING)}))
    )
    assert next(c for c in render(stopping).conditions if c.type == "Hung").status == "False"
    quiet = render(stopping).quiet
    assert quiet is not None
    assert quiet.warned_at is None


def test_what_was_looked_at_is_said():
    one = Training()
    one.look(0, replace(at_step(0), source=LOGS, printed=1))
    seen = one.stand(610, reading=replace(at_step(1), source=LOGS, printed=1))
    assert "No step, no growing file under /checkpoints and no line in the log for 600 s" in message(seen)
    unsaved = stands({"checkpoint": {"mode": "Disabled"}})[1]
    assert message(unsaved).startswith("No step for 690 s")


def test_people_and_completion_come_first():
    _, seen = stands({**STOP, "stop": True}, 610)
    found = chain.why_end(seen)
    assert found is not None
    assert found.status == "user_stop"


def test_it_applies_only_once_something_was_read():
    assert hang(make_observed(track=losses(2.0, 1.5), verified=make_verified())) is None
