"""What is remembered, after any looks in any order."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from properties.strategies import LEARNED, SECONDS, looks

from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.memory import Memory, remember, remember_effects

pytestmark = pytest.mark.timeout(900)
"""Many examples: on a busy machine they take minutes."""

HISTORY = st.lists(st.tuples(SECONDS, looks(), st.lists(LEARNED, max_size=2)), min_size=1, max_size=4)

look = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def told(history):
    """Every memory and every observation of a history, in order."""
    memory, now, said = Memory(), 0.0, []
    for seconds, facts, learned in history:
        now += seconds
        memory, seen = remember(memory, facts, now)
        memory = remember_effects(memory, learned)
        said.append((memory, seen))
    return said


@look
@given(HISTORY)
def test_any_looks_in_any_order_can_be_remembered_and_decided_on(history):
    for memory, seen in told(history):
        assert seen.verified is memory.verified
        assert set(seen.gate_seconds) == set(seen.node_seconds) == {node.uid for node in seen.run.status.nodes}
        durations = (seen.save_failing_seconds, seen.no_progress_seconds, seen.phase_seconds)
        of_ranks = (seconds for rank in seen.ranks for seconds in (rank.waiting_seconds, rank.unshipped_seconds))
        measured = (*durations, *of_ranks, *seen.node_seconds.values(), *seen.gate_seconds.values())
        assert all(0 <= seconds <= seen.now for seconds in measured)
        decide(seen)


@look
@given(HISTORY)
def test_a_rank_stands_at_step_0_only_if_its_pods_newest_reading_says_so(history):
    last: dict[int, tuple[str, Any]] = {}
    for (_, facts, _), (_, seen) in zip(history, told(history), strict=True):
        for rank in seen.ranks:
            if rank.pod is not None and rank.number in facts.readings:
                last[rank.number] = (rank.pod.uid, facts.readings[rank.number])
            if rank.unmoved:
                assert rank.pod is not None
                uid, reading = last[rank.number]
                assert (uid, reading.step) == (rank.pod.uid, 0)


@look
@given(HISTORY)
def test_the_same_looks_are_remembered_alike(history):
    assert repr(told(history)) == repr(told(history))


@look
@given(HISTORY)
def test_the_newest_verified_commit_is_replaced_by_an_older_one_only_if_it_does_not_verify_any_more(history):
    last = None
    for memory, _ in told(history):
        now = memory.verified.commit.order if memory.verified is not None else None
        assert now not in memory.refuted
        assert last is None or (now is not None and now >= last) or last in memory.refuted
        last = now
