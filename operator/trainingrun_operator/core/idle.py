"""For how long all GPUs of a training have been idle, folded one reading at a time, and what of it is stored.

Only readings prove that a GPU is idle: what is not read, is missing or is no number counts as busy, and so does the time between two readings that are
far apart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api.limits import Idle as Stored
from trainingrun_operator.core.bounds import WORD_MAX, clipped
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.facts.reading import Failure
from trainingrun_operator.core.words import before, moment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainingrun_operator.api.run import TrainingRunSpec
    from trainingrun_operator.core.defaults import Defaults
    from trainingrun_operator.core.facts.gathered import Facts
    from trainingrun_operator.core.facts.gpus import Gpus
    from trainingrun_operator.core.facts.pod import Pod
    from trainingrun_operator.core.observed import Observed

BUSY: Final = "Busy"
START: Final = "Start"
NOT_STARTED: Final = "NotStarted"
"""The training of a rank has not started."""
NOT_READ: Final = "NotRead"
FEWER_GPUS: Final = "FewerGPUs"
"""The exporter shows fewer GPUs of the pod than it requests."""
NO_UTILIZATION: Final = "NoUtilization"
NO_POWER: Final = "NoPower"
APART_SECONDS: Final = 300
"""Between two readings that are further apart, a GPU may have been busy."""


@dataclass(frozen=True)
class Idle:
    """Since when all GPUs have been idle, by the readings of the newest pods."""

    pods: str = ""
    """Digest of their uids."""
    since: float = 0
    """When a GPU was last busy, or could not be read."""
    wall: str = ""
    """The same as RFC 3339."""
    until: float = 0
    """Time of the newest reading."""
    newest: str = ""
    """The same as RFC 3339."""
    what: str = START
    utilization: float | None = None
    """The highest of the newest reading, in percent."""
    power: float | None = None
    """The highest of the newest reading, in watts; None: not every GPU shows it."""

    @property
    def seconds(self) -> float:
        """For how long all GPUs had been idle at the newest reading."""
        return max(0.0, self.until - self.since)

    @property
    def unread(self) -> bool:
        """Whether the newest reading does not say whether the GPUs are busy."""
        return self.what not in (BUSY, START) and self.since == self.until


def is_wanted(spec: TrainingRunSpec, defaults: Defaults) -> bool:
    """Whether the GPUs of a run are to be read."""
    return bool(defaults.gpu_exporter) and spec.idle_detection.for_seconds > 0 and spec.template.gpus > 0


def digest(pods: Sequence[Pod | None]) -> str:
    """Return what tells the newest pods of all ranks from others."""
    return sha256(" ".join(pod.uid if pod is not None else "" for pod in pods).encode()).hexdigest()[:16]


def fold(known: Idle | None, facts: Facts, now: float) -> Idle | None:
    """Add one look. A look that reads no GPU changes nothing."""
    if not is_wanted(facts.run.spec, facts.defaults):
        return None
    if not facts.gpus:
        return known
    newest = [group[-1] if group else None for group in facts.ranks]
    pods = digest(newest)
    known = known if known is not None and known.pods == pods else _resumed(facts, pods, now)
    reads = [one for one in facts.gpus.values() if not isinstance(one, Failure)]
    at = min((one.at for one in reads), default=now)
    what = next(filter(None, (_working(facts, rank, pod) for rank, pod in enumerate(newest))), "")
    if what:
        at = at if what == BUSY else now
        wall = before(facts.wall, now - at)
        return Idle(pods, at, wall, at, wall, what)
    wall, shown = before(facts.wall, now - at), [gpu for one in reads for gpu in one.gpus]
    powers = [gpu.power for gpu in shown if gpu.power is not None]
    read = replace(
        known,
        utilization=max((gpu.utilization for gpu in shown if gpu.utilization is not None), default=None),
        power=max(powers) if len(powers) == len(shown) else None,
    )
    if at - known.until > APART_SECONDS:
        return replace(read, since=at, wall=wall, until=at, newest=wall, what=START)
    return replace(read, until=at, newest=wall) if at > known.until else read


def _resumed(facts: Facts, pods: str, now: float) -> Idle:
    """Continue from what an earlier operator process has recorded of these pods; else begin with the first reading."""
    stored, wall = facts.run.status.idle, moment(facts.wall)
    if stored is not None and wall is not None and stored.pods == pods:
        since, until = moment(stored.since), moment(stored.until)
        if since is not None and until is not None and since <= until <= wall:
            ago, for_seconds = (wall - until).total_seconds(), (until - since).total_seconds()
            return Idle(pods, now - ago - for_seconds, stored.since, now - ago, stored.until, stored.what)
    return Idle(pods, since=float("-inf"), until=float("-inf"))


def _working(facts: Facts, rank: int, pod: Pod | None) -> str:
    """Return why the GPUs of a rank do not count as idle; empty: they are."""
    if pod is None or pod.training is Training.NOT_STARTED:
        return NOT_STARTED
    if pod.training is Training.EXITED:
        return ""
    read = facts.gpus.get(rank)
    if read is None:
        return NOT_READ
    return read.reason if isinstance(read, Failure) else _busy(facts.run.spec, read)


def _busy(spec: TrainingRunSpec, read: Gpus) -> str:
    """Return why the GPUs of a pod do not count as idle; empty: all of them are. A comparison with NaN is false, and so counts as busy."""
    floors = spec.idle_detection
    if len(read.gpus) < spec.template.gpus:
        return FEWER_GPUS
    for gpu in read.gpus:
        if gpu.utilization is None:
            return NO_UTILIZATION
        if not gpu.utilization < floors.gpu_utilization_below_percent:
            return BUSY
        if floors.power_below_watts and gpu.power is None:
            return NO_POWER
        if floors.power_below_watts and gpu.power is not None and not gpu.power < floors.power_below_watts:
            return BUSY
    return ""


def render(seen: Observed, *, told: bool) -> Stored | None:
    """Return ``status.idle``, with the time of the Event if the training is idle now."""
    one, stored = seen.idle, seen.run.status.idle
    if not is_wanted(seen.run.spec, seen.defaults):
        return None
    if one is None:
        return stored
    warned = stored.warned_at if stored is not None and stored.since == one.wall else None
    return Stored(
        since=one.wall,
        until=one.newest,
        what=clipped(one.what, WORD_MAX),
        pods=one.pods,
        warned_at=(warned or seen.wall) if told else None,
    )
