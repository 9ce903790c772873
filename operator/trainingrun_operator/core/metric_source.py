"""The metric source of a run: what its spec names, else what was recorded for it, else what a new run gets.

Only the spec and the recorded choice decide. When an object was created, replaced or stored says nothing: the API server adds no default, and earlier
releases had another one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainingrun_operator.api.run import Metrics
from trainingrun_operator.core.facts.reading import AUTO, FILES, LOGS, PROMETHEUS, PUSH

if TYPE_CHECKING:
    from trainingrun_operator.api.run import MetricNames
    from trainingrun_operator.api.status import Effective, TrainingRunStatus
    from trainingrun_operator.core.facts.run import Run

BUILT_IN: Final = frozenset({PROMETHEUS, PUSH, FILES, LOGS, AUTO})
_DEFAULT: Final = Metrics()


def of(run: Run) -> str:
    """Return the metric source of a run; `AUTO`, also if that has taken another one (`taken`)."""
    return named(run.spec.metrics, run.status.effective, is_known=is_known(run.status))


def taken(run: Run) -> str:
    """Return the source that is read; `AUTO` as long as it has taken none."""
    source, known = of(run), run.status.effective
    return known.metrics_source if source == AUTO and known is not None and has_choice(known) else source


def named(metrics: Metrics, recorded: Effective | None, *, is_known: bool) -> str:
    """Return the metric source of a run.

    Args:
        metrics: of its spec.
        recorded: `status.effective`.
        is_known: whether an operator has observed the run before.
    """
    if metrics.source is not None:
        return metrics.source
    if recorded is not None and has_choice(recorded):
        return AUTO
    if recorded is not None and recorded.metrics_source in BUILT_IN - {AUTO}:
        return recorded.metrics_source
    if names_page(metrics) or (recorded is None and is_known):
        return PROMETHEUS
    return AUTO


def is_known(status: TrainingRunStatus) -> bool:
    """Whether an operator has observed the run before. What is written with a decision, as its nodes, is no observation."""
    return status.phase is not None


def has_choice(recorded: Effective) -> bool:
    """Whether the recorded source is one that `AUTO` has taken."""
    return bool(recorded.metrics_source_note)


def is_unasked(run: Run, source: str) -> bool:
    """Whether the numbers come from elsewhere than a page although the spec names no source: then no default threshold ends the run by them.

    Args:
        run: as stored.
        source: of the newest reading; empty: not known, so the recorded one counts.
    """
    return run.spec.metrics.source is None and (source or taken(run)) in BUILT_IN - {AUTO, PROMETHEUS}


def names_page(metrics: Metrics) -> bool:
    """Whether the spec says where on a metrics page the numbers are, by anything that is no default."""
    return _page(metrics) != _page(_DEFAULT)


def _page(metrics: Metrics) -> tuple[int, str, MetricNames]:
    return metrics.port, metrics.path, metrics.names
