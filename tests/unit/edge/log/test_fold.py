"""What many lines of one log say together: one loss, one step that is certainly the training's, and the newest of everything."""

from __future__ import annotations

import pytest

from trainingrun_operator.api.run import MetricNames
from trainingrun_operator.core.facts.reading import VALUES_MAX, Failure, Reading
from trainingrun_operator.edge.metrics.log import fold as module
from trainingrun_operator.edge.metrics.log.fold import Fold
from trainingrun_operator.edge.metrics.log.words import names


def bar(n, total=1600, *, title="", postfix=""):
    share = 100 * n // total
    return f"\r{title}{share:3d}%|{'█' * (share // 10):10}| {n}/{total} [00:12<01:30, 15.01it/s{postfix}]"


def folded(*texts, wanted=None, patterns=()):
    fold = Fold(names(wanted or MetricNames()), patterns)
    for text in texts:
        fold.add(f"{text}\n")
    return fold.reading()


def reads(*texts, **options):
    found = folded(*texts, **options)
    assert isinstance(found, Reading), found
    return found


def logged(loss, epoch):
    return f"{{'loss': '{loss}', 'learning_rate': '4e-05', 'epoch': '{epoch}'}}"


# -- steps -----------------------------------------------------------------------------------------------------------------


def test_a_dict_without_a_step_has_that_of_the_bar_that_moves_on_between_two_logs():
    found = reads(bar(10), logged(1.9, 0.1), bar(11) + bar(20), logged(1.8, 0.2), bar(21))
    assert (found.loss, found.step, found.epoch) == (1.8, 21, 0.2)


def test_a_bar_and_a_dict_on_one_line_are_both_read():
    found = reads(bar(10) + logged(1.9, 0.1), bar(12) + logged(1.8, 0.2))
    assert (found.loss, found.step) == (1.8, 12)


def test_the_bar_of_an_evaluation_gives_no_step():
    steps = []
    fold = Fold(names(MetricNames()))
    for text in (
        bar(10),
        logged(1.9, 0.1),
        bar(20),
        bar(1, 50) + bar(50, 50),
        bar(21),
        logged(1.8, 0.2),
        bar(2, 50),
        bar(30),
    ):
        fold.add(f"{text}\n")
        found = fold.reading()
        steps.append(found.step if isinstance(found, Reading) else None)
    assert steps == [None, None, 20, 20, 21, 21, 21, 30]


def test_of_two_bars_that_both_move_on_none_gives_a_step_until_one_begins_again():
    both = [bar(10), bar(5, 50), logged(1.9, 0.1), bar(6, 50), bar(11)]
    assert reads(*both).step is None
    assert reads(*both, bar(1, 50), bar(12)).step == 12


def test_a_bar_that_stands_while_losses_are_logged_gives_no_step():
    assert reads(bar(2, 2), logged(1.9, 0.1), logged(1.8, 0.2), bar(2, 2)).step is None


def test_bars_of_many_lengths_are_bounded():
    assert reads(*(bar(1, total) for total in range(100, 200)), logged(1.9, 0.1), bar(2, 150)).step is None


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(bar(3, 5, title="Map: "), id="of data"),
        pytest.param(bar(3, 5, title="Loading checkpoint shards: "), id="of files"),
        pytest.param(bar(3, 5, title="Evaluating: "), id="of an evaluation"),
        pytest.param(bar(3, 5, title="Epochs: "), id="of epochs"),
        pytest.param("\rmodel.bin: 60%|██████    | 3/5 [00:12<01:30, 1.2MB/s]", id="of bytes"),
    ],
)
def test_other_bars_give_no_step(line):
    assert reads(logged(1.9, 0.1), line, logged(1.8, 0.2), line).step is None


@pytest.mark.parametrize(
    ("title", "step"),
    [
        pytest.param("Epoch 0: ", 50, id="the first epoch"),
        pytest.param("Epoch 3: ", 350, id="epochs from 0, as Lightning counts"),
        pytest.param("Epoch 3/10: ", 250, id="epochs from 1"),
        pytest.param("Training: ", 50, id="no epoch"),
    ],
)
def test_a_bar_of_an_epoch_counts_on_over_the_epochs(title, step):
    found = reads(bar(50, 100, title=title, postfix=", train_loss=0.512"))
    assert (found.loss, found.step) == (0.512, step)


def test_a_bar_with_a_loss_in_its_title_is_a_training_s():
    found = reads(bar(50, 100, title="batch loss 0.512 lr 0.1: "))
    assert (found.loss, found.step) == (0.512, 50)


def test_a_step_that_begins_again_in_each_epoch_counts_on():
    lines = [
        f"Epoch [{epoch}/5], Step [{step}/600], Loss: {1 / (epoch + step):.4f}"
        for epoch in (1, 2, 3)
        for step in (300, 600)
    ]
    steps = [reads(*lines[:count]).step for count in range(1, 7)]
    assert steps == [300, 600, 900, 1200, 1500, 1800]


