"""The dashboard of a single run: loss, progress, checkpoints, and the phases of its stop."""

from __future__ import annotations

from typing import Final

from fleet import MARKS
from fleet import UID as FLEET
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.models import common, dashboard
from panels import BLUE, GREEN, GREY, RED, YELLOW, Mark, choice, colour, lines, number, numbered, page, phases, steps

UID: Final = "trainingrun-run"
OF: Final = '{namespace="$namespace",name="$name"}'
RUN_PHASES: Final = {
    "Pending": GREY, "Running": BLUE, "Stopping": YELLOW, "Held": RED, "Suspended": GREY, "Succeeded": GREEN, "Stopped": YELLOW, "Failed": RED,
}  # fmt: skip
STOP_PHASES: Final = {
    "Requested": GREY, "Draining": BLUE, "Saving": BLUE, "Verifying": BLUE, "Held": RED, "Deleting": BLUE, "Releasing": BLUE, "Done": GREEN,
}  # fmt: skip


def newest(metric: str) -> str:
    """The value of a metric, from any operator."""
    return f"max({metric}{OF})"


def run() -> dashboard.Dashboard:
    """Build the dashboard."""
    made = page(UID, "TrainingRun / Run", "One run: loss, progress, checkpoints, and the phases of its stop.")
    made.time("now-6h", "now").refresh("10s")
    made.with_variable(choice("namespace", "Namespace", "label_values(trainingrun_info, namespace)"))
    made.with_variable(choice("name", "Run", 'label_values(trainingrun_info{namespace="$namespace"}, name)'))
    made.link(build.DashboardLink("Fleet").type(dashboard.DashboardLinkType.LINK).url(f"/d/{FLEET}").keep_time(True))
    for name, metric, shade in MARKS:
        made.annotation(Mark(name, f"{newest(metric)} * 1000", shade))
    _now(made)
    _training(made)
    _findings(made)
    _checkpoints(made)
    _end(made)
    return numbered(made)


def _now(made: build.Dashboard) -> None:
    made.with_panel(
        number(
            "Loss",
            newest("trainingrun_loss"),
            "Latest loss; NaN while the training reports a non-finite loss.",
            decimals=4,
        )
    )
    made.with_panel(
        number(
            "Ends below",
            newest("trainingrun_auto_stop_loss"),
            "Loss threshold of autoStopLoss; empty if the rule is off.",
            decimals=4,
        )
    )
    made.with_panel(number("Step", newest("trainingrun_step"), "Latest step.", unit="locale"))
    made.with_panel(
        number("Progress", newest("trainingrun_progress_ratio"), "Completed share of all epochs.", unit="percentunit")
    )
    made.with_panel(
        number(
            "Time left",
            newest("trainingrun_eta_seconds"),
            "Estimated time to the end of the last epoch; empty after the run ends.",
            unit="s",
        )
    )
    made.with_panel(
        number("GPUs", newest("trainingrun_gpus"), "GPUs held by the run's pods; empty while they hold none.")
    )


