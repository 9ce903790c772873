"""Which of a run's checkpoints `spec.checkpoint.keepLast` retires, and which manifests nobody needs any more.

What is not known retires nothing: without a proven commit in the list there is nothing to retire, and an age that is not known is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from trainingrun_operator.checkpoints.keys import Layout, Order, order_of_manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from trainingrun_operator.checkpoints.documents import Commit
    from trainingrun_operator.core.observed import Observed

YOUNGEST_SECONDS: Final = 24 * 3600.0
"""Nothing younger is deleted."""


@dataclass(frozen=True)
class Kept:
    """What retention needs to know of a commit."""

    key: str
    order: Order
    complete: bool
    """It names a complete checkpoint that has files."""
    advance: tuple[int, int]
    """Step and epoch, -1 if not known: a restore prefers the furthest, though a later attempt may have saved less."""
    manifests: frozenset[str]
    """Keys of its ranks' manifests."""
    inherited: bool = False
    """An earlier run had left the checkpoint in the volume: a restore prefers every one that this run wrote."""
    result: bool = False
    """What a run that was no longer finite has published: a restore prefers it to later ones."""

    @classmethod
    def of(cls, key: str, commit: Commit) -> Kept:
        """Take what is needed of a commit."""
        found = commit.checkpoint
        known = [-1 if number is None else number for number in ((found.step, found.epoch) if found else (None, None))]
        return cls(
            key=key,
            order=commit.order,
            complete=found is not None and found.complete and commit.total_files > 0,
            advance=(known[0], known[1]),
            manifests=frozenset(entry.key for entry in commit.ranks),
            result=found is not None and found.finite is True,
            inherited=found is not None and found.inherited,
        )


def proven_of(seen: Observed) -> tuple[str, ...]:
    """Return the keys of the commits that count as proven, the last one first. None of them is ever deleted."""
    stop, shown = seen.run.status.termination, seen.run.status.checkpoint
    keys = (
        stop.saved.commit if stop is not None and stop.saved is not None else None,
        seen.verified.key if seen.verified is not None else None,
        shown.commit if shown is not None else None,
    )
    return tuple(dict.fromkeys(key for key in keys if key))


def older(commits: Sequence[Kept], proven: Sequence[str], keep_last: int) -> tuple[Kept, ...]:
    """Return the commits that `keepLast` retires once they are old enough, oldest first.

    Those are older than the last proven commit and than the newest `keep_last` complete checkpoints. The furthest one stays, because a restore
    would take it; so does every commit that counts as proven.
    """
    newest_first = sorted(commits, key=lambda one: one.order, reverse=True)
    last = next((one for key in proven[:1] for one in newest_first if one.key == key), None)
    if last is None or not last.complete:
        return ()
    counted: dict[frozenset[str], Order] = {}
    for one in newest_first:
        if one.complete and len(counted) < keep_last:
            # Commits of the same manifests are one checkpoint.
            counted.setdefault(one.manifests, one.order)
    if len(counted) < keep_last:
        return ()
    first_kept = min(*counted.values(), last.order)
    furthest = max(
        (one for one in commits if one.complete),
        key=lambda one: (one.result, not one.inherited, one.advance, one.order),
    )
    stay = {furthest.key, *proven}
    return tuple(one for one in reversed(newest_first) if one.order < first_kept and one.key not in stay)


def retired(old: Iterable[Kept], ages: Mapping[str, float]) -> tuple[Kept, ...]:
    """Return those of the older commits whose own age, in seconds by key, is known and long enough."""
    return tuple(one for one in old if is_old(ages, one.key))


def orphans(
    layout: Layout, manifests: Iterable[str], commits: Iterable[Kept], proven: Sequence[str]
) -> tuple[str, ...]:
    """Return the manifests that no commit names and that no later commit will, oldest first: those below the proven one of their rank.

    Args:
        layout: keys of the run.
        manifests: keys of all manifests in the bucket.
        commits: all that are in the bucket.
        proven: as of `proven_of`.
    """
    remaining = list(commits)
    last = next((one for key in proven[:1] for one in remaining if one.key == key), None)
    if last is None:
        return ()
    named = frozenset[str]().union(*(one.manifests for one in remaining))
    newest = {layout.rank_of(key): order_of_manifest(key) for key in last.manifests}
    found = []
    for key in manifests:
        order, bound = order_of_manifest(key), newest.get(layout.rank_of(key))
        if key not in named and order is not None and bound is not None and order < bound:
            found.append((order, key))
    return tuple(key for _, key in sorted(found))


def is_old(ages: Mapping[str, float], key: str) -> bool:
    """Whether an object exists and is old enough to be deleted."""
    return ages.get(key, 0.0) >= YOUNGEST_SECONDS
