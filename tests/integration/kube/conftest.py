"""The API server of the running cluster, by `edge.kube.Kube`, with an administrator's rights; a namespace for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml
from e2e.api import Api, Json
from e2e.ground import Ground, NoGroundError
from e2e.runs import NAMESPACE_LABEL, unique

from trainingrun_operator.api import names
from trainingrun_operator.edge.kube import Connection, Kube

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

UNKNOWN_POOL = "nobodys"
"""The installed operator refuses a run of this pool and leaves it alone, so that only the test writes to it."""


class Runs:
    """Makes TrainingRuns that nobody acts on."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.api = api
        self.namespace = namespace
        self.collection = f"/apis/{names.API_VERSION}/namespaces/{namespace}/{names.RUN_PLURAL}"

    def spec(self, **changes: Any) -> Json:
        """A valid spec; a change to None takes the field away."""
        usual = {
            "checkpoint": {"destination": "s3://bucket/runs", "s3": {"credentialsSecretName": "none"}},
            "nodePool": {"ref": UNKNOWN_POOL},
            "template": {"spec": {"containers": [{"name": "train", "image": "train:1"}]}},
        }
        return {key: value for key, value in (usual | changes).items() if value is not None}

    def body(self, name: str = "run", **changes: Any) -> Json:
        """A whole object."""
        return {
            "apiVersion": names.API_VERSION,
            "kind": names.RUN_KIND,
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": self.spec(**changes),
        }

    def make(self, name: str = "run", **changes: Any) -> Json:
        """Create one, and wait until the installed operator has said its one word about it. Returns it as it is then."""
        self.api.create(self.collection, self.body(name, **changes))
        settled = self.api.wait(
            self.collection,
            lambda run: (
                run is not None
                and any(
                    c["type"] == "Accepted" and c["status"] == "False"
                    for c in (run.get("status") or {}).get("conditions", ())
                )
            ),
            "the operator has refused the run",
            30,
            name=name,
        )
        assert settled is not None
        return settled

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
    # Runs first: the installed operator has nothing to say in a namespace that is being deleted.
    api.delete(f"/apis/{names.API_VERSION}/namespaces/{name}/{names.RUN_PLURAL}")
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
