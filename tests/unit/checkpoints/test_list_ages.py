"""Keys and ages of objects, as one page of a list shows them."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

import pytest

from trainingrun_operator.checkpoints import s3

AT = datetime(2026, 1, 2, 3, 4, 0, tzinfo=UTC)


class Client:
    """A server that sends this, whatever it is asked for."""

    def __init__(self, *, date: str | None, contents: list[dict[str, Any]], more: bool = False) -> None:
        self.answer: dict[str, Any] = {
            "ResponseMetadata": {"HTTPHeaders": {} if date is None else {"date": date}},
            "IsTruncated": more,
        }
        self.answer |= {"Contents": contents} if contents else {}
        self.asked: list[dict[str, Any]] = []

    def list_objects_v2(self, **asked: Any) -> dict[str, Any]:
        self.asked.append(asked)
        return self.answer


def ages(**fields):
    client: Any = Client(**fields)
    listed = s3.list_ages("b", "k", client)
    assert client.asked == [{"Bucket": "b", "Prefix": "k", "MaxKeys": 1000}], "One request."
    return listed


def test_the_age_is_measured_by_the_servers_clock():
    one = {"Key": "k1", "LastModified": AT}
    assert ages(date="Fri, 02 Jan 2026 03:04:05 GMT", contents=[one]) == s3.Listed((("k1", 5.0),), more=False)


@pytest.mark.parametrize(
    "date", [None, "", "yesterday", "Fri, 99 Jan 2026 03:04:05 GMT", "Fri, 02 Jan 99999 0:0:0 GMT"]
)
def test_without_a_clock_of_the_server_the_age_is_measured_by_the_operators(date):
    made = datetime.fromtimestamp(time.time() - 3600, UTC)
    ((_, age),) = ages(date=date, contents=[{"Key": "k1", "LastModified": made}]).ages
    assert 3600 <= age < 7200


def test_no_more_than_a_page_is_taken_of_a_server_that_sends_more():
    listed = ages(
        date="Fri, 02 Jan 2026 03:04:05 GMT",
        contents=[{"Key": f"k{number}", "LastModified": AT} for number in range(1500)],
        more=True,
    )
    assert (len(listed.ages), listed.more) == (1000, True)


def test_an_empty_list_and_an_object_without_a_time():
    assert ages(date=None, contents=[]) == s3.Listed((), more=False)
    assert ages(date=None, contents=[{"Key": "k1"}]) == s3.Listed((), more=False)
