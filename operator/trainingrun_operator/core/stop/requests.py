"""The pending save request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainingrun_operator.api.status import Phase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainingrun_operator.api.status import Termination
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.facts.run import Run

SAVING: Final = frozenset({Phase.SAVING, Phase.HELD, Phase.VERIFYING})


def rescues_late(stop: Termination | None) -> bool:
    """Whether a rescue saves what pods wrote after the proof: the stop is in Deleting."""
    if stop is None or stop.phase is not Phase.DELETING or stop.rescue is None:
        return False
    return bool(stop.rescue.attempt) and not stop.rescue.over


def save_request(run: Run, pods: Sequence[Pod]) -> tuple[str, int] | None:
    """Return id and attempt of the pending save request: of a stop, or of a crashed pod behind its gate; None: there is none."""
    stop = run.status.termination
    if stop is not None and (stop.phase in SAVING or rescues_late(stop)):
        return stop.id, stop.attempt
    newest = {pod.rank: pod for pod in pods}
    asked = (pod for pod in newest.values() if pod.save is not None and not pod.terminal and not pod.gate_open)
    if (pod := next(asked, None)) is None or pod.save is None:
        return None
    if stop is not None and (stop.phase is not Phase.DELETING or pod.save.attempt <= stop.attempt):
        return None
    return pod.save.id, pod.save.attempt
