"""Whose keys the agent asks the bucket with."""

from __future__ import annotations

import pytest

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import AgentConfig
from trainingrun_operator.checkpoints import credentials
from trainingrun_operator.checkpoints.bucket import client


@pytest.fixture
def secret(tmp_path, monkeypatch):
    """A folder with keys, on a machine that has others."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of the machine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of the machine")
    (tmp_path / names.ACCESS_KEY).write_text("key\n")
    (tmp_path / names.SECRET_KEY).write_text("secret\n")
    return tmp_path


def config(secret_dir):
    return AgentConfig(
        namespace="ml", run="bert", run_uid="u", path="/c", destination="s3://b/p", secret_dir=str(secret_dir or "")
    )


def keys_of(s3):
    """As the next request would be signed with."""
    found = s3._request_signer._credentials.get_frozen_credentials()
    return found.access_key, found.secret_key, found.token


def test_keys_are_those_of_the_secret_and_never_of_the_machine(secret):
    assert keys_of(client(config(secret))) == ("key", "secret", None)


def test_without_a_secret_they_are_those_of_the_machine(secret):
    assert keys_of(client(config(None)))[:2] == ("of the machine", "of the machine")


def test_what_was_renewed_is_used(secret, monkeypatch):
    monkeypatch.setattr(credentials, "READ_AGAIN_SECONDS", 0)
    s3 = client(config(secret))
    monkeypatch.setattr(credentials, "READ_AGAIN_SECONDS", 60)
    (secret / names.ACCESS_KEY).write_text("newer")
    (secret / names.SESSION_TOKEN).write_text("token")
    assert keys_of(s3) == ("newer", "secret", "token")


def test_without_its_keys_a_secret_is_no_secret(secret):
    (secret / names.ACCESS_KEY).unlink()
    with pytest.raises(FileNotFoundError, match=names.ACCESS_KEY):
        client(config(secret))
