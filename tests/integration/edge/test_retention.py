"""`keepLast` on a real S3 server: what goes, what stays, and in which order, wherever the operator is killed."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest
import s3server
from botocore.exceptions import ClientError
from retaining import Place, seen_of
from shipment import RUN, Shipment

from trainingrun_operator.api.status import Phase
from trainingrun_operator.checkpoints import sweep
from trainingrun_operator.checkpoints.documents import FileEntry
from trainingrun_operator.checkpoints.keys import Layout, Order
from trainingrun_operator.core.facts.run import Problem
from trainingrun_operator.edge.background import retention as module
from trainingrun_operator.edge.gather.store import Access, Store

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.s3, pytest.mark.asyncio(loop_scope="module")]

DAYS = 3 * 24 * 3600


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with s3server.running(tmp_path_factory.mktemp("s3") / "buckets") as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    made = server.client()
    yield made
    made.close()


@pytest.fixture(scope="module")
def store():
    made = Store(threads=4)
    yield made
    made.close()


class Bucket:
    """One run's bucket, whose objects can be made old."""

    def __init__(self, client, server, name):
        self.client, self.name, self.folder = client, name, server.folder / name
        self.layout = Layout.of(f"s3://{name}/team/a", RUN.namespace, RUN.name, RUN.uid)
        client.create_bucket(Bucket=name)

    def ship(self, generation, *, age=DAYS, incarnation=1, **fields):
        """Put a commit, some seconds old."""
        made = Shipment(self.client, self.layout, Order(incarnation, generation), **fields)
        before = set(self.listed())
        key = made.send()
        for one in set(self.listed()) - before:
            self.make_old(one, age)
        return key

    def make_old(self, key, age=DAYS):
        then = time.time() - age
        os.utime(self.folder / key, (then, then))

    def listed(self):
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return [item["Key"] for page in pages for item in page.get("Contents", ())]

    def commits(self):
        return [key.rpartition("/")[2] for key in self.listed() if "/commits/" in key]

    def generations(self):
        """Of folders and manifests that still have an object."""
        rank = f"{self.layout.base}r0/"
        return sorted({key.removeprefix(rank)[:8] for key in self.listed() if key.startswith(f"{rank}i1-")})

    def check_whole(self):
        """Every commit's manifests and every object that they list are there."""
        keys = set(self.listed())
        for key in keys:
            if "/commits/" not in key:
                continue
            commit = json.loads(self.client.get_object(Bucket=self.name, Key=key)["Body"].read())
            for entry in commit["ranks"]:
                assert entry["key"] in keys, f"{key} lacks a manifest"
                manifest = json.loads(self.client.get_object(Bucket=self.name, Key=entry["key"])["Body"].read())
                assert {file["key"] for file in manifest["files"]} <= keys, f"{key} lacks an object"


@pytest.fixture
def bucket(client, server, request):
    return Bucket(client, server, f"keep-{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]}")


@pytest.fixture
def access(server):
    return Access(server.endpoint_url, server.region, server.access_key, server.secret_key, owner="ml")


@pytest.fixture
def place(store, access):
    return Place(store, access)


async def test_older_checkpoints_go_with_all_their_objects_and_nothing_else_does(place, bucket):
    keys = [bucket.ship(n) for n in range(1, 6)]
    others = Shipment(bucket.client, Layout.of(f"s3://{bucket.name}/team/a", "ml", "other", "9"), Order(1, 1))
    others.put(others.key(), b"another run's")
    place.made.note(seen_of(bucket.name, keys[-1], 2))
    await place.rounds()
    assert bucket.commits() == ["i1-g0004.json", "i1-g0005.json"]
    assert bucket.generations() == ["i1-g0004", "i1-g0005"]
    assert others.key() in bucket.listed()
    bucket.check_whole()
    assert place.events.told == []


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        pytest.param(lambda name, key: seen_of(name, "", 1), "no proof", id="nothing is proven"),
        pytest.param(lambda name, key: seen_of(name, key, None), "no keepLast", id="keepLast is not set"),
        pytest.param(lambda name, key: seen_of(name, key, deleting=True), "goes", id="the run is being deleted"),
        pytest.param(lambda name, key: seen_of(name, key, ended=True, phase=Phase.VERIFYING), "stops", id="a stop reads the bucket"),
    ],
)  # fmt: skip
async def test_nothing_is_deleted(place, bucket, seen, why):
    keys = [bucket.ship(n) for n in range(1, 4)]
    before = bucket.listed()
    place.made.note(seen(bucket.name, keys[-1]))
    await place.rounds()
    assert bucket.listed() == before, why


