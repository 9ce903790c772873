"""From the bucket back into a volume."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from functools import partial
from typing import TYPE_CHECKING

import pytest
from integration.agent.checkpoints import zipped
from integration.agent.pods import BUCKET, wait_for
from integration.agent.proxy import Do

from trainingrun_operator.api.exchange import SaveRequest
from trainingrun_operator.checkpoints.documents import (
    Checkpoint,
    Commit,
    FileEntry,
    Manifest,
    PodRef,
    RankManifest,
    RunRef,
)
from trainingrun_operator.checkpoints.keys import Order, order_of_commit
from trainingrun_operator.checkpoints.s3 import Access
from trainingrun_operator.core.facts.bucket import Mismatch, Unreachable, Verified
from trainingrun_operator.edge.gather.store import Store as StoreReader

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.s3

MIB = 1 << 20
WEIRD = [b"with space.bin", "größe-模型.dat".encode(), b"not-utf8-\xff\xfe.dat", b"new\nline.dat", b"back\\udcff.dat"]


def tree(root: Path) -> dict[bytes, tuple[bytes, int, int]]:
    """Content, mode and time of every file by its path; the target of every link."""
    found = {}
    for path in root.rglob("*"):
        if path.is_dir():
            continue
        now = path.lstat()
        content = os.fsencode(path.readlink()) if path.is_symlink() else path.read_bytes()
        mode = 0 if path.is_symlink() else now.st_mode & 0o777
        found[os.fsencode(path.relative_to(root))] = (content, mode, now.st_mtime_ns)
    return found


def checkpoint(root: Path, step: int, size: int = 1000) -> Path:
    folder = root / f"step_{step}"
    folder.mkdir(parents=True)
    (folder / "weights.dat").write_bytes(os.urandom(size))
    (folder / "more.dat").write_bytes(os.urandom(10))
    return folder


def save(pod, store, count: int, attempt: int = 1) -> Commit:
    pod.annotate(save=SaveRequest(id="t1", attempt=attempt, ended=True))
    commits: list[Commit] = wait_for(lambda: store.commits()[count - 1 :])
    return commits[-1]


def test_a_restored_checkpoint_is_the_one_that_was_saved(make_pod, store):
    pod = make_pod(quiet_seconds=1000)
    folder = checkpoint(pod.volume, 100, 40 * MIB)
    for name in WEIRD:
        (folder / os.fsdecode(name)).write_bytes(os.urandom(100))
    (folder / ("n" * 240 + ".json")).write_text("{}")
    (folder / "empty").write_bytes(b"")
    (folder / "tool.sh").write_text("#!/bin/sh\n")
    (folder / "tool.sh").chmod(0o750)
    (folder / "link").symlink_to("weights.dat")
    pod.start()
    save(pod, store, 1)
    other = make_pod("llm-1", folder="other-node")
    assert other.restore() == 0
    assert tree(other.volume) == tree(pod.volume)
    assert other.resume_from() == str(other.volume / "step_100")
    other.start()
    report = other.reports(lambda report: report.incarnation == 2)
    assert report.unsaved_bytes == 0


def test_a_corrupted_generation_gives_way_to_the_one_before(make_pod, store):
    pod = make_pod().start()
    checkpoint(pod.volume, 100)
    wait_for(lambda: len(store.commits()) == 1)
    checkpoint(pod.volume, 200)
    newest = wait_for(lambda: len(commits := store.commits()) == 2 and commits[-1])
    key = next(file.key for file in store.manifest(newest).files if file.path.endswith("weights.dat"))
    store.s3.put_object(Bucket=BUCKET, Key=key, Body=os.urandom(1000))
    other = make_pod("llm-1", folder="other-node")
    assert other.restore() == 0
    assert other.resume_from() == str(other.volume / "step_100")
    assert sorted(path.name for path in other.volume.iterdir()) == ["step_100"]
    restored = other.restored()
    assert (restored.step, restored.dir, restored.commit) == (100, "step_100", store.layout.commit(Order(1, 1)))
    (passed_over,) = restored.passed_over
    assert passed_over.commit == "i1-g0002"
    assert "step_200/weights.dat" in passed_over.why


def test_an_attempt_that_trained_less_does_not_supersede(make_pod, store):
    first = make_pod("first", folder="node-1").start()
    checkpoint(first.volume, 500)
    save(first, store, 1)
    second = make_pod("second", folder="node-2").start()
    checkpoint(second.volume, 100)
    save(second, store, 2)
    third = make_pod("third", folder="node-3")
    assert third.restore() == 0
    assert third.resume_from() == str(third.volume / "step_500")


def test_an_attempt_that_counts_fewer_epochs_does_not_supersede(make_pod, store):
    for number, (name, epoch) in enumerate((("first", 12), ("second", 1)), 1):
        pod = make_pod(name, folder=f"node-{number}").start()
        (pod.volume / f"epoch_{epoch}.pth").write_bytes(zipped())
        save(pod, store, number)
    third = make_pod("third", folder="node-3")
    assert third.restore() == 0
    assert third.resume_from() == str(third.volume / "epoch_12.pth")


def test_what_an_earlier_run_had_left_in_the_volume_is_not_resumed_from(make_pod, store):
    pod = make_pod("first", folder="node-1")
    checkpoint(pod.volume, 2000)
    assert pod.restore() == 0
    pod.start()
    wait_for(lambda: len(store.commits()) == 1)
    checkpoint(pod.volume, 100)
    commits = wait_for(lambda: len(commits := store.commits()) == 2 and commits)
    assert [(one.checkpoint.step, one.checkpoint.inherited) for one in commits if one.checkpoint] == [
        (2000, True),
        (100, False),
    ]
    other = make_pod("second", folder="node-2")
    assert other.restore() == 0
    assert other.resume_from() == str(other.volume / "step_100")


def test_what_the_volume_holds_already_is_not_downloaded(make_pod, store, proxy):
    pod = make_pod()
    checkpoint(pod.volume, 100)
    pod.start()
    save(pod, store, 1)
    again = make_pod("llm-1", endpoint=proxy.url)
    assert again.restore() == 0
    assert again.resume_from() == str(again.volume / "step_100")
    assert not [request for request in proxy.seen if request.path.endswith(".dat")]
    checkpoint(again.volume, 300)
    assert again.restore() == 0
    assert again.resume_from() == str(again.volume / "step_300")


def test_without_any_commit_there_is_nothing_to_restore(make_pod):
    pod = make_pod()
    assert pod.restore() == 0
    assert not (pod.control / "resume_from").exists()


def test_a_store_that_is_away_is_waited_for(make_pod, store, proxy):
    pod = make_pod()
    checkpoint(pod.volume, 100)
    pod.start()
    save(pod, store, 1)
    refusals = []

    def rule(request):
        refusals.append(request)
        return Do.REFUSE if len(refusals) <= 8 else Do.PASS

    proxy.rule = rule
    other = make_pod("llm-1", folder="other-node", endpoint=proxy.url)
    assert other.restore() == 0
    assert "Unreachable" in other.log.read_text()
    assert (other.volume / "step_100/weights.dat").exists()


FORGED = Order(9, 1)


def commit_of(store, step: int) -> Commit | None:
    return next((one for one in store.commits() if one.checkpoint and one.checkpoint.step == step), None)


def forge(store, *files: FileEntry) -> None:
    """Write a commit by hand, as somebody else with the run's keys could."""
    order, run = FORGED, RunRef(namespace="team", name="llm", uid=store.uid)
    checkpoint = Checkpoint(dir="step_9", step=9, complete=True, evidence="says so")
    manifest = Manifest(
        run=run,
        pod=PodRef(name="x", uid="x"),
        incarnation=order.incarnation,
        generation=order.generation,
        checkpoint=checkpoint,
        folder=store.layout.folder(0, order, "x"),
        files=files,
        total_files=len(files),
        total_bytes=sum(file.size for file in files),
    )
    body = json.dumps(manifest.dump()).encode()
    key = store.layout.manifest(0, order, "x")
    ref = RankManifest(rank=0, incarnation=order.incarnation, key=key, sha256=hashlib.sha256(body).hexdigest())
    commit = Commit(
        run=run,
        incarnation=order.incarnation,
        generation=order.generation,
        reason="save",
        checkpoint=checkpoint,
        ranks=(ref,),
        total_files=manifest.total_files,
        total_bytes=manifest.total_bytes,
    )
    store.s3.put_object(Bucket=BUCKET, Key=key, Body=body)
    store.s3.put_object(Bucket=BUCKET, Key=store.layout.commit(order), Body=json.dumps(commit.dump()).encode())


