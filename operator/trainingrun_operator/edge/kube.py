"""The operator's calls to the API server, each with the RBAC permission that it needs."""

from __future__ import annotations

import base64
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import quote

from trainingrun_operator.api import names
from trainingrun_operator.core.asking import of_uid
from trainingrun_operator.edge.apiserver import slim
from trainingrun_operator.edge.apiserver.connection import Connection, OwnToken
from trainingrun_operator.edge.apiserver.transport import (
    APPLY,
    BUSY_TRIES,
    JSON_PATCH,
    MERGE,
    TIMEOUT_SECONDS,
    KubeError,
    Transport,
)
from trainingrun_operator.edge.ports import LogPiece

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

__all__ = ["Connection", "Kube", "KubeError"]

Json = dict[str, Any]

CONNECTIONS: Final = 64
BODY_MAX: Final = 8 * 2**20
"""Bytes of one answer; no object has more than 3 MiB."""
LINE_BYTES: Final = 20
"""Bytes of a short line. The end of a log is requested by lines: as many as its bytes hold if all lines are so short."""
LOG_SECONDS: Final = 60.0
"""Of the transfer of the end of one log."""
LOG_READ_MAX: Final = 16 * 2**20
"""Bytes of new lines that are read at once."""
LINE_MAX: Final = 64 * 1024
"""Bytes of an incomplete first line that are dropped."""
EVENT_MAX: Final = 1024
"""The API server refuses a longer message."""
OBSERVER: Final = "trainingrun-observer"
"""Field manager of the derived status; it never writes `termination`."""
OPERATOR: Final = "trainingrun-operator"
"""Field manager of everything else."""


