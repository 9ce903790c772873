"""Alerts and dashboards over the operator in the cluster, by a real Prometheus and a real Alertmanager."""

from __future__ import annotations

import json
import re
import shlex

import pytest
from e2e.api import RUNS
from e2e.faults import hold_node
from e2e.ground import POOL, REPOSITORY
from e2e.monitoring import alertmanager, operator_target, prometheus, webhook
from promql import every_query
from waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

MANY_EPOCHS = ("--epochs", "600", "--batch", "36", "--step-seconds", "0.1", "--reads", "2")
"""Of four seconds: the operator reads steps of the first one, and then knows how long the rest will take."""
HELD_AT_41 = (*MANY_EPOCHS, "--save-every", "40", "--hold-at", "41")
"""Nothing changes while files are copied."""
ONE_EPOCH = ("--epochs", "1", "--batch", "2", "--step-seconds", "0.2", "--save-every", "20")
"""The final one from the beginning: a stall would be counted."""
STEPS = ("--epochs", "3", "--batch", "72", "--step-seconds", "0.1", "--reads", "2", "--linger", "600")
"""And then nothing more. The operator reads the first steps, and so sees it advance. Without a number of epochs, nothing says that it is complete."""
BOARDS = REPOSITORY / "charts" / "trainingrun-operator" / "files" / "dashboards"
RUNBOOKS = REPOSITORY / "docs" / "runbooks"
WITHOUT_EXPORTER = frozenset({"trainingrun_idle_since_timestamp_seconds"})
"""No DCGM exporter is on the cluster; `test_idle` has one of its own, for an operator of its own."""
ELSEWHERE = ("aws",)
"""First words of commands that are for a cloud's account."""
# Whatever a runbook would change is asked for and not done.
ONLY_ASKS = """kubectl() {
  case " $* " in
    *" patch "* | *" annotate "* | *" delete "* | *" apply "*) command kubectl "$@" --dry-run=server ;;
    *) command kubectl "$@" ;;
  esac
}
"""


@pytest.fixture
def receiver():
    with webhook() as (address, notices):
        yield address, notices


def hasty_pool(space):
    """The pool of the ground by another name, for this namespace alone, that calls a release overdue after a second."""
    spec = space.api.get(f"{RUNS}/gpunodepools/{POOL}")["spec"]
    spec |= {
        "alertAfterSeconds": 1,
        "price": {"perNodeHour": 32.77, "currency": "USD"},
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": space.name}},
    }
    space.api.create(f"{RUNS}/gpunodepools", {"apiVersion": "trainingrun.dev/v1alpha1", "kind": "GPUNodePool", "metadata": {"name": space.name}, "spec": spec})  # fmt: skip
    space.undo.append(lambda: space.api.delete(f"{RUNS}/gpunodepools/{space.name}"))
    return {"ref": space.name}


def told(notice, run, severity):
    """A notice says which run, how bad, and where to read on."""
    labels, annotations = notice["labels"], notice["annotations"]
    assert (labels["name"], labels["severity"], labels["product"]) == (run.name, severity, "trainingrun")
    assert "exported_namespace" not in labels
    assert f"{run.space.name}/{run.name}" in annotations["summary"]
    assert annotations["runbook_url"].endswith(f"/runbooks/{labels['alertname']}.html")


