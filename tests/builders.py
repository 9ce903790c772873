"""Makers of everything that a decision looks at: by default a healthy run that trains. Keywords override."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import AgentReport, CheckpointSeen
from trainingrun_operator.api.pool import GPUNodePoolSpec
from trainingrun_operator.api.run import TrainingRunSpec
from trainingrun_operator.api.status import (
    NodePhase,
    NodeStatus,
    Phase,
    RefusalKind,
    Saved,
    Termination,
    TrainingRunStatus,
)
from trainingrun_operator.checkpoints.documents import Checkpoint, Commit, RunRef
from trainingrun_operator.core.facts.bucket import Mismatch, Unreachable, Verified
from trainingrun_operator.core.facts.nodes import Instance, NodeFacts, NodeRef, Occupant, Pool, Refusal
from trainingrun_operator.core.facts.pod import Pod, Training
from trainingrun_operator.core.facts.rank import Rank, by_rank
from trainingrun_operator.core.facts.reading import LOSS, Failure, Reading
from trainingrun_operator.core.facts.run import Run
from trainingrun_operator.core.facts.workload import Workload
from trainingrun_operator.core.observed import Observed
from trainingrun_operator.core.track import Track, fold

if TYPE_CHECKING:
    from trainingrun_operator.checkpoints.keys import Order

NAMESPACE = "ml"
NAME = "bert"
RUN_UID = "0a1b2c3d-run"
POD_UID = "4e5f6a7b-pod"
JOB_UID = "8c9d0e1f-job"
NODE_UID = "2a3b4c5d-node"
STOP_ID = f"stop-{RUN_UID}"
BASE = f"runs/{NAMESPACE}/{NAME}/{RUN_UID}/"
PROVIDER_ID = "aws:///us-east-1a/i-0123456789abcdef0"
WALL = "2026-01-02T03:04:05Z"
EARLIER = "2026-01-02T03:00:00Z"
NOW = 1000.0
MACHINE = NodeRef("gpu-1", NODE_UID, PROVIDER_ID)
OPERATION = f"{STOP_ID}-{NODE_UID}"
"""Of the release of that machine by that stop."""


def make_reading(
    loss: float | None = None,
    step: float | None = None,
    epoch: float | None = None,
    total_epochs: float | None = None,
    at: float | None = None,
) -> Reading:
    return Reading(step, epoch, total_epochs, {} if loss is None else {LOSS: loss}, at)


def template(**pod: Any) -> dict[str, Any]:
    """A pod template with one container; keywords go into its pod spec."""
    container = {
        "name": "train",
        "image": "acme/bert",
        "command": ["python", "train.py"],
        "resources": {"limits": {"nvidia.com/gpu": 1}},
    }
    return {"spec": {"containers": [container], **pod}}


def spec_dict(**fields: Any) -> dict[str, Any]:
    """The spec of a run as a person writes it; keywords are camelCase and replace whole fields."""
    return {
        "template": template(),
        "autoStopLoss": 0.5,
        "checkpoint": {"destination": "s3://bucket/runs", "s3": {"credentialsSecretName": "s3-credentials"}},
        **fields,
    }


def make_spec(**fields: Any) -> TrainingRunSpec:
    return TrainingRunSpec.parse(spec_dict(**fields))


def checkpoint_spec(**fields: Any) -> dict[str, Any]:
    """`spec.checkpoint` with some fields replaced."""
    return {**spec_dict()["checkpoint"], **fields}


def make_status(**fields: Any) -> TrainingRunStatus:
    return TrainingRunStatus(**{"start_time": EARLIER, **fields})


def make_run(*, spec: dict[str, Any] | None = None, status: TrainingRunStatus | None = None, **fields: Any) -> Run:
    """A run with its finalizer; `spec` are camelCase overrides, other keywords those of `Run`."""
    made = Run(
        namespace=NAMESPACE,
        name=NAME,
        uid=RUN_UID,
        resource_version="7",
        generation=1,
        spec=make_spec(**(spec or {})),
        status=status if status is not None else make_status(),
        finalizers=(names.FINALIZER,),
        created=EARLIER,
    )
    return replace(made, **fields)


def make_workload(**fields: Any) -> Workload:
    """The Job of the run."""
    return replace(Workload("batch/v1", "Job", name=NAME, uid=JOB_UID, run_uid=RUN_UID), **fields)


def make_pod(**fields: Any) -> Pod:
    """A pod that trains on node gpu-1."""
    made = Pod(
        name=f"{NAME}-x7k2p",
        uid=POD_UID,
        node="gpu-1",
        ip="10.0.0.7",
        phase="Running",
        training=Training.RUNNING,
        trains_alone=True,
        grace_seconds=420,
        started_at=EARLIER,
        created=EARLIER,
    )
    return replace(made, **fields)


def exited_pod(code: int = 0, **fields: Any) -> Pod:
    """Its training has ended; the gate keeps it Running."""
    return make_pod(**{"training": Training.EXITED, "exit_code": code, **fields})


def pending_pod(**fields: Any) -> Pod:
    """Not on any node yet."""
    waiting = {"phase": "Pending", "training": Training.NOT_STARTED, "node": "", "ip": "", "started_at": ""}
    return make_pod(**{**waiting, **fields})


def finished_pod(code: int = 0, **fields: Any) -> Pod:
    """Nothing of it runs any more."""
    return exited_pod(code, **{"phase": "Failed" if code else "Succeeded", **fields})


def make_found(**fields: Any) -> CheckpointSeen:
    return CheckpointSeen(
        **{"dir": "checkpoint-1200", "step": 1200, "complete": True, "age_seconds": 30, "bytes": 4096, **fields}
    )


def make_agent(**fields: Any) -> AgentReport:
    """An agent that has found one complete checkpoint and shipped it."""
    report: dict[str, Any] = {
        "pod_uid": POD_UID,
        "incarnation": 1,
        "newest": make_found(),
        "files": 3,
        "bytes": 4096,
        "temporary_files": 0,
        "last_change_seconds": 30,
    }
    return AgentReport(**{**report, **fields})


def make_commit(**fields: Any) -> Commit:
    """The answer to the stop's first save request, made after the training had ended."""
    said: dict[str, Any] = {
        "run": RunRef(namespace=NAMESPACE, name=NAME, uid=RUN_UID),
        "incarnation": 1,
        "generation": 7,
        "reason": "save",
        "termination_id": STOP_ID,
        "attempt": 1,
        "final": True,
        "checkpoint": Checkpoint(dir="checkpoint-1200", step=1200, complete=True, evidence="trainer_state.json"),
        "pod_uid": POD_UID,
        "total_files": 3,
        "total_bytes": 4096,
    }
    return Commit(**{**said, **fields})


