"""Anything that may be observed: whatever the API server, an agent, a bucket or a cloud can say, in any combination."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from builders import (
    BASE,
    EARLIER,
    make_node,
    make_pod,
    make_pool,
    make_reading,
    make_run,
    make_stop,
    spec_dict,
    template,
    track_of,
    with_rank,
)
from hypothesis import strategies as st

from trainingrun_operator.api import names
from trainingrun_operator.api.endings import ENDINGS
from trainingrun_operator.api.exchange import (
    AgentError,
    AgentReport,
    CheckpointSeen,
    CommitSeen,
    MarkerSeen,
    SaveRequest,
    StopRequest,
    Upload,
)
from trainingrun_operator.api.saves import SaveInterval, SaveTimes, StopWait
from trainingrun_operator.api.spoiled import Spoiled
from trainingrun_operator.api.status import (
    SUSPENDED,
    CheckpointStatus,
    Condition,
    CrashRow,
    Effective,
    NodePhase,
    Phase,
    PhaseChange,
    Progress,
    RefusalKind,
    Rescue,
    Saved,
    Shadow,
    StopMode,
    TrainingRunStatus,
    WorkloadRef,
)
from trainingrun_operator.checkpoints.documents import Checkpoint, Commit, RunRef
from trainingrun_operator.checkpoints.keys import Order
from trainingrun_operator.core.completion_line import CompletionLine
from trainingrun_operator.core.defaults import Defaults
from trainingrun_operator.core.facts.bucket import Mismatch, Unreachable, Verified
from trainingrun_operator.core.facts.gathered import Facts, Source
from trainingrun_operator.core.facts.learned import DisruptionBudgetChanged, JobRefused, ProviderAnswered, RescueRefused
from trainingrun_operator.core.facts.log import LogSearch, Printed
from trainingrun_operator.core.facts.nodes import Fate, Instance, NodeFacts, Occupant, Refusal
from trainingrun_operator.core.facts.pod import Pod, Training
from trainingrun_operator.core.facts.rank import Rank
from trainingrun_operator.core.facts.reading import Failure
from trainingrun_operator.core.facts.rescue import Claim, RescueFacts, RescueJob
from trainingrun_operator.core.facts.run import Problem
from trainingrun_operator.core.facts.workload import Workload
from trainingrun_operator.core.kept_volume import KeptVolume
from trainingrun_operator.core.observed import Observed
from trainingrun_operator.core.track import Track, fold

WALL = "2026-01-02T03:04:05Z"
UIDS = ("run-a", "run-b")
POD_UIDS = ("pod-a", "pod-b", "pod-c")
NODES = ("gpu-1", "gpu-2")

TEXT = st.one_of(st.sampled_from(["", "x", "AccessDenied"]), st.integers(0, 9000).map(lambda n: "é" * n))
BOOLS = st.booleans()
GAUGE = st.one_of(
    st.none(),
    st.integers(-2, 5).map(float),
    st.floats(allow_nan=True, allow_infinity=True),
    st.floats(min_value=0, max_value=3),
)
SECONDS = st.sampled_from([0.0, 9.0, 59.0, 119.0, 120.0, 300.0, 7200.0, 1e6])
REPORTED = 10**30
"""The largest integer that the parsers of reports and documents admit; a step may have 255 digits."""
COUNTS = st.sampled_from([-REPORTED, -1, 0, 1, 3, 2**31, 2**53, REPORTED])
STEPS = st.one_of(st.none(), st.integers(-1, 5), st.sampled_from([2**60, 10**255, -(10**255)]))

SAMPLES = st.builds(
    make_reading,
    loss=GAUGE,
    step=GAUGE,
    epoch=GAUGE,
    total_epochs=GAUGE,
    at=st.one_of(st.none(), st.sampled_from([0.0, 5.0, 1e9])),
)
READINGS = st.one_of(SAMPLES, st.builds(Failure, st.sampled_from(["Timeout", "HTTPStatus"]), TEXT.filter(bool)))


@st.composite
def advancing(draw):
    """A training whose numbers make sense: it advances, comes to its last epoch, and may then stand still."""
    steps = draw(st.integers(0, 6))
    total = draw(st.sampled_from([None, 1.0, 3.0]))
    base = draw(st.sampled_from([0, 1]))
    loss = draw(st.sampled_from([2.0, 0.3]))
    still = draw(st.integers(0, 5))
    fractional = draw(BOOLS)
    last = base + (total or 3) - 1 + fractional * (1 - base)
    first = base if not fractional else 0.1
    rows = [make_reading(loss - i / 1000, float(i), first if i < 2 else last, total) for i in range(steps)]
    fall = draw(st.sampled_from([0, 0, 1, 3]))
    again = [replace(rows[-1], step=float(max(0, steps - 1 - fall)))] if rows and fall else []
    return [*rows, *again, *((again or rows)[-1:] * still)]


JOB = Workload("batch/v1", "Job", "bert", "job", "run-a")


@st.composite
def ranks(draw, track):
    """One rank, or two; the track is that of rank 0."""
    return (draw(a_rank(0, track)), *([draw(a_rank(1, Track()))] if draw(st.integers(0, 3)) == 0 else []))


@st.composite
def a_rank(draw, number, track):
    """Any pods of a rank, and whatever is read of the newest."""
    pods = draw(st.lists(PODS, max_size=3, unique_by=lambda pod: pod.uid))
    return Rank.of(
        number,
        [replace(pod, rank=number) for pod in pods],
        report=draw(st.one_of(st.none(), AGENTS)),
        track=track,
        log_tail=draw(TEXT),
        fatal_pattern=draw(st.sampled_from(["", "", PATTERN])),
        crash_cause=draw(st.sampled_from(["", "", "CUDA out of memory"])),
        waiting_seconds=draw(SECONDS),
        unshipped_seconds=draw(SECONDS),
        unmoved=draw(BOOLS),
    )


@st.composite
def tracks(draw):
    """What is remembered after some readings, and when the last of them was taken."""
    readings = draw(st.one_of(st.lists(READINGS, max_size=6), advancing()))
    every = draw(st.sampled_from([0.0, 1.0, 10.0]))
    track, now = Track(), 1000.0
    for reading in readings:
        now += every
        track = fold(track, reading, pod_uid=draw(st.sampled_from(POD_UIDS[:1])), now=now)
    return track, now


CHECKPOINTS = st.one_of(
    st.none(), st.builds(Checkpoint, dir=TEXT, step=STEPS, complete=BOOLS, evidence=st.just("words"))
)
FOUND = st.one_of(
    st.none(),
    st.builds(
        CheckpointSeen,
        dir=TEXT,
        step=STEPS,
        complete=BOOLS,
        age_seconds=st.sampled_from([0.0, 20.0, 1e9, float("nan")]),
    ),
)
AGENTS = st.builds(
    AgentReport,
    pod_uid=st.sampled_from(POD_UIDS),
    newest=FOUND,
    unfinished=FOUND,
    files=st.one_of(st.none(), COUNTS),
    bytes=COUNTS,
    temporary_files=st.one_of(st.none(), COUNTS),
    temporary_bytes=COUNTS,
    unsaved_bytes=COUNTS,
    uploaded_bytes=COUNTS,
    hashed_bytes=COUNTS,
    upload_failures=COUNTS,
    uploads=st.lists(
        st.builds(
            Upload,
            incarnation=COUNTS,
            generation=COUNTS,
            bytes=COUNTS,
            seconds=st.sampled_from([0.0, 20.0, -1.0, 1e300, float("nan"), float("inf")]),
        ),
        max_size=2,
    ).map(tuple),
    last_change_seconds=st.sampled_from([None, 0.0, 60.0]),
    commit=st.one_of(st.none(), st.builds(CommitSeen, key=st.just("k"), incarnation=st.just(1), generation=st.just(1))),
    foreign_stop_file=BOOLS,
    signal_trouble=TEXT,
    markers=st.lists(st.builds(MarkerSeen, name=TEXT, age_seconds=st.just(1.0)), max_size=2).map(tuple),
    error=st.one_of(st.none(), st.builds(AgentError, code=TEXT, message=TEXT)),
)
QUIET_AGENTS = st.builds(
    AgentReport,
    pod_uid=st.sampled_from(POD_UIDS),
    files=st.sampled_from([0, 0, 0, None, 3]),
    temporary_files=st.sampled_from([0, 0, 0, None, 2]),
    commit=st.one_of(
        st.none(),
        st.none(),
        st.none(),
        st.builds(CommitSeen, key=st.just("k"), incarnation=st.just(1), generation=st.just(1)),
    ),
    error=st.one_of(st.none(), st.none(), st.builds(AgentError, code=TEXT, message=TEXT)),
)
"""Agents that have found little or nothing, or have not looked yet."""
FAILURES = st.builds(Failure, st.sampled_from(["Timeout", "HTTPStatus"]), st.just("no answer"))
BEGINNINGS = st.lists(
    st.one_of(
        FAILURES,
        st.just(make_reading()),
        st.sampled_from([make_reading(2.0, 0), make_reading(None, 0), make_reading(float("nan"), 0)]),
        st.sampled_from([make_reading(2.0, 500), make_reading(2.0, None)]),
    ),
    max_size=3,
)
"""Readings of a training that has just begun, or of one that an operator has just come to."""
COMMITS = st.builds(
    Commit,
    run=st.just(RunRef(namespace="ml", name="bert", uid="run-a")),
    incarnation=st.integers(0, 3),
    generation=st.sampled_from([0, 7, 2**60]),
    reason=st.sampled_from(["checkpoint", "save", "sigterm"]),
    final=BOOLS,
    checkpoint=CHECKPOINTS,
    total_files=COUNTS,
    total_bytes=COUNTS,
)


def verified(commit: Commit) -> Verified:
    """A commit that verified: its address is made of its directory, which may be as long as a commit."""
    folder = commit.checkpoint.dir if commit.checkpoint is not None else ""
    key = f"{BASE}commits/i{commit.incarnation}-g{commit.generation:04d}.json"
    return Verified(key=key, digest=f"sha256-{key[-12:]}", uri=f"s3://bucket/{BASE}{folder}", commit=commit)


VERIFIED = COMMITS.map(verified)
REFUTED = st.builds(Mismatch, key=st.one_of(st.just("k"), VERIFIED.map(lambda found: found.key)), complaint=TEXT)
ANSWERS = st.one_of(
    st.none(),
    VERIFIED,
    st.builds(Mismatch, key=st.just("k"), complaint=TEXT, curable=BOOLS),
    st.builds(Unreachable, code=TEXT, message=TEXT),
)
STOPS = st.one_of(st.none(), st.just(StopRequest(id="stop-run-a")))
SAVES = st.one_of(
    st.none(),
    st.builds(SaveRequest, id=st.sampled_from(["stop-run-a", "crash-pod-a"]), attempt=st.integers(1, 3), ended=BOOLS),
)
PODS = st.builds(
    Pod,
    name=st.sampled_from(POD_UIDS),
    uid=st.sampled_from(POD_UIDS),
    node=st.sampled_from(["", *NODES]),
    ip=st.just("10.0.0.7"),
    phase=st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown"]),
    host_network=BOOLS,
    deleting=BOOLS,
    training=st.sampled_from(Training),
    exit_code=st.sampled_from([None, 0, 1, 137, -1, 3221225477 - 2**32]),
    started_at=st.sampled_from(["", WALL]),
    waiting_reason=st.sampled_from(["", "ImagePullBackOff", "Unschedulable"]),
    waiting_message=TEXT,
    stop=STOPS,
    save=SAVES,
    gate_open=BOOLS,
    gate_left=BOOLS,
    disruption=st.sampled_from(["", "", "Evicted: The node was low on resource: memory."]),
    ignored=BOOLS,
    beside_ran=BOOLS,
    writers=st.sampled_from([(), (), ("writer",)]),
    trains_alone=BOOLS,
    grace_seconds=st.sampled_from([0, 30, 150, 420]),
    exit_reason=st.sampled_from(["", "OOMKilled", "StartError: " + "x" * 500]),
    starts_again=st.sampled_from([False, False, True]),
    failure_before_start=st.sampled_from(["", "init container fetch ended with exit code 42"]),
)


@dataclass(frozen=True)
class StoredPod(Pod):
    """A pod as it is read from the API server, and what its stored object says besides."""

    anything_ran: bool = False
    """A container of the author has run in it: it runs, has ended, ended before, or was started again."""


AUTHORS = ("train", "side")
CONTAINER_STATES = st.sampled_from(
    [
        {},
        {"waiting": {"reason": "ContainerCreating"}},
        {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}},
        {"waiting": {"reason": "CreateContainerConfigError"}},
        {"waiting": {"reason": "CrashLoopBackOff"}},
        {"running": {"startedAt": WALL}},
        {"terminated": {"exitCode": 0, "startedAt": WALL}},
        {"terminated": {"exitCode": 1, "startedAt": WALL}},
    ]
)
LAST_STATES = st.sampled_from([{}, {}, {"terminated": {"exitCode": 1, "startedAt": WALL}}])


@st.composite
def stored_pods(draw):
    """A pod whose containers are in any states together: beside the training, a second container and a sidecar of the author."""
    ran = False
    statuses: dict[str, dict[str, object]] = {}
    for name in (*AUTHORS, "writer"):
        state, last = draw(CONTAINER_STATES), draw(LAST_STATES)
        restarts = draw(st.sampled_from([0, 0, 1]))
        statuses[name] = {"name": name, "state": state, "lastState": last, "restartCount": restarts}
        ran = ran or "running" in state or "terminated" in state or bool(last) or restarts > 0
    stored = {
        "metadata": {"name": "bert-x", "uid": draw(st.sampled_from(POD_UIDS))},
        "spec": {
            "containers": [{"name": name} for name in (*AUTHORS, names.GATE_CONTAINER)],
            "initContainers": [{"name": "writer", "restartPolicy": "Always"}],
        },
        "status": {
            "phase": draw(st.sampled_from(["Pending", "Running", "Running"])),
            "podIP": "10.0.0.7",
            "containerStatuses": [statuses[name] for name in AUTHORS],
            "initContainerStatuses": [statuses["writer"]],
        },
    }
    return replace(StoredPod.of(stored), anything_ran=ran)


TRAINS = st.builds(make_pod, uid=st.sampled_from(POD_UIDS))

WORKLOADS = st.one_of(
    st.none(),
    st.builds(
        Workload,
        api_version=st.just("batch/v1"),
        kind=st.just("Job"),
        name=st.just("bert"),
        uid=st.just("job"),
        run_uid=st.just("run-a"),
        suspended=BOOLS,
        replaces=BOOLS,
        failed=st.sampled_from([0, 1, 4, 99]),
        finished=BOOLS,
        deleting=BOOLS,
        owned=BOOLS,
    ),
)

CONTAINER = st.one_of(
    st.just({"name": "train", "image": "acme/bert"}),
    st.fixed_dictionaries(
        {},
        optional={
            "name": st.sampled_from(["train", "checkpoint-agent", 1]),
            "env": st.sampled_from([None, [], [{"name": "A"}], [{}], {"A": "1"}]),
            "volumeMounts": st.sampled_from([None, [{"name": "d", "mountPath": "/"}], [{"name": "d"}], "d"]),
            "resources": st.sampled_from(
                [
                    None,
                    {},
                    [],
                    {"limits": None},
                    {"limits": {"nvidia.com/gpu": "1"}},
                    {"limits": 1},
                    {"limits": []},
                    {"limits": {"nvidia.com/gpu": "9" * 5000}},
                ]
            ),
            "securityContext": st.sampled_from([None, {"runAsUser": 0}, {"runAsUser": "0"}, []]),
        },
    ),
)
CLAIMED = template(volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": "checkpoints"}}])
CLAIMED["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/checkpoints"}]
SHARED, ON_HOST = deepcopy(CLAIMED), deepcopy(CLAIMED)
SHARED["spec"]["volumes"] = [{"name": "data", "nfs": {"server": "nfs", "path": "/"}}]
ON_HOST["spec"]["volumes"] = [{"name": "data", "hostPath": {"path": "/data"}}]
TEMPLATES: st.SearchStrategy[Any] = st.one_of(
    st.just(CLAIMED),
    st.just(spec_dict()["template"]),
    st.sampled_from([{"x": "y" * 300_000}, '{"x":' * 500 + "1" + "}" * 500]),
    st.fixed_dictionaries(
        {},
        optional={
            "metadata": st.sampled_from([None, {}, {"labels": None}, {"labels": {"a": "b"}}, {"labels": 1}, "m"]),
            "spec": st.one_of(
                st.sampled_from([None, "x", [], {"containers": ["x"]}, {"containers": {"name": "x"}}]),
                st.fixed_dictionaries(
                    {"containers": st.one_of(st.none(), st.just("train"), st.lists(CONTAINER, max_size=2))},
                    optional={
                        "volumes": st.sampled_from([None, [], [{"name": "d"}], [None], 1]),
                        "initContainers": st.sampled_from([None, [{"name": "i"}], ["i"]]),
                        "terminationGracePeriodSeconds": st.sampled_from([None, 7, "7", 1e9]),
                        "activeDeadlineSeconds": st.sampled_from([None, 1]),
                        "securityContext": st.sampled_from([None, {}, {"runAsUser": 1}, 7]),
                        "shareProcessNamespace": st.sampled_from([None, True, False, "no"]),
                    },
                ),
            ),
        },
    ),
)


PATTERN = "^CUDA error"
DONE = "^DONE$"
COMPLETION_LINES = st.one_of(
    st.none(),
    st.builds(
        CompletionLine,
        st.sampled_from(POD_UIDS),
        st.sampled_from(["", EARLIER]),
        pattern=st.sampled_from(["", DONE, DONE]),
        line=TEXT.map(lambda text: text[:200]),
        step=st.sampled_from([None, 0, 1300]),
        since=SECONDS,
        taken_back=BOOLS,
    ),
)


@st.composite
def specs(draw):
    checkpoint = draw(
        st.sampled_from(
            [
                spec_dict()["checkpoint"],
                {"mode": "Disabled"},
                {**spec_dict()["checkpoint"], "onFailure": "Proceed"},
                {"destination": "s3://bucket/a//b"},
                {},
            ]
        )
    )
    return {
        "template": draw(TEMPLATES),
        "checkpoint": checkpoint,
        "autoStopLoss": draw(st.sampled_from([None, 0.5, -1, 1e300])),
        "stop": draw(st.sampled_from([None, None, True])),
        "suspend": draw(st.sampled_from([None, None, True, False])),
        "stopReason": draw(st.sampled_from([None, "x" * 1024])),
        "stopMode": draw(st.sampled_from(StopMode)).value,
        "shutdown": {
            "signal": draw(st.sampled_from(["", "", "SIGTERM"])),
            "graceSeconds": draw(st.sampled_from([0, 120, 400])),
        },
        "stopRules": draw(
            st.sampled_from(
                [
                    [],
                    [{"threshold": {"value": 1}}, {"nonFinite": {}}],
                    [{"plateau": {"patience": 1}, "action": "Shadow"}],
                    [{}],
                ]
            )
        ),
        "autoStopLossSchedule": draw(st.sampled_from([[], [], [{"step": 1, "loss": 1}], [{"step": 1, "loss": 1}] * 2])),
        "maxDurationSeconds": draw(st.sampled_from([None, None, 1, 3600])),
        "ttlSecondsAfterFinished": draw(st.sampled_from([None, 0, 300])),
        "backoffLimit": draw(st.sampled_from([0, 3])),
        "crash": {
            "fatalLogPatterns": draw(st.sampled_from([[], [PATTERN], ["("]])),
            "sameStepLimit": draw(st.integers(1, 3)),
        },
        "completion": {
            "settleSeconds": draw(st.sampled_from([0, 300])),
            "logPatterns": draw(st.sampled_from([[], [], [DONE], [DONE, "("]])),
        },
        "nodePool": draw(st.sampled_from([{}, {"ref": "a100"}, {"ref": "gone"}, {"policy": "Never"}])),
        "metrics": {"container": draw(st.sampled_from(["", "", "train", "none"]))},
    }


SAVED = st.one_of(
    st.none(),
    st.just(Saved(note="Nothing to save: the training made no step.")),
    VERIFIED.map(lambda proven: Saved(commit=proven.key, files=3, final=proven.commit.final, step=3)),
)


BEGUN_RESCUES = st.one_of(
    st.none(), st.builds(Rescue, claim=st.just("checkpoints"), node=st.sampled_from(["", "gpu-1"]), since=st.sampled_from(["", EARLIER]), job=st.sampled_from(["", "u", "earlier"]), attempt=st.sampled_from([0, 0, 1]), over=BOOLS)
)  # fmt: skip
RESCUES = st.one_of(
    st.none(),
    st.builds(
        RescueFacts,
        volume=st.sampled_from([KeptVolume("checkpoints"), KeptVolume(words="the nfs volume 'data'", shared=True), KeptVolume(words="x" * 900, on_host=True)]),
        other_machine=BOOLS,
        claim=st.one_of(st.none(), st.builds(
            Claim,
            st.just("checkpoints"),
            uid=st.sampled_from(["", "u", "u"]),
            phase=st.sampled_from(["Bound", "Bound", "Pending", "Lost"]),
            access_modes=st.sampled_from([(), ("ReadWriteMany",)]),
            created=st.sampled_from(["", EARLIER, WALL]),
            deleting=st.sampled_from([False, False, True]),
            resizing=BOOLS,
        )),
        hosts=st.sampled_from([(), (), ("gpu-1",), ("a", "b")]),
        last_node=st.sampled_from(["", "gpu-1"]),
        home=st.sampled_from(["", "gpu-1"]),
        job=st.one_of(
            st.none(),
            st.builds(RescueJob, TEXT, st.just("u"), st.sampled_from(["", "stop-run-a", "other"]), failed=TEXT, complete=BOOLS, deleting=BOOLS, suspended=BOOLS, generation=st.sampled_from([0, 1, 1, 3])),
        ),
        pod=st.one_of(st.none(), PODS),
        report=st.one_of(st.none(), AGENTS),
        left=BOOLS,
        refused=st.sampled_from(["", "exceeded quota", "x" * 5000]),
    ),
)  # fmt: skip


SAVE_TIMES = st.builds(
    SaveTimes,
    pod_uid=st.sampled_from([*POD_UIDS, ""]),
    at=st.sampled_from([None, EARLIER, WALL, "soon"]),
    step=st.sampled_from([None, 0, 3, 2**53 - 1]),
    intervals=st.lists(
        st.builds(
            SaveInterval, seconds=st.sampled_from([0, 60, 10**8]), steps=st.sampled_from([None, 1, 100, 2**53 - 1])
        ),
        max_size=8,
    ).map(tuple),
)
WAITS = st.one_of(
    st.none(),
    st.none(),
    st.builds(
        StopWait,
        predicted_seconds=st.sampled_from([None, 40]),
        rolled_back_seconds=st.sampled_from([None, 60]),
        newest_at=st.sampled_from([None, EARLIER, WALL]),
        until=st.sampled_from([None, EARLIER, WALL, "2099-01-01T00:00:00Z"]),
        message=st.just("It waits."),
    ),
)


@st.composite
def stops(draw):
    phase = draw(st.sampled_from(Phase))
    proven = draw(SAVED)
    recorded = phase in (Phase.DELETING, Phase.RELEASING, Phase.DONE)
    return make_stop(
        phase,
        id="stop-run-a",
        mode=draw(st.sampled_from(StopMode)),
        wait=draw(WAITS),
        spoiled=draw(st.sampled_from([None, None, Spoiled(), Spoiled(step=300, finite_step=200, written_us=7)])),
        status=draw(st.sampled_from([*ENDINGS, "auto_plateau", SUSPENDED])),
        attempt=draw(st.sampled_from([1, 2, 99])),
        # A stop of a suspended run brings its record along from the beginning.
        saved=proven if recorded or draw(st.integers(0, 4)) == 0 else None,
        # With uploads disabled, nothing is recorded, and nothing rescued.
        rescue=None if recorded and proven is None else draw(BEGUN_RESCUES),
        hold_reason=draw(st.sampled_from([None, "x" * 2000])),
        data_loss=draw(st.sampled_from([None, "Lost."])),
    )


NODE_RECORDS = st.builds(
    make_node,
    st.sampled_from(NodePhase),
    name=st.sampled_from(NODES),
    uid=st.sampled_from(["n1", "n2", "n3"]),
    pool=st.sampled_from(["a100", "", "gone"]),
    message=st.sampled_from(["", "Throttled"]),
    waited_out=BOOLS,
)
OCCUPANTS = st.lists(st.builds(Occupant, st.just("team"), TEXT, st.sampled_from(["", "run-b"])), max_size=8).map(tuple)
NODE_FACTS = st.builds(
    NodeFacts,
    name=st.sampled_from(NODES),
    uid=st.sampled_from([None, "n1", "n2", "n3"]),
    provider_id=st.sampled_from(["", "aws:///us-east-1a/i-0123456789abcdef0"]),
    labels=st.sampled_from([{}, {"pool": "a100"}]),
    tainted_by=st.sampled_from([None, *UIDS]),
    taint_orphaned=st.sampled_from([False, False, True]),
    occupants=st.one_of(st.none(), st.just(()), OCCUPANTS),
    demand=st.one_of(st.just(()), OCCUPANTS),
    instance=st.sampled_from(Instance),
    at_minimum=BOOLS,
    refusal=st.one_of(st.none(), st.builds(Refusal, st.sampled_from(RefusalKind), TEXT, SECONDS)),
)


@st.composite
def statuses(draw):
    return TrainingRunStatus(
        termination=draw(st.one_of(st.none(), stops())),
        start_time=draw(st.sampled_from([None, WALL])),
        completion_time=draw(st.sampled_from([None, EARLIER, WALL])),
        progress=draw(st.sampled_from([None, Progress(step=3, best_loss="0.3", last_observation_time=WALL)])),
        checkpoint=draw(st.sampled_from([None, CheckpointStatus(digest="d", verified_at=WALL)])),
        save_times=draw(st.one_of(st.none(), SAVE_TIMES)),
        crashes=draw(st.sampled_from([None, CrashRow(pod_uid="p0", step=3, without_step=2)])),
        effective=draw(st.sampled_from([None, Effective(auto_stop_loss=0.5, auto_stop_action="Shadow")])),
        workload=draw(st.sampled_from([None, WorkloadRef(api_version="batch/v1", kind="Job", name="bert", uid="job")])),
        shadow=draw(st.sampled_from([(), (Shadow(rule="autoStopLoss", would_stop_at=WALL, value="0.3"),)])),
        history=draw(st.sampled_from([(), tuple(PhaseChange(phase=f"P{i}", at=WALL) for i in range(20))])),
        nodes=draw(st.lists(NODE_RECORDS, max_size=3, unique_by=lambda node: node.uid).map(tuple)),
        conditions=draw(
            st.sampled_from(
                [(), (Condition(type="CheckpointSaved", status="True", reason="Verified", last_transition_time=WALL),)]
            )
        ),
    )


@st.composite
def contradictions(draw):
    """An `Observed`, as contradictory as it comes."""
    track, read_at = draw(tracks())
    run = make_run(
        uid="run-a",
        spec=draw(specs()),
        status=draw(statuses()),
        finalizers=draw(st.sampled_from([(), (names.FINALIZER,), ("other", names.FINALIZER)])),
        deleting=draw(BOOLS),
        labels=draw(st.sampled_from([{}, {names.KUEUE_QUEUE_LABEL: "gpus"}])),
        stop_manager=draw(st.sampled_from(["", "field manager 'kubectl-patch'", "m" * 9000])),
        abandoned_by=draw(st.sampled_from(["", "", "", "field manager 'kubectl-annotate'", "m" * 9000])),
    )
    return Observed(
        run=run,
        now=read_at + draw(SECONDS),
        wall=WALL,
        ranks=draw(ranks(track)),
        defaults=Defaults(
            auto_stop_action=draw(st.sampled_from(["Shadow", "Stop"])),
            unschedulable_seconds=draw(st.sampled_from([0, 60])),
        ),
        workload=draw(WORKLOADS),
        verified=draw(st.one_of(st.none(), VERIFIED)),
        refuted=draw(st.sampled_from([{}, {}, {Order(1, 7): "a byte is wrong."}])),
        answer=draw(ANSWERS),
        save_failing_seconds=draw(SECONDS),
        no_progress_seconds=draw(SECONDS),
        phase_seconds=draw(SECONDS),
        nodes=tuple(draw(st.lists(NODE_FACTS, max_size=3))),
        node_seconds=dict.fromkeys(("n1", "n2"), draw(SECONDS)),
        ending_runs=frozenset(draw(st.sampled_from([(), ("run-b",)]))),
        pools=draw(st.sampled_from([(), (make_pool("a100"),), (make_pool("a100"), make_pool("spare"))])),
        problem=draw(st.one_of(st.none(), st.none(), st.builds(Problem, TEXT, TEXT, BOOLS))),
        rescue=draw(RESCUES),
        saves=draw(st.one_of(st.none(), SAVE_TIMES)),
        completion_line=draw(COMPLETION_LINES),
        candidate_seconds=draw(st.sampled_from([None, 0.0, 300.0])),
    )


def on_the_way(seen, stop, **status):
    """The same, with a stop that stands here and a spec that was accepted."""
    changed = seen.run.status.model_copy(update={"termination": stop, **status})
    fields = {"checkpoint": seen.run.spec.checkpoint.model_dump(by_alias=True)}
    if seen.rescue is not None:
        fields["template"] = (
            CLAIMED if seen.rescue.claim is not None else SHARED if seen.rescue.volume.shared else ON_HOST
        )
    spec = make_run(spec=fields).spec
    return replace(seen, run=replace(seen.run, status=changed, spec=spec), problem=None)


@st.composite
def deleting(draw):
    """A stop that has come to its deletions, with pods and a Job to delete."""
    seen = draw(contradictions())
    stop = make_stop(Phase.DELETING, id="stop-run-a", saved=draw(SAVED.filter(bool)))
    pods = tuple(draw(st.lists(PODS, min_size=1, max_size=2, unique_by=lambda pod: pod.uid)))
    workload = replace(JOB, replaces=False, suspended=draw(BOOLS), finished=draw(BOOLS))
    seen = with_rank(on_the_way(seen, stop), pods=pods)
    return replace(seen, ranks=seen.ranks[:1], workload=workload, nodes=(), phase_seconds=0.0)


@st.composite
def a_begun_rank(draw, number):
    """Pods in any state, of which little is known."""
    pods = draw(st.lists(st.one_of(stored_pods(), PODS, TRAINS), max_size=2, unique_by=lambda pod: pod.uid))
    report = draw(st.one_of(st.none(), QUIET_AGENTS, QUIET_AGENTS, AGENTS))
    return begun(number, pods, report, draw(BEGINNINGS))


def begun(number, pods, report, readings):
    """A rank with these readings of its newest pod."""
    track = track_of(*enumerate(readings), pod_uid=POD_UIDS[0])
    at_start = bool(readings) and not isinstance(readings[-1], Failure) and readings[-1].step == 0
    pods = [replace(pod, rank=number) for pod in pods]
    return Rank.of(number, pods, report=report, track=track, unmoved=at_start)


def wants_proof(seen, draw, **status):
    """The same, with a stop that asks for proof: before it a training of which little is known, after it a deletion."""
    phase = draw(st.sampled_from([Phase.SAVING, Phase.SAVING, Phase.HELD, Phase.VERIFYING]))
    brought = Saved(commit=f"{BASE}commits/i1-g0001.json", files=3, final=True)
    saved = draw(st.sampled_from([None, None, None, brought]))
    stop = make_stop(
        phase, id="stop-run-a", saved=saved, attempt=draw(st.sampled_from([1, 1, 2, 99])), rescue=draw(BEGUN_RESCUES)
    )
    verified = CheckpointStatus(commit="k", digest="d", verified_at=WALL)
    known = {"checkpoint": draw(st.sampled_from([None, None, None, verified])), **status}
    return replace(on_the_way(seen, stop, **known), workload=JOB)


@st.composite
def saving(draw):
    """A stop that asks for proof, with anything in its pods."""
    status = {
        "start_time": draw(st.sampled_from([None, WALL])),
        "progress": draw(st.sampled_from([None, None, Progress(step=3, last_observation_time=WALL)])),
    }
    seen = wants_proof(draw(contradictions()), draw, **status)
    ranks = [draw(a_begun_rank(number)) for number in range(draw(st.sampled_from([1, 1, 2])))]
    verified = draw(st.one_of(st.none(), st.none(), VERIFIED))
    return replace(seen, ranks=tuple(ranks), verified=verified, answer=draw(st.one_of(st.none(), st.none(), ANSWERS)))


@st.composite
def beginning(draw):
    """A stop that asks for proof while the training runs, and has shown or written little or nothing."""
    progress = draw(st.sampled_from([None, None, None, Progress(step=3, last_observation_time=WALL)]))
    seen = wants_proof(draw(contradictions()), draw, start_time=WALL, progress=progress)
    zero = st.just([make_reading(2.0, 0)])
    ranks = [
        begun(number, [draw(TRAINS)], draw(QUIET_AGENTS), draw(st.one_of(zero, BEGINNINGS)))
        for number in range(draw(st.sampled_from([1, 1, 2])))
    ]
    return replace(
        seen,
        ranks=tuple(ranks),
        verified=draw(st.one_of(st.none(), st.none(), st.none(), VERIFIED)),
        answer=draw(st.sampled_from([None, None, None, Unreachable("Timeout", "It does not answer.")])),
    )


@st.composite
def crashed(draw):
    """A pod whose training has crashed waits behind its gate."""
    seen = draw(contradictions())
    pod = replace(draw(PODS), phase="Running", training=Training.EXITED, exit_code=1, gate_open=False)
    seen = on_the_way(seen, None, workload=None)
    run = replace(seen.run, deleting=False)
    seen = with_rank(replace(seen, run=run, workload=JOB, nodes=()), pods=(pod,), agent=None)
    return replace(seen, ranks=seen.ranks[:1])


@st.composite
def releasing(draw):
    """One node on its way back, with what is seen of it."""
    seen = draw(contradictions())
    phase = draw(st.sampled_from([*NodePhase, NodePhase.RELEASING, NodePhase.VERIFYING]))
    node = draw(NODE_RECORDS).model_copy(update={"name": "gpu-1", "uid": "n1", "pool": "a100", "phase": phase})
    found = replace(
        draw(NODE_FACTS),
        name="gpu-1",
        uid=draw(st.sampled_from(["n1", "n1", "n1", None])),
        tainted_by=draw(st.sampled_from(["run-a", "run-a", None, "run-b"])),
        occupants=draw(st.sampled_from([(), (), None, (Occupant("team", "notebook"),)])),
        instance=draw(st.sampled_from([Instance.RUNNING, *Instance])),
        at_minimum=draw(st.sampled_from([False, False, True])),
        refusal=None,
    )
    if phase is NodePhase.VERIFYING and found.instance is Instance.RUNNING:
        ghost = "A machine without a Node still runs and is billed. " if found.uid is None else ""
        node = node.model_copy(update={"message": f"{ghost}Termination requested again."})
    seen = with_rank(on_the_way(seen, make_stop(Phase.RELEASING), nodes=(node,)), pods=())
    return replace(
        seen,
        ranks=seen.ranks[:1],
        nodes=(found,),
        pools=draw(st.sampled_from([(make_pool("a100"),), (make_pool("a100"),), ()])),
        node_seconds={"n1": draw(st.sampled_from([0.0, 60.0]))},
        gate_seconds={"n1": draw(st.sampled_from([0.0, 60.0, 300.0]))},
    )


@st.composite
def looks(draw):
    """What one look may have read of a run, as contradictory as it comes."""
    seen = draw(observations())
    facts = draw(st.lists(NODE_FACTS, max_size=2))
    return Facts(
        run=seen.run,
        wall=seen.wall,
        defaults=seen.defaults,
        read=draw(st.frozensets(st.sampled_from(Source))),
        pools=seen.pools,
        workload=seen.workload,
        pods=seen.pods,
        reports=draw(st.dictionaries(st.integers(0, 2), AGENTS, max_size=2)),
        readings=draw(st.dictionaries(st.integers(0, 2), READINGS, max_size=2)),
        fates=draw(st.dictionaries(st.sampled_from(["p1", "p2"]), st.builds(Fate, BOOLS, BOOLS), max_size=2)),
        answer=seen.answer,
        verified=seen.verified,
        unverifiable=draw(st.sampled_from(["", "key"])),
        refuted=tuple(draw(st.lists(REFUTED, max_size=2))),
        identities={fact.name: fact for fact in facts},
        nodes=seen.nodes,
        ending_runs=seen.ending_runs,
        namespace_labels=draw(st.sampled_from([None, {}, {"team": "ml"}])),
        namespace_ends=draw(BOOLS),
        problem=seen.problem,
        ended_before=draw(st.one_of(st.none(), VERIFIED)),
        log_tails=draw(st.dictionaries(st.sampled_from(POD_UIDS), TEXT, max_size=2)),
        log_searches=draw(
            st.dictionaries(
                st.sampled_from(POD_UIDS), st.builds(LogSearch, st.just((PATTERN,)), st.sampled_from(["", PATTERN]))
            )
        ),
        printed=draw(
            st.sampled_from(
                [
                    None,
                    Failure("LogUnreadable", "x"),
                    Printed((DONE,), 9),
                    Printed((DONE,), 9, 1, DONE, "DONE"),
                    Printed((DONE, "("), 2**60, 2, DONE, "\x00" * 9000),
                ]
            )
        ),
        disruption_budget=draw(st.sampled_from([None, "", "uid"])),
        rescue=seen.rescue,
    )


LEARNED = st.one_of(
    st.builds(
        ProviderAnswered,
        st.sampled_from(["aws:///zone/i-1", ""]),
        st.one_of(st.none(), st.builds(Refusal, st.sampled_from(RefusalKind), TEXT, SECONDS)),
    ),
    st.builds(DisruptionBudgetChanged, st.sampled_from([None, "", "uid"])),
    st.builds(RescueRefused, TEXT),
    st.builds(JobRefused, st.builds(Problem, TEXT, TEXT, BOOLS)),
)


def observations():
    """Anything that may be observed, with more than chance would give of what matters most."""
    return st.one_of(
        contradictions(), contradictions(), saving(), beginning(), deleting(), crashed(), releasing(), releasing()
    )
