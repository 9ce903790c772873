"""The machine room: keeps the cluster's GPU nodes in line with the instances of the simulated cloud.

Every second it compares the cloud's instances, the container engine's machines and the Nodes in Kubernetes:

* an instance without a machine: a new worker is created and joins under the instance's id;
* a machine without an instance: the container and its disk are removed;
* a Node without machine and instance: deleted a little later, as by a cloud controller;
* a restarted machine: its routes and GPUs are restored;
* a pod that fits no GPU node: the group's desired capacity is raised, as by a cluster autoscaler; it is never lowered.

It stores nothing: after a restart of itself, the cloud or the engine, the next comparison repairs all differences.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
from botocore.client import Config

GPU = "nvidia.com/gpu"
INSTANCE_LABEL = "trainingrun.dev/instance"
PROVIDER = "aws:///"

CLUSTER = os.environ["TRAININGRUN_CLUSTER"]
CONTROL_PLANE = os.environ["CONTROL_PLANE"]
GROUP = os.environ["GROUP"]
GPUS_PER_NODE = int(os.environ["GPUS_PER_NODE"])
COMMAND = os.environ["CLUSTER_COMMAND"]
DOCKER = os.environ.get("DOCKER", "docker")

PERIOD_SECONDS = 1.0
JOINS_AT_ONCE = 2
RETRY_SECONDS = 5.0
BOOT_SECONDS = 60.0
NODE_DELETION_DELAY_SECONDS = float(os.environ.get("TRAININGRUN_NODE_DELETION_DELAY", "3"))

log = logging.getLogger("machine-room")


@dataclass(frozen=True)
class Instance:
    """A pending or running instance of the cloud."""

    id: str
    zone: str

    @property
    def node(self) -> str:
        """Name of its Node and container."""
        return f"{CLUSTER}-gpu-{self.id[-8:]}"


@dataclass(frozen=True)
class Machine:
    """A container of the engine in the role of an instance."""

    node: str
    instance: str
    running: bool
    started: str


class Cloud:
    """The Auto Scaling group, through the API that the operator uses."""

    def __init__(self) -> None:
        config = Config(connect_timeout=3, read_timeout=10, retries={"total_max_attempts": 2})
        where = {
            "endpoint_url": os.environ["TRAININGRUN_CLOUD_ENDPOINT"],
            "region_name": os.environ["AWS_REGION"],
            "config": config,
        }
        self.scaling = boto3.client("autoscaling", **where)
        self.ec2 = boto3.client("ec2", **where)

    def instances(self) -> list[Instance]:
        """Pending and running instances of the group, whoever launched them."""
        filters = [
            {"Name": "tag:aws:autoscaling:groupName", "Values": [GROUP]},
            {"Name": "instance-state-name", "Values": ["pending", "running"]},
        ]
        pages = self.ec2.get_paginator("describe_instances").paginate(Filters=filters)
        found = [i for page in pages for r in page["Reservations"] for i in r["Instances"]]
        return [Instance(i["InstanceId"], i["Placement"]["AvailabilityZone"]) for i in found]

    def capacity(self) -> tuple[int, int]:
        """Desired and maximum size of the group."""
        (group,) = self.scaling.describe_auto_scaling_groups(AutoScalingGroupNames=[GROUP])["AutoScalingGroups"]
        return group["DesiredCapacity"], group["MaxSize"]

    def want(self, desired: int) -> None:
        """Set the desired capacity."""
        self.scaling.set_desired_capacity(AutoScalingGroupName=GROUP, DesiredCapacity=desired)


class Kubernetes:
    """Four API requests, with the credentials of the kubeconfig."""

    def __init__(self) -> None:
        view = subprocess.run(
            ["kubectl", "config", "view", "--raw", "--minify", "-o", "json"], check=True, capture_output=True
        )
        config = json.loads(view.stdout)
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.server = cluster["server"]
        self.tls = ssl.create_default_context(cadata=base64.b64decode(cluster["certificate-authority-data"]).decode())
        with tempfile.NamedTemporaryFile() as pair:  # ssl reads certificates from files only
            pair.write(base64.b64decode(user["client-certificate-data"]) + base64.b64decode(user["client-key-data"]))
            pair.flush()
            self.tls.load_cert_chain(pair.name)

    def request(self, path: str, method: str = "GET") -> dict[str, Any]:
        """Parsed JSON of the response."""
        request = urllib.request.Request(self.server + path, method=method)  # noqa: S310  the kubeconfig's https
        with urllib.request.urlopen(request, context=self.tls, timeout=10) as answer:  # noqa: S310
            return json.load(answer)  # type: ignore[no-any-return]

    def nodes(self) -> dict[str, dict[str, Any]]:
        """All Nodes by name."""
        return {n["metadata"]["name"]: n for n in self.request("/api/v1/nodes")["items"]}

    def pods(self) -> list[dict[str, Any]]:
        """All pods that have not ended."""
        unfinished = "fieldSelector=status.phase!=Succeeded,status.phase!=Failed"
        return self.request(f"/api/v1/pods?{unfinished}")["items"]  # type: ignore[no-any-return]

    def delete_node(self, name: str) -> None:
        """Delete a Node; it may already be gone."""
        try:
            self.request(f"/api/v1/nodes/{name}", "DELETE")
        except urllib.error.HTTPError as error:
            if error.code != 404:  # noqa: PLR2004  already deleted
                raise


def engine(*args: str, check: bool = True) -> list[str]:
    """Output lines of a docker command."""
    return subprocess.run([DOCKER, *args], check=check, capture_output=True, text=True, timeout=30).stdout.splitlines()


def containers() -> tuple[dict[str, Machine], str]:
    """Machines by node name, and the start time of the control plane."""
    ids = engine("ps", "-aq", "--filter", f"label=io.x-k8s.kind.cluster={CLUSTER}")
    fields = (
        f'{{{{.Name}}}} {{{{.State.Running}}}} {{{{.State.StartedAt}}}} {{{{index .Config.Labels "{INSTANCE_LABEL}"}}}}'
    )
    lines = (
        engine("inspect", "--format", fields, *ids, check=False) if ids else []
    )  # a machine may be removed in between
    machines, control_plane = {}, ""
    for line in lines:
        name, running, started, *instance = line.split()
        name = name.lstrip("/")
        if instance:
            machines[name] = Machine(name, instance[0], running == "true", started)
        elif name == CONTROL_PLANE and running == "true":
            control_plane = started
    return machines, control_plane


def gpus_requested(pod: dict[str, Any]) -> int:
    """Sum of the GPUs of all containers."""
    return sum(int(c.get("resources", {}).get("requests", {}).get(GPU, 0)) for c in pod["spec"].get("containers", []))


def gpus_of(node: dict[str, Any]) -> int:
    """GPUs in the node's status."""
    return int(node.get("status", {}).get("allocatable", {}).get(GPU, 0))


