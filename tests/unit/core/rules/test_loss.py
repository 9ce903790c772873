"""The loss threshold: enforced, only watched, or off."""

from __future__ import annotations

from dataclasses import replace
from math import nan
from typing import Any

import pytest
from builders import (
    NOW,
    losses,
    make_agent,
    make_observed,
    make_reading,
    make_run,
    make_spec,
    make_status,
    make_stop,
    track_of,
)

from trainingrun_operator.api.exchange import CommitSeen
from trainingrun_operator.api.status import Effective, Shadow
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.defaults import Defaults
from trainingrun_operator.core.effects import Begin
from trainingrun_operator.core.facts.reading import Failure
from trainingrun_operator.core.rules import chain, loss
from trainingrun_operator.core.track import Track
from trainingrun_operator.core.words import shown

EMPTY_HANDED = make_agent(newest=None, commit=None, files=0)
TIMEOUT = Failure("Timeout", "10.0.0.7:8000 did not answer within 3 s.")


def ending(seen):
    """The finding that the loss ends the run; None: it does not."""
    return chain.why_end(seen, (loss.low_loss,))


def shadows(seen):
    """`status.shadow` as it is written now."""
    return chain.shadows(seen, chain.findings(seen, (loss.low_loss,)))


def with_odd_last_reading(reading):
    return track_of(
        (NOW - 40, make_reading(loss=9, step=0)),
        (NOW - 30, make_reading(loss=0.4, step=1)),
        (NOW - 20, make_reading(loss=0.3, step=2)),
        (NOW - 10, reading),
    )


@pytest.mark.parametrize(
    ("track", "ends"),
    [
        pytest.param(losses(2.0, 1.5, 1.2), False, id="a high loss ends nothing"),
        pytest.param(losses(2.0, 1.5, 0.3), False, id="loss below the threshold once is not enough"),
        pytest.param(losses(2.0, 0.4, 0.3), True, id="twice in a row is"),
        pytest.param(losses(0.4, 0.3, 0.6), False, id="earlier lows do not count once it is up again"),
        pytest.param(losses(0.3, 0.6, 0.3), False, id="the two must follow each other"),
        pytest.param(losses(0.5, 0.5, 0.5), False, id="equal to the threshold is not below it"),
        pytest.param(losses(0.3), False, id="one observation is never enough"),
        pytest.param(track_of((NOW, make_reading(loss=0.0, step=0))), False, id="a gauge at its initial 0 ends nothing"),
        pytest.param(track_of(*((NOW - i, make_reading(loss=0.1, step=7)) for i in (9, 6, 3))), False, id="a step that never advanced ends nothing"),
        pytest.param(losses(0.4, 0.3, until=NOW - 500), False, id="a loss that went stale ends nothing"),
        pytest.param(losses(0.4, 0.3, nan), False, id="a NaN after it ends nothing"),
        pytest.param(with_odd_last_reading(TIMEOUT), False, id="a failed scrape after it ends nothing"),
        pytest.param(with_odd_last_reading(make_reading(step=3)), False, id="a page without a loss after it ends nothing"),
        pytest.param(with_odd_last_reading(make_reading(loss=0.3, step=2)), True, id="the same step read again changes nothing"),
    ],
)  # fmt: skip
def test_a_low_loss_ends_the_run(track, ends):
    seen = make_observed(track=track)
    assert (ending(seen) is not None) == ends
    assert any(isinstance(effect, Begin) for effect in decide(seen).effects) == ends


def test_the_finding_says_the_loss_the_threshold_and_the_step_with_both_observations():
    found = loss.low_loss(make_observed(track=losses(2.0, 0.41234, 0.29306)))
    assert (found.status, found.message, found.actor, found.inferred) == (
        "auto_low_loss", "Loss 0.2931 < 0.5 at step 1300.", "autoStopLoss", False,
    )  # fmt: skip
    assert [(e.what, e.value, e.step) for e in found.evidence] == [("loss", "0.4123", 1200), ("loss", "0.2931", 1300)]


