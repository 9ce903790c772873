"""Runs in a pod, in the training's image: a way to the S3 server that a test closes, opens and makes slow.

Bytes pass as they are: TLS is between the two ends, whose certificate names every Service of the server's namespace. When the test is answered, it is so:
a process that is only told to end, or a Service that is told to have no pod, lets bytes pass for some time more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from urllib.parse import parse_qs, urlsplit

SERVER, SERVER_PORT = os.environ["SERVER"], int(os.environ.get("SERVER_PORT", "443"))
PORT, CONTROL_PORT = int(os.environ.get("PORT", "9443")), int(os.environ.get("CONTROL_PORT", "9444"))
HANDSHAKE = 22
"""First byte of a TLS record that is no request: of what a client sends, only its first record of all is one."""


class Way:
    """The connections that pass, and whether new ones may come."""

    def __init__(self) -> None:
        self.server: asyncio.Server | None = None
        self.ends: set[asyncio.StreamWriter] = set()
        """Both ends of each connection."""
        self.slow: frozenset[str] = frozenset()
        """Addresses of the clients whose every request waits."""
        self.seconds = 0.0

    async def open(self) -> None:
        """Let bytes pass."""
        if self.server is None:
            self.server = await asyncio.start_server(self.serve, "0.0.0.0", PORT)  # noqa: S104 - the pod's own network

    async def cut(self) -> None:
        """End every connection, and refuse new ones."""
        if self.server is not None:
            self.server.close()
            self.server = None
        for end in tuple(self.ends):
            end.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass the bytes of one connection, both ways."""
        self.ends.add(writer)
        there = None
        try:
            back, there = await asyncio.open_connection(SERVER, SERVER_PORT)
            self.ends.add(there)
            if self.server is not None:
                slow = writer.get_extra_info("peername")[0] in self.slow
                await asyncio.gather(self.pour(reader, there, slow=slow), self.pour(back, writer))
        except OSError:
            pass
        finally:
            for end in (writer, there):
                if end is not None:
                    self.ends.discard(end)
                    end.close()

    async def pour(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slow: bool = False) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if slow and data[0] != HANDSHAKE:
                    await asyncio.sleep(self.seconds)
                writer.write(data)
                await writer.drain()
        writer.close()

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Do what a test asks for: ``/cut``, ``/open``, or ``/slow?seconds=N&peer=ADDRESS`` for connections from now on."""
        line = await reader.readline()
        while (await reader.readline()).strip():
            """The rest of the request says nothing."""
        if not line:  # The kubelet only tries whether somebody listens.
            writer.close()
            return
        asked = urlsplit(line.decode().split()[1])
        words = parse_qs(asked.query)
        if asked.path in ("/cut", "/slow"):
            await self.cut()
        self.slow = frozenset(words.get("peer", ()))
        self.seconds = float(words.get("seconds", ("0",))[0])
        if asked.path in ("/open", "/slow"):
            await self.open()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()


async def main() -> None:
    """Until the pod is deleted."""
    way = Way()
    await way.open()
    control = await asyncio.start_server(way.control, "0.0.0.0", CONTROL_PORT)  # noqa: S104 - the pod's own network
    await control.serve_forever()


asyncio.run(main())