def stored(store, path: str, body: bytes = b"evil", key: str = "") -> FileEntry:
    key = key or f"{store.layout.folder(0, FORGED, 'x')}step_9/file"
    done = store.s3.put_object(Bucket=BUCKET, Key=key, Body=body, ChecksumAlgorithm="CRC64NVME")
    return FileEntry(path=path, size=len(body), key=key, crc64nvme=done["ChecksumCRC64NVME"])


def prove(store) -> Verified | Mismatch | Unreachable:
    """Prove the newest commit as the operator does."""
    server = store.server
    access = Access(server.endpoint_url, server.region, server.access_key, server.secret_key)
    proof = StoreReader(threads=4, clients=1)
    try:
        _, key = max((order_of_commit(key) or Order(0, 0), key) for key in store.keys("commits/"))
        return asyncio.run(proof.verify(access, store.layout, key))
    finally:
        proof.close()


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "step_9/../../escaped", "step_9//file", f"step_9/{'n' * 256}"],
    ids=["an absolute path", "a climbing path", "an empty name", "a name that no file has"],
)
def test_a_file_that_leads_out_is_neither_proven_nor_restored(make_pod, store, path):
    forge(store, stored(store, path))
    pod = make_pod()
    assert pod.restore() == 1
    assert not (pod.control / "resume_from").exists()
    assert tree(pod.volume) == {}
    assert "does not stay below the checkpoint path" in pod.said()
    answer = prove(store)
    assert isinstance(answer, Mismatch)
    assert "does not stay below the checkpoint path" in answer.complaint


