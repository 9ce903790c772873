"""What any receiver makes of a message of the webhook: Standard Webhooks' own library checks it, CloudEvents' own SDK reads it."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING
from unittest import mock

from cloudevents.core.bindings.http import HTTPMessage, from_structured_event
from standardwebhooks.webhooks import Webhook

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import tzinfo

    from cloudevents.core.base import BaseCloudEvent


def check(headers: Mapping[str, str], body: bytes, secret: str, *, at: float | None = None) -> None:
    """Check a message as one of its receivers would that knows this secret.

    Args:
        headers: as they arrived.
        body: as it arrived.
        secret: one, as the receiver has it.
        at: when it arrived, in seconds; absent: now. The library refuses what is five minutes older or newer.

    Raises:
        standardwebhooks.webhooks.WebhookVerificationError: it is not what the bearer of the secret has sent.
    """

    class Then(datetime):
        """The library's clock."""

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            """When the message arrived."""
            return datetime.now(tz) if at is None else datetime.fromtimestamp(at, tz)

    with mock.patch("standardwebhooks.webhooks.datetime", Then):
        Webhook(secret).verify(body, dict(headers), json_parse=False)


def event_of(headers: Mapping[str, str], body: bytes) -> BaseCloudEvent:
    """Return the event in structured mode; the SDK raises for what CloudEvents 1.0 does not allow."""
    return from_structured_event(HTTPMessage(dict(headers), body))


def received(headers: Mapping[str, str], body: bytes, secret: str, *, at: float | None = None) -> BaseCloudEvent:
    """Check a message, and return its event."""
    check(headers, body, secret, at=at)
    return event_of(headers, body)
