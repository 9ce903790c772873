"""The dashboard of a single run: its loss, how far it is, its checkpoints, and the phases of its end."""

from __future__ import annotations

from typing import Final

from fleet import MARKS
from fleet import UID as FLEET
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.models import dashboard
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
    """One value, whichever operator says it."""
    return f"max({metric}{OF})"


def run() -> dashboard.Dashboard:
    """Build it."""
    made = page(
        UID, "TrainingRun / Run", "One run: its loss, how far it is, its checkpoints, and the phases of its end."
    )
    made.time("now-6h", "now").refresh("10s")
    made.with_variable(choice("namespace", "Namespace", "label_values(trainingrun_info, namespace)"))
    made.with_variable(choice("name", "Run", 'label_values(trainingrun_info{namespace="$namespace"}, name)'))
    made.link(build.DashboardLink("Fleet").type(dashboard.DashboardLinkType.LINK).url(f"/d/{FLEET}").keep_time(True))
    for name, metric, shade in MARKS:
        made.annotation(Mark(name, f"{newest(metric)} * 1000", shade))
    _now(made)
    _training(made)
    _checkpoints(made)
    _end(made)
    return numbered(made)


def _now(made: build.Dashboard) -> None:
    made.with_panel(
        number(
            "Loss",
            newest("trainingrun_loss"),
            "The newest; NaN while the training reports one that is not finite.",
            decimals=4,
        )
    )
    made.with_panel(
        number(
            "Ends below",
            newest("trainingrun_auto_stop_loss"),
            "The loss below which it ends by itself; none where that is off.",
            decimals=4,
        )
    )
    made.with_panel(number("Step", newest("trainingrun_step"), "The newest.", unit="locale"))
    made.with_panel(
        number(
            "Progress", newest("trainingrun_progress_ratio"), "Share of all epochs that is done.", unit="percentunit"
        )
    )
    made.with_panel(
        number(
            "Time left",
            newest("trainingrun_eta_seconds"),
            "Estimated, to the end of the last epoch; none once it ends.",
            unit="s",
        )
    )
    made.with_panel(number("GPUs", newest("trainingrun_gpus"), "GPUs that its pods hold; none while they hold none."))


def _training(made: build.Dashboard) -> None:
    made.with_row(build.Row("Training"))
    loss = lines(
        "Loss", {
            "loss": newest("trainingrun_loss"), "lowest": newest("trainingrun_loss_best"), "ends below": newest("trainingrun_auto_stop_loss"),
        },
        "The newest and the lowest loss, and the one below which the run ends by itself.", span=12, height=10,
    )  # fmt: skip
    colour(loss, "loss", BLUE)
    colour(loss, "lowest", GREY)
    made.with_panel(colour(loss, "ends below", RED, dashed=True))
    made.with_panel(
        lines("Step", {"step": newest("trainingrun_step")}, "The newest step.", unit="locale", span=6, height=10)
    )
    made.with_panel(lines(
        "Epoch, and polls without a step",
        {
            "epoch": newest("trainingrun_epoch"),
            "polls without a step": newest("trainingrun_stall_polls"),
            "complete at": newest("trainingrun_stall_polls_limit"),
        },
        "In its final epoch a run that stands still for so many polls, with everything written, is complete.", span=6, height=10,
    ))  # fmt: skip
    made.with_panel(number(
        "Loss is read", newest("trainingrun_metrics_available"), "1 while a fresh, finite loss is read from the training.",
        thresholds=steps((None, RED), (1, GREEN)),
    ))  # fmt: skip
    made.with_panel(number(
        "Last step seen", f"time() - {newest('trainingrun_last_metric_timestamp_seconds')}", "How long ago the step was last seen to advance.", unit="s",
    ))  # fmt: skip
    made.with_panel(
        phases("Phase", f"max by (phase) (trainingrun_status_phase{OF})", "The run's phase.", RUN_PHASES, span=16)
    )


def _checkpoints(made: build.Dashboard) -> None:
    made.with_row(build.Row("Checkpoints"))
    made.with_panel(
        number(
            "Proven",
            f"time() - {newest('trainingrun_checkpoint_last_verified_timestamp_seconds')}",
            "How long ago a new checkpoint was read back from the bucket and matched.",
            unit="s",
        )
    )
    made.with_panel(
        number("Generation", newest("trainingrun_checkpoint_generation"), "Number of the newest proven checkpoint.")
    )
    made.with_panel(
        number("Size", newest("trainingrun_checkpoint_bytes"), "Of the newest proven checkpoint.", unit="bytes")
    )
    made.with_panel(number(
        "Uploads fail for", f"{newest('trainingrun_checkpoint_upload_failing_seconds')} or vector(0)",
        "For how long the agent has been unable to read the volume or to write to the bucket.", unit="s", thresholds=steps((None, GREEN), (1, YELLOW), (600, RED)),
    ))  # fmt: skip
    made.with_panel(number(
        "Held", f"{newest('trainingrun_checkpoint_held')} or vector(0)", "1 while the pod is kept because its checkpoint cannot be proven.",
        thresholds=steps((None, GREEN), (1, RED)),
    ))  # fmt: skip
    made.with_panel(number(
        "Data loss", f"{newest('trainingrun_checkpoint_data_loss')} or vector(0)", "1 if the run ended, or was suspended, without all that it had written.",
        thresholds=steps((None, GREEN), (1, RED)),
    ))  # fmt: skip
    made.with_panel(
        lines(
            "Not in the bucket yet",
            {"bytes": newest("trainingrun_checkpoint_lag_bytes")},
            "In the volume and not in the bucket.",
            unit="bytes",
        )
    )
    made.with_panel(
        lines(
            "Behind",
            {"behind": newest("trainingrun_checkpoint_lag_seconds")},
            "For how long a complete checkpoint has lain in the volume and not in the bucket.",
            unit="s",
        )
    )


def _end(made: build.Dashboard) -> None:
    made.with_row(build.Row("Its end"))
    made.with_panel(
        phases(
            "Phase of the stop",
            f"max by (phase) (trainingrun_termination_phase{OF})",
            "From the decision to the end, phase by phase.",
            STOP_PHASES,
            span=16,
        )
    )
    made.with_panel(lines(
        "Nodes on their way back", {"nodes": newest("trainingrun_nodes_unreleased")}, "Nodes on their way back to the pool that have not arrived.", span=8, height=6,
    ))  # fmt: skip
