"""Signatures, against the vector that the libraries of Standard Webhooks are tested with, and against one of those libraries."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from receiving import check
from standardwebhooks.webhooks import WebhookVerificationError

from trainingrun_operator.core.signature import keys_of, signed

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
ID, AT, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_message_is_signed_as_the_standard_has_it():
    assert signed(keys_of(SECRET), ID, AT, BODY) == {
        "webhook-id": ID,
        "webhook-timestamp": "1614265330",
        "webhook-signature": SIGNATURE,
    }


KEYS = st.binary(min_size=24, max_size=64).map(lambda key: f"whsec_{base64.b64encode(key).decode()}")
IDS = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1)


@given(
    secrets=st.lists(KEYS, min_size=1, max_size=2, unique=True),
    message_id=IDS,
    at=st.integers(0, 2**32),
    body=st.text().map(str.encode),
)
def test_whoever_knows_one_of_the_secrets_can_check_any_message(secrets, message_id, at, body):
    headers = signed(keys_of(" ".join(secrets)), message_id, at, body)
    for secret in secrets:
        check(headers, body, secret, at=at)


def test_who_knows_another_secret_cannot():
    with pytest.raises(WebhookVerificationError):
        check(signed(keys_of(SECRET), ID, AT, BODY), BODY, OTHER, at=AT)


def test_a_secret_may_come_without_its_prefix():
    assert keys_of(SECRET.removeprefix("whsec_")) == keys_of(SECRET)


def test_while_one_secret_replaces_another_both_sign():
    first, second = signed(keys_of(f"{SECRET} {OTHER}"), ID, AT, BODY)["webhook-signature"].split(" ")
    assert first == SIGNATURE
    assert second == signed(keys_of(OTHER), ID, AT, BODY)["webhook-signature"] != SIGNATURE


@pytest.mark.parametrize(
    ("message_id", "at", "body"),
    [
        pytest.param("msg_other", AT, BODY, id="the id"),
        pytest.param(ID, AT + 1, BODY, id="the time"),
        pytest.param(ID, AT, BODY + b" ", id="a single space of the body"),
    ],
)
def test_whatever_changes_changes_the_signature(message_id, at, body):
    assert signed(keys_of(SECRET), message_id, at, body)["webhook-signature"] != SIGNATURE


def test_no_secret_is_no_key():
    assert keys_of("  ") == ()


@pytest.mark.parametrize("secret", ["whsec_", "sesame!", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa", "A" * 88 + "AAAA"])
def test_what_is_no_secret_is_refused_without_quoting_it(secret):
    with pytest.raises(ValueError, match=r"bytes|base64|padding|Base64") as caught:
        keys_of(secret)
    assert secret not in str(caught.value)
