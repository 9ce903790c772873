"""A tenant: a ServiceAccount with `edit` in one namespace, and what it may watch for requests that should never come."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from e2e.api import Api, ApiError
from e2e.runs import WAIT_SECONDS, state_of, unique
from waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from e2e.api import Json
    from e2e.runs import Space

RBAC = "/apis/rbac.authorization.k8s.io/v1"
SEEN = "asked for"
# Says what it is asked, and answers as an empty page.
LISTEN = f"""
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self):
        print("{SEEN}", self.command, self.path, flush=True)
        self.send_response(200)
        self.end_headers()
    do_GET = do_HEAD = do_PUT = do_POST = answer
http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"""


@dataclass
class Tenant:
    """One ServiceAccount of a space."""

    space: Space
    account: str
    api: Api
    token: str = ""

    @classmethod
    def of(cls, space: Space, account: str = "tenant", role: str = "edit") -> Tenant:
        """Make it, with a ClusterRole in its namespace; without one it may do nothing."""
        space.api.create(f"/api/v1/namespaces/{space.name}/serviceaccounts", {"metadata": {"name": account}})
        path = f"/api/v1/namespaces/{space.name}/serviceaccounts/{account}/token"
        answer = space.api.create(path, {"spec": {"expirationSeconds": 3600}})
        token = answer["status"]["token"]
        tenant = cls(space, account, Api(space.ground.kubeconfig, token), token)
        if role:
            tenant.bind("ClusterRole", role)
            tenant.wait_may("create", "batch", "jobs")
        return tenant

    @property
    def user(self) -> str:
        return f"system:serviceaccount:{self.space.name}:{self.account}"

    def bind(self, kind: str, role: str) -> None:
        body = {
            "metadata": {"name": unique(self.account)},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": self.account, "namespace": self.space.name}],
        }
        self.space.api.create(f"{RBAC}/namespaces/{self.space.name}/rolebindings", body)

    def grant(self, group: str, resources: list[str], verbs: list[str], names: list[str] | None = None) -> None:
        """One more rule; returns when the API server knows it."""
        rule: Json = {"apiGroups": [group], "resources": resources, "verbs": verbs}
        if names:
            rule["resourceNames"] = names
        name = unique(self.account)
        self.space.api.create(
            f"{RBAC}/namespaces/{self.space.name}/roles", {"metadata": {"name": name}, "rules": [rule]}
        )
        self.bind("Role", name)
        self.wait_may(verbs[0], group, resources[0], (names or [""])[0])

    def may(self, verb: str, group: str, resource: str, name: str = "") -> bool:
        resource, _, sub = resource.partition("/")
        about = {"verb": verb, "group": group, "resource": resource, "subresource": sub, "name": name}
        body = {"spec": {"resourceAttributes": {"namespace": self.space.name, **about}}}
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        return bool(self.api.create(path, body)["status"]["allowed"])

    def wait_may(self, verb: str, group: str, resource: str, name: str = "") -> None:
        eventually(lambda: self.may(verb, group, resource, name), f"{self.user} may {verb} {group}/{resource}")

    def wait_may_not(self, verb: str, group: str, resource: str) -> None:
        eventually(lambda: not self.may(verb, group, resource), f"{self.user} may not {verb} {group}/{resource}")

    def path(self, plural: str, name: str = "", group: str = "") -> str:
        root = f"/apis/{group}" if group else "/api/v1"
        return f"{root}/namespaces/{self.space.name}/{plural}" + (f"/{name}" if name else "")

    def denied(self, method: str, path: str, body: Json, content_type: str = "application/json") -> str:
        """What the tenant is told when the API server refuses."""
        with pytest.raises(ApiError) as refusal:
            self.api.request(method, path, body, content_type)
        assert refusal.value.status in (403, 422), refusal.value
        return refusal.value.message

    def denied_now(self, request: Callable[[], tuple[Any, ...]]) -> str:
        """As `denied`, of a request made from what is read now; made again while somebody else writes in between."""

        def asked() -> ApiError | None:
            with pytest.raises(ApiError) as refusal:
                self.api.request(*request())
            return None if refusal.value.status == 409 else refusal.value

        refused = eventually(asked, "it is refused for what it asks, not for what it was made from")
        assert refused.status in (403, 422), refused
        return refused.message


@dataclass
class Listener:
    """A pod that says what it is asked."""

    space: Space
    name: str
    address: str

    @classmethod
    def open(cls, space: Space, labels: dict[str, str] | None = None) -> Listener:
        """Make it; returns when it listens."""
        name = unique("listener")
        secure = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        pod = {
            "metadata": {"name": name, "labels": {"listener": name, **(labels or {})}},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": False,
                "nodeSelector": {"node-role.kubernetes.io/control-plane": ""},
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 1000,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": "listen",
                        "image": space.ground.training_image,
                        "imagePullPolicy": "IfNotPresent",
                        "command": ["python3", "-u", "-c", LISTEN],
                        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
                        "securityContext": secure,
                        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
                    }
                ],
            },
        }
        space.api.create(f"/api/v1/namespaces/{space.name}/pods", pod)

        def ready(found: Json | None) -> bool:
            conditions = ((found or {}).get("status") or {}).get("conditions") or ()
            return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

        found = space.api.wait(
            f"/api/v1/namespaces/{space.name}/pods", ready, "the listener is ready", WAIT_SECONDS, name=name
        )
        assert found is not None
        assert state_of(found, "listen") == "running"
        return cls(space, name, f"{found['status']['podIP']}:8080")

    def asked(self) -> list[str]:
        """Requests so far, oldest first, but for those by which it is tried whether it listens at all."""
        return [line for line in self._said() if not line.endswith("/control")]

    def _said(self) -> list[str]:
        log = self.space.api.log(self.space.name, self.name, "listen")
        return [line for line in log.splitlines() if line.startswith(SEEN)]

    def assert_heard_nobody(self) -> None:
        """Nobody asked; and it would have said so."""
        before = len(self._said())
        self.space.api.call("GET", f"/api/v1/namespaces/{self.space.name}/pods/{self.name}:8080/proxy/control")
        eventually(lambda: len(self._said()) > before, "the listener says what it is asked")
        assert self.asked() == [], "Somebody asked where nobody may."
