"""What a tenant with `edit` in one namespace tries, what comes of it, and what it is told. docs/security.md names each of these tests."""

from __future__ import annotations

import re

import pytest
from e2e.api import JSON_PATCH, MERGE, RUNS
from e2e.audit import OPERATOR_USER, requests
from e2e.ground import CLOUD_NAMESPACE, POOL
from e2e.own_operator import SHARD_LABEL
from e2e.runs import PREFIX, SECRET, Run, Space, base_spec, condition_of, merged, unique
from e2e.tenant import Listener, Tenant
from waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

GROUP = "trainingrun.dev/v1alpha1"
NOWHERE = {"nodeSelector": {"nobody": "has-this"}}
"""Of a pod that never starts: whose run has a Job, a pod and a status, and costs nothing."""
LONG = ("--epochs", "200", "--step-seconds", "0.05")
FENCED = f"https://s3.{CLOUD_NAMESPACE}.svc.cluster.local"
"""tools/install-values.yaml allows two prefixes there: one to everybody, one to nobody."""


@pytest.fixture(scope="module")
def fenced(ground, api, bucket, cloud, tmp_path_factory, _spaces):
    """A namespace with a tenant and a run of theirs; no attack changes anything, so all of them share it."""
    space = Space(ground, api, bucket, cloud, unique("e2e"), tmp_path_factory.mktemp("fenced"))
    space.open()
    _spaces.append(space)
    tenant = Tenant.of(space)
    # More than edit gives: what RBAC refuses anyway must be refused without it too.
    tenant.grant("trainingrun.dev", ["trainingruns/status", "trainingruns"], ["update", "patch"])
    tenant.grant("", ["pods/status"], ["update", "patch"])
    tenant.grant("", ["pods/binding", "bindings"], ["create"])
    run = space.run("mine", pod=NOWHERE)
    run.wait_condition("Accepted")
    run.wait_pod(lambda pod: True, "it has a pod")
    yield tenant, run
    space.close()


def state(tenant, run):
    """Everything that an attack could change."""
    stored = run.read()
    meta = stored["metadata"]
    children = [
        (one["metadata"]["name"], one["metadata"]["uid"], one["metadata"]["labels"], one["metadata"].get("annotations"))
        for one in (*tenant.space.pods(), *tenant.space.jobs())
    ]
    decided = {key: stored["status"].get(key) for key in ("terminationStatus", "termination", "checkpoint")}
    return meta["finalizers"], stored["spec"], decided, children


# -- writing what the operator alone writes ----------------------------------------------------------------------


def on_run(patch, sub=""):
    return lambda tenant, run: ("PATCH", run.path + sub, patch, MERGE)


def on_pod(metadata, sub=""):
    return lambda tenant, run: (
        "PATCH",
        tenant.path("pods", run.pods()[0]["metadata"]["name"]) + sub,
        {"metadata": metadata},
        MERGE,
    )


def on_job(patch):
    return lambda tenant, run: ("PATCH", tenant.path("jobs", run.name, "batch/v1"), patch, MERGE)


def all_of_it(tenant, run):
    stored = run.read()
    stored["status"]["terminationStatus"] = "auto_complete"
    return "PUT", f"{run.path}/status", stored


def take_off(tenant, run):
    place = run.read()["metadata"]["finalizers"].index("trainingrun.dev/checkpoint")
    return "PATCH", run.path, [{"op": "remove", "path": f"/metadata/finalizers/{place}"}], JSON_PATCH


def replaced(tenant, run):
    """`kubectl replace` with the file that the run was made from."""
    stored = run.read()
    meta = {"name": run.name, "namespace": tenant.space.name, "resourceVersion": stored["metadata"]["resourceVersion"]}
    return "PUT", run.path, {**stored, "metadata": meta}


def binding(meta, sub=True):
    """A Binding of the run's pod, whose metadata the API server copies to the pod."""

    def made(tenant, run):
        name = run.pods()[0]["metadata"]["name"]
        path = tenant.path("pods", f"{name}/binding") if sub else tenant.path("bindings")
        target = {"apiVersion": "v1", "kind": "Node", "name": "nobodys"}
        return (
            "POST",
            path,
            {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name, **meta}, "target": target},
        )

    return made


