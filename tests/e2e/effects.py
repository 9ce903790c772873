"""The kinds of effects, and the one of each at which `make test` kills an operator of the cluster (docs/decisions/0032)."""

from __future__ import annotations

from typing import Final, NamedTuple

from trainingrun_operator.core import effects

BUDGET: Final = "delete poddisruptionbudgets"
CLOUD: Final = "cloud TerminateInstanceInAutoScalingGroup"


class Kind(NamedTuple):
    """What one kind of request changes."""

    name: str
    effect: str
    """By the name that `in_pod/stopping_proxy.py` gives it."""
    classes: tuple[type, ...]
    """Whatever a decision can ask for of this kind."""


KINDS: Final = (
    Kind("a Job", "post jobs", (
        effects.CreateWorkload, effects.AdoptWorkload, effects.EndReplacements, effects.SuspendWorkload, effects.ResumeWorkload, effects.DeleteWorkload,
        effects.CreateRescue, effects.StartRescue, effects.DeleteRescue,
    )),
    Kind("an Event", "event Started", (effects.RecordEvent,)),
    Kind("the run's status, by its version", "begin", (effects.Begin, effects.RecordNodes)),
    Kind("an annotation of a pod", "annotate save", (effects.Annotate,)),
    Kind("the run's status, by the phase of its stop", "advance Deleting", (effects.Advance, effects.Resume)),
    Kind("a disruption budget", BUDGET, (effects.CreateDisruptionBudget, effects.DeleteDisruptionBudget)),
    Kind("a pod", "delete pod", (effects.DeletePod,)),
    Kind("a Node", "taint node", (effects.TaintNode, effects.UntaintNode, effects.DeleteNode)),
    Kind("the run itself", "remove finalizer", (effects.AddFinalizer, effects.RemoveFinalizer, effects.DeleteRun)),
    Kind("a machine", CLOUD, (effects.ReleaseMachine,)),
)  # fmt: skip
"""Every second one is killed at in one run: so no two kills of a run are neighbours, and one half of the runs needs no machine."""
