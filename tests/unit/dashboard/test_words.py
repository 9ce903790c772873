"""What people read: every state has a shape and words, and every failed call a sentence."""

from __future__ import annotations

import pytest
from goldens import assert_golden

from trainingrun_operator.api.endings import ENDINGS
from trainingrun_operator.api.status import Phase
from trainingrun_operator.dashboard.words import STEPS, Look, count, duration, look, trouble
from trainingrun_operator.edge.apiserver.transport import KubeError

PHASES = ("Pending", "Running", "Stopping", "Held", "Succeeded", "Stopped", "Failed")
ENDS = {"Succeeded", "Stopped", "Failed"}


@pytest.mark.parametrize(
    ("phase", "status", "shown"),
    [
        ("Succeeded", "auto_complete", Look("check", "good", "Training complete")),
        ("Succeeded", "auto_low_loss", Look("check", "good", "Auto-stopped (low loss)")),
        ("Stopped", "user_stop", Look("square", "stopped", "Stopped by user")),
        ("Failed", "failed", Look("cross", "bad", "Failed")),
        ("Failed", "deleted", Look("bin", "quiet", "Deleted")),
        pytest.param("Failed", "auto_complete", Look("cross", "bad", "Training complete, checkpoint not saved"), id="complete, and nothing to show for it"),
        pytest.param("Succeeded", "auto_plateau", Look("check", "good", "Auto-stopped (plateau)"), id="an end that is newer than the dashboard"),
        pytest.param("Stopped", "max_duration", Look("square", "stopped", "Stopped (max duration)"), id="a limit that is newer than the dashboard"),
        pytest.param("Failed", "", Look("cross", "bad", "Failed"), id="no reason given"),
        pytest.param("Thinking", "", Look("ring", "quiet", "Thinking"), id="a phase that is newer than the dashboard"),
        pytest.param("Stopping", "user_stop", Look("half", "stopped", "Stopping"), id="not at its end yet"),
        ("Held", "auto_low_loss", Look("triangle", "warn", "Held")),
        ("Running", "", Look("play", "busy", "Running")),
        ("", "", Look("ring", "quiet", "Not processed yet")),
    ],
)  # fmt: skip
def test_a_state_is_shown_by_shape_and_words(phase, status, shown):
    assert look(phase, status) == shown


def test_no_two_states_are_told_apart_by_their_colour_alone():
    looks = {look(phase, status) for phase in PHASES for status in (ENDINGS if phase in ENDS else ("",))}
    assert len({(each.icon, each.words) for each in looks}) == len(looks)
    by_icon = {icon: {each.tone for each in looks if each.icon == icon} for icon in {each.icon for each in looks}}
    assert all(len(tones) == 1 for tones in by_icon.values()), "A shape has one colour."


def test_every_phase_of_a_stop_is_a_step_but_held_which_is_saving_that_does_not_succeed():
    assert {phase for phase, _, _ in STEPS} == set(Phase) - {Phase.HELD}


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (-3, "0 s"), (59.4, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h"), (12_000, "3 h 20 min"), (86_400, "1 d"), (187_200, "2 d 4 h")],
)  # fmt: skip
def test_durations_are_as_exact_as_they_are_useful(seconds, said):
    assert duration(seconds) == said


def test_large_numbers_are_grouped():
    assert count(1_234_567) == "1,234,567"


ERRORS = (
    KubeError(401, "Unauthorized", "x"),
    KubeError(403, "Forbidden", 'User "eve" cannot patch'),
    KubeError(404, "NotFound", "x"),
    KubeError(409, "Conflict", "x"),
    KubeError(422, "Invalid", "spec.stop is one way"),
    KubeError(429, "TooManyRequests", "x"),
    KubeError(503, "Unavailable", "x"),
    KubeError(0, "Unreachable", "it did not answer in time"),
    KubeError(500, "InternalError", "etcd"),
)


def test_a_failed_call_is_a_sentence_that_says_what_to_do():
    told = "".join(f"{error.status} {error.reason}: {trouble(error, 'stop it')}\n" for error in ERRORS)
    assert_golden("dashboard/trouble.txt", told)
