"""Waiting for a request to complete, with progress output."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import click

from trainingrun_operator.api.status import Phase
from trainingrun_operator.cli import live, words
from trainingrun_operator.cli.session import Session, parsed
from trainingrun_operator.cli.trouble import Exit, TroubleError

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainingrun_operator.core.facts.run import Run

_DURATION: Final = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?\Z")
_PHASES: Final = {
    Phase.REQUESTED: "the stop is decided and recorded",
    Phase.DRAINING: "the training saves and exits",
    Phase.SAVING: "the agent uploads files that are not in the bucket",
    Phase.VERIFYING: "the operator reads the bucket back, file by file",
    Phase.HELD: "nothing is deleted, the checkpoint is not proven yet",
    Phase.DELETING: "the pod is deleted",
    Phase.RELEASING: "the pod is gone, the nodes are released",
}


class Duration(click.ParamType[int]):
    """A duration: `90s`, `30m`, `1h30m`, or seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Seconds."""
        if isinstance(value, int):
            return value
        match = _DURATION.match(value)
        if match is None or not value:
            self.fail(f"{value!r} is not a duration. Examples: 90s, 30m, 1h30m.", param, ctx)
        hours, minutes, seconds = (int(part or 0) for part in match.groups())
        return hours * 3600 + minutes * 60 + seconds


WAIT = click.option("--wait", is_flag=True, help="Wait until it is done, and print the progress.")
TIMEOUT = click.option(
    "--timeout",
    type=Duration(),
    default=0,
    metavar="DURATION",
    help="Maximum time to --wait, such as 30m.  [default: unlimited]",
)


def wait(session: Session, name: str, seconds: float, there: Callable[[Run], bool] = lambda _: False) -> None:
    """Print each phase; return when the run has ended or `there` is true.

    Raises:
        TroubleError: timeout, or the run ended without a proven checkpoint.
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
            f"{name} is not done after {seconds:g} s and continues. See its progress: {words.explain(name)}",
            Exit.TIMEOUT,
        ) from None


def _tell_end(session: Session, run: Run) -> None:
    """Print the outcome."""
    session.screen.say(run.status.termination_message or f"{run.name} is {run.status.phase or 'deleted'}.")
    saved = run.status.condition("CheckpointSaved")
    if saved is not None and saved.status == "False" and saved.reason == "DataLoss":
        raise TroubleError(f"{run.name} ended without a proven checkpoint: {saved.message}", Exit.NOT_PROVEN)
