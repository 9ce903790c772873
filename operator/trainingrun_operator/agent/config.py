"""The agent's configuration, and what it keeps across restarts of its container within one pod."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from trainingrun_operator.agent import left
from trainingrun_operator.api import exchange, names
from trainingrun_operator.api.exchange import AgentConfig
from trainingrun_operator.checkpoints.documents import PodRef, RunRef
from trainingrun_operator.checkpoints.keys import Layout

CLOCK_SLACK_SECONDS = 0.05
"""File systems stamp files with a coarse clock that lags the wall clock by some milliseconds."""


@dataclass(frozen=True)
class Paths:
    """Folders through which agent, operator and training exchange files."""

    podinfo: Path = Path(names.PODINFO_PATH)
    control: Path = field(default_factory=lambda: Path(os.environ.get(names.CONTROL_ENV) or names.CONTROL_PATH))
    termination_log: Path = Path("/dev/termination-log")
    """The kubelet's file for a container's last words. It exists in a pod only."""

    @property
    def annotations(self) -> Path:
        """The pod's annotations, projected by the kubelet."""
        return self.podinfo / "annotations"

    @property
    def resume_from(self) -> Path:
        """The file with the path of the restored checkpoint."""
        return self.control / "resume_from"


@dataclass(frozen=True)
class Pace:
    """The agent's intervals, in seconds."""

    poll: float = 0.1
    """Between reads of the annotations."""
    scan: float = 1.0
    """Between scans of the volume; longer if needed, so that scans take at most a tenth of the time."""
    backoff_max: float = 5.0
    """At most between two tries against the bucket."""
    fence: float = 60.0
    """Between checks for a newer writer while there is nothing to commit."""
    ranks_max: float = 30.0
    """At most between reads of the other ranks' manifests. The pause starts at ``scan`` and doubles while they agree on nothing new."""


@dataclass(frozen=True)
class Task:
    """One agent's run, pod and destination."""

    config: AgentConfig
    pod: PodRef

    @classmethod
    def from_env(cls) -> Task:
        """Read the configuration from the container's environment variables, which the operator sets.

        Raises:
            KeyError: a variable is missing.
            ValueError: the rank is not one of the run's.
            pydantic.ValidationError: this version does not understand the configuration.
        """
        config = AgentConfig.parse(json.loads(os.environ[exchange.AGENT_CONFIG_ENV]))
        pod = PodRef(
            name=os.environ["POD_NAME"],
            uid=os.environ["POD_UID"],
            node=os.environ.get("NODE_NAME", ""),
            rank=int(os.environ.get(names.RANK_ENV) or 0),
            world_size=config.world_size,
        )
        if not 0 <= pod.rank < pod.world_size:
            message = f"{names.RANK_ENV} is {pod.rank}; the run has {pod.world_size} ranks, expected 0 to {pod.world_size - 1}"
            raise ValueError(message)
        return cls(config, pod)

    @property
    def root(self) -> Path:
        """The checkpoint path."""
        return Path(self.config.path)

    @property
    def run(self) -> RunRef:
        """The run's reference in manifests."""
        return RunRef(namespace=self.config.namespace, name=self.config.run, uid=self.config.run_uid)

    @property
    def layout(self) -> Layout:
        """The run's keys in the bucket."""
        return Layout.of(self.config.destination, self.config.namespace, self.config.run, self.config.run_uid)


def began_ns(config: AgentConfig, memory: PodMemory) -> int:
    """Return when the pod began whose files count as the newest, in nanoseconds: this pod, or the dead one of a rescue; 0: not known."""
    if not config.rescues:
        return int(memory.started_at * 1e9) if memory.left_ns is None else memory.left_ns + 1
    try:
        return int(datetime.fromisoformat(config.rescues_since).timestamp() * 1e9)
    except ValueError:
        return 0


class PodMemory:
    """What the agent keeps for as long as the pod exists: first start, claimed incarnation, the stop whose signal was sent.

    It is one file in the control directory. The file of another pod is ignored. If the directory is not writable, a
    restarted agent claims a new incarnation.
    """

    def __init__(self, control: Path, pod_uid: str) -> None:
        self._file = control / "agent.json"
        self._pod_uid = pod_uid
        self._lock = threading.Lock()
        stored = self._read()
        self.first_start = not stored
        self.started_at = float(stored.get("startedAt", time.time() - CLOCK_SLACK_SECONDS))
        """Wall clock of this node. Older files in the volume are of an earlier pod."""
        self.incarnation: int | None = stored.get("incarnation")
        self.signalled: str | None = stored.get("signalled")
        self.left_ns = left.read(control, pod_uid)
        """Modification time of the newest file that was in the volume before the training started; None: not known."""
        self._write()

    def remember_incarnation(self, incarnation: int) -> None:
        """Store the claimed incarnation for a restarted agent of this pod."""
        self.incarnation = incarnation
        self._write()

    def remember_signal(self, request_id: str) -> None:
        """Store, before the signal is sent, that this stop has sent it. A second signal may make a training exit at once."""
        self.signalled = request_id
        self._write()

    def _read(self) -> dict[str, Any]:
        try:
            stored = json.loads(self._file.read_bytes())
        except (OSError, ValueError):
            return {}
        return stored if isinstance(stored, dict) and stored.get("podUid") == self._pod_uid else {}

    def _write(self) -> None:
        kept = {
            "startedAt": self.started_at,
            "incarnation": self.incarnation,
            "signalled": self.signalled,
            "leftNs": self.left_ns,
        }
        text = json.dumps({"podUid": self._pod_uid, **kept})
        temporary = self._file.with_suffix(".tmp")
        try:
            with self._lock:
                temporary.write_text(text)
                temporary.replace(self._file)
        except OSError:
            return
