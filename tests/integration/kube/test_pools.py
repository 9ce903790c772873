"""The rules for pools that the API server itself enforces, with the sentences that administrators read."""

from __future__ import annotations

import pytest
from e2e.api import ApiError

from trainingrun_operator.api import names

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

AWS = {"region": "us-east-1", "groups": ["gpu"]}
EXTERNAL = {"provider": "ExampleCloud", "config": {"endpoint": "https://cloud.example"}}


def make(api, **spec):
    """What the API server would store."""
    body = {
        "apiVersion": names.API_VERSION,
        "kind": names.POOL_KIND,
        "metadata": {"name": "never-stored"},
        "spec": {"nodeSelector": {"pool": "a100"}, **spec},
    }
    return api.request("POST", f"/apis/{names.API_VERSION}/{names.POOL_PLURAL}", body, dryRun="All")["spec"]


@pytest.mark.parametrize("provider", [{"awsAutoScaling": AWS}, {"external": EXTERNAL}, {"external": {"provider": "X"}}])
def test_a_pool_has_a_provider_of_this_package_or_of_another(api, provider):
    made = make(api, **provider)
    assert {name: made.get(name) for name in ("awsAutoScaling", "external") if name in made} == provider


@pytest.mark.parametrize("providers", [{}, {"awsAutoScaling": AWS, "external": EXTERNAL}], ids=["none", "two"])
def test_and_exactly_one(api, providers):
    with pytest.raises(ApiError) as caught:
        make(api, **providers)
    assert caught.value.status == 422
    assert "exactly one provider is required: awsAutoScaling or external" in caught.value.message


@pytest.mark.parametrize(
    "external",
    [
        pytest.param({"config": {}}, id="without a name"),
        pytest.param({"provider": "../x"}, id="a name that is a path"),
        pytest.param({"provider": "X", "config": {"key": 1}}, id="a number"),
        pytest.param({"provider": "X", "config": {"key": "x" * 1025}}, id="a long text"),
        pytest.param({"provider": "X", "config": {str(i): "" for i in range(33)}}, id="many texts"),
    ],
)
def test_what_a_pool_says_to_its_provider_is_bounded(api, external):
    with pytest.raises(ApiError) as caught:
        make(api, external=external)
    assert caught.value.status == 422
