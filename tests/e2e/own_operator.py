"""An operator of a test's own, for the runs of its shard, behind a proxy that can stop it at any single effect."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2e.api import ApiError, eventually
from e2e.ground import OPERATOR, OPERATOR_NAMESPACE
from e2e.runs import unique

if TYPE_CHECKING:
    from e2e.api import Json
    from e2e.runs import Space

SHARD_LABEL = "trainingrun.dev/shard"
"""tools/install-values.yaml: the installed operator leaves runs with it alone."""
SCRIPT = Path(__file__).parent / "in_pod" / "stopping_proxy.py"
CONTROL_PORT = 9000
PORT = 8080


@dataclass
class OwnOperator:
    """One pod with one operator process; of several with one shard, one leads."""

    space: Space
    shard: str
    name: str

    @classmethod
    def open(cls, space: Space, *, shard: str = "", env: dict[str, str] | None = None) -> OwnOperator:
        """Start one beside the installed one: same image, same settings, same ServiceAccount. Returns when it is ready."""
        name = unique("own")
        own = cls(space, shard or name, name)
        space.explain.append(lambda: f"--- operator {name} of the test's own\n{own.log()}")
        for path, body in own._objects(env or {}):
            space.api.create(path, body)
            space.undo.append(
                lambda path=path, body=body: space.api.delete(
                    f"{path}/{body['metadata']['name']}", gracePeriodSeconds=0
                )
            )
        own.wait_ready()
        return own

    @property
    def labels(self) -> dict[str, str]:
        """What a run carries that this operator shall answer for."""
        return {SHARD_LABEL: self.shard}

    def _objects(self, env: dict[str, str]) -> list[tuple[str, Json]]:
        core, rbac = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}", "/apis/rbac.authorization.k8s.io/v1"
        script = {"metadata": {"name": self.name}, "data": {SCRIPT.name: SCRIPT.read_text()}}
        role = {
            "metadata": {"name": self.name},
            "rules": [{"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["*"]}],
        }
        binding = {
            "metadata": {"name": self.name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": self.name},
            "subjects": [{"kind": "ServiceAccount", "name": OPERATOR, "namespace": OPERATOR_NAMESPACE}],
        }
        roles = f"{rbac}/namespaces/{self.space.name}"
        return [
            (f"{core}/configmaps", script),
            (f"{roles}/roles", role),
            (f"{roles}/rolebindings", binding),
            (f"{core}/pods", self._pod(env)),
        ]

    def _pod(self, env: dict[str, str]) -> Json:
        """The installed operator's pod, with the proxy as its process."""
        path = f"/apis/apps/v1/namespaces/{OPERATOR_NAMESPACE}/deployments/{OPERATOR}"
        spec = copy.deepcopy((self.space.api.get(path) or {})["spec"]["template"]["spec"])
        (container,) = spec["containers"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            container.pop(probe, None)
        own = {
            "TRAININGRUN_RUN_SELECTOR": f"{SHARD_LABEL}={self.shard}",
            "TRAININGRUN_LEASE_NAMESPACE": self.space.name,
            "TRAININGRUN_LEASE_NAME": self.shard,
            "TRAININGRUN_PORT": str(PORT),
            "CLOUD": self.space.ground["TRAININGRUN_CLOUD_ENDPOINT_IN_CLUSTER"],
            **env,
        }
        kept = [one for one in container["env"] if one["name"] not in own]
        container["env"] = kept + [{"name": key, "value": value} for key, value in own.items()]
        container["command"] = ["python3", "-u", f"/proxy/{SCRIPT.name}"]
        container.pop("args", None)
        container["resources"] = {"requests": {"cpu": "20m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}}
        container["volumeMounts"] += [
            {"name": "proxy", "mountPath": "/proxy"},
            {"name": "account", "mountPath": "/var/run/account"},
        ]
        token = {"serviceAccountToken": {"path": "token"}}
        ca = {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}
        spec["volumes"] += [
            {"name": "proxy", "configMap": {"name": self.name}},
            {"name": "account", "projected": {"sources": [token, ca]}},
        ]
        # Not where kopf looks for it: the operator comes by the kubeconfig, through the proxy.
        spec |= {"automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0, "restartPolicy": "Never"}
        return {"metadata": {"name": self.name, "labels": {"e2e-own-operator": self.shard}}, "spec": spec}

    # -- the proxy ------------------------------------------------------------------------------------------------

    def _control(self, method: str, page: str, body: Any = None) -> Any:
        path = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods/{self.name}:{CONTROL_PORT}/proxy/{page}"
        return json.loads(self.space.api.call(method, path, body) or "null")

    def wait_ready(self) -> None:
        """Until the operator has listed its runs."""
        eventually(lambda: self.page("readyz") != "", f"the operator of shard {self.shard} is ready", 90)

    def page(self, name: str) -> str:
        """What the operator answers at /readyz, /livez or /metrics; empty if it is no success."""
        path = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods/{self.name}:{CONTROL_PORT}/proxy/ask/{name}"
        try:
            return self.space.api.call("GET", path)
        except (ApiError, OSError):
            return ""

    def halt(self, run: str, effect: str, side: str, do: str = "kill") -> int:
        """Arm one halt: the first such effect of a run kills the operator, or freezes it, before it is forwarded or answered. Returns its id."""
        return int(self._control("POST", "halt", {"run": run, "effect": effect, "side": side, "do": do})["id"])

    def disarm(self, halt: int) -> None:
        """Forget a halt that has not happened."""
        self._control("POST", "disarm", {"id": halt})

    def thaw(self, halt: int) -> None:
        """Let a frozen operator, and the request that it was frozen at, go on."""
        self._control("POST", "thaw", {"id": halt})

    def frozen(self, halt: int) -> bool:
        """Whether a halt has frozen the operator."""
        return halt in self.state()["frozen"]

    def halted(self, halt: int) -> bool:
        """Whether a halt has happened."""
        return bool(self.state()["halts"][halt].get("done"))

    def break_api(self, what: str = "") -> None:
        """The API server is away, busy, gone (410) or silent for this operator; mended with nothing."""
        self._control("POST", "fault", {"what": what} if what else {})

    def state(self) -> Json:
        """Effects so far, halts, and how often the operator was started."""
        return dict(self._control("GET", "state"))

    def effects(self, run: str = "") -> list[Json]:
        """Of one run, in order; those of nodes and cloud belong to none."""
        return [one for one in self.state()["effects"] if one["run"] in (run, "")]

    def log(self) -> str:
        """Of operator and proxy."""
        return self.space.api.log(OPERATOR_NAMESPACE, self.name, "operator", tailLines="400")
