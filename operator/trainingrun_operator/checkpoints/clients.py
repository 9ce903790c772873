"""Clients of S3 servers, shared by all credentials for one server.

A client takes 6 ms of CPU and 350 KiB, and a TLS handshake with its first call. An installation has thousands of Secrets and few servers, so a
client is made for a server, and the credentials are those of the call.
"""

from __future__ import annotations

import asyncio
import ssl
import tempfile
import threading
import weakref
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import boto3
import botocore.session
from botocore import exceptions
from botocore.config import Config
from botocore.credentials import CredentialProvider, CredentialResolver, Credentials, ReadOnlyCredentials
from botocore.httpsession import create_urllib3_context, get_cert_path

from trainingrun_operator.checkpoints import bucket_owner, requester_pays, template
from trainingrun_operator.checkpoints.answers import let_go, let_go_of_tries, slim_list, time_of
from trainingrun_operator.checkpoints.fair_cache import FairCache
from trainingrun_operator.checkpoints.metadata_guard import guarded
from trainingrun_operator.checkpoints.own_identity import own_session
from trainingrun_operator.checkpoints.pace import Pace
from trainingrun_operator.checkpoints.s3 import DEFAULT_REGION, Access

if TYPE_CHECKING:
    from collections.abc import Callable

    from botocore.hooks import BaseEventHooks
    from mypy_boto3_s3 import S3Client

CONNECT_SECONDS: Final = 3.0
ANSWER_SECONDS: Final = 10.0
CALLS_PER_ACCESS: Final = 8
"""Calls in flight with one set of credentials, so that a store that hangs does not occupy every thread."""
CONNECTIONS: Final = 32
"""Connections to one server. Calls beyond them open others, which are closed after the call."""
SERVERS: Final = 64
ACCESSES: Final = 16_384
"""Sets of credentials whose calls in flight are counted: a kibibyte each."""

T = TypeVar("T")

_current: ContextVar[Access] = ContextVar("access")


def _uncounted() -> None:
    """Count nothing."""


@dataclass(frozen=True)
class Shared:
    """What all calls with one set of credentials share."""

    calls: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CALLS_PER_ACCESS))
    """Limits calls of botocore in flight."""
    pace: Pace = field(default_factory=Pace)
    """Limits other requests in flight."""


class Server:
    """A client of one server, and what connections beside it need."""

    def __init__(self, client: S3Client) -> None:
        self.client = client
        self._lock = threading.Lock()
        self._tls: ssl.SSLContext | None = None

    def tls(self) -> ssl.SSLContext:
        """Return a context that trusts the servers that the client trusts."""
        with self._lock:
            if self._tls is None:
                endpoint: Any = self.client._endpoint  # type: ignore[attr-defined]  # noqa: SLF001 - botocore has no public access to it
                made = create_urllib3_context()
                made.load_verify_locations(get_cert_path(endpoint.http_session._verify))  # noqa: SLF001
                made.check_hostname, made.verify_mode = True, ssl.CERT_REQUIRED
                self._tls = made
            return self._tls


@dataclass(frozen=True)
class Door:
    """A client, the credentials to use it with, and what limits their calls in flight."""

    server: Server
    access: Access
    shared: Shared
    credentials: Callable[[], ReadOnlyCredentials]
    count: Callable[[], None]
    """Called for each request that is made beside the client."""

    @property
    def client(self) -> S3Client:
        """The client. It has no credentials: see `call`."""
        return self.server.client

    @property
    def calls(self) -> asyncio.Semaphore:
        """Limits the client's calls in flight."""
        return self.shared.calls

    @property
    def pace(self) -> Pace:
        """Limits the requests in flight that are made beside the client."""
        return self.shared.pace

    def tls(self) -> ssl.SSLContext:
        """Return a context that trusts the servers that the client trusts."""
        return self.server.tls()

    def keys(self) -> ReadOnlyCredentials:
        """Return the credentials as they are now. May block.

        Raises:
            botocore.exceptions.NoCredentialsError: the process has no identity of its own.
            botocore.exceptions.CredentialRetrievalError: it has one, which gives no credentials.
        """
        return self.credentials()

    def call(self, made: Callable[[S3Client], T]) -> T:
        """Make calls with the client. Blocks. The client has no other credentials than those set here."""
        token = _current.set(self.access)
        try:
            return made(self.client)
        except Exception as error:
            let_go(error)
            raise
        finally:
            _current.reset(token)