def accepts_pods(node: dict[str, Any]) -> bool:
    """Whether the node is ready with GPUs, not cordoned, not being deleted, and has only the usual taint of GPU nodes."""
    conditions = {c["type"]: c["status"] for c in node["status"].get("conditions", [])}
    other = [t for t in node["spec"].get("taints", []) if t["key"] != GPU and t["effect"] != "PreferNoSchedule"]
    return (
        conditions.get("Ready") == "True"
        and gpus_of(node) > 0
        and not other
        and not node["metadata"].get("deletionTimestamp")
    )


def is_new(node: dict[str, Any]) -> bool:
    """Whether the node has just registered and may still get its GPUs."""
    created = datetime.fromisoformat(node["metadata"]["creationTimestamp"])
    return (datetime.now(UTC) - created).total_seconds() < BOOT_SECONDS


def waits_for_gpu(pod: dict[str, Any]) -> bool:
    """Whether the scheduler found no node for the pod, and a node of this pool would fit."""
    if (
        pod["spec"].get("nodeName")
        or pod["metadata"].get("deletionTimestamp")
        or not 0 < gpus_requested(pod) <= GPUS_PER_NODE
    ):
        return False
    unschedulable = any(
        c["type"] == "PodScheduled" and c.get("reason") == "Unschedulable" for c in pod["status"].get("conditions", [])
    )
    return unschedulable and pod["spec"].get("nodeSelector", {}).get("pool", GROUP) == GROUP


def nodes_lacking(waiting: list[int], free: list[int]) -> int:
    """Number of additional nodes for the waiting requests, by first fit, largest request first."""
    bins, given = list(free), len(free)
    for need in sorted(waiting, reverse=True):
        place = next((i for i, room in enumerate(bins) if room >= need), None)
        if place is None:
            bins.append(GPUS_PER_NODE)
            place = len(bins) - 1
        bins[place] -= need
    return len(bins) - given


