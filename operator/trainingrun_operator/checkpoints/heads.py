"""Asks a store for size and checksum of many objects, with many requests in flight and little CPU.

botocore takes two milliseconds of CPU for a HEAD, and a thread for each one in flight. Here one thread has all of them in flight. It repeats
botocore's first request (`template`) on connections of its own, and takes from the answers only what cannot be misunderstood: 200 with size and
checksum, and 404. botocore asks again for every other object, so that errors, redirects and their advice stay its own.
"""

from __future__ import annotations

import itertools
import random
import selectors
import socket
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from trainingrun_operator.checkpoints import s3
from trainingrun_operator.checkpoints.pace import CONNECTIONS, IN_FLIGHT_MAX
from trainingrun_operator.checkpoints.proof import Found
from trainingrun_operator.checkpoints.template import Template, watching
from trainingrun_operator.checkpoints.wire import BadAnswerError, Wire

if TYPE_CHECKING:
    import ssl
    from collections.abc import Generator, Iterable, Iterator
    from contextlib import AbstractContextManager

    from trainingrun_operator.checkpoints.clients import Door
    from trainingrun_operator.checkpoints.documents import FileEntry
    from trainingrun_operator.checkpoints.signing import Signer
    from trainingrun_operator.checkpoints.wire import Address, Answer

FIRST: Final = 8
"""Requests in flight at the beginning."""
CONNECT_SECONDS: Final = 3.0
"""As botocore's, in `clients`."""
ANSWER_SECONDS: Final = 10.0
FAILURES: Final = 3
"""Connections in a row that fail before their first answer. Then botocore is asked, which knows the reason."""
SLOW_DOWNS: Final = 8
"""Pauses in a row for a store that asks for fewer requests. Then botocore is asked."""
DETOURS: Final = 32
"""Objects for which botocore had to be asked, after which it is asked for all."""
BY_BOTOCORE: Final = 8
"""Requests of botocore in flight."""
_PAUSE_SECONDS: Final = 0.1
_PAUSE_MAX_SECONDS: Final = 5.0
_WAITED_SECONDS: Final = 0.002
"""A longer wait for answers is the network's or the store's, and more requests in flight shorten it."""
_LOOK_SECONDS: Final = 1.0
"""Between two looks for requests that are not answered, and for new credentials."""
_OK: Final = 200
_MISSING: Final = 404
_TOO_MANY: Final = (429, 503)


class Result(NamedTuple):
    """What the store has of one file; None: no object."""

    file: FileEntry
    found: Found | None


def found_of(
    door: Door, bucket: str, batches: Iterable[list[FileEntry]], turn: AbstractContextManager[object]
) -> Generator[Result]:
    """Yield what the store has of each file, in any order. Blocks.

    Args:
        door: client and credentials.
        bucket: holds the objects.
        batches: the files. The next ones are taken when they are needed, which may block.
        turn: held while the processor is used, and not while waiting.

    Raises:
        STORE_ERRORS: a call failed, as botocore raises it.
    """
    coming = _Coming(batches)
    coming.fill(1)
    if not coming.files:
        return
    first = coming.files.popleft()
    with watching() as sent:
        yield _asked(door, bucket, first)
    template = Template.of(sent[-1], first.key, door.keys()) if sent else None
    if template is not None and (way := _way(door, template)) is not None:
        with _Flight(door, bucket, template, way, coming, turn) as flight:
            yield from flight.results()
    yield from _by_botocore(door, bucket, coming)


def _asked(door: Door, bucket: str, file: FileEntry) -> Result:
    return Result(file, door.call(partial(s3.head_object, bucket, file.key)))


def _by_botocore(door: Door, bucket: str, coming: _Coming) -> Iterator[Result]:
    coming.fill(1)
    if not coming.files:
        return
    with ThreadPoolExecutor(BY_BOTOCORE, thread_name_prefix="heads") as pool:
        while coming.files:
            files = list(coming.files)
            coming.files.clear()
            yield from pool.map(partial(_asked, door, bucket), files)
            coming.fill(1)


