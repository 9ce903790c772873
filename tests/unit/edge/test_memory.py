"""Stopwatches: how long the same has been so, on one clock."""

from __future__ import annotations

from trainingrun_operator.edge.memory import Memory, Stopwatch


def test_a_stopwatch_starts_with_the_first_look():
    watch = Stopwatch()
    assert watch.of("Saving", 1000) == 0
    assert watch.of("Saving", 1007.5) == 7.5


def test_another_thing_starts_it_again():
    watch = Stopwatch()
    watch.of(("Saving", 1), 1000)
    assert watch.of(("Saving", 2), 1010) == 0
    assert watch.of(("Saving", 1), 1020) == 0, "an interruption counts"
    assert watch.of(("Saving", 1), 1021) == 1


def test_nothing_is_also_a_thing():
    watch = Stopwatch()
    watch.of("Saving", 1000)
    assert watch.of(None, 1010) == 0
    assert watch.of("Saving", 1020) == 0


def test_two_runs_share_no_memory():
    one, other = Memory(), Memory()
    one.log_tails["pod"] = "out of memory"
    one.phase.of("Saving", 5)
    assert other == Memory()


def test_what_was_never_done_was_done_infinitely_long_ago():
    memory = Memory()
    assert 0 - memory.written_at > 10**9
    assert 0 - memory.problem_at > 10**9
