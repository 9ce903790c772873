"""What every rule says of a run, also why it does not fire yet. UPDATE_GOLDENS=1 rewrites the texts."""

from __future__ import annotations

from dataclasses import replace
from math import nan

import pytest
from builders import (
    NOW,
    POD_UID,
    WALL,
    exited_pod,
    final_epoch,
    finished_pod,
    losses,
    make_agent,
    make_found,
    make_node_facts,
    make_observed,
    make_pod,
    make_pool,
    make_reading,
    make_run,
    make_status,
    make_stop,
    make_unreachable,
    make_verified,
    make_workload,
    pending_pod,
    track_of,
)
from goldens import assert_golden
from stop_rules import TIMEOUT, operator, reading, rows

from trainingrun_operator.api.endings import AUTO_COMPLETE, FAILED
from trainingrun_operator.api.exchange import MarkerSeen
from trainingrun_operator.api.status import CrashRow, Evidence, Phase, Progress, Shadow
from trainingrun_operator.checkpoints.documents import Checkpoint
from trainingrun_operator.core.completion_line import CompletionLine
from trainingrun_operator.core.defaults import Defaults
from trainingrun_operator.core.facts.reading import GRADIENT_NORM, LOSS, Failure, Reading
from trainingrun_operator.core.idle import Idle, digest
from trainingrun_operator.core.outputs import Found, Outputs
from trainingrun_operator.core.quiet import Quiet
from trainingrun_operator.core.rules import chain
from trainingrun_operator.core.rules.finding import Finding
from trainingrun_operator.core.status import render
from trainingrun_operator.core.track import Track, resumed

MARKED = make_agent(markers=(MarkerSeen(name="COMPLETE", age_seconds=5),))
SAVED = make_agent(newest=make_found(step=500, age_seconds=20), last_change_seconds=20)
LOW = losses(2.0, 0.4, 0.3)
NOT_READ = track_of((NOW, Failure("ConnectionRefused", "Nothing listens at http://10.0.0.7:8000/metrics.")))
RESTARTED = resumed(Progress(step=7, pod_uid=POD_UID), pod_uid=POD_UID, now=NOW)
FIRST_NAN = track_of(
    (NOW - 20, make_reading(loss=9, step=0)),
    (NOW - 10, make_reading(loss=nan, step=1)),
    (NOW, make_reading(loss=0.3, step=1)),
)


def quiet(**fields):
    """The final epoch has stood still for long enough, and everything is written."""
    return make_observed(**{"track": final_epoch(), "agent": SAVED, **fields})


def with_spec(spec, **fields):
    return make_observed(run=make_run(spec=spec), **fields)


def priced(budget, per_gpu: float | None = 4):
    """Its GPU costs 4 USD an hour."""
    pool = make_pool(price={"perGpuHour": per_gpu, "currency": "USD"} if per_gpu is not None else None)
    return with_spec({"budget": budget}, pools=(pool,), nodes=(make_node_facts(gpus=8),))


STOPS_IDLE = {"idleDetection": {"action": "Stop"}}
NO_GPU = {"template": {"spec": {"containers": [{"name": "train", "image": "acme/bert"}]}}}


def with_gpus(since, *, what="Busy", spec=None, power=61.5, defaults=None, **fields):
    """Its GPUs have been idle since then."""
    read = Idle(digest([make_pod()]), since, WALL, NOW, WALL, what, 0.0, power)
    exporter = Defaults(gpu_exporter="http://dcgm-exporters.gpu-operator.svc:9400/metrics")
    return with_spec(spec or {}, idle=read, defaults=exporter if defaults is None else defaults, **fields)


def polled(*given, agent=None):
    """What is seen after these stop rules and readings."""
    one = operator(*(rule for rule in given if isinstance(rule, dict)))
    one.agent = agent or one.agent
    *_, seen = [one.poll(read) for read in given if not isinstance(read, dict)]
    return seen


WANTED = {"completion": {"outputs": ["final/tokens-*", "final/model.bin"]}}


def bucket(shown):
    """The tokens are there, and the model is so."""
    return Outputs((POD_UID,), {"final/tokens-*": Found.WRITTEN, "final/model.bin": shown})


LINES = {"completion": {"logPatterns": ["^DONE$", "^Training (complete|finished)"]}}


