"""The last commit: whatever lies there once the training has ended, with the bytes that it has then, or words about why not."""

from __future__ import annotations

import mmap
import os
import shutil
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from integration.agent.checkpoints import MIB, hf_checkpoint
from integration.agent.pods import BUCKET, wait_for

from trainingrun_operator.api.exchange import SaveRequest
from trainingrun_operator.checkpoints.bucket import crc64, encode

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.s3

ENDED = SaveRequest(id="t1", ended=True)


def committed(store, count=1, seconds=60):
    return wait_for(lambda: found if len(found := store.commits()) >= count else None, seconds)


def final(store):
    return wait_for(lambda: next((commit for commit in store.commits() if commit.final), None))


@pytest.fixture
def memory() -> Iterator[Path]:
    """A volume in memory, as an emptyDir with ``medium: Memory`` is."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)


# -- memory-mapped files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["save", "sigterm"])
@pytest.mark.parametrize("size", [pytest.param(4 * 4096, id="in one piece"), pytest.param(33 * MIB, id="in parts")])
def test_a_mapped_file_that_changed_after_its_commit_is_saved_as_it_is_at_the_end(make_pod, store, memory, size, how):
    pod = make_pod()
    pod.volume = memory
    (memory / "still.dat").write_bytes(b"s" * 100)
    weights = memory / "weights.dat"
    weights.write_bytes(bytes(size))
    with weights.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[:] = bytes(size)  # the first write of a page moves the time, later ones do not
        pod.start()
        (first,) = committed(store)
        before = weights.stat()
        mapped[-5:] = b"later"
        mapped.flush()
    after = weights.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns), "Nothing but its bytes tells."
    assert store.content(first)["weights.dat"].endswith(bytes(5))
    if how == "save":
        pod.annotate(save=ENDED)
    else:
        pod.signal(signal.SIGTERM)
        assert pod.wait() == 0
    last = final(store)
    assert store.content(last) == {"weights.dat": weights.read_bytes(), "still.dat": b"s" * 100}
    entries = {file.path: file for file in store.manifest(last).files}
    assert entries["weights.dat"].crc64nvme == encode(crc64(weights.read_bytes()))


def test_what_has_not_changed_is_read_again_but_not_sent_again(make_pod, store, proxy):
    pod = make_pod(endpoint=proxy.url).start()
    files = hf_checkpoint(pod.volume, 100)
    committed(store)
    proxy.seen.clear()
    pod.annotate(save=ENDED)
    assert store.content(final(store)) == files
    written = [one.path.rsplit("/", 1)[-1] for one in proxy.seen if one.method in ("PUT", "POST")]
    assert written == ["i1-g0002.json"], "Only the commit, which names the manifest again."


def test_a_changed_file_among_many_is_the_only_one_sent_again(make_pod, store, memory, proxy):
    pod = make_pod(endpoint=proxy.url)
    pod.volume = memory
    for number in range(5):
        (memory / f"{number}.dat").write_bytes(bytes(4096))
    with (memory / "3.dat").open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[:] = bytes(4096)
        pod.start()
        committed(store)
        mapped[:3] = b"new"
    pod.annotate(save=ENDED)
    last = final(store)
    assert store.content(last) == {f"{n}.dat": (b"new" + bytes(4093) if n == 3 else bytes(4096)) for n in range(5)}
    log = pod.log.read_text()
    assert "1 files have changed, though not their size and time, such as 3.dat." in log
    assert "4096 bytes sent and 16384 kept" in log


# -- temporary names ----------------------------------------------------------------------------------------------


def write(volume: Path, *paths: str) -> dict[str, bytes]:
    files = {path: os.urandom(50) for path in paths}
    for path, content in files.items():
        (volume / path).parent.mkdir(parents=True, exist_ok=True)
        (volume / path).write_bytes(content)
    return files


def test_what_lies_under_temporary_names_is_saved_once_the_training_has_ended(make_pod, store):
    pod = make_pod().start()
    whole = write(pod.volume, "model.dat")
    half = write(pod.volume, "ema.partial", "tmp-lora/adapter.dat", ".tmp-step_2/w.pt", "step_3.tmp")
    (first,) = committed(store)
    assert store.content(first) == whole
    report = pod.reports(lambda report: report.temporary_files)
    assert (report.files, report.temporary_files, report.temporary_bytes) == (1, 4, 200)
    pod.annotate(save=ENDED)
    last = final(store)
    assert store.content(last) == whole | half
    assert (last.checkpoint.dir, last.checkpoint.complete, last.total_files) == (".", True, 5)
    assert (
        "4 files under temporary names (.tmp-step_2, ema.partial, step_3.tmp) were left unfinished"
        in last.checkpoint.evidence
    )
    # A pod that resumes gets what is finished, and nothing that a writer would stumble over.
    next_pod = make_pod("next", folder="other")
    assert next_pod.restore() == 0
    found = {str(path.relative_to(next_pod.volume)) for path in next_pod.volume.rglob("*") if path.is_file()}
    assert found == {"model.dat"}
    assert next_pod.resume_from() == str(next_pod.volume)


def test_temporary_names_alone_are_saved_as_unfinished_and_never_resumed_from(make_pod, store):
    pod = make_pod().start()
    half = write(pod.volume, "tmp-sweep-3/a", "tmp-sweep-3/b")
    pod.reports(lambda report: report.temporary_files == 2 and report.files == 0 and report.newest is None)
    pod.annotate(save=ENDED)
    last = final(store)
    assert store.content(last) == half
    assert (last.checkpoint.dir, last.checkpoint.step, last.checkpoint.complete) == (".", None, False)
    assert last.total_files == 2
    next_pod = make_pod("next", folder="other")
    assert next_pod.restore() == 0
    assert not list(next_pod.volume.iterdir())
    assert not (next_pod.control / "resume_from").exists()


def test_a_final_commit_is_asked_for_twice_and_temporary_names_are_sent_once(make_pod, store):
    pod = make_pod().start()
    half = write(pod.volume, "tmp-1/a")
    pod.annotate(save=ENDED)
    final(store)
    pod.annotate(save=SaveRequest(id="t2", ended=True))
    again = wait_for(lambda: next((one for one in store.commits() if one.termination_id == "t2"), None))
    assert store.content(again) == half
    assert "0 bytes sent and 50 kept" in pod.log.read_text()


# -- what cannot be read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["secret.dat", "tmp-1/secret.dat", "step_1/secret.dat"])
def test_a_file_that_cannot_be_read_is_reported_and_not_committed_around(make_pod, store, proxy, path):
    pod = make_pod(endpoint=proxy.url)
    files = write(pod.volume, "a.dat", path)
    (pod.volume / path).chmod(0)
    pod.start(of_a_user=True)
    pod.annotate(save=ENDED)
    report = pod.reports(lambda report: report.error and report.upload_failures > 2)
    assert report.error.code == "Unreadable"
    assert report.error.message.startswith(f"{pod.volume}/{path}: Permission denied; ")
    assert "spec.checkpoint.exclude" in report.error.message
    assert not store.commits()
    sent = proxy.count(lambda one: one.method == "PUT")
    time.sleep(1.5)
    assert proxy.count(lambda one: one.method == "PUT") == sent, "It is tried again without another upload."
    there = store.keys("r0/")
    assert any(key.endswith("/a.dat") for key in there), "What can be read is in the bucket by now."
    (pod.volume / path).chmod(0o644)
    last = final(store)
    assert store.content(last) == files
    assert store.manifest(last).skipped == ()
    assert pod.reports(lambda report: report.commit and report.error is None)


def test_a_temporary_folder_that_cannot_be_read_counts_like_a_file_once_the_training_has_ended(make_pod, store):
    pod = make_pod()
    files = write(pod.volume, "step_1.dat", "tmp-1/x")
    (pod.volume / "tmp-1").chmod(0)
    pod.start(of_a_user=True)
    committed(store)
    assert pod.report().error is None, "It may be finished, or removed."
    pod.annotate(save=ENDED)
    report = pod.reports(lambda report: report.error)
    assert report.error.code == "Unreadable"
    assert report.error.message.startswith(f"{pod.volume / 'tmp-1'}: Permission denied; ")
    (pod.volume / "tmp-1").chmod(0o755)
    assert store.content(final(store)) == files


@pytest.mark.parametrize(("path", "skipped"), [("secret.dat", "secret.dat"), ("tmp-1/x", "tmp-1")])
def test_on_sigterm_what_can_be_read_is_saved_and_the_rest_is_said(make_pod, store, path, skipped):
    pod = make_pod()
    files = write(pod.volume, "a.dat", path)
    (pod.volume / skipped).chmod(0)
    pod.start(of_a_user=True)
    pod.reports(lambda report: report.incarnation)
    pod.signal(signal.SIGTERM)
    assert pod.wait() == 0
    last = final(store)
    assert store.content(last) == {"a.dat": files["a.dat"]}
    (one,) = store.manifest(last).skipped
    assert (one.path, one.regular) == (skipped, True)
    assert "Permission denied" in one.reason
    (pod.volume / skipped).chmod(0o755)


# -- what changes although the training has ended -----------------------------------------------------------------


def test_a_file_that_keeps_changing_is_skipped_with_words_and_saved_once_it_is_quiet(make_pod, store, proxy):
    pod = make_pod(endpoint=proxy.url)
    files = write(pod.volume, "step_1.dat")
    beat = pod.volume / "heartbeat"
    proxy.delay = lambda one: 0.3 if one.method == "PUT" and "step_1" in one.path else 0.0
    quiet = threading.Event()

    def beats() -> None:
        while not quiet.wait(0.02):
            beat.write_text(str(time.monotonic()))

    sidecar = threading.Thread(target=beats)
    sidecar.start()
    try:
        pod.annotate(save=ENDED)
        pod.start()
        first = final(store)
        (skipped,) = store.manifest(first).skipped
        assert (skipped.path, skipped.regular) == ("heartbeat", True)
        time.sleep(1.5)
        assert len(store.commits()) == 1, "As long as it changes, nothing is sent again."
    finally:
        quiet.set()
        sidecar.join()
    _, last = committed(store, 2)
    assert (last.final, last.answer) == (True, first.answer), "The same request is answered again."
    assert store.manifest(last).skipped == ()
    assert store.content(last) == files | {"heartbeat": beat.read_bytes()}
    time.sleep(1)
    assert len(store.commits()) == 2


# -- a store without checksums ------------------------------------------------------------------------------------


def without_checksums(_, headers):
    return [(name, value) for name, value in headers if not name.lower().startswith("x-amz-checksum")]


def test_a_store_without_full_object_checksums_is_noticed_before_any_checkpoint(make_pod, store, proxy):
    proxy.headers = without_checksums
    pod = make_pod(endpoint=proxy.url).start()
    report = pod.reports(lambda report: report.error and report.upload_failures > 2)
    assert report.error.code == "NoChecksums"
    assert "use a store that keeps them" in report.error.message
    assert len(store.keys("r0/incarnations/")) == 1, "It does not claim again and again."
    hf_checkpoint(pod.volume, 100)
    time.sleep(1)
    there = store.keys("r0/")
    assert not any("checkpoint-100" in key for key in there), "Nothing is sent that cannot be proven."
    proxy.headers = lambda _, headers: headers
    committed(store)
    assert pod.reports(lambda report: report.commit and report.error is None).incarnation == 1


def test_a_store_that_loses_checksums_later_gets_no_commit(make_pod, store, proxy):
    pod = make_pod(endpoint=proxy.url).start()
    pod.reports(lambda report: report.incarnation)
    proxy.headers = without_checksums
    hf_checkpoint(pod.volume, 100)
    first = pod.reports(lambda report: report.error)
    assert first.error.code == "NoChecksums"
    sent = proxy.count(lambda one: one.method == "PUT")
    pod.reports(lambda report: report.upload_failures >= first.upload_failures + 3)
    assert proxy.count(lambda one: one.method == "PUT") == sent, (
        "It is asked whether that has changed; nothing is sent."
    )
    assert not store.commits()


def test_a_store_that_keeps_checksums_without_repeating_them_will_do(make_pod, store, proxy):
    proxy.headers = lambda one, headers: headers if one.method == "HEAD" else without_checksums(one, headers)
    pod = make_pod(endpoint=proxy.url).start()
    files = hf_checkpoint(pod.volume, 100, 20 * MIB)
    (commit,) = committed(store)
    assert store.content(commit) == files
    assert all(file.crc64nvme for file in store.manifest(commit).files)


def test_a_checksum_of_the_parts_is_none_of_the_object(make_pod, store, proxy):
    def of_parts(one, headers):
        return [
            (name, f"{value}-2" if name.lower() == "x-amz-checksum-crc64nvme" else value) for name, value in headers
        ]

    proxy.headers = of_parts
    pod = make_pod(endpoint=proxy.url).start()
    assert pod.reports(lambda report: report.error).error.code == "NoChecksums"
    assert store.s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{store.layout.base}commits/")["KeyCount"] == 0


def test_a_manifest_that_was_deleted_meanwhile_is_not_named_again(make_pod, store):
    """As the operator's retention deletes old ones; the bytes are still on the volume."""
    pod = make_pod().start()
    files = hf_checkpoint(pod.volume, 100)
    first = wait_for(lambda: next(iter(store.commits()), None), 100)
    for key in store.keys("r0/i1-"):
        store.s3.delete_object(Bucket=store.layout.bucket, Key=key)
    pod.annotate(save=SaveRequest(id="stop-1", ended=True))
    last = wait_for(lambda: next((one for one in store.commits() if one.final), None), 100)
    assert last.ranks != first.ranks
    assert store.content(last) == files
