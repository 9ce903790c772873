"""A stop waits for a checkpoint only if that is predicted to cost less than the work it would lose, and never for longer than that work."""

from __future__ import annotations

from builders import POD_UID, WALL, make_agent, make_found, make_observed, make_pod, make_run, make_workload
from hypothesis import given
from hypothesis import strategies as st

from trainingrun_operator.api.saves import INTERVALS_MAX, SaveInterval, SaveTimes
from trainingrun_operator.core import saves
from trainingrun_operator.core.facts.gathered import Facts
from trainingrun_operator.core.stop import waiting
from trainingrun_operator.core.words import before

INTERVALS = st.lists(st.integers(1, 100_000), max_size=INTERVALS_MAX)


@given(INTERVALS, st.integers(0, 100_000), st.integers(1, 200_000))
def test_a_wait_is_predicted_from_what_was_seen_and_bounded_by_what_it_saves(intervals, since, ran):
    times = SaveTimes(
        pod_uid=POD_UID, at=before(WALL, since), intervals=tuple(SaveInterval(seconds=one) for one in intervals)
    )
    seen = make_observed(pods=(make_pod(started_at=before(WALL, ran)),), saves=times)
    wait, lost = waiting.choose(seen), min(since, ran)
    assert wait.rolled_back_seconds == lost
    assert (wait.predicted_seconds is None) == all(one <= lost for one in intervals), "Nothing else says when it saves."
    if wait.predicted_seconds is not None:
        assert wait.predicted_seconds + lost in intervals
    worth_it = wait.predicted_seconds is not None and wait.predicted_seconds < lost
    assert (wait.until is not None) == worth_it
    assert 0 <= waiting.left(seen, wait) <= lost
    assert waiting.left(seen, wait) <= waiting.LONGEST * (wait.predicted_seconds or 0)


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 50)), max_size=20), st.data())
def test_looks_that_are_repeated_or_fail_change_nothing_that_is_counted(saved, data):
    start = before(WALL, 100_000)
    looks, at = [], 0
    for pause, age in saved:
        at += pause + age + 1
        report = make_agent(newest=make_found(step=None, age_seconds=age))
        looks.append(
            Facts(
                run=make_run(),
                wall=before(start, -at),
                pods=(make_pod(started_at=start),),
                workload=make_workload(),
                reports={0: report},
            )
        )
    once = repeated = None
    for facts in looks:
        once = saves.fold(once, facts)
        for again in data.draw(st.lists(st.sampled_from(["same", "failed"]), max_size=2)):
            repeated = saves.fold(repeated, facts)
            if again == "failed":
                repeated = saves.fold(repeated, Facts(run=make_run(), wall=facts.wall, pods=facts.pods))
        repeated = saves.fold(repeated, facts)
    assert once == repeated
    assert once is None or len(once.intervals) <= INTERVALS_MAX
