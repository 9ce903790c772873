"""Check an installation from inside the cluster with the operator's own rights; `helm test` runs it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

import aiohttp
import kopf

from trainingrun_operator.controller import front
from trainingrun_operator.edge.kube import Connection, Kube, KubeError
from trainingrun_operator.exporter.metrics import BUILD_INFO

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trainingrun_operator.settings import Settings

PATIENCE_SECONDS: Final = 30.0
"""Time for the Service to know its pods and for a new replica to become ready."""
AGAIN_SECONDS: Final = 1.0
ASK_SECONDS: Final = 5


class CheckError(Exception):
    """A failed check; the text says what failed and what to look at."""


def run(settings: Settings, address: str) -> int:
    """Log each passed check and the first failed one; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    log = logging.getLogger(__name__)

    async def every() -> int:
        try:
            async for said in checked(settings, address):
                log.info("ok      %s", said)
        except (CheckError, kopf.LoginError) as error:
            log.error("FAILED  %s", error)  # noqa: TRY400 - a sentence, not a crash
            return 1
        return 0

    return asyncio.run(every())


async def checked(settings: Settings, address: str) -> AsyncIterator[str]:
    """Yield a sentence for each passed check.

    Raises:
        CheckError: at the first failed check.
    """
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_SECONDS)) as session:
        ready = (await _page(session, f"{address}/readyz")).strip()
        yield f"{address}/readyz answers: {ready}"
        page = await _page(session, f"{address}/metrics")
    build = next((line for line in page.splitlines() if line.startswith(BUILD_INFO.name)), "")
    if not build:
        raise CheckError(f"{address}/metrics has no {BUILD_INFO.name}: another program listens there.")
    yield f"{address}/metrics answers: {build}"
    async with Kube(Connection(**front.connection()[1])) as kube:
        for namespace in settings.namespaces or ("",):
            where = f"namespace {namespace}" if namespace else "all namespaces"
            yield f"TrainingRuns of {where} are served: {await _runs(kube, settings.run_selector, namespace)}"
        if settings.release_nodes:
            yield f"GPUNodePools are served: {await _pools(kube)}"
        yield f"the Lease {settings.lease_namespace}/{settings.lease_name} is held by {await _holder(kube, settings)}"


async def _page(session: aiohttp.ClientSession, url: str) -> str:
    """The body of the first successful response."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + PATIENCE_SECONDS
    while True:
        try:
            async with session.get(url) as answer:
                text = await answer.text(errors="replace")
                if answer.ok:
                    return text
                said = f"answers {answer.status}: {text.strip()[:200]}"
        except (aiohttp.ClientError, TimeoutError) as error:
            said = f"does not answer: {str(error) or type(error).__name__}"
        if loop.time() >= deadline:
            raise CheckError(f"{url} {said}. Look at the operator's log: kubectl logs deployment/NAME.")
        await asyncio.sleep(AGAIN_SECONDS)


async def _runs(kube: Kube, selector: str, namespace: str) -> str:
    try:
        return _count(len([run async for run in kube.runs(selector, namespace)]))
    except KubeError as error:
        raise _refused("TrainingRuns", error) from error


async def _pools(kube: Kube) -> str:
    try:
        return _count(len(await kube.pools()))
    except KubeError as error:
        raise _refused("GPUNodePools", error) from error


def _count(found: int) -> str:
    return f"{found} found" if found else "none yet"


def _refused(kind: str, error: KubeError) -> CheckError:
    if error.gone:
        return CheckError(
            f"The API server does not serve {kind}. Install the CustomResourceDefinitions (crds.enabled in one release)."
        )
    if error.forbidden:
        return CheckError(f"The operator's ServiceAccount may not list {kind}: {error.message}")
    return CheckError(f"{kind} cannot be listed: {error}")


async def _holder(kube: Kube, settings: Settings) -> str:
    try:
        stored = await kube.lease(settings.lease_namespace, settings.lease_name)
    except KubeError as error:
        raise CheckError(f"The Lease {settings.lease_name} cannot be read: {error}") from error
    holder = ((stored or {}).get("spec") or {}).get("holderIdentity")
    if not holder:
        raise CheckError(
            f"The Lease {settings.lease_name} has no holder, so no operator acts. Look at the operator's log."
        )
    return str(holder)
