"""A run that cannot be acted on: a clear condition with the words to act on, and nothing half-created."""

from __future__ import annotations

from typing import Any

import pytest
from e2e.api import RUNS, ApiError
from e2e.ground import POOL
from e2e.runs import Space, base_spec, condition_of, merged, unique

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

LONG = ("--epochs", "200", "--step-seconds", "0.05")
REFUSED: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "whose access key nobody has": (
        {"checkpoint": {"s3": {"credentialsSecretName": "wrong-key"}}},
        "InvalidAccessKeyId",
        ["AWS_ACCESS_KEY_ID in the credentials Secret"],
    ),
    "whose secret key is wrong": (
        {"checkpoint": {"s3": {"credentialsSecretName": "wrong-secret"}}},
        "SignatureDoesNotMatch",
        ["AWS_SECRET_ACCESS_KEY in the credentials Secret"],
    ),
    "whose Secret lacks a key": (
        {"checkpoint": {"s3": {"credentialsSecretName": "incomplete"}}},
        "SecretIncomplete",
        ["'incomplete'", "AWS_SECRET_ACCESS_KEY"],
    ),
    "whose Secret is missing": (
        {"checkpoint": {"s3": {"credentialsSecretName": "nobodys"}}},
        "SecretNotFound",
        ["'nobodys'", "no such Secret in this namespace"],
    ),
    "without a Secret where the operator may not use its own identity": (
        {"checkpoint": {"s3": {"credentialsSecretName": None}}},
        "NoCredentials",
        ["name a Secret of this namespace", "identity: operator", "ServiceAccount (default)"],
    ),
    "whose bucket does not exist": (
        {"checkpoint": {"destination": "s3://no-such-bucket/runs"}},
        "NoSuchBucket",
        ["no-such-bucket", "create it, or correct spec.checkpoint.destination"],
    ),
    "whose destination leads out of its prefix": (
        {"checkpoint": {"destination": "s3://runs/team/../other"}},
        "InvalidDestination",
        ["'s3://runs/team/../other'", "'..' segment: remove it"],
    ),
    "whose destination is percent-encoded": (
        {"checkpoint": {"destination": "s3://runs/team/%2e%2e/other"}},
        "InvalidDestination",
        ["has '%' in its prefix"],
    ),
    "that starts from a folder outside of the prefix": (
        {"checkpoint": {"restoreFrom": {"uri": "s3://runs/../ml/bert/0a1b"}}},
        "InvalidRestoreFrom",
        ["spec.checkpoint.restoreFrom.uri", "'..' segment: remove it"],
    ),
    "whose checkpoint path is mounted read-only": (
        {
            "template": {
                "spec": {
                    "volumes": [{"name": "data", "emptyDir": {}}],
                    "containers": [
                        {
                            "name": "train",
                            "image": "x",
                            "volumeMounts": [{"name": "data", "mountPath": "/checkpoints", "readOnly": True}],
                        }
                    ],
                }
            }
        },
        "InvalidTemplate",
        ["'/checkpoints' in volume 'data'", "has readOnly: true", "Make it writable"],
    ),
    "whose S3 server is nowhere": (
        {"checkpoint": {"s3": {"endpointURL": "https://nowhere.trainingrun-cloud.svc"}}},
        "Unreachable",
        ["spec.checkpoint.s3.endpointURL"],
    ),
    "whose pool is unknown": (
        {"nodePool": {"ref": "a100"}},
        "UnknownNodePool",
        ["'a100'", "there is: gpu", "kubectl get gnp"],
    ),
    "whose template has no containers": (
        {"template": {"spec": {"containers": []}}},
        "InvalidTemplate",
        ["spec.template.spec.containers is empty"],
    ),
    "whose template Kubernetes refuses": (
        {"template": {"spec": {"containers": [{"name": "Train!", "image": "x"}]}}},
        "InvalidTemplate",
        ["Train!"],
    ),
    "whose signal is for a user that nobody knows": (
        {"shutdown": {"signal": "SIGUSR1"}, "template": {"spec": {"securityContext": None}}},
        "InvalidTemplate",
        ["spec.shutdown.signal is SIGUSR1", "securityContext.runAsUser"],
    ),
    "whose template has a deadline": (
        {"template": {"spec": {"activeDeadlineSeconds": 60, "containers": [{"name": "train", "image": "x"}]}}},
        "InvalidTemplate",
        ["activeDeadlineSeconds is 60"],
    ),
    "with a pattern that does not compile": (
        {"crash": {"fatalLogPatterns": ["CUDA error", "out of (memory"]}},
        "InvalidPattern",
        ["spec.crash.fatalLogPatterns[1] is 'out of (memory'", "missing )", "Correct it"],
    ),
    "with a pattern that every log has": (
        {"crash": {"fatalLogPatterns": ["OOM|"]}},
        "InvalidPattern",
        ["spec.crash.fatalLogPatterns[0] is 'OOM|'", "an empty line", "Correct it"],
    ),
    "with limits that contradict each other": (
        {"stopRules": [{"threshold": {"value": 0.5}}, {"name": "high", "goal": "Maximize", "threshold": {"value": 0.4}}]},
        "InvalidStopRules",
        ["'threshold'", "below 0.5", "'high'", "above 0.4", "Correct one of them"],
    ),
    "whose schedule rises": (
        {"autoStopLoss": None, "autoStopLossSchedule": [{"step": 0, "loss": 1}, {"step": 100, "loss": 2}]},
        "InvalidStopRules",
        ["spec.autoStopLossSchedule[1].loss is 2", "the one before is 1", "losses must fall"],
    ),
    "whose budget nothing would count in": (
        {"budget": {"maxGpuHours": 10}},
        "InvalidBudget",
        ["maxGpuHours is 10", "requests no GPU", "remove spec.budget"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def refusals(ground, api, bucket, cloud, _spaces, tmp_path_factory):
    """All of them side by side, by what is wrong with them."""
    space = Space(ground, api, bucket, cloud, unique("e2e"), tmp_path_factory.mktemp("refused"))
    space.open()
    _spaces.append(space)
    space.secret("wrong-key", AWS_ACCESS_KEY_ID="nobody")
    space.secret("wrong-secret", AWS_SECRET_ACCESS_KEY="wrong")
    space.secret("incomplete", AWS_SECRET_ACCESS_KEY="")
    base = base_spec(ground)
    yield {
        what: space.apply(f"refused-{place}", merged(base, spec))
        for place, (what, (spec, *_)) in enumerate(REFUSED.items())
    }
    space.close()


@pytest.mark.parametrize("what", REFUSED)
def test_a_run_is_refused(what, refusals):
    run, (_, reason, words) = refusals[what], REFUSED[what]

    def refused(status):
        accepted = condition_of(status, "Accepted")
        return (accepted.get("status"), accepted.get("reason")) == ("False", reason)

    status = run.wait(refused, f"a run {what} is refused: {reason}")
    condition = condition_of(status, "Accepted")
    for word in words:
        assert word in condition["message"], f"The message has the words to act on: {condition['message']}"
    stalled = condition_of(status, "Stalled")
    assert (stalled["status"], stalled["message"]) == ("True", condition["message"]), "Argo, Flux and Helm see it too."
    assert status["phase"] == "Pending"
    assert not run.space.jobs(), "No Job was created."
    assert not run.space.pods()
    assert not run.read()["metadata"].get("finalizers"), "Nothing is to be protected, so nothing holds it."


def test_a_run_whose_secret_comes_later_starts_by_itself(space):
    run = space.run("late", *LONG, checkpoint={"s3": {"credentialsSecretName": "later"}})
    run.wait_condition("Accepted", "False", "SecretNotFound")
    space.secret("later")
    run.wait_condition("Accepted", "True")
    run.wait_training()


def test_an_image_that_does_not_exist_fails_the_run_with_the_kubelets_words(space):
    run = space.run("image", container={"image": "registry.invalid/nobody/nothing:1"})
    status = run.wait_finished()
    assert (status["phase"], status["terminationStatus"]) == ("Failed", "failed")
    assert "The pod cannot start: " in status["terminationMessage"]
    assert "ImagePull" in status["terminationMessage"]
    assert "registry.invalid/nobody/nothing:1" in status["terminationMessage"]
    assert status["termination"]["actor"] == "kubelet"
    run.assert_ended_once()


def test_a_name_that_a_job_of_somebody_else_has_is_refused(space):
    job = {
        "metadata": {"name": "taken"},
        "spec": {
            "suspend": True,
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "x"}]}},
        },
    }
    created = space.api.create(f"/apis/batch/v1/namespaces/{space.name}/jobs", job)
    run = space.run("taken", *LONG)
    condition = run.wait_condition("Accepted", "False", "JobNameTaken")
    assert "'taken'" in condition["message"]
    (left,) = space.jobs()
    assert left["metadata"]["uid"] == created["metadata"]["uid"], "It is left alone."


