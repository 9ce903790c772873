"""The node providers of this operator, built in or registered by other packages; each is built once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp

from trainingrun_operator.edge.doors import opened
from trainingrun_operator.edge.nodes.aws_auto_scaling import AWSAutoScalingProvider
from trainingrun_operator.edge.nodes.patient import Patient
from trainingrun_operator.edge.nodes.provider import Provider, Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trainingrun_operator.core.facts.nodes import Pool
    from trainingrun_operator.edge.nodes.provider import Tools

GROUP: Final = "trainingrun_operator.node_providers"
"""Entry points whose factory takes `Tools` and returns a `Provider`."""
TIMEOUT_SECONDS: Final = 20
BUILT_IN: Final[Mapping[str, Callable[[Any], Provider]]] = {"AWSAutoScaling": lambda _: AWSAutoScalingProvider()}


def make_session() -> aiohttp.ClientSession:
    """Return the session for cloud APIs. Must be called with the event loop running; the caller closes it."""
    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS), cookie_jar=aiohttp.DummyCookieJar(), trust_env=True
    )


class Registry:
    """Returns the provider of a pool. As an async context manager it closes all providers."""

    def __init__(self, made: Mapping[str, Provider], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._made = {name: Patient(name, provider, monotonic) for name, provider in made.items()}

    @classmethod
    def of(cls, tools: Tools, *, release_nodes: bool = True) -> Registry:
        """Build all providers; none if the installation releases no nodes."""
        return cls(opened(GROUP, BUILT_IN, tools, Provider) if release_nodes else {})

    def begin(self) -> None:
        """Note that this process leads from now on."""
        for provider in self._made.values():
            provider.begin()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for provider in self._made.values():
            await provider.close()

    def __call__(self, pool: Pool) -> Provider:
        """Return the pool's provider.

        Raises:
            Refused: the pool names a provider that this operator does not have.
        """
        name = pool.spec.provider
        if (provider := self._made.get(name)) is not None:
            return provider
        if not name:
            raise Refused(f"GPUNodePool {pool.name} names no provider: set spec.awsAutoScaling or spec.external.")
        raise Refused(
            f"GPUNodePool {pool.name} names the provider {name!r}, which this operator does not have (it has {', '.join(sorted(self._made))}):"
            " install the package that provides it, or correct the pool."
        )
