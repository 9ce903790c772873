"""One binary, several jobs: which parts each of them loads, and what an unknown one is told."""

from __future__ import annotations

import subprocess
import sys

import pytest

from trainingrun_operator import __main__, stub_training
from trainingrun_operator.agent import gate, restore
from trainingrun_operator.agent import main as agent
from trainingrun_operator.controller import check
from trainingrun_operator.controller import main as operator
from trainingrun_operator.dashboard import main as dashboard


def main(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["trainingrun-operator", *arguments])
    return __main__.main()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["dance"], "unknown job 'dance'", id="a job that does not exist"),
        pytest.param([], "unknown job ''", id="no job"),
        pytest.param(["Operator"], "unknown job 'Operator'", id="a job in capitals"),
    ],
)
def test_an_unknown_job_is_told_which_there_are(monkeypatch, arguments, said):
    with pytest.raises(SystemExit) as caught:
        main(monkeypatch, *arguments)
    assert caught.value.code == (
        f"trainingrun-operator: {said}: expected operator, dashboard, check, agent, restore, gate or stub-training"
    )


@pytest.mark.parametrize(
    ("job", "module", "function"),
    [
        pytest.param("agent", agent, "run", id="agent"),
        pytest.param("restore", restore, "run", id="restore"),
        pytest.param("gate", gate, "run", id="gate"),
    ],
)
def test_each_job_returns_its_own_exit_code(monkeypatch, job, module, function):
    monkeypatch.setattr(module, function, lambda: 7)
    assert main(monkeypatch, job) == 7


def test_the_stub_gets_its_arguments(monkeypatch):
    monkeypatch.setattr(stub_training, "main", len)
    assert main(monkeypatch, "stub-training", "--steps", "3") == 2


def test_the_operator_runs_with_its_settings(monkeypatch):
    monkeypatch.setenv("TRAININGRUN_PORT", "9091")
    monkeypatch.setattr(operator, "run", lambda settings: settings.port)
    assert main(monkeypatch, "operator") == 9091


def test_a_bad_setting_is_a_sentence_and_no_trace(monkeypatch):
    monkeypatch.setenv("TRAININGRUN_PORT", "http")
    with pytest.raises(SystemExit) as caught:
        main(monkeypatch, "operator")
    assert caught.value.code == "trainingrun-operator: TRAININGRUN_PORT is 'http': expected a whole number, 0 or more"


def test_the_dashboard_runs_with_its_settings(monkeypatch):
    monkeypatch.setenv("TRAININGRUN_DASHBOARD_PORT", "9092")
    monkeypatch.setattr(dashboard, "run", lambda settings: settings.port)
    assert main(monkeypatch, "dashboard") == 9092


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("TRAININGRUN_DASHBOARD_PORT", "http", "TRAININGRUN_DASHBOARD_PORT is 'http'"),
        ("KUBECONFIG", "/nowhere", "Not in a pod, and the kubeconfig cannot be used (/nowhere"),
    ],
)
def test_a_dashboard_that_cannot_start_says_why_in_a_sentence(monkeypatch, name, value, said):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as caught:
        main(monkeypatch, "dashboard")
    assert str(caught.value.code).startswith(f"trainingrun-operator: {said}")


def test_a_check_needs_to_know_what_to_check(monkeypatch):
    monkeypatch.setattr(check, "run", lambda settings, address: (settings.run_selector, address))
    monkeypatch.setenv("TRAININGRUN_RUN_SELECTOR", "a=b")
    assert main(monkeypatch, "check", "http://x") == ("a=b", "http://x")
    with pytest.raises(SystemExit) as caught:
        main(monkeypatch, "check")
    assert caught.value.code == (
        "trainingrun-operator: check needs the operator's address: check http://NAME.NAMESPACE.svc:8080"
    )


def test_a_check_with_a_bad_setting_is_a_sentence(monkeypatch):
    monkeypatch.setenv("TRAININGRUN_RELEASE_NODES", "yes")
    with pytest.raises(SystemExit) as caught:
        main(monkeypatch, "check", "http://x")
    assert caught.value.code == "trainingrun-operator: TRAININGRUN_RELEASE_NODES is 'yes': expected true or false"


LOADED = """
import sys
sys.argv = ["trainingrun-operator", {job!r}]
from trainingrun_operator import __main__
from trainingrun_operator.agent import {module} as job
job.run = lambda: 0
__main__.main()
print(*sys.modules)
"""


@pytest.mark.parametrize(
    ("job", "module", "never"),
    [
        pytest.param(
            "gate",
            "gate",
            {
                "pydantic",
                "boto3",
                "botocore",
                "kopf",
                "kubernetes",
                "aiohttp",
                "asyncio",
                "yaml",
                "awscrt",
                "importlib.metadata",
            },
            id="the gate loads the standard library only",
        ),
        pytest.param(
            "agent",
            "main",
            {"kopf", "kubernetes", "aiohttp", "prometheus_client", "pydantic_settings"},
            id="the agent loads no Kubernetes client, and no reader of settings",
        ),
        pytest.param(
            "restore",
            "restore",
            {"kopf", "kubernetes", "aiohttp", "prometheus_client", "pydantic_settings"},
            id="nor does restore",
        ),
    ],
)
def test_what_rides_in_every_training_pod_stays_small(job, module, never):
    loaded = subprocess.run(
        [sys.executable, "-c", LOADED.format(job=job, module=module)], capture_output=True, text=True, check=True
    )
    assert never & set(loaded.stdout.split()) == set()
    assert not {
        name
        for name in loaded.stdout.split()
        if name.startswith(("trainingrun_operator.controller", "trainingrun_operator.edge"))
    }
