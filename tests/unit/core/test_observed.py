"""Stored objects as they come from the API server."""

from __future__ import annotations

import pytest
from builders import make_node_facts, make_observed, make_pod, make_pool, make_run, occupant, pending_pod, spec_dict
from kubelet import LATER, STARTED, ended, running, stored_pod, waiting
from pydantic import ValidationError

from trainingrun_operator.api import names
from trainingrun_operator.api.exchange import SaveRequest, StopRequest
from trainingrun_operator.core.facts.pod import Pod, Training
from trainingrun_operator.core.facts.run import Run


@pytest.mark.parametrize(
    ("stored", "training", "code", "started"),
    [
        pytest.param(stored_pod(train=running(), checkpoint_gate=running()), Training.RUNNING, None, STARTED, id="it trains"),
        pytest.param(stored_pod(train=ended(0), checkpoint_gate=running()), Training.EXITED, 0, STARTED, id="exited 0; the gate keeps the pod"),
        pytest.param(stored_pod(train=ended(137), checkpoint_gate=running()), Training.EXITED, 137, STARTED, id="killed; the gate keeps the pod"),
        pytest.param(stored_pod(phase="Succeeded", train=ended(0), checkpoint_gate=ended(0)), Training.EXITED, 0, STARTED, id="over"),
        pytest.param(stored_pod(train=waiting("PodInitializing"), checkpoint_gate=waiting("PodInitializing")), Training.NOT_STARTED, None, "", id="restoring"),
        pytest.param(stored_pod(authors=("train", "proxy"), train=ended(0), proxy=running(LATER)), Training.EXITED, 0, STARTED, id="a proxy beside it still runs"),
        pytest.param(stored_pod(authors=("train", "proxy"), train=running(), proxy=ended(3, LATER)), Training.RUNNING, None, STARTED, id="a proxy beside it has crashed"),
        pytest.param(stored_pod(authors=("train", "proxy"), train=ended(0), proxy=ended(3, LATER)), Training.EXITED, 0, STARTED, id="the exit code of a proxy says nothing"),
        pytest.param(stored_pod(authors=("train", "proxy"), train=ended(5)), Training.EXITED, 5, STARTED, id="a proxy that is not there yet"),
        pytest.param(stored_pod(authors=("train", "proxy"), train=running(), proxy=waiting("ImagePullBackOff")), Training.RUNNING, None, STARTED, id="a proxy that cannot start"),
        pytest.param(stored_pod(authors=("train", "proxy"), proxy=running()), Training.NOT_STARTED, None, "", id="a proxy that runs is no training"),
        pytest.param(stored_pod(train=ended(1, None)), Training.EXITED, 1, "", id="ended without ever having started"),
        pytest.param(stored_pod(checkpoint_gate=running()), Training.NOT_STARTED, None, "", id="the operator's own containers do not count"),
        pytest.param(stored_pod(train={}), Training.NOT_STARTED, None, "", id="a state that says nothing"),
    ],
)  # fmt: skip
def test_where_the_training_stands(stored, training, code, started):
    pod = Pod.of(stored)
    assert (pod.training, pod.exit_code, pod.started_at) == (training, code, started)


@pytest.mark.parametrize(
    ("states", "training", "code"),
    [
        pytest.param({"proxy": running(), "train": ended(3)}, Training.EXITED, 3, id="ended"),
        pytest.param({"proxy": ended(1), "train": running()}, Training.RUNNING, None, id="running"),
        pytest.param({"proxy": running()}, Training.NOT_STARTED, None, id="not there yet"),
    ],
)
def test_the_container_that_the_spec_names_is_the_training(states, training, code):
    pod = Pod.of(stored_pod(authors=("proxy", "train"), **states), container="train")
    assert (pod.training, pod.exit_code) == (training, code)


@pytest.mark.parametrize(("gate", "left"), [(running(), False), (ended(0), True), (waiting("x"), False)])
def test_whether_the_gate_has_left(gate, left):
    assert Pod.of(stored_pod(train=ended(0), checkpoint_gate=gate)).gate_left is left


UNSCHEDULABLE = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/3 nodes are available",
}


