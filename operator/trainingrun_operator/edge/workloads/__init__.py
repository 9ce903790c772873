"""Kinds of workload: how each is read, and what starts, suspends, resumes and ends it. One adapter per module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainingrun_operator.edge.workloads.job import JobAdapter

if TYPE_CHECKING:
    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.edge.ports import Jobs
    from trainingrun_operator.edge.workloads.adapter import WorkloadAdapter


class Workloads:
    """The adapters, by what a run's spec says."""

    def __init__(self, kube: Jobs) -> None:
        self._job = JobAdapter(kube)

    def of(self, run: Run) -> WorkloadAdapter:  # noqa: ARG002 - every run has a template, which makes a Job
        """Return the adapter of the run's workload."""
        return self._job
