"""An operator of a test's own, for the runs of its shard, behind a proxy that can stop it at any single effect."""

from __future__ import annotations

import contextlib
import copy
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from e2e.api import RUNS, ApiError
from e2e.ground import OPERATOR, OPERATOR_NAMESPACE
from e2e.runs import WAIT_SECONDS, unique
from waiting import eventually

from trainingrun_operator.api.names import FINALIZER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.api import Json
    from e2e.runs import Space

SHARD_LABEL = "trainingrun.dev/shard"
"""tools/install-values.yaml: the installed operator leaves runs with it alone."""
SCRIPT = Path(__file__).parent / "in_pod" / "stopping_proxy.py"
CONTROL_PORT = 9000
AT_ONCE = 8
PORT = 8080


@dataclass(frozen=True)
class Beside:
    """Another process in the operator's pod: same image, same network, nothing else in common."""

    script: Path
    env: dict[str, str]
    cpu: str = "20m"


@dataclass
class OwnOperator:
    """One pod with one operator process; of several with one shard, one leads."""

    space: Space
    shard: str
    name: str
    cpu: str = "20m"
    """What it asks for: what is measured needs its share of a busy machine."""
    beside: Beside | None = None

    @classmethod
    def open(
        cls,
        space: Space,
        *,
        shard: str = "",
        env: dict[str, str] | None = None,
        cpu: str = "20m",
        beside: Beside | None = None,
    ) -> OwnOperator:
        """Start one beside the installed one: same image, same settings, same ServiceAccount. Returns when it is ready."""
        name = unique("own")
        own = cls(space, shard or name, name, cpu, beside)
        space.explain.append(lambda: f"--- operator {name} of the test's own\n{own.log()}")
        # The first to be undone last: when it is its turn, no operator is left that would want to end its runs.
        space.undo.append(own._let_go)
        for path, body in own._objects(env or {}):
            space.api.create(path, body)
            space.undo.append(partial(space.api.delete, f"{path}/{body['metadata']['name']}", gracePeriodSeconds=0))
        own.wait_ready()
        return own

    @property
    def labels(self) -> dict[str, str]:
        """What a run carries that this operator shall answer for."""
        return {SHARD_LABEL: self.shard}

    def _objects(self, env: dict[str, str]) -> list[tuple[str, Json]]:
        core, rbac = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}", "/apis/rbac.authorization.k8s.io/v1"
        scripts = [SCRIPT, *([self.beside.script] if self.beside else [])]
        script = {"metadata": {"name": self.name}, "data": {each.name: each.read_text() for each in scripts}}
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
        container["resources"] = {"requests": {"cpu": self.cpu, "memory": "128Mi"}, "limits": {"memory": "1Gi"}}
        mounts = [{"name": "proxy", "mountPath": "/proxy"}, {"name": "account", "mountPath": "/var/run/account"}]
        container["volumeMounts"] += mounts
        if self.beside is not None:
            same = {key: container[key] for key in ("image", "imagePullPolicy", "securityContext") if key in container}
            spec["containers"].append(
                {
                    "name": self.beside.script.stem,
                    "command": ["python3", "-u", f"/proxy/{self.beside.script.name}"],
                    "env": [{"name": key, "value": value} for key, value in self.beside.env.items()],
                    "resources": {
                        "requests": {"cpu": self.beside.cpu, "memory": "64Mi"},
                        "limits": {"memory": "512Mi"},
                    },
                    "volumeMounts": mounts,
                    **same,
                }
            )
        token = {"serviceAccountToken": {"path": "token"}}
        ca = {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}
        spec["volumes"] += [
            {"name": "proxy", "configMap": {"name": self.name}},
            {"name": "account", "projected": {"sources": [token, ca]}},
        ]
        # Not where kopf looks for it: the operator comes by the kubeconfig, through the proxy.
        spec |= {"automountServiceAccountToken": False, "terminationGracePeriodSeconds": 0, "restartPolicy": "Never"}
        return {"metadata": {"name": self.name, "labels": {"e2e-own-operator": self.shard}}, "spec": spec}

    def _let_go(self) -> None:
        """What its operator has not ended, nobody will: without this, namespaces would stay for ever."""

        def free(stored: Json) -> None:
            meta = stored["metadata"]
            path = f"{RUNS}/namespaces/{meta['namespace']}/trainingruns/{meta['name']}"
            self.space.api.delete(path)
            left = [one for one in meta.get("finalizers") or () if one != FINALIZER]
            with contextlib.suppress(ApiError):
                self.space.api.merge(path, {"metadata": {"finalizers": left or None}})

        found = self.space.api.list(f"{RUNS}/trainingruns", labelSelector=f"{SHARD_LABEL}={self.shard}")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(free, found))

    # -- the proxy ------------------------------------------------------------------------------------------------

    def ask(self, port: int, page: str, method: str = "GET", body: Any = None) -> Any:
        """What a process in its pod answers, in JSON."""
        path = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods/{self.name}:{port}/proxy/{page}"
        return json.loads(self.space.api.call(method, path, body) or "null")

    def _control(self, method: str, page: str, body: Any = None) -> Any:
        return self.ask(CONTROL_PORT, page, method, body)

    def wait_ready(self) -> None:
        """Until the operator has listed its runs."""
        eventually(lambda: self.page("readyz") != "", f"the operator of shard {self.shard} is ready", WAIT_SECONDS)

    def page(self, name: str) -> str:
        """What the operator answers at /readyz, /livez or /metrics; empty if it is no success."""
        path = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods/{self.name}:{CONTROL_PORT}/proxy/ask/{name}"
        try:
            return self.space.api.call("GET", path)
        except (ApiError, OSError):
            return ""

    def halt(self, run: str, effect: str, side: str, do: str = "kill", skip: int = 0) -> int:
        """Arm one halt: the first such effect of a run kills the operator, or freezes it, before it is forwarded or answered. Returns its id."""
        return int(
            self._control("POST", "halt", {"run": run, "effect": effect, "side": side, "do": do, "skip": skip})["id"]
        )

    def disarm(self, halt: int) -> None:
        """Forget a halt that has not happened."""
        self._control("POST", "disarm", {"id": halt})

    def thaw(self, halt: int) -> None:
        """Let a frozen operator, and the request that it was frozen at, go on."""
        self._control("POST", "thaw", {"id": halt})

    def kill(self) -> None:
        """SIGKILL; it is started again by itself."""
        self._control("POST", "operator", {"signal": "KILL"})

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Inside, there is no operator: it was told to end, as by the kubelet, and did. After it there is a ready one."""
        self._control("POST", "operator", {"signal": "TERM", "wanted": False})
        try:
            yield
        finally:
            self._control("POST", "operator", {"signal": "CONT", "wanted": True})
            self.wait_ready()

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

    def usage(self) -> Json:
        """What the operator's process takes: `rss_bytes`, `peak_bytes`, `cpu_seconds`; and its `requests` to API server and cloud so far."""
        return dict(self._control("GET", "usage"))

    def effects(self, run: str = "") -> list[Json]:
        """Of one run, in order; those of nodes and cloud belong to none."""
        return [one for one in self.state()["effects"] if one["run"] in (run, "")]

    def log(self) -> str:
        """Of operator and proxy, and of what runs beside them."""
        said = self.space.api.log(OPERATOR_NAMESPACE, self.name, "operator", tailLines="400")
        if self.beside is None:
            return said
        name = self.beside.script.stem
        return f"{said}\n--- {name}\n{self.space.api.log(OPERATOR_NAMESPACE, self.name, name, tailLines='100')}"
