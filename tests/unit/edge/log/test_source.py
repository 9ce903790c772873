"""The log of a pod, poll by poll: what is asked for, and that nothing is lost or read twice."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from builders import make_pod, make_run

from trainingrun_operator.core.facts.reading import Failure, Reading
from trainingrun_operator.edge.apiserver.transport import KubeError
from trainingrun_operator.edge.metrics.log import source as module
from trainingrun_operator.edge.metrics.log.source import LogSource
from trainingrun_operator.edge.metrics.source import Target, Tools
from trainingrun_operator.edge.ports import LogPiece

LINE = "{'loss': '1.95', 'epoch': '0.36'}"


@dataclass
class Pod:
    """A pod that prints. Each record has the time at which it was written."""

    now: float = 1000.0
    records: tuple[tuple[float, str], ...] = ()

    def __post_init__(self):
        self.asked = []
        self.broken = None
        self.behind = False

    def prints(self, text):
        self.records = (*self.records, *((self.now, record) for record in text.splitlines(keepends=True)))

    async def log_new(self, namespace, name, container, *, since_seconds, lines, most_bytes):
        self.asked.append((namespace, name, container, since_seconds, lines))
        if self.broken is not None:
            raise self.broken
        since = float("-inf") if since_seconds is None else self.now - since_seconds
        text = "".join(record for at, record in self.records[-lines:] if at >= since).encode()
        return LogPiece(text[-most_bytes:], len(text) > most_bytes, self.behind)


class Polled:
    """A source that polls one pod."""

    def __init__(self, pod, spec=None):
        self.pod, self.run = pod, make_run(spec=spec or {})
        self.source = LogSource(Tools(http=None, logs=pod), clock=lambda: pod.now)  # type: ignore[arg-type] # no requests

    async def poll(self, printed="", *, after=10.0, **pod):
        self.pod.now += after
        self.pod.prints(printed)
        return await self.source.read(Target(self.run, make_pod(**pod)))


def numbers(reading):
    assert isinstance(reading, Reading), reading
    return (reading.loss, reading.step)


async def test_the_last_lines_are_read_first_and_then_those_since_the_last_read():
    polled = Polled(Pod())
    assert numbers(await polled.poll("step=1 loss=1.9\n")) == (1.9, 1)
    assert numbers(await polled.poll("step=2 loss=1.8\n")) == (1.8, 2)
    assert polled.pod.asked == [
        ("ml", polled.pod.asked[0][1], "train", None, module.FIRST_LINES),
        ("ml", polled.pod.asked[0][1], "train", 10 + module.OVERLAP_SECONDS, module.NEW_LINES),
    ]


async def test_a_training_that_prints_nothing_keeps_its_numbers():
    polled = Polled(Pod())
    await polled.poll("step=1 loss=1.9\n")
    assert numbers(await polled.poll()) == (1.9, 1)
    # Rotated: the file is empty.
    polled.pod.records = ()
    assert numbers(await polled.poll()) == (1.9, 1)
    assert numbers(await polled.poll("step=2 loss=1.8\n")) == (1.8, 2)


async def test_lines_that_are_asked_for_twice_are_read_once():
    # A bar that was read again would fall, and give no step any more.
    polled = Polled(Pod())
    bars = [f"\r{n:3d}%|   | {n}/100 [00:12<01:30, 15.01it/s]\n" for n in range(10)]
    await polled.poll("".join(bars[:3]) + f"{LINE}\n" + bars[3])
    for n in range(4, 10):
        assert numbers(await polled.poll(bars[n], after=1)) == (1.95, n)


async def test_a_line_that_is_written_in_parts_is_read_when_it_is_whole():
    polled = Polled(Pod())
    await polled.poll("step=1 loss=1.9\n")
    assert numbers(await polled.poll("step=2 loss=1")) == (1.9, 1)
    assert numbers(await polled.poll(".85 lr=0.1\n", after=60)) == (1.85, 2)


@pytest.mark.parametrize(
    ("first", "lost", "then", "found"),
    [
        pytest.param("", "", "", (1.9, 1), id="the new file is empty"),
        pytest.param("", "", "step=2 loss=1.8\n", (1.8, 2), id="the new file goes on"),
        pytest.param("", "step=2 loss=1.8\n", "step=3 loss=1.7\n", (1.7, 3), id="lines that were rotated away before they were read"),
        pytest.param("", "", "step=1 loss=1.9\nstep=2 loss=1.8\n", (1.8, 2), id="copied and truncated: the last line once more"),
        pytest.param("step=2 loss=1", "", "5 epochs to go\n", (1.9, 1), id="the beginning of a line, and then another line"),
        pytest.param("step=2 loss=1", "", "1 epoch to go\n", (1.9, 1), id="which begins with the last character that was read"),
        pytest.param("step=2 loss=1", "", ".85 lr=0.1\n", (1.9, 1), id="the end of that line: it cannot be told from another"),
        pytest.param("step=2 loss=1", "", ".85\nstep=3 loss=1.7\n", (1.7, 3), id="and the lines after it"),
        pytest.param("step=2 loss=1", ".85\n", "step=3 loss=1.7\nstep=4 loss=1.6\n", (1.6, 4), id="its end was rotated away"),
        pytest.param("\r 10%|   | 10/100 [00:12<01:30]", "", "\r 11%|  | 11/100 [00:12<01:30]\rstep=5 loss=1.5\n", (1.5, 5), id="a bar"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("after", [3.0, 60.0])
async def test_a_rotated_log_is_read_on(first, lost, then, found, after):
    polled = Polled(Pod())
    await polled.poll("step=1 loss=1.9\n")
    await polled.poll(first)
    polled.pod.prints(lost)
    # After a rotation, by a rename or by a copy and a truncation, the kubelet serves only the newest file.
    polled.pod.records = ()
    assert numbers(await polled.poll(then, after=after)) == found
    assert numbers(await polled.poll("step=9 loss=0.9\n", after=after)) == (0.9, 9)


async def test_the_end_of_a_line_that_was_begun_long_before_the_last_read_is_given_up():
    polled = Polled(Pod())
    await polled.poll("step=1 loss=1.9\n")
    polled.pod.now += 30
    polled.pod.prints("step=2 loss=1")
    await polled.poll(after=30)
    assert numbers(await polled.poll("5 lr=0.1\nstep=3 loss=1.7\n", after=60)) == (1.7, 3)


async def test_a_restarted_container_is_read_on():
    polled = Polled(Pod())
    await polled.poll("step=100 loss=1.9\n")
    polled.pod.records = ()
    assert numbers(await polled.poll("step=1 loss=2.9\n")) == (2.9, 1)


async def test_the_numbers_of_one_pod_are_not_those_of_the_next():
    polled = Polled(Pod())
    await polled.poll("step=100 loss=1.9\n")
    polled.pod.records = ()
    found = await polled.poll("starts\n", uid="another")
    assert isinstance(found, Failure)
    assert found.reason == "NoSuchMetric"


async def test_the_first_of_the_last_lines_may_be_the_end_of_a_longer_one():
    polled = Polled(Pod())
    polled.pod.prints('"eval": {"loss": 0.1, "step": 3}}\n' + "x\n" * (module.FIRST_LINES - 1))
    assert isinstance(await polled.poll(), Failure)


async def test_of_a_flood_the_end_is_read_and_its_first_line_is_dropped(monkeypatch):
    monkeypatch.setattr(module, "KEPT_BYTES", 40)
    polled = Polled(Pod())
    assert numbers(await polled.poll("eval: step=1 loss=0.1\nstep=2 loss=1.9\nother line\n")) == (1.9, 2)


async def test_after_a_read_that_did_not_reach_the_end_fewer_lines_are_asked_for():
    polled = Polled(Pod())
    polled.pod.behind = True
    await polled.poll("x" * 50_000)
    polled.pod.behind = False
    assert numbers(await polled.poll(f"{'x' * 100}\nstep=2 loss=1.9\n")) == (1.9, 2)
    assert [lines for *_, lines in polled.pod.asked] == [module.FIRST_LINES, module.CATCH_UP_LINES]
    await polled.poll()
    assert polled.pod.asked[-1][-1] == module.NEW_LINES


async def test_a_line_of_50_mb_is_skipped_with_a_word():
    polled = Polled(Pod())
    found = await polled.poll("loss: 0.1 " * 5_000_000 + "\n")
    assert isinstance(found, Failure)
    found = await polled.poll("x" * 9000 + "\n")
    assert isinstance(found, Failure)
    assert "1 lines are longer" in found.message
    assert numbers(await polled.poll("step=1 loss=1.9\n")) == (1.9, 1)


@pytest.mark.parametrize("error", [KubeError(400, "BadRequest", "waiting to start"), KubeError(0, "Timeout", "")])
async def test_a_log_that_cannot_be_read_is_a_failure_and_is_read_on_later(error):
    polled = Polled(Pod())
    await polled.poll("step=1 loss=1.9\n")
    polled.pod.broken = error
    found = await polled.poll("step=2 loss=1.8\n")
    assert isinstance(found, Failure)
    assert found.reason == "LogUnreadable"
    polled.pod.broken = None
    assert numbers(await polled.poll(after=100)) == (1.8, 2)


async def test_the_log_of_rank_0_is_read_alone():
    polled = Polled(Pod())
    found = await polled.poll("step=1 loss=1.9\n", rank=1)
    assert isinstance(found, Failure)
    assert found.reason == "OtherRank"
    assert not polled.pod.asked


async def test_a_changed_spec_reads_the_last_lines_again():
    polled = Polled(Pod())
    await polled.poll("it 7 ce 0.4 step=1 loss=1.9\n")
    polled.run = make_run(spec={"metrics": {"logs": {"patterns": [r"it (?P<step>\d+) ce (?P<loss>[0-9.]+)"]}}})
    assert numbers(await polled.poll()) == (0.4, 7)


async def test_pods_are_forgotten_when_they_are_too_many(monkeypatch):
    monkeypatch.setattr(module, "PODS_MAX", 2)
    polled = Polled(Pod())
    for uid in ("a", "b", "c", "a"):
        await polled.poll("step=1 loss=1.9\n", uid=uid)
    assert [since for *_, since, _ in polled.pod.asked] == [None] * 4


async def test_every_new_line_is_counted_once_whatever_it_says():
    polled = Polled(Pod())

    async def printed(text="", *, after=10.0):
        reading = await polled.poll(text, after=after)
        assert isinstance(reading, Reading), reading
        assert reading.printed is not None
        return reading.printed

    before = await printed("step=1 loss=1.9\n")
    assert await printed("evaluating\n") == before + len("evaluating\n")
    assert await printed(after=2.0) == before + len("evaluating\n"), "the line is asked for again"
    assert await printed(after=300.0) == before + len("evaluating\n")
    assert await printed("." * 7) == before + len("evaluating\n") + 7, "a line without an end"
