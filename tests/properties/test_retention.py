"""`keepLast` over any bucket, with the operator killed at any deletion: no commit that is left ever lacks an object, and the proven one stays."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from retaining import Place, seen_of

from trainingrun_operator.checkpoints.documents import Checkpoint, Commit, RankManifest, RunRef
from trainingrun_operator.checkpoints.keys import Layout, Order
from trainingrun_operator.checkpoints.s3 import Access
from trainingrun_operator.core.facts.bucket import Mismatch, Verified
from trainingrun_operator.core.retention import YOUNGEST_SECONDS

pytestmark = pytest.mark.timeout(900)
"""Many examples: on a busy machine they take minutes."""

RUN = RunRef(namespace="ml", name="llama", uid="1f0c")
LAYOUT = Layout.of("s3://bucket/team/a", RUN.namespace, RUN.name, RUN.uid)
NOW = datetime.now(UTC)
HOUR = 3600.0


class KilledError(BaseException):
    """The operator is gone."""


@dataclass
class Client:
    """A bucket in memory, in which the operator may be killed before or after a deletion."""

    objects: dict[str, tuple[bytes, float]] = field(default_factory=dict)
    """Content and age by key."""
    fatal: int = -1
    moments: Any = field(default_factory=itertools.count)
    deleted: list[tuple[str, float]] = field(default_factory=list)

    def get_paginator(self, call: str) -> Client:
        assert call in {"list_objects_v2", "list_multipart_uploads"}
        return self

    def paginate(self, *, Bucket: str, Prefix: str, Delimiter: str = "") -> list[dict[str, Any]]:  # noqa: N803 - boto3's
        below = [key for key in self.objects if key.startswith(Prefix)]
        folders = {key[: key.index("/", len(Prefix)) + 1] for key in below if Delimiter and "/" in key[len(Prefix) :]}
        files = [key for key in below if not any(key.startswith(folder) for folder in folders)]
        contents = [{"Key": key, "LastModified": NOW - timedelta(seconds=self.objects[key][1])} for key in files]
        return [{"Contents": contents, "CommonPrefixes": [{"Prefix": folder} for folder in folders]}]

    def delete_objects(self, *, Bucket: str, Delete: dict[str, Any]) -> dict[str, Any]:  # noqa: N803 - boto3's
        for one in Delete["Objects"]:
            self.step()
            _, age = self.objects.pop(one["Key"], (b"", HOUR * 99))
            self.deleted.append((one["Key"], age))
            self.step()
        return {}

    def step(self) -> None:
        if next(self.moments) == self.fatal:
            raise KilledError


@dataclass
class Store:
    """Reads that bucket."""

    client: Client

    async def call(self, access: Access, made: Any) -> Any:
        return made(self.client)

    async def read_commit(self, access: Access, layout: Layout, key: str) -> Commit:
        return Commit.model_validate_json(self.client.objects[key][0], by_alias=True, by_name=False)

    async def keys_of(self, access: Access, layout: Layout, manifest: str) -> Any:
        yield json.loads(self.client.objects[manifest][0])

    async def verify(self, access: Access, layout: Layout, key: str) -> Verified | Mismatch:
        commit = await self.read_commit(access, layout, key)
        return Mismatch(key, "lost") if lost_of(self.client, commit) else Verified(key, "", "", commit)


def lost_of(client: Client, commit: Commit) -> list[str]:
    """What a commit names and the bucket lacks."""
    lost = []
    for entry in commit.ranks:
        listed = json.loads(client.objects[entry.key][0]) if entry.key in client.objects else []
        lost += [key for key in (entry.key, *listed) if key not in client.objects]
    return lost


@st.composite
def buckets(draw):
    """Commits of one or two ranks, some incomplete or of earlier manifests, whose manifests list objects of any earlier generation."""
    client, made, written = Client(), list[Commit](), list[str]()
    ranks = draw(st.integers(1, 2))
    orders = sorted(draw(st.sets(st.tuples(st.integers(1, 2), st.integers(1, 6)), min_size=1, max_size=7)))
    age = HOUR * 24 * 9
    for order in (Order(*one) for one in orders):
        age -= draw(st.sampled_from([0, 1, 20, 30])) * HOUR
        refs = []
        for rank in range(ranks):
            folder, key = LAYOUT.folder(rank, order, "pod"), LAYOUT.manifest(rank, order, "pod")
            own = [f"{folder}f{n}" for n in range(draw(st.integers(0, 2)))]
            earlier = draw(st.lists(st.sampled_from(written), max_size=2)) if written else []
            client.objects |= dict.fromkeys(own, (b"", age))
            client.objects[key] = (json.dumps([*own, *earlier]).encode(), age)
            written += own
            refs.append(RankManifest(rank=rank, incarnation=order.incarnation, key=key, sha256=""))
        if draw(st.integers(0, 4)) == 0:
            event("a manifest without a commit")
            continue
        if made and draw(st.integers(0, 3)) == 0:
            event("an earlier manifest is named again")
            refs = list(draw(st.sampled_from(made)).ranks)
        about = Checkpoint(
            dir="c", step=draw(st.none() | st.integers(0, 9)), complete=draw(st.integers(0, 4)) > 0, evidence=""
        )
        commit = Commit(run=RUN, incarnation=order.incarnation, generation=order.generation, checkpoint=about, ranks=tuple(refs), world_size=ranks, total_files=1, reason="checkpoint")  # fmt: skip
        client.objects[LAYOUT.commit(order)] = (commit.model_dump_json(by_alias=True).encode(), age)
        made.append(commit)
    return client, made, draw(st.integers(0, max(len(made) - 1, 0))), draw(st.integers(1, 3)), draw(st.integers(-1, 12))


def check_whole(client: Client) -> None:
    for key, (body, _) in client.objects.items():
        if "/commits/" in key:
            commit = Commit.model_validate_json(body, by_alias=True, by_name=False)
            assert lost_of(client, commit) == [], f"{key} lacks an object"


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(buckets())
def test_no_commit_that_is_left_ever_lacks_an_object(drawn):
    client, made, last, keep_last, client.fatal = drawn
    if not made:
        return
    proven = LAYOUT.commit(made[last].order)
    complete = {one.order for one in made if one.checkpoint.complete}
    place = Place(Store(client), Access())
    for _ in range(3):
        place.made = place.make()
        place.made.note(seen_of("bucket", proven, keep_last))
        try:
            asyncio.run(place.rounds(4))
        except KilledError:
            event("killed")
        check_whole(client)
    left = {one.order for one in made if LAYOUT.commit(one.order) in client.objects}
    assert made[last].order in left, "the proven one stays"
    assert {one.order for one in made if one.order > made[last].order} <= left, "so does every newer one"
    assert len(left & complete) >= min(keep_last, len(complete)), "as many complete ones as were asked for"
    assert all(age >= YOUNGEST_SECONDS for _, age in client.deleted), "nothing younger than a day"
    if client.deleted:
        event("something was deleted")
