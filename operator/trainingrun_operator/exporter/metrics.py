"""Every metric that is exported: name, type, labels and help, each said once. The page, the reference in the docs and the tests read it here."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

Kind = Literal["gauge", "counter", "histogram"]


class Metric(NamedTuple):
    """One family of series."""

    name: str
    """As it stands on the page; a counter's ends in ``_total``."""
    kind: Kind
    labels: tuple[str, ...]
    help: str
    """One line: what is counted or measured, and when the series is absent."""


RUN_LABELS: Final = ("namespace", "name")


def _of_run(name: str, text: str, *more: str) -> Metric:
    return Metric(name, "gauge", (*RUN_LABELS, *more), text)


RUN_METRICS: Final = (
    _of_run("trainingrun_info", "A run that the operator knows; always 1."),
    _of_run("trainingrun_status_phase", "The run's phase; only the current one is present, as 1.", "phase"),
    _of_run("trainingrun_loss", "The newest loss; NaN while the training reports one that is not finite."),
    _of_run("trainingrun_loss_best", "The lowest loss seen."),
    _of_run(
        "trainingrun_auto_stop_loss",
        "The loss below which the run ends by itself; absent where that is off, and once the run ends or is suspended.",
    ),
    _of_run("trainingrun_step", "The newest step."),
    _of_run("trainingrun_epoch", "The newest epoch."),
    _of_run("trainingrun_progress_ratio", "Share of all epochs that is done, 0 to 1."),
    _of_run(
        "trainingrun_eta_seconds",
        "Estimated seconds to the end of the last epoch; absent once the run ends or is suspended.",
    ),
    _of_run(
        "trainingrun_stall_polls",
        "Polls without a step in the final epoch; absent before it, and once the run ends or is suspended.",
    ),
    _of_run(
        "trainingrun_stall_polls_limit",
        "How many polls without a step in the final epoch complete the run; absent before it, and once the run ends or is suspended.",
    ),
    _of_run(
        "trainingrun_metrics_available",
        "1 while a fresh, finite loss is read from the training, 0 while it is not; absent while none runs.",
    ),
    _of_run(
        "trainingrun_last_metric_timestamp_seconds",
        "When the step was last seen to advance; absent once the run ends or is suspended.",
    ),
    _of_run("trainingrun_start_time_seconds", "When the training started."),
    _of_run("trainingrun_completion_time_seconds", "When the run was over, node released."),
    _of_run("trainingrun_gpus", "GPUs that the run's pods hold; absent while they hold none."),
    _of_run(
        "trainingrun_termination_phase",
        "The phase of the run's stop, or of its suspension; only the current one is present, as 1.",
        "phase",
    ),
    _of_run(
        "trainingrun_termination_status",
        "Why the run ends or has ended, from the decision on; suspended while it is, or is being, suspended. Only what holds is present, as 1.",
        "status",
    ),
    _of_run(
        "trainingrun_termination_requested_timestamp_seconds",
        "When it was decided that the run ends, or is suspended.",
    ),
    _of_run(
        "trainingrun_checkpoint_last_verified_timestamp_seconds",
        "When a new checkpoint was last read back from the bucket and matched.",
    ),
    _of_run("trainingrun_checkpoint_generation", "Generation of the newest verified checkpoint."),
    _of_run("trainingrun_checkpoint_bytes", "Size of the newest verified checkpoint."),
    _of_run("trainingrun_checkpoint_lag_bytes", "In the volume and not in the bucket."),
    _of_run(
        "trainingrun_checkpoint_lag_seconds",
        "For how long a whole checkpoint has lain in the volume without being in the bucket; 0 while the newest is there.",
    ),
    _of_run(
        "trainingrun_checkpoint_upload_failing_seconds",
        "For how long the agent has been unable to read the volume or to write to the bucket; absent while it works.",
    ),
    _of_run(
        "trainingrun_checkpoint_held",
        "1 while the pod is kept because its checkpoint cannot be proven; absent before a stop or a suspension.",
    ),
    _of_run("trainingrun_checkpoint_data_loss", "1 if something that the run had written was lost; else absent."),
    _of_run(
        "trainingrun_nodes_unreleased",
        "Nodes on their way back to the pool that have not arrived; absent before a stop or a suspension.",
    ),
    _of_run(
        "trainingrun_nodes_overdue",
        "Nodes that were to go longer ago than their pool's alertAfterSeconds and are still there; absent if none is.",
    ),
    _of_run(
        "trainingrun_ghost_instances",
        "Machines of the run that still run, and are billed, although their Node is gone and they were told to go; absent if none does.",
        "pool",
    ),
)
"""Of one run; its series go with it."""