class _Coming:
    """The files that are still to be asked for."""

    def __init__(self, batches: Iterable[list[FileEntry]]) -> None:
        self._batches: Iterator[list[FileEntry] | None] = itertools.chain(batches, itertools.repeat(None))
        self.files: deque[FileEntry] = deque()
        """Those at hand."""
        self._ended = False

    def fill(self, least: int) -> None:
        """Have this many files at hand, if there are so many. May block."""
        while len(self.files) < least and not self._ended:
            more = next(self._batches)
            self._ended = more is None
            self.files.extend(more or ())


class _Asked(NamedTuple):
    """A request in flight."""

    wire: Wire
    file: FileEntry
    until: float
    events: int


class _Flight:
    """All requests of one proof that are in flight."""

    def __init__(  # each by its name
        self,
        door: Door,
        bucket: str,
        template: Template,
        way: _Way,
        coming: _Coming,
        turn: AbstractContextManager[object],
    ) -> None:
        self._door, self._bucket, self._template, self._coming, self._turn = door, bucket, template, coming, turn
        self._addresses, self._tls = way
        self._at = 0
        """Index of the address to connect to."""
        self._selector = selectors.DefaultSelector()
        self._asked: dict[int, _Asked] = {}
        """By file descriptor."""
        self._idle: list[Wire] = []
        self._opened = 0
        self._wide = FIRST
        """Requests in flight that have proven useful."""
        self._failures = self._pauses = self._detours = 0
        self._not_before = 0.0
        self._results: list[Result] = []
        self._doubtful: list[FileEntry] = []
        """Files for botocore."""
        self._looked_at = time.monotonic()
        self._keys = door.keys()
        self._signer: Signer = template.signer(self._keys)

    def __enter__(self) -> Self:
        self._door.pace.begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._door.pace.end()
        for fd in list(self._asked):
            self._drop(fd)
        while self._idle:
            self._close(self._idle.pop())
        self._selector.close()

    def results(self) -> Iterator[Result]:
        """Yield the results until all files are answered, or botocore is to be asked for the others."""
        while self._detours < DETOURS:
            self._coming.fill(self._wide)
            with self._turn:
                self._send()
            if self._asked:
                ready = self._wait()
                with self._turn:
                    for fd in ready:
                        self._receive(fd)
                    self._look()
            elif self._coming.files:
                time.sleep(max(0.0, self._not_before - time.monotonic()))
            elif not self._doubtful and not self._results:
                return
            # An answer may arrive while requests are sent.
            results, self._results = self._results, []
            yield from results
            while self._doubtful:
                self._detours += 1
                yield _asked(self._door, self._bucket, self._doubtful.pop())
                self._failures = self._pauses = 0
        self._coming.files.extend(asked.file for asked in self._asked.values())

    def _wait(self) -> list[int]:
        """Return the file descriptors that have an answer, or that a request can be sent to."""
        began = time.monotonic()
        ready = [key.fd for key, _ in self._selector.select(_LOOK_SECONDS)]
        if ready and time.monotonic() - began > _WAITED_SECONDS and len(self._asked) >= self._wide:
            self._wide = min(2 * self._wide, IN_FLIGHT_MAX)
        return ready

    def _send(self) -> None:
        """Send as many requests as may be in flight."""
        now = time.monotonic()
        if now < self._not_before:
            return
        room = min(self._wide, self._door.pace.share)
        while self._coming.files and len(self._asked) < room:
            file = self._coming.files.popleft()
            try:
                wire = self._quiet() or self._open()
            except OSError:
                self._fail(file)
                return
            if wire is None:
                self._coming.files.appendleft(file)
                return
            try:
                request = self._template.request(file.key, self._signer)
            except ValueError:
                # No key of an object can have this name; botocore says so.
                self._idle.append(wire)
                self._doubtful.append(file)
                continue
            self._door.count()
            wire.ask(request)
            fd, events = wire.socket.fileno(), selectors.EVENT_READ if wire.answers else selectors.EVENT_WRITE
            self._selector.register(fd, events)
            until = now + ANSWER_SECONDS + (0 if wire.answers else CONNECT_SECONDS)
            self._asked[fd] = _Asked(wire, file, until, events)
            if wire.answers:
                self._receive(fd)

    def _quiet(self) -> Wire | None:
        """Return a connection that takes another request; None: there is none."""
        while self._idle:
            if (wire := self._idle.pop()).is_quiet():
                return wire
            self._close(wire)
        return None

    def _open(self) -> Wire | None:
        """Open a connection; None: the process has enough. Each proof has one."""
        if self._opened and not CONNECTIONS.acquire(blocking=False):
            return None
        try:
            wire = Wire(self._addresses[self._at], self._template.host, self._tls)
        except OSError:
            if self._opened:
                CONNECTIONS.release()
            raise
        self._opened += 1
        return wire

    def _close(self, wire: Wire) -> None:
        wire.close()
        self._opened -= 1
        if self._opened:
            CONNECTIONS.release()

    def _drop(self, fd: int) -> None:
        asked = self._asked.pop(fd)
        self._selector.unregister(fd)
        self._close(asked.wire)

    def _receive(self, fd: int) -> None:
        """Go on with a request, and take its answer, once there is one."""
        wire, file, until, events = self._asked[fd]
        try:
            said = wire.go_on()
        except BadAnswerError:
            self._drop(fd)
            self._doubtful.append(file)
            return
        except OSError:
            self._drop(fd)
            # A server closes connections that were idle, or that have served enough requests.
            if wire.answers:
                self._coming.files.appendleft(file)
            else:
                self._fail(file)
            return
        if isinstance(said, int):
            if said != events:
                self._selector.modify(fd, said)
                self._asked[fd] = _Asked(wire, file, until, said)
            return
        if said.stays:
            del self._asked[fd]
            self._selector.unregister(fd)
            self._idle.append(wire)
        else:
            self._drop(fd)
        self._take(file, said)

    def _take(self, file: FileEntry, said: Answer) -> None:
        size = said.headers.get("content-length", "")
        if said.status in _TOO_MANY:
            self._slow_down(file)
        elif said.status == _MISSING or (said.status == _OK and size.isascii() and size.isdecimal()):
            self._failures = self._pauses = 0
            self._door.pace.answered()
            crc = said.headers.get("x-amz-checksum-crc64nvme", "")
            self._results.append(Result(file, Found(int(size), crc) if said.status == _OK else None))
        else:
            self._doubtful.append(file)

    def _fail(self, file: FileEntry) -> None:
        """Ask again by another connection, to another address; or have botocore ask."""
        self._failures += 1
        self._at = (self._at + 1) % len(self._addresses)
        if self._failures >= FAILURES:
            self._doubtful.append(file)
        else:
            self._coming.files.appendleft(file)

    def _slow_down(self, file: FileEntry) -> None:
        """Pause, and ask again with fewer requests in flight; or have botocore ask."""
        self._door.pace.slowed()
        now = time.monotonic()
        if now >= self._not_before:
            self._pauses += 1
            pause = min(_PAUSE_MAX_SECONDS, _PAUSE_SECONDS * 2**self._pauses)
            self._not_before = now + pause * random.uniform(0.5, 1)  # noqa: S311  # no secret
        if self._pauses > SLOW_DOWNS:
            self._doubtful.append(file)
        else:
            self._coming.files.appendleft(file)

    def _look(self) -> None:
        """Once a second, give up requests that are not answered, and take the present credentials."""
        now = time.monotonic()
        if now - self._looked_at < _LOOK_SECONDS:
            return
        self._looked_at = now
        for fd in [fd for fd, asked in self._asked.items() if asked.until < now]:
            file = self._asked[fd].file
            self._drop(fd)
            self._fail(file)
        if (keys := self._door.keys()) != self._keys:
            self._keys, self._signer = keys, self._template.signer(keys)


class _Way(NamedTuple):
    """How to connect to the store."""

    addresses: list[Address]
    tls: ssl.SSLContext | None


def _way(door: Door, template: Template) -> _Way | None:
    """Return how to connect; None: the name does not resolve any more, or the certificates cannot be read."""
    try:
        found = socket.getaddrinfo(template.host, template.port, type=socket.SOCK_STREAM)
        tls = door.tls() if template.tls else None
    except OSError:
        return None
    return _Way([(family, address) for family, _, _, _, address in found], tls)
