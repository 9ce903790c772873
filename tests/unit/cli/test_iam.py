"""The IAM policy for a bucket: enough for each side, and the right to delete only where it is asked for."""

from __future__ import annotations

import json

import pytest

from trainingrun_operator.checkpoints import bucket_names
from trainingrun_operator.cli import iam
from trainingrun_operator.cli.trouble import TroubleError

KEY = "arn:aws:kms:us-east-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"


def allowed(*arguments, **options):
    """Every action with what it is allowed on."""
    found = json.loads(iam.policy(*arguments, **options))
    assert found["Version"] == "2012-10-17"
    assert all(one["Effect"] == "Allow" and set(one) == {"Effect", "Action", "Resource"} for one in found["Statement"])
    rows = [(action, one["Resource"]) for one in found["Statement"] for action in one["Action"]]
    return {(action, each) for action, on in rows for each in ([on] if isinstance(on, str) else on)}


BUCKET, BELOW = "arn:aws:s3:::my-bucket", "arn:aws:s3:::my-bucket/runs/*"
AGENT = {
    ("s3:ListBucket", BUCKET),
    ("s3:ListBucketMultipartUploads", BUCKET),
    ("s3:PutObject", BELOW),
    ("s3:GetObject", BELOW),
    ("s3:GetObjectVersion", BELOW),
    ("s3:AbortMultipartUpload", BELOW),
    ("s3:ListMultipartUploadParts", BELOW),
}
STORY = {("s3:PutObject", f"{BELOW}/{name}") for name in ("run.json", "curve.json", "log.txt.gz", "log-*.txt.gz")}
OPERATOR = {("s3:ListBucket", BUCKET), ("s3:GetObject", BELOW), *STORY}


@pytest.mark.parametrize(("side", "wanted"), [("agent", AGENT), ("operator", OPERATOR)])
@pytest.mark.parametrize("uri", ["s3://my-bucket/runs", "s3://my-bucket/runs/"])
def test_each_side_is_allowed_what_it_does_and_nothing_is_deleted(side, wanted, uri):
    assert allowed(uri, side) == wanted


def test_retention_adds_deleting_below_the_prefix_alone():
    deletes = {
        ("s3:DeleteObject", BELOW),
        ("s3:AbortMultipartUpload", BELOW),
        ("s3:ListBucketMultipartUploads", BUCKET),
    }
    assert allowed("s3://my-bucket/runs", "operator", keep_last=True) == OPERATOR | deletes
    assert allowed("s3://my-bucket/runs", "agent", keep_last=True) == AGENT | deletes


def test_a_key_is_for_both_sides():
    keys = {("kms:GenerateDataKey", KEY), ("kms:Decrypt", KEY)}
    assert allowed("s3://my-bucket/runs", "agent", kms_key=KEY) == AGENT | keys
    assert allowed("s3://my-bucket/runs", "operator", kms_key=KEY) == OPERATOR | keys


def test_a_bucket_without_a_prefix_is_meant_whole():
    assert ("s3:PutObject", "arn:aws:s3:::my-bucket/*") in allowed("s3://my-bucket", "agent")


@pytest.mark.parametrize(
    ("uri", "key", "said"),
    [
        ("s3://my-bucket/a//b", "", "destination 's3://my-bucket/a//b' has an empty, '.' or '..' segment: remove it."),
        ("s3://MY/x", "", "destination 's3://MY/x' does not have the form s3://bucket/prefix."),
        ("s3://mine.mrap/x", "", f"destination 's3://mine.mrap/x': {bucket_names.complaint('mine.mrap')}."),
        ("s3://my-bucket/x", "*", "'*' is not the ARN of a KMS key: expected arn:aws:kms:…"),
    ],
)
def test_what_would_allow_something_else_is_refused(uri, key, said):
    with pytest.raises(TroubleError) as raised:
        iam.policy(uri, "agent", kms_key=key)
    assert str(raised.value) == said


def test_a_star_in_a_prefix_is_the_character_and_widens_nothing():
    """S3 keys may have a star, and IAM reads one as anything."""
    with pytest.raises(TroubleError, match=r"has a \*"):
        iam.policy("s3://my-bucket/team-*", "agent")


def test_the_command_prints_it_without_a_cluster(plugin, kubectl):
    said = plugin("policy", "s3://my-bucket/runs", "--for", "operator")
    assert (said.code, said.err) == (0, "")
    assert json.loads(said.out) == json.loads(iam.policy("s3://my-bucket/runs", "operator"))
    assert kubectl.asked == []
