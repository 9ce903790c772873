"""The API server for tests: requests, watches and logs over plain HTTP, so that a wait is a watch and never a sleep."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import ssl
import tempfile
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

Json = dict[str, Any]
Predicate = "Callable[[Json], Any]"

MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"

RUNS = "/apis/trainingrun.dev/v1alpha1"
LINE_SECONDS = 300
"""For a line that a training should write soon; generous, because many tests share two cores."""
ANSWER_SECONDS = 90
BUSY, BUSY_SECONDS, TRIES = (429, 500, 503, 504), 1.0, 6
"""What a busy API server answers; the pause before something is read again, and how often it is read."""


class ApiError(Exception):
    """The API server refused."""

    def __init__(self, status: int, body: str) -> None:
        try:
            said: Json = json.loads(body)
        except ValueError:
            said = {"message": body[:500]}
        self.status = status
        self.reason = str(said.get("reason", ""))
        self.message = str(said.get("message", ""))
        self.causes = list((said.get("details") or {}).get("causes") or ())
        super().__init__(f"{status} {self.reason}: {self.message}")


class TooOldError(Exception):
    """What came after a resourceVersion is not known any more: a list says what is."""


class Api:
    """Somebody's connection: the administrator's, or with a token its owner's. A TCP connection for each call, so any thread may use it."""

    def __init__(self, kubeconfig: Path, token: str = "") -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        split = urlsplit(cluster["server"])
        self._host, self._port = str(split.hostname), split.port or 443
        self._tls = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        self._who = {"Authorization": f"Bearer {token}"} if token else {}
        if token:
            return
        with tempfile.NamedTemporaryFile("wb", suffix=".pem") as pem:
            pem.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
            pem.flush()
            self._tls.load_cert_chain(pem.name)

    # -- requests ------------------------------------------------------------------------------------------

    def call(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json", **params: str
    ) -> str:
        reads = method == "GET" and not {"proxy", "log"} & set(path.split("/"))
        for _ in range(TRIES - 1 if reads else 0):
            try:
                return self._call(method, path, body, content_type, **params)
            except ApiError as error:
                if error.status not in BUSY:
                    raise
                time.sleep(BUSY_SECONDS)
        return self._call(method, path, body, content_type, **params)

    def _call(self, method: str, path: str, body: Any, content_type: str, **params: str) -> str:
        with self._open(method, path, body, content_type, ANSWER_SECONDS, **params) as answer:
            text = answer.read().decode(errors="replace")
        if answer.status >= 400:
            raise ApiError(answer.status, text)
        return text

    def request(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json", **params: str
    ) -> Json:
        answer: Json = json.loads(self.call(method, path, body, content_type, **params))
        return answer

    def get(self, path: str) -> Json | None:
        try:
            return self.request("GET", path)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def list(self, path: str, **params: str) -> list[Json]:
        items: list[Json] = self.request("GET", path, **params)["items"]
        return items

    def create(self, path: str, body: Json) -> Json:
        return self.request("POST", path, body)

    def merge(self, path: str, patch: Json) -> Json:
        return self.request("PATCH", path, patch, MERGE)

    def delete(self, path: str, **options: Any) -> None:
        """Gone already is success."""
        try:
            self.call("DELETE", path, {"apiVersion": "v1", "kind": "DeleteOptions", **options})
        except ApiError as error:
            if error.status != 404:
                raise

    @contextlib.contextmanager
    def _open(
        self, method: str, path: str, body: Any, content_type: str, timeout: float, **params: str
    ) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=self._tls)
        try:
            url = path + (f"?{urlencode(params)}" if params else "")
            data = None if body is None else json.dumps(body)
            headers = {"Content-Type": content_type, "Accept": "application/json, */*", **self._who}
            connection.request(method, url, data, headers)
            answer = connection.getresponse()
            yield answer
            answer.close()
        finally:
            connection.close()

    # -- waiting -------------------------------------------------------------------------------------------

    def watch(self, path: str, version: str, seconds: float, **params: str) -> Iterator[tuple[str, Json]]:
        """Events after a resourceVersion, until the time is up or the watch ends.

        Raises:
            TooOldError: the server does not know any more what came after that version.
        """
        asked = {
            **params,
            "watch": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(max(1, int(seconds))),
        }
        # Whatever breaks it off, also within a line, ends it.
        with (
            contextlib.suppress(OSError, http.client.HTTPException, ValueError),
            self._open("GET", path, None, "application/json", seconds + 10, **asked) as answer,
        ):
            if answer.status == 410 or answer.status in BUSY:
                raise TooOldError
            if answer.status >= 400:
                raise ApiError(answer.status, answer.read().decode(errors="replace"))
            while line := answer.readline():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    raise TooOldError
                yield event["type"], event["object"]

    def wait(
        self,
        collection: str,
        fits: Callable[[Json | None], Any],
        sentence: str,
        timeout: float,
        *,
        name: str = "",
        selector: str = "",
        since: str = "",
    ) -> Json | None:
        """Watch the object of this name (or any object of this label selector) until `fits` of it is true; None stands for its absence.

        With `since`, a resourceVersion, also if it was true at any time after that, and is not any more.

        Raises:
            AssertionError: it never was; with the sentence and the object as it was seen last.
        """
        params = {"fieldSelector": f"metadata.name={name}"} if name else {"labelSelector": selector}
        last: Json | None = None
        for last in self._states(collection, timeout, since, **params):
            if fits(last):
                return last
        raise AssertionError(f"{sentence}: not so after {timeout:g} s. Last seen:\n{_shown(last)}")

    def _states(self, collection: str, timeout: float, since: str, **params: str) -> Iterator[Json | None]:
        """What there is, or what came after a resourceVersion; every change of it; and what there is when the time is up."""
        deadline = time.monotonic() + timeout
        version = since
        while (left := deadline - time.monotonic()) > 0:
            if not version:
                version, found = self._listed(collection, **params)
                yield from found
            try:
                for kind, item in self.watch(collection, version, min(left, 30), **params):
                    if kind == "DELETED" and "labelSelector" in params:
                        version = ""  # There may be others.
                        break
                    # The next watch begins after this event, so none is missed.
                    version = item["metadata"]["resourceVersion"]
                    yield None if kind == "DELETED" else item
                    if time.monotonic() > deadline:
                        break
                else:
                    time.sleep(0.1)  # Should it have broken off, not as fast as it can.
            except TooOldError:
                version = ""
        yield from self._listed(collection, **params)[1]

    def _listed(self, collection: str, **params: str) -> tuple[str, Sequence[Json | None]]:
        """The resourceVersion of a list, and what is in it; None if nothing is."""
        listed = self.request("GET", collection, **params)
        return listed["metadata"]["resourceVersion"], listed["items"] or [None]

    # -- logs ----------------------------------------------------------------------------------------------

    def log(self, namespace: str, pod: str, container: str, **params: str) -> str:
        """What the container has written so far; what went wrong instead, if there is none."""
        try:
            return self.call("GET", f"/api/v1/namespaces/{namespace}/pods/{pod}/log", container=container, **params)
        except (ApiError, OSError) as error:
            return f"(no log: {error})"

    def follow(self, namespace: str, pod: str, container: str) -> Log:
        """Collect a started container's log in the background, until it ends: the pod will be gone when the test reads it."""
        log = Log(pod)
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"

        def collect() -> None:
            try:
                with self._open(
                    "GET", path, None, "", 600, container=container, follow="true", timestamps="true"
                ) as text:
                    while line := text.readline():
                        log.add(line.decode(errors="replace").rstrip("\n"))
            except (OSError, ValueError, http.client.HTTPException) as error:
                log.add(f"1970-01-01T00:00:00Z (log broken off: {error!r})")
            finally:
                log.end()

        threading.Thread(target=collect, name=f"log of {pod}", daemon=True).start()
        return log


