"""Whatever a metric source does, a look ends in time with a reading or a sentence."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any

import pytest
from builders import make_pod, make_reading, make_run

from trainingrun_operator.core.facts.reading import NAME_MAX, VALUES_MAX, Failure, Reading
from trainingrun_operator.edge.metrics import registry as module
from trainingrun_operator.edge.metrics.registry import Sources
from trainingrun_operator.edge.metrics.source import Target

TEXT: Any = "0.5"


class Source:
    """Returns, raises or does what it is made with."""

    def __init__(self, answer):
        self.answer = answer

    async def read(self, target):
        if isinstance(self.answer, Exception):
            raise self.answer
        return await self.answer(target) if callable(self.answer) else self.answer


def read(answer, *, name="Mine"):
    target = Target(make_run(spec={"metrics": {"source": name}}), make_pod())
    return Sources({"Mine": Source(answer)}).read(target)


@pytest.mark.parametrize(
    "reading",
    [
        make_reading(0.5, 7),
        make_reading(),
        make_reading(math.nan, math.inf),
        Reading(step=1, values={"loss": 2, "accuracy": 0.5}, at=3.0),
    ],
)
async def test_a_reading_is_passed_on_with_the_name_of_its_source(reading):
    assert repr(await read(reading)) == repr(replace(reading, source="Mine"))


async def test_a_failure_is_passed_on():
    failure = Failure("Mine", "My own words.")
    assert await read(failure) == failure


async def test_a_reading_has_a_bounded_number_of_values_and_loss_and_gradient_norm_are_among_them():
    many = {f"a{number:04}": float(number) for number in range(1000)}
    found = await read(Reading(values=many | {"loss": 0.5, "gradientNorm": 2.0}))
    assert isinstance(found, Reading)
    assert len(found.values) == VALUES_MAX
    assert found.loss == 0.5
    assert found.gradient_norm == 2.0
    assert found.values["a0000"] == 0


async def test_a_value_whose_name_is_empty_or_too_long_is_left_out():
    found = await read(Reading(values={"loss": 0.5, "": 1.0, "x" * (NAME_MAX + 1): 1.0, "y" * NAME_MAX: 2.0}))
    assert isinstance(found, Reading)
    assert found.values == {"loss": 0.5, "y" * NAME_MAX: 2.0}


@pytest.mark.parametrize(
    "junk",
    [
        None,
        {"loss": 0.5},
        make_reading(TEXT),
        make_reading(0.5, step=TEXT),
        make_reading(epoch=[1]),  # type: ignore[arg-type] # as somebody else's code may
        make_reading(total_epochs=TEXT),
        make_reading(at=TEXT),
        Reading(values={7: 0.5}),  # type: ignore[dict-item] # likewise
        Reading(values={"loss": None}),  # type: ignore[dict-item] # likewise
        Failure("", "No answer."),
        Failure("no answer", "No answer."),
        Failure("NoAnswer", ""),
        Failure("NoAnswer", None),  # type: ignore[arg-type] # likewise
    ],
)
async def test_what_is_no_reading_decides_nothing(junk, caplog):
    assert await read(junk) == Failure(
        "SourceFailed", "The metric source Mine returned an invalid reading: see the operator's log."
    )
    assert "ml/bert: metric source Mine returned an invalid reading" in caplog.text


async def test_what_a_source_raises_is_a_failure_and_its_words_are_in_the_log_alone(caplog):
    found = await read(KeyError("password-of-the-page"))
    assert found == Failure("SourceFailed", "The metric source Mine failed (KeyError): see the operator's log.")
    assert "password-of-the-page" in caplog.text


async def test_a_source_that_does_not_answer_is_given_up(monkeypatch):
    monkeypatch.setattr(module, "READ_SECONDS", 0.02)

    async def never(_):
        await asyncio.Event().wait()

    found = await read(never)
    assert isinstance(found, Failure)
    assert found.reason == "Timeout"


async def test_a_source_that_is_not_there_is_said():
    assert await read(None, name="Theirs") == Failure(
        "UnknownSource", "This operator has no metric source 'Theirs' (it has Mine): correct spec.metrics.source."
    )
