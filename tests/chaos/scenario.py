"""What happens in one story, besides the run itself: drawn from a seed, so that any story can be told again."""

from __future__ import annotations

from dataclasses import dataclass, fields
from random import Random
from typing import Final

ENDS: Final = {
    "low loss": "auto_low_loss",
    "exit": "auto_complete",
    "marker": "auto_complete",
    "crashes": "failed",
    "user stop": "user_stop",
    "user stop while pending": "user_stop",
    "delete": "deleted",
    "bad image": "failed",
}
"""Why a run ends, and what its status then says."""

NEVER: Final = float("inf")
Span = tuple[float, float]
"""From when to when, in seconds of the story."""


@dataclass(frozen=True)
class Fault:
    """What happens to the operator at one single effect."""

    kind: str
    """killed before, killed after, refused, answer lost, paused"""
    seconds: float = 3
    """Until it is back; a paused one then goes on with what it had decided, while another one has been acting."""


@dataclass(frozen=True)
class Scenario:
    """Causes and troubles of one story. By default nothing goes wrong."""

    cause: str = "low loss"
    """One of `ENDS`."""
    mode: str = "Upload"
    proceed: bool = False
    """The run says `onFailure: Proceed`."""
    stop_mode: str = "Auto"
    leaves_after: float = 3
    """Seconds until the training has saved and left after it was asked to; the grace is 30."""
    leaves_with: int = 0
    """The exit code that it then leaves with."""
    upload_seconds: float = 2
    bucket_away: Span = (0, 0)
    claim: str = ""
    """The checkpoints are in a claim that every Node can mount (`shared`), one at a time (`one node`), or only the one with its disk (`disk`); or in a
    volume of the template: on the network (`network`), or a folder of the Node (`folder`)."""
    spoilt: tuple[int, ...] = ()
    """Which commits of the run, counted from 0, do not verify."""
    agent_away: Span = (0, 0)
    api_away: Span = (0, 0)
    cloud_away: Span = (0, 0)
    stale: Span = (0, 0)
    """No watch event reaches the operator."""
    guest: Span = (0, 0)
    """Somebody's notebook is on the run's first node."""
    evicted_at: float = 0
    """When the newest pod vanishes without a word."""
    pod_deleted_at: float = 0
    """When somebody deletes the newest pod."""
    told_to_leave_at: float = 0
    """When the kubelet ends the newest pod, whose training then exits with `leaves_with`."""
    trace: str = "condition"
    """What is left on that pod besides the exit code of its gate: a condition, a reason, or nothing."""
    node_lost_at: float = 0
    """When the machine of the newest pod dies."""
    lost_in_deleting: tuple[str, float] | None = None
    """How the newest pod is lost while its stop is in Deleting: it `vanishes`, or its machine `dies`; and how many seconds after that phase began."""
    saves_when_told: bool = False
    """A training that runs when its pod is deleted writes another checkpoint then."""
    saves_for: float = 0
    """Seconds that it takes for that, until it has left; the grace is 30."""
    ignores_sigterm: bool = False
    """A training that runs when its pod is deleted runs until the grace is over: it is process 1 of its container and has no handler."""
    orphan_taint_at: float = 0
    """When a run that does not exist any more has left its taint on the node of the newest pod."""
    same_name: bool = False
    """A new machine's Node gets the name of one that is gone."""
    cloud_tidies: bool = False
    """A cloud controller removes the Nodes of machines that are gone."""
    deleted_at: float = 0
    """When the run is deleted, whatever else ends it."""
    suspended: Span = (0, 0)
    """While somebody has suspended the run, counted from its creation."""
    two_operators: Span = (0, 0)
    second_run: tuple[str, float] | None = None
    """Why a second run on the same node ends, and when it is created."""
    goes_after: int | None = None
    """The run says `ttlSecondsAfterFinished`."""
    faults: tuple[tuple[int, Fault], ...] = ()
    """By the number of the effect, counted over all operators of the story."""

    def __str__(self) -> str:
        """Only what is not as usual."""
        said = (f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if getattr(self, f.name) != f.default)
        return f"Scenario({', '.join(said)})"


def drawn(seed: int) -> Scenario:
    """The story of a seed."""
    chance = Random(seed)  # noqa: S311 - no secret

    def span(odds: float, latest: int, longest: int) -> Span:
        start = float(chance.randint(0, latest))
        return (start, start + chance.randint(5, longest)) if chance.random() < odds else (0, 0)

    def moment(odds: float, latest: int) -> float:
        return float(chance.randint(5, latest)) if chance.random() < odds else 0.0

    kinds = ("killed before", "killed after", "refused", "refused", "answer lost", "paused")
    struck = chance.sample(range(60), chance.choice((0, 1, 1, 2, 3, 5, 8, 12)))
    return Scenario(
        cause=chance.choice(list(ENDS)),
        mode="Disabled" if chance.random() < 0.1 else "Upload",
        proceed=chance.random() < 0.1,
        stop_mode=chance.choice(("Auto", "Auto", "NextCheckpoint", "LastCheckpoint")),
        leaves_after=chance.choice((3, 3, 10, 29, 30, 31, 32, 33, 34, 35, NEVER)),
        leaves_with=chance.choice((0, 0, 143)),
        upload_seconds=chance.choice((1, 2, 5, 20)),
        bucket_away=span(0.3, 150, 400),
        spoilt=tuple(sorted(chance.sample(range(12), chance.choice((0, 0, 0, 1, 3))))),
        agent_away=span(0.15, 120, 90),
        api_away=span(0.15, 150, 200),
        cloud_away=span(0.15, 250, 200),
        stale=span(0.25, 100, 120),
        guest=span(0.2, 150, 300),
        evicted_at=moment(0.15, 120),
        pod_deleted_at=moment(0.1, 120),
        node_lost_at=moment(0.15, 150),
        same_name=chance.random() < 0.3,
        cloud_tidies=chance.random() < 0.5,
        deleted_at=moment(0.1, 200),
        two_operators=span(0.2, 120, 300),
        second_run=(chance.choice(list(ENDS)), float(chance.randint(0, 120))) if chance.random() < 0.25 else None,
        faults=tuple(
            (number, Fault(chance.choice(kinds), float(chance.choice((1, 3, 15, 40, 120)))))
            for number in sorted(struck)
        ),
        suspended=span(0.2, 150, 200),
        told_to_leave_at=moment(0.15, 120),
        trace=chance.choice(("condition", "reason", "none")),
        claim=chance.choice(("", "", "", "shared", "one node", "disk")),
        saves_when_told=chance.random() < 0.4,
        lost_in_deleting=(
            (chance.choice(("vanishes", "dies")), chance.choice((1.0, 2.0, 3.0, 4.0, 8.0, 20.0)))
            if chance.random() < 0.2
            else None
        ),
        ignores_sigterm=chance.random() < 0.3,
        saves_for=chance.choice((0, 0, 10, 29, 30)),
    )
