"""`spec.stopRules`: when each ends a run, and at which step. The readings go through the operator's own memory."""

from __future__ import annotations

from dataclasses import replace
from math import inf, nan
from typing import Any

import pytest
from builders import make_agent, make_found, make_pod, make_stop
from stop_rules import RESTART, TIMEOUT, Operator, ended_at, first_end, operator, reading, rows

from trainingrun_operator.api.exchange import AgentReport
from trainingrun_operator.api.rules import MOVES_MAX
from trainingrun_operator.api.spoiled import Spoiled
from trainingrun_operator.api.status import Phase
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.facts.reading import Failure, Reading
from trainingrun_operator.core.rules import chain, stop_rules
from trainingrun_operator.core.rules.chain import findings, why_end
from trainingrun_operator.core.status import render

BELOW = {"name": "target", "threshold": {"value": 0.5}}
ABOVE = {"metric": "accuracy", "goal": "Maximize", "threshold": {"value": 0.92}}
NEGATIVE = {"threshold": {"value": -15}}
PLATEAU = {"metric": "eval_loss", "plateau": {"patience": 3, "minDelta": 0.01}}
RISING = {"metric": "eval_loss", "rising": {"observations": 3}}
NAN: dict[str, Any] = {"nonFinite": {}}
WHY = "It no longer improves."


def accuracy(*values):
    return rows(*values, name="accuracy")


def evaluations(*values):
    return rows(*values, name="eval_loss")


def judged(seen):
    """The finding of the first stop rule."""
    found = stop_rules.judged(0, seen)
    assert found is not None
    return found


def spoiled(polls, rule=NAN, agent=None, **spec):
    """What is remembered of the first value that is not finite, after these polls."""
    one = operator(rule, **spec)
    one.agent = agent
    seen: Any = None
    for poll in polls:
        if isinstance(poll, AgentReport):
            one.agent = poll
        elif poll is RESTART:
            one.restart(seen)
        elif isinstance(poll, str):
            one.pod_uid = poll
        else:
            seen = one.poll(poll)
    assert seen is not None
    return next(iter(seen.watches.values())).spoiled


def at_time(written_us, **fields):
    """A report of an agent whose newest checkpoint was written then."""
    newest = None if written_us is None else make_found(written_us=written_us)
    return make_agent(newest=newest, **fields)


@pytest.mark.parametrize(
    ("polls", "expected"),
    [
        pytest.param(rows(2.0, 1.0), None, id="all are finite"),
        pytest.param(rows(2.0, nan), Spoiled(step=200, finite_step=100), id="the step of the first one"),
        pytest.param(rows(2.0, nan, inf, nan), Spoiled(step=200, finite_step=100), id="of several in a row"),
        pytest.param(rows(2.0, nan, 1.0), None, id="a finite one after it"),
        pytest.param(rows(2.0, nan, 1.0, nan), Spoiled(step=400, finite_step=300), id="and not finite once more"),
        pytest.param(rows(2.0, nan, 2.0), None, id="the same finite one as before"),
        pytest.param([*rows(2.0, nan), TIMEOUT, reading(300, other=1.0)], Spoiled(step=200, finite_step=100), id="nothing was read after it"),
        pytest.param([*rows(2.0, nan), RESTART, reading(300, loss=nan)], Spoiled(step=200, finite_step=100), id="the operator is restarted between"),
        pytest.param([*rows(2.0, nan), "pod-2", reading(210, loss=9.0), reading(220, loss=nan)], Spoiled(step=200, finite_step=100), id="a new pod shows its default, and is not finite again"),
        pytest.param([*rows(2.0, nan), "pod-2", reading(210, loss=9.0), reading(220, loss=8.0)], None, id="a new pod is finite"),
        pytest.param([reading(0, loss=nan), reading(100, loss=nan)], Spoiled(step=0), id="from the beginning"),
        pytest.param([Reading(step=None, values={"loss": nan})], Spoiled(), id="a reading without a step"),
        pytest.param([at_time(5), *rows(2.0), at_time(7), reading(200, loss=nan), at_time(9), reading(300, loss=nan)], Spoiled(step=200, finite_step=100, written_us=7), id="with the time of the checkpoint that was the newest then"),
        pytest.param([at_time(None), *rows(2.0, nan)], Spoiled(step=200, finite_step=100, written_us=0), id="there was no checkpoint"),
        pytest.param([at_time(None, files=None), *rows(2.0, nan)], Spoiled(step=200, finite_step=100), id="the agent has not read the volume yet"),
        pytest.param([make_agent(), *rows(2.0, nan)], Spoiled(step=200, finite_step=100), id="an agent of an older release does not say"),
    ],
)  # fmt: skip
def test_the_first_value_that_is_not_finite_is_remembered_until_a_finite_one_follows(polls, expected):
    assert spoiled(polls) == expected


