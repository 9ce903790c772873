"""The fleet dashboard: active runs, why runs ended, saved GPU time, and problems that need a person."""

from __future__ import annotations

from itertools import cycle
from typing import Final

from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import table
from grafana_foundation_sdk.models import dashboard
from grafana_foundation_sdk.models.prometheus import PromQueryFormat
from panels import (
    BLUE,
    GREEN,
    GREY,
    RED,
    SOURCE,
    YELLOW,
    Mark,
    areas,
    bars,
    choice,
    colour,
    lines,
    number,
    numbered,
    page,
    query,
    steps,
)

from trainingrun_operator.api.endings import ENDINGS

UID: Final = "trainingrun-fleet"
HERE: Final = '{namespace=~"$namespace"}'
SHADES: Final = {
    "good": cycle((GREEN, "semi-dark-green", "dark-green", "light-green")),
    "stopped": cycle((YELLOW, "semi-dark-orange", "dark-orange", "light-orange")),
    "bad": cycle((RED, "semi-dark-red", "dark-red", "light-red")),
    "quiet": cycle((GREY,)),
}
"""Of each tone of an ending, so that two of the same tone can be told apart."""
WHY: Final = {ending.status: next(SHADES[ending.tone]) for ending in ENDINGS.values()}
"""Why runs end, in the colours of the web dashboard."""
MARKS: Final = (
    ("Started", "trainingrun_start_time_seconds", GREEN),
    ("Stop decided", "trainingrun_termination_requested_timestamp_seconds", RED),
    ("Checkpoint proven", "trainingrun_checkpoint_last_verified_timestamp_seconds", BLUE),
)
"""Annotations: name, metric with the time, colour."""
ALARM: Final = steps((None, GREEN), (1, RED))


def fleet() -> dashboard.Dashboard:
    """Build the dashboard."""
    made = page(
        UID,
        "TrainingRun / Fleet",
        "All runs: active runs, why runs ended, saved GPU time, and problems that need a person.",
    )
    made.time("now-24h", "now").refresh("30s")
    made.with_variable(choice("namespace", "Namespace", "label_values(trainingrun_info, namespace)", several=True))
    # Off by default: with many runs they would cover the curves.
    for name, metric, shade in MARKS:
        made.annotation(
            Mark(
                name,
                f"max by (namespace, name) ({metric}{HERE}) * 1000",
                shade,
                text="{{namespace}}/{{name}}",
                enable=False,
            )
        )
    _now(made)
    _ends(made)
    _runs(made)
    _checkpoints(made)
    _nodes(made)
    _operator(made)
    return numbered(made)


def _now(made: build.Dashboard) -> None:
    made.with_panel(
        number(
            "Training",
            'count(trainingrun_status_phase{namespace=~"$namespace",phase="Running"}) or vector(0)',
            "Runs in phase Running.",
        )
    )
    made.with_panel(
        number(
            "Stopping",
            'count(trainingrun_status_phase{namespace=~"$namespace",phase="Stopping"}) or vector(0)',
            "Runs in phase Stopping.",
        )
    )
    made.with_panel(number(
        "Held", f"sum(trainingrun_checkpoint_held{HERE}) or vector(0)",
        "Runs that cannot end because their checkpoint is not proven. Fix the bucket or end the hold.", thresholds=ALARM,
    ))  # fmt: skip
    made.with_panel(
        number("GPUs held", f"sum(trainingrun_gpus{HERE}) or vector(0)", "GPUs held by the pods of all runs.")
    )
    made.with_panel(number(
        "GPU hours saved", "sum(increase(trainingrun_gpu_seconds_saved_total[$__range])) / 3600",
        "In the selected time range, in all namespaces: remaining GPU time of runs ended by autoStopLoss or a person, from the estimate at their stop.",
        decimals=1, thresholds=steps((None, GREEN)),
    ))  # fmt: skip
    made.with_panel(number(
        "Data losses", "sum(increase(trainingrun_data_losses_total[$__range]))",
        "In the selected time range, in all namespaces: runs that ended or were suspended with data loss.", decimals=0, thresholds=ALARM,
    ))  # fmt: skip


