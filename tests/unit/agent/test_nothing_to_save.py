"""Mode Disabled: the agent passes the stop on and saves nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainingrun_operator.agent import main
from trainingrun_operator.agent.config import Pace, Paths, Task
from trainingrun_operator.agent.ship import NoShipper
from trainingrun_operator.api.exchange import AgentConfig
from trainingrun_operator.checkpoints.documents import PodRef

if TYPE_CHECKING:
    from pathlib import Path


def test_without_a_destination_there_is_no_bucket_and_the_agent_leaves_on_sigterm_at_once(tmp_path: Path) -> None:
    config = AgentConfig(namespace="ml", run="bert", run_uid="u1", path=str(tmp_path), destination="")
    agent = main.Agent(Task(config, PodRef(name="bert-0", uid="p1")), Paths(tmp_path, tmp_path), Pace())

    shipper = agent._shipper
    assert isinstance(shipper, NoShipper)
    shipper.terminate()
    assert shipper.outcome == 0
