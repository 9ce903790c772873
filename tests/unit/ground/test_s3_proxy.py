"""The way to S3 that cluster tests close: when it says that it is closed, no byte passes."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
import time

import pytest
from e2e.faults import SCRIPT
from ports import free_port
from waiting import eventually

REQUEST = b"\x17 a request"
"""The first byte of a TLS record with data."""


class Echo:
    """A server that sends back what it gets."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def answer(self, connection):
        with connection:
            while data := connection.recv(1000):
                connection.sendall(data)


class Way:
    """The script as a process on loopback."""

    def __init__(self, echo):
        self.port, self.control_port = free_port(), free_port()
        env = {
            "SERVER": "127.0.0.1",
            "SERVER_PORT": str(echo.port),
            "PORT": str(self.port),
            "CONTROL_PORT": str(self.control_port),
        }
        self.process = subprocess.Popen([sys.executable, "-c", SCRIPT.read_text()], env=env)

    def ask(self, what):
        """As the API server passes it on."""
        connection = http.client.HTTPConnection("127.0.0.1", self.control_port, timeout=60)
        connection.request("POST", what)
        assert connection.getresponse().status == 200
        connection.close()

    def listens(self):
        try:
            socket.create_connection(("127.0.0.1", self.control_port), 60).close()
        except ConnectionRefusedError:
            return False
        return True

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), 60)


@pytest.fixture
def way():
    echo = Echo()
    way = Way(echo)
    try:
        eventually(way.listens, "it listens", every=0.05)
        yield way
    finally:
        way.process.kill()
        way.process.wait()
        echo.listener.close()


def passes(connection):
    connection.sendall(REQUEST)
    return connection.recv(1000) == REQUEST


def is_over(connection):
    """Whether the other end has ended it."""
    try:
        return connection.recv(1000) == b""
    except ConnectionError:
        return True


def test_once_it_is_cut_nothing_passes_until_it_is_opened(way):
    with way.connect() as before:
        assert passes(before)
        way.ask("/cut")
        assert is_over(before)
    with pytest.raises(ConnectionRefusedError):
        way.connect()
    way.ask("/cut")
    way.ask("/open")
    with way.connect() as after:
        assert passes(after)


def test_the_requests_of_those_who_are_named_wait(way):
    with way.connect() as before:
        assert passes(before)
        way.ask("/slow?seconds=0.3&peer=10.0.0.7&peer=127.0.0.1")
        assert is_over(before)
    with way.connect() as slow:
        began = time.monotonic()
        assert passes(slow)
        assert time.monotonic() - began >= 0.3
    way.ask("/open")
    way.ask("/slow?seconds=3600&peer=10.0.0.7")
    with way.connect() as other:
        assert passes(other)
