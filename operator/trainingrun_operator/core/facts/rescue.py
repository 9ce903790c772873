"""What a rescue depends on: the volume with the files of dead pods, the Node that it is bound to, and the rescue Job."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from trainingrun_operator.api import names
from trainingrun_operator.core.bounds import WORD_MAX, clipped
from trainingrun_operator.core.kept_volume import KeptVolume

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainingrun_operator.api.exchange import AgentReport
    from trainingrun_operator.core.facts.pod import Pod


@dataclass(frozen=True)
class Claim:
    """A PersistentVolumeClaim."""

    name: str
    uid: str = ""
    """Empty: there is no such claim."""
    phase: str = ""
    """Pending, Bound or Lost."""
    access_modes: tuple[str, ...] = ()
    volume: str = ""
    """Name of its PersistentVolume."""
    created: str = ""
    deleting: bool = False
    resizing: bool = False

    @classmethod
    def of(cls, name: str, stored: Mapping[str, Any] | None) -> Self:
        """Read a stored claim; None: there is none of this name."""
        if stored is None:
            return cls(name)
        meta, spec, status = stored["metadata"], stored.get("spec") or {}, stored.get("status") or {}
        conditions = status.get("conditions") or ()
        return cls(
            name=name,
            uid=meta["uid"],
            phase=status.get("phase") or "Pending",
            access_modes=tuple(status.get("accessModes") or spec.get("accessModes") or ()),
            volume=spec.get("volumeName") or "",
            created=meta.get("creationTimestamp") or "",
            deleting="deletionTimestamp" in meta,
            resizing=any(one.get("type") in _RESIZES and one.get("status") == "True" for one in conditions),
        )

    @property
    def shared(self) -> bool:
        """Whether Pods on several Nodes can mount it at once."""
        return bool({"ReadWriteMany", "ReadOnlyMany"}.intersection(self.access_modes))


_RESIZES = frozenset({"Resizing", "FileSystemResizePending"})


def bound_to(volume: Mapping[str, Any] | None) -> tuple[str, ...]:
    """Return the host names that a stored PersistentVolume is bound to, such as the one with its disk; empty: it is bound to none.

    The terms of a node affinity are alternatives: a term without a host name binds to none.
    """
    affinity = (((volume or {}).get("spec") or {}).get("nodeAffinity") or {}).get("required") or {}
    hosts: list[str] = []
    for term in affinity.get("nodeSelectorTerms") or ():
        wanted = [*(term.get("matchExpressions") or ()), *(term.get("matchFields") or ())]
        named = [one for one in wanted if one.get("key") in _HOST and one.get("operator") == "In"]
        if not named:
            return ()
        hosts += named[0].get("values") or ()
    return tuple(hosts)


_HOST = frozenset({"kubernetes.io/hostname", "metadata.name"})


@dataclass(frozen=True)
class RescueJob:
    """The rescue Job as stored."""

    name: str
    uid: str
    termination_id: str
    """Of the stop that it was created for; empty: the operator has not created it."""
    failed: str = ""
    """Why it has failed; empty: it has not."""
    complete: bool = False
    deleting: bool = False
    suspended: bool = False
    generation: int = 0
    """Of its spec: 1 until the first change."""

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Self:
        """Read a stored Job."""
        meta, spec = stored["metadata"], stored.get("spec") or {}
        conditions = (stored.get("status") or {}).get("conditions") or ()
        true = {one["type"]: one for one in conditions if one.get("status") == "True"}
        failure = true.get("Failed") or {}
        why = ": ".join(filter(None, (failure.get("reason"), failure.get("message"))))
        return cls(
            name=meta["name"],
            uid=meta["uid"],
            termination_id=clipped((meta.get("labels") or {}).get(names.RESCUE_LABEL) or "", WORD_MAX),
            failed=(why or "Failed") if failure else "",
            complete="Complete" in true,
            deleting="deletionTimestamp" in meta,
            suspended=spec.get("suspend") is True,
            generation=meta.get("generation") or 0,
        )

    @property
    def waits(self) -> bool:
        """Whether it has yet to start. One that was suspended later, by a person or by a queue of Jobs, is theirs to resume."""
        return self.suspended and self.generation <= 1 and not self.deleting


@dataclass(frozen=True)
class RescueFacts:
    """Everything read about a rescue at one look."""

    claim: Claim | None = None
    """None: the volume is written in the template itself."""
    volume: KeptVolume = field(default_factory=KeptVolume)
    """The volume with the files."""
    hosts: tuple[str, ...] = ()
    """Names of the hosts that the volume is bound to."""
    last_node: str = ""
    """Name of the last pod's Node; empty: not known. It may differ from the name of its host."""
    home: str = ""
    """The same, if the Node is Ready and takes pods; empty: it is not, or it is not known."""
    other_machine: bool = False
    """Whether the Node of that name is not the one that the last pod ran on."""
    job: RescueJob | None = None
    """The Job of the rescue's name, whoever created it."""
    pod: Pod | None = None
    """The newest pod of this stop's rescue Job."""
    report: AgentReport | None = None
    """Of its agent; None: it was not asked or did not answer."""
    left: bool = False
    """Whether any pod of the rescue Job exists."""
    refused: str = ""
    """Why the API server refused to create the Job at the last try."""

    @property
    def shared(self) -> bool:
        """Whether Pods on several Nodes can mount the volume at once."""
        return self.volume.shared if self.claim is None else self.claim.shared

    @property
    def named(self) -> str:
        """What the volume is."""
        return self.volume.words if self.claim is None else f"PersistentVolumeClaim {self.claim.name}"

    @property
    def saves(self) -> bool:
        """Whether an agent runs that can save the files."""
        return self.pod is not None and self.pod.phase == "Running" and not self.pod.deleting
