"""Proving a checkpoint against a real S3 server: what was shipped verifies, and nothing else does."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import struct
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

import pytest
import s3server
from aiohttp import web
from awscrt import checksums
from botocore.client import BaseClient
from cpu import quiet_seconds
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from shipment import CHECKPOINT, FILES, RUN, Shipment

from trainingrun_operator.checkpoints.documents import COMMIT_MAX_BYTES, FileEntry, PodRef, RankManifest, Skipped
from trainingrun_operator.checkpoints.keys import Layout, Order
from trainingrun_operator.checkpoints.proof import BadCommitError, checked_commit
from trainingrun_operator.checkpoints.template import Template
from trainingrun_operator.core.facts.bucket import Mismatch, Unreachable, Verified
from trainingrun_operator.edge.gather.store import Access, Store

# One loop for the module: its Store is shared, because making a client costs more than all that most tests do.
pytestmark = [pytest.mark.s3, pytest.mark.asyncio(loop_scope="module")]

DEAD = 48
"""More than two namespaces full of them ask at once."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with s3server.running(tmp_path_factory.mktemp("s3") / "buckets") as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    made = server.client()
    yield made
    made.close()


@pytest.fixture
def bucket(client, request):
    name = f"ckpt-{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]}"
    client.create_bucket(Bucket=name)
    return name


@pytest.fixture
def layout(bucket):
    return Layout.of(f"s3://{bucket}/team/a", RUN.namespace, RUN.name, RUN.uid)


@pytest.fixture
def access(server):
    return Access(
        endpoint_url=server.endpoint_url,
        region=server.region,
        access_key=server.access_key,
        secret_key=server.secret_key,
    )


@pytest.fixture(scope="module")
def store():
    made = Store(threads=8)
    yield made
    made.close()


@pytest.fixture
def calls(monkeypatch):
    """Every request, by botocore or beside it: operation and key."""
    made = []
    real, beside = vars(BaseClient)["_make_api_call"], vars(Template)["request"]

    def record(self, operation, arguments):
        made.append((operation, arguments.get("Key", "")))
        return real(self, operation, arguments)

    def record_beside(self, key, signer):
        made.append(("HeadObject", key))
        return beside(self, key, signer)

    monkeypatch.setattr(BaseClient, "_make_api_call", record)
    monkeypatch.setattr(Template, "request", record_beside)
    return made


@pytest.fixture
def shipment(client, layout):
    return Shipment(client, layout)


# -- what verifies --------------------------------------------------------------------------------------------


async def test_a_commit_of_which_everything_is_there_verifies(store, access, layout, shipment, client):
    found = await store.verify(access, layout, shipment.send())
    assert isinstance(found, Verified)
    assert found.uri == f"s3://{layout.bucket}/team/a/ml/llama/1f0c/r0/i2-g0007-llama-0/checkpoint-1200/"
    body = client.get_object(Bucket=layout.bucket, Key=shipment.commit_key)["Body"].read()
    assert found.digest == hashlib.sha256(body).hexdigest()
    assert (found.commit.termination_id, found.commit.attempt) == ("stop-1", 3)


async def test_every_request_to_the_bucket_is_counted(store, access, layout, shipment, calls, requests_made):
    key = shipment.send()
    calls.clear()
    await store.verify(access, layout, key)
    assert len(calls) > 2
    assert requests_made() == {"s3": len(calls)}


async def test_the_address_of_a_verified_checkpoint_lists_its_files(store, access, layout, shipment, client):
    found = await store.verify(access, layout, shipment.send())
    prefix = found.uri.removeprefix(f"s3://{layout.bucket}/")
    listed = client.list_objects_v2(Bucket=layout.bucket, Prefix=prefix)["Contents"]
    assert {item["Key"].removeprefix(prefix) for item in listed} == {
        path.removeprefix("checkpoint-1200/") for path in FILES
    }