def test_only_a_rule_about_it_remembers_it():
    assert spoiled(rows(2.0, nan), rule=BELOW) is None


def measured(seen):
    """The condition whether the values of the rules are read."""
    found = render(seen).condition("RulesMeasured")
    assert found is not None
    return found


def end(rule, polls, **spec):
    return ended_at(first_end(operator(rule, **spec), polls))


@pytest.mark.parametrize(
    ("rule", "polls", "ends"),
    [
        pytest.param(BELOW, rows(2.0, 0.4, 0.3), ("auto_threshold", 300), id="two values below end the run"),
        pytest.param(BELOW, rows(2.0, 0.4), None, id="one does not"),
        pytest.param(BELOW, rows(0.4, 0.6, 0.4, 0.7), None, id="they follow each other"),
        pytest.param(BELOW, rows(0.5, 0.5, 0.5), None, id="the threshold itself is not below it"),
        pytest.param({**BELOW, "forObservations": 1}, rows(2.0, 0.4), ("auto_threshold", 200), id="as many as written"),
        pytest.param({**BELOW, "warmupSteps": 250}, rows(0.4, 0.3, 0.2, 0.1), ("auto_threshold", 400), id="a warm-up does not count"),
        pytest.param(ABOVE, accuracy(0.5, 0.93, 0.95), ("auto_threshold", 300), id="above, where larger is better"),
        pytest.param(ABOVE, accuracy(0.5, 0.92, 0.92), None, id="not above"),
        pytest.param(NEGATIVE, rows(-3.0, -14.0, -15.5, -16.0), ("auto_threshold", 400), id="a negative threshold"),
        pytest.param(BELOW, rows(2.0, 0.4, nan, 0.3), None, id="a NaN between them"),
        pytest.param(BELOW, rows(2.0, 0.4, 0.0, 0.0, 0.0), None, id="a loss of 0 is none"),
        pytest.param(ABOVE | {"threshold": {"value": -0.5}}, accuracy(-1.0, 0.0, 0.1), ("auto_threshold", 300), id="0 is a value of another metric"),
        pytest.param(BELOW, [reading(step, loss=0.0) for step in range(9)], None, id="a gauge at its default"),
        pytest.param(BELOW, [reading(7, loss=loss) for loss in (9, 0.4, 0.3, 0.2)], None, id="a step that never advances"),
        pytest.param({"threshold": {"value": 1e308}}, rows(1e307, -1e308), ("auto_threshold", 200), id="the largest numbers"),
        pytest.param(PLATEAU, evaluations(1.0, 1.0, 1.0, 1.0), ("auto_plateau", 400), id="no improvement three times"),
        pytest.param(PLATEAU, evaluations(1.0, 0.995, 0.993, 0.991), ("auto_plateau", 400), id="an improvement smaller than minDelta is none"),
        pytest.param(PLATEAU, evaluations(1.0, 0.9, 0.8, 0.7, 0.6, 0.5), None, id="it improves"),
        pytest.param(PLATEAU, evaluations(1.0, 1.1, 1.2, 0.9, 1.0, 1.1), None, id="it improves in time"),
        pytest.param(PLATEAU, evaluations(-1.0, -1.0, -1.0, -1.0), ("auto_plateau", 400), id="a negative plateau"),
        pytest.param({**PLATEAU, "forObservations": 3}, evaluations(1.0, 1.1, 1.2, 1.3, 1.2), None, id="it has to hold for longer"),
        pytest.param({**PLATEAU, "goal": "Maximize"}, evaluations(9.5, 9.4, 9.3, 9.2), ("auto_plateau", 400), id="a score that no longer grows"),
        pytest.param({"metric": "eval_loss", "plateau": {"patience": 1}}, evaluations(1e308, *[-1e308] * 4), ("auto_plateau", 500), id="differences beyond any number"),
        pytest.param({"metric": "eval_loss", "plateau": {"patience": 1}}, evaluations(1e308, -1e308, 1e308), None, id="it moves by the largest numbers all the time"),
        pytest.param(RISING, evaluations(1.0, 1.1, 1.2, 1.3), ("auto_rising", 400), id="three in a row are worse"),
        pytest.param(RISING, evaluations(1.0, 1.1, 1.2, 1.1, 1.2, 1.3), None, id="two are not"),
        pytest.param({**RISING, "goal": "Maximize"}, evaluations(20.0, 19.0, 18.0, 17.0), ("auto_rising", 400), id="a score that falls"),
        pytest.param({**RISING, "goal": "Maximize"}, evaluations(9.5, 8.0, 7.0, 6.0), None, id="a score that fell by more than it had grown"),
        pytest.param({**RISING, "rising": {"observations": 3, "minDelta": 0.5}}, evaluations(1.0, 1.1, 1.2, 1.3, 1.4), None, id="worse by less than minDelta"),
        pytest.param(PLATEAU, evaluations(9.5, 9.6, 9.7, 9.8, 9.9), None, id="a plateau before the first improvement"),
        pytest.param(RISING, evaluations(9.5, 9.6, 9.7, 9.8, 9.9), None, id="a rise before the first improvement"),
        pytest.param(RISING, evaluations(9.5, 9.6, 9.2, 9.3, 9.4, 9.5), ("auto_rising", 600), id="a rise after it"),
        pytest.param(RISING, evaluations(9.5, 9.6, 9.4, 9.5, 9.6, 9.7, 9.8), None, id="a rise after an improvement that is not more than two usual moves"),
        pytest.param(PLATEAU, evaluations(9.02, 8.98, 9.0, 9.03, 9.01, 8.99, 9.04, 9.0), None, id="a plateau of noise that has never improved"),
        pytest.param(PLATEAU, evaluations(8.0, 7.0, 7.02, 7.01, 7.02), ("auto_plateau", 500), id="a plateau of noise after a fall"),
        pytest.param(RISING, evaluations(5.0, 4.0, 4.5, 3.9, 4.4, 4.0, 4.1, 4.2, 4.3), None, id="three in a row are worse by less than noise makes"),
        pytest.param(RISING, evaluations(5.0, 4.0, 4.5, 3.9, 4.4, 4.0, 4.4, 4.9, 5.5), ("auto_rising", 900), id="three in a row are worse by more than noise makes"),
        pytest.param(RISING, evaluations(1.0, 1.01, 1.02, 1.03), ("auto_rising", 400), id="a slow rise of a value without noise"),
        pytest.param(RISING, evaluations(1.0, 99.0, 0.9, 0.8, 0.7, 0.6, 0.7, 0.8, 0.9), ("auto_rising", 900), id="a rise after one jump"),
        pytest.param(RISING, evaluations(1.0, 1.1, 1.3, 1.9, 3.7), ("auto_rising", 500), id="it diverges faster and faster"),
        pytest.param(RISING, [reading(0, eval_loss=nan), *rows(1.0, 0.5, 0.6, 0.7, 0.8, name="eval_loss")[1:]], ("auto_rising", 500), id="its first value is NaN"),
        pytest.param(NAN, rows(2.0, nan, nan), ("auto_non_finite", 300), id="NaN twice"),
        pytest.param(NAN, rows(2.0, inf, nan), ("auto_non_finite", 300), id="infinity and NaN"),
        pytest.param(NAN, rows(2.0, nan, 1.9, nan, 1.8), None, id="NaN that passes"),
        pytest.param(NAN, rows(nan, nan), ("auto_non_finite", 200), id="NaN from the beginning"),
        pytest.param(NAN, [reading(0, loss=2), *[reading(100, loss=nan)] * 9], None, id="one NaN read nine times"),
        pytest.param({"metric": "train_loss", "threshold": {"value": 0.5}}, rows(2.0, 0.4, 0.3), ("auto_threshold", 300), id="another name of the loss"),
        pytest.param({"metric": 'loss{split="val"}', "threshold": {"value": 0.5}}, rows(2.0, 0.4, 0.3), None, id="another series of that name"),
    ],
)  # fmt: skip
def test_a_stop_rule_ends_a_run(rule, polls, ends):
    assert end(rule, polls) == ends


