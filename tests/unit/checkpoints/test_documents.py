"""Where a run's bytes lie, and in which order they were written."""

from __future__ import annotations

import pytest

from trainingrun_operator.checkpoints.documents import Claim, Commit, FileEntry, Manifest, PodRef, RunRef
from trainingrun_operator.checkpoints.keys import Layout, Order, incarnation_of_claim, order_of_commit

RUN = RunRef(namespace="ml", name="bert", uid="u-1")
LAYOUT = Layout.of("s3://bucket/team/runs", "ml", "bert", "u-1")


@pytest.mark.parametrize(
    ("destination", "bucket", "base"),
    [
        pytest.param("s3://bucket/team/runs", "bucket", "team/runs/ml/bert/u-1/", id="a prefix"),
        pytest.param("s3://bucket/runs/", "bucket", "runs/ml/bert/u-1/", id="a slash at its end"),
        pytest.param("s3://bucket", "bucket", "ml/bert/u-1/", id="a bucket alone"),
        pytest.param("s3://bucket/", "bucket", "ml/bert/u-1/", id="a bucket and a slash"),
        pytest.param("s3://my.bucket-1/a_b!c*'()", "my.bucket-1", "a_b!c*'()/ml/bert/u-1/", id="every character that is safe"),
    ],
)  # fmt: skip
def test_a_run_has_its_own_folder(destination, bucket, base):
    assert Layout.of(destination, "ml", "bert", "u-1") == Layout(bucket, base)


@pytest.mark.parametrize(
    "destination",
    [
        pytest.param("", id="nothing"),
        pytest.param("bucket/runs", id="no scheme"),
        pytest.param("gs://bucket/runs", id="another scheme"),
        pytest.param("s3:///runs", id="no bucket"),
        pytest.param("s3://Bucket", id="a bucket in capitals"),
        pytest.param("s3://-bucket", id="a bucket that begins with a dash"),
        pytest.param("s3://bucket/a b", id="a space"),
        pytest.param("s3://bucket/a\n", id="a line break"),
        pytest.param("s3://bucket/a//b", id="an empty segment"),
        pytest.param("s3://bucket/../b", id="a way up"),
        pytest.param("s3://bucket/./b", id="a dot"),
    ],
)
def test_a_destination_is_refused_with_its_own_words(destination):
    with pytest.raises(ValueError, match=r"^destination ") as error:
        Layout.of(destination, "ml", "bert", "u-1")
    assert repr(destination) in str(error.value)


def test_every_key_of_a_run():
    order = Order(2, 7)
    base = "team/runs/ml/bert/u-1/"
    assert LAYOUT.folder(0, order, "pod-x") == f"{base}r0/i2-g0007-pod-x/"
    assert LAYOUT.manifest(3, order, "pod-x") == f"{base}r3/i2-g0007-pod-x.manifest.json"
    assert LAYOUT.commit(order) == f"{base}commits/i2-g0007.json"
    assert LAYOUT.claim(0, 12) == f"{base}r0/incarnations/12.json"
    assert LAYOUT.uri(LAYOUT.folder(0, order, "pod-x")) == f"s3://bucket/{base}r0/i2-g0007-pod-x/"


@pytest.mark.parametrize(
    ("key", "owned"),
    [
        pytest.param("team/runs/ml/bert/u-1/r0/x", True, id="under the run's folder"),
        pytest.param("team/runs/ml/bert/u-2/r0/x", False, id="of another run"),
        pytest.param("team/runs/ml/bert/u-1", False, id="the folder itself"),
        pytest.param("team/runs/ml/bert/u-1/../u-2/x", False, id="up and out"),
        pytest.param("team/runs/ml/bert/u-1/a..b", True, id="two dots in a name"),
        pytest.param("team/runs/ml/bert/u-1/" + "é" * 501, True, id="as long as a key may be"),
        pytest.param("team/runs/ml/bert/u-1/" + "é" * 502, False, id="longer, in bytes"),
    ],
)
def test_nothing_outside_the_run_is_ever_asked_for(key, owned):
    assert LAYOUT.owns(key) == owned


@pytest.mark.parametrize(
    ("key", "order"),
    [
        pytest.param(LAYOUT.commit(Order(2, 7)), Order(2, 7), id="a commit"),
        pytest.param(LAYOUT.commit(Order(10, 12345)), Order(10, 12345), id="one of many"),
        pytest.param(LAYOUT.claim(1, 2), None, id="a claim"),
        pytest.param("x/commits/i2-g7.json.tmp", None, id="something else beside it"),
        pytest.param("x/commits/i2-g7.json\n", None, id="a line break after it"),
    ],
)
def test_the_order_that_a_commits_key_speaks_of(key, order):
    assert order_of_commit(key) == order


@pytest.mark.parametrize(
    ("key", "incarnation"),
    [
        pytest.param(LAYOUT.claim(1, 12), 12, id="a claim"),
        pytest.param(LAYOUT.commit(Order(1, 1)), None, id="a commit"),
    ],
)
def test_the_incarnation_that_a_claims_key_speaks_of(key, incarnation):
    assert incarnation_of_claim(key) == incarnation


def test_order_is_by_writer_and_then_by_number_not_by_text():
    keys = [LAYOUT.commit(Order(*pair)) for pair in [(10, 1), (2, 10_000), (2, 9999), (1, 99_999)]]
    assert sorted(keys, key=lambda key: order_of_commit(key) or Order(0, 0)) == keys[::-1]


def commit(**fields):
    return Commit(run=RUN, incarnation=2, generation=7, reason="save", **fields)


def test_a_commit_knows_its_order():
    assert commit().order == Order(2, 7)


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param(commit(termination_id="stop-u-1", attempt=2, final=True, total_bytes=2**53), id="a commit"),
        pytest.param(
            Manifest(
                run=RUN,
                pod=PodRef(name="pod-x", uid="p-1"),
                incarnation=2,
                generation=7,
                files=(
                    FileEntry(path="a/b", size=3, key="k", crc64nvme="AAA="),
                    FileEntry(path="l", link_target="a/b"),
                ),
            ),
            id="a manifest",
        ),
        pytest.param(Claim(run=RUN, pod=PodRef(name="pod-x", uid="p-1", rank=1, world_size=2)), id="a claim"),
    ],
)
def test_what_is_written_is_read_back(stored):
    text = stored.model_dump_json(by_alias=True)
    assert type(stored).model_validate_json(text) == stored


def test_what_a_newer_agent_adds_is_ignored():
    assert Commit.parse({**commit().dump(), "later": 1}) == commit()


def test_the_schema_is_named_in_what_is_written():
    assert commit().dump()["schema"] == 2


@pytest.mark.parametrize("rank", [0, 1, 7, 1023])
def test_the_log_of_each_rank_has_a_key_of_its_own(rank):
    key = LAYOUT.log(rank)
    assert key == LAYOUT.base + ("log.txt.gz" if rank == 0 else f"log-{rank}.txt.gz")
    assert LAYOUT.rank_of_log(key) == rank
    assert LAYOUT.owns(key)


@pytest.mark.parametrize(
    "name",
    ["log-0.txt.gz", "log-01.txt.gz", "log--1.txt.gz", "log-1.txt", "log.txt.gz.bak", "logs", "log-²", "log-9999999.txt.gz", "r0/log.txt.gz"],
)  # fmt: skip
def test_another_object_is_no_log(name):
    assert LAYOUT.rank_of_log(LAYOUT.base + name) is None


def test_the_log_of_another_run_is_not_of_this_one():
    assert LAYOUT.rank_of_log("team/runs/ml/other/u-1/log.txt.gz") is None
