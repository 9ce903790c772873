"""Every alert fires and ends, says what to do, and reaches Prometheus and Grafana as each wants it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from grafana_foundation_sdk.models import alerting
from unit.monitoring.conftest import alerts

from trainingrun_operator.exporter import catalogue

ROOT = Path(__file__).parents[3]
ALERTS = ROOT / "alerts"
RUNBOOKS = ROOT / "docs" / "runbooks"
PROMETHEUS = yaml.safe_load((ALERTS / "prometheus.yaml").read_text())["groups"][0]["rules"]
GRAFANA = yaml.safe_load((ALERTS / "grafana.yaml").read_text())["groups"][0]["rules"]


def cases(alert):
    """What promtool looks at, test by test, in the order of time."""
    tests = yaml.safe_load((ALERTS / "tests" / f"{alert}.yaml").read_text())["tests"]
    return [[case for case in test["alert_rule_test"] if case["alertname"] == alert] for test in tests]


# -- firing and ending ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("alert", alerts())
def test_promtool_sees_the_alert_do_what_its_cases_say(alert):
    done = subprocess.run(
        ["promtool", "test", "rules", ALERTS / "tests" / f"{alert}.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", alerts())
def test_an_alert_has_a_case_in_which_it_fires_and_then_ends(alert):
    def fires_then_ends(looks):
        firing = [place for place, look in enumerate(looks) if look["exp_alerts"]]
        return bool(firing) and not looks[-1]["exp_alerts"] and firing[0] < len(looks) - 1

    assert any(fires_then_ends(looks) for looks in cases(alert))


def test_promtool_has_no_cases_for_alerts_that_do_not_exist():
    assert sorted(path.stem for path in (ALERTS / "tests").iterdir()) == sorted(alerts())


# -- what it says ---------------------------------------------------------------------------------------------


def test_every_alert_has_a_runbook_and_every_runbook_an_alert():
    assert sorted(path.stem for path in RUNBOOKS.glob("*.md") if path.stem != "index") == sorted(alerts())


@pytest.mark.parametrize("rule", PROMETHEUS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_it_is_how_bad_and_where_to_read_on(rule):
    assert rule["labels"]["severity"] in {"info", "warning", "critical"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"].endswith(f"/runbooks/{rule['alert']}.html")
    assert all(rule["annotations"].values())


@pytest.mark.parametrize("alert", alerts())
def test_a_runbook_helps(alert):
    page = (RUNBOOKS / f"{alert}.md").read_text()
    assert page.startswith(f"# {alert}\n")
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == ["What it means", "What is at risk", "Look", "Do"]
    assert "kubectl" in page.partition("## Look")[2].partition("## Do")[0], "It says where to look, in commands."


def test_alerts_ask_only_for_metrics_that_the_operator_exports():
    exported = {metric.name for metric in catalogue()}
    asked = {name for rule in PROMETHEUS for name in re.findall(r"\btrainingrun_\w+", rule["expr"])}
    assert asked
    assert asked <= exported


# -- the source -----------------------------------------------------------------------------------------------

SOUND = {
    "alert": "Sound", "uid": "sound", "severity": "info", "for": "1m", "expr": "vector(1)", "summary": "s", "description": "d",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        pytest.param({"expression": "up"}, "Sound: expression: missing or unknown", id="a misspelt key"),
        pytest.param({"severity": "page"}, "Sound: severity 'page' is not one of info, warning, critical", id="a severity that nobody routes"),
        pytest.param({"uid": "x" * 41}, "Sound: uid .* 40 lower-case letters", id="a uid that Grafana refuses"),
    ],
)  # fmt: skip
def test_a_rule_that_means_nothing_is_refused(tools, tmp_path, change, complaint):
    source = {"runbooks": "https://x", "interval": "1m", "rules": [SOUND | change]}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(source))
    with pytest.raises(ValueError, match=complaint):
        tools["rules"].load(tmp_path / "rules.yaml")


def test_two_rules_with_one_uid_are_refused(tools, tmp_path):
    source = {"runbooks": "https://x", "interval": "1m", "rules": [SOUND, SOUND | {"alert": "Other"}]}
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(source))
    with pytest.raises(ValueError, match="uid sound is used twice"):
        tools["rules"].load(tmp_path / "rules.yaml")


# -- Grafana --------------------------------------------------------------------------------------------------


def test_grafana_has_the_rules_of_prometheus(rules):
    asked = {rule["title"]: rule["data"][0]["model"]["expr"] for rule in GRAFANA}
    assert asked == {rule["alert"]: rule["expr"] for rule in PROMETHEUS}
    assert [(rule["title"], rule["for"]) for rule in GRAFANA] == [(rule["alert"], rule["for"]) for rule in PROMETHEUS]


@pytest.mark.parametrize("rule", GRAFANA, ids=lambda rule: rule["title"])
def test_grafana_knows_the_rule_by_a_name_that_stays_and_takes_silence_for_good_news(rule):
    assert re.fullmatch(r"trainingrun-[a-z-]{1,28}", rule["uid"])
    assert (rule["noDataState"], rule["execErrState"]) == ("OK", "Error")


@pytest.mark.parametrize("rule", GRAFANA, ids=lambda rule: rule["title"])
def test_grafana_fires_whatever_number_the_query_answers_with(rule):
    query, answered, firing = rule["data"]
    assert query["model"]["instant"]
    assert answered["model"]["expression"] == "is_number($query) || is_nan($query) || is_inf($query)", (
        "0 and NaN count."
    )
    assert firing["model"]["expression"] == answered["refId"]
    assert rule["condition"] == firing["refId"]


@pytest.mark.parametrize("rule", GRAFANA, ids=lambda rule: rule["title"])
def test_nothing_in_a_provisioned_rule_is_taken_for_the_servers_environment(rule):
    assert not [text for text in rule["labels"].values() if re.search(r"(?<!\$)\$(?!\$)", text)]
    assert not [text for text in rule["annotations"].values() if "${" in text]
    assert not [text for text in rule["annotations"].values() if "$value " in text], "Grafana's $value is a sentence."


def test_a_template_in_a_label_would_reach_grafana_as_a_template(tools, rules):
    fields = ("alert", "uid", "severity", "after", "expr", "annotations")
    rule = SimpleNamespace(
        labels={"team": "{{ $labels.namespace }}"}, **{name: getattr(rules[0], name) for name in fields}
    )
    (group,) = tools["rules"].for_grafana(tools["rules"].Rules("1m", (rule,)))["groups"]
    assert group["rules"][0]["labels"] == {"team": "{{ $$labels.namespace }}"}


def test_the_rules_are_what_the_models_of_grafana_11_say(tools, rules):
    plain = tools["document"].plain
    group = plain(tools["rules"].rule_group(tools["rules"].Rules("1m", rules)))
    assert plain(alerting.RuleGroup.from_json(group)) == group
    for rule in GRAFANA:
        assert plain(alerting.Rule.from_json(rule)).items() >= rule.items()
