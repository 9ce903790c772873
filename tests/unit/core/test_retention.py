"""Which checkpoints `keepLast` retires: never the last proven one, never what a restore would take, and nothing without proof."""

from __future__ import annotations

import pytest
from builders import commit_key, make_commit, make_observed, make_run, make_saved, make_status, make_stop, make_verified

from trainingrun_operator.api.status import CheckpointStatus, Phase
from trainingrun_operator.checkpoints.documents import Checkpoint, RankManifest
from trainingrun_operator.checkpoints.keys import Layout, Order
from trainingrun_operator.core import retention
from trainingrun_operator.core.retention import Kept

LAYOUT = Layout.of("s3://bucket/r7/a", "ml", "llama", "1f0c")
DAY = retention.YOUNGEST_SECONDS


def manifest(generation, rank=0, incarnation=1, pod="pod"):
    return LAYOUT.manifest(rank, Order(incarnation, generation), pod)


def kept(
    generation, *, complete=True, step=None, incarnation=1, manifests=None, ranks=1, inherited=False, result=False
):
    order = Order(incarnation, generation)
    named = [manifest(generation, rank, incarnation) for rank in range(ranks)]
    advance = (generation if step is None else step, -1)
    return Kept(LAYOUT.commit(order), order, complete, advance, frozenset(manifests or named), inherited, result)


def key(generation, incarnation=1):
    return LAYOUT.commit(Order(incarnation, generation))


def generations(found):
    return [one.order.generation for one in found]


FIVE = [kept(n) for n in range(1, 6)]


@pytest.mark.parametrize(
    ("commits", "proven", "keep_last", "wanted"),
    [
        pytest.param(FIVE, [key(5)], 2, [1, 2, 3], id="older than the newest two, oldest first"),
        pytest.param(FIVE[::-1], [key(5)], 1, [1, 2, 3, 4], id="in whatever order they are listed"),
        pytest.param(FIVE, [key(5)], 5, [], id="as many as are kept"),
        pytest.param(FIVE, [key(5)], 6, [], id="fewer than are kept"),
        pytest.param(FIVE, [key(3)], 1, [1, 2], id="none as new as the last proven one, though newer ones suffice"),
        pytest.param(FIVE, [key(1)], 1, [], id="the oldest is the last proven one"),
        pytest.param(FIVE, [], 1, [], id="nothing is proven"),
        pytest.param(FIVE, [key(9)], 1, [], id="the proven one is not in the bucket"),
        pytest.param([], [key(5)], 1, [], id="an empty bucket"),
        pytest.param(FIVE, [key(5), key(2)], 1, [1, 3, 4], id="an earlier proven one that the status still names"),
        pytest.param([*FIVE[:4], kept(5, complete=False)], [key(5)], 1, [], id="the last proven one is incomplete"),
        pytest.param([*FIVE, kept(6, complete=False)], [key(5)], 1, [1, 2, 3, 4], id="an incomplete one does not count"),
        pytest.param([kept(1), kept(2, complete=False), kept(3), kept(4)], [key(4)], 2, [1, 2], id="an incomplete one between goes with the older ones"),
        pytest.param([kept(1), kept(2, manifests=[manifest(1)]), kept(3)], [key(3)], 2, [1], id="two of the same manifests are one"),
        pytest.param([kept(1), kept(2, step=900), kept(3), kept(4)], [key(4)], 1, [1, 3], id="the furthest stays, though a later attempt saved less"),
        pytest.param([kept(1), kept(2, result=True), kept(3, step=900), kept(4), kept(5)], [key(5)], 1, [1, 3, 4], id="what a run that was no longer finite has published stays"),
        pytest.param([kept(1, step=9000, inherited=True), kept(2, step=900), kept(3), kept(4)], [key(4)], 1, [1, 3], id="the furthest of the run's own stays, though an earlier run had come further"),
        pytest.param([kept(n, step=-1) for n in (1, 2, 3)], [key(3)], 1, [1, 2], id="without steps the newest is the furthest"),
        pytest.param([kept(9), kept(1, incarnation=2, step=10), kept(2, incarnation=2, step=11)], [key(2, 2)], 1, [9, 1], id="an earlier incarnation is older, whatever its generation"),
    ],
)  # fmt: skip
def test_retired_once_they_are_old_enough(commits, proven, keep_last, wanted):
    assert generations(retention.older(commits, proven, keep_last)) == wanted


