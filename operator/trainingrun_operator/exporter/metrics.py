"""Catalogue of exported metrics: name, type, labels, help. The page, the reference docs and the tests read it."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

Kind = Literal["gauge", "counter", "histogram"]


class Metric(NamedTuple):
    """A metric family."""

    name: str
    """The exposed name; a counter's name ends in ``_total``."""
    kind: Kind
    labels: tuple[str, ...]
    help: str
    """One line: what the metric counts or measures, and when its series is absent."""


RUN_LABELS: Final = ("namespace", "name")


def _of_run(name: str, text: str, *more: str) -> Metric:
    return Metric(name, "gauge", (*RUN_LABELS, *more), text)


RUN_METRICS: Final = (
    _of_run("trainingrun_info", "A run known to the operator; always 1."),
    _of_run("trainingrun_status_phase", "Phase of the run; only the current phase is present, with value 1.", "phase"),
    _of_run("trainingrun_loss", "Latest loss; NaN while the training reports a non-finite loss."),
    _of_run("trainingrun_loss_best", "Lowest observed loss."),
    _of_run(
        "trainingrun_auto_stop_loss",
        "Loss threshold of autoStopLoss; absent if the rule is off, and after the run ends or is suspended.",
    ),
    _of_run("trainingrun_step", "Latest step."),
    _of_run("trainingrun_epoch", "Latest epoch."),
    _of_run("trainingrun_progress_ratio", "Completed share of all epochs, 0 to 1."),
    _of_run(
        "trainingrun_eta_seconds",
        "Estimated seconds to the end of the last epoch; absent after the run ends or is suspended.",
    ),
    _of_run(
        "trainingrun_stall_polls",
        "Polls without a new step in the final epoch; absent before the final epoch, and after the run ends or is suspended.",
    ),
    _of_run(
        "trainingrun_stall_polls_limit",
        "Polls without a new step in the final epoch that complete the run; absent before the final epoch, and after the run ends or is suspended.",
    ),
    _of_run(
        "trainingrun_metrics_available",
        "1 while the training exports a fresh, finite loss, else 0; absent while no training runs.",
    ),
    _of_run(
        "trainingrun_finding",
        "1 if the rule's condition holds, else 0, by the reason of the finding in status.findings; only present reasons. Absent once an end is decided.",
        "reason",
    ),
    _of_run(
        "trainingrun_last_metric_timestamp_seconds",
        "When the step last advanced; absent after the run ends or is suspended.",
    ),
    _of_run(
        "trainingrun_hung_since_timestamp_seconds",
        "Since when nothing of the training has moved; only while it counts as hung (hangDetection).",
    ),
    _of_run(
        "trainingrun_idle_since_timestamp_seconds",
        "Since when all GPUs of the training have been idle; only while it counts as idle (idleDetection).",
    ),
    _of_run(
        "trainingrun_budget_used_ratio",
        "Used share of spec.budget, of GPU hours or cost, whichever is larger; absent without one, and after the run ends or is suspended.",
    ),
    _of_run(
        "trainingrun_cost",
        "What the training has cost so far, as far as the prices of its GPUNodePools are known, in this currency; absent without a price.",
        "currency",
    ),
    _of_run("trainingrun_start_time_seconds", "When the training started."),
    _of_run("trainingrun_completion_time_seconds", "When the run was finished and its node released."),
    _of_run("trainingrun_gpus", "GPUs held by the run's pods; absent while they hold none."),
    _of_run(
        "trainingrun_termination_phase",
        "Phase of the run's stop or suspension; only the current phase is present, with value 1.",
        "phase",
    ),
    _of_run(
        "trainingrun_termination_status",
        "terminationStatus of the run, set when the end is decided; suspended during a suspension. Only the current status is present, with value 1.",
        "status",
    ),
    _of_run(
        "trainingrun_termination_requested_timestamp_seconds",
        "When the end or suspension of the run was decided.",
    ),
    _of_run(
        "trainingrun_checkpoint_last_verified_timestamp_seconds",
        "When a new checkpoint was last verified by reading it back from the bucket.",
    ),
    _of_run("trainingrun_checkpoint_generation", "Generation of the latest verified checkpoint."),
    _of_run("trainingrun_checkpoint_bytes", "Size of the latest verified checkpoint."),
    _of_run("trainingrun_checkpoint_lag_bytes", "Checkpoint bytes in the volume that are not in the bucket."),
    _of_run(
        "trainingrun_checkpoint_lag_seconds",
        "How long a complete checkpoint in the volume has been missing from the bucket; 0 while the latest one is there.",
    ),
    _of_run(
        "trainingrun_checkpoint_upload_failing_seconds",
        "How long the agent has failed to read the volume or write to the bucket; absent while it succeeds.",
    ),
    _of_run(
        "trainingrun_checkpoint_held",
        "1 while the pod is held because its checkpoint is not proven; absent before a stop or suspension.",
    ),
    _of_run(
        "trainingrun_checkpoint_data_loss",
        "1 if data written by the run was lost; else absent. After a suspension, until a newer checkpoint is proven.",
    ),
    _of_run(
        "trainingrun_nodes_unreleased",
        "Nodes whose release is not complete; absent before a stop or suspension.",
    ),
    _of_run(
        "trainingrun_nodes_overdue",
        "Nodes not released within their pool's alertAfterSeconds; absent if there are none.",
    ),
    _of_run(
        "trainingrun_ghost_instances",
        "Machines of the run that still run and are billed although their Node is gone and their release was requested; absent if there are none.",
        "pool",
    ),
)
"""Metrics of one run; its series are removed with the run."""

