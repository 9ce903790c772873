"""Clients of S3 servers: few, whatever the number of credentials, and nothing is left behind by those that were dropped."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from botocore import exceptions
from cpu import longest_step, quiet_seconds

from trainingrun_operator.checkpoints.clients import Clients
from trainingrun_operator.checkpoints.s3 import Access

ACCESS = Access("https://s3.example:9000", "us-east-1", "key", "secret", owner="ml")


@pytest.fixture
def clients():
    made = Clients()
    yield made
    made.close()


def signs_with(door):
    """The keys that a request would be signed with."""
    return door.call(lambda client: client._request_signer._credentials.get_frozen_credentials())


def test_thousands_of_credentials_for_one_server_share_a_client(clients):
    made: list[int] = []
    of_its_own = quiet_seconds(
        lambda: made.append(id(clients.door(replace(ACCESS, region=f"region-{len(made)}")).client))
    )
    assert len(set(made)) == len(made)
    doors = [clients.door(replace(ACCESS, access_key=f"key-{n}", owner=f"ns-{n % 50}")) for n in range(2000)]
    assert len({id(door.client) for door in doors}) == 1
    assert len({id(door.calls) for door in doors}) == 2000
    shared = longest_step(
        lambda: (clients.door(replace(ACCESS, access_key=f"another-{n}", owner=f"ns-{n % 50}")) for n in range(200))
    )
    assert shared < of_its_own / 4


def test_a_call_is_signed_with_its_own_credentials_whoever_else_calls(clients):
    doors = [clients.door(replace(ACCESS, access_key=f"key-{n}", session_token="t" * (n % 2))) for n in range(20)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(signs_with, doors * 20))
    assert [(one.access_key, one.token) for one in found[:2]] == [("key-0", None), ("key-1", "t")]
    assert [one.access_key for one in found] == [f"key-{n}" for n in range(20)] * 20


def test_without_a_call_there_are_no_credentials(clients):
    door = clients.door(ACCESS)
    signs_with(door)
    with pytest.raises(exceptions.NoCredentialsError):
        door.client._request_signer._credentials.get_frozen_credentials()


def test_the_operators_own_credentials_are_never_those_of_a_secret(clients, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "operators")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "operators-secret")
    own = clients.door(Access(own_identity=True))
    assert signs_with(own).access_key == "operators"
    assert signs_with(clients.door(ACCESS)).access_key == "key"
    with pytest.raises(exceptions.NoCredentialsError):
        clients.door(replace(ACCESS, secret_key=""))


@pytest.mark.parametrize(
    "other",
    [
        {"endpoint_url": "https://s3.example:9001"},
        {"region": "eu-central-1"},
        {"ca_pem": "another"},
        {"expected_bucket_owner": "123456789012"},
    ],
)
def test_another_server_gets_a_client_of_its_own(clients, other):
    assert clients.door(ACCESS).client is not clients.door(replace(ACCESS, **other)).client


def test_a_namespace_that_asks_for_many_servers_drops_only_its_own():
    clients = Clients(keep=4)
    quiet = clients.door(ACCESS)
    for number in range(6):
        clients.door(replace(ACCESS, region=f"made-up-{number}", owner="loud"))
    assert clients.door(ACCESS).client is quiet.client
    clients.close()


def test_a_certificate_that_is_renewed_leaves_no_file_behind():
    clients = Clients(keep=2)
    for number in range(6):
        clients.door(replace(ACCESS, ca_pem=f"certificate {number}"))
    assert clients._folder is not None
    folder = Path(clients._folder.name)
    gc.collect()
    assert sorted(file.read_text() for file in folder.iterdir()) == ["certificate 4", "certificate 5"]
    clients.close()
    assert not folder.exists()
    gc.collect()


def test_the_digest_tells_every_field_and_keeps_no_secret():
    fields = (
        "endpoint_url",
        "region",
        "access_key",
        "secret_key",
        "session_token",
        "ca_pem",
        "expected_bucket_owner",
        "owner",
    )
    changes: list[dict[str, Any]] = [{name: "another"} for name in fields]
    others = {replace(ACCESS, **change).digest for change in [*changes, {"own_identity": True}]}
    assert len(others | {ACCESS.digest}) == len(fields) + 2
    assert b"secret" not in ACCESS.digest
