"""Checks of the statuses against the bucket, the cluster and the cloud, independent of the operator."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import story
from ground import BUSY, TroubleError, gpus_of, nodes_of

if TYPE_CHECKING:
    from ground import Ground

Json = dict[str, Any]
CAPACITY_SECONDS = 20.0
"""Time for the cloud to update its capacity after a machine is gone."""
OF_THE_OPERATOR = ("trainingrun", "stop_training", "prometheus", "http")
"""Words that a training which knows nothing of the operator does not have in its code."""


class Ending(NamedTuple):
    """The expected end of a sample."""

    status: str
    phase: str


class Check(NamedTuple):
    """A checked promise and a sentence with the finding."""

    true: bool
    sentence: str


@dataclass(frozen=True)
class Report:
    """The checks of one ended run."""

    run: Json
    checks: tuple[Check, ...]
    saving: story.Saving | None

    @property
    def name(self) -> str:
        """Name of the run."""
        return str(self.run["metadata"]["name"])


def examine(ground: Ground, run: Json, ending: Ending, seconds_per_step: float | None) -> Report:
    """Check one ended run."""
    loaded, state = _loads(ground, run)
    saving = None
    if state is not None and seconds_per_step is not None:
        saving = story.Saving(state["max_steps"] - state["step"], seconds_per_step, gpus_of(run))
    return Report(run, (_ended_as(run, ending), *from_its_log(run), loaded, *_released(ground, run)), saving)


def _ended_as(run: Json, ending: Ending) -> Check:
    status = run.get("status", {})
    found = Ending(status.get("terminationStatus", "not ended"), status.get("phase", "Pending"))
    if story.finished(run) and found == ending:
        return Check(true=True, sentence=f"ended as {found.status}, {found.phase}")
    return Check(
        true=False, sentence=f"is {found.status}, {found.phase}, but should be {ending.status}, {ending.phase}"
    )


def from_its_log(run: Json) -> list[Check]:
    """Check of a run whose log is read that its code does not know the operator, and that losses in the log ended it; of others, nothing."""
    if run["spec"].get("metrics", {}).get("source") != "Logs":
        return []
    containers = run["spec"]["template"]["spec"]["containers"]
    code = "\n".join(part for one in containers for part in (*one.get("command", ()), *one.get("args", ()))).lower()
    if known := [word for word in OF_THE_OPERATOR if word in code]:
        return [Check(true=False, sentence=f"should know nothing of the operator, but its code has {', '.join(known)}")]
    status = run.get("status", {})
    source = status.get("effective", {}).get("metricsSource", "not known")
    steps = [str(one["step"]) for one in status.get("termination", {}).get("evidence", ()) if one.get("step")]
    if source != "Logs" or not steps:
        seen = f"the source is {source}, the steps that decided: {', '.join(steps) or 'none'}"
        return [Check(true=False, sentence=f"was not ended by losses in its log: {seen}")]
    right = f"its code does not know the operator; the losses that ended it were read in its log, at steps {' and '.join(steps)}"
    return [Check(true=True, sentence=right)]


def _loads(ground: Ground, run: Json) -> tuple[Check, Json | None]:
    """Download the checkpoint and compare its recomputed scores with those the training reported."""
    proven = story.condition(run, "CheckpointSaved")
    saved = run.get("status", {}).get("checkpoint", {})
    uri, name = saved.get("uri", ""), saved.get("dir", "")
    if proven["status"] != "True" or not uri:
        return Check(true=False, sentence=f"has no proven checkpoint: {proven['message'] or proven['reason']}"), None
    folder = ground.folder / run["metadata"]["name"]
    folder.mkdir()
    folder.chmod(0o755)  # the image's user reads it
    try:
        files = ground.download(uri, folder)
        wrote: Json = json.loads((folder / "trainer_state.json").read_text())
        worth = ground.score(folder)
    except (*BUSY, TroubleError, ValueError) as error:
        return Check(true=False, sentence=f"has a checkpoint that does not load from {uri}: {error}"), None
    reported = {key: wrote.get(key) for key in worth}
    if worth != reported or worth["step"] != saved.get("step"):
        wrong = f"{name} is worth {worth}, but the training reported {reported} and the status says step {saved.get('step')}"
        return Check(true=False, sentence=wrong), wrote
    numbers = f"loss {worth['loss']:.6f}, accuracy {worth['accuracy']:.6f}"
    right = f"{name} loads: {files} files from the bucket, {numbers} recomputed, equal to what the training reported"
    return Check(true=True, sentence=right), wrote


def _released(ground: Ground, run: Json) -> list[Check]:
    nodes = nodes_of(run)
    if not nodes:
        return [Check(true=False, sentence="has no node in its status, though it asked for a GPU")]
    return [_node_released(ground, node) for node in nodes]


def _node_released(ground: Ground, node: Json) -> Check:
    name, instance = node["name"], node["providerID"].rpartition("/")[2]
    there, state = ground.node_uid(name) == node["uid"], ground.states([instance])[instance]
    if node["phase"] == "Retained" and there and (others := ground.pods_of_others(name)):
        # On a cluster with other users, the operator must leave the node to them.
        return Check(true=True, sentence=f"node {name} is free of it, and stays for {', '.join(others)}")
    if node["phase"] == "Retained" and not there and state == "terminated":
        return Check(true=True, sentence=f"node {name} is gone, released by the run that used it last")
    if node["phase"] != "Released" or not node.get("releasedAt"):
        return Check(true=False, sentence=f"did not release node {name}: it is {node['phase']}{story.said(node)}")
    if there:
        return Check(true=False, sentence=f"says that node {name} is released, but the Node is still in the cluster")
    if state != "terminated":
        return Check(true=False, sentence=f"says that node {name} is released, but its machine {instance} is {state}")
    return Check(
        true=True, sentence=f"node {name} released at {node['releasedAt']}: Node gone, machine {instance} terminated"
    )


def capacity(ground: Ground, pool: Json, *, shared: bool) -> Check:
    """Check that the cloud's group wants no machine, except for other users of the cluster."""
    until = time.monotonic() + CAPACITY_SECONDS
    while True:
        look = ground.look(pool, 0)
        if look.desired == 0:
            return Check(true=True, sentence="the cloud's group wants 0 machines: nothing is left that costs")
        left = ", ".join(machine.instance for machine in look.machines if machine.state != "terminated") or "none runs"
        if shared:
            return Check(
                true=True,
                sentence=f"the cloud's group wants {look.desired} ({left}), none for these runs: others use this cluster too",
            )
        if time.monotonic() > until:
            return Check(
                true=False, sentence=f"the cloud's group still wants {look.desired} ({left}), though no pod uses them"
            )
        time.sleep(1)
