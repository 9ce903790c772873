"""What a run's status says: phase, conditions, progress, sentence."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import (
    EARLIER,
    NOW,
    POD_UID,
    WALL,
    checkpoint_spec,
    exited_pod,
    finished_pod,
    losses,
    make_agent,
    make_mismatch,
    make_node,
    make_observed,
    make_pod,
    make_reading,
    make_run,
    make_saved,
    make_status,
    make_stop,
    make_unreachable,
    make_verified,
    make_workload,
    pending_pod,
    stopping_at,
    track_of,
    with_rank,
)

from trainingrun_operator.api.exchange import AgentError
from trainingrun_operator.api.restored import PassedOver, Restored
from trainingrun_operator.api.status import (
    CheckpointStatus,
    Condition,
    Lag,
    NodePhase,
    Phase,
    PhaseChange,
    PodStatus,
    Progress,
    WorkloadRef,
)
from trainingrun_operator.core.defaults import Defaults
from trainingrun_operator.core.facts.rank import RefusedReport
from trainingrun_operator.core.facts.reading import Failure
from trainingrun_operator.core.facts.run import Problem
from trainingrun_operator.core.status import WRITTEN_BY_THE_STOP, observed_fields, render
from trainingrun_operator.core.track import Track

DISABLED = {"checkpoint": {"mode": "Disabled"}}
LOSS = "The pod ended before anything was saved: the bucket has nothing of this run."
VERIFIED = f"Checkpoint checkpoint-1200 verified at {make_saved().uri}."
EMPTY = make_saved(
    commit="", digest="", uri="", dir="", step=None, bytes=0, files=0, note="No file was under the checkpoint path."
)


def said(seen, kind):
    condition = next(c for c in render(seen).conditions if c.type == kind)
    return condition.status, condition.reason, condition.message


def done(status="auto_low_loss", spec=None, nodes=(), **stop):
    made = make_status(termination=make_stop(Phase.DONE, status=status, **stop), nodes=nodes)
    return make_observed(
        run=make_run(spec=spec, status=made), pods=(), workload=make_workload(finished=True), agent=None, track=Track()
    )


FRESH = make_observed(
    run=make_run(status=make_status(start_time=None)), workload=None, pods=(), agent=None, track=Track()
)


def test_every_condition_is_said_at_first_sight():
    assert [(c.type, c.status, c.reason) for c in render(FRESH).conditions] == [
        ("Accepted", "Unknown", "Checking"),
        ("MetricsAvailable", "Unknown", "NotRunning"),
        ("CheckpointSaved", "Unknown", "NothingYet"),
        ("NodesReleased", "Unknown", "NoNodes"),
        ("Finished", "False", "NotStopping"),
        ("Succeeded", "Unknown", "NotFinished"),
        ("Stalled", "False", "Checking"),
    ]


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [
        pytest.param(FRESH, ("Unknown", "Checking", "The spec is being checked."), id="not yet looked at"),
        pytest.param(
            make_observed(),
            ("True", "Accepted", "The spec can be acted on. Agent and operator use the keys in Secret s3-credentials."),
            id="its Job exists",
        ),
        pytest.param(
            done(),
            ("True", "Accepted", "The spec can be acted on. Agent and operator use the keys in Secret s3-credentials."),
            id="it has ended",
        ),
        pytest.param(
            replace(FRESH, problem=Problem("SecretNotFound", "There is no Secret 's3'.")),
            ("False", "SecretNotFound", "There is no Secret 's3'."),
            id="a problem found on the way",
        ),
        pytest.param(
            replace(FRESH, run=make_run(spec={"checkpoint": checkpoint_spec(destination=None)})),
            (
                "False",
                "InvalidDestination",
                "spec.checkpoint: destination '' does not have the form s3://bucket/prefix.",
            ),
            id="a spec that cannot be acted on",
        ),
        pytest.param(
            make_observed(run=make_run(spec={"nodePool": {"ref": "later-deleted"}})),
            ("True", "Accepted", "The spec can be acted on. Agent and operator use the keys in Secret s3-credentials."),
            id="what is refused before the Job exists is not refused afterwards",
        ),
    ],
)
def test_accepted(seen, wanted):
    assert said(seen, "Accepted") == wanted
    stalled = ("True", *wanted[1:]) if wanted[0] == "False" else ("False", wanted[1], "")
    assert said(seen, "Stalled") == stalled


def reading(sample, at=NOW):
    return track_of((NOW - 20, make_reading(loss=2, step=0)), (NOW - 10, make_reading(loss=1, step=1)), (at, sample))


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        pytest.param({}, ("True", "Fresh", "A finite, fresh loss is read."), id="a fresh loss"),
        pytest.param({"pods": ()}, ("Unknown", "NotRunning", "No training is running."), id="no pod"),
        pytest.param({"pods": (pending_pod(),)}, ("Unknown", "NotRunning", "No training is running."), id="a pending pod"),
        pytest.param(
            {"pods": (pending_pod(waiting_reason="Unschedulable", waiting_message="0/3 nodes are available"),)},
            ("Unknown", "NotRunning", "No training is running. The pod waits: Unschedulable: 0/3 nodes are available"),
            id="a pending pod that says what it waits for",
        ),
        pytest.param(
            {"pods": (finished_pod(0, disruption="Evicted: disk"),)},
            ("Unknown", "NotRunning", "No training is running. Pod bert-x7k2p was told to leave (Evicted: disk): the Job replaces it."),
            id="an evicted pod",
        ),
        pytest.param(
            {"pods": (pending_pod(phase="Failed", failure_before_start="init container fetch ended with exit code 42"), pending_pod())},
            ("Unknown", "NotRunning", "No training is running. The training could not start: init container fetch ended with exit code 42 in pod bert-x7k2p."),
            id="a pod whose init container failed",
        ),
        pytest.param(
            {"pods": (make_pod(lost=True),)},
            ("Unknown", "NodeLost", "The machine of node gpu-1 and its pod bert-x7k2p are gone: the Job replaces the pod once the Node is removed."),
            id="a pod whose machine is gone",
        ),
        pytest.param({"pods": (make_pod(lost=True), make_pod(uid="next"))}, ("True", "Fresh", "A finite, fresh loss is read."), id="which was replaced"),
        pytest.param(
            {"pods": (make_pod(host_network=True),)},
            ("False", "HostNetwork", "The pod uses the host network; its metrics are not read, because they could be another pod's."),
            id="a pod on the host's network",
        ),
        pytest.param({"track": Track()}, ("Unknown", "NotReadYet", "The metrics have not been read yet."), id="not read yet"),
        pytest.param(
            {"track": reading(Failure("ConnectionRefused", "Nothing listens on 10.0.0.7:8000."))},
            ("False", "ConnectionRefused", "Nothing listens on 10.0.0.7:8000."),
            id="a failed scrape",
        ),
        pytest.param(
            {"track": reading(make_reading(step=2))},
            ("False", "NoSuchMetric", "The metrics page has no loss under any of the names in spec.metrics.names.loss."),
            id="no loss",
        ),
        pytest.param(
            {"track": reading(make_reading(loss=float("nan"), step=2))},
            ("False", "NotFinite", "The loss is nan: no rule uses it."),
            id="a NaN",
        ),
        pytest.param(
            {"track": track_of((NOW, make_reading(loss=0.0, step=0)))},
            ("False", "NeverAdvanced", "The step is still 0, its first value: no rule uses it before it advances."),
            id="a gauge at its initial value",
        ),
        pytest.param({"now": NOW + 130}, ("False", "Stale", "No loss was read for 130 seconds."), id="a stale loss"),
    ],
)  # fmt: skip
def test_metrics_available(fields, wanted):
    assert said(make_observed(**fields), "MetricsAvailable") == wanted


def test_a_refused_report_says_what_from_which_pod_and_what_to_do():
    assert REFUSED.sentence == (
        "The report of the agent in pod bert-x7k2p is refused: its field newest.step is invalid (int_parsing). It counts as no answer, so what the volume holds is"
        " not known: see the log of container checkpoint-agent, and let nothing else in the pod listen on port 18790."
    )


def test_metrics_are_not_available_once_the_run_ends():
    assert said(done(), "MetricsAvailable") == ("False", "NotRunning", "No training is running.")
    lost = with_rank(done(), pods=(make_pod(lost=True),))
    assert said(lost, "MetricsAvailable") == ("False", "NotRunning", "No training is running.")


REFUSED = RefusedReport("bert-x7k2p", "its field newest.step is invalid (int_parsing)")
BEFORE = Condition(
    type="CheckpointSaved", status="True", reason="Verified", message="Earlier.", last_transition_time=EARLIER
)
NOTHING_FOUND = (
    "False",
    "NothingFound",
    "Steps advance, but no file is under /checkpoints: does the training write its checkpoints there ($TRAININGRUN_CHECKPOINT_DIR)?",
)


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [
        pytest.param(
            make_observed(), ("Unknown", "NothingYet", "No checkpoint has been verified yet."), id="nothing yet"
        ),
        pytest.param(
            make_observed(verified=make_verified()), ("True", "Verified", VERIFIED), id="verified while it trains"
        ),
        pytest.param(
            make_observed(run=make_run(spec=DISABLED), verified=make_verified()),
            ("False", "Disabled", "spec.checkpoint.mode is Disabled: nothing is saved."),
            id="disabled, whatever lies in the bucket",
        ),
        pytest.param(make_observed(agent=make_agent(files=0)), NOTHING_FOUND, id="steps, but nothing under the path"),
        pytest.param(
            make_observed(agent=make_agent(files=0), track=Track()),
            ("Unknown", "NothingYet", "No checkpoint has been verified yet."),
            id="no steps and nothing under the path",
        ),
        pytest.param(
            make_observed(verified=make_verified(total_files=0, checkpoint=None)),
            ("Unknown", "NothingYet", "No checkpoint has been verified yet."),
            id="an empty commit proves nothing",
        ),
        pytest.param(
            make_observed(agent=make_agent(error=AgentError(code="NoSuchBucket", message="There is no bucket."))),
            ("False", "NoSuchBucket", "There is no bucket."),
            id="the agent's trouble",
        ),
        pytest.param(
            make_observed(agent=None, refused=REFUSED), ("Unknown", "ReportRefused", REFUSED.sentence), id="refused"
        ),
        pytest.param(
            make_observed(agent=None, refused=REFUSED, verified=make_verified()),
            ("Unknown", "ReportRefused", REFUSED.sentence),
            id="a refused report, after a checkpoint was verified",
        ),
        pytest.param(
            make_observed(agent=None, refused=REFUSED, run=make_run(status=make_status(conditions=(BEFORE,)))),
            ("Unknown", "ReportRefused", REFUSED.sentence),
            id="a refused report, after an earlier process verified one",
        ),
        pytest.param(
            stopping_at(Phase.HELD, stop={"hold_reason": "No disk."}, agent=None, refused=REFUSED),
            ("False", "Held", "No disk."),
            id="held, and a report is refused",
        ),
        pytest.param(
            make_observed(answer=make_mismatch()),
            ("False", "Mismatch", "model.safetensors has 10 bytes, not 12"),
            id="a commit that does not verify",
        ),
        pytest.param(
            make_observed(answer=make_unreachable()),
            ("False", "AccessDenied", "s3://bucket answers AccessDenied."),
            id="a bucket that cannot be read",
        ),
        pytest.param(
            make_observed(run=make_run(status=make_status(conditions=(BEFORE,)))),
            ("True", "Verified", "Earlier."),
            id="what an earlier process verified",
        ),
        pytest.param(
            stopping_at(Phase.HELD, stop={"hold_reason": "No disk."}), ("False", "Held", "No disk."), id="held"
        ),
        pytest.param(stopping_at(Phase.HELD), ("False", "Held", ""), id="held by a process of few words"),
        pytest.param(done(), ("True", "Verified", VERIFIED), id="saved by the stop"),
        pytest.param(
            done(saved=EMPTY), ("False", "NothingFound", "No file was under the checkpoint path."), id="nothing to save"
        ),
        pytest.param(done(data_loss=LOSS), ("False", "DataLoss", LOSS), id="bytes were lost"),
    ],
)
def test_checkpoint_saved(seen, wanted):
    assert said(seen, "CheckpointSaved") == wanted


RELEASED, RETAINED = (
    make_node(NodePhase.RELEASED),
    make_node(NodePhase.RETAINED, name="gpu-2", uid="n2", message="Kept: at its minimum."),
)
WAITING = make_node(NodePhase.WAIT_IDLE, name="gpu-3", uid="n3", message="Occupied by team/notebook.")


def with_nodes(phase, *nodes, **defaults):
    stop = make_stop(phase) if phase else None
    run = make_run(status=make_status(termination=stop, nodes=nodes))
    return make_observed(run=run, defaults=Defaults(**defaults))


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [
        pytest.param(with_nodes(None), ("Unknown", "NoNodes", "No node is used yet."), id="none yet"),
        pytest.param(with_nodes(Phase.SAVING), ("Unknown", "NoNodes", "No node was used."), id="none, and it ends"),
        pytest.param(with_nodes(Phase.DONE), ("True", "NoNodes", "No node was used."), id="none ever"),
        pytest.param(
            with_nodes(Phase.DONE, release_nodes=False),
            ("Unknown", "NodesNotReleased", "This operator does not release nodes (nodeRelease.enabled)."),
            id="nobody's business",
        ),
        pytest.param(with_nodes(None, make_node()), ("False", "InUse", "gpu-1: InUse"), id="in use"),
        pytest.param(with_nodes(Phase.RELEASING, RELEASED, WAITING), ("False", "WaitIdle", "gpu-3: Occupied by team/notebook."), id="waiting"),
        pytest.param(with_nodes(Phase.DONE, RELEASED), ("True", "Released", "Node gpu-1 released."), id="released"),
        pytest.param(
            with_nodes(Phase.DONE, RELEASED, make_node(NodePhase.RELEASED, name="gpu-4")),
            ("True", "Released", "Nodes gpu-1, gpu-4 released."),
            id="two released",
        ),
        pytest.param(
            with_nodes(Phase.DONE, RELEASED, RETAINED),
            ("True", "Retained", "Node gpu-1 released. Node gpu-2: Kept: at its minimum."),
            id="one kept on purpose",
        ),
    ],
)  # fmt: skip
def test_nodes_released(seen, wanted):
    assert said(seen, "NodesReleased") == wanted


WHY = make_stop().message


@pytest.mark.parametrize(
    ("seen", "finished", "succeeded", "phase"),
    [
        pytest.param(make_observed(), ("False", "NotStopping", "The run has not ended."), ("Unknown", "NotFinished", ""), "Running", id="it trains"),
        pytest.param(FRESH, ("False", "NotStopping", "The run has not ended."), ("Unknown", "NotFinished", ""), "Pending", id="it has no Job"),
        pytest.param(
            make_observed(pods=(pending_pod(),)), ("False", "NotStopping", "The run has not ended."), ("Unknown", "NotFinished", ""), "Pending", id="it waits for a node"
        ),
        pytest.param(
            make_observed(pods=(exited_pod(1),)), ("False", "NotStopping", "The run has not ended."), ("Unknown", "NotFinished", ""), "Running", id="it crashed and starts again"
        ),
        pytest.param(stopping_at(Phase.SAVING), ("False", "Saving", WHY), ("Unknown", "NotFinished", ""), "Stopping", id="it is saved"),
        pytest.param(stopping_at(Phase.HELD), ("False", "Held", WHY), ("Unknown", "NotFinished", ""), "Held", id="it is held"),
        pytest.param(done(), ("True", "AutoLowLoss", WHY), ("True", "AutoLowLoss", WHY), "Succeeded", id="low loss"),
        pytest.param(done("auto_complete"), ("True", "AutoComplete", WHY), ("True", "AutoComplete", WHY), "Succeeded", id="complete"),
        pytest.param(done("user_stop"), ("True", "UserStop", WHY), ("False", "UserStop", WHY), "Stopped", id="stopped by hand"),
        pytest.param(done("deleted"), ("True", "Deleted", WHY), ("False", "Deleted", WHY), "Stopped", id="deleted"),
        pytest.param(done("failed"), ("True", "Failed", WHY), ("False", "Failed", WHY), "Failed", id="failed"),
        pytest.param(done("auto_plateau"), ("True", "AutoPlateau", WHY), ("True", "AutoPlateau", WHY), "Succeeded", id="a plateau"),
        pytest.param(done("auto_non_finite"), ("True", "AutoNonFinite", WHY), ("False", "AutoNonFinite", WHY), "Failed", id="a value that is not finite"),
        pytest.param(done("max_duration"), ("True", "MaxDuration", WHY), ("False", "MaxDuration", WHY), "Stopped", id="at the limit of its time"),
        pytest.param(done("auto_luck"), ("True", "AutoLuck", WHY), ("False", "AutoLuck", WHY), "Failed", id="a status that this version does not know"),
        pytest.param(done(data_loss=LOSS), ("True", "AutoLowLoss", WHY), ("False", "DataLoss", LOSS), "Failed", id="low loss, but its checkpoint is lost"),
        pytest.param(
            done(saved=EMPTY), ("True", "AutoLowLoss", WHY), ("False", "NothingFound", EMPTY.note), "Failed", id="low loss, but there was no checkpoint"
        ),
        pytest.param(done(spec=DISABLED, saved=EMPTY), ("True", "AutoLowLoss", WHY), ("True", "AutoLowLoss", WHY), "Succeeded", id="nothing had to be saved"),
    ],
)  # fmt: skip
def test_finished_succeeded_and_phase(seen, finished, succeeded, phase):
    assert said(seen, "Finished") == finished
    assert said(seen, "Succeeded") == succeeded
    assert render(seen).phase == phase


def test_a_condition_is_dated_when_its_status_changed_and_not_when_its_words_did():
    held = make_status(
        conditions=(
            Condition(type="Accepted", status="True", reason="Old", message="Old.", last_transition_time=EARLIER),
            Condition(type="MetricsAvailable", status="False", reason="Old", last_transition_time=EARLIER),
        )
    )
    status = render(make_observed(run=make_run(status=held, generation=4)))
    accepted, metrics = status.conditions[:2]
    assert (accepted.reason, accepted.last_transition_time, accepted.observed_generation) == ("Accepted", EARLIER, 4)
    assert (metrics.status, metrics.last_transition_time) == ("True", WALL)
    assert status.observed_generation == 4


@pytest.mark.parametrize(
    ("seen", "sentence"),
    [
        pytest.param(make_observed(), None, id="none while it trains"),
        pytest.param(
            done(nodes=(RELEASED,)),
            f"Loss 0.2931 < 0.5 at step 1200. {VERIFIED} Node gpu-1 released.",
            id="loss, threshold, step, checkpoint and node",
        ),
        pytest.param(stopping_at(Phase.SAVING), "Loss 0.2931 < 0.5 at step 1200.", id="why it stops, at first"),
        pytest.param(
            stopping_at(Phase.HELD, stop={"hold_reason": "The agent in the pod does not answer."}),
            "Loss 0.2931 < 0.5 at step 1200. Held: The agent in the pod does not answer.",
            id="why it is held",
        ),
        pytest.param(done(saved=EMPTY, data_loss=LOSS), f"{WHY} {LOSS}", id="what was lost, once"),
        pytest.param(done(saved=None, data_loss=LOSS), f"{WHY} {LOSS}", id="what was lost, without a record"),
        pytest.param(done(data_loss="The last 3 MB are lost."), f"{WHY} {VERIFIED} The last 3 MB are lost.", id="what was saved and what was lost"),
        pytest.param(done(nodes=(RETAINED,)), f"{WHY} {VERIFIED} Node gpu-2: Kept: at its minimum.", id="why a node is kept"),
    ],
)  # fmt: skip
def test_termination_message(seen, sentence):
    assert render(seen).termination_message == sentence


def test_everything_that_is_too_long_for_the_schema_is_cut():
    error = AgentError(code="C" * 999, message="m" * 9999)
    status, reason, message = said(
        make_observed(agent=make_agent(error=error, unsaved_bytes=2**80), verified=make_verified()), "CheckpointSaved"
    )
    assert (status, len(reason), len(message)) == ("False", 128, 4000)
    kept = tuple(make_node(NodePhase.RETAINED, uid=f"n{i}", message="Kept: " + "x" * 3000) for i in range(9))
    assert len(render(done(nodes=kept)).termination_message or "") == 4000


# -- progress -----------------------------------------------------------------------------------------------------


def final(step=300, polls=2):
    rows = [
        (0, 0, 0.0),
        (10, 100, 0.0),
        (20, 200, 1.0),
        (30, step, 2.0),
        *((40 + 10 * i, step, 2.0) for i in range(polls)),
    ]
    return track_of(
        *((NOW - 60 + at, make_reading(loss=1.23756 - s / 1e5, step=s, epoch=e, total_epochs=3)) for at, s, e in rows)
    )


def test_progress():
    assert render(make_observed(track=final(), now=NOW - 10)).progress == Progress(
        loss="1.235",
        best_loss="1.235",
        highest_loss="1.237",
        step=300,
        epoch="2",
        total_epochs=3,
        percent=66,
        eta_seconds=0,
        stall_polls=2,
        last_observation_time=WALL,
        step_interval="10",
        longest_pause="10",
        longest_epoch_pause="10",
        epoch_base=0,
        pod_uid=POD_UID,
    )


@pytest.mark.parametrize(
    ("status", "epoch", "saved_step", "progress"),
    [
        pytest.param("auto_complete", 0.9, 120, (120, 100, None), id="complete: all of it, as far as was saved"),
        pytest.param("auto_complete", 0.4, 120, (120, 40, None), id="complete far from its end: no more than was done"),
        pytest.param("user_stop", 0.4, 120, (120, 40, None), id="stopped: as far as was saved, and nothing lies ahead"),
        pytest.param("user_stop", 0.4, 90, (100, 40, None), id="what was read may be further than what was saved"),
        pytest.param("user_stop", 0.4, 64_000, (100, 40, None), id="a number that counts samples is no step"),
    ],
)
@pytest.mark.parametrize("remembers", [True, False], ids=["same process", "restarted"])
def test_progress_of_a_run_that_ends(status, epoch, saved_step, progress, remembers):
    before = Progress(
        step=100, percent=40, eta_seconds=60, epoch=f"{epoch}", total_epochs=1, epoch_base=0, fractional_epochs=True
    )
    stop = make_stop(Phase.DELETING, status=status, saved=make_saved(step=saved_step))
    rows = ((10.0, 0, 0.0), (20.0, 10, 0.0), (30.0, 100, epoch))
    track = track_of(
        *((at, make_reading(loss=1.0, step=step, epoch=epoch, total_epochs=1)) for at, step, epoch in rows)
    )
    run = make_run(status=make_status(termination=stop, progress=before))
    shown = render(make_observed(run=run, track=track if remembers else Track())).progress
    assert shown is not None
    assert (shown.step, shown.percent, shown.eta_seconds) == progress


@pytest.mark.parametrize(
    ("epochs", "percent"),
    [
        pytest.param({"epoch": "0.36", "total_epochs": 3, "epoch_base": 0, "fractional_epochs": True}, 12, id="in the first of three"),
        pytest.param({"epoch": "1", "total_epochs": 3, "epoch_base": 1}, 12, id="in the first of three, as a whole number"),
        pytest.param({"epoch": "2.4", "total_epochs": 3, "epoch_base": 0, "fractional_epochs": True}, 12, id="early in the last"),
        pytest.param({"epoch": "2.98", "total_epochs": 3, "epoch_base": 0, "fractional_epochs": True}, 100, id="late in the last"),
        pytest.param({"epoch": "3", "total_epochs": 3, "epoch_base": 1}, 100, id="in the last, as a whole number"),
        pytest.param({"epoch": "9", "total_epochs": 3, "epoch_base": 0}, 100, id="the total is wrong"),
        pytest.param({"epoch": "2", "total_epochs": 3}, 100, id="in the last, if epochs count from 0, which is unknown"),
        pytest.param({"epoch": "1", "total_epochs": 3}, 12, id="before the last, however epochs count"),
        pytest.param({}, 100, id="no epochs are known"),
    ],
)  # fmt: skip
def test_a_run_that_completed_far_from_its_end_is_not_shown_as_done(epochs, percent):
    stop = make_stop(Phase.DONE, status="auto_complete", saved=make_saved(step=1200))
    before = Progress(step=200, percent=12, **epochs)
    status = make_status(termination=stop, progress=before)
    shown = render(make_observed(run=make_run(status=status), track=Track())).progress
    assert shown is not None
    assert (shown.step, shown.percent) == (200, percent), "A number that is far from the step is no step."


def test_progress_of_a_run_that_knows_no_epochs():
    assert render(make_observed(track=losses(2.0, 1.5))).progress == Progress(
        loss="1.5",
        best_loss="1.5",
        highest_loss="2",
        step=1200,
        stall_polls=0,
        last_observation_time=WALL,
        longest_pause="10",
        pod_uid=POD_UID,
    )


def test_progress_is_kept_while_a_new_process_knows_nothing():
    before = Progress(step=7, best_loss="0.3", last_observation_time=EARLIER)
    seen = make_observed(run=make_run(status=make_status(progress=before)), track=Track())
    assert render(seen).progress == before
    assert render(make_observed(track=Track())).progress is None


@pytest.mark.parametrize(
    ("step", "at"),
    [
        pytest.param(1200, EARLIER, id="the same step keeps its time"),
        pytest.param(1100, WALL, id="a new step has a new one"),
    ],
)
def test_the_time_of_the_last_observation(step, at):
    before = Progress(step=step, last_observation_time=EARLIER)
    progress = render(make_observed(run=make_run(status=make_status(progress=before)), track=losses(2.0, 1.5))).progress
    assert progress is not None
    assert progress.last_observation_time == at


@pytest.mark.parametrize(
    ("before", "best"),
    [pytest.param(Progress(best_loss="0.3"), "0.3", id="is kept"), pytest.param(None, None, id="is unknown")],
)
def test_the_best_loss_before_any_was_read(before, best):
    track = track_of(
        (NOW - 20, make_reading(loss=float("nan"), step=0)), (NOW, make_reading(loss=float("nan"), step=1))
    )
    progress = render(make_observed(run=make_run(status=make_status(progress=before)), track=track)).progress
    assert progress is not None
    assert (progress.loss, progress.best_loss) == (None, best)


# -- pods, workload, checkpoint, history --------------------------------------------------------------------------


def test_pods():
    seen = make_observed(pods=(finished_pod(1, uid="old"), exited_pod(0)))
    assert render(seen).pods == (
        PodStatus(name="bert-x7k2p", uid="old", node="gpu-1", phase="Failed", exit_code=1),
        PodStatus(name="bert-x7k2p", uid=POD_UID, node="gpu-1", phase="Exited", exit_code=0),
    )


def test_how_a_pod_ended():
    evicted = (exited_pod(137, exit_reason="OOMKilled", disruption="Evicted: disk"), make_pod(deleting=True))
    for seen, told in ((make_observed(pods=evicted), "deleted"), (with_rank(done(), pods=evicted), "")):
        first, second = render(seen).pods
        assert (first.exit_code, first.exit_reason, first.told_to_leave) == (137, "OOMKilled", "Evicted: disk")
        assert second.told_to_leave == told, "A stop deletes the pods itself."


def test_without_pods_none_is_shown():
    assert render(make_observed(pods=())).pods == ()


def test_only_so_many_pods_as_the_status_can_hold():
    pods = tuple(finished_pod(1, uid=f"p{i}") for i in range(99))
    assert [pod.uid for pod in render(make_observed(pods=pods)).pods][::63] == ["p35", "p98"]


def test_the_start_is_the_first_container_of_the_first_pod_and_is_kept():
    fresh = make_observed(run=make_run(status=make_status(start_time=None)), pods=(make_pod(started_at=WALL),))
    assert render(fresh).start_time == WALL
    assert render(make_observed(pods=(make_pod(started_at=WALL),))).start_time == EARLIER
    assert render(FRESH).start_time is None


def test_workload_is_remembered_once_it_is_gone():
    workload = render(make_observed()).workload
    assert workload == WorkloadRef(api_version="batch/v1", kind="Job", name="bert", uid=make_workload().uid)
    gone = make_observed(run=make_run(status=make_status(workload=workload)), workload=None)
    assert render(gone).workload == workload


def test_what_is_in_force_names_the_pool_once_it_is_known():
    effective = render(with_nodes(None, make_node(pool=""), make_node(uid="n2"))).effective
    assert effective is not None
    assert (effective.auto_stop_loss, effective.auto_stop_action, effective.node_pool) == (0.5, "Stop", "a100")


def checkpoint(**fields):
    saved = make_saved()
    made = CheckpointStatus(
        uri=saved.uri, commit=saved.commit, generation=7, dir=saved.dir, step=1200, digest=saved.digest,
        bytes=4096, files=3, verified_at=WALL, lag=Lag(bytes=0),
    )  # fmt: skip
    return made.model_copy(update=fields)


def of(before=None, stop=None, **fields):
    return make_observed(run=make_run(status=make_status(checkpoint=before, termination=stop)), **fields)


@pytest.mark.parametrize(
    ("seen", "wanted"),
    [
        pytest.param(of(), None, id="none"),
        pytest.param(of(verified=make_verified()), checkpoint(), id="verified while it trains"),
        pytest.param(of(verified=make_verified(), agent=make_agent(unsaved_bytes=9)), checkpoint(lag=Lag(bytes=9)), id="with what is not saved yet"),
        pytest.param(of(verified=make_verified(), agent=None), checkpoint(lag=None), id="with nobody to say what is not"),
        pytest.param(of(checkpoint(verified_at=EARLIER), verified=make_verified()), checkpoint(verified_at=EARLIER), id="the same one keeps its time"),
        pytest.param(of(checkpoint(verified_at=EARLIER)), checkpoint(verified_at=EARLIER), id="an earlier one is kept"),
        pytest.param(
            of(checkpoint(verified_at=EARLIER, digest="x"), make_stop(Phase.DONE), verified=make_verified(generation=3)), checkpoint(), id="of a stop it is what was saved"
        ),
        pytest.param(of(None, make_stop(Phase.DONE, saved=EMPTY)), None, id="nothing was saved"),
        pytest.param(of(None, make_stop(Phase.DONE, saved=EMPTY, data_loss=LOSS)), CheckpointStatus(data_loss=LOSS), id="nothing was saved, which is a loss"),
        pytest.param(of(checkpoint(), make_stop(Phase.DONE, saved=EMPTY, data_loss=LOSS)), checkpoint(data_loss=LOSS), id="a loss after an earlier one"),
        pytest.param(of(None, make_stop(Phase.DONE, data_loss=LOSS)), checkpoint(data_loss=LOSS), id="a loss after what was saved"),
        pytest.param(of(None, make_stop(Phase.DONE, saved=make_saved(commit="elsewhere"))), checkpoint(commit="elsewhere", generation=None), id="a key of no known form"),
    ],
)  # fmt: skip
def test_checkpoint(seen, wanted):
    assert render(seen).checkpoint == wanted


def test_history_grows_with_the_phase_and_no_further_than_it_may():
    assert render(make_observed()).history == (PhaseChange(phase="Running", at=WALL),)
    same = (PhaseChange(phase="Running", at=EARLIER),)
    assert render(make_observed(run=make_run(status=make_status(history=same)))).history == same
    full = tuple(PhaseChange(phase=f"Phase{i}", at=EARLIER) for i in range(20))
    history = render(make_observed(run=make_run(status=make_status(history=full)))).history
    assert (len(history), history[0].phase, history[-1].phase) == (20, "Phase1", "Running")


def test_the_observer_never_writes_what_the_stop_writes_not_even_as_empty():
    fields = observed_fields(render(done(nodes=(RELEASED,))))
    assert not WRITTEN_BY_THE_STOP & fields.keys()
    assert {"conditions", "phase", "terminationMessage", "history"} <= fields.keys()


def test_what_the_newest_pod_starts_from_is_shown_until_another_pod_says_it():
    started = make_pod(
        restored=Restored(dir="step_100", step=100, passed_over=(PassedOver(commit="i1-g0002", why="x"),))
    )
    shown = render(make_observed(pods=(started,))).restored
    assert shown is not None
    assert (shown.pod, shown.step, shown.passed_over[0].commit) == (started.name, 100, "i1-g0002")
    later = make_observed(run=make_run(status=make_status(restored=shown)), pods=(started, pending_pod(uid="next")))
    assert render(later).restored == shown
    gone = make_observed(run=make_run(status=make_status(restored=shown)), pods=())
    assert render(gone).restored == shown


# -- what a suspension has lost ------------------------------------------------------------------------------------

OLD = "s3://bucket/base/commits/i1-g0005.json"


def resumed(*, commit=OLD, **fields):
    status = make_status(checkpoint=CheckpointStatus(commit=commit, digest="d", data_loss=LOSS))
    return render(make_observed(run=make_run(status=status), **fields))


def proven_by(pod_uid):
    return make_verified(pod_uid=pod_uid)


@pytest.mark.parametrize(
    ("fields", "lost"),
    [
        pytest.param({}, True, id="nothing was proven since"),
        pytest.param({"verified": proven_by("before")}, True, id="only a commit of an earlier pod is known"),
        pytest.param({"verified": proven_by("before"), "commit": ""}, True, id="and nothing was proven when it was lost"),
        pytest.param({"pods": (), "agent": None, "verified": proven_by("before")}, True, id="it has no pod yet"),
        pytest.param({"verified": proven_by(POD_UID)}, False, id="the resumed training has a proven checkpoint"),
    ],
)  # fmt: skip
def test_what_a_suspension_has_lost_stays_until_the_resumed_training_has_a_proven_checkpoint(fields, lost):
    status = resumed(**fields)
    saved = status.condition("CheckpointSaved")
    assert status.checkpoint is not None
    assert saved is not None
    assert status.checkpoint.data_loss == (LOSS if lost else None)
    assert (saved.status, saved.reason) == (("False", "DataLoss") if lost else ("True", "Verified"))


@pytest.mark.parametrize(
    ("stop", "commit", "lost"),
    [
        pytest.param({"saved": make_saved(commit="s3://bucket/base/commits/i2-g0001.json")}, OLD, None, id="a later stop has proven more"),
        pytest.param({"saved": make_saved(commit="s3://bucket/base/commits/i2-g0001.json")}, "", None, id="and nothing was proven before"),
        pytest.param({"saved": make_saved(commit=OLD)}, OLD, LOSS, id="it rests on what was proven before the loss"),
        pytest.param({"saved": None}, OLD, LOSS, id="it has no record yet"),
        pytest.param({"saved": make_saved(commit="", files=0, note="Nothing.")}, OLD, LOSS, id="it had nothing to save"),
        pytest.param({"data_loss": "More."}, OLD, "More.", id="it has lost more"),
    ],
)  # fmt: skip
def test_a_stop_after_a_suspension_with_loss(stop, commit, lost):
    before = CheckpointStatus(commit=commit, digest="d", data_loss=LOSS)
    status = make_status(checkpoint=before, termination=make_stop(Phase.DONE, **stop))
    shown = render(make_observed(run=make_run(status=status), pods=(), agent=None)).checkpoint
    assert shown is not None
    assert shown.data_loss == lost


def test_a_held_stop_says_why_it_is_held_also_after_a_loss():
    status = make_status(
        checkpoint=CheckpointStatus(commit=OLD, data_loss=LOSS), termination=make_stop(Phase.HELD, hold_reason="The bucket is away.")
    )  # fmt: skip
    saved = render(make_observed(run=make_run(status=status))).condition("CheckpointSaved")
    assert saved is not None
    assert saved.reason == "Held"


@pytest.mark.parametrize("lost", [None, LOSS])
def test_the_history_keeps_what_a_suspension_has_lost(lost):
    stop = make_stop(Phase.DONE, status="suspended", data_loss=lost)
    history = render(make_observed(run=make_run(status=make_status(termination=stop)), pods=(), agent=None)).history
    assert [(one.phase, one.data_loss) for one in history] == [("Suspended", lost)]