def test_a_key_of_another_run_is_neither_proven_nor_restored_nor_asked_for(make_pod, store, proxy):
    foreign = "prefix/team/another/uid/r0/i1-g0001-x/file"
    forge(store, stored(store, "step_9/file", key=foreign))
    pod = make_pod(endpoint=proxy.url)
    assert pod.restore() == 1
    assert not [request for request in proxy.seen if foreign in request.path]
    assert "outside this run's prefix" in pod.said()
    assert isinstance(prove(store), Mismatch)


@pytest.mark.parametrize("target", ["../../escaped", "/etc/passwd"], ids=["it climbs", "it is absolute"])
def test_a_checkpoint_of_a_link_that_leads_out_is_not_made(make_pod, store, target):
    forge(store, FileEntry(path="step_9/link", link_target=target))
    pod = make_pod()
    assert pod.restore() == 0
    assert not (pod.control / "resume_from").exists(), "there is nothing to resume from"
    assert tree(pod.volume) == {}
    (left_out,) = pod.restored().left_out
    assert left_out.startswith("step_9/link: it points out of the checkpoint path")


def test_links_into_a_cache_elsewhere_are_left_out_and_everything_else_is_restored(make_pod, store, tmp_path):
    """As huggingface_hub leaves them beside a checkpoint."""
    pod = make_pod(quiet_seconds=1000)
    folder = checkpoint(pod.volume, 100)
    cache = tmp_path / "cache" / "model.safetensors"
    cache.parent.mkdir()
    cache.write_bytes(b"base")
    (pod.volume / "base").mkdir()
    (pod.volume / "base/model.safetensors").symlink_to(cache)
    (folder / "tokenizer.json").symlink_to(cache)
    (pod.volume / "latest").symlink_to("step_100")
    (pod.volume / "latest-absolute").symlink_to(folder)
    pod.start()
    save(pod, store, 1)
    assert isinstance(prove(store), Verified)
    fresh = make_pod("llm-2", folder="other-node")
    assert fresh.restore() == 0
    assert fresh.resume_from() == str(fresh.volume / "step_100")
    assert fresh.restored().step == 100
    restored = tree(fresh.volume)
    assert restored.keys() == {b"step_100/weights.dat", b"step_100/more.dat"}
    assert (fresh.volume / "latest").readlink().name == "step_100"
    assert not (fresh.volume / "latest-absolute").is_symlink()
    assert {path: tree(pod.volume)[path] for path in restored} == restored
    (commit,) = store.commits()
    left_out = " ".join([*(one.path for one in store.manifest(commit).skipped), *fresh.restored().left_out])
    assert all(name in left_out for name in ("base/model.safetensors", "step_100/tokenizer.json", "latest-absolute"))