TERMINATIONS: Final = Metric("trainingrun_terminations_total", "counter", ("status",), "Runs that ended, by why.")
DATA_LOSSES: Final = Metric(
    "trainingrun_data_losses_total",
    "counter",
    (),
    "Runs that ended, or were suspended, without all that they had written.",
)
GPU_SECONDS: Final = Metric(
    "trainingrun_gpu_seconds_total",
    "counter",
    (),
    "GPU seconds that the pods of runs have held, counted as they pass.",
)
GPU_SECONDS_SAVED: Final = Metric(
    "trainingrun_gpu_seconds_saved_total",
    "counter",
    ("status",),
    "GPU seconds that runs ended by a rule or by a person would still have taken, by their own estimate when the stop was decided.",
)
NODE_RELEASE: Final = Metric(
    "trainingrun_node_release_seconds",
    "histogram",
    ("pool",),
    "From the end of a run's pods until a node's machine and Node were both gone.",
)
UPLOAD_DURATION: Final = Metric(
    "trainingrun_checkpoint_upload_duration_seconds",
    "histogram",
    (),
    "How long the agents took to upload and commit one generation, as they report it.",
)
UPLOAD_BYTES: Final = Metric(
    "trainingrun_checkpoint_upload_bytes_total",
    "counter",
    (),
    "Sent to buckets by the agents in generations that were committed, as they report it.",
)
UPLOAD_FAILURES: Final = Metric(
    "trainingrun_checkpoint_upload_failures_total",
    "counter",
    (),
    "Tries of the agents to upload or commit that failed, as they report it; each is tried again.",
)
POLL_ERRORS: Final = Metric(
    "trainingrun_poll_errors_total",
    "counter",
    ("source", "reason"),
    "Readings that failed, by source (metrics, agent, store) and reason.",
)
API_CALLS: Final = Metric(
    "trainingrun_api_calls_total",
    "counter",
    ("api",),
    "Requests that the operator made, by whom it asked: kubernetes (its watches aside), s3, cloud, agent, metrics.",
)
LATENESS: Final = Metric(
    "trainingrun_scheduler_lateness_seconds", "histogram", (), "How much later than due a run was looked at."
)
RECONCILE: Final = Metric(
    "trainingrun_reconcile_duration_seconds",
    "histogram",
    (),
    "How long one look at a run took, effects included.",
)
RECONCILE_ERRORS: Final = Metric(
    "trainingrun_reconcile_errors_total", "counter", (), "Looks at a run that ended in an error."
)
NOTIFICATIONS: Final = Metric(
    "trainingrun_notifications_total",
    "counter",
    ("result",),
    "Tries to tell the webhook of an event, by what came of it: sent; failed, and tried again; dropped, and given up.",
)
LEADER: Final = Metric(
    "trainingrun_leader",
    "gauge",
    (),
    "1 while this replica looks at the runs, 0 while another does. Only the one with 1 has series of runs.",
)
BUILD_INFO: Final = Metric("trainingrun_build_info", "gauge", ("version",), "The operator's version; always 1.")

OPERATOR_METRICS: Final = (
    TERMINATIONS,
    DATA_LOSSES,
    GPU_SECONDS,
    GPU_SECONDS_SAVED,
    NODE_RELEASE,
    UPLOAD_DURATION,
    UPLOAD_BYTES,
    UPLOAD_FAILURES,
    POLL_ERRORS,
    API_CALLS,
    LATENESS,
    RECONCILE,
    RECONCILE_ERRORS,
    NOTIFICATIONS,
    LEADER,
    BUILD_INFO,
)
"""Of the operator's own work."""


def catalogue() -> tuple[Metric, ...]:
    """All of them, in the order of the page."""
    return (*RUN_METRICS, *OPERATOR_METRICS)
