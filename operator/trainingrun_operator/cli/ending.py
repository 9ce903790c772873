"""The commands that change a run: stop, proceed, abandon. Each is one patch, and says which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from trainingrun_operator.api import names
from trainingrun_operator.api.run import OnFailure
from trainingrun_operator.api.status import Phase, StopMode
from trainingrun_operator.cli.following import TIMEOUT, WAIT
from trainingrun_operator.cli.following import wait as wait_for
from trainingrun_operator.cli.session import RUN, Session, ask, in_session, where
from trainingrun_operator.cli.trouble import TroubleError
from trainingrun_operator.core import asking
from trainingrun_operator.core.release import unsettled

if TYPE_CHECKING:
    from trainingrun_operator.core.facts.run import Run

YES = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


@click.command(short_help="End a run: checkpoint proven, node given back.")
@click.argument("runs", type=RUN, nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--reason", default="", metavar="TEXT", help="Why; shown in the status, such as 'overfitting: eval loss rises'."
)
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in StopMode]),
    help="Which checkpoint to wait for. Auto: it saves and leaves. NextCheckpoint, LastCheckpoint: that one will do."
    " May be given again while the run stops.",
)
@WAIT
@TIMEOUT
@where
@in_session
def stop(session: Session, runs: tuple[str, ...], reason: str, mode: str | None, timeout: int, *, wait: bool) -> None:
    """End RUN: its checkpoint is saved and proven, then its pod goes, and its node is given back.

    It cannot be taken back. The same by hand: kubectl patch trun RUN --type merge -p '{"spec":{"stop":true}}'
    """
    found = [session.run(name) for name in runs]
    me = session.kubectl.whoami() if any(_may_be_stopped(run) for run in found) else ""
    for run in found:
        _stop(session, run, _patch(run, reason, StopMode(mode) if mode else None, me), reason)
    if wait:
        for run in found:
            wait_for(session, run.name, timeout)


def _may_be_stopped(run: Run) -> bool:
    stop = run.status.termination
    return (stop is None or stop.suspends) and not run.spec.stop


def _patch(run: Run, reason: str, mode: StopMode | None, me: str) -> dict[str, Any]:
    """What is written; of a run that stops already only what may still change."""
    changed = mode if mode is not run.spec.stop_mode else None
    if _may_be_stopped(run):
        return asking.stop(by=me, reason=reason, mode=changed)
    stop = run.status.termination
    over = stop is not None and stop.over
    return {"spec": {"stopMode": changed.value}} if changed and not over else {}


def _stop(session: Session, run: Run, patch: dict[str, Any], reason: str) -> None:
    if patch:
        session.kubectl.patch(run, patch)
    stop = run.status.termination
    if stop is not None and stop.over:
        session.screen.say(f"{run.name} has ended already ({stop.status}): {stop.message}")
    elif stop is not None and stop.suspends and not run.spec.stop:
        asleep = "is suspended, and ends with" if stop.phase is Phase.DONE else "is being suspended, and then ends with"
        session.screen.say(f"{run.name} {asleep} the checkpoint of its suspension.")
    elif stop is not None or run.spec.stop:
        why = f" ({stop.status}: {stop.message})" if stop is not None else ""
        now = f" It waits for {patch['spec']['stopMode']} now." if patch else ""
        late = " The reason is not written: it belongs to who stopped it." if reason else ""
        session.screen.say(f"{run.name} is stopping already{why}.{now}{late}")
    else:
        session.screen.say(
            f"{run.name} is told to stop: it saves, its checkpoint is proven, then its pod goes and its node is given back."
        )


@click.command(short_help="End a hold without a proven checkpoint.")
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
    if stop is not None and stop.over:
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
    session.kubectl.patch(found, asking.PROCEED)
    session.screen.say(
        f"{run} goes on without proof (spec.checkpoint.onFailure: Proceed). Its status will say what was lost."
    )


@click.command(short_help="Wait no longer for the nodes of a run.")
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
    session.kubectl.patch(found, asking.ABANDON)
    session.screen.say(f"Nobody waits for {', '.join(node.name for node in waiting)} any more.")
