"""A training that may cost only so much: a warning comes first, then the run ends with its checkpoint, before all of the money is spent."""

from __future__ import annotations

import pytest
from e2e.api import RUNS, seconds_of
from e2e.ground import POOL

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

# Without a number of epochs, nothing says that it is complete.
STEPS = ("--epochs", "10000", "--batch", "72", "--step-seconds", "0.2", "--save-every", "20")
ENDLESS = {"names": {"totalEpochs": ["no_such_total"]}}
A_SECOND = 100
"""USD for a second of a whole node."""


def pool_with_a_price(space):
    """The pool of the ground by another name, for this namespace alone."""
    spec = space.api.get(f"{RUNS}/gpunodepools/{POOL}")["spec"]
    spec |= {
        "price": {"perNodeHour": 3600 * A_SECOND, "currency": "USD"},
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": space.name}},
    }
    body = {
        "apiVersion": "trainingrun.dev/v1alpha1",
        "kind": "GPUNodePool",
        "metadata": {"name": space.name},
        "spec": spec,
    }
    space.api.create(f"{RUNS}/gpunodepools", body)
    space.undo.append(lambda: space.api.delete(f"{RUNS}/gpunodepools/{space.name}"))
    return {"ref": space.name}


def test_a_run_is_warned_and_then_ended_before_its_budget_is_spent(gpu_nodes, space):
    limit = 40 * A_SECOND
    run = space.run(
        "dear",
        *STEPS,
        gpus=8,
        metrics=ENDLESS,
        nodePool=pool_with_a_price(space),
        budget={"maxGpuHours": 1000, "maxCost": limit, "warnAtPercent": 5},
    )
    run.wait_training()
    warned = run.wait_event("BudgetNear")
    assert warned["type"] == "Warning"
    assert f"of {limit} USD (budget.maxCost)" in warned["message"]

    status = run.wait_finished()
    assert (status["phase"], status["terminationStatus"]) == ("Stopped", "budget_exhausted")
    termination = status["termination"]
    assert (termination["rule"], termination["reason"]) == ("budget", "BudgetExhausted")
    (evidence,) = termination["evidence"]
    amount, currency = evidence["value"].split()
    assert (evidence["what"], currency) == ("cost", "USD")
    assert float(amount) >= 0.75 * limit, "A quarter is kept to save, and no more."
    cost = status["trained"]["cost"]
    assert cost["amount"] >= float(amount)
    assert cost["shown"] == f"{cost['amount']:.2f} USD", "The cost of all GPU hours is known."
    assert cost["amount"] == pytest.approx(status["trained"]["seconds"] * A_SECOND, abs=1)
    assert seconds_of(warned["firstTimestamp"]) <= seconds_of(termination["requestedAt"])
    run.assert_checkpoint_proven(status)
    run.assert_ended_once()