def line(**fields):
    """It has printed the line five minutes ago, and stands still since then."""
    said = CompletionLine(POD_UID, make_pod().started_at, pattern="^DONE$", line="DONE", step=500, since=NOW - 300)
    return replace(said, **fields)


def printed(said, **fields):
    """Its last epoch is over, and its checkpoint is written."""
    return with_spec(LINES, **{"track": final_epoch(epoch=3), "agent": SAVED, "completion_line": said, **fields})


CASES = {
    "it trains": (make_observed(), {"stop": "NotAsked", "exitCode": "StillRuns", "autoStopLoss": "NotBelow", "marker": "NotWritten", "finalEpochStall": "NoEpoch"}),
    "it has no Job yet": (make_observed(workload=None, pods=(), agent=None, track=Track()), {"stop": "NotAsked", "autoStopLoss": "NotRunning"}),
    "its pod waits for an image": (
        make_observed(pods=(pending_pod(waiting_reason="ErrImagePull", waiting_message="not found"),), waiting_seconds=12),
        {"stop": "NotAsked", "cannotStart": "Waiting", "autoStopLoss": "NotRunning"},
    ),
    "its pod waits for a node": (
        make_observed(pods=(pending_pod(waiting_reason="Unschedulable", waiting_message="0/3 nodes are available"),)),
        {"cannotStart": "Waiting"},
    ),
    "it crashed": (make_observed(pods=(exited_pod(3),)), {"crashes": "RestartsLeft", "exitCode": None, "marker": None}),
    "it crashed twice, and trains again": (make_observed(workload=make_workload(failed=2)), {"crashes": "RestartsLeft", "exitCode": "StillRuns"}),
    "its pod is being deleted": (make_observed(pods=(make_pod(deleting=True),)), {"exitCode": "ToldToLeave"}),
    "its pod was evicted": (
        make_observed(pods=(finished_pod(0, phase="Failed", disruption="Evicted: The node was low on resource: memory."),)),
        {"exitCode": "ToldToLeave", "crashes": None, "neverStarted": None},
    ),
    "it is started again in its pod": (make_observed(pods=(exited_pod(1, starts_again=True),)), {"exitCode": "StartsAgain", "crashes": None}),
    "its init container failed": (
        make_observed(
            pods=(pending_pod(phase="Failed", failure_before_start="init container fetch ended with exit code 42 (Error: no such host)"), pending_pod()),
            workload=make_workload(failed=1),
        ),
        {"neverStarted": "RestartsLeft", "crashes": None},
    ),
    "it was killed for its memory": (make_observed(pods=(exited_pod(137, exit_reason="OOMKilled"),)), {"crashes": "RestartsLeft"}),
    "it crashed after its last epoch": (
        quiet(
            track=final_epoch(epoch=3),
            pods=(exited_pod(139),),
            verified=make_verified(checkpoint=Checkpoint(dir="checkpoint-500", step=500, complete=True, evidence="trainer_state.json")),
        ),
        {"crashes": "RestartsLeft"},
    ),
    "its loss was below once": (make_observed(track=losses(0.4, 1.5, 1.2)), {"autoStopLoss": "NotBelow"}),
    "its loss is the threshold": (make_observed(track=losses(2.0, 0.5)), {"autoStopLoss": "NotBelow"}),
    "its loss is below for the first time": (make_observed(track=losses(2.0, 0.4)), {"autoStopLoss": "TooFewObservations"}),
    "its loss is low, and no checkpoint is there": (make_observed(track=LOW, agent=make_agent(newest=None)), {"autoStopLoss": "NoCheckpoint"}),
    "its loss cannot be read": (make_observed(track=NOT_READ), {"autoStopLoss": "ConnectionRefused", "finalEpochStall": "ConnectionRefused"}),
    "its loss was not read yet": (make_observed(track=Track()), {"autoStopLoss": "NotReadYet", "finalEpochStall": "NeverAdvanced"}),
    "its loss is stale": (make_observed(now=NOW + 500), {"autoStopLoss": "Stale"}),
    "its pod is on the host's network": (make_observed(pods=(make_pod(host_network=True),), track=Track()), {"autoStopLoss": "HostNetwork"}),
    "its newest step has no loss": (make_observed(track=FIRST_NAN), {"autoStopLoss": "NoObservation"}),
    "an operator that was restarted has read no step with its loss": (
        make_observed(track=replace(RESTARTED, losses=replace(RESTARTED.losses, at=NOW))),
        {"autoStopLoss": "NoObservation"},
    ),
    "its gradient norm is not finite": (
        make_observed(track=track_of((NOW - 10, make_reading(loss=2, step=0)), (NOW, Reading(1, values={LOSS: 0.3, GRADIENT_NORM: nan})))),
        {"autoStopLoss": "GradientNotFinite"},
    ),
    "its threshold begins at a later step": (
        with_spec({"autoStopLoss": None, "autoStopLossSchedule": [{"step": 5000, "loss": 1}]}), {"autoStopLoss": "NotScheduledYet"},
    ),
    "a schedule of its threshold rises": (
        with_spec({"autoStopLoss": None, "autoStopLossSchedule": [{"step": 0, "loss": 1}, {"step": 9, "loss": 2}]}), {"autoStopLoss": "Off"},
    ),
    "a negative threshold may have been meant as one": (with_spec({"autoStopLoss": -15}), {"autoStopLoss": "Off"}),
    "no loss ends it": (with_spec({"autoStopLoss": -1}), {"autoStopLoss": "Off"}),
    "its loss is only watched": (with_spec({"autoStopLoss": None}), {"autoStopLoss": "NotBelow"}),
    "its loss is low, and only watched": (with_spec({"autoStopLoss": None}, track=LOW), {"autoStopLoss": "LowLoss"}),
    "it looks for no marker": (with_spec({"completion": {"markerFiles": []}}), {"marker": None}),
    "its agent does not answer": (make_observed(agent=None), {"marker": "NoReport", "finalEpochStall": "NoReport"}),
    "it moved a minute ago": (make_observed(quiet=Quiet(POD_UID, NOW - 60, WALL, NOW, "File", 1300)), {"hang": "Progresses"}),
    "it stands still for no longer than twice before": (
        make_observed(track=losses(2.0, 1.5, every=400), quiet=Quiet(POD_UID, NOW - 700, WALL, NOW, "Step", 1200)),
        {"hang": "WithinPause"},
    ),
    "it stands still, and only a person is told": (
        make_observed(quiet=Quiet(POD_UID, NOW - 700, WALL, NOW, "Step", 1300)), {"hang": "NoProgress"},
    ),
    "it stands still, and its log is read": (
        make_observed(track=replace(losses(2.0, 1.5), source="Logs"), quiet=Quiet(POD_UID, NOW - 60, WALL, NOW, "Step", 1200)), {"hang": "Progresses"},
    ),
    "it cannot be read whether it moves": (
        make_observed(quiet=Quiet(POD_UID, NOW, WALL, NOW, "ConnectionRefused", 1300)), {"hang": "ConnectionRefused"},
    ),
    "it has made no step yet": (make_observed(track=Track(), quiet=Quiet(POD_UID, NOW, WALL, NOW)), {"hang": "NeverAdvanced"}),
    "it stands still, and looks complete": (
        make_observed(quiet=Quiet(POD_UID, NOW - 700, WALL, NOW, "Step", 1300), candidate_seconds=20), {"hang": "Completes"},
    ),
    "its GPUs have been idle for a minute": (with_gpus(NOW - 60), {"idle": "IdleNow"}),
    "its GPUs are idle, and only a person is told": (with_gpus(NOW - 1800), {"idle": "IdleGPUs"}),
    "one of its GPUs is busy": (with_gpus(NOW, what="Busy"), {"idle": "Busy"}),
    "the DCGM exporter does not answer": (with_gpus(NOW, what="Timeout"), {"idle": "Timeout"}),
    "its GPUs are idle, and it looks complete": (with_gpus(NOW - 1800, candidate_seconds=20), {"idle": "Completes"}),
    "it asks for idle GPUs, and there is no exporter": (with_gpus(NOW, spec=STOPS_IDLE, defaults=Defaults()), {"idle": "NoExporter"}),
    "it asks for idle GPUs, and requests none": (with_gpus(NOW, spec=STOPS_IDLE | NO_GPU), {"idle": "NoGPUs"}),
    "it asks for idle GPUs, and is polled too seldom": (
        with_gpus(NOW, spec=STOPS_IDLE | {"pollIntervalSeconds": 600}), {"idle": "ReadTooSeldom"},
    ),
    "its GPU hours last": (with_spec({"budget": {"maxGpuHours": 10}}), {"budget": "WithinBudget"}),
    "its GPU hours are nearly used": (with_spec({"budget": {"maxGpuHours": 0.1, "warnAtPercent": 50}}), {"budget": "NearBudget"}),
    "its GPU hours are used, and only a person is told": (
        with_spec({"budget": {"maxGpuHours": 0.05, "onExhausted": "Notify"}}), {"budget": "BudgetExhausted"},
    ),
    "what it costs is within its budget": (priced({"maxCost": 1, "maxGpuHours": 10}), {"budget": "WithinBudget"}),
    "what it costs is near to its budget": (priced({"maxCost": 0.4, "warnAtPercent": 50}), {"budget": "NearBudget"}),
    "what it costs is not known": (priced({"maxCost": 25}, None), {"budget": "CostUnknown"}),
    "its marker settles": (make_observed(agent=MARKED, candidate_seconds=120), {"marker": "Settling", "finalEpochStall": None}),
    "its stall settles": (quiet(candidate_seconds=120), {"marker": "NotWritten", "finalEpochStall": "Settling"}),
    "it is not in its final epoch": (quiet(track=final_epoch(epoch=1)), {"finalEpochStall": "NotFinalEpoch"}),
    "no total of epochs is known": (quiet(track=final_epoch(total=None, epoch=2)), {"finalEpochStall": "NoEpoch"}),
    "how epochs are counted is unknown": (quiet(track=final_epoch(base=2)), {"finalEpochStall": "EpochBaseUnknown"}),
    "it stood still for two polls": (quiet(track=final_epoch(polls=2)), {"finalEpochStall": "StillAdvances"}),
    "its pace is unknown": (
        quiet(track=replace(final_epoch(steps=2, polls=9), longest_epoch_pause=None)),
        {"finalEpochStall": "PaceUnknown"},
    ),
    "it stands still for less than three steps": (quiet(track=final_epoch(every=15), now=NOW - 5), {"finalEpochStall": "WithinPace"}),
    "it stands still without a checkpoint": (quiet(agent=make_agent(newest=None)), {"finalEpochStall": "NoCheckpoint"}),
    "it stands still and writes a checkpoint": (
        quiet(agent=SAVED.model_copy(update={"unfinished": make_found(dir="checkpoint-600", complete=False)})), {"finalEpochStall": "StillWritten"},
    ),
    "it stands still and writes a file": (quiet(agent=SAVED.model_copy(update={"last_change_seconds": 3})), {"finalEpochStall": "StillWritten"}),
    "it stands still with an older checkpoint": (quiet(agent=make_agent(newest=make_found(step=400))), {"finalEpochStall": "OlderCheckpoint"}),
    "it stands still with an older checkpoint of no known step": (
        quiet(agent=make_agent(newest=make_found(step=None, age_seconds=600), last_change_seconds=600)), {"finalEpochStall": "OlderCheckpoint"},
    ),
    "nothing of it is saved": (with_spec({"checkpoint": {"mode": "Disabled"}}), {"finalEpochStall": "CheckpointsDisabled"}),
    "its final step is not reached": (
        with_spec({"completion": {"finalStep": 2000}}, track=final_epoch()), {"finalStep": "NotReached", "finalEpochStall": "BeforeFinalStep"},
    ),
    "its final step is reached without a checkpoint": (
        with_spec({"completion": {"finalStep": 500}}, track=final_epoch(), agent=make_agent(newest=None)), {"finalStep": "NoCheckpoint"},
    ),
    "its final step is reached, with an older checkpoint": (
        with_spec({"completion": {"finalStep": 500}}, track=final_epoch(), agent=make_agent(newest=make_found(step=400))), {"finalStep": "OlderCheckpoint"},
    ),
    "its final step settles": (
        with_spec({"completion": {"finalStep": 500}}, track=final_epoch(), agent=SAVED, candidate_seconds=120), {"finalStep": "Settling"},
    ),
    "nothing of it is saved, and its final step is named": (
        with_spec({"completion": {"finalStep": 500}, "checkpoint": {"mode": "Disabled"}}), {"finalStep": "CheckpointsDisabled"},
    ),
    "its total of epochs is not the one that is named": (
        with_spec({"completion": {"totalEpochs": 5}}, track=replace(final_epoch(), epochs=final_epoch().epochs.naming(5))),
        {"finalEpochStall": "TotalsDiffer"},
    ),
    "its total of epochs is that of a bar": (
        quiet(track=replace(final_epoch(), source="Logs", epochs=replace(final_epoch().epochs, of_bar=True))),
        {"finalEpochStall": "TotalOfBar"},
    ),
    "it has more epochs than are named": (
        quiet(track=replace(final_epoch(epoch=5, total=None), epochs=final_epoch(epoch=5, total=None).epochs.naming(2))),
        {"finalEpochStall": "BeyondTotal"},
    ),
    "its outputs were not looked for": (with_spec(WANTED), {"outputs": "NotListedYet"}),
    "its outputs are not written": (with_spec(WANTED, outputs=bucket(Found.MISSING)), {"outputs": "NotWritten"}),
    "its outputs are old": (with_spec(WANTED, outputs=bucket(Found.OLD)), {"outputs": "OldOutput"}),
    "its outputs are not among the first keys": (with_spec(WANTED, outputs=bucket(Found.TOO_MANY)), {"outputs": "TooManyKeys"}),
    "its outputs cannot be looked for": (with_spec(WANTED, outputs=bucket(make_unreachable())), {"outputs": "AccessDenied"}),
    "its outputs are written, and a file grows": (
        with_spec(WANTED, outputs=bucket(Found.WRITTEN), agent=make_agent(last_change_seconds=1)), {"outputs": "StillWritten"},
    ),
    "its log was not read yet": (printed(None), {"logPatterns": "NotReadYet"}),
    "it has printed no line that is named": (printed(line(pattern="")), {"logPatterns": "NotPrinted"}),
    "its log cannot be read": (
        printed(line(pattern="", trouble=Failure("LogUnreadable", "The log of pod bert cannot be read: 403 Forbidden."))), {"logPatterns": "LogUnreadable"},
    ),
    "it made steps after its line": (printed(line(pattern="", taken_back=True)), {"logPatterns": "GoesOn"}),
    "it has just printed its line": (printed(line(since=NOW)), {"logPatterns": "JustPrinted"}),
    "it has printed its line, and pauses": (printed(line(since=NOW - 15)), {"logPatterns": "WithinPause"}),
    "it has printed its line in its first epoch": (printed(line(), track=final_epoch(epoch=0.9, total=5)), {"logPatterns": "PauseUnknown"}),
    "it has printed its line before its first step": (printed(line(), track=track_of((NOW, make_reading(loss=2, step=500)))), {"logPatterns": "NeverAdvanced"}),
    "it has printed its line, and its agent is silent": (printed(line(), agent=None), {"logPatterns": "NoReport"}),
    "it has printed its line, and its last steps are in no checkpoint": (
        printed(line(), agent=make_agent(newest=make_found(step=400, age_seconds=90), last_change_seconds=90)), {"logPatterns": "OlderCheckpoint"},
    ),
    "it has printed its line without any step, and has the checkpoint of its restore": (
        printed(line(), track=Track(), agent=make_agent(newest=make_found(age_seconds=9000), last_change_seconds=9000)), {"logPatterns": "OlderCheckpoint"},
    ),
    "its line settles": (printed(line(), candidate_seconds=120), {"logPatterns": "Settling"}),
    "nothing of it is saved, and lines of its log are named": (with_spec({**LINES, "checkpoint": {"mode": "Disabled"}}), {"logPatterns": "CheckpointsDisabled"}),
    "its outputs settle": (with_spec(WANTED, outputs=bucket(Found.WRITTEN), candidate_seconds=120), {"outputs": "Settling"}),
}  # fmt: skip


