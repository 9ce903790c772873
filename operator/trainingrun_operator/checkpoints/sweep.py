"""Calls that delete from a bucket, and the lists with ages that they need. The operator's retention makes them; agents never delete."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from botocore import exceptions

from trainingrun_operator.checkpoints.keys import incarnation_of_claim

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from mypy_boto3_s3 import S3Client

    from trainingrun_operator.checkpoints.keys import Layout

BATCH: Final = 1000
"""Keys of one DeleteObjects."""
PAGES_MAX: Final = 250
"""Pages of 1,000 keys of one list: more than a manifest may have files."""
_NO_UPLOADS: Final = frozenset({"NoSuchUpload", "404", "NoSuchKey", "NotFound", "NotImplemented"})


class RefusedError(Exception):
    """The store refuses to delete. The message is its code."""


class UnlistedError(ValueError):
    """A list is longer than is read."""


class Upload(NamedTuple):
    """One unfinished multipart upload."""

    key: str
    id: str
    age: float
    """In seconds."""


def ages(layout: Layout, prefix: str, client: S3Client, *, flat: bool = False) -> dict[str, float]:
    """Return the ages in seconds of the objects below a prefix, by key; ``flat``: without those in folders below it.

    Ages are by the store's clock if it is behind this process's: an object never seems older than it is.

    Raises:
        UnlistedError: there are more than `PAGES_MAX` pages.
    """
    found: dict[str, float] = {}
    for page in _pages(client, "list_objects_v2", layout, prefix, flat=flat):
        now = _now(page)
        found.update({item["Key"]: (now - item["LastModified"]).total_seconds() for item in page.get("Contents", ())})
    return {key: age for key, age in found.items() if layout.owns(key)}


def ranks(layout: Layout, client: S3Client) -> tuple[int, ...]:
    """Return the ranks that have written below the run's prefix."""
    found: set[int | None] = set()
    for page in _pages(client, "list_objects_v2", layout, layout.base, flat=True):
        found.update(layout.rank_of(item["Prefix"]) for item in page.get("CommonPrefixes", ()))
    return tuple(sorted(rank for rank in found if rank is not None))


def delete(layout: Layout, keys: Sequence[str], client: S3Client) -> None:
    """Delete objects of the run. An object that is gone already is a success.

    Raises:
        RefusedError: the store refuses one of them.
        ValueError: a key is not one of the run's; nothing is deleted.
    """
    if foreign := [key for key in keys if not layout.owns(key)]:
        message = f"{min(foreign)!r} is outside of {layout.base}"
        raise ValueError(message)
    for start in range(0, len(keys), BATCH):
        batch = [{"Key": key} for key in keys[start : start + BATCH]]
        try:
            answer = client.delete_objects(Bucket=layout.bucket, Delete={"Objects": batch, "Quiet": True})  # type: ignore[typeddict-item]
        except exceptions.ClientError as error:
            raise _refused(error) from error
        if errors := answer.get("Errors"):
            raise RefusedError(str(errors[0].get("Code") or "StoreError"))


def uploads(layout: Layout, client: S3Client) -> list[Upload]:
    """Return the unfinished multipart uploads below the run's prefix."""
    found: list[Upload] = []
    try:
        for page in _pages(client, "list_multipart_uploads", layout, layout.base):
            now = _now(page)
            found += [
                Upload(item["Key"], item["UploadId"], (now - item["Initiated"]).total_seconds())
                for item in page.get("Uploads", ())
            ]
    except exceptions.ClientError as error:
        if str(error.response.get("Error", {}).get("Code")) not in _NO_UPLOADS:
            raise
    return [one for one in found if layout.owns(one.key)]


def claimed(layout: Layout, rank: int, client: S3Client) -> int:
    """Return the newest incarnation that has claimed a rank; 0: none."""
    keys = ages(layout, layout.claims(rank), client, flat=True)
    return max((number for key in keys if (number := incarnation_of_claim(key)) is not None), default=0)


def dead(
    layout: Layout, found: Iterable[Upload], newest: Mapping[int, int], *, ended: bool, youngest: float
) -> tuple[Upload, ...]:
    """Return the uploads that no agent will continue: of an incarnation that another has fenced, or of a run that has ended.

    Args:
        layout: keys of the run.
        found: unfinished uploads.
        newest: the newest incarnation by rank.
        ended: no agent of the run is left.
        youngest: seconds; younger uploads stay.
    """
    chosen = []
    for one in found:
        rank, order = layout.rank_of(one.key), layout.order_of_file(one.key)
        if rank is None or order is None or one.age < youngest:
            continue
        if ended or order.incarnation < newest.get(rank, 0):
            chosen.append(one)
    return tuple(chosen)


def abort(layout: Layout, chosen: Iterable[Upload], client: S3Client) -> None:
    """Abort unfinished uploads. One that is gone already is a success.

    Raises:
        RefusedError: the store refuses one of them.
    """
    for one in chosen:
        try:
            client.abort_multipart_upload(Bucket=layout.bucket, Key=one.key, UploadId=one.id)
        except exceptions.ClientError as error:
            if str(error.response.get("Error", {}).get("Code")) not in _NO_UPLOADS:
                raise _refused(error) from error


def _refused(error: exceptions.ClientError) -> Exception:
    """Return a refusal as such; any other failure as it is."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    code = str(error.response.get("Error", {}).get("Code") or "")
    return RefusedError(code or "AccessDenied") if status in (403, 405) or code == "AccessDenied" else error


def _pages(client: S3Client, call: Any, layout: Layout, prefix: str, *, flat: bool = False) -> Iterable[dict[str, Any]]:
    more = {"Delimiter": "/"} if flat else {}
    paginator: Any = client.get_paginator(call)
    for number, page in enumerate(paginator.paginate(Bucket=layout.bucket, Prefix=prefix, **more), 1):
        yield page
        if number == PAGES_MAX and page.get("IsTruncated"):
            raise UnlistedError(prefix)


def _now(page: Mapping[str, Any]) -> datetime:
    mine = datetime.fromtimestamp(time.time(), UTC)
    try:
        theirs = parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"])
        return min(mine, theirs)
    except (KeyError, TypeError, ValueError):
        return mine
