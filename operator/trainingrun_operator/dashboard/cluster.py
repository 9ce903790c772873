"""The API server as one person sees it: every call carries that person's token, so the API server decides what they see and may do.

The permission of each call stands beside it as "Needs: verb resource"; a test compares those that an anonymous viewer uses with the chart.
"""

from __future__ import annotations

import asyncio
import base64
import codecs
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp
import yaml

from trainingrun_operator.api import names
from trainingrun_operator.edge.kube import MERGE, TOKEN_FILE, Connection, KubeError, error_of

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

Json = dict[str, Any]

MANAGER: Final = "trainingrun-dashboard"
"""Field manager of what a button writes."""
CALL_SECONDS: Final = 20
WATCH_SECONDS: Final = 300
"""So long one watch lasts; the next goes on where it ended."""
CHUNK: Final = 500
LINE_MAX: Final = 16 * 2**20
"""Bytes of one event of a watch."""
TABLE: Final = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
"""The printer columns and the metadata of each object, without its spec."""
_RUNS: Final = f"/apis/{names.API_VERSION}"
_CA_FILE: Final = TOKEN_FILE.with_name("ca.crt")
_GONE: Final = 410
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


class NoClusterError(Exception):
    """It is not known where the API server is."""


def connection(environ: Mapping[str, str] | None = None) -> Connection:
    """Where the API server is, and its CA: of the pod's own cluster, else of the kubeconfig's current context.

    No credentials come along: a client certificate of the kubeconfig would speak for everybody who looks.

    Raises:
        NoClusterError: neither is there.
    """
    environ = os.environ if environ is None else environ
    if (host := environ.get("KUBERNETES_SERVICE_HOST")) and _CA_FILE.exists():
        shown = f"[{host}]" if ":" in host else host
        return Connection(f"https://{shown}:{environ.get('KUBERNETES_SERVICE_PORT', '443')}", ca_path=str(_CA_FILE))
    path = Path(environ.get("KUBECONFIG") or Path.home() / ".kube" / "config")
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        context = next(one["context"] for one in config["contexts"] if one["name"] == config["current-context"])
        found = next(one["cluster"] for one in config["clusters"] if one["name"] == context["cluster"])
        ca_path = found.get("certificate-authority")
        return Connection(
            found["server"],
            ca_path=str(path.parent / ca_path) if ca_path else None,
            ca_data=found.get("certificate-authority-data"),
            insecure=bool(found.get("insecure-skip-tls-verify")),
        )
    except (OSError, KeyError, StopIteration, TypeError, yaml.YAMLError) as error:
        message = f"Neither in a pod nor with a kubeconfig that can be used ({path}: {type(error).__name__} {' '.join(str(error).split())}): set KUBECONFIG."
        raise NoClusterError(message) from error


def own_token() -> str:
    """Of the pod's ServiceAccount, read anew each time: it is replaced long before it expires. Empty: there is none."""
    return TOKEN_FILE.read_text(encoding="utf-8").strip() if TOKEN_FILE.exists() else ""


def default_namespace(token: str) -> str:
    """The namespace of a ServiceAccount's token; empty for anybody else's. A hint only: the token is not checked here."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return str(claims["kubernetes.io"]["namespace"])
    except (IndexError, KeyError, TypeError, ValueError):
        return ""


class Cluster:
    """The connections that all people share; none of them carries anybody's name. Close it, or use it as a context manager."""

    def __init__(self, where: Connection) -> None:
        self._server = where.server.rstrip("/")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=where.ssl_context(), limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=2**16,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    def person(self, token: str) -> Person:
        """Return the cluster as the bearer of this token sees it."""
        return Person(self._session, self._server, token)


@dataclass(frozen=True)
class Page:
    """A table of runs, and from where to watch on."""

    rows: tuple[Json, ...]
    """Of meta.k8s.io/v1 Table: `cells` and `object.metadata`."""
    columns: tuple[str, ...]
    version: str


