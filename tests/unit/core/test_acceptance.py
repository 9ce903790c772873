"""A run that cannot be acted on is refused with the offending value and what to do, before anything is created."""

from __future__ import annotations

import pytest
from builders import checkpoint_spec, make_observed, make_pool, make_run, pending_pod, template

from trainingrun_operator.core.acceptance import complaint
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.observed import Problem

POOLS = (make_pool("a100"), make_pool("h100"))
TRAIN = {"name": "train", "image": "acme/bert"}


def of(**pod):
    return {"template": {"spec": {"containers": [TRAIN], **pod}}}


def container(**fields):
    return of(containers=[{**TRAIN, **fields}])


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({}, id="the least that works"),
        pytest.param({"nodePool": {"ref": "h100"}}, id="a pool that exists"),
        pytest.param({"checkpoint": {"mode": "Disabled"}}, id="nothing saved, so no destination and no credentials"),
        pytest.param({"checkpoint": checkpoint_spec(destination="s3://bucket")}, id="a bucket without a prefix"),
        pytest.param({"metrics": {"container": "train"}}, id="a container that exists"),
        pytest.param(of(volumes=None, initContainers=None, terminationGracePeriodSeconds=None, securityContext=None), id="keys without a value"),
        pytest.param(container(env=None, volumeMounts=None, resources=None, securityContext=None), id="keys of a container without a value"),
        pytest.param({"template": {**template(), "metadata": None}}, id="metadata without a value"),
        pytest.param(of(activeDeadlineSeconds=None), id="no deadline"),
    ],
)  # fmt: skip
def test_accepted(spec):
    run = make_run(spec=spec)
    assert complaint(run, POOLS) is None
    assert decide(make_observed(run=run, job=None, pods=(), agent=None, pools=POOLS)).effects


EMPTY = "spec.template.spec.containers is empty: give it at least one container with a name and an image, as in a Job."


@pytest.mark.parametrize(
    ("spec", "reason", "message"),
    [
        pytest.param({"template": {}}, "InvalidTemplate", EMPTY, id="an empty template"),
        pytest.param({"template": {"spec": []}}, "InvalidTemplate", EMPTY, id="a pod spec that is none"),
        pytest.param(of(containers=[]), "InvalidTemplate", EMPTY, id="no container"),
        pytest.param(
            of(containers=[{"image": "acme/bert"}]),
            "InvalidTemplate",
            "spec.template.spec.containers.0.name is {'image': 'acme/bert'}: field required, as in a Job.",
            id="a container without a name",
        ),
        pytest.param(
            of(containers=["train"]),
            "InvalidTemplate",
            "spec.template.spec.containers.0 is 'train': input should be a valid dictionary, as in a Job.",
            id="a container that is none",
        ),
        pytest.param(
            of(containers={"train": {}}),
            "InvalidTemplate",
            "spec.template.spec.containers is {'train': {}}: input should be a valid list, as in a Job.",
            id="containers by name",
        ),
        pytest.param(
            of(terminationGracePeriodSeconds="5m"),
            "InvalidTemplate",
            "spec.template.spec.terminationGracePeriodSeconds is '5m': input should be a valid integer, as in a Job.",
            id="a grace with a unit",
        ),
        pytest.param(
            container(volumeMounts=[{"name": "data"}]),
            "InvalidTemplate",
            "spec.template.spec.containers.0.volumeMounts.0.mountPath is {'name': 'data'}: field required, as in a Job.",
            id="a mount without a path",
        ),
        pytest.param(
            container(env={"LR": "0.1"}),
            "InvalidTemplate",
            "spec.template.spec.containers.0.env is {'LR': '0.1'}: input should be a valid list, as in a Job.",
            id="variables by name",
        ),
        pytest.param(
            {"template": {**template(), "metadata": {"labels": {"tier": 1}}}},
            "InvalidTemplate",
            "spec.template.metadata.labels.tier is 1: input should be a valid string, as in a Job.",
            id="a label that is a number",
        ),
        pytest.param(
            of(activeDeadlineSeconds=3600),
            "InvalidTemplate",
            "spec.template.spec.activeDeadlineSeconds is 3600: it would end the pod before its checkpoint is saved. Remove it.",
            id="a deadline",
        ),
        pytest.param(
            of(containers=[TRAIN, {"name": "checkpoint-gate"}]),
            "InvalidTemplate",
            "spec.template.spec.containers: the name 'checkpoint-gate' is the operator's own. Choose another.",
            id="a container named like the operator's own",
        ),
        pytest.param(
            {"metrics": {"container": "trainer"}},
            "InvalidTemplate",
            "spec.metrics.container is 'trainer', but the template has only train.",
            id="a container that is not in the template",
        ),
        pytest.param(
            {"checkpoint": checkpoint_spec(destination=None)},
            "InvalidDestination",
            "spec.checkpoint: destination '' is not of the form s3://bucket/prefix.",
            id="no destination",
        ),
        pytest.param(
            {"checkpoint": checkpoint_spec(destination="s3://bucket/a//b")},
            "InvalidDestination",
            "spec.checkpoint: destination 's3://bucket/a//b' has an empty, '.' or '..' segment.",
            id="a destination with an empty segment",
        ),
        pytest.param(
            {"checkpoint": checkpoint_spec(s3={})},
            "NoCredentials",
            "spec.checkpoint.s3.credentialsSecretName is empty: name a Secret of this namespace with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            " (kubectl create secret generic s3-credentials --from-literal=...).",
            id="no credentials",
        ),
        pytest.param(
            {"nodePool": {"ref": "b200"}},
            "UnknownNodePool",
            "spec.nodePool.ref is 'b200', but there is no such GPUNodePool (there is: a100, h100). kubectl get gnp lists them.",
            id="a pool that does not exist",
        ),
    ],
)
def test_refused(spec, reason, message):
    run = make_run(spec=spec)
    problem = complaint(run, POOLS)
    assert problem is not None
    assert (problem.reason, problem.message) == (reason, message)
    decision = decide(make_observed(run=run, job=None, pods=(), agent=None, pools=POOLS))
    assert (decision.effects, decision.note) == ((), message)


def test_a_pool_is_looked_for_again():
    run = make_run(spec={"nodePool": {"ref": "b200"}})
    problem = complaint(run, ())
    assert problem is not None
    assert "(there is: none)" in problem.message
    assert decide(make_observed(run=run, job=None, pods=(), agent=None, pools=())).again_seconds == 10


@pytest.mark.parametrize(
    ("permanent", "again"),
    [
        pytest.param(True, None, id="what only the person can change waits for the person"),
        pytest.param(False, 10, id="what may pass by itself is looked at again"),
    ],
)
def test_a_problem_found_on_the_way_creates_nothing(permanent, again):
    problem = Problem("SecretNotFound", "There is no such Secret.", permanent)
    decision = decide(make_observed(job=None, pods=(), agent=None, problem=problem))
    assert (decision.effects, decision.again_seconds, decision.note) == ((), again, problem.message)


def test_a_job_that_exists_is_not_refused_any_more():
    seen = make_observed(run=make_run(spec={"nodePool": {"ref": "b200"}}), pods=(pending_pod(),))
    assert decide(seen).note == "watching"
