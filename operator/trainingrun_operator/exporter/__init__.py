"""What Prometheus reads: one set of series per run, and counters of the operator's own work.

A run's series carry its namespace and name only and vanish with it; no uid, step, message or address is ever a label.
"""

from __future__ import annotations

from trainingrun_operator.exporter.metrics import Metric, catalogue
from trainingrun_operator.exporter.series import Measured, RunSeries, series_of
from trainingrun_operator.exporter.serve import metrics_handler, serve
from trainingrun_operator.exporter.telemetry import Telemetry

__all__ = ["Measured", "Metric", "RunSeries", "Telemetry", "catalogue", "metrics_handler", "series_of", "serve"]
