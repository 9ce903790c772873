"""What a volume goes through while a training runs: rotation, rewrites, moved pointers, and files that are not checkpoints."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from integration.agent.checkpoints import MIB, hf_checkpoint, zipped
from integration.agent.pods import BUCKET, client, wait_for
from integration.agent.proxy import Do, Request

from trainingrun_operator.api.exchange import SaveRequest
from trainingrun_operator.checkpoints import bucket as buckets
from trainingrun_operator.checkpoints import copies
from trainingrun_operator.checkpoints.bucket import Bucket, crc64, encode

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.s3

ENDED = SaveRequest(id="t1", ended=True)


def committed(store, count=1, seconds=90):
    return wait_for(lambda: found if len(found := store.commits()) >= count else None, seconds)


def final(store, seconds=90):
    return wait_for(lambda: next((commit for commit in store.commits() if commit.final), None), seconds)


def write(root: Path, **files: bytes) -> dict[str, bytes]:
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return files


def strays(store) -> set[str]:
    """Objects of files that no manifest lists."""
    listed = {file.key for commit in store.commits() for file in store.manifest(commit).files}
    files = {key for key in store.keys("r0/") if not key.endswith((".manifest.json", ".json")) or "-llm-0/" in key}
    return files - listed


# -- rotation -----------------------------------------------------------------------------------------------------


def test_a_checkpoint_that_rotation_removes_while_it_is_sent_is_committed_whole(make_pod, store, proxy):
    pod = make_pod(endpoint=proxy.url)
    written: dict[int, dict[str, bytes]] = {100: hf_checkpoint(pod.volume, 100, 33 * MIB)}
    rotating = threading.Lock()

    def rotate(request: Request) -> Do:
        """Each save is removed by the next one as soon as its first byte is on its way."""
        with rotating:
            step = max(written)
            if request.method == "PUT" and f"/checkpoint-{step}/" in request.path and step < 300:
                written[step + 100] = hf_checkpoint(pod.volume, step + 100, 33 * MIB)
                shutil.rmtree(pod.volume / f"checkpoint-{step}")
        return Do.PASS

    proxy.rule = rotate
    pod.start()
    commits = committed(store, 3)
    assert [commit.checkpoint.step for commit in commits] == [100, 200, 300]
    assert [store.content(commit) for commit in commits] == [written[step] for step in (100, 200, 300)]
    report = pod.reports(lambda report: report.commit and report.commit.step == 300)
    assert (report.error, report.upload_failures) == (None, 0)
    assert not strays(store)


def test_a_checkpoint_that_was_removed_while_the_agent_was_down_spoils_no_generation(make_pod, store, proxy):
    pod = make_pod(endpoint=proxy.url)
    hf_checkpoint(pod.volume, 100)
    killed = threading.Event()

    def kill(request: Request) -> Do:
        if request.method == "PUT" and request.path.endswith(".manifest.json") and not killed.is_set():
            pod.signal(signal.SIGKILL)
            killed.set()
            return Do.REFUSE
        return Do.PASS

    proxy.rule = kill
    pod.start()
    assert killed.wait(60)
    pod.wait()
    shutil.rmtree(pod.volume / "checkpoint-100")
    files = hf_checkpoint(pod.volume, 200)
    pod.start()
    (commit,) = committed(store)
    assert (commit.generation, commit.checkpoint.step) == (2, 200)
    assert store.content(commit) == files
    report = pod.reports(lambda report: report.commit)
    assert (report.error, report.upload_failures) == (None, 0)
    assert "Conflict" not in pod.log.read_text()


# -- rewrites -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("renamed", [True, False], ids=["by rename", "in place"])
def test_a_file_that_is_rewritten_faster_than_the_quiet_time_is_committed_whole(make_pod, store, renamed):
    pod = make_pod(quiet_seconds=3.0)
    versions: set[bytes] = set()
    saved = threading.Event()

    def train() -> None:
        while not saved.wait(0.5):
            content = zipped(17 * MIB)
            versions.add(content)
            file = pod.volume / "weights" / ("last.pt.tmp" if renamed else "last.pt")
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(content)
            if renamed:
                file.replace(pod.volume / "weights/last.pt")

    training = threading.Thread(target=train)
    training.start()
    try:
        pod.start()
        commit = committed(store)[0]
    finally:
        saved.set()
        training.join()
    assert (commit.reason, commit.checkpoint.complete, commit.final) == ("checkpoint", True, False)
    assert store.content(commit)["weights/last.pt"] in versions
    assert {path.name for path in pod.volume.rglob("*")} == {"weights", "last.pt"}, "Nothing of the agent's is left."


def test_a_pointer_that_moves_after_its_checkpoint_is_shipped_again_and_the_checkpoint_is_not_sent_again(
    make_pod, store
):
    pod = make_pod()
    files = write(pod.volume, **{"model_0009999.pth": zipped(2 * MIB), "newest.txt": b"model_0004999.pth"})
    pod.start()
    (first,) = committed(store)
    assert store.content(first) == files
    files |= write(pod.volume, **{"newest.txt": b"model_0009999.pth"})
    _, second = committed(store, 2)
    assert store.content(second) == files
    assert second.checkpoint.identity == first.checkpoint.identity
    wait_for(lambda: f" {len(b'model_0009999.pth')} bytes sent and " in pod.log.read_text())
    write(pod.volume, **{"newest.txt": b"nothing of ours"})
    pod.annotate(save=ENDED)
    assert final(store).generation == 3, "A file that names no checkpoint brings no commit of its own."


# -- what is no checkpoint ----------------------------------------------------------------------------------------


def test_what_an_agent_may_not_read_beside_a_checkpoint_is_said_while_it_trains(make_pod, store):
    pod = make_pod()
    files = hf_checkpoint(pod.volume, 100)
    write(pod.volume, **{"core.123": os.urandom(2 * MIB), "lost+found/#12": b"found"})
    (pod.volume / "core.123").chmod(0)
    (pod.volume / "lost+found").chmod(0)
    pod.start(of_a_user=True)
    (first,) = committed(store)
    assert store.content(first) == files
    error = pod.reports(lambda report: report.error).error
    assert (error.code, error.message.split(":")[0]) == ("Unreadable", str(pod.volume / "core.123"))
    assert "spec.checkpoint.exclude" in error.message
    (pod.volume / "core.123").unlink()
    pod.annotate(save=ENDED)
    last = final(store)
    assert store.content(last) == files
    pod.reports(lambda report: report.commit and report.commit.final and report.error is None)
    (pod.volume / "lost+found").chmod(0o755)


def test_an_excluded_folder_that_cannot_be_read_holds_nothing(make_pod, store):
    pod = make_pod(exclude=("private/**",))
    files = hf_checkpoint(pod.volume, 100)
    write(pod.volume, **{"private/x": b"x"})
    (pod.volume / "private").chmod(0)
    pod.start(of_a_user=True)
    pod.annotate(save=ENDED)
    last = final(store)
    (pod.volume / "private").chmod(0o755)
    assert store.content(last) == files
    assert store.manifest(last).skipped == ()


def test_a_link_that_leads_out_is_named_and_keeps_no_commit_from_being_restored(make_pod, store):
    pod = make_pod()
    files = hf_checkpoint(pod.volume, 100)
    (pod.volume / "base").mkdir()
    (pod.volume / "base/model.safetensors").symlink_to("/etc/hostname")
    (pod.volume / "checkpoint-100/tokenizer.json").symlink_to("../../tokenizer.json")
    (pod.volume / "last").symlink_to("checkpoint-100")
    pod.start()
    committed(store)
    pod.annotate(save=ENDED)
    for commit in (store.commits()[0], final(store)):
        assert store.content(commit) == files
        skipped = {(one.path, one.regular) for one in store.manifest(commit).skipped}
        assert skipped == {("base/model.safetensors", False), ("checkpoint-100/tokenizer.json", False)}
    other = make_pod("llm-1", folder="other")
    assert other.restore() == 0
    assert other.resume_from() == str(other.volume / "checkpoint-100")
    assert (other.volume / "last").readlink().name == "checkpoint-100"
    assert not (other.volume / "base/model.safetensors").is_symlink()


def test_sparse_and_hard_linked_files_sockets_and_pipes(make_pod, store):
    pod = make_pod()
    files = hf_checkpoint(pod.volume, 100)
    with (pod.volume / "sparse.dat").open("wb") as sparse:
        sparse.seek(18 * MIB)
        sparse.write(b"end")
    write(pod.volume, **{"best.dat": os.urandom(2 * MIB)})
    os.link(pod.volume / "best.dat", pod.volume / "again.dat")
    os.mkfifo(pod.volume / "pipe")
    pod.annotate(save=ENDED)
    pod.start()
    last = final(store)
    best = (pod.volume / "best.dat").read_bytes()
    assert store.content(last) == files | {
        "sparse.dat": (pod.volume / "sparse.dat").read_bytes(),
        "best.dat": best,
        "again.dat": best,
    }
    assert [(one.path, one.regular) for one in store.manifest(last).skipped] == [("pipe", False)]
    sent = sum(map(len, files.values())) + 18 * MIB + 3 + len(best)
    wait_for(lambda: f" {sent} bytes sent and {len(best)} kept " in pod.log.read_text())


def test_many_small_files_travel_once_with_a_log_that_grows_beside_them(make_pod, store, proxy):
    pod = make_pod(endpoint=proxy.url)
    files = hf_checkpoint(pod.volume, 100)
    files |= write(pod.volume, **{f"checkpoint-100/shards/{n:04d}.bin": str(n).encode() for n in range(300)})
    log = pod.volume / "checkpoint-100/train.log"
    lines = threading.Lock()

    def grow(request: Request) -> Do:
        with lines, log.open("a") as file:
            file.write(f"{request.path}\n")
        return Do.PASS

    proxy.rule = grow
    pod.start()
    (commit, *_) = committed(store)
    manifest = store.manifest(commit)
    crcs = {file.path: file.crc64nvme for file in manifest.files if not file.path.endswith(".log")}
    assert crcs == {path: encode(crc64(content)) for path, content in files.items()}
    assert manifest.skipped == ()
    puts = [one.path for one in proxy.seen if one.method == "PUT" and "/shards/" in one.path]
    assert len(puts) == len(set(puts)) == 300, "None is sent twice."


@pytest.mark.timeout(420)
def test_five_thousand_small_files_travel_once_and_one_that_changes_meanwhile_is_saved_as_it_is_then(make_pod, store):
    pod = make_pod()
    files = hf_checkpoint(pod.volume, 100)
    files |= write(pod.volume, **{f"checkpoint-100/shards/{n:04d}.bin": b"%04d" % n * 1024 for n in range(5000)})
    pod.start()
    arrived = store.server.folder / BUCKET / store.layout.rank(0)
    wait_for(lambda: next(arrived.glob("i*-llm-0/checkpoint-100/shards/*.bin"), None), 90)
    changed = "checkpoint-100/shards/4999.bin"
    files |= write(pod.volume, **{changed: b"anew" * 1024})
    pod.annotate(save=ENDED)
    manifest = store.manifest(final(store, 300))
    assert {file.path: file.crc64nvme for file in manifest.files} == {
        path: encode(crc64(content)) for path, content in files.items()
    }
    assert manifest.skipped == ()
    pod.kill()
    arrived_at = re.findall(
        r" \| PUT \| /runs/(\S+/shards/\S+)", (store.server.folder.parent / "server.log").read_text()
    )
    twice = {key for key, count in Counter(arrived_at).items() if count > 1}
    assert len(arrived_at) > 4900, "The server tears some lines of its log."
    assert twice <= {key for key in arrived_at if key.endswith(changed)}
    sent = sum(int(count) for count in re.findall(r" (\d+) bytes sent and", pod.log.read_text()))
    assert sent <= sum(map(len, files.values())) + 4096, "Nor is another one sent under another key."


# -- restarts and the end of the pod ------------------------------------------------------------------------------


def test_what_is_written_after_the_release_is_saved_before_the_agent_leaves(make_pod, store):
    pod = make_pod().start()
    files = hf_checkpoint(pod.volume, 100)
    pod.annotate(save=ENDED)
    final(store)
    pod.reports(lambda report: report.working_on is None and report.commit)
    pod.annotate(released="true")
    files |= write(pod.volume, **{"metrics/summary.json": b"{}", "late.dat": os.urandom(2 * MIB)})
    pod.signal(signal.SIGTERM)
    assert pod.wait() == 0
    _, last = store.commits()
    assert (last.final, last.termination_id, last.reason) == (True, "t1", "sigterm")
    assert store.content(last) == files


@pytest.mark.parametrize("restarted", [False, True])
def test_without_anything_new_after_the_release_nothing_is_written(make_pod, store, proxy, restarted):
    pod = make_pod(endpoint=proxy.url).start()
    hf_checkpoint(pod.volume, 100)
    pod.annotate(save=ENDED)
    final(store)
    pod.reports(lambda report: report.working_on is None and report.commit)
    pod.annotate(released="true")
    if restarted:
        pod.kill()
        pod.start()
    pod.reports(lambda report: report.commit)
    proxy.seen.clear()
    pod.signal(signal.SIGTERM)
    assert pod.wait() == 0
    assert not [one for one in proxy.seen if one.method != "GET"]
    assert len(store.commits()) == 1


def test_a_restarted_agent_still_owes_the_files_that_it_had_skipped(make_pod, store, proxy):
    pod = make_pod(endpoint=proxy.url)
    files = write(pod.volume, **{"step_1.dat": os.urandom(50)})
    beat = pod.volume / "heartbeat"
    lines = threading.Lock()
    still = threading.Event()

    def grow(request: Request) -> Do:
        """It grows at each request, and so during each try."""
        if not still.is_set():
            with lines, beat.open("a") as file:
                file.write(f"{request.path}\n")
        return Do.PASS

    beat.write_text("begun\n")
    proxy.rule = grow
    pod.annotate(save=ENDED)
    pod.start()
    first = final(store)
    assert [one.path for one in store.manifest(first).skipped] == ["heartbeat"]
    pod.kill()
    still.set()
    pod.start()
    _, last = committed(store, 2)
    assert (last.answer, last.final) == (first.answer, True)
    assert store.manifest(last).skipped == ()
    assert store.content(last) == files | {"heartbeat": beat.read_bytes()}


# -- copies inside the store ---------------------------------------------------------------------------------------


def test_an_object_over_the_limit_of_one_copy_is_copied_in_parts(server, store, monkeypatch):
    monkeypatch.setattr(buckets, "COPY_MAX_BYTES", MIB)
    monkeypatch.setattr(copies, "PART_BYTES", 5 * MIB)
    bucket = Bucket(client(server), BUCKET)
    content, base = os.urandom(12 * MIB), store.layout.base
    crc = encode(crc64(content))
    bucket.put(f"{base}one", content)
    counted: list[int] = []
    stored = bucket.copy(f"{base}one", f"{base}two", len(content), crc, counted.append)
    assert stored is not None
    assert (stored.size, stored.crc, stored.part_size) == (len(content), crc, 5 * MIB)
    assert store.read(f"{base}two") == content
    assert sum(counted) == len(content)
    assert bucket.uploads(base) == {}, "What a form of the request that the store refuses has begun is aborted."
    again = bucket.copy(f"{base}two", f"{base}three", len(content), crc)
    assert again is not None
    assert again.crc == crc
    assert store.read(f"{base}three") == content


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_a_file_over_the_stores_own_limit_of_one_copy_is_sent_once_and_copied_in_parts(make_pod, store):
    pod = make_pod()
    size, path = buckets.COPY_MAX_BYTES + MIB, "step_100/weights.dat"
    small = write(pod.volume, **{"step_100/notes.txt": b"first"})
    with (pod.volume / path).open("wb") as sparse:
        sparse.seek(size - 1)
        sparse.write(b"1")
    try:
        pod.start()
        (first, *_) = committed(store, 1, 400)
        small |= write(pod.volume, **{"step_100/notes.txt": b"second"})
        (_, second, *_) = committed(store, 2, 400)
        sent, copied = (
            next(file for file in store.manifest(commit).files if file.path == path) for commit in (first, second)
        )
        assert (sent.size, copied.size, copied.crc64nvme) == (size, size, sent.crc64nvme)
        assert sent.key != copied.key
        assert copied.part_size == copies.PART_BYTES
        assert store.s3.head_object(Bucket=BUCKET, Key=copied.key)["ContentLength"] == size
        wait_for(lambda: f" {len(b'second')} bytes sent and {size} kept " in pod.log.read_text())
    finally:
        pod.kill()
        (pod.volume / path).unlink()
        for key in store.keys("r0/"):
            store.s3.delete_object(Bucket=BUCKET, Key=key)


def test_a_copy_in_parts_with_other_bytes_than_expected_is_none(server, store, monkeypatch):
    monkeypatch.setattr(buckets, "COPY_MAX_BYTES", MIB)
    bucket = Bucket(client(server), BUCKET)
    content, base = os.urandom(6 * MIB), store.layout.base
    bucket.put(f"{base}one", content)
    counted: list[int] = []
    assert bucket.copy(f"{base}one", f"{base}two", len(content), encode(1), counted.append) is None
    assert bucket.copy(f"{base}none", f"{base}two", len(content), encode(1), counted.append) is None
    assert sum(counted) == 0
    assert bucket.uploads(base) == {}