@pytest.mark.parametrize(
    ("written", "defaults", "threshold", "action"),
    [
        pytest.param(0.3, Defaults(), 0.3, "Stop", id="what is written is enforced"),
        pytest.param(0.0, Defaults(), 0.0, "Stop", id="0 is a threshold like any other"),
        pytest.param(-1, Defaults(), None, "Off", id="negative is off"),
        pytest.param(-1, Defaults(auto_stop_action="Stop"), None, "Off", id="negative is off whatever the installation says"),
        pytest.param(None, Defaults(), 0.5, "Shadow", id="absent is 0.5, only watched"),
        pytest.param(None, Defaults(auto_stop_action="Stop"), 0.5, "Stop", id="absent is enforced where the installation says so"),
        pytest.param(None, Defaults(auto_stop_loss=0.2), 0.2, "Shadow", id="absent is what the installation says"),
    ],
)  # fmt: skip
def test_what_is_in_force(written, defaults, threshold, action):
    force = loss.effective(make_spec(autoStopLoss=written), None, defaults)
    assert (force.auto_stop_loss, force.auto_stop_action, force.node_pool) == (threshold, action, "")


FELL = track_of(
    (NOW - 150, make_reading(loss=2.0, step=0)),
    *((NOW - 140 + i * 10, make_reading(loss=1.5, step=1000 + 10 * i)) for i in range(11)),
    (NOW - 10, make_reading(loss=0.4, step=1085)),
)


@pytest.mark.parametrize(
    ("track", "reason"),
    [
        pytest.param(losses(-3.0, -9.0), "NegativeLoss", id="a negative loss"),
        pytest.param(losses(0.4, 0.39), "NeverAbove", id="a loss that was below from the first"),
        pytest.param(losses(2.0, 0.4), "TooFewObservations", id="a loss that fell below it once"),
        pytest.param(FELL, "StepFell", id="a step below the newest one"),
    ],
)
def test_a_default_threshold_says_why_it_does_not_count(track, reason):
    found = loss.low_loss(make_observed(run=make_run(spec={"autoStopLoss": None}), track=track))
    assert (found.reason, found.fires) == (reason, False)


ENFORCED = Defaults(auto_stop_action="Stop")


@pytest.mark.parametrize(
    ("spec", "source", "ends"),
    [
        pytest.param({}, "Prometheus", True, id="a page"),
        pytest.param({}, "", True, id="what tells no source"),
        pytest.param({}, "Logs", False, id="a log that nobody has chosen"),
        pytest.param({}, "Files", False, id="files that nobody has chosen"),
        pytest.param({"metrics": {"source": "Auto"}}, "Logs", True, id="a log that Auto has taken"),
        pytest.param({"metrics": {"source": "Logs"}}, "Logs", True, id="a log that the spec names"),
        pytest.param({"autoStopLoss": 0.5}, "Logs", True, id="a threshold of the spec"),
        pytest.param({"autoStopLossSchedule": [{"step": 1, "loss": 0.5}]}, "Logs", True, id="a schedule of the spec"),
    ],
)  # fmt: skip
def test_a_default_that_the_installation_enforces_ends_no_run_by_numbers_that_nobody_has_chosen(spec, source, ends):
    run = make_run(spec={"autoStopLoss": None, **spec})
    found = loss.low_loss(
        make_observed(run=run, track=replace(losses(2.0, 0.4, 0.3), source=source), defaults=ENFORCED)
    )
    assert (found.reason, found.fires, found.enforced) == ("LowLoss", True, ends)
    assert ("neither autoStopLoss nor metrics.source" in found.message) is not ends


@pytest.mark.parametrize(("written", "off"), [(None, False), (0.0, False), (0.3, False), (-1, True), (-0.5, True)])
def test_only_a_negative_threshold_is_switched_off(written, off):
    said = loss.switched_off(make_spec(autoStopLoss=written))
    assert bool(said) == off
    assert ("write a stop rule" in said) == (written == -0.5), "It may be written as a threshold."


