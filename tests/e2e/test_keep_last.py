"""`keepLast` on the cluster: a checkpoint that is old goes with all its objects, and what is too young stays.

The store shows the times of the files in its folder, which is on the control plane: a pod there makes a checkpoint old.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from e2e.runs import WAIT_SECONDS, unique
from waiting import eventually

from trainingrun_operator.checkpoints.documents import Manifest

if TYPE_CHECKING:
    from e2e.runs import Run, Space

    from trainingrun_operator.checkpoints.documents import Commit

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

TRAINS = ("--epochs", "200", "--batch", "72", "--step-seconds", "0.2", "--save-every", "10")
STORE = "/var/lib/trainingrun-s3"
"""The store's folder on the control plane, as tools/cluster/cloud.yaml mounts it."""
STORE_NAMESPACE = "trainingrun-cloud"
AGE = """
import os, sys, time
then = time.time() - 3 * 24 * 3600
for path in sys.argv[1:]:
    os.utime(path, (then, then))
"""


def make_old(space: Space, keys: list[str]) -> None:
    """Let objects be three days old."""
    name, pods = unique("old"), f"/api/v1/namespaces/{STORE_NAMESPACE}/pods"
    pod: dict[str, Any] = {
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "nodeSelector": {"node-role.kubernetes.io/control-plane": ""},
            "containers": [
                {
                    "name": "old",
                    "image": space.ground.training_image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python3", "-c", AGE, *(f"/data/{key}" for key in keys)],
                    "securityContext": {"runAsUser": 0},
                    "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                }
            ],
            "volumes": [{"name": "data", "hostPath": {"path": f"{STORE}/{space.bucket.name}", "type": "Directory"}}],
        },
    }
    space.undo.append(lambda: space.api.delete(f"{pods}/{name}"))
    space.api.create(pods, pod)
    space.api.wait(
        pods,
        lambda found: ((found or {}).get("status") or {}).get("phase") == "Succeeded",
        f"{len(keys)} objects are old",
        WAIT_SECONDS,
        name=name,
    )


def objects_of(run: Run, commit: Commit) -> set[str]:
    """The keys of a commit, of its manifests and of all that they list."""
    keys = {run.layout.commit(commit.order)}
    for rank in commit.ranks:
        manifest = Manifest.model_validate_json(run.space.bucket.read(rank.key))
        keys |= {rank.key, *(file.key for file in manifest.files if file.link_target is None)}
    return keys


def test_an_old_checkpoint_is_deleted_and_one_that_is_too_young_stays(space):
    run = space.run("kept", *TRAINS)
    # How many of its checkpoints become a commit depends on how long a commit takes.
    run.wait_commits(3)
    run.merge({"spec": {"stop": True}})
    status = run.wait_finished()
    oldest, *others = run.commits()
    stay = set[str]().union(*(objects_of(run, one) for one in others))
    gone = objects_of(run, oldest) - stay
    make_old(space, sorted(gone))
    before = space.bucket.etags(run.layout.base)

    run.merge({"spec": {"checkpoint": {"keepLast": 1}}})
    eventually(
        lambda: not gone & space.bucket.etags(run.layout.base).keys(),
        "the oldest commit, its manifest and its objects are deleted",
        WAIT_SECONDS,
    )
    assert space.bucket.etags(run.layout.base) == {key: tag for key, tag in before.items() if key not in gone}
    assert run.status["checkpoint"]["commit"] == status["checkpoint"]["commit"]
    assert run.events("CheckpointsNotDeleted") == []
    run.assert_checkpoint_proven(run.status)
