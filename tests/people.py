"""The API server as people meet it: who bears which token, what they may do, tables for who asks for tables, logs that are followed."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import builders
import fakes
from aiohttp import web

from trainingrun_operator.api import names
from trainingrun_operator.api.run import RESOURCE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fakes import Json

TABLE = "as=Table"
REVIEWS = {"selfsubjectreviews", "selfsubjectaccessreviews"}


@dataclass(frozen=True)
class Someone:
    """A user, and what they may do."""

    user: str
    verbs: frozenset[str] = frozenset({"get", "list", "watch", "patch"})
    namespace: str = ""
    """The only one in which they may do it; empty: everywhere."""


@dataclass
class Cluster(fakes.ApiServer):
    """An API server that knows people."""

    people: dict[str, Someone] = field(default_factory=dict)
    """By token; nobody else is let in."""
    logs: dict[str, str] = field(default_factory=dict)
    """What a pod's log says, by the pod's name; it goes on until `more` ends."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        someone = self.people.get(request.headers.get("Authorization", "").removeprefix("Bearer "))
        plural = request.path.rstrip("/").split("/")
        if someone is None:
            return _refused(401, "Unauthorized", "Unauthorized")
        if plural[-1] in REVIEWS:
            return await self._review(request, someone, plural[-1])
        verb = {"GET": "get", "PATCH": "patch"}.get(request.method, "create")
        if verb == "get" and plural[-1] == names.RUN_PLURAL:
            verb = "watch" if request.query.get("watch") else "list"
        space = plural[plural.index("namespaces") + 1] if "namespaces" in plural else ""
        if verb not in someone.verbs or someone.namespace not in ("", space):
            said = f'{names.RUN_PLURAL}.{names.GROUP} is forbidden: User "{someone.user}" cannot {verb} resource "{names.RUN_PLURAL}"'
            return _refused(403, "Forbidden", said)
        if plural[-1] == "log" and request.query.get("follow"):
            return await self._follow(request, plural[-2])
        if TABLE in request.headers.get("Accept", "") and not request.query.get("watch"):
            answer = await super().handle(request)
            return _as_table(answer)
        return await super().handle(request)

    async def _review(self, request: web.Request, someone: Someone, kind: str) -> web.Response:
        body = await request.json()
        if kind == "selfsubjectreviews":
            return web.json_response({**body, "status": {"userInfo": {"username": someone.user}}}, status=201)
        about = body["spec"]["resourceAttributes"]
        allowed = about["verb"] in someone.verbs and someone.namespace in ("", about["namespace"])
        return web.json_response({**body, "status": {"allowed": allowed}}, status=201)

    async def _follow(self, request: web.Request, pod: str) -> web.StreamResponse:
        line = f"GET {request.path}"
        self.sent.append(
            fakes.Sent("GET", request.path, dict(request.query), "", None, request.headers["Authorization"])
        )
        for refusal in self.refusals:
            if refusal[0] == line:
                self.refusals.remove(refusal)
                assert isinstance(refusal[1], fakes.ApiError)
                return web.json_response(refusal[1].status, status=refusal[1].code)
        if pod not in self.logs:
            return _refused(
                400, "BadRequest", f'container "train" in pod "{pod}" is waiting to start: ContainerCreating'
            )
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(self.logs[pod].encode())
        await asyncio.Event().wait()
        return answer

    def event(self, request: web.Request, kind: str, stored: Json) -> Json:
        """As the watcher asked for it."""
        if TABLE not in request.headers.get("Accept", ""):
            return {"type": kind, "object": stored}
        return {"type": kind, "object": table([stored], stored["metadata"]["resourceVersion"])}


def _as_table(answer: web.StreamResponse) -> web.Response:
    assert isinstance(answer, web.Response)
    if answer.status >= 400:
        return answer
    listed = json.loads(answer.text or "")
    made = table(listed["items"], listed["metadata"]["resourceVersion"])
    made["metadata"] = listed["metadata"]
    return web.json_response(made)


