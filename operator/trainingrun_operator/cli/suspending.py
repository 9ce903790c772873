"""The commands suspend and resume."""

from __future__ import annotations

import click

from trainingrun_operator.api.status import Phase
from trainingrun_operator.cli.following import TIMEOUT, WAIT
from trainingrun_operator.cli.following import wait as wait_for
from trainingrun_operator.cli.session import RUN, Session, in_session, where
from trainingrun_operator.cli.trouble import TroubleError
from trainingrun_operator.core import asking


@click.command(short_help="Suspend a run: release its node, keep its checkpoint.")
@click.argument("run", type=RUN)
@WAIT
@TIMEOUT
@where
@in_session
def suspend(session: Session, run: str, timeout: int, *, wait: bool) -> None:
    """Suspend RUN: save and prove its checkpoint, then release its node. It can resume from there.

    The same with kubectl: kubectl patch trun RUN --type merge -p '{"spec":{"suspend":true}}'
    """
    found = session.run(run)
    stop = found.status.termination
    if found.spec.stop or (stop is not None and not stop.suspends):
        why = f" ({stop.status}: {stop.message})" if stop is not None else " (spec.stop is true)"
        raise TroubleError(
            f"{run} {'has ended' if stop and stop.phase is Phase.DONE else 'is stopping'}{why}: it cannot be suspended."
        )
    if found.spec.suspend:
        session.screen.say(
            f"{run} is already suspended."
            if found.status.phase == "Suspended"
            else f"{run} is already being suspended."
        )
    else:
        session.kubectl.patch(found, asking.SUSPEND)
        session.screen.say(
            f"{run} will be suspended: it saves, its checkpoint is proven, its pod is deleted and its node is released."
        )
    if wait:
        wait_for(session, run, timeout, lambda now: now.status.phase == "Suspended")


@click.command(short_help="Resume a suspended run.")
@click.argument("run", type=RUN)
@WAIT
@TIMEOUT
@where
@in_session
def resume(session: Session, run: str, timeout: int, *, wait: bool) -> None:
    """Resume a suspended RUN from its checkpoint.

    The same with kubectl: kubectl patch trun RUN --type merge -p '{"spec":{"suspend":false}}'
    """
    found = session.run(run)
    stop = found.status.termination
    if stop is not None and not stop.suspends:
        state = "has ended" if stop.phase is Phase.DONE else "is stopping"
        raise TroubleError(
            f"{run} {state} ({stop.status}: {stop.message}): it cannot be resumed. Create a new TrainingRun; the checkpoints are kept."
        )
    if not found.spec.suspend and stop is None:
        session.screen.say(f"{run} is not suspended. Nothing was changed.")
        return
    if found.spec.suspend:
        session.kubectl.patch(found, asking.RESUME)
    first = " after its suspension is complete" if stop is not None and stop.phase is not Phase.DONE else ""
    session.screen.say(f"{run} will resume{first}.")
    if wait:
        wait_for(session, run, timeout, lambda now: now.status.phase == "Running" and now.status.termination is None)
