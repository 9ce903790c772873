"""What the bucket alone tells of a run that has ended: its story, its loss curve and its logs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api.curve import Curve
from trainingrun_operator.cli.trouble import Exit, TroubleError
from trainingrun_operator.core.commands import command
from trainingrun_operator.core.facts.run import Run
from trainingrun_operator.core.story import STORY_MAX_BYTES

if TYPE_CHECKING:
    from trainingrun_operator.cli.bucket import Checkpoints

CURVE_MAX_BYTES: Final = 256 * 1024
"""Of `curve.json`: more than all points of all values take."""
_COMMITS: Final = "Its checkpoints are listed by `checkpoints list`."


def run_of(there: Checkpoints) -> Run:
    """Read the run as it was at its end.

    Raises:
        TroubleError: the bucket cannot be read, or holds no story that can be.
    """
    layout = there.place.layout
    body = there.document(layout.story, STORY_MAX_BYTES)
    if body is None:
        why = f"the run has not ended, or its story was not kept. {_COMMITS}"
        raise TroubleError(f"There is no run.json at {there.where}: {why}", Exit.NO_SUCH_RUN)
    try:
        run = Run.of(json.loads(body))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise TroubleError(
            f"{layout.uri(layout.story)} is not the story of a run that this version reads ({type(error).__name__}). {_COMMITS}",
            Exit.NOT_PROVEN,
        ) from None
    if layout.base.rstrip("/").split("/")[-3:] != [run.namespace, run.name, run.uid]:
        raise TroubleError(f"{layout.uri(layout.story)} is the story of another run. {_COMMITS}", Exit.NOT_PROVEN)
    return run


def curve_of(there: Checkpoints) -> Curve:
    """Read the run's curves: of its loss, and of other values.

    Raises:
        TroubleError: the bucket cannot be read, or holds no curve that can be.
    """
    layout = there.place.layout
    body = there.document(layout.curve, CURVE_MAX_BYTES)
    if body is None:
        raise TroubleError(
            f"There is no curve.json at {there.where}: no loss was read, or its curve was not kept. To see how the run ended: explain {there.where}",
            Exit.NO_SUCH_RUN,
        )
    try:
        curve = Curve.model_validate_json(body)
    except ValueError as error:
        raise TroubleError(
            f"{layout.uri(layout.curve)} is not a loss curve that this version reads ({type(error).__name__}).",
            Exit.NOT_PROVEN,
        ) from None
    if not curve.points and not curve.values:
        raise TroubleError(f"{layout.uri(layout.curve)} has no points.", Exit.NO_SUCH_RUN)
    return curve


def logs_of(there: Checkpoints) -> tuple[str, ...]:
    """Return how to read the end of the run's logs, as sentences and commands; empty: none is kept.

    Raises:
        TroubleError: the bucket cannot be read.
    """
    layout, ranks = there.place.layout, there.logs()
    if not ranks:
        return ()
    first, *others = ranks
    whose = "its log" if first == 0 else f"the log of rank {first}"
    shown = "$ " + command("aws", "s3", "cp", layout.uri(layout.log(first)), "-") + " | gunzip"
    if not others:
        return f"The end of {whose}:", shown
    newest = layout.log(others[-1]).removeprefix(layout.base)
    more = (
        f"{len(others)} other ranks have theirs, up to {newest}"
        if others[1:]
        else f"that of rank {others[0]} is {newest}"
    )
    return f"The end of {whose} ({more}):", shown