def test_a_step_of_the_whole_training_beside_an_epoch_stays_as_it_is():
    lines = [f"Epoch {epoch}/2 step {step}/600 loss: 0.{step}" for epoch, step in ((1, 100), (1, 300), (2, 400))]
    assert reads(*lines).step == 400


def test_it_is_not_known_in_the_middle_of_a_training_whether_a_step_is_of_the_epoch():
    assert reads("Epoch [3/5], Step [100/600], Loss: 0.3").step is None
    assert reads("Epoch [3/5], Step [600/600], Loss: 0.3", "Epoch [4/5], Step [100/600], Loss: 0.2").step == 1900


def test_steps_of_lines_are_preferred_to_those_of_bars():
    assert reads("step=7 loss=1.5", bar(10), "step=8 loss=1.4", bar(20)).step == 8


# -- the loss --------------------------------------------------------------------------------------------------------------


def test_the_loss_is_taken_under_one_name():
    lines = ["step=1 loss=1.5", "step=100 train_loss=0.9", "step=101 loss=1.4"]
    assert [reads(*lines[:count]).loss for count in (1, 2, 3)] == [1.5, 1.5, 1.4]


def test_a_name_that_is_not_printed_any_more_gives_way():
    lines = ["step=1 loss=1.5", *(f"step={step} train_loss=0.{step}" for step in range(100, 160))]
    assert reads(*lines).loss == 0.159


def test_the_spec_s_own_names_are_an_order_and_no_other_name_is_a_loss():
    wanted = MetricNames(loss=("ce", "nll"))
    lines = ["step=1 nll=1.5 loss=7", "step=2 ce=0.9", "step=3 nll=1.4", "step=4 loss=0.1"]
    assert [reads(*lines[:count], wanted=wanted).loss for count in (1, 2, 3, 4)] == [1.5, 0.9, 0.9, 0.9]


def test_a_gradient_norm_is_that_of_the_loss_s_line():
    assert reads("step=1 loss=1.5 grad_norm=nan").gradient_norm != 0
    assert reads("step=1 loss=1.5 grad_norm=nan", "step=2 loss=1.4").gradient_norm is None


def test_several_processes_that_print_different_losses_for_one_step_decide_nothing():
    lines = [f"step={step} loss={loss}" for step in (10, 20, 30) for loss in (2.4, 0.1)]
    found = folded(*lines)
    assert isinstance(found, Failure)
    assert found.reason == "AmbiguousSeries"
    healed = folded(*lines, *(f"step={step} loss={1 / step}" for step in range(100, 120)))
    assert isinstance(healed, Reading)


def test_one_loss_printed_twice_is_no_conflict():
    lines = [f"step={step} loss={loss}" for step in range(10, 100, 10) for loss in (2.4123, 2.41)]
    assert isinstance(folded(*lines), Reading)


def test_of_ranks_that_all_print_the_lowest_one_counts():
    lines = [f"[rank{rank}]: step=10 loss={loss}" for rank, loss in ((3, 0.0), (0, 2.4), (1, 0.1))]
    assert reads(*lines, "[default2]: step=11 loss=0.2").loss == 2.4


# -- values and bounds -----------------------------------------------------------------------------------------------------


def test_the_newest_of_all_values_is_kept_by_name():
    found = reads(
        "{'eval_loss': 0.9, 'eval_accuracy': 0.8, 'epoch': 1.0}", "step=5 loss=1.5 lr=0.1", "{'eval_loss': 0.7}"
    )
    assert {name: found.values[name] for name in ("eval_loss", "eval_accuracy", "lr")} == {
        "eval_loss": 0.7,
        "eval_accuracy": 0.8,
        "lr": 0.1,
    }


def test_values_are_bounded_and_the_oldest_go():
    found = reads("step=1 loss=1.5 first=1", *(f"step={step} loss=1.4 v{step}=1" for step in range(200)))
    assert len(found.values) <= VALUES_MAX + 2
    assert "first" not in found.values
    assert found.values["v199"] == 1


def test_numbers_of_other_lines_are_no_values():
    assert reads("step=1 loss=1.5", "port: 8000 | retries: 3").values.keys() == {"loss"}


def test_of_many_lines_the_newest_are_read():
    text = "\n".join(f"step={step} loss={1 / step}" for step in range(1, 100_000))
    assert reads(text).step == 99_999