def labels(run):
    return {"trainingrun.dev/run": run.name, "trainingrun.dev/run-uid": run.uid}


CONTAINER = {"name": "c", "image": "x"}


def pod_spec():
    """One that the namespace's pod security lets pass."""
    secure = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return {
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{**CONTAINER, "securityContext": secure}],
    }


def forged_pod(tenant, run):
    """With the labels of a run, and its Job as owner: all that the operator knows a pod by."""
    (job,) = tenant.space.jobs()
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job["metadata"]["name"], "uid": job["metadata"]["uid"]}
    meta = {"name": "forged", "labels": labels(run), "ownerReferences": [{**owner, "controller": True}]}
    return "POST", tenant.path("pods"), {"metadata": meta, "spec": pod_spec()}


def forged_job(tenant, run):
    """One that passes for the run's own."""
    body = {"metadata": {"name": "forged", "labels": labels(run)}, "spec": job_spec()}
    return "POST", tenant.path("jobs", group="batch/v1"), body


def job_of_forged_pods(tenant, run):
    """Its pods are made by Kubernetes' own Job controller, which may."""
    body = {"metadata": {"name": "forged"}, "spec": job_spec(labels(run))}
    return "POST", tenant.path("jobs", group="batch/v1"), body


def job_spec(pod_labels=None):
    template = {
        "metadata": {"labels": pod_labels or {}},
        "spec": {"restartPolicy": "Never", "containers": [CONTAINER]},
    }
    return {"suspend": True, "template": template}


ONLY_STATUS = (
    "only the operator writes the status of a TrainingRun, and you are {user}. Write what you want in its spec"
)
ONLY_ANNOTATES = (
    "only the operator writes them, and you are {user}. To end the run write spec.stop: true in the TrainingRun."
)
TIE = "tie a pod to its TrainingRun and never change"
KEEPS = "keeps checkpoints that are not proven yet, so only the operator adds or removes it. To end a run without them write"
BINDS = "of a Binding become those of its pod, where they are what the operator tells its agent and knows its pods by: leave them out, {user}."
SELECTED = (
    f"the operator knows its TrainingRuns by their labels {SHARD_LABEL} (runSelector), and this one is in progress"
)
JOB_LABELS = "are for Jobs that the operator makes: leave them as they are, {user}."

FORBIDDEN = {
    "writes a status": (on_run({"status": {"phase": "Succeeded"}}, "/status"), ONLY_STATUS),
    "forges terminationStatus": (on_run({"status": {"terminationStatus": "auto_complete"}}, "/status"), ONLY_STATUS),
    "says that the checkpoint is proven": (
        on_run({"status": {"checkpoint": {"uri": "s3://bucket/x", "verifiedAt": "2026-01-01T00:00:00Z"}}}, "/status"),
        ONLY_STATUS,
    ),
    "replaces the whole status": (all_of_it, ONLY_STATUS),
    "takes the finalizer off": (take_off, KEEPS),
    "takes all finalizers off": (on_run({"metadata": {"finalizers": None}}), KEEPS),
    "replaces the run by its file, without finalizers": (replaced, KEEPS),
    "tells the gate to go": (on_pod({"annotations": {"trainingrun.dev/released": "now"}}), ONLY_ANNOTATES),
    "tells the agent to stop": (on_pod({"annotations": {"trainingrun.dev/stop": "{}"}}), ONLY_ANNOTATES),
    "tells the gate to go by way of the pod's status": (
        on_pod({"annotations": {"trainingrun.dev/released": "now"}}, "/status"),
        ONLY_ANNOTATES,
    ),
    "tells the gate to go by way of a Binding": (binding({"annotations": {"trainingrun.dev/released": "now"}}), BINDS),
    "tells the gate to go by way of a Binding of the old kind": (
        binding({"annotations": {"trainingrun.dev/released": "now"}}, sub=False),
        BINDS,
    ),
    "gives a pod to another run by way of a Binding": (
        binding({"labels": {"trainingrun.dev/run-uid": "another"}}),
        BINDS,
    ),
    "takes a run in progress away from its operator": (
        on_run({"metadata": {"labels": {SHARD_LABEL: "of-nobody"}}}),
        SELECTED,
    ),
    "takes the run's label off its pod": (on_pod({"labels": {"trainingrun.dev/run-uid": None}}), TIE),
    "gives a pod to another run": (on_pod({"labels": {"trainingrun.dev/run-uid": "another"}}), TIE),
    "takes the run's label off its Job": (
        on_job({"metadata": {"labels": {"trainingrun.dev/run-uid": None}}}),
        JOB_LABELS,
    ),
    "makes a pod that passes for the run's": (
        forged_pod,
        "is for pods of a TrainingRun, which only the Jobs of that run make: leave it out, {user}.",
    ),
    "makes a Job that passes for the run's": (forged_job, JOB_LABELS),
    "makes a Job whose pods pass for the run's": (job_of_forged_pods, JOB_LABELS),
    "stops it in somebody else's name": (
        on_run({"spec": {"stop": True, "stoppedBy": "kubernetes-admin"}}),
        "spec.stoppedBy is kubernetes-admin, but you are {user}: write your own name, or leave it out.",
    ),
    "signs a stop that is none": (
        lambda tenant, run: ("PATCH", run.path, {"spec": {"stoppedBy": tenant.user}}, MERGE),
        "spec.stoppedBy names who stops the run: set it together with spec.stop: true",
    ),
    "takes a pool that it may not use": (
        on_run({"spec": {"nodePool": {"ref": POOL}}}),
        f"{{user}} may not use GPUNodePool {POOL} in namespace {{namespace}}: ask for the verb use on gpunodepools of this name there",
    ),
}


