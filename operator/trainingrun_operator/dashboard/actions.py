"""What a button does: one merge patch each, the same that its copyable command sends."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from trainingrun_operator.api.status import StopMode
from trainingrun_operator.core import asking

Json = dict[str, Any]

REASON_MAX: Final = 1024
"""`spec.stopReason`."""


class Category(StrEnum):
    """Why people stop a training."""

    OVERFITTING = "overfitting"
    MISCONFIGURED = "misconfigured"
    NEED_THE_GPU = "need the GPU"
    GOOD_ENOUGH = "good enough"
    OTHER = "other"


MODES: Final = (
    (
        StopMode.AUTO,
        "Let it save and leave",
        "It is asked to save a checkpoint and exit, and has {grace} for it. Nothing of its progress is lost if it listens.",
    ),
    (
        StopMode.NEXT_CHECKPOINT,
        "At its next checkpoint",
        "The same, but the next complete checkpoint that it writes is enough.",
    ),
    (
        StopMode.LAST_CHECKPOINT,
        "Now",
        "Nothing is waited for: its last complete checkpoint is kept, and the steps after it are lost.",
    ),
)
"""What each mode means to the person who chooses; `grace` is a duration."""


class BadRequestError(Exception):
    """What was sent cannot be acted on; the text says why."""


@dataclass(frozen=True)
class Stop:
    """A stop as somebody asks for it."""

    category: Category | None = None
    text: str = ""
    mode: StopMode = StopMode.AUTO

    @classmethod
    def of(cls, said: Json) -> Stop:
        """Read what the dialog sent.

        Raises:
            BadRequestError: a category or mode that does not exist, or a text that is too long.
        """
        category, text, mode = (str(said.get(name) or "") for name in ("category", "text", "mode"))
        if category and category not in set(Category):
            raise BadRequestError(f"There is no reason {category!r}: expected one of {', '.join(Category)}.")
        if mode not in set(StopMode):
            raise BadRequestError(f"There is no mode {mode!r}: expected one of {', '.join(StopMode)}.")
        stop = cls(Category(category) if category else None, " ".join(text.split()), StopMode(mode))
        if len(stop.reason) > REASON_MAX:
            raise BadRequestError(f"The reason has {len(stop.reason)} characters: at most {REASON_MAX} are kept.")
        return stop

    @property
    def reason(self) -> str:
        """As `spec.stopReason` has it: `overfitting: eval loss rises since step 900`."""
        return ": ".join(part for part in (self.category.value if self.category else "", self.text) if part)

    def patch(self, user: str) -> Json:
        """In the name of its user: the installation's admission policy lets nobody write another's."""
        return asking.stop(by=user, reason=self.reason, mode=self.mode)


def command(namespace: str, name: str, patch: Json) -> str:
    """The same by hand."""
    said = json.dumps(patch, separators=(",", ":"), ensure_ascii=False)
    return f"kubectl patch trainingrun {name} --namespace {namespace} --type merge -p {shlex.quote(said)}"
