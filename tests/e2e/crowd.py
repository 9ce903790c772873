"""A crowd of simulated runs: the TrainingRuns, their Jobs and pods are objects in the API server, and what a pod does is acted by `in_pod/crowd.py`.

Two hundred real pods do not fit on a small machine, and what is measured with them is the operator, which cannot tell the difference.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from e2e.api import RUNS
from e2e.own_operator import Beside, OwnOperator
from e2e.runs import SECRET, Run, Space, base_spec, merged, unique

from trainingrun_operator.api import names

if TYPE_CHECKING:
    from e2e.api import Json

SCRIPT = Path(__file__).parent / "in_pod" / "crowd.py"
RECORD_PORT, SILENT_PORT = 9100, 20000
LISTING_PORT, MANIFEST_PORT = 19000, 19001
"""Of buckets that are hostile by their lists, and by their manifests."""
TEMPLATE_UNITS = 350_000
LABEL, KIND = "e2e-crowd", "e2e-crowd-kind"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
AT_ONCE = 8


@dataclass
class Crowd:
    """Simulated runs in namespaces of their own, with an operator of theirs."""

    space: Space
    name: str
    own: OwnOperator
    towns: dict[str, Space]
    """Their namespaces, by what a test calls them."""

    @classmethod
    def open(cls, space: Space, towns: list[str], *, silent: int, env: dict[str, str]) -> Crowd:
        """Make the namespaces and start the operator with the crowd beside it; `silent` buckets never answer."""
        name = unique("crowd")
        places = {
            town: Space(space.ground, space.api, space.bucket, space.cloud, unique(space.name), space.folder)
            for town in towns
        }
        token = _account(space, name)
        for place in places.values():
            place.open()
            space.undo.append(partial(space.api.delete, f"/api/v1/namespaces/{place.name}"))
            _grant(space, place, name)
        beside = Beside(
            SCRIPT,
            {
                "CROWD": name,
                "TOKEN": token,
                "NAMESPACES": " ".join(place.name for place in places.values()),
                "SILENT": str(silent),
            },
            cpu="50m",
        )
        # The buckets that never answer are in the operator's own pod.
        listed = [{"endpoint": space.ground.s3_in_cluster}, {"endpoint": "http://127.0.0.1:*"}]
        env = {"TRAININGRUN_ALLOWED_DESTINATIONS": json.dumps(listed), **env}
        own = OwnOperator.open(space, shard=name, env=env, cpu="100m", beside=beside)
        return cls(space, name, own, places)

    # -- making them ----------------------------------------------------------------------------------------------

    def add(self, town: str, kind: str, number: int, *, every: int, saves: bool = False) -> list[Run]:
        """Make runs whose pods are of a kind of `in_pod/crowd.py`, polled every so many seconds. Unless they save, they save nothing."""
        pod = {"metadata": {"labels": {LABEL: self.name, KIND: kind}}, "spec": {"schedulerName": "nobody"}}
        spec = merged(base_spec(self.space.ground), {"checkpoint": None, "template": pod, "pollIntervalSeconds": every})
        spec["checkpoint"] = base_spec(self.space.ground)["checkpoint"] if saves else {"mode": "Disabled"}
        return self._make(town, kind, [spec] * number)

    def add_dead_buckets(self, town: str, kind: str, ports: list[int], *, every: int) -> list[Run]:
        """Make runs that each have a bucket of their own, at these ports of the operator's pod."""
        base = base_spec(self.space.ground)
        s3 = [{"endpointURL": f"http://127.0.0.1:{port}", "credentialsSecretName": SECRET} for port in ports]
        specs = [merged(base, {"checkpoint": {"s3": one}, "pollIntervalSeconds": every}) for one in s3]
        return self._make(town, kind, specs)

    def add_templates(self, town: str, kind: str, number: int) -> list[Run]:
        """Make runs whose template is 1 MB of empty objects."""
        spec = base_spec(self.space.ground) | {"template": {"x": [{}] * TEMPLATE_UNITS}}
        return self._make(town, kind, [spec] * number)

    def add_authorities(self, town: str, kind: str, number: int) -> list[Run]:
        """Make runs whose Secret has 900 kB of certificates."""
        data = {names.ACCESS_KEY: "key", names.SECRET_KEY: "secret", names.CA: "x" * 900_000}
        secret = {"metadata": {"name": kind}, "stringData": data}
        self.space.api.create(f"/api/v1/namespaces/{self.towns[town].name}/secrets", secret)
        spec = merged(base_spec(self.space.ground), {"checkpoint": {"s3": {"credentialsSecretName": kind}}})
        return self._make(town, kind, [spec] * number)

    def add_credentials(self, town: str, kind: str, number: int) -> list[Run]:
        """Make runs with a region of their own each, which is another client of the operator, and a hostile bucket."""
        base, address = base_spec(self.space.ground), f"http://127.0.0.1:{LISTING_PORT}"
        s3 = [{"endpointURL": address, "region": f"made-up-{one}"} for one in range(number)]
        return self._make(town, kind, [merged(base, {"checkpoint": {"s3": one}}) for one in s3])

    def _make(self, town: str, kind: str, specs: list[Json]) -> list[Run]:
        place = self.towns[town]

        def make(number: int) -> Run:
            name = f"{town}-{kind}-{number:03d}"
            body = {
                "apiVersion": "trainingrun.dev/v1alpha1",
                "kind": "TrainingRun",
                "metadata": {"name": name, "labels": self.own.labels},
                "spec": specs[number],
            }
            created = self.space.api.create(f"{RUNS}/namespaces/{place.name}/trainingruns", body)
            return Run(place, name, created["metadata"]["uid"])

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(make, range(len(specs))))

    # -- what became of them --------------------------------------------------------------------------------------

    def record(self) -> Json:
        """`members`: run, kind and when it was polled; `holding` and `most`: runs and buckets that hang now, and at most; `beats`: lateness of the crowd itself."""
        return dict(self.own.ask(RECORD_PORT, "record"))

    def counts(self) -> Json:
        """By kind, how many were polled at least twice; `holding`: runs and buckets that hang now."""
        return dict(self.own.ask(RECORD_PORT, "counts"))


def _account(space: Space, name: str) -> str:
    """Token of a ServiceAccount for the crowd: what it does must not look as if the operator did it."""
    path = f"/api/v1/namespaces/{space.name}/serviceaccounts"
    space.api.create(path, {"metadata": {"name": name}})
    return str(space.api.create(f"{path}/{name}/token", {"spec": {"expirationSeconds": 3600}})["status"]["token"])


def _grant(space: Space, place: Space, name: str) -> None:
    """What a kubelet may, of the pods of one namespace."""
    rules = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]},
        {"apiGroups": [""], "resources": ["pods/status"], "verbs": ["patch"]},
    ]
    roles = f"{RBAC}/namespaces/{place.name}"
    space.api.create(f"{roles}/roles", {"metadata": {"name": name}, "rules": rules})
    binding = {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": space.name}],
    }
    space.api.create(f"{roles}/rolebindings", binding)
