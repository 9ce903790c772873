"""What a training costs: over pods, pools, changes of price and restarts of the operator."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from builders import (
    NOW,
    exited_pod,
    losses,
    make_node,
    make_node_facts,
    make_observed,
    make_pod,
    make_pool,
    make_rank,
    make_reading,
    make_run,
    make_status,
    make_stop,
    template,
    track_of,
    with_rank,
)

from trainingrun_operator.api.endings import AUTO_PLATEAU
from trainingrun_operator.api.limits import Cost
from trainingrun_operator.api.pool import Price
from trainingrun_operator.api.status import Phase, Trained
from trainingrun_operator.core import cost
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.defaults import Defaults
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.rules import chain
from trainingrun_operator.core.rules.finding import Finding
from trainingrun_operator.core.status import render

PER_NODE = {"perNodeHour": 32, "currency": "USD"}
PER_GPU = {"perGpuHour": 4, "currency": "USD"}


def at(minutes):
    return f"2026-01-02T{minutes // 60:02}:{minutes % 60:02}:00Z"


def gpus(count):
    limits = {"resources": {"limits": {"nvidia.com/gpu": count}}}
    return template(containers=[{"name": "train", "image": "a", **limits}])


class Training8:
    """A training on nodes of 8 GPUs that started at midnight, looked at again and again with its status stored in between."""

    def __init__(self, price: dict[str, Any] | None, *, count: int = 8, nodes: int = 1, of_node: int = 8) -> None:
        self.count, self.price, self.status = count, price, make_status()
        self.nodes = [
            make_node_facts(name=f"gpu-{n}", uid=f"node-{n}", gpus=of_node, labels={"pool": "a100"})
            for n in range(nodes)
        ]
        self.pods = [make_pod(uid=f"pod-{n}", rank=n, node=f"gpu-{n}", started_at=at(0)) for n in range(nodes)]
        self.pools: list[Any] | None = None
        self.defaults = Defaults()

    def observed(self, minutes):
        said: dict[str, Any] = {"price": self.price} if self.price is not None else {}
        ranks = tuple(make_rank(n, pod=pod) for n, pod in enumerate(self.pods))
        return replace(
            make_observed(run=make_run(spec={"template": gpus(self.count)}, status=self.status)),
            ranks=ranks,
            wall=at(minutes),
            nodes=tuple(self.nodes),
            pools=(make_pool(**said),) if self.pools is None else tuple(self.pools),
            namespace_labels={},
            defaults=self.defaults,
        )

    def look(self, minutes):
        """Look at it, and store its status. Returns what it has cost."""
        seen = self.observed(minutes)
        self.status = render(seen).model_copy(update={"nodes": self.status.nodes})
        trained = self.status.trained
        return trained.cost if trained is not None else None

    def costs(self, minutes):
        found = self.look(minutes)
        assert found is not None
        return found.shown


@pytest.mark.parametrize(
    ("training", "shown"),
    [
        pytest.param(Training8(PER_NODE), "16.00 USD", id="a whole node"),
        pytest.param(Training8(PER_NODE, count=2), "4.00 USD", id="a quarter of a node"),
        pytest.param(Training8(PER_NODE, nodes=3), "48.00 USD", id="three nodes"),
        pytest.param(Training8(PER_NODE, of_node=4), "16.00 USD", id="no more than the node"),
        pytest.param(Training8(PER_GPU), "16.00 USD", id="eight GPUs"),
        pytest.param(Training8(PER_GPU, count=1), "2.00 USD", id="one GPU"),
        pytest.param(Training8(PER_GPU, of_node=0), "16.00 USD", id="GPUs of a node whose capacity is not known"),
        pytest.param(Training8({"perGpuHour": 0.0001, "currency": "JPY"}), "0.0004 JPY", id="next to nothing"),
        pytest.param(Training8({"perGpuHour": 1e9, "currency": "JPY"}), "4000000000.00 JPY", id="very much"),
    ],
)
def test_half_an_hour_of_training_costs_half_of_an_hours_price(training, shown):
    assert training.costs(30) == shown


EPOCHS = track_of(
    *((NOW - 3600 + 1200 * n, make_reading(loss=1, step=100 * n, epoch=0.5 * n, total_epochs=3)) for n in range(4))
)
"""Half an epoch in 20 minutes; 1.5 of 3 epochs are done."""


def test_what_it_will_have_cost_is_projected_by_its_pace_and_its_present_price():
    training = Training8(PER_NODE)
    training.look(30)
    seen = with_rank(training.observed(30), track=EPOCHS)
    assert EPOCHS.eta_seconds(NOW) == 3600
    found = render(seen).trained
    assert found is not None
    assert found.cost is not None
    assert (found.cost.shown, found.cost.projected) == ("16.00 USD", "48.00 USD")


@pytest.mark.parametrize(
    ("training", "fields"),
    [
        pytest.param(Training8(PER_NODE), {"track": losses(1, 1)}, id="its end is not known"),
        pytest.param(Training8(PER_NODE), {"track": EPOCHS, "pods": (exited_pod(started_at=at(0), node="gpu-0"),)}, id="it does not run"),
        pytest.param(Training8(PER_NODE), {"track": EPOCHS, "pods": (make_pod(started_at=at(0), node=""),)}, id="it costs nothing now"),
    ],
)  # fmt: skip
def test_where_end_or_price_is_not_known_nothing_is_projected(training, fields):
    training.look(30)
    found = render(with_rank(training.observed(30), **fields)).trained
    assert found is not None
    assert found.cost is not None
    assert found.cost.projected == ""


def test_a_run_that_ends_has_no_projection():
    training = Training8(PER_NODE)
    training.look(30)
    training.status = training.status.model_copy(update={"termination": make_stop(Phase.DRAINING)})
    found = render(with_rank(training.observed(30), track=EPOCHS)).trained
    assert found is not None
    assert found.cost is not None
    assert found.cost.projected == ""


def test_a_look_reckons_the_cost_once(monkeypatch):
    reckoned = []

    def counted(name):
        known = getattr(cost, name)

        def reckon(seen):
            reckoned.append(name)
            return known(seen)

        return reckon

    for name in ("of", "rate"):
        monkeypatch.setattr(cost, name, counted(name))
    training = Training8(PER_NODE)
    seen = training.observed(30)
    run = make_run(spec={"template": gpus(8), "budget": {"maxCost": 20, "maxGpuHours": 9}}, status=training.status)
    seen = replace(seen, run=run)
    render(seen)
    decide(seen)
    assert sorted(reckoned) == ["of", "rate"]


def test_many_statuses_add_up_to_the_same():
    often, once = (
        Training8({"perGpuHour": 0.0007, "currency": "USD"}),
        Training8({"perGpuHour": 0.0007, "currency": "USD"}),
    )
    for minutes in range(1, 600):
        often.look(minutes)
    assert often.costs(600) == once.costs(600) == "0.06 USD"
    found = often.look(600)
    assert found is not None
    assert found.amount == pytest.approx(0.056, abs=1e-6)


def test_looks_without_a_status_count_nothing_twice():
    training = Training8(PER_GPU)
    training.look(10)
    found = [cost.of(training.observed(minutes)) for minutes in (20, 30, 20)]
    assert [one and one.shown for one in found] == ["10.67 USD", "16.00 USD", "10.67 USD"]


def test_a_changed_price_counts_from_the_look_that_finds_it():
    training = Training8(PER_GPU)
    assert training.costs(30) == "16.00 USD"
    training.price = {"perGpuHour": 8, "currency": "USD"}
    assert training.costs(60) == "32.00 USD"
    assert training.costs(90) == "64.00 USD"
    training.price = {"perGpuHour": 1, "currency": "USD"}
    assert training.costs(90) == "64.00 USD"
    assert training.costs(150) == "72.00 USD"


def test_time_before_the_first_price_is_not_guessed():
    training = Training8(None)
    assert training.look(30) is None
    training.price = PER_GPU
    assert training.costs(60) == "at least 0.00 USD"
    assert training.costs(90) == "at least 16.00 USD"
    assert cost.unpriced_hours(training.observed(90), training.look(90)) == 8


def test_a_price_that_goes_leaves_what_has_been_counted():
    training = Training8(PER_GPU)
    training.look(29)
    training.price = None
    assert training.costs(30) == "16.00 USD"
    assert training.costs(60) == "at least 16.00 USD"
    training.price = PER_GPU
    training.look(60)
    assert training.costs(90) == "at least 32.00 USD"


def test_a_price_in_another_currency_does_not_count():
    training = Training8(PER_GPU)
    training.look(30)
    training.price = {"perGpuHour": 9, "currency": "EUR"}
    assert training.costs(30) == "16.00 USD"
    assert training.costs(60) == "at least 16.00 USD"
    assert "a price in EUR, and the cost of the run is in USD" in cost.rate(training.observed(60)).unknown


def test_before_anything_is_counted_the_currency_may_change():
    training = Training8(PER_GPU)
    training.pods[0] = make_pod(uid="pod-0", node="gpu-0", training=Training.NOT_STARTED, started_at="")
    assert training.look(0) is None
    training.price = {"perGpuHour": 9, "currency": "EUR"}
    training.pods[0] = make_pod(uid="pod-0", node="gpu-0", started_at=at(0))
    assert training.costs(0) == "0.00 EUR"
    training.price = PER_GPU
    assert training.costs(0) == "0.00 USD"
    assert training.costs(30) == "16.00 USD"


def test_a_replaced_pod_and_a_suspension_go_on_from_the_same_amount():
    training = Training8(PER_GPU)
    assert training.costs(30) == "16.00 USD"
    training.pods = []
    asleep = training.observed(90)
    training.status = render(replace(asleep, ranks=(make_rank(pod=None),)))
    training.pods = [make_pod(uid="second", node="gpu-0", started_at=at(120))]
    assert training.costs(120) == "16.00 USD"
    training.pods = [make_pod(uid="third", node="gpu-0", started_at=at(150))]
    assert training.costs(180) == "32.00 USD", "What the second pod did unseen is not known, as for its time."


def test_a_restarted_training_counts_at_the_price_of_its_new_pool():
    training = Training8(PER_GPU)
    training.look(30)
    other = make_node_facts(name="spot-1", uid="spot", gpus=8, labels={"pool": "spot"})
    training.nodes = [other]
    training.pools = [
        make_pool(price=PER_GPU),
        make_pool("spot", nodeSelector={"pool": "spot"}, price={**PER_GPU, "perGpuHour": 1}),
    ]
    training.pods = [make_pod(uid="second", node="spot-1", started_at=at(60))]
    assert training.costs(90) == "20.00 USD"


def test_ranks_in_several_pools_cost_what_each_pool_costs():
    training = Training8(None, nodes=2)
    training.nodes[1] = replace(training.nodes[1], labels={"pool": "spot"})
    training.pools = [
        make_pool(price=PER_NODE),
        make_pool("spot", nodeSelector={"pool": "spot"}, price={**PER_NODE, "perNodeHour": 8}),
    ]
    assert training.costs(30) == "20.00 USD"


def test_a_rank_without_a_node_costs_nothing():
    training = Training8(PER_GPU, nodes=2)
    training.pods[1] = make_pod(uid="waits", rank=1, node="", started_at="")
    assert training.costs(30) == "16.00 USD"
    training.pods[1] = make_pod(uid="waits", rank=1, node="gpu-1", started_at="")
    assert training.costs(30) == "16.00 USD"
    assert training.costs(60) == "48.00 USD"


def without_pool(training):
    training.pools = []


def without_price(training):
    training.price = None


def two_pools(training):
    training.pools = [make_pool(price=PER_GPU), make_pool("b", price=PER_GPU)]


def deleted_pool(training):
    training.status = make_status(nodes=(make_node(name="gpu-0", uid="node-0", pool="gone"),))
    training.nodes = []


def no_capacity(training):
    training.price, training.nodes = PER_NODE, [replace(training.nodes[0], gpus=0)]


def no_node(training):
    training.nodes = []


def no_pools_read(training):
    training.nodes, training.pools, training.defaults = [], [], Defaults(release_nodes=False)


def two_prices(training):
    pool = make_pool(price=PER_GPU)
    wrong = Price.parse({**PER_NODE, **PER_GPU})
    training.pools = [replace(pool, spec=pool.spec.model_copy(update={"price": wrong}))]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (without_price, "GPUNodePool 'a100' has no price"),
        (without_pool, "Node gpu-0 has no price, because no GPUNodePool selects it"),
        (two_pools, "Node gpu-0 has no price, because GPUNodePools a100, b all select it"),
        (deleted_pool, "GPUNodePool 'gone' does not exist"),
        (no_capacity, "Node gpu-0 shows no GPUs in its capacity"),
        (no_node, "Node gpu-0 was not found"),
        (no_pools_read, "reads no GPUNodePools"),
        (two_prices, "needs exactly one of perNodeHour and perGpuHour"),
    ],
    ids=lambda one: one.__name__ if callable(one) else "",
)
def test_a_price_that_cannot_be_known_is_told_and_counts_nothing(change, why):
    training = Training8(PER_GPU)
    change(training)
    assert why in cost.rate(training.observed(30)).unknown
    assert training.look(30) is None
    counted = Training8(PER_GPU)
    counted.look(30)
    before = counted.status
    change(counted)
    counted.status = before.model_copy(update={"nodes": counted.status.nodes})
    counted.look(30)
    assert counted.costs(60) == "at least 16.00 USD"


def test_a_run_without_gpus_costs_nothing():
    training = Training8(PER_GPU, count=0)
    assert training.look(30) is None
    assert cost.rate(training.observed(30)).unknown == ""


def test_an_operator_that_was_away_counts_at_the_price_that_it_knew():
    training = Training8(PER_GPU)
    training.look(30)
    training.price = {**PER_GPU, "perGpuHour": 100}
    assert training.costs(90) == "48.00 USD"


def test_a_training_of_an_earlier_release_has_hours_without_a_price():
    training = Training8(PER_GPU)
    training.status = make_status(trained=Trained(seconds=1800, last_seconds=1800, pod_uid="pod-0", started_at=at(0)))
    assert training.costs(30) == "at least 0.00 USD"
    assert training.costs(60) == "at least 16.00 USD"


def test_amounts_stay_within_the_schema():
    training = Training8({"perGpuHour": 1e9, "currency": "USD"})
    most = Cost(shown="x", amount=1e15, currency="USD", per_hour=1e15, priced_gpus=8, priced_gpu_hours=1e9)
    training.status = make_status(
        trained=Trained(seconds=60, last_seconds=60, pod_uid="pod-0", started_at=at(0), cost=most)
    )
    found = training.look(600)
    assert found is not None
    assert (found.amount, found.priced_gpu_hours) == (1e15, 1e9)
    assert Cost.parse(found.dump()) == found


def test_a_rule_that_only_reports_says_what_it_would_have_cost_less():
    training = Training8(PER_GPU)
    training.look(30)
    fires = Finding("plateau", "Plateau", "It is flat.", AUTO_PLATEAU, enforced=False)
    (first,) = chain.shadows(training.observed(30), (fires,))
    older = first.model_copy(update={"rule": "older", "cost": None})
    training.status = training.status.model_copy(update={"shadow": (first, older)})
    assert [(one.cost, one.saved_cost) for one in chain.shadows(training.observed(60), ())] == [
        (16, "16.00 USD"),
        (None, ""),
    ]
    assert [one.saved_cost for one in chain.shadows(training.observed(30), ())] == ["", ""]
    unpriced = Training8(None)
    (unknown,) = chain.shadows(unpriced.observed(30), (fires,))
    assert unknown.cost is None