def test_of_checkpoints_that_cannot_be_restored_each_is_named_with_its_reason(make_pod, store):
    pod = make_pod().start()
    for step in (100, 200):
        checkpoint(pod.volume, step)
        commit = wait_for(partial(commit_of, store, step))
        key = next(file.key for file in store.manifest(commit).files if file.path.endswith("weights.dat"))
        store.s3.delete_object(Bucket=BUCKET, Key=key)
    other = make_pod("llm-1", folder="other-node")
    assert other.restore() == 1
    assert "None of 2 checkpoints" in other.said()
    assert "i1-g0001: " in other.said()
    assert "i1-g0002: " in other.said()
    assert "is not in the bucket" in other.said()
    assert tree(other.volume) == {}


def test_a_run_of_which_no_commit_can_be_read_does_not_start_from_the_beginning(make_pod, store):
    store.s3.put_object(Bucket=BUCKET, Key=store.layout.commit(Order(1, 1)), Body=b'{"schema": 99')
    pod = make_pod()
    assert pod.restore() == 1
    assert "No commit at" in pod.said()
    assert "i1-g0001: it does not parse" in pod.said()


def test_objects_that_are_no_commits_keep_no_run_from_starting(make_pod, store):
    for name in ("README.txt", "i1.json", "i01-g1.json", "x/i1-g0001.json"):
        store.s3.put_object(Bucket=BUCKET, Key=f"{store.layout.commits}{name}", Body=b"mine")
    assert make_pod().restore() == 0


# -- on a volume that outlives its pod ---------------------------------------------------------------------------


def age(folder: Path, seconds: int) -> None:
    for path in folder.rglob("*"):
        stamp = path.lstat().st_mtime_ns - seconds * 10**9
        os.utime(path, ns=(stamp, stamp), follow_symlinks=False)


def test_a_tree_without_steps_keeps_what_is_newer_and_whole(make_pod, store):
    """As a detector's trainer writes it: two files that are rewritten every epoch, and a table that grows."""
    pod = make_pod()
    weights = pod.volume / "weights"
    weights.mkdir()
    table = pod.volume / "results.csv"
    for name in ("last.pt", "best.pt"):
        (weights / name).write_bytes(zipped(1000))
    table.write_text("epoch,loss\n40,0.1\n")
    (pod.volume / "args.yaml").write_text("lr: 1\n")
    age(pod.volume, 100)
    pod.start()
    save(pod, store, 1)
    pod.kill()
    saved = {path: content for path, (content, _, _) in tree(pod.volume).items()}
    later = zipped(900)
    (weights / "last.pt").write_bytes(later)
    (weights / "best.pt").write_bytes(zipped(900)[:500])
    with table.open("a") as file:
        file.write("41,0.09\n")
    (pod.volume / "args.yaml").unlink()
    after = make_pod("llm-1")
    assert after.restore() == 0
    found = {path: content for path, (content, _, _) in tree(after.volume).items()}
    assert found[b"weights/last.pt"] == later, "newer and whole: it stays"
    assert found[b"weights/best.pt"] == saved[b"weights/best.pt"], "it was cut: it gives way"
    assert found[b"results.csv"] == saved[b"results.csv"] + b"41,0.09\n"
    assert found[b"args.yaml"] == saved[b"args.yaml"], "it was gone: it is back"
    assert after.resume_from() == str(after.volume)
    assert after.restored().kept == 2


