"""A Helm release of a test's own, beside the installed one, for the runs of its shard."""

from __future__ import annotations

import contextlib
import shlex
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from e2e.api import RUNS, ApiError
from e2e.ground import OPERATOR, REPOSITORY
from e2e.own_operator import SHARD_LABEL
from e2e.runs import WAIT_SECONDS, merged, unique

from trainingrun_operator.api.names import FINALIZER

if TYPE_CHECKING:
    from e2e.api import Json
    from e2e.runs import Space

NAMESPACE = "trainingrun-second"
"""tools/install-values.yaml: the installed release's admission policies take this one's operator at its word."""
NAME = "trainingrun-second"
"""Of everything in it but the ServiceAccount: ClusterRoles of two releases share no name."""
CHART = REPOSITORY / "charts" / OPERATOR
PREVIOUS = Path(__file__).parent / "charts" / "previous.tgz"
"""The chart as it was before, by `helm package`: what people upgrade from."""
USER = f"system:serviceaccount:{NAMESPACE}:{OPERATOR}"
SECONDS = 240


@dataclass
class Release:
    """One release: installed, changed, taken away. What the whole cluster shares stays the installed one's."""

    space: Space
    shard: str
    since: float = field(default_factory=time.time)
    """What its ServiceAccount asked for before was asked for by another test's."""

    @classmethod
    def of(cls, space: Space) -> Release:
        """Nothing is installed yet; at the end nothing is left but an empty namespace."""
        release = cls(space, unique("release"))
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        with contextlib.suppress(ApiError):  # It stays from test to test.
            space.api.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE, "labels": labels}})
        space.explain.append(release.story)
        space.undo += [release.let_go, release.uninstall]
        release.uninstall()
        release.since = time.time()
        return release

    @property
    def labels(self) -> dict[str, str]:
        """What a run carries that this release shall answer for."""
        return {SHARD_LABEL: self.shard}

    @property
    def values(self) -> Json:
        """What every chart since the previous one takes."""
        repository, _, tag = self.space.ground["TRAININGRUN_IMAGE"].rpartition(":")
        return {
            "fullnameOverride": NAME,
            "serviceAccount": {"name": OPERATOR},
            "image": {"repository": repository, "tag": tag},
            "crds": {"enabled": False},
            "admissionPolicies": {"enabled": False},
            "rbac": {"aggregate": {"enabled": False}},
            "allowedDestinations": [{"endpoint": "https://*.trainingrun-cloud.svc:*"}],
            "runSelector": f"{SHARD_LABEL}={self.shard}",
            "timing": {"agentSettleSeconds": 2, "statusSeconds": 5, "recheckSeconds": 3},
            "agent": {"resources": {"requests": {"cpu": "10m", "memory": "128Mi"}, "limits": {"memory": "512Mi"}}},
            "resources": {"requests": {"cpu": "20m", "memory": "128Mi"}},
            "nodeSelector": {"node-role.kubernetes.io/control-plane": ""},
            "priorityClassName": "system-cluster-critical",
        }

    def helm(self, *arguments: str, fails: bool = False) -> str:
        """What helm says, standing in the release's namespace."""
        command = shlex.join(["helm", "--namespace", NAMESPACE, *arguments])
        return self.space.shell(command, fails=fails, seconds=SECONDS)

    def upgrade(self, chart: Path = CHART, **values: Json | list[str]) -> None:
        """Install it, or change it; returns when its operator is ready."""
        file = self.space.folder / "release-values.yaml"
        file.write_text(yaml.safe_dump(merged(self.values, values)))
        self.helm(
            "upgrade",
            "--install",
            OPERATOR,
            str(chart),
            "--values",
            str(file),
            "--reset-values",
            "--wait",
            "--timeout=3m",
        )

    def uninstall(self) -> None:
        """Returns when its operator has ended, too. Gone already is success."""
        self.helm("uninstall", OPERATOR, "--ignore-not-found", "--wait", "--timeout=3m")
        pods, selector = f"/api/v1/namespaces/{NAMESPACE}/pods", f"app.kubernetes.io/instance={OPERATOR}"
        self.space.api.wait(pods, lambda pod: pod is None, "its operator is gone", WAIT_SECONDS, selector=selector)

    def let_go(self) -> None:
        """Take our finalizer off what its operator has not ended: nobody else would."""
        for stored in self.space.api.list(f"{RUNS}/trainingruns", labelSelector=f"{SHARD_LABEL}={self.shard}"):
            meta = stored["metadata"]
            path = f"{RUNS}/namespaces/{meta['namespace']}/trainingruns/{meta['name']}"
            left = [one for one in meta.get("finalizers") or () if one != FINALIZER]
            with contextlib.suppress(ApiError):
                self.space.api.merge(path, {"metadata": {"finalizers": left or None}})

    def story(self) -> str:
        """What explains a failure."""
        said = [f"--- release in {NAMESPACE}"]
        for pod in self.space.api.list(f"/api/v1/namespaces/{NAMESPACE}/pods"):
            (container,) = pod["spec"]["containers"]
            name = pod["metadata"]["name"]
            said.append(f"--- {name}\n{self.space.api.log(NAMESPACE, name, container['name'], tailLines='200')}")
        return "\n".join(said)
