"""Counters and measurements of one look for the exporter."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api.endings import ending_of
from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.api.status import NodePhase
from trainingrun_operator.core import release
from trainingrun_operator.core.effects import Begin, RecordEvent, RecordNodes
from trainingrun_operator.core.facts.bucket import Unreachable
from trainingrun_operator.core.facts.rank import REPORT_REFUSED
from trainingrun_operator.core.stop import disruption
from trainingrun_operator.core.track import NEVER_ADVANCED
from trainingrun_operator.exporter import Measured

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trainingrun_operator.api.exchange import AgentReport
    from trainingrun_operator.api.status import NodeStatus, Termination
    from trainingrun_operator.core.effects import Decision
    from trainingrun_operator.core.facts.rank import Rank
    from trainingrun_operator.core.observed import Observed
    from trainingrun_operator.exporter import Telemetry

_BELIEVED_MAX: Final = 1e15
"""Limit of numbers from agents: pods run user code, and one absurd number would spoil a counter."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CountedAgent:
    """What is counted of one rank's agents."""

    upload: tuple[int, int] = (0, 0)
    """Incarnation and generation of the newest upload."""
    failures: tuple[str, int] = ("", 0)
    """Uid of the agent's pod, and its reported failures."""


@dataclass(frozen=True)
class Counted:
    """What is already counted of one run, so that nothing is counted twice."""

    reading: float = 0
    """`next_reading_at` of the last counted reading."""
    gpus: tuple[int, float] = (0, 0)
    """GPUs of the pods at the last look, and its time."""
    agents: Mapping[int, CountedAgent] = field(default_factory=dict)
    """By rank. Without an entry, an earlier process has counted what the agent reports first."""


def count(telemetry: Telemetry, seen: Observed, decision: Decision, counted: Counted) -> Counted:
    """Count and log a look whose effects are all done. Returns what is counted now."""
    for effect in decision.effects:
        match effect:
            case Begin(termination) if not termination.suspends:
                telemetry.terminated(termination.status)
                _gpu_seconds_saved(telemetry, seen, termination)
                log.info("%s: ends as %s: %s", seen.run.key, termination.status, termination.message)
            case RecordEvent("DataLoss", message, _):
                telemetry.lost_data()
                log.warning("%s: DataLoss: %s", seen.run.key, message)
            case RecordEvent(reason, message, _):
                log.info("%s: %s: %s", seen.run.key, reason, message)
            case RecordNodes(nodes):
                _nodes_released(telemetry, seen, nodes)
                log.info("%s: RecordNodes", seen.run.key)
            case _:
                log.info("%s: %s", seen.run.key, effect.__class__.__name__)
    gpus = _gpu_seconds(telemetry, seen, counted.gpus)
    _readings(telemetry, seen, new=seen.next_reading_at != counted.reading)
    counted = replace(counted, gpus=gpus, reading=seen.next_reading_at)
    return replace(counted, agents=_agents(telemetry, seen, counted.agents))


def measured(seen: Observed) -> Measured:
    """Return the measurements of a look; of several ranks, the worst."""
    errors = (rank.report.error for rank in seen.ranks if rank.report is not None)
    lags = (_lag_seconds(seen, rank) for rank in seen.ranks)
    return Measured(
        checkpoint_lag_seconds=max((lag for lag in lags if lag is not None), default=None),
        upload_failing_seconds=max((error.since_seconds for error in errors if error is not None), default=None),
        nodes_overdue=len(release.overdue(seen)),
        ghosts=Counter(node.pool for node in release.ghosts(seen)),
    )


def _lag_seconds(seen: Observed, rank: Rank) -> float | None:
    report = rank.report
    if report is None or report.newest is None or seen.run.spec.checkpoint.mode is CheckpointMode.DISABLED:
        return None
    # The time counts from the last commit: with continuous uploads, each checkpoint waits only for its own.
    waited = max(rank.unshipped_seconds, report.newest.age_seconds)
    return 0 if disruption.shipped(report) else round(waited, 1)


