"""A new run starts from the checkpoint of another one (`spec.checkpoint.restoreFrom`), on a real S3 server."""

from __future__ import annotations

import os
from functools import partial

import pytest
from integration.agent.pods import BUCKET, Store, wait_for
from integration.agent.proxy import Do
from integration.agent.test_restore import checkpoint, save, tree

from trainingrun_operator.agent import restore
from trainingrun_operator.agent.config import Paths, Task
from trainingrun_operator.api.exchange import RestoreSource
from trainingrun_operator.checkpoints.keys import Order

pytestmark = pytest.mark.s3


@pytest.fixture
def other(server) -> Store:
    """The place of another run in the same bucket."""
    return Store(server)


def source(other: Store, folder: str = "") -> RestoreSource:
    server = other.server
    return RestoreSource(
        destination=f"s3://{BUCKET}/prefix",
        namespace="team",
        run="llm",
        run_uid=other.uid,
        folder=folder,
        endpoint_url=server.endpoint_url,
        region=server.region,
    )


def _has(other: Store, number: int) -> bool:
    return len(other.commits()) == number


@pytest.fixture
def trained(make_pod, other):
    """The other run's pod, which has committed steps 100 and 200."""
    pod = make_pod("other-0", folder="other", store=other).start()
    for number, step in enumerate((100, 200), 1):
        checkpoint(pod.volume, step)
        wait_for(partial(_has, other, number))
    pod.kill()
    return pod


@pytest.mark.usefixtures("trained")
def test_commits_that_are_older_than_those_read_at_once_are_read_where_no_newer_one_will_do(
    make_pod, other, monkeypatch
):
    folder = other.commits()[0].ranks[0].key.replace(".manifest.json", "/")
    pod = make_pod(restore_from=source(other, folder))
    for name, value in pod.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(restore, "COMMITS_MAX", 1)
    task = Task.from_env()
    paths = Paths(pod.podinfo, pod.control, pod.control / "termination-log")
    assert restore.Restore(task, paths, restore.Place.own(task), restore.Place.other(task)).once()
    assert pod.resume_from() == str(pod.volume / "step_100")


def test_a_run_without_a_checkpoint_starts_from_the_furthest_one_of_another(make_pod, store, other, trained):
    pod = make_pod(restore_from=source(other))
    before = other.etags()
    assert pod.restore() == 0
    assert pod.resume_from() == str(pod.volume / "step_200")
    assert {path: one[0] for path, one in tree(pod.volume).items()} == {
        path: one[0] for path, one in tree(trained.volume).items() if path.startswith(b"step_200/")
    }
    restored = pod.restored()
    assert (restored.run, restored.step, restored.commit) == ("team/llm", 200, other.layout.commit(Order(1, 2)))
    assert restored.uri.startswith(other.layout.uri(other.layout.base))
    assert other.etags() == before, "the other run's objects stay as they were"
    assert store.keys() == []


@pytest.mark.usefixtures("trained")
def test_its_own_checkpoints_win_once_it_has_some_although_they_have_reached_less(make_pod, store, other):
    first = make_pod(restore_from=source(other))
    assert first.restore() == 0
    first.start()
    first.reports(lambda report: report.incarnation == 1)
    checkpoint(first.volume, 10)
    wait_for(lambda: [one for one in store.commits() if one.checkpoint and one.checkpoint.step == 10])
    first.kill()
    second = make_pod("llm-1", folder="other-node", restore_from=source(other))
    assert second.restore() == 0
    assert second.resume_from() == str(second.volume / "step_10")
    assert second.restored().run == ""


@pytest.mark.usefixtures("trained")
def test_one_named_checkpoint_is_the_only_one_that_will_do(make_pod, other):
    commit = other.commits()[0]
    pod = make_pod(restore_from=source(other, other.manifest(commit).folder))
    assert pod.restore() == 0
    assert pod.resume_from() == str(pod.volume / "step_100")
    other.s3.delete_object(Bucket=BUCKET, Key=other.manifest(commit).files[0].key)
    again = make_pod("llm-1", folder="other-node", restore_from=source(other, other.manifest(commit).folder))
    assert again.restore() == 1
    assert "None of 1 checkpoints" in again.said()
    assert tree(again.volume) == {}


@pytest.mark.usefixtures("trained")
def test_a_corrupted_checkpoint_of_another_run_gives_way_to_the_one_before(make_pod, other):
    newest = other.commits()[-1]
    other.s3.delete_object(Bucket=BUCKET, Key=other.manifest(newest).files[0].key)
    pod = make_pod(restore_from=source(other))
    assert pod.restore() == 0
    assert pod.resume_from() == str(pod.volume / "step_100")
    assert [one.commit for one in pod.restored().passed_over] == ["i1-g0002"]


def test_a_run_that_should_start_from_another_does_not_start_from_the_beginning(make_pod, other):
    pod = make_pod(restore_from=source(other))
    assert pod.restore() == 1
    assert "Run team/llm has no complete checkpoint" in pod.said()


@pytest.mark.usefixtures("trained")
def test_an_unreadable_commit_of_its_own_is_no_reason_to_start_from_another(make_pod, store, other):
    store.s3.put_object(Bucket=BUCKET, Key=store.layout.commit(Order(1, 1)), Body=b"{")
    pod = make_pod(restore_from=source(other))
    assert pod.restore() == 1
    assert "No commit at" in pod.said()


def test_what_the_training_finds_is_older_than_its_pod_although_the_other_clock_was_ahead(make_pod, other):
    pod = make_pod("other-0", folder="other", store=other)
    folder = checkpoint(pod.volume, 100)
    ahead = pod.volume.stat().st_mtime_ns + 3600 * 10**9
    for path in folder.iterdir():
        os.utime(path, ns=(ahead, ahead))
    pod.start()
    save(pod, other, 1)
    fresh = make_pod(restore_from=source(other))
    assert fresh.restore() == 0
    assert all(path.stat().st_mtime_ns < ahead for path in (fresh.volume / "step_100").iterdir())


@pytest.mark.usefixtures("trained")
def test_what_an_older_run_left_in_the_volume_does_not_win_over_the_named_checkpoint(make_pod, other):
    pod = make_pod(restore_from=source(other))
    checkpoint(pod.volume, 5000)
    assert pod.restore() == 0
    assert pod.resume_from() == str(pod.volume / "step_200")
    assert (pod.volume / "step_5000/weights.dat").exists(), "and it stays"


@pytest.mark.usefixtures("trained")
def test_what_the_run_left_in_the_volume_itself_wins_also_before_its_first_commit(make_pod, store, other, proxy):
    proxy.rule = lambda request: Do.REFUSE if "/commits/" in request.path and request.method == "PUT" else Do.PASS
    first = make_pod(restore_from=source(other), endpoint=proxy.url)
    assert first.restore() == 0
    first.start()
    first.reports(lambda report: report.incarnation == 1)
    checkpoint(first.volume, 10)
    first.reports(lambda report: report.newest and report.newest.step == 10)
    first.kill()
    assert store.commits() == []
    second = make_pod("llm-1", restore_from=source(other))
    assert second.restore() == 0
    assert second.resume_from() == str(second.volume / "step_10")
    assert second.restored().in_volume
