"""The AWS account that must own a bucket: sent with every call, so that S3 refuses a bucket of the same name in another account."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from botocore.hooks import BaseEventHooks

_PARAMETERS: Final = ("ExpectedBucketOwner", "ExpectedSourceBucketOwner")
"""The second is of copies, whose source is in the same bucket."""


def expect(events: BaseEventHooks, owner: str) -> None:
    """Name the account in every call of a client; empty: any account."""
    if owner:
        events.register("before-parameter-build.s3", partial(_add, owner))


def _add(owner: str, params: dict[str, Any], model: Any, **_: Any) -> None:
    known = model.input_shape.members
    params.update({name: owner for name in _PARAMETERS if name in known})
