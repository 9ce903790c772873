"""What a training has cost: its time, at the prices of the pools in which its pods are.

`status.trained.cost` has the amount up to that status and the price of an hour from then on. So a changed price counts from the look that finds it, and
nothing is counted at a price that was not known at the time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api.limits import COST_MAX, Cost
from trainingrun_operator.core import duration, node_pools
from trainingrun_operator.core.bounds import FILES_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainingrun_operator.api.pool import Price
    from trainingrun_operator.api.status import NodeStatus
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.observed import Observed

HOURS_MAX: Final = 1e9
"""Bound of GPU hours in the schema."""
_DIGITS: Final = 9
"""Decimal places that are stored. A status every second at a thousandth an hour still adds up."""
_SHOWN_HOURS: Final = 0.005
"""Fewer GPU hours are shown as 0.00."""
_CENT: Final = 0.01


@dataclass(frozen=True)
class Rate:
    """What an hour of the training costs."""

    per_hour: float = 0
    priced_gpus: int = 0
    """GPUs whose cost is known."""
    currency: str = ""
    """Empty: no pod has a price."""
    unknown: str = ""
    """Why the cost of a pod is not known, without a period; empty: that of all is."""


def of(seen: Observed) -> Cost | None:
    """Reckon ``status.trained.cost``; None: no price was known yet. `Observed.cost` has it."""
    before, trained = seen.run.status.trained, duration.trained(seen)
    known = before.cost if before is not None else None
    if trained is None or (known is None and all(pool.spec.price is None for pool in seen.pools)):
        return None
    now = seen.rate
    if known is None and not now.currency:
        return None
    last = known or Cost()
    same = before is not None and (before.pod_uid, before.started_at) == (trained.pod_uid, trained.started_at)
    if before is not None and same:
        hours, per_hour, gpus = (trained.last_seconds - before.last_seconds) / 3600, last.per_hour, last.priced_gpus
    else:
        hours, per_hour, gpus = trained.last_seconds / 3600, now.per_hour, now.priced_gpus
    made = Cost(
        amount=min(COST_MAX, round(last.amount + hours * per_hour, _DIGITS)),
        currency=now.currency or last.currency,
        per_hour=min(COST_MAX, round(now.per_hour, _DIGITS)),
        priced_gpus=min(FILES_MAX, now.priced_gpus),
        priced_gpu_hours=min(HOURS_MAX, round(last.priced_gpu_hours + hours * gpus, _DIGITS)),
    )
    return made.model_copy(update={"shown": _shown(made, unpriced_hours(seen, made))})


def since(seen: Observed, amount: float | None) -> str:
    """Return what the training has cost since it had cost `amount`; empty: nothing that is known."""
    now = seen.cost
    if amount is None or now is None or now.amount <= amount:
        return ""
    return f"{money(now.amount - amount)} {now.currency}"


def unpriced_hours(seen: Observed, cost: Cost | None) -> float:
    """Return the GPU hours whose cost is not known; 0 as well if they are too few to be shown."""
    hours = duration.gpu_hours(seen) - (cost.priced_gpu_hours if cost is not None else 0)
    return hours if hours >= _SHOWN_HOURS else 0


def _shown(cost: Cost, unpriced: float) -> str:
    return f"{'at least ' if unpriced else ''}{money(cost.amount)} {cost.currency}"


def projected(seen: Observed, cost: Cost | None) -> Cost | None:
    """Add to a cost what the training will have cost at the end of its last epoch, at its present pace and price."""
    eta = None if seen.run.status.termination is not None or not seen.runs else seen.track.eta_seconds(seen.now)
    if cost is None or eta is None or not cost.per_hour:
        return cost
    at_the_end = cost.model_copy(update={"amount": cost.amount + eta / 3600 * cost.per_hour})
    return cost.model_copy(update={"projected": _shown(at_the_end, unpriced_hours(seen, cost))})


def money(amount: float) -> str:
    """Format an amount with two decimal places, or with two digits if it is less than a cent."""
    return f"{amount:.2g}" if 0 < amount < _CENT else f"{amount:.2f}"


def rate(seen: Observed) -> Rate:
    """Reckon what an hour of the training costs now; `Observed.rate` has it. As for GPU hours, all ranks count as long as rank 0 trains."""
    nodes = {node.name: node for node in node_pools.recorded(seen)}
    gpus, before = seen.run.spec.template.gpus, seen.run.status.trained
    known = before.cost if before is not None else None
    # What was counted stays in its currency.
    total = Rate(currency=known.currency if known is not None and known.amount else "")
    for pod in (rank.pod for rank in seen.ranks if gpus):
        total = _with_pod(seen, total, pod, nodes)
    return total


def _with_pod(seen: Observed, total: Rate, pod: Pod | None, nodes: Mapping[str, NodeStatus]) -> Rate:
    """Add what the pod of a rank costs. One that has no node costs nothing."""
    gpus = total.priced_gpus + seen.run.spec.template.gpus
    if pod is None or not pod.node:
        return replace(total, priced_gpus=gpus)
    price = _price(seen, pod, nodes.get(pod.node))
    if isinstance(price, str):
        return replace(total, unknown=total.unknown or price)
    if total.currency not in ("", price.currency):
        other = f"Node {pod.node} has a price in {price.currency}, and the cost of the run is in {total.currency}"
        return replace(total, unknown=total.unknown or other)
    hourly = _hourly(seen, price, nodes[pod.node])
    if isinstance(hourly, str):
        return replace(total, unknown=total.unknown or hourly)
    return replace(total, per_hour=total.per_hour + hourly, priced_gpus=gpus, currency=price.currency)


def _price(seen: Observed, pod: Pod, node: NodeStatus | None) -> Price | str:
    """Return the price of a pod's node, or why it is not known."""
    if not seen.defaults.release_nodes:
        return "the operator of this namespace reads no GPUNodePools (nodeRelease.enabled)"
    if node is None:
        return f"Node {pod.node} was not found"
    if not node.pool:
        facts = next((facts for facts in seen.nodes if facts.uid == node.uid), None)
        return f"Node {node.name} has no price, because {node_pools.why_no_pool(seen, facts)}".removesuffix(".")
    pool = next((pool for pool in seen.pools if pool.name == node.pool), None)
    if pool is None:
        return f"GPUNodePool {node.pool!r} does not exist"
    return pool.spec.price or f"GPUNodePool {node.pool!r} has no price (spec.price)"


def _hourly(seen: Observed, price: Price, node: NodeStatus) -> float | str:
    """Return what a pod of the run costs for an hour on its node, or why that is not known."""
    gpus = seen.run.spec.template.gpus
    match price.per_node_hour, price.per_gpu_hour:
        case None, float(of_gpu):
            return of_gpu * gpus
        case float(of_node), None:
            there = next((facts.gpus for facts in seen.nodes if facts.uid == node.uid), 0)
            if there:
                return of_node * min(1, gpus / there)
            return f"Node {node.name} shows no GPUs in its capacity, so that the run's share of its price is not known"
        case _:
            return f"spec.price of GPUNodePool {node.pool!r} needs exactly one of perNodeHour and perGpuHour"