def commit_key(incarnation: int, generation: int) -> str:
    return f"{BASE}commits/i{incarnation}-g{generation:04d}.json"


def make_verified(**fields: Any) -> Verified:
    """A commit that was read back and matched; keywords are those of the commit."""
    commit = make_commit(**fields)
    order: Order = commit.order
    return Verified(
        key=commit_key(*order),
        digest=f"sha256-of-i{order.incarnation}-g{order.generation}",
        uri=f"s3://bucket/{BASE}r0/i{order.incarnation}-g{order.generation:04d}-pod/checkpoint-1200",
        commit=commit,
    )


def make_mismatch(**fields: Any) -> Mismatch:
    return replace(Mismatch(commit_key(1, 7), "model.safetensors has 10 bytes, not 12", STOP_ID, 1), **fields)


def make_unreachable(**fields: Any) -> Unreachable:
    return replace(Unreachable("AccessDenied", "s3://bucket answers AccessDenied."), **fields)


def make_saved(**fields: Any) -> Saved:
    said: dict[str, Any] = {
        "commit": commit_key(1, 7),
        "digest": "sha256-of-i1-g7",
        "uri": f"s3://bucket/{BASE}r0/i1-g0007-pod/checkpoint-1200",
        "dir": "checkpoint-1200",
        "step": 1200,
        "bytes": 4096,
        "files": 3,
        "final": True,
    }
    return Saved(**{**said, **fields})


def make_stop(phase: Phase = Phase.SAVING, **fields: Any) -> Termination:
    """A stop by low loss; from Deleting on with what was saved."""
    said: dict[str, Any] = {
        "id": STOP_ID,
        "status": "auto_low_loss",
        "message": "Loss 0.2931 < 0.5 at step 1200.",
        "rule": "autoStopLoss",
        "reason": "LowLoss",
        "actor": "autoStopLoss",
        "phase": phase,
        "requested_at": EARLIER,
        "phase_at": EARLIER,
        "saved": make_saved() if phase in (Phase.DELETING, Phase.RELEASING, Phase.DONE) else None,
    }
    return Termination(**{**said, **fields})


def make_node(phase: NodePhase = NodePhase.IN_USE, **fields: Any) -> NodeStatus:
    said: dict[str, Any] = {
        "name": "gpu-1",
        "uid": NODE_UID,
        "provider_id": PROVIDER_ID,
        "pool": "a100",
        "phase": phase,
        "phase_at": EARLIER,
    }
    return NodeStatus(**{**said, **fields})


def make_refusal(
    message: str = "Throttled", kind: RefusalKind = RefusalKind.RETRYABLE, after_seconds: float = 0
) -> Refusal:
    return Refusal(kind, message, after_seconds)


def make_node_facts(**fields: Any) -> NodeFacts:
    """An empty node of the pool whose machine runs."""
    made = NodeFacts(
        name="gpu-1",
        uid=NODE_UID,
        provider_id=PROVIDER_ID,
        labels={"pool": "a100"},
        occupants=(),
        instance=Instance.RUNNING,
    )
    return replace(made, **fields)


