"""The rescue Job: what of the author's template it keeps, what it never has, and where it may run."""

from __future__ import annotations

import json

import pytest
import yaml
from builders import (
    JOB_UID,
    NAME,
    RUN_UID,
    STOP_ID,
    make_node,
    make_run,
    make_status,
    make_stop,
    make_workload,
    stopping_at,
    template,
)
from goldens import assert_golden

from trainingrun_operator.api import names
from trainingrun_operator.api.status import NodePhase, Phase, Rescue
from trainingrun_operator.core import rescue_job
from trainingrun_operator.core.defaults import Defaults
from trainingrun_operator.core.facts.rescue import Claim, RescueFacts
from trainingrun_operator.core.kept_volume import ended_volume, kept_volume

HERE = Rescue(claim="checkpoints", node="gpu-1", since="2026-01-02T03:00:00Z")
ANYWHERE = Rescue(claim="checkpoints")
TOLERATIONS = [{"key": "nvidia.com/gpu", "operator": "Exists"}]


def a_template(**pod):
    made = template(volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": "checkpoints"}}, {"name": "code", "configMap": {"name": "c"}}], **pod)  # fmt: skip
    made["spec"]["containers"][0] |= {
        "volumeMounts": [{"name": "data", "mountPath": "/checkpoints", "subPath": "bert"}, {"name": "code", "mountPath": "/code"}],
        "env": [{"name": "TOKEN", "value": "of the author"}],
    }  # fmt: skip
    return made


SHARED = RescueFacts(Claim("checkpoints", "u", "Bound", ("ReadWriteMany",)))


def built(rescue=HERE, *, nodes=(), rescue_facts=None, **fields):
    """The Job, and its pod."""
    pod = fields.pop("pod", {"tolerations": TOLERATIONS})
    seen = stopping_at(
        Phase.SAVING,
        stop={"rescue": rescue, "attempt": 2},
        spec={"template": a_template(**pod)},
        rescue=rescue_facts,
        **fields,
    )
    status = seen.run.status.model_copy(update={"nodes": nodes})
    object.__setattr__(seen.run, "status", status)
    assert status.termination is not None
    made = rescue_job.job(seen, status.termination, rescue)
    return made, made["spec"]["template"]["spec"]


def test_golden():
    """Whole, with everything that a template may bring along."""
    pod = {
        "securityContext": {"runAsUser": 1000, "fsGroup": 2000, "supplementalGroups": [3000], "seccompProfile": {"type": "RuntimeDefault"}},
        "serviceAccountName": "trainer",
        "imagePullSecrets": [{"name": "registry"}],
        "nodeSelector": {"gpu": "a100"},
        "tolerations": TOLERATIONS,
        "terminationGracePeriodSeconds": 900,
    }  # fmt: skip
    made, _ = built(pod=pod)
    assert_golden("children/rescue.yaml", yaml.safe_dump(json.loads(json.dumps(made)), sort_keys=False, width=120))


def test_it_has_neither_a_gpu_nor_anything_of_the_author_that_runs():
    _, pod = built(pod={"initContainers": [{"name": "fetch", "image": "acme/fetch"}], "tolerations": TOLERATIONS})
    assert [one["name"] for one in pod["containers"]] == [names.AGENT_CONTAINER]
    assert "initContainers" not in pod
    assert "gpu" not in json.dumps(pod["containers"])
    assert "of the author" not in json.dumps(pod)
    assert {volume["name"] for volume in pod["volumes"]} == {"data", names.CONTROL_VOLUME, names.PODINFO_VOLUME, names.SECRET_VOLUME}  # fmt: skip


def test_it_reads_the_authors_folder_of_the_claim_and_cannot_write_there():
    _, pod = built()
    mounts = pod["containers"][0]["volumeMounts"]
    assert [one for one in mounts if one["name"] == "data"] == [
        {"name": "data", "mountPath": "/checkpoints", "subPath": "bert", "readOnly": True}
    ]
    assert pod["volumes"][0] == {"name": "data", "persistentVolumeClaim": {"claimName": "checkpoints"}}


def test_its_agent_is_told_what_it_does():
    _, pod = built()
    config = next(json.loads(one["value"]) for one in pod["containers"][0]["env"] if "value" in one)
    assert (config["rescues"], config["rescuesSince"], config["firstAttempt"]) == (True, "2026-01-02T03:00:00Z", 3)
    assert "metricsPage" not in config, "Nothing trains in its pod."
    assert "restartPolicy" not in pod["containers"][0]
    assert pod["restartPolicy"] == "Never"


def test_it_is_created_suspended():
    """A request that reaches the API server after the stop must not let an agent run."""
    made, _ = built()
    assert made["spec"]["suspend"] is True


def test_it_is_known_as_the_stops_own_and_never_as_the_runs_job():
    made, _ = built()
    assert made["metadata"]["name"] == f"{NAME}-rescue"
    assert made["metadata"]["labels"] == {names.RUN_LABEL: NAME, names.RESCUE_LABEL: STOP_ID}
    labels = made["spec"]["template"]["metadata"]["labels"]
    assert (labels[names.RUN_UID_LABEL], labels[names.RESCUE_LABEL]) == (RUN_UID, STOP_ID)
    assert "annotations" not in made["spec"]["template"]["metadata"]


@pytest.mark.parametrize(
    ("fields", "owner"),
    [
        pytest.param({}, JOB_UID, id="the run's Job"),
        pytest.param({"workload": make_workload(deleting=True)}, RUN_UID, id="the run, if its Job goes"),
        pytest.param({"workload": None}, RUN_UID, id="the run, if its Job is gone"),
    ],
)
def test_it_goes_with(fields, owner):
    made, _ = built(**fields)
    assert [one["uid"] for one in made["metadata"]["ownerReferences"]] == [owner]


def test_a_run_that_is_deleted_in_the_foreground_does_not_take_it_along():
    seen = stopping_at(Phase.SAVING, stop={"rescue": HERE}, spec={"template": a_template()}, workload=None)
    object.__setattr__(seen.run, "deleting", True)
    stop = seen.run.status.termination
    assert stop is not None
    assert rescue_job.job(seen, stop, HERE)["metadata"]["ownerReferences"] == []


def terms(pod):
    if "affinity" not in pod:
        return []
    (term,) = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    return [(one["key"], one["operator"], *one["values"]) for one in term["matchFields"]]


def test_on_the_node_with_the_volume_it_tolerates_whatever_keeps_others_off():
    _, pod = built(pod={"tolerations": TOLERATIONS, "nodeSelector": {"gpu": "a100"}})
    assert terms(pod) == [("metadata.name", "In", "gpu-1")]
    assert pod["tolerations"] == [*TOLERATIONS, {"operator": "Exists", "effect": "NoSchedule"}]
    assert "nodeSelector" not in pod


def test_elsewhere_it_stays_off_gpu_nodes_and_off_those_that_are_released():
    nodes = (make_node(NodePhase.CORDONED), make_node(NodePhase.RETAINED, name="kept", uid="k"))
    _, pod = built(ANYWHERE, nodes=nodes, rescue_facts=SHARED)
    assert terms(pod) == [("metadata.name", "NotIn", "gpu-1")]
    assert "tolerations" not in pod
    assert terms(built(ANYWHERE, rescue_facts=SHARED)[1]) == []


@pytest.mark.parametrize("modes", [("ReadWriteOnce",), ("ReadWriteOncePod",)])
def test_for_a_disk_without_its_node_the_nodes_of_the_training_count_as_well(modes):
    """The volume may be tied to a zone in which there are only such nodes. The scheduler knows the zone; the released ones stay excluded."""
    facts = RescueFacts(Claim("checkpoints", "u", "Bound", modes))
    _, pod = built(ANYWHERE, nodes=(make_node(NodePhase.CORDONED),), rescue_facts=facts)
    assert pod["tolerations"] == TOLERATIONS
    assert terms(pod) == [("metadata.name", "NotIn", "gpu-1")]
    assert "nodeSelector" not in built(ANYWHERE, pod={"nodeSelector": {"gpu": "a100"}}, rescue_facts=facts)[1]


@pytest.mark.parametrize(("pod", "tolerations"), [({"tolerations": TOLERATIONS}, TOLERATIONS), ({}, None)])
def test_without_rights_on_nodes_the_scheduler_decides_among_those_of_the_training(pod, tolerations):
    _, made = built(ANYWHERE, pod=pod, defaults=Defaults(release_nodes=False))
    assert (made.get("tolerations"), terms(made)) == (tolerations, [])


def test_a_template_without_a_group_gets_none():
    assert "securityContext" not in built()[1]
    _, pod = built(pod={"securityContext": {"fsGroup": 7, "fsGroupChangePolicy": "Always"}})
    assert pod["securityContext"] == {"fsGroupChangePolicy": "Always", "fsGroup": 7}


def test_its_name_fits_for_the_longest_name_of_a_run():
    assert len(names.rescue_name("a" * names.JOB_NAME_MAX)) <= 63


def test_a_run_without_a_claim_has_no_volume_that_stays():
    run = make_run(status=make_status(termination=make_stop()))
    assert kept_volume(run) is None
    assert ended_volume(run).startswith("an emptyDir of the operator")


def test_a_volume_without_a_kind_is_an_emptydir():
    made = template(volumes=[{"name": "data"}])
    made["spec"]["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": "/checkpoints"}]
    run = make_run(spec={"template": made})
    assert (kept_volume(run), ended_volume(run)) == (None, "the emptyDir volume 'data' of the template")


def test_a_volume_that_is_kept_does_not_end_with_its_pod_and_a_refused_template_has_none():
    assert ended_volume(make_run(spec={"template": a_template()})) == ""
    assert ended_volume(make_run(spec={"template": {"spec": {"containers": []}}})) == ""
