"""What the restore tells the operator fits where the kubelet keeps it, and is what the operator can read."""

from __future__ import annotations

import pytest

from trainingrun_operator.agent import telling
from trainingrun_operator.api.restored import Restored
from trainingrun_operator.checkpoints.documents import Checkpoint, Commit, ManifestHead, PodRef, RunRef
from trainingrun_operator.checkpoints.download import Fetched
from trainingrun_operator.checkpoints.keys import Layout, Order

LAYOUT = Layout.of("s3://bucket/prefix", "ml", "bert", "uid")
RUN = RunRef(namespace="ml", name="bert", uid="uid")


def told(done: Fetched, *, folder: str = "step_100", step: int | None = 100, over: int = 0) -> tuple[str, Restored]:
    """What is said, and what the operator reads."""
    about = Checkpoint(dir=folder, step=step, complete=True, evidence="")
    commit = Commit(run=RUN, incarnation=1, generation=7, reason="save", checkpoint=about)
    prefix = LAYOUT.folder(0, commit.order, "bert-0")
    head = ManifestHead(
        run=RUN, pod=PodRef(name="bert-0", uid="x"), incarnation=1, generation=7, checkpoint=about, folder=prefix
    )
    passed_over = [telling.passed_over(Order(2, number), "\N{PILE OF POO}" * 300) for number in range(over)]
    text = telling.message(telling.downloaded(LAYOUT, "", commit, head, done), passed_over)
    return text, Restored.model_validate_json(text, by_alias=True, by_name=False)


def test_what_was_restored_is_told():
    _, restored = told(Fetched(10, ("a", "b"), {"base/model": "it points out of the checkpoint path: '/root'"}), over=1)
    assert (restored.commit, restored.dir, restored.step) == (LAYOUT.commit(Order(1, 7)), "step_100", 100)
    assert restored.uri == "s3://bucket/prefix/ml/bert/uid/r0/i1-g0007-bert-0/step_100/"
    assert (restored.kept, restored.left_out) == (2, ("base/model: it points out of the checkpoint path: '/root'",))
    assert [one.commit for one in restored.passed_over] == ["i2-g0000"]


@pytest.mark.parametrize(
    "letter", ["d", "ü", "\N{PILE OF POO}", '"'], ids=["ASCII", "two bytes", "four bytes", "escaped"]
)
def test_however_much_there_is_to_tell_it_fits_and_can_be_read(letter):
    left_out = {f"{letter * 250}-{number}": letter * 300 for number in range(100)}
    text, restored = told(Fetched(1, tuple("k" * 9), left_out), folder=letter * 1000, over=50)
    assert len(text.encode()) <= telling.MESSAGE_MAX_BYTES
    assert restored.commit == LAYOUT.commit(Order(1, 7))
    assert restored.passed_over, "what was passed over is left out last"


def test_a_step_that_the_status_cannot_hold_is_not_told():
    _, restored = told(Fetched(0), step=10**40)
    assert restored.step is None


def test_a_checkpoint_of_the_volume_is_told_without_a_commit():
    restored = Restored.model_validate_json(
        telling.message(telling.in_volume("step_300", 300, None), ()), by_alias=True
    )
    assert (restored.in_volume, restored.dir, restored.step, restored.commit) == (True, "step_300", 300, "")


def test_the_message_replaces_an_earlier_one_and_is_written_only_where_a_kubelet_reads_it(tmp_path):
    log = tmp_path / "termination-log"
    telling.say(log, "nobody reads this")
    assert not log.exists()
    log.write_text("an earlier message that is longer")
    telling.say(log, "{}")
    assert log.read_text() == "{}"