def test_the_finding_has_the_values_that_decided():
    found = first_end(operator(PLATEAU), evaluations(1.0, 0.8, 0.9, 0.85, 0.84))
    assert (found.rule, found.reason, found.actor) == ("plateau", "Plateau", "plateau")
    assert [(one.what, one.value, one.step) for one in found.evidence] == [
        ("best eval_loss", "0.8", 200), ("eval_loss", "0.8", 200), ("eval_loss", "0.9", 300), ("eval_loss", "0.85", 400), ("eval_loss", "0.84", 500),
    ]  # fmt: skip


def test_values_that_are_not_finite_are_told_with_the_last_one_that_was_and_not_with_the_best():
    found = first_end(operator(NAN), rows(0.3, 1e10, nan, inf))
    assert "the last finite one was 1e+10 at step 200" in found.message
    assert [(one.what, one.step) for one in found.evidence][:1] == [("last finite loss", 200)]


def test_the_first_rule_that_fires_decides():
    polls = rows(2.0, 0.4, 0.3)
    first, second = {"name": "a", "threshold": {"value": 0.45}}, {"name": "b", "threshold": {"value": 0.5}}
    for given in ((first, second), (second, first)):
        assert first_end(operator(*given), polls).rule == given[0]["name"]


# -- which readings count -----------------------------------------------------------------------------------------


