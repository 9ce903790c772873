"""The API server, as this operator uses it: a few calls, each with the permission that it needs beside it.

Why not a client library: two thirds of these calls are JSON patches with `test`, server-side applies and deletes with a uid as precondition, which
no library wraps; what is left is an HTTP request.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote

import aiohttp

from trainingrun_operator.api import names
from trainingrun_operator.core.asking import of_uid
from trainingrun_operator.edge import calls
from trainingrun_operator.edge.calls import Api

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

Json = dict[str, Any]

TIMEOUT_SECONDS: Final = 20
TOKEN_FILE: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
TOKEN_READ_SECONDS: Final = 60
BUSY: Final = frozenset({429, 503})
"""Answers of an API server that protects itself: with `Retry-After` nothing was done, and it says when to come again."""
BUSY_TRIES: Final = 8
BUSY_SECONDS: Final = 5.0
"""It is waited for as long as it says, but no longer than this at once."""
CHUNK: Final = 500
EVENT_MAX: Final = 1024
"""The API server refuses a longer message."""
OBSERVER: Final = "trainingrun-observer"
"""Field manager of what is derived; it never names `termination`."""
OPERATOR: Final = "trainingrun-operator"
"""Field manager of everything else."""

MERGE: Final = "application/merge-patch+json"
JSON_PATCH: Final = "application/json-patch+json"
APPLY: Final = "application/apply-patch+yaml"

_FORBIDDEN, _NOT_FOUND, _CONFLICT, _INVALID, _EXISTS = 403, 404, 409, 422, "AlreadyExists"


class KubeError(Exception):
    """The API server refused a call, or could not be reached (status 0)."""

    def __init__(self, status: int, reason: str, message: str, causes: Sequence[Any] = ()) -> None:
        super().__init__(f"{status} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.causes = tuple(causes)

    @property
    def gone(self) -> bool:
        """There is no such object."""
        return self.status == _NOT_FOUND

    @property
    def forbidden(self) -> bool:
        """No role of ours grants it, or an admission policy refuses it."""
        return self.status == _FORBIDDEN

    @property
    def conflict(self) -> bool:
        """The object is not what it was when it was looked at: read again, decide again.

        A failed `test` of a JSON patch is a 422 without causes, a merge patch that carries another uid is a 422 about `metadata.uid`; a
        refusal by the schema is a 422 with other causes.
        """
        another = any(cause.get("field") == "metadata.uid" for cause in self.causes)
        return self.status == _CONFLICT or (self.status == _INVALID and (another or not self.causes))

    @property
    def exists(self) -> bool:
        """An object of that name is there already."""
        return self.reason == _EXISTS


@dataclass(frozen=True)
class Connection:
    """Where the API server is and who we are: what kopf's login found."""

    server: str
    ca_path: str | None = None
    ca_data: str | None = None
    token: str | None = None
    certificate_path: str | None = None
    certificate_data: str | None = None
    private_key_path: str | None = None
    private_key_data: str | None = None
    insecure: bool = False

    def ssl_context(self) -> ssl.SSLContext:
        """Trust the cluster's CA only, and show our certificate if we have one."""
        ca = base64.b64decode(self.ca_data).decode() if self.ca_data else None
        context = ssl.create_default_context(cafile=self.ca_path, cadata=ca)
        if self.insecure:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if self.certificate_path:
            context.load_cert_chain(self.certificate_path, self.private_key_path)
        elif self.certificate_data and self.private_key_data:
            with tempfile.NamedTemporaryFile("wb", suffix=".pem") as pem:
                pem.write(base64.b64decode(self.certificate_data) + b"\n" + base64.b64decode(self.private_key_data))
                pem.flush()
                context.load_cert_chain(pem.name)
        return context