def _ends(made: build.Dashboard) -> None:
    made.with_row(build.Row("Why runs ended"))
    why = bars(
        "Ended runs, by reason", {"{{status}}": "sum by (status) (round(increase(trainingrun_terminations_total[$__interval])))"},
        "Per interval, in all namespaces.",
    )  # fmt: skip
    saved = bars(
        "GPU hours saved, by reason", {"{{status}}": "sum by (status) (increase(trainingrun_gpu_seconds_saved_total[$__interval])) / 3600"},
        "Per interval, in all namespaces. An estimate: remaining steps x measured time per step x GPUs.", unit="h",
    )  # fmt: skip
    for panel in (why, saved):
        for reason, meaning in WHY.items():
            colour(panel, reason, meaning)
        made.with_panel(panel)
    made.with_panel(
        areas(
            "GPUs in use",
            {"GPUs": "sum(rate(trainingrun_gpu_seconds_total[$__rate_interval]))"},
            "GPUs held by the pods of all runs, in all namespaces.",
        )
    )
    made.with_panel(
        areas(
            "Runs by phase",
            {"{{phase}}": f"count by (phase) (trainingrun_status_phase{HERE})"},
            "Number of runs in each phase.",
        )
    )


COLUMNS: Final = {
    "A": ("Phase", 'max by (namespace, name, phase) (trainingrun_status_phase{namespace=~"$namespace"})', ""),
    "B": ("Loss", "trainingrun_loss", "short"),
    "C": ("Target", "trainingrun_auto_stop_loss", "short"),
    "D": ("Step", "trainingrun_step", "locale"),
    "E": ("Progress", "trainingrun_progress_ratio", "percentunit"),
    "F": ("ETA", "trainingrun_eta_seconds", "s"),
    "G": ("GPUs", "trainingrun_gpus", "short"),
    "H": ("Checkpoint age", "time() - trainingrun_checkpoint_last_verified_timestamp_seconds", "s"),
}
"""By query: title, PromQL, unit."""


def _runs(made: build.Dashboard) -> None:
    made.with_row(build.Row("Runs"))
    panel = (
        table.Panel()
        .title("Runs")
        .description("One line per run; the name links to its dashboard.")
        .datasource(SOURCE)
        .span(24)
        .height(10)
        .filterable(True)
    )
    for ref, (_, expr, _) in COLUMNS.items():
        whole = expr if "namespace" in expr else f"max by (namespace, name) ({expr}{HERE})"
        panel.with_target(query(whole, ref=ref, instant=True).format(PromQueryFormat.TABLE))
    names = {f"Value #{ref}": title for ref, (title, _, _) in COLUMNS.items() if ref != "A"}
    order = {
        "namespace": 0,
        "name": 1,
        "phase": 2,
        **{f"Value #{ref}": place for place, ref in enumerate(list(COLUMNS)[1:], 3)},
    }
    panel.with_transformation(dashboard.DataTransformerConfig(id_val="merge", options={}))
    panel.with_transformation(dashboard.DataTransformerConfig(
        id_val="organize",
        options={
            "excludeByName": {"Time": True, "Value #A": True},
            "indexByName": order,
            "renameByName": {"namespace": "Namespace", "name": "Name", "phase": "Phase", **names},
        },
    ))  # fmt: skip
    for title, _, unit in COLUMNS.values():
        if unit:
            panel.override_by_name(title, [dashboard.DynamicConfigValue(id_val="unit", value=unit)])
    link = {
        "title": "Open the run's dashboard",
        "url": "/d/trainingrun-run?var-namespace=${__data.fields.Namespace}&var-name=${__data.fields.Name}&${__url_time_range}",
    }
    panel.override_by_name("Name", [dashboard.DynamicConfigValue(id_val="links", value=[link])])
    made.with_panel(panel)


