"""The agent's HTTP server: ``/progress``, with the training's metrics page, and ``/measured`` for the operator, ``/healthz`` for the kubelet, ``/push`` for the training.

Any pod of the cluster may connect. Connections, threads and the time of a request are bounded, and at the bound the address with the most
connections loses its oldest one: an operator is answered while others hold or reopen connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import threading
from collections import Counter
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from trainingrun_operator.agent import relay
from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import REPORT_BYTES_HEADER

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

log = logging.getLogger(__name__)

CONNECTIONS: Final = 16
"""Open at once. The operator and the kubelet use one each, for milliseconds."""
MAKERS: Final = 2
"""Pages computed at once, one thread each: a page reads marker files, and a volume may hang."""
REQUEST_SECONDS = 5.0
"""From the accepted connection to the last byte of the answer."""
PROGRESS_PATH: Final = b"/progress"
PUSH_PATH: Final = names.PUSH_PATH.encode()
PUSH_MAX: Final = 64 * 1024
"""Bytes of one post."""
LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "::ffff:127.0.0.1"})
_CONTENT_LENGTH: Final = re.compile(rb"\r\n(?i:content-length):[ \t]*(\d{1,9})[ \t]*\r\n")
HEAD_MAX: Final = 8192
"""Bytes of a request's head."""
RELAYS: Final = 2
"""Answers at once that have a metrics page, of up to 1 MiB each. Others have the report alone."""
BACKLOG: Final = 256
"""Connections that the kernel completes ahead: a full queue delays the operator by a second, when it sends its SYN again."""


