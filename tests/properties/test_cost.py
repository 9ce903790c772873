"""What a training costs, whatever prices, pods and operators come and go."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest
from builders import (
    make_node_facts,
    make_observed,
    make_pod,
    make_pool,
    make_rank,
    make_run,
    make_status,
    template,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from properties.strategies import POD_UIDS, WALL, contradictions

from trainingrun_operator.api.limits import Budget, Cost
from trainingrun_operator.api.status import Trained, TrainingRunStatus
from trainingrun_operator.core.budget import render, stage
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.duration import gpu_hours
from trainingrun_operator.core.status import render as status_of

look = settings(deadline=None, suppress_health_check=list(HealthCheck))
GPUS = 4
LIMITS = {"resources": {"limits": {"nvidia.com/gpu": GPUS}}}
SPEC = {
    "template": template(containers=[{"name": "train", "image": "a", **LIMITS}]),
    "budget": {"maxCost": 25},
}


class Look(NamedTuple):
    """One look of an operator."""

    seconds: int
    """Since the one before."""
    price: tuple[str, float] | None
    """Currency, and of one GPU for an hour, as found at this look."""
    stored: bool
    """Whether its status is stored."""
    new_pod: bool
    """Whether another pod has started in the middle of the time before this look; what the one before did since the last status is not known."""


PRICES = st.sampled_from([None, ("USD", 1.0), ("USD", 4.0), ("USD", 0.001), ("EUR", 4.0)])
LOOKS = st.lists(
    st.builds(Look, st.sampled_from([0, 1, 10, 3600]), PRICES, st.booleans(), st.sampled_from([False, False, True])),
    min_size=1,
    max_size=12,
)


def wall(second):
    return f"2026-01-{2 + second // 86_400:02}T{second // 3600 % 24:02}:{second // 60 % 60:02}:{second % 60:02}Z"


def told(looks):
    """Yield the look, what was stored before it, and what it has seen."""
    now, started, pod, status = 0, 0, 0, make_status()
    for look in looks:
        if look.new_pod:
            pod, started = pod + 1, now + look.seconds // 2
        now += look.seconds
        price = {"price": {"perGpuHour": look.price[1], "currency": look.price[0]}} if look.price is not None else {}
        pool = make_pool("a100", nodeSelector={"pool": "a100"}, **price)
        seen = make_observed(
            run=make_run(spec=SPEC, status=status),
            ranks=(make_rank(pod=make_pod(uid=f"pod-{pod}", started_at=wall(started))),),
            nodes=(make_node_facts(gpus=8),),
            pools=(pool,),
            wall=wall(now),
        )
        made = render(seen)
        assert made is not None
        yield look, status.trained, seen, made
        status = make_status(trained=made) if look.stored else status


@look
@given(LOOKS)
def test_what_is_stored_never_falls_and_is_never_more_than_the_hours_at_the_highest_price(looks):
    amount, priced = 0.0, 0.0
    for look, _, seen, made in told(looks):
        known = made.cost or Cost()
        used = gpu_hours(seen)
        assert known.amount <= used * 4.0 + 1e-6
        assert known.priced_gpu_hours <= used + 1e-6
        assert Cost.parse(known.dump()) == known
        if look.stored:
            assert known.amount >= amount
            assert known.priced_gpu_hours >= priced
            amount, priced = known.amount, known.priced_gpu_hours


@look
@given(LOOKS)
def test_time_is_counted_at_a_price_that_was_stored_or_not_at_all(looks):
    for look, before, _, made in told(looks):
        last = before.cost if before is not None else None
        known, prices = made.cost or Cost(), [(look.price or ("", 0))[1] * GPUS]
        same = before is not None and (before.pod_uid, before.started_at) == (made.pod_uid, made.started_at)
        if same and before is not None:
            prices = [last.per_hour if last is not None else 0]
        seconds = made.last_seconds - (before.last_seconds if same and before is not None else 0)
        grown = known.amount - (last.amount if last is not None else 0)
        allowed = [seconds / 3600 * price for price in (*prices, 0)]
        assert any(grown == pytest.approx(one, abs=1e-6) for one in allowed)


@look
@given(LOOKS)
def test_without_a_known_price_nothing_is_near_or_spent(looks):
    for _, _, seen, made in told([look._replace(price=None) for look in looks]):
        assert made.cost is None
        assert stage(seen) == "Unknown"


@look
@given(LOOKS, st.data())
def test_at_one_price_it_does_not_matter_which_statuses_are_stored(looks, data):
    one_pod = [look._replace(price=("USD", 4.0), new_pod=False) for look in looks]
    other = [look._replace(stored=data.draw(st.booleans())) for look in one_pod]
    (*_, often), (*_, seldom) = [made.cost for *_, made in told(one_pod)], [made.cost for *_, made in told(other)]
    assert often is not None
    assert seldom is not None
    assert often.amount == pytest.approx(seldom.amount, abs=1e-6)


AMOUNTS = st.sampled_from([0.0, 1e-300, 3.5, 1e9])
COSTS = st.builds(
    Cost,
    amount=AMOUNTS,
    currency=st.sampled_from(["", "USD"]),
    per_hour=AMOUNTS,
    priced_gpus=st.sampled_from([0, 2**31 - 1]),
    priced_gpu_hours=AMOUNTS,
)
TRAINED = st.builds(
    Trained,
    seconds=st.sampled_from([0, 3600, 315_360_000]),
    last_seconds=st.sampled_from([0, 3600]),
    pod_uid=st.sampled_from(["", *POD_UIDS]),
    started_at=st.sampled_from([None, WALL]),
    budget_told=st.sampled_from(["", "Near", "Unknown", "Spent"]),
    cost=st.one_of(st.none(), COSTS),
)
BUDGETS = st.sampled_from([{}, {"maxCost": 1e-300}, {"maxCost": 1e12, "maxGpuHours": 0.5, "onExhausted": "Notify"}])
EXTREMES = st.sampled_from([{"perNodeHour": 1e9, "currency": "USD"}, {"perGpuHour": 1e-300, "currency": "EUR"}, None])


@look
@given(contradictions(), TRAINED, BUDGETS, EXTREMES)
def test_whatever_is_observed_there_is_a_decision_and_a_status_that_can_be_stored(seen, trained, budget, price):
    spec = seen.run.spec.model_copy(update={"budget": Budget.parse(budget)})
    status = seen.run.status.model_copy(update={"trained": trained})
    pools = tuple(make_pool(pool.name, price=price) for pool in seen.pools)
    seen = replace(seen, run=replace(seen.run, spec=spec, status=status), pools=pools)
    decide(seen)
    shown = status_of(seen)
    assert TrainingRunStatus.parse(shown.dump()) == shown
