"""What people may ask of a run: one merge patch each, the same behind a button, a command and what they type by hand."""

from __future__ import annotations

from typing import Any, Final

from trainingrun_operator.api import names
from trainingrun_operator.api.run import OnFailure

Json = dict[str, Any]

SUSPEND: Final[Json] = {"spec": {"suspend": True}}
"""Save, prove, give the GPU back; it can go on later."""
RESUME: Final[Json] = {"spec": {"suspend": False}}
"""Go on from the checkpoint."""
PROCEED: Final[Json] = {"spec": {"checkpoint": {"onFailure": OnFailure.PROCEED.value}}}
"""End a held run though its checkpoint is not proven."""
ABANDON: Final[Json] = {"metadata": {"annotations": {names.ABANDON_RELEASE_ANNOTATION: "true"}}}
"""Keep nodes whose release does not end."""


def of_uid(uid: str, patch: Json) -> Json:
    """Make a merge patch that the API server refuses (422, about `metadata.uid`) for an object of another uid, which has taken the name meanwhile."""
    return {**patch, "metadata": {**patch.get("metadata", {}), "uid": uid}}
