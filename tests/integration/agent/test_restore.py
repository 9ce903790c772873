"""From the bucket back into a volume."""

from __future__ import annotations

import hashlib
import json
import os
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


@pytest.mark.parametrize(
    ("path", "link", "foreign"),
    [
        ("/etc/passwd", None, False),
        ("step_9/../../escaped", None, False),
        ("step_9/link", "../../escaped", False),
        ("step_9/link", "/etc/passwd", False),
        ("step_9/file", None, True),
    ],
    ids=["an absolute path", "a climbing path", "a climbing link", "an absolute link", "a key of another run"],
)
def test_a_manifest_that_leads_out_is_refused(make_pod, store, path, link, foreign):
    base = store.layout.base
    key = "prefix/team/another/uid/r0/i1-g0001-x/file" if foreign else f"{base}r0/i9-g0001-x/step_9/file"
    done = store.s3.put_object(Bucket=BUCKET, Key=key, Body=b"evil", ChecksumAlgorithm="CRC64NVME")
    about = Checkpoint(dir="step_9", step=9, complete=True, evidence="says so")
    run = RunRef(namespace="team", name="llm", uid=store.uid)
    file = FileEntry(path=path, size=4, key="" if link else key, crc64nvme=done["ChecksumCRC64NVME"], link_target=link)
    manifest = Manifest(
        run=run,
        pod=PodRef(name="x", uid="x"),
        incarnation=9,
        generation=1,
        checkpoint=about,
        files=(file,),
        total_files=1,
    )
    body = json.dumps(manifest.dump()).encode()
    ref = RankManifest(
        rank=0, incarnation=9, key=f"{base}r0/i9-g0001-x.manifest.json", sha256=hashlib.sha256(body).hexdigest()
    )
    commit = Commit(run=run, incarnation=9, generation=1, reason="save", checkpoint=about, ranks=(ref,), total_files=1)
    store.s3.put_object(Bucket=BUCKET, Key=ref.key, Body=body)
    store.s3.put_object(Bucket=BUCKET, Key=f"{base}commits/i9-g0001.json", Body=json.dumps(commit.dump()).encode())
    pod = make_pod()
    assert pod.restore() == 1
    assert not (pod.control / "resume_from").exists()
    assert not [one for one in pod.folder.rglob("*") if one.is_symlink() or one.name in {"escaped", "file", "link"}]
