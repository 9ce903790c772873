"""The demo's environment: the cluster, its bucket and its cloud, and a snapshot of all three."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import kubernetes
import urllib3
import yaml
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
ENV = ROOT / ".cluster" / "env"
NAMESPACE = "demo"
GPU = "nvidia.com/gpu"
BUSY = (kubernetes.client.ApiException, urllib3.exceptions.HTTPError, BotoCoreError, ClientError, OSError)
"""Errors of a briefly busy cluster: retry."""

Json = dict[str, Any]


class TroubleError(Exception):
    """A promise of the demo that is not kept; the text is a sentence for the viewer."""


@dataclass(frozen=True)
class Machine:
    """A GPU machine: its instance in the cloud and its Node in Kubernetes."""

    instance: str
    state: str
    """State in EC2: pending, running, shutting-down, terminated; empty if the cloud does not know it."""
    node: str = ""
    ready: bool = False
    leaving: bool = False
    """Whether the operator has tainted it for release."""
    gpus: int = 0
    used_by: tuple[str, ...] = ()
    """Pods with a GPU on it, as run or namespace/pod."""
    used: int = 0


@dataclass(frozen=True)
class Look:
    """A snapshot of runs, nodes and machines."""

    at: float
    """Seconds since the demo's runs were applied."""
    runs: dict[str, Json] = field(default_factory=dict)
    machines: tuple[Machine, ...] = ()
    desired: int = 0
    others: int = 0
    """Pods of other namespaces that have or wait for a GPU."""


