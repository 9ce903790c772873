"""With what grace a stop deletes pods that do not end by themselves."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from builders import (
    POD_UID,
    exited_pod,
    make_agent,
    make_found,
    make_observed,
    make_pod,
    make_rank,
    make_saved,
    make_workload,
    pending_pod,
    stopping_at,
    template,
)

from trainingrun_operator.api.exchange import AgentError, Upload
from trainingrun_operator.api.status import Phase, Saved
from trainingrun_operator.api.template import Template
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.effects import DeletePod, SuspendWorkload
from trainingrun_operator.core.stop import ending

JOB = make_workload(replaces=False)
SUSPENDS = SuspendWorkload(JOB.uid, JOB.generation)
DISABLED = {"checkpoint": {"mode": "Disabled"}}


def agent(*seconds, **fields):
    """An agent whose uploads took so long."""
    uploads = tuple(Upload(incarnation=1, generation=n, bytes=4096, seconds=took) for n, took in enumerate(seconds))
    return make_agent(uploads=uploads, **fields)


def proven(**fields):
    """A training that has not reacted to its stop file, and whose checkpoint is proven."""
    made: dict[str, Any] = {
        "pods": (make_pod(),),
        "agent": agent(4.0),
        "workload": JOB,
        "stop": {"saved": make_saved(final=False)},
        **fields,
    }
    return stopping_at(Phase.DELETING, **made)


def ends(seen):
    return [effect for effect in decide(seen).effects if isinstance(effect, DeletePod | SuspendWorkload)]


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        pytest.param({}, 120 + 30, id="its whole grace once more, and the least for the agent"),
        pytest.param({"agent": agent(4.0, 25.0, 3.0)}, 120 + 75, id="the agent has three times its longest upload"),
        pytest.param({"agent": agent(0.0)}, 120 + 30, id="an upload of no time"),
        pytest.param({"agent": agent(20.0, newest=make_found(bytes=8192))}, 120 + 120, id="its newest checkpoint is twice as large as any upload"),
        pytest.param({"agent": agent(20.0, newest=None)}, 120 + 60, id="its uploads are of no checkpoint"),
        pytest.param({"spec": {"shutdown": {"graceSeconds": 600}}, "pods": (make_pod(grace_seconds=900),)}, 600 + 30, id="a long grace"),
        pytest.param({"spec": {"shutdown": {"graceSeconds": 0}}}, 30, id="no grace"),
        pytest.param({"spec": {"template": template(terminationGracePeriodSeconds=300)}}, 300 + 30, id="its template gives it longer"),
        pytest.param({"spec": {"template": template(terminationGracePeriodSeconds=10)}}, 120 + 30, id="its template gives it less"),
        pytest.param({"stop": {"id": "suspend-1", "status": "suspended", "saved": make_saved(final=False)}}, 120 + 30, id="of a suspension"),
        pytest.param({"spec": DISABLED, "agent": make_agent(), "stop": {"saved": Saved(note="Disabled.")}}, 120, id="nothing is saved: no time for the agent"),
        pytest.param({"spec": {**DISABLED, "shutdown": {"graceSeconds": 0}}, "agent": make_agent(), "stop": {"saved": Saved(note="Disabled.")}}, 1, id="never by force"),
    ],
)  # fmt: skip
def test_a_training_that_ignores_its_stop_is_deleted_with_its_grace_and_what_its_agent_needs(fields, seconds):
    assert ends(proven(**fields)) == [DeletePod("bert-x7k2p", POD_UID, seconds), SUSPENDS]


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"agent": None}, id="its agent is silent"),
        pytest.param({"agent": make_agent()}, id="its agent has not uploaded anything yet"),
        pytest.param({"agent": agent(4.0, error=AgentError(code="Unreachable", message="no"))}, id="its agent cannot save now"),
        pytest.param({"agent": agent(100.0)}, id="its agent needs as long as it has"),
        pytest.param({"agent": agent(4.0, 4000.0)}, id="its agent needs longer than it has"),
        pytest.param({"agent": agent(-1.0)}, id="its agent reports a time below 0"),
        pytest.param({"agent": agent(math.nan)}, id="its agent reports a time that is none"),
        pytest.param({"agent": agent(math.inf)}, id="its agent reports an endless time"),
        pytest.param({"agent": agent(4.0, math.nan)}, id="its agent reports a time that is none beside another"),
        pytest.param({"agent": agent(4.0, newest=make_found(bytes=4096 * 90))}, id="its uploads were much smaller than its newest checkpoint"),
        pytest.param({"agent": make_agent(uploads=(Upload(incarnation=1, generation=1, seconds=4.0),))}, id="its uploads have sent nothing: the bucket had everything"),
        pytest.param({"agent": agent(4.0, unfinished=make_found(complete=False))}, id="a checkpoint is being written"),
        pytest.param({"agent": agent(4.0, temporary_files=1)}, id="a file is being written under a temporary name"),
        pytest.param({"agent": agent(4.0, temporary_files=None)}, id="its agent has not read the whole volume"),
        pytest.param({"spec": DISABLED, "agent": None, "stop": {"saved": Saved(note="Disabled.")}}, id="nothing is uploaded, and its agent is silent"),
        pytest.param({"spec": DISABLED, "agent": agent(temporary_files=1), "stop": {"saved": Saved(note="Disabled.")}}, id="nothing is uploaded, and a file is being written"),
        pytest.param({"stop": {"saved": Saved(note="Without proof."), "data_loss": "Without proof."}}, id="nothing is proven: spec.checkpoint.onFailure is Proceed"),
        pytest.param({"pods": (make_pod(trains_alone=False),)}, id="something beside it uses up the grace as well"),
        pytest.param({"pods": (make_pod(grace_seconds=0),)}, id="its own grace is not known"),
        pytest.param({"pods": (make_pod(grace_seconds=150),)}, id="its own grace is no longer"),
        pytest.param({"spec": {"template": template(terminationGracePeriodSeconds=400)}}, id="its template gives the training as long as the pod has"),
        pytest.param({"spec": {"shutdown": {"graceSeconds": 600}}}, id="its grace was raised after it was made"),
        pytest.param({"pods": (make_pod(deleting=True),)}, id="it was told to go already: no kubelet shortens that"),
        pytest.param({"pods": (make_pod(unreachable=True),)}, id="its node is silent"),
        pytest.param({"pods": (make_pod(lost=True),)}, id="its machine is gone"),
        pytest.param({"pods": (pending_pod(),)}, id="it has not started"),
        pytest.param({"pods": (exited_pod(0, writers=("ema",)),), "stop": {"saved": make_saved(note="ema could write.")}}, id="another container writes: its agent saves that"),
        pytest.param({"pods": (exited_pod(0),), "stop": {"saved": make_saved(final=False, gave_up=True)}}, id="its agent has not been able to save the last files"),
    ],
)  # fmt: skip
def test_where_it_is_not_known_that_less_is_enough_a_pod_keeps_its_own_grace(fields):
    assert ends(proven(**fields)) == [SUSPENDS]


def test_a_pod_of_a_job_that_is_gone_or_finished_is_deleted_in_the_same_way():
    for job in (None, make_workload(finished=True)):
        assert ends(proven(workload=job)) == [DeletePod("bert-x7k2p", POD_UID, 150)]
        assert ends(proven(workload=job, agent=None)) == [DeletePod("bert-x7k2p", POD_UID)]
        assert ends(proven(workload=job, pods=(make_pod(unreachable=True),))) == [DeletePod("bert-x7k2p", POD_UID)]


def test_no_pod_is_deleted_twice():
    going = (make_pod(deleting=True),)
    assert ends(proven(pods=going, workload=make_workload(suspended=True))) == []
    assert ends(proven(workload=make_workload(suspended=True))) == [], "Its Job deletes it."


@pytest.mark.parametrize("phase", [phase for phase in Phase if phase is not Phase.DELETING])
def test_before_the_proof_no_pod_is_deleted(phase):
    seen = stopping_at(phase, pods=(make_pod(),), agent=agent(4.0), workload=make_workload())
    assert not [effect for effect in decide(seen).effects if isinstance(effect, DeletePod)]


FIRST, SECOND = make_pod(name="bert-0", uid="pod-0"), make_pod(name="bert-1", uid="pod-1", rank=1)


@pytest.mark.parametrize(
    ("pods", "reports", "deleted"),
    [
        pytest.param((FIRST, SECOND), (agent(4.0), agent(20.0, rank=1)), {"bert-0": 180, "bert-1": 180}, id="all have the time of the slowest"),
        pytest.param((FIRST, SECOND), (agent(4.0), None), {}, id="one agent is silent"),
        pytest.param((FIRST, SECOND), (agent(4.0), make_agent(rank=1)), {}, id="one has not uploaded anything yet"),
        pytest.param((FIRST, replace(SECOND, deleting=True)), (agent(4.0), agent(4.0, rank=1)), {"bert-0": 150}, id="one was told to go already"),
    ],
)  # fmt: skip
def test_of_several_ranks(pods, reports, deleted):
    ranks = tuple(make_rank(n, pod=pods[n], report=reports[n]) for n in range(2))
    seen = replace(proven(workload=make_workload(replaces=False, world_size=2)), ranks=ranks)
    assert {effect.name: effect.grace_seconds for effect in ends(seen) if isinstance(effect, DeletePod)} == deleted


@pytest.mark.parametrize(
    ("spec", "seconds"),
    [
        pytest.param({}, 150, id="the grace of the training"),
        pytest.param({"template": template(terminationGracePeriodSeconds=300)}, 330, id="its template gives it longer"),
        pytest.param({"template": template(terminationGracePeriodSeconds=400)}, None, id="its own grace is no longer"),
    ],
)
def test_what_is_left_beside_a_training_that_has_ended_has_the_grace_of_the_training(spec, seconds):
    """A proxy that is process 1 of its container and ignores SIGTERM; everything is proven."""
    left = exited_pod(0, gate_open=True, gate_left=True)
    seen = proven(pods=(left,), spec=spec, stop={"saved": make_saved()})
    assert ends(seen) == [DeletePod(left.name, left.uid, seconds)]
    crashed = make_observed(pods=(left,), run=seen.run)
    assert ending.leftovers(crashed) == (DeletePod(left.name, left.uid, seconds),)
    writing = make_observed(pods=(replace(left, writers=("ema",)),), run=seen.run)
    assert ending.leftovers(writing) == (DeletePod(left.name, left.uid),), "The agent saves what it writes."


@pytest.mark.parametrize(
    "written",
    [
        pytest.param({}, id="empty, as of one that is too large"),
        pytest.param({"spec": None}, id="without a spec"),
        pytest.param({"spec": "none"}, id="no object"),
        pytest.param({"spec": {"terminationGracePeriodSeconds": "long"}}, id="a grace in words"),
    ],
)
def test_of_a_template_that_is_refused_the_pods_of_another_client_end_all_the_same(written):
    left = exited_pod(0, gate_open=True, gate_left=True)
    seen = make_observed(pods=(left,))
    spec = seen.run.spec.model_copy(update={"template": Template.of(written)})
    (ended,) = ending.leftovers(replace(seen, run=replace(seen.run, spec=spec)))
    assert ended.uid == left.uid
