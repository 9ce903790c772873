"""Which checkpoint every rank holds, and what its commit answers."""

from __future__ import annotations

import pytest

from trainingrun_operator.agent.ranks import Held, Written, agreement, disagreement, lagging, same
from trainingrun_operator.checkpoints.documents import Answer, Checkpoint, RankManifest
from trainingrun_operator.checkpoints.keys import Order

PLAIN = Answer()
ASKED = Answer("t1", 1)
FINAL = Answer("t1", 1, final=True)
AGAIN = Answer("t1", 2, final=True)
EVICTED = Answer(None, 0, final=True)


def held(rank: int, about: int | str | None, answer: Answer = PLAIN, *, generation: int = 1, **fields) -> Held:
    """A manifest about a step, about files without a number (a text), or about nothing."""
    checkpoint = None
    if about is not None:
        step = about if isinstance(about, int) else None
        name = f"step_{about}" if step else str(about)
        checkpoint = Checkpoint(**{"dir": name, "step": step, "complete": True, "evidence": f"of {rank}", **fields})
    key = f"r{rank}/i1-g{generation:04d}-pod"
    return Held(
        ref=RankManifest(rank=rank, incarnation=1, key=f"{key}.manifest.json", sha256="0"),
        order=Order(1, generation),
        checkpoint=checkpoint,
        answer=answer,
        reason="save" if answer.id else "checkpoint",
        folder=f"{key}/",
        files=1,
        bytes=10,
    )


@pytest.mark.parametrize(
    ("one", "other", "are"),
    [
        pytest.param(held(0, 100), held(1, 100), True, id="the same directory and step"),
        pytest.param(held(0, 100), held(1, 100, FINAL), True, id="whatever they answer"),
        pytest.param(held(0, 100), held(1, 200), False, id="another step"),
        pytest.param(held(0, 100), held(1, 100, dir="other"), False, id="another directory"),
        pytest.param(held(0, 100, epoch=1), held(1, 100, epoch=2), False, id="another epoch"),
        pytest.param(held(0, "e", epoch=1), held(1, "e", epoch=1), True, id="an epoch alone"),
        pytest.param(held(0, 100), held(1, 100, complete=False), False, id="one is unfinished"),
        pytest.param(held(0, "."), held(1, "."), False, id="without a number nothing says that it is one moment"),
        pytest.param(held(0, ".", ASKED), held(1, ".", ASKED), False, id="also not in answer to one request"),
        pytest.param(held(0, ".", FINAL), held(1, ".", FINAL), True, id="but as both ranks' last word"),
        pytest.param(held(0, ".", FINAL), held(1, ".", AGAIN), False, id="to the same request"),
        pytest.param(held(0, None, EVICTED), held(1, None, EVICTED), True, id="nothing at the end"),
        pytest.param(held(0, None), held(1, None), False, id="nothing before the end"),
        pytest.param(held(0, None, FINAL), held(1, 100, FINAL), False, id="nothing and something"),
    ],
)
def test_two_ranks_hold_the_same_checkpoint(one, other, are):
    assert same(one, other) is are
    assert same(other, one) is are