async def test_every_rank_is_read(store, access, layout, shipment, calls):
    shipment.ranks = 3
    assert isinstance(await store.verify(access, layout, shipment.send()), Verified)
    heads = {key for operation, key in calls if operation == "HeadObject"}
    assert heads == {shipment.key(path, rank) for path in FILES for rank in range(3)}


async def test_a_symbolic_link_is_taken_from_the_manifest(store, access, layout, shipment):
    shipment.files = {}
    link = FileEntry(path="checkpoint-1200/latest", link_target="../checkpoint-1200")
    shipment.manifest = {"files": (link,), "total_files": 1}
    assert isinstance(await store.verify(access, layout, shipment.send()), Verified)


async def test_a_commit_about_nothing_has_no_address(store, access, layout, shipment):
    shipment.files = {}
    shipment.manifest = shipment.commit = {"checkpoint": None}
    found = await store.verify(access, layout, shipment.send())
    assert isinstance(found, Verified)
    assert found.uri == ""


async def test_many_files_are_proven(store, access, layout, shipment):
    shipment.files = {f"checkpoint-1200/shard-{number}": b"x" * number for number in range(100)}
    assert isinstance(await store.verify(access, layout, shipment.send()), Verified)


async def test_a_skipped_device_is_no_loss(store, access, layout, shipment):
    shipment.manifest = {"skipped": (Skipped(path="fifo", reason="a pipe", regular=False),)}
    assert isinstance(await store.verify(access, layout, shipment.send()), Verified)


# -- what does not --------------------------------------------------------------------------------------------


async def complaint(store, access, layout, key):
    found = await store.verify(access, layout, key)
    assert isinstance(found, Mismatch), found
    assert found.key == key
    assert found.complaint.startswith(f"s3://{layout.bucket}/{key}: ")
    return found.complaint


def lose_a_file(s):
    s.client.delete_object(Bucket=s.layout.bucket, Key=s.key())


def flip_a_bit(s):
    s.put(s.key(), b"Weights" * 1000)


def cut_a_file(s):
    s.put(s.key(), b"weights" * 999)


def take_away_the_checksum(s):
    body = FILES["checkpoint-1200/model.safetensors"]
    crc32 = base64.b64encode(struct.pack(">I", checksums.crc32(body))).decode()
    s.client.put_object(Bucket=s.layout.bucket, Key=s.key(), Body=body, ChecksumCRC32=crc32)


def change_the_manifest(s):
    key = s.manifest_key()
    body = s.client.get_object(Bucket=s.layout.bucket, Key=key)["Body"].read()
    s.put(key, body.replace(b"llama-0", b"llama-1"))


def lose_the_manifest(s):
    s.client.delete_object(Bucket=s.layout.bucket, Key=s.manifest_key())


def lose_the_commit(s):
    s.client.delete_object(Bucket=s.layout.bucket, Key=s.commit_key)


def garble_the_commit(s):
    s.put(s.commit_key, b'{"run": {"secret-of-the-tenant')


def bloat_the_commit(s):
    s.put(s.commit_key, b" " * (COMMIT_MAX_BYTES + 1))


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        pytest.param(
            lose_a_file, "'checkpoint-1200/model.safetensors' is not in the bucket", id="an object is missing"
        ),
        pytest.param(
            cut_a_file,
            "'checkpoint-1200/model.safetensors' has 6993 bytes in the bucket, the manifest says 7000",
            id="an object is shorter",
        ),
        pytest.param(
            flip_a_bit,
            "'checkpoint-1200/model.safetensors' has other bytes in the bucket",
            id="an object has other bytes of the same size",
        ),
        pytest.param(
            take_away_the_checksum,
            "the store has no CRC64NVME of 'checkpoint-1200/model.safetensors'",
            id="the store keeps no checksum",
        ),
        pytest.param(
            change_the_manifest, "is not the one that the commit names (SHA-256 differs)", id="the manifest was changed"
        ),
        pytest.param(lose_the_manifest, ".manifest.json' is not in the bucket", id="the manifest is missing"),
        pytest.param(lose_the_commit, "commits/i2-g0007.json' is not in the bucket", id="the commit is missing"),
        pytest.param(
            garble_the_commit, "it does not parse: its JSON is invalid (json_invalid)", id="the commit is no JSON"
        ),
        pytest.param(bloat_the_commit, "is larger than 65536 bytes", id="the commit is too large"),
    ],
)
async def test_harm_done_after_the_commit_is_found(store, access, layout, shipment, harm, sentence):
    key = shipment.send()
    harm(shipment)
    said = await complaint(store, access, layout, key)
    assert sentence in said
    assert "secret-of-the-tenant" not in said


