"""The commands stop, proceed and abandon. Each sends one patch and prints it."""

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

YES = click.option("-y", "--yes", is_flag=True, help="Skip the confirmation.")


@click.command(short_help="Stop a run: prove its checkpoint, release its node.")
@click.argument("runs", type=RUN, nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--reason", default="", metavar="TEXT", help="Reason, shown in the status, such as 'overfitting: eval loss rises'."
)
@click.option(
    "--mode",
    type=click.Choice([mode.value for mode in StopMode]),
    help="Checkpoint to wait for. Auto: the training saves and exits. NextCheckpoint, LastCheckpoint: that checkpoint is enough."
    " May be changed while the run stops.",
)
@WAIT
@TIMEOUT
@where
@in_session
def stop(session: Session, runs: tuple[str, ...], reason: str, mode: str | None, timeout: int, *, wait: bool) -> None:
    """Stop RUN: save and prove its checkpoint, delete its pod, release its node.

    A stop is final. The same with kubectl: kubectl patch trun RUN --type merge -p '{"spec":{"stop":true}}'
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
    """Build the merge patch; for a run that is already stopping, only fields that may still change."""
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
        session.screen.say(f"{run.name} has already ended ({stop.status}): {stop.message}")
    elif stop is not None and stop.suspends and not run.spec.stop:
        ending = "is suspended; it ends with" if stop.phase is Phase.DONE else "is being suspended; it then ends with"
        session.screen.say(f"{run.name} {ending} the checkpoint of its suspension.")
    elif stop is not None or run.spec.stop:
        why = f" ({stop.status}: {stop.message})" if stop is not None else ""
        now = f" It now waits for {patch['spec']['stopMode']}." if patch else ""
        late = " --reason is ignored: the first stop request sets the reason." if reason else ""
        session.screen.say(f"{run.name} is already stopping{why}.{now}{late}")
    else:
        session.screen.say(
            f"{run.name} will stop: it saves, its checkpoint is proven, its pod is deleted and its node is released."
        )


@click.command(short_help="End a hold without a proven checkpoint.")
@click.argument("run", type=RUN)
@YES
@where
@in_session
def proceed(session: Session, run: str, *, yes: bool) -> None:
    """End the hold of RUN although its checkpoint is not proven.

    For a run in phase Held. Data that is not in the bucket is lost with the pod.
    """
    found = session.run(run)
    stop = found.status.termination
    if stop is not None and stop.over:
        session.screen.say(f"{run} has already ended ({stop.status}); there is no hold.")
        return
    if found.spec.checkpoint.on_failure is OnFailure.PROCEED:
        session.screen.say(f"{run} already has spec.checkpoint.onFailure: Proceed. Nothing was changed.")
        return
    if stop is None or stop.phase is not Phase.HELD:
        raise TroubleError(
            f"{run} is not held (phase: {found.status.phase or 'not observed yet'}). To skip a later hold,"
            f" set spec.checkpoint.onFailure: Proceed."
        )
    session.screen.say(f"{run} is held: {stop.hold_reason}")
    ask("End the hold without a proven checkpoint? Data that is not in the bucket is lost.", yes=yes)
    session.kubectl.patch(found, asking.PROCEED)
    session.screen.say(
        f"The hold of {run} ends without a proven checkpoint (spec.checkpoint.onFailure: Proceed). Its status records what is lost."
    )


@click.command(short_help="Stop releasing the nodes of a run.")
@click.argument("run", type=RUN)
@YES
@where
@in_session
def abandon(session: Session, run: str, *, yes: bool) -> None:
    """Stop releasing the nodes of RUN: they are kept, and you are responsible for them.

    For a run whose nodes are not released. A machine that still runs is still billed.
    """
    found = session.run(run)
    waiting = unsettled(found.status.nodes)
    if found.abandoned_by:
        session.screen.say(f"The nodes of {run} are already abandoned ({names.ABANDON_RELEASE_ANNOTATION}).")
        return
    if found.status.termination is None or found.status.termination.phase is not Phase.RELEASING or not waiting:
        raise TroubleError(f"{run} does not wait for a node (phase: {found.status.phase or 'not observed yet'}).")
    for node in waiting:
        session.screen.say(f"{node.name} ({node.phase.value}): {node.message or 'no message yet'}")
    ask(
        f"Keep {'it' if len(waiting) == 1 else 'them'} and release {'it' if len(waiting) == 1 else 'them'} yourself?",
        yes=yes,
    )
    session.kubectl.patch(found, asking.ABANDON)
    session.screen.say(f"{run} no longer waits for {', '.join(node.name for node in waiting)}.")