async def test_a_stop_that_begins_between_two_deletions_ends_the_round(place, bucket, monkeypatch):
    keys = [bucket.ship(n) for n in range(1, 5)]
    real = sweep.delete

    def delete(layout, chosen, client):
        real(layout, chosen, client)
        place.made.note(seen_of(bucket.name, keys[-1], ended=True, phase=Phase.SAVING))

    monkeypatch.setattr(sweep, "delete", delete)
    place.made.note(seen_of(bucket.name, keys[-1]))
    await place.rounds()
    assert bucket.commits() == ["i1-g0004.json"]
    assert bucket.generations() == ["i1-g0001", "i1-g0002", "i1-g0003", "i1-g0004"], "no object has gone"


async def test_nothing_younger_than_a_day_goes(place, bucket):
    bucket.ship(1)
    bucket.ship(2, age=3600)
    bucket.ship(3, age=60)
    last = bucket.ship(4, age=1)
    place.made.note(seen_of(bucket.name, last))
    await place.rounds()
    assert bucket.commits() == ["i1-g0002.json", "i1-g0003.json", "i1-g0004.json"]
    assert bucket.generations() == ["i1-g0002", "i1-g0003", "i1-g0004"]
    bucket.check_whole()


async def test_nothing_goes_while_the_last_proven_one_does_not_verify(place, bucket):
    keys = [bucket.ship(n) for n in range(1, 4)]
    lost = Shipment(bucket.client, bucket.layout, Order(1, 3)).key()
    bucket.client.delete_object(Bucket=bucket.name, Key=lost)
    before = bucket.listed()
    place.made.note(seen_of(bucket.name, keys[-1]))
    await place.rounds()
    assert bucket.listed() == before


async def test_an_object_that_a_kept_manifest_names_stays_in_the_folder_of_a_retired_one(place, bucket):
    bucket.ship(1)
    first = Shipment(bucket.client, bucket.layout, Order(1, 1))
    shared = first.make_manifest(0).files
    for key in [key for key in bucket.listed() if "i1-g0001" in key]:
        bucket.make_old(key)
    last = bucket.ship(2, manifest={"files": shared})
    place.made.note(seen_of(bucket.name, last))
    await place.rounds()
    assert bucket.commits() == ["i1-g0002.json"]
    assert {file.key for file in shared} <= set(bucket.listed())
    bucket.check_whole()


async def test_a_manifest_that_lists_other_keys_deletes_none_of_them(place, bucket):
    """A tenant may write any manifest: claims, commits, manifests, the story and other runs' objects are no files of a generation."""
    outside = f"team/a/{RUN.namespace}/other/2/r0/i1-g0001-pod/model"
    bucket.client.put_object(Bucket=bucket.name, Key=outside, Body=b"x")
    forged = [
        bucket.layout.claim(0, 1),
        bucket.layout.story,
        bucket.layout.manifest(0, Order(1, 3), "llama-0"),
        outside,
    ]
    forged += [bucket.layout.commit(Order(1, 3))]
    bucket.client.put_object(Bucket=bucket.name, Key=forged[0], Body=b"claim")
    bucket.client.put_object(Bucket=bucket.name, Key=forged[1], Body=b"story")
    entries = tuple(FileEntry(path=f"f{n}", key=key, size=1) for n, key in enumerate(forged))
    bucket.ship(1, manifest={"files": entries})
    bucket.ship(2)
    last = bucket.ship(3)
    for key in bucket.listed():
        bucket.make_old(key)
    place.made.note(seen_of(bucket.name, last))
    await place.rounds()
    assert bucket.commits() == ["i1-g0003.json"]
    assert set(forged) <= set(bucket.listed())
    bucket.check_whole()