def _training(made: build.Dashboard) -> None:
    made.with_row(build.Row("Training"))
    loss = lines(
        "Loss", {
            "loss": newest("trainingrun_loss"), "lowest": newest("trainingrun_loss_best"), "ends below": newest("trainingrun_auto_stop_loss"),
        },
        "Latest loss, lowest loss, and the threshold of autoStopLoss.", span=12, height=10,
    )  # fmt: skip
    colour(loss, "loss", BLUE)
    colour(loss, "lowest", GREY)
    made.with_panel(colour(loss, "ends below", RED, dashed=True))
    made.with_panel(
        lines("Step", {"step": newest("trainingrun_step")}, "Latest step.", unit="locale", span=6, height=10)
    )
    made.with_panel(lines(
        "Epoch, and polls without a step",
        {
            "epoch": newest("trainingrun_epoch"),
            "polls without a step": newest("trainingrun_stall_polls"),
            "complete at": newest("trainingrun_stall_polls_limit"),
        },
        "In the final epoch, a run without a new step for this many polls and with all files written is complete.", span=6, height=10,
    ))  # fmt: skip
    made.with_panel(number(
        "Loss is read", newest("trainingrun_metrics_available"), "1 while the training exports a fresh, finite loss.",
        thresholds=steps((None, RED), (1, GREEN)), span=3,
    ))  # fmt: skip
    made.with_panel(number(
        "Last new step", f"time() - {newest('trainingrun_last_metric_timestamp_seconds')}", "How long ago the step was last seen to advance.", unit="s", span=3,
    ))  # fmt: skip
    made.with_panel(number(
        "Hangs for", f"time() - {newest('trainingrun_hung_since_timestamp_seconds')}", "How long nothing of the training has moved; empty unless it hangs.", unit="s", span=3,
    ))  # fmt: skip
    made.with_panel(number(
        "GPUs idle for", f"time() - {newest('trainingrun_idle_since_timestamp_seconds')}", "How long all GPUs have been idle; empty unless they are.", unit="s", span=3,
    ))  # fmt: skip
    made.with_panel(number(
        "Budget used", newest("trainingrun_budget_used_ratio"), "Used share of spec.budget, of GPU hours or cost, whichever is larger; empty without a budget.",
        unit="percentunit", span=3,
    ))  # fmt: skip
    cost = number(
        "Cost", f"max by (currency) (trainingrun_cost{OF})", "What the training has cost so far, as far as prices are known; empty without a price in its GPUNodePools.",
        unit="none", span=3, decimals=2,
    )  # fmt: skip
    made.with_panel(cost.display_name("${__field.labels.currency}").text_mode(common.BigValueTextMode.VALUE_AND_NAME))
    made.with_panel(
        phases("Phase", f"max by (phase) (trainingrun_status_phase{OF})", "Phase of the run.", RUN_PHASES, span=6)
    )


def _findings(made: build.Dashboard) -> None:
    made.with_panel(
        lines(
            "Findings",
            {"{{reason}}": f"max by (reason) (trainingrun_finding{OF})"},
            "Why the run has not ended: the reasons of status.findings. 1: the rule's condition holds.",
            span=24,
        )
    )


def _checkpoints(made: build.Dashboard) -> None:
    made.with_row(build.Row("Checkpoints"))
    made.with_panel(
        number(
            "Proven",
            f"time() - {newest('trainingrun_checkpoint_last_verified_timestamp_seconds')}",
            "Time since a new checkpoint was last verified in the bucket.",
            unit="s",
        )
    )
    made.with_panel(
        number("Generation", newest("trainingrun_checkpoint_generation"), "Generation of the latest proven checkpoint.")
    )
    made.with_panel(
        number("Size", newest("trainingrun_checkpoint_bytes"), "Size of the latest proven checkpoint.", unit="bytes")
    )
    made.with_panel(number(
        "Uploads fail for", f"{newest('trainingrun_checkpoint_upload_failing_seconds')} or vector(0)",
        "How long the agent has failed to read the volume or write to the bucket.", unit="s", thresholds=steps((None, GREEN), (1, YELLOW), (600, RED)),
    ))  # fmt: skip
    made.with_panel(number(
        "Held", f"{newest('trainingrun_checkpoint_held')} or vector(0)", "1 while the pod is held because its checkpoint is not proven.",
        thresholds=steps((None, GREEN), (1, RED)),
    ))  # fmt: skip
    made.with_panel(number(
        "Data loss", f"{newest('trainingrun_checkpoint_data_loss')} or vector(0)", "1 if the run ended or was suspended with data loss.",
        thresholds=steps((None, GREEN), (1, RED)),
    ))  # fmt: skip
    made.with_panel(
        lines(
            "Not in the bucket",
            {"bytes": newest("trainingrun_checkpoint_lag_bytes")},
            "Checkpoint bytes in the volume that are not in the bucket.",
            unit="bytes",
        )
    )
    made.with_panel(
        lines(
            "Behind",
            {"behind": newest("trainingrun_checkpoint_lag_seconds")},
            "How long a complete checkpoint in the volume has been missing from the bucket.",
            unit="s",
        )
    )


def _end(made: build.Dashboard) -> None:
    made.with_row(build.Row("Stop"))
    made.with_panel(
        phases(
            "Phase of the stop",
            f"max by (phase) (trainingrun_termination_phase{OF})",
            "Phases from the decision to the end.",
            STOP_PHASES,
            span=16,
        )
    )
    made.with_panel(lines(
        "Nodes being released", {"nodes": newest("trainingrun_nodes_unreleased")}, "Nodes whose release is not complete.", span=8, height=6,
    ))  # fmt: skip
