"""The Job as a workload."""

from __future__ import annotations

import pytest
from builders import JOB_UID, make_run

from trainingrun_operator.api import names
from trainingrun_operator.core.facts.workload import Workload
from trainingrun_operator.edge.workloads import Workloads
from trainingrun_operator.edge.workloads.job import INDEX_ANNOTATION, JobAdapter

LATER = "2026-01-02T03:00:09Z"


class FakeJobs:
    """Writes down what it is asked."""

    def __init__(self):
        self.asked = []

    async def job(self, namespace, name):
        self.asked.append(("read", namespace, name))
        return {"metadata": {"name": name, "uid": JOB_UID}}

    async def create_job(self, manifest, *, dry_run=False):
        self.asked.append(("create", manifest["metadata"]["name"], dry_run))
        return manifest

    async def patch_job(self, namespace, name, uid, patch):
        self.asked.append(("patch", namespace, name, uid, patch))
        return {}

    async def suspend_job(self, namespace, name, uid, generation, *, suspend):
        self.asked.append(("suspend" if suspend else "resume", namespace, name, uid, generation))
        return {}

    async def delete_job(self, namespace, name, uid):
        self.asked.append(("delete", namespace, name, uid))


JOBS = JobAdapter(FakeJobs())


def stored_job(*, meta=None, status=None, **spec):
    return {
        "metadata": {"name": "bert", "uid": "job-uid", "labels": names.child_labels("bert", "run-uid"), **(meta or {})},
        "spec": {"backoffLimit": 2147483647, **spec},
        "status": status or {},
    }


@pytest.mark.parametrize(
    ("stored", "changes"),
    [
        pytest.param(stored_job(), {}, id="fresh"),
        pytest.param(stored_job(meta={"generation": 3}), {"generation": 3}, id="changed since"),
        pytest.param(stored_job(suspend=True), {"suspended": True}, id="suspended"),
        pytest.param(stored_job(backoffLimit=0), {"replaces": False}, id="without replacements"),
        pytest.param(stored_job(status={"failed": 2}), {"failed": 2}, id="with failed pods"),
        pytest.param(stored_job(status={"conditions": [{"type": "Complete", "status": "True"}]}), {"finished": True}, id="complete"),
        pytest.param(stored_job(status={"conditions": [{"type": "Failed", "status": "True"}]}), {"finished": True}, id="failed"),
        pytest.param(stored_job(status={"conditions": [{"type": "Failed", "status": "False"}]}), {}, id="not failed"),
        pytest.param(stored_job(status={"conditions": [{"type": "FailureTarget", "status": "True"}]}), {}, id="about to fail"),
        pytest.param(stored_job(meta={"deletionTimestamp": LATER}), {"deleting": True}, id="being deleted"),
        pytest.param(stored_job(meta={"ownerReferences": [{"kind": "TrainingRun"}]}), {"owned": True}, id="handed over"),
        pytest.param(stored_job(meta={"labels": None}), {"run_uid": ""}, id="somebody else's"),
        pytest.param(stored_job(completionMode="Indexed", completions=4), {"world_size": 4}, id="indexed: a rank per completion"),
        pytest.param(stored_job(completionMode="NonIndexed", completions=4), {}, id="not indexed: one rank"),
        pytest.param(stored_job(completionMode="Indexed"), {}, id="indexed without a number"),
    ],
)  # fmt: skip
def test_a_stored_job(stored, changes):
    fresh = {"api_version": "batch/v1", "kind": "Job", "name": "bert", "uid": "job-uid", "run_uid": "run-uid"}
    assert JOBS.of(stored) == Workload(**{**fresh, **changes})


def test_a_job_that_was_just_made():
    assert JOBS.of({"metadata": {"name": "j", "uid": "u"}}) == Workload("batch/v1", "Job", "j", "u", run_uid="")


@pytest.mark.parametrize(
    ("annotations", "rank"),
    [
        (None, 0),
        ({}, 0),
        ({INDEX_ANNOTATION: "3"}, 3),
        ({INDEX_ANNOTATION: "-1"}, 0),
        ({INDEX_ANNOTATION: "three"}, 0),
        ({INDEX_ANNOTATION: "²"}, 0),
        ({INDEX_ANNOTATION: "9" * 4000}, 0),
    ],
)
def test_the_rank_of_a_pod(annotations, rank):
    assert JOBS.rank_of({"metadata": {"annotations": annotations}}) == rank


async def test_what_each_act_asks_of_the_api_server():
    jobs = FakeJobs()
    run = make_run()
    adapter = Workloads(jobs).of(run)
    where = (run.namespace, run.name)
    await adapter.read(run)
    await adapter.create({"metadata": {"name": "bert"}}, dry_run=True)
    await adapter.suspend(run, "u", 3)
    await adapter.resume(run, "u", 4)
    await adapter.end_replacements(run, "u")
    await adapter.adopt(run, "u")
    await adapter.delete(run, "bert", "u")
    assert jobs.asked == [
        ("read", *where),
        ("create", "bert", True),
        ("suspend", *where, "u", 3),
        ("resume", *where, "u", 4),
        ("patch", *where, "u", {"spec": {"backoffLimit": 0}}),
        ("patch", *where, "u", {"metadata": {"ownerReferences": [names.run_owner(run.name, run.uid)]}}),
        ("delete", *where, "u"),
    ]


def test_ranks_are_no_more_than_a_commit_can_name():
    job = stored_job(completionMode="Indexed", completions=2**31 - 1)
    assert JOBS.of(job).world_size == 1024
