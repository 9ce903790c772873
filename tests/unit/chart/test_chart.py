"""The chart installs what it says, with no more rights than it names, and refuses values that it does not know."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from trainingrun_operator.api.run import TrainingRunSpec

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "trainingrun-operator"
GOLDEN = ROOT / "tests" / "golden" / "chart" / "default.yaml"
CRDS = sorted(path.name for path in (ROOT / "crds").glob("*.yaml"))
DIGEST = "sha256:" + "a" * 64


def rules(role):
    return [
        (group, resource, set(rule["verbs"]))
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    ]


def operator_role(rendered):
    (role,) = [each for each in rendered.of("ClusterRole") if "aggregate" not in str(each["metadata"]["labels"])]
    return role


# -- as a whole -----------------------------------------------------------------------------------------------


def test_lint_has_nothing_to_say(helm):
    done = helm.run("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout


def test_default_values_render_what_was_reviewed(default):
    rendered = default.without("CustomResourceDefinition")
    if os.environ.get("UPDATE_GOLDENS"):
        GOLDEN.parent.mkdir(parents=True, exist_ok=True)
        GOLDEN.write_text(rendered, encoding="utf-8")
    assert rendered == GOLDEN.read_text(encoding="utf-8"), "look at the difference; UPDATE_GOLDENS=1 accepts it"


def test_the_chart_carries_the_version_of_the_operator():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == project


def test_two_releases_share_no_name_in_the_cluster(helm, default):
    other = helm.render("--set", "fullnameOverride=second")
    cluster_wide = ("ClusterRole", "ClusterRoleBinding")
    first, second = (
        {each["metadata"]["name"] for kind in cluster_wide for each in rendered.of(kind)}
        for rendered in (default, other)
    )
    assert first
    assert not first & second


# -- values ---------------------------------------------------------------------------------------------------


def test_every_value_is_explained():
    unexplained, explained_at, comment = [], None, ""
    for line in (CHART / "values.yaml").read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("#"):
            comment += line
        elif not line.strip():
            comment = ""
        else:
            indent, (key, value) = len(line) - len(line.lstrip()), line.strip().split(":", 1)
            if explained_at is not None and indent <= explained_at:
                explained_at = None
            if "# -- " in comment:
                explained_at = indent
            elif explained_at is None and value.strip():
                unexplained.append(key)
            comment = ""
    assert not unexplained


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        pytest.param("timming.holdAfterSeconds=5", r"'timming' not allowed", id="a misspelt section"),
        pytest.param("timing.holdAfterSecond=5", r"/timing.*'holdAfterSecond' not allowed", id="a misspelt value"),
        pytest.param("timing.statusSeconds=0", r"/timing/statusSeconds.*got 0, want 1", id="an interval of nothing"),
        pytest.param("timing.statusSeconds=1.5", r"/timing/statusSeconds.*want integer", id="a fraction of a second"),
        pytest.param("timing.statusSeconds=null", r"/timing.*missing property 'statusSeconds'", id="a value taken away"),
        pytest.param("defaults.autoStopAction=stop", r"/defaults/autoStopAction.*'Shadow', 'Stop'", id="an action that does not exist"),
        pytest.param("defaults.autoStopLoss=low", r"/defaults/autoStopLoss.*want number", id="a loss that is no number"),
        pytest.param("image.pullPolicy=Sometimes", r"/image/pullPolicy.*'IfNotPresent'", id="a pull policy that does not exist"),
        pytest.param("image.digest=sha256:abc", r"/image/digest.*does not match", id="half a digest"),
        pytest.param("agent.resources.requests.memory=512mb", r"/agent/resources/requests/memory.*does not match", id="a quantity with a wrong unit"),
        pytest.param("podLabels.team=7", r"/podLabels/team.*want string", id="a label that is a number"),
    ],
)  # fmt: skip
def test_a_value_that_means_nothing_is_refused_by_its_name(helm, option, complaint):
    assert re.search(complaint, helm.refusal("--set", option))


def test_an_account_that_is_not_created_needs_its_name(helm):
    assert "serviceAccount.name is needed" in helm.refusal("--set", "serviceAccount.create=false")


def test_the_values_of_the_test_ground_are_accepted(helm):
    env = helm.render("--values", str(ROOT / "tools" / "install-values.yaml")).env
    assert env["TRAININGRUN_HOLD_AFTER_SECONDS"] == "5"


def test_large_waits_stay_whole_numbers(helm):
    assert helm.render("--set", "timing.holdAfterSeconds=31536000").env["TRAININGRUN_HOLD_AFTER_SECONDS"] == "31536000"


@pytest.mark.parametrize(
    ("options", "image"),
    [
        pytest.param([], "trainingrun-operator:0.1.0", id="the chart's own version"),
        pytest.param(["image.tag=dev"], "trainingrun-operator:dev", id="a tag"),
        pytest.param(
            ["image.tag=dev", f"image.digest={DIGEST}"],
            f"trainingrun-operator@{DIGEST}",
            id="a digest decides over a tag",
        ),
    ],
)
def test_operator_and_agent_are_the_same_image(helm, options, image):
    rendered = helm.render(*(part for option in options for part in ("--set", option)))
    assert (rendered.container["image"], rendered.env["TRAININGRUN_AGENT_IMAGE"]) == (image, image)


def test_the_agent_leaves_a_guaranteed_pod_guaranteed(default):
    resources = json.loads(default.env["TRAININGRUN_AGENT_RESOURCES"])
    assert resources["requests"] == resources["limits"]
    assert resources["requests"].keys() == {"cpu", "memory"}


def test_cloud_credentials_and_endpoints_reach_the_operator(helm):
    rendered = helm.render(
        "--set", "cloudCredentialsSecretName=cloud",
        "--set-json", 'extraEnv=[{"name": "AWS_ENDPOINT_URL_EC2", "value": "http://cloud"}]',
    )  # fmt: skip
    assert rendered.container["envFrom"] == [{"secretRef": {"name": "cloud"}}]
    assert rendered.env["AWS_ENDPOINT_URL_EC2"] == "http://cloud"


# -- security -------------------------------------------------------------------------------------------------


def test_a_release_answers_for_the_runs_of_its_selector(helm, default):
    assert "TRAININGRUN_RUN_SELECTOR" not in default.env
    assert helm.render("--set", "runSelector=team=vision").env["TRAININGRUN_RUN_SELECTOR"] == "team=vision"


def test_the_pod_is_as_restricted_as_kubernetes_knows(default):
    pod, container = default.pod["spec"], default.container
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
    assert [list(volume) for volume in pod["volumes"]] == [["name", "emptyDir"]]


def test_the_operator_may_do_what_each_of_its_calls_says_it_needs(default):
    granted = {(verb, resource) for _, resource, verbs in rules(operator_role(default)) for verb in verbs}
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "operator").rglob("*.py")]
    needed = {pair for source in sources for pair in re.findall(r"RBAC: (\w+) ([\w/]+)", source)}
    assert needed
    assert not needed - granted


def test_no_role_has_a_wildcard(default):
    roles = default.of("ClusterRole")
    assert roles
    assert "*" not in {part for role in roles for rule in role["rules"] for key in rule for part in rule[key]}


def test_the_operator_cannot_exec_into_pods(default):
    assert not {resource for _, resource, _ in rules(operator_role(default))} & {
        "pods/exec",
        "pods/attach",
        "pods/ephemeralcontainers",
    }


def test_the_operator_reads_secrets_only_by_name(default):
    assert [verbs for _, resource, verbs in rules(operator_role(default)) if resource == "secrets"] == [{"get"}]


def test_the_operator_reads_only_the_secrets_that_it_was_given(helm):
    role = operator_role(helm.render("--set", "rbac.checkpointSecretNames={s3-credentials}"))
    assert [rule.get("resourceNames") for rule in role["rules"] if "secrets" in rule["resources"]] == [
        ["s3-credentials"]
    ]


def test_the_operator_cannot_change_what_users_write(default):
    allowed = {resource: verbs for _, resource, verbs in rules(operator_role(default))}
    assert not allowed["trainingruns"] & {"create", "update", "delete"}
    assert allowed["gpunodepools"] == {"list", "watch"}


def test_kubernetes_own_roles_read_and_write_runs(default):
    (view,), (edit,) = default.of("ClusterRole", "-view"), default.of("ClusterRole", "-edit")
    assert view["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-view"] == "true"
    assert "rbac.authorization.k8s.io/aggregate-to-view" not in edit["metadata"]["labels"]
    assert rules(view) == [("trainingrun.dev", "trainingruns", {"get", "list", "watch"})]
    assert rules(edit) == [("trainingrun.dev", "trainingruns", {"create", "update", "patch", "delete"})]


def test_kubernetes_own_roles_are_left_alone_on_request(helm):
    rendered = helm.render("--set", "rbac.aggregate.enabled=false")
    assert [each["metadata"]["name"] for each in rendered.of("ClusterRole")] == ["trainingrun-operator"]


# -- custom resource definitions ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CRDS)
def test_a_definition_in_the_chart_is_the_generated_one(default, name):
    generated = (ROOT / "crds" / name).read_text(encoding="utf-8")
    assert (CHART / "files" / "crds" / name).read_text(encoding="utf-8") == generated, "run `make generate`"
    definition = yaml.safe_load(generated)
    (rendered,) = default.of("CustomResourceDefinition", definition["metadata"]["name"])
    assert rendered["spec"] == definition["spec"]


def test_the_chart_has_no_definition_that_is_not_generated():
    assert sorted(path.name for path in (CHART / "files" / "crds").iterdir()) == CRDS


def test_definitions_survive_the_release(default):
    kept = [
        each["metadata"]["annotations"]["helm.sh/resource-policy"] for each in default.of("CustomResourceDefinition")
    ]
    assert kept == ["keep"] * len(CRDS)


def test_definitions_go_with_the_release_on_request(helm):
    definitions = helm.render("--set", "crds.keep=false").of("CustomResourceDefinition")
    assert len(definitions) == len(CRDS)
    assert not [each for each in definitions if "annotations" in each["metadata"]]


def test_definitions_are_left_to_others_on_request(helm):
    assert not helm.render("--set", "crds.enabled=false").of("CustomResourceDefinition")


# -- notes ----------------------------------------------------------------------------------------------------


def test_the_run_in_the_notes_is_one_that_the_operator_takes(helm):
    done = helm.run("install", "trainingrun-operator", str(CHART), "--dry-run=client", "--set", "crds.enabled=false")
    assert done.returncode == 0, done.stderr
    notes = done.stdout.partition("\nNOTES:\n")[2]
    run = yaml.safe_load(notes.partition("<<'RUN'\n")[2].partition("\n  RUN\n")[0])
    assert TrainingRunSpec.parse_strict(run["spec"]).auto_stop_loss == 0.5
    assert "kubectl get trainingruns --watch" in notes
    assert (
        f"""kubectl patch trainingrun {run["metadata"]["name"]} --type merge -p '{{"spec":{{"stop":true}}}}'""" in notes
    )