PLATEAU = {"metric": "eval_loss", "plateau": {"patience": 3, "minDelta": 0.01}}
RULES_OF_ITS_OWN = {
    "its value never appears": (polled(PLATEAU, *rows(2.0)), {"plateau": "NotSeen"}),
    "its value has not changed": (polled(PLATEAU, reading(0, eval_loss=2), reading(100, eval_loss=2)), {"plateau": "LossNeverChanged"}),
    "its step has not advanced": (polled(PLATEAU, reading(0, eval_loss=2)), {"plateau": "NeverAdvanced"}),
    "its value is NaN": (polled(PLATEAU, *rows(2.0, nan, name="eval_loss")), {"plateau": "NotFinite"}),
    "it warms up": (polled(PLATEAU | {"warmupSteps": 500}, *rows(2.0, name="eval_loss")), {"plateau": "WarmUp"}),
    "its value is not below": (polled({"threshold": {"value": 0.5}}, *rows(2.0, 0.4)), {"threshold": "NotYet"}),
    "its value improves": (polled(PLATEAU, *rows(2.0, 1.9, 1.95, name="eval_loss")), {"plateau": "NotYet"}),
    "its value has not improved yet": (polled(PLATEAU, *rows(9.5, 9.6, 9.7, 9.8, name="eval_loss")), {"plateau": "NeverImproved"}),
    "its value rises": (polled({"metric": "eval_loss", "rising": {"observations": 3}}, *rows(2.0, 2.1, 2.2, name="eval_loss")), {"rising": "NotYet"}),
    "its value rises by less than noise makes": (polled({"metric": "eval_loss", "rising": {"observations": 3}}, *rows(5.0, 4.0, 4.5, 3.9, 4.4, 4.0, 4.1, 4.2, 4.3, name="eval_loss")), {"rising": "WithinNoise"}),
    "its value is finite": (polled({"nonFinite": {}}, *rows(2.0)), {"nonFinite": "NotYet"}),
    "its value was NaN once": (polled({"nonFinite": {}}, *rows(2.0, nan)), {"nonFinite": "NotYet"}),
    "it waits for a checkpoint": (
        polled({"threshold": {"value": 0.5}}, *rows(2.0, 0.4, 0.3), agent=make_agent(newest=None)), {"threshold": "NoCheckpoint"},
    ),
    "it only reports": (polled(PLATEAU | {"action": "Shadow"}, *rows(2.0, 2.1, 2.2, 2.1, name="eval_loss")), {"plateau": "Plateau"}),
    "it contradicts another": (
        polled({"threshold": {"value": 0.5}}, {"name": "diverged", "goal": "Maximize", "threshold": {"value": 0.1}}, *rows(2.0)),
        {"threshold": "InvalidStopRules", "diverged": "InvalidStopRules"},
    ),
    "its value went stale": (replace(polled(PLATEAU, *rows(2.0, name="eval_loss")), now=9000.0), {"plateau": "Stale"}),
    "its step is that of another rank": (polled(PLATEAU, *rows(2.0, 1.9, name="eval_loss"), reading(100, eval_loss=2.0)), {"plateau": "StepFell"}),
    "its value cannot be read": (polled(PLATEAU, TIMEOUT), {"plateau": "Timeout"}),
}  # fmt: skip
CASES |= RULES_OF_ITS_OWN

