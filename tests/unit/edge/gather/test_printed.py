"""What is read of a training's log for `completion.logPatterns`, and which of its lines have one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from builders import make_pod, make_run, make_status, make_stop

from trainingrun_operator.api.status import Phase, Progress
from trainingrun_operator.core.facts.log import Printed
from trainingrun_operator.core.facts.reading import Failure
from trainingrun_operator.edge.apiserver.transport import KubeError
from trainingrun_operator.edge.gather import printed as module
from trainingrun_operator.edge.gather.printed import PrintedLines
from trainingrun_operator.edge.metrics.log.source import CATCH_UP_LINES, NEW_LINES, OVERLAP_SECONDS
from trainingrun_operator.edge.ports import LogPiece

START = datetime(2026, 1, 2, 3, 0, tzinfo=UTC)
DONE, COMPLETE = "^DONE$", "^Training complete"


class Container:
    """A training that prints, and an operator that reads its log."""

    def __init__(self, *patterns, **status):
        self.now, self.records, self.asked, self.broken = 1000.0, [], [], None
        self.ticks, self.behind = 0, False
        self.run = make_run(
            spec={"completion": {"logPatterns": list(patterns or (DONE, COMPLETE))}}, status=make_status(**status)
        )
        self.pod, self.lines = make_pod(), PrintedLines(self)

    def prints(self, text):
        """Print; each record has its time, to the nanosecond."""
        for record in text.splitlines(keepends=True) if "\r" not in text else [text]:
            self.records.append((self.now, f"{self.stamp()} {record}"))

    def stamp(self):
        self.ticks += 1
        return f"{(START + timedelta(seconds=self.now)).strftime('%Y-%m-%dT%H:%M:%S')}.{self.ticks:09d}Z"

    async def log_new(self, namespace, name, container, *, since_seconds, lines, most_bytes, stamped=False):
        assert stamped
        self.asked.append((since_seconds, lines))
        if self.broken is not None:
            raise self.broken
        since = float("-inf") if since_seconds is None else self.now - since_seconds
        text, whole = "", True
        for at, record in self.records[-lines:]:
            if at >= since:
                # Of a line in several records, the kubelet stamps only the first that it returns.
                text += record if whole else record.partition(" ")[2]
                whole = record.endswith("\n")
        raw = text.encode()
        return LogPiece(raw[-most_bytes:], cut=len(raw) > most_bytes, behind=self.behind)

    async def look(self, text="", *, after=10.0, later=0.0):
        """Look once: after some seconds it prints the text, and is read so much later."""
        self.now += after
        self.prints(text)
        self.now += later
        wall = (START + timedelta(seconds=self.now)).isoformat()
        return await self.lines.read(self.run, self.pod, wall, self.now)

    async def found(self, text="", **look):
        """Return how many reads have found a line, and the newest."""
        printed = await self.look(text, **look)
        assert isinstance(printed, Printed), printed
        return printed.found, printed.line


async def test_no_log_is_read_without_patterns_or_in_a_stop():
    for run in (make_run(), make_run(spec={"completion": {"logPatterns": [DONE]}}, status=make_status(termination=make_stop(Phase.SAVING)))):  # fmt: skip
        one = Container()
        one.run = run
        assert await one.look("DONE\n") is None
        assert not one.asked


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param("DONE\n", "DONE", id="the line"),
        pytest.param("DONE\r\n", "DONE", id="with a carriage return"),
        pytest.param("step 1\nDONE\nlater\n", "DONE", id="among others"),
        pytest.param("\x1b[1m\x1b[32mDONE\x1b[0m\n", "DONE", id="in colours"),
        pytest.param(" 99%|###| 99/100\r100%|###| 100/100\rDONE\n", "DONE", id="after a bar"),
        pytest.param("Training complete\nDONE\n", "DONE", id="the last of two"),
        pytest.param("DONE\nTraining complete: 7 s\n", "Training complete: 7 s", id="the last of two, of another pattern"),
        pytest.param("epoch 1 DONE\n", "", id="only part of a line"),
        pytest.param("DO\nNE\n", "", id="over two lines"),
        pytest.param("DONE", "", id="not whole yet"),
        pytest.param("\n\n", "", id="empty lines"),
        pytest.param("x" * 9000 + "\rDONE\n", "DONE", id="after a long line"),
        pytest.param("Training complete " + "x" * 9000 + "\n", "", id="a long line itself"),
        pytest.param("D\ud800NE\nDONE\n".encode("utf-8", "surrogatepass").decode(errors="replace"), "DONE", id="after bytes that are no text"),
    ],
)  # fmt: skip
async def test_whole_lines_are_searched_as_a_terminal_shows_them(text, line):
    assert await Container().found(text) == (int(bool(line)), line)


async def test_a_line_is_found_once_although_it_is_asked_for_twice():
    one = Container()
    assert await one.found("DONE\n") == (1, "DONE")
    assert await one.found("later\n", after=2) == (1, "DONE")
    assert await one.found("DONE\n") == (2, "DONE")
    assert one.asked == [
        (None, NEW_LINES),
        (2 + OVERLAP_SECONDS, NEW_LINES),
        (10 + OVERLAP_SECONDS, NEW_LINES),
    ]


async def test_a_line_that_is_printed_again_is_found_again_whatever_is_printed_between():
    one = Container()
    for number in range(1, 5):
        assert await one.found("DONE\n", after=7) == (number, "DONE")
    assert await one.found("waits\n" * 300) == (4, "DONE")
    assert await one.found("DONE\n" + "waits\n" * 300) == (5, "DONE")


@pytest.mark.parametrize("later", [2, 60])
async def test_a_line_in_two_parts_is_found_when_it_is_whole_and_its_end_is_no_line(later):
    one = Container()
    assert await one.found("starts\nDO", later=later) == (0, "")
    assert await one.found("NE\n") == ((1, "DONE") if later == 2 else (0, "")), "Its beginning is not read again."
    one = Container()
    assert await one.found("starts\nnot ", later=later) == (0, "")
    assert await one.found("DONE\nlater\n") == (0, "")
    assert await one.found("DONE\n") == (1, "DONE")


async def test_a_late_look_reads_what_was_printed_meanwhile():
    one = Container()
    await one.found("waits\n" * 200)
    assert await one.found("DONE\n" + "waits\n" * 2000, after=3600) == (1, "DONE")
    one = Container()
    await one.found("waits\n")
    assert await one.found("DONE\n" + "waits\n" * 3000, after=3600) == (0, ""), "It is not among the newest lines."


async def test_of_a_flood_the_end_is_read_and_its_first_line_is_dropped(monkeypatch):
    one = Container()
    monkeypatch.setattr(module, "KEPT_BYTES", len(f"{one.stamp()} DONE\n") + 2)
    assert await one.found("DONE\nx\n") == (0, "")
    monkeypatch.setattr(module, "KEPT_BYTES", 10_000)
    assert await one.found("x\nDONE\n") == (1, "DONE")


async def test_after_a_read_that_did_not_reach_the_end_fewer_lines_are_asked_for():
    one = Container()
    one.behind = True
    await one.look("x\n" * 10, later=60)
    one.behind = False
    assert await one.found("DONE\n") == (0, ""), "The first line may be the end of a longer one."
    assert await one.found("DONE\n") == (1, "DONE")
    assert [lines for _, lines in one.asked] == [NEW_LINES, CATCH_UP_LINES, NEW_LINES]


async def test_every_line_is_counted_once():
    one = Container()
    counted = []
    for text in ("a\nb\n", "a\n", "", "a\n\n", "b"):
        printed = await one.look(text, after=3)
        assert isinstance(printed, Printed)
        counted.append(printed.lines)
    assert counted == [2, 3, 3, 5, 5]


async def test_a_rotated_log_is_read_on():
    one = Container()
    assert await one.found("DONE\n") == (1, "DONE")
    one.records.clear()
    assert await one.found("later\n") == (1, "DONE")


async def test_a_container_that_is_started_again_and_another_pod_begin_with_nothing_found():
    one = Container()
    assert await one.found("DONE\n") == (1, "DONE")
    for pod in (make_pod(started_at="2026-01-02T04:00:00Z"), make_pod(uid="another")):
        one.pod = pod
        one.records.clear()
        assert await one.found("starts\n") == (0, "")


async def test_for_changed_patterns_the_log_is_read_again():
    one = Container("^OVER$")
    assert await one.found("DONE\n") == (0, "")
    one.run = make_run(spec={"completion": {"logPatterns": [DONE]}})
    assert await one.found() == (1, "DONE")


async def test_the_first_read_goes_back_to_the_last_step_that_an_earlier_process_has_seen():
    last = (START + timedelta(seconds=900.5)).isoformat()
    one = Container(progress=Progress(step=30, pod_uid=make_pod().uid, last_observation_time=last))
    one.now = 700
    one.prints("DONE\n")
    assert await one.found(after=300) == (0, ""), "Steps were made after it."
    assert one.asked == [(100 + 10 + OVERLAP_SECONDS, NEW_LINES)]
    one = Container(progress=Progress(step=30, pod_uid="another", last_observation_time=last))
    await one.look()
    assert one.asked[0][0] is None, "Another pod has made that step."


@pytest.mark.parametrize("error", [KubeError(403, "Forbidden", "pods/log"), KubeError(0, "Timeout", "")])
async def test_a_log_that_cannot_be_read_is_a_failure_and_is_read_on_later(error):
    one = Container()
    await one.found("step 1\n")
    one.broken = error
    failed = await one.look("DONE\n")
    assert isinstance(failed, Failure)
    assert failed.reason == "LogUnreadable"
    one.broken = None
    assert await one.found(after=100) == (1, "DONE")


async def test_patterns_that_are_refused_find_nothing():
    assert await Container("(", "x*", DONE).found("(x\nDONE\nlater\n") == (1, "DONE")


async def test_pods_are_forgotten_when_they_are_too_many_and_all_of_them_when_another_process_leads(monkeypatch):
    monkeypatch.setattr(module, "PODS_MAX", 2)
    one = Container()
    for uid in ("a", "b", "c", "a"):
        one.pod = make_pod(uid=uid)
        await one.look("step 1\n")
    assert [since for since, _ in one.asked] == [None] * 4
    one.lines.forget_all()
    await one.look()
    assert one.asked[-1][0] is None