@pytest.mark.parametrize(
    ("harm", "changes", "curable"),
    [
        pytest.param(lambda _: None, {"manifest": {"skipped": (Skipped(path="a", reason="Permission denied", regular=True),)}}, False, id="a file that the agent could not read"),
        pytest.param(take_away_the_checksum, {}, False, id="a store that keeps no checksum"),
        pytest.param(flip_a_bit, {}, True, id="other bytes"),
        pytest.param(cut_a_file, {}, True, id="another size"),
        pytest.param(lose_the_manifest, {}, True, id="a manifest that is missing"),
        pytest.param(lose_the_commit, {}, True, id="a commit that is missing"),
    ],
)  # fmt: skip
async def test_whether_another_upload_may_help_is_known(store, access, layout, shipment, harm, changes, curable):
    for name, value in changes.items():
        setattr(shipment, name, value)
    key = shipment.send()
    harm(shipment)
    found = await store.verify(access, layout, key)
    assert isinstance(found, Mismatch)
    assert found.curable is curable


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        pytest.param(
            {
                "manifest": {
                    "skipped": (Skipped(path="optimizer.pt", reason="changed while it was read", regular=True),)
                }
            },
            "the file 'optimizer.pt' was skipped: 'changed while it was read'",
            id="a regular file was skipped",
        ),
        pytest.param(
            {"commit": {"run": RUN.model_copy(update={"uid": "2e1d"})}},
            "it belongs to the run 'ml/llama' with uid '2e1d', not to this one",
            id="the commit is another run's",
        ),
        pytest.param(
            {"manifest": {"run": RUN.model_copy(update={"uid": "2e1d"})}},
            "the manifest of rank 0 belongs to another run, with uid '2e1d'",
            id="the manifest is another run's",
        ),
        pytest.param(
            {"commit": {"generation": 8}},
            "its content contradicts its key: incarnation 2, generation 8",
            id="key and content disagree",
        ),
        pytest.param(
            {"commit": {"schema_": 3}}, "its schema is 3, this version reads 2", id="the commit is of a newer schema"
        ),
        pytest.param(
            {"manifest": {"schema_": 3}}, "has schema 3, this version reads 2", id="the manifest is of a newer schema"
        ),
        pytest.param({"commit": {"world_size": 2}}, "it has 1 manifests for 2 ranks (0)", id="a rank is missing"),
        pytest.param(
            {"commit": {"world_size": 2**31}},
            "it has 1 manifests for 2147483648 ranks (0)",
            id="two thousand million ranks are missing",
        ),
        pytest.param(
            {"commit": {"ranks": (), "world_size": 0}},
            "it has 0 manifests for 0 ranks (none)",
            id="there are no ranks at all",
        ),
        pytest.param(
            {"commit": {"world_size": 2, "ranks": (RankManifest(rank=0, incarnation=2, key="k", sha256="0"),) * 2}},
            "it has 2 manifests for 2 ranks (0, 0)",
            id="one rank is named twice",
        ),
        pytest.param(
            {"ranks": 2, "manifest_of": {1: {"pod": PodRef(name="llama-1", uid="pod-1", rank=0, world_size=2)}}},
            "the manifest of rank 1 of 2 was written by rank 0 of 2",
            id="one rank speaks for another",
        ),
        pytest.param(
            {"ranks": 2, "manifest_of": {1: {"checkpoint": CHECKPOINT.model_copy(update={"step": 1100})}}},
            "the manifest of rank 1 is about 'checkpoint-1200' at step 1100, the commit about 'checkpoint-1200' at step 1200",
            id="ranks are at different steps",
        ),
        pytest.param(
            {"ranks": 2, "manifest_of": {1: {"checkpoint": CHECKPOINT.model_copy(update={"epoch": 3})}}},
            "the manifest of rank 1 is about 'checkpoint-1200' at step 1200, epoch 3, the commit about 'checkpoint-1200' at step 1200",
            id="ranks are in different epochs",
        ),
        pytest.param(
            {"ranks": 2, "manifest_of": {1: {"incarnation": 1}}},
            "the manifest of rank 1 is of incarnation 1, the commit names incarnation 2",
            id="a manifest is of an incarnation that the commit does not name",
        ),
        pytest.param(
            {"ranks": 2, "manifest_of": {1: {"generation": 6}}},
            "the manifest of rank 1 has another key than its pod's for incarnation 2, generation 6",
            id="a manifest lies at another's key",
        ),
        pytest.param(
            {"ranks": 2, "manifest_of": {1: {"attempt": 2}}},
            "the manifest of rank 1 answers 'stop-1', attempt 2, before the training's end, the commit answers 'stop-1', attempt 3, before the training's end",
            id="a rank has not answered the request",
        ),
        pytest.param(
            {"ranks": 2, "commit": {"final": True}},
            "the manifest of rank 0 answers 'stop-1', attempt 3, before the training's end, the commit answers 'stop-1', attempt 3, after the training's end",
            id="a rank has not spoken its last word",
        ),
        pytest.param(
            {"manifest": {"folder": "team/a/ml/llama/1f0c/r1/i2-g0007-llama-1/"}},
            "the folder 'team/a/ml/llama/1f0c/r1/i2-g0007-llama-1/' does not belong to rank 0",
            id="the checkpoint is said to lie in another rank's folder",
        ),
        pytest.param(
            {"manifest": {"checkpoint": CHECKPOINT.model_copy(update={"complete": False})}},
            "about the unfinished 'checkpoint-1200' at step 1200",
            id="the commit says complete and the manifest does not",
        ),
        pytest.param(
            {"commit": {"total_files": 4}},
            "it lists 4 files and 7002 bytes, its manifests list 3 and 7002",
            id="the numbers do not add up",
        ),
        pytest.param(
            {"files": {}, "manifest": {"total_files": 3}},
            "the manifest of rank 0 counts 3 files and lists 0",
            id="files are counted and not listed",
        ),
        pytest.param({"entry": {"crc64nvme": ""}}, "the manifest has no CRC64NVME", id="the manifest has no checksum"),
        pytest.param(
            {"entry": {"size": 1}},
            "has 7000 bytes in the bucket, the manifest says 1",
            id="the manifest has the wrong size",
        ),
    ],
)
async def test_a_commit_that_does_not_add_up_is_refused(store, access, layout, shipment, changes, sentence):
    said = await complaint(store, access, layout, replace(shipment, **changes).send())
    assert sentence in said


