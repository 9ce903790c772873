"""What goes wrong on purpose: S3 away, another number of operators, an agent killed, a Node that stays."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from e2e.api import JSON_PATCH
from e2e.ground import CLOUD_NAMESPACE, OPERATOR, OPERATOR_NAMESPACE
from e2e.runs import unique

if TYPE_CHECKING:
    from collections.abc import Callable

    from e2e.api import Api, Json
    from e2e.runs import Run, Space

PORT = 9443
# Bytes pass as they are: TLS is between the two ends, whose certificate names every Service of this namespace.
# Of the peers in SLOW, each request waits: of what a client sends, only its first record of all, number 22, is none.
FORWARD = f"""
import asyncio, os
SLOW = os.environ["SLOW"].split()
SECONDS = float(os.environ["SECONDS"])
async def pour(reader, writer, slow=False):
    try:
        while data := await reader.read(65536):
            if slow and data[0] != 22:
                await asyncio.sleep(SECONDS)
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()
async def serve(reader, writer):
    there = await asyncio.open_connection("s3.{CLOUD_NAMESPACE}.svc", 443)
    slow = writer.get_extra_info("peername")[0] in SLOW
    await asyncio.gather(pour(reader, there[1], slow), pour(there[0], writer))
async def main():
    server = await asyncio.start_server(serve, "0.0.0.0", {PORT})
    await server.serve_forever()
asyncio.run(main())
"""


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
        space.api.create(f"/api/v1/namespaces/{CLOUD_NAMESPACE}/services", service)
        space.undo.append(lambda: space.api.delete(f"/api/v1/namespaces/{CLOUD_NAMESPACE}/services/{proxy.name}"))
        # A second later than the service is enough for the runs' own end: they proceed without a bucket.
        space.undo.append(proxy.cut)
        proxy.mend()
        return proxy

    @property
    def url(self) -> str:
        """What a run writes as its endpointURL."""
        return f"https://{self.name}.{CLOUD_NAMESPACE}.svc"

    @property
    def _pods(self) -> str:
        return f"/api/v1/namespaces/{CLOUD_NAMESPACE}/pods"

    def cut(self) -> None:
        """End every connection and refuse new ones; returns when it is so."""
        for pod in self.space.api.list(self._pods, labelSelector=f"e2e-proxy={self.name}"):
            self.space.api.delete(f"{self._pods}/{pod['metadata']['name']}", gracePeriodSeconds=0)
        self._wait_endpoints(ready=False)

    def slow_down(self, peers: list[str], seconds: float) -> None:
        """Have every request of the clients at these addresses wait for so long; everybody else's pass as they are."""
        self.cut()
        self.mend(SLOW=" ".join(peers), SECONDS=str(seconds))

    def mend(self, **env: str) -> None:
        """Let bytes through again; returns when it is so."""
        pod = {
            "metadata": {"name": unique(self.name), "labels": {"e2e-proxy": self.name}},
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
                        "command": ["python3", "-u", "-c", FORWARD],
                        "env": [
                            {"name": key, "value": value} for key, value in ({"SLOW": "", "SECONDS": "0"} | env).items()
                        ],
                        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
                    }
                ],
            },
        }
        self.space.api.create(self._pods, pod)
        self._wait_endpoints(ready=True)

    def _wait_endpoints(self, *, ready: bool) -> None:
        def fits(piece: Json | None) -> bool:
            ends = (piece or {}).get("endpoints") or ()
            return ready == any((end.get("conditions") or {}).get("ready") for end in ends)

        self.space.api.wait(
            f"/apis/discovery.k8s.io/v1/namespaces/{CLOUD_NAMESPACE}/endpointslices",
            fits,
            f"the way to S3 is {'open' if ready else 'closed'}",
            60,
            selector=f"kubernetes.io/service-name={self.name}",
        )


def scale(api: Api, replicas: int) -> None:
    """Returns when so many operators are ready, and no other is left."""
    deployments = f"/apis/apps/v1/namespaces/{OPERATOR_NAMESPACE}/deployments"
    api.merge(f"{deployments}/{OPERATOR}/scale", {"spec": {"replicas": replicas}})
    if replicas == 0:
        pods = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods"
        selector = f"app.kubernetes.io/instance={OPERATOR}"
        api.wait(pods, lambda pod: pod is None, "the operator is gone", 60, selector=selector)
        return

    def ready(deployment: Json | None) -> bool:
        status = (deployment or {}).get("status") or {}
        return bool(status.get("readyReplicas", 0) == replicas)

    api.wait(deployments, ready, "the operator is ready", 90, name=OPERATOR)


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
        timeout=60,
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
