"""The command `simulate`: when each rule would have ended a recorded training, by the operator's own rules and without a cluster."""

from __future__ import annotations

import json
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
import yaml
from pydantic import ValidationError
from rich.text import Text

from trainingrun_operator.api.run import TrainingRunSpec
from trainingrun_operator.api.status import TrainingRunStatus
from trainingrun_operator.cli import words
from trainingrun_operator.cli.draw import Plot, plot
from trainingrun_operator.cli.recorded import UnreadableError, rows_of
from trainingrun_operator.cli.screen import Column, Screen, note
from trainingrun_operator.cli.trouble import Exit, TroubleError
from trainingrun_operator.core import limits, simulation
from trainingrun_operator.core.defaults import Defaults
from trainingrun_operator.core.facts.reading import LOSS
from trainingrun_operator.core.facts.run import Run
from trainingrun_operator.core.rules import loss
from trainingrun_operator.core.words import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trainingrun_operator.core.simulation import Fired, Row, Simulated

COLUMNS: Final = (
    Column("RULE"),
    Column("ACTION"),
    Column("METRIC", drop=2),
    Column("STEP"),
    Column("VALUE"),
    Column("SAVES", drop=1),
)
_NOT_FINITE: Final = {"inf": "Infinity", "-inf": "-Infinity"}


@click.command(short_help="Show when each rule would have ended a recorded training.")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--rules",
    metavar="YAML",
    type=click.Path(path_type=Path),
    help="A TrainingRun, or only fields of its spec: stopRules, autoStopLoss, metrics.names, …",
)
@click.option("--height", type=click.IntRange(4, 60), default=12, show_default=True, help="Lines of the plot.")
@click.option("-o", "--output", type=click.Choice(["json"]), help="json: the decision and every rule, for programs.")
def simulate(file: Path, rules: Path | None, height: int, output: str | None) -> None:
    """Show when each rule would have ended the training that FILE has recorded, and what that would have saved.

    FILE is JSON lines, CSV, a trainer_state.json, TensorBoard's events, or a log. Each row of the first two has a step and values by name; it may have time (seconds; each row is then one poll),
    epoch, totalEpochs, and checkpointStep, the newest complete checkpoint. Needs no cluster. Exit code 0 whether or not a rule fires.
    """
    run = _run(_spec(rules))
    try:
        rows = rows_of(file, run.spec.metrics.names, run.spec.metrics.logs.patterns)
    except UnreadableError as error:
        raise TroubleError(str(error), Exit.USAGE) from error
    found = simulation.simulate(run, rows, Defaults())
    if output == "json":
        click.echo(json.dumps(_document(run, found), indent=2, allow_nan=False))
        return
    _show(run, rows, found, height)


# -- the rules file -----------------------------------------------------------------------------------------------


def _spec(path: Path | None) -> dict[str, Any]:
    """Read the fields of the spec."""
    if path is None:
        return {}
    try:
        written = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise TroubleError(f"{path} cannot be read: {error.strerror}.", Exit.USAGE) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        where = str(error).replace("\n", " ")[:200]
        raise TroubleError(f"{path} is no YAML: {where}.", Exit.USAGE) from error
    if written is None:
        return {}
    if isinstance(written, dict) and isinstance(written.get("spec"), dict):
        written = written["spec"]
    if not isinstance(written, dict):
        raise TroubleError(f"{path} has no fields: write a TrainingRun, or fields of its spec.", Exit.USAGE)
    return {str(key): value for key, value in written.items()}


def _run(written: Mapping[str, Any]) -> Run:
    """Return a run with these fields, and those that every run needs."""
    needed = {
        "template": {"spec": {"containers": [{"name": "train", "image": "none"}]}},
        "checkpoint": {"destination": "s3://bucket/runs"},
    }
    try:
        spec = TrainingRunSpec.parse_strict({**needed, **written})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in ("spec", *first["loc"]))
        raise TroubleError(f"The rules: {field} is {first['input']!r:.100}: {first['msg']}.", Exit.USAGE) from error
    if (problem := limits.complaint(spec)) is not None:
        raise TroubleError(f"The rules contradict each other: {problem.message}", Exit.USAGE)
    return Run("default", "simulated", "simulated", "1", 1, spec, TrainingRunStatus())