@pytest.mark.parametrize(("attack", "words"), FORBIDDEN.values(), ids=FORBIDDEN)
def test_nothing_comes_of_it_when_a_tenant(attack, words, fenced):
    tenant, run = fenced
    before = state(tenant, run)
    told = tenant.denied_now(lambda: attack(tenant, run))
    assert words.format(user=tenant.user, namespace=tenant.space.name) in told
    assert state(tenant, run) == before


def test_edit_alone_does_not_reach_the_status(space):
    tenant = Tenant.of(space)
    run = space.run("mine", nodePool={"ref": "nobodys"})
    told = tenant.denied("PATCH", f"{run.path}/status", {"status": {"phase": "Succeeded"}}, MERGE)
    assert 'cannot patch resource "trainingruns/status"' in told


def test_labels_and_annotations_of_the_tenants_own_are_nobodys_business(fenced):
    tenant, run = fenced
    own = {"labels": {"team": "ml"}, "annotations": {"acme.example/note": "mine"}}
    pod = tenant.api.request(*on_pod(own)(tenant, run))
    assert pod["metadata"]["labels"].items() >= {**own["labels"], **labels(run)}.items()
    assert tenant.api.request(*on_job({"metadata": own})(tenant, run))["metadata"]["labels"]["team"] == "ml"
    assert tenant.api.request(*on_run({"metadata": own})(tenant, run))["metadata"]["annotations"] == own["annotations"]


# -- runs: who may make them, and who stops them -------------------------------------------------------------------


def body(space, name="mine", **spec):
    made = merged(base_spec(space.ground), spec)
    made["template"]["spec"] |= NOWHERE
    return {"apiVersion": GROUP, "kind": "TrainingRun", "metadata": {"name": name}, "spec": made}


def test_edit_is_enough_to_run_and_to_stop_in_ones_own_name(space):
    tenant = Tenant.of(space)
    created = tenant.api.create(tenant.path("trainingruns", group=GROUP), body(space))
    run = Run(space, "mine", created["metadata"]["uid"])
    space.made.append(run)
    run.wait_condition("Accepted")
    tenant.api.merge(run.path, {"spec": {"stop": True, "stoppedBy": tenant.user}})
    status = run.wait_finished()
    assert (status["terminationStatus"], status["termination"]["actor"]) == ("user_stop", tenant.user)
    for other in ("somebody", None):
        told = tenant.denied("PATCH", run.path, {"spec": {"stoppedBy": other}}, MERGE)
        assert "spec.stoppedBy is somebody" in told or "spec.stoppedBy cannot be changed" in told
    run.assert_ended_once()


