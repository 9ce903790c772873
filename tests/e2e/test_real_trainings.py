"""Unchanged scripts of real libraries: the operator reads what they post and what they write for TensorBoard, and ends them with their last checkpoint."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from e2e.ground import REPOSITORY

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

DATA = """
import time
import torch
torch.manual_seed(0)
x = torch.randn(2400, 4)
y = x.sum(1, keepdim=True) + 0.3 * torch.randn(2400, 1)
"""
HUGGING_FACE = (
    DATA
    + """
from transformers import Trainer, TrainingArguments

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def forward(self, x=None, labels=None):
        time.sleep(0.01)  # as a larger model
        predicted = self.layer(x)
        return {"loss": ((predicted - labels) ** 2).mean(), "logits": predicted}

arguments = TrainingArguments(
    "/checkpoints", num_train_epochs=1000, per_device_train_batch_size=8, learning_rate=0.01, logging_steps=20, save_steps=300, save_total_limit=3,
    report_to="none", use_cpu=True,
)
Trainer(model=Model(), args=arguments, train_dataset=[{"x": a, "labels": b} for a, b in zip(x, y)]).train()
"""
)
# Nothing is said of a logger: where TensorBoard is installed, Lightning writes its event files.
LIGHTNING = (
    DATA
    + """
import lightning
from torch.utils.data import DataLoader, TensorDataset

class Model(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)

    def training_step(self, batch, _):
        time.sleep(0.01)  # as a larger model
        loss = ((self.layer(batch[0]) - batch[1]) ** 2).mean()
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)

lightning.Trainer(max_epochs=1000, accelerator="cpu", default_root_dir="/checkpoints", enable_progress_bar=False).fit(
    Model(), DataLoader(TensorDataset(x, y), batch_size=8)
)
"""
)
LIBRARIES = "libraries"


@pytest.fixture(scope="module")
def frameworks():
    """The name of their folder below the one that the control plane mounts; made if it is not there, which takes minutes."""
    tool = REPOSITORY / "tools" / "frameworks" / "frameworks"
    return Path(subprocess.run([tool], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()).name


@pytest.fixture
def libraries(frameworks, space):
    """Claim a read-only volume with them. Returns what a training has of it: its `pod`, its `container` and its `spec`."""
    folder = space.ground.frameworks
    volume = {
        "metadata": {"name": space.name},
        "spec": {
            "capacity": {"storage": "4Gi"},
            "accessModes": ["ReadOnlyMany"],
            "hostPath": {"path": f"{folder}/{frameworks}", "type": "Directory"},
            "claimRef": {"namespace": space.name, "name": LIBRARIES},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}]}]}},
        },
    }  # fmt: skip
    claim = {
        "metadata": {"name": LIBRARIES},
        "spec": {
            "accessModes": ["ReadOnlyMany"],
            "storageClassName": "",
            "volumeName": space.name,
            "resources": {"requests": {"storage": "4Gi"}},
        },
    }
    space.api.create("/api/v1/persistentvolumes", volume)
    space.undo.append(lambda: space.api.delete(f"/api/v1/persistentvolumes/{space.name}"))
    space.api.create(f"/api/v1/namespaces/{space.name}/persistentvolumeclaims", claim)
    volumes = [
        {"name": LIBRARIES, "persistentVolumeClaim": {"claimName": LIBRARIES, "readOnly": True}},
        {"name": "tmp", "emptyDir": {}},
    ]
    # The container's image is the small one: the Debian of the libraries, a newer one, takes the place of its /usr.
    mounts = [
        {"name": LIBRARIES, "mountPath": "/usr", "subPath": "usr", "readOnly": True},
        {"name": LIBRARIES, "mountPath": "/etc/alternatives", "subPath": "etc/alternatives", "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the container's
    ]
    return {
        "pod": {"volumes": volumes},
        "container": {
            "volumeMounts": mounts,
            "env": [{"name": "PYTHONPATH", "value": ""}],
            "resources": {"requests": {"memory": "512Mi"}, "limits": {"memory": "2Gi"}},
        },
        # They do not save when they are asked to, and Python ignores SIGTERM as process 1 of a container.
        "stopMode": "LastCheckpoint",
        "shutdown": {"signal": "SIGTERM"},
    }


def test_unchanged_trainings_are_ended_by_what_they_post_and_by_what_they_write_for_tensorboard(libraries, space):
    low = {"name": "low", "threshold": {"value": 0.5}}
    # One observation earlier than the other.
    watched = {"name": "watched", "action": "Shadow", "threshold": {"value": 1000}, "forObservations": 1}
    runs = {
        source: space.run(
            source.lower(),
            command=["python3", "-u", "-c", script],
            metrics={"source": source},
            stopRules=[watched, low],
            **libraries,
        )
        for source, script in (("Push", HUGGING_FACE), ("Files", LIGHTNING))
    }
    for run in runs.values():
        run.wait_training()
    formats = {}
    for source, run in runs.items():
        status = run.wait_finished()
        assert (status["phase"], status["terminationStatus"]) == ("Succeeded", "auto_threshold")
        assert status["termination"]["actor"] == "low"
        assert status["effective"]["metricsSource"] == source
        decided = status["termination"]["evidence"][-2:]
        assert all(one["what"] == "loss" and float(one["value"]) < 0.5 and one["step"] > 0 for one in decided)
        (shadow,) = status["shadow"]
        assert shadow["rule"] == "watched"
        assert shadow["step"] <= decided[-1]["step"]
        run.assert_checkpoint_proven(status)
        assert status["checkpoint"]["step"] > 0
        formats[source] = status["checkpoint"]["format"]
    assert formats == {"Push": "HFTrainer", "Files": "Lightning"}
