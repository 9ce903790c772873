"""A run that ends because its values are not finite publishes its last checkpoint from before, on a real S3 server."""

from __future__ import annotations

import shutil
import signal
from functools import partial

import pytest
from integration.agent.checkpoints import hf_checkpoint, zipped
from integration.agent.pods import Store, wait_for
from integration.agent.test_restore_from import source

from trainingrun_operator.api.exchange import SaveRequest
from trainingrun_operator.api.spoiled import Spoiled

pytestmark = pytest.mark.s3

STATUS = "auto_non_finite"
AT_250 = Spoiled(step=250, finite_step=240)


@pytest.fixture
def other(server) -> Store:
    """The place of another run in the same bucket."""
    return Store(server)


def committed(store, step):
    return any(one.checkpoint.step == step for one in store.commits())


def trained(pod, store, *steps):
    """Write checkpoints one by one, as far as the bucket has each. Returns the files of each step."""
    written = {}
    for step in steps:
        written[step] = hf_checkpoint(pod.volume, step)
        wait_for(partial(committed, store, step))
    return written


def stopped(pod, store, spoiled=AT_250, **request):
    """Ask for the save of the stop, and return the commit that answers it."""
    save = SaveRequest(**{"id": "t1", "ended": False, "status": STATUS, "spoiled": spoiled, **request})
    pod.annotate(save=save)
    return wait_for(
        lambda: next(
            (
                one
                for one in store.commits()
                if (one.termination_id, one.attempt, one.final) == ("t1", save.attempt, save.ended)
            ),
            None,
        )
    )


def test_the_checkpoint_from_before_is_published_and_later_ones_stay_in_the_bucket(make_pod, store, other):
    pod = make_pod().start()
    written = trained(pod, store, 100, 200, 300)
    commit = stopped(pod, store)
    assert (commit.checkpoint.dir, commit.checkpoint.step, commit.checkpoint.finite) == ("checkpoint-200", 200, True)
    assert store.content(commit) == written[200]
    # The training goes on until its pod is deleted.
    hf_checkpoint(pod.volume, 400)
    pod.signal(signal.SIGTERM)
    assert pod.wait() == 0
    last = store.commits()[-1]
    assert (last.checkpoint.dir, last.checkpoint.finite, last.final, last.status) == (
        "checkpoint-200",
        True,
        True,
        STATUS,
    )
    assert store.content(last) == written[200], "A restore brings no later one back."
    assert {one.checkpoint.step for one in store.commits()} == {100, 200, 300, 400}, "What was written later is kept."

    fresh = make_pod("new-0", folder="fresh", store=other, restore_from=source(store))
    assert fresh.restore() == 0
    assert fresh.resume_from() == str(fresh.volume / "checkpoint-200")
    assert [path.name for path in fresh.volume.iterdir()] == ["checkpoint-200"]
    assert fresh.restored().step == 200

    again = make_pod("llm-1", folder="node")
    assert again.restore() == 0
    assert again.resume_from() == str(again.volume / "checkpoint-200"), "Later ones are on the volume, too."


def test_a_checkpoint_that_the_training_has_removed_is_published_from_the_bucket(make_pod, store):
    pod = make_pod().start()
    written = trained(pod, store, 100, 200)
    shutil.rmtree(pod.volume / "checkpoint-100")
    trained(pod, store, 300)
    shutil.rmtree(pod.volume / "checkpoint-200")
    commit = stopped(pod, store)
    assert (commit.checkpoint.dir, commit.checkpoint.finite) == ("checkpoint-200", True)
    assert store.content(commit) == written[200]
    final = stopped(pod, store, attempt=1, ended=True)
    assert (final.checkpoint.dir, final.checkpoint.finite) == ("checkpoint-200", True)
    assert store.content(final) == written[200]


def test_one_file_that_is_written_again_is_published_as_it_was_before(make_pod, store):
    pod = make_pod().start()
    first, later = zipped(), zipped()
    (pod.volume / "last.ckpt").write_bytes(first)
    wait_for(lambda: len(store.commits()) == 1)
    report = pod.reports(lambda report: report.newest)
    spoiled = Spoiled(step=250, written_us=report.newest.written_us)
    (pod.volume / "last.ckpt.new").write_bytes(later)
    (pod.volume / "last.ckpt.new").replace(pod.volume / "last.ckpt")
    wait_for(lambda: len(store.commits()) == 2)
    commit = stopped(pod, store, spoiled)
    assert commit.checkpoint.finite
    assert store.content(commit) == {"last.ckpt": first}


def test_without_a_checkpoint_from_before_the_newest_is_published_and_says_so(make_pod, store):
    pod = make_pod().start()
    written = trained(pod, store, 300, 400)
    commit = stopped(pod, store)
    assert (commit.checkpoint.dir, commit.checkpoint.finite) == ("checkpoint-400", False)
    assert store.content(commit) == written[400]


def test_the_ranks_agree_on_the_checkpoint_from_before(make_pod, store):
    pods = [make_pod(f"llm-{rank}", folder=f"node-{rank}", rank=rank, world_size=2).start() for rank in range(2)]
    for step in (100, 200, 300):
        for pod in pods:
            hf_checkpoint(pod.volume, step)
        wait_for(partial(committed, store, step), 60)
    save = SaveRequest(id="t1", ended=False, status=STATUS, spoiled=AT_250)
    for pod in pods:
        pod.annotate(save=save)
    commit = wait_for(lambda: next((one for one in store.commits() if one.termination_id == "t1"), None), 60)
    assert (commit.checkpoint.dir, commit.checkpoint.finite, len(commit.ranks)) == ("checkpoint-200", True, 2)
