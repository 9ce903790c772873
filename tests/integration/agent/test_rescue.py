"""The agent of a rescue: it saves what a dead pod has left in a volume that it cannot write to, as a writer of its own."""

from __future__ import annotations

import os
import signal
import time
from datetime import UTC, datetime

import pytest
from integration.agent.checkpoints import hf_checkpoint
from integration.agent.pods import wait_for

from trainingrun_operator.api.exchange import SaveRequest

pytestmark = pytest.mark.s3

FIRST = SaveRequest(id="t1", attempt=2, ended=True, status="user_stop")


def stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def answer(store, request=FIRST):
    asked = (request.id, request.attempt)
    commits = lambda: (one for one in store.commits() if (one.termination_id, one.attempt) == asked)  # noqa: E731
    return wait_for(lambda: next(commits(), None))


@pytest.fixture
def rescued(make_pod):
    """A dead pod with a commit, and the rescue of its volume, not started yet."""
    dead = make_pod("llm-0").start()
    hf_checkpoint(dead.volume, 100)
    wait_for(dead.store.commits)
    dead.kill()
    pod = make_pod("llm-rescue-1", rescues=True, first_attempt=2, rescues_since=stamp(time.time() - 60))
    return dead, pod


def test_what_lies_there_is_committed_as_the_end_by_an_incarnation_of_its_own(rescued, store):
    dead, pod = rescued
    files = hf_checkpoint(dead.volume, 200)
    before = store.etags()
    pod.start().annotate(save=FIRST)
    commit = answer(store)
    assert (commit.final, commit.incarnation, commit.pod_uid) == (True, 2, f"{store.uid}-llm-rescue-1")
    assert (commit.checkpoint.dir, commit.status) == ("checkpoint-200", "user_stop")
    assert files.items() <= store.content(commit).items()
    assert before.items() <= store.etags().items(), "Nothing of the dead pod's is written over."
    pod.signal(signal.SIGTERM)
    assert pod.wait() == 0


@pytest.mark.usefixtures("rescued")
def test_what_the_dead_pod_had_saved_is_not_sent_again(store, proxy, make_pod):
    pod = make_pod("llm-rescue-1", endpoint=proxy.url, rescues=True, first_attempt=2)
    proxy.seen.clear()
    pod.start().annotate(save=FIRST)
    assert answer(store).checkpoint.dir == "checkpoint-100"
    sent = [one.path for one in proxy.seen if one.method in ("PUT", "POST") and "checkpoint-100/" in one.path]
    assert sent == []


def test_another_attempt_is_saved_afresh(rescued, store):
    _, pod = rescued
    pod.start().annotate(save=FIRST)
    first = answer(store)
    again = FIRST.model_copy(update={"attempt": 3})
    pod.annotate(save=again)
    second = answer(store, again)
    assert second.ranks[0].key != first.ranks[0].key
    assert store.content(second) == store.content(first)


def test_a_read_only_volume_stays_as_it_is(rescued, store):
    """The stop file of the dead pod's agent as well, which any other agent would remove."""
    dead, pod = rescued
    stop = dead.volume / "STOP_TRAINING"
    stop.write_text("trainingrun.dev/stop t0\n")
    os.utime(stop, (1, 1))
    for folder in (dead.volume, *(one for one in dead.volume.rglob("*") if one.is_dir())):
        folder.chmod(0o555)
    pod.start(of_a_user=True).annotate(save=FIRST)
    commit = answer(store)
    assert stop.exists()
    assert "STOP_TRAINING" not in store.content(commit)


@pytest.mark.parametrize(
    ("since", "newest"),
    [
        pytest.param(-60, "checkpoint-100", id="the dead pod began anew, with lower numbers"),
        pytest.param(None, "checkpoint-900", id="when it began is not known"),
    ],
)
def test_the_newest_checkpoint_is_that_of_the_dead_pod(make_pod, store, since, newest):
    began = None if since is None else stamp(time.time() + since)
    pod = make_pod("llm-rescue-1", rescues=True, **({"rescues_since": began} if began else {}))
    for number, age in ((900, 3600), (100, 30)):
        hf_checkpoint(pod.volume, number)
        for path in (pod.volume / f"checkpoint-{number}").rglob("*"):
            os.utime(path, (time.time() - age,) * 2)
    if since is None:
        # Files of one time: neither is of a later stage.
        for path in pod.volume.rglob("*"):
            os.utime(path, (time.time() - 30,) * 2)
    pod.start().annotate(save=FIRST)
    assert answer(store).checkpoint.dir == newest
