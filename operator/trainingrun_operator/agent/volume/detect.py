"""Decide which units are complete, and on what evidence: pure functions over a split scan and the probes of its files."""

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
"""Files that a writer creates last: Hugging Face's Trainer, torch.distributed.checkpoint."""
MARKED_QUIET_SECONDS = 1.0
"""Quiet that a unit with a marker needs: other ranks may still write files next to the marker."""
_SHARD = re.compile(r"(?P<stem>.*)-(?P<index>\d+)-of-(?P<count>\d+)(?P<suffix>\.[^/]*)?", re.DOTALL)
_POINTERS = frozenset({"latest", "latest_checkpointed_iteration.txt"})
"""DeepSpeed's and Megatron's pointer files next to the checkpoints, written after the checkpoint that they name."""


class Verdict(NamedTuple):
    """Whether a unit is complete, and the evidence."""

    complete: bool
    evidence: str
    waits: bool = False
    """Nothing is missing: the unit has not been quiet for long enough."""


@dataclass(frozen=True)
class Seen:
    """One unit with its verdict."""

    unit: Unit
    verdict: Verdict

    @property
    def complete(self) -> bool:
        """Whether the unit may be shipped as a checkpoint."""
        return self.verdict.complete


class Circumstances(NamedTuple):
    """What `judge` considers besides the files themselves."""

    quiet: float
    """Seconds since a file of the unit changed."""
    settle: float
    """Seconds without a change after which a unit without other evidence is complete."""
    ended: bool
    """The training has ended."""
    marker_expected: bool = False
    """Sibling units have a last-written file, so this unit will have one too."""


def marker(unit: Unit) -> str | None:
    """Return the unit's last-written file, if it has one."""
    inside = unit.within()
    return next((name for name in LAST_WRITTEN if name in inside), None)


def _missing(inside: Mapping[str, str], probes: Mapping[str, Probe]) -> str | None:
    """Return a file that is missing: other files of the unit refer to it."""
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
    """Return the evidence that a unit is unfinished, whether or not the training has ended."""
    inside = unit.within()
    for name, path in sorted(inside.items()):
        if probes[path].state is State.BROKEN:
            return f"{name}: {probes[path].why}"
    if shard := _missing(inside, probes):
        return f"{shard} is missing"
    if unit.dir != WHOLE and not marker(unit) and (about.marker_expected or "training_args.bin" in inside):
        return f"no {LAST_WRITTEN[0]}, which the writer creates last"
    return None


def _in_favour(unit: Unit, probes: Mapping[str, Probe], about: Circumstances) -> str | None:
    """Return the evidence that a unit is complete."""
    single = probes[unit.dir] if unit.number and list(unit.files) == [unit.dir] else None
    if single and single.state is State.WHOLE:
        return single.why
    mark = marker(unit)
    if mark and (about.ended or about.quiet >= min(MARKED_QUIET_SECONDS, about.settle)):
        return f"{mark}, which the writer creates last, exists and no file is broken"
    if about.ended:
        return "the training has ended and no file is broken"
    if about.quiet >= about.settle:
        return f"unchanged for {about.settle:g} s and no file is broken"
    return None


def judge(unit: Unit, probes: Mapping[str, Probe], about: Circumstances) -> Verdict:
    """Decide whether one unit is complete. A broken file outweighs all other evidence, even the end of the training."""
    if against := _against(unit, probes, about):
        return Verdict(complete=False, evidence=against)
    if evidence := _in_favour(unit, probes, about):
        return Verdict(complete=True, evidence=evidence)
    return Verdict(
        complete=False, evidence=f"changed {about.quiet:.1f} s ago, needs {about.settle:g} s of quiet", waits=True
    )


def format_of(unit: Unit) -> str:
    """Return the unit's format in the API's terms. It is for display only."""
    inside = unit.within()
    if mark := marker(unit):
        return "TorchDCP" if mark == ".metadata" else "HFTrainer"
    if any(name.endswith(".ckpt") for name in inside):
        return "Lightning"
    if any(name.endswith(".safetensors") for name in inside):
        return "Safetensors"
    return "Files"


def pointed_at(name: str, text: str) -> int | None:
    """Return the number that a pointer file names: 1200 for ``global_step1200`` or ``1200``. None for any other file."""
    if name not in _POINTERS:
        return None
    match = re.search(r"(\d+)\s*\Z", text)
    return int(match[1]) if match else None


def newest(seen: Sequence[Seen], since_ns: int, *, complete: bool = True) -> Seen | None:
    """Return the unit with the highest number among those written since the pod started, else among all.

    The number decides, not the modification time: evaluators write into old checkpoints. But a unit of which every file is
    newer than those of the highest number is of a later stage, whose steps began again. Units of an earlier pod count only
    until this pod has written one.
    """
    fitting = [one for one in seen if one.complete is complete]
    own = [one for one in fitting if one.unit.mtime_ns >= since_ns]
    found = _highest(own or fitting)
    while found and (later := [one for one in own if one.unit.oldest_ns > found.unit.mtime_ns]):
        found = _highest(later)
    return found


def _highest(seen: Sequence[Seen]) -> Seen | None:
    return max(seen, key=lambda one: (one.unit.value, one.unit.mtime_ns), default=None)