def test_who_may_not_create_jobs_gets_none_by_way_of_a_run(space):
    tenant = Tenant.of(space, "clerk", role="")
    tenant.grant("trainingrun.dev", ["trainingruns"], ["create", "get"])
    told = tenant.denied("POST", tenant.path("trainingruns", group=GROUP), body(space))
    assert f"{tenant.user} may not create Jobs in namespace {space.name}, and a TrainingRun makes one" in told
    assert space.empty()
    assert not space.jobs()


def test_a_pool_is_for_those_who_may_use_it_in_namespaces_that_it_selects(space):
    pool = unique("fenced")
    spec = {
        "nodeSelector": {"nobody": "has-this"},
        "namespaceSelector": {"matchLabels": {"pool": pool}},
        "awsAutoScaling": {"region": "us-east-1", "groups": [pool]},
    }
    space.api.create(f"{RUNS}/gpunodepools", {"apiVersion": GROUP, "kind": "GPUNodePool", "metadata": {"name": pool}, "spec": spec})  # fmt: skip
    space.undo.append(lambda: space.api.delete(f"{RUNS}/gpunodepools/{pool}"))
    tenant = Tenant.of(space)
    wanted = body(space, nodePool={"ref": pool, "policy": "WhenEmpty"})

    told = tenant.denied("POST", tenant.path("trainingruns", group=GROUP), wanted)
    assert f"{tenant.user} may not use GPUNodePool {pool} in namespace {space.name}" in told
    assert space.empty()

    tenant.grant("trainingrun.dev", ["gpunodepools"], ["use"], [pool])
    created = tenant.api.create(tenant.path("trainingruns", group=GROUP), wanted)
    run = Run(space, "mine", created["metadata"]["uid"])
    space.made.append(run)
    condition = run.wait_condition("Accepted", "False", "NodePoolNotAllowed")
    assert f"spec.nodePool.ref is '{pool}', which does not allow runs of namespace {space.name}" in condition["message"]
    assert not space.jobs()

    space.api.merge(f"/api/v1/namespaces/{space.name}", {"metadata": {"labels": {"pool": pool}}})
    run.wait_condition("Accepted")


# -- buckets and Secrets -------------------------------------------------------------------------------------------


def to(destination=f"s3://trainingrun-checkpoints/{PREFIX}", **s3):
    return {"checkpoint": {"destination": destination, "s3": s3}}


ASK = "No request was made. Change it, or ask the operator's administrator to add it to allowedDestinations."
ELSEWHERE = {
    "a metadata service": (to(endpointURL="http://169.254.169.254/latest"), ["'http://169.254.169.254/latest'"]),
    "the API server": (to(endpointURL="https://kubernetes.default.svc"), ["'https://kubernetes.default.svc'"]),
    "the operator itself": (to(endpointURL="http://127.0.0.1:8080"), ["'http://127.0.0.1:8080'"]),
    "a server that is named in the user's place": (
        to(endpointURL=f"https://s3.{CLOUD_NAMESPACE}.svc@kubernetes.default.svc"),
        [f"'https://s3.{CLOUD_NAMESPACE}.svc@kubernetes.default.svc'"],
    ),
    "another tenant's prefix": (
        to(f"s3://trainingrun-checkpoints/{PREFIX}/nobodys/x", endpointURL=FENCED),
        [f"spec.checkpoint.destination is 's3://trainingrun-checkpoints/{PREFIX}/nobodys/x'", f"{PREFIX}/shared at {FENCED}"],
    ),
    "a prefix that only begins alike": (
        to(f"s3://trainingrun-checkpoints/{PREFIX}/shared-not", endpointURL=FENCED),
        [f"'s3://trainingrun-checkpoints/{PREFIX}/shared-not'"],
    ),
    "AWS, where only other servers are listed": (to(endpointURL=""), ["spec.checkpoint.destination is"]),
}  # fmt: skip


