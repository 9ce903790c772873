"""Which units are complete, and by what evidence: pure functions over a split scan and the probes of its files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from trainingrun_operator.agent.volume.formats import State
from trainingrun_operator.checkpoints.documents import WHOLE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trainingrun_operator.agent.volume.formats import Probe
    from trainingrun_operator.agent.volume.units import Unit

LAST_WRITTEN = ("trainer_state.json", ".metadata")
"""Files that their writer makes last: Hugging Face's Trainer, torch.distributed.checkpoint."""
MARKED_QUIET_SECONDS = 1.0
"""Other ranks may still write beside a marker."""
_SHARD = re.compile(r"(?P<stem>.*)-(?P<index>\d+)-of-(?P<count>\d+)(?P<suffix>\.[^/]*)?", re.DOTALL)
_POINTERS = frozenset({"latest", "latest_checkpointed_iteration.txt"})
"""DeepSpeed's and Megatron's files beside the checkpoints, written after the one that they name."""


class Verdict(NamedTuple):
    """Whether a unit is complete, and why or why not."""

    complete: bool
    evidence: str


@dataclass(frozen=True)
class Seen:
    """One unit with its verdict."""

    unit: Unit
    verdict: Verdict

    @property
    def complete(self) -> bool:
        """Whether it may be shipped as a checkpoint."""
        return self.verdict.complete


class Circumstances(NamedTuple):
    """What decides beside the files themselves."""

    quiet: float
    """Seconds since anything in the unit changed."""
    settle: float
    ended: bool
    marker_expected: bool = False
    """Siblings carry a last-written file, so this one will too."""


def marker(unit: Unit) -> str | None:
    """The file in a unit that its writer makes last."""
    inside = unit.within()
    return next((name for name in LAST_WRITTEN if name in inside), None)


def _missing(inside: Mapping[str, str], probes: Mapping[str, Probe]) -> str | None:
    """A file that others in the unit speak of and that is not there."""
    for name, path in inside.items():
        folder = name[: len(name) - len(name.rsplit("/", 1)[-1])]
        for need in sorted(probes[path].needs):
            if folder + need not in inside:
                return folder + need
        if match := _SHARD.fullmatch(name):
            stem, count, suffix = match["stem"], match["count"], match["suffix"] or ""
            width = len(match["index"])
            first = 0 if f"{stem}-{0:0{width}}-of-{count}{suffix}" in inside else 1
            for index in range(first, int(count) + first):
                shard = f"{stem}-{index:0{width}}-of-{count}{suffix}"
                if shard not in inside:
                    return shard
    return None


def _against(unit: Unit, probes: Mapping[str, Probe], about: Circumstances) -> str | None:
    """What says that a unit is unfinished, whether the training still runs or not."""
    inside = unit.within()
    for name, path in sorted(inside.items()):
        if probes[path].state is State.BROKEN:
            return f"{name}: {probes[path].why}"
    if shard := _missing(inside, probes):
        return f"{shard} is missing"
    if unit.dir != WHOLE and not marker(unit) and (about.marker_expected or "training_args.bin" in inside):
        return f"no {LAST_WRITTEN[0]} yet, which its writer makes last"
    return None


def _in_favour(unit: Unit, probes: Mapping[str, Probe], about: Circumstances) -> str | None:
    """What says that nothing more will be written to a unit."""
    single = probes[unit.dir] if unit.number and list(unit.files) == [unit.dir] else None
    if single and single.state is State.WHOLE:
        return single.why
    mark = marker(unit)
    if mark and (about.ended or about.quiet >= min(MARKED_QUIET_SECONDS, about.settle)):
        return f"{mark}, which its writer makes last, is there and every file is whole"
    if about.ended:
        return "the training has ended and no file's format says otherwise"
    if about.quiet >= about.settle:
        return f"unchanged for {about.settle:g} s and no file's format says otherwise"
    return None


def judge(unit: Unit, probes: Mapping[str, Probe], about: Circumstances) -> Verdict:
    """Decide on one unit. A file that its format calls broken outweighs everything, also that the training has ended."""
    if against := _against(unit, probes, about):
        return Verdict(complete=False, evidence=against)
    if evidence := _in_favour(unit, probes, about):
        return Verdict(complete=True, evidence=evidence)
    return Verdict(complete=False, evidence=f"changed {about.quiet:.1f} s ago, needs {about.settle:g} s of quiet")


def format_of(unit: Unit) -> str:
    """What a unit looks like, in the API's words; for people, nothing is decided by it."""
    inside = unit.within()
    if mark := marker(unit):
        return "TorchDCP" if mark == ".metadata" else "HFTrainer"
    if any(name.endswith(".ckpt") for name in inside):
        return "Lightning"
    if any(name.endswith(".safetensors") for name in inside):
        return "Safetensors"
    return "Files"


def pointed_at(name: str, text: str) -> int | None:
    """The number that a pointer file names: ``global_step1200`` or ``1200``."""
    if name not in _POINTERS:
        return None
    match = re.search(r"(\d+)\s*\Z", text)
    return int(match[1]) if match else None


def newest(seen: Sequence[Seen], since_ns: int, *, complete: bool = True) -> Seen | None:
    """The furthest advanced unit among those written since the pod started; else among all.

    The number decides, not the time: evaluators write into old checkpoints. What an earlier pod left in the volume
    counts only until this one has written something.
    """
    fitting = [one for one in seen if one.complete is complete]
    own = [one for one in fitting if one.unit.mtime_ns >= since_ns]
    return max(own or fitting, key=lambda one: (one.unit.value, one.unit.mtime_ns), default=None)