class Clients:
    """Caches one client for each server, and the calls in flight of each set of credentials. A namespace cannot drop those of others. Thread-safe."""

    def __init__(
        self,
        keep: int = SERVERS,
        watch: Callable[[BaseEventHooks], None] | None = None,
        count: Callable[[], None] = _uncounted,
    ) -> None:
        """Make none yet.

        Args:
            keep: number of servers.
            watch: called with the events of each new client, to count its requests.
            count: called for each request that is made beside a client.
        """
        self._watch, self._count = watch, count
        self._shared: FairCache[bytes, Shared] = FairCache(ACCESSES)
        self._servers: FairCache[bytes, Server] = FairCache(keep)
        self._lock = threading.Lock()
        self._sessions: dict[bool, boto3.session.Session] = {}
        """By whether calls use the process's own credentials."""
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def door(self, access: Access) -> Door:
        """Return the door for these credentials. Blocks: do not call it on the event loop.

        Raises:
            ValueError: the endpoint is not an address.
            botocore.exceptions.NoCredentialsError: a key is missing.
        """
        with self._lock:
            server = self._server(access)
            shared = self._shared.get(access.digest, access.owner)
            if shared is None:
                shared = Shared()
                self._shared.put(access.digest, access.owner, shared)
            return Door(server, access, shared, partial(self._keys, access), self._count)

    def warm_up(self) -> None:
        """Load the description of the service, which all clients share: tens of thousands of objects. Blocks."""
        self._session(own_identity=False).client("s3", region_name=DEFAULT_REGION).close()

    def close(self) -> None:
        """Close every connection and remove the certificates."""
        with self._lock:
            for server in self._servers:
                server.client.close()
            self._shared.clear()
            self._servers.clear()
            if self._folder is not None:
                self._folder.cleanup()
                self._folder = None

    def _keys(self, access: Access) -> ReadOnlyCredentials:
        if not access.own_identity:
            return ReadOnlyCredentials(access.access_key, access.secret_key, access.session_token or None)
        with self._lock:
            found = self._session(own_identity=True).get_credentials()
        if found is None:
            raise exceptions.NoCredentialsError
        return found.get_frozen_credentials()

    def _server(self, access: Access) -> Server:
        if not access.own_identity and not (access.access_key and access.secret_key):
            raise exceptions.NoCredentialsError
        key = replace(access, access_key="", secret_key="", session_token="", owner="").digest
        server = self._servers.get(key, access.owner)
        if server is None:
            server = Server(self._make(access))
            # A dropped client is not closed: a call may still be in flight.
            self._servers.put(key, access.owner, server)
        return server

    def _make(self, access: Access) -> S3Client:
        ca_file = self._ca_file(access.ca_pem)
        client = self._session(own_identity=access.own_identity).client(
            "s3",
            endpoint_url=access.endpoint_url or None,
            region_name=access.region or DEFAULT_REGION,
            verify=ca_file,
            config=Config(
                connect_timeout=CONNECT_SECONDS,
                read_timeout=ANSWER_SECONDS,
                retries={"mode": "standard", "total_max_attempts": 2},
                s3={  # type: ignore[arg-type]  # the stubs lack the second
                    "addressing_style": "path" if access.endpoint_url else "auto",
                    # A client keeps the session of a directory bucket, which would serve other credentials as well.
                    "disable_s3_express_session_auth": True,
                },
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                max_pool_connections=CONNECTIONS,
            ),
        )
        if ca_file:
            # Each new connection reads the file, so it stays as long as the client.
            weakref.finalize(client, Path(ca_file).unlink, missing_ok=True)
        bucket_owner.expect(client.meta.events, access.expected_bucket_owner)
        requester_pays.accept(client.meta.events, pays=access.requester_pays)
        client.meta.events.register("before-parse.s3.ListObjectsV2", slim_list)
        client.meta.events.register("needs-retry.s3", let_go_of_tries)
        template.watch(client.meta.events)
        if self._watch is not None:
            self._watch(client.meta.events)
        return guarded(client)

    def _session(self, *, own_identity: bool) -> boto3.session.Session:
        """Return the session: its loader caches the parsed service models for all clients."""
        if own_identity not in self._sessions:
            if own_identity:
                core = own_session(DEFAULT_REGION)
            else:
                core = botocore.session.get_session()
                core.register_component("credential_provider", CredentialResolver([_OfTheCall()]))
            core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=time_of)
            self._sessions[own_identity] = boto3.session.Session(botocore_session=core)
        return self._sessions[own_identity]

    def _ca_file(self, pem: str) -> str | None:
        """Write the certificates to a file, because botocore takes only a path. Return the path."""
        if not pem:
            return None
        self._folder = self._folder or tempfile.TemporaryDirectory(prefix="trainingrun-ca-")
        with tempfile.NamedTemporaryFile("w", dir=self._folder.name, suffix=".pem", delete=False) as file:
            file.write(pem)
        return file.name


class _CallCredentials(Credentials):
    """The credentials of the call in progress in this thread. Without a call there are none."""

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """Return the credentials to sign with.

        Raises:
            botocore.exceptions.NoCredentialsError: there is no call in progress.
        """
        access = _current.get(None)
        if access is None or access.own_identity:
            raise exceptions.NoCredentialsError
        return ReadOnlyCredentials(access.access_key, access.secret_key, access.session_token or None)


class _OfTheCall(CredentialProvider):
    METHOD = CANONICAL_NAME = "trainingrun-call"

    def load(self) -> Credentials:
        return _CallCredentials("", "", method=self.METHOD)
