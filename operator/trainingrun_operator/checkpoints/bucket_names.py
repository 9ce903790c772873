"""Names that AWS reserves for what is no general purpose bucket. No request is made to one.

`Bucket naming rules <https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html>`_,
`Differences for directory buckets <https://docs.aws.amazon.com/AmazonS3/latest/userguide/s3-express-differences.html>`_.
"""

from __future__ import annotations

from typing import Final

_DIRECTORY: Final = "a directory bucket (S3 Express One Zone), which lists whole folders only and in no order, and takes requests within a session only"
_RESERVED: Final = {
    "--x-s3": _DIRECTORY,
    "--xa-s3": f"an access point of {_DIRECTORY}",
    "--ol-s3": "an Object Lambda access point, which takes no uploads and may change what it returns",
    "--op-s3": "an access point of S3 on Outposts, which keeps no CRC64NVME checksums",
    "--table-s3": "a table bucket, which stores only tables",
    ".mrap": "a Multi-Region Access Point, behind which a bucket of another region may lack what was just written",
}
"""What the end of a name says. An alias of an access point (``-s3alias``) is used like the bucket behind it."""


def complaint(name: str) -> str:
    """Return why no checkpoint can be kept under a bucket's name; empty: the name is one of a bucket."""
    what = next((what for ending, what in _RESERVED.items() if name.endswith(ending)), "")
    return f"{name!r} is the name of {what}: use a general purpose bucket" if what else ""
