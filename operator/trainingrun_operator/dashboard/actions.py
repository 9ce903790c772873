"""The patches behind the buttons: one merge patch each, identical to the command shown for copying."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from trainingrun_operator.api.status import StopMode
from trainingrun_operator.core import asking, commands

Json = dict[str, Any]

REASON_MAX: Final = 1024
"""`spec.stopReason`."""


class Category(StrEnum):
    """Reasons for stopping a training."""

    OVERFITTING = "overfitting"
    MISCONFIGURED = "misconfigured"
    NEED_THE_GPU = "need the GPU"
    GOOD_ENOUGH = "good enough"
    OTHER = "other"


MODES: Final = (
    (
        StopMode.AUTO,
        "Save, then stop",
        "The training saves a checkpoint and exits within {grace}. No progress is lost if it reacts to the stop request.",
    ),
    (
        StopMode.NEXT_CHECKPOINT,
        "After the next checkpoint",
        "The stop request is the same, but the next complete checkpoint is enough.",
    ),
    (
        StopMode.LAST_CHECKPOINT,
        "Now",
        "Stop immediately. The last complete checkpoint is kept; the steps after it are lost.",
    ),
)
"""Mode, title and explanation for the person who chooses; `grace` is a duration."""


class BadRequestError(Exception):
    """An invalid request body; the text gives the reason."""


@dataclass(frozen=True)
class Stop:
    """A requested stop."""

    category: Category | None = None
    text: str = ""
    mode: StopMode = StopMode.AUTO

    @classmethod
    def of(cls, said: Json) -> Stop:
        """Parse the request body of the stop dialog.

        Raises:
            BadRequestError: unknown category or mode, or too long a text.
        """
        category, text, mode = (str(said.get(name) or "") for name in ("category", "text", "mode"))
        if category and category not in set(Category):
            raise BadRequestError(f"Unknown reason {category!r}: expected one of {', '.join(Category)}.")
        if mode not in set(StopMode):
            raise BadRequestError(f"Unknown mode {mode!r}: expected one of {', '.join(StopMode)}.")
        stop = cls(Category(category) if category else None, " ".join(text.split()), StopMode(mode))
        if len(stop.reason) > REASON_MAX:
            raise BadRequestError(f"The reason has {len(stop.reason)} characters; the maximum is {REASON_MAX}.")
        return stop

    @property
    def reason(self) -> str:
        """The value of `spec.stopReason`: `overfitting: eval loss rises since step 900`."""
        return ": ".join(part for part in (self.category.value if self.category else "", self.text) if part)

    def patch(self, user: str) -> Json:
        """Build the merge patch; the installation's admission policy requires `user` to be the requester."""
        return asking.stop(by=user, reason=self.reason, mode=self.mode)


def command(namespace: str, name: str, patch: Json) -> str:
    """The kubectl command that sends `patch`."""
    run = "kubectl", "patch", "trainingrun", name, "--namespace", namespace
    return commands.command(*run, "--type", "merge", "-p", commands.patch_word(patch))
