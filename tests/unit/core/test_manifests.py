"""The Job of a run, as paired files: a TrainingRun, and what is made of it. UPDATE_GOLDENS=1 rewrites the outputs."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import pytest
import yaml
from builders import make_run, template
from goldens import assert_golden

from trainingrun_operator.agent import relay
from trainingrun_operator.api.exchange import AGENT_CONFIG_ENV, AgentConfig
from trainingrun_operator.core import manifests
from trainingrun_operator.core.acceptance import complaint
from trainingrun_operator.core.defaults import Defaults
from trainingrun_operator.core.facts.run import Run

GOLDENS = Path(__file__).parents[2] / "golden" / "children"
CASES = sorted(path.name.removesuffix(".input.yaml") for path in GOLDENS.glob("*.input.yaml"))
RESOURCES = {"requests": {"cpu": "100m", "memory": "256Mi"}}


@pytest.mark.parametrize("case", CASES)
def test_golden(case):
    stored = yaml.safe_load((GOLDENS / f"{case}.input.yaml").read_text(encoding="utf-8"))
    run = Run.of(stored)
    assert complaint(run, (), Defaults()) is None
    as_sent = json.loads(json.dumps(manifests.job(run, Defaults())))
    made = yaml.safe_dump(as_sent, sort_keys=False, width=120)
    assert_golden(f"children/{case}.output.yaml", made)


def config_of(run):
    """The configuration of the agent in a pod of the run, as the agent reads it."""
    agent = manifests.pod_template(run, Defaults())["spec"]["initContainers"][1]
    (config,) = [one["value"] for one in agent["env"] if one["name"] == AGENT_CONFIG_ENV]
    return json.loads(config)


def test_every_output_has_an_input():
    assert sorted(path.name.removesuffix(".output.yaml") for path in GOLDENS.glob("*.output.yaml")) == CASES


def test_the_template_that_was_seen_is_not_changed():
    written = template(volumes=[{"name": "data", "emptyDir": {}}])
    run = make_run(spec={"template": deepcopy(written)})
    manifests.job(run, Defaults())
    assert run.spec.template == written


def test_the_agent_has_the_resources_that_the_installation_gives_it():
    pod = manifests.pod_template(make_run(), Defaults(agent_resources=RESOURCES))["spec"]
    assert [c.get("resources") == RESOURCES for c in pod["initContainers"]] == [True, True]


@pytest.mark.parametrize(
    ("metrics", "page"),
    [
        pytest.param({}, "8000/metrics", id="the usual page"),
        pytest.param({"port": 9100, "path": "/a.b/~c"}, "9100/a.b/~c", id="a page of its own"),
        pytest.param({"path": "/"}, "8000/", id="the root"),
        pytest.param({"path": "/" + "a" * 254}, "8000/" + "a" * 254, id="the longest path"),
        pytest.param({"port": 65535}, "65535/metrics", id="the last port"),
        pytest.param({"source": "Auto"}, "8000/metrics", id="a choice that the page may win"),
        pytest.param({"source": "Prometheus"}, "8000/metrics", id="the page, named"),
        pytest.param({"source": "Push"}, None, id="what the training posts"),
        pytest.param({"source": "Files"}, None, id="the training's files"),
        pytest.param({"source": "Logs"}, None, id="what the training prints"),
        pytest.param({"source": "third-party"}, None, id="a source of another package"),
        pytest.param({"path": "/a/../b"}, None, id="a path that a client resolves"),
        pytest.param({"path": "/.hidden"}, None, id="a name with a dot before"),
        pytest.param({"port": 18790}, None, id="the agent's own port"),
    ],
)
def test_an_agent_knows_the_one_page_that_it_reads(metrics, page):
    config = config_of(make_run(spec={"metrics": metrics}))
    assert config.get("metricsPage") == page
    assert AgentConfig.parse(config).metrics_page == page
    assert page is None or relay.page(page) is not None, "The agent reads whatever page the operator names."


@pytest.mark.parametrize("host_network", [True, False, None])
def test_an_agent_on_its_nodes_network_reads_no_page(host_network):
    """At its address the node serves pages too."""
    wanted = template()
    wanted["spec"]["hostNetwork"] = host_network
    config = config_of(make_run(spec={"template": wanted}))
    assert config.get("metricsPage") == (None if host_network else "8000/metrics")


def test_a_changed_page_is_that_of_the_next_pod():
    """A resumed run, for example, has a Job of its new spec."""
    before = make_run()
    after = make_run(spec={"metrics": {"port": 9100}})
    assert (config_of(before)["metricsPage"], config_of(after)["metricsPage"]) == ("8000/metrics", "9100/metrics")


def test_a_configuration_of_another_release_is_read():
    config = config_of(make_run())
    older = {key: value for key, value in config.items() if key != "metricsPage"}
    assert AgentConfig.parse(older).metrics_page is None
    assert AgentConfig.parse(config | {"ofALaterRelease": {"a": [1]}}) == AgentConfig.parse(config)


@pytest.mark.parametrize(
    ("mount", "path"),
    [
        pytest.param("/checkpoints", "/checkpoints", id="the path itself"),
        pytest.param("/checkpoints/", "/checkpoints", id="the path with a slash at its end"),
        pytest.param("/checkpoints", "/checkpoints/", id="the path with a slash that the mount lacks"),
        pytest.param("/", "/checkpoints", id="the root"),
        pytest.param("/data", "/data/run/checkpoints", id="a folder above"),
    ],
)
def test_an_authors_mount_is_used_and_nothing_is_mounted_over_it(mount, path):
    container = {"name": "train", "image": "acme/bert", "volumeMounts": [{"name": "data", "mountPath": mount}]}
    spec = {"template": template(containers=[container], volumes=[{"name": "data", "emptyDir": {}}])}
    run = make_run(spec={**spec, "checkpoint": {"mode": "Disabled", "path": path}})
    pod = manifests.pod_template(run, Defaults())["spec"]
    assert [m["name"] for m in pod["containers"][0]["volumeMounts"]] == ["data", "trainingrun-control"]
    assert pod["initContainers"][0]["volumeMounts"][0] == {"name": "data", "mountPath": mount}


def test_a_sibling_of_the_path_is_not_its_mount():
    container = {"name": "train", "image": "acme/bert", "volumeMounts": [{"name": "data", "mountPath": "/check"}]}
    pod = manifests.pod_template(make_run(spec={"template": template(containers=[container])}), Defaults())["spec"]
    assert [m["name"] for m in pod["containers"][0]["volumeMounts"]] == [
        "data",
        "trainingrun-checkpoints",
        "trainingrun-control",
    ]


def test_the_first_volume_that_the_agent_mounts_is_that_of_the_checkpoints():
    """`core.facts.containers` finds by it who else can write there."""
    mounted = [{"name": "data", "mountPath": "/checkpoints"}, {"name": "cache", "mountPath": "/cache"}]
    author = template()
    author["spec"]["containers"][0]["volumeMounts"] = mounted
    spec = manifests.pod_template(make_run(spec={"template": author}), Defaults())["spec"]
    (agent,) = [one for one in spec["initContainers"] if one["name"] == "checkpoint-agent"]
    assert agent["volumeMounts"][0]["name"] == "data"


def variables(source, **container):
    pod = template()
    pod["spec"]["containers"][0] |= container
    run = make_run(spec={"template": pod, "metrics": {"source": source} if source else {}})
    made = manifests.job(run, Defaults())["spec"]["template"]["spec"]["containers"][0]["env"]
    return {one["name"]: one["value"] for one in made}


@pytest.mark.parametrize("source", ["Push", "Auto"])
def test_a_training_that_may_post_is_told_where_also_in_kubeflow_s_words(source):
    env = variables(source)
    assert env["TRAININGRUN_PUSH_URL"] == env["KUBEFLOW_TRAINER_SERVER_URL"] == "http://127.0.0.1:18790/push"
    assert env["KUBEFLOW_TRAINER_SERVER_TOKEN"] == f"{env['TRAININGRUN_CONTROL']}/push_token"


def test_a_training_that_posts_to_kubeflow_goes_on_doing_so():
    theirs = {"name": "KUBEFLOW_TRAINER_SERVER_URL", "value": "https://theirs"}
    assert variables("Auto", env=[theirs])["KUBEFLOW_TRAINER_SERVER_URL"] == "https://theirs"
    assert "KUBEFLOW_TRAINER_SERVER_TOKEN" not in variables("Auto", env=[theirs])


@pytest.mark.parametrize("source", ["Prometheus", "Logs", "Files", None])
def test_a_training_whose_posts_are_not_read_is_not_told_to_post(source):
    assert not {name for name in variables(source) if "PUSH" in name or "KUBEFLOW" in name}
