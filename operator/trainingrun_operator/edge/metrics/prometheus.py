"""The metric source Prometheus: fetches a metrics page in bounded time and memory.

The pod runs user code, so its answers are not followed, trusted or quoted.
"""

from __future__ import annotations

import asyncio
import errno
import zlib
from typing import TYPE_CHECKING, Final

import aiohttp

from trainingrun_operator.api.exchange import PAGE_MAX_BYTES
from trainingrun_operator.core.facts.reading import Failure, Reading
from trainingrun_operator.edge import calls
from trainingrun_operator.edge.calls import Api
from trainingrun_operator.edge.metrics.page import parse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainingrun_operator.api.run import MetricNames
    from trainingrun_operator.edge.metrics.source import Target, Tools

TIMEOUT_SECONDS: Final = 3.0
CAP_BYTES: Final = PAGE_MAX_BYTES
_INLINE_BYTES: Final = 1 << 16

_HEADERS: Final = {"Accept": "text/plain;version=0.0.4, */*;q=0.1", "Accept-Encoding": "identity"}
_INFLATABLE: Final = frozenset({"gzip", "x-gzip", "deflate"})
_UNREACHABLE: Final = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM})


class _PageError(Exception):
    """The page cannot be used. Has the failure's reason and message."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(reason, message)


def make_session() -> aiohttp.ClientSession:
    """Return the session of all scrapes: without kept connections, cookies, proxies or automatic decompression.

    Must be called with the event loop running; the caller closes it.
    """
    return aiohttp.ClientSession(
        # 256: a pod that hangs holds one connection for the timeout and must not block others. That is the bound of connections in use only: kept ones
        # would be one for each of thousands of pods, and closed in one turn of the loop.
        connector=aiohttp.TCPConnector(limit=256, limit_per_host=4, force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
    )


class PrometheusSource:
    """Implements `MetricSource` for the page that `spec.metrics` names."""

    def __init__(self, tools: Tools) -> None:
        self._session = tools.http

    async def read(self, target: Target) -> Reading | Failure:
        """See `MetricSource`."""
        spec = target.run.spec
        url = f"http://{target.pod.host}:{spec.metrics.port}{spec.metrics.path}"
        if target.page is not None:
            return await _parsed(target.page, url, spec.metrics.names, spec.further_values)
        return await scrape(self._session, url, spec.metrics.names, further=spec.further_values)


async def scrape(
    session: aiohttp.ClientSession,
    url: str,
    wanted: MetricNames,
    *,
    further: tuple[str, ...] = (),
    timeout_seconds: float = TIMEOUT_SECONDS,
    cap_bytes: int = CAP_BYTES,
) -> Reading | Failure:
    """Read one metrics page. Errors of the pod are returned as `Failure`.

    Args:
        session: from `make_session`.
        url: ``http://<pod IP>:<port><path>``.
        wanted: of each list, the first name on the page counts.
        further: names of other values, of which none has to be there.
        timeout_seconds: for the whole request, body included.
        cap_bytes: limit of the page after decompression.
    """
    page = await fetch(session, url, timeout_seconds=timeout_seconds, cap_bytes=cap_bytes)
    if isinstance(page, Failure):
        return page
    return await _parsed(page, url, wanted, further)


async def _parsed(page: bytes, url: str, wanted: MetricNames, further: tuple[str, ...]) -> Reading | Failure:
    """Take the reading from a page that is within the limit."""
    # Parsing holds Python's lock only for short calls: in a thread, a large page does not delay other runs.
    small = len(page) <= _INLINE_BYTES
    reading = parse(page, wanted, further) if small else await asyncio.to_thread(parse, page, wanted, further)
    if isinstance(reading, Reading) and reading.loss is None and reading.step is None:
        looked_for = ", ".join((*wanted.loss, *wanted.step))
        return Failure(
            "NoSuchMetric", f"{url} has none of {looked_for}: set the training's names in spec.metrics.names."
        )
    return reading


async def fetch(
    session: aiohttp.ClientSession, url: str, *, timeout_seconds: float, cap_bytes: int, host: str = ""
) -> bytes | Failure:
    """Return a page, or why it cannot be used.

    Args:
        session: from `make_session`.
        url: of the page.
        timeout_seconds: for the whole request, body included.
        cap_bytes: limit of the page after decompression.
        host: for the header Host; empty: that of the URL.
    """
    calls.count(Api.METRICS)
    headers = {**_HEADERS, "Host": host} if host else _HEADERS
    try:
        return await _fetched(session, url, headers, timeout_seconds, cap_bytes)
    except _PageError as error:
        return error.failure
    except TimeoutError:
        return Failure(
            "Timeout",
            f"{url} did not answer completely within {timeout_seconds:g} s: is the training's metrics thread starved?",
        )
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return _connection_failure(url, error)


async def _fetched(
    session: aiohttp.ClientSession, url: str, headers: Mapping[str, str], timeout_seconds: float, cap_bytes: int
) -> bytes:
    timeout = aiohttp.ClientTimeout(total=timeout_seconds)
    async with session.get(url, headers=headers, allow_redirects=False, timeout=timeout) as response:
        status = response.status
        if status in range(300, 400):
            raise _PageError(
                "Redirect",
                f"{url} redirects (HTTP {status}); redirects are not followed: set the page's address in spec.metrics.path.",
            )
        if status != 200:  # noqa: PLR2004 - HTTP's own number
            raise _PageError(
                "HTTPStatus", f"{url} answers HTTP {status}: are spec.metrics.port and spec.metrics.path right?"
            )
        return _inflated(
            await _body(response, url, cap_bytes), response.headers.get("Content-Encoding", ""), url, cap_bytes
        )


async def _body(response: aiohttp.ClientResponse, url: str, cap_bytes: int) -> bytes:
    page = bytearray()
    if (response.content_length or 0) > cap_bytes:
        raise _too_large(url, cap_bytes)
    async for chunk in response.content.iter_any():
        page += chunk
        if len(page) > cap_bytes:
            raise _too_large(url, cap_bytes)
    return bytes(page)


def _inflated(body: bytes, encoding: str, url: str, cap_bytes: int) -> bytes:
    """Decompress a body that was compressed against the request, up to the limit."""
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return body
    if encoding not in _INFLATABLE:
        raise _PageError(
            "ContentEncoding",
            f"{url} has an unsupported Content-Encoding: serve the page uncompressed.",
        )
    try:
        page = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, cap_bytes + 1)
    except zlib.error:
        raise _PageError("BadResponse", f"{url} has invalid compressed content: serve the page uncompressed.") from None
    if len(page) > cap_bytes:
        raise _too_large(url, cap_bytes)
    return page


def _too_large(url: str, cap_bytes: int) -> _PageError:
    return _PageError(
        "TooLarge", f"{url} is larger than {cap_bytes} bytes: serve the training's metrics on a separate page."
    )


def _connection_failure(url: str, error: Exception) -> Failure:
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.ECONNREFUSED:
        return Failure("ConnectionRefused", f"Nothing listens at {url}: is spec.metrics.port right?")
    if number in _UNREACHABLE or isinstance(error, aiohttp.ClientConnectorDNSError):
        return Failure("HostUnreachable", f"{url} cannot be reached: does a NetworkPolicy block the operator?")
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError | ConnectionError):
        return Failure("Disconnected", f"{url} closed the connection before it answered: has its process just ended?")
    return Failure(
        "BadResponse", f"{url} does not answer as a web server ({type(error).__name__}): is spec.metrics.port right?"
    )