# -- GPUs and nodes -----------------------------------------------------------------------------------------------


def _gpu_seconds_saved(telemetry: Telemetry, seen: Observed, termination: Termination) -> None:
    eta = seen.track.eta_seconds(seen.now)
    if ending_of(termination.status).saves and eta is not None:
        telemetry.gpu_seconds_saved(termination.status, eta * seen.run.spec.template.gpus)


def _gpu_seconds(telemetry: Telemetry, seen: Observed, before: tuple[int, float]) -> tuple[int, float]:
    """Count the GPU seconds since the last look. Returns the GPUs held now, and the time."""
    held, since = before
    telemetry.gpu_seconds(held * (seen.now - since))
    pods = sum(bool(pod.node) for pod in seen.live_pods)
    return seen.run.spec.template.gpus * pods, seen.now


def _nodes_released(telemetry: Telemetry, seen: Observed, nodes: tuple[NodeStatus, ...]) -> None:
    if (stop := seen.run.status.termination) is None:
        return
    for node in _gone(seen, nodes):
        telemetry.node_released(node.pool, seen.seconds_since(stop.phase_at))


def _gone(seen: Observed, nodes: tuple[NodeStatus, ...]) -> list[NodeStatus]:
    """Return the nodes that are newly written as released."""
    before = {node.uid for node in seen.run.status.nodes if node.phase is NodePhase.RELEASED}
    return [node for node in nodes if node.phase is NodePhase.RELEASED and node.uid not in before]


# -- readings -----------------------------------------------------------------------------------------------------


def _readings(telemetry: Telemetry, seen: Observed, *, new: bool) -> None:
    """Count failed reads of this look; a failed reading of metrics is counted once."""
    for rank in seen.ranks:
        oddity = rank.track.oddity
        if oddity is not None and new and oddity.reason != NEVER_ADVANCED:
            telemetry.poll_error("metrics", oddity.reason)
        if rank.runs and rank.pod is not None and rank.pod.answers and rank.report is None:
            telemetry.poll_error("agent", "NoReport" if rank.refused is None else REPORT_REFUSED)
    if isinstance(seen.answer, Unreachable):
        telemetry.poll_error("store", seen.answer.code)


def _agents(telemetry: Telemetry, seen: Observed, counted: Mapping[int, CountedAgent]) -> Mapping[int, CountedAgent]:
    """Count new uploads and failures of the agents. Returns what is counted now."""
    after = dict(counted)
    for rank in seen.ranks:
        if rank.report is not None:
            after[rank.number] = _agent(telemetry, rank.report, counted.get(rank.number))
        elif rank.pod is None:
            # Everything that the rank's first agent reports counts.
            after.setdefault(rank.number, CountedAgent())
    return after


def _agent(telemetry: Telemetry, agent: AgentReport, counted: CountedAgent | None) -> CountedAgent:
    newest = max(((one.incarnation, one.generation) for one in agent.uploads), default=(0, 0))
    known = counted or CountedAgent(newest, (agent.pod_uid, agent.upload_failures))
    for upload in agent.uploads:
        new = (upload.incarnation, upload.generation) > known.upload
        if new and _believed(upload.bytes) and _believed(upload.seconds):
            telemetry.uploaded(upload.bytes, upload.seconds)
    pod, before = known.failures
    # The count of failures restarts with another pod or a restarted agent.
    restarted = pod != agent.pod_uid or agent.upload_failures < before
    more = agent.upload_failures - (0 if restarted else before)
    if _believed(more):
        telemetry.upload_failures(more)
    return CountedAgent(max(newest, known.upload), (agent.pod_uid, agent.upload_failures))


def _believed(number: float) -> bool:
    return isfinite(number) and 0 <= number <= _BELIEVED_MAX