def test_one_log_that_is_read_at_many_steps_is_one_observation():
    """The step is shown every 20 steps, the value changes every 500."""
    logs = [9.0, 1.0, 0.4, 0.9]
    polls = [reading(step, loss=logs[step // 500]) for step in range(0, 2000, 20)]
    assert end(BELOW, polls) is None
    assert end(RISING | {"metric": "loss"}, polls) is None


def test_a_value_that_does_not_change_any_more_is_a_plateau_although_each_log_is_shown_many_times():
    """And it takes no less than patience logs."""
    polls = [reading(step, eval_loss=max(5 - step // 500, 2)) for step in range(0, 9000, 20)]
    _, step = end(PLATEAU, polls)
    assert 1500 + 3 * 500 <= step <= 1500 + 3 * 1000


def test_a_value_that_changes_while_the_step_stands_still_counts_at_the_next_step():
    """The evaluation of step 200 is shown while the training is still at step 200."""
    polls = [
        *evaluations(1.0, 0.8),
        reading(200, eval_loss=0.7),
        reading(220, eval_loss=0.7),
        reading(240, eval_loss=0.7),
    ]
    one = operator(PLATEAU)
    first_end(one, polls)
    newest = one.memory.watches["plateau"].newest
    assert newest is not None
    assert (newest.step, newest.value) == (220, 0.7)


@pytest.mark.parametrize(
    "between",
    [
        pytest.param([TIMEOUT] * 5, id="polls that failed"),
        pytest.param([Reading(step=200, values={})], id="a reading without the value"),
        pytest.param([Reading(values={"eval_loss": 0.1})], id="a reading without a step"),
        pytest.param([reading(200, eval_loss=0.9)] * 3, id="the same reading"),
        pytest.param([reading(100, eval_loss=1.0)], id="an older reading"),
        pytest.param([RESTART], id="a restart of the operator"),
        pytest.param([RESTART, TIMEOUT, RESTART, reading(200, eval_loss=0.9), RESTART], id="several restarts"),
    ],
)  # fmt: skip
def test_what_is_no_observation_changes_nothing(between):
    before, after = evaluations(1.0, 0.9), rows(1.0, 1.1, 1.2, name="eval_loss", first=200)[1:]
    for rule, how in ((PLATEAU, "auto_plateau"), (RISING, "auto_rising")):
        assert end(rule, [*before, *after]) == (how, 500)
        assert end(rule, [*before, *between, *after]) == (how, 500)


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        pytest.param((5.0, 4.0, 4.5, 3.9, 4.4, 4.0, 4.1, 4.2, 4.3), None, id="a rise within the noise"),
        pytest.param((5.0, 4.0, 4.5, 3.9, 4.4, 4.0, 4.4, 4.9, 5.5), ("auto_rising", 900), id="a rise beyond it"),
        pytest.param((9.5, 9.6, 9.4, 9.5, 9.6, 9.7, 9.8), None, id="an improvement within the noise"),
        pytest.param((1.0, 0.9, 0.8, 0.7, 0.8, 0.9, 1.0), ("auto_rising", 700), id="a smooth rise"),
    ],
)
def test_an_operator_that_is_restarted_at_every_reading_knows_the_usual_move(values, ends):
    polls = evaluations(*values)
    # Before the step has advanced, nothing was counted that a restart could lose.
    restarted = [*polls[:2], *(one for poll in polls[2:] for one in (RESTART, poll))]
    assert end(RISING, polls) == ends
    assert end(RISING, restarted) == ends


def test_the_gradient_norm_can_be_what_a_rule_looks_at():
    """Where the loss that is shown stands for NaN."""
    polls = [reading(0, loss=3.0, gradientNorm=1.0), *(reading(n, loss=0.0, gradientNorm=nan) for n in (10, 20, 30))]
    assert end({"metric": "gradientNorm", "nonFinite": {}}, polls) == ("auto_non_finite", 20)
    assert (
        end(BELOW, [*polls, reading(40, loss=0.3, gradientNorm=nan), reading(50, loss=0.2, gradientNorm=nan)]) is None
    )


# -- pods and stages ----------------------------------------------------------------------------------------------


def test_another_pod_goes_on_counting_and_steps_that_it_repeats_do_not_count_twice():
    one = operator(PLATEAU)
    assert first_end(one, evaluations(1.0, 1.1, 1.2)) is None
    one.pod_uid = "another pod"
    repeated = [reading(step, eval_loss=value) for step, value in ((100, 1.0), (200, 1.3), (300, 1.2), (400, 1.25))]
    found = first_end(one, repeated)
    assert ended_at(found) == ("auto_plateau", 400)


def test_two_values_of_different_pods_do_not_follow_each_other():
    one = operator(BELOW)
    assert first_end(one, rows(2.0, 0.4)) is None
    one.pod_uid = "another pod"
    assert first_end(one, [reading(200, loss=9.0), reading(300, loss=0.3)]) is None


def test_a_new_stage_in_a_pod_starts_again():
    one = operator(PLATEAU)
    polls = [*evaluations(1.0, 1.1, 1.2), *[reading(0, eval_loss=5.0)] * 3, *evaluations(4.0, 4.1, 4.2)[1:]]
    assert first_end(one, polls) is None
    assert ended_at(first_end(one, [reading(400, eval_loss=4.3)])) == ("auto_plateau", 400)


@pytest.mark.parametrize(
    ("changed", "ends"),
    [
        pytest.param({"plateau": {"patience": 3, "minDelta": 0.01}}, True, id="nothing"),
        pytest.param({"plateau": {"patience": 2, "minDelta": 0.01}}, True, id="the patience"),
        pytest.param({"plateau": {"patience": 3, "minDelta": 0.5}}, False, id="what an improvement is"),
        pytest.param({"plateau": {"patience": 3, "minDelta": 0.01}, "goal": "Maximize"}, False, id="what is better"),
    ],
)
def test_a_rule_that_is_changed_goes_on_counting_if_it_counts_the_same(changed, ends):
    one = operator(PLATEAU)
    assert first_end(one, evaluations(1.0, 1.1, 1.2)) is None
    one.run = operator(PLATEAU | changed).run
    found = first_end(one, [reading(400, eval_loss=1.3)])
    assert (found is not None) == ends


def test_what_was_counted_for_a_rule_before_it_was_changed_ends_nothing_before_the_next_reading():
    one = operator({**BELOW, "forObservations": 2})
    seen = [one.poll(poll) for poll in rows(2.0, 0.4, 0.3)][-1]
    assert why_end(seen) is not None
    changed = operator({"name": "target", "threshold": {"value": 0.1}}).run
    assert why_end(replace(seen, run=changed)) is None
    one.run = changed
    assert why_end(one.poll(TIMEOUT)) is None


def test_another_metric_source_starts_again():
    """It may count steps and name values in another way."""
    one = operator(BELOW)
    assert first_end(one, [replace(poll, source="Prometheus") for poll in rows(2.0, 0.4)]) is None
    other = [replace(poll, source="Logs") for poll in rows(0.3, 0.2, 0.1, first=1000)]
    assert ended_at(first_end(one, other)) == ("auto_threshold", 1200)


def test_a_look_at_which_the_metrics_are_not_due_counts_nothing():
    one = operator(PLATEAU)
    before = [one.poll(poll) for poll in evaluations(1.0, 1.1)][-1]
    assert one.poll(None).watches == before.watches


def test_rules_that_are_removed_are_forgotten():
    one = operator(PLATEAU)
    first_end(one, evaluations(1.0, 1.1))
    assert set(one.memory.watches) == {"plateau"}
    one.run = operator().run
    assert render(one.poll(reading(300, eval_loss=1.2))).rules == ()
    assert one.memory.watches == {}


# -- checkpoints, shadow, staleness -------------------------------------------------------------------------------

EMPTY_HANDED = make_agent(newest=None, commit=None, files=0)


@pytest.mark.parametrize(
    ("rule", "polls", "reason"),
    [
        pytest.param(BELOW, rows(2.0, 0.4, 0.3), "NoCheckpoint", id="a threshold waits for the first checkpoint"),
        pytest.param(NAN, rows(2.0, nan, nan), "NonFinite", id="a value that is not finite waits for nothing"),
        pytest.param({**BELOW, "action": "Shadow"}, rows(2.0, 0.4, 0.3), "Threshold", id="a rule that only reports waits for nothing"),
    ],
)  # fmt: skip
def test_stopping_never_means_losing_everything(rule, polls, reason):
    one = operator(rule)
    one.agent = EMPTY_HANDED
    assert end_reasons(one, polls)[-1] == reason


def end_reasons(one: Operator, polls):
    """The reason of the first stop rule at every poll."""
    return [judged(one.poll(poll)).reason for poll in polls]


def test_a_rule_in_shadow_records_when_it_would_have_stopped_and_the_next_one_decides():
    one = operator({**BELOW, "action": "Shadow"}, {"threshold": {"value": 0.2}})
    seen = None
    for poll in rows(2.0, 0.4, 0.3, 0.25):
        seen = one.poll(poll)
        one.run = replace(one.run, status=render(seen))
        assert why_end(seen) is None
    assert seen is not None
    (shadow,) = one.run.status.shadow
    assert (shadow.rule, shadow.step, shadow.value) == ("target", 300, "0.3")
    assert shadow.would_stop_at == "2026-01-02T00:17:20Z"
    assert first_end(one, [reading(500, loss=0.1), reading(600, loss=0.15)]).rule == "threshold"


def test_a_value_that_went_stale_ends_nothing():
    one = operator({**BELOW, "forObservations": 2})
    for poll in rows(2.0, 0.4):
        one.poll(poll)
    fired = one.poll(reading(300, loss=0.3))
    assert why_end(fired) is not None
    assert why_end(replace(fired, now=fired.now + 120)) is not None
    stale = replace(fired, now=fired.now + 121)
    assert why_end(stale) is None
    assert judged(stale).reason == "Stale"
    patient = replace(stale, run=operator({**BELOW, "staleAfterSeconds": 500}).run)
    assert why_end(patient) is not None


# -- what it says -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "polls", "reason"),
    [
        pytest.param(BELOW, [], "NotReadYet", id="nothing read"),
        pytest.param(BELOW, [TIMEOUT], "Timeout", id="a failed reading"),
        pytest.param(PLATEAU, rows(2.0, 1.0), "NotSeen", id="a value that never appears"),
        pytest.param(BELOW, rows(), "NeverAdvanced", id="the first step"),
        pytest.param(
            PLATEAU, [reading(0, loss=9), reading(100, loss=8), Reading(values={"eval_loss": 1})], "NoObservation", id="a value of no step"
        ),
        pytest.param(BELOW, [reading(0, loss=9), reading(100, loss=9)], "LossNeverChanged", id="a value that has not changed"),
        pytest.param({**BELOW, "warmupSteps": 500}, rows(2.0, 0.4), "WarmUp", id="in the warm-up"),
        pytest.param(BELOW, rows(2.0, 0.4, nan), "NotFinite", id="NaN now"),
        pytest.param(BELOW, rows(2.0, 0.0), "ZeroLoss", id="a loss of 0"),
        pytest.param(BELOW, rows(2.0, 0.4), "NotYet", id="once below"),
        pytest.param(PLATEAU, evaluations(1.0, 1.1), "NotYet", id="not patient enough"),
        pytest.param(RISING, evaluations(1.0, 1.1), "NotYet", id="rising once"),
        pytest.param(RISING, evaluations(5.0, 4.0, 4.5, 3.9, 4.4, 4.0, 4.1, 4.2, 4.3), "WithinNoise", id="rising by less than noise makes"),
        pytest.param(NAN, rows(2.0, 1.0), "NotYet", id="finite"),
        pytest.param(NAN, rows(2.0, nan), "NotYet", id="not finite once"),
        pytest.param(BELOW, [*rows(2.0, 0.4), reading(100, loss=0.4)], "StepFell", id="a step of another rank"),
    ],
)  # fmt: skip
def test_a_rule_says_why_it_has_not_fired(rule, polls, reason):
    one = operator(rule)
    seen = one.poll(TIMEOUT) if not polls else None
    if seen is not None:
        seen = replace(seen, watches={}, ranks=(replace(seen.ranks[0], track=type(seen.track)()),))
    for poll in polls:
        seen = one.poll(poll)
    assert seen is not None
    found = judged(seen)
    assert (found.reason, found.fires) == (reason, False)


def test_an_ambiguous_value_is_named_with_the_reason():
    failure = Failure("AmbiguousSeries", "The metrics page is ambiguous: 2 series of eval_loss disagree.")
    one = operator(PLATEAU)
    seen = one.poll(Reading(step=1, values={"loss": 2.0}, troubles={"eval_loss": failure}))
    assert judged(seen).reason == "AmbiguousSeries"
    condition = measured(seen)
    assert (condition.status, condition.reason) == ("False", "AmbiguousSeries")


def test_no_rule_says_anything_of_a_training_that_does_not_run():
    seen = operator(BELOW).poll(reading(0, loss=9))
    ended = replace(seen, ranks=(replace(seen.ranks[0], pod=make_pod(training=Training.EXITED, exit_code=0)),))
    assert judged(ended).reason == "NotRunning"
    assert measured(ended).status == "Unknown"


def test_every_rule_has_a_finding_in_the_order_of_the_spec():
    one = operator(BELOW, ABOVE, PLATEAU, RISING, NAN)
    seen = one.poll(reading(0, loss=9.0))
    mine = [found.rule for found in findings(seen, stop_rules.RULES)]
    assert mine == ["target", "threshold", "plateau", "rising", "nonFinite"]
    assert len(render(seen).findings) == len(findings(seen)) <= chain.FINDINGS_MAX


def test_rules_that_contradict_each_other_do_not_count_and_the_condition_says_so():
    one = operator(BELOW, {"goal": "Maximize", "threshold": {"value": 0.1}})
    assert first_end(one, rows(2.0, 0.4, 0.3, 0.2)) is None
    seen = one.poll(reading(500, loss=0.2))
    assert judged(seen).reason == "InvalidStopRules"
    accepted = render(seen).condition("Accepted")
    assert accepted is not None
    assert (accepted.status, accepted.reason) == ("False", "InvalidStopRules")


@pytest.mark.parametrize(
    ("polls", "status", "reason"),
    [
        pytest.param([], "Unknown", "NotReadYet", id="nothing read"),
        pytest.param(rows(2.0, 1.0), "False", "NotSeen", id="another value is read"),
        pytest.param(evaluations(2.0), "True", "Measured", id="it is read"),
        pytest.param([*evaluations(2.0), reading(200, loss=1.0)], "True", "Measured", id="it was read"),
    ],
)
def test_a_condition_says_whether_the_values_of_the_rules_are_read(polls, status, reason):
    one = operator(PLATEAU)
    seen = one.poll(TIMEOUT)
    for poll in polls:
        seen = one.poll(poll)
    condition = measured(seen)
    assert (condition.status, condition.reason) == (status, reason)


def test_the_condition_names_the_rule_its_metric_and_what_is_there():
    seen = operator(PLATEAU).poll(reading(0, loss=2.0, accuracy=0.5))
    message = measured(seen).message
    assert "plateau" in message
    assert "eval_loss" in message
    assert "accuracy, loss" in message


STANDS = evaluations(2.0, 1.0, 1.0, 1.1, 1.0)


@pytest.mark.parametrize(
    ("rules", "polls", "expected"),
    [
        pytest.param([BELOW, RISING], STANDS, None, id="no plateau rule"),
        pytest.param([PLATEAU], evaluations(2.0, 1.0), ("False", "NotYet"), id="it improves"),
        pytest.param([PLATEAU], STANDS, ("True", "Plateau"), id="it holds"),
        pytest.param([{**PLATEAU, "action": "Shadow"}], STANDS, ("True", "Plateau"), id="it holds, and only reports"),
        pytest.param([PLATEAU], [make_agent(newest=None), *STANDS], ("True", "Plateau"), id="it holds, and waits for a checkpoint"),
        pytest.param([{**PLATEAU, "action": "Shadow"}], [*STANDS, reading(600, eval_loss=0.1)], ("False", "NotYet"), id="it improves again"),
        pytest.param([{**PLATEAU, "name": "a", "metric": "other"}, {**PLATEAU, "name": "b"}], STANDS, ("True", "Plateau"), id="one of two holds"),
        pytest.param([PLATEAU], [None], ("Unknown", "NotReadYet"), id="nothing was read yet"),
        pytest.param([PLATEAU], [TIMEOUT], ("False", "Timeout"), id="it cannot be read"),
    ],
)  # fmt: skip
def test_a_plateau_is_a_condition_of_the_run(rules, polls, expected):
    one, seen = operator(*rules), None
    for poll in polls:
        if isinstance(poll, AgentReport):
            one.agent = poll
        else:
            seen = one.poll(poll)
    assert seen is not None
    found = render(seen).condition("LossPlateaued")
    assert (None if found is None else (found.status, found.reason)) == expected


@pytest.mark.parametrize(
    ("status", "before", "expected"),
    [
        pytest.param("auto_plateau", STANDS[:3], ("True", "Plateau", WHY), id="the plateau has ended it"),
        pytest.param("user_stop", STANDS, ("True", "Plateau", None), id="it held before"),
        pytest.param("user_stop", STANDS[:3], ("False", "NotYet", None), id="it did not hold before"),
        pytest.param(
            "user_stop", (), ("False", "NotRunning", "No training is running."), id="nothing was known before"
        ),
    ],
)
def test_a_stop_keeps_whether_it_was_a_plateau(status, before, expected):
    one = operator({**PLATEAU, "action": "Shadow"})
    for poll in before:
        one.run = replace(one.run, status=render(one.poll(poll)))
    stop = make_stop(Phase.DRAINING, status=status, message=WHY)
    one.run = replace(one.run, status=one.run.status.model_copy(update={"termination": stop}))
    found = render(one.poll(None)).condition("LossPlateaued")
    assert found is not None
    assert (found.status, found.reason) == expected[:2]
    assert expected[2] in (None, found.message)


def test_without_stop_rules_there_is_no_such_condition():
    assert render(operator().poll(reading(0, loss=2.0))).condition("RulesMeasured") is None


@pytest.mark.parametrize(
    ("polls", "improved", "step"),
    [
        pytest.param(evaluations(2.0, 1.0, 1.1), True, 700, id="it had improved"),
        pytest.param(evaluations(9.5, 9.6, 9.7), False, None, id="it had not improved"),
    ],
)
def test_a_status_without_the_usual_moves_is_counted_from_and_learns_them(polls, improved, step):
    """As an operator of before has written it."""
    one = operator(RISING)
    seen = [one.poll(poll) for poll in polls][-1]
    status = render(seen)
    (window,) = status.rules
    assert window.improved is improved
    written = window.dump()
    old = type(window).parse(
        {key: value for key, value in written.items() if key not in {"start", "moves", "roseFrom"}}
    )
    one.run = replace(one.run, status=status.model_copy(update={"rules": (old,)}))
    one.memory = type(one.memory)()
    last = polls[-1].values["eval_loss"]
    after = [reading(400 + 100 * number, eval_loss=last + 0.1 * (number + 1)) for number in range(8)]
    found = ended_at(first_end(one, after))
    assert found == (None if step is None else ("auto_rising", step))


def test_the_moves_that_are_kept_are_few_however_long_the_training_is():
    one = operator(RISING, PLATEAU, BELOW)
    seen = [one.poll(poll) for poll in evaluations(*(5 - number / 100 for number in range(200)))][-1]
    rising, plateau, below = render(seen).rules
    assert len(rising.moves) == len(plateau.moves) == MOVES_MAX
    assert below.moves == ()


@pytest.mark.parametrize("broken", ["x", "", "1e999x", "nan", "-1"])
def test_a_status_that_somebody_changed_by_hand_is_counted_from_as_far_as_it_goes(broken):
    one = operator(PLATEAU)
    first_end(one, evaluations(1.0, 1.1))
    status = render(one.poll(reading(300, eval_loss=1.2)))
    window = status.rules[0].model_copy(
        update={"best": broken, "value": broken, "first": broken, "start": broken, "moves": (broken,) * 3}
    )
    one.run = replace(one.run, status=status.model_copy(update={"rules": (window,)}))
    one.memory = type(one.memory)()
    assert first_end(one, rows(1.1, 1.3, 1.2, 1.25, name="eval_loss", first=400)) is not None
