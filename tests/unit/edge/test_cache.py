"""What is kept of what the watches bring."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from builders import JOB_UID, NAME, POD_UID, RUN_UID
from fakes import stored_job, stored_pod, stored_pool, stored_run
from kubelet import ended, running
from kubelet import stored_pod as kubelet_pod

from trainingrun_operator.api import names
from trainingrun_operator.api.template import Template
from trainingrun_operator.core.facts.pod import Pod
from trainingrun_operator.edge.apiserver.slim import loads
from trainingrun_operator.edge.cache import Cache


@pytest.fixture
def cache():
    return Cache()


def field(manager, *spec):
    return {"manager": manager, "fieldsV1": {"f:spec": {f"f:{name}": {} for name in spec}}}


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        pytest.param("7", "8", True, id="a newer version is kept"),
        pytest.param("9", "10", True, id="versions are numbers, not texts"),
        pytest.param("8", "8", True, id="the same version again is kept"),
        pytest.param("8", "7", False, id="an older version is not"),
        pytest.param("8", "", False, id="no version is older than any"),
    ],
)
def test_a_run_is_kept_unless_a_newer_one_is_known(cache, first, second, kept):
    cache.put_run(stored_run(resourceVersion=first))
    assert cache.put_run(stored_run(resourceVersion=second)) is kept
    assert cache.runs[RUN_UID]["metadata"]["resourceVersion"] == (second if kept else first)


def test_of_who_wrote_what_only_who_asked_for_something_by_hand_is_kept(cache):
    stop, others = field("kubectl-patch", "stop"), [field("kubectl-create", "template"), {"manager": "x"}]
    annotations: dict[str, dict[str, str]] = {f"f:{names.ABANDON_RELEASE_ANNOTATION}": {}}
    abandon = {"manager": "kubectl-annotate", "fieldsV1": {"f:metadata": {"f:annotations": annotations}}}
    cache.put_run(stored_run(managedFields=[*others, stop, abandon]))
    assert cache.runs[RUN_UID]["metadata"]["managedFields"] == [stop, abandon]


def test_what_was_handed_in_is_not_changed(cache):
    stored = stored_run(managedFields=[field("kubectl-create", "template")])
    cache.put_run(stored)
    assert len(stored["metadata"]["managedFields"]) == 1


@pytest.mark.parametrize("kind", ["Pod", "Job"])
@pytest.mark.parametrize("labels", [None, {}, {"app": "other"}])
def test_an_object_without_our_label_is_nobodys(cache, kind, labels):
    assert cache.put_child(kind, stored_pod(labels=labels), deleted=False) is None
    assert not cache.pods
    assert not cache.jobs


def test_pods_are_kept_by_run_and_uid(cache):
    for uid in ("first", "second"):
        assert cache.put_child("Pod", stored_pod(uid=uid), deleted=False) == RUN_UID
    cache.put_child("Pod", stored_pod(uid="first", name="the same under another name"), deleted=True)
    assert list(cache.pods[RUN_UID]) == ["second"]


def test_forgetting_a_pod_that_was_never_known_is_nothing(cache):
    assert cache.put_child("Pod", stored_pod(), deleted=True) == RUN_UID
    assert cache.pods[RUN_UID] == {}


def test_a_job_is_kept_until_it_is_deleted(cache):
    cache.put_child("Job", stored_job(), deleted=False)
    assert cache.jobs[RUN_UID]["metadata"]["uid"] == JOB_UID
    cache.put_child("Job", stored_job(), deleted=True)
    assert not cache.jobs


@pytest.mark.parametrize(
    "where",
    [
        pytest.param({"namespace": "elsewhere"}, id="in another namespace"),
        pytest.param({"name": "another"}, id="of another name"),
    ],
)
def test_a_job_that_only_carries_the_label_does_not_stand_in_for_the_runs_own(cache, where):
    cache.put_run(stored_run())
    cache.put_child("Job", stored_job(), deleted=False)
    pretender = stored_job()
    pretender["metadata"] |= {"uid": "pretender", **where}
    assert cache.put_child("Job", pretender, deleted=False) is None
    assert cache.put_child("Job", pretender, deleted=True) is None
    assert cache.jobs[RUN_UID]["metadata"]["uid"] == JOB_UID


def test_what_the_api_server_says_replaces_what_the_watch_has_missed(cache):
    cache.put_child("Pod", stored_pod(uid="gone"), deleted=False)
    cache.put_child("Job", stored_job(), deleted=False)
    cache.put_children(RUN_UID, [stored_pod()], None)
    assert list(cache.pods[RUN_UID]) == [POD_UID]
    assert not cache.jobs
    cache.put_children(RUN_UID, [], stored_job())
    assert cache.pods[RUN_UID] == {}
    assert cache.jobs[RUN_UID]["metadata"]["name"] == NAME


def test_a_forgotten_run_takes_everything_with_it(cache):
    cache.put_run(stored_run())
    cache.put_child("Pod", stored_pod(), deleted=False)
    cache.put_child("Job", stored_job(), deleted=False)
    cache.forget_run(RUN_UID)
    cache.forget_run(RUN_UID)
    assert (cache.runs, cache.pods, cache.jobs) == ({}, {}, {})


def test_a_list_of_pools_replaces_what_was_known_but_for_one_that_is_not_understood(cache, caplog):
    cache.put_pools([stored_pool(), stored_pool("gone"), stored_pool("newer")], 5)
    cache.put_pools(
        [stored_pool(), stored_pool("newer", spec={"minNodes": "many"}), stored_pool("odd", spec={"minNodes": -1})], 9
    )
    assert (sorted(cache.pools), cache.pools_at) == (["a100", "newer"], 9)
    assert "GPUNodePool newer is invalid" in caplog.text
    assert "GPUNodePool odd is invalid" in caplog.text


def test_a_pool_is_parsed_and_replaced_as_a_whole(cache):
    cache.put_pool(stored_pool(), deleted=False)
    cache.put_pool(stored_pool(spec={"nodeSelector": {"pool": "other"}}), deleted=False)
    assert cache.pools["a100"].selects({"pool": "other"})
    assert not cache.pools["a100"].selects({"pool": "a100"})
    cache.put_pool(stored_pool(), deleted=True)
    cache.put_pool(stored_pool(), deleted=True)
    assert not cache.pools


@pytest.mark.parametrize(
    ("run", "ending"),
    [
        pytest.param({}, False, id="one that trains will release its node"),
        pytest.param({"status": {"termination": {"phase": "Deleting"}}}, False, id="one whose pods go will"),
        pytest.param({"status": {"termination": None}}, False, id="one without a stop will"),
        pytest.param(
            {"status": {"termination": {"phase": "Deleting", "rescue": {"claim": "c", "attempt": 2}}}},
            True,
            id="one that releases before a rescue after its proof does not",
        ),
        pytest.param(
            {"status": {"termination": {"phase": "Deleting", "rescue": {"node": "gpu-1", "attempt": 2}}}},
            False,
            id="one whose node has the volume of the rescue will",
        ),
        pytest.param(
            {"status": {"termination": {"phase": "Deleting", "rescue": {"claim": "c", "attempt": 2, "over": True}}}},
            False,
            id="one whose rescue after the proof is over will",
        ),
        pytest.param(
            {"status": {"termination": {"phase": "Releasing"}}}, True, id="one that releases already does not"
        ),
        pytest.param({"status": {"termination": {"phase": "Done"}}}, True, id="one that is done does not"),
        pytest.param({"spec": {"nodePool": {"policy": "Never"}}}, True, id="one that was told never to does not"),
        pytest.param({"spec": {"nodePool": {"policy": "WhenEmpty"}}}, False, id="one that was told to will"),
    ],
)
def test_who_releases_no_node_any_more(cache, run, ending):
    cache.put_run(stored_run(**run))
    assert cache.ending_runs() == (frozenset({RUN_UID}) if ending else frozenset())


# -- what users fill their objects with ---------------------------------------------------------------------------


def test_of_a_run_only_what_is_read_of_it_is_kept(cache):
    requested = {
        "manager": "kubectl",
        "fieldsV1": {"f:spec": {"f:stop": {}, "f:template": {"f:x": {}}}, "f:status": {}},
    }
    cache.put_run(
        stored_run(
            labels={names.KUEUE_QUEUE_LABEL: "gpu", "mine": "x"},
            annotations={
                names.ABANDON_RELEASE_ANNOTATION: "true",
                "kubectl.kubernetes.io/last-applied-configuration": "{}",
            },
            ownerReferences=[{"uid": "u"}],
            managedFields=[requested],
            selfLink="/x",
        )
    )
    meta = cache.runs[RUN_UID]["metadata"]
    assert meta["labels"] == {names.KUEUE_QUEUE_LABEL: "gpu"}
    assert meta["annotations"] == {names.ABANDON_RELEASE_ANNOTATION: "true"}
    assert meta["managedFields"] == [{"manager": "kubectl", "fieldsV1": {"f:spec": {"f:stop": {}}}}]
    assert "selfLink" not in meta


def test_a_template_is_taken_over_once_and_again_with_another_generation(cache):
    cache.put_run(stored_run())
    first = cache.runs[RUN_UID]["spec"]["template"]
    assert isinstance(first, Template)
    cache.put_run(stored_run(resourceVersion="8"))
    assert cache.runs[RUN_UID]["spec"]["template"] is first
    cache.put_run(stored_run(resourceVersion="9", generation=2, spec={"template": {"spec": {}}}))
    assert cache.runs[RUN_UID]["spec"]["template"] == {"spec": {}}


@pytest.mark.parametrize("template", [None, 7, ["x"]])
def test_what_is_no_template_is_kept_for_the_model_to_refuse(cache, template):
    cache.put_run(stored_run(spec={"template": template}))
    assert cache.runs[RUN_UID]["spec"]["template"] == template


def test_of_a_pod_only_what_is_read_of_it_is_kept(cache):
    pod = stored_pod(managedFields=[{}] * 1000)
    pod["spec"] |= {
        "volumes": [{"name": "x"}] * 1000,
        "containers": [
            {
                "name": "train",
                "env": [{"name": "x"}] * 1000,
                "resources": {"limits": {"nvidia.com/gpu": "1"}},
                "lifecycle": {"preStop": {"httpGet": {"httpHeaders": [{"name": "x"}] * 1000}}},
            }
        ],
        "initContainers": None,
    }
    cache.put_child("Pod", pod, deleted=False)
    (kept,) = cache.pods[RUN_UID].values()
    assert kept["spec"]["containers"] == [
        {"name": "train", "resources": {"limits": {"nvidia.com/gpu": "1"}}, "lifecycle": {"preStop": {}}}
    ]
    assert not kept["spec"].keys() & {"volumes"}
    assert "managedFields" not in kept["metadata"]
    assert kept["status"] == pod["status"]


def test_a_pod_says_the_same_as_it_is_kept_as_when_it_was_read(cache):
    volume = [{"name": "checkpoints", "mountPath": "/checkpoints"}]
    train = ended(137, reason="OOMKilled", message="token=secret")
    stored = kubelet_pod(train=train, writer=running(), checkpoint_gate=running(), authors=("train", "writer"))
    first, second, _ = stored["spec"]["containers"]
    first |= {
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [137]}}],
    }
    first["lifecycle"] = {"preStop": {"exec": {"command": ["sync"]}}}
    second["volumeMounts"] = stored["spec"]["initContainers"][1]["volumeMounts"] = volume
    whole = Pod.of(stored)
    assert (whole.writers, whole.starts_again, whole.exit_reason) == (("writer",), True, "OOMKilled")
    cache.put_child("Pod", loads(json.dumps(stored).encode()), deleted=False)
    assert Pod.of(cache.pods["run-uid"]["pod-uid"]) == whole


def test_runs_take_little_memory_whatever_their_templates_hold():
    cache = Cache()
    hostile: dict[str, list[dict[str, str]]] = {"x": [{}] * 87_000}
    tracemalloc.start()
    try:
        for number in range(50):
            cache.put_run(stored_run(uid=f"small-{number}", spec={"template": hostile}))
            cache.put_run(stored_run(uid=f"large-{number}", spec={"template": {"x": hostile["x"] * 5}}))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Parsed, each of the large ones took 33 MiB.
    assert kept < 50 * 300_000