FOREIGN = (
    pytest.param("team/a/ml/llama/2e1d/r0/i1-g0001-x/model", id="another run of the same name"),
    pytest.param("team/a/ml/llama/1f0c", id="the prefix itself without its slash"),
    pytest.param("team/a/ml/llama/1f0c/../2e1d/model", id="a way out by dots"),
    pytest.param("", id="no key"),
)


@pytest.mark.parametrize("key", FOREIGN)
async def test_a_file_outside_of_the_run_is_never_asked_for(store, access, layout, shipment, calls, key):
    shipment.entry = {"key": key}
    commit = shipment.send()
    calls.clear()
    assert "which is outside this run's prefix" in await complaint(store, access, layout, commit)
    assert {operation for operation, _ in calls} == {"GetObject"}
    assert key not in {asked for _, asked in calls}


@pytest.mark.parametrize("key", FOREIGN)
async def test_a_manifest_outside_of_the_run_is_never_asked_for(store, access, layout, shipment, calls, key):
    shipment.commit = {"ranks": (RankManifest(rank=0, incarnation=2, key=key, sha256="0" * 64),)}
    commit = shipment.send()
    calls.clear()
    assert "which is outside this run's prefix" in await complaint(store, access, layout, commit)
    assert calls == [("GetObject", commit)]


