"""Alerts and dashboards reach whoever was chosen, once, and as that one wants them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from unit.monitoring.conftest import alerts, boards

ROOT = Path(__file__).parents[3]
FILES = ROOT / "charts" / "trainingrun-operator" / "files"
KINDS = {
    "grafana": ("v1/ConfigMap", ""),
    "prometheus": ("monitoring.coreos.com/v1/PrometheusRule", "monitoring.coreos.com/v1/PrometheusRule"),
    "operator": (
        "grafana.integreatly.org/v1beta1/GrafanaAlertRuleGroup",
        "grafana.integreatly.org/v1beta1/GrafanaAlertRuleGroup",
    ),
}
"""By alerts.mode: the kind that carries the rules, and what the cluster must know for it."""


def mode(helm, name, *options):
    known = KINDS[name][1]
    return helm.render("--set", f"alerts.mode={name}", *(("--api-versions", known) if known else ()), *options)


def carriers(rendered):
    """Kind of every document that carries the rules."""
    found = [document for document in rendered.documents if "MetricsMissing" in yaml.safe_dump(document)]
    return [f"{document['apiVersion']}/{document['kind']}" for document in found]


def rules_of(rendered, name):
    """Rules, wherever they are in what carries them."""
    (carrier,) = rendered.of(KINDS[name][0].rpartition("/")[2], "-alerts")
    if name == "grafana":
        return yaml.safe_load(carrier["data"]["trainingrun.yaml"])["groups"][0]["rules"]
    return carrier["spec"]["groups"][0]["rules"] if name == "prometheus" else carrier["spec"]["rules"]


def test_nobody_evaluates_rules_who_was_not_chosen(default):
    assert not carriers(default)
    assert not default.of("ConfigMap")


@pytest.mark.parametrize("name", KINDS)
def test_the_rules_go_to_the_one_that_was_chosen(helm, name):
    rendered = mode(helm, name)
    assert carriers(rendered) == [KINDS[name][0]]
    assert [rule.get("alert") or rule["title"] for rule in rules_of(rendered, name)] == alerts()


@pytest.mark.parametrize("name", KINDS)
def test_what_the_rules_template_is_left_to_those_who_evaluate_them(helm, name):
    (rule,) = [
        one for one in rules_of(mode(helm, name), name) if "CheckpointHeld" in (one.get("alert"), one.get("title"))
    ]
    assert rule["annotations"]["summary"].startswith(
        "TrainingRun {{ $labels.namespace }}/{{ $labels.name }} cannot end"
    )


@pytest.mark.parametrize("name", ["grafana", "operator"])
def test_grafanas_rules_ask_the_datasource_that_was_named(helm, name):
    rules = rules_of(mode(helm, name, "--set", "grafana.datasourceUid=mimir"), name)
    asked = {query["datasourceUid"] for rule in rules for query in rule["data"]}
    assert asked == {"mimir", "__expr__"}
    assert {query["model"]["datasource"]["uid"] for rule in rules for query in rule["data"]} == asked
    assert {rule["data"][0]["model"]["datasource"]["type"] for rule in rules} == {"prometheus"}


@pytest.mark.parametrize("name", KINDS)
def test_runbooks_are_where_they_are_served(helm, name):
    rules = rules_of(
        mode(helm, name, "--set", "alerts.runbookURL=https://wiki.example.com/training?page={alert}&v=1"), name
    )
    urls = [rule["annotations"]["runbook_url"] for rule in rules]
    assert urls == [f"https://wiki.example.com/training?page={alert}&v=1" for alert in alerts()]


def test_a_prometheus_that_selects_by_label_finds_the_rules(helm):
    rendered = mode(
        helm, "prometheus", "--set", "alerts.additionalLabels.release=stack", "--set", "alerts.namespace=monitoring"
    )
    (rule,) = rendered.of("PrometheusRule")
    assert (rule["metadata"]["labels"]["release"], rule["metadata"]["namespace"]) == ("stack", "monitoring")


def test_grafanas_sidecar_finds_rules_and_dashboards_by_their_labels(helm):
    rendered = mode(helm, "grafana", "--set", "grafana.dashboards.enabled=true")
    labels = [config["metadata"]["labels"] for config in rendered.of("ConfigMap")]
    assert sorted(label for each in labels for label in each if label.startswith("grafana_")) == [
        "grafana_alert", "grafana_dashboard", "grafana_dashboard",
    ]  # fmt: skip


def test_the_grafana_operator_has_a_folder_for_the_rules(helm):
    rendered = mode(helm, "operator", "--set", "alerts.instanceSelector.matchLabels.dashboards=mine")
    (folder,), (group,) = rendered.of("GrafanaFolder"), rendered.of("GrafanaAlertRuleGroup")
    assert group["spec"]["folderRef"] == folder["metadata"]["name"]
    assert (
        folder["spec"]["instanceSelector"]
        == group["spec"]["instanceSelector"]
        == {"matchLabels": {"dashboards": "mine"}}
    )


@pytest.mark.parametrize("name", ["prometheus", "operator"])
def test_a_kind_that_the_cluster_does_not_know_is_left_out_refused_or_rendered_as_was_said(helm, name):
    chosen = ("--set", f"alerts.mode={name}")
    assert not carriers(helm.render(*chosen))
    assert carriers(helm.render(*chosen, "--set", "alerts.renderMode=alwaysRender")) == [KINDS[name][0]]
    complaint = helm.refusal(*chosen, "--set", "alerts.renderMode=failIfMissing")
    assert f"alerts.mode is {name}, but this cluster does not know {KINDS[name][1]}" in complaint


def test_who_installs_is_told_what_keeps_the_alerts_from_being_evaluated(helm):
    assert "alerts" not in helm.notes()
    missing = helm.notes("--set", "alerts.mode=prometheus")
    assert (
        "No alert is evaluated: alerts.mode is prometheus, and this cluster does not serve monitoring.coreos.com/v1/PrometheusRule."
        in missing
    )
    assert "Nobody" not in helm.notes("--set", "alerts.mode=prometheus,alerts.renderMode=alwaysRender")
    sidecar = "grafana.sidecar.alerts.enabled=true"
    assert (
        f"{sidecar} and, unless Grafana is in trainingrun-system, grafana.sidecar.alerts.searchNamespace=ALL\n"
        in helm.notes("--set", "alerts.mode=grafana")
    )
    assert f"{sidecar} there\n" in helm.notes("--set", "alerts.mode=grafana", "--set", "alerts.namespace=monitoring")


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        pytest.param("alerts.mode=both", r"/alerts/mode.*'none', 'grafana', 'prometheus', 'operator'", id="two at once"),
        pytest.param("alerts.runbookURL=https://wiki.example.com/", r'alerts.runbookURL is "https://wiki.example.com/": expected https://… with \{alert\} in the place of the alert\'s name', id="one page for all alerts"),
        pytest.param("alerts.sidecarLabel=null", r"/alerts.*missing property 'sidecarLabel'", id="no label to be found by"),
        pytest.param("grafana.datasourceUid=my prom", r'grafana.datasourceUid is "my prom": expected the uid of a datasource', id="a name that is no uid"),
        pytest.param("grafana.dashboards.enable=true", r"/grafana/dashboards.*'enable' not allowed", id="a misspelt switch"),
    ],
)  # fmt: skip
def test_a_value_that_means_nothing_is_refused_by_its_name(helm, option, complaint):
    assert re.search(complaint, helm.refusal("--set", option))


def test_the_dashboards_are_installed_as_committed_and_ask_the_datasource_that_was_named(helm):
    rendered = helm.render(
        "--set", "grafana.dashboards.enabled=true", "--set", "grafana.datasourceUid=mimir",
        "--set", "grafana.dashboards.annotations.grafana_folder=TrainingRun",
    )  # fmt: skip
    configs = rendered.of("ConfigMap")
    assert {config["metadata"]["annotations"]["grafana_folder"] for config in configs} == {"TrainingRun"}
    installed = {name: json.loads(text) for config in configs for name, text in config["data"].items()}
    assert installed.keys() == {f"trainingrun-{name}.json" for name in boards()}
    for name, board in boards().items():
        text = json.dumps(board)
        assert text.count('"uid": "prometheus"') > 10
        assert installed[f"trainingrun-{name}.json"] == json.loads(
            text.replace('"uid": "prometheus"', '"uid": "mimir"')
        )
