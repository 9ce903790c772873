"""Readings become observations only when the step has advanced."""

from __future__ import annotations

from dataclasses import replace
from math import inf, isnan, nan

import pytest
from builders import POD_UID, make_reading, track_of

from trainingrun_operator.api.status import Progress
from trainingrun_operator.core.facts.reading import Failure
from trainingrun_operator.core.losses import Losses
from trainingrun_operator.core.track import Observation, Track, fold, resumed

REFUSED = Failure("ConnectionRefused", "Nothing listens on 10.0.0.7:8000.")
S = make_reading


def at_every_10(*readings):
    return track_of(*((10.0 * i, reading) for i, reading in enumerate(readings)))


@pytest.mark.parametrize(
    ("readings", "steps"),
    [
        pytest.param([], [], id="no reading is no observation"),
        pytest.param([S(loss=0.0, step=0)], [], id="a gauge at its initial 0 is no observation"),
        pytest.param([S(loss=0.1, step=0)] * 5, [], id="a gauge that stays at 0 never becomes one"),
        pytest.param([S(loss=2, step=500)], [], id="the first step seen may be a gauge's initial value"),
        pytest.param([S(loss=2, step=0), S(loss=1.5, step=10)], [10], id="a step forward is an observation"),
        pytest.param([S(loss=2, step=0), *[S(loss=1, step=10)] * 3], [10], id="the same step read again is none"),
        pytest.param([S(loss=2, step=5), S(loss=1, step=3)], [], id="a step that goes backwards is none"),
        pytest.param(
            [S(loss=2, step=5), S(loss=1, step=8), S(loss=1, step=6), S(loss=1, step=9)],
            [8, 9],
            id="after going backwards it counts again once it is further than ever",
        ),
        pytest.param([S(loss=2, step=0), REFUSED, S(loss=1, step=10)], [10], id="a failed scrape keeps the track"),
        pytest.param([S(loss=2, step=0), S(loss=1, step=None)], [], id="a page without a step is none"),
        pytest.param([S(loss=2, step=0), S(loss=1, step=nan)], [], id="NaN is no step"),
        pytest.param([S(loss=2, step=0), S(loss=1, step=inf)], [], id="infinity is no step"),
        pytest.param([S(loss=2, step=-9), S(loss=1, step=-3)], [], id="a negative number is no step"),
        pytest.param(
            [S(loss=2, step=0), S(loss=1, step=1e300)], [], id="a number that no reader keeps exact is no step"
        ),
        pytest.param([S(loss=2, step=0), S(loss=1, step=10.9)], [10], id="a fraction of a step is cut off"),
    ],
)
def test_observations(readings, steps):
    assert [o.step for o in at_every_10(*readings).observations] == steps


@pytest.mark.parametrize(
    ("readings", "reason"),
    [
        pytest.param([S(loss=2, step=0)], "NeverAdvanced", id="the first reading has not advanced"),
        pytest.param([S(loss=2, step=0)] * 2, "NeverAdvanced", id="standing still from the start is said"),
        pytest.param([S(loss=2, step=0), S(loss=1, step=1)], None, id="a step forward is sound"),
        pytest.param([S(loss=2, step=0), S(loss=1, step=1), S(loss=1, step=1)], None, id="so is reading it again"),
        pytest.param([S(loss=nan, step=1)], "NotFinite", id="NaN is said"),
        pytest.param([S(loss=-inf, step=1)], "NotFinite", id="infinity is said"),
        pytest.param([S(loss=None, step=1)], "NoSuchMetric", id="a page without a loss is said"),
        pytest.param([S()], "NoSuchMetric", id="an empty page lacks the loss first"),
        pytest.param([S(loss=1)], "NoStep", id="a page without a step is said"),
        pytest.param([S(loss=nan)], "NotFinite", id="a NaN loss comes before a missing step"),
        pytest.param([S(loss=2, step=0), REFUSED], "ConnectionRefused", id="a failed scrape is said"),
        pytest.param([REFUSED, S(loss=2, step=0), S(loss=2, step=1)], None, id="and forgotten with the next good one"),
    ],
)
def test_oddity(readings, reason):
    oddity = at_every_10(*readings).oddity
    assert (oddity.reason if oddity else None) == reason


def test_another_source_begins_a_new_stage_and_the_best_loss_stays():
    of_page = [replace(S(loss=loss, step=step), source="Prometheus") for loss, step in ((2, 0), (0.3, 10), (0.2, 20))]
    of_log = [replace(S(loss=loss, step=step), source="Logs") for loss, step in ((0.1, 21), (0.09, 22))]
    track = at_every_10(*of_page, *of_log)
    assert (track.source, track.step, track.best_loss, track.fell) == ("Logs", 22, 0.09, None)
    assert [one.loss for one in track.losses.logged] == [0.09]
    assert at_every_10(*of_page, of_log[0]).best_loss == 0.2
    assert at_every_10(*of_page, REFUSED, of_page[-1]).losses.logged == at_every_10(*of_page).losses.logged