async def test_a_mismatch_says_which_request_it_answers(store, access, layout, shipment):
    key = shipment.send()
    lose_a_file(shipment)
    found = await store.verify(access, layout, key)
    assert (found.id, found.attempt) == ("stop-1", 3)


# -- finding commits ------------------------------------------------------------------------------------------


async def test_commits_are_listed_newest_first_by_number(store, access, layout, shipment):
    orders = [Order(1, 9999), Order(1, 10_000), Order(2, 1), Order(10, 1), Order(9, 3)]
    for order in orders:
        shipment.put(layout.commit(order), b"{}")
    shipment.put(f"{layout.commits}i01-g1.json", b"{}")
    shipment.put(f"{layout.commits}i99-g0001.json.bak", b"{}")
    assert await store.commits(access, layout) == tuple(layout.commit(order) for order in sorted(orders, reverse=True))


async def test_a_run_without_commits_has_none(store, access, layout):
    assert await store.commits(access, layout) == ()
    assert await store.find(access, layout, lambda _: True) is None


async def test_the_newest_wanted_commit_is_found(store, access, layout, shipment):
    for generation, request in ((7, "stop-1"), (8, "stop-1"), (9, None)):
        replace(shipment, order=Order(2, generation), commit={"termination_id": request}).send()
    found = await store.find(access, layout, lambda commit: commit.termination_id == "stop-1")
    assert isinstance(found, Verified)
    assert found.key == layout.commit(Order(2, 8))


async def test_no_more_than_the_newest_few_are_looked_at(store, access, layout, shipment):
    for generation in (7, 8, 9):
        replace(shipment, order=Order(2, generation)).send()
    assert await store.find(access, layout, lambda commit: commit.generation == 7, depth=2) is None
    assert isinstance(await store.find(access, layout, lambda commit: commit.generation == 7, depth=3), Verified)


async def test_a_wanted_commit_that_does_not_verify_is_a_mismatch_though_an_older_one_would(
    store, access, layout, shipment
):
    shipment.send()
    newer = replace(shipment, order=Order(2, 8))
    newer.send()
    lose_a_file(newer)
    found = await store.find(access, layout, lambda _: True)
    assert isinstance(found, Mismatch)
    assert found.key == newer.commit_key
    found = await store.find(access, layout, lambda _: True, fall_back=True)
    assert isinstance(found, Verified)
    assert found.key == shipment.commit_key
    assert [one.key for one in found.passed_over] == [newer.commit_key]
    found = await store.find(access, layout, lambda commit: commit.order == shipment.order, fall_back=True)
    assert isinstance(found, Verified)
    assert found.passed_over == (), "Others are not asked for."


async def test_the_complaint_about_the_newest_is_the_answer_when_none_verifies(store, access, layout, shipment):
    for generation in (7, 8):
        one = replace(shipment, order=Order(2, generation))
        one.send()
        lose_a_file(one)
    found = await store.find(access, layout, lambda _: True, fall_back=True)
    assert isinstance(found, Mismatch)
    assert found.key == layout.commit(Order(2, 8))


async def test_an_unreadable_newest_commit_does_not_hide_an_older_one(store, access, layout, shipment):
    shipment.send()
    shipment.put(layout.commit(Order(3, 1)), b"not JSON")
    assert isinstance(await store.find(access, layout, lambda _: True), Verified)
    found = await store.find(access, layout, lambda commit: commit.final)
    assert isinstance(found, Mismatch)
    assert found.key == layout.commit(Order(3, 1))


