"""The containers of a stored pod: which one trains, which ran, how they ended, and what keeps the training from starting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from trainingrun_operator.api import names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

Json = dict[str, Any]

OOM_KILLED: Final = "OOMKilled"
UNKNOWN_RESULT: Final = "ContainerStatusUnknown"
"""The kubelet's reason for a container that it could not find any more: the exit code is invented."""
_SAYS_NOTHING: Final = frozenset({"", "Completed", "Error"})
"""Reasons of an ended container that the exit code says as well."""
_WAITING_IS_NORMAL: Final = frozenset({"", "ContainerCreating", "PodInitializing"})


@dataclass(frozen=True)
class Ended:
    """How a container's last run ended."""

    code: int | None
    """The exit code; for a container ended by a signal without one, 128 and the signal. None: not reported."""
    reason: str = ""
    message: str = ""
    started_at: str = ""
    ended_at: str = ""

    @classmethod
    def of(cls, terminated: Json) -> Ended:
        """Read ``state.terminated``."""
        code, signal = terminated.get("exitCode"), terminated.get("signal")
        if not code and signal:
            code = 128 + int(signal)
        return cls(
            None if code is None else int(code),
            terminated.get("reason") or "",
            (terminated.get("message") or "").strip(),
            terminated.get("startedAt") or "",
            terminated.get("finishedAt") or "",
        )

    @property
    def why(self) -> str:
        """The kubelet's reason and message, as far as they say more than the exit code: ``OOMKilled``, ``StartError: …``."""
        return "" if self.reason in _SAYS_NOTHING else worded(self.reason, self.message)


@dataclass(frozen=True)
class Container:
    """One container, with its part of the spec and of the status; either may be empty."""

    name: str
    spec: Json
    status: Json
    init: bool = False

    @property
    def of_author(self) -> bool:
        """Whether the operator did not add it."""
        return self.name not in names.OWN_CONTAINERS

    @property
    def sidecar(self) -> bool:
        """Whether it is a native sidecar: an init container that runs as long as the pod."""
        return self.init and self.spec.get("restartPolicy") == "Always"

    @property
    def running(self) -> Json | None:
        """Its ``state.running``; None: it does not run."""
        return self._state.get("running")

    @property
    def ended(self) -> Ended | None:
        """How it ended; None: it runs, or waits."""
        return self._ended(self._state)

    @property
    def ended_before(self) -> Ended | None:
        """How the run before the present state ended; None: there was none."""
        return self._ended(self.status.get("lastState") or {})

    @property
    def waiting(self) -> tuple[str, str]:
        """Reason and message of an unusual wait; empty: it does not wait, or only as at every start."""
        waiting = self._state.get("waiting") or {}
        reason = waiting.get("reason") or ""
        return (reason, waiting.get("message") or "") if reason not in _WAITING_IS_NORMAL else ("", "")

    @property
    def ran(self) -> bool:
        """Whether it has ever run."""
        return any(one is not None for one in (self.running, self.ended, self.ended_before)) or bool(
            self.status.get("restartCount")
        )

    @property
    def starts_again(self) -> bool:
        """Whether the kubelet starts it again in this pod: it waits after a run, or its own restart rules say so.

        The pod's restartPolicy is Never. Since Kubernetes 1.34 a container can have its own policy and rules for exit codes.
        """
        ended = self.ended
        if ended is None:
            return self.ran and self.running is None
        for rule in self.spec.get("restartPolicyRules") or ():
            if _fits(rule.get("exitCodes") or {}, ended.code):
                return str(rule.get("action") or "").startswith("Restart")
        policy = self.spec.get("restartPolicy")
        return policy == "Always" or (policy == "OnFailure" and ended.code != 0)

    def mounts(self, volume: str) -> bool:
        """Whether it can write to a volume."""
        mounts = self.spec.get("volumeMounts") or ()
        return any(mount.get("name") == volume and not mount.get("readOnly") for mount in mounts)

    def _ended(self, state: Json) -> Ended | None:
        """Read how it ended. The last lines of its log, which the kubelet may give as the message, are not for everybody."""
        ended = state.get("terminated")
        if ended is None:
            return None
        # The API server sets the policy of every container. Without the container's spec it is not known.
        of_log = not self.spec or self.spec.get("terminationMessagePolicy") == "FallbackToLogsOnError"
        return Ended.of({**ended, "message": ""} if of_log else ended)

    @property
    def _state(self) -> Json:
        return self.status.get("state") or {}