ENDS = {
    "it has come to its final step": (
        with_spec({"completion": {"finalStep": 500}}, track=final_epoch(), agent=SAVED, candidate_seconds=300), {"finalStep": "Reached"},
    ),
    "its outputs are written": (with_spec(WANTED, outputs=bucket(Found.WRITTEN), candidate_seconds=300), {"outputs": "Written"}),
    "it has printed its line": (printed(line(), candidate_seconds=300), {"logPatterns": "Printed"}),
    "its value is below the threshold": (polled({"threshold": {"value": 0.5}}, *rows(2.0, 0.4, 0.3)), {"threshold": "Threshold"}),
    "its score is above the threshold": (
        polled({"metric": "accuracy", "goal": "Maximize", "threshold": {"value": 0.9}}, *rows(0.5, 0.91, 0.93, name="accuracy")),
        {"threshold": "Threshold"},
    ),
    "its value is on a plateau": (polled(PLATEAU, *rows(2.0, 1.8, 1.9, 1.85, 1.84, name="eval_loss")), {"plateau": "Plateau"}),
    "its value rose three times": (polled({"metric": "eval_loss", "rising": {"observations": 3}}, *rows(2.0, 2.1, 2.2, 2.3, name="eval_loss")), {"rising": "Rising"}),
    "its value is NaN twice": (polled({"nonFinite": {}}, *rows(2.0, nan, nan)), {"nonFinite": "NonFinite"}),
    "nothing of it moves": (
        with_spec({"hangDetection": {"action": "Stop"}}, quiet=Quiet(POD_UID, NOW - 600, WALL, NOW, "Step", 1300)),
        {"hang": "NoProgress"},
    ),
    "its GPUs are idle": (with_gpus(NOW - 1800, spec=STOPS_IDLE), {"idle": "IdleGPUs"}),
    "its GPUs are idle, and power is not looked at": (
        with_gpus(NOW - 1800, spec={"idleDetection": {"action": "Stop", "powerBelowWatts": 0}}, power=None), {"idle": "IdleGPUs"},
    ),
    "its GPU hours are used": (with_spec({"budget": {"maxGpuHours": 0.06}}), {"budget": "BudgetExhausted"}),
    "it has cost its budget": (priced({"maxCost": 0.28}), {"budget": "BudgetExhausted"}),
    "it crashed with a fatal exit code": (with_spec({"crash": {"fatalExitCodes": [2]}}, pods=(exited_pod(2),)), {"crashes": "FatalExitCode"}),
    "it crashed with a fatal pattern in its log": (
        with_spec({"crash": {"fatalLogPatterns": ["^CUDA error"]}}, pods=(exited_pod(1),), fatal_pattern="^CUDA error"),
        {"crashes": "FatalLogPattern"},
    ),
    "it crashed without a step forward": (
        make_observed(run=make_run(status=make_status(crashes=CrashRow(pod_uid="before", step=1300, without_step=2))), pods=(exited_pod(1),)),
        {"crashes": "NoStepForward"},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("seen", "reasons"), ENDS.values(), ids=ENDS)
def test_a_rule_says_why_it_ends_the_run(seen, reasons):
    found = chain.why_end(seen)
    assert found is not None
    assert {found.rule: found.reason} == reasons


@pytest.mark.parametrize(("seen", "reasons"), CASES.values(), ids=CASES)
def test_a_rule_says_why_it_does_not_fire_yet(seen, reasons):
    said = {one.rule: one.reason for one in chain.findings(seen)}
    assert {rule: said.get(rule) for rule in reasons} == reasons
    assert chain.why_end(seen) is None


def test_every_finding_reads_as_it_should():
    assert_golden(
        "core/findings.txt", "\n".join(f"## {name}\n\n{text_of(*case)}" for name, case in {**CASES, **ENDS}.items())
    )


def text_of(seen, reasons):
    """What the rules of a case say."""
    found = [one for one in chain.findings(seen) if one.rule in reasons]
    return "".join(f"- {one.rule}, {one.reason}{' (fires)' if one.fires else ''}: {one.message}\n" for one in found)


def test_a_stop_that_is_decided_has_no_findings_any_more():
    seen = make_observed(run=make_run(status=make_status(termination=make_stop(Phase.SAVING))))
    assert render(seen).findings == ()


def test_what_does_not_fit_the_schema_is_cut():
    found = [Finding("r" * 200, "R" * 200, "m" * 5000)] * 40
    stored = chain.stored(found)
    assert len(stored) == 32
    assert (len(stored[0].rule), len(stored[0].reason), len(stored[0].message)) == (128, 128, 1024)


def test_the_first_rule_that_fires_and_is_enforced_decides():
    watched = Finding("a", "A", "a", FAILED, enforced=False)
    said = (
        None,
        Finding("n", "N", "n"),
        watched,
        Finding("b", "B", "b", FAILED),
        Finding("c", "C", "c", AUTO_COMPLETE),
    )
    rules = tuple(lambda _, one=one: one for one in said)
    found = chain.why_end(make_observed(), rules)
    assert found is not None
    assert (found.rule, found.status) == ("b", "failed")


def test_a_rule_that_is_only_watched_is_kept_with_the_first_time_that_it_fired():
    known = Shadow(rule="a", would_stop_at="2025-12-31T00:00:00Z", step=1, value="0.4")
    seen = make_observed(run=make_run(status=make_status(shadow=(known,))))
    rated = Finding("b", "B", "b", FAILED, enforced=False, evidence=(Evidence(what="loss", value="3", step=9),))
    found = (Finding("a", "A", "a", FAILED, enforced=False), rated, Finding("c", "C", "c", FAILED, enforced=False))
    assert chain.shadows(seen, found) == (
        known,
        Shadow(rule="b", would_stop_at=WALL, step=9, value="3", trained_seconds=245, saved_gpu_hours=0),
        Shadow(rule="c", would_stop_at=WALL, step=None, value="", trained_seconds=245, saved_gpu_hours=0),
    )