def occupant(name: str = "notebook", *, run_uid: str = "", namespace: str = "team") -> Occupant:
    return Occupant(namespace, name, run_uid)


def make_pool(name: str = "a100", **fields: Any) -> Pool:
    """A pool of EC2 Auto Scaling; keywords are camelCase fields of its spec."""
    spec = {
        "nodeSelector": {"pool": "a100"},
        "awsAutoScaling": {"region": "us-east-1", "groups": ["gpu-a100"]},
        **fields,
    }
    return Pool(name, GPUNodePoolSpec.parse(spec))


def track_of(*readings: tuple[float, Reading | Failure], pod_uid: str = POD_UID) -> Track:
    """What is remembered after these readings, each with when it was taken."""
    track = Track()
    for at, reading in readings:
        track = fold(track, reading, pod_uid=pod_uid, now=at)
    return track


def losses(*values: float, until: float = NOW, every: float = 10, first_step: int = 1000) -> Track:
    """A track whose newest observations have these losses, the last one read at `until`."""
    start = until - every * len(values)
    rows = enumerate((9.0, *values))
    return track_of(*((start + i * every, make_reading(loss=v, step=first_step + 100 * i)) for i, v in rows))


def final_epoch(
    *,
    base: float = 0,
    total: float | None = 3,
    epoch: float | None = None,
    every: float = 10.0,
    steps: int = 5,
    polls: int = 3,
    then: tuple[Reading | Failure, ...] = (),
) -> Track:
    """A track that came to its last epoch with a step every so many seconds, and then stood still for some polls 10 seconds apart."""
    last_epoch = epoch if epoch is not None else (total or 0) - 1 + base
    epochs = [base, base, *[last_epoch] * (steps - 1)]
    track, now = Track(), NOW - every * (steps + 1) - 10 * polls
    for step, at in enumerate(epochs):
        now += every if step else 0
        track = fold(
            track, make_reading(loss=1, step=100 * step, epoch=at, total_epochs=total), pod_uid=POD_UID, now=now
        )
    last = make_reading(loss=1, step=100 * (len(epochs) - 1), epoch=epochs[-1], total_epochs=total)
    for reading in (*[last] * polls, *then):
        now += 10
        track = fold(track, reading, pod_uid=POD_UID, now=now)
    return track


def make_rank(number: int = 0, **fields: Any) -> Rank:
    """A healthy rank: one training pod, an agent with one checkpoint, a loss that is still high."""
    made = Rank(number, make_pod(rank=number), report=make_agent(), track=losses(2.0, 1.5, 1.2))
    return replace(made, **fields)


RANK_FIELDS = frozenset(
    {
        "pods",
        "agent",
        "refused",
        "track",
        "log_tail",
        "fatal_pattern",
        "crash_cause",
        "waiting_seconds",
        "unshipped_seconds",
        "unmoved",
        "last_said",
    }
)


def make_observed(*, run: Run | None = None, **fields: Any) -> Observed:
    """A healthy run of one rank, and its Job. Keywords are those of `Observed`, or of its rank: `pods` oldest first, `agent` its report."""
    of_rank = {name: fields.pop(name) for name in RANK_FIELDS & fields.keys()}
    made = Observed(
        run=run or make_run(), now=NOW, wall=WALL, ranks=(make_rank(),), workload=make_workload(), pools=(make_pool(),)
    )
    return replace(with_rank(made, **of_rank), **fields)


def with_rank(seen: Observed, **fields: Any) -> Observed:
    """The same with rank 0 changed; keywords as in `make_observed`."""
    rank = seen.ranks[0]
    if "agent" in fields:
        fields["report"] = fields.pop("agent")
    if "pods" in fields:
        (pods,) = by_rank(fields.pop("pods"), 1)
        fields |= {"pod": pods[-1] if pods else None, "earlier": pods[:-1]}
    return replace(seen, ranks=(replace(rank, **fields), *seen.ranks[1:]))


def stopping_at(
    phase: Phase, *, stop: dict[str, Any] | None = None, spec: dict[str, Any] | None = None, **fields: Any
) -> Observed:
    """A run whose stop stands at `phase`; `stop` overrides the stop, `spec` the spec, keywords what is observed."""
    status = make_status(termination=make_stop(phase, **(stop or {})), termination_status="auto_low_loss")
    return make_observed(run=make_run(spec=spec, status=status), **fields)


def releasing(
    node: NodeStatus, facts: NodeFacts | None, *, spec: dict[str, Any] | None = None, seconds: float = 0, **fields: Any
) -> Observed:
    """A run whose pods are gone and whose only node is on its way back."""
    status = make_status(termination=make_stop(Phase.RELEASING), nodes=(node,))
    seen = {
        "pods": (),
        "workload": make_workload(finished=True),
        "agent": None,
        "nodes": (facts,) if facts is not None else (),
        "node_seconds": {node.uid: seconds},
        "gate_seconds": {node.uid: seconds},
    }
    return make_observed(run=make_run(spec=spec, status=status), **{**seen, **fields})
