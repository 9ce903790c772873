"""A run as one line of a list."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from builders import EARLIER, make_node, make_status, make_stop
from fakes import stored_run

from trainingrun_operator.api.status import Condition, Effective, NodePhase, Phase, PodStatus, Progress, Shadow
from trainingrun_operator.cli.rows import read, row_of

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
LOOKED = Condition(type="Accepted", status="True", reason="Accepted", last_transition_time=EARLIER)


def row(*, conditions=(LOOKED,), meta=None, spec=None, **status):
    stored = stored_run(spec=spec, status=make_status(conditions=conditions, **status).dump(), **(meta or {}))
    return row_of(stored, read(stored), NOW)


def false(kind, reason, status="False", message=""):
    found = Condition(type=kind, status=status, reason=reason, message=message, last_transition_time=EARLIER)
    return (found,) if kind == LOOKED.type else (LOOKED, found)


def test_numbers_are_shown_as_the_status_has_them():
    seen = row(
        phase="Running",
        effective=Effective(auto_stop_loss=0.5),
        progress=Progress(loss="0.6211", best_loss="0.59", step=1200, percent=66, eta_seconds=610),
        nodes=(make_node(NodePhase.IN_USE), make_node(NodePhase.IN_USE, name="gpu-2"), make_node(NodePhase.RELEASED)),
    )
    assert (seen.loss, seen.target, seen.step, seen.done, seen.left, seen.age) == (
        "0.6211",
        "0.5",
        "1200",
        "66%",
        "10m10s",
        "4m5s",
    )
    assert (seen.best, seen.nodes) == ("0.59", "InUse, Released")


@pytest.mark.parametrize(
    ("effective", "target"),
    [
        pytest.param(None, "", id="not known yet"),
        pytest.param(Effective(auto_stop_loss=0.3), "0.3", id="enforced"),
        pytest.param(Effective(auto_stop_loss=0.5, auto_stop_action="Shadow"), "0.5 watched", id="only watched"),
        pytest.param(Effective(auto_stop_action="Off"), "", id="off"),
    ],
)
def test_a_target_says_whether_it_ends_anything(effective, target):
    assert row(effective=effective).target == target


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        pytest.param({"conditions": ()}, "not processed yet", id="nobody has looked"),
        pytest.param({"phase": "Running"}, "", id="nothing to say"),
        pytest.param(
            {"conditions": false("Accepted", "NoCredentials"), "phase": "Pending"}, "NoCredentials", id="refused"
        ),
        pytest.param({"spec": {"stop": True}}, "stop requested", id="stop not acted on"),
        pytest.param({"meta": {"deletionTimestamp": EARLIER}}, "deleted", id="delete not acted on"),
        pytest.param(
            {
                "conditions": false("MetricsAvailable", "NotRunning", "Unknown"),
                "pods": (PodStatus(name="bert-x7k2p", uid="u", waiting="Unschedulable", waiting_message="no."),),
                "phase": "Pending",
            },
            "Unschedulable",
            id="a pod that waits",
        ),
        pytest.param(
            {"conditions": false("MetricsAvailable", "NotRunning", "Unknown"), "phase": "Pending"},
            "",
            id="a pod on its way",
        ),
        pytest.param(
            {"conditions": false("MetricsAvailable", "NodeLost", "Unknown"), "phase": "Pending"},
            "NodeLost",
            id="a machine that went",
        ),
        pytest.param(
            {"conditions": false("MetricsAvailable", "Timeout"), "phase": "Running"},
            "no loss: Timeout",
            id="metrics missing",
        ),
        pytest.param(
            {"conditions": false("CheckpointSaved", "AccessDenied"), "phase": "Running"},
            "not saved: AccessDenied",
            id="saving fails",
        ),
        pytest.param(
            {"conditions": false("CheckpointSaved", "Disabled"), "phase": "Running"},
            "",
            id="saving is disabled on purpose",
        ),
        pytest.param(
            {"conditions": false("Hung", "NoProgress", status="True"), "phase": "Running"}, "hung", id="nothing moves"
        ),
        pytest.param(
            {"conditions": false("Idle", "IdleGPUs", status="True"), "phase": "Running"}, "idle", id="its GPUs are idle"
        ),
        pytest.param({"conditions": false("Idle", "Busy"), "phase": "Running"}, "", id="its GPUs work again"),
        pytest.param({"conditions": false("Hung", "Progresses"), "phase": "Running"}, "", id="it moves again"),
        pytest.param(
            {"shadow": (Shadow(rule="autoStopLoss", would_stop_at=EARLIER, value="0.4"),)},
            "autoStopLoss would have",
            id="only watched, and would have",
        ),
        pytest.param(
            {"termination": make_stop(Phase.SAVING), "phase": "Stopping"}, "auto_low_loss: Saving", id="stopping"
        ),
        pytest.param({"termination": make_stop(Phase.HELD), "phase": "Held"}, "auto_low_loss: Held", id="held"),
        pytest.param({"termination": make_stop(Phase.DONE), "phase": "Succeeded"}, "auto_low_loss", id="ended"),
    ],
)
def test_why_in_a_word_or_two(fields, why):
    assert row(**fields).why == why


def test_a_run_of_a_newer_version_does_not_take_the_list_away():
    stored = stored_run(status={"phase": "Suspending", "termination": {"phase": "Suspending"}})
    seen = row_of(stored, read(stored), NOW)
    assert (seen.name, seen.phase, seen.why) == ("bert", "Suspending", "not readable by this version")