def test_what_was_skipped_is_said(monkeypatch):
    monkeypatch.setattr(module, "LINE_MAX", 100)
    found = folded('{\n  "loss": 0.5,\n  "step": 3\n}', "eval_loss=0.3", "x" * 200)
    assert isinstance(found, Failure)
    assert found.reason == "NoSuchMetric"
    for told in (
        "6 lines",
        "1 losses are of an evaluation",
        "1 lines are parts of objects",
        "1 lines are longer than 100",
    ):
        assert told in found.message


# -- own patterns ----------------------------------------------------------------------------------------------------------

OWN = (
    r"it (?P<step>[0-9,]+)/[0-9]+ ce (?P<loss>[0-9.]+|nan)( gn (?P<grad_norm>\S+))?",
    r"acc (?P<accuracy>[0-9.]+) loss (?P<loss>x)",
)


def test_own_patterns_give_the_numbers_and_nothing_else_does():
    found = reads("it 1,200/9000 ce 1.25 gn nan", "step=7 loss=0.1", "acc 0.9 loss x", patterns=OWN)
    assert (found.loss, found.step, found.values["accuracy"]) == (1.25, 1200, 0.9)
    assert found.gradient_norm != found.gradient_norm
    assert isinstance(folded("step=7 loss=0.1", patterns=OWN), Failure)


def test_own_patterns_give_epochs_too():
    own = (r"E(?P<epoch>[0-9.]+)/(?P<totalEpochs>[0-9]+) L(?P<loss>\S+)", r"S(?P<step>[0-9]+)")
    found = reads("E1.5/3 L0.7", "S12", "S13 " + "x" * 9000, patterns=own)
    assert (found.loss, found.step, found.epoch, found.total_epochs) == (0.7, 12, 1.5, 3)


def test_a_pattern_that_is_not_valid_is_not_found():
    assert isinstance(folded("step=7 loss=0.1", patterns=(r"loss=(?P<loss>[",)), Failure)


# -- who says how many epochs there are ------------------------------------------------------------------------------------


LIGHTNING = bar(50, 100, title="Epoch 2/3: ", postfix=", loss=0.5")
KERAS = "\r\x1b[1m32/32\x1b[0m \x1b[32m━━━━━━━━━━━━━━━━━━━━\x1b[0m \x1b[1m1s\x1b[0m 5ms/step - loss: 0.3012"


@pytest.mark.parametrize(
    ("lines", "total", "of_bar"),
    [
        pytest.param(("Epoch [2/3], Step [50/100], Loss: 0.5",), 3, False, id="a line"),
        pytest.param(("epoch 2/3 step 150 loss 0.5",), 3, False, id="a plain line"),
        pytest.param(('{"epoch": 2, "num_epochs": 3, "step": 5, "loss": 0.5}',), 3, False, id="JSON"),
        pytest.param((LIGHTNING,), 3, True, id="a bar of tqdm"),
        pytest.param(("Epoch 2/3", KERAS), 3, True, id="Keras' header"),
        pytest.param(("Epoch 2/3", "32/32 - 1s - 30ms/step - loss: 0.5"), 3, True, id="Keras' header without a bar"),
        pytest.param(("Epoch 2/3 ━━━━━━╸━━━━ 60/100 0:00:01 loss: 0.5",), 3, True, id="a bar of rich"),
        pytest.param(("epoch 2/3 [=====>....] step 60 loss 0.5",), 3, True, id="a bar of another program"),
        pytest.param(("epoch 2/3 ####------ step 60 loss 0.5",), 3, True, id="a bar of hashes"),
        pytest.param(("epoch 2/3 ███▌ step 60 loss 0.5",), 3, True, id="a bar of blocks"),
        pytest.param(("epoch 2/3 step 60 loss 0.5", "Epoch 1/2", KERAS), 2, True, id="a line, then another total"),
        pytest.param(("epoch 2/3 step 60 loss 0.5", LIGHTNING), 3, False, id="a line, then a bar with the same total"),
        pytest.param((LIGHTNING, "epoch 2/3 step 60 loss 0.5"), 3, False, id="a bar, then a line"),
        pytest.param((LIGHTNING, "epoch 2/5 step 60 loss 0.5"), 5, False, id="a bar, then a line with another total"),
        pytest.param(("epoch 2 step 60 loss 0.5",), None, False, id="nothing says it"),
    ],
)
def test_a_total_of_epochs_is_the_training_s_own_only_if_a_line_without_a_bar_says_it(lines, total, of_bar):
    found = reads(*lines)
    assert (found.total_epochs, found.total_of_bar) == (total, of_bar)


def test_a_total_that_a_pattern_of_the_spec_takes_is_no_bar_s():
    own = (r"(?P<epoch>\d+)/(?P<totalEpochs>\d+) =+> L(?P<loss>\S+)", r"S(?P<step>\d+)")
    found = reads("2/3 =====> L0.5", "S12", patterns=own)
    assert (found.total_epochs, found.total_of_bar) == (3, False)