def test_a_held_checkpoint_and_an_unreleased_node_are_told_and_every_panel_shows_something(
    gpu_nodes, steady_operator, space, s3_proxy, tmp_path, receiver
):
    address, notices = receiver
    with (
        alertmanager(tmp_path, address) as sender,
        prometheus(tmp_path, operator_target(tmp_path, space.ground), sender) as metrics,
    ):
        gpu = space.run(
            "gpu",
            *MANY_EPOCHS,
            gpus=8,
            autoStopLoss=0.0001,
            nodePool=hasty_pool(space),
            budget={"maxGpuHours": 1000, "maxCost": 25000},
        )
        endless = {"names": {"totalEpochs": ["no_such_total"]}}
        hung = space.run("hung", *STEPS, metrics=endless, hangDetection={"noProgressSeconds": 5})
        held = space.run("held", *ONE_EPOCH, checkpoint={"s3": {"endpointURL": s3_proxy.url}})
        held.wait_training()
        held.wait_commits()
        s3_proxy.cut()
        held.merge({"spec": {"stop": True}})

        node = gpu.wait_training()["spec"]["nodeName"]
        gpu.wait_condition("CheckpointSaved")
        gpu.wait(lambda status: (status.get("progress") or {}).get("etaSeconds"), "how long it would take is known")
        eta = f'trainingrun_eta_seconds{{namespace="{space.name}"}}'
        eventually(lambda: metrics.series(eta), "it was scraped, before a stop ends it")
        let_go = hold_node(space, node)
        gpu.merge({"spec": {"stop": True}})
        told(notices.wait("CheckpointHeld", space.name, "firing"), held, "critical")
        told(notices.wait("NodeReleaseOverdue", space.name, "firing"), gpu, "warning")
        told(notices.wait("RunHung", space.name, "firing"), hung, "warning")

        s3_proxy.mend()
        held.wait_finished()
        notices.wait("CheckpointHeld", space.name, "resolved")
        let_go()
        gpu.wait_finished()
        notices.wait("NodeReleaseOverdue", space.name, "resolved")

        every_rule_could_be_asked(metrics)
        no_panel_is_empty(metrics, [{"namespace": space.name, "name": run.name} for run in (gpu, held, hung)])
        ended = 'increase(trainingrun_terminations_total{status="user_stop"}[2m])'
        eventually(lambda: metrics.most(ended) >= 1, "an end is counted")
        saved = 'increase(trainingrun_gpu_seconds_saved_total{status="user_stop"}[2m])'
        eventually(lambda: metrics.most(saved) > 0, "saved GPU time is counted")
        assert metrics.most(f'trainingrun_nodes_overdue{{namespace="{space.name}"}}') == 1


def every_rule_could_be_asked(metrics):
    rules = [rule for group in metrics.ask("rules")["groups"] for rule in group["rules"]]
    assert rules
    assert not {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"}


def no_panel_is_empty(metrics, runs):
    """Each PromQL of the dashboards answers for one of the runs, asked as Grafana does after its own words are filled in."""
    queries = [query for board in sorted(BOARDS.glob("*.json")) for query in every_query(json.loads(board.read_text()))]
    assert len(queries) > 60
    empty = [query for query in queries if not any(name in query.expr for name in WITHOUT_EXPORTER)]

    def all_answer():
        empty[:] = [query for query in empty if not any(metrics.series(filled(query.expr, run)) for run in runs)]
        return not empty

    try:
        eventually(all_answer, "every query answers")
    except AssertionError:
        pytest.fail("\n".join(f"{query.place}: {query.expr}" for query in empty))


def filled(expr, run):
    words = {**run, "__rate_interval": "30s", "__interval": "30s", "__range": "5m"}
    expr = re.sub(r"\$(\w+)", lambda word: words[word[1]], expr)
    choice = re.fullmatch(r"label_values\((.+), (\w+)\)", expr)
    return f"count by ({choice[2]}) ({choice[1]})" if choice else expr


def commands():
    """What stands in code blocks of runbooks, block by block."""
    for page in sorted(RUNBOOKS.glob("*.md")):
        for block in re.findall(r"^ *```sh\n(.*?)^ *```$", page.read_text(), re.MULTILINE | re.DOTALL):
            if not block.lstrip().startswith(ELSEWHERE):
                yield page.stem, "\n".join(line.strip() for line in block.splitlines())


def test_the_commands_of_the_runbooks_are_commands(space, tmp_path):
    run = space.run("bert", *HELD_AT_41)
    run.wait_training()
    run.wait_commits()
    run.wait_step(41)
    asked: dict[str, str] = {}
    for page, block in commands():
        asked.setdefault(block.replace("NAMESPACE", space.name).replace("NAME", run.name), page)
    assert len(asked) > 20
    # One shell for all of them: each is told by its page, and any that fails ends it.
    script = [f"cd {shlex.quote(str(tmp_path))}", ONLY_ASKS]
    for block, page in asked.items():
        script += [f"echo '### {page}' >&2", f"( set -euo pipefail\n{block}\n) >/dev/null"]
    space.shell("\n".join(script), seconds=600)
    assert list((tmp_path / f"checkpoints-of-{run.name}").glob("checkpoint-*/model.npz")), (
        "The bytes were copied out of the pod."
    )
