"""Why a run has, or has not, stopped: every situation that a status can tell of. UPDATE_GOLDENS=1 rewrites the texts."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from builders import (
    EARLIER,
    POD_UID,
    checkpoint_spec,
    exited_pod,
    losses,
    make_agent,
    make_node,
    make_observed,
    make_run,
    make_saved,
    make_status,
    make_stop,
    make_unreachable,
    make_verified,
    track_of,
)
from goldens import assert_golden

from trainingrun_operator.api.endings import ENDINGS
from trainingrun_operator.api.exchange import MarkerSeen
from trainingrun_operator.api.limits import Cost
from trainingrun_operator.api.restored import PassedOver, Restored
from trainingrun_operator.api.saves import StopWait
from trainingrun_operator.api.status import (
    CheckpointStatus,
    Condition,
    Effective,
    Evidence,
    FindingStatus,
    Lag,
    NodePhase,
    Phase,
    PhaseChange,
    PodStatus,
    Progress,
    Rescue,
    Shadow,
    StopMode,
    Trained,
    WorkloadRef,
)
from trainingrun_operator.cli.explain import explain
from trainingrun_operator.cli.screen import explained
from trainingrun_operator.core.facts.reading import Failure
from trainingrun_operator.core.status import render

if TYPE_CHECKING:
    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.core.observed import Observed

NOW = datetime(2026, 1, 2, 3, 10, 0, tzinfo=UTC)
SOON = "2026-01-02T03:09:15Z"
"""45 s ago."""
SOURCE = Path(__file__).parents[3] / "operator" / "trainingrun_operator"


def condition(kind: str, status: str, reason: str, message: str = "") -> Condition:
    return Condition(type=kind, status=status, reason=reason, message=message, last_transition_time=EARLIER)  # type: ignore[arg-type]


FINE = {
    "Accepted": condition("Accepted", "True", "Accepted", "The spec can be acted on."),
    "MetricsAvailable": condition("MetricsAvailable", "True", "Fresh", "A finite, fresh loss is read."),
    "CheckpointSaved": condition(
        "CheckpointSaved", "True", "Verified", "Checkpoint checkpoint-1100 verified at s3://bucket/x."
    ),
    "NodesReleased": condition("NodesReleased", "False", "InUse", "gpu-1: InUse"),
    "Finished": condition("Finished", "False", "NotStopping", "The run has not ended."),
    "Succeeded": condition("Succeeded", "Unknown", "NotFinished"),
}
SAVED = CheckpointStatus(uri="s3://bucket/x", commit="k", dir="checkpoint-1100", step=1100, verified_at=SOON)
PROGRESS = Progress(
    loss="0.62",
    best_loss="0.59",
    step=1200,
    epoch="0.4",
    total_epochs=3,
    epoch_base=0,
    percent=13,
    stall_polls=0,
    last_observation_time=SOON,
    step_interval="12",
)
TRAINS = PodStatus(name="bert-x7k2p", uid="u", node="gpu-1", phase="Running")


def run_with(
    *conditions: Condition, spec: dict[str, Any] | None = None, meta: dict[str, Any] | None = None, **status: Any
) -> Run:
    """A run that trains; conditions and fields of the status override what is fine."""
    said = {one.type: one for one in conditions}
    fields = {
        "phase": "Running",
        "conditions": tuple((FINE | said).values()),
        "effective": Effective(auto_stop_loss=0.5),
        "progress": PROGRESS,
        "checkpoint": SAVED,
        "pods": (TRAINS,),
        "observed_generation": 1,
    }
    return make_run(spec=spec, status=make_status(**(fields | status)), **(meta or {}))


def stopping(phase: Phase, *conditions: Condition, stop: dict[str, Any] | None = None, **fields: Any) -> Run:
    display = "Held" if phase is Phase.HELD else "Stopping"
    made = make_stop(phase, **{"phase_at": SOON, **(stop or {})})
    return run_with(*conditions, **{"phase": display, "termination": made, **fields})


DECIDED = {
    "autoStopLoss": ("autoStopLoss", "LowLoss"),
    "exit code": ("exitCode", "ExitCodeZero"),
    "marker": ("marker", "Written"),
    "stallPolls": ("finalEpochStall", "Stalled"),
    "stop file": ("stopFile", "Written"),
    "kubelet": ("cannotStart", "WaitedTooLong"),
    "scheduler": ("cannotStart", "WaitedTooLong"),
    "Job": ("jobGone", "JobDeleted"),
    "bucket": ("endedBefore", "EndedBefore"),
    "kubectl delete": ("deleted", "Deleted"),
    "stopRules/plateau": ("", ""),
}
"""Rule and reason, by the actor; of any other it is `spec.stop`. The last is of a version that did not write them."""


def ended(status: str, *conditions: Condition, actor: str, message: str = "It is over.", **fields: Any) -> Run:
    rule, reason = DECIDED.get(actor, ("stop", "Asked"))
    decided = {"status": status, "actor": actor, "rule": rule, "reason": reason, "message": message}
    stop = {**decided, **fields.pop("stop", {})}
    over = {"completion_time": SOON, "nodes": (make_node(NodePhase.RELEASED),), **fields}
    return run_with(*conditions, **{"termination": make_stop(Phase.DONE, **stop), **over})


RESTS = {
    "status": "suspended",
    "rule": "suspend",
    "reason": "Asked",
    "actor": "field manager 'kubectl-patch'",
    "message": "Suspended: spec.suspend is true.",
}


def resting(stop: dict[str, Any] | None = None, **fields: Any) -> Run:
    said = {"phase": "Suspended", "nodes": (make_node(NodePhase.RELEASED),), "pods": (), **fields}
    return run_with(**{**said, "termination": make_stop(Phase.DONE, phase_at=SOON, **{**RESTS, **(stop or {})})})


NOT_SAVED = condition("CheckpointSaved", "Unknown", "NothingYet", "No checkpoint has been verified yet.")
WAITING = condition("MetricsAvailable", "Unknown", "NotRunning", "No training is running.")

BEFORE = {
    "to start from another run": run_with(
        WAITING,
        spec={"checkpoint": checkpoint_spec(restoreFrom={"run": "base", "namespace": "vision"})},
        phase="Pending",
        start_time=None,
        pods=(),
        progress=None,
        checkpoint=None,
    ),
    "nobody has looked at it": make_run(status=make_status(start_time=None)),
    "its spec is being checked": run_with(condition("Accepted", "Unknown", "Checking"), phase="Pending"),
    "refused for its template": run_with(
        condition("Accepted", "False", "InvalidTemplate", "spec.template.spec.containers is empty."), phase="Pending"
    ),
    "refused for something that may come": run_with(
        condition("Accepted", "False", "SecretNotFound", "There is no such Secret."), phase="Pending"
    ),
    "pending without a word": run_with(
        WAITING, phase="Pending", start_time=None, pods=(), progress=None, checkpoint=None
    ),
    "pending for an image": run_with(
        WAITING,
        pods=(PodStatus(name="bert-x7k2p", uid="u", waiting="ImagePullBackOff", waiting_message="no such image."),),
        phase="Pending",
        start_time=None,
        progress=None,
        checkpoint=None,
    ),
    "pending after an eviction": run_with(
        WAITING,
        pods=(
            PodStatus(name="bert-x7k2p", uid="u", exit_code=0, told_to_leave="Evicted: The node was low on memory."),
        ),
        phase="Pending",
    ),
    "pending after its init container failed": run_with(
        WAITING,
        pods=(
            PodStatus(name="bert-x7k2p", uid="u", waiting="Unschedulable", waiting_message="0/3 nodes are available."),
        ),
        findings=(
            FindingStatus(
                rule="neverStarted",
                fires=False,
                reason="RestartsLeft",
                message="The training could not start: init container fetch ended with exit code 42 in pod bert-x.",
            ),
        ),
        phase="Pending",
        start_time=None,
        progress=None,
        checkpoint=None,
    ),
    "pending after its machine went": run_with(
        condition("MetricsAvailable", "Unknown", "NodeLost", "The machine of node gpu-1 and its pod x are gone."),
        phase="Pending",
    ),
    "deleted, and nobody acts": run_with(meta={"deleting": True}),
    "told to stop, and nobody acts": run_with(spec={"stop": True, "stoppedBy": "ada"}),
    "told to stop by a program, and nobody acts": run_with(
        spec={"stop": True}, meta={"stop_manager": "field manager 'kubectl-patch'"}
    ),
}
LOW = losses(2.0, 0.4, 0.3)
WATCHED = {"autoStopLoss": None}
OWN_RULES = {
    "autoStopLoss": -1,
    "stopRules": [{"name": "flat", "plateau": {}}, {"name": "hint", "plateau": {"patience": 5}, "action": "Shadow"}],
}


def written(seen: Observed, **status: Any) -> Run:
    """The run with the status that the operator writes of it; keywords are what the status says otherwise."""
    return replace(seen.run, status=render(seen).model_copy(update=status))


COSTLY = Trained(
    seconds=3600,
    last_seconds=3600,
    cost=Cost(
        shown="at least 9.83 USD", amount=9.83, currency="USD", per_hour=9.83, priced_gpus=1, priced_gpu_hours=0.9
    ),
)
PROJECTED = COSTLY.model_copy(
    update={"cost": Cost(shown="9.83 USD", projected="25.10 USD", amount=9.83, currency="USD", per_hour=9.83)}
)
TRAINS_ON = {
    "and is proven": written(make_observed(verified=make_verified())),
    "and nothing of it is saved": written(
        make_observed(run=make_run(spec={"checkpoint": {"mode": "Disabled"}}), agent=None)
    ),
    "and no loss is read": written(
        make_observed(track=track_of((0, Failure("Timeout", "10.0.0.7:8000 did not answer within 3 s."))))
    ),
    "and its loss is only watched": written(make_observed(run=make_run(spec=WATCHED))),
    "and a rule that is only watched would have ended it": written(
        make_observed(run=make_run(spec=WATCHED), track=LOW)
    ),
    "and one of no known step would have": written(
        make_observed(), shadow=(Shadow(rule="plateau", would_stop_at=SOON, value="0.48"),)
    ),
    "and its marker settles": written(
        make_observed(agent=make_agent(markers=(MarkerSeen(name="done", age_seconds=5),)), candidate_seconds=120)
    ),
    "and no rule limits what it costs": written(make_observed(), trained=COSTLY),
    "and what it will have cost is known": written(make_observed(), trained=PROJECTED),
    "and a rule limits what it costs": written(
        make_observed(
            run=make_run(
                spec={"budget": {"maxCost": 25}},
                status=make_status(trained=COSTLY.model_copy(update={"pod_uid": POD_UID, "started_at": EARLIER})),
            )
        )
    ),
    "after a crash": written(make_observed(pods=(exited_pod(3),))),
    "and its checkpoints cannot be saved": written(make_observed(answer=make_unreachable())),
    "and bytes are not saved yet": run_with(checkpoint=SAVED.model_copy(update={"lag": Lag(bytes=120_000)})),
    "and what it wrote has no name": run_with(checkpoint=SAVED.model_copy(update={"dir": ".", "step": None})),
    "and its status speaks of an older spec": replace(written(make_observed()), generation=3),
    "and two of its own rules look at one value": written(make_observed(run=make_run(spec=OWN_RULES), track=LOW)),
    "and an operator without findings looks after it": run_with(),
    "and was restored after one that is damaged": run_with(
        restored=Restored(
            pod="bert-x7k2p",
            commit="k/i1-g0002.json",
            dir="checkpoint-900",
            step=900,
            passed_over=(PassedOver(commit="i1-g0003", why="a.bin has other bytes"),),
        )
    ),
    "and lost something when it was suspended": run_with(
        history=(
            PhaseChange(phase="Suspended", at=EARLIER, data_loss="Steps 10 to 20 are lost."),
            PhaseChange(phase="Suspended", at=SOON, data_loss="Steps 1100 to 1150 are lost."),
        )
    ),
}
WAIT = StopWait(
    predicted_seconds=40,
    rolled_back_seconds=600,
    rolled_back_steps=120,
    newest_at=EARLIER,
    until=SOON,
    message="The training has not exited within its grace. Its next checkpoint is expected in 40 s, and 600 s of training (120 steps) since the last one"
    " would be lost: the stop waits for it, at most 80 s (stopMode Auto).",
)
TAKEN = StopWait(
    rolled_back_seconds=600,
    newest_at=EARLIER,
    message="The training has not exited within its grace. Its last checkpoint is taken (stopMode Auto): 600 s of training since the last one would be"
    " lost, but it is not known when it saves next: it is overdue: the only interval that was seen is shorter.",
)
STOPPING = {
    "Requested": stopping(Phase.REQUESTED),
    "Draining": stopping(
        Phase.DRAINING,
        stop={"status": "user_stop", "rule": "stop", "reason": "Asked", "actor": "ada", "message": "Stopped by hand."},
    ),
    "Draining for its next checkpoint": stopping(Phase.DRAINING, spec={"stopMode": "NextCheckpoint"}),
    "Draining for its last checkpoint": stopping(Phase.DRAINING, spec={"stopMode": "LastCheckpoint"}),
    "Draining after the grace, for its next checkpoint": stopping(Phase.DRAINING, stop={"wait": WAIT}),
    "Saving, its last checkpoint was taken": stopping(Phase.SAVING, stop={"wait": TAKEN}),
    "Draining with a signal": stopping(
        Phase.DRAINING,
        spec={"shutdown": {"signal": "SIGTERM"}},
        signal_trouble="SIGTERM was not sent to the training: it writes.",
    ),
    "Saving": stopping(Phase.SAVING),
    "Saving again, with trouble": stopping(
        Phase.SAVING, condition("CheckpointSaved", "False", "Mismatch", "a.bin has other bytes."), stop={"attempt": 3}
    ),
    "Verifying": stopping(Phase.VERIFYING),
    "Held": stopping(Phase.HELD, stop={"hold_reason": "The bucket cannot be read: AccessDenied."}),
    "Held without a reason": stopping(Phase.HELD),
    "Deleting": stopping(Phase.DELETING),
    "Deleting with nothing saved": stopping(
        Phase.DELETING, stop={"saved": make_saved(files=0, note="Nothing lay there.")}
    ),
    "Deleting, with a rescue after the proof": stopping(
        Phase.DELETING, stop={"saved": make_saved(final=False), "rescue": Rescue(claim="checkpoints", attempt=2)}
    ),
    "Deleting after a loss": stopping(
        Phase.DELETING, stop={"data_loss": "The pod ended before its last files were saved."}
    ),
    "Releasing, occupied": stopping(
        Phase.RELEASING, nodes=(make_node(NodePhase.WAIT_IDLE, message="Occupied by team/notebook."),)
    ),
    "Releasing, nothing said yet": stopping(Phase.RELEASING, nodes=(make_node(NodePhase.IN_USE),)),
    "Releasing, all settled": stopping(
        Phase.RELEASING, nodes=(make_node(NodePhase.RETAINED, message="Kept: policy is Never."),)
    ),
}
SUSPENDED = {
    "from its beginning": run_with(
        WAITING, spec={"suspend": True}, phase="Suspended", pods=(), progress=None, checkpoint=None
    ),
    "told to, and nobody acts": run_with(
        spec={"suspend": True}, workload=WorkloadRef(api_version="batch/v1", kind="Job", name="bert", uid="u")
    ),
    "asked to leave": stopping(
        Phase.DRAINING, stop=RESTS, spec={"suspend": True}, meta={"suspend_manager": "field manager 'kubectl-patch'"}
    ),
    "on its way": stopping(Phase.SAVING, stop=RESTS, spec={"suspend": True}),
    "held on its way": stopping(
        Phase.HELD, stop={**RESTS, "hold_reason": "The bucket is away."}, spec={"suspend": True}
    ),
    "on its way, and resumed meanwhile": stopping(Phase.SAVING, stop=RESTS, spec={"suspend": False}),
    "on its way, and stopped meanwhile": stopping(Phase.SAVING, stop=RESTS, spec={"suspend": True, "stop": True}),
    "at rest": resting(spec={"suspend": True}),
    "at rest with nothing saved": resting(spec={"suspend": True}, stop={"saved": make_saved(files=0)}),
    "at rest, with a known cost": resting(spec={"suspend": True}, trained=COSTLY),
    "at rest, and resumed": resting(spec={"suspend": False}),
    "at rest, and stopped": resting(spec={"suspend": True, "stop": True}),
    "at rest, and deleted": resting(spec={"suspend": True}, meta={"deleting": True}),
}
ENDED = {
    "auto_threshold": ended(
        "auto_threshold",
        condition("Succeeded", "True", "AutoThreshold"),
        actor="target",
        message="accuracy 0.93 at step 300, above 0.9 in 2 of 2 observations in a row.",
        stop={
            "rule": "target",
            "reason": "Threshold",
            "evidence": (Evidence(what="accuracy", value="0.93", step=300),),
        },
    ),
    "auto_plateau": ended(
        "auto_plateau",
        condition("Succeeded", "True", "AutoPlateau"),
        actor="plateau",
        stop={"rule": "plateau", "reason": "Plateau"},
    ),
    "auto_rising, and other rules only reported": ended(
        "auto_rising",
        condition("Succeeded", "True", "AutoRising"),
        actor="overfit",
        stop={"rule": "overfit", "reason": "Rising"},
        shadow=(
            Shadow(rule="autoStopLoss", would_stop_at=EARLIER, step=900, value="0.48"),
            Shadow(rule="flat", would_stop_at=EARLIER, step=950, value="0.7", trained_seconds=100, saved_gpu_hours=1.5),
            Shadow(
                rule="slow",
                would_stop_at=EARLIER,
                step=960,
                value="0.6",
                trained_seconds=100,
                saved_gpu_hours=1.5,
                cost=3,
                saved_cost="6.00 USD",
            ),
        ),
    ),
    "auto_non_finite": ended(
        "auto_non_finite", actor="nan", message="loss nan at step 300.", stop={"rule": "nan", "reason": "NonFinite"}
    ),
    "max_duration": ended("max_duration", actor="maxDuration", stop={"rule": "maxDuration", "reason": "LimitReached"}),
    "budget_exhausted": ended("budget_exhausted", actor="budget", stop={"rule": "budget", "reason": "BudgetExhausted"}),
    "budget_exhausted, with a known cost": ended(
        "budget_exhausted", actor="budget", stop={"rule": "budget", "reason": "BudgetExhausted"}, trained=COSTLY
    ),
    "idle": ended(
        "idle", actor="idle", message="All GPUs have been idle for 1800 s.", stop={"rule": "idle", "reason": "IdleGPUs"}
    ),
    "hung": ended("hung", actor="hang", message="No step for 600 s.", stop={"rule": "hang", "reason": "NoProgress"}),
    "auto_low_loss": ended(
        "auto_low_loss",
        condition("Succeeded", "True", "AutoLowLoss"),
        actor="autoStopLoss",
        message="Loss 0.2931 < 0.5 at step 1200.",
        stop={
            "evidence": (
                Evidence(what="loss", value="0.31", step=1100),
                Evidence(what="loss", value="0.2931", step=1200),
            )
        },
    ),
    "auto_low_loss without its checkpoint": ended(
        "auto_low_loss",
        condition("Succeeded", "False", "DataLoss", "The pod went before anything was saved."),
        condition("CheckpointSaved", "False", "DataLoss", "The pod went before anything was saved."),
        actor="autoStopLoss",
        stop={"data_loss": "The pod went before anything was saved."},
    ),
    "auto_complete by exit code": ended(
        "auto_complete",
        actor="exit code",
        message="Training finished with exit code 0.",
        stop={"evidence": (Evidence(what="exitCode", value="0"),)},
    ),
    "auto_complete by marker": ended(
        "auto_complete", actor="marker", message="Training wrote the completion marker done."
    ),
    "auto_complete by a stall": ended(
        "auto_complete",
        actor="stallPolls",
        message="Final epoch reached and no step since 1200 for 4 polls.",
        stop={"inferred": True},
    ),
    "auto_complete with nothing saved": ended(
        "auto_complete",
        condition("Succeeded", "False", "NothingFound", "No file was under the checkpoint path."),
        condition("CheckpointSaved", "False", "NothingFound", "No file was under the checkpoint path."),
        actor="exit code",
    ),
    "auto_complete with checkpoints disabled": ended(
        "auto_complete",
        condition("CheckpointSaved", "False", "Disabled", "spec.checkpoint.mode is Disabled: nothing is saved."),
        actor="exit code",
        spec={"checkpoint": {"mode": "Disabled"}},
    ),
    "user_stop by a person": ended(
        "user_stop",
        condition("Succeeded", "False", "UserStop", "Stopped."),
        actor="ada@example.com",
        message="Stopped by hand: spec.stop is true (overfitting).",
    ),
    "user_stop by a program": ended(
        "user_stop",
        actor="field manager 'kubectl-patch'",
        message="Stopped by hand: spec.stop is true.",
        meta={"stop_manager": "field manager 'kubectl-patch'"},
    ),
    "user_stop by the stop file": ended(
        "user_stop", actor="stop file", message="Stopped by hand: found the stop file STOP_TRAINING."
    ),
    "user_stop by nobody known": ended("user_stop", actor=""),
    "failed by crashes": ended(
        "failed",
        actor="exit code",
        message="Training crashed 4 times (backoffLimit 3), last with exit code 1.",
        stop={"rule": "crashes", "reason": "BackoffLimitExceeded"},
    ),
    "failed without an image": ended(
        "failed", actor="kubelet", message="The pod cannot start: ImagePullBackOff: no such image.", nodes=()
    ),
    "failed without a node": ended(
        "failed", actor="scheduler", message="The pod cannot start: Unschedulable: no node.", nodes=()
    ),
    "failed with its Job": ended("failed", actor="Job", message="Its Job bert was deleted, and not by the operator."),
    "failed as its bucket says": ended("failed", actor="bucket", message="This run had ended before."),
    "deleted": ended("deleted", actor="kubectl delete", message="The TrainingRun was deleted."),
    "with nodes of both kinds": ended(
        "auto_complete",
        actor="exit code",
        nodes=(
            make_node(NodePhase.RELEASED),
            make_node(NodePhase.RELEASED, name="gpu-2"),
            make_node(NodePhase.RETAINED, name="gpu-3", message="Kept: at its minimum."),
        ),
    ),
    "after it was watched as well": ended(
        "user_stop", actor="ada", shadow=(Shadow(rule="autoStopLoss", would_stop_at=EARLIER, step=900, value="0.48"),)
    ),
    "by something that this version does not know": ended(
        "auto_plateau", actor="stopRules/plateau", message="No better eval_loss for 10 observations."
    ),
}
CASES = {
    f"{group}: {name}": run
    for group, cases in (
        ("before", BEFORE),
        ("it trains on", TRAINS_ON),
        ("stopping", STOPPING),
        ("suspended", SUSPENDED),
        ("ended", ENDED),
    )
    for name, run in cases.items()
}


def text_of(run: Run) -> str:
    return "\n".join(line.plain for line in explained(explain(run, NOW)))


def test_every_situation_reads_as_it_should():
    whole = "".join(f"## {name}\n\n{text_of(run)}\n\n" for name, run in CASES.items())
    assert_golden("cli/explain.txt", whole)


@pytest.mark.parametrize("case", CASES)
def test_an_explanation_names_the_run_first_and_ends_its_sentences(case):
    told = explain(CASES[case], NOW)
    assert told.answer.startswith("bert ")
    for sentence in (told.answer, *filter(None, told.because)):
        assert sentence.endswith("."), sentence
        assert "None" not in sentence
        assert "  " not in sentence


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("it trains on: and is proven", "bert has not ended: no rule ends it yet."),
        ("it trains on: and is proven", "Loss 1.2 at step 1300 is not below 0.5 (autoStopLoss)."),
        ("it trains on: and no loss is read", "No loss is read (Timeout)"),
        ("it trains on: and its marker settles", "so far 120 s"),
        (
            "it trains on: and a rule that is only watched would have ended it",
            "would have ended the run at step 1300 (5m55s ago), at 0.3.",
        ),
        ("it trains on: and its loss is only watched", '{"spec":{"autoStopLoss":0.5}}'),
        ("it trains on: after a crash", "more than 3 crashes (spec.backoffLimit) end it"),
        ("it trains on: after a crash", "logs bert --namespace ml --tail 20"),
        ("it trains on: and its checkpoints cannot be saved", "a stop is held"),
        ("stopping: Held", "kubectl trainingrun proceed bert"),
        ("stopping: Releasing, occupied", "kubectl trainingrun abandon bert"),
        ("stopping: Draining", "stop bert --namespace ml --mode LastCheckpoint"),
        ("stopping: Draining with a signal", "SIGTERM was not sent to the training: it writes."),
        ("ended: user_stop by a person", "Requested by ada@example.com."),
        (
            "ended: auto_rising, and other rules only reported",
            "flat would have ended the run at step 950 with 0.7. That would have saved 1.5 GPU hours",
        ),
        ("ended: auto_low_loss without its checkpoint", "does not count as succeeded (DataLoss)"),
    ],
)
def test_what_matters_most_is_said(case, sentence):
    assert sentence in text_of(CASES[case])


def test_a_run_without_its_namespace_in_the_command_would_stop_another_one():
    assert "--namespace ml" in text_of(CASES["it trains on: and is proven"])


# -- nothing is left out ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.DONE])
def test_every_phase_of_a_stop_is_told(phase):
    assert any(name.startswith(phase.value) for name in STOPPING)


@pytest.mark.parametrize("status", ENDINGS)
def test_every_end_is_told(status):
    assert any((stop := run.status.termination) is not None and stop.status == status for run in ENDED.values())


@pytest.mark.parametrize("mode", StopMode)
def test_every_mode_of_a_stop_is_told(mode):
    assert any(run.spec.stop_mode is mode for name, run in STOPPING.items() if name.startswith("Draining"))


def reasons(pattern: str, *modules: str) -> set[str]:
    """What the operator's own source gives as reasons."""
    files = [
        path
        for module in modules
        for path in ([SOURCE / module] if module.endswith(".py") else (SOURCE / module).rglob("*.py"))
    ]
    return {reason for path in files for reason in re.findall(pattern, path.read_text(encoding="utf-8"))}


