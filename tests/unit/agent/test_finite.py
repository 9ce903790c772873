"""Which checkpoints are from before the first value that is not finite."""

from __future__ import annotations

import pytest
from objects import Door, Objects

from trainingrun_operator.agent.config import PodMemory, Task
from trainingrun_operator.agent.finite import is_before
from trainingrun_operator.agent.ledger import Ledger
from trainingrun_operator.api.exchange import AgentConfig
from trainingrun_operator.api.spoiled import Spoiled
from trainingrun_operator.checkpoints.documents import Checkpoint, FileEntry, Manifest, PodRef, RankManifest

AT = Spoiled(step=300, written_us=5_000)


@pytest.mark.parametrize(
    ("step", "epoch", "written_us", "spoiled", "before"),
    [
        pytest.param(200, None, 9_000, AT, True, id="by its step, whenever it was written"),
        pytest.param(300, None, 1, AT, False, id="of the very step"),
        pytest.param(301, None, 1, AT, False, id="of a later step"),
        pytest.param(None, None, 5_000, AT, True, id="without a step, by its time"),
        pytest.param(None, None, 5_001, AT, False, id="written after the reading"),
        pytest.param(None, 3, 5_000, AT, True, id="an epoch is no step"),
        pytest.param(None, 3, 5_001, AT, False, id="nor is a later one"),
        pytest.param(100, 3, 5_001, AT, False, id="a step that may be counted in its epoch: written later"),
        pytest.param(100, 3, 5_000, AT, True, id="and written before"),
        pytest.param(1200, 3, 5_000, AT, False, id="a later step beside an epoch"),
        pytest.param(100, 3, 9_000, Spoiled(step=300), True, id="the time is not known: by the step"),
        pytest.param(200, None, 5_000, Spoiled(written_us=5_000), True, id="the reading had no step: by the time"),
        pytest.param(200, None, 5_001, Spoiled(written_us=5_000), False, id="and later"),
        pytest.param(None, None, 1, Spoiled(step=300), False, id="neither is known of both"),
        pytest.param(200, None, 1, Spoiled(), False, id="nothing is known of the reading"),
        pytest.param(None, None, 1, Spoiled(written_us=0), False, id="there was none then"),
    ],
)  # fmt: skip
def test_by_the_step_where_both_have_one_else_by_the_time(step, epoch, written_us, spoiled, before):
    assert is_before(step, epoch, written_us, spoiled) is before


@pytest.fixture
def ledger(tmp_path):
    config = AgentConfig(namespace="ml", run="bert", run_uid="u", path=str(tmp_path), destination="s3://bucket/runs")
    made = Ledger(Door(Objects()), Task(config, PodRef(name="bert-0", uid="p")), PodMemory(tmp_path, "p"))
    made.open()
    return made


def learn(ledger, number, path="w", mtime_us=0, files=(), **checkpoint):
    """Let the ledger know a manifest, the newest so far."""
    about = Checkpoint(**{"dir": path, "file": True, "complete": True, "evidence": "all", **checkpoint})
    listed = (FileEntry(path=path, size=1, mtime_ns=mtime_us * 1000, key="k"), *files)
    manifest = Manifest(
        run=ledger._task.run, pod=ledger._task.pod, incarnation=1, generation=number, checkpoint=about, files=listed
    )
    ref = RankManifest(rank=0, incarnation=1, key=f"manifest-{number}", sha256=f"{number}")
    ledger._learn(ref, manifest, over=True)


def key_of(found):
    return None if found is None else found[0].key


def test_the_bucket_is_searched_for_the_furthest_one_from_before(ledger):
    for number, step in enumerate((100, 200, 250, 400), 1):
        learn(ledger, number, f"s{step}", step=step)
    assert key_of(ledger.finite(AT)) == "manifest-3"


def test_one_file_that_is_written_again_and_again_is_known_by_its_times(ledger):
    for number, at in enumerate((1_000, 4_000, 6_000), 1):
        beside = FileEntry(path="latest", size=1, mtime_ns=9_000_000, key="k")
        learn(ledger, number, "last.ckpt", mtime_us=at, files=(beside,))
    assert key_of(ledger.finite(AT)) == "manifest-2", "The file beside it says nothing about its age."


def test_what_is_not_whole_or_has_no_files_is_none_and_what_an_earlier_run_left_comes_last(ledger):
    learn(ledger, 1, "s290", step=290, inherited=True)
    learn(ledger, 2, "s100", step=100)
    learn(ledger, 3, "s200", step=200, complete=False)
    assert key_of(ledger.finite(AT)) == "manifest-2"
    assert key_of(ledger.finite(Spoiled(step=50))) is None


def test_of_the_same_checkpoint_the_newest_manifest_is_named(ledger):
    learn(ledger, 1, "s100", step=100)
    learn(ledger, 2, "s100", step=100)
    assert key_of(ledger.finite(AT)) == "manifest-2"


def test_without_any_commit_there_is_none(ledger):
    assert ledger.finite(AT) is None