@pytest.mark.parametrize(
    ("reading", "reason"), [(S(step=1), "NoSuchMetric"), (S(loss=1), "NoStep")], ids=["no loss", "no step"]
)
def test_what_a_log_lacks_is_said_of_the_log(reading, reason):
    oddity = at_every_10(replace(reading, source="Logs")).oddity
    assert oddity is not None
    assert oddity.reason == reason
    assert oddity.message.startswith("The log has no ")


@pytest.mark.parametrize(
    ("readings", "polls"),
    [
        pytest.param([S(loss=2, step=0), *[S(loss=1, step=1)] * 4], 3, id="readings of the same step are counted"),
        pytest.param([S(loss=2, step=0), S(loss=1, step=1), *[REFUSED] * 9], 0, id="failed scrapes are not"),
        pytest.param(
            [S(loss=2, step=0), *[S(loss=1, step=1)] * 4, S(loss=1, step=2)], 0, id="a step forward begins anew"
        ),
        pytest.param([S(loss=2, step=0), S(loss=1, step=1), S(loss=1)], 0, id="pages without a step are not"),
    ],
)
def test_polls_without_advance(readings, polls):
    assert at_every_10(*readings).polls_without_advance == polls


def test_a_new_pod_begins_a_new_track_but_keeps_the_best_loss():
    before = at_every_10(S(loss=2, step=0), S(loss=0.3, step=10), S(loss=0.4, step=20))
    after = fold(before, S(loss=9, step=5), pod_uid="another", now=50)
    assert (after.pod_uid, after.observations, after.step, after.best_loss) == ("another", (), 5, 0.3)


def test_a_failed_scrape_of_a_new_pod_begins_a_new_track_too():
    before = at_every_10(S(loss=2, step=0), S(loss=0.3, step=10))
    assert fold(before, REFUSED, pod_uid="another", now=50) == Track(
        "another", losses=Losses(best=0.3, highest=0.3), oddity=REFUSED
    )


def test_a_step_with_a_nan_loss_is_an_observation_without_a_loss():
    track = at_every_10(S(loss=2, step=0), S(loss=1.0, step=1), S(loss=nan, step=2))
    assert [(o.step, o.loss) for o in track.observations] == [(1, 1.0), (2, None)]
    assert (track.loss, track.best_loss, track.loss_at) == (1.0, 1.0, 10.0)


def test_only_the_newest_observations_are_remembered():
    track = at_every_10(*(S(loss=1, step=i) for i in range(100)))
    assert (len(track.observations), track.step) == (16, 99)


def test_the_best_loss_is_the_lowest_of_all():
    assert at_every_10(S(loss=0.1, step=0), *(S(loss=v, step=i + 1) for i, v in enumerate((3, 1, 2)))).best_loss == 1


def test_nothing_is_known_of_an_empty_track():
    track = Track()
    assert (track.newest, track.step, track.loss, track.typical_interval, track.percent, track.advanced) == (
        None, None, None, None, None, False,
    )  # fmt: skip
    assert track.eta_seconds(0) is None
    assert not track.in_final_epoch
    assert not track.epochs.beyond_total


def test_the_typical_interval_is_the_median_of_at_least_two():
    two = at_every_10(S(loss=1, step=0), S(loss=1, step=1), S(loss=1, step=2))
    assert two.typical_interval is None
    three = fold(two, S(loss=1, step=3), pod_uid=POD_UID, now=60)
    assert three.typical_interval == 25


def epochs(*pairs, total=3.0):
    """One reading per (step, epoch), 10 seconds apart."""
    return at_every_10(*(S(loss=1, step=step, epoch=epoch, total_epochs=total) for step, epoch in pairs))


@pytest.mark.parametrize(
    ("pairs", "base", "final"),
    [
        pytest.param([(0, 0), (1, 0)], 0, False, id="the first of three from 0 is not the last"),
        pytest.param([(0, 0), (1, 0), (2, 2)], 0, True, id="from 0 the last of three is called 2"),
        pytest.param([(0, 1), (1, 1), (2, 2)], 1, False, id="from 1 the second of three is called 2"),
        pytest.param([(0, 1), (1, 1), (2, 3)], 1, True, id="from 1 the last of three is called 3"),
        pytest.param([(0, 0), (1, 0.01), (2, 2.4)], 0, True, id="fractions count from 0"),
        pytest.param([(0, 0), (1, 0.01), (2, 1.99)], 0, False, id="a fraction of the second is not the last"),
        pytest.param([(0, 2), (1, 2), (2, 2)], None, False, id="first seen in the middle, the count is unknown"),
        pytest.param([(0, 0), (1, 1)], 1, False, id="a gauge's initial 0 does not say that epochs count from 0"),
        pytest.param([(0, 0), (1, nan), (2, 0)], 0, False, id="NaN is no epoch"),
        pytest.param([(0, 0), (1, None)], None, False, id="without an epoch the count is unknown"),
        pytest.param([(0, 0), (1, -1)], None, False, id="a negative number is no epoch"),
    ],
)
def test_the_count_of_epochs_is_taken_from_the_first_one_seen(pairs, base, final):
    track = epochs(*pairs)
    assert (track.epoch_base, track.in_final_epoch) == (base, final)


