"""The process's own identity: asked when it is needed, again after a failure, and a failure of any kind is one of two."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import botocore.session
import pytest
from botocore import exceptions
from botocore.credentials import CredentialResolver, Credentials
from botocore.hooks import HierarchicalEmitter

from trainingrun_operator.checkpoints import bucket_owner, own_identity
from trainingrun_operator.checkpoints.bucket import code_of, describe
from trainingrun_operator.checkpoints.clients import Clients
from trainingrun_operator.checkpoints.own_identity import own_session
from trainingrun_operator.checkpoints.s3 import Access
from trainingrun_operator.checkpoints.s3 import code_of as code_for_operator


class Chain(CredentialResolver):
    """Answers with what is next in line; the last answer stays."""

    def __init__(self, *answers):
        super().__init__([])
        self.answers = list(answers)
        self.asked = 0

    def load_credentials(self):
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


KEYS = Credentials("key", "secret", "token")


@pytest.fixture
def found(monkeypatch):
    """The credentials of a session whose chain answers so."""

    def make(*answers, again=0.0):
        chain = Chain(*answers)
        monkeypatch.setattr(own_identity, "create_credential_resolver", lambda *_, **__: chain)
        monkeypatch.setattr(own_identity, "ASK_AGAIN_SECONDS", again)
        return own_session().get_credentials(), chain

    return make


def test_the_chain_is_asked_when_keys_are_needed_and_once(found):
    credentials, chain = found(KEYS)
    assert chain.asked == 0
    assert [credentials.get_frozen_credentials().access_key for _ in range(3)] == ["key"] * 3
    assert chain.asked == 1


REFUSED = exceptions.ClientError({"Error": {"Code": "AccessDenied", "Message": "a body"}}, "AssumeRoleWithWebIdentity")


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        pytest.param(None, "the pod has no AWS identity of its own: associate a role", id="nothing found"),
        pytest.param(REFUSED, "(AssumeRoleWithWebIdentity failed with AccessDenied)", id="a role that refuses"),
        pytest.param(exceptions.ClientError({}, "AssumeRole"), "(AssumeRole failed with no code)", id="an answer without a code"),
        pytest.param(FileNotFoundError(2, "No such file or directory", "/token"), "(/token: No such file or directory)", id="a token that is not mounted"),
        pytest.param(PermissionError(13, "Permission denied", "/token"), "(/token: Permission denied)", id="a token of another user"),
        pytest.param(exceptions.EndpointConnectionError(endpoint_url="http://sts"), "(EndpointConnectionError: Could not connect", id="an STS that is not there"),
        pytest.param(exceptions.CredentialRetrievalError(provider="container-role", error_msg="401"), "(401)", id="an endpoint that refuses"),
        pytest.param(exceptions.InvalidConfigError(error_msg="two\n lines"), "two lines)", id="a message of lines"),
        pytest.param(ValueError("no JSON"), "(ValueError: no JSON)", id="an answer that is no JSON"),
        pytest.param(OSError("odd"), "(OSError: odd)", id="an error without a file"),
    ],
)  # fmt: skip
def test_every_failure_of_the_chain_is_missing_credentials_and_is_asked_again(found, failure, said):
    credentials, chain = found(failure, KEYS)
    with pytest.raises((exceptions.NoCredentialsError, exceptions.CredentialRetrievalError)) as raised:
        credentials.get_frozen_credentials()
    assert code_of(raised.value) == code_for_operator(raised.value) == "NoCredentials"
    assert said in describe(raised.value)
    assert "a body" not in describe(raised.value)
    assert credentials.get_frozen_credentials().access_key == "key"
    assert chain.asked == 2


def test_a_chain_that_has_just_failed_is_not_asked_by_every_thread(found):
    credentials, chain = found(None, again=3600)

    def ask(_):
        with pytest.raises(exceptions.NoCredentialsError):
            credentials.get_frozen_credentials()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(32)))
    assert chain.asked == 1


def test_making_a_client_asks_nobody(found):
    _, chain = found(None)
    clients = Clients()
    clients.door(Access(own_identity=True))
    clients.close()
    assert chain.asked == 0


@pytest.mark.parametrize(
    ("named", "given", "region"),
    [("", "eu-west-1", "eu-west-1"), ("us-west-2", "eu-west-1", "us-west-2"), ("", "", None)],
)
def test_the_identitys_own_calls_go_to_the_region_of_the_environment_or_of_the_bucket(
    monkeypatch, named, given, region
):
    asked = []
    monkeypatch.setattr(own_identity, "create_credential_resolver", lambda _, region_name: asked.append(region_name))
    monkeypatch.delenv("AWS_REGION", raising=False)
    if named:
        monkeypatch.setenv("AWS_DEFAULT_REGION", named)
    else:
        monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    own_session(given)
    assert asked == [region]


# -- the owner of the bucket --------------------------------------------------------------------------------------

CALLS = (
    "PutObject", "GetObject", "HeadObject", "ListObjectsV2", "CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload",
    "AbortMultipartUpload", "ListParts", "ListMultipartUploads", "CopyObject", "DeleteObjects",
)  # fmt: skip
"""Every call that agent, restore or operator makes."""


@pytest.mark.parametrize("call", CALLS)
def test_every_kind_of_call_names_the_account(call):
    model = botocore.session.get_session().get_service_model("s3").operation_model(call)
    events, params = HierarchicalEmitter(), dict[str, str]()
    bucket_owner.expect(events, "123456789012")
    events.emit(f"before-parameter-build.s3.{call}", params=params, model=model)
    named = {"ExpectedBucketOwner"} | ({"ExpectedSourceBucketOwner"} if call == "CopyObject" else set())
    assert params == dict.fromkeys(named, "123456789012")


def test_without_an_account_none_is_named():
    model = botocore.session.get_session().get_service_model("s3").operation_model("ListBuckets")
    for owner in ("", "123456789012"):
        events, params = HierarchicalEmitter(), dict[str, str]()
        bucket_owner.expect(events, owner)
        events.emit("before-parameter-build.s3.ListBuckets", params=params, model=model)
        assert params == {}, "the call has no bucket"
