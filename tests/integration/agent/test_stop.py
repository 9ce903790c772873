"""A stop whose proof fails: real controller, store and agent together. A new generation or Held, never a delete, and the bytes are equal in the end."""

from __future__ import annotations

import hashlib
import json

import pytest
from integration.agent.checkpoints import hf_checkpoint
from integration.agent.pods import BUCKET, wait_for
from integration.agent.proxy import Do, Strikes
from integration.agent.stopping import stopping

from trainingrun_operator.api.status import Phase
from trainingrun_operator.checkpoints.documents import RunRef
from trainingrun_operator.checkpoints.keys import Order
from trainingrun_operator.core.stop import failing

pytestmark = pytest.mark.s3

ATTEMPTS = 2
"""After so many, a stop is held here."""

FOREIGN = "prefix/team/llm/another-run/r0/i1-g0001-llm-0/model.safetensors"


def put(store, key, body):
    store.s3.put_object(Bucket=BUCKET, Key=key, Body=body, ChecksumAlgorithm="CRC64NVME")


def weights(store, commit):
    """Key of the largest object of a commit."""
    return max(store.manifest(commit).files, key=lambda file: file.size).key


def corrupt(store, commit):
    key = weights(store, commit)
    put(store, key, bytes(len(store.read(key))))


def lose(store, commit):
    store.s3.delete_object(Bucket=BUCKET, Key=weights(store, commit))


def swap_the_manifest(store, commit):
    """For that of the commit before, as it lies beside it."""
    before = store.commits()[0]
    assert before.order < commit.order
    put(store, commit.ranks[0].key, store.read(before.ranks[0].key).replace(b"checkpoint-100", b"checkpoint-200"))


def name_a_foreign_key(store, commit):
    """In a manifest that the commit names by its new digest: somebody who may write there wants to have it read."""
    entry = commit.ranks[0]
    body = store.read(entry.key).replace(weights(store, commit).encode(), FOREIGN.encode())
    key = store.layout.commit(commit.order)
    text = store.read(key).replace(entry.sha256.encode(), hashlib.sha256(body).hexdigest().encode())
    put(store, entry.key, body)
    put(store, key, text)


def lose_the_manifest(store, commit):
    store.s3.delete_object(Bucket=BUCKET, Key=commit.ranks[0].key)


def contradict_itself(store, commit):
    """So that the operator does not read whose answer it is."""
    body = commit.model_copy(update={"world_size": 2}).model_dump_json(by_alias=True)
    put(store, store.layout.commit(commit.order), body.encode())


HARM = {
    "a commit that cannot be understood": contradict_itself,
    "an object with other bytes": corrupt,
    "a missing object": lose,
    "a swapped manifest": swap_the_manifest,
    "a missing manifest": lose_the_manifest,
    "a key of another run": name_a_foreign_key,
}


def left_behind(pod):
    """Every file of the newest checkpoint in the volume."""
    return {str(file.relative_to(pod.volume)): file.read_bytes() for file in (pod.volume / "checkpoint-200").iterdir()}


@pytest.fixture
async def stop(make_pod, store, proxy):
    """An agent that has saved two checkpoints, and a training that has exited."""
    pod = make_pod(endpoint=proxy.url).start()
    hf_checkpoint(pod.volume, 100)
    wait_for(store.commits)
    hf_checkpoint(pod.volume, 200)
    wait_for(lambda: len(store.commits()) == 2)
    async with stopping(pod, store, proxy.url) as stop:
        yield stop
        await stop.look()
        assert stop.in_time, "Once it is proven, the pod goes."
        assert stop.too_early == [], "Nothing is deleted before the proof."
        assert proxy.count(lambda request: request.method == "DELETE") == 0, "Nothing in the bucket ever is."
        assert proxy.count(lambda request: "another-run" in request.path) == 0, "A foreign key is never asked for."


@pytest.mark.parametrize("harm", HARM.values(), ids=HARM)
async def test_a_commit_that_was_harmed_is_found_and_saved_again(stop, store, harm):
    files = left_behind(stop.pod)
    harm(store, await stop.committed(1))
    await stop.asks(2)
    assert "CheckpointMismatch" in stop.events
    proven = await stop.proven()
    assert (proven.attempt, proven.final) == (2, True)
    assert files.items() <= store.content(proven).items()


async def test_commits_that_are_always_harmed_are_held_until_the_bytes_are_right(stop, store, monkeypatch):
    monkeypatch.setattr(failing, "ATTEMPTS_MAX", ATTEMPTS)
    files = left_behind(stop.pod)
    right = {}
    for attempt in range(1, ATTEMPTS + 1):
        key = weights(store, await stop.committed(attempt))
        right[key] = store.read(key)
        put(store, key, bytes(len(right[key])))
    held = await stop.until(lambda stop: stop.phase is Phase.HELD, "it is held")
    assert "has other bytes in the bucket" in held.hold_reason
    for _ in range(5):
        await stop.look()
    assert stop.stop.phase is Phase.HELD
    assert stop.pod_path in stop.api.objects
    for key, body in right.items():
        put(store, key, body)
    proven = await stop.proven()
    assert files.items() <= store.content(proven).items()


@pytest.mark.parametrize("order", [Order(1, 3), Order(9, 1)], ids=["the agent's next", "above all of the agent's"])
async def test_a_commit_of_somebody_else_is_neither_taken_nor_written_over(stop, store, order):
    """It says that it answers this stop."""
    files = left_behind(stop.pod)
    mine = store.commits()[-1]
    assert mine.order == Order(1, 2)
    asked = await stop.asks(1)
    key = store.layout.commit(order)
    theirs = mine.model_copy(
        update={
            "run": RunRef(namespace="team", name="llm", uid="another-run"),
            "incarnation": order.incarnation,
            "generation": order.generation,
            "termination_id": asked.id,
            "attempt": 1,
            "final": True,
        }
    ).model_dump_json(by_alias=True)
    put(store, key, theirs.encode())
    proven = await stop.proven()
    assert (proven.run.uid, proven.final) == (store.uid, True)
    assert proven.order > mine.order
    assert files.items() <= store.content(proven).items()
    assert json.loads(store.read(key)) == json.loads(theirs)


async def test_a_commit_whose_answer_was_lost_is_found_and_proven(stop, store, proxy):
    files = left_behind(stop.pod)
    lost = Strikes(lambda request: request.method == "PUT" and "/commits/" in request.path, times=6)
    proxy.rule = lambda request: Do.LOSE_ANSWER if lost(request) else Do.PASS
    proven = await stop.proven()
    assert lost.requests
    assert proven.final
    assert files.items() <= store.content(proven).items()
    assert len({one.path for one in lost.requests}) == len([one for one in store.commits() if one.termination_id]), (
        "Written once."
    )