@pytest.mark.parametrize(
    ("pairs", "final", "percent"),
    [
        pytest.param([(0, 0), (1, 0.01), (2, 1.99)], False, 83, id="a fraction of the second"),
        pytest.param([(0, 0), (1, 0.01), (2, 2.1)], True, 88, id="a fraction of the third, which is not whole"),
        pytest.param([(0, 0), (1, 0.01), (2, 2.37)], True, 100, id="the end"),
        pytest.param([(0, 0), (1, 0.01), (2, 2.41)], True, 100, id="the end, a batch later"),
        pytest.param([(0, 0), (1, 0.01), (2, 2.43)], False, None, id="beyond it, so that the total is wrong"),
        pytest.param([(0, 0), (1, 0), (2, 1)], False, 42, id="from 0 the second in whole numbers"),
        pytest.param([(0, 0), (1, 0), (2, 2)], True, 84, id="from 0 the third"),
        pytest.param([(0, 1), (1, 1), (2, 2)], False, 42, id="from 1 the second"),
        pytest.param([(0, 1), (1, 1), (2, 3)], True, 84, id="from 1 the third"),
        pytest.param([(0, 1), (1, 1), (2, 4)], False, None, id="a fourth, so that the total is wrong"),
        pytest.param([(0, 1), (1, 1), (2, 3.3)], True, 97, id="fractions from 1"),
    ],
)
def test_of_2_37_epochs_the_third_is_the_last(pairs, final, percent):
    track = epochs(*pairs, total=2.37)
    assert (track.in_final_epoch, track.percent) == (final, percent)


@pytest.mark.parametrize(
    "total",
    [
        pytest.param(None, id="without a total"),
        pytest.param(nan, id="with a total of NaN"),
        pytest.param(inf, id="with an infinite total"),
        pytest.param(-3.0, id="with a negative total"),
    ],
)
def test_no_epoch_is_the_last_one(total):
    track = epochs((0, 0), (1, 0), (2, 99), total=total)
    assert (track.in_final_epoch, track.percent, track.eta_seconds(100)) == (False, None, None)


def test_a_total_that_is_missing_once_is_remembered():
    track = fold(epochs((0, 0), (1, 0)), S(loss=1, step=2, epoch=2), pod_uid=POD_UID, now=90)
    assert (track.total_epochs, track.in_final_epoch) == (3, True)


@pytest.mark.parametrize(
    ("pairs", "percent"),
    [
        pytest.param([(0, 0), (1, 0)], 0, id="nothing is behind us in the first"),
        pytest.param([(0, 0), (1, 0.1), (2, 1.5)], 50, id="half of three"),
        pytest.param([(0, 1), (1, 1), (2, 3)], 66, id="a whole number does not say how much of the last is done"),
        pytest.param([(0, 0), (1, 0.1), (2, 3.04)], 100, id="never more than all"),
        pytest.param([(0, 5), (1, 5)], None, id="unknown while the count is"),
    ],
)
def test_percent(pairs, percent):
    assert epochs(*pairs).percent == percent


@pytest.mark.parametrize(
    ("pairs", "now", "eta"),
    [
        pytest.param([(0, 0), (1, 0)], 60, None, id="no pace in the first epoch"),
        pytest.param([(0, 0), (1, 0), (2, 1)], 20, 20, id="two to go at ten seconds each"),
        pytest.param([(0, 0), (1, 0), (2, 1)], 25, 15, id="time passes within an epoch, too"),
        pytest.param([(0, 0), (1, 0), (2, 2)], 60, 0, id="never negative"),
        pytest.param([(0, 0), (1, 0), (2, 1e-12)], 60, None, id="more than ten years is no estimate"),
        pytest.param([(0, 5), (1, 5), (2, 6)], 60, None, id="unknown while the count is"),
    ],
)
def test_eta(pairs, now, eta):
    assert epochs(*pairs).eta_seconds(now) == eta


