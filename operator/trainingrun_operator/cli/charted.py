"""What `plot` draws: the points of one value of a run, its threshold and end, and a caption."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainingrun_operator.api.rules import Action
from trainingrun_operator.cli import words
from trainingrun_operator.cli.draw import Plot
from trainingrun_operator.cli.trouble import Exit, TroubleError
from trainingrun_operator.core.facts.reading import LOSS
from trainingrun_operator.core.value_curves import threshold_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainingrun_operator.api.curve import Curve
    from trainingrun_operator.core.facts.run import Run


@dataclass(frozen=True)
class Chart:
    """A plot and what it shows."""

    name: str
    """The value."""
    caption: str
    plot: Plot


def chart(run: Run, curve: Curve, value: str) -> Chart:
    """Return the chart of a value; ``loss`` and its names in the spec are the loss.

    Raises:
        TroubleError: there is no curve of it.
    """
    name = LOSS if value in run.spec.metrics.names.loss else value
    points = _points(curve, name)
    if not points:
        raise TroubleError(_missing(run, curve, name), Exit.NO_SUCH_RUN)
    threshold, kind = _threshold(run, name)
    said = [_caption(run, name, points)]
    if threshold is not None:
        said.append(f"threshold {threshold:g}{kind}")
    stop = run.status.termination
    if stop is not None:
        said.append(stop.status)
    decided = [one.step for one in stop.evidence if one.step is not None] if stop is not None else []
    return Chart(
        name,
        ", ".join(said),
        Plot(
            [(float(step), number) for step, number in points],
            threshold,
            stop=float(decided[-1]) if decided else None,
        ),
    )


def _points(curve: Curve, name: str) -> list[tuple[int, float]]:
    if name == LOSS:
        return [(point.step, point.loss) for point in curve.points]
    return [(point.step, point.value) for one in curve.values if one.name == name for point in one.points]


def _caption(run: Run, name: str, points: Sequence[tuple[int, float]]) -> str:
    last = points[-1]
    lowest, highest = (extreme(points, key=lambda point: point[1]) for extreme in (min, max))
    low = f"lowest {lowest[1]:.4g} at step {lowest[0]}"
    said = f"{run.name}: {name} {last[1]:.4g} at step {last[0]}"
    if name == LOSS:
        return f"{said}, {'the lowest so far' if lowest is last else low}"
    return f"{said}, {low}, highest {highest[1]:.4g} at step {highest[0]}"


def _threshold(run: Run, name: str) -> tuple[float | None, str]:
    """Return the threshold of a value, and what kind it is."""
    force = run.status.effective
    if name == LOSS and force is not None and force.auto_stop_loss is not None:
        return force.auto_stop_loss, " (shadow mode)" if force.auto_stop_action != "Stop" else ""
    rule = threshold_of(run.spec, name)
    if rule is None or rule.threshold is None:
        return None, ""
    return rule.threshold.value, f" ({rule.called}{', shadow mode' if rule.action is Action.SHADOW else ''})"


def _missing(run: Run, curve: Curve, name: str) -> str:
    known = [*([LOSS] if curve.points else []), *(one.name for one in curve.values if one.points)]
    if known:
        return (
            f"{run.name} has no curve of {name!r}, but of: {', '.join(known)}. A value has one once it was read; of many values only some are kept, first"
            f" those of spec.stopRules. See what is read: {words.explain(run.name)}"
        )
    if run.status.progress is None:
        return f"{run.name} has no loss curve: no loss was read yet. See why: {words.explain(run.name)}"
    return f"{run.name} has no loss curve: its ConfigMap does not exist."
