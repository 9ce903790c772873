"""Signatures as Standard Webhooks (https://www.standardwebhooks.com) has them: HMAC-SHA256 over `id.timestamp.body`."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final

KEY_MIN_BYTES: Final = 24
KEY_MAX_BYTES: Final = 64
_PREFIX: Final = "whsec_"


def keys_of(secret: str) -> tuple[bytes, ...]:
    """Read one or more secrets, divided by spaces: base64, usually after ``whsec_``. Two of them while one replaces the other.

    Raises:
        ValueError: one of them is none; it is not quoted.
    """
    return tuple(_key(one) for one in secret.split())


def _key(text: str) -> bytes:
    key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    if not KEY_MIN_BYTES <= len(key) <= KEY_MAX_BYTES:
        raise ValueError(f"{len(key)} bytes instead of {KEY_MIN_BYTES} to {KEY_MAX_BYTES}")
    return key


def signed(keys: tuple[bytes, ...], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers of a message: signed by every key, so that receivers may know any one of them. `timestamp`: seconds, of this very attempt."""
    content = f"{message_id}.{timestamp}.".encode() + body
    signatures = (base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode() for key in keys)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