@pytest.mark.parametrize("body", [b"no JSON", b"{}"], ids=["no JSON", "another document"])
async def test_a_commit_that_cannot_be_read_keeps_everything(place, bucket, body):
    keys = [bucket.ship(n) for n in range(1, 4)]
    bucket.client.put_object(Bucket=bucket.name, Key=bucket.layout.commit(Order(1, 9)), Body=body)
    before = bucket.listed()
    place.made.note(seen_of(bucket.name, keys[-1]))
    await place.rounds()
    assert bucket.listed() == before


async def test_without_credentials_nothing_goes(store, bucket):
    place = Place(store, Problem("SecretNotFound", "there is no such Secret"))
    keys = [bucket.ship(n) for n in range(1, 4)]
    place.made.note(seen_of(bucket.name, keys[-1]))
    await place.rounds()
    assert len(bucket.commits()) == 3


async def test_an_operator_that_does_not_lead_deletes_nothing(place, bucket):
    keys = [bucket.ship(n) for n in range(1, 4)]
    place.leads = False
    place.made.note(seen_of(bucket.name, keys[-1]))
    await place.rounds()
    assert len(bucket.commits()) == 3


@pytest.fixture
def refusing(monkeypatch):
    """The store lets nobody delete."""

    def refuse(layout, chosen, client):
        raise sweep.RefusedError("AccessDenied")

    monkeypatch.setattr(sweep, "delete", refuse)


async def test_without_the_right_to_delete_it_is_said_once_and_nothing_else_changes(place, bucket, refusing):
    keys = [bucket.ship(n) for n in range(1, 4)]
    before = bucket.listed()
    for _ in range(3):
        place.made.note(seen_of(bucket.name, keys[-1]))
        await place.rounds()
        place.now += 2 * module.ROUND_SECONDS
    assert bucket.listed() == before
    ((reason, said),) = place.events.told
    assert reason == "CheckpointsNotDeleted"
    assert "spec.checkpoint.keepLast is 1" in said
    assert "(AccessDenied)" in said
    assert "s3:DeleteObject" in said


async def test_an_event_that_fails_is_recorded_later(place, bucket, refusing):
    keys = [bucket.ship(n) for n in range(1, 4)]
    place.events.failing = True
    place.made.note(seen_of(bucket.name, keys[-1]))
    await place.rounds()
    place.events.failing = False
    place.now += 2 * module.ROUND_SECONDS
    await place.rounds()
    assert len(place.events.told) == 1


def begun(bucket, generation, *, incarnation, age=DAYS, rank=0):
    """Begin a multipart upload, some seconds old, in the folder of a generation."""
    key = f"{bucket.layout.folder(rank, Order(incarnation, generation), 'llama-0')}model.bin"
    made = bucket.client.create_multipart_upload(Bucket=bucket.name, Key=key)["UploadId"]
    (folder,) = [path for path in bucket.folder.parent.rglob(made) if path.is_dir()]
    then = time.time() - age
    os.utime(folder, (then, then))
    return made


def unfinished(bucket):
    found = bucket.client.list_multipart_uploads(Bucket=bucket.name, Prefix=bucket.layout.base)
    return {item["UploadId"] for item in found.get("Uploads", ())}


@pytest.mark.parametrize("ended", [False, True], ids=["while the run trains", "after its end"])
async def test_uploads_of_dead_incarnations_are_aborted(place, bucket, ended):
    last = bucket.ship(1, incarnation=2)
    for number in (1, 2):
        bucket.client.put_object(Bucket=bucket.name, Key=bucket.layout.claim(0, number), Body=b"{}")
    dead = begun(bucket, 4, incarnation=1)
    young = begun(bucket, 5, incarnation=1, age=60)
    alive = begun(bucket, 2, incarnation=2)
    assert unfinished(bucket) == {dead, young, alive}
    place.made.note(seen_of(bucket.name, last, ended=ended))
    await place.rounds()
    assert unfinished(bucket) == ({young} if ended else {young, alive})


