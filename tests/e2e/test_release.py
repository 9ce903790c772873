"""The chart on a real cluster: accepted in every form, upgraded and uninstalled under runs in flight, and kept to one namespace."""

from __future__ import annotations

import shutil

import pytest
import yaml
from e2e.api import ApiError
from e2e.audit import requests
from e2e.ground import OPERATOR, REPOSITORY
from e2e.release import CHART, NAME, NAMESPACE, PREVIOUS, USER, Release
from e2e.runs import condition_of, unique
from goldens import CHART_ROWS, GOLDENS
from waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

LONG = ("--epochs", "4000", "--step-seconds", "0.05")
STOP = """kubectl patch trainingrun x --type merge -p '{"spec":{"stop":true}}'"""
MATRIX = ["default", *CHART_ROWS]
DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
OF_OTHERS = ("ServiceMonitor", "PrometheusRule", "GrafanaFolder", "GrafanaAlertRuleGroup")
"""Kinds that this cluster does not know."""


def untouched(run):
    """What an upgrade must not change: which run, Job and pod it is, and that no container of it has started anew."""
    pods = [
        (pod["metadata"]["uid"], sorted((one["name"], one["restartCount"]) for one in statuses))
        for pod in run.pods()
        for statuses in [(*pod["status"]["initContainerStatuses"], *pod["status"]["containerStatuses"])]
    ]
    return run.read()["metadata"]["uid"], [job["metadata"]["uid"] for job in run.space.jobs()], pods