class Kube:
    """A connection to the API server. Close it, or use it as an async context manager."""

    def __init__(self, connection: Connection) -> None:
        self._transport = Transport(
            connection, connections=CONNECTIONS, busy_tries=BUSY_TRIES, loads=slim.loads, body_max=BODY_MAX
        )
        self._token = OwnToken(connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._transport.__aexit__(*exc)

    # -- TrainingRuns ------------------------------------------------------------------------------------

    async def run(self, namespace: str, name: str) -> Json | None:
        """RBAC: get trainingruns."""
        return await self._get(_run(namespace, name))

    async def runs(self, selector: str = "", namespace: str = "") -> AsyncIterator[Json]:
        """List runs in chunks, of a label selector and a namespace; empty: of all. RBAC: list trainingruns."""
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
        """Delete a run if it is unchanged; already gone is success. RBAC: delete trainingruns."""
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

    async def record_event(self, involved: Json, reason: str, message: str, *, warning: bool, wall: str) -> None:
        """Create an Event about `involved`; for a cluster-scoped object in `default`. RBAC: create events."""
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
        await self.call("POST", f"/api/v1/namespaces/{namespace}/events", body)

    # -- Secrets -----------------------------------------------------------------------------------------

    async def secret(self, namespace: str, name: str) -> dict[str, bytes] | None:
        """Read one Secret by name; never list or watch. RBAC: get secrets."""
        # A user wrote the name: `../../other/secrets/x` would be in another namespace.
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
        return await self.call("POST", path, manifest, params={"fieldManager": OPERATOR})

    async def patch_config_map(self, namespace: str, name: str, uid: str, patch: Json) -> Json:
        """Merge patch of the ConfigMap with this uid. RBAC: patch configmaps."""
        return await self._patch(_config_map(namespace, name), of_uid(uid, patch), MERGE)

    # -- Jobs and pods -----------------------------------------------------------------------------------

    async def job(self, namespace: str, name: str) -> Json | None:
        """RBAC: get jobs."""
        return await self._get(_job(namespace, name))

    async def create_job(self, manifest: Json, *, dry_run: bool = False) -> Json:
        """RBAC: create jobs."""
        params = {"fieldManager": OPERATOR} | ({"dryRun": "All"} if dry_run else {})
        return await self.call(
            "POST", f"/apis/batch/v1/namespaces/{manifest['metadata']['namespace']}/jobs", manifest, params=params
        )

    async def patch_job(self, namespace: str, name: str, uid: str, patch: Json) -> Json:
        """Merge patch of the Job with this uid. RBAC: patch jobs."""
        return await self._patch(_job(namespace, name), of_uid(uid, patch), MERGE)

    async def suspend_job(self, namespace: str, name: str, uid: str, generation: int, *, suspend: bool) -> Json:
        """Set ``spec.suspend`` if uid and generation are unchanged. RBAC: patch jobs."""
        operations = [
            {"op": "test", "path": "/metadata/uid", "value": uid},
            {"op": "test", "path": "/metadata/generation", "value": generation},
            {"op": "add", "path": "/spec/suspend", "value": suspend},
        ]
        return await self._patch(_job(namespace, name), operations, JSON_PATCH)

    async def delete_job(self, namespace: str, name: str, uid: str) -> None:
        """RBAC: delete jobs."""
        await self._delete(_job(namespace, name), uid)

    async def claim(self, namespace: str, name: str) -> Json | None:
        """RBAC: get persistentvolumeclaims."""
        return await self._get(f"/api/v1/namespaces/{namespace}/persistentvolumeclaims/{quote(name, safe='')}")

    async def volume(self, name: str) -> Json | None:
        """RBAC: get persistentvolumes."""
        return await self._get(f"/api/v1/persistentvolumes/{quote(name, safe='')}")

    async def disruption_budget(self, namespace: str, name: str) -> Json | None:
        """RBAC: get poddisruptionbudgets."""
        return await self._get(_disruption_budget(namespace, name))

    async def create_disruption_budget(self, manifest: Json) -> Json:
        """RBAC: create poddisruptionbudgets."""
        path = _disruption_budget(manifest["metadata"]["namespace"], "").rstrip("/")
        return await self.call("POST", path, manifest, params={"fieldManager": OPERATOR})

    async def delete_disruption_budget(self, namespace: str, name: str, uid: str) -> None:
        """RBAC: delete poddisruptionbudgets."""
        await self._delete(_disruption_budget(namespace, name), uid)

    async def pods_of(self, namespace: str, run_uid: str) -> list[Json]:
        """List a run's pods, by quorum read. RBAC: list pods."""
        selector = {"labelSelector": f"{names.RUN_UID_LABEL}={run_uid}"}
        return [pod async for pod in self._list(f"/api/v1/namespaces/{namespace}/pods", selector)]

    async def pods_on(self, node: str) -> list[Json]:
        """List a node's pods of all namespaces, by quorum read. RBAC: list pods."""
        return [pod async for pod in self._list("/api/v1/pods", {"fieldSelector": f"spec.nodeName={node}"})]

    async def pending_pods(self) -> list[Json]:
        """List pods that wait for a node. RBAC: list pods."""
        return [
            pod async for pod in self._list("/api/v1/pods", {"fieldSelector": "spec.nodeName=,status.phase=Pending"})
        ]

    async def annotate_pod(self, namespace: str, name: str, uid: str, key: str, value: str) -> None:
        """RBAC: patch pods."""
        await self._patch(_pod(namespace, name), of_uid(uid, {"metadata": {"annotations": {key: value}}}), MERGE)

    async def delete_pod(self, namespace: str, name: str, uid: str, grace_seconds: int | None = None) -> None:
        """Delete a pod, with its own grace unless another is given. RBAC: delete pods."""
        await self._delete(_pod(namespace, name), uid, grace_seconds=grace_seconds)

    async def log_tail(self, namespace: str, name: str, container: str, *, lines: int, most_bytes: int) -> str | None:
        """Return the last lines of a container's log; empty: there is none; None: it could not be read. RBAC: get pods/log."""
        # limitBytes would keep the beginning of the log; the end is needed.
        params = {"container": container, "tailLines": str(lines)}
        tail = b""
        try:
            async with self._transport.stream(
                _pod(namespace, name) + "/log", params, token=self._token(), accept="*/*", seconds=TIMEOUT_SECONDS
            ) as content:
                async for piece in content.iter_any():
                    tail = (tail + piece)[-4 * most_bytes :]
        except KubeError as error:
            return "" if error.gone else None
        return tail.decode(errors="replace")[-most_bytes:]

    async def log_end(self, namespace: str, name: str, container: str, *, most_bytes: int) -> bytes:
        """Return the end of a container's log, in whole lines. RBAC: get pods/log.

        It holds twice `most_bytes` at most, however long the log is.
        """
        tail, cut = bytearray(), False
        params = {"container": container, "tailLines": str(max(1, most_bytes // LINE_BYTES))}
        async with self._transport.stream(
            _pod(namespace, name) + "/log", params, token=self._token(), accept="*/*", seconds=LOG_SECONDS
        ) as content:
            async for piece in content.iter_any():
                tail += piece
                if len(tail) > 2 * most_bytes:
                    del tail[:-most_bytes]
                    cut = True
        if len(tail) > most_bytes:
            del tail[:-most_bytes]
            cut = True
        # The first line of what was cut is not whole; of a log without line ends, the end is kept.
        return bytes(tail[tail.find(b"\n", 0, LINE_MAX) + 1 :] if cut else tail)

    async def log_new(
        self,
        namespace: str,
        name: str,
        container: str,
        *,
        since_seconds: int | None,
        lines: int,
        most_bytes: int,
        stamped: bool = False,
    ) -> LogPiece:
        """Return the end of what a container has printed lately. RBAC: get pods/log.

        The time counts by the node's clock, which also stamps the lines; None: since the start. Of a long line, the kubelet counts every 16 KiB as one.
        At most `LOG_READ_MAX` bytes are read. With `stamped`, each line begins with the time at which it was printed, and a space.
        """
        params = {"container": container, "tailLines": str(lines)}
        if since_seconds is not None:
            params["sinceSeconds"] = str(since_seconds)
        if stamped:
            params["timestamps"] = "true"
        text, read, cut = bytearray(), 0, False
        async with self._transport.stream(
            _pod(namespace, name) + "/log", params, token=self._token(), accept="*/*", seconds=TIMEOUT_SECONDS
        ) as content:
            async for piece in content.iter_any():
                text += piece
                read += len(piece)
                if len(text) > most_bytes:
                    del text[:-most_bytes]
                    cut = True
                if read > LOG_READ_MAX:
                    return LogPiece(bytes(text), cut, behind=True)
        return LogPiece(bytes(text), cut, behind=False)

    # -- Namespaces, nodes and pools ---------------------------------------------------------------------

    async def namespace_labels(self, name: str) -> dict[str, str]:
        """Return the labels of a namespace; empty: it is gone. RBAC: get namespaces."""
        found = await self._get(f"/api/v1/namespaces/{name}")
        return {} if found is None else dict(found["metadata"].get("labels") or {})

    async def namespace_ends(self, name: str) -> bool:
        """Return whether a namespace is being deleted or gone. RBAC: get namespaces."""
        found = await self._get(f"/api/v1/namespaces/{name}")
        return found is None or "deletionTimestamp" in found["metadata"]

    async def node(self, name: str) -> Json | None:
        """RBAC: get nodes."""
        return await self._get(_node(name))

    async def nodes(self) -> AsyncIterator[Json]:
        """List the Nodes in chunks. RBAC: list nodes."""
        async for item in self._list("/api/v1/nodes"):
            yield item

    async def set_taints(self, name: str, uid: str, resource_version: str, taints: Sequence[Json]) -> None:
        """Replace the taints of a Node if it is unchanged. RBAC: patch nodes."""
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
        return await self.call("POST", _leases(namespace), body, params={"fieldManager": OPERATOR})

    async def patch_lease(self, namespace: str, name: str, resource_version: str, spec: Json) -> Json:
        """Merge patch of a Lease if it is unchanged. RBAC: patch leases."""
        body = {"metadata": {"resourceVersion": resource_version}, "spec": spec}
        return await self._patch(f"{_leases(namespace)}/{name}", body, MERGE)

    async def pools(self) -> list[Json]:
        """RBAC: list gpunodepools."""
        return [pool async for pool in self._list(f"/apis/{names.API_VERSION}/{names.POOL_PLURAL}")]

    # -- requests ----------------------------------------------------------------------------------------

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
        params: Mapping[str, str] | None = None,
    ) -> Json:
        """Send a request with the operator's permissions. See `Transport.call`."""
        return await self._transport.call(method, path, body, content_type, params, token=self._token())

    async def _get(self, path: str) -> Json | None:
        try:
            return await self.call("GET", path)
        except KubeError as error:
            if error.gone:
                return None
            raise

    async def _list(self, path: str, params: Mapping[str, str] | None = None) -> AsyncIterator[Json]:
        async for page in self._transport.pages(path, params, token=self._token()):
            for item in page["items"]:
                yield item

    async def _patch(self, path: str, body: Any, content_type: str, params: Mapping[str, str] | None = None) -> Json:
        return await self.call("PATCH", path, body, content_type, params or {"fieldManager": OPERATOR})

    async def _delete(
        self, path: str, uid: str, resource_version: str = "", *, grace_seconds: int | None = None
    ) -> None:
        """Delete with preconditions. Already gone or replaced by another uid is success; a changed resourceVersion is a conflict."""
        body = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "preconditions": {"uid": uid} | ({"resourceVersion": resource_version} if resource_version else {}),
            "propagationPolicy": "Background",
        } | ({} if grace_seconds is None else {"gracePeriodSeconds": grace_seconds})
        try:
            await self.call("DELETE", path, body)
        except KubeError as error:
            if not (error.gone or (error.status == HTTPStatus.CONFLICT and not resource_version)):
                raise


def _run(namespace: str, name: str) -> str:
    return f"/apis/{names.API_VERSION}/namespaces/{namespace}/{names.RUN_PLURAL}/{name}"


def _job(namespace: str, name: str) -> str:
    return f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}"


def _pod(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{namespace}/pods/{name}"


def _leases(namespace: str) -> str:
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"


def _disruption_budget(namespace: str, name: str) -> str:
    return f"/apis/policy/v1/namespaces/{namespace}/poddisruptionbudgets/{name}"


def _config_map(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{namespace}/configmaps/{name}"


def _node(name: str) -> str:
    return f"/api/v1/nodes/{name}"
