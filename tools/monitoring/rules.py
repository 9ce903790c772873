"""The alerts of `alerts/rules.yaml` in the formats of Prometheus and Grafana.

Grafana's format follows its own importer of Prometheus rules: the query, then whether it returned any number (NaN and 0 count), then > 0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import yaml
from document import plain
from grafana_foundation_sdk.builders import alerting, expr, prometheus
from grafana_foundation_sdk.models import dashboard
from grafana_foundation_sdk.models.alerting import RelativeTimeRange
from grafana_foundation_sdk.models.alerting import RuleGroup as RuleGroupModel

if TYPE_CHECKING:
    from pathlib import Path

    from grafana_foundation_sdk.cog.builder import Builder
    from grafana_foundation_sdk.cog.variants import Dataquery

GROUP: Final = "trainingrun"
FOLDER: Final = "TrainingRun"
DATASOURCE: Final = "prometheus"
"""UID of the datasource in kube-prometheus-stack; the chart replaces this word."""
SEVERITIES: Final = ("info", "warning", "critical")
SECONDS: Final = {"s": 1, "m": 60, "h": 3600}
LOOK_BACK: Final = RelativeTimeRange(from_val=600, to=0)
_EXPRESSIONS: Final = "__expr__"
_KEYS: Final = frozenset({"alert", "uid", "severity", "for", "expr", "summary", "description"})


@dataclass(frozen=True)
class Rule:
    """One alert."""

    alert: str
    uid: str
    """Grafana's identifier: never changed, never reused."""
    severity: str
    after: str
    """How long `expr` must return a result before the alert fires."""
    expr: str
    annotations: dict[str, str]

    @property
    def labels(self) -> dict[str, str]:
        """Labels for routing notifications."""
        return {"severity": self.severity, "product": GROUP}


@dataclass(frozen=True)
class Rules:
    """All rules; evaluated together."""

    interval: str
    rules: tuple[Rule, ...]


def load(path: Path) -> Rules:
    """Read the source file.

    Raises:
        ValueError: a key is missing or unknown, or a value is invalid; the text names the rule.
    """
    source = yaml.safe_load(path.read_text(encoding="utf-8"))
    rules = tuple(_rule(item, source["runbooks"]) for item in source["rules"])
    for what in ("alert", "uid"):
        names = [getattr(rule, what) for rule in rules]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"{path.name}: {what} {', '.join(sorted(twice))} is used twice.")
    return Rules(source["interval"], rules)


def _rule(item: dict[str, str], runbooks: str) -> Rule:
    name = item.get("alert", "a rule without a name")
    if odd := _KEYS ^ item.keys():
        raise ValueError(f"{name}: {', '.join(sorted(odd))}: missing or unknown.")
    if item["severity"] not in SEVERITIES:
        raise ValueError(f"{name}: severity {item['severity']!r} is not one of {', '.join(SEVERITIES)}.")
    if not re.fullmatch(r"[a-z0-9-]{1,40}", item["uid"]):
        raise ValueError(
            f"{name}: uid {item['uid']!r} must be 1 to 40 lower-case letters, digits and hyphens, Grafana's limit."
        )
    annotations = {
        "summary": item["summary"].strip(),
        "description": item["description"].strip(),
        "runbook_url": runbooks.replace("{alert}", name),
    }
    return Rule(name, item["uid"], item["severity"], item["for"], item["expr"].strip(), annotations)


def for_prometheus(rules: Rules) -> dict[str, Any]:
    """A rule file, equal to the `spec` of a PrometheusRule."""
    items = [
        {
            "alert": rule.alert,
            "expr": rule.expr,
            "for": rule.after,
            "labels": rule.labels,
            "annotations": rule.annotations,
        }
        for rule in rules.rules
    ]
    return {"groups": [{"name": GROUP, "interval": rules.interval, "rules": items}]}


def for_grafana(rules: Rules) -> dict[str, Any]:
    """A provisioning file. Grafana expands `$` in labels and `${` in annotations as environment variables, so `$` is escaped."""
    group = rule_group(rules)
    items = [
        {**_common(rule), "labels": {key: value.replace("$", "$$") for key, value in rule["labels"].items()}}
        for rule in plain(group)["rules"]
    ]
    head = {"orgId": 1, "name": GROUP, "folder": FOLDER, "interval": rules.interval}
    return {"apiVersion": 1, "groups": [{**head, "rules": items}]}


def for_grafana_operator(rules: Rules) -> dict[str, Any]:
    """The part of a GrafanaAlertRuleGroup's `spec` that is the same in every installation."""
    return {
        "name": GROUP,
        "interval": rules.interval,
        "rules": [_common(rule) for rule in plain(rule_group(rules))["rules"]],
    }


def _common(rule: dict[str, Any]) -> dict[str, Any]:
    """The fields of a rule in Grafana's API that its files have as well."""
    keys = ("uid", "title", "condition", "data", "noDataState", "execErrState", "for", "labels", "annotations")
    return {key: rule[key] for key in keys}


def rule_group(rules: Rules) -> RuleGroupModel:
    """The rule group in the format of Grafana's API."""
    group = alerting.RuleGroup(GROUP).interval(_seconds(rules.interval))
    for rule in rules.rules:
        group.with_rule(_grafana_rule(rule))
    return group.build()


def _grafana_rule(rule: Rule) -> alerting.Rule:
    builder = (
        alerting.Rule(rule.alert)
        .uid(rule.uid)
        .rule_group(GROUP)
        .condition("firing")
        .for_val(rule.after)
        # Every rule queries for a problem: no data means no problem.
        .no_data_state("OK")
        .exec_err_state("Error")
        .labels(rule.labels)
        .annotations({key: _templated(text) for key, text in rule.annotations.items()})
    )
    source = dashboard.DataSourceRef(type_val="prometheus", uid=DATASOURCE)
    asked = prometheus.Dataquery().ref_id("query").datasource(source).expr(rule.expr).instant().interval("")
    answered = expr.TypeMath().ref_id("answered").expression("is_number($query) || is_nan($query) || is_inf($query)")
    firing = expr.TypeThreshold().ref_id("firing").expression("answered").conditions([_above_zero()])
    here = dashboard.DataSourceRef(type_val=_EXPRESSIONS, uid=_EXPRESSIONS)
    return (
        builder.with_query(_query("query", DATASOURCE, asked))
        .with_query(_query("answered", _EXPRESSIONS, answered.datasource(here)))
        .with_query(_query("firing", _EXPRESSIONS, firing.datasource(here)))
    )


def _query(ref: str, datasource: str, model: Builder[Dataquery]) -> alerting.Query:
    return alerting.Query(ref).datasource_uid(datasource).relative_time_range(LOOK_BACK).model(model)


def _above_zero() -> expr.ExprTypeThresholdConditions:
    above = expr.ExprTypeThresholdConditionsEvaluator().type("gt").params([0])
    return expr.ExprTypeThresholdConditions().evaluator(above)


def _templated(text: str) -> str:
    """Replace `$value`: in Grafana it is a text about all queries, and the number is in `$values`."""
    return text.replace("$value", "$values.query.Value")


def _seconds(duration: str) -> int:
    return int(duration[:-1]) * SECONDS[duration[-1]]