def test_a_run_that_sends_its_checkpoints_elsewhere_is_refused(space):
    """All of them side by side."""
    runs = {
        what: space.apply(f"elsewhere-{place}", body(space, **spec)["spec"])
        for place, (what, (spec, _)) in enumerate(ELSEWHERE.items())
    }
    allowed = space.apply("shared", body(space, **to(f"s3://trainingrun-checkpoints/{PREFIX}/shared/x", endpointURL=FENCED))["spec"])  # fmt: skip
    for what, (_, words) in ELSEWHERE.items():
        condition = runs[what].wait_condition("Accepted", "False", "DestinationNotAllowed")
        for word in (*words, f"which runs of namespace {space.name} may not use", ASK):
            assert word in condition["message"], f"{what}: {condition['message']}"
    allowed.wait_condition("Accepted")
    eventually(space.jobs, "the one that is allowed has its Job")
    assert [job["metadata"]["name"] for job in space.jobs()] == ["shared"]


def test_an_address_outside_of_the_list_gets_no_request_neither_before_the_start_nor_later(space):
    listener = Listener.open(space)
    refused = space.run("refused", pod=NOWHERE, checkpoint={"s3": {"endpointURL": f"http://{listener.address}"}})
    condition = refused.wait_condition("Accepted", "False", "DestinationNotAllowed")
    assert f"spec.checkpoint.s3.endpointURL is 'http://{listener.address}'" in condition["message"]

    run = space.run("later", *LONG, "--save-every", "5")
    run.wait_training()
    run.log.wait("saved checkpoint-5")
    run.merge({"spec": {"stop": True, "checkpoint": {"s3": {"endpointURL": f"http://{listener.address}"}}}})
    held = run.wait(lambda status: "DestinationNotAllowed" in str(condition_of(status, "CheckpointSaved")), "it says why nothing can be proven")  # fmt: skip
    assert f"'http://{listener.address}'" in condition_of(held, "CheckpointSaved")["message"]
    assert run.pods(), "Pod and bytes are kept."
    listener.assert_heard_nobody()

    run.merge({"spec": {"checkpoint": {"s3": {"endpointURL": space.ground.s3_in_cluster}}}})
    status = run.wait_finished()
    run.assert_checkpoint_proven(status)
    listener.assert_heard_nobody()


@pytest.fixture
def other(ground, api, bucket, cloud, tmp_path, _spaces):
    """Another tenant's namespace."""
    space = Space(ground, api, bucket, cloud, unique("e2e"), tmp_path)
    space.open()
    _spaces.append(space)
    return space


def test_a_secret_of_another_namespace_is_never_read(space, other, ground):
    other.secret("theirs")
    tenant = Tenant.of(space)
    for name in (f"../../{other.name}/secrets/theirs", f"{other.name}/theirs"):
        wanted = body(space, **to(credentialsSecretName=name))
        told = tenant.denied("POST", tenant.path("trainingruns", group=GROUP), wanted)
        assert f'spec.checkpoint.s3.credentialsSecretName: Invalid value: "{name}"' in told
    run = space.apply("mine", body(space, **to(credentialsSecretName="theirs"))["spec"])
    condition = run.wait_condition("Accepted", "False", "SecretNotFound")
    assert "'theirs', but there is no such Secret in this namespace" in condition["message"]

    def asked(*parts):
        found = requests(ground.audit_log, OPERATOR_USER, '"resource":"secrets"', *parts)
        return [one for one in found if one.user == OPERATOR_USER]

    eventually(
        lambda: any(one.name == "theirs" for one in asked(f'"{space.name}"')),
        "what the operator asked is in the audit log",
    )
    assert {one.verb for one in asked()} == {"get"}, "By name, and never all of them."
    assert not asked(f'"{other.name}"')
    assert SECRET not in condition["message"], "What else there is, is not told."


# -- templates -----------------------------------------------------------------------------------------------------

TEMPLATES = {
    "the agent's name": ({"initContainers": [{**CONTAINER, "name": "checkpoint-agent"}]}, {}, "'checkpoint-agent' is reserved for the operator"),
    "the gate's name": ({"containers": [{**CONTAINER, "name": "checkpoint-gate"}]}, {}, "'checkpoint-gate' is reserved for the operator"),
    "the agent's orders": ({}, {"annotations": {"trainingrun.dev/released": "now"}}, "annotations of trainingrun.dev are reserved for the operator"),
    "the agent's volume": ({"volumes": [{"name": "trainingrun-control", "emptyDir": {}}]}, {}, "'trainingrun-control' is reserved for the operator"),
    "the agent's Secret": ({"initContainers": [{**CONTAINER, "name": "peek", "volumeMounts": [{"name": "trainingrun-s3", "mountPath": "/k"}]}]}, {}, "init container 'peek' has 'trainingrun-s3' in volumeMounts"),
}  # fmt: skip