class Kube:
    """A connection to the API server. Close it, or use it as an async context manager."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._token, self._token_read = connection.token, float("-inf")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=connection.ssl_context(), limit=64),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    # -- TrainingRuns ------------------------------------------------------------------------------------

    async def run(self, namespace: str, name: str) -> Json | None:
        """RBAC: get trainingruns."""
        return await self._get(_run(namespace, name))

    async def runs(self, selector: str = "", namespace: str = "") -> AsyncIterator[Json]:
        """Chunked; those of a label selector, or all, of a namespace, or of all. RBAC: list trainingruns."""
        params = {"labelSelector": selector} if selector else {}
        within = f"/namespaces/{namespace}" if namespace else ""
        async for item in self._list(f"/apis/{names.API_VERSION}{within}/{names.RUN_PLURAL}", params):
            yield item

    async def patch_run(self, namespace: str, name: str, operations: Sequence[Json]) -> Json:
        """JSON patch of metadata. RBAC: patch trainingruns."""
        return await self._patch(_run(namespace, name), list(operations), JSON_PATCH)

    async def patch_run_status(self, namespace: str, name: str, operations: Sequence[Json]) -> Json:
        """JSON patch, the compare-and-swap of a stop. RBAC: patch trainingruns/status."""
        return await self._patch(_run(namespace, name) + "/status", list(operations), JSON_PATCH)

    async def delete_run(self, namespace: str, name: str, uid: str, resource_version: str) -> None:
        """Only as it was read; gone already is success. RBAC: delete trainingruns."""
        await self._delete(_run(namespace, name), uid, resource_version)

    async def apply_run_status(self, namespace: str, name: str, uid: str, resource_version: str, status: Json) -> Json:
        """Server-side apply of everything that the observer writes. RBAC: patch trainingruns/status."""
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.RUN_KIND,
            "metadata": {"name": name, "namespace": namespace, "uid": uid, "resourceVersion": resource_version},
            "status": status,
        }
        return await self._patch(
            _run(namespace, name) + "/status", body, APPLY, params={"fieldManager": OBSERVER, "force": "true"}
        )

    async def tell(self, involved: Json, reason: str, message: str, *, warning: bool, wall: str) -> None:
        """Post an Event on the object that `involved` refers to; one of no namespace is told in `default`. RBAC: create events."""
        namespace = involved.get("namespace", "default")
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{involved['name'][:40]}-", "namespace": namespace},
            "involvedObject": involved,
            "type": "Warning" if warning else "Normal",
            "reason": reason,
            "message": message[:EVENT_MAX],
            "source": {"component": OPERATOR},
            "firstTimestamp": wall,
            "lastTimestamp": wall,
            "count": 1,
        }
        await self._call("POST", f"/api/v1/namespaces/{namespace}/events", body)

    # -- Secrets -----------------------------------------------------------------------------------------

    async def secret(self, namespace: str, name: str) -> dict[str, bytes] | None:
        """RBAC: get secrets, one by name; never list, never watch."""
        # A person wrote the name: were it `../../other/secrets/x`, it would be another namespace's.
        found = await self._get(f"/api/v1/namespaces/{namespace}/secrets/{quote(name, safe='')}")
        return (
            None
            if found is None
            else {key: base64.b64decode(value) for key, value in (found.get("data") or {}).items()}
        )

    # -- ConfigMaps --------------------------------------------------------------------------------------

    async def config_map(self, namespace: str, name: str) -> Json | None:
        """RBAC: get configmaps."""
        return await self._get(_config_map(namespace, name))

    async def create_config_map(self, manifest: Json) -> Json:
        """RBAC: create configmaps."""
        path = _config_map(manifest["metadata"]["namespace"], "").rstrip("/")
        return await self._call("POST", path, manifest, params={"fieldManager": OPERATOR})

    async def patch_config_map(self, namespace: str, name: str, uid: str, patch: Json) -> Json:
        """Merge patch of the ConfigMap of this uid. RBAC: patch configmaps."""
        return await self._patch(_config_map(namespace, name), of_uid(uid, patch), MERGE)

    # -- Jobs and pods -----------------------------------------------------------------------------------

    async def job(self, namespace: str, name: str) -> Json | None:
        """RBAC: get jobs."""
        return await self._get(_job(namespace, name))

    async def create_job(self, manifest: Json, *, dry_run: bool = False) -> Json:
        """RBAC: create jobs."""
        params = {"fieldManager": OPERATOR} | ({"dryRun": "All"} if dry_run else {})
        return await self._call(
            "POST", f"/apis/batch/v1/namespaces/{manifest['metadata']['namespace']}/jobs", manifest, params=params
        )

    async def patch_job(self, namespace: str, name: str, uid: str, patch: Json) -> Json:
        """Merge patch of the Job of this uid. RBAC: patch jobs."""
        return await self._patch(_job(namespace, name), of_uid(uid, patch), MERGE)

    async def suspend_job(self, namespace: str, name: str, uid: str, generation: int, *, suspend: bool) -> Json:
        """Only if nobody has changed the spec of the Job of this uid since that generation. RBAC: patch jobs."""
        operations = [
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "test", "path": "/metadata/generation", "value": generation},
            {"op": "add", "path": "/spec/suspend", "value": suspend},
        ]
        return await self._patch(_job(namespace, name), operations, JSON_PATCH)

    async def delete_job(self, namespace: str, name: str, uid: str) -> None:
        """RBAC: delete jobs."""
        await self._delete(_job(namespace, name), uid)

    async def budget(self, namespace: str, name: str) -> Json | None:
        """RBAC: get poddisruptionbudgets."""
        return await self._get(_budget(namespace, name))

    async def create_budget(self, manifest: Json) -> Json:
        """RBAC: create poddisruptionbudgets."""
        path = _budget(manifest["metadata"]["namespace"], "").rstrip("/")
        return await self._call("POST", path, manifest, params={"fieldManager": OPERATOR})

    async def delete_budget(self, namespace: str, name: str, uid: str) -> None:
        """RBAC: delete poddisruptionbudgets."""
        await self._delete(_budget(namespace, name), uid)

    async def pods_of(self, namespace: str, run_uid: str) -> list[Json]:
        """Quorum read. RBAC: list pods."""
        selector = {"labelSelector": f"{names.RUN_UID_LABEL}={run_uid}"}
        return [pod async for pod in self._list(f"/api/v1/namespaces/{namespace}/pods", selector)]

    async def pods_on(self, node: str) -> list[Json]:
        """Quorum read of every namespace. RBAC: list pods."""
        return [pod async for pod in self._list("/api/v1/pods", {"fieldSelector": f"spec.nodeName={node}"})]

    async def pending_pods(self) -> list[Json]:
        """Pods that wait for a node. RBAC: list pods."""
        return [
            pod async for pod in self._list("/api/v1/pods", {"fieldSelector": "spec.nodeName=,status.phase=Pending"})
        ]

    async def annotate_pod(self, namespace: str, name: str, uid: str, key: str, value: str) -> None:
        """RBAC: patch pods."""
        await self._patch(_pod(namespace, name), of_uid(uid, {"metadata": {"annotations": {key: value}}}), MERGE)

    async def delete_pod(self, namespace: str, name: str, uid: str) -> None:
        """RBAC: delete pods."""
        await self._delete(_pod(namespace, name), uid)

    async def log_tail(self, namespace: str, name: str, container: str, *, lines: int, most_bytes: int) -> str:
        """The last lines of a container's log; empty if there is none. RBAC: get pods/log."""
        # Not limitBytes: the API server would keep the beginning, and the end is what tells.
        params = {"container": container, "tailLines": str(lines)}
        calls.count(Api.KUBERNETES)
        try:
            async with self._session.get(
                self._url(_pod(namespace, name) + "/log"), params=params, headers=self._headers()
            ) as answer:
                if answer.status != 200:  # noqa: PLR2004 - HTTP's OK
                    return ""
                return (await answer.text(errors="replace"))[-most_bytes:]
        except (aiohttp.ClientError, TimeoutError):
            return ""

    # -- Namespaces, nodes and pools ---------------------------------------------------------------------

    async def namespace_labels(self, name: str) -> dict[str, str]:
        """Labels of a namespace; none of one that is gone. RBAC: get namespaces."""
        found = await self._get(f"/api/v1/namespaces/{name}")
        return {} if found is None else dict(found["metadata"].get("labels") or {})

    async def namespace_ends(self, name: str) -> bool:
        """Whether a namespace is being deleted, or gone. RBAC: get namespaces."""
        found = await self._get(f"/api/v1/namespaces/{name}")
        return found is None or "deletionTimestamp" in found["metadata"]

    async def node(self, name: str) -> Json | None:
        """RBAC: get nodes."""
        return await self._get(_node(name))

    async def set_taints(self, name: str, uid: str, resource_version: str, taints: Sequence[Json]) -> None:
        """Replace the taints of the Node as it was read. RBAC: patch nodes."""
        body = {"metadata": {"uid": uid, "resourceVersion": resource_version}, "spec": {"taints": list(taints)}}
        await self._patch(_node(name), body, MERGE)

    async def delete_node(self, name: str, uid: str) -> None:
        """RBAC: delete nodes."""
        await self._delete(_node(name), uid)

    # -- the Lease ---------------------------------------------------------------------------------------

    async def lease(self, namespace: str, name: str) -> Json | None:
        """RBAC: get leases."""
        return await self._get(f"{_leases(namespace)}/{name}")

    async def create_lease(self, namespace: str, name: str, spec: Json) -> Json:
        """RBAC: create leases."""
        body = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name, "namespace": namespace},
            "spec": spec,
        }
        return await self._call("POST", _leases(namespace), body, params={"fieldManager": OPERATOR})

    async def patch_lease(self, namespace: str, name: str, resource_version: str, spec: Json) -> Json:
        """Merge patch of the Lease as it was read. RBAC: patch leases."""
        body = {"metadata": {"resourceVersion": resource_version}, "spec": spec}
        return await self._patch(f"{_leases(namespace)}/{name}", body, MERGE)

    async def pools(self) -> list[Json]:
        """RBAC: list gpunodepools."""
        return [pool async for pool in self._list(f"/apis/{names.API_VERSION}/{names.POOL_PLURAL}")]

    # -- requests ----------------------------------------------------------------------------------------

    def _url(self, path: str) -> str:
        return self._connection.server.rstrip("/") + path

    def _headers(self) -> dict[str, str]:
        # A ServiceAccount's token is replaced in its file long before it expires.
        if self._token is not None and TOKEN_FILE.exists() and time.monotonic() - self._token_read > TOKEN_READ_SECONDS:
            self._token, self._token_read = TOKEN_FILE.read_text().strip(), time.monotonic()
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    async def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
        params: Mapping[str, str] | None = None,
    ) -> Json:
        headers = {**self._headers(), "Content-Type": content_type, "Accept": "application/json"}
        data = None if body is None else json.dumps(body)
        try:
            tries = BUSY_TRIES
            while True:
                calls.count(Api.KUBERNETES)
                async with self._session.request(
                    method, self._url(path), data=data, headers=headers, params=params
                ) as answer:
                    text = await answer.text()
                    if answer.ok:
                        return dict(json.loads(text))
                tries -= 1
                wait = answer.headers.get("Retry-After", "")
                if not tries or answer.status not in BUSY or not wait.isdecimal():
                    raise error_of(answer.status, text)
                await asyncio.sleep(min(float(wait), BUSY_SECONDS))
        except (TypeError, ValueError) as error:
            raise KubeError(0, "NotKubernetes", f"{method} {path}: the answer is not a JSON object") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise KubeError(0, "Unreachable", f"{method} {path}: {type(error).__name__} {error}") from error

    async def _get(self, path: str) -> Json | None:
        try:
            return await self._call("GET", path)
        except KubeError as error:
            if error.gone:
                return None
            raise

    async def _list(self, path: str, params: Mapping[str, str] | None = None) -> AsyncIterator[Json]:
        token = ""
        while True:
            page = await self._call(
                "GET", path, params={**(params or {}), "limit": str(CHUNK), **({"continue": token} if token else {})}
            )
            for item in page["items"]:
                yield item
            token = page["metadata"].get("continue", "")
            if not token:
                return

    async def _patch(self, path: str, body: Any, content_type: str, params: Mapping[str, str] | None = None) -> Json:
        return await self._call("PATCH", path, body, content_type, params or {"fieldManager": OPERATOR})

    async def _delete(self, path: str, uid: str, resource_version: str = "") -> None:
        """Already gone, and replaced by another of the same name, are both success: ours is gone. Changed meanwhile is a conflict."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid} | ({"resourceVersion": resource_version} if resource_version else {}),
            "propagationPolicy": "Background",
        }
        try:
            await self._call("DELETE", path, body)
        except KubeError as error:
            if not (error.gone or (error.status == _CONFLICT and not resource_version)):
                raise


def error_of(status: int, text: str) -> KubeError:
    """What an answer of this status says went wrong."""
    try:
        said = dict(json.loads(text))
    except (TypeError, ValueError):
        return KubeError(status, "HTTP", text[:200])
    return KubeError(
        status, said.get("reason", ""), said.get("message", ""), (said.get("details") or {}).get("causes") or ()
    )


def _run(namespace: str, name: str) -> str:
    return f"/apis/{names.API_VERSION}/namespaces/{namespace}/{names.RUN_PLURAL}/{name}"


def _job(namespace: str, name: str) -> str:
    return f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}"


def _pod(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods/{name}"


def _leases(namespace: str) -> str:
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"


def _budget(namespace: str, name: str) -> str:
    return f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets/{name}"


def _config_map(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps/{name}"


def _node(name: str) -> str:
    return f"/api/v1/nodes/{name}"
