"""Adapters of workload kinds, one per module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainingrun_operator.edge.workloads.job import JobAdapter

if TYPE_CHECKING:
    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.edge.ports import Jobs
    from trainingrun_operator.edge.workloads.adapter import WorkloadAdapter


class Workloads:
    """Selects the adapter for a run."""

    def __init__(self, kube: Jobs) -> None:
        self._job = JobAdapter(kube)

    def of(self, run: Run) -> WorkloadAdapter:  # noqa: ARG002 - every run has a Job
        """Return the adapter of the run's workload."""
        return self._job
