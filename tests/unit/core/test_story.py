"""A run's story: what a person wants to know later, and none of the places where people put secrets."""

from __future__ import annotations

import json

import pytest
from builders import checkpoint_spec, make_run, make_saved, make_status, make_stop

from trainingrun_operator.api.status import SUSPENDED, Phase
from trainingrun_operator.core.facts.run import Run
from trainingrun_operator.core.story import is_told, log_bytes, story

SECRET = "hf_do-not-tell"
CONTAINER = {
    "name": "train",
    "image": "acme/bert:1",
    "command": ["sh", "-c", f"HF_TOKEN={SECRET} python train.py"],
    "args": [f"--token={SECRET}", SECRET],
    "env": [{"name": "HF_TOKEN", "value": SECRET}, {"name": SECRET, "value": "x"}],
    "envFrom": [{"prefix": SECRET}],
    "livenessProbe": {"httpGet": {"port": 1, "httpHeaders": [{"name": "Authorization", "value": SECRET}]}},
    "lifecycle": {"preStop": {"exec": {"command": [SECRET]}}},
    "workingDir": f"/{SECRET}",
    "resources": {"limits": {"nvidia.com/gpu": 1}},
}
TEMPLATE = {
    "metadata": {"annotations": {"note": SECRET}, "labels": {"note": SECRET}},
    "spec": {
        "initContainers": [CONTAINER | {"name": "prepare"}],
        "containers": [CONTAINER],
        "volumes": [{"name": "v", "csi": {"driver": "d", "volumeAttributes": {"token": SECRET}}}],
        "hostAliases": [{"ip": "127.0.0.1", "hostnames": [SECRET]}],
    },
}


def ended(**stop):
    return make_status(termination=make_stop(Phase.DONE, saved=make_saved(), last_log_lines=SECRET, **stop), completion_time="2026-01-01T00:00:00Z")  # fmt: skip


def test_nothing_of_the_template_or_of_the_log_that_may_be_a_secret_is_told():
    run = make_run(spec={"template": TEMPLATE}, status=ended())
    body = story(run, run.status)
    assert SECRET not in body.decode()
    kept = {"image": "acme/bert:1", "resources": {"limits": {"nvidia.com/gpu": 1}}}
    assert json.loads(body)["spec"]["template"] == {
        "spec": {"initContainers": [{"name": "prepare", **kept}], "containers": [{"name": "train", **kept}]}
    }


def test_the_story_is_a_run_that_can_be_read_again():
    run = make_run(spec={"template": TEMPLATE}, status=ended(), created="2026-01-01T00:00:00Z")
    again = Run.of(json.loads(story(run, run.status)))
    assert (again.namespace, again.name, again.uid, again.created) == (run.namespace, run.name, run.uid, run.created)
    assert again.spec.checkpoint == run.spec.checkpoint
    assert again.status.termination is not None
    assert again.status.termination.message == "Loss 0.2931 < 0.5 at step 1200."
    assert again.status.history == run.status.history


def test_the_same_run_gives_the_same_bytes():
    run = make_run(spec={"template": TEMPLATE}, status=ended())
    assert story(run, run.status) == story(run, run.status)


@pytest.mark.parametrize(
    "template",
    [{}, {"spec": None}, {"spec": []}, {"spec": {"containers": None}}, {"metadata": {"name": "x"}}],
)
def test_a_template_of_any_shape_is_told(template):
    run = make_run(spec={"template": template}, status=make_status())
    assert json.loads(story(run, run.status))["spec"]["template"] == {"spec": {}}


def test_names_that_are_no_text_are_told():
    template = {"spec": {"containers": [{"name": "train", "image": "a\udc80b"}]}}
    run = make_run(spec={"template": template}, status=make_status())
    assert b"a?b" in story(run, run.status)


@pytest.mark.parametrize(
    ("status", "spec", "told"),
    [
        pytest.param(ended(), {}, True, id="ended"),
        pytest.param(make_status(), {}, False, id="not ended"),
        pytest.param(make_status(termination=make_stop(Phase.RELEASING)), {}, False, id="not yet"),
        pytest.param(ended(status=SUSPENDED), {}, False, id="suspended"),
        pytest.param(ended(), {"checkpoint": checkpoint_spec(mode="Disabled")}, False, id="without a bucket"),
    ],
)
def test_who_has_a_story(status, spec, told):
    run = make_run(spec=spec, status=status)
    assert is_told(run, status) is told


@pytest.mark.parametrize(
    ("rank", "ranks", "kept"),
    [(0, 1, 10_000_000), (0, 1024, 10_000_000), (1, 2, 1_000_000), (63, 64, 1_000_000), (64, 65, 1_000_000), (1, 66, 984_615), (9, 1024, 62_561), (1, 1, 1_000_000)],
)  # fmt: skip
def test_of_every_rank_some_of_the_log_is_kept_and_of_all_together_not_too_much(rank, ranks, kept):
    assert log_bytes(rank, ranks) == kept
    assert sum(log_bytes(one, ranks) for one in range(ranks)) <= 74_000_000
