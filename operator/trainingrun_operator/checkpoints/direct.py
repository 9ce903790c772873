"""The requests that are many — objects, parts, ranges — without the SDK's 2 ms of CPU for each.

botocore builds one request of each kind, which is not sent: it says how a request looks, with endpoint, addressing, region, headers. Here the key, the
checksum, the date and the signature are exchanged, and the request is sent over a connection that botocore's own pool has opened. Only an answer of
success counts. Of any other, and of no answer, the caller makes the same call by botocore, which repeats, waits, refreshes and explains as always.
"""

from __future__ import annotations

import hashlib
import random
import threading
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from botocore.awsrequest import AWSPreparedRequest
from botocore.compat import HTTPHeaders

from trainingrun_operator.checkpoints.connections import BrokenError, Connections, TakeError
from trainingrun_operator.checkpoints.signing import UNSIGNED, Signer, head_of, path_of, query_of, signed_of

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from botocore.credentials import ReadOnlyCredentials
    from mypy_boto3_s3 import S3Client

    from trainingrun_operator.checkpoints.connections import Answer

EXISTS: Final = 412
PAUSE_SECONDS: Final = 1.0
"""All requests are botocore's for so long after one has failed here; twice as long after each further one."""
PAUSE_MAX_SECONDS: Final = 60.0
_KEY: Final = "key"
_NOTHING: Final = "AAAAAAAAAAA="
_OK: Final = 200
_PARTIAL: Final = 206
_BUSY: Final = frozenset({429, 500, 502, 503, 504})
_ELSEWHERE: Final = frozenset({301, 302, 307, 308, 400, 403})
"""After these, botocore may build the requests in another way."""
_OWN: Final = frozenset({
    "amz-sdk-invocation-id", "amz-sdk-request", "authorization", "content-length", "expect", "range", "x-amz-checksum-crc64nvme",
    "user-agent", "x-amz-content-sha256", "x-amz-date", "x-amz-security-token", "x-amzn-trace-id",
})  # fmt: skip
"""Headers that each request has for itself, or does without."""
_FOREIGN: Final = frozenset({"transfer-encoding", "content-encoding", "x-amz-trailer", "x-amz-s3session-token"})
"""Headers of ways to send that are botocore's alone."""


class _BuiltError(Exception):
    """A request that botocore has built and signed, instead of its answer."""

    def __init__(self, request: Any, operation: str) -> None:
        super().__init__()
        self.request = request
        self.operation = operation


class _Request(NamedTuple):
    """What a request has for itself."""

    key: str
    query: dict[str, str]
    headers: dict[str, str]
    """Beside those of all requests of its kind."""
    body: bytes


@dataclass(frozen=True)
class Form:
    """How botocore builds the requests of one kind."""

    operation: str
    """Its name, as in `PutObject`."""
    method: str
    origin: str
    """Scheme and host, as in a URL."""
    path: str
    """Before the key, percent-encoded."""
    query: tuple[tuple[str, str], ...]
    """Parameters that every such request has."""
    headers: dict[str, str]
    """Those that are signed."""
    agent: str
    region: str
    service: str
    signs_body: bool

    @classmethod
    def of(cls, request: Any, operation: str, own: frozenset[str]) -> Form | None:
        """Read a request that botocore has built for `_KEY`; None: requests of this kind are botocore's alone.

        ``own``: the names of the parameters that each request has for itself.
        """
        url = urlsplit(request.url)
        headers = {name.lower(): _text(value) for name, value in request.headers.items()}
        signed = signed_of(headers.get("authorization", ""))
        if signed is None or not url.path.endswith(f"/{_KEY}") or headers.keys() & _FOREIGN:
            return None
        query = tuple(one for one in parse_qsl(url.query, keep_blank_values=True) if one[0] not in own)
        return cls(
            operation,
            request.method,
            f"{url.scheme}://{url.netloc}",
            url.path.removesuffix(f"/{_KEY}"),
            query,
            {"host": url.netloc} | {name: value for name, value in headers.items() if name not in _OWN},
            headers.get("user-agent", ""),
            signed.region,
            signed.service,
            headers.get("x-amz-content-sha256") != UNSIGNED,
        )

    @property
    def is_write(self) -> bool:
        """Whether requests have a body, and answers an ETag."""
        return self.method == "PUT"

    def head(self, signer: Signer, request: _Request, at: float | None = None) -> bytes:
        """Return the head of a request, signed.

        Args:
            signer: has credentials, region and service.
            request: what is its own.
            at: Unix time of the request (default: now).
        """
        path, query = self.path + path_of(request.key), query_of((*self.query, *request.query.items()))
        payload = hashlib.sha256(request.body).hexdigest() if self.signs_body else UNSIGNED
        headers = signer.signed(self.method, path, self.headers | request.headers, query=query, payload=payload, at=at)
        headers["user-agent"] = self.agent
        if self.is_write:
            headers["content-length"] = str(len(request.body))
        return head_of(self.method, f"{path}?{query}" if query else path, headers)


