"""A document that an interrupted try has written stays; anything else under its key is a conflict."""

from __future__ import annotations

import json

import pytest
from objects import Door, Objects

from trainingrun_operator.agent.config import PodMemory, Task
from trainingrun_operator.agent.ledger import Ledger
from trainingrun_operator.api.exchange import AgentConfig
from trainingrun_operator.checkpoints.bucket import ConflictError
from trainingrun_operator.checkpoints.documents import Checkpoint, FileEntry, Manifest, PodRef
from trainingrun_operator.checkpoints.keys import Order


@pytest.fixture
def ledger(tmp_path):
    config = AgentConfig(namespace="ml", run="bert", run_uid="u", path=str(tmp_path), destination="s3://bucket/runs")
    task = Task(config, PodRef(name="bert-0", uid="p"))
    made = Ledger(Door(Objects()), task, PodMemory(tmp_path, "p"))
    made.open()
    return made


def manifest_of(ledger, path="w", written_at="2026-01-01T00:00:00Z", **fields):
    return Manifest(
        run=ledger._task.run,
        pod=ledger._task.pod,
        incarnation=1,
        generation=1,
        checkpoint=Checkpoint(dir=".", complete=True, evidence="all"),
        files=(FileEntry(path=path, size=1, key="k"),),
        total_files=1,
        written_at=written_at,
        **fields,
    )


def test_an_interrupted_try_of_another_time_is_the_same_manifest(ledger):
    first = ledger.put_manifest(manifest_of(ledger))
    again = ledger.put_manifest(manifest_of(ledger, written_at="2026-01-01T00:07:00Z"))
    assert again == first, "The bytes in the bucket are those that the commit names."


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"path": "other"}, id="another file"),
        pytest.param({"path": '"writtenAt":"2026"'}, id="a file whose name looks like the time"),
        pytest.param({"final": True}, id="another answer"),
        pytest.param({"agent_version": "2"}, id="another agent"),
    ],
)
def test_anything_else_under_the_key_is_a_conflict(ledger, other):
    names = [manifest_of(ledger, path='"writtenAt":"2025"'), manifest_of(ledger, **other)]
    ledger.put_manifest(names[0])
    with pytest.raises(ConflictError):
        ledger.put_manifest(names[1])


@pytest.mark.parametrize("there", [b"", b"{}", b"[" * 100_000, b"\xff"])
def test_bytes_that_are_no_manifest_are_a_conflict(ledger, there):
    key = ledger.layout.manifest(0, Order(1, 1), "bert-0")
    ledger._bucket._objects.bodies[key] = there
    with pytest.raises(ConflictError):
        ledger.put_manifest(manifest_of(ledger))


def test_a_manifest_that_was_changed_in_the_bucket_is_not_named_again(ledger):
    ref = ledger.put_manifest(manifest_of(ledger))
    assert ledger.read_again(ref) == manifest_of(ledger)
    body = json.loads(ledger._bucket._objects.bodies[ref.key]) | {"totalBytes": 7}
    ledger._bucket._objects.bodies[ref.key] = json.dumps(body).encode()
    with pytest.raises(ConflictError):
        ledger.read_again(ref)
