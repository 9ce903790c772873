"""Auto takes the first source that has loss and step, says why it passed over others, and stays with it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import make_pod, make_reading, make_run

from trainingrun_operator.api.status import Effective, TrainingRunStatus
from trainingrun_operator.core.facts.reading import Failure, Reading
from trainingrun_operator.edge.metrics import auto as module
from trainingrun_operator.edge.metrics.auto import PAGE_POLLS, AutoSource
from trainingrun_operator.edge.metrics.registry import Sources
from trainingrun_operator.edge.metrics.source import Target, Tools

REFUSED = Failure("ConnectionRefused", "Nothing listens at http://10.0.0.7:8000/metrics.")
UNWRITTEN = Failure("NoSuchMetric", "No file with numbers is written.")
UNPUSHED = Failure("NothingPushed", "The training has posted nothing.")
EMPTY = Failure("NoSuchMetric", "The log has no loss.")
PAGE, LOG = make_reading(0.7, 10), make_reading(0.6, 12)


class Answers:
    """A source with answers set by the test, which counts its reads."""

    def __init__(self, answer):
        self.answer, self.asked = answer, 0

    async def read(self, _):
        self.asked += 1
        return self.answer


class Polled:
    """A run with `spec.metrics.source: Auto`."""

    def __init__(self, page=REFUSED, log=EMPTY):
        self.page, self.files, self.log = Answers(page), Answers(UNWRITTEN), Answers(log)
        self.run = make_run(spec={"metrics": {"source": "Auto"}})
        self.restart()

    def restart(self):
        auto = AutoSource(Tools(http=None, logs=None))  # type: ignore[arg-type] # no source of it is asked
        auto._sources = {"Prometheus": self.page, "Push": Answers(UNPUSHED), "Files": self.files, "Logs": self.log}
        self.sources = Sources({"Auto": auto})

    def pinned(self, source, note):
        effective = Effective(auto_stop_action="Off", metrics_source=source, metrics_source_note=note)
        self.run = replace(self.run, status=TrainingRunStatus(effective=effective))

    async def polls(self, count):
        return [await self.poll() for _ in range(count)][-1]

    async def poll(self, **pod):
        return await self.sources.read(Target(self.run, make_pod(**pod)))


async def test_a_page_with_loss_and_step_is_taken_at_once():
    polled = Polled(page=PAGE, log=LOG)
    found = await polled.poll()
    assert isinstance(found, Reading)
    assert (found.loss, found.source) == (0.7, "Prometheus")
    assert found.source_note
    polled.page.answer = REFUSED
    assert await polled.poll() == REFUSED
    assert polled.log.asked == 1


async def test_a_log_is_taken_when_the_page_has_had_its_time_and_why_is_said():
    polled = Polled(log=LOG)
    for _ in range(PAGE_POLLS - 1):
        waiting = await polled.poll()
        assert isinstance(waiting, Failure)
        assert waiting.reason == "ChoosingSource"
        assert "ConnectionRefused" in waiting.message
    found = await polled.poll()
    assert isinstance(found, Reading)
    assert (found.loss, found.source) == (0.6, "Logs")
    assert "ConnectionRefused" in found.source_note
    # A page that comes up later takes no run over in its middle.
    polled.page.answer = PAGE
    again = await polled.poll()
    assert isinstance(again, Reading)
    assert (again.source, polled.page.asked) == ("Logs", PAGE_POLLS)


async def test_files_are_preferred_to_a_log():
    polled = Polled(log=LOG)
    polled.files.answer = make_reading(0.5, 9)
    found = await polled.polls(PAGE_POLLS)
    assert isinstance(found, Reading)
    assert (found.loss, found.source) == (0.5, "Files")
    assert "Prometheus: ConnectionRefused" in found.source_note


async def test_a_page_that_comes_up_in_time_is_preferred():
    polled = Polled(log=LOG)
    await polled.poll()
    polled.page.answer = PAGE
    found = await polled.poll()
    assert isinstance(found, Reading)
    assert found.source == "Prometheus"


@pytest.mark.parametrize(
    ("page", "log", "told"),
    [
        (REFUSED, EMPTY, ("ConnectionRefused", "NoSuchMetric")),
        (make_reading(None, 3), EMPTY, ("it has no loss", "NoSuchMetric")),
        (REFUSED, make_reading(0.5), ("ConnectionRefused", "no step")),
        (make_reading(0.5, -1), make_reading(0.5, float("nan")), ("no step",)),
    ],
)
async def test_without_loss_and_step_anywhere_every_reason_is_said(page, log, told):
    polled = Polled(page, log)
    found = await polled.polls(PAGE_POLLS + 1)
    assert isinstance(found, Failure)
    assert found.reason == "NoSource"
    assert all(one in found.message for one in told)


@pytest.mark.parametrize(("source", "loss"), [("Prometheus", 0.7), ("Logs", 0.6)])
async def test_a_restarted_operator_and_the_next_pod_stay_with_what_the_status_says(source, loss):
    polled = Polled(page=PAGE, log=LOG)
    polled.pinned(source, "why")
    polled.restart()
    found = await polled.poll(uid="next")
    assert isinstance(found, Reading)
    assert (found.loss, found.source, found.source_note) == (loss, source, "why")
    assert polled.page.asked + polled.log.asked == 1


async def test_a_source_that_the_spec_named_before_is_no_choice():
    polled = Polled(log=LOG)
    polled.pinned("Prometheus", "")
    found = await polled.polls(PAGE_POLLS)
    assert isinstance(found, Reading)
    assert found.source == "Logs"


async def test_other_ranks_do_not_choose():
    polled = Polled(page=REFUSED, log=LOG)
    for _ in range(PAGE_POLLS + 1):
        assert await polled.poll(rank=1) == REFUSED
    assert isinstance(await polled.poll(), Failure)


async def test_runs_without_a_choice_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "RUNS_MAX", 2)
    polled = Polled(log=LOG)
    for _ in range(PAGE_POLLS + 1):
        for uid in ("a", "b", "c"):
            polled.run = replace(polled.run, uid=uid)
            found = await polled.poll()
            assert isinstance(found, Failure)
            assert found.reason == "ChoosingSource"