def _checkpoints(made: build.Dashboard) -> None:
    made.with_row(build.Row("Checkpoints"))
    made.with_panel(lines(
        "Not in the bucket", {"{{namespace}}/{{name}}": f"topk(10, max by (namespace, name) (trainingrun_checkpoint_lag_bytes{HERE}))"},
        "Bytes in the volume that are not in the bucket: the ten runs with the most.", unit="bytes", span=8,
    ))  # fmt: skip
    made.with_panel(lines(
        "Upload time",
        {
            "half": "histogram_quantile(0.5, sum by (le) (rate(trainingrun_checkpoint_upload_duration_seconds_bucket[$__rate_interval])))",
            "95 %": "histogram_quantile(0.95, sum by (le) (rate(trainingrun_checkpoint_upload_duration_seconds_bucket[$__rate_interval])))",
        },
        "In all namespaces: time to upload and commit one checkpoint.", unit="s", span=8,
    ))  # fmt: skip
    made.with_panel(lines(
        "Uploaded bytes and failed attempts",
        {
            "bytes per second": "sum(rate(trainingrun_checkpoint_upload_bytes_total[$__rate_interval]))",
            "failed attempts": "sum(increase(trainingrun_checkpoint_upload_failures_total[$__rate_interval]))",
        },
        "In all namespaces. Failed attempts are retried.", unit="Bps", span=8,
    ).override_by_name("failed attempts", [
        dashboard.DynamicConfigValue(id_val="unit", value="short"),
        dashboard.DynamicConfigValue(id_val="custom.axisPlacement", value="right"),
    ]))  # fmt: skip


def _nodes(made: build.Dashboard) -> None:
    made.with_row(build.Row("GPU nodes"))
    made.with_panel(areas(
        "Nodes being released",
        {
            "being released": f"sum(trainingrun_nodes_unreleased{HERE}) or vector(0)",
            "overdue": f"sum(trainingrun_nodes_overdue{HERE}) or vector(0)",
            "billed without a Node": f"sum(trainingrun_ghost_instances{HERE}) or vector(0)",
        },
        "Nodes being released, nodes not released within their pool's alertAfterSeconds, and machines that are billed without a Node.",
    ))  # fmt: skip
    made.with_panel(lines(
        "Node release time",
        {
            "{{pool}}, half": "histogram_quantile(0.5, sum by (le, pool) (trainingrun_node_release_seconds_bucket))",
            "{{pool}}, 95 %": "histogram_quantile(0.95, sum by (le, pool) (trainingrun_node_release_seconds_bucket))",
        },
        "Time from the end of a run's pods until the machine and its Node are gone, for all nodes released since the operator started.", unit="s",
    ))  # fmt: skip


def _operator(made: build.Dashboard) -> None:
    made.with_row(build.Row("The operator"))
    made.with_panel(
        number(
            "Leaders",
            "sum(trainingrun_leader)",
            "Operators that lead; should be 1.",
            thresholds=steps((None, RED), (1, GREEN), (2, RED)),
        )
    )
    made.with_panel(lines(
        "Reconciliation delay and duration",
        {
            "delay, 99 %": "histogram_quantile(0.99, sum by (le) (rate(trainingrun_scheduler_lateness_seconds_bucket[$__rate_interval])))",
            "duration, 99 %": "histogram_quantile(0.99, sum by (le) (rate(trainingrun_reconcile_duration_seconds_bucket[$__rate_interval])))",
        },
        "Delay between the due time and the start of a reconciliation, and its duration.", unit="s", span=6,
    ))  # fmt: skip
    made.with_panel(lines(
        "Requests", {"{{api}}": "sum by (api) (rate(trainingrun_api_calls_total[$__rate_interval]))"},
        "Requests per second sent by the operator, by target.", unit="reqps", span=7,
    ))  # fmt: skip
    made.with_panel(lines(
        "Errors",
        {
            "{{source}}: {{reason}}": "sum by (source, reason) (increase(trainingrun_poll_errors_total[$__rate_interval]))",
            "failed reconciliations": "sum(increase(trainingrun_reconcile_errors_total[$__rate_interval]))",
        },
        "Failed reads, and reconciliations that ended in an error.", span=7,
    ))  # fmt: skip
