"""Waiting for what was asked for, and telling how far it is."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import click

from trainingrun_operator.api.status import Phase
from trainingrun_operator.cli import live
from trainingrun_operator.cli.session import Session, parsed
from trainingrun_operator.cli.trouble import Exit, TroubleError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainingrun_operator.core.facts.run import Run

_DURATION: Final = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?\Z")
_PHASES: Final = {
    Phase.REQUESTED: "it is decided and written down",
    Phase.DRAINING: "its training is asked to save and leave",
    Phase.SAVING: "what is not in the bucket yet is saved",
    Phase.VERIFYING: "the bucket is read back, file by file",
    Phase.HELD: "nothing is deleted, its checkpoint cannot be proven yet",
    Phase.DELETING: "its pod goes",
    Phase.RELEASING: "its pod is gone, its nodes are given back",
}


class Duration(click.ParamType[int]):
    """`90s`, `30m`, `1h30m`, or seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Seconds."""
        if isinstance(value, int):
            return value
        match = _DURATION.match(value)
        if match is None or not value:
            self.fail(f"{value!r} is no duration: write 90s, 30m or 1h30m.", param, ctx)
        hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return hours * 3600 + minutes * 60 + seconds


WAIT = click.option("--wait", is_flag=True, help="Wait until it is done, and tell how far it is.")
TIMEOUT = click.option(
    "--timeout",
    type=Duration(),
    default=0,
    metavar="DURATION",
    help="With --wait: for so long at most, such as 30m.  [default: for ever]",
)


def wait(session: Session, name: str, seconds: float, there: Callable[[Run], bool] = lambda _: False) -> None:
    """Tell each phase as it comes; returns when the run has ended, or is where it should be.

    Raises:
        TroubleError: time is up, or it ended without a proven checkpoint.
    """
    told, held = "", ""
    try:
        for kind, stored in session.kubectl.changes(name, seconds=seconds):
            run = parsed(stored)
            stop = run.status.termination
            if stop is not None and stop.phase.value != told and stop.phase in _PHASES:
                told = stop.phase.value
                session.screen.say(f"{name}  {told}: {_PHASES[stop.phase]}")
            if stop is not None and stop.hold_reason and stop.hold_reason != held:
                held = stop.hold_reason
                session.screen.say(f"{name}  Held: {held}")
            if kind == "DELETED" or live.finished(stored) or there(run):
                _tell_end(session, run)
                return
    except TroubleError as error:
        if error.exit_code is not Exit.TIMEOUT:
            raise
        raise TroubleError(
            f"{name} is not there yet after {seconds:g} s; it goes on by itself. kubectl trainingrun explain {name} says how far it is.",
            Exit.TIMEOUT,
        ) from None


def _tell_end(session: Session, run: Run) -> None:
    """How it came out."""
    session.screen.say(run.status.termination_message or f"{run.name} is {run.status.phase or 'deleted'}.")
    saved = run.status.condition("CheckpointSaved")
    if saved is not None and saved.status == "False" and saved.reason == "DataLoss":
        raise TroubleError(f"{run.name} ended without a proven checkpoint: {saved.message}", Exit.NOT_PROVEN)
