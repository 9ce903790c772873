"""A checkpoint path to which nothing can be written is refused before anything is created."""

from __future__ import annotations

import pytest
from builders import checkpoint_spec, make_run

from trainingrun_operator.core import unwritable
from trainingrun_operator.core.acceptance import complaint
from trainingrun_operator.core.defaults import Defaults


def of(mount=None, source=None, **fields):
    """A run whose training mounts a volume at its checkpoint path."""
    mounts = [{"name": "data", "mountPath": "/checkpoints", **(mount or {})}]
    pod = {
        "containers": [{"name": "train", "image": "x", "volumeMounts": mounts}],
        "volumes": [{"name": "other", "secret": {"secretName": "x"}}, {"name": "data", **(source or {"emptyDir": {}})}],
    }
    return make_run(spec={"template": {"spec": pod}, "checkpoint": checkpoint_spec(**fields)})


@pytest.mark.parametrize(
    ("run", "why"),
    [
        pytest.param(of({"readOnly": True}), "the mount of the container that trains has readOnly: true", id="a read-only mount"),
        pytest.param(of({"readOnly": True, "mountPath": "/data"}, path="/data/checkpoints"), "has readOnly: true", id="a read-only mount above the path"),
        pytest.param(of(source={"persistentVolumeClaim": {"claimName": "c", "readOnly": True}}), "its persistentVolumeClaim has readOnly: true", id="a claim for reading"),
        pytest.param(of(source={"csi": {"driver": "s3", "readOnly": True}}), "its csi has readOnly: true", id="a driver's volume for reading"),
        pytest.param(of(source={"nfs": {"server": "s", "path": "/", "readOnly": True}}), "its nfs has readOnly: true", id="a share for reading"),
        pytest.param(of(source={"configMap": {"name": "x"}}), "a volume of kind configMap is read-only", id="a ConfigMap"),
        pytest.param(of(source={"secret": {"secretName": "x"}}), "a volume of kind secret is read-only", id="a Secret"),
        pytest.param(of(source={"projected": {"sources": []}}), "a volume of kind projected is read-only", id="a projected volume"),
        pytest.param(of(source={"downwardAPI": {}}), "a volume of kind downwardAPI is read-only", id="the pod's own fields"),
        pytest.param(of(source={"image": {"reference": "x"}}), "a volume of kind image is read-only", id="an image"),
        pytest.param(of(source={"hostPath": {"path": "/x", "type": "File"}}), "its hostPath is of type File, which is no folder", id="a file of the node"),
        pytest.param(of(source={"hostPath": {"path": "/x", "type": "BlockDevice"}}), "is of type BlockDevice", id="a device of the node"),
    ],
)  # fmt: skip
def test_refused(run, why):
    problem = complaint(run, (), Defaults())
    assert problem is not None
    assert (problem.reason, problem.permanent) == ("InvalidTemplate", True)
    assert problem.message.startswith(
        f"spec.checkpoint.path is {run.spec.checkpoint.path!r} in volume 'data', to which nothing can be written: "
    )
    assert why in problem.message


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(of(), id="a volume of the pod"),
        pytest.param(of({"readOnly": False}, {"persistentVolumeClaim": {"claimName": "c", "readOnly": False}}), id="a claim for writing"),
        pytest.param(of(source={"hostPath": {"path": "/x"}}), id="a folder of the node"),
        pytest.param(of(source={"hostPath": {"path": "/x", "type": "DirectoryOrCreate"}}), id="a folder of the node that is made"),
        pytest.param(of({"mountPath": "/data", "readOnly": True}), id="a read-only mount elsewhere"),
        pytest.param(of({"readOnly": "yes"}, {"csi": "x"}), id="what only the API server can judge"),
        pytest.param(make_run(), id="no volume at all: the operator adds one"),
    ],
)  # fmt: skip
def test_accepted(run):
    assert unwritable.complaint(run) is None
    assert complaint(run, (), Defaults()) is None


def test_a_run_that_saves_nothing_may_only_read():
    run = of({"readOnly": True}, mode="Disabled", destination=None)
    assert complaint(run, (), Defaults()) is None