NO_METRICS = reasons(r'(?:Failure|_PageError)\(\s*"(\w+)"', "core", "edge") | reasons(
    r'(?m)^[A-Z_]+: Final = "([A-Z]\w+)"', "core/track.py"
)
REFUSALS = reasons(r'Problem\(\s*"(\w+)"', "core", "edge")
STORE = reasons(r'^    "(\w+)": "', "checkpoints/s3.py") | {"Mismatch", "Held"}


def test_the_reasons_were_found():
    assert {"NoSuchMetric", "ConnectionRefused", "TooLarge", "NeverAdvanced"} <= NO_METRICS
    assert {"InvalidTemplate", "NoCredentials", "UnknownNodePool", "EndedBefore"} <= REFUSALS


@pytest.mark.parametrize("reason", sorted(NO_METRICS))
def test_why_no_loss_is_read_is_told(reason):
    told = explain(written(make_observed(track=track_of((0, Failure(reason, "So it is."))))), NOW)
    assert f"No loss is read ({reason}): So it is." in told.because


@pytest.mark.parametrize("reason", sorted(REFUSALS))
def test_why_a_run_is_refused_is_the_answer(reason):
    told = explain(run_with(condition("Accepted", "False", reason, "So it is."), phase="Pending"), NOW)
    assert told.answer == f"bert has not started ({reason}): So it is."
    changed_by_a_new_run = "apply it again" in told.todo[0]
    assert changed_by_a_new_run == (reason in ("InvalidTemplate", "InvalidDestination"))


