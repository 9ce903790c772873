"""What every node provider is asked, what it is built with, and the three ways in which it may refuse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from trainingrun_operator.api.status import RefusalKind
from trainingrun_operator.core.facts.nodes import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    import aiohttp

    from trainingrun_operator.core.facts.nodes import Instance, NodeRef, Pool


class ProviderError(Exception):
    """The cloud did not do what it was asked; the text is a sentence for a person, without anything that the cloud wrote."""

    kind: ClassVar[RefusalKind]
    after: float = 0
    """Seconds to wait before asking again."""

    @property
    def refusal(self) -> Refusal:
        """The same as a fact."""
        return Refusal(self.kind, str(self), self.after)


class Retryable(ProviderError):  # noqa: N818 - says what to do, which is what it is raised for
    """It may pass by itself: throttling, an activity in progress, an outage."""

    kind = RefusalKind.RETRYABLE

    def __init__(self, message: str, after: float = 10) -> None:
        super().__init__(message)
        self.after = after


class Refused(ProviderError):  # noqa: N818 - says what to do, which is what it is raised for
    """It must not be done: the minimum is reached, or the machine is none of the pool's."""

    kind = RefusalKind.REFUSED


class Denied(ProviderError):  # noqa: N818 - says what to do, which is what it is raised for
    """The operator lacks a permission: an administrator has to act."""

    kind = RefusalKind.DENIED


class ApiClient(Protocol):
    """The API server, with the operator's own rights; `edge.kube.Kube` is the real one."""

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
        params: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Send one request and return the object that it is answered with.

        Raises:
            KubeError: it was refused, or not answered.
        """
        ...


@dataclass(frozen=True)
class Tools:
    """What a provider is built with. All of it is shared by the providers; the operator closes it."""

    api: ApiClient
    http: aiohttp.ClientSession
    """For the cloud's own API: 20 s for a request, no cookies, the proxies of the environment."""


@runtime_checkable
class Provider(Protocol):
    """One cloud's way of releasing one machine. Built once for all pools; every call may be repeated, by another operator too.

    A call that takes longer than 120 s is given up. What a call raises besides `ProviderError` counts as `Retryable`.
    """

    async def instance(self, pool: Pool, node: NodeRef) -> Instance:
        """Return how the machine is. `UNKNOWN` when the cloud does not say; `GONE` only when it says so itself.

        Raises:
            Retryable: the cloud does not answer now, so the machine counts as `UNKNOWN`.
            Refused: the machine cannot be one of the pool's.
            Denied: not permitted to ask.
        """
        ...

    async def at_minimum(self, pool: Pool, node: NodeRef) -> bool:
        """Return whether the pool may not lose the machine.

        Raises:
            Retryable, Refused, Denied
        """
        ...

    async def release(self, pool: Pool, node: NodeRef, operation: str) -> None:
        """End exactly this machine and make the pool smaller by it; nothing if it is on its way out already.

        Args:
            pool: of the machine; `pool.spec.external.config` is what its administrator wrote for the provider.
            node: the Node, and its machine.
            operation: the same for every attempt of this release, to tell the cloud by.

        Raises:
            Retryable, Refused, Denied
        """
        ...

    async def close(self) -> None:
        """Let go of what was opened, when the operator ends."""
        ...
