"""Bounds what a client of an S3 server reads and parses of an answer. A tenant may control the server.

botocore reads an answer without a body for its caller, such as a list or an error, as a whole and parses its XML at once. 8 MiB of `<a/>` take 500 MiB and hold
the interpreter's lock for most of a second.
"""

from __future__ import annotations

import re
import time
import traceback
import weakref
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from botocore.utils import parse_timestamp

from trainingrun_operator.checkpoints.keys import LISTED_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from urllib3 import BaseHTTPResponse

WHOLE_MAX_BYTES: Final = 2 * 2**20
"""Of an answer that is read as a whole. 1,000 keys of 1,024 bytes take 1.4 MiB."""
ERROR_MAX_BYTES: Final = 64 * 2**10
"""Of such an answer that is an error: its XML is parsed as it is."""
WHOLE_SECONDS: Final = 60.0
"""For such an answer. A connection's own timeout restarts with every byte."""
_CHUNK_BYTES: Final = 2**16
_REFUSED: Final = 300
"""HTTP status from which on an answer is an error."""
_NO_ANSWER: Final = 500
"""HTTP status that botocore gives an answer of success that is no XML: it asks again."""
_TRUTHS: Final = (b"true", b"false")

_READ: Final = re.compile(
    rb"<(Contents|CommonPrefixes)>|<(IsTruncated|NextContinuationToken|EncodingType|Key|LastModified|Prefix)>([^<]*+)</"
)
"""What is read of a list: of each object key and time, of each folder its prefix."""
_ITEMS: Final = {b"Contents": (b"Key", b"LastModified"), b"CommonPrefixes": (b"Prefix",)}
_LIST: Final = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*+(?:<\?[^>]*+>\s*+)*<ListBucketResult(?:\s[^>]*)?(?:/>|>.*</ListBucketResult\s*+>)\s*+",
    re.DOTALL,
)
_OF_THE_PAGE: Final = (b"IsTruncated", b"NextContinuationToken", b"EncodingType")


class TooMuchError(ValueError):
    """An answer is larger than what was asked for."""


class BoundedAnswers:
    """Mixin of a pool of connections: bounds the answers that are read as a whole."""

    def urlopen(self, *args: Any, **named: Any) -> Any:
        """Send a request."""
        answer: Any = super().urlopen(*args, **named)  # type: ignore[misc]  # of the pool
        # botocore reads by `stream` what it reads as a whole, and by `read` what its caller reads. An answer that referred to itself would stay in
        # memory until a collection of garbage; botocore keeps it while it reads.
        itself: Any = weakref.proxy(answer)
        answer.stream = lambda *_, **__: whole(itself)
        return answer


def whole(answer: BaseHTTPResponse) -> Iterator[bytes]:
    """Yield the body of an answer.

    Raises:
        TooMuchError: it is larger than an answer may be.
        TimeoutError: it takes more than `WHOLE_SECONDS`.
    """
    most = WHOLE_MAX_BYTES if answer.status < _REFUSED else ERROR_MAX_BYTES
    deadline, size = time.monotonic() + WHOLE_SECONDS, 0
    while chunk := answer.read1(_CHUNK_BYTES):
        size += len(chunk)
        if size > most:
            answer.close()
            message = f"the answer has more than {most} bytes"
            raise TooMuchError(message)
        if time.monotonic() > deadline:
            answer.close()
            message = f"the answer takes more than {WHOLE_SECONDS:.0f} s"
            raise TimeoutError(message)
        yield chunk


def refuse_no_list(response_dict: dict[str, Any], **_: Any) -> None:
    """Have botocore ask again for a page of a list that is none, such as an empty body: it would be an empty list. A handler of its `before-parse`."""
    if response_dict["status_code"] < _REFUSED and _LIST.fullmatch(response_dict["body"]) is None:
        _make_error(response_dict)


def slim_list(response_dict: dict[str, Any], **_: Any) -> None:
    """Keep of a page of a list only what is read, before botocore parses it. A handler of botocore's `before-parse`.

    A page that is none is refused as in `refuse_no_list`.

    Raises:
        TooMuchError: the page has more keys than were asked for.
    """
    refuse_no_list(response_dict)
    if response_dict["status_code"] >= _REFUSED:
        return
    page: dict[bytes, bytes] = {}
    items: list[tuple[bytes, dict[bytes, bytes]]] = []
    for found in _READ.finditer(response_dict["body"]):
        if found[1]:
            items.append((found[1], {}))
        elif found[2] in _OF_THE_PAGE:
            page[found[2]] = found[3]
        elif items and found[2] in _ITEMS[items[-1][0]]:
            items[-1][1][found[2]] = found[3]
        if len(items) > LISTED_MAX:
            message = f"the page has more than {LISTED_MAX} keys"
            raise TooMuchError(message)
    if page.get(b"IsTruncated", b"false") not in _TRUTHS:
        _make_error(response_dict)
        return
    response_dict["body"] = b"<ListBucketResult>%b%b</ListBucketResult>" % (
        _elements(page),
        b"".join(b"<%b>%b</%b>" % (item, _elements(fields), item) for item, fields in items if fields),
    )


def _make_error(response_dict: dict[str, Any]) -> None:
    response_dict |= {"status_code": _NO_ANSWER, "body": b""}


def _elements(fields: dict[bytes, bytes]) -> bytes:
    return b"".join(b"<%b>%b</%b>" % (name, text, name) for name, text in fields.items())


def time_of(text: str) -> datetime:
    """Return a time in an answer. As botocore reads it, which takes 70 µs: a page of a list has a thousand.

    Raises:
        ValueError: it is in none of the known forms.
    """
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return parse_timestamp(text)
    return found if found.tzinfo is not None else parse_timestamp(text)


def let_go(error: BaseException) -> None:
    """Release what the frames of a failed call hold: botocore and urllib3 keep an error in a frame of its own traceback.

    Such a cycle stays in memory until a full collection of garbage, with the answer's megabytes, its connection and its certificates.
    """
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        for frame, _ in traceback.walk_tb(one.__traceback__):
            _clear(frame)
        wrapped = getattr(one, "kwargs", {}).get("error")
        waiting += [one.__cause__, one.__context__, wrapped if isinstance(wrapped, BaseException) else None]


def let_go_of_tries(caught_exception: BaseException | None = None, **_: Any) -> None:
    """Release the frames of a try that failed and may be repeated. A handler of botocore's `needs-retry`."""
    if caught_exception is not None:
        let_go(caught_exception)


def _clear(frame: FrameType | None) -> None:
    """Clear a frame that has ended, and those that called it and have ended as well."""
    while frame is not None:
        try:
            frame.clear()
        except RuntimeError:
            return
        frame = frame.f_back


def caused_by(error: BaseException | None, kind: type[BaseException]) -> bool:
    """Whether an error of this kind is the cause of a failed call: botocore and urllib3 wrap the errors of a connection."""
    while error is not None:
        if isinstance(error, kind):
            return True
        wrapped = getattr(error, "kwargs", {}).get("error")
        error = wrapped if isinstance(wrapped, BaseException) else error.__cause__ or error.__context__
    return False