async def test_a_proof_is_used_again_while_it_is_young_and_made_anew_when_asked(store, access, layout, shipment, calls):
    key = shipment.send()
    await store.find(access, layout, lambda _: True)
    calls.clear()
    assert isinstance(await store.find(access, layout, lambda _: True), Verified)
    assert {operation for operation, _ in calls} == {"ListObjectsV2"}
    lose_a_file(shipment)
    assert isinstance(await store.find(access, layout, lambda _: True), Verified)
    assert isinstance(await store.find(access, layout, lambda _: True, max_age_seconds=0), Mismatch)
    assert isinstance(await store.verify(access, layout, key), Mismatch)


async def test_what_one_has_read_is_not_told_to_another(store, access, layout, shipment):
    shipment.send()
    await store.find(access, layout, lambda _: True)
    found = await store.find(replace(access, secret_key="wrong"), layout, lambda _: True)
    assert isinstance(found, Unreachable)


# -- a bucket that cannot be read -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "code", "advice"),
    [
        pytest.param(
            {"access_key": "nobody"},
            "InvalidAccessKeyId",
            "correct AWS_ACCESS_KEY_ID",
            id="an access key that nobody has",
        ),
        pytest.param(
            {"secret_key": "wrong"}, "SignatureDoesNotMatch", "correct AWS_SECRET_ACCESS_KEY", id="a wrong secret"
        ),
        pytest.param(
            {"access_key": "", "secret_key": ""}, "NoCredentials", "write AWS_ACCESS_KEY_ID", id="no credentials"
        ),
        pytest.param(
            {"endpoint_url": "http://127.0.0.1:1"},
            "Unreachable",
            "is spec.checkpoint.s3.endpointURL right",
            id="a port where nothing listens",
        ),
        pytest.param(
            {"endpoint_url": "http://no such host"},
            "InvalidEndpoint",
            "correct spec.checkpoint.s3.endpointURL",
            id="an address that is none",
        ),
    ],
)
async def test_why_a_bucket_cannot_be_read_is_said(store, access, layout, shipment, monkeypatch, changes, code, advice):
    # Were these ever used for a run without credentials, the operator's rights would be lent to it.
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", access.secret_key)
    key = shipment.send()
    other = replace(access, **changes)
    for found in (
        await store.probe(other, layout),
        await store.commits(other, layout),
        await store.verify(other, layout, key),
        await store.find(other, layout, lambda _: True),
    ):
        assert isinstance(found, Unreachable)
        assert found.code == code
        assert advice in found.message
        assert layout.bucket in found.message
        assert other.where in found.message


async def test_a_bucket_that_does_not_exist_is_named(store, access, layout):
    found = await store.probe(access, replace(layout, bucket="nowhere"))
    assert found == Unreachable(
        "NoSuchBucket",
        f"Bucket nowhere at {access.endpoint_url} cannot be read (NoSuchBucket):"
        " there is no such bucket: create it, or correct spec.checkpoint.destination.",
    )


async def test_a_bucket_that_can_be_listed_is_fine_though_empty(store, access, layout):
    assert await store.probe(access, layout) is None


async def test_the_age_of_the_objects_with_a_prefix(store, access, layout, client):
    for name in ("final/model.bin", "final/tokens.json", "finish", "other"):
        client.put_object(Bucket=layout.bucket, Key=layout.of_run + name, Body=b"x")
    found = await store.ages(access, layout, layout.of_run + "final/")
    assert [key.removeprefix(layout.of_run) for key, _ in found.ages] == ["final/model.bin", "final/tokens.json"]
    assert all(-2 < age < 600 for _, age in found.ages), "Seconds by the server's own clock."
    assert not found.more
    assert (await store.ages(access, layout, layout.of_run + "nothing")).ages == ()


