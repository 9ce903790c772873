"""Requests to a run, one merge patch each; dashboard, plugin and kubectl users write the same patch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from trainingrun_operator.api import names
from trainingrun_operator.api.run import USER_MAX, OnFailure

if TYPE_CHECKING:
    from trainingrun_operator.api.status import StopMode

Json = dict[str, Any]

SUSPEND: Final[Json] = {"spec": {"suspend": True}}
"""Save, prove and release the node; the run can be resumed."""
RESUME: Final[Json] = {"spec": {"suspend": False}}
"""Resume from the checkpoint."""
PROCEED: Final[Json] = {"spec": {"checkpoint": {"onFailure": OnFailure.PROCEED.value}}}
"""End a held run without a proven checkpoint."""
ABANDON: Final[Json] = {"metadata": {"annotations": {names.ABANDON_RELEASE_ANNOTATION: "true"}}}
"""Keep the nodes of a release that does not finish."""


def stop(*, by: str = "", reason: str = "", mode: StopMode | None = None) -> Json:
    """Return the patch that stops a run.

    Args:
        by: user name, as the cluster knows it.
        reason: as `spec.stopReason` has it, at most 1024 characters.
        mode: None keeps the present one.
    """
    name = signature(by)
    asked = {"stopMode": mode and mode.value, "stopReason": reason, "stoppedBy": name}
    return {"spec": {"stop": True, **{field: value for field, value in asked.items() if value}}}


def signature(user: str) -> str:
    """Return the user name for `spec.stoppedBy`, or nothing if it is too long: the admission policy refuses a part of it."""
    return user if len(user) <= USER_MAX else ""


def of_uid(uid: str, patch: Json) -> Json:
    """Return a merge patch that the API server refuses (422 about `metadata.uid`) for an object with another uid."""
    return {**patch, "metadata": {**patch.get("metadata", {}), "uid": uid}}
