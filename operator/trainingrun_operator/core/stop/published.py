"""What a run that ended because its values were not finite has published, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainingrun_operator.api.spoiled import Spoiled
    from trainingrun_operator.api.status import Saved, Termination
    from trainingrun_operator.checkpoints.documents import Commit


def sentence(stop: Termination) -> str:
    """Return whether the published checkpoint is from before the first value that is not finite; empty: that was not asked, or nothing was saved."""
    saved, spoiled = stop.saved, stop.spoiled
    if saved is None or spoiled is None or not saved.files:
        return ""
    first = (
        "the first value that is not finite"
        if spoiled.step is None
        else f"step {spoiled.step}, the first one whose value is not finite"
    )
    match is_finite(saved, spoiled):
        case True:
            return f"It is the newest from before {first}.{_between(saved, spoiled)}"
        case False:
            return f"No complete checkpoint is known to be from before {first}: this one is from after it, and may hold values that are not finite."
        case _:
            return f"Whether it is from before {first} is not known: it may hold values that are not finite."


def is_from_before(commit: Commit, spoiled: Spoiled) -> bool:
    """Whether a commit has a complete checkpoint that is known to be from before the first value that is not finite."""
    found = commit.checkpoint
    if found is None or not found.complete or not commit.total_files:
        return False
    return bool(_known(found.finite, found.step, found.epoch, spoiled))


def is_finite(saved: Saved, spoiled: Spoiled) -> bool | None:
    """Return what the agent has said, else what the steps say; None: neither says anything."""
    return _known(saved.finite, saved.step, saved.epoch, spoiled)


def _known(said: bool | None, step: int | None, epoch: int | None, spoiled: Spoiled) -> bool | None:  # noqa: FBT001 - what the agent has said
    # A step beside an epoch may be counted in the epoch.
    if said is not None or step is None or spoiled.step is None or (epoch is not None and step < spoiled.step):
        return said
    return step < spoiled.step


def _between(saved: Saved, spoiled: Spoiled) -> str:
    if saved.step is None or spoiled.finite_step is None or saved.step <= spoiled.finite_step:
        return ""
    return f" The last finite value was read at step {spoiled.finite_step}, so that what came between is not known."
