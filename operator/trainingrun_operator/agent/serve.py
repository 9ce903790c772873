"""The agent's HTTP server: ``GET /progress`` for the operator, ``GET /healthz`` for the kubelet."""

from __future__ import annotations

import socket
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

REQUEST_SECONDS = 5.0


class _Server(ThreadingHTTPServer):
    """Listens on every address of the pod, IPv4 and IPv6."""

    daemon_threads = True
    request_queue_size = 32

    def __init__(self, port: int, handler: type[BaseHTTPRequestHandler]) -> None:
        both = socket.has_dualstack_ipv6()
        self.address_family = socket.AF_INET6 if both else socket.AF_INET
        super().__init__(("::" if both else "0.0.0.0", port), handler)  # noqa: S104  # the operator asks over the pod network

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


def start(port: int, page: Callable[[], str]) -> ThreadingHTTPServer:
    """Serve on a daemon thread until the process ends. ``page`` returns the progress as JSON.

    Raises:
        OSError: the port is in use.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_SECONDS
        server_version = "checkpoint-agent"
        sys_version = ""

        def do_GET(self) -> None:  # http.server's name
            pages = {"/progress": ("application/json", page), "/healthz": ("text/plain", lambda: "ok\n")}
            if self.path not in pages:
                self.send_error(HTTPStatus.NOT_FOUND)
                return
            kind, make = pages[self.path]
            body = make().encode()
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # http.server's name
            """Log nothing: the operator polls ten times a minute."""

    server = _Server(port, Handler)
    threading.Thread(target=server.serve_forever, name="serve", daemon=True).start()
    return server