TERMINATIONS: Final = Metric(
    "trainingrun_terminations_total", "counter", ("status",), "Ended runs, by terminationStatus."
)
DATA_LOSSES: Final = Metric(
    "trainingrun_data_losses_total",
    "counter",
    (),
    "Runs that ended or were suspended with data loss.",
)
GPU_SECONDS: Final = Metric(
    "trainingrun_gpu_seconds_total",
    "counter",
    (),
    "GPU seconds held by the pods of runs, counted continuously.",
)
GPU_SECONDS_SAVED: Final = Metric(
    "trainingrun_gpu_seconds_saved_total",
    "counter",
    ("status",),
    "Remaining GPU seconds of runs ended by a rule or a person, from the run's estimate when the stop was decided.",
)
NODE_RELEASE: Final = Metric(
    "trainingrun_node_release_seconds",
    "histogram",
    ("pool",),
    "Time from the end of a run's pods until the node's machine and Node are both gone.",
)
UPLOAD_DURATION: Final = Metric(
    "trainingrun_checkpoint_upload_duration_seconds",
    "histogram",
    (),
    "Time to upload and commit one generation, as reported by the agents.",
)
UPLOAD_BYTES: Final = Metric(
    "trainingrun_checkpoint_upload_bytes_total",
    "counter",
    (),
    "Bytes uploaded in committed generations, as reported by the agents.",
)
UPLOAD_FAILURES: Final = Metric(
    "trainingrun_checkpoint_upload_failures_total",
    "counter",
    (),
    "Failed attempts to upload or commit, as reported by the agents; each is retried.",
)
POLL_ERRORS: Final = Metric(
    "trainingrun_poll_errors_total",
    "counter",
    ("source", "reason"),
    "Failed reads, by source (metrics, agent, store) and reason.",
)
API_CALLS: Final = Metric(
    "trainingrun_api_calls_total",
    "counter",
    ("api",),
    "Requests sent by the operator, by target: kubernetes (watches excluded), s3, cloud, agent, metrics.",
)
LATENESS: Final = Metric(
    "trainingrun_scheduler_lateness_seconds",
    "histogram",
    (),
    "Delay between the due time and the start of a reconciliation.",
)
RECONCILE: Final = Metric(
    "trainingrun_reconcile_duration_seconds",
    "histogram",
    (),
    "Duration of one reconciliation of a run, effects included.",
)
RECONCILE_ERRORS: Final = Metric(
    "trainingrun_reconcile_errors_total", "counter", (), "Reconciliations that ended in an error."
)
NOTIFICATIONS: Final = Metric(
    "trainingrun_notifications_total",
    "counter",
    ("result",),
    "Attempts to deliver an event to the webhook, by result: sent; failed (retried); dropped (not retried).",
)
LEADER: Final = Metric(
    "trainingrun_leader",
    "gauge",
    (),
    "1 while this replica is the leader, else 0. Only the leader exports run series.",
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
"""Metrics of the operator itself."""


def catalogue() -> tuple[Metric, ...]:
    """All metrics, in the order of the page."""
    return (*RUN_METRICS, *OPERATOR_METRICS)
