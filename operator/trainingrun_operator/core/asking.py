"""What people may ask of a run: one merge patch each, the same behind a button, a command and what they type by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from trainingrun_operator.api import names
from trainingrun_operator.api.run import USER_MAX, OnFailure

if TYPE_CHECKING:
    from trainingrun_operator.api.status import StopMode

Json = dict[str, Any]

SUSPEND: Final[Json] = {"spec": {"suspend": True}}
"""Save, prove, give the GPU back; it can go on later."""
RESUME: Final[Json] = {"spec": {"suspend": False}}
"""Go on from the checkpoint."""
PROCEED: Final[Json] = {"spec": {"checkpoint": {"onFailure": OnFailure.PROCEED.value}}}
"""End a held run though its checkpoint is not proven."""
ABANDON: Final[Json] = {"metadata": {"annotations": {names.ABANDON_RELEASE_ANNOTATION: "true"}}}
"""Keep nodes whose release does not end."""


def stop(*, by: str = "", reason: str = "", mode: StopMode | None = None) -> Json:
    """End it.

    Args:
        by: their user name, as the cluster knows it.
        reason: as `spec.stopReason` has it, at most 1024 characters.
        mode: None leaves the one that is written.
    """
    name = signature(by)
    asked = {"stopMode": mode and mode.value, "stopReason": reason, "stoppedBy": name}
    return {"spec": {"stop": True, **{field: value for field, value in asked.items() if value}}}


def signature(user: str) -> str:
    """What of a user name `spec.stoppedBy` may hold: all of it, or nothing. The admission policy takes a part of it for somebody else's."""
    return user if len(user) <= USER_MAX else ""


def of_uid(uid: str, patch: Json) -> Json:
    """Make a merge patch that the API server refuses (422, about `metadata.uid`) for an object of another uid, which has taken the name meanwhile."""
    return {**patch, "metadata": {**patch.get("metadata", {}), "uid": uid}}