@pytest.mark.parametrize(
    ("stored", "reason", "message"),
    [
        pytest.param(stored_pod(train=running()), "", "", id="nothing"),
        pytest.param(stored_pod(train=waiting("ContainerCreating")), "", "", id="creating is normal"),
        pytest.param(stored_pod(train=waiting("PodInitializing")), "", "", id="so is initializing"),
        pytest.param(stored_pod(train=waiting("ImagePullBackOff", "not found")), "ImagePullBackOff", "not found", id="an image"),
        pytest.param(
            stored_pod(init={"checkpoint_restore": waiting("CreateContainerConfigError", 'secret "s3" not found')}),
            "CreateContainerConfigError",
            'secret "s3" not found',
            id="an init container's secret comes first",
        ),
        pytest.param(stored_pod(conditions=[{"type": "Ready", "status": "False"}, UNSCHEDULABLE]), "Unschedulable", "0/3 nodes are available", id="a node"),
        pytest.param(stored_pod(conditions=[{"type": "PodScheduled", "status": "False"}]), "", "", id="a scheduler of few words"),
    ],
)  # fmt: skip
def test_what_a_pod_waits_for(stored, reason, message):
    pod = Pod.of(stored)
    assert (pod.waiting_reason, pod.waiting_message) == (reason, message)


def test_everything_else_of_a_pod():
    stop, save = StopRequest(id="s", grace_seconds=30), SaveRequest(id="s", attempt=2, ended=True)
    annotations = {
        names.STOP_ANNOTATION: stop.model_dump_json(by_alias=True),
        names.SAVE_ANNOTATION: save.model_dump_json(by_alias=True),
        names.OPEN_GATE_ANNOTATION: "s",
    }
    meta = {"annotations": annotations, "deletionTimestamp": LATER}
    stored = stored_pod(meta=meta, train=running())
    stored["spec"]["hostNetwork"] = True
    assert Pod.of(stored) == Pod(
        name="bert-x7k2p",
        uid="pod-uid",
        node="gpu-1",
        ip="10.0.0.7",
        phase="Running",
        host_network=True,
        deleting=True,
        training=Training.RUNNING,
        trains_alone=True,
        started_at=STARTED,
        stop=stop,
        save=save,
        gate_open=True,
        created=STARTED,
    )


def test_a_pod_that_was_just_made():
    pod = Pod.of({"metadata": {"name": "p", "uid": "u"}})
    assert pod == Pod(name="p", uid="u")
    assert not pod.terminal


@pytest.mark.parametrize("text", ["{", "[]", '{"id": 1}', "null", ""])
def test_an_annotation_that_somebody_broke_counts_as_not_asked(text):
    meta = {"annotations": {names.STOP_ANNOTATION: text, names.SAVE_ANNOTATION: text}}
    pod = Pod.of(stored_pod(meta=meta))
    assert (pod.stop, pod.save) == (None, None)


# -- TrainingRun --------------------------------------------------------------------------------------------------


def stored_run(**meta):
    return {"metadata": {"namespace": "ml", "name": "bert", "uid": "run-uid", **meta}, "spec": spec_dict()}


def test_a_run_that_was_just_made():
    run = Run.of(stored_run())
    assert (run.key, run.generation, run.labels, run.finalizers, run.deleting, run.stop_manager) == (
        "ml/bert", 1, {}, (), False, "",
    )  # fmt: skip
    assert run.status.termination is None


def test_everything_of_a_run():
    managed = [
        {"manager": "kubectl-create", "fieldsV1": {"f:spec": {"f:template": {}}}},
        {"manager": "operator"},
        {"manager": "kubectl-patch", "fieldsV1": {"f:spec": {"f:stop": {}}}},
    ]
    stored = stored_run(
        resourceVersion="42",
        generation=3,
        labels={"team": "nlp"},
        finalizers=[names.FINALIZER],
        deletionTimestamp=LATER,
        creationTimestamp=STARTED,
        managedFields=managed,
    )
    run = Run.of({**stored, "status": {"phase": "Running", "unknown": 1}})
    assert (run.resource_version, run.generation, run.labels, run.finalizers) == (
        "42",
        3,
        {"team": "nlp"},
        (names.FINALIZER,),
    )
    assert (run.deleting, run.created, run.stop_manager, run.status.phase) == (
        True,
        STARTED,
        "field manager 'kubectl-patch'",
        "Running",
    )


LOOKALIKES = [
    pytest.param("alice@example.com", "field manager 'alice@example.com'", id="a user's name"),
    pytest.param(
        "system:serviceaccount:ml:bot", "field manager 'system:serviceaccount:ml:bot'", id="an account's name"
    ),
    pytest.param("trainingrun-dashboard", "field manager 'trainingrun-dashboard'", id="the dashboard's own"),
    pytest.param("autoStopLoss", "field manager 'autoStopLoss'", id="the name of a rule"),
    pytest.param("x', and by alice", 'field manager "x\', and by alice"', id="one that closes the quotes"),
    pytest.param("x'\", by alice", "field manager 'x\\'\", by alice'", id="one that closes both kinds of quotes"),
    pytest.param(
        "x\nby alice\u202e", "field manager 'x\\nby alice\\u202e'", id="one with characters that are not printed"
    ),
    pytest.param("m" * 9000, f"field manager '{'m' * 127}…'", id="a long one"),
    pytest.param("", "", id="none"),
]


