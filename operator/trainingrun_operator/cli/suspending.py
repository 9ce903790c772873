"""The commands that give a GPU back for a while: suspend and resume."""

from __future__ import annotations

import click

from trainingrun_operator.api.status import Phase
from trainingrun_operator.cli.following import TIMEOUT, WAIT
from trainingrun_operator.cli.following import wait as wait_for
from trainingrun_operator.cli.session import RUN, Session, in_session, where
from trainingrun_operator.cli.trouble import TroubleError
from trainingrun_operator.core import asking


@click.command(short_help="Give the node of a run back for a while.")
@click.argument("run", type=RUN)
@WAIT
@TIMEOUT
@where
@in_session
def suspend(session: Session, run: str, timeout: int, *, wait: bool) -> None:
    """Give the node of RUN back for a while: its checkpoint is saved and proven, and it can go on from there.

    The same by hand: kubectl patch trun RUN --type merge -p '{"spec":{"suspend":true}}'
    """
    found = session.run(run)
    stop = found.status.termination
    if found.spec.stop or (stop is not None and not stop.suspends):
        why = f" ({stop.status}: {stop.message})" if stop is not None else " (spec.stop is true)"
        raise TroubleError(
            f"{run} {'has ended' if stop and stop.phase is Phase.DONE else 'is stopping'}{why}: it cannot be suspended any more."
        )
    if found.spec.suspend:
        session.screen.say(
            f"{run} is suspended already."
            if found.status.phase == "Suspended"
            else f"{run} is being suspended already."
        )
    else:
        session.kubectl.patch(found, asking.SUSPEND)
        session.screen.say(
            f"{run} is told to suspend: it saves, its checkpoint is proven, then its pod goes and its node is given back."
        )
    if wait:
        wait_for(session, run, timeout, lambda now: now.status.phase == "Suspended")


@click.command(short_help="Have a suspended run go on.")
@click.argument("run", type=RUN)
@WAIT
@TIMEOUT
@where
@in_session
def resume(session: Session, run: str, timeout: int, *, wait: bool) -> None:
    """Have a suspended RUN go on from its checkpoint.

    The same by hand: kubectl patch trun RUN --type merge -p '{"spec":{"suspend":false}}'
    """
    found = session.run(run)
    stop = found.status.termination
    if stop is not None and not stop.suspends:
        state = "has ended" if stop.phase is Phase.DONE else "is stopping"
        raise TroubleError(
            f"{run} {state} ({stop.status}: {stop.message}): it cannot go on. Create a new TrainingRun; its checkpoints are kept."
        )
    if not found.spec.suspend and stop is None:
        session.screen.say(f"{run} is not suspended; nothing was changed.")
        return
    if found.spec.suspend:
        session.kubectl.patch(found, asking.RESUME)
    first = " once its suspension is complete" if stop is not None and stop.phase is not Phase.DONE else ""
    session.screen.say(f"{run} is told to go on{first}.")
    if wait:
        wait_for(session, run, timeout, lambda now: now.status.phase == "Running" and now.status.termination is None)
