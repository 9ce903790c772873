"""From where on what a training saves is spoiled: its values were no longer finite. Operator and agent exchange it, and the status remembers it."""

from __future__ import annotations

from trainingrun_operator.api.base import BigCount, Model


class Spoiled(Model):
    """The first reading of a value that is not finite, of all such readings without a finite one between."""

    step: BigCount | None = None
    """The step of that reading. A checkpoint of this step or a later one is spoiled. Absent: the reading had none."""
    finite_step: BigCount | None = None
    """The step of the last finite observation. Between the two it is not known where the values ceased to be finite."""
    written_us: BigCount | None = None
    """Modification time of the newest checkpoint that was complete at that reading, in microseconds by the clock of the volume's server; 0: there was
    none. A checkpoint without a step that is newer is spoiled. Absent: not known."""
