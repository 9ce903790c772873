"""What goes wrong on purpose: S3 away, another number of operators, an agent killed, a Node that stays."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from e2e.api import JSON_PATCH
from e2e.ground import CLOUD_NAMESPACE, OPERATOR, OPERATOR_NAMESPACE
from e2e.runs import WAIT_SECONDS, unique

if TYPE_CHECKING:
    from collections.abc import Callable

    from e2e.api import Api, Json
    from e2e.runs import Run, Space

SCRIPT = Path(__file__).parent / "in_pod" / "s3_proxy.py"
PORT, CONTROL_PORT = 9443, 9444


@dataclass
class S3Proxy:
    """A way to the S3 server that can be closed for one test alone. Beside the server, for its certificate's sake."""

    space: Space
    name: str

    @classmethod
    def open(cls, space: Space) -> S3Proxy:
        proxy = cls(space, unique("s3"))
        service = {
            "metadata": {"name": proxy.name},
            "spec": {"selector": {"e2e-proxy": proxy.name}, "ports": [{"port": 443, "targetPort": PORT}]},
        }
        services = f"/api/v1/namespaces/{CLOUD_NAMESPACE}/services"
        space.api.create(services, service)
        space.undo.append(lambda: space.api.delete(f"{services}/{proxy.name}"))
        # By then, the specs of the runs allow an end without a bucket.
        space.undo.append(lambda: space.api.delete(proxy._pod, gracePeriodSeconds=0))
        space.api.create(proxy._pods, proxy._body())
        proxy._wait_endpoint()
        return proxy

    @property
    def url(self) -> str:
        """What a run writes as its endpointURL."""
        return f"https://{self.name}.{CLOUD_NAMESPACE}.svc"

    def cut(self) -> None:
        """End every connection and refuse new ones; returns when it is so."""
        self._control("cut")

    def slow_down(self, peers: list[str], seconds: float) -> None:
        """End every connection, and have every request of the clients at these addresses wait for so long; everybody else's pass as they are."""
        self._control(f"slow?{urlencode({'seconds': seconds, 'peer': peers}, doseq=True)}")

    def mend(self) -> None:
        """Let bytes through again; returns when it is so."""
        self._control("open")

    def _control(self, what: str) -> None:
        self.space.api.call("POST", f"{self._pod}:{CONTROL_PORT}/proxy/{what}")

    @property
    def _pods(self) -> str:
        return f"/api/v1/namespaces/{CLOUD_NAMESPACE}/pods"

    @property
    def _pod(self) -> str:
        return f"{self._pods}/{self.name}"

    def _body(self) -> Json:
        env = {"SERVER": f"s3.{CLOUD_NAMESPACE}.svc", "PORT": str(PORT), "CONTROL_PORT": str(CONTROL_PORT)}
        return {
            "metadata": {"name": self.name, "labels": {"e2e-proxy": self.name}},
            "spec": {
                "enableServiceLinks": False,
                "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": 0,
                "nodeSelector": {"node-role.kubernetes.io/control-plane": ""},
                "containers": [
                    {
                        "name": "forward",
                        "image": self.space.ground.training_image,
                        "imagePullPolicy": "IfNotPresent",
                        "command": ["python3", "-u", "-c", SCRIPT.read_text()],
                        "env": [{"name": key, "value": value} for key, value in env.items()],
                        # It is ready also while it is cut: clients are refused by it, and by no rule of the network that takes its time.
                        "readinessProbe": {"tcpSocket": {"port": CONTROL_PORT}, "periodSeconds": 1},
                    }
                ],
            },
        }

    def _wait_endpoint(self) -> None:
        def fits(piece: Json | None) -> bool:
            ends = (piece or {}).get("endpoints") or ()
            return any((end.get("conditions") or {}).get("ready") for end in ends)

        self.space.api.wait(
            f"/apis/discovery.k8s.io/v1/namespaces/{CLOUD_NAMESPACE}/endpointslices",
            fits,
            "the way to S3 is open",
            WAIT_SECONDS,
            selector=f"kubernetes.io/service-name={self.name}",
        )


def scale(api: Api, replicas: int) -> None:
    """Returns when so many operators are ready, and no other is left."""
    deployments = f"/apis/apps/v1/namespaces/{OPERATOR_NAMESPACE}/deployments"
    api.merge(f"{deployments}/{OPERATOR}/scale", {"spec": {"replicas": replicas}})
    if replicas == 0:
        pods = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods"
        selector = f"app.kubernetes.io/instance={OPERATOR}"
        api.wait(pods, lambda pod: pod is None, "the operator is gone", WAIT_SECONDS, selector=selector)
        return

    def ready(deployment: Json | None) -> bool:
        status = (deployment or {}).get("status") or {}
        return bool(status.get("readyReplicas", 0) == replicas)

    api.wait(deployments, ready, "the operator is ready", WAIT_SECONDS, name=OPERATOR)


def kill_container(run: Run, container: str) -> None:
    """SIGKILL to the main process of a container in the run's newest pod."""
    signal_container(run.space, run.pods()[-1], container, "SIGKILL")


def signal_container(space: Space, pod: Json, container: str, signal: str) -> None:
    """Send a signal to the main process of a pod's container from its node, where nothing can catch SIGKILL or SIGSTOP."""
    node = pod["spec"]["nodeName"]
    statuses = (*pod["status"].get("initContainerStatuses", ()), *pod["status"]["containerStatuses"])
    identity = next(one["containerID"] for one in statuses if one["name"] == container).removeprefix("containerd://")
    done = subprocess.run(
        ["docker", "exec", node, "ctr", "--namespace", "k8s.io", "tasks", "kill", "--signal", signal, identity],
        env=space.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_SECONDS,
    )
    assert done.returncode == 0, f"{signal} did not reach {container} on node {node}: {done.stderr}"


def hold_node(space: Space, node: str) -> Callable[[], None]:
    """Keep a Node although its machine is gone, as where no cloud controller looks; returns how to let it go."""
    path = f"/api/v1/nodes/{node}"
    finalizer = "e2e.trainingrun.dev/slow-cloud-controller"
    space.api.request("PATCH", path, [{"op": "add", "path": "/metadata/finalizers", "value": [finalizer]}], JSON_PATCH)

    def let_go() -> None:
        if space.api.get(path):
            space.api.merge(path, {"metadata": {"finalizers": None}})

    space.undo.append(let_go)
    return let_go
