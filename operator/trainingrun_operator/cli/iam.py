"""IAM policies for the identities that agent and operator use."""

from __future__ import annotations

import json
import re
from typing import Any, Final

from trainingrun_operator.checkpoints.keys import Layout
from trainingrun_operator.cli.trouble import Exit, TroubleError

AGENT: Final = "agent"
OPERATOR: Final = "operator"
SIDES: Final = (AGENT, OPERATOR)

_OBJECTS: Final = {
    AGENT: (
        "s3:PutObject",
        "s3:GetObject",
        "s3:GetObjectVersion",
        "s3:AbortMultipartUpload",
        "s3:ListMultipartUploadParts",
    ),
    OPERATOR: ("s3:GetObject",),
}
_STORY: Final = ("run.json", "curve.json", "log.txt.gz", "log-*.txt.gz")
"""What the operator writes beside a run's commits after its end."""
_RETENTION: Final = ("s3:DeleteObject", "s3:AbortMultipartUpload")
_KEY: Final = dict.fromkeys(SIDES, ("kms:GenerateDataKey", "kms:Decrypt"))
_KMS: Final = re.compile(r"arn:[a-z-]+:kms:[a-z0-9-]+:\d{12}:(key|alias)/[A-Za-z0-9/_-]+\Z")


def policy(uri: str, side: str, *, keep_last: bool = False, kms_key: str = "") -> str:
    """Return the policy as JSON.

    Args:
        uri: `s3://bucket/prefix`, as in spec.checkpoint.destination.
        side: whose identity it is for.
        keep_last: also allow what spec.checkpoint.keepLast needs.
        kms_key: ARN of the key that encrypts the bucket; empty: none.

    Raises:
        TroubleError: the address or the key has another form.
    """
    try:
        layout = Layout.of(uri, "", "", "")
    except ValueError as error:
        raise TroubleError(f"{error}.", Exit.USAGE) from None
    if "*" in uri:
        raise TroubleError(f"{uri!r} has a *, which IAM would read as any characters: name another prefix.", Exit.USAGE)
    if kms_key and not _KMS.match(kms_key):
        raise TroubleError(f"{kms_key!r} is not the ARN of a KMS key: expected arn:aws:kms:…", Exit.USAGE)
    bucket = f"arn:aws:s3:::{layout.bucket}"
    prefix = layout.base.strip("/")
    below = f"{prefix}/*" if prefix else "*"
    objects = dict.fromkeys((*_OBJECTS[side], *(_RETENTION if keep_last else ())))
    uploads = side == AGENT or keep_last
    # Without a condition on s3:prefix: with it, S3 answers 403 and not 404 for an object that does not exist.
    listing = ["s3:ListBucket", *(["s3:ListBucketMultipartUploads"] if uploads else [])]
    statements = [
        _allow(listing, bucket),
        _allow(list(objects), f"{bucket}/{below}"),
        *([_allow(["s3:PutObject"], *(f"{bucket}/{below}/{name}" for name in _STORY))] if side == OPERATOR else []),
        *([_allow(list(_KEY[side]), kms_key)] if kms_key else []),
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, indent=2)


def _allow(actions: list[str], *resources: str) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": actions, "Resource": resources[0] if len(resources) == 1 else list(resources)}
