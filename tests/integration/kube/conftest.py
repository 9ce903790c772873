"""The API server of the running cluster, by `edge.kube.Kube`, with an administrator's rights; a namespace for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml
from e2e.api import APPLY, Api, Json
from e2e.ground import Ground, NoGroundError
from e2e.own_operator import SHARD_LABEL
from e2e.runs import NAMESPACE_LABEL, unique

from trainingrun_operator.api import names
from trainingrun_operator.edge.kube import OBSERVER, Connection, Kube

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

UNWATCHED = {SHARD_LABEL: "no-operator"}
"""Labels of a run that no operator selects: only the test writes to it."""
REFUSED = {
    "type": "Accepted",
    "status": "False",
    "reason": "UnknownNodePool",
    "message": "Written by the test.",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}


class Runs:
    """Makes TrainingRuns that no operator watches."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.api = api
        self.namespace = namespace
        self.collection = f"/apis/{names.API_VERSION}/namespaces/{namespace}/{names.RUN_PLURAL}"

    def spec(self, **changes: Any) -> Json:
        """A valid spec; a change to None takes the field away."""
        usual = {
            "checkpoint": {"destination": "s3://bucket/runs", "s3": {"credentialsSecretName": "none"}},
            "template": {"spec": {"containers": [{"name": "train", "image": "train:1"}]}},
        }
        return {key: value for key, value in (usual | changes).items() if value is not None}

    def body(self, name: str = "run", **changes: Any) -> Json:
        """A whole object."""
        return {
            "apiVersion": names.API_VERSION,
            "kind": names.RUN_KIND,
            "metadata": {"name": name, "namespace": self.namespace, "labels": UNWATCHED},
            "spec": self.spec(**changes),
        }

    def make(self, name: str = "run", **changes: Any) -> Json:
        """Create one and apply a first status as the observer does. Returns the run as it is then."""
        self.api.create(self.collection, self.body(name, **changes))
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.RUN_KIND,
            "metadata": {"name": name, "namespace": self.namespace},
            "status": {"phase": "Pending", "observedGeneration": 1, "conditions": [REFUSED]},
        }
        path = f"{self.collection}/{name}/status"
        return self.api.request("PATCH", path, body, APPLY, fieldManager=OBSERVER, force="true")

    def read(self, name: str = "run") -> Json:
        """As it is stored now."""
        return self.api.request("GET", f"{self.collection}/{name}")

    def put_status(self, name: str = "run", **status: Any) -> Json:
        """Merge into the status, as a writer that asks nobody would."""
        return self.api.merge(f"{self.collection}/{name}/status", {"status": status})


@pytest.fixture(scope="session")
def ground() -> Ground:
    try:
        return Ground.find()
    except NoGroundError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def api(ground: Ground) -> Api:
    return Api(ground.kubeconfig)


@pytest.fixture
def namespace(api: Api) -> Iterator[str]:
    name = unique("kube")
    api.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": {NAMESPACE_LABEL: "true"}}})
    yield name
    api.delete(f"/api/v1/namespaces/{name}")


@pytest.fixture
def runs(api: Api, namespace: str) -> Runs:
    return Runs(api, namespace)


@pytest.fixture
async def kube(ground: Ground) -> AsyncIterator[Kube]:
    config = yaml.safe_load(ground.kubeconfig.read_text())
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    connection = Connection(
        server=cluster["server"],
        ca_data=cluster["certificate-authority-data"],
        certificate_data=user["client-certificate-data"],
        private_key_data=user["client-key-data"],
    )
    async with Kube(connection) as kube:
        yield kube
