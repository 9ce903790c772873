"""Destinations in or around another run's folder: refused before a request is made, where the other run is known."""

from __future__ import annotations

import pytest
from builders import NAME, NAMESPACE, checkpoint_spec, make_run
from fakes import stored_run

from trainingrun_operator.core import overlaps

UID = "6f2a1c9e-0000-4000-8000-00000000000b"
MINE = "0a1b2c3d-0000-4000-8000-00000000000a"
EARLIER, LATER = "2025-12-31T00:00:00Z", "2026-12-31T00:00:00Z"
FOLDER = f"s3://bucket/runs/vision/resnet/{UID}"


def new(destination, **fields):
    spec = {"checkpoint": checkpoint_spec(destination=destination)}
    return make_run(spec=spec, **{"uid": MINE, "created": EARLIER} | fields)


def other(
    destination="s3://bucket/runs", *, status=None, name="resnet", namespace="vision", created=LATER, **checkpoint
):
    """A run that trains."""
    begun = {"workload": {"apiVersion": "batch/v1", "kind": "Job", "name": "resnet", "uid": "1"}}
    return stored_run(
        name=name,
        namespace=namespace,
        uid=UID,
        creationTimestamp=created,
        spec={"checkpoint": checkpoint_spec(destination=destination, **checkpoint)},
        status=begun if status is None else status,
    )


@pytest.mark.parametrize(
    "destination",
    [
        pytest.param(FOLDER, id="its folder"),
        pytest.param(f"{FOLDER}/", id="its folder, with a slash at the end"),
        pytest.param(f"{FOLDER}/commits", id="its commits"),
        pytest.param(f"{FOLDER}/r0/incarnations", id="its claims"),
        pytest.param(f"{FOLDER}/r0/i1-g0001-resnet-x/checkpoint-100", id="a checkpoint, as in status.checkpoint.uri"),
        pytest.param("s3://bucket/runs/vision/resnet", id="the folder of its name, where its training writes"),
    ],
)
@pytest.mark.parametrize("namespace", [NAMESPACE, "vision"])
def test_a_destination_in_another_runs_folder_is_refused(destination, namespace):
    problem = overlaps.with_runs(new(destination, namespace=namespace), [other()])
    assert problem is not None
    assert (problem.reason, problem.permanent) == ("DestinationOverlaps", False)
    assert f"spec.checkpoint.destination is {destination!r}" in problem.message
    assert "would lie in s3://bucket/runs/vision/resnet/" in problem.message
    assert ("TrainingRun resnet" in problem.message) == (namespace == "vision"), "Other namespaces are not named."
    assert "Create the run with a destination that is neither in nor around" in problem.message


def test_a_run_whose_name_makes_its_folder_the_one_that_another_run_writes_below_is_refused():
    below = other(f"s3://bucket/runs/{NAMESPACE}/{NAME}/experiments")
    problem = overlaps.with_runs(new("s3://bucket/runs"), [below])
    assert problem is not None
    assert f"would lie around s3://bucket/runs/{NAMESPACE}/{NAME}/, where a TrainingRun of another" in problem.message
    assert "experiments" not in problem.message, "Nor are their folders."


@pytest.mark.parametrize(
    ("destination", "there"),
    [
        pytest.param("s3://bucket/runs", other(), id="the same destination"),
        pytest.param("s3://bucket", other(), id="the bucket of its destination"),
        pytest.param("s3://bucket/runs/vision", other(), id="the folder of its namespace"),
        pytest.param("s3://bucket/runs/vision/resnet-2", other(), id="a name that begins alike"),
        pytest.param("s3://bucket/runs/vision/res", other(), id="a beginning of its name"),
        pytest.param("s3://bucket-2/runs/vision/resnet", other(), id="a bucket whose name begins alike"),
        pytest.param(FOLDER, other(mode="Disabled"), id="a run that saves nothing"),
        pytest.param(FOLDER, other(None), id="a run without a destination"),
        pytest.param(FOLDER, other("s3://bucket/runs/../x"), id="a run with a destination that is none"),
        pytest.param("s3://bucket/runs", other(name=NAME, namespace=NAMESPACE), id="an earlier run of this name"),
    ],
)
def test_a_destination_beside_other_runs_is_fine(destination, there):
    assert overlaps.with_runs(new(destination), [there]) is None


def test_a_run_does_not_overlap_itself_and_one_that_saves_nothing_overlaps_none():
    mine = new("s3://bucket/runs")
    itself = stored_run(uid=MINE, spec={"checkpoint": checkpoint_spec()})
    assert overlaps.with_runs(mine, [itself]) is None
    disabled = make_run(spec={"checkpoint": {"mode": "Disabled"}})
    assert overlaps.with_runs(disabled, [other()]) is None


@pytest.mark.parametrize(
    ("created", "status", "refused"),
    [
        pytest.param(LATER, {}, False, id="a younger one that has not begun: that one is refused"),
        pytest.param("2025-01-01T00:00:00Z", {}, True, id="an older one that has not begun"),
        pytest.param(
            "2025-01-01T00:00:00Z",
            {"conditions": [{"type": "Accepted", "status": "False"}]},
            False,
            id="an older one that is refused",
        ),
        pytest.param(LATER, {"termination": {"phase": "Done"}}, True, id="a younger one that has ended"),
    ],
)
def test_of_two_runs_that_overlap_the_first_to_begin_or_else_the_older_is_accepted(created, status, refused):
    problem = overlaps.with_runs(new(FOLDER), [other(created=created, status=status)])
    assert (problem is not None) == refused


def test_of_two_runs_of_one_second_exactly_one_is_accepted():
    one, another = new(f"s3://bucket/runs/{NAMESPACE}/a"), new("s3://bucket/runs", name="a", uid=UID)

    def stored(run):
        written = {"checkpoint": checkpoint_spec(destination=run.spec.checkpoint.destination)}
        return stored_run(name=run.name, uid=run.uid, creationTimestamp=run.created, spec=written)

    both = [stored(one), stored(another)]
    assert [overlaps.with_runs(run, both) is None for run in (one, another)].count(True) == 1


@pytest.mark.parametrize(
    ("destination", "folders"),
    [
        pytest.param(FOLDER, [f"runs/vision/resnet/{UID}/"], id="a folder that ends with a uid"),
        pytest.param(f"{FOLDER}/r0/x", [f"runs/vision/resnet/{UID}/"], id="below it"),
        pytest.param(f"s3://bucket/{UID}/a", [], id="a uid without a namespace and a name above it"),
        pytest.param("s3://bucket/runs/vision/resnet/2026", [], id="no uid"),
        pytest.param(
            f"{FOLDER}/ml/bert/{MINE}",
            [f"runs/vision/resnet/{UID}/", f"runs/vision/resnet/{UID}/ml/bert/{MINE}/"],
            id="a folder in a folder",
        ),
    ],
)
def test_folders_that_may_be_of_runs_that_the_cluster_does_not_have(destination, folders):
    assert list(overlaps.folders_around(new(destination))) == folders


def test_a_folder_of_a_run_that_is_gone_is_named():
    problem = overlaps.with_folder(new(f"{FOLDER}/r0"), f"runs/vision/resnet/{UID}/")
    assert problem.reason == "DestinationOverlaps"
    assert f"would lie in {FOLDER}/, the folder of run vision/resnet with uid {UID}" in problem.message
