"""The lines of a log over time: which one counts, what takes it back, and what a restarted operator knows of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from builders import make_agent, make_found, make_pod, make_run, make_status, make_workload

from trainingrun_operator.core.facts.gathered import Facts
from trainingrun_operator.core.facts.log import Printed
from trainingrun_operator.core.facts.reading import LOSS, Failure, Reading
from trainingrun_operator.core.memory import Memory, remember
from trainingrun_operator.core.rules import completion
from trainingrun_operator.core.rules.chain import why_end
from trainingrun_operator.core.status import render

START = datetime(2026, 1, 2, 3, 0, tzinfo=UTC)
DONE, EPOCH = "^DONE$", "epoch [0-9]+ complete"
REFUSED = Failure("ConnectionRefused", "Nothing listens at http://10.0.0.7:8000/metrics.")
FORBIDDEN = Failure("LogUnreadable", "The log of pod bert cannot be read: 403 Forbidden.")


class Training:
    """A training that is polled every ten seconds; its status is stored after each look."""

    def __init__(self, *patterns, **spec):
        self.patterns, self.spec, self.now = patterns or (DONE, EPOCH), spec, 0
        self.memory, self.status, self.process = Memory(), make_status(), 0.0
        self.log, self.pod = Printed(self.patterns), make_pod(started_at=START.isoformat())
        self.saved = 0
        self.steps_per_epoch = None
        """If the metrics show epochs, of four."""

    def prints(self, line, *, pattern=DONE):
        """The next poll reads this line; without a pattern, one that none is found in."""
        new = (self.log.found + 1, pattern, line) if pattern else (self.log.found, self.log.pattern, self.log.line)
        self.log = Printed(self.patterns, self.log.lines + 1, *new)

    def poll(self, reading=None, *, saves=True, unread=None, after=10):
        """Poll, and return what is seen. A reading is a step, or a failure; None: a look between two polls."""
        self.now += after
        if saves and isinstance(reading, int):
            self.saved = reading
        newest = make_found(step=self.saved, age_seconds=10)
        read = self.reading(reading) if isinstance(reading, int) else reading
        completion_spec = {"logPatterns": list(self.patterns), "settleSeconds": 30}
        facts = Facts(
            make_run(spec={"autoStopLoss": -1, "completion": completion_spec, **self.spec}, status=self.status),
            (START + timedelta(seconds=self.now)).strftime("%Y-%m-%dT%H:%M:%SZ"),
            workload=make_workload(),
            pods=(self.pod,),
            reports={0: make_agent(newest=newest, last_change_seconds=100)},
            readings={} if read is None else {0: read},
            printed=None if read is None else unread or self.log,
        )
        # The clock of a process begins anywhere.
        self.memory, seen = remember(self.memory, facts, self.now + self.process)
        self.status = render(seen)
        return seen

    def reading(self, step):
        epochs = {} if self.steps_per_epoch is None else {"epoch": step / self.steps_per_epoch, "total_epochs": 4}
        return Reading(step, values={LOSS: 2.0}, **epochs)

    def stands(self, step, polls, **fields):
        """Poll while it stands at a step; returns what is seen last."""
        seen = None
        for _ in range(polls):
            seen = self.poll(step, **fields)
        return seen

    def restart(self):
        """Another process of the operator goes on. It finds no line in the new lines of the log."""
        self.memory, self.process = Memory(), self.process + 50_000
        self.log = Printed(self.patterns, lines=0)


def trained(*patterns, **spec):
    """A training that has come to step 30."""
    one = Training(*patterns, **spec)
    for step in (0, 10, 20, 30):
        one.poll(step)
    return one


def reason(seen):
    found = completion.log_line(seen)
    return found and found.reason


def ends(seen):
    found = why_end(seen)
    return found is not None and found.rule == "logPatterns"


def test_a_training_that_stands_still_after_its_line_ends_after_the_settle_time():
    one = trained()
    one.prints("DONE")
    said = [(reason(one.poll(30)), ends(one.poll())) for _ in range(4)]
    assert said == [("JustPrinted", False), ("Settling", False), ("Settling", True), ("Printed", True)]
    assert one.status.completion_line is not None
    assert one.status.completion_line.dump() == {
        "pattern": DONE,
        "line": "DONE",
        "step": 30,
        "podUID": one.pod.uid,
        "startedAt": one.pod.started_at,
    }


def test_a_line_that_every_epoch_prints_ends_nothing_before_the_last_one():
    one = Training(EPOCH)
    one.steps_per_epoch = 30
    for step in range(0, 120, 10):
        assert not ends(one.poll(step))
        if step in (30, 60, 90):
            one.prints(f"epoch {step // 30} complete", pattern=EPOCH)
            # An evaluation: of the first one it is not known how long it may take, the others take as long.
            seen = one.stands(step, 60)
            assert reason(seen) == ("PauseUnknown" if step == 30 else "WithinPause")
            assert not ends(seen)
    assert reason(one.poll(119)) == "GoesOn"
    assert one.status.completion_line is None
    one.poll(120)
    one.prints("epoch 4 complete", pattern=EPOCH)
    assert ends(one.stands(120, 200))


def test_steps_take_a_line_back_where_no_epochs_are_shown():
    one = trained(EPOCH)
    for step in (40, 60, 80):
        one.prints(f"epoch {step // 20} complete", pattern=EPOCH)
        assert not ends(one.poll(step)), "Every new line counts again."
        assert not ends(one.poll(step + 5))
    assert [reason(one.poll(step)) for step in (90, 95)] == ["GoesOn", "GoesOn"]


def test_a_training_that_hangs_after_a_line_was_taken_back_is_not_complete():
    one = trained()
    one.prints("DONE")
    for step in (30, 40, 50):
        one.poll(step)
    assert reason(one.stands(50, 400)) == "GoesOn"


def test_a_step_that_is_read_late_takes_nothing_back():
    """The last number comes after the last line: it was read a moment before, or is written at intervals."""
    one = trained()
    one.prints("DONE")
    one.stands(30, 3)
    seen = one.poll(40)
    assert (reason(seen), seen.completion_line.step) == ("JustPrinted", 40)
    assert ends(one.stands(40, 15))


def test_a_step_that_falls_is_another_stage():
    one = trained()
    one.prints("DONE")
    one.poll(30)
    for step in (1, 2, 3):
        one.poll(step)
    assert reason(one.stands(3, 100)) == "GoesOn"


def test_the_newest_line_counts():
    one = trained()
    one.prints("DONE")
    one.stands(30, 3)
    one.prints("epoch 3 complete", pattern=EPOCH)
    seen = one.poll(30)
    assert (seen.completion_line.line, reason(seen)) == ("epoch 3 complete", "JustPrinted")


@pytest.mark.parametrize("reading", [REFUSED, Reading(None, values={LOSS: 2.0})], ids=["no page", "no step"])
def test_where_no_step_is_read_a_log_that_goes_on_shows_a_training_that_goes_on(reading):
    one = trained()
    one.prints("DONE")
    one.poll(30)
    for _ in range(20):
        one.prints("step 31 of 100", pattern="")
        assert reason(one.poll(reading)) == "JustPrinted"
    assert ends(one.stands(reading, 6)), "It is silent now."


def test_where_no_step_is_read_a_log_that_cannot_be_read_shows_nothing():
    one = trained()
    one.prints("DONE")
    one.poll(30)
    assert reason(one.stands(REFUSED, 20, unread=FORBIDDEN)) == "JustPrinted"
    assert ends(one.stands(30, 6, unread=FORBIDDEN)), "The step is read again, and stands still."


def test_where_a_step_is_read_a_log_may_go_on_after_the_line():
    one = trained()
    one.prints("DONE")
    seen = None
    for _ in range(8):
        seen = one.poll(30)
        one.prints("waiting for the upload of the run", pattern="")
    assert ends(seen)


def test_a_training_without_any_metrics_is_complete_when_its_log_is_silent():
    one = Training()
    one.poll(REFUSED)
    one.prints("DONE")
    said = [reason(one.poll(REFUSED)) for _ in range(6)]
    assert said == ["JustPrinted", *["Settling"] * 3, "Printed", "Printed"]


def test_a_look_between_two_polls_changes_nothing():
    one = trained()
    one.prints("DONE")
    first = one.poll(30)
    assert one.poll().completion_line == first.completion_line


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"uid": "another"}, id="another pod"),
        pytest.param({"started_at": "2026-01-02T04:00:00Z"}, id="another start in the same pod"),
    ],
)
@pytest.mark.parametrize("restart", [False, True])
def test_a_line_of_another_container_does_not_count(changed, restart):
    one = trained()
    one.prints("DONE")
    one.stands(30, 3)
    one.pod = make_pod(**{"started_at": START.isoformat(), **changed})
    if restart:
        one.restart()
    one.log = Printed(one.patterns)
    assert reason(one.poll()) == "NotReadYet"
    assert reason(one.stands(30, 30)) == "NotPrinted"


def test_a_restarted_operator_knows_the_line_although_the_end_of_the_log_has_it_no_more():
    one = trained()
    one.prints("DONE")
    one.stands(30, 3)
    one.restart()
    assert reason(one.poll()) == "NotReadYet"
    assert one.status.completion_line is not None, "It is not read yet, and not lost."
    seen = one.poll(30)
    assert (seen.completion_line.line, reason(seen)) == ("DONE", "JustPrinted")
    assert ends(one.stands(30, 6))


def test_a_training_that_went_on_while_no_operator_ran_takes_its_line_back():
    one = trained()
    one.prints("epoch 1 complete", pattern=EPOCH)
    one.stands(30, 2)
    one.restart()
    for step in (60, 70):
        one.poll(step, after=300)
    assert reason(one.stands(70, 100)) == "GoesOn"


def test_a_line_is_found_again_by_a_process_that_has_read_it_before():
    """What a look has found is offered at every later one, because a look may fail after its read."""
    one = trained()
    one.prints("DONE")
    kept, one.log = one.log, Printed(one.patterns)
    one.poll(30)
    one.log = kept
    assert reason(one.poll(30)) == "JustPrinted"
    # The process follows too many logs, and has forgotten this one.
    one.log = Printed(one.patterns)
    assert reason(one.poll(30)) == "WithinPause"
    one.prints("DONE")
    assert reason(one.poll(30)) == "JustPrinted"


def test_changed_patterns_are_searched_for_anew():
    one = trained()
    one.prints("DONE")
    one.stands(30, 3)
    one.patterns = (DONE,)
    seen = one.poll(30)
    assert seen.completion_line.line == "DONE", "What was searched for the old patterns says nothing of the new ones."
    one.log = Printed(one.patterns, 5, 1, DONE, "DONE")
    assert reason(one.poll(30)) == "JustPrinted", "It is found by the new search."
    one.patterns = ("^OVER$",)
    one.log = Printed(one.patterns)
    assert reason(one.poll(30)) == "NotPrinted"
    one.patterns = ()
    assert reason(one.poll(30)) is None
    assert one.status.completion_line is None


def test_a_recorded_line_of_a_pattern_that_was_removed_meanwhile_is_dropped():
    one = trained()
    one.prints("DONE")
    one.poll(30)
    one.patterns = ("^OVER$",)
    one.restart()
    one.poll()
    assert one.status.completion_line is None


def test_a_log_that_cannot_be_read_is_no_evidence():
    one = trained()
    one.prints("DONE")
    assert reason(one.stands(30, 20, unread=FORBIDDEN)) == "LogUnreadable"
    assert reason(one.poll(30)) == "JustPrinted"


def test_a_long_line_is_cut_and_what_no_terminal_shows_is_left_out():
    one = trained()
    one.prints("DONE\x07\u202e" + "x" * 5000)
    seen = one.poll(30)
    assert seen.completion_line.line == "DONE  " + "x" * 193 + "…"
