"""The end of a log: what a page shows of it, and that its size is bounded whatever the log brings."""

from __future__ import annotations

import asyncio
import re
import tracemalloc

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as some

from trainingrun_operator.dashboard.tail import CHARACTERS_MAX, LINE_MAX, LOG_LINES, Tail, tailed

PIECE = 65_536
ENOUGH = 3 * 2**20
"""Bytes; the logs below have four times as many."""


def shown(*pieces):
    tail = Tail()
    for piece in pieces:
        tail.add(piece)
    return tail.take(all_of_it=True)


def as_a_terminal(log):
    """What is left of each line after its carriage returns."""
    lines = log.split("\n")
    return [line.rstrip("\r").rpartition("\r")[2] for line in (lines if lines[-1] else lines[:-1])]


@settings(deadline=None)
@given(some.lists(some.text(alphabet="ab\r\n", max_size=6), max_size=8))
@example(["10 %\r20 %", "\r", "\n", "next"])
@example(["done\r", "\n"])
@example(["\r", "\r", "x"])
@example(["a", "", "b\r", "c\r"])
def test_where_a_log_is_cut_into_pieces_makes_no_difference(pieces):
    assert shown(*pieces) == as_a_terminal("".join(pieces))


def test_a_progress_bar_that_never_ends_its_line_is_its_last_state():
    assert shown(*(f"\r{percent} %|{'#' * percent}" for percent in range(101))) == [f"100 %|{'#' * 100}"]


def test_a_line_that_never_ends_is_shown_from_its_beginning_with_its_length():
    (line,) = shown(*["x" * 1000] * 100)
    assert line == "x" * LINE_MAX + "… (100000 characters)"


def test_a_line_that_was_too_long_says_nothing_about_the_next():
    assert shown("x" * 100_000 + "\nshort\n", "y" * 100_000 + "\rback\n")[1:] == ["short", "back"]


@pytest.mark.parametrize("pieces", [1, 7, 500])
def test_old_lines_are_dropped_with_a_mark(pieces):
    lines = [f"step {number}" for number in range(1000)]
    log = "".join(f"{line}\n" for line in lines)
    size = -(-len(log) // pieces)
    said = shown(*(log[at : at + size] for at in range(0, len(log), size)))
    assert said == [f"… {1000 - LOG_LINES} lines not shown …", *lines[-LOG_LINES:]]


def test_what_was_taken_is_not_shown_again():
    tail = Tail()
    tail.add("one\ntw")
    assert tail.take() == ["one"]
    tail.add("o\n")
    assert (tail.take(), tail.take()) == (["two"], [])


def endless(kind):
    """Pieces of a log of 13 MB."""
    return {
        "a bar": "\r100%|████████| 1000/1000 [00:10<00:00]" * (PIECE // 40),
        "one line": "x" * PIECE,
        "returns": "\r" * PIECE,
        "many short lines": "a\n" * (PIECE // 2),
        "long lines": ("x" * 30_000 + "\n") * 2,
        "long lines of wide letters": ("\N{GRINNING FACE}" * 30_000 + "\n") * 2,
        "terminal sequences": "\x1b[31m\x1b]0;" * (PIECE // 9),
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "a bar",
        "one line",
        "returns",
        "many short lines",
        "long lines",
        "long lines of wide letters",
        "terminal sequences",
    ],
)
def test_a_log_of_any_kind_takes_little_memory(kind):
    piece, tail = endless(kind), Tail()
    tracemalloc.start()
    try:
        for _ in range(200):
            tail.add(piece)
        said = tail.take(all_of_it=True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < ENOUGH
    assert sum(map(len, said)) <= CHARACTERS_MAX + LINE_MAX


async def test_a_log_is_read_on_while_nobody_takes_its_lines():
    """A browser that has stopped reading: the log goes on, and the page then shows its end."""
    read = asyncio.Event()

    async def log():
        for number in range(5000):
            yield f"step {number}\n"
            await asyncio.sleep(0)
        read.set()
        await asyncio.sleep(0.1)
        yield "the end"

    lines = tailed(log(), 0.01)
    assert (await anext(lines))[-1].startswith("step ")
    async with asyncio.timeout(10):
        await read.wait()
    after = await anext(lines)
    assert re.fullmatch(r"… \d+ lines not shown …", after[0])
    assert after[-1] == "step 4999"
    assert [rest async for rest in lines] == [["the end"]]


async def test_a_log_that_fails_tells_its_lines_and_fails():
    async def log():
        yield "last words\n"
        raise RuntimeError("broken")

    lines = tailed(log(), 0.01)
    assert await anext(lines) == ["last words"]
    with pytest.raises(RuntimeError, match="broken"):
        await anext(lines)