@pytest.mark.parametrize("below", ["", "/r0/incarnations", "/r0/i1-g0001-first-x/checkpoint-1"])
def test_a_destination_in_the_folder_of_another_run_is_refused(below, space):
    first = space.run("first", *LONG)
    first.wait_condition("Accepted", "True")
    folder = f"{first.read()['spec']['checkpoint']['destination']}/{space.name}/first/{first.read()['metadata']['uid']}"
    run = space.run("second", *LONG, checkpoint={"destination": f"{folder}{below}"})
    condition = run.wait_condition("Accepted", "False", "DestinationOverlaps")
    assert "TrainingRun first" in condition["message"]
    assert [job["metadata"]["name"] for job in space.jobs()] == ["first"]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"checkpoint": {"destination": None}}, "checkpoint.destination is required (s3://bucket/prefix)"),
        ({"checkpoint": {"destination": "https://bucket/runs"}}, "spec.checkpoint.destination"),
        ({"checkpoint": {"destination": "s3://bucket/runs\n"}}, "spec.checkpoint.destination"),
        ({"checkpoint": {"destination": f"s3://bucket/{'p' * 768}"}}, "spec.checkpoint.destination"),
        ({"checkpoint": {"restoreFrom": {"uri": "s3://bucket/a\n/ml/bert/0a1b"}}}, "spec.checkpoint.restoreFrom.uri"),
        ({"pollIntervalSeconds": 0}, "spec.pollIntervalSeconds"),
        ({"crash": {"fatalLogPatterns": ["x" * 256]}}, "spec.crash.fatalLogPatterns[0]"),
        ({"stopRules": [{"plateau": {}, "rising": {}}]}, "a stop rule has exactly one of threshold, plateau"),
        ({"autoStopLossSchedule": [{"step": 1, "loss": -1}]}, "spec.autoStopLossSchedule[0].loss"),
        ({"budget": {"maxCost": -25}}, "spec.budget.maxCost"),
        ({"budget": {}}, "a budget needs maxGpuHours, maxCost or both"),
    ],
    ids=[
        "without a destination",
        "with a destination that is none",
        "with a destination of two lines",
        "with a destination that is too long",
        "that starts from an address of two lines",
        "that polls without a pause",
        "with a pattern that is too long",
        "with a rule of two shapes",
        "with a negative loss in its schedule",
        "that may cost less than nothing",
        "with an empty budget",
    ],
)
def test_the_api_server_itself_refuses_a_run(spec, words, space):
    with pytest.raises(ApiError) as refusal:
        space.run("refused", **spec)
    assert refusal.value.status == 422
    assert words in refusal.value.message


def test_the_api_server_itself_refuses_a_pool_of_a_price_below_nothing(space):
    spec = space.api.get(f"{RUNS}/gpunodepools/{POOL}")["spec"]
    body = {"apiVersion": "trainingrun.dev/v1alpha1", "kind": "GPUNodePool", "metadata": {"name": space.name}}
    with pytest.raises(ApiError) as refusal:
        space.api.create(f"{RUNS}/gpunodepools", {**body, "spec": {**spec, "price": {"perGpuHour": -2.5, "currency": "USD"}}})  # fmt: skip
    assert refusal.value.status == 422
    assert "spec.price.perGpuHour" in refusal.value.message
    assert "greater than" in refusal.value.message