async def test_nothing_is_ever_left_without_an_object_wherever_the_operator_is_killed(place, bucket, monkeypatch):
    """Killed before and after each deletion in turn, it ends where an operator that lives would."""

    class KilledError(BaseException):
        pass

    keys = [bucket.ship(n) for n in range(1, 6)]
    real = sweep.delete
    moments: Iterator[bool] = iter(())

    def delete(layout, chosen, client):
        if next(moments):
            raise KilledError
        real(layout, chosen, client)
        bucket.check_whole()
        if next(moments):
            raise KilledError

    monkeypatch.setattr(sweep, "delete", delete)
    for fatal in range(40):
        moments = (moment == fatal for moment in itertools.count())
        place.made = place.make()
        place.made.note(seen_of(bucket.name, keys[-1], 2))
        try:
            await place.rounds()
        except KilledError:
            continue
        break
    assert bucket.commits() == ["i1-g0004.json", "i1-g0005.json"]
    assert bucket.generations() == ["i1-g0004", "i1-g0005"]


async def test_a_round_is_bounded_and_the_next_goes_on(place, bucket, monkeypatch):
    monkeypatch.setattr(module, "COMMITS", 1)
    monkeypatch.setattr(module, "OBJECTS", 2)
    keys = [bucket.ship(n) for n in range(1, 4)]
    place.made.note(seen_of(bucket.name, keys[-1]))
    counts = []
    for _ in range(12):
        await place.made.work()
        counts.append(len(bucket.listed()))
    assert counts == sorted(counts, reverse=True)
    assert max(before - after for before, after in zip([len(keys) * 5, *counts], counts, strict=False)) <= 4
    assert bucket.commits() == ["i1-g0003.json"]
    assert bucket.generations() == ["i1-g0003"]


async def test_a_run_that_has_ended_is_left_alone_once_nothing_is_left(place, bucket, requests_made):
    keys = [bucket.ship(n) for n in range(1, 4)]
    for _ in range(2):
        place.made.note(seen_of(bucket.name, keys[-1], ended=True))
        await place.rounds()
        place.now += 2 * module.ROUND_SECONDS
    before = requests_made()
    place.made.note(seen_of(bucket.name, keys[-1], ended=True))
    await place.rounds()
    assert requests_made() == before


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "AccessDenied", sweep.RefusedError),
        (405, "MethodNotAllowed", sweep.RefusedError),
        (503, "SlowDown", ClientError),
    ],
)
async def test_a_refusal_is_told_from_a_failure(bucket, monkeypatch, status, code, kind):
    error = ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "DeleteObjects")  # type: ignore[typeddict-item]

    class Failing:
        def delete_objects(self, **_):
            raise error

        def abort_multipart_upload(self, **_):
            raise error

    failing: Any = Failing()
    with pytest.raises(kind):
        sweep.delete(bucket.layout, [bucket.layout.story], failing)
    with pytest.raises(kind):
        sweep.abort(bucket.layout, [sweep.Upload("key", "id", 0.0)], failing)


async def test_one_object_of_a_batch_that_is_refused_is_a_refusal(bucket):
    class Partly:
        def delete_objects(self, **_):
            return {"Errors": [{"Key": "x", "Code": "AccessDenied"}]}

    partly: Any = Partly()
    with pytest.raises(sweep.RefusedError, match="AccessDenied"):
        sweep.delete(bucket.layout, [bucket.layout.story], partly)


async def test_a_key_of_another_run_is_never_deleted(bucket):
    with pytest.raises(ValueError, match="is outside of"):
        sweep.delete(bucket.layout, [bucket.layout.story, "team/b/model"], bucket.client)