@pytest.mark.parametrize(
    ("ages", "wanted"),
    [
        pytest.param({key(1): DAY, key(2): DAY - 1}, [1], id="a day is the least"),
        pytest.param({key(2): DAY * 9}, [2], id="an age that is not known is none"),
        pytest.param({key(1): -5.0}, [], id="of the future"),
    ],
)
def test_nothing_younger_than_a_day_is_retired(ages, wanted):
    assert generations(retention.retired(FIVE[:2], ages)) == wanted


@pytest.mark.parametrize(
    ("commits", "manifests", "proven", "wanted"),
    [
        pytest.param([kept(5)], [manifest(3), manifest(1)], [key(5)], [manifest(1), manifest(3)], id="what no commit names, oldest first"),
        pytest.param([kept(3), kept(5)], [manifest(1), manifest(3)], [key(5)], [manifest(1)], id="not what a commit names"),
        pytest.param([kept(5)], [manifest(6)], [key(5)], [], id="not what a commit may still name"),
        pytest.param([kept(5, ranks=2)], [manifest(1, 0), manifest(1, 1), manifest(1, 2)], [key(5)], [manifest(1, 0), manifest(1, 1)], id="of every rank that the proven one has"),
        pytest.param([kept(5, manifests=[manifest(2)])], [manifest(1), manifest(3)], [key(5)], [manifest(1)], id="below the manifest, not the commit, that is proven"),
        pytest.param([kept(1, incarnation=2)], [manifest(9)], [key(1, 2)], [manifest(9)], id="of an earlier incarnation"),
        pytest.param([kept(5)], [manifest(1)], [], [], id="nothing is proven"),
        pytest.param([kept(5)], [manifest(1)], [key(4)], [], id="the proven one is gone"),
        pytest.param([kept(5)], [LAYOUT.claim(0, 1), f"{LAYOUT.base}r0/notes.json", manifest(1).replace("1f0c", "other")], [key(5)], [], id="not what is no manifest of the run"),
    ],
)  # fmt: skip
def test_manifests_that_nobody_needs(commits, manifests, proven, wanted):
    assert list(retention.orphans(LAYOUT, manifests, commits, proven)) == wanted


@pytest.mark.parametrize(
    ("fields", "complete", "advance"),
    [
        pytest.param({}, True, (1200, -1), id="a complete checkpoint with a step"),
        pytest.param({"checkpoint": None}, False, (-1, -1), id="an empty volume"),
        pytest.param({"total_files": 0}, False, (1200, -1), id="no file"),
        pytest.param({"checkpoint": Checkpoint(dir=".", epoch=3, complete=True, evidence="")}, True, (-1, 3), id="an epoch"),
        pytest.param({"checkpoint": Checkpoint(dir=".", complete=False, evidence="")}, False, (-1, -1), id="incomplete"),
    ],
)  # fmt: skip
def test_what_is_needed_of_a_commit(fields, complete, advance):
    ranks = (
        RankManifest(rank=0, incarnation=1, key="a", sha256=""),
        RankManifest(rank=1, incarnation=1, key="b", sha256=""),
    )
    found = Kept.of("key", make_commit(ranks=ranks, **fields))
    assert found == Kept("key", Order(1, 7), complete, advance, frozenset({"a", "b"}))


def test_what_an_earlier_run_had_left_in_the_volume_is_known_as_such():
    left = Checkpoint(dir=".", step=9000, complete=True, evidence="", inherited=True)
    assert Kept.of("key", make_commit(checkpoint=left)).inherited
    assert not Kept.of("key", make_commit()).inherited


def test_every_commit_that_counts_as_proven_is_known_the_last_first():
    shown = CheckpointStatus(commit=commit_key(1, 3))
    status = make_status(checkpoint=shown, termination=make_stop(Phase.DONE, saved=make_saved(commit=commit_key(1, 9))))
    seen = make_observed(run=make_run(status=status), verified=make_verified(generation=8))
    assert retention.proven_of(seen) == (commit_key(1, 9), commit_key(1, 8), commit_key(1, 3))
    running = make_observed(run=make_run(status=make_status(checkpoint=shown)), verified=make_verified(generation=3))
    assert retention.proven_of(running) == (commit_key(1, 3),)
    assert retention.proven_of(make_observed(run=make_run(status=make_status(checkpoint=None)), verified=None)) == ()
    unsaved = make_status(checkpoint=None, termination=make_stop(Phase.DONE, saved=None))
    assert retention.proven_of(make_observed(run=make_run(status=unsaved), verified=None)) == ()