def table(stored: list[Json], version: str) -> Json:
    """What the API server makes of runs for who asks for a table: the printer columns, and metadata."""
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": version},
        "columnDefinitions": [{"name": "Name"}, *({"name": column.name} for column in RESOURCE.columns)],
        "rows": [
            {
                "cells": [one["metadata"]["name"], *(_cell(one, column.path) for column in RESOURCE.columns)],
                "object": {"kind": "PartialObjectMetadata", "metadata": one["metadata"]},
            }
            for one in stored
        ],
    }


def _cell(stored: Json, path: str) -> Any:
    at: Any = stored
    for part in path.removeprefix(".").split("."):
        if part.endswith("[*]"):
            return ",".join(str(one.get("phase")) for one in (at or {}).get(part[:-3]) or ())
        at = (at or {}).get(part)
    return at


def _refused(code: int, reason: str, message: str) -> web.Response:
    return web.json_response(fakes.ApiError(code, reason, message).status, status=code)


@asynccontextmanager
async def cluster(*stored: Json, **people: Someone) -> AsyncIterator[Cluster]:
    """Serve on loopback, with these objects, for these people, whose tokens are the keywords."""
    made = Cluster(people=people)
    made.put(*stored)
    async with fakes.served(made.handle) as made.url:
        yield made


# -- runs as they are stored at some moments of their life ------------------------------------------------------


def run_status(phase: str = "Running", **fields: Any) -> Json:
    """The status of a run that trains; keywords are camelCase and replace whole fields."""
    return {
        "phase": phase,
        "startTime": builders.EARLIER,
        "effective": {"autoStopLoss": 0.3, "autoStopAction": "Stop", "nodePool": "a100", "metricsSource": "Prometheus"},
        "progress": {"loss": "0.4123", "bestLoss": "0.4101", "step": 1180, "epoch": "2", "totalEpochs": 3, "percent": 66, "etaSeconds": 610},
        "pods": [{"name": f"{builders.NAME}-x7k2p", "uid": builders.POD_UID, "node": "gpu-1", "phase": "Running"}],
        "nodes": [{"name": "gpu-1", "uid": builders.NODE_UID, "pool": "a100", "phase": "InUse"}],
        "checkpoint": {
            "uri": "s3://bucket/runs/ml/bert/checkpoint-1100/",
            "dir": "checkpoint-1100",
            "step": 1100,
            "bytes": 438_000_000,
            "files": 6,
            "verifiedAt": builders.EARLIER,
        },
        "conditions": [
            {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": builders.EARLIER},
        ],
        **fields,
    }  # fmt: skip


def ended(status: str, phase: str, message: str, **stop: Any) -> Json:
    """The status of a run that has ended."""
    return run_status(
        phase,
        terminationStatus=status,
        terminationMessage=f"{message} Checkpoint checkpoint-1200 verified at s3://bucket/runs/ml/bert/checkpoint-1200/. Node gpu-1 released.",
        completionTime=builders.WALL,
        termination=stopping("Done", status=status, message=message, **stop),
        pods=[],
        nodes=[{"name": "gpu-1", "uid": builders.NODE_UID, "pool": "a100", "phase": "Released", "releasedAt": builders.WALL, "message": "Machine and Node are gone."}],
    )  # fmt: skip


def stopping(phase: str, **fields: Any) -> Json:
    """A stop in progress."""
    return {
        "id": builders.STOP_ID,
        "status": "user_stop",
        "message": "Stopped by hand: spec.stop is true.",
        "actor": "ada",
        "mode": "Auto",
        "phase": phase,
        "requestedAt": builders.EARLIER,
        "phaseAt": builders.WALL,
        **fields,
    }


def curve_map(points: list[Json], run: str = builders.NAME) -> Json:
    """The ConfigMap in which the operator keeps a run's losses."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": f"{run}-curve",
            "namespace": builders.NAMESPACE,
            "uid": f"{run}-curve-uid",
            "resourceVersion": "7",
            "labels": {names.RUN_LABEL: run},
        },
        "data": {"curve.json": json.dumps({"points": points})},
    }
