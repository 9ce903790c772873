"""Prometheus and Alertmanager as processes of a test, and a webhook that they reach: all on loopback, all gone with the test."""

from __future__ import annotations

import base64
import contextlib
import http.client
import http.server
import json
import math
import queue
import subprocess
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import yaml
from e2e.ground import OPERATOR, OPERATOR_NAMESPACE, REPOSITORY
from e2e.runs import WAIT_SECONDS
from ports import free_port
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from e2e.ground import Ground

Json = dict[str, Any]
RULES = REPOSITORY / "alerts" / "prometheus.yaml"
AT_ONCE = "1s"
"""In the place of every `for:`, and between evaluations: the one thing that this test changes in the rules."""


@dataclass
class Notices:
    """What Alertmanager has delivered, alert by alert."""

    received: queue.SimpleQueue[Json] = field(default_factory=queue.SimpleQueue)
    seen: list[Json] = field(default_factory=list)

    def wait(self, alert: str, namespace: str, status: str, timeout: float = WAIT_SECONDS) -> Json:
        """Return the first notice of this alert about a run of this namespace: ``firing`` or ``resolved``.

        Raises:
            AssertionError: there was none; with all that was delivered about the namespace.
        """
        deadline = time.monotonic() + timeout
        while True:
            for one in self.seen:
                labels = one["labels"]
                if (labels["alertname"], labels.get("namespace"), one["status"]) == (alert, namespace, status):
                    return one
            try:
                self.seen.append(self.received.get(timeout=max(0.0, deadline - time.monotonic())))
            except queue.Empty:
                told = [one for one in self.seen if one["labels"].get("namespace") == namespace]
                raise AssertionError(
                    f"{alert} of {namespace} was not delivered as {status} in {timeout:g} s: {told}"
                ) from None


@contextlib.contextmanager
def webhook() -> Iterator[tuple[str, Notices]]:
    """Listen for Alertmanager; yields the address."""
    notices = Notices()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            for alert in json.loads(self.rfile.read(int(self.headers["Content-Length"])))["alerts"]:
                notices.received.put(alert)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name is the library's
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", notices
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def process(*command: str, log: Path) -> Iterator[None]:
    """Run it meanwhile."""
    with log.open("wb") as out:
        running = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            running.terminate()
            try:
                running.wait(10)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()


@contextlib.contextmanager
def alertmanager(folder: Path, receiver: str) -> Iterator[str]:
    """Deliver everything to the receiver at once; yields host and port."""
    config = {
        "route": {
            "receiver": "test",
            "group_by": ["alertname", "namespace", "name"],
            "group_wait": "0s",
            "group_interval": "1s",
            "repeat_interval": "1h",
        },
        "receivers": [{"name": "test", "webhook_configs": [{"url": receiver, "send_resolved": True}]}],
    }
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    with process(
        "prometheus-alertmanager", f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/alertmanager",
        f"--web.listen-address={address}", "--cluster.listen-address=", log=folder / "alertmanager.log",
    ):  # fmt: skip
        _wait_ready(address, folder / "alertmanager.log")
        yield address


@dataclass(frozen=True)
class Prometheus:
    """One that scrapes the operator, and has the project's rules."""

    address: str
    started_at: float

    def ask(self, path: str, **params: str) -> Any:
        """What the API answers.

        Raises:
            AssertionError: it refused, as it does with PromQL that is none.
        """
        host, _, port = self.address.partition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        try:
            connection.request("GET", f"/api/v1/{path}?{urlencode(params)}")
            answer = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        assert answer["status"] == "success", f"{params}: {answer}"
        return answer["data"]

    def series(self, expr: str) -> list[Json]:
        """What the expression was, second by second, since Prometheus was started; only series with a number in them."""
        asked = {"query": expr, "start": f"{self.started_at:.3f}", "end": f"{time.time():.3f}", "step": "1"}
        found: list[Json] = self.ask("query_range", **asked)["result"]
        return [one for one in found if any(not math.isnan(float(value)) for _, value in one["values"])]

    def most(self, expr: str) -> float:
        """The largest number that the expression ever was."""
        return max((float(value) for one in self.series(expr) for _, value in one["values"]), default=-math.inf)


def operator_target(folder: Path, ground: Ground) -> Json:
    """How the operator in the cluster is scraped: through the API server's way to its Service, as an administrator."""
    kubeconfig = yaml.safe_load(ground.kubeconfig.read_text())
    cluster, user = kubeconfig["clusters"][0]["cluster"], kubeconfig["users"][0]["user"]
    secrets = {
        "ca_file": cluster["certificate-authority-data"],
        "cert_file": user["client-certificate-data"],
        "key_file": user["client-key-data"],
    }
    for name, data in secrets.items():
        (folder / name).write_bytes(base64.b64decode(data))
    return {
        "scheme": "https",
        "metrics_path": f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/services/{OPERATOR}:8080/proxy/metrics",
        "tls_config": {name: str(folder / name) for name in secrets},
        "static_configs": [{"targets": [cluster["server"].partition("://")[2]]}],
    }


@contextlib.contextmanager
def prometheus(folder: Path, target: Json, receiver: str) -> Iterator[Prometheus]:
    """Scrape the target every other second, evaluate the rules every second, and send what fires to an Alertmanager."""
    rules = yaml.safe_load(RULES.read_text())
    for group in rules["groups"]:
        group["interval"] = AT_ONCE
        for rule in group["rules"]:
            rule["for"] = AT_ONCE
    (folder / "rules.yml").write_text(yaml.safe_dump(rules))
    config = {
        # Prometheus waits for a page no longer than until it reads the next.
        "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s"},
        "rule_files": [str(folder / "rules.yml")],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [receiver]}]}]},
        "scrape_configs": [{"job_name": OPERATOR, "honor_labels": True, **target}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address, started = f"127.0.0.1:{free_port()}", time.time()
    with process(
        "prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb", f"--web.listen-address={address}",
        log=folder / "prometheus.log",
    ):  # fmt: skip
        _wait_ready(address, folder / "prometheus.log")
        yield Prometheus(address, started)


def _wait_ready(address: str, log: Path) -> None:
    host, _, port = address.partition(":")

    def ready() -> bool:
        connection = http.client.HTTPConnection(host, int(port), timeout=5)
        try:
            connection.request("GET", "/-/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    try:
        eventually(ready, f"{address} is ready", WAIT_SECONDS)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{log.read_text()}") from None