@pytest.mark.parametrize(
    ("written", "pinned", "threshold", "action"),
    [
        pytest.param(None, Effective(auto_stop_loss=0.7, auto_stop_action="Shadow"), 0.7, "Shadow", id="a default is pinned at the start"),
        pytest.param(0.2, Effective(auto_stop_loss=0.7, auto_stop_action="Shadow"), 0.2, "Stop", id="what is written later counts"),
        pytest.param(None, Effective(auto_stop_loss=0.2, auto_stop_action="Stop"), 0.5, "Shadow", id="what is taken away later counts no more"),
    ],
)  # fmt: skip
def test_what_was_pinned(written, pinned, threshold, action):
    pinned = pinned.model_copy(update={"node_pool": "a100"})
    force = loss.effective(make_spec(autoStopLoss=written), pinned, Defaults())
    assert (force.auto_stop_loss, force.auto_stop_action, force.node_pool) == (threshold, action, "a100")


@pytest.mark.parametrize("written", [None, 0.3])
@pytest.mark.parametrize("pinned", [None, Effective(auto_stop_loss=0.7, auto_stop_action="Shadow")])
def test_the_metric_source_is_the_one_that_is_written_now(written, pinned):
    spec = make_spec(autoStopLoss=written, metrics={"source": "Mine"})
    assert loss.effective(spec, pinned, Defaults()).metrics_source == "Mine"


@pytest.mark.parametrize("written", [None, 0.3])
def test_a_threshold_that_is_written_once_the_run_ends_does_not_bring_the_rule_back(written):
    status = make_status(termination=make_stop(), effective=Effective(auto_stop_action="Off"))
    found = loss.low_loss(make_observed(run=make_run(spec={"autoStopLoss": written}, status=status)))
    assert (found.reason, found.message) == ("Off", "The rule is off.")


AUTO = make_spec(metrics={"source": "Auto"})
TAKEN = Effective(metrics_source="Logs", metrics_source_note="Prometheus was not taken: Timeout.")


def source_in_force(spec, pinned, track):
    force = loss.effective(spec, pinned, Defaults(), track)
    return force.metrics_source, force.metrics_source_note


def test_what_auto_has_taken_is_in_force_and_stays():
    by_page = Track(source="Prometheus", source_note="It has both.")
    assert source_in_force(AUTO, None, None) == ("Auto", "")
    assert source_in_force(AUTO, None, Track(source="Auto")) == ("Auto", "")
    assert source_in_force(AUTO, None, by_page) == ("Prometheus", "It has both.")
    assert source_in_force(AUTO, TAKEN, by_page) == ("Logs", TAKEN.metrics_source_note)
    assert source_in_force(AUTO, Effective(metrics_source="Prometheus"), None) == ("Auto", "")


def test_a_source_that_is_written_takes_the_place_of_what_auto_has_taken():
    assert source_in_force(make_spec(metrics={"source": "Prometheus"}), TAKEN, None) == ("Prometheus", "")


LOW = losses(2.0, 0.4, 0.3)


@pytest.mark.parametrize(
    ("spec", "agent", "ends"),
    [
        pytest.param({}, make_agent(), True, id="with a complete checkpoint it ends"),
        pytest.param({}, EMPTY_HANDED, False, id="it waits for the first complete checkpoint"),
        pytest.param({}, None, False, id="it waits while the agent does not answer"),
        pytest.param(
            {},
            make_agent(newest=None, commit=CommitSeen(key="k", incarnation=1, generation=1)),
            True,
            id="a commit of an earlier checkpoint is enough",
        ),
        pytest.param({"checkpoint": {"mode": "Disabled"}}, None, True, id="where nothing is saved it waits for nothing"),
        pytest.param({"autoStopLoss": -1}, EMPTY_HANDED, False, id="off waits for nothing"),
        pytest.param({"autoStopLoss": None}, EMPTY_HANDED, False, id="a watched threshold waits for nothing"),
    ],
)  # fmt: skip
def test_stopping_never_means_losing_everything(spec, agent, ends):
    seen = make_observed(run=make_run(spec=spec), agent=agent, track=LOW)
    assert (ending(seen) is not None) == ends


SCHEDULE = {"autoStopLossSchedule": [{"step": 1100, "loss": 1.0}, {"step": 1300, "loss": 0.5}]}


