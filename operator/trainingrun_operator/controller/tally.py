"""What one look adds to the counters, and what it measures that no status says."""

from __future__ import annotations

import logging
from collections import Counter
from math import isfinite
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.api.status import NodePhase
from trainingrun_operator.core import release
from trainingrun_operator.core.effects import Begin, RecordNodes, Tell
from trainingrun_operator.core.facts.bucket import Unreachable
from trainingrun_operator.core.facts.pod import Training
from trainingrun_operator.core.stop import disruption
from trainingrun_operator.core.track import NEVER_ADVANCED
from trainingrun_operator.exporter import Measured
from trainingrun_operator.exporter.telemetry import SAVING

if TYPE_CHECKING:
    from trainingrun_operator.api.exchange import AgentReport
    from trainingrun_operator.api.status import NodeStatus, Termination
    from trainingrun_operator.core.effects import Decision
    from trainingrun_operator.core.observed import Observed
    from trainingrun_operator.edge.memory import Memory, Told
    from trainingrun_operator.exporter import Telemetry

_BELIEVED_MAX: Final = 1e15
"""What an agent reports comes from a pod that runs somebody's code: one number beyond reason would drown all others."""

log = logging.getLogger(__name__)


def count(telemetry: Telemetry, seen: Observed, decision: Decision, memory: Memory) -> None:
    """Count a look whose effects have all been done, and log them."""
    for effect in decision.effects:
        match effect:
            case Begin(termination) if not termination.suspends:
                telemetry.terminated(termination.status)
                _gpu_seconds_saved(telemetry, seen, termination)
                log.info("%s: ends as %s: %s", seen.run.key, termination.status, termination.message)
            case Tell("DataLoss", message, _):
                telemetry.lost_data()
                log.warning("%s: DataLoss: %s", seen.run.key, message)
            case Tell(reason, message, _):
                log.info("%s: %s: %s", seen.run.key, reason, message)
            case RecordNodes(nodes):
                _nodes_released(telemetry, seen, nodes)
                log.info("%s: RecordNodes", seen.run.key)
            case _:
                log.info("%s: %s", seen.run.key, effect.__class__.__name__)
    _gpu_seconds(telemetry, seen, memory.told)
    _readings(telemetry, seen, memory)
    if seen.agent is not None:
        _uploads(telemetry, seen.agent, memory.told)
    elif seen.pod is None:
        # Whatever the first agent of this run says is new.
        memory.told.upload, memory.told.failures = memory.told.upload or (0, 0), memory.told.failures or ("", 0)


def measured(seen: Observed, memory: Memory) -> Measured:
    """Return what changes with every look."""
    agent = seen.agent
    return Measured(
        checkpoint_lag_seconds=_lag_seconds(seen, memory),
        upload_failing_seconds=agent.error.since_seconds if agent is not None and agent.error is not None else None,
        nodes_overdue=len(release.overdue(seen)),
        ghosts=Counter(node.pool for node in release.ghosts(seen)),
    )


def _lag_seconds(seen: Observed, memory: Memory) -> float | None:
    agent = seen.agent
    if agent is None or agent.newest is None or seen.run.spec.checkpoint.mode is CheckpointMode.DISABLED:
        return None
    shipped = disruption.shipped(agent)
    # Counted from the last commit on: where one upload follows the other, each checkpoint waits for its own only.
    waited = memory.unshipped.of((agent.pod_uid, shipped, agent.commit and agent.commit.key), seen.now)
    return 0 if shipped else round(max(waited, agent.newest.age_seconds), 1)


# -- GPUs and nodes -----------------------------------------------------------------------------------------------


def _gpu_seconds_saved(telemetry: Telemetry, seen: Observed, termination: Termination) -> None:
    eta = seen.track.eta_seconds(seen.now)
    if termination.status in SAVING and eta is not None:
        telemetry.gpu_seconds_saved(termination.status, eta * release.gpus_of(seen.run.spec.template))


def _gpu_seconds(telemetry: Telemetry, seen: Observed, told: Told) -> None:
    """Count what the pods have held since the last look, as they were then."""
    held, since = told.gpus
    telemetry.gpu_seconds(held * (seen.now - since))
    pods = sum(bool(pod.node) for pod in seen.live_pods)
    told.gpus = (release.gpus_of(seen.run.spec.template) * pods, seen.now)


def _nodes_released(telemetry: Telemetry, seen: Observed, nodes: tuple[NodeStatus, ...]) -> None:
    if (stop := seen.run.status.termination) is None:
        return
    for node in _gone(seen, nodes):
        telemetry.node_released(node.pool, seen.seconds_since(stop.phase_at))


def _gone(seen: Observed, nodes: tuple[NodeStatus, ...]) -> list[NodeStatus]:
    """Those of which it is written now that they are released."""
    before = {node.uid for node in seen.run.status.nodes if node.phase is NodePhase.RELEASED}
    return [node for node in nodes if node.phase is NodePhase.RELEASED and node.uid not in before]


# -- readings -----------------------------------------------------------------------------------------------------


def _readings(telemetry: Telemetry, seen: Observed, memory: Memory) -> None:
    """Count what could not be read at this look; a scrape that failed stays known until the next one, and is counted once."""
    oddity, new = seen.track.oddity, memory.next_scrape != memory.told.scrape
    if oddity is not None and new and oddity.reason != NEVER_ADVANCED:
        telemetry.poll_error("metrics", oddity.reason)
    memory.told.scrape = memory.next_scrape
    pod = seen.pod
    if pod is not None and pod.training is Training.RUNNING and pod.ip and not pod.host_network and seen.agent is None:
        telemetry.poll_error("agent", "NoReport")
    if isinstance(seen.answer, Unreachable):
        telemetry.poll_error("store", seen.answer.code)


def _uploads(telemetry: Telemetry, agent: AgentReport, told: Told) -> None:
    """Count what the agents have done since they were last heard."""
    newest = max(((one.incarnation, one.generation) for one in agent.uploads), default=(0, 0))
    known = told.upload if told.upload is not None else newest
    for upload in agent.uploads:
        new = (upload.incarnation, upload.generation) > known
        if new and _believed(upload.bytes) and _believed(upload.seconds):
            telemetry.uploaded(upload.bytes, upload.seconds)
    told.upload = max(newest, known)
    pod, before = told.failures if told.failures is not None else (agent.pod_uid, agent.upload_failures)
    # Another pod's agent, and one that was started again, count from the beginning.
    afresh = pod != agent.pod_uid or agent.upload_failures < before
    more = agent.upload_failures - (0 if afresh else before)
    if _believed(more):
        telemetry.upload_failures(more)
    told.failures = (agent.pod_uid, agent.upload_failures)


def _believed(number: float) -> bool:
    return isfinite(number) and 0 <= number <= _BELIEVED_MAX
