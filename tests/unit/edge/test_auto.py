"""Auto takes a page at once, another source once the training has advanced by it without a page, says why it passed over others, and stays with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import make_pod, make_reading, make_run

from trainingrun_operator.api.status import Effective, TrainingRunStatus
from trainingrun_operator.core.facts.reading import Failure, Reading
from trainingrun_operator.edge.metrics import auto as module
from trainingrun_operator.edge.metrics.auto import AutoSource
from trainingrun_operator.edge.metrics.candidates import ADVANCE_SECONDS, ADVANCES, APART_POLLS, APART_SECONDS
from trainingrun_operator.edge.metrics.registry import Sources
from trainingrun_operator.edge.metrics.source import Target, Tools

REFUSED = Failure("ConnectionRefused", "Nothing listens at http://10.0.0.7:8000/metrics.")
TIMEOUT = Failure("Timeout", "http://10.0.0.7:8000/metrics did not answer.")
NO_LOSS = Failure("NoSuchMetric", "http://10.0.0.7:8000/metrics has none of loss, step.")
UNWRITTEN = Failure("NoSuchMetric", "No file with numbers is written.")
UNPUSHED = Failure("NothingPushed", "The training has posted nothing.")
EMPTY = Failure("NoSuchMetric", "The log has no loss.")
PAGE = make_reading(0.7, 10)
ENOUGH = ADVANCES + 1
"""Polls until another source is taken: the first one shows where its step is."""


class Answers:
    """A source with answers set by the test, which counts its reads."""

    def __init__(self, answer):
        self.answer, self.asked = answer, 0

    async def read(self, _):
        self.asked += 1
        return self.answer() if callable(self.answer) else self.answer


def advancing(loss, first=0):
    """Return the answers of a source whose step is one higher at each read."""
    steps = iter(range(first, 10_000))
    return lambda: make_reading(loss, next(steps))


def named(**metrics):
    return {"metrics": {"source": "Auto", **metrics}}


UNNAMED: dict[str, Any] = {"metrics": {}}
BOTH = pytest.mark.parametrize("spec", [pytest.param(named(), id="Auto"), pytest.param(UNNAMED, id="no source")])


class Polled:
    """A run whose source is Auto."""

    def __init__(self, page=REFUSED, log=EMPTY, files=UNWRITTEN, spec=None):
        self.page, self.push, self.files, self.log = (Answers(one) for one in (page, UNPUSHED, files, log))
        self.run = make_run(spec=spec or named())
        self.restart()

    def restart(self):
        auto = AutoSource(Tools(http=None, logs=None))  # type: ignore[arg-type] # no source of it is asked
        auto._sources = {"Prometheus": self.page, "Push": self.push, "Files": self.files, "Logs": self.log}
        self.sources = Sources({"Auto": auto})

    def pinned(self, source, note):
        effective = Effective(auto_stop_action="Off", metrics_source=source, metrics_source_note=note)
        self.run = replace(self.run, status=TrainingRunStatus(effective=effective))

    def asked(self):
        return tuple(one.asked for one in (self.page, self.push, self.files, self.log))

    async def polls(self, count, **pod):
        return [await self.poll(**pod) for _ in range(count)][-1]

    async def poll(self, **pod):
        return await self.sources.read(Target(self.run, make_pod(**pod)))


def read_from(found):
    """The source of a reading; of a failure, its reason."""
    return found.source if isinstance(found, Reading) else found.reason


@BOTH
async def test_a_page_with_loss_and_step_is_taken_at_once(spec):
    polled = Polled(page=PAGE, log=advancing(0.6), spec=spec)
    found = await polled.poll()
    assert isinstance(found, Reading)
    assert (found.loss, found.source) == (0.7, "Prometheus")
    assert found.source_note
    polled.page.answer = REFUSED
    assert await polled.poll() == REFUSED
    assert polled.asked() == (2, 0, 0, 0)


@BOTH
async def test_a_log_is_taken_once_the_training_has_advanced_by_it_and_why_is_said(spec):
    polled = Polled(log=advancing(0.6), spec=spec)
    for _ in range(ENOUGH - 1):
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
    assert (read_from(again), polled.page.asked) == ("Logs", ENOUGH)


@BOTH
@pytest.mark.parametrize(
    "log",
    [
        pytest.param(make_reading(0.6, 12), id="stands still"),
        pytest.param(make_reading(0.6), id="has no step"),
        pytest.param(make_reading(None, 12), id="has no loss"),
        pytest.param(make_reading(0.6, float("nan")), id="has a step that is no number"),
    ],
)
async def test_no_log_is_taken_that(spec, log):
    """It may be one line of an evaluation, and the page may still come."""
    polled = Polled(log=log, spec=spec)
    assert read_from(await polled.polls(10 * ENOUGH)) in ("ChoosingSource", "NoSource")
    polled.page.answer = PAGE
    assert read_from(await polled.poll()) == "Prometheus"


@BOTH
@pytest.mark.parametrize("steps", [(5, 4, 3, 2, 1, 0) * 5, (7, 3) * 20], ids=["falls", "goes back and forth"])
async def test_a_step_that_does_not_rise_is_no_advance(spec, steps):
    readings = iter(steps)
    polled = Polled(log=lambda: make_reading(0.6, next(readings)), spec=spec)
    assert read_from(await polled.polls(len(steps))) == "ChoosingSource"


@BOTH
@pytest.mark.parametrize("late", range(1, ENOUGH))
async def test_a_page_that_comes_up_in_time_is_preferred(spec, late):
    polled = Polled(log=advancing(0.6), spec=spec)
    await polled.polls(late)
    polled.page.answer = PAGE
    assert read_from(await polled.poll()) == "Prometheus"


@pytest.mark.parametrize("interval", [1, 7, 10, 11, 3600])
async def test_a_spec_without_a_source_waits_for_a_page_for_a_minute_at_least(interval):
    polled = Polled(log=advancing(0.6), spec={"metrics": {}, "pollIntervalSeconds": interval})
    polls = 0
    while read_from(await polled.poll()) == "ChoosingSource":
        polls += 1
    assert polls >= ADVANCES
    assert ADVANCE_SECONDS <= polls * interval < max(ADVANCE_SECONDS + interval, ADVANCES * interval + 1)


async def test_of_sources_that_advance_the_preferred_one_is_taken_though_it_is_slower():
    seldom = iter([1] * (ENOUGH - 1) + [2] * ENOUGH)
    polled = Polled(log=advancing(0.6), files=lambda: make_reading(0.5, next(seldom)))
    found = await polled.polls(ENOUGH)
    assert isinstance(found, Reading)
    assert (found.loss, found.source) == (0.5, "Files")
    assert "Prometheus: ConnectionRefused" in found.source_note
    assert "Logs" not in found.source_note


@BOTH
async def test_files_of_an_earlier_training_do_not_take_the_place_of_a_log(spec):
    polled = Polled(log=advancing(0.6), files=make_reading(0.1, 5000), spec=spec)
    assert read_from(await polled.polls(ENOUGH)) == "Logs"


@BOTH
async def test_a_source_that_was_not_due_is_looked_at_before_another_is_taken(spec):
    polled = Polled(spec=spec)
    await polled.polls(APART_POLLS)
    polled.log.answer = advancing(0.6)
    asked = [polled.files.asked]
    while read_from(found := await polled.poll()) in ("NoSource", "ChoosingSource"):
        asked.append(polled.files.asked)
    assert (read_from(found), polled.files.asked) == ("Logs", asked[-1] + 1)


@BOTH
async def test_a_new_pod_advances_by_itself(spec):
    polled = Polled(log=advancing(0.6), spec=spec)
    await polled.polls(ENOUGH - 1, uid="first")
    assert read_from(await polled.polls(ENOUGH - 1, uid="second")) == "ChoosingSource"
    assert read_from(await polled.poll(uid="second")) == "Logs"


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
    found = await polled.polls(ENOUGH)
    assert isinstance(found, Failure)
    assert found.reason == "NoSource"
    assert all(one in found.message for one in told)


@pytest.mark.parametrize(
    "page",
    [
        NO_LOSS,
        make_reading(None, 3),
        make_reading(0.5),
        Failure("AmbiguousSeries", "loss has 2 series that disagree."),
        Failure("TooLarge", "It is larger than 1 MiB."),
        Failure("HTTPStatus", "It answers HTTP 404."),
        Failure("BadResponse", "It does not answer as a web server."),
    ],
    ids=lambda page: page.reason if isinstance(page, Failure) else f"loss {page.loss}",
)
async def test_while_a_page_answers_a_spec_without_a_source_takes_no_other(page):
    polled = Polled(page, log=advancing(0.6), spec=UNNAMED)
    found = await polled.polls(3 * ENOUGH)
    assert polled.asked() == (3 * ENOUGH, 0, 0, 0)
    if isinstance(page, Failure):
        assert read_from(found) == page.reason
        assert found.message.startswith(page.message)
        assert "spec.metrics.source" in found.message
    else:
        assert found == replace(page, source="Prometheus"), "As a run of the source Prometheus is read."
    # It is not forgotten when the page is away, or a pod is replaced.
    polled.page.answer = REFUSED
    assert read_from(await polled.polls(3 * ENOUGH)) == "ConnectionRefused"
    assert read_from(await polled.polls(3 * ENOUGH, uid="next")) == "ConnectionRefused"
    assert await Polled(page, log=advancing(0.6)).polls(ENOUGH), "With source: Auto another one is taken."


@pytest.mark.parametrize("reason", ["Timeout", "HostUnreachable", "Disconnected"])
async def test_a_page_of_which_it_is_not_known_whether_it_is_there_is_waited_for(reason):
    polled = Polled(Failure(reason, "It does not answer."), log=advancing(0.6), spec=UNNAMED)
    assert read_from(await polled.polls(3 * ENOUGH)) == reason
    assert polled.log.asked == 0
    polled.page.answer = REFUSED
    assert read_from(await polled.polls(ENOUGH)) == "Logs", "Nothing has served a page."


async def test_with_auto_another_source_is_taken_although_a_page_answers():
    polled = Polled(NO_LOSS, log=advancing(0.6))
    found = await polled.polls(ENOUGH)
    assert read_from(found) == "Logs"
    assert "NoSuchMetric" in found.source_note


async def test_a_spec_without_a_source_looks_for_no_posts():
    """Its pod has no address to post to."""
    polled = Polled(spec=UNNAMED)
    polled.push.answer = advancing(0.5)
    found = await polled.polls(3 * ENOUGH)
    assert (read_from(found), polled.push.asked) == ("NoSource", 0)
    assert "Push" not in found.message
    posts = Polled()
    posts.push.answer = advancing(0.5)
    assert read_from(await posts.polls(ENOUGH)) == "Push"


@pytest.mark.parametrize("page", [{"port": 9090}, {"path": "/other"}, {"names": {"loss": ["ce"]}}], ids=str)
async def test_a_page_that_the_spec_names_is_the_source(page):
    """It is none that Auto has to find, unless the spec says Auto."""
    polled = Polled(log=advancing(0.6), spec={"metrics": page})
    assert read_from(await polled.poll()) == "UnknownSource", "Prometheus, which these sources lack."
    asked_for = Polled(log=advancing(0.6), spec=named(**page))
    assert read_from(await asked_for.polls(ENOUGH)) == "Logs"


# -- how often is looked ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "interval", "asked"),
    [
        pytest.param(UNNAMED, 10, (100, 0, 10, 10), id="no source: 120 requests, not 400"),
        pytest.param(named(), 10, (100, 10, 10, 10), id="Auto: 130 requests, not 400"),
        pytest.param(UNNAMED, 60, (100, 0, 22, 22), id="polls a minute apart: every 5 minutes"),
        pytest.param(UNNAMED, 3600, (100, 0, 100, 100), id="polls an hour apart: each time"),
    ],
)
async def test_how_many_requests_100_polls_of_a_run_cost_that_no_source_can_measure(spec, interval, asked):
    polled = Polled(spec={**spec, "pollIntervalSeconds": interval})
    await polled.polls(100)
    assert polled.asked() == asked


@pytest.mark.parametrize("interval", [1, 10, 60, 300, 301, 3600])
@pytest.mark.parametrize("silent", [0, 1, 5, 17, 90])
async def test_a_source_that_comes_late_is_found_within_a_bounded_time(interval, silent):
    polled = Polled(spec={"metrics": {}, "pollIntervalSeconds": interval})
    for _ in range(silent):
        await polled.poll()
    polled.log.answer = advancing(0.6)
    polls = 0
    while read_from(await polled.poll()) == "NoSource":
        polls += 1
    assert polls < APART_POLLS
    assert polls * interval < max(APART_SECONDS, interval)


async def test_a_look_that_is_cut_off_is_not_repeated_at_each_poll():
    def hangs():
        raise TimeoutError

    polled = Polled(log=hangs, spec=UNNAMED)
    await polled.polls(100)
    assert polled.asked() == (100, 0, 10, 10)


# -- the choice stays ---------------------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(("source", "loss"), [("Prometheus", 0.7), ("Logs", 0.6)])
async def test_a_restarted_operator_and_the_next_pod_stay_with_what_the_status_says(spec, source, loss):
    polled = Polled(page=PAGE, log=make_reading(0.6, 12), spec=spec)
    polled.pinned(source, "why")
    polled.restart()
    found = await polled.poll(uid="next")
    assert isinstance(found, Reading)
    assert (found.loss, found.source, found.source_note) == (loss, source, "why")
    assert sum(polled.asked()) == 1


async def test_a_source_that_the_spec_named_before_is_no_choice():
    polled = Polled(log=advancing(0.6))
    polled.pinned("Prometheus", "")
    assert read_from(await polled.polls(ENOUGH)) == "Logs"


@BOTH
async def test_other_ranks_do_not_choose(spec):
    polled = Polled(log=advancing(0.6), spec=spec)
    for _ in range(ENOUGH):
        assert await polled.poll(rank=1) == REFUSED
    assert polled.asked() == (ENOUGH, 0, 0, 0)
    assert isinstance(await polled.poll(), Failure)


async def test_runs_without_a_choice_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "RUNS_MAX", 2)
    polled = Polled(log=advancing(0.6))
    for _ in range(ENOUGH):
        for uid in ("a", "b", "c"):
            polled.run = replace(polled.run, uid=uid)
            assert read_from(await polled.poll()) == "ChoosingSource"