def test_a_refused_report_is_told_as_not_known_while_it_trains():
    trouble = condition(
        "CheckpointSaved", "Unknown", "ReportRefused", "The report of the agent in pod bert-0 is refused."
    )
    said = text_of(run_with(trouble))
    assert "Whether the checkpoints are saved is not known (ReportRefused): The report of the agent in pod" in said
    assert "is proven in the bucket" not in said


@pytest.mark.parametrize("reason", sorted(STORE))
@pytest.mark.parametrize("phase", [None, Phase.SAVING, Phase.VERIFYING])
def test_why_nothing_is_saved_is_told_while_it_trains_and_while_it_stops(reason, phase):
    trouble = condition("CheckpointSaved", "False", reason, "So it is.")
    told = explain(run_with(trouble) if phase is None else stopping(phase, trouble), NOW)
    assert any(f"({reason}): So it is." in sentence for sentence in told.because)


@pytest.mark.parametrize("phase", NodePhase)
def test_every_phase_of_a_node_is_told(phase):
    told = explain(stopping(Phase.RELEASING, nodes=(make_node(phase, message="So it is."),)), NOW)
    assert any("gpu-1" in sentence for sentence in told.because)


def test_what_a_training_wrote_is_not_obeyed_by_the_terminal():
    run = ended("failed", actor="exit code", stop={"last_log_lines": "Boom \x1b]0;owned\x07\x1b[31mred."})
    assert "\x1b" not in text_of(run)
    assert "\x07" not in text_of(run)
    assert "Last lines of its log: Boom" in text_of(run)


