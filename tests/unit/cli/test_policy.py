"""What is in force, and where it comes from."""

from __future__ import annotations

import pytest
from builders import checkpoint_spec, make_run, make_status, template
from goldens import assert_golden

from trainingrun_operator.api.status import Effective
from trainingrun_operator.cli.policy import in_force

RUNS = {
    "as little as possible": make_run(
        spec={"autoStopLoss": None},
        status=make_status(effective=Effective(auto_stop_loss=0.5, auto_stop_action="Shadow")),
    ),
    "nobody has looked at it": make_run(spec={"autoStopLoss": None}, status=make_status()),
    "everything written": make_run(
        spec={
            "autoStopLoss": 0.3,
            "backoffLimit": 1,
            "stallPolls": 9,
            "pollIntervalSeconds": 5,
            "stopMode": "NextCheckpoint",
            "shutdown": {"graceSeconds": 600, "file": "HALT", "signal": "SIGTERM"},
            "completion": {
                "markerFiles": [],
                "settleSeconds": 10,
                "finalStep": 500,
                "totalEpochs": 2.5,
                "outputs": ["final/model.bin"],
            },
            "metrics": {
                "port": 9000,
                "path": "/m",
                "container": "train",
                "names": {"loss": ["l"], "step": ["s"], "epoch": ["e"], "totalEpochs": ["t"]},
            },
            "checkpoint": checkpoint_spec(
                path="/ckpt",
                s3={"endpointURL": "https://minio:9000", "region": "eu-1", "credentialsSecretName": "keys"},
                include=["*.bin"],
                exclude=["tmp/**"],
                onFailure="Proceed",
            ),
            "nodePool": {"ref": "a100", "policy": "Never"},
            "ttlSecondsAfterFinished": 86_400,
        },
        status=make_status(effective=Effective(auto_stop_loss=0.3)),
    ),
    "a loss that ends nothing, nothing saved": make_run(
        spec={"autoStopLoss": -1, "checkpoint": {"mode": "Disabled"}},
        status=make_status(effective=Effective(auto_stop_action="Off", node_pool="gpu")),
    ),
}


def text_of(run) -> str:
    return "".join(
        f"{topic}\n" + "".join(f"  {' | '.join(rule)}\n" for rule in rules) for topic, rules in in_force(run)
    )


def test_every_rule_says_what_holds_and_by_whom():
    assert_golden("cli/policy.txt", "".join(f"## {name}\n\n{text_of(run)}\n" for name, run in RUNS.items()))


def rule(run, what):
    return next(rule for _, rules in in_force(run) for rule in rules if rule.what == what)


def test_a_default_of_the_installation_that_is_enforced_is_told_as_such():
    run = make_run(
        spec={"autoStopLoss": None},
        status=make_status(effective=Effective(auto_stop_loss=0.5, auto_stop_action="Stop")),
    )
    assert rule(run, "loss").value == "loss < 0.5, 2 times in a row"
    assert rule(run, "loss").source.startswith("the installation's defaults.autoStopLoss")


@pytest.mark.parametrize("containers", [[], None])
def test_a_template_without_containers_is_still_told_of(containers):
    run = make_run(spec={"template": template(containers=containers)})
    assert rule(run, "container").value == "none: the template has no container"
