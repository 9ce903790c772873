"""What users write is read as they wrote it, and nothing that ends a run comes from a default."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from trainingrun_operator.api import names
from trainingrun_operator.api.pool import GPUNodePoolSpec
from trainingrun_operator.api.run import TrainingRunSpec
from trainingrun_operator.api.status import NodePhase, NodeStatus, Phase, Termination, TrainingRunStatus

LEAST = {"template": {"spec": {"containers": []}}, "checkpoint": {"destination": "s3://bucket/runs"}}
POOL = {"nodeSelector": {"pool": "a100"}, "awsAutoScaling": {"region": "us-east-1", "groups": ["g"]}}


def test_the_least_that_works():
    spec = TrainingRunSpec.parse(LEAST)
    assert (spec.auto_stop_loss, spec.stop, spec.backoff_limit, spec.stall_polls, spec.poll_interval_seconds) == (
        None, None, 3, 3, 10,
    )  # fmt: skip
    assert (spec.checkpoint.path, spec.checkpoint.mode, spec.checkpoint.on_failure) == (
        "/checkpoints",
        "Upload",
        "Hold",
    )
    assert (spec.shutdown.grace_seconds, spec.completion.settle_seconds, spec.node_pool.policy) == (
        120,
        300,
        "WhenEmpty",
    )


def test_names_that_people_and_clouds_write_their_own_way():
    spec = TrainingRunSpec.parse({**LEAST, "checkpoint": {"s3": {"endpointURL": "http://minio:9000"}}})
    assert spec.checkpoint.s3.endpoint_url == "http://minio:9000"
    node = NodeStatus(name="gpu-1", uid="n", provider_id="aws:///i-1")
    assert node.dump()["providerID"] == "aws:///i-1"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        pytest.param("backoffLimit", -1, id="a negative limit"),
        pytest.param("stallPolls", 0, id="no polls at all"),
        pytest.param("pollIntervalSeconds", 0, id="without a pause"),
        pytest.param("autoStopLoss", "low", id="a loss in words"),
        pytest.param("checkpoint", {"mode": "Maybe"}, id="a mode that does not exist"),
        pytest.param("checkpoint", {"path": "relative"}, id="a relative path"),
        pytest.param("checkpoint", {"s3": {"endpointURL": "minio:9000"}}, id="an address without a scheme"),
        pytest.param(
            "checkpoint",
            {"s3": {"credentialsSecretName": "../../other/secrets/theirs"}},
            id="a Secret of another namespace",
        ),
        pytest.param("checkpoint", {"destination": "s3://bucket/a\n"}, id="a destination with a line break at its end"),
        pytest.param("checkpoint", {"destination": "s3://bucket/a\n/b"}, id="a destination of two lines"),
        pytest.param("checkpoint", {"destination": "s3://bucket\x00"}, id="a bucket with a NUL"),
        pytest.param("checkpoint", {"destination": "s3://bucket/" + "a" * 757}, id="a destination that is too long"),
        pytest.param("checkpoint", {"destination": "s3://%2e%2e/a"}, id="a bucket with percents"),
        pytest.param("checkpoint", {"destination": "s3://../a"}, id="a bucket of dots"),
        pytest.param("checkpoint", {"restoreFrom": {"uri": "s3://bucket/a\n"}}, id="a URI with a line break"),
        pytest.param("checkpoint", {"restoreFrom": {"uri": "s3://bucket/"}}, id="a URI of nothing but a bucket"),
        pytest.param("checkpoint", {"restoreFrom": {"uri": "s3://bucket/" + "a" * 2037}}, id="a URI that is too long"),
        pytest.param("checkpoint", {"include": [""]}, id="an empty glob"),
        pytest.param("metrics", {"port": 0}, id="port 0"),
        pytest.param("metrics", {"path": "metrics"}, id="a path without a slash"),
        pytest.param("metrics", {"path": "/metrics?x=1"}, id="a path with a query"),
        pytest.param("metrics", {"names": {"loss": []}}, id="no name for the loss"),
        pytest.param("metrics", {"names": {"loss": ["train loss"]}}, id="a name that no metric has"),
        pytest.param("metrics", {"names": {"loss": ["loss{split=train}"]}}, id="a label without quotes"),
        pytest.param("metrics", {"names": {"loss": ['loss{split="train"']}}, id="labels without an end"),
        pytest.param("metrics", {"names": {"loss": ['loss{split=~"t.*"}']}}, id="a pattern of labels"),
        pytest.param("metrics", {"names": {"step": ["step{}"]}}, id="no labels in braces"),
        pytest.param("metrics", {"names": {"step": ['{__name__="step"}']}}, id="labels without a name"),
        pytest.param("metrics", {"names": {"loss": ['loss{a="\\n"}']}}, id="a label with an escape"),
        pytest.param("metrics", {"names": {"loss": ['loss{a="' + "x" * 256 + '"}']}}, id="a label that is too long"),
        pytest.param("crash", {"fatalLogPatterns": ["x" * 256]}, id="a pattern of a crash that is too long"),
        pytest.param("crash", {"fatalLogPatterns": [""]}, id="a pattern of a crash without a character"),
        pytest.param("crash", {"fatalLogPatterns": ["x"] * 17}, id="too many patterns of a crash"),
        pytest.param("metrics", {"logs": {"patterns": ["(?P<loss>" + "x" * 256 + ")"]}}, id="a pattern of a log that is too long"),
        pytest.param("metrics", {"logs": {"patterns": [""]}}, id="a pattern of a log without a character"),
        pytest.param("completion", {"logPatterns": ["x" * 256]}, id="a pattern of a last line that is too long"),
        pytest.param("completion", {"logPatterns": [""]}, id="a pattern of a last line without a character"),
        pytest.param("autoStopLossSchedule", [{"step": -1, "loss": 1}], id="a schedule from a step before the first"),
        pytest.param("autoStopLossSchedule", [{"step": 1, "loss": -1}], id="a schedule of a negative loss"),
        pytest.param("autoStopLossSchedule", [{"step": 1, "loss": float("nan")}], id="a schedule of no number"),
        pytest.param("maxDurationSeconds", 0, id="no time at all"),
        pytest.param("maxDurationSeconds", -3600, id="a negative time"),
        pytest.param("hangDetection", {"noProgressSeconds": -1}, id="a negative time without progress"),
        pytest.param("idleDetection", {"gpuUtilizationBelowPercent": 101}, id="a share beyond the whole"),
        pytest.param("idleDetection", {"powerBelowWatts": -150}, id="a negative power"),
        pytest.param("shutdown", {"file": "a/b"}, id="a stop file in a folder"),
        pytest.param("shutdown", {"graceSeconds": 86_401}, id="more than a day of grace"),
        pytest.param("completion", {"markerFiles": ["/done"]}, id="an absolute marker"),
        pytest.param("completion", {"finalStep": 0}, id="a final step of 0"),
        pytest.param("completion", {"finalStep": -5}, id="a negative final step"),
        pytest.param("completion", {"finalStep": 1.5}, id="half a step"),
        pytest.param("completion", {"finalStep": 2**53}, id="a final step that JSON cannot show exactly"),
        pytest.param("completion", {"totalEpochs": 0}, id="no epochs"),
        pytest.param("completion", {"totalEpochs": -1}, id="a negative number of epochs"),
        pytest.param("completion", {"totalEpochs": float("nan")}, id="a number of epochs that is none"),
        pytest.param("completion", {"totalEpochs": float("inf")}, id="endless epochs"),
        pytest.param("completion", {"outputs": [""]}, id="an output without a name"),
        pytest.param("completion", {"outputs": ["/final"]}, id="an output with a leading slash"),
        pytest.param("completion", {"outputs": ["s3://other/final"]}, id="an output in a bucket of its own"),
        pytest.param("completion", {"outputs": ["*"]}, id="an output of any name"),
        pytest.param("completion", {"outputs": ["../final"]}, id="an output above the run's folder"),
        pytest.param("completion", {"outputs": ["final\n"]}, id="an output with a line break"),
        pytest.param("completion", {"outputs": ["f" * 256]}, id="an output that is too long"),
        pytest.param("completion", {"outputs": [f"final-{n}" for n in range(9)]}, id="too many outputs"),
        pytest.param("nodePool", {"policy": "Always"}, id="a policy that does not exist"),
        pytest.param("nodePool", {"ref": "a/b"}, id="a pool with a slash"),
        pytest.param("stoppedBy", "", id="nobody as the one who stopped it"),
    ],
)  # fmt: skip
def test_refused(path, value):
    with pytest.raises(ValidationError):
        TrainingRunSpec.parse({**LEAST, path: value})


@pytest.mark.parametrize(
    "name", ["loss", "train:loss", 'loss{split="train"}', 'loss{split="train",rank="0"}', 'loss{a="", b="}"}']
)
def test_a_metric_and_the_labels_that_it_selects(name):
    assert TrainingRunSpec.parse({**LEAST, "metrics": {"names": {"loss": [name]}}}).metrics.names.loss == (name,)


def test_unknown_fields_are_ignored_in_what_is_stored_and_refused_in_what_is_written():
    later = {**LEAST, "group": {"name": "sweep"}}
    assert TrainingRunSpec.parse(later) == TrainingRunSpec.parse(LEAST)
    with pytest.raises(ValidationError, match="group"):
        TrainingRunSpec.parse_strict(later)
    with pytest.raises(ValidationError, match=r"checkpoint\.later"):
        TrainingRunSpec.parse_strict({**LEAST, "checkpoint": {"later": 1}})


def test_snake_case_is_not_what_people_write():
    assert TrainingRunSpec.parse({**LEAST, "auto_stop_loss": 0.3}).auto_stop_loss is None


def test_models_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        TrainingRunSpec.parse(LEAST).stop = True  # type: ignore[misc]


def test_what_is_absent_is_not_dumped():
    assert TrainingRunStatus().dump() == {
        "conditions": [], "findings": [], "pods": [], "nodes": [], "rules": [], "shadow": [], "history": [], "notified": [],
    }  # fmt: skip


def test_a_stop_is_stored_and_read_back():
    stop = Termination(id="s", status="auto_low_loss", message="m", phase=Phase.HELD, requested_at="t", phase_at="t")
    status = TrainingRunStatus(termination=stop, nodes=(NodeStatus(name="gpu-1", uid="n", phase=NodePhase.CORDONED),))
    assert TrainingRunStatus.parse(status.dump()) == status


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param("nodeSelector", {}, id="every node"),
        pytest.param("awsAutoScaling", {"region": "us-east-1", "groups": []}, id="no group"),
        pytest.param("minNodes", -1, id="a negative minimum"),
        pytest.param("ignorePods", [{"namespace": "x", "labels": {}}], id="every pod of a namespace"),
        pytest.param("price", {"perNodeHour": 0, "currency": "USD"}, id="a price of nothing"),
        pytest.param("price", {"perGpuHour": -2.5, "currency": "USD"}, id="a negative price"),
        pytest.param("price", {"perGpuHour": float("nan"), "currency": "USD"}, id="a price that is no number"),
        pytest.param("price", {"perNodeHour": float("inf"), "currency": "USD"}, id="an endless price"),
        pytest.param("price", {"perNodeHour": 1e308, "currency": "USD"}, id="a price beyond all money"),
        pytest.param("price", {"perNodeHour": "32.77 USD", "currency": "USD"}, id="a price in words"),
        pytest.param("price", {"perNodeHour": 32.77}, id="a price without a currency"),
        pytest.param("price", {"perNodeHour": 32.77, "currency": "$"}, id="a sign instead of a currency"),
        pytest.param("price", {"perNodeHour": 32.77, "currency": "usd"}, id="a currency in small letters"),
    ],
)
def test_a_pool_is_refused(field, value):
    with pytest.raises(ValidationError):
        GPUNodePoolSpec.parse({**POOL, field: value})


def test_a_pool():
    pool = GPUNodePoolSpec.parse(POOL)
    assert (pool.min_nodes, pool.max_idle_seconds, pool.settle_seconds, pool.alert_after_seconds) == (0, 7200, 10, 900)


def test_every_child_carries_the_same_labels():
    assert names.child_labels("bert", "u-1") == {
        "trainingrun.dev/run": "bert",
        "trainingrun.dev/run-uid": "u-1",
        "app.kubernetes.io/name": "trainingrun",
        "app.kubernetes.io/instance": "bert",
        "app.kubernetes.io/managed-by": "trainingrun-operator",
    }
    assert names.job_name("bert") == "bert"


@pytest.mark.parametrize(
    ("fields", "provider"),
    [
        pytest.param({"awsAutoScaling": {"region": "us-east-1", "groups": ["gpu"]}}, "AWSAutoScaling", id="EC2"),
        pytest.param({"external": {"provider": "acme", "config": {}}}, "acme", id="of another package"),
        pytest.param({}, "", id="none that this version knows"),
    ],
)
def test_a_pool_names_its_provider(fields, provider):
    spec = (
        GPUNodePoolSpec.model_construct(node_selector={})
        if not fields
        else GPUNodePoolSpec.parse({"nodeSelector": {"p": "a"}, **fields})
    )
    assert spec.provider == provider


def test_a_run_is_named_as_the_object_of_its_events():
    assert names.run_reference("ml", "bert", "u") == {
        "apiVersion": "trainingrun.dev/v1alpha1", "kind": "TrainingRun", "namespace": "ml", "name": "bert", "uid": "u",
    }  # fmt: skip
