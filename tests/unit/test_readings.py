"""What trainings show on their metrics pages, poll by poll: from the page to the rules and the status."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from builders import NOW, POD_UID, WALL, make_agent, make_found, make_pod, make_reading, make_run, make_workload

from trainingrun_operator.api.run import MetricNames
from trainingrun_operator.core import status
from trainingrun_operator.core.defaults import Defaults
from trainingrun_operator.core.facts.gathered import Facts
from trainingrun_operator.core.facts.reading import Failure
from trainingrun_operator.core.memory import Memory, remember
from trainingrun_operator.core.rules import chain
from trainingrun_operator.edge.metrics.page import parse

HOUR = 3600
NOT_WRITTEN = {"autoStopLoss": None}
ENFORCED = Defaults(auto_stop_action="Stop")
REFUSED = Failure("ConnectionRefused", "Nothing listens at http://10.0.0.7:8000/metrics.")


def page(loss=None, step=None, epoch=None, total=None):
    """The lines of a training that shows these numbers."""
    shown = {"training_loss": loss, "training_step": step, "training_epoch": epoch, "training_total_epochs": total}
    return "".join(f"{name} {value}\n" for name, value in shown.items() if value is not None)


class Training:
    """A training and the operator that polls it. The agent reports one checkpoint, written when `save` was called."""

    def __init__(self, *, spec=None, defaults=None, names=None):
        self.run = make_run(spec={**(spec or {}), **({"metrics": {"names": names}} if names else {})})
        self.defaults = defaults or Defaults()
        self.memory, self.now, self.pod_uid = Memory(), NOW, POD_UID
        self.saved: tuple[str, int | None] | None = ("checkpoint-1", 1)
        self.saved_at = self.changed_at = NOW
        self.found: Any = None

    def poll(self, text, *, every=10):
        """One poll of this page, or a failed one. Returns why the run would end now."""
        self.now += every
        reading = text if isinstance(text, Failure) else parse(text.encode(), self.run.spec.metrics.names)
        found = None
        if self.saved is not None:
            found = make_found(dir=self.saved[0], step=self.saved[1], age_seconds=self.now - self.saved_at)
        agent = make_agent(pod_uid=self.pod_uid, newest=found, last_change_seconds=self.now - self.changed_at)
        facts = Facts(
            self.run,
            WALL,
            defaults=self.defaults,
            workload=make_workload(),
            pods=(make_pod(uid=self.pod_uid),),
            reports={0: agent},
            readings={0: reading},
        )
        self.memory, seen = remember(self.memory, facts, self.now)
        self.found = self.found or chain.why_end(seen)
        self.run = replace(self.run, status=status.render(seen))
        return self.found

    def polls(self, *rows, every=10):
        """Poll once for each row: loss, step, epoch, total."""
        for row in rows:
            self.poll(page(*row), every=every)
        return self

    def stands(self, *row, seconds, every=10):
        """Show the same for some time."""
        return self.polls(*[row] * int(seconds // every), every=every)

    def save(self, name, step=None):
        """Write a checkpoint."""
        self.saved, self.saved_at, self.changed_at = (name, step), self.now, self.now
        return self

    def write(self):
        """Write a file that is in no checkpoint."""
        self.changed_at = self.now
        return self

    def restart_operator(self):
        """Another process, which knows only the status."""
        self.memory = Memory()
        return self

    def replace_pod(self):
        """The Job replaced the pod."""
        self.pod_uid += "-next"
        return self

    def end(self) -> Any:
        """Why the run has ended; None: it has not."""
        return self.found

    def reason(self, rule):
        """Why a rule does not fire yet."""
        return next(one.reason for one in self.run.status.findings if one.rule == rule)

    @property
    def metrics(self):
        """Status, reason and message of the condition."""
        condition: Any = self.run.status.condition("MetricsAvailable")
        return condition.status, condition.reason, condition.message

    @property
    def progress(self):
        return self.run.status.progress


# -- a loss that is no loss ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 0.25, 1e-9, -1.0])
@pytest.mark.parametrize(
    ("spec", "defaults"),
    [({}, None), (NOT_WRITTEN, None), (NOT_WRITTEN, ENFORCED)],
    ids=["written", "shadow", "default enforced"],
)
@pytest.mark.parametrize("restarts", [False, True], ids=["", "operator restarted"])
def test_a_loss_that_never_changed_since_the_pod_started_is_no_loss(value, spec, defaults, restarts):
    training = Training(spec=spec, defaults=defaults).save("checkpoint-100", 100)
    training.polls(*((value, step) for step in (0, 100, 200)))
    if restarts:
        training.restart_operator()
    training.polls((value, 300), (value, 400))
    assert (training.end(), training.run.status.shadow) == (None, ())
    assert training.metrics[:2] == ("False", "LossNeverChanged")
    assert (training.progress.loss, training.progress.best_loss) == (None, None)
    training.polls((2.31, 500), (2.1, 510))
    assert training.metrics[:2] == ("True", "Fresh")
    assert (training.progress.best_loss, training.run.status.shadow, training.end()) == ("2.1", (), None)


@pytest.mark.parametrize(
    "before",
    [
        pytest.param([344093.2], id="after a huge one"),
        pytest.param(["NaN", "NaN"], id="after NaN"),
        pytest.param(["+Inf"], id="after infinity"),
        pytest.param([1.9, 1.2, 0.45], id="after one that was low"),
        pytest.param([1.9, 1.2], id="after one that was not low"),
    ],
)
@pytest.mark.parametrize(
    ("spec", "defaults"), [({}, None), (NOT_WRITTEN, ENFORCED)], ids=["written", "default enforced"]
)
def test_a_loss_of_exactly_0_stands_for_none(before, spec, defaults):
    training = Training(spec=spec, defaults=defaults).polls((3.0, 0))
    steps = count(10, 10)
    training.polls(*((value, next(steps)) for value in (*before, 0.0, -0.0, 0.0, 0.0)))
    assert (training.end(), training.run.status.shadow) == (None, ())
    assert training.metrics[:2] == ("False", "ZeroLoss")
    assert training.reason("autoStopLoss") == "ZeroLoss"
    lowest = min((float(value) for value in before if value not in ("NaN", "+Inf")), default=None)
    assert training.progress.best_loss == (None if lowest is None else f"{lowest:.4g}")


def with_gradient(loss, step, norm, name="training_grad_norm"):
    return f"{page(loss, step)}{name} {norm}\n"


@pytest.mark.parametrize("norm", ["NaN", "+Inf", "-Inf"])
@pytest.mark.parametrize("losses", [(0.4, 0.3, 0.2, 0.1), (344093.2, 0.4, 0.3, 0.2)], ids=["low", "from a huge one"])
@pytest.mark.parametrize(
    ("spec", "defaults"), [({}, None), (NOT_WRITTEN, None), (NOT_WRITTEN, ENFORCED)], ids=["written", "shadow", "default enforced"]
)  # fmt: skip
def test_a_loss_beside_a_gradient_norm_that_is_not_finite_is_no_loss(norm, losses, spec, defaults):
    training = Training(spec=spec, defaults=defaults).polls((3.0, 0), (2.0, 10))
    for step, value in enumerate(losses, 2):
        training.poll(with_gradient(value, 10 * step, norm))
    assert (training.end(), training.run.status.shadow) == (None, ())
    assert training.metrics[:2] == ("False", "GradientNotFinite")
    assert training.reason("autoStopLoss") == "GradientNotFinite"
    assert (training.progress.loss, training.progress.best_loss, training.progress.highest_loss) == ("2", "2", "2")


@pytest.mark.parametrize("norm", ["0.7", "1e30", "0", None])
def test_a_finite_gradient_norm_changes_nothing(norm):
    training = Training()
    for step, value in enumerate((2.0, 0.6, 0.4, 0.3)):
        training.poll(with_gradient(value, 10 * step, norm) if norm else page(value, 10 * step))
    assert training.end().status == "auto_low_loss"
    assert training.metrics[:2] == ("True", "Fresh")


def test_one_reading_with_a_gradient_norm_that_is_not_finite_separates_two_losses():
    training = Training().polls((2.0, 0), (0.6, 10), (0.4, 20))
    training.poll(with_gradient(0.35, 30, "+Inf"))
    assert training.end() is None
    training.polls((0.3, 40))
    assert training.end() is None
    training.polls((0.25, 50))
    assert [(one.value, one.step) for one in training.end().evidence] == [("0.3", 40), ("0.25", 50)]


def test_the_loss_of_such_a_reading_is_none_either_when_it_is_read_again():
    training = Training().polls((2.0, 0), (0.6, 10))
    training.poll(with_gradient(0.4, 10, "NaN"))
    training.poll(with_gradient(0.4, 20, "0.7"))
    training.poll(with_gradient(0.3, 30, "0.7"))
    assert training.end() is None
    assert training.progress.best_loss == "0.3"


def test_a_stall_is_judged_whatever_the_gradient_norm_is():
    rows = ((2.0, 0, 0.1, 1), (1.5, 100, 0.5, 1), (1.4, 200, 1.0, 1), (1.4, 200, 1.0, 1))
    healthy, diverged = Training(), Training()
    for row in rows:
        healthy.poll(page(*row))
        diverged.poll(page(*row) + "grad_norm NaN\n")
    assert diverged.metrics[1] == "GradientNotFinite"
    assert diverged.reason("finalEpochStall") == healthy.reason("finalEpochStall") != "GradientNotFinite"


def test_one_logged_loss_that_is_read_at_two_steps_is_one():
    training = Training().polls((2.1, 0), *((1.9, step) for step in range(20, 200, 20)))
    training.polls(*((0.47, step) for step in range(1500, 1900, 20)))
    assert training.end() is None
    assert training.metrics[:2] == ("True", "Fresh"), "A loss that is logged rarely is no trouble."
    assert training.reason("autoStopLoss") == "TooFewObservations"
    training.polls((1.3, 1900), (0.46, 1920), *((0.46, step) for step in (1940, 1960)))
    assert training.end() is None
    training.polls((0.45, 1980))
    assert [(one.value, one.step) for one in training.end().evidence] == [("0.46", 1920), ("0.45", 1980)]


def test_one_logged_loss_is_one_also_for_an_operator_that_was_restarted():
    training = Training().polls((2.1, 0), (1.9, 20), (0.470123, 40)).restart_operator()
    training.polls((0.470123, 60), (0.470123, 80))
    assert training.end() is None
    assert training.metrics[:2] == ("True", "Fresh")
    training.polls((0.46, 100), (0.45, 120))
    assert training.end().status == "auto_low_loss"


@pytest.mark.parametrize(
    "losses",
    [
        pytest.param((2.0, 1.1, 0.4, 0.3), id="it falls through the threshold"),
        pytest.param((0.4, 0.39, 0.38), id="it was below from the first, and varies"),
        pytest.param((9.0, 0.4, 0.5, 0.4, 0.39), id="it rose once more before"),
        pytest.param((0.0, 0.4, 0.3), id="its gauge began at 0"),
        pytest.param(("NaN", 0.5, 0.4, 0.3), id="its gauge began with NaN"),
        pytest.param((0.6, -0.2, -0.4), id="a written threshold has no lower end"),
    ],
)
def test_a_loss_below_a_written_threshold_stops(losses):
    training = Training().polls(*((value, 10 * i) for i, value in enumerate(losses)))
    assert training.end().status == "auto_low_loss"
    assert len(training.end().evidence) == 2


RISING = [0.0, -0.0, 0.0, 1e-4, 0.0012, 0.004, 0.02]


@pytest.mark.parametrize(
    "losses",
    [
        pytest.param(RISING, id="it begins at 0 and rises"),
        pytest.param([0.4, 0.39, 0.38, 0.37], id="it was below from the first"),
        pytest.param([9.0, 0.4, 0.39, 0.38], id="only the default of its gauge was above"),
        pytest.param([2.0, 1.5, -0.4, -0.6, -0.8], id="it is negative"),
        pytest.param([-3.0, -9.0, -12.0, -15.5], id="it always was"),
    ],
)
@pytest.mark.parametrize("defaults", [None, ENFORCED], ids=["shadow", "enforced"])
def test_a_threshold_that_nobody_wrote_acts_only_on_a_loss_that_was_above_it(losses, defaults):
    training = Training(spec=NOT_WRITTEN, defaults=defaults)
    training.polls(*((value, 10 * i) for i, value in enumerate(losses)))
    assert (training.end(), training.run.status.shadow) == (None, ())
    assert training.reason("autoStopLoss") in {"NeverAbove", "NegativeLoss"}


def test_a_written_threshold_acts_on_a_loss_that_was_never_above_it():
    assert Training().polls(*((value, 10 * i) for i, value in enumerate(RISING))).end().status == "auto_low_loss"


@pytest.mark.parametrize("then", ["restart_operator", "replace_pod"])
def test_that_a_loss_was_above_a_default_threshold_is_the_runs(then):
    training = Training(spec=NOT_WRITTEN, defaults=ENFORCED).polls((2.0, 0), (0.9, 10), (0.6, 20))
    assert training.progress.highest_loss == "0.9"
    getattr(training, then)()
    training.polls((0.5, 30), (0.45, 40), (0.4, 50), (0.39, 60))
    assert training.end().status == "auto_low_loss"


# -- a step that falls --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first",
    [
        pytest.param((3.0, 0), id="to 0, as a second fit"),
        pytest.param((0.9, 100), id="to the last checkpoint, as a training that was started again"),
        pytest.param((0.3, 0), id="with the old loss still on the page"),
    ],
)
def test_nothing_from_before_a_fall_of_the_step_decides(first):
    training = Training()
    training.saved = None
    training.polls(*((0.49 - step / 1000, step) for step in range(100, 201, 10)))
    assert training.reason("autoStopLoss") == "NoCheckpoint"
    for _ in range(6):
        training.poll(REFUSED)
    training.polls(first).save("checkpoint-50", 50).polls((1.9, first[1] + 5), (1.8, first[1] + 10))
    assert training.end() is None
    assert (training.progress.fell_from, training.progress.fell_to) == (200, first[1])
    assert (training.progress.step, training.progress.loss) == (first[1] + 10, "1.8")
    assert training.metrics[2].endswith(
        f"The step fell from 200 to {first[1]}: a new stage of the training, and nothing before it counts."
    )
    training.polls((0.2, first[1] + 15), (0.1, first[1] + 20))
    assert training.end().status == "auto_low_loss"


def test_the_page_is_shown_as_soon_as_the_step_has_fallen():
    training = Training().polls((2.0, 0), (1.5, 1000), (1.4, 1100), (3.0, 0))
    assert (training.progress.step, training.progress.fell_from) == (0, 1100)
    assert training.metrics[:2] == ("False", "NeverAdvanced")
    assert "fell from 1100 to 0" in training.metrics[2]


def test_a_new_stage_survives_a_restart_of_the_operator():
    training = Training().polls((2.0, 0), (1.5, 1000), (1.4, 1100), (3.0, 0)).restart_operator()
    training.polls((2.9, 10), (2.8, 20))
    assert (training.progress.step, training.progress.fell_from, training.progress.fell_to) == (20, 1100, 0)
    training.restart_operator().polls((2.7, 30))
    assert (training.progress.step, training.progress.fell_from) == (30, 1100)


def test_a_step_that_fell_while_the_operator_was_away_begins_a_new_stage():
    training = Training().polls((2.0, 0), (0.4, 1000), (0.6, 1100)).restart_operator().polls((0.3, 0), (0.29, 50))
    assert (training.end(), training.progress.step, training.progress.fell_from) == (None, 50, 1100)


def test_a_new_pod_is_no_fall():
    training = Training().polls((2.0, 0), (1.5, 1000)).replace_pod().polls((1.6, 900), (1.5, 910))
    assert (training.progress.step, training.progress.fell_from) == (910, None)
    assert "fell" not in training.metrics[2]


def test_a_default_threshold_acts_on_the_losses_of_one_stage():
    training = Training(spec=NOT_WRITTEN, defaults=ENFORCED)
    training.polls((2.0, 0), (1.5, 1000), (1.4, 1100), (0.0, 0), (0.001, 10), (0.002, 20), (0.003, 30))
    assert (training.end(), training.progress.best_loss) == (None, "0.001")
    assert training.reason("autoStopLoss") == "NeverAbove"


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([100, 99, 101, 100, 102, 101, 103], id="one step apart"),
        pytest.param([100, 99, 99, 99, 99, 101, 100, 100, 100, 100], id="one step apart, and slow"),
        pytest.param([100, 110, 105, 120, 112, 130, 128, 140], id="a few steps apart"),
        pytest.param([1, 0, 2, 1, 3, 2], id="one step apart, at the start"),
        pytest.param([1000, 1010, 1020, 1008, 1030, 1018, 1028, 1040], id="behind by more than a poll"),
    ],
)
def test_ranks_that_serve_one_page_in_turn_are_no_new_stage(steps):
    training = Training().polls((3.0, 0), *((2.0 - i / 100, step) for i, step in enumerate(steps)))
    assert training.progress.fell_from is None
    assert (training.progress.step, training.metrics[:2]) == (max(steps), ("True", "Fresh"))
    training.polls((0.4, max(steps) + 10), (0.39, max(steps) + 9), (0.38, max(steps) + 20))
    assert training.end().status == "auto_low_loss"


def test_ranks_that_serve_one_page_in_turn_are_no_new_stage_for_a_restarted_operator():
    training = Training().polls((3.0, 0), (2.0, 100), (1.9, 110)).restart_operator()
    training.polls((1.8, 105), (1.7, 120), (1.6, 114), (1.5, 130))
    assert (training.progress.fell_from, training.progress.step) == (None, 130)


def test_a_small_fall_that_lasts_is_a_new_stage():
    training = Training().polls((2.0, 0), *((2 - step / 1e4, step) for step in range(1000, 1100, 10)))
    training.polls((0.4, 1100), (0.39, 1085))
    assert training.reason("autoStopLoss") == training.reason("finalEpochStall") == "StepFell"
    training.polls((0.38, 1088), (0.37, 1091))
    assert (training.end(), training.progress.fell_from, training.progress.fell_to) == (None, 1100, 1091)


@pytest.mark.parametrize("standing", [0, 5], ids=["to 0", "to the fifth step"])
def test_a_second_fit_in_the_final_epoch_is_not_its_end(standing):
    training = Training().polls((2.0, 0, 0.0, 1), *((2.0 - i / 100, 10 * i, i / 100, 1) for i in range(1, 101)))
    training.save("checkpoint-1000", 1000).stands(2.5, standing, 1.0, 1, seconds=HOUR)
    assert training.end() is None
    assert training.reason("finalEpochStall") == "NeverAdvanced"


# -- the final epoch ----------------------------------------------------------------------------------------------


def in_fractions(*, steps=100, epochs=3, of=None, until=None, first=1, every=10):
    """A training that shows fractions of its epochs, one row of ten steps a poll."""
    last = until if until is not None else epochs
    rows = ((2.0 - i / 1e4, 10 * i, i * epochs / steps, of or epochs) for i in range(first, steps + 1))
    return [row for row in rows if row[2] <= last]


def in_whole_numbers(*, base, epochs, steps=10):
    """A training that shows which epoch it is in, ten polls each."""
    return [(2.0 - i / 1e4, 10 * i, base + (i - 1) // steps, epochs) for i in range(1, epochs * steps + 1)]


def test_a_training_that_saves_and_evaluates_for_hours_in_its_only_epoch_is_not_complete():
    rows = in_whole_numbers(base=1, epochs=1, steps=50)
    training = Training().polls((3.0, 0, 1, 1), *rows).save("epoch=0-step=500.ckpt", 500)
    training.stands(*rows[-1], seconds=12 * HOUR, every=300)
    assert training.end() is None
    assert training.reason("finalEpochStall") == "PauseUnknown"
    training.stands(*rows[-1], seconds=13 * HOUR, every=300)
    assert training.end().status == "auto_complete", "A day is longer than any evaluation."


@pytest.mark.parametrize("restarts", [False, True], ids=["", "operator restarted"])
def test_a_pause_is_the_end_only_if_it_is_longer_than_those_before(restarts):
    training = Training().polls((3.0, 0, 1, 3))
    rows = in_whole_numbers(base=1, epochs=3)
    for end in (10, 20, 30):
        training.polls(*rows[end - 10 : end]).save(f"checkpoint-{10 * end}", 10 * end)
        if restarts and end == 30:
            training.restart_operator()
        training.stands(*rows[end - 1], seconds=1.5 * HOUR, every=60)
        assert training.end() is None
    assert training.reason("finalEpochStall") == "WithinPause"
    assert float(training.progress.longest_epoch_pause) == pytest.approx(1.5 * HOUR, abs=20)
    training.stands(*rows[-1], seconds=4 * HOUR, every=60)
    assert training.end().status == "auto_complete"


def test_a_pause_that_was_not_seen_as_a_whole_is_none_to_compare_with():
    training = Training().polls((3.0, 0, 1, 2))
    rows = in_whole_numbers(base=1, epochs=2)
    training.polls(*rows[:10]).stands(*rows[9], seconds=HOUR, every=60).restart_operator().polls(*rows[10:])
    training.save("checkpoint-200", 200).stands(*rows[-1], seconds=HOUR, every=60)
    assert (training.end(), training.reason("finalEpochStall")) == (None, "PauseUnknown")


@pytest.mark.parametrize("base", [0, 1])
def test_a_training_that_stands_after_its_last_whole_epoch_is_complete(base):
    rows = in_whole_numbers(base=base, epochs=3)
    training = Training().polls((3.0, 0, base, 3), *rows).save("checkpoint-300", 300)
    training.stands(*rows[-1], seconds=HOUR)
    assert training.end().status == "auto_complete"


@pytest.mark.parametrize(
    ("until", "epochs"),
    [(0.3, 1), (0.9, 1), (2.0, 3), (2.5, 3), (0.25, 0.5), (2.1, 2.5)],
)
def test_a_fraction_says_that_the_end_is_far(until, epochs):
    rows = in_fractions(epochs=epochs, until=until)
    training = Training().polls((3.0, 0, 0, epochs), *rows).save(f"checkpoint-{rows[-1][1]}", rows[-1][1])
    training.stands(*rows[-1], seconds=48 * HOUR, every=600)
    assert training.end() is None
    assert training.reason("finalEpochStall") in {"NotAtEnd", "NotFinalEpoch"}


@pytest.mark.parametrize(
    ("until", "epochs", "steps"),
    [
        pytest.param(3.0, 3, 100, id="at its end"),
        pytest.param(2.98, 3, 100, id="a little short of it"),
        pytest.param(0.98, 1, 50, id="a little short of its only epoch"),
        pytest.param(0.49, 0.5, 50, id="a little short of half an epoch"),
        pytest.param(2.5, 2.5, 100, id="at the end of two and a half"),
        pytest.param(2.85, 3, 20, id="by less than from one log to the next"),
    ],
)
def test_a_training_that_stands_at_the_end_of_its_fractions_is_complete(until, epochs, steps):
    rows = in_fractions(epochs=epochs, until=until, steps=steps)
    training = Training().polls((3.0, 0, 0, epochs), *rows).save(f"checkpoint-{rows[-1][1]}", rows[-1][1])
    training.stands(*rows[-1], seconds=HOUR)
    assert training.end().status == "auto_complete"
    assert training.progress.total_epochs == epochs


def test_an_evaluation_before_the_last_of_few_logs_is_not_the_end():
    rows = in_fractions(epochs=1, steps=4, until=0.75)
    training = Training().polls((3.0, 0, 0, 1), *rows).save("checkpoint-30", 30)
    training.stands(*rows[-1], seconds=12 * HOUR, every=300)
    assert (training.end(), training.reason("finalEpochStall")) == (None, "PauseUnknown")
    training.polls((1.0, 40, 1.0, 1)).save("checkpoint-40", 40).stands(1.0, 40, 1.0, 1, seconds=36 * HOUR, every=300)
    assert training.end().status == "auto_complete"


def test_an_evaluation_at_the_end_may_take_as_long_as_one_before():
    rows = in_fractions(epochs=2)
    training = Training().polls((3.0, 0, 0, 2), *rows[:50]).stands(*rows[49], seconds=HOUR, every=60)
    training.polls(*rows[50:]).save("checkpoint-1000", 1000).stands(*rows[-1], seconds=1.2 * HOUR, every=60)
    assert (training.end(), training.reason("finalEpochStall")) == (None, "WithinPause")


def test_a_restarted_operator_knows_how_often_the_training_logs():
    rows = in_fractions(epochs=3, until=2.85, steps=20)
    training = Training().polls((3.0, 0, 0, 3), *rows).save("checkpoint-190", 190).restart_operator()
    training.stands(*rows[-1], seconds=HOUR)
    assert training.end().status == "auto_complete"


@pytest.mark.parametrize(
    ("name", "step"),
    [
        pytest.param("final", None, id="a name without a number"),
        pytest.param("checkpoint12.pt", 12, id="a number that counts epochs"),
        pytest.param("checkpoint_000003", 3, id="a number that counts reports"),
        pytest.param("samples-128000", 128_000, id="a number that counts samples"),
    ],
)
def test_a_checkpoint_whose_name_has_no_step_does_not_keep_a_finished_run_from_ending(name, step):
    rows = in_fractions()
    training = Training().polls((3.0, 0, 0, 3), *rows).save(name, step).stands(*rows[-1], seconds=HOUR)
    assert training.end().status == "auto_complete"


def test_a_final_model_beside_an_older_checkpoint_does_not_keep_a_finished_run_from_ending():
    rows = in_fractions()
    training = Training().polls((3.0, 0, 0, 3), *rows[:90]).save("checkpoint-900", 900).polls(*rows[90:])
    training.now += 5
    training.write().stands(*rows[-1], seconds=HOUR)
    assert training.end().status == "auto_complete"


def test_without_a_file_that_is_newer_than_the_last_step_it_is_not_complete():
    rows = in_fractions()
    training = Training().polls((3.0, 0, 0, 3), *rows[:90]).save("checkpoint-900", 900).polls(*rows[90:])
    training.stands(*rows[-1], seconds=HOUR)
    assert (training.end(), training.reason("finalEpochStall")) == (None, "OlderCheckpoint")


@pytest.mark.parametrize("rows", [
    pytest.param(in_fractions(epochs=9, of=3), id="fractions"),
    pytest.param([(2 - i / 1e4, 10 * i, 1 + (i - 1) // 10, 3) for i in range(1, 50)], id="whole numbers from 1"),
    pytest.param([(2 - i / 1e4, 10 * i, (i - 1) // 10, 3) for i in range(1, 50)], id="whole numbers from 0"),
])  # fmt: skip
def test_an_epoch_beyond_the_total_says_that_the_total_is_wrong(rows):
    training = Training().polls((3.0, 0, rows[0][2], 3), *rows).save(f"checkpoint-{rows[-1][1]}", rows[-1][1])
    training.stands(*rows[-1], seconds=48 * HOUR, every=600)
    assert (training.end(), training.progress.percent, training.progress.eta_seconds) == (None, None, None)
    assert training.reason("finalEpochStall") == "BeyondTotal"
    assert training.progress.stall_polls == 0


@pytest.mark.parametrize("operator", ["same", "restarted"])
def test_how_epochs_count_is_the_runs_and_not_the_pods(operator):
    rows = in_fractions()
    training = Training().polls((3.0, 0, 0, 3), *rows[:40]).replace_pod()
    if operator == "restarted":
        training.restart_operator()
    training.polls(*rows[43:])
    assert (training.progress.epoch_base, training.progress.percent) == (0, 100)
    training.save("checkpoint-1000", 1000).stands(*rows[-1], seconds=HOUR)
    assert training.end().status == "auto_complete"


@pytest.mark.parametrize(("epochs", "begins"), [(0.5, "0"), (1, "0"), (2.5, "2"), (3, "2")])
def test_totals_stay_fractions(epochs, begins):
    training = Training().polls((3.0, 0, 0, epochs), *in_fractions(epochs=epochs, until=epochs / 10))
    assert (training.progress.total_epochs, training.progress.percent) == (epochs, 10)
    finding = next(one for one in training.run.status.findings if one.rule == "finalEpochStall")
    assert finding.message.endswith(f"begins at {begins}.") or finding.reason == "NotAtEnd"


def test_a_total_that_is_still_0_is_none():
    training = Training().polls(*((2 - i / 1e4, 10 * i, 0, 0) for i in range(30))).save("checkpoint-290", 290)
    training.stands(1.9971, 290, 0, 0, seconds=48 * HOUR, every=600)
    assert (training.end(), training.reason("finalEpochStall")) == (None, "NoEpoch")


# -- several series of one name -----------------------------------------------------------------------------------


def series(name, *rows):
    """Lines of one name with their labels."""
    return "".join(f"{name}{{{labels}}} {value}\n" for labels, value in rows)


def each(label, *values):
    return [(f'{label}="{i}"', value) for i, value in enumerate(values)]


STEP = "training_step 400\n"
AMBIGUOUS = [
    pytest.param(series("training_loss", *each("pid", 2.4, 0.9, 0.8)) + STEP, ["pid"], id="processes, some of them dead"),
    pytest.param(series("training_loss", *each("epoch", 2.0, 0.9, 0.2)) + STEP, ["epoch"], id="one series for each epoch"),
    pytest.param(series("training_loss", *each("rank", 0.0, 2.4)) + STEP, ["rank"], id="ranks without a loss"),
    pytest.param(series("training_loss", ('phase="eval",job="a"', 0.31), ('phase="train",job="a"', 2.5)) + STEP, ["phase"], id="evaluation before training"),
    pytest.param(series("training_loss", ('phase="train",rank="0"', 2.5), ('phase="eval",rank="1"', 0.3)) + STEP, ["phase", "rank"], id="several labels"),
    pytest.param(series("training_loss", ('split="train"', "NaN"), ('split="val"', 0.3)) + STEP, ["split"], id="NaN and a number"),
    pytest.param(series("training_loss", ('quantile="0"', 0.1), ('quantile="0.5"', 2.0)) + STEP, ["quantile"], id="quantiles of a Summary"),
    pytest.param(series("training_loss", ('quantile="0"', 0.1)) + STEP, ["quantile"], id="the least of a Summary"),
    pytest.param("training_loss 2\n" + series("training_step", *each("rank", 400, 390)), ["rank"], id="steps of several ranks"),
    pytest.param(series("training_loss", ('rank="3"', 0.1)) + series("training_step", ('rank="0"', 400)), ["rank"], id="loss and step of different ranks"),
    pytest.param(series("training_loss", *each("rank", *range(100))) + STEP, ["rank"], id="more ranks than are compared"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "labels"), AMBIGUOUS)
def test_series_that_disagree_decide_nothing_and_the_condition_says_which(text, labels):
    training = Training()
    for _ in range(3):
        training.poll(text)
    truth, reason, message = training.metrics
    assert (training.end(), training.progress, truth, reason) == (None, None, "False", "AmbiguousSeries")
    assert f"(labels: {', '.join(labels)})" in message
    assert f'{{{labels[0]}="…"}}' in message
    assert "spec.metrics.names." in message


CLEAR = [
    pytest.param(series("training_loss", *each("rank", 1.5, 1.5)) + STEP, id="equal values agree"),
    pytest.param(series("training_loss", ('rank="0"', 1.5)) + STEP, id="one labelled series is as good as none"),
    pytest.param(series("training_loss", *each("rank", 0.1, 0.2)) + "training_loss 1.5\n" + STEP, id="one without labels is the training's"),
    pytest.param("training_loss 1.5\n" + series("training_loss", *each("rank", 0.1, 0.2)) + STEP, id="wherever it is on the page"),
    pytest.param(series("training_loss", ('rank="1"', 1.5)) + series("training_step", *each("rank", 390, 400)), id="the step is that of the loss's rank"),
    pytest.param(series("training_loss", *each("rank", 1.5, 1.5)) + series("training_step", *each("rank", 400, 400)), id="all ranks agree"),
    pytest.param(series("training_loss", ('rank="0",gpu="7"', 1.5)) + series("training_step", ('rank="0",host="a"', 400)), id="labels that only one has do not matter"),
    pytest.param(series("training_loss", ('quantile="0.5"', 0.1)) + "training_loss 1.5\n" + STEP, id="a Summary beside the loss"),
    pytest.param(series("training_loss", ('quantile="0",rank="0"', 0.1), ('rank="0"', 1.5)) + STEP, id="quantiles do not count"),
]  # fmt: skip


@pytest.mark.parametrize("text", CLEAR)
def test_series_that_agree_are_one_value(text):
    assert parse(text.encode(), MetricNames()) == make_reading(1.5, 400)


RAY = series(
    "loss", ('framework="xgb",split="val"', 0.31), ('framework="torch",split="train"', 2.5), ('split="val"', 0.4)
) + series("step", ('split="val"', 12), ('split="train"', 4000))


@pytest.mark.parametrize(
    ("loss", "step", "expected"),
    [
        pytest.param(['loss{split="train"}'], ["step"], (2.5, 4000), id="the step follows the loss"),
        pytest.param(['loss{split="train"}'], ['step{split="train"}'], (2.5, 4000), id="both are selected"),
        pytest.param(['loss{framework="xgb", split="val"}'], ["step"], (0.31, 12), id="two labels"),
        pytest.param(['loss{split="test"}', 'loss{split="train"}'], ["step"], (2.5, 4000), id="the first that is there"),
        pytest.param(['loss{split="test"}'], ['step{split="train"}'], (None, 4000), id="none that is there"),
        pytest.param(['loss{split="val"}'], ["step"], "AmbiguousSeries", id="a selection that is not enough"),
        pytest.param(['loss{split="train"}'], ['step{split="val"}'], "AmbiguousSeries", id="selections that disagree"),
    ],
)  # fmt: skip
def test_a_name_may_select_labels(loss, step, expected):
    found = parse(RAY.encode(), MetricNames(loss=tuple(loss), step=tuple(step)))
    assert (found.reason if isinstance(found, Failure) else (found.loss, found.step)) == expected


def test_selected_labels_are_chosen_before_a_series_without_labels():
    text = 'loss 9\nloss{split="train"} 2\nloss{quantile="0.5"} 3\n'
    assert parse(text.encode(), MetricNames(loss=('loss{split="train"}',))) == make_reading(2)
    assert parse(text.encode(), MetricNames(loss=('loss{quantile="0.5"}',))) == make_reading(3)


def test_a_run_that_selects_its_series_stops_by_it():
    names = {"loss": ['loss{split="train"}'], "step": ["step"]}
    training = Training(names=names)
    for i, loss in enumerate((2.0, 0.6, 0.4, 0.3)):
        training.poll(series("loss", ('split="eval"', 0.1), ('split="train"', loss)) + f"step {i}\n")
    assert [one.value for one in training.end().evidence] == ["0.4", "0.3"]


# -- a negative threshold -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [-1, -1.0])
def test_minus_1_is_the_usual_way_to_switch_the_rule_off_and_needs_no_word_in_accepted(value):
    training = Training(spec={"autoStopLoss": value}).polls((1.0, 0), (0.4, 10), (0.3, 20))
    assert training.end() is None
    assert training.reason("autoStopLoss") == "Off"
    accepted = next(one for one in training.run.status.conditions if one.type == "Accepted")
    assert "autoStopLoss" not in accepted.message


def test_a_negative_threshold_says_that_it_switches_the_rule_off():
    training = Training(spec={"autoStopLoss": -15}).polls((1.0, 0), (-14, 10), (-16, 20), (-24, 30))
    assert training.end() is None
    message = next(one.message for one in training.run.status.findings if one.rule == "autoStopLoss")
    assert "negative autoStopLoss (-15) switches the rule off" in message
    assert [one.message for one in training.run.status.conditions if one.type == "Accepted"] == [
        f"The spec can be acted on. {message} Agent and operator use the keys in Secret s3-credentials."
    ]
