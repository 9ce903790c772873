"""What a store says to a request for a bucket in another region.

Without `endpointURL`, the SDK sends the request again to the region that AWS names, and nothing fails. A request to a server that the spec names
is never sent to another one: it fails with one of `CODES`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

CODES: Final = frozenset({"PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"})
_WITHOUT_BODY: Final = frozenset({"301", "400"})
_HEADER: Final = "x-amz-bucket-region"
_REGION: Final = re.compile(r"[a-z0-9-]{1,32}")
"""Other text of a store is not shown."""


def code_of_head(failure: ClientError) -> str:
    """Return the code of a response to HEAD, which has no body, if it says that the bucket is in another region; otherwise nothing."""
    code = str(failure.response.get("Error", {}).get("Code"))
    return "PermanentRedirect" if code == "301" or (code in _WITHOUT_BODY and _named(failure)) else ""


def other_region(failure: Exception) -> str:
    """Return the bucket's region in words for a message; nothing if the store does not name it."""
    named = _named(failure)
    return f" ({named})" if named else ""


def _named(failure: Exception) -> str:
    response = getattr(failure, "response", {})
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    named = str(headers.get(_HEADER) or response.get("Error", {}).get("Region") or "")
    return named if _REGION.fullmatch(named) else ""
