"""Rules for a training that is complete although it still runs: marker file, final step, outputs in the bucket, line of the log, final-epoch stall.

The order is the order of trust: the marker that the training wrote, the step and the outputs that a person named, the line that the training printed, then the stall. An inferred completion ends the run after it has held for
``completion.settleSeconds``, so that the last writes finish. Exit codes, which are trusted most, have a module of their own: `exits`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainingrun_operator.api import endings
from trainingrun_operator.api.status import Evidence
from trainingrun_operator.core.bounds import TEXT_MAX, clipped
from trainingrun_operator.core.rules import final_step as final_steps
from trainingrun_operator.core.rules import log_line as lines
from trainingrun_operator.core.rules import outputs as wanted
from trainingrun_operator.core.rules import stall
from trainingrun_operator.core.rules.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainingrun_operator.core.observed import Observed


def marker(seen: Observed) -> Finding | None:
    """The training still runs and has written its marker. Applies while it runs and markers are configured."""
    if not seen.runs:
        return None
    if (written := _written_marker(seen)) is not None:
        return _settled(seen, written)
    names, path = ", ".join(seen.run.spec.completion.marker_files), seen.run.spec.checkpoint.path
    if not names:
        return None
    if seen.reports is None:
        return Finding("marker", "NoReport", "The agent in the pod does not answer: markers cannot be read.")
    return Finding("marker", "NotWritten", f"There is no marker under {path} ({names}: completion.markerFiles).")


def final_step(seen: Observed) -> Finding | None:
    """The training still runs and has come to its final step. Applies while it runs, if a final step is named and no marker is written."""
    return _applied(seen, _at_final_step)


def outputs(seen: Observed) -> Finding | None:
    """The training still runs and has written its outputs. Applies while it runs, if outputs are named and no marker is written."""
    return _applied(seen, _with_outputs)


def log_line(seen: Observed) -> Finding | None:
    """Rank 0 still runs and has printed a line that says that it is complete. Applies while it runs, if patterns are named and no marker is written.

    A training that has exited is judged by its exit code, whatever it has printed.
    """
    return _applied(seen, _with_line)


def final_epoch_stall(seen: Observed) -> Finding | None:
    """The step does not advance in the final epoch, with guards against a slow step or a long evaluation.

    Does not apply while no training runs, or once the marker is written, which is better evidence.
    """
    return _applied(seen, _in_stall)


def inferred(seen: Observed) -> Finding | None:
    """Return the completion inferred now, held long enough or not; its actor identifies it. None: none is inferred."""
    if not seen.runs or seen.reports is None:
        return None
    found = (judge(seen) for judge in (_written_marker, _at_final_step, _with_outputs, _with_line, _in_stall))
    return next((one for one in found if one is not None and one.fires), None)


def _applied(seen: Observed, judge: Callable[[Observed], Finding | None]) -> Finding | None:
    """Return the finding of a rule that applies while the training runs and has written no marker, which is better evidence."""
    if not seen.runs or _written_marker(seen) is not None:
        return None
    found = judge(seen)
    return _settled(seen, found) if found is not None and found.fires else found


def _at_final_step(seen: Observed) -> Finding | None:
    final = seen.run.spec.completion.final_step
    return None if final is None else final_steps.missing(seen, final) or final_steps.reached(seen, final)


def _with_outputs(seen: Observed) -> Finding | None:
    return None if not seen.run.spec.completion.outputs else wanted.missing(seen) or wanted.written(seen)


def _with_line(seen: Observed) -> Finding | None:
    return lines.found(seen) if seen.run.spec.completion.log_patterns and seen.ranks[0].runs else None


def _in_stall(seen: Observed) -> Finding | None:
    return stall.missing(seen) or stall.stalled(seen)


def _settled(seen: Observed, concluded: Finding) -> Finding:
    """Return the inferred completion once it has held for `completion.settleSeconds`; before that, a finding that waits."""
    held, hold_seconds = seen.candidate_seconds, seen.run.spec.completion.settle_seconds
    if held is not None and held >= hold_seconds:
        return concluded
    message = f"{concluded.message} It ends the run after {hold_seconds} s (completion.settleSeconds); so far {held or 0:.0f} s."
    return Finding(concluded.rule, "Settling", message)


def _written_marker(seen: Observed) -> Finding | None:
    if (name := marker_of(seen)) is None:
        return None
    return Finding(
        "marker",
        "Written",
        f"Training wrote the completion marker {name}.",
        endings.AUTO_COMPLETE,
        actor="marker",
        evidence=(Evidence(what="marker", value=name),),
        inferred=True,
    )


def marker_of(seen: Observed) -> str | None:
    """Return the marker that any rank wrote, cut to the schema's bound; None: there is none."""
    markers = (marker for rank in seen.ranks if rank.report is not None for marker in rank.report.markers)
    return next((clipped(marker.name, TEXT_MAX) for marker in markers), None)
