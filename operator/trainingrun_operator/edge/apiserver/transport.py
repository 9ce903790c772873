"""HTTP requests to the API server: JSON, bounded, without redirects, with the caller's bearer token.

No client library is used: two thirds of the operator's calls are JSON patches with `test`, server-side applies and deletes with a uid precondition,
which no library wraps.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp

from trainingrun_operator.edge import calls
from trainingrun_operator.edge.calls import Api

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence

    from trainingrun_operator.edge.apiserver.connection import Connection

Json = dict[str, Any]

JSON: Final = "application/json"
MERGE: Final = "application/merge-patch+json"
JSON_PATCH: Final = "application/json-patch+json"
APPLY: Final = "application/apply-patch+yaml"

TIMEOUT_SECONDS: Final = 20
BODY_MAX: Final = 32 * 2**20
LONG_BYTES: Final = 256 * 2**10
"""Of an answer that is parsed in a thread."""
TOO_LARGE: Final = "TooLarge"
"""Reason of a `KubeError`: an answer of more than `BODY_MAX` bytes."""
LINE_MAX: Final = 16 * 2**20
"""Bytes of one event of a watch."""
CHUNK: Final = 500
BUSY: Final = frozenset({429, 503})
"""Throttling responses. With `Retry-After` the request was not processed; retry after that delay."""
BUSY_TRIES: Final = 8
BUSY_SECONDS: Final = 5.0
"""The longest single wait, whatever `Retry-After` says."""

_FORBIDDEN, _NOT_FOUND, _CONFLICT, _EXPIRED, _INVALID, _EXISTS = 403, 404, 409, 410, 422, "AlreadyExists"


class KubeError(Exception):
    """The API server refused a call, or did not answer (status 0)."""

    def __init__(self, status: int, reason: str, message: str, causes: Sequence[Any] = ()) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.causes = tuple(causes)

    @property
    def gone(self) -> bool:
        """Whether there is no such object."""
        return self.status == _NOT_FOUND

    @property
    def expired(self) -> bool:
        """Whether a list or watch cannot continue from its version."""
        return self.status == _EXPIRED

    @property
    def forbidden(self) -> bool:
        """Whether RBAC or an admission policy refused the call."""
        return self.status == _FORBIDDEN

    @property
    def conflict(self) -> bool:
        """Whether the object has changed since it was read.

        A failed `test` of a JSON patch is a 422 without causes, a merge patch that carries another uid is a 422 about `metadata.uid`; a
        refusal by the schema is a 422 with other causes.
        """
        another = any(cause.get("field") == "metadata.uid" for cause in self.causes)
        return self.status == _CONFLICT or (self.status == _INVALID and (another or not self.causes))

    @property
    def exists(self) -> bool:
        """Whether an object with the name exists."""
        return self.reason == _EXISTS


class Transport:
    """Connections to one API server. Each call has its own bearer token. Close it, or use it as an async context manager.

    Args:
        connection: address; its client certificate, if any, is used for every call.
        connections: limit; 0: none, for long streams.
        busy_tries: number of attempts of a throttled call.
        loads: parses an answer.
        body_max: bytes of one answer. A larger chunk of a list is requested again in smaller ones.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        connections: int,
        busy_tries: int,
        loads: Callable[[bytes], Any] = json.loads,
        body_max: int | None = None,
    ) -> None:
        self._server = connection.server.rstrip("/")
        self._loads, self._most = loads, body_max
        self._busy_tries = busy_tries
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=connection.ssl_context(), limit=connections),
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=2**16,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = JSON,
        params: Mapping[str, str] | None = None,
        *,
        token: str,
        accept: str = JSON,
    ) -> Json:
        """Send one request and return the object in the answer. A throttled request is retried after its `Retry-After`.

        Raises:
            KubeError: it was refused, not answered within `TIMEOUT_SECONDS`, or the answer is not a JSON object of bounded size.
        """
        what = f"{method} {path}"
        data = None if body is None else json.dumps(body)
        headers = _headers(token, accept) | {"Content-Type": content_type}
        tries = self._busy_tries
        try:
            while True:
                async with self._request(
                    method, path, data=data, headers=headers, params=params, seconds=TIMEOUT_SECONDS
                ) as answer:
                    body = await _body(answer, what, self._most or BODY_MAX)
                    if _succeeded(answer):
                        # A thread lets the loop turn between the steps of a long parse.
                        long = len(body) > LONG_BYTES
                        return dict(await asyncio.to_thread(self._loads, body) if long else self._loads(body))
                tries -= 1
                wait = answer.headers.get("Retry-After", "")
                if tries <= 0 or answer.status not in BUSY or not wait.isdecimal():
                    raise error_of(answer.status, body.decode())
                await asyncio.sleep(min(float(wait), BUSY_SECONDS))
        except (TypeError, ValueError) as error:
            raise KubeError(0, "NotKubernetes", f"{what}: the answer is not a JSON object") from error

    async def pages(
        self, path: str, params: Mapping[str, str] | None = None, *, token: str, accept: str = JSON
    ) -> AsyncIterator[Json]:
        """List a collection in chunks, each as the API server returns it.

        Raises:
            KubeError: as `call`; `expired` when the rest of the list is no longer available.
        """
        more, limit = "", CHUNK
        while True:
            wanted = {**(params or {}), "limit": str(limit), **({"continue": more} if more else {})}
            try:
                page = await self.call("GET", path, params=wanted, token=token, accept=accept)
            except KubeError as error:
                if error.reason != TOO_LARGE or limit == 1:
                    raise
                limit = max(1, limit // 8)
                continue
            yield page
            more = page["metadata"].get("continue", "")
            if not more:
                return

    @asynccontextmanager
    async def stream(
        self,
        path: str,
        params: Mapping[str, str],
        *,
        token: str,
        accept: str = JSON,
        seconds: float | None = None,
        silence_seconds: float | None = None,
    ) -> AsyncGenerator[aiohttp.StreamReader]:
        """Open a streamed answer, for `seconds` at most, and at most `silence_seconds` without a byte.

        Raises:
            KubeError: it was refused, or the connection failed, also during the stream.
        """
        async with self._request(
            "GET",
            path,
            headers=_headers(token, accept),
            params=params,
            seconds=seconds,
            silence_seconds=silence_seconds,
        ) as answer:
            if not _succeeded(answer):
                raise error_of(answer.status, (await _body(answer, f"GET {path}", self._most or BODY_MAX)).decode())
            yield answer.content

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str],
        params: Mapping[str, str] | None,
        data: str | None = None,
        seconds: float | None,
        silence_seconds: float | None = None,
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        calls.count(Api.KUBERNETES)
        timeout = aiohttp.ClientTimeout(total=seconds, connect=TIMEOUT_SECONDS, sock_read=silence_seconds)
        try:
            async with self._session.request(
                method,
                self._server + path,
                data=data,
                headers=headers,
                params=params,
                timeout=timeout,
                # A redirect would send the token to another server.
                allow_redirects=False,
            ) as answer:
                yield answer
        except TimeoutError as error:
            raise KubeError(0, "Unreachable", f"{method} {path}: it did not answer in time (TimeoutError)") from error
        except aiohttp.ClientError as error:
            raise KubeError(0, "Unreachable", f"{method} {path}: {type(error).__name__} {error}") from error


async def lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yield lines of up to `LINE_MAX` bytes; the reader's own limit is lower.

    Raises:
        KubeError: a line is longer.
    """
    rest = b""
    async for piece in content.iter_any():
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            if line.strip():
                yield line
        if len(rest) > LINE_MAX:
            raise KubeError(0, "NotKubernetes", f"an event of more than {LINE_MAX} bytes")


def error_of(status: int, text: str) -> KubeError:
    """Return the error in an answer."""
    try:
        said = dict(json.loads(text))
    except (TypeError, ValueError):
        return KubeError(status, "HTTP", text[:200])
    return KubeError(
        status, said.get("reason", ""), said.get("message", ""), (said.get("details") or {}).get("causes") or ()
    )


def _headers(token: str, accept: str) -> dict[str, str]:
    return {"Accept": accept} | ({"Authorization": f"Bearer {token}"} if token else {})


def _succeeded(answer: aiohttp.ClientResponse) -> bool:
    return 200 <= answer.status < 300  # noqa: PLR2004 - HTTP's success


async def _body(answer: aiohttp.ClientResponse, what: str, most: int) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > most:
            raise KubeError(0, TOO_LARGE, f"{what}: the answer has more than {most} bytes")
    return bytes(body)
