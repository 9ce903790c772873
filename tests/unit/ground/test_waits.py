"""How cluster tests wait for a state of an object: also for one that passes while nobody looks."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest
from e2e.api import Api

RUNS = "/runs"
PHASES = ("Draining", "Saving", "Releasing", "Done")
"""One for each resourceVersion, from 1."""


def run(version):
    return {"metadata": {"name": "x", "resourceVersion": str(version)}, "status": {"phase": PHASES[version - 1]}}


class Plain(Api):
    """Without TLS."""

    def __init__(self, port):
        self._host, self._port, self._who = "127.0.0.1", port, {}

    @contextlib.contextmanager
    def _open(self, method, path, body, content_type, timeout, **params):
        connection = http.client.HTTPConnection(self._host, self._port, timeout=timeout)
        query = "&".join(f"{key}={value}" for key, value in params.items())
        connection.request(method, f"{path}?{query}")
        yield connection.getresponse()
        connection.close()


class Server(ThreadingHTTPServer):
    """Lists the newest state, and tells every state after a version, in watches that break off again and again."""

    daemon_threads = True

    def __init__(self, newest=4, forgotten=0):
        super().__init__(("127.0.0.1", 0), Handler)
        self.newest, self.forgotten = newest, forgotten
        self.lists = 0


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        asked = parse_qs(urlsplit(self.path).query)
        self.send_response(200)
        self.end_headers()
        if "watch" not in asked:
            self.server.lists += 1
            newest = self.server.newest
            listed = {"metadata": {"resourceVersion": str(newest)}, "items": [run(newest)]}
            self.wfile.write(json.dumps(listed).encode())
            return
        version = int(asked["resourceVersion"][0])
        if version < self.server.forgotten:
            self.wfile.write(b'{"type": "ERROR", "object": {"code": 410}}\n')
        elif version < self.server.newest:
            event = json.dumps({"type": "MODIFIED", "object": run(version + 1)}) + "\n"
            self.wfile.write((event + event[:20]).encode())

    def log_message(self, *args):
        """Say nothing."""


@pytest.fixture
def serve():
    with contextlib.ExitStack() as stack:

        def start(**how):
            server = stack.enter_context(Server(**how))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.shutdown)
            return server, Plain(server.server_address[1])

        yield start


def phase(run):
    return run["status"]["phase"]


def test_a_state_that_has_passed_is_found_since_the_version_before_it(serve):
    server, api = serve()
    found = api.wait(RUNS, lambda one: phase(one) == "Saving", "it saves", 60, name="x", since="1")
    assert found == run(2)
    assert not server.lists


def test_what_comes_between_two_watches_is_not_missed(serve):
    server, api = serve(newest=1)
    seen = []

    def last(one):
        seen.append(phase(one))
        server.newest = 4
        return phase(one) == "Done"

    api.wait(RUNS, last, "it is done", 60, name="x")
    assert seen == list(PHASES), "Each watch has told one state, and has broken off within the next."
    assert server.lists == 1


def test_a_version_that_is_too_old_is_followed_by_a_list(serve):
    server, api = serve(forgotten=3)
    assert api.wait(RUNS, lambda one: phase(one) == "Done", "it is done", 60, name="x", since="1") == run(4)
    assert server.lists == 1


def test_a_state_that_never_comes_is_told_with_the_last_one(serve):
    _, api = serve()
    with pytest.raises(AssertionError, match=r"it saves: not so after 0\.5 s(.|\n)*phase: Done"):
        api.wait(RUNS, lambda one: phase(one) == "Saving", "it saves", 0.5, name="x")