async def test_the_operators_own_identity_is_used_where_it_is_named(store, access, layout, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", access.secret_key)
    assert await store.probe(replace(access, access_key="", secret_key="", own_identity=True), layout) is None


@pytest.mark.parametrize(
    ("environ", "code", "advice"),
    [
        pytest.param({"AWS_EC2_METADATA_DISABLED": "true"}, "NoCredentials", "the operator has no AWS identity of its own: associate a role with its ServiceAccount", id="none"),
        pytest.param({"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "x"}, "InvalidAccessKeyId", "the store does not know the operator's own credentials", id="unknown"),
        pytest.param({"AWS_ACCESS_KEY_ID": "test-access", "AWS_SECRET_ACCESS_KEY": "x"}, "SignatureDoesNotMatch", "the store does not accept the operator's own credentials", id="wrong"),
    ],
)  # fmt: skip
async def test_what_is_wrong_with_the_operators_own_identity_is_not_said_of_a_secret(
    access, layout, monkeypatch, environ, code, advice
):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    store = Store(threads=2)
    found = await store.probe(replace(access, access_key="", secret_key="", own_identity=True), layout)
    store.close()
    assert isinstance(found, Unreachable)
    assert found.code == code
    assert advice in found.message
    assert "credentials Secret" not in found.message


ERROR = "<Error><Code>{}</Code><Message>secret-of-the-store</Message></Error>"


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        pytest.param(403, ERROR.format("AccessDenied"), "AccessDenied", id="no permission"),
        pytest.param(400, ERROR.format("ExpiredToken"), "ExpiredToken", id="an expired token"),
        pytest.param(403, ERROR.format("see https://elsewhere.example"), "StoreError", id="a code that is no word"),
        pytest.param(403, "secret-of-the-store", "AccessDenied", id="an answer that is no XML"),
        pytest.param(200, "secret-of-the-store", "InternalError", id="a page that is no listing"),
        pytest.param(503, "secret-of-the-store", "SlowDown", id="a server in trouble"),
    ],
)
async def test_codes_are_told_and_bodies_are_not(store, access, layout, status, body, code):
    async def answer(_):
        return web.Response(status=status, text=body, content_type="application/xml")

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        found = await store.probe(replace(access, endpoint_url=f"http://127.0.0.1:{runner.addresses[0][1]}"), layout)
    finally:
        await runner.cleanup()
    assert isinstance(found, Unreachable)
    assert found.code == code
    assert "secret-of-the-store" not in found.message
    assert "elsewhere" not in found.message


async def test_each_set_of_credentials_is_used_for_itself(store, access, layout, bucket):
    wrong = replace(access, access_key="somebody-else", owner="theirs")
    asked = [store.probe(one, layout) for one in (access, wrong) * 20]
    found = await asyncio.gather(*asked)
    assert found[::2] == [None] * 20
    assert {one.code for one in found[1::2] if isinstance(one, Unreachable)} == {"InvalidAccessKeyId"}


async def test_a_manifest_of_many_pieces_is_proven_and_its_change_is_found(store, access, layout, shipment, calls):
    skipped = tuple(Skipped(path=f"pipe-{number}", reason="a pipe", regular=False) for number in range(8000))
    shipment.manifest = {"skipped": skipped}
    key = shipment.send()
    calls.clear()
    assert isinstance(await store.verify(access, layout, key), Verified)
    assert [operation for operation, asked in calls].count("GetObject") > 2
    change_the_manifest(shipment)
    assert "SHA-256 differs" in await complaint(store, access, layout, key)


async def test_a_manifest_of_too_many_files_is_refused_before_they_are_asked_for(
    store, access, layout, shipment, calls, client
):
    key = shipment.send()
    link = b'{"path":"a","linkTarget":"b"},'
    body = client.get_object(Bucket=layout.bucket, Key=shipment.manifest_key())["Body"].read()
    head, _, rest = body.partition(b'"files":[')
    bad = head + b'"files":[' + link * 200_001 + rest
    shipment.put(shipment.manifest_key(), bad)
    commit = client.get_object(Bucket=layout.bucket, Key=key)["Body"].read()
    digests = (hashlib.sha256(one).hexdigest().encode() for one in (body, bad))
    shipment.put(key, commit.replace(*digests))
    calls.clear()
    assert "more than 200000 files" in await complaint(store, access, layout, key)
    assert not [operation for operation, _ in calls if operation == "HeadObject"]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b'{"ranks":[' + b"{}," * 21_000 + b"{}]}", id="ranks without a field"),
        pytest.param(b'{"ranks":' + b"[" * 60_000, id="brackets"),
        pytest.param(b'{"generation":' + b"9" * 60_000 + b"}", id="digits"),
    ],
)
async def test_a_commit_of_anything_is_refused_within_some_milliseconds(access, layout, shipment, body):
    def refused():
        with pytest.raises(BadCommitError, match="does not parse"):
            checked_commit(layout, shipment.commit_key, body)

    assert quiet_seconds(refused) < 0.05