@pytest.mark.parametrize(
    ("own", "others", "written", "steps", "answer"),
    [
        pytest.param([held(0, 100)], [held(1, 100)], [], [100, 100], PLAIN, id="what both hold is committed"),
        pytest.param([held(0, 100)], [], [], None, None, id="not before the other has anything"),
        pytest.param([held(0, 100)], [held(1, 200)], [], None, None, id="nor while it holds something else"),
        pytest.param(
            [held(0, 300, generation=3), held(0, 200, generation=2), held(0, 100)],
            [held(1, 200, generation=2), held(1, 100)],
            [],
            [200, 200],
            PLAIN,
            id="the newest that both hold, of a rank that runs ahead",
        ),
        pytest.param(
            [held(0, 200, generation=2), held(0, 100)],
            [held(1, 100)],
            [Written(PLAIN, ("r0/i1-g0001-pod/", "r1/i1-g0001-pod/"))],
            None,
            None,
            id="once",
        ),
        pytest.param(
            [held(0, 100)],
            [held(1, 100, generation=2), held(1, 100)],
            [Written(PLAIN, ("r0/i1-g0001-pod/", "r1/i1-g0001-pod/"))],
            [100, 100],
            PLAIN,
            id="and again if one rank wrote it again",
        ),
        pytest.param([held(0, 100, FINAL)], [held(1, 100, FINAL)], [], [100, 100], FINAL, id="a request is answered"),
        pytest.param(
            [held(0, 100, FINAL)], [held(1, 100)], [], [100, 100], PLAIN, id="not before both have: but it is safe"
        ),
        pytest.param(
            [held(0, 100, AGAIN)], [held(1, 100, FINAL)], [], [100, 100], PLAIN, id="nor by an earlier attempt"
        ),
        pytest.param(
            [held(0, 100, FINAL)],
            [held(1, 100, FINAL)],
            [Written(PLAIN, ("r0/i1-g0001-pod/", "r1/i1-g0001-pod/"))],
            [100, 100],
            FINAL,
            id="also if those bytes are committed already",
        ),
        pytest.param(
            [held(0, 100, FINAL)],
            [held(1, 100, FINAL)],
            [Written(FINAL, ("r0/i1-g0001-pod/", "r1/i1-g0001-pod/"))],
            None,
            None,
            id="and that once",
        ),
        pytest.param([held(0, 200, FINAL)], [held(1, 100, FINAL)], [], None, None, id="different last words are none"),
        pytest.param(
            [held(0, 200, FINAL, complete=False)],
            [held(1, 200, complete=False)],
            [],
            None,
            None,
            id="an unfinished one is only committed as the last word",
        ),
        pytest.param([held(0, ".", FINAL)], [held(1, ".", FINAL)], [], [None, None], FINAL, id="files at the end"),
        pytest.param([held(0, None, FINAL)], [held(1, None, FINAL)], [], [], FINAL, id="nothing at the end"),
    ],
)
def test_what_is_committed(own, others, written, steps, answer):
    found = agreement(own, {1: others}, written)
    if steps is None:
        assert found is None
        return
    assert found is not None
    assert [one.checkpoint.step for one in found.ranks if one.checkpoint] == steps
    assert [one.ref.rank for one in found.ranks] == [0, 1]
    assert found.answer == answer
    assert agreement(own, {1: others}, [found.written, *written]) is None, "Then nothing is left to commit."


def test_every_rank_counts():
    others = {1: [held(1, 100)], 2: [held(2, 50)], 3: []}
    assert agreement([held(0, 100)], others, []) is None
    assert lagging(held(0, 100), others) == (2, 3)
    found = agreement([held(0, 100)], {1: [held(1, 100)], 2: [held(2, 100)]}, [])
    assert found is not None
    assert [one.ref.rank for one in found.ranks] == [0, 1, 2]


def test_a_rank_that_has_not_answered_lags():
    assert lagging(held(0, 100, FINAL), {1: [held(1, 100)]}) == (1,)
    assert lagging(held(0, 100), {1: [held(1, 100, FINAL)]}) == ()


@pytest.mark.parametrize(
    ("mine", "theirs", "sentence"),
    [
        pytest.param(held(0, 200, FINAL), held(1, 100, FINAL), "rank 1 ended with step_100, rank 0 with step_200", id="two checkpoints"),
        pytest.param(held(0, 200, FINAL, complete=False), held(1, None, FINAL), "rank 1 ended with no checkpoint, rank 0 with the unfinished step_200", id="nothing and half a one"),
        pytest.param(held(0, 200, FINAL), held(1, 100), "", id="one that has not spoken yet"),
        pytest.param(held(0, 200), held(1, 100), "", id="while both train"),
        pytest.param(held(0, 200, FINAL), held(1, 200, FINAL), "", id="the same"),
    ],
)  # fmt: skip
def test_last_words_that_differ(mine, theirs, sentence):
    assert disagreement(mine, {1: [theirs]}) == sentence