@dataclass
class Room:
    """Compares and acts in passes; slow work runs in the pool, at most one task per machine."""

    cloud: Cloud
    kubernetes: Kubernetes
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(JOINS_AT_ONCE))
    removals: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4))
    work: dict[str, Future[None]] = field(default_factory=dict)
    ending: dict[str, Future[None]] = field(default_factory=dict)
    not_before: dict[str, float] = field(default_factory=dict)
    wired: dict[str, str] = field(default_factory=dict)  # by node, the start time for which routes were set
    gone_since: dict[str, float] = field(default_factory=dict)

    def once(self) -> None:
        """One pass."""
        instances = {i.node: i for i in self.cloud.instances()}
        machines, control_plane = containers()
        nodes = self.kubernetes.nodes()
        self.collect(self.work)
        self.collect(self.ending)
        self.follow_restarts(control_plane, instances, machines, nodes)
        for node, instance in instances.items():
            if node not in machines:
                self.start(node, f"{instance.id} joins as {node}", "join", node, instance.id, instance.zone)
        for node, machine in machines.items():
            if node not in instances and node not in self.ending:
                log.info("%s is terminated: removing its machine %s", machine.instance, node)
                self.ending[node] = self.removals.submit(self.run, "end", node)
        self.delete_nodes(instances, machines, nodes)
        self.raise_desired(instances, machines, nodes)

    def follow_restarts(
        self,
        control_plane: str,
        instances: dict[str, Instance],
        machines: dict[str, Machine],
        nodes: dict[str, dict[str, Any]],
    ) -> None:
        """Restore routes, which a node's restart removes, and GPUs that no device plugin reports."""
        if control_plane and self.wired.get(CONTROL_PLANE) != control_plane:
            self.wired[CONTROL_PLANE] = control_plane
            self.start(CONTROL_PLANE, f"routes of {CONTROL_PLANE}", "wire", CONTROL_PLANE)
        for node, machine in machines.items():
            if node in self.work:
                self.wired.setdefault(node, machine.started)  # a join sets routes as well
            if node not in instances or not machine.running or node in self.work:
                continue
            restarted = self.wired.get(node) != machine.started
            gpuless = node not in nodes or gpus_of(nodes[node]) != GPUS_PER_NODE
            if (restarted or gpuless) and self.start(node, f"routes and GPUs of {node}", "mend", node):
                self.wired[node] = machine.started

    def start(self, node: str, title: str, *action: str) -> bool:
        """Submit work for a machine, unless it has work or has just failed."""
        if node in self.work or time.monotonic() < self.not_before.get(node, 0):
            return False
        log.info("%s", title)
        self.work[node] = self.pool.submit(self.run, *action)
        return True

    def run(self, *action: str) -> None:
        """Run one action of a machine through its script."""
        began = time.monotonic()
        done = subprocess.run([COMMAND, "machine", *action], check=False, capture_output=True, text=True, timeout=300)
        if done.returncode:
            last = " | ".join((done.stdout + done.stderr).strip().splitlines()[-3:])
            raise RuntimeError(f"{' '.join(action)}: exit {done.returncode}: {last}")
        log.info("%s: done in %.1f s", " ".join(action[:2]), time.monotonic() - began)

    def collect(self, work: dict[str, Future[None]]) -> None:
        """Remove finished work; failed work is retried after a pause."""
        for node, future in list(work.items()):
            if future.done():
                del work[node]
                if error := future.exception():
                    log.warning("%s; retry in %.0f s", error, RETRY_SECONDS)
                    self.not_before[node] = time.monotonic() + RETRY_SECONDS

    def delete_nodes(
        self, instances: dict[str, Instance], machines: dict[str, Machine], nodes: dict[str, dict[str, Any]]
    ) -> None:
        """Delete Nodes of terminated instances, as a cloud controller does."""
        ours = {name for name, node in nodes.items() if node["spec"].get("providerID", "").startswith(PROVIDER)}
        gone = ours - instances.keys() - machines.keys()
        self.gone_since = {node: self.gone_since.get(node, time.monotonic()) for node in gone}
        for node, since in self.gone_since.items():
            if time.monotonic() - since >= NODE_DELETION_DELAY_SECONDS:
                log.info("cloud controller: deleting Node %s, whose instance is gone", node)
                self.kubernetes.delete_node(node)

    def raise_desired(
        self, instances: dict[str, Instance], machines: dict[str, Machine], nodes: dict[str, dict[str, Any]]
    ) -> None:
        """Raise the desired capacity, as a cluster autoscaler does."""
        pods = self.kubernetes.pods()
        waiting = {
            p["metadata"]["namespace"] + "/" + p["metadata"]["name"]: gpus_requested(p)
            for p in pods
            if waits_for_gpu(p)
        }
        if not waiting:
            return
        used: dict[str, int] = {}
        for pod in pods:
            node = pod["spec"].get("nodeName", "")
            used[node] = used.get(node, 0) + gpus_requested(pod)
        desired, greatest = self.cloud.capacity()
        usable = [
            n for n in instances if n in nodes and n in machines and machines[n].running and accepts_pods(nodes[n])
        ]
        unfit = [n for n in instances if n in nodes and n not in usable and n not in self.work and not is_new(nodes[n])]
        booting = max(len(instances), desired) - len(usable) - len(unfit)
        free = [gpus_of(nodes[n]) - used.get(n, 0) for n in usable] + [GPUS_PER_NODE] * booting
        target = min(greatest, desired + nodes_lacking(list(waiting.values()), free))
        if target > desired:
            log.info(
                "stand-in for the autoscaler: %s fit no GPU node; desired capacity %d -> %d",
                ", ".join(sorted(waiting)),
                desired,
                target,
            )
            self.cloud.want(target)


def main(pid_file: str) -> None:
    """Run passes until killed."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    Path(pid_file).write_text(f"{os.getpid()}\n")
    log.info("machine room of %s: process %d", CLUSTER, os.getpid())
    room: Room | None = None
    last = ""
    while True:
        try:
            room = room or Room(Cloud(), Kubernetes())
            room.once()
            last = ""
        except Exception as error:  # noqa: BLE001  cloud, engine and API server may each be unavailable for a while
            problem = f"{type(error).__name__}: {error}"
            if problem != last:
                log.warning("%s; retrying", problem)
            last = problem
        time.sleep(PERIOD_SECONDS)


if __name__ == "__main__":
    main(sys.argv[1])