@dataclass(frozen=True, repr=False)
class Person:
    """Somebody with a token. It never shows itself: neither in logs nor in tracebacks."""

    session: aiohttp.ClientSession
    server: str
    token: str

    def __repr__(self) -> str:
        return "Person(…)"

    # -- who they are, what they may ---------------------------------------------------------------------

    async def name(self) -> str:
        """Their user name, as admission policies see it. Needs: nothing but a valid token."""
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        said = await self._call("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body)
        return str(said["status"]["userInfo"].get("username", ""))

    async def may_patch(self, namespace: str, name: str) -> bool:
        """Whether they may change this run. Needs: nothing but a valid token."""
        about = {
            "namespace": namespace,
            "name": name,
            "verb": "patch",
            "group": names.GROUP,
            "resource": names.RUN_PLURAL,
        }
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": about},
        }
        said = await self._call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)
        return bool(said["status"].get("allowed"))

    # -- runs ----------------------------------------------------------------------------------------------

    async def runs(self, namespace: str) -> Page:
        """All runs of a namespace, or with an empty name of all, as a table. Needs: list trainingruns."""
        path, token = _collection(namespace), ""
        rows: list[Json] = []
        columns: tuple[str, ...] = ()
        while True:
            params = {"limit": str(CHUNK)} | ({"continue": token} if token else {})
            said = await self._call("GET", path, params=params, accept=TABLE)
            columns = tuple(str(one["name"]) for one in said.get("columnDefinitions") or ()) or columns
            rows.extend(said.get("rows") or ())
            token = said["metadata"].get("continue", "")
            if not token:
                return Page(tuple(rows), columns, str(said["metadata"]["resourceVersion"]))

    def watch_runs(self, namespace: str, version: str) -> AsyncGenerator[tuple[str, Json], None]:
        """What happens to them after a version: the kind of event, and a table of one row. Needs: watch trainingruns."""
        return self._watch(_collection(namespace), version, TABLE)

    async def run(self, namespace: str, name: str) -> Json:
        """One run. Needs: get trainingruns."""
        return await self._call("GET", _run(namespace, name))

    def watch_run(self, namespace: str, name: str, version: str) -> AsyncGenerator[tuple[str, Json], None]:
        """What happens to it after a version: the kind of event, and the run. Needs: watch trainingruns."""
        return self._watch(_collection(namespace), version, "application/json", fieldSelector=f"metadata.name={name}")

    async def patch_run(self, namespace: str, name: str, patch: Json) -> Json:
        """Merge patch. Needs: patch trainingruns."""
        return await self._call("PATCH", _run(namespace, name), patch, MERGE, {"fieldManager": MANAGER})

    async def curve(self, namespace: str, run: str) -> Json | None:
        """The ConfigMap in which the operator keeps the run's losses; None if there is none. Needs: get configmaps."""
        try:
            return await self._call(
                "GET", f"/api/v1/namespaces/{_name(namespace)}/configmaps/{names.curve_name(_name(run))}"
            )
        except KubeError as error:
            if error.gone:
                return None
            raise

    async def log(self, namespace: str, pod: str, container: str, lines: int) -> AsyncGenerator[str, None]:
        """The last lines of a container's log and all that follow, in pieces as they come, until it ends. Needs: get pods/log."""
        path = f"/api/v1/namespaces/{_name(namespace)}/pods/{_name(pod)}/log"
        params = {"container": container, "tailLines": str(lines), "follow": "true"}
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        try:
            async with self.session.get(
                self.server + path,
                params=params,
                headers=self._headers("*/*"),
                timeout=_endless(),
                allow_redirects=False,
            ) as answer:
                if not answer.ok:
                    raise error_of(answer.status, await answer.text())
                async for piece in answer.content.iter_any():
                    yield decoder.decode(piece)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unreachable(error) from error

    # -- requests ------------------------------------------------------------------------------------------

    def _headers(self, accept: str) -> dict[str, str]:
        return {"Accept": accept} | ({"Authorization": f"Bearer {self.token}"} if self.token else {})

    async def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
        params: Mapping[str, str] | None = None,
        *,
        accept: str = "application/json",
    ) -> Json:
        headers = self._headers(accept) | {"Content-Type": content_type}
        try:
            async with self.session.request(
                method,
                self.server + path,
                data=None if body is None else json.dumps(body),
                headers=headers,
                params=params,
                timeout=aiohttp.ClientTimeout(total=CALL_SECONDS),
                allow_redirects=False,
            ) as answer:
                text = await answer.text()
                if not answer.ok:
                    raise error_of(answer.status, text)
                return dict(json.loads(text))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _unreachable(error) from error
        except (TypeError, ValueError) as error:
            raise KubeError(0, "NotKubernetes", f"{method} {path}: the answer is not a JSON object") from error

    async def _watch(
        self, path: str, version: str, accept: str, **params: str
    ) -> AsyncGenerator[tuple[str, Json], None]:
        """Events, for as long as somebody listens. A version that is too old is a KubeError 410: list again."""
        while True:
            asked = {
                **params,
                "watch": "true",
                "resourceVersion": version,
                "allowWatchBookmarks": "true",
                "timeoutSeconds": str(WATCH_SECONDS),
            }
            try:
                async with self.session.get(
                    self.server + path,
                    params=asked,
                    headers=self._headers(accept),
                    timeout=_endless(WATCH_SECONDS + 60),
                    allow_redirects=False,
                ) as answer:
                    if not answer.ok:
                        raise error_of(answer.status, await answer.text())
                    async for line in _lines(answer.content):
                        event = json.loads(line)
                        kind, stored = str(event["type"]), dict(event["object"])
                        if kind == "ERROR":
                            raise KubeError(
                                int(stored.get("code", 0)), stored.get("reason", ""), stored.get("message", "")
                            )
                        version = _version(stored) or version
                        if kind != "BOOKMARK":
                            yield kind, stored
            except (aiohttp.ClientError, TimeoutError) as error:
                raise _unreachable(error) from error


def expired(error: KubeError) -> bool:
    """A watch cannot go on from there: list again."""
    return error.status == _GONE


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Whole lines of any length: a run may be larger than the reader's own limit."""
    rest = b""
    async for piece in content.iter_any():
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            if line.strip():
                yield line
        if len(rest) > LINE_MAX:
            raise KubeError(0, "NotKubernetes", f"an event of more than {LINE_MAX} bytes")


def _version(stored: Json) -> str:
    """Of an object; of the only row of a table."""
    for row in stored.get("rows") or ():
        return str(row["object"]["metadata"].get("resourceVersion", ""))
    return str((stored.get("metadata") or {}).get("resourceVersion", ""))


def _endless(silence: float | None = None) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=CALL_SECONDS, sock_read=silence)


def _unreachable(error: Exception) -> KubeError:
    if isinstance(error, asyncio.TimeoutError):
        return KubeError(0, "Unreachable", "it did not answer in time")
    return KubeError(0, "Unreachable", f"{type(error).__name__} {error}")


def _collection(namespace: str) -> str:
    return f"{_RUNS}/namespaces/{_name(namespace)}/{names.RUN_PLURAL}" if namespace else f"{_RUNS}/{names.RUN_PLURAL}"


def _run(namespace: str, name: str) -> str:
    return f"{_collection(namespace)}/{_name(name)}"


def _name(text: str) -> str:
    """A name as Kubernetes has them. What is none would be another address, and no object has it."""
    if _NAME.fullmatch(text) is None:
        raise KubeError(404, "NotFound", f"{text[:100]!r} is not a name that an object can have")
    return text
