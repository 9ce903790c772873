"""Signatures, against the vector that the libraries of Standard Webhooks are tested with."""

from __future__ import annotations

import pytest

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
