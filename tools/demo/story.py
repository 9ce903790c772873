"""Events between two snapshots, and the savings of ending early. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ground import Look, Machine

Json = dict[str, Any]
Sentence = tuple[str, str]
"""Subject (a run or the machine) and event."""


def condition(run: Json, kind: str) -> Json:
    """A condition of a run; Unknown if it is not set."""
    found = (one for one in run.get("status", {}).get("conditions", ()) if one["type"] == kind)
    return next(found, {"type": kind, "status": "Unknown", "reason": "", "message": ""})


def finished(run: Json) -> bool:
    """Whether the run is over, whatever the outcome."""
    return bool(condition(run, "Finished")["status"] == "True")


def step_of(run: Json) -> int:
    """The latest step read by the operator."""
    return int(run.get("status", {}).get("progress", {}).get("step") or 0)


def standing(run: Json) -> str:
    """State of a run, from its status."""
    status = run.get("status", {})
    stop = status.get("termination", {})
    if stop.get("phase") == "Held":
        return f"held. {stop.get('holdReason', '')}"
    words = f"{status.get('phase', 'Pending')}, step {step_of(run)}."
    if stop:
        words = f"{stop['phase']}. {stop['message']}"
    nodes = " ".join(f"Node {node['name']} is {node['phase']}{said(node)}" for node in status.get("nodes", ()))
    return f"{words} {nodes}".strip()


def sentences(before: Look, now: Look) -> list[Sentence]:
    """Events between two snapshots."""
    told: list[Sentence] = []
    for name, run in now.runs.items():
        told += [(name, what) for what in _of_run(before.runs.get(name, {}), run)]
    known = {machine.instance: machine for machine in before.machines}
    for machine in now.machines:
        told += [("cloud", what) for what in _of_machine(known.get(machine.instance), machine)]
    if before.desired != now.desired:
        told.append(("cloud", f"desired capacity {before.desired} -> {now.desired}"))
    return told


def _of_run(before: Json, now: Json) -> Iterator[str]:
    was, status = before.get("status", {}), now.get("status", {})
    if status.get("startTime") and not was.get("startTime"):
        yield f"trains on {(status.get('pods') or [{}])[0].get('node') or 'its node'}"
    saved = status.get("checkpoint", {})
    if saved.get("digest") and saved["digest"] != was.get("checkpoint", {}).get("digest"):
        yield f"{saved.get('dir') or 'its files'} is in the bucket, checked file by file, {size(saved.get('bytes', 0))}"
    stop, stopped = status.get("termination"), was.get("termination")
    if stop and not stopped:
        yield f"ends: {stop['status']}. {stop['message']}"
    if stop and stop["phase"] not in ((stopped or {}).get("phase"), "Done"):
        yield _phase(stop)
    nodes = {node["uid"]: node["phase"] for node in was.get("nodes", ())}
    for node in status.get("nodes", ()):
        if node["phase"] != nodes.get(node["uid"], "InUse") and node["phase"] != "InUse":
            yield f"node {node['name']}: {node['phase']}{said(node)}"
    if finished(now) and not finished(before):
        yield f"finished: {status.get('phase')}"


_PHASES = {
    "Requested": "stop written down, before anything is done about it",
    "Draining": "the training is asked to save and leave",
    "Saving": "the agent ships what is not in the bucket yet",
    "Verifying": "the operator checks every file in the bucket",
    "Deleting": "the checkpoint is proven; now the pod may go",
    "Releasing": "the pod is gone; now the node",
}


def _phase(stop: Json) -> str:
    if stop["phase"] == "Held":
        return f"held, nothing is deleted: {stop.get('holdReason') or 'its checkpoint is not proven yet'}"
    return f"{stop['phase']}: {_PHASES.get(stop['phase'], '')}".rstrip(": ")


def said(node: Json) -> str:
    """The status message of a node, as a continuation."""
    return f". {node['message']}" if node.get("message") else ""


def _of_machine(before: Machine | None, now: Machine) -> Iterator[str]:
    if before is None:
        if now.state != "terminated":
            yield f"machine {now.instance} {now.state}"
    elif before.state != now.state:
        yield f"machine {now.instance} {now.state}"
    if now.ready and not (before and before.ready):
        yield f"node {now.node} is ready: {now.gpus} GPUs, machine {now.instance}"
    if before and before.node and not now.node:
        yield f"node {before.node} is gone from the cluster"


def size(number: int) -> str:
    """Bytes in a readable unit."""
    value = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:  # noqa: PLR2004 - what makes a kilo
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


class Pace:
    """Seconds per step of each run, between the first and the last recorded step."""

    def __init__(self) -> None:
        self._seen: dict[str, list[tuple[int, datetime]]] = {}

    def add(self, look: Look) -> None:
        """Record the steps of a snapshot."""
        for name, run in look.runs.items():
            progress = run.get("status", {}).get("progress", {})
            if progress.get("step") and progress.get("lastObservationTime"):
                at = datetime.fromisoformat(progress["lastObservationTime"])
                self._seen.setdefault(name, []).append((progress["step"], at))

    def of(self, name: str) -> float | None:
        """None if there are too few steps. A restarted training counts from its restart."""
        seen = self._seen.get(name, [])
        start = max((i for i in range(1, len(seen)) if seen[i][0] < seen[i - 1][0]), default=0)
        if not seen or seen[-1][0] == seen[start][0]:
            return None
        return (seen[-1][1] - seen[start][1]).total_seconds() / (seen[-1][0] - seen[start][0])


@dataclass(frozen=True)
class Saving:
    """GPU time not used because a run ended early; an estimate at the measured pace."""

    steps_left: int
    seconds_per_step: float
    gpus: int

    @property
    def gpu_minutes(self) -> float:
        """Remaining steps x seconds per step x GPUs."""
        return self.steps_left * self.seconds_per_step * self.gpus / 60

    def __str__(self) -> str:
        if not self.steps_left:
            return "0 GPU minutes: it took all of its steps"
        gpus = "1 GPU" if self.gpus == 1 else f"{self.gpus} GPUs"
        return (
            f"{self.gpu_minutes:.1f} GPU minutes, an estimate: {self.steps_left:,} steps were left"
            f" x {self.seconds_per_step:.2f} s a step as seen x {gpus}"
        )