@pytest.mark.parametrize(
    ("spec", "track", "ends"),
    [
        pytest.param({"autoStopLoss": None}, losses(0.9, 0.8, first_step=800), None, id="before its first step there is no threshold"),
        pytest.param({"autoStopLoss": 2}, losses(1.9, 1.8, first_step=800), "Loss 1.8 < 2 at step 1000.", id="before its first step the written one applies"),
        pytest.param({"autoStopLoss": 2}, losses(1.9, 1.8), None, id="from then on it does not"),
        pytest.param({"autoStopLoss": None}, losses(0.9, 0.8), "Loss 0.8 < 1 at step 1200.", id="the first threshold"),
        pytest.param({"autoStopLoss": None}, losses(2.0, 0.9, 0.8), None, id="the second one is lower"),
        pytest.param({"autoStopLoss": None}, losses(2.0, 0.4, 0.3), "Loss 0.3 < 0.5 at step 1300.", id="below the second one"),
        pytest.param({"autoStopLoss": None}, losses(-1.0, -2.0, -3.0), "Loss -3 < 0.5 at step 1300.", id="a written schedule acts on any loss"),
    ],
)  # fmt: skip
def test_a_threshold_that_falls_as_the_steps_grow(spec, track, ends):
    seen = make_observed(run=make_run(spec=SCHEDULE | spec), track=track)
    found = ending(seen)
    assert (found and found.message) == ends
    assert loss.in_force(seen).auto_stop_action == "Stop"


def test_a_schedule_that_is_not_valid_ends_nothing_and_says_so():
    schedule = {"autoStopLossSchedule": [{"step": 0, "loss": 0.5}, {"step": 10, "loss": 1}], "autoStopLoss": None}
    seen = make_observed(run=make_run(spec=schedule), track=LOW)
    assert ending(seen) is None
    assert "must fall" in loss.low_loss(seen).message


SHADOWED = {"autoStopLoss": None}


def test_a_threshold_that_is_only_watched_says_when_it_would_have_ended_the_run():
    seen = make_observed(run=make_run(spec=SHADOWED), track=LOW)
    assert ending(seen) is None
    trained: dict[str, Any] = {"trained_seconds": 245, "saved_gpu_hours": 0}
    assert shadows(seen) == (Shadow(rule="autoStopLoss", would_stop_at=seen.wall, step=1300, value="0.3", **trained),)


@pytest.mark.parametrize(
    ("spec", "track"),
    [
        pytest.param(SHADOWED, losses(2.0, 1.9), id="a high loss"),
        pytest.param({"autoStopLoss": 0.5}, LOW, id="an enforced threshold"),
        pytest.param({"autoStopLoss": -1}, LOW, id="no threshold"),
    ],
)
def test_nothing_is_watched(spec, track):
    assert shadows(make_observed(run=make_run(spec=spec), track=track)) == ()


def test_the_first_time_is_kept():
    first = Shadow(rule="autoStopLoss", would_stop_at="2025-12-31T00:00:00Z", step=100, value="0.49")
    run = make_run(spec=SHADOWED, status=make_status(shadow=(first,)))
    assert shadows(make_observed(run=run, track=LOW)) == (first,)


def test_the_installation_may_enforce_its_default():
    seen = make_observed(run=make_run(spec=SHADOWED), track=LOW, defaults=Defaults(auto_stop_action="Stop"))
    assert ending(seen) is not None


def test_staleness_is_measured_from_the_last_sound_reading():
    fresh = make_observed(track=LOW, now=NOW + 120)
    assert ending(fresh) is not None
    assert ending(replace(fresh, now=NOW + 121)) is None


@pytest.mark.parametrize(
    ("number", "text"),
    [
        pytest.param(0.293061, "0.2931", id="four digits"),
        pytest.param(1.0, "1", id="no trailing zeros"),
        pytest.param(1e-9, "1e-09", id="small ones too"),
        pytest.param(None, "none", id="nothing"),
    ],
)
def test_a_loss_as_people_read_it(number, text):
    assert shown(number) == text
