"""The commands that change a run: stop, proceed, abandon. Each is one patch, and says which."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import click

from trainingrun_operator.api import names
from trainingrun_operator.api.run import OnFailure
from trainingrun_operator.api.status import Phase, StopMode
from trainingrun_operator.cli import live
from trainingrun_operator.cli.session import RUN, Session, ask, in_session, parsed, where
from trainingrun_operator.cli.trouble import Exit, TroubleError
from trainingrun_operator.core.release import unsettled

if TYPE_CHECKING:
    from trainingrun_operator.core.observed import Run

YES = click.option("-y", "--yes", is_flag=True, help="Do not ask.")
_DURATION: Final = re.compile(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?\Z")
_PHASES: Final = {
    Phase.REQUESTED: "it is decided and written down",
    Phase.DRAINING: "its training is asked to save and leave",
    Phase.SAVING: "what is not in the bucket yet is saved",
    Phase.VERIFYING: "the bucket is read back, file by file",
    Phase.HELD: "nothing is deleted, its checkpoint cannot be proven yet",
    Phase.DELETING: "its checkpoint is proven, its pod goes",
    Phase.RELEASING: "its pod is gone, its nodes are given back",
    Phase.DONE: "finished",
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


@click.command()
@click.argument("runs", type=RUN, nargs=-1, required=True, metavar="RUN...")
@click.option("--reason", default="", metavar="TEXT", help="Why; shown in the status.")
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in StopMode], case_sensitive=False),
    help="Which checkpoint to wait for. Auto: it saves and leaves. NextCheckpoint, LastCheckpoint: that one will do."
    " May be given again while the run stops.",
)
@click.option("--wait", is_flag=True, help="Wait until it is over, and tell how far it is.")
@click.option(
    "--timeout",
    type=Duration(),
    default=0,
    metavar="DURATION",
    help="With --wait: for so long at most, such as 30m.  [default: for ever]",
)
@where
@in_session
def stop(session: Session, runs: tuple[str, ...], reason: str, mode: str | None, timeout: int, *, wait: bool) -> None:
    """End RUN: its checkpoint is saved and proven, then its pod goes, and its node is given back.

    It cannot be taken back. The same by hand: kubectl patch trun RUN --type merge -p '{"spec":{"stop":true}}'
    """
    found = [session.run(name) for name in runs]
    me = session.kubectl.whoami() if any(_may_be_stopped(run) for run in found) else ""
    for run in found:
        _stop(session, run, _patch(run, reason, mode, me), reason)
    if wait:
        for run in found:
            _wait(session, run, timeout)


def _may_be_stopped(run: Run) -> bool:
    return run.status.termination is None and not run.spec.stop


def _patch(run: Run, reason: str, mode: str | None, me: str) -> dict[str, Any]:
    """What is written; of a run that stops already only what may still change."""
    changed = {"stopMode": mode} if mode and mode != run.spec.stop_mode.value else {}
    if not _may_be_stopped(run):
        return changed if not _over(run) else {}
    who = {"stoppedBy": me} if me else {}
    why = {"stopReason": reason} if reason else {}
    return {"stop": True, **who, **why, **changed}


def _over(run: Run) -> bool:
    return run.status.termination is not None and run.status.termination.phase is Phase.DONE


def _stop(session: Session, run: Run, patch: dict[str, Any], reason: str) -> None:
    if patch:
        session.kubectl.patch(run.name, {"spec": patch})
    stop = run.status.termination
    if stop is not None and _over(run):
        session.screen.say(f"{run.name} has ended already ({stop.status}): {stop.message}")
    elif stop is not None or run.spec.stop:
        why = f" ({stop.status}: {stop.message})" if stop is not None else ""
        now = f" It waits for {patch['stopMode']} now." if patch else ""
        late = " The reason is not written: it belongs to who stopped it." if reason else ""
        session.screen.say(f"{run.name} is stopping already{why}.{now}{late}")
    else:
        session.screen.say(
            f"{run.name} is told to stop: it saves, its checkpoint is proven, then its pod goes and its node is given back."
        )


def _wait(session: Session, run: Run, seconds: float) -> None:
    """Tell each phase as it comes; returns when it is over.

    Raises:
        TroubleError: time is up, or it ended without a proven checkpoint.
    """
    told, held, now = "", "", run
    try:
        for kind, stored in session.kubectl.changes(run.name, seconds=seconds):
            now = parsed(stored)
            stop = now.status.termination
            if stop is not None and stop.phase.value != told:
                told = stop.phase.value
                session.screen.say(f"{run.name}  {told}: {_PHASES[stop.phase]}")
            if stop is not None and stop.hold_reason and stop.hold_reason != held:
                held = stop.hold_reason
                session.screen.say(f"{run.name}  Held: {held}")
            if kind == "DELETED" or live.finished(stored):
                break
    except TroubleError as error:
        if error.exit_code is not Exit.TIMEOUT:
            raise
        raise TroubleError(
            f"{run.name} has not ended within {seconds:g} s; it goes on stopping. kubectl trainingrun explain {run.name} says how far it is.",
            Exit.TIMEOUT,
        ) from None
    _tell_end(session, now)


def _tell_end(session: Session, run: Run) -> None:
    status = run.status
    session.screen.say(status.termination_message or f"{run.name} has ended.")
    saved = next((one for one in status.conditions if one.type == "CheckpointSaved"), None)
    if saved is not None and saved.status == "False" and saved.reason == "DataLoss":
        raise TroubleError(f"{run.name} ended without a proven checkpoint: {saved.message}", Exit.NOT_PROVEN)


@click.command()
@click.argument("run", type=RUN)
@YES
@where
@in_session
def proceed(session: Session, run: str, *, yes: bool) -> None:
    """End the hold of RUN: go on although its checkpoint cannot be proven.

    For a run that is Held. What is not in the bucket is lost with its pod.
    """
    found = session.run(run)
    stop = found.status.termination
    if stop is not None and _over(found):
        session.screen.say(f"{run} has ended already ({stop.status}): nothing is held.")
        return
    if found.spec.checkpoint.on_failure is OnFailure.PROCEED:
        session.screen.say(f"{run} has spec.checkpoint.onFailure: Proceed already; nothing was changed.")
        return
    if stop is None or stop.phase is not Phase.HELD:
        raise TroubleError(
            f"{run} is not held ({found.status.phase or 'not looked at yet'}), so there is nothing to go on from. To end any later hold of it beforehand,"
            f" write spec.checkpoint.onFailure: Proceed yourself."
        )
    session.screen.say(f"{run} is held: {stop.hold_reason}")
    ask("Go on without a proven checkpoint? What is not in the bucket is lost.", yes=yes)
    session.kubectl.patch(run, {"spec": {"checkpoint": {"onFailure": OnFailure.PROCEED.value}}})
    session.screen.say(
        f"{run} goes on without proof (spec.checkpoint.onFailure: Proceed). Its status will say what was lost."
    )


@click.command()
@click.argument("run", type=RUN)
@YES
@where
@in_session
def abandon(session: Session, run: str, *, yes: bool) -> None:
    """Wait no longer for the nodes of RUN: they are kept, and are yours to look after.

    For a run whose nodes are not given back. A machine that still runs goes on being billed.
    """
    found = session.run(run)
    waiting = unsettled(found.status.nodes)
    if found.abandoned_by:
        session.screen.say(f"The nodes of {run} are abandoned already ({names.ABANDON_RELEASE_ANNOTATION}).")
        return
    if found.status.termination is None or found.status.termination.phase is not Phase.RELEASING or not waiting:
        raise TroubleError(
            f"{run} does not wait for any node ({found.status.phase or 'not looked at yet'}): there is nothing to abandon."
        )
    for node in waiting:
        session.screen.say(f"{node.name} ({node.phase.value}): {node.message or 'nothing is said of it yet'}")
    ask(
        f"Keep {'it' if len(waiting) == 1 else 'them'}, and look after {'it' if len(waiting) == 1 else 'them'} yourself?",
        yes=yes,
    )
    session.kubectl.patch(run, {"metadata": {"annotations": {names.ABANDON_RELEASE_ANNOTATION: "true"}}})
    session.screen.say(f"Nobody waits for {', '.join(node.name for node in waiting)} any more.")