def test_a_pointer_and_a_link_follow_the_checkpoint_that_is_restored(make_pod, store):
    pod = make_pod(quiet_seconds=1000)
    checkpoint(pod.volume, 200)
    (pod.volume / "latest").write_text("step_200")
    (pod.volume / "newest").symlink_to("step_200")
    pod.start()
    save(pod, store, 1)
    other = make_pod("llm-1", folder="other-node")
    checkpoint(other.volume, 100)
    (other.volume / "latest").write_text("step_100")
    (other.volume / "newest").symlink_to("step_100")
    age(other.volume, 1000)
    assert other.restore() == 0
    assert other.resume_from() == str(other.volume / "step_200")
    assert (other.volume / "latest").read_text() == "step_200"
    assert (other.volume / "newest").readlink().name == "step_200"
    assert (other.volume / "step_100/weights.dat").exists()


@pytest.mark.parametrize("file_first", [True, False], ids=["a file where a folder was", "a folder where a file was"])
def test_another_kind_of_entry_in_the_way_is_kept_beside(make_pod, store, file_first):
    pod = make_pod(quiet_seconds=1000)
    checkpoint(pod.volume, 100)
    other = make_pod("llm-1", folder="other-node")
    old, new = (other.volume, pod.volume) if file_first else (pod.volume, other.volume)
    (old / "last.ckpt").write_bytes(b"one file")
    (new / "last.ckpt").mkdir()
    (new / "last.ckpt/shard.dat").write_bytes(b"one of many")
    age(other.volume, 1000)
    pod.start()
    save(pod, store, 1)
    before = tree(other.volume)
    assert other.restore() == 0
    after = tree(other.volume)
    assert {path: after[path] for path in tree(pod.volume)} == tree(pod.volume)
    assert {content for content, _, _ in before.values()} <= {content for content, _, _ in after.values()}
    again = make_pod("llm-2", folder="other-node").start()
    report = again.reports(lambda report: report.newest is not None)
    assert report.newest.dir == "step_100", "what was kept is no checkpoint"


def test_a_restore_that_was_killed_goes_on_and_leaves_nothing_behind(make_pod, store, proxy):
    pod = make_pod(quiet_seconds=1000)
    folder = checkpoint(pod.volume, 100)
    for number in range(40):
        (folder / f"shard-{number}.dat").write_bytes(os.urandom(1000))
    pod.start()
    save(pod, store, 1)
    other = make_pod("llm-1", folder="other-node", endpoint=proxy.url)
    proxy.rule = lambda request: Do.REFUSE if request.path.endswith("shard-7.dat") else Do.PASS
    restoring = other.start_restore()
    wait_for(lambda: proxy.count(lambda request: request.path.endswith(".dat")) > 20)
    restoring.kill()
    restoring.wait(timeout=20)
    assert not (other.volume / "step_100").exists(), "half a checkpoint is none"
    proxy.rule = lambda _: Do.PASS
    proxy.seen.clear()
    assert other.restore() == 0
    assert tree(other.volume) == tree(pod.volume)
    assert proxy.count(lambda request: request.path.endswith(".dat")) < 42, "what was there is not asked for again"


def test_what_a_killed_restore_has_left_is_gone_once_the_volume_is_further(make_pod, store, proxy):
    pod = make_pod(quiet_seconds=1000)
    checkpoint(pod.volume, 100)
    pod.start()
    save(pod, store, 1)
    other = make_pod("llm-1", folder="other-node", endpoint=proxy.url)
    proxy.rule = lambda request: Do.REFUSE if request.path.endswith("more.dat") else Do.PASS
    restoring = other.start_restore()
    wait_for(lambda: proxy.count(lambda request: request.path.endswith("weights.dat")))
    restoring.kill()
    restoring.wait(timeout=20)
    proxy.rule = lambda _: Do.PASS
    checkpoint(other.volume, 300)
    assert other.restore() == 0
    assert other.resume_from() == str(other.volume / "step_300")
    assert [path.name for path in other.volume.iterdir()] == ["step_300"]
    assert (other.restored().in_volume, other.restored().step) == (True, 300)
