"""The run series of the metrics page, rendered per run when the run is observed; a scrape only joins them.

Rendering ten thousand runs at every scrape keeps a core busy for seconds. The format requires all lines of a metric in one
block, so lines are stored by metric, then by run.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from trainingrun_operator.exporter.metrics import RUN_METRICS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainingrun_operator.exporter.metrics import Metric
    from trainingrun_operator.exporter.series import RunSeries

_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
_EXACT: Final = 2**53


class RunPage:
    """The exported lines of all runs. Written by the event loop, read by any thread."""

    def __init__(self) -> None:
        self._lines: dict[str, dict[str, bytes]] = {metric.name: {} for metric in RUN_METRICS}
        """By metric name, then by run UID."""

    def __len__(self) -> int:
        """Number of exported runs."""
        return len(set[str]().union(*self._lines.values()))

    def __contains__(self, uid: object) -> bool:
        """Whether this run is exported."""
        return any(uid in lines for lines in self._lines.values())

    def put(self, uid: str, series: RunSeries) -> None:
        """Replace the exported series of a run; series absent from `series` are removed."""
        rendered = dict(_rendered(series))
        for metric, lines in self._lines.items():
            if metric in rendered:
                lines[uid] = rendered[metric]
            else:
                lines.pop(uid, None)

    def forget(self, uid: str) -> None:
        """Remove all series of a run."""
        for lines in self._lines.values():
            lines.pop(uid, None)

    def clear(self) -> None:
        """Remove all series of all runs."""
        for lines in self._lines.values():
            lines.clear()

    def chunks(self) -> Iterator[bytes]:
        """The page, metric by metric."""
        for metric in RUN_METRICS:
            # One C call per metric: a writing thread cannot interrupt it.
            yield _head(metric) + b"".join(self._lines[metric.name].values())


def _head(metric: Metric) -> bytes:
    return f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.kind}\n".encode()


def _rendered(series: RunSeries) -> Iterator[tuple[str, bytes]]:
    run = f'{{namespace="{_escaped(series.namespace)}",name="{_escaped(series.name)}"'
    for metric, value in series.gauges.items():
        yield metric, f"{metric}{run}}} {_number(value)}\n".encode()
    for metric, by_label in series.labelled.items():
        label = _THIRD[metric]
        lines = (f'{metric}{run},{label}="{_escaped(text)}"}} {_number(value)}\n' for text, value in by_label.items())
        if by_label:
            yield metric, "".join(lines).encode()


_THIRD: Final = {metric.name: metric.labels[2] for metric in RUN_METRICS if len(metric.labels) > 2}  # noqa: PLR2004 - a run's two, and one more


def _escaped(text: str) -> str:
    return text.translate(_ESCAPES)


def _number(value: float) -> str:
    """Format whole numbers without a decimal point: a page of ten thousand runs is a tenth shorter."""
    if math.isfinite(value):
        return str(int(value)) if value == int(value) and abs(value) < _EXACT else repr(value)
    return "NaN" if math.isnan(value) else f"{'+' if value > 0 else '-'}Inf"
