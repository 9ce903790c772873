"""The kubelet's probes: whether a restart would help, and whether there is something to be ready with."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import pytest

from trainingrun_operator.controller import main as module
from trainingrun_operator.controller.main import Health, defaults
from trainingrun_operator.core.observed import Defaults
from trainingrun_operator.edge.kube import KubeError
from trainingrun_operator.settings import Settings

NOW = 5000.0


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: NOW))


def health(*, beat=0.0, proof=0.0, listed=True):
    """`beat` and `proof` are seconds ago."""
    watch: Any = SimpleNamespace(proven=NOW - proof, listed=listed)
    scheduler: Any = SimpleNamespace(beat=NOW - beat)
    return Health(watch, scheduler, list_seconds=300)


@pytest.mark.parametrize(
    ("ago", "status", "text"),
    [
        pytest.param({}, 200, "ok: scheduler 0.0 s ago, watch proven 0 s ago\n", id="all is well"),
        pytest.param(
            {"beat": 29, "proof": 929}, 200, "ok: scheduler 29.0 s ago, watch proven 929 s ago\n", id="just in time"
        ),
        pytest.param({"beat": 31}, 503, "the scheduler has not turned for 31 s\n", id="a stuck scheduler is not alive"),
        pytest.param(
            {"proof": 931},
            503,
            "no event, and no list that agrees with the events, for 931 s\n",
            id="a watch silent for three lists is not alive",
        ),
        pytest.param(
            {"beat": 99, "proof": 999}, 503, "the scheduler has not turned for 99 s\n", id="the scheduler is said first"
        ),
        pytest.param(
            {"listed": False},
            200,
            "ok: scheduler 0.0 s ago, watch proven 0 s ago\n",
            id="an API server that is away is no reason to restart",
        ),
    ],
)
async def test_live(ago, status, text):
    answer = await health(**ago).live(None)
    assert (answer.status, answer.text) == (status, text)


@pytest.mark.parametrize(
    ("listed", "status", "text"),
    [
        pytest.param(True, 200, "ok\n", id="ready once the runs were listed"),
        pytest.param(False, 503, "the TrainingRuns have not been listed yet\n", id="not ready before"),
    ],
)
async def test_ready(listed, status, text):
    answer = await health(listed=listed).ready(None)
    assert (answer.status, answer.text) == (status, text)


@pytest.mark.looptime
@pytest.mark.parametrize(
    ("trouble", "expected"),
    [
        pytest.param([], [0, 300, 600], id="every so often"),
        pytest.param([KubeError(0, "Unreachable", "away")] * 2, [0, 5, 10, 310], id="sooner while it cannot be asked"),
    ],
)
async def test_the_runs_are_listed_at_the_start_and_then(trouble, expected):
    at = []

    async def relist():
        at.append(round(asyncio.get_running_loop().time()))
        if trouble:
            raise trouble.pop()

    watch: Any = SimpleNamespace(relist=relist)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(expected[-1] + 1):
            await module._relist(watch, 300)
    assert at == expected


def test_what_the_installation_sets_reaches_the_decisions():
    said = Settings(
        agent_image="registry.example/agent:1",
        agent_image_pull_policy="Always",
        agent_resources={"limits": {"cpu": "1"}},
        agent_settle_seconds=1,
        default_auto_stop_loss=0.25,
        default_auto_stop_action="Stop",
        hold_after_seconds=2,
        image_error_seconds=3,
        stale_after_seconds=4,
        termination_look_seconds=5,
        node_removal_seconds=6,
        terminal_pod_seconds=7,
    )
    assert defaults(said) == Defaults(
        auto_stop_loss=0.25,
        auto_stop_action="Stop",
        hold_after_seconds=2,
        image_error_seconds=3,
        stale_after_seconds=4,
        termination_look_seconds=5,
        node_removal_seconds=6,
        terminal_pod_seconds=7,
        agent_image="registry.example/agent:1",
        agent_pull_policy="Always",
        agent_resources={"limits": {"cpu": "1"}},
        agent_settle_seconds=1,
    )


def test_without_settings_both_have_the_same_defaults():
    assert defaults(Settings()) == Defaults()