def test_a_run_in_flight_outlives_upgrade_and_uninstall_and_ends_well(own_release, space):
    release = Release.of(space)
    release.upgrade(PREVIOUS)
    run = space.run("x", *LONG, labels=release.labels)
    run.wait_training()
    run.wait_step(10)
    before = untouched(run)

    release.upgrade()
    said = release.helm("test", OPERATOR)
    assert "TrainingRuns of all namespaces are served: " in said, said
    step = run.status["progress"]["step"]
    run.wait_step(step + 20)
    assert untouched(run) == before, "The new operator goes on with the run as it is."

    release.uninstall()
    assert space.api.get(f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{NAME}") is None
    assert untouched(run) == before, "It trains on, though nobody looks after it."

    release.upgrade()
    assert untouched(run) == before
    space.shell(STOP)
    status = run.wait_finished()
    assert (status["phase"], status["terminationStatus"]) == ("Stopped", "user_stop")
    run.assert_checkpoint_proven(status)
    run.wait_settled()


def may(space, verb, resource, namespace=""):
    """As `kubectl auth can-i`; without a namespace: in all of them, or of no namespace."""
    plural, _, sub = resource.partition("/")
    plural, _, group = plural.partition(".")
    about = {"verb": verb, "group": group, "resource": plural, "subresource": sub, "namespace": namespace}
    body = {"spec": {"user": USER, "resourceAttributes": about}}
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    return space.api.create(path, body)["status"]["allowed"]


THERE = [
    ("watch", "trainingruns.trainingrun.dev"),
    ("patch", "trainingruns.trainingrun.dev/status"),
    ("create", "jobs.batch"),
    ("delete", "pods"),
    ("get", "secrets"),
    ("create", "events"),
]
NOWHERE = [
    ("list", "trainingruns.trainingrun.dev"),
    ("list", "pods"),
    ("get", "secrets"),
    ("list", "namespaces"),
    ("get", "nodes"),
    ("list", "gpunodepools.trainingrun.dev"),
]


def test_an_operator_of_one_namespace_sees_that_namespace_and_no_other(own_release, space, elsewhere):
    release = Release.of(space)
    release.upgrade(watchNamespaces=[space.name], nodeRelease={"enabled": False})
    theirs = elsewhere.run("x", *LONG, labels=release.labels)
    mine = space.run("x", *LONG, labels=release.labels)
    mine.wait_training()
    mine.wait_step(10)
    said = release.helm("test", OPERATOR)
    assert f"TrainingRuns of namespace {space.name} are served: 1 found" in said, said
    space.shell(STOP)
    status = mine.wait_finished()
    assert (status["phase"], status["terminationStatus"]) == ("Stopped", "user_stop")
    mine.assert_checkpoint_proven(status)
    assert condition_of(status, "NodesReleased")["reason"] == "NodesNotReleased"
    mine.wait_settled()

    stored = theirs.read()
    assert (stored.get("status"), stored["metadata"].get("finalizers")) == (None, None), "Nobody has touched it."
    assert not elsewhere.jobs()
    asked = [
        one for one in requests(space.ground.audit_log, f'"username":"{USER}"', since=release.since) if one.user == USER
    ]
    assert {one.namespace for one in asked} == {space.name}, "It has asked for nothing elsewhere, nor of the cluster."
    assert [one for one in asked if not one.allowed] == []

    assert [what for what in THERE if not may(space, *what, space.name)] == []
    assert [what for what in THERE if may(space, *what, elsewhere.name)] == []
    assert [what for what in NOWHERE if may(space, *what)] == []
    listed = space.shell(f"kubectl auth can-i --list --as {USER} --namespace {elsewhere.name}")
    assert "trainingruns" not in listed, listed
    assert "pods" not in listed, listed


def test_uninstalling_keeps_the_definitions_and_every_object_of_theirs(space):
    """With kinds of the test's own: what the whole cluster shares must not hang on a test."""
    group, chart = f"{unique('kept')}.test", space.folder / OPERATOR
    shutil.copytree(CHART, chart)
    names = [_renamed(path, group) for path in sorted((chart / "files" / "crds").iterdir())]
    for name in names:
        space.undo.append(lambda path=f"{DEFINITIONS}/{name}": space.api.delete(path))
    options = "--set replicas=0,nodeRelease.enabled=false,admissionPolicies.enabled=false,rbac.aggregate.enabled=false"
    space.shell(f"helm install kept {chart} --set watchNamespaces={{{space.name}}} {options}")
    run = {"apiVersion": f"{group}/v1alpha1", "kind": "KeptRun", "metadata": {"name": "x"}}
    run["spec"] = {
        "checkpoint": {"destination": "s3://bucket/runs", "s3": {"credentialsSecretName": "none"}},
        "template": {"spec": {"containers": [{"name": "train", "image": "train:1"}]}},
    }
    path = f"/apis/{group}/v1alpha1/namespaces/{space.name}/keptruns"
    uid = eventually(lambda: _created(space, path, run), "the kind is served")["metadata"]["uid"]

    said = space.shell("helm uninstall kept")

    assert all(name in said for name in names), said
    assert space.api.get(f"/apis/apps/v1/namespaces/{space.name}/deployments/kept-{OPERATOR}") is None
    assert all(space.api.get(f"{DEFINITIONS}/{name}") for name in names)
    assert space.api.request("GET", f"{path}/x")["metadata"]["uid"] == uid


def _created(space, path, body):
    """None while the kind is not served yet."""
    try:
        return space.api.create(path, body)
    except ApiError as error:
        if error.status not in (404, 429):
            raise
        return None


def _renamed(path, group):
    """Give a definition another name, in its file. Returns it."""
    definition = yaml.safe_load(path.read_text())
    kind = definition["spec"]["names"]["kind"].replace("TrainingRun", "KeptRun").replace("GPUNodePool", "KeptPool")
    plural = f"{kind.lower()}s"
    definition["metadata"]["name"] = f"{plural}.{group}"
    definition["spec"]["group"] = group
    definition["spec"]["names"] = {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()}
    path.write_text(yaml.safe_dump(definition, sort_keys=False, width=1000))
    return f"{plural}.{group}"


@pytest.mark.parametrize("name", MATRIX)
def test_the_api_server_accepts_what_the_chart_renders(space, name):
    values = "" if name == "default" else f"--values {GOLDENS / 'chart' / name}.values.yaml"
    rendered = space.shell(f"helm template {OPERATOR} {CHART} --namespace {space.name} {values}")
    documents = [one for one in yaml.safe_load_all(rendered) if one and one["kind"] not in OF_OTHERS]
    for document in documents:
        if "namespace" in document["metadata"]:
            document["metadata"]["namespace"] = space.name
    for account in {one["spec"]["serviceAccountName"] for one in documents if one["kind"] == "Pod"}:
        # What a dry run made is not there when a pod is looked at.
        space.api.create(f"/api/v1/namespaces/{space.name}/serviceaccounts", {"metadata": {"name": account}})
    file = space.folder / "rendered.yaml"
    file.write_text(yaml.safe_dump_all(documents))
    said = space.shell(
        f"kubectl apply --server-side --force-conflicts --dry-run=server --validate=strict --filename {file}"
    )
    assert said.count("(server dry run)") == len(documents), said
    assert "Warning" not in said, said


def test_a_service_monitor_is_refused_or_left_out_where_nobody_would_read_it(space):
    install = f"helm install x {CHART} --dry-run=server --set crds.enabled=false,serviceMonitor.enabled=true"
    said = space.shell(f"{install},serviceMonitor.renderMode=failIfMissing", fails=True)
    assert "this cluster knows no ServiceMonitor (monitoring.coreos.com/v1)" in said
    assert "kind: ServiceMonitor" not in space.shell(install)


def test_the_manifest_for_those_without_helm_is_accepted(space):
    file = REPOSITORY / "manifests" / "install.yaml"
    documents = [one for one in yaml.safe_load_all(file.read_text()) if one]
    said = space.shell(
        f"kubectl apply --server-side --force-conflicts --dry-run=server --validate=strict --filename {file}"
    )
    assert said.count("(server dry run)") == len(documents), said
