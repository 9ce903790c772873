"""When the run's pods may be evicted, and what keeps them from it."""

from __future__ import annotations

from typing import Any

import pytest
from builders import (
    JOB_UID,
    RUN_UID,
    commit_key,
    exited_pod,
    finished_pod,
    make_agent,
    make_found,
    make_observed,
    make_run,
    make_status,
    make_stop,
    make_verified,
    make_workload,
    stopping_at,
)

from trainingrun_operator.api.exchange import AgentError, CommitSeen
from trainingrun_operator.api.status import Phase
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.effects import CreateDisruptionBudget, DeleteDisruptionBudget
from trainingrun_operator.core.manifests import disruption_budget
from trainingrun_operator.core.stop import disruption

COMMIT = CommitSeen(key=commit_key(1, 7), incarnation=1, generation=7, step=1200)
UP = CreateDisruptionBudget(disruption_budget(make_run(), make_workload()))
DOWN = DeleteDisruptionBudget("bert-checkpoint", "budget-uid")
PROVEN: dict[str, Any] = {"agent": make_agent(commit=COMMIT), "verified": make_verified()}


def wanted(seen):
    return [one for one in decide(seen).effects if isinstance(one, CreateDisruptionBudget | DeleteDisruptionBudget)]


def test_the_budget_lets_no_pod_of_the_run_go_and_goes_with_the_job():
    budget = disruption_budget(make_run(), make_workload())
    assert budget["spec"] == {"minAvailable": 1, "selector": {"matchLabels": {"trainingrun.dev/run-uid": RUN_UID}}}
    assert [owner["uid"] for owner in budget["metadata"]["ownerReferences"]] == [JOB_UID]


def test_without_a_checkpoint_there_is_nothing_that_could_be_shipped():
    assert not disruption.shipped(make_agent(commit=COMMIT, newest=None))


@pytest.mark.parametrize(
    ("fields", "proven"),
    [
        pytest.param(PROVEN, True, id="the newest checkpoint was read back"),
        pytest.param({**PROVEN, "agent": make_agent(commit=COMMIT, unsaved_bytes=9)}, True, id="a log that grows is no checkpoint"),
        pytest.param({**PROVEN, "agent": make_agent(commit=COMMIT, unsaved_bytes=9, newest=make_found(step=1300))}, False, id="a newer checkpoint is on its way"),
        pytest.param({**PROVEN, "agent": make_agent(commit=COMMIT, unsaved_bytes=9, newest=make_found(step=None))}, False, id="unsaved files of no known step"),
        pytest.param({**PROVEN, "agent": make_agent(commit=COMMIT, unfinished=make_found(complete=False))}, False, id="a newer one is being written"),
        pytest.param({**PROVEN, "agent": make_agent(commit=COMMIT, error=AgentError(code="AccessDenied", message=""))}, False, id="the agent cannot save"),
        pytest.param({**PROVEN, "agent": make_agent(commit=COMMIT, newest=None)}, False, id="no checkpoint yet"),
        pytest.param({**PROVEN, "agent": make_agent(commit=None)}, False, id="this pod has committed nothing of its own"),
        pytest.param({**PROVEN, "agent": None}, False, id="the agent does not answer"),
        pytest.param({**PROVEN, "verified": None}, False, id="shipped, and not read back"),
        pytest.param({**PROVEN, "verified": make_verified(generation=6)}, False, id="an older one was read back"),
    ],
)  # fmt: skip
def test_what_is_proven(fields, proven):
    assert disruption.all_proven(make_observed(**fields)) is proven


@pytest.mark.parametrize(
    ("fields", "effects"),
    [
        pytest.param({"disruption_budget": ""}, [UP], id="unsaved bytes: guarded"),
        pytest.param({"disruption_budget": "budget-uid"}, [], id="and that once"),
        pytest.param({"disruption_budget": None}, [], id="nothing while nobody knows"),
        pytest.param({"disruption_budget": "", "workload": None}, [], id="nothing before there is a Job"),
        pytest.param({"disruption_budget": "budget-uid", **PROVEN, "proven_seconds": 29}, [], id="proven: not taken down at once"),
        pytest.param({"disruption_budget": "budget-uid", **PROVEN, "proven_seconds": 30}, [DOWN], id="proven for a while: evictable"),
        pytest.param({"disruption_budget": "", **PROVEN, "proven_seconds": 0}, [], id="proven: not put up by an operator that starts"),
        pytest.param({"disruption_budget": "", "pods": (exited_pod(1),)}, [UP], id="a crashed pod behind its gate is guarded too"),
        pytest.param({"disruption_budget": "budget-uid", "pods": (finished_pod(1),)}, [], id="between two pods it stays up"),
        pytest.param({"disruption_budget": "", "pods": ()}, [], id="between two pods it stays down"),
        pytest.param({"disruption_budget": "", "run": make_run(spec={"checkpoint": {"mode": "Disabled"}})}, [], id="nothing is saved at all"),
    ],
)  # fmt: skip
def test_while_it_trains(fields, effects):
    assert wanted(make_observed(**fields)) == effects


@pytest.mark.parametrize(
    ("phase", "effects"),
    [
        *[
            pytest.param(phase, ("up", "stays"), id=f"{phase.value}: guarded, whatever the agent says")
            for phase in (Phase.REQUESTED, Phase.DRAINING, Phase.SAVING, Phase.VERIFYING, Phase.HELD)
        ],
        *[
            pytest.param(phase, ("stays", "down"), id=f"{phase.value}: proven or given up")
            for phase in (Phase.DELETING, Phase.RELEASING, Phase.DONE)
        ],
    ],
)
def test_in_a_stop(phase, effects):
    words = {"up": [UP], "stays": [], "down": [DOWN]}
    fields: dict[str, Any] = {**PROVEN, "proven_seconds": 99}
    assert wanted(stopping_at(phase, disruption_budget="", **fields)) == words[effects[0]]
    assert wanted(stopping_at(phase, disruption_budget="budget-uid", **fields)) == words[effects[1]]


def test_the_guard_comes_before_what_is_decided_otherwise():
    status = make_status(termination=make_stop(Phase.REQUESTED))
    first, *rest = decide(make_observed(run=make_run(status=status), disruption_budget="")).effects
    assert first == UP
    assert rest
