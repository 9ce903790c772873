"""Commits of the run that do not verify, though they may have been proven before: none of them is shown as proven.

They are learned from a proof that fails and from a restore that had to take an older commit. A later proof takes it back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainingrun_operator.api.status import Refuted
from trainingrun_operator.checkpoints.keys import order_of_commit, order_of_name
from trainingrun_operator.core.bounds import TEXT_MAX, clipped
from trainingrun_operator.core.past import UNNAMED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trainingrun_operator.api.status import CheckpointStatus
    from trainingrun_operator.checkpoints.keys import Order
    from trainingrun_operator.core.facts.bucket import Verified
    from trainingrun_operator.core.facts.gathered import Facts
    from trainingrun_operator.core.facts.pod import Pod

KEPT_MAX: Final = 64
"""Commits of a run that are remembered, the newest ones."""


def folded(known: Mapping[Order, str], facts: Facts, proven: Verified | None, heard: str) -> dict[Order, str]:
    """Return the commits that do not verify, each with the complaint.

    Args:
        known: of the look before.
        facts: of this look.
        proven: the newest commit that had verified before this look.
        heard: uid of the last pod whose restore is in `known`.
    """
    found = {**_recorded(facts, proven), **known}
    found.update((order, one.complaint) for one in facts.refuted if (order := order_of_commit(one.key)) is not None)
    if facts.verified is not None:
        found.pop(facts.verified.commit.order, None)
    if (pod := restored_pod(facts)) is not None and pod.uid != heard:
        found.update(_passed_over(pod))
    return dict(sorted(found.items())[-KEPT_MAX:])


def restored_pod(facts: Facts) -> Pod | None:
    """Return the newest pod of rank 0 if its restore is over. It has checked the files of all ranks."""
    pod = facts.ranks[0][-1] if facts.ranks and facts.ranks[0] else None
    return pod if pod is not None and pod.restored is not None else None


def shown(before: CheckpointStatus | None, refuted: Mapping[Order, str], newest: str) -> Refuted | None:
    """Return the record of the shown checkpoint that does not verify any more; None: there is none, or a newer commit is proven.

    Args:
        before: the status of the look before.
        refuted: the commits that do not verify.
        newest: key of the newest proven commit; empty: none is known.
    """
    if before is None:
        return None
    record, order = before.refuted, order_of_commit(before.commit)
    if order is not None and order in refuted:
        why = clipped(refuted[order], TEXT_MAX)
        record = Refuted(commit=before.commit, dir=before.dir, step=before.step, why=why)
    order = order_of_commit(record.commit) if record is not None else None
    if order is None or order not in refuted:
        return None
    last = order_of_commit(newest)
    return record if last is None or last < order else None


def sentence(record: Refuted) -> str:
    """Return the sentence about a checkpoint that does not verify any more."""
    what = f"Checkpoint {record.dir}" if record.dir not in UNNAMED else "The checkpoint"
    step = f" (step {record.step})" if record.step is not None else ""
    return f"{what}{step} was proven and does not verify any more: {record.why.rstrip('.')}."


def _recorded(facts: Facts, proven: Verified | None) -> dict[Order, str]:
    """Return what the status has kept for a process that has just started."""
    before = facts.run.status.checkpoint
    if before is None or before.refuted is None:
        return {}
    order = order_of_commit(before.refuted.commit)
    taken_back = proven is not None and proven.commit.order == order
    return {order: before.refuted.why} if order is not None and not taken_back else {}


def _passed_over(pod: Pod) -> Iterator[tuple[Order, str]]:
    said = pod.restored
    if said is None or said.run:
        return
    for one in said.passed_over:
        if (order := order_of_name(one.commit)) is not None:
            yield order, f"pod {pod.name} could not restore {one.commit}: {one.why}"