class Served:
    """A server that runs on its own daemon thread."""

    def __init__(
        self,
        listening: socket.socket,
        pages: Mapping[bytes, Callable[[], str]],
        pushed: Callable[[bytes], bool] | None = None,
        relayed: relay.Page | None = None,
    ) -> None:
        self.port: int = listening.getsockname()[1]
        self._listening, self._pages, self._pushed = listening, pages, pushed
        # This server would ask itself.
        self._relayed = relayed if relayed is not None and relayed.port != self.port else None
        self._relays = RELAYS
        """How many more answers may have a metrics page."""
        self._makers = asyncio.Semaphore(MAKERS)
        self._open: dict[asyncio.Task[None], str] = {}
        """Address by connection, the oldest first."""
        self._loop = asyncio.new_event_loop()
        self._serving = threading.Event()
        self._thread = threading.Thread(target=self._run, name="serve", daemon=True)
        self._thread.start()
        self._serving.wait()

    def close(self) -> None:
        """Stop listening and close every connection. Does not wait for a page that is being computed."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        listening = asyncio.start_server(self._connected, sock=self._listening, limit=HEAD_MAX, backlog=BACKLOG)
        server = self._loop.run_until_complete(listening)
        self._serving.set()
        self._loop.run_forever()
        server.close()
        for task in self._open:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*self._open, return_exceptions=True))
        self._loop.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # a coroutine runs in a task
        self._open[task] = (writer.get_extra_info("peername") or ("",))[0]
        if len(self._open) > CONNECTIONS:
            self._drop_one()
        try:
            with contextlib.suppress(TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                async with asyncio.timeout(REQUEST_SECONDS):
                    await self._answer(reader, writer)
        finally:
            self._open.pop(task, None)
            writer.transport.abort()

    def _drop_one(self) -> None:
        """Close the oldest connection of the address that has the most."""
        held = Counter(self._open.values())
        most = max(held.values())
        oldest = next(task for task, address in self._open.items() if held[address] == most)
        del self._open[oldest]
        oldest.cancel()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read one request's head, answer it, and wait until the kernel has every byte."""
        head = await reader.readuntil(b"\r\n\r\n")
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0]
        if method == b"POST" and path == PUSH_PATH and self._pushed is not None:
            status, kind, body = await self._posted(head, reader, writer)
        elif (relayed := self._asked_for(method, path, head)) is not None and self._relays:
            self._relays -= 1
            try:
                await self._answer_with_page(relayed, writer)
            finally:
                self._relays += 1
            return
        else:
            status, kind, body = await self._found(method, path)
        await self._write(writer, status, kind, body)

    def _asked_for(self, method: bytes, path: bytes, head: bytes) -> relay.Page | None:
        """Return the metrics page that a request asks for beside the report; None: none, or another one than the agent may read."""
        relayed = self._relayed
        if relayed is None or (method, path) != (b"GET", PROGRESS_PATH) or not relayed.is_asked_for(head):
            return None
        return relayed

    async def _answer_with_page(self, relayed: relay.Page, writer: asyncio.StreamWriter) -> None:
        """Answer with the report, and the training's page behind it if it can be read."""
        # Where the operator has come to, it could read the page by itself; what listens on loopback alone stays the pod's own.
        address = writer.get_extra_info("sockname")[0]
        (status, kind, body), page = await asyncio.gather(
            self._found(b"GET", PROGRESS_PATH), relay.read(address, relayed)
        )
        if page is None or status is not HTTPStatus.OK:
            await self._write(writer, status, kind, body)
        else:
            await self._write(
                writer, status, "application/octet-stream", body + page, f"{REPORT_BYTES_HEADER}: {len(body)}\r\n"
            )

    async def _write(
        self, writer: asyncio.StreamWriter, status: HTTPStatus, kind: str, body: bytes, more: str = ""
    ) -> None:
        # Wait in `drain` for every byte, so that a reader that takes none is within the deadline.
        writer.transport.set_write_buffer_limits(0)
        said = f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{said}{more}Connection: close\r\n\r\n".encode() + body)
        await writer.drain()
        writer.close()

    async def _posted(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[HTTPStatus, str, bytes]:
        """Take what a container of this pod posts. Return status, content type and body."""
        assert self._pushed is not None  # noqa: S101  # `_answer` has looked
        address = (writer.get_extra_info("peername") or ("",))[0]
        if address not in LOOPBACK:
            return HTTPStatus.FORBIDDEN, "text/plain", b"Only containers of this pod may post.\n"
        length = _CONTENT_LENGTH.search(head)
        if length is None or int(length[1]) > PUSH_MAX:
            return HTTPStatus.LENGTH_REQUIRED, "text/plain", f"Content-Length: at most {PUSH_MAX}.\n".encode()
        if not self._pushed(await reader.readexactly(int(length[1]))):
            said = b'Post numbers: {"step": 10, "loss": 0.5}, or the trainerStatus of Kubeflow.\n'
            return HTTPStatus.BAD_REQUEST, "text/plain", said
        return HTTPStatus.OK, "text/plain", b"ok\n"

    async def _found(self, method: bytes, path: bytes) -> tuple[HTTPStatus, str, bytes]:
        """Return status, content type and body."""
        if method != b"GET":
            return HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", b"Only GET is answered.\n"
        if path == b"/healthz":
            return HTTPStatus.OK, "text/plain", b"ok\n"
        page = self._pages.get(path)
        if page is None:
            there = ", ".join(one.decode() for one in self._pages)
            return HTTPStatus.NOT_FOUND, "text/plain", f"There are {there} and /healthz.\n".encode()
        try:
            return HTTPStatus.OK, "application/json", (await self._made(page)).encode()
        except Exception:
            log.exception("The page %s cannot be made.", path.decode())
            return HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain", b"The page cannot be made: see the agent's log.\n"

    async def _made(self, page: Callable[[], str]) -> str:
        """Return the page, made on a daemon thread: one that hangs must not delay the end of the process."""
        await self._makers.acquire()
        made: asyncio.Future[str] = self._loop.create_future()
        threading.Thread(target=self._make, args=(page, made), name="serve-page", daemon=True).start()
        return await made

    def _make(self, page: Callable[[], str], made: asyncio.Future[str]) -> None:
        act: Callable[[], object]
        try:
            act = partial(made.set_result, page())
        except Exception as error:  # noqa: BLE001  # `_found` logs it
            act = partial(made.set_exception, error)

        def tell() -> None:
            # Here, not where a request ends: the thread of a page that hangs is in use after its request was cut.
            self._makers.release()
            if not made.done():
                act()

        with contextlib.suppress(RuntimeError):  # the server is closed
            self._loop.call_soon_threadsafe(tell)


def start(
    port: int,
    page: Callable[[], str],
    measured: Callable[[], str] | None = None,
    pushed: Callable[[bytes], bool] | None = None,
    relayed: relay.Page | None = None,
) -> Served:
    """Serve on every address of the pod, IPv4 and IPv6, until the process ends. ``page`` returns the progress as JSON, ``measured`` the training's numbers.

    ``pushed`` takes what the training posts. ``relayed`` is the training's metrics page, for clients that ask for it beside the report.

    Raises:
        OSError: the port is in use.
    """
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    # Every address: the operator asks over the pod network.
    listening = socket.create_server(("", port), family=family, backlog=BACKLOG, dualstack_ipv6=both)
    more = {b"/measured": measured} if measured is not None else {}
    return Served(listening, {PROGRESS_PATH: page, **more}, pushed, relayed)
