"""Calls to the API server with one user's token, so that the API server decides what the user may see and do.

Each docstring names the permission of its call as "Needs: verb resource". A test compares those that an anonymous viewer uses with the chart.
"""

from __future__ import annotations

import asyncio
import base64
import codecs
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from trainingrun_operator.api import names
from trainingrun_operator.edge.apiserver.transport import JSON, MERGE, KubeError, Transport, lines

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping

    from trainingrun_operator.edge.apiserver.connection import Connection

Json = dict[str, Any]

MANAGER: Final = "trainingrun-dashboard"
"""Field manager of the dashboard's patches."""
WATCH_SECONDS: Final = 300
"""Duration of one watch; the next continues from its last version."""
LISTS: Final = 4
"""Lists read at once: a list of 2,000 runs takes some 10 MB until its rows are read out of it."""
TABLE: Final = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
"""Printer columns and metadata of each object, without its spec."""
_RUNS: Final = f"/apis/{names.API_VERSION}"
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


def default_namespace(token: str) -> str:
    """Return the namespace of a ServiceAccount's token; empty for other tokens. A hint only: the token is not verified."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return str(claims["kubernetes.io"]["namespace"])
    except (IndexError, KeyError, TypeError, ValueError):
        return ""


class Cluster:
    """The connections that all users share; they carry no credentials. Use it as a context manager."""

    def __init__(self, where: Connection) -> None:
        # One try: the user sees that the API server is busy and decides when to try again.
        self._transport = Transport(where, connections=0, busy_tries=1)
        self._lists = asyncio.Semaphore(LISTS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._transport.__aexit__(*exc)

    def person(self, token: str) -> Person:
        """Return the API server's view for the bearer of this token."""
        return Person(self._transport, token, self._lists)


@dataclass(frozen=True)
class Page:
    """A table of runs, and the version to watch from."""

    rows: tuple[Json, ...]
    """Rows of a meta.k8s.io/v1 Table: `cells` and `object.metadata`."""
    columns: tuple[str, ...]
    version: str


@dataclass(frozen=True, repr=False)
class Person:
    """A user with a token. The token never appears in logs or tracebacks."""

    transport: Transport
    token: str
    lists: asyncio.Semaphore
    """Of all persons."""

    def __repr__(self) -> str:
        return "Person(…)"

    # -- who they are, what they may ---------------------------------------------------------------------

    async def name(self) -> str:
        """Return the user name, as admission policies see it. Needs: nothing but a valid token."""
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        said = await self._call("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body)
        return str(said["status"]["userInfo"].get("username", ""))

    async def may_patch(self, namespace: str, name: str) -> bool:
        """Whether the user may patch this run. Needs: nothing but a valid token."""
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
        """List the runs of a namespace, or of all with an empty name, as a table. Needs: list trainingruns."""
        rows: list[Json] = []
        columns: tuple[str, ...] = ()
        version = ""
        async with self.lists:
            async for said in self.transport.pages(_collection(namespace), token=self.token, accept=TABLE):
                columns = tuple(str(one["name"]) for one in said.get("columnDefinitions") or ()) or columns
                rows.extend(said.get("rows") or ())
                version = str(said["metadata"]["resourceVersion"])
        return Page(tuple(rows), columns, version)

    def watch_runs(self, namespace: str, version: str) -> AsyncGenerator[tuple[str, Json], None]:
        """Watch runs from a version on. Yields the kind of event and a table of one row. Needs: watch trainingruns."""
        return self._watch(_collection(namespace), version, TABLE)

    async def run(self, namespace: str, name: str) -> Json:
        """Return one run. Needs: get trainingruns."""
        return await self._call("GET", _run(namespace, name))

    def watch_run(self, namespace: str, name: str, version: str) -> AsyncGenerator[tuple[str, Json], None]:
        """Watch one run from a version on. Yields the kind of event and the run. Needs: watch trainingruns."""
        return self._watch(_collection(namespace), version, JSON, fieldSelector=f"metadata.name={name}")

    async def patch_run(self, namespace: str, name: str, patch: Json) -> Json:
        """Apply a merge patch to a run. Needs: patch trainingruns."""
        return await self._call("PATCH", _run(namespace, name), patch, MERGE, {"fieldManager": MANAGER})

    async def curve(self, namespace: str, run: str) -> Json | None:
        """Return the ConfigMap with the run's curve; None if there is none. Needs: get configmaps."""
        try:
            return await self._call(
                "GET", f"/api/v1/namespaces/{_name(namespace)}/configmaps/{names.curve_name(_name(run))}"
            )
        except KubeError as error:
            if error.gone:
                return None
            raise

    async def log(self, namespace: str, pod: str, container: str, lines: int) -> AsyncGenerator[str, None]:
        """Follow a container's log from its last lines on, in pieces, until it ends. Needs: get pods/log."""
        path = f"/api/v1/namespaces/{_name(namespace)}/pods/{_name(pod)}/log"
        params = {"container": container, "tailLines": str(lines), "follow": "true"}
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        async with self.transport.stream(path, params, token=self.token, accept="*/*") as content:
            async for piece in content.iter_any():
                yield decoder.decode(piece)

    # -- requests ------------------------------------------------------------------------------------------

    async def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = JSON,
        params: Mapping[str, str] | None = None,
    ) -> Json:
        return await self.transport.call(method, path, body, content_type, params, token=self.token)

    async def _watch(
        self, path: str, version: str, accept: str, **params: str
    ) -> AsyncGenerator[tuple[str, Json], None]:
        """Yield events without end. Raises KubeError 410 if the version is too old: list again."""
        while True:
            asked = {
                **params,
                "watch": "true",
                "resourceVersion": version,
                "allowWatchBookmarks": "true",
                "timeoutSeconds": str(WATCH_SECONDS),
            }
            async with self.transport.stream(
                path, asked, token=self.token, accept=accept, silence_seconds=WATCH_SECONDS + 60
            ) as content:
                async for line in lines(content):
                    event = json.loads(line)
                    kind, stored = str(event["type"]), dict(event["object"])
                    if kind == "ERROR":
                        raise KubeError(int(stored.get("code", 0)), stored.get("reason", ""), stored.get("message", ""))
                    version = _version(stored) or version
                    if kind != "BOOKMARK":
                        yield kind, stored


def _version(stored: Json) -> str:
    """Return the version of an object, or of the only row of a table."""
    for row in stored.get("rows") or ():
        return str(row["object"]["metadata"].get("resourceVersion", ""))
    return str((stored.get("metadata") or {}).get("resourceVersion", ""))


def _collection(namespace: str) -> str:
    return f"{_RUNS}/namespaces/{_name(namespace)}/{names.RUN_PLURAL}" if namespace else f"{_RUNS}/{names.RUN_PLURAL}"


def _run(namespace: str, name: str) -> str:
    return f"{_collection(namespace)}/{_name(name)}"


def _name(text: str) -> str:
    """Return a valid object name. Another text would lead to another URL, and no object has such a name."""
    if _NAME.fullmatch(text) is None:
        raise KubeError(404, "NotFound", f"{text[:100]!r} is not a name that an object can have")
    return text