@pytest.mark.parametrize(("manager", "shown"), LOOKALIKES)
def test_a_field_manager_is_never_shown_as_a_person(manager, shown):
    annotation = names.ABANDON_RELEASE_ANNOTATION
    written = {
        "f:spec": {"f:stop": {}, "f:suspend": {}},
        "f:metadata": {"f:annotations": {f"f:{annotation}": {}}},
    }
    run = Run.of(
        stored_run(annotations={annotation: "true"}, managedFields=[{"manager": manager, "fieldsV1": written}])
    )
    assert (run.stop_manager, run.suspend_manager, run.abandoned_by) == (shown, shown, shown or "an annotation")


def test_a_run_that_nobody_stopped_has_no_actor():
    assert Run.of(stored_run(managedFields=[{"manager": "kubectl", "fieldsV1": {"f:metadata": {}}}])).stop_manager == ""


def test_a_spec_that_this_version_does_not_understand_is_an_error():
    with pytest.raises(ValidationError):
        Run.of({**stored_run(), "spec": {"template": {}, "checkpoint": {"mode": "Later"}}})


# -- small things -------------------------------------------------------------------------------------------------


def test_the_newest_pod_is_the_last_and_only_those_that_run_are_live():
    old, new = make_pod(uid="old", phase="Failed"), pending_pod(uid="new")
    seen = make_observed(pods=(old, new))
    assert (seen.ranks[0].pod, seen.pods, seen.live_pods) == (new, (old, new), (new,))
    assert make_observed(pods=()).ranks[0].pod is None


def test_a_pool_selects_by_all_of_its_labels():
    pool = make_pool(nodeSelector={"pool": "a100", "zone": "b"})
    assert pool.selects({"pool": "a100", "zone": "b", "more": "x"})
    assert not pool.selects({"pool": "a100"})


@pytest.mark.parametrize(
    ("selector", "labels", "allowed"),
    [
        pytest.param(None, {}, True, id="without a selector every namespace"),
        pytest.param({}, {}, True, id="a selector of nothing selects everything"),
        pytest.param({"matchLabels": {"team": "ml"}}, {"team": "ml", "more": "x"}, True, id="a label"),
        pytest.param({"matchLabels": {"team": "ml"}}, {"team": "vision"}, False, id="the label of another"),
        pytest.param({"matchLabels": {"team": "ml"}}, {}, False, id="no label"),
        pytest.param({"matchExpressions": [{"key": "team", "operator": "In", "values": ["ml", "nlp"]}]}, {"team": "nlp"}, True, id="one of several"),
        pytest.param({"matchExpressions": [{"key": "team", "operator": "In", "values": ["ml"]}]}, {}, False, id="none of several"),
        pytest.param({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["ml"]}]}, {}, True, id="not one that is not there"),
        pytest.param({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["ml"]}]}, {"team": "ml"}, False, id="just that one"),
        pytest.param({"matchExpressions": [{"key": "team", "operator": "Exists"}]}, {"team": ""}, True, id="it is there"),
        pytest.param({"matchExpressions": [{"key": "team", "operator": "Exists"}]}, {}, False, id="it is not there"),
        pytest.param({"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}, {}, True, id="rightly not there"),
        pytest.param({"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}, {"team": "ml"}, False, id="wrongly there"),
        pytest.param({"matchLabels": {"team": "ml"}, "matchExpressions": [{"key": "lab", "operator": "Exists"}]}, {"team": "ml"}, False, id="all of it must fit"),
    ],
)  # fmt: skip
def test_a_pool_allows_the_namespaces_that_it_selects(selector, labels, allowed):
    fields = {} if selector is None else {"namespaceSelector": selector}
    assert make_pool(**fields).allows(labels) is allowed


def test_a_pool_with_a_selector_allows_no_namespace_whose_labels_were_not_read():
    excluding = {"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["ml"]}]}
    assert not make_pool(namespaceSelector=excluding).allows(None)
    assert make_pool().allows(None)


def test_keys_as_people_say_them():
    assert (make_run().key, occupant("x").key, make_node_facts().name) == ("ml/bert", "team/x", "gpu-1")
