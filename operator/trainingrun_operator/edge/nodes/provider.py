"""What every cloud is asked, and the three ways in which it may refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from trainingrun_operator.core.facts.nodes import Instance, Pool


class ProviderError(Exception):
    """The cloud did not do what it was asked; the text is a sentence for a person, without anything that the cloud wrote."""


class Retryable(ProviderError):  # noqa: N818 - says what to do, which is what it is raised for
    """It may pass by itself: throttling, an activity in progress, an outage."""

    def __init__(self, message: str, after: float = 10) -> None:
        super().__init__(message)
        self.after = after
        """Seconds to wait before asking again."""


class Refused(ProviderError):  # noqa: N818 - says what to do, which is what it is raised for
    """It must not be done: the minimum is reached, or the machine is none of the pool's."""


class Denied(ProviderError):  # noqa: N818 - says what to do, which is what it is raised for
    """The operator lacks a permission: an administrator has to act."""


class Provider(Protocol):
    """One cloud's way of releasing one machine. Nothing is remembered between calls; all of them may be repeated."""

    async def instance(self, pool: Pool, provider_id: str) -> Instance:
        """How the machine is. `UNKNOWN` when the cloud does not say; `GONE` only when it says so itself.

        Raises:
            Refused: the machine cannot be one of the pool's.
            Denied: not permitted to ask.
        """
        ...

    async def at_minimum(self, pool: Pool, provider_id: str) -> bool:
        """Whether the pool may not lose the machine.

        Raises:
            Retryable, Refused, Denied
        """
        ...

    async def release(self, pool: Pool, provider_id: str) -> None:
        """End exactly this machine and make the pool smaller by it; nothing if it is on its way out already.

        Raises:
            Retryable, Refused, Denied
        """
        ...