@dataclass
class _Pause:
    """How long botocore has all requests, because they have failed here. Thread-safe."""

    until: float = 0.0
    seconds: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def over(self) -> bool:
        return time.monotonic() >= self.until

    def failed(self) -> None:
        with self.lock:
            if self.over():  # not once for each of the requests that were under way
                self.seconds = min(max(2 * self.seconds, PAUSE_SECONDS), PAUSE_MAX_SECONDS)
                self.until = time.monotonic() + self.seconds

    def succeeded(self) -> None:
        self.seconds = 0.0


class Direct:
    """Sends objects, parts and ranges of one bucket. Thread-safe."""

    def __init__(self, client: S3Client, bucket: str) -> None:
        self._s3: Any = client
        self._bucket = bucket
        self._forms: dict[str, Form | None] = {}
        self._servers: dict[str, Connections] = {}
        self._trusting: set[str] = set()
        self._signers: dict[tuple[ReadOnlyCredentials, str, str], Signer] = {}
        self._lock = threading.Lock()
        self._thread = threading.local()
        self._pause = _Pause()
        client.meta.events.register_last("request-created.s3", self._created)

    def put(self, key: str, body: bytes, crc: str, counted: Callable[[int], None] | None) -> Answer | None:
        """Write an object unless its key is taken. Return the answer, of success or `EXISTS`; None: ask by botocore."""
        form = self._form("put", IfNoneMatch="*", Body=b"", ChecksumCRC64NVME=_NOTHING)
        request = _Request(key, {}, {"x-amz-checksum-crc64nvme": crc}, body)
        return self._ask(form, request, {_OK, EXISTS}, counted)

    def put_part(
        self, key: str, upload: str, number: int, body: bytes, crc: str, counted: Callable[[int], None] | None
    ) -> Answer | None:
        """Send a part. Return the answer of success; None: ask by botocore."""
        own = frozenset({"partNumber", "uploadId"})
        form = self._form("part", own, UploadId="u", PartNumber=1, Body=b"", ChecksumCRC64NVME=_NOTHING)
        query = {"partNumber": str(number), "uploadId": upload}
        request = _Request(key, query, {"x-amz-checksum-crc64nvme": crc}, body)
        return self._ask(form, request, {_OK}, counted)

    def get_range(
        self, key: str, offset: int, length: int, version_id: str | None, take: Callable[[int, memoryview], None]
    ) -> bool:
        """Receive a range in pieces, each with its place in it. Return False if it is to be asked for by botocore: ``take`` may have had a part of it.

        Raises:
            OSError: of ``take``.
        """
        form = self._form("range", Range="bytes=0-0")
        span = {"range": f"bytes={offset}-{offset + length - 1}"}
        request = _Request(key, {"versionId": version_id} if version_id else {}, span, b"")
        at = 0

        def taken(piece: memoryview) -> None:
            nonlocal at
            take(at, piece)
            at += len(piece)

        # Some stores answer 200 if the range is the whole object.
        good = {_PARTIAL} if offset else {_PARTIAL, _OK}
        try:
            return self._ask(form, request, good, None, taken, length) is not None
        except TakeError as failure:
            raise failure.__cause__ or failure from None

    def _ask(
        self,
        form: Form | None,
        request: _Request,
        good: set[int],
        counted: Callable[[int], None] | None,
        take: Callable[[memoryview], None] | None = None,
        length: int = 0,
    ) -> Answer | None:
        if form is None:
            return None
        sent, count = 0, counted or _ignore

        def noted(size: int) -> None:
            nonlocal sent
            sent += size
            count(size)

        try:
            credentials = self._s3._get_credentials().get_frozen_credentials()  # noqa: SLF001  # botocore's, which renews them
        except Exception:  # noqa: BLE001  # of files, of JSON, of calls to STS: botocore raises it again, as its own
            return None
        try:
            head = form.head(self._signer(credentials, form), request)
            self._announce(form, request)
            answer = self._server(form.origin).ask(head, request.body, noted, take, length)
        except (BrokenError, UnicodeError):
            self._pause.failed()
            return None
        if answer.status in good and not (form.is_write and answer.status == _OK and "etag" not in answer.headers):
            self._pause.succeeded()
            return answer
        noted(-sent)
        self._refused(answer.status)
        return None

    def _refused(self, status: int) -> None:
        if status in _ELSEWHERE:
            with self._lock:
                self._forms.clear()
        if status in _ELSEWHERE | _BUSY | {_OK}:
            self._pause.failed()
        if status in _BUSY:
            time.sleep(random.random() * PAUSE_SECONDS)  # noqa: S311  # as botocore waits before its second try

    def _signer(self, keys: ReadOnlyCredentials, form: Form) -> Signer:
        which = keys, form.region, form.service
        signer = self._signers.get(which)
        if signer is None:
            self._signers.clear()  # those of keys that were renewed
            signer = Signer.of(keys, form.region, form.service)
            self._signers[which] = signer
        return signer

    # -- from botocore -----------------------------------------------------------------------------------------

    def _form(self, kind: str, own: frozenset[str] = frozenset(), **parameters: Any) -> Form | None:
        if not self._pause.over():
            return None
        try:
            return self._forms[kind]
        except KeyError:
            pass
        with self._lock:
            if kind not in self._forms:
                try:
                    self._forms[kind] = self._built(kind, own, parameters)
                except Exception:  # noqa: BLE001  # without credentials, for example: botocore raises it again, as its own
                    return None
            return self._forms[kind]

    def _built(self, kind: str, own: frozenset[str], parameters: dict[str, Any]) -> Form | None:
        """Let botocore build a request, and read it; None: requests of this kind are botocore's alone."""
        call = {"put": self._s3.put_object, "part": self._s3.upload_part, "range": self._s3.get_object}[kind]
        self._thread.building = True
        try:
            call(Bucket=self._bucket, Key=_KEY, **parameters)
        except _BuiltError as built:
            form = Form.of(built.request, built.operation, own)
        else:
            return None
        finally:
            self._thread.building = False
        return form if form is not None and self._proxy(form.origin) is None else None

    def _created(self, request: Any, operation_name: str, **_: Any) -> None:
        """Take a request that is only built, once it is signed and before it is sent."""
        if getattr(self._thread, "building", False):
            raise _BuiltError(request, operation_name)

    def _announce(self, form: Form, request: _Request) -> None:
        """Tell the client's listeners of a request, as botocore does: they count them."""
        url = f"{form.origin}{form.path}{path_of(request.key)}"
        sent = AWSPreparedRequest(form.method, url, HTTPHeaders(), request.body, not form.is_write)
        self._s3.meta.events.emit(f"before-send.s3.{form.operation}", request=sent)

    @property
    def _session(self) -> Any:
        return self._s3._endpoint.http_session  # noqa: SLF001  # botocore has no public access to its connections

    def _proxy(self, origin: str) -> str | None:
        found: str | None = self._session._proxy_config.proxy_url_for(origin)  # noqa: SLF001
        return found

    def _server(self, origin: str) -> Connections:
        server = self._servers.get(origin)
        if server is None:
            with self._lock:
                server = self._servers.setdefault(origin, Connections(partial(self._connect, origin)))
        return server

    def _connect(self, origin: str) -> socket.socket:
        """Open a connection as botocore's pool does: with its certificates, its socket options, its checks and its time limits."""
        session = self._session
        pool = session._manager.connection_from_url(origin)  # noqa: SLF001
        session._setup_ssl_cert(pool, origin, session._verify)  # noqa: SLF001
        connection = pool._new_conn()  # noqa: SLF001
        if origin in self._trusting:
            # Its pool's context has the certificates. To load those of all authorities again takes 17 ms for each connection.
            connection.ca_certs = None
        connection.connect()
        self._trusting.add(origin)
        connected: socket.socket = connection.sock
        connected.settimeout(self._s3.meta.config.read_timeout)
        return connected


def _text(value: str | bytes) -> str:
    return " ".join((value.decode("latin-1") if isinstance(value, bytes) else value).split())


def _ignore(_: int) -> None:
    """Count nothing."""
