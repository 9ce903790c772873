"""The loss curve of a run, thinned as it grows: its size is bounded, and it spans the whole run. `value_curves` has those of other values."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isnan, nan
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

from trainingrun_operator.api import names
from trainingrun_operator.api.curve import POINTS_MAX, Curve, Point

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from trainingrun_operator.core.observed import Observed

_KEPT_MAX: Final = POINTS_MAX - 2
"""Leaves room for the lowest and the newest. Even, so that the next sample after halving is due."""


_PACKED: Final = struct.Struct("<qqddd")
"""A sample without an epoch has NaN there. A step is a float, as it was read: it may be larger than an integer of 8 bytes."""


class Sample(NamedTuple):
    """One observation with a loss."""

    number: int
    """Index among the run's samples, from 0."""
    at: int
    """Seconds since the epoch."""
    step: int
    epoch: float | None
    loss: float
    """The loss, or the other value whose curve this is."""

    def pack(self) -> bytes:
        """Return it in 40 bytes."""
        return _PACKED.pack(self.number, self.at, self.step, nan if self.epoch is None else self.epoch, self.loss)

    @classmethod
    def unpack(cls, number: int, at: int, step: float, epoch: float, loss: float) -> Self:
        """Return the sample of `_PACKED`."""
        return cls(number, at, int(step), None if isnan(epoch) else epoch, loss)


@dataclass(frozen=True)
class Thinned:
    """Every `every`-th sample so far, the lowest and the newest."""

    every: int = 1
    count: int = 0
    packed: bytes = b""
    """The kept samples. Hundreds of each of thousands of runs are in memory: as objects they take four times as much, and each full collection of
    garbage visits them."""
    lowest: Sample | None = None
    newest: Sample | None = None
    room: int = _KEPT_MAX
    """Most samples that are kept; even."""

    @property
    def size(self) -> int:
        """How many samples are kept."""
        return len(self.packed) // _PACKED.size

    @property
    def kept(self) -> tuple[Sample, ...]:
        """The kept samples, oldest first."""
        return tuple(Sample.unpack(*one) for one in _PACKED.iter_unpack(self.packed))

    @property
    def shape(self) -> tuple[int, int]:
        """Changes when a sample is kept or some are dropped; not with every newest one."""
        return self.every, self.size

    @property
    def covered_seconds(self) -> int:
        """Time from the first sample to the newest."""
        samples = self.samples
        return samples[-1].at - samples[0].at if samples else 0

    @property
    def samples(self) -> list[Sample]:
        """The kept samples, the lowest and the newest, oldest first."""
        return sorted({*self.kept, *filter(None, (self.lowest, self.newest))})

    @property
    def curve(self) -> Curve:
        """The curve in its stored form."""
        return Curve(
            every=self.every,
            points=tuple(
                Point(at=stamp(one.at), step=one.step, epoch=one.epoch, loss=one.loss) for one in self.samples
            ),
        )


def added(line: Thinned, *, at: int, step: int, epoch: float | None, loss: float) -> Thinned:
    """Add one sample. The same step as the newest is ignored: a restarted operator reads it again."""
    if line.newest is not None and line.newest.step == step:
        return line
    sample = Sample(line.count, at, step, epoch, loss)
    packed, every = line.packed, line.every
    if sample.number % every == 0:
        if line.size >= line.room:
            packed, every = _packed(line.kept[::2]), every * 2
        packed += sample.pack()
    lowest = sample if line.lowest is None or loss < line.lowest.loss else line.lowest
    return Thinned(every, line.count + 1, packed, lowest, sample, line.room)


def resumed(curve: Curve) -> Thinned:
    """Continue a stored curve. Its lowest and newest samples count as kept."""
    return refilled(curve.every, [(point.at, point.step, point.epoch, point.loss) for point in curve.points])[0]


def refilled(
    every: int, points: Sequence[tuple[str, int, float | None, float]], room: int = _KEPT_MAX
) -> tuple[Thinned, Sample | None]:
    """Continue stored points: time, step, epoch and value of each. Returns also the highest one."""
    samples = tuple(
        Sample(i * every, seconds(at), step, epoch, value) for i, (at, step, epoch, value) in enumerate(points)
    )
    if not samples:
        return Thinned(every, room=room), None
    lowest, highest = (extreme(samples, key=lambda one: one.loss) for extreme in (min, max))
    kept, newest = samples, samples[-1]
    if len(kept) > room:
        kept, every = kept[::2], every * 2
    return Thinned(every, len(kept) * every, _packed(kept), lowest, newest, room), highest


def joined(earlier: Thinned, later: Thinned) -> Thinned:
    """Append the samples of `later` to `earlier`."""
    for one in later.samples:
        earlier = added(earlier, at=one.at, step=one.step, epoch=one.epoch, loss=one.loss)
    return earlier


def observed(line: Thinned, seen: Observed) -> Thinned:
    """Add the newest observation of a look if it has a loss."""
    newest = seen.track.newest
    if newest is None or newest.loss is None:
        return line
    return added(line, at=seconds(seen.wall), step=newest.step, epoch=seen.track.epoch, loss=newest.loss)


def config_map(namespace: str, run_name: str, run_uid: str, curve: Curve) -> dict[str, Any]:
    """Build the ConfigMap of a run's curve, owned by the run."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": names.curve_name(run_name),
            "namespace": namespace,
            "labels": names.child_labels(run_name, run_uid),
            "ownerReferences": [names.run_owner(run_name, run_uid)],
        },
        "data": data(curve),
    }


def data(curve: Curve) -> dict[str, str]:
    """Build the data of the ConfigMap."""
    unused = None if curve.values else {"values"}
    return {names.CURVE_KEY: curve.model_dump_json(by_alias=True, exclude_none=True, exclude=unused)}


def _packed(samples: Iterable[Sample]) -> bytes:
    return b"".join(sample.pack() for sample in samples)


def seconds(at: str) -> int:
    """Return a stored time in seconds since the epoch."""
    return int(datetime.fromisoformat(at).timestamp())


def stamp(at: int) -> str:
    """Return seconds since the epoch as they are stored."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