def test_a_template_that_uses_what_is_the_operators_own_is_refused(space):
    """All of them side by side."""
    runs = {}
    for place, (what, (pod, metadata, _)) in enumerate(TEMPLATES.items()):
        spec = body(space)["spec"]
        spec["template"] = {"metadata": metadata, "spec": spec["template"]["spec"] | pod}
        runs[what] = space.apply(f"own-{place}", spec)
    for what, (_, _, words) in TEMPLATES.items():
        condition = runs[what].wait_condition("Accepted", "False", "InvalidTemplate")
        assert words in condition["message"], f"{what}: {condition['message']}"
    assert not space.jobs()
    assert not space.pods()


# -- metrics -------------------------------------------------------------------------------------------------------

# digits.py, whose metrics page sends everybody elsewhere.
ELSEWHERE_PAGE = """
import http.server, runpy, sys
http.server.BaseHTTPRequestHandler.send_response_only = (
    lambda self, code, message=None, only=http.server.BaseHTTPRequestHandler.send_response_only:
        (only(self, 302), self.send_header("Location", "http://ADDRESS/metrics"), print("scraped", flush=True)))
runpy.run_path("/usr/local/bin/digits.py", run_name="__main__")
"""


def test_a_metrics_page_that_sends_the_operator_elsewhere_is_not_followed(space):
    listener = Listener.open(space)
    code = ELSEWHERE_PAGE.replace("ADDRESS", listener.address)
    run = space.run("redirects", *LONG, command=["python3", "-u", "-c", code], autoStopLoss=100)
    run.wait_training()
    condition = run.wait_condition("MetricsAvailable", "False", "Redirect")
    assert "(HTTP 302); redirects are not followed" in condition["message"]
    run.log.wait("scraped", times=3)
    listener.assert_heard_nobody()
    assert "terminationStatus" not in run.status


def test_a_pod_that_only_carries_a_runs_labels_is_neither_asked_nor_touched(space):
    """Made by the administrator, whom the policies let pass on the test ground: what the operator does by itself."""
    run = space.run("mine", pod=NOWHERE, metrics={"port": 8080}, pollIntervalSeconds=1)
    run.wait_condition("Accepted")
    (own,) = eventually(run.pods, "it has a pod")
    listener = Listener.open(space, labels(run))
    before = space.api.get(f"/api/v1/namespaces/{space.name}/pods/{listener.name}")
    run.merge({"spec": {"stop": True}})
    status = run.wait_finished()
    assert status["terminationStatus"] == "user_stop"
    after = space.api.get(f"/api/v1/namespaces/{space.name}/pods/{listener.name}")
    assert after is not None, "It is still there."
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert "trainingrun.dev" not in str(after["metadata"].get("annotations"))
    assert {one.name for one in space.audit("delete", "pods") if one.user == OPERATOR_USER} <= {own["metadata"]["name"]}
    listener.assert_heard_nobody()


def test_a_pod_on_the_hosts_network_is_not_asked(space):
    space.api.merge(f"/api/v1/namespaces/{space.name}", {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}})  # fmt: skip
    listens = ELSEWHERE_PAGE.replace("ADDRESS", "127.0.0.1")
    run = space.run(
        "host",
        *LONG,
        command=["python3", "-u", "-c", listens],
        pod={"hostNetwork": True},
        autoStopLoss=100,
        checkpoint={"mode": "Disabled", "destination": None, "s3": None},
    )
    run.wait_training()
    condition = run.wait_condition("MetricsAvailable", "False", "HostNetwork")
    assert "its metrics are not read, because they could be another pod's" in condition["message"]
    run.log.wait("step 40/")
    assert not re.search(r"^scraped", run.log.text, re.MULTILINE), "Nobody asked, in 2 s with a poll every second."
    assert "terminationStatus" not in run.status
