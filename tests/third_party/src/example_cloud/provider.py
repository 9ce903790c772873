"""Machines of a cloud whose API takes `DELETE /machines/ID`, with an `Idempotency-Key`, and answers 429 with `Retry-After`."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import aiohttp

from trainingrun_operator.core.facts.nodes import Instance
from trainingrun_operator.edge.nodes.provider import Denied, Refused, Retryable

if TYPE_CHECKING:
    from trainingrun_operator.core.facts.nodes import NodeRef, Pool
    from trainingrun_operator.edge.nodes.provider import Tools

STATES = {"running": Instance.RUNNING, "deleting": Instance.TERMINATING, "deleted": Instance.GONE}


class ExampleCloud:
    """Implements `Provider`. `spec.external.config` has `endpoint`, and `group`, whose machines it may delete."""

    def __init__(self, tools: Tools) -> None:
        self._http = tools.http

    async def instance(self, pool: Pool, node: NodeRef) -> Instance:
        """How the machine is."""
        return STATES.get((await self._machine(pool, node))["state"], Instance.UNKNOWN)

    async def at_minimum(self, pool: Pool, node: NodeRef) -> bool:
        """Whether its group is as small as the pool may be."""
        machine = await self._machine(pool, node)
        return int(machine["group_size"]) <= pool.spec.min_nodes

    async def release(self, pool: Pool, node: NodeRef, operation: str) -> None:
        """Delete it."""
        await self._machine(pool, node)
        await self._ask("DELETE", pool, node, {"Idempotency-Key": operation})

    async def close(self) -> None:
        """The session is the operator's."""

    async def _machine(self, pool: Pool, node: NodeRef) -> dict[str, Any]:
        machine = await self._ask("GET", pool, node, {})
        if missing := sorted({"group", "group_size", "state"} - machine.keys()):
            raise Retryable(f"The cloud answers about the machine of node {node.name} without {', '.join(missing)}.")
        if machine["group"] != _config(pool)["group"]:
            raise Refused(f"The machine of node {node.name} is not of group {_config(pool)['group']}.")
        return machine

    async def _ask(self, method: str, pool: Pool, node: NodeRef, headers: dict[str, str]) -> dict[str, Any]:
        url = f"{_config(pool)['endpoint']}/machines/{node.provider_id.rpartition('/')[2]}"
        try:
            async with self._http.request(method, url, headers=headers) as answer:
                if answer.status == HTTPStatus.TOO_MANY_REQUESTS:
                    raise Retryable("The cloud is busy.", after=float(answer.headers.get("Retry-After", "10")))
                if answer.status == HTTPStatus.FORBIDDEN:
                    raise Denied("The operator's key may not delete machines.")
                return dict(await answer.json())
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Retryable(f"The cloud does not answer ({type(error).__name__}).") from error


def _config(pool: Pool) -> dict[str, str]:
    external = pool.spec.external
    missing = {"endpoint", "group"} - (external.config.keys() if external is not None else set())
    if external is None or missing:
        raise Refused(f"GPUNodePool {pool.name}: spec.external.config lacks {', '.join(sorted(missing))}.")
    return external.config