class Line(NamedTuple):
    """One line of a log."""

    at: float
    """Seconds since the epoch, by the node's clock; nodes share the machine's."""
    text: str


@dataclass
class Log:
    """A log that is being followed."""

    pod: str
    lines: list[Line] = field(default_factory=list)
    ended: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def add(self, stamped: str) -> None:
        stamp, _, text = stamped.partition(" ")
        with self._changed:
            self.lines.append(Line(seconds_of(stamp), text))
            self._changed.notify_all()

    def end(self) -> None:
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def wait(self, part: str, timeout: float = LINE_SECONDS, *, times: int = 1) -> Line:
        """The first line that contains `part`; with `times`, that many-th.

        Raises:
            AssertionError: there was none before the log ended or time was up.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                found = [line for line in self.lines if part in line.text]
                if len(found) >= times:
                    return found[times - 1]
                left = deadline - time.monotonic()
                if self.ended or left <= 0:
                    raise AssertionError(
                        f"The training {self.pod} said {part!r} {len(found)} of {times} times in {timeout:g} s. It said:\n{self.text}"
                    )
                self._changed.wait(left)

    def wait_end(self, timeout: float = LINE_SECONDS) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.ended, timeout), f"The log of {self.pod} has not ended."

    @property
    def text(self) -> str:
        return "\n".join(line.text for line in self.lines)


def seconds_of(stamp: str) -> float:
    """RFC 3339 with up to nanoseconds."""
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    try:
        return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")
    except ValueError:
        return 0.0


def _shown(item: Json | None) -> str:
    if item is None:
        return "nothing"
    readable = {**item, "metadata": {k: v for k, v in item["metadata"].items() if k != "managedFields"}}
    return yaml.safe_dump(readable)
