"""Signatures of Standard Webhooks (https://www.standardwebhooks.com): HMAC-SHA256 over `id.timestamp.body`."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Final

KEY_MIN_BYTES: Final = 24
KEY_MAX_BYTES: Final = 64
_PREFIX: Final = "whsec_"


def keys_of(secret: str) -> tuple[bytes, ...]:
    """Parse secrets separated by spaces: base64, usually after ``whsec_``. During a rotation there are two.

    Raises:
        ValueError: one of them is invalid; the message does not contain it.
    """
    return tuple(_key(one) for one in secret.split())


def _key(text: str) -> bytes:
    key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    if not KEY_MIN_BYTES <= len(key) <= KEY_MAX_BYTES:
        raise ValueError(f"{len(key)} bytes instead of {KEY_MIN_BYTES} to {KEY_MAX_BYTES}")
    return key


def signed(keys: tuple[bytes, ...], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """Return the headers of a message, signed by every key so that receivers may know any of them.

    Args:
        keys: from `keys_of`.
        message_id: of the event.
        timestamp: seconds, of this attempt.
        body: as sent.
    """
    content = f"{message_id}.{timestamp}.".encode() + body
    signatures = (base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode() for key in keys)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