# -- output -------------------------------------------------------------------------------------------------------


def _document(run: Run, found: Simulated) -> dict[str, Any]:
    ended = found.decision
    decision = None
    if ended is not None:
        decision = {
            "terminationStatus": ended.status,
            "step": ended.step,
            "value": _plain(ended.value),
            "message": ended.message,
        }
    rules = [
        {
            "name": name,
            "action": action,
            "step": fired.step if fired is not None else None,
            "value": _plain(fired.value) if fired is not None else None,
        }
        for name, action, _, fired in _by_rule(run, found)
    ]
    return {"observations": found.rows, "decision": decision, "rules": rules}


def _plain(value: float | str | None) -> float | str | None:
    """Return a value for JSON, which has no NaN."""
    if isinstance(value, float) and not isfinite(value):
        return _NOT_FINITE.get(str(value), "NaN")
    return value


def _by_rule(run: Run, found: Simulated) -> list[tuple[str, str, str, Fired | None]]:
    """Return name, action, metric and first time of each rule: those of the spec, the loss threshold, and what else fired."""
    fired = {one.rule: one for one in found.fired}
    force = loss.effective(run.spec, None, Defaults())
    told = [(rule.called, rule.action.value, rule.metric, fired.pop(rule.called, None)) for rule in run.spec.stop_rules]
    if force.auto_stop_action != loss.OFF:
        told.insert(0, (loss.RULE, force.auto_stop_action, LOSS, fired.pop(loss.RULE, None)))
    return [*told, *((one.rule, loss.STOP, "", one) for one in fired.values())]


def _show(run: Run, rows: Sequence[Row], found: Simulated, height: int) -> None:
    screen = Screen()
    table = [
        [name, action, metric, _step(fired), _value(fired), _saves(rows, fired)]
        for name, action, metric, fired in _by_rule(run, found)
    ]
    ended = found.decision
    screen.say(f"{ended.status}: {ended.message}" if ended is not None else "No rule ends the run.", "bold")
    screen.table(COLUMNS, table)
    metric = _drawn(run, found)
    points = [(row.step, row.values[metric]) for row in rows if row.step is not None and metric in row.values]
    curve = Plot(points, stop=float(ended.step) if ended is not None and ended.step is not None else None)
    for line in plot(curve, screen.width, height, plain=screen.plain):
        screen.raw(Text(line))
    lacking = [rule for rule in run.spec.stop_rules if not any(rule.metric in row.values for row in rows)]
    for rule in lacking:
        has = ", ".join(sorted({name for row in rows for name in row.values})[:8])
        note(f"The rule {rule.called} looks at {rule.metric}, which no row has. The rows have {has}.")


def _drawn(run: Run, found: Simulated) -> str:
    """Return the metric that is drawn: that of the rule that decides, else the loss."""
    decided = found.decision.rule if found.decision is not None else ""
    return next((rule.metric for rule in run.spec.stop_rules if rule.called == decided), LOSS)


def _step(fired: Fired | None) -> str:
    return "-" if fired is None or fired.step is None else str(fired.step)


def _value(fired: Fired | None) -> str:
    if fired is None or fired.value is None:
        return "-"
    return fired.value if isinstance(fired.value, str) else shown(fired.value)


def _saves(rows: Sequence[Row], fired: Fired | None) -> str:
    """Return what comes after a rule has fired: a share of all steps, and the time."""
    if fired is None:
        return ""
    steps = [row.step for row in rows if row.step is not None]
    most, times = max(steps), [row.time for row in rows if row.time is not None]
    share = f"{max(0, round((1 - (fired.step or 0) / most) * 100))}% of the steps" if most > 0 else ""
    left = max(0.0, times[-1] - times[0] - (fired.trained_seconds or 0)) if times else 0
    return ", ".join(filter(None, (share, words.duration(left) if times else "")))
