"""What the agent is told at its start, and the little that it remembers across restarts within one pod."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainingrun_operator.api import exchange, names
from trainingrun_operator.api.exchange import AgentConfig
from trainingrun_operator.checkpoints.documents import PodRef, RunRef
from trainingrun_operator.checkpoints.keys import Layout

CLOCK_SLACK_SECONDS = 0.05
"""File systems stamp with a coarse clock that lags the fine one by some milliseconds."""


@dataclass(frozen=True)
class Paths:
    """Where the pod's side of the conversation lies."""

    podinfo: Path = Path(names.PODINFO_PATH)
    control: Path = field(default_factory=lambda: Path(os.environ.get(names.CONTROL_ENV) or names.CONTROL_PATH))

    @property
    def annotations(self) -> Path:
        """The pod's annotations, as the kubelet projects them."""
        return self.podinfo / "annotations"

    @property
    def resume_from(self) -> Path:
        """Names the checkpoint that the restore put in place."""
        return self.control / "resume_from"


@dataclass(frozen=True)
class Pace:
    """How often the agent looks, in seconds."""

    poll: float = 0.1
    """The annotations."""
    scan: float = 1.0
    """The volume; stretched so that scanning takes at most a tenth of the time."""
    backoff_max: float = 5.0
    """Between two tries against the bucket."""
    fence: float = 60.0
    """For a newer writer, while there is nothing to commit."""
    ranks_max: float = 30.0
    """For what the other ranks hold, while they hold nothing new; the pause begins with that of a scan and doubles."""


@dataclass(frozen=True)
class Task:
    """One agent's run, pod and destination."""

    config: AgentConfig
    pod: PodRef

    @classmethod
    def from_env(cls) -> Task:
        """Read the configuration that the operator pinned on the container.

        Raises:
            KeyError: a variable is missing.
            ValueError: the rank is none of the run's.
            pydantic.ValidationError: the configuration is not what this version understands.
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
            message = f"{names.RANK_ENV} is {pod.rank}, and the run has {pod.world_size} ranks: expected 0 to {pod.world_size - 1}"
            raise ValueError(message)
        return cls(config, pod)

    @property
    def root(self) -> Path:
        """The checkpoint path."""
        return Path(self.config.path)

    @property
    def run(self) -> RunRef:
        """The run, as manifests name it."""
        return RunRef(namespace=self.config.namespace, name=self.config.run, uid=self.config.run_uid)

    @property
    def layout(self) -> Layout:
        """Where the run's bytes lie."""
        return Layout.of(self.config.destination, self.config.namespace, self.config.run, self.config.run_uid)


class PodMemory:
    """A file in the control directory, which lives as long as the pod: first start, claimed incarnation, and which stop's signal was sent.

    A file of another pod is not believed; a directory that cannot be written costs a restarted agent its incarnation only.
    """

    def __init__(self, control: Path, pod_uid: str) -> None:
        self._file = control / "agent.json"
        self._pod_uid = pod_uid
        self._lock = threading.Lock()
        stored = self._read()
        self.first_start = not stored
        self.started_at = float(stored.get("startedAt", time.time() - CLOCK_SLACK_SECONDS))
        """Wall clock of this node: what lies in the volume and is older, was there before the pod."""
        self.incarnation: int | None = stored.get("incarnation")
        self.signalled: str | None = stored.get("signalled")
        self._write()

    def remember_incarnation(self, incarnation: int) -> None:
        """Keep the claim for a restarted agent of the same pod."""
        self.incarnation = incarnation
        self._write()

    def remember_signal(self, request_id: str) -> None:
        """Keep, before it is sent, that this stop's signal was: a training may take a second one for impatience."""
        self.signalled = request_id
        self._write()

    def _read(self) -> dict[str, Any]:
        try:
            stored = json.loads(self._file.read_bytes())
        except (OSError, ValueError):
            return {}
        return stored if isinstance(stored, dict) and stored.get("podUid") == self._pod_uid else {}

    def _write(self) -> None:
        kept = {"startedAt": self.started_at, "incarnation": self.incarnation, "signalled": self.signalled}
        text = json.dumps({"podUid": self._pod_uid, **kept})
        temporary = self._file.with_suffix(".tmp")
        try:
            with self._lock:
                temporary.write_text(text)
                temporary.replace(self._file)
        except OSError:
            return
