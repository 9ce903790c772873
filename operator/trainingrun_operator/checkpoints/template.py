"""Repeats a request of botocore for other keys of the same bucket, without botocore.

botocore resolves endpoint, region and headers. A template takes them from a request that botocore has sent, and `signing.Signer` signs the
repetitions. There is a template only if this signature of that request is botocore's own, and no proxy stands in between.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from botocore.utils import get_environ_proxies

from trainingrun_operator.checkpoints.signing import Signer, head_of, path_of, signed_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from botocore.awsrequest import AWSPreparedRequest
    from botocore.credentials import ReadOnlyCredentials
    from botocore.hooks import BaseEventHooks

_OF_THE_SIGNATURE: Final = ("x-amz-date", "x-amz-content-sha256", "x-amz-security-token")
_PORTS: Final = {"http": 80, "https": 443}

_sent: ContextVar[list[AWSPreparedRequest] | None] = ContextVar("sent", default=None)


def watch(events: BaseEventHooks) -> None:
    """Make the HEAD requests of a client visible to `watching`."""
    events.register("before-send.s3.HeadObject", _note)


def _note(request: AWSPreparedRequest, **_: Any) -> None:
    if (sent := _sent.get()) is not None:
        sent.append(request)


@contextmanager
def watching() -> Iterator[list[AWSPreparedRequest]]:
    """Collect the HEAD requests that this thread sends with a watched client."""
    sent: list[AWSPreparedRequest] = []
    token = _sent.set(sent)
    try:
        yield sent
    finally:
        _sent.reset(token)


@dataclass(frozen=True)
class Template:
    """A HEAD request for any key of a bucket."""

    tls: bool
    host: str
    port: int
    prefix: str
    """Of the encoded path, before the key: the bucket in a path-style address."""
    headers: Mapping[str, str]
    """Those that are signed, without those of the signature."""
    payload: str
    agent: str
    region: str
    service: str

    @classmethod
    def of(cls, sent: AWSPreparedRequest, key: str, keys: ReadOnlyCredentials) -> Template | None:
        """Make a template of the request that botocore sent for `key`; None if it cannot be repeated."""
        url = urlsplit(sent.url)
        headers = {name.lower(): _text(value) for name, value in sent.headers.items()}
        signed = signed_of(headers.get("authorization", ""))
        if sent.method != "HEAD" or url.query or signed is None or get_environ_proxies(sent.url):
            return None
        if url.hostname is None or not url.path.endswith(path_of(key)):
            return None
        those = {name: headers.get(name, "") for name in signed.names}
        payload = headers.get("x-amz-content-sha256", "")
        signer = Signer.of(keys, signed.region, signed.service)
        moment = headers.get("x-amz-date", "")
        own = signer.authorization("HEAD", url.path, those, query="", payload=payload, moment=moment)
        if own != headers["authorization"]:
            return None
        return cls(
            tls=url.scheme == "https",
            host=url.hostname,
            port=url.port or _PORTS[url.scheme],
            prefix=url.path.removesuffix(path_of(key)),
            headers={name: value for name, value in those.items() if name not in _OF_THE_SIGNATURE},
            payload=payload,
            agent=headers.get("user-agent", ""),
            region=signed.region,
            service=signed.service,
        )

    def signer(self, keys: ReadOnlyCredentials) -> Signer:
        """Return a signer for its requests."""
        return Signer.of(keys, self.region, self.service)

    def request(self, key: str, signer: Signer) -> bytes:
        """Return the signed request for a key, as it is sent."""
        path = self.prefix + path_of(key)
        headers = signer.signed("HEAD", path, self.headers, payload=self.payload)
        return head_of("HEAD", path, {**headers, "user-agent": self.agent})


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
