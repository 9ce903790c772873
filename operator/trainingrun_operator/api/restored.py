"""What a pod's training starts from: the restore container writes it, the operator shows it in the status."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field

from trainingrun_operator.api.base import BigCount, Count, Model, ObjectName, Text, Uri, Word

LISTED_MAX: Final = 4
"""Entries of each list. The kubelet keeps 4,096 bytes of what a container writes at its end."""
SAID_MAX: Final = 200
"""Characters of each text in these lists."""


class PassedOver(Model):
    """A checkpoint that could not be restored."""

    commit: Word
    """Its generation: i2-g0007."""
    why: Text
    """What is wrong with it."""


class Restored(Model):
    """What the training of a pod starts from."""

    pod: ObjectName = ""
    """Name of the pod."""
    run: Text = ""
    """Namespace and name of the run whose checkpoint it is, from spec.checkpoint.restoreFrom; empty: this run."""
    commit: Uri = ""
    """Key of the commit object; empty: nothing came from a bucket."""
    uri: Uri = ""
    """The checkpoint's folder in the bucket."""
    dir: Text = ""
    """The checkpoint's folder in the volume, relative to the checkpoint path; empty: the training starts from the beginning."""
    step: BigCount | None = None
    """Step of the checkpoint."""
    epoch: BigCount | None = None
    """The training's epoch in the checkpoint's name."""
    in_volume: bool = False
    """The volume had a checkpoint that is further than all in the bucket: nothing was downloaded."""
    kept: Count = 0
    """Number of files in the volume that are whole and newer than the checkpoint's: they stay as they are."""
    left_out: Annotated[tuple[Text, ...], Field(max_length=LISTED_MAX)] = ()
    """Symbolic links of the checkpoint that were not made, each with the reason. At most 4 are listed."""
    passed_over: Annotated[tuple[PassedOver, ...], Field(max_length=LISTED_MAX)] = ()
    """Checkpoints that could not be restored, each with the reason. At most 4 are listed."""