def test_a_run_of_another_generation_is_explained_by_what_was_seen():
    run = replace(run_with(), generation=2)
    assert any(
        "about generation 1 of the spec" in one and "newest (generation 2)" in one for one in explain(run, NOW).because
    )


@pytest.mark.parametrize(
    ("source", "effective", "told"),
    [
        (
            "Auto",
            Effective(auto_stop_loss=0.5, metrics_source="Logs", metrics_source_note="Prometheus was not taken: Timeout: it is slow."),
            "Auto reads loss and step from Logs: Prometheus was not taken: Timeout: it is slow.",
        ),
        ("Auto", Effective(auto_stop_loss=0.5, metrics_source="Auto"), "no source is taken yet"),
        ("Logs", Effective(auto_stop_loss=0.5, metrics_source="Logs"), ""),
        (
            None,
            Effective(auto_stop_loss=0.5, metrics_source="Logs", metrics_source_note="Prometheus: ConnectionRefused."),
            "Auto reads loss and step from Logs: Prometheus: ConnectionRefused.",
        ),
        (None, Effective(auto_stop_loss=0.5, metrics_source="Auto"), ""),
        (None, Effective(auto_stop_loss=0.5, metrics_source="Prometheus"), ""),
    ],
)  # fmt: skip
def test_which_source_auto_has_taken_is_told_while_it_trains(source, effective, told):
    metrics = {"source": source} if source else {}
    said = text_of(run_with(spec={"metrics": metrics}, effective=effective))
    assert told in said
    assert ("Auto" in said) == bool(told)


@pytest.mark.parametrize(
    ("metrics", "effective", "told"),
    [
        ({}, Effective(metrics_source="Auto"), "spec.metrics.source is not set, and no source is taken yet."),
        ({}, Effective(metrics_source="Prometheus"), "from Prometheus alone, because the run keeps the source that was recorded first."),
        ({"port": 9090}, Effective(metrics_source="Prometheus"), "from Prometheus alone, because the spec says where on its page they are."),
        ({"source": "Prometheus"}, Effective(metrics_source="Prometheus"), ""),
    ],
)  # fmt: skip
def test_from_where_a_run_without_a_loss_is_read_is_told_if_its_spec_does_not_say_it(metrics, effective, told):
    refused = condition("MetricsAvailable", "False", "ConnectionRefused", "Nothing listens.")
    said = text_of(run_with(refused, spec={"metrics": metrics}, effective=effective))
    assert told in said
    assert ("spec.metrics.source" in said) == bool(told)
