"""What the restore tells the operator: its termination message, which the kubelet keeps in the pod's status."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api.restored import LISTED_MAX, SAID_MAX, PassedOver, Restored
from trainingrun_operator.checkpoints import names
from trainingrun_operator.checkpoints.proof import uri_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from trainingrun_operator.checkpoints.documents import Commit, ManifestHead
    from trainingrun_operator.checkpoints.download import Fetched
    from trainingrun_operator.checkpoints.keys import Layout, Order

MESSAGE_MAX_BYTES: Final = 4096
"""The kubelet cuts a longer message."""
_DIR_MAX: Final = 512
_URI_MAX: Final = 1024
_COUNT_MAX: Final = 2**53 - 1


def name_of(order: Order) -> str:
    """Return the name of a commit for people: ``i2-g0007``."""
    return f"i{order.incarnation}-g{order.generation:04d}"


def passed_over(order: Order, why: str) -> PassedOver:
    """Return the entry for a commit that cannot be restored."""
    return PassedOver(commit=name_of(order)[:SAID_MAX], why=why[:SAID_MAX])


def downloaded(layout: Layout, run: str, commit: Commit, manifest: ManifestHead, done: Fetched) -> Restored:
    """Return what to tell of a download. ``run`` is empty for the pod's own run."""
    about, uri = commit.checkpoint, uri_of(layout, manifest)
    left_out = (f"{names.to_text(path)}: {why}"[:SAID_MAX] for path, why in done.left_out.items())
    return Restored(
        run=run,
        commit=layout.commit(commit.order),
        uri=uri if len(uri) <= _URI_MAX else "",
        dir=about.dir[:_DIR_MAX] if about else "",
        step=_counted(about.step if about else None),
        epoch=_counted(about.epoch if about else None),
        kept=len(done.kept),
        left_out=tuple(islice(left_out, LISTED_MAX)),
    )


def in_volume(folder: str, step: int | None, epoch: int | None) -> Restored:
    """Return what to tell of a checkpoint in the volume that is further than all in the bucket."""
    return Restored(dir=names.to_text(folder)[:_DIR_MAX], step=_counted(step), epoch=_counted(epoch), in_volume=True)


def message(restored: Restored, over: Iterable[PassedOver]) -> str:
    """Return the termination message. What matters least is left out of one that is too long."""
    whole = restored.model_copy(update={"passed_over": tuple(islice(over, LISTED_MAX))})
    for less in ({}, {"left_out": ()}, {"uri": ""}, {"passed_over": whole.passed_over[:1]}):
        whole = whole.model_copy(update=less)
        if len(_text(whole)) <= MESSAGE_MAX_BYTES:
            break
    return _text(whole).decode()


def _text(restored: Restored) -> bytes:
    return restored.model_dump_json(by_alias=True, exclude_defaults=True).encode()


def say(termination_log: Path, text: str) -> None:
    """Write the termination message. Outside of a pod there is no such file."""
    try:
        with termination_log.open("r+b") as file:
            file.truncate()
            file.write(text.encode())
    except OSError:
        return


def _counted(number: int | None) -> int | None:
    """Return a step or an epoch that the status can hold; None: there is none, or a file's name has a longer number."""
    return number if number is not None and 0 <= number <= _COUNT_MAX else None
