"""Checkpoint paths that cannot be read or written: agent and restore say what is wrong, and nothing is taken for empty."""

from __future__ import annotations

import pytest
import read_only
from integration.agent.checkpoints import hf_checkpoint
from integration.agent.pods import wait_for

from trainingrun_operator.api.exchange import SaveRequest, StopRequest

pytestmark = pytest.mark.s3

ENDED = SaveRequest(id="t1", ended=True)


def a_file(path):
    path.rmdir()
    path.write_text("weights")


def a_circle(path):
    path.rmdir()
    path.symlink_to(path.with_name("other"))
    path.with_name("other").symlink_to(path)


UNUSABLE = [
    pytest.param(a_file, "it is a file or below one: name a folder in spec.checkpoint.path", id="a file"),
    pytest.param(a_circle, "its symbolic links lead in a circle", id="links in a circle"),
]


@pytest.mark.parametrize(("spoil", "words"), UNUSABLE)
def test_a_path_that_is_no_folder_is_reported_and_never_committed_as_empty(make_pod, store, spoil, words):
    pod = make_pod()
    spoil(pod.volume)
    pod.start().annotate(save=ENDED)
    report = pod.reports(lambda report: report.error)
    assert report.error is not None
    assert report.error.code == "Unreadable"
    assert words in report.error.message
    assert str(pod.volume) in report.error.message
    assert (report.files, report.temporary_files) == (None, None), "Not known is not none."
    mended = pod.volume.with_name("mended")
    mended.mkdir()
    files = hf_checkpoint(mended, 100)
    pod.volume.unlink()
    # An empty folder would be committed as it is: the training has ended.
    mended.rename(pod.volume)
    commit = wait_for(lambda: next((one for one in store.commits() if one.final), None))
    assert store.commits() == [commit], "Until it could be read, nothing was committed."
    assert store.content(commit) == files


@pytest.mark.parametrize(("spoil", "words"), UNUSABLE)
def test_a_restore_into_a_path_that_is_no_folder_ends_with_words(make_pod, store, spoil, words):
    pod = make_pod().start()
    hf_checkpoint(pod.volume, 100)
    wait_for(store.commits)
    pod.kill()
    other = make_pod("llm-1", folder="another")
    spoil(other.volume)
    assert other.restore() == 1
    assert other.said().startswith("Cannot write ")
    assert words in other.said()


@pytest.fixture
def read_only_pod(make_pod, tmp_path):
    """A pod whose empty volume is mounted read-only, by itself or by the container's runtime."""
    pod = make_pod("llm-1", folder="another")
    if read_only.can_be_mounted(tmp_path):
        pod.read_only = True
    else:
        pod.volume = read_only.of_the_runtime()
    return pod


def test_a_read_only_mount_is_reported_while_nothing_lies_in_it(read_only_pod, store):
    error = read_only_pod.start().reports(lambda report: report.error).error
    assert (error.code, error.message) == (
        "ReadOnly",
        f"{read_only_pod.volume}: its file system is read-only: mount the volume for writing",
    )
    read_only_pod.annotate(stop=StopRequest(id="t1"))
    wait_for((read_only_pod.control / "STOP_TRAINING").exists)
    assert not (read_only_pod.volume / "STOP_TRAINING").exists(), "It cannot be written there, and that ends nothing."
    assert store.commits() == []
    assert read_only_pod.report().error.code == "ReadOnly"


def test_a_restore_into_a_read_only_mount_ends_with_words(make_pod, store, read_only_pod):
    pod = make_pod().start()
    hf_checkpoint(pod.volume, 100)
    wait_for(store.commits)
    pod.kill()
    assert read_only_pod.restore() == 1
    assert read_only_pod.said().startswith(f"Cannot write {read_only_pod.volume}")
    assert "its file system is read-only: mount the volume for writing" in read_only_pod.said()


def test_links_in_a_circle_below_the_path_keep_nothing_from_being_saved_or_restored(make_pod, store):
    pod = make_pod()
    files = hf_checkpoint(pod.volume, 100)
    (pod.volume / "checkpoint-100" / "self").symlink_to("self")
    (pod.volume / "checkpoint-100" / "up").symlink_to("..")
    (pod.volume / "a").symlink_to("b")
    (pod.volume / "b").symlink_to("a")
    pod.start().annotate(save=ENDED)
    commit = wait_for(lambda: next((one for one in store.commits() if one.final), None))
    assert store.content(commit) == files
    manifest = store.manifest(commit)
    links = {file.path for file in manifest.files if file.link_target is not None}
    skipped = {one.path for one in manifest.skipped}
    assert links | skipped == {"checkpoint-100/self", "checkpoint-100/up", "a", "b"}
    assert not any(one.regular for one in manifest.skipped)
    pod.kill()
    other = make_pod("llm-1", folder="another")
    assert other.restore() == 0
    restored = {str(path.relative_to(other.volume)) for path in other.volume.rglob("*") if path.is_symlink()}
    assert restored == links
    assert (other.volume / "checkpoint-100" / "trainer_state.json").is_file()
