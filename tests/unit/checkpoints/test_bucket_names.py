"""Bucket names that AWS reserves for what is no general purpose bucket."""

from __future__ import annotations

import pytest

from trainingrun_operator.checkpoints.keys import Layout


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("runs--usw2-az1--x-s3", "a directory bucket"),
        ("runs--usw2-lax1-az1--x-s3", "a directory bucket"),
        ("mine--usw2-az1--xa-s3", "an access point of a directory bucket"),
        ("mine-abcdef1234567890abcdef12345678901--ol-s3", "an Object Lambda access point"),
        ("mine-o0123456789abcdef0123456789abcdef--op-s3", "an access point of S3 on Outposts"),
        ("0123456789--table-s3", "a table bucket"),
        ("mfzwi23gnjvgw.mrap", "a Multi-Region Access Point"),
    ],
)
def test_what_is_no_general_purpose_bucket_is_refused_by_its_name(name, what):
    with pytest.raises(ValueError, match=f"destination 's3://{name}/a': '{name}' is the name of {what}") as raised:
        Layout.of(f"s3://{name}/a", "ml", "llama", "1f0c")
    assert str(raised.value).endswith(": use a general purpose bucket")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("mine-hrzrlukc5m36ft7okagglf3gmwluquse1b-s3alias", id="an alias of an access point"),
        pytest.param("x-s3", id="only like the end of a directory bucket"),
        pytest.param("team-x-s3", id="one hyphen only"),
        pytest.param("a--x-s3-b", id="the end of a directory bucket in its middle"),
        pytest.param("mrap", id="only the word"),
    ],
)
def test_other_names_are_names_of_buckets(name):
    assert Layout.of(f"s3://{name}", "ml", "llama", "1f0c").bucket == name
