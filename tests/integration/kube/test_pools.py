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


PER_NODE = {"perNodeHour": 32.77, "currency": "USD"}


@pytest.mark.parametrize("price", [PER_NODE, {"perGpuHour": 2, "currency": "EUR"}], ids=["of a node", "of a GPU"])
def test_a_pool_has_a_price(api, price):
    assert make(api, awsAutoScaling=AWS, price=price)["price"] == price


@pytest.mark.parametrize(
    ("price", "says"),
    [
        pytest.param({**PER_NODE, "perGpuHour": 4}, "exactly one of perNodeHour and perGpuHour is required", id="both"),
        pytest.param({"currency": "USD"}, "exactly one of perNodeHour and perGpuHour is required", id="neither"),
        pytest.param({**PER_NODE, "perNodeHour": 0}, "should be greater than 0", id="nothing"),
        pytest.param({**PER_NODE, "perNodeHour": -1}, "should be greater than 0", id="less than nothing"),
        pytest.param({**PER_NODE, "perNodeHour": 1e308}, "less than or equal to 1e+09", id="more than all money"),
        pytest.param({**PER_NODE, "perNodeHour": "NaN"}, "must be of type number", id="no number"),
        pytest.param({"perNodeHour": 32.77}, "price.currency: Required value", id="no currency"),
        pytest.param({**PER_NODE, "currency": "usd"}, "price.currency", id="a currency that is none"),
    ],
)
def test_a_price_that_says_nothing_is_refused(api, price, says):
    with pytest.raises(ApiError) as caught:
        make(api, awsAutoScaling=AWS, price=price)
    assert caught.value.status == 422
    assert says in caught.value.message