class Ground:
    """The running cluster, as described by `.cluster/env`."""

    def __init__(self, folder: Path) -> None:
        self.env = _environment()
        self.folder = folder
        self.kubeconfig = self._own_kubeconfig()
        # The demo prints commands without --namespace, so its kubectl has its own default namespace.
        self.env["KUBECONFIG"] = str(self.kubeconfig)
        kubernetes.config.load_kube_config(str(self.kubeconfig))
        self.core: Any = kubernetes.client.CoreV1Api()
        self.batch: Any = kubernetes.client.BatchV1Api()
        self.custom: Any = kubernetes.client.CustomObjectsApi()
        keys: dict[str, Any] = {
            "aws_access_key_id": self.env["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": self.env["AWS_SECRET_ACCESS_KEY"],
            "region_name": self.env["AWS_REGION"],
            "config": Config(connect_timeout=3, read_timeout=20, retries={"mode": "standard", "total_max_attempts": 3}),
        }
        cloud = self.env["TRAININGRUN_CLOUD_ENDPOINT"]
        self.scaling = boto3.client("autoscaling", endpoint_url=cloud, **keys)
        self.ec2 = boto3.client("ec2", endpoint_url=cloud, **keys)
        self.s3 = boto3.client(
            "s3", endpoint_url=self.env["TRAININGRUN_S3_ENDPOINT"], verify=self.env["TRAININGRUN_S3_CA"], **keys
        )

    def _own_kubeconfig(self) -> Path:
        config = yaml.safe_load(Path(self.env["KUBECONFIG"]).read_text())
        for context in config["contexts"]:
            context["context"]["namespace"] = NAMESPACE
        own = self.folder / "kubeconfig"
        own.touch(mode=0o600)
        own.write_text(yaml.safe_dump(config))
        return own

    def run(self, *command: str, given: str | None = None, timeout: float = 120) -> str:
        """Run kubectl or docker; returns its output. Raises TroubleError with its error output."""
        try:
            done = subprocess.run(
                command,
                input=given,
                env=self.env,
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except FileNotFoundError as error:
            raise TroubleError(f"{command[0]} is not on PATH; `make cluster` installs it.") from error
        except subprocess.TimeoutExpired as error:
            raise TroubleError(f"`{' '.join(command)}` did not end within {timeout:.0f} seconds.") from error
        if done.returncode:
            raise TroubleError(f"`{' '.join(command)}` failed: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def apply(self, manifest: Json) -> None:
        """Create or update an object."""
        self.run("kubectl", "apply", "--filename", "-", given=yaml.safe_dump(manifest))

    def require_operator(self) -> None:
        """Raise TroubleError unless an operator serves this cluster."""
        apps: Any = kubernetes.client.AppsV1Api()
        label = "app.kubernetes.io/name=trainingrun-operator"
        listed = apps.list_deployment_for_all_namespaces(label_selector=label).items
        if not any(deployment.status.ready_replicas for deployment in listed):
            raise TroubleError("The operator is not installed, or not ready: run `make install`.")

    def leftovers(self) -> list[str]:
        """Objects of earlier runs in the demo's namespace."""
        owned = "trainingrun.dev/run"
        jobs = self.batch.list_namespaced_job(NAMESPACE, label_selector=owned).items
        pods = self.core.list_namespaced_pod(NAMESPACE, label_selector=owned).items
        return [
            *(f"TrainingRun {name}" for name in self.runs()),
            *(f"Job {job.metadata.name}" for job in jobs),
            *(f"Pod {pod.metadata.name}" for pod in pods),
        ]

    def why_pending(self, run: str) -> str:
        """Why a run's pod does not train, from the scheduler or kubelet."""
        pods = self.core.list_namespaced_pod(NAMESPACE, label_selector=f"trainingrun.dev/run={run}").items
        if not pods:
            return "it has no pod yet."
        status = pods[0].status
        waiting = [
            one.state.waiting
            for one in [*(status.init_container_statuses or ()), *(status.container_statuses or ())]
            if one.state and one.state.waiting
        ]
        words = [f"{one.reason}: {one.message or ''}".strip(": ") for one in waiting]
        words += [one.message for one in status.conditions or () if one.status == "False" and one.message]
        return f"its pod is {status.phase}. {'; '.join(dict.fromkeys(words))}"

    def describe(self, names: list[str]) -> str:
        """The given runs, or all runs, and remaining pods, as printed by `kubectl describe`."""
        told = []
        for what in (("trainingruns", *names), ("pods",)):
            with contextlib.suppress(TroubleError):
                told.append(self.run("kubectl", "describe", *what))
        return "\n".join(told)

    def pool(self) -> Json:
        """The GPUNodePool of the cluster."""
        found = self.custom.list_cluster_custom_object("trainingrun.dev", "v1alpha1", "gpunodepools")["items"]
        if not found:
            raise TroubleError("The cluster has no GPUNodePool: run `make cluster` again, it creates one.")
        return dict(found[0]["spec"])

    def runs(self) -> dict[str, Json]:
        """The TrainingRuns of the demo's namespace, by name."""
        listed = self.custom.list_namespaced_custom_object("trainingrun.dev", "v1alpha1", NAMESPACE, "trainingruns")
        return {run["metadata"]["name"]: run for run in listed["items"]}

    def look(self, pool: Json, at: float) -> Look:
        """Take a snapshot of runs, nodes and machines. Raises one of BUSY if a request fails."""
        groups = self.scaling.describe_auto_scaling_groups(AutoScalingGroupNames=pool["awsAutoScaling"]["groups"])
        members = [member for group in groups["AutoScalingGroups"] for member in group["Instances"]]
        runs = self.runs()
        ours = {node["providerID"].rpartition("/")[2] for run in runs.values() for node in nodes_of(run)} - {""}
        states = self.states(sorted(ours | {member["InstanceId"] for member in members}))
        pods = [pod for pod in self.core.list_pod_for_all_namespaces().items if _gpus_of(pod)]
        selector = ",".join(f"{key}={value}" for key, value in pool["nodeSelector"].items())
        machines = {
            machine.instance: machine
            for node in self.core.list_node(label_selector=selector).items
            for machine in [_machine(node, states, pods)]
        }
        for instance, state in states.items():
            machines.setdefault(instance, Machine(instance, state))
        return Look(
            at=at,
            runs=runs,
            machines=tuple(machines[key] for key in sorted(machines)),
            desired=sum(group["DesiredCapacity"] for group in groups["AutoScalingGroups"]),
            others=sum(pod.metadata.namespace != NAMESPACE for pod in pods),
        )

    def states(self, instances: list[str]) -> dict[str, str]:
        """EC2 state of each instance; an unknown instance counts as terminated."""
        found = dict.fromkeys(instances, "terminated")
        if instances:
            answer = self.ec2.describe_instances(Filters=[{"Name": "instance-id", "Values": instances}])
            found |= {
                one["InstanceId"]: one["State"]["Name"] for each in answer["Reservations"] for one in each["Instances"]
            }
        return found

    def node_uid(self, name: str) -> str:
        """UID of a Node; empty if there is none."""
        try:
            return str(self.core.read_node(name).metadata.uid)
        except kubernetes.client.ApiException as error:
            if error.status == 404:  # noqa: PLR2004 - HTTP's own number
                return ""
            raise

    def pods_of_others(self, node: str) -> list[str]:
        """Pods of other namespaces with a GPU of this node."""
        pods = self.core.list_pod_for_all_namespaces(field_selector=f"spec.nodeName={node}").items
        return sorted(
            f"{pod.metadata.namespace}/{pod.metadata.name}"
            for pod in pods
            if _gpus_of(pod) and pod.metadata.namespace != NAMESPACE
        )

    def download(self, uri: str, folder: Path) -> int:
        """Download an s3:// folder; returns the number of files."""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        files = 0
        for page in self.s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
            for entry in page.get("Contents", ()):
                target = folder / entry["Key"].removeprefix(prefix)
                target.parent.mkdir(parents=True, exist_ok=True)
                self.s3.download_file(bucket, entry["Key"], str(target))
                files += 1
        return files

    def score(self, folder: Path) -> Json:
        """Recompute a checkpoint's scores from its weights and the data, with the training image."""
        container = self.run(
            *("docker", "create", "--network", "none", self.env["TRAININGRUN_TRAINING_IMAGE"]),
            *("--score", "/tmp/checkpoint"),  # noqa: S108 - inside a container of its own
        ).strip()
        try:
            self.run("docker", "cp", f"{folder}/.", f"{container}:/tmp/checkpoint")
            answer: Json = json.loads(self.run("docker", "start", "--attach", container))
        finally:
            with contextlib.suppress(TroubleError):
                self.run("docker", "rm", "--force", container)
        return answer


@contextlib.contextmanager
def ground() -> Iterator[Ground]:
    """The environment, with a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="trainingrun-demo-") as folder:
        yield Ground(Path(folder))


def nodes_of(run: Json) -> list[Json]:
    """The nodes of a run, from its status."""
    return [{"providerID": "", **node} for node in run.get("status", {}).get("nodes", ())]


def gpus_of(run: Json) -> int:
    """Number of GPUs that a run's pod requests."""
    containers = run["spec"]["template"]["spec"]["containers"]
    return sum(int(one.get("resources", {}).get("limits", {}).get(GPU, 0)) for one in containers)


def _environment() -> dict[str, str]:
    if not ENV.is_file():
        raise TroubleError(
            f"No cluster runs for this checkout ({ENV.relative_to(ROOT)} is missing): run `make demo`, or `make cluster`."
        )
    told = subprocess.run(
        ["bash", "-c", '. "$1" && env -0', "env", str(ENV)], capture_output=True, text=True, env=os.environ, check=True
    ).stdout
    return dict(entry.split("=", 1) for entry in told.split("\0") if "=" in entry)


def _gpus_of(pod: Any) -> int:
    """GPUs that a pod has or waits for; 0 after its end."""
    if pod.status.phase in ("Succeeded", "Failed"):
        return 0
    return sum(int((one.resources.limits or {}).get(GPU, 0)) for one in pod.spec.containers if one.resources)


def _machine(node: Any, states: dict[str, str], pods: list[Any]) -> Machine:
    instance = (node.spec.provider_id or node.metadata.name).rpartition("/")[2]
    on_it = [pod for pod in pods if pod.spec.node_name == node.metadata.name]
    return Machine(
        instance=instance,
        state=states.get(instance, "terminated"),
        node=node.metadata.name,
        ready=any(one.type == "Ready" and one.status == "True" for one in node.status.conditions or ()),
        leaving=any(taint.key == "trainingrun.dev/releasing" for taint in node.spec.taints or ()),
        gpus=int((node.status.allocatable or {}).get(GPU, 0)),
        used_by=tuple(sorted(_owner(pod) for pod in on_it)),
        used=sum(_gpus_of(pod) for pod in on_it),
    )


def _owner(pod: Any) -> str:
    run = (pod.metadata.labels or {}).get("trainingrun.dev/run", pod.metadata.name)
    return run if pod.metadata.namespace == NAMESPACE else f"{pod.metadata.namespace}/{run}"
