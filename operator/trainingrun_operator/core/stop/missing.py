"""What a data loss has lost, as far as it is known: steps, seconds, bytes and checkpoints after the last commit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainingrun_operator.core.track import Track

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trainingrun_operator.api.status import Progress, Saved
    from trainingrun_operator.core.observed import Observed


def after(seen: Observed, saved: Saved) -> str:
    """Return the sentence about what is missing after the last commit; empty: nothing is known about it."""
    parts = [*_steps(seen, saved), *_seconds(seen, saved), *_files(seen)]
    return f"Missing: {'; '.join(parts)}." if parts else ""


def last_known(seen: Observed) -> Track | Progress | None:
    """Return the newest progress that is known: of this process, else of the status."""
    return seen.track if seen.track.advanced else seen.run.status.progress


def _steps(seen: Observed, saved: Saved) -> Iterator[str]:
    last = last_known(seen)
    if last is None or last.step is None:
        return
    fell = last.fell if isinstance(last, Track) else last.fell_from
    if fell is not None or (saved.step is None and saved.commit):
        # The numbers of two stages, or of a checkpoint without a step, cannot be subtracted.
        yield f"what was trained up to step {last.step}"
    elif (count := last.step - (saved.step or 0)) > 0:
        yield f"{count} steps, {(saved.step or 0) + 1} to {last.step}"


def _seconds(seen: Observed, saved: Saved) -> Iterator[str]:
    """Seconds of training, by the clock of the operator alone, until the last step that it saw."""
    checkpoint, last = seen.run.status.checkpoint, last_known(seen)
    verified = checkpoint.verified_at if checkpoint is not None and checkpoint.commit == saved.commit else None
    begun = verified if saved.commit else seen.run.status.start_time
    if begun is None or last is None:
        return
    if isinstance(last, Track):
        ago = seen.now - last.newest.at if last.newest is not None else None
    else:
        ago = seen.seconds_since(last.last_observation_time) if last.last_observation_time else None
    if ago is not None and (seconds := seen.seconds_since(begun) - ago) >= 1:
        yield f"{seconds:.0f} s of training {'after its proof' if saved.commit else 'in all'}"


def _files(seen: Observed) -> Iterator[str]:
    for rank in seen.ranks:
        said = rank.last_said
        if said is None or said.unsaved_bytes <= 0:
            continue
        of = f" of rank {rank.number}" if len(seen.ranks) > 1 else ""
        named = [f"newest checkpoint {said.newest}"] if said.newest else []
        named += [f"unfinished {said.unfinished}"] if said.unfinished else []
        which = f" ({', '.join(named)})" if named else ""
        yield f"{said.unsaved_bytes} bytes that the agent{of} last reported as unsaved{which}"
