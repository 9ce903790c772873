"""Inputs that tenants make to hurt an operator: templates, manifests, listings, metric pages, reports, certificates."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from typing import TYPE_CHECKING, Final

from fakes import stored_run

from trainingrun_operator.api.exchange import REPORT_MAX_BYTES
from trainingrun_operator.checkpoints.documents import Manifest, PodRef, RunRef
from trainingrun_operator.edge.metrics.prometheus import CAP_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MIB: Final = 2**20
UNITS: Final = (b"{}", b"[]", b'{"a":1}', b'{"a":{"b":{}}}', b'""')
"""Of which a template is made."""
TEMPLATE_MARK: Final = "@template-{}@"
"""Stands for the template of the unit with this number, so that it is made once."""
MANIFESTS: Final = (b'{"path":""}', b'{"path":"","linkTarget":""}', b"{}", b"[]")
"""Of which the list of files is made."""
MANIFEST_BYTES: Final = 12 * MIB
_TEMPLATE_BYTES: Final = 1_400_000
_HEAD: Final = Manifest(
    run=RunRef(namespace="ml", name="b", uid="u"), pod=PodRef(name="b-0", uid="p"), incarnation=1, generation=1
)


# -- templates ----------------------------------------------------------------------------------------------------


def template(unit: bytes, size: int = _TEMPLATE_BYTES) -> bytes:
    """A run whose template is this many bytes of one unit."""
    run = json.dumps(stored_run(spec={"template": {"x": None}}), separators=(",", ":")).encode()
    return run.replace(b'{"x":null}', _template(unit, size), 1)


@cache
def _template(unit: bytes, size: int) -> bytes:
    return b'{"x":[' + b",".join([unit] * (size // (len(unit) + 1))) + b"]}"


def with_templates(body: bytes) -> bytes:
    """Put templates in the places of their marks."""
    for number, unit in enumerate(UNITS):
        mark = b'"' + TEMPLATE_MARK.format(number).encode() + b'"'
        if mark in body:
            body = body.replace(mark, _template(unit, _TEMPLATE_BYTES))
    return body


# -- what lies in a bucket ----------------------------------------------------------------------------------------


@cache
def manifest(unit: bytes, size: int = MANIFEST_BYTES) -> bytes:
    """A manifest with this many bytes of one unit for files."""
    start = _HEAD.model_dump_json(by_alias=True, exclude_none=True).removesuffix("]}").encode()
    return start + b",".join([unit] * (size // (len(unit) + 1))) + b"]}"


def digest(body: bytes) -> str:
    """SHA-256, hex."""
    return hashlib.sha256(body).hexdigest()


def listing(keys: Sequence[str], more: str, extra: str = "") -> bytes:
    """One page of a list of a bucket; ``more`` is the token of the next one."""
    entries = "".join(
        f"<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;{'0' * 32}&quot;</ETag>"
        f"<Size>1</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for key in keys
    )
    token = f"<NextContinuationToken>{more}</NextContinuationToken>" if more else ""
    truncated = str(bool(more)).lower()
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<IsTruncated>{truncated}</IsTruncated><KeyCount>{len(keys)}</KeyCount>{token}{entries}{extra}</ListBucketResult>"
    ).encode()


@cache
def _long_keys(prefix: str) -> tuple[str, ...]:
    room = 1024 - len(prefix) - 10
    return tuple(f"{prefix}{number:09d}{'k' * room}" for number in range(1000))


LISTINGS: Final[tuple[Callable[[str, int], bytes], ...]] = (
    lambda prefix, page: listing(_long_keys(prefix), f"page-{page}"),
    lambda prefix, page: listing([f"{prefix}i{page}-g{number:04d}.json" for number in range(1000)], f"page-{page}"),
    lambda _, page: listing((), f"page-{page}", "<a/>" * (2 * MIB)),
)
"""Pages without an end: of long keys, of commits, and one of 8 MiB of elements that nobody asked for."""


# -- what a pod says ----------------------------------------------------------------------------------------------


def report(unit: bytes) -> bytes:
    """A report of 60 kB, below its limit, of markers."""
    return b'{"podUid":"p","markers":[' + b",".join([unit] * (60_000 // (len(unit) + 1))) + b"]}"


REPORTS: Final = (
    report(b"{}"),
    report(b"[]"),
    b'{"podUid":"' + b"x" * REPORT_MAX_BYTES + b'"}',
    b"[" * 60_000,
    b'{"podUid":"p","files":' + b"9" * 60_000 + b"}",
)
_ROOM: Final = CAP_BYTES - 2**10
PAGES: Final = (
    b"a 1\n" * (_ROOM // 4),
    b"training_loss 1\n" * (_ROOM // 16),
    b'training_loss{rank="1"} 1\n' * (_ROOM // 26),
    b"training_loss" * (_ROOM // 13),
    b"training_loss{" + b'a="b",' * (_ROOM // 6),
    b"training_loss " + b"9" * _ROOM,
    b"\n" * (CAP_BYTES + 1),
)


# -- certificates -------------------------------------------------------------------------------------------------


def authorities(number: int) -> str:
    """Certificates of nearly 64 KiB; those of another number are another text."""
    return f"# {number}\n" + _certificates()


@cache
def _certificates() -> str:
    import certifi  # noqa: PLC0415 - only the authorities need it

    text, found = certifi.contents(), ""
    for one in text.split("-----END CERTIFICATE-----\n"):
        added = f"-----BEGIN{one.rpartition('-----BEGIN')[2]}-----END CERTIFICATE-----\n"
        if len(found) + len(added) > 64 * 1000:
            break
        found += added
    return found
