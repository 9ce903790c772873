"""Requester Pays buckets: S3 refuses every call that does not say that its caller pays for it.

https://docs.aws.amazon.com/AmazonS3/latest/userguide/ObjectsinRequesterPaysBuckets.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from botocore.hooks import BaseEventHooks


def accept(events: BaseEventHooks, *, pays: bool) -> None:
    """With ``pays``, say in every call of a client that the caller pays. Not otherwise: other stores may refuse the header."""
    if pays:
        events.register("before-parameter-build.s3", _add)


def _add(params: dict[str, Any], model: Any, **_: Any) -> None:
    if "RequestPayer" in model.input_shape.members:
        params["RequestPayer"] = "requester"