def test_a_loss_is_dated_when_it_was_read_even_if_the_step_stands():
    track = at_every_10(S(loss=2, step=0), S(loss=1, step=1), S(loss=1, step=1))
    assert track.loss_at == 20
    assert not isnan(track.loss)


# -- going on from what was written down ---------------------------------------------------------------------------

WRITTEN = Progress(
    step=200, epoch="2", total_epochs=3, best_loss="0.31", epoch_base=0, step_interval="10", pod_uid=POD_UID
)


def test_an_operator_that_starts_goes_on_where_the_one_before_it_was():
    track = resumed(WRITTEN, pod_uid=POD_UID, now=1000)
    assert (track.step, track.advanced, track.in_final_epoch) == (200, True, True)
    assert (track.typical_interval, track.best_loss, track.polls_without_advance) == (10, 0.31, 0)
    still = fold(track, S(loss=0.4, step=200, epoch=2, total_epochs=3), pod_uid=POD_UID, now=1010)
    assert (still.polls_without_advance, still.oddity, still.in_final_epoch) == (1, None, True)
    assert still.newest == Observation(200, None, 1000), "The quiet is measured from here, and no loss is taken over."


@pytest.mark.parametrize(
    ("readings", "of_bar"),
    [
        pytest.param((), True, id="nothing has said it again"),
        pytest.param((S(loss=1, step=201, epoch=2),), True, id="a reading without it"),
        pytest.param((S(loss=1, step=201, epoch=2, total_epochs=3),), False, id="the training has"),
        pytest.param((S(loss=1, step=201, epoch=2, total_epochs=0),), True, id="a gauge that is still 0"),
        pytest.param((S(loss=1, step=201, epoch=2, total_epochs=nan),), True, id="no number"),
        pytest.param((replace(S(loss=1, step=201, epoch=2, total_epochs=3), total_of_bar=True),), True, id="a bar has"),
        pytest.param(
            (S(loss=1, step=201, epoch=2, total_epochs=3), replace(S(loss=1, step=202, epoch=2, total_epochs=5), total_of_bar=True)),
            True,
            id="a bar with another total",
        ),
    ],
)  # fmt: skip
def test_a_total_that_was_written_is_a_bar_s_until_the_training_says_it(readings, of_bar):
    track = resumed(WRITTEN, pod_uid=POD_UID, now=0)
    for at, reading in enumerate(readings, 1):
        track = fold(track, reading, pod_uid=POD_UID, now=10.0 * at)
    assert track.epochs.of_bar is of_bar
    assert not fold(track, S(loss=1, step=1), pod_uid="next", now=99).epochs.of_bar, "The next pod says its own."


def test_what_is_measured_anew_is_believed_more_than_what_was_written():
    track = resumed(WRITTEN, pod_uid=POD_UID, now=1000)
    for i in (1, 2):
        track = fold(track, S(loss=1, step=200 + i, epoch=2), pod_uid=POD_UID, now=1000 + 30 * i)
    assert track.typical_interval == 30


def test_the_count_of_epochs_that_was_written_is_not_guessed_again():
    first = WRITTEN.model_copy(update={"epoch": "1", "epoch_base": 0})
    track = fold(resumed(first, pod_uid=POD_UID, now=0), S(loss=1, step=201, epoch=1), pod_uid=POD_UID, now=10)
    assert track.epoch_base == 0


@pytest.mark.parametrize(
    "written",
    [
        pytest.param(None, id="nothing was written"),
        pytest.param(WRITTEN.model_copy(update={"step": None}), id="no step was written"),
    ],
)
def test_an_operator_that_starts_begins_anew(written):
    assert resumed(written, pod_uid=POD_UID, now=1000) == Track()


@pytest.mark.parametrize("text", [None, "", "many", "nan", "inf"])
def test_what_is_written_and_no_number_is_unknown(text):
    track = resumed(WRITTEN.model_copy(update={"step_interval": text, "epoch": text}), pod_uid=POD_UID, now=0)
    assert (track.typical_interval, track.epoch) == (None, None)


@pytest.mark.parametrize(
    ("measured", "at"),
    [
        pytest.param(None, 20, id="not said: as it was read"),
        pytest.param(17.0, 17, id="a while ago"),
        pytest.param(20.0, 20, id="just now"),
        pytest.param(21.0, 20, id="never in the future"),
        pytest.param(9.0, 20, id="never before the last observation: intervals would run backwards"),
        pytest.param(-inf, 20, id="never before all time"),
        pytest.param(nan, 20, id="never at no time"),
    ],
)
def test_a_value_is_as_old_as_its_source_says(measured, at):
    track = track_of((0, S(2, 0)), (10, S(1, 1)), (20, S(0.5, 2, epoch=1, at=measured)))
    assert (track.observations[-1].at, track.loss_at, track.epochs.at) == (at, at, at)
