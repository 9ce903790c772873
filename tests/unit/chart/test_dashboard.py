"""The dashboard in the chart: left out unless asked for, and without any right unless everybody may look."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trainingrun_operator.dashboard.guard import HEALTH
from trainingrun_operator.settings import DashboardSettings, load_dashboard

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "operator" / "trainingrun_operator" / "dashboard" / "cluster.py"
ON = ("--set", "dashboard.enabled=true")
ANONYMOUS = (*ON, "--set", "dashboard.anonymous=true")
NAME = "trainingrun-operator-dashboard"


@pytest.fixture(scope="module")
def shown(helm):
    return helm.render(*ON)


@pytest.fixture(scope="module")
def anonymous(helm):
    return helm.render(*ANONYMOUS)


def only(rendered, kind):
    (found,) = rendered.of(kind, "-dashboard")
    return found


def pod_of(rendered):
    return only(rendered, "Deployment")["spec"]["template"]


def env_of(rendered):
    return {each["name"]: each["value"] for each in pod_of(rendered)["spec"]["containers"][0]["env"]}


def rules_of(rendered):
    return {
        (verb, resource)
        for rule in only(rendered, "ClusterRole")["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_without_being_asked_for_there_is_none(default):
    assert NAME not in default.text


def test_it_has_an_account_of_its_own_without_rights_and_without_a_token(shown):
    assert pod_of(shown)["spec"]["serviceAccountName"] == only(shown, "ServiceAccount")["metadata"]["name"] == NAME
    assert not only(shown, "ServiceAccount")["automountServiceAccountToken"]
    assert not pod_of(shown)["spec"]["automountServiceAccountToken"]
    assert "serviceAccountToken:" not in shown.text
    bindings = [each for kind in ("ClusterRoleBinding", "RoleBinding") for each in shown.of(kind)]
    assert NAME not in {subject["name"] for each in bindings for subject in each["subjects"]}
    assert not shown.of("ClusterRole", "-dashboard")


def test_for_anonymous_viewers_it_may_do_what_their_pages_need_and_no_more(anonymous):
    calls = re.findall(
        r"async def (\w+)\(.*?Needs: (\w+) ([\w/]+)\.|def (watch_runs?)\(.*?Needs: (\w+) ([\w/]+)\.",
        SOURCE.read_text(encoding="utf-8"),
        re.DOTALL,
    )
    needed = {(verb or verb2, resource or resource2) for _, verb, resource, _, verb2, resource2 in calls}
    written = {("patch", "trainingruns")}
    logs = {("get", "pods/log")}
    assert needed >= written | logs
    assert rules_of(anonymous) == needed - written - logs
    sources = pod_of(anonymous)["spec"]["volumes"][0]["projected"]["sources"]
    assert [list(each) for each in sources] == [["configMap"], ["serviceAccountToken"]]
    assert env_of(anonymous)["TRAININGRUN_DASHBOARD_ANONYMOUS"] == "true"


def test_in_named_namespaces_anonymous_viewers_see_those_and_no_other(helm):
    rendered = helm.render(*ANONYMOUS, "--set", "watchNamespaces={ml,vision}", "--set", "nodeRelease.enabled=false")
    for kind in ("Role", "RoleBinding"):
        assert [each["metadata"]["namespace"] for each in rendered.of(kind, "-dashboard")] == ["ml", "vision"]
    assert not rendered.of("ClusterRole", "-dashboard")
    assert not rendered.of("ClusterRoleBinding", "-dashboard")


def test_neither_the_operators_service_nor_its_budget_takes_it_for_an_operator(helm):
    rendered = helm.render(*ON, "--set", "replicas=2")
    labels = pod_of(rendered)["metadata"]["labels"]
    others = [each["spec"]["selector"] for each in rendered.of("Service") if each["metadata"]["name"] != NAME]
    others += [
        each["spec"]["selector"]["matchLabels"] for kind in ("PodDisruptionBudget",) for each in rendered.of(kind)
    ]
    others += [
        each["spec"]["selector"]["matchLabels"]
        for each in rendered.of("Deployment")
        if each["metadata"]["name"] != NAME
    ]
    assert len(others) == 3
    assert not [selector for selector in others if selector.items() <= labels.items()]
    assert only(rendered, "Service")["spec"]["selector"].items() <= labels.items()
    assert only(rendered, "Deployment")["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_its_pod_is_as_restricted_as_the_operators(shown):
    pod = pod_of(shown)["spec"]
    (operator,) = [each for each in shown.of("Deployment") if each["metadata"]["name"] != NAME]
    theirs = operator["spec"]["template"]["spec"]
    assert pod["securityContext"] == theirs["securityContext"]
    assert pod["containers"][0]["securityContext"] == theirs["containers"][0]["securityContext"]
    assert pod["containers"][0]["image"] == theirs["containers"][0]["image"]
    assert not pod["enableServiceLinks"]


def test_its_settings_are_those_that_it_reads(helm):
    origins = '["https://runs.example.com","http://inside:8080"]'
    rendered = helm.render(*ON, "--set-json", f"dashboard.origins={origins}", "--set", "logLevel=warning")
    assert load_dashboard(env_of(rendered)) == DashboardSettings(
        host="*",
        port=8081,
        origins=("https://runs.example.com", "http://inside:8080"),
        anonymous=False,
        log_level="WARNING",
    )
    container = pod_of(rendered)["spec"]["containers"][0]
    assert container["args"] == ["dashboard"]
    assert {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")} == {
        HEALTH
    }
    assert container["ports"] == [{"name": "http", "containerPort": 8081}]


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("dashboard.origins={runs.example.com}", r"/dashboard/origins/0.*does not match"),
        ("dashboard.origins={https://runs.example.com/path}", r"/dashboard/origins/0.*does not match"),
        ("dashboard.anonymus=true", r"/dashboard.*'anonymus' not allowed"),
        ("dashboard.replicas=-1", r"/dashboard/replicas.*got -1, want 0"),
    ],
)
def test_a_value_that_means_nothing_is_refused_by_its_name(helm, option, complaint):
    assert re.search(complaint, helm.refusal("--set", option))


def test_the_notes_say_how_it_is_opened(helm, shown):
    notes = helm.notes(*ON)
    assert (
        f"\n  kubectl port-forward --namespace trainingrun-system service/{only(shown, 'Service')['metadata']['name']} 8081\n"
        in notes
    )
    assert "port-forward" not in helm.notes()