def worded(reason: str, message: str) -> str:
    """Join a reason and its message: ``Evicted: The node was low on resource: memory.``."""
    return ": ".join(filter(None, (reason, message)))


def _fits(codes: Json, code: int | None) -> bool:
    """Whether a restart rule's exit codes include one."""
    listed = code in (codes.get("values") or ())
    return {"In": listed, "NotIn": not listed}.get(codes.get("operator", ""), False)


@dataclass(frozen=True)
class Containers:
    """All containers of a pod except ephemeral ones, init containers first."""

    everything: tuple[Container, ...]
    trains: Container
    """The one that trains."""

    @classmethod
    def of(cls, spec: Mapping[str, Any], status: Mapping[str, Any], trains: str) -> Containers:
        """Read spec and status of a stored pod.

        Args:
            spec: of the pod.
            status: of the pod; the order of its container statuses has no meaning.
            trains: the container that trains; empty: the first of the author's.
        """
        regular = tuple(_joined(spec.get("containers") or (), status.get("containerStatuses") or ()))
        init = tuple(
            _joined(spec.get("initContainers") or (), status.get("initContainerStatuses") or (), init=True),
        )
        named = (one for one in regular if (one.name == trains if trains else one.of_author))
        return cls((*init, *regular), next(named, Container(trains, {}, {})))

    def named(self, name: str) -> Container:
        """Return a container by its name; an empty one if the pod has none."""
        return next((one for one in self.everything if one.name == name), Container(name, {}, {}))

    @property
    def beside(self) -> tuple[Container, ...]:
        """The author's other containers, native sidecars included. Other init containers end before the training starts."""
        others = (one for one in self.everything if one.of_author and one.name != self.trains.name)
        return tuple(one for one in others if one.sidecar or not one.init)

    @property
    def writers(self) -> tuple[Container, ...]:
        """Those of `beside` that run and can write to the volume of the checkpoints, or may be able to."""
        volume = self._checkpoint_volume
        running = (one for one in self.beside if one.running is not None or one.starts_again)
        return tuple(one for one in running if volume is None or one.mounts(volume))

    @property
    def trains_alone(self) -> bool:
        """Whether nothing but the training uses up the grace of a deletion before the agent's turn.

        The agent's SIGTERM waits for every other container, and the training's for its preStop hook.
        """
        over = all(one.ended is not None and not one.starts_again for one in self.beside)
        return over and bool(self.trains.spec) and "preStop" not in (self.trains.spec.get("lifecycle") or {})

    @property
    def failed_init(self) -> tuple[Container, Ended] | None:
        """The init container that keeps failing or has failed, with its last end; None: there is none.

        A pod whose init container fails ends its sidecars as well, so that their exit codes come second.
        """
        init = sorted((one for one in self.everything if one.init and one.running is None), key=lambda one: one.sidecar)
        ends = ((one, one.ended or one.ended_before) for one in init)
        return next(((one, end) for one, end in ends if end is not None and end.code), None)

    @property
    def waiting(self) -> tuple[str, str]:
        """Reason and message of what keeps the training from starting: an init container before it, or its own container."""
        if self.trains.ran and not self.trains.starts_again:
            return "", ""
        blocking = (*(one for one in self.everything if one.init), self.trains)
        return next((one.waiting for one in blocking if one.waiting[0]), ("", ""))

    @property
    def _checkpoint_volume(self) -> str | None:
        """The volume that the agent ships, which is the first that it mounts (`core.manifests`); None: its mounts are not known."""
        mounts = self.named(names.AGENT_CONTAINER).spec.get("volumeMounts") or ()
        return next((mount["name"] for mount in mounts), None)


def _joined(specs: Sequence[Json], statuses: Sequence[Json], *, init: bool = False) -> Iterator[Container]:
    """Join specs and statuses by name, in the order of the spec. A status without a spec comes last."""
    by_name = {one.get("name"): one for one in statuses}
    for spec in specs:
        yield Container(spec["name"], spec, by_name.pop(spec["name"], {}), init)
    for name, status in by_name.items():
        yield Container(str(name), {}, status, init)
