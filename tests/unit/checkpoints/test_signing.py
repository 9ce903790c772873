"""Requests signed by hand are those that botocore's signer makes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from trainingrun_operator.checkpoints.signing import EMPTY, UNSIGNED, Signer, path_of, query_of

HOST = "s3.example:9000"
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
VISIBLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40)
SPACED = st.lists(VISIBLE, min_size=1, max_size=3).map("  ".join)
NAMES = st.sampled_from(
    [
        "if-none-match",
        "range",
        "content-type",
        "x-amz-checksum-crc64nvme",
        "x-amz-checksum-mode",
        "x-amz-expected-bucket-owner",
    ]
)
MOMENTS = st.datetimes(datetime(2015, 1, 1), datetime(2100, 1, 1)).map(lambda naive: naive.replace(tzinfo=UTC))  # noqa: DTZ001  # hypothesis asks for naive ones
DIGESTS = st.sampled_from([EMPTY, UNSIGNED, "ab" * 32])


def authorization_by_botocore(
    keys: Credentials, region: str, method: str, url: str, headers: dict[str, str], moment: str
) -> str:
    """What botocore writes into the header for a request that is complete otherwise."""
    signer = S3SigV4Auth(keys, "s3", region)
    request = AWSRequest(method=method, url=url, headers=dict(headers))
    request.context["timestamp"] = moment
    request.context["payload_signing_enabled"] = True
    text = signer.string_to_sign(request, signer.canonical_request(request))
    signed = signer.signed_headers(signer.headers_to_sign(request))
    return (
        f"AWS4-HMAC-SHA256 Credential={signer.scope(request)}, SignedHeaders={signed},"
        f" Signature={signer.signature(text, request)}"
    )


@given(
    method=st.sampled_from(["GET", "HEAD", "PUT", "POST", "DELETE"]),
    key=TEXT,
    query=st.lists(st.tuples(TEXT, TEXT), max_size=4, unique_by=lambda pair: pair[0]),
    headers=st.dictionaries(NAMES, SPACED),
    access_key=VISIBLE,
    secret_key=TEXT,
    token=st.none() | VISIBLE,
    region=st.sampled_from(["us-east-1", "eu-central-2", "garage"]),
    payload=DIGESTS,
    at=MOMENTS,
)
def test_a_signature_is_that_of_botocore(
    method, key, query, headers, access_key, secret_key, token, region, payload, at
):
    path, asked = path_of(key, "checkpoints"), query_of(query)

    sent = Signer(access_key, secret_key, token, region).signed(
        method, path, {"host": HOST, **headers}, query=asked, payload=payload, at=at.timestamp()
    )

    url = f"https://{HOST}{path}{'?' if asked else ''}{asked}"
    others = {name: value for name, value in sent.items() if name != "authorization"}
    moment = at.strftime("%Y%m%dT%H%M%SZ")
    keys = Credentials(access_key, secret_key, token)
    assert sent["authorization"] == authorization_by_botocore(keys, region, method, url, others, moment)


def test_what_is_signed_is_sent():
    sent = Signer("key", "secret", "session", "us-east-1").signed(
        "HEAD", "/b/k", {"host": HOST, "range": "bytes=0-1"}, payload=EMPTY, at=0
    )

    assert {name: value for name, value in sent.items() if name != "authorization"} == {
        "host": HOST,
        "range": "bytes=0-1",
        "x-amz-content-sha256": EMPTY,
        "x-amz-date": "19700101T000000Z",
        "x-amz-security-token": "session",
    }


def test_the_key_of_the_day_is_derived_anew_after_midnight():
    kept = Signer("key", "secret", None, "us-east-1")
    headers = {"host": HOST}
    before = kept.signed("HEAD", "/b/k", headers, at=86_399)
    after = kept.signed("HEAD", "/b/k", headers, at=86_400)

    assert before == Signer("key", "secret", None, "us-east-1").signed("HEAD", "/b/k", headers, at=86_399)
    assert after == Signer("key", "secret", None, "us-east-1").signed("HEAD", "/b/k", headers, at=86_400)
    assert "/19700102/" in after["authorization"]


@pytest.mark.parametrize(
    ("key", "bucket", "path"),
    [
        ("a/b c", "", "/a/b%20c"),
        ("a/b c", "bucket", "/bucket/a/b%20c"),
        ("ü+%?#&=", "b", "/b/%C3%BC%2B%25%3F%23%26%3D"),
        ("./x//y/..", "b", "/b/./x//y/.."),
        ("tilde~-_.", "b", "/b/tilde~-_."),
    ],
)
def test_a_path_is_encoded_once_and_never_normalized(key, bucket, path):
    assert path_of(key, bucket) == path


def test_a_query_is_ordered_by_its_encoded_names():
    assert query_of([("uploadId", "a/b"), ("partNumber", "7")]) == "partNumber=7&uploadId=a%2Fb"
