"""The Protocol of node providers, the tools to build them, and their three errors."""

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
    """A call failed. The text is a sentence for people, without text from the cloud."""

    kind: ClassVar[RefusalKind]
    after: float = 0
    """Seconds until the next request."""

    @property
    def refusal(self) -> Refusal:
        """The error as a fact."""
        return Refusal(self.kind, str(self), self.after)


class Retryable(ProviderError):  # noqa: N818 - named by the reaction
    """A temporary failure: throttling, an activity in progress, an outage."""

    kind = RefusalKind.RETRYABLE

    def __init__(self, message: str, after: float = 10) -> None:
        super().__init__(message)
        self.after = after


class Refused(ProviderError):  # noqa: N818 - named by the reaction
    """The call must not be done: the minimum is reached, or the machine is not in the pool."""

    kind = RefusalKind.REFUSED


class Denied(ProviderError):  # noqa: N818 - named by the reaction
    """The operator lacks a permission that an administrator must grant."""

    kind = RefusalKind.DENIED


class ApiClient(Protocol):
    """The API server with the operator's permissions; `edge.kube.Kube` implements it."""

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        content_type: str = "application/json",
        params: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Send one request and return the object in the answer.

        Raises:
            KubeError: the request was refused or not answered.
        """
        ...


@dataclass(frozen=True)
class Tools:
    """Tools to build a provider. All providers share them; the operator closes them."""

    api: ApiClient
    http: aiohttp.ClientSession
    """For the cloud's API: 20 s for a request, no cookies, the proxies of the environment."""


@runtime_checkable
class Provider(Protocol):
    """A provider that releases machines. Built once for all pools; every call may be repeated, also by another operator.

    A call times out after 120 s. Exceptions other than `ProviderError` count as `Retryable`.
    """

    async def instance(self, pool: Pool, node: NodeRef) -> Instance:
        """Return the state of the machine. `UNKNOWN`: the cloud does not report it; `GONE` only if the cloud confirms it.

        Raises:
            Retryable: the cloud does not answer; the machine counts as `UNKNOWN`.
            Refused: the machine is not in the pool.
            Denied: the operator lacks a permission.
        """
        ...

    async def at_minimum(self, pool: Pool, node: NodeRef) -> bool:
        """Return whether a release would violate the pool's minimum. Machines that are terminating do not count.

        The operator asks again right before a release, for one machine of the pool at a time.

        Raises:
            Retryable, Refused, Denied
        """
        ...

    async def release(self, pool: Pool, node: NodeRef, operation: str) -> None:
        """Terminate exactly this machine and reduce the pool by one; do nothing if it is already terminating.

        Args:
            pool: of the machine; `pool.spec.external.config` is the administrator's configuration of the provider.
            node: the Node and its machine.
            operation: idempotency key, the same for every attempt of this release.

        Raises:
            Retryable, Refused, Denied
        """
        ...

    async def close(self) -> None:
        """Close resources when the operator ends."""
        ...