async def test_of_many_commits_the_newest_are_kept(store, access, layout, shipment, client):
    keys = [layout.commit(Order(1, number)) for number in range(1, 71)]
    for key in (*keys, f"{layout.commits}junk"):
        client.put_object(Bucket=layout.bucket, Key=key, Body=b"")
    assert await store.commits(access, layout) == tuple(reversed(keys[-64:]))


async def test_credentials_are_not_shown():
    shown = repr(Access(access_key="AKIA", secret_key="s3cret", session_token="t0ken", ca_pem="pem"))
    assert "s3cret" not in shown
    assert "t0ken" not in shown


# -- TLS ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for 127.0.0.1 that signs itself, and its key: two PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(
            name,
            name,
            key.public_key(),
            x509.random_serial_number(),
            now - timedelta(hours=1),
            now + timedelta(hours=1),
        )
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("tls")
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "ca.crt").write_bytes(made.public_bytes(pem))
    (folder / "tls.key").write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    return folder / "ca.crt", folder / "tls.key"


@pytest.fixture(scope="module")
def secure(tmp_path_factory, certificate):
    cert, key = certificate
    with s3server.running(tmp_path_factory.mktemp("s3-tls") / "buckets", cert=cert, key=key) as running:
        yield running


@pytest.mark.parametrize(
    ("ca", "code"),
    [
        pytest.param(None, "NoSuchBucket", id="a server whose CA is given is asked"),
        pytest.param("", "CertificateNotTrusted", id="a server whose CA is not given is not"),
        pytest.param("garbage", "BadCertificate", id="a CA that is no certificate is said to be none"),
    ],
)
async def test_only_a_trusted_server_is_asked(store, access, certificate, secure, ca, code):
    pem = certificate[0].read_text() if ca is None else ca
    found = await store.probe(
        replace(access, endpoint_url=secure.endpoint_url, ca_pem=pem), Layout("nowhere", "ml/llama/1f0c/")
    )
    assert isinstance(found, Unreachable)
    assert found.code == code


async def test_buckets_that_never_answer_keep_nobody_waiting_for_theirs(access, layout):
    everybody_asks = asyncio.Event()
    asked = set()

    async def silent(reader, writer):
        asked.add(writer)
        if len(asked) == DEAD:
            everybody_asks.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", limit=1 << 20)
    dead = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    # Nothing in common: what one set of credentials may have in flight is bounded by itself.
    accesses = [Access(dead, f"region-{number}", "key", "secret") for number in range(DEAD)]
    store = Store()
    waiting = [asyncio.create_task(store.probe(one, layout)) for one in accesses]
    try:
        await asyncio.wait_for(everybody_asks.wait(), 30)
        assert await asyncio.wait_for(store.probe(access, layout), 5) is None
        assert not any(task.done() for task in waiting), "They still wait."
    finally:
        server.close()
        for writer in asked:
            writer.transport.abort()
        await asyncio.gather(*waiting)
        store.close()
