"""Releasing one machine through the real boto3 over HTTP, against moto's EC2 and Auto Scaling with the bounds of AWS.

moto keeps no minimum and answers a repeated terminate with HTTP 500; `as_aws_does` says what AWS says. That is as far as this proves.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import boto3
import pytest
import pytest_asyncio
from aiohttp import web
from moto.autoscaling.exceptions import ValidationError
from moto.autoscaling.models import AutoScalingBackend
from moto.backends import get_backend
from moto.server import ThreadedMotoServer

from trainingrun_operator.api.pool import GPUNodePoolSpec
from trainingrun_operator.core.facts.nodes import Instance, NodeRef, Pool
from trainingrun_operator.edge.nodes import aws_auto_scaling as module
from trainingrun_operator.edge.nodes.aws_auto_scaling import AWSAutoScalingProvider
from trainingrun_operator.edge.nodes.provider import Denied, Refused, Retryable

if TYPE_CHECKING:
    from mypy_boto3_autoscaling import AutoScalingClient
    from mypy_boto3_ec2 import EC2Client

# One loop for the module: its provider is shared, because making clients costs more than most tests do.
pytestmark = pytest.mark.asyncio(loop_scope="module")

REGION = "us-east-1"
ACCOUNT = "123456789012"
TERMINATE = AutoScalingBackend.terminate_instance
ONE_AT_A_TIME = threading.Lock()


def as_aws_does(self: AutoScalingBackend, instance_id: str, should_decrement: bool) -> Any:
    with ONE_AT_A_TIME:
        groups = self.autoscaling_groups.values()
        group = next(
            (one for one in groups if any(state.instance.id == instance_id for state in one.instance_states)), None
        )
        if group is None:
            raise ValidationError(f"Instance Id not found - No managed instance found for instance ID {instance_id}")
        if should_decrement and (group.desired_capacity or 0) - 1 < (group.min_size or 0):
            raise ValidationError(
                f"Currently, desiredSize equals minSize ({group.min_size}). Terminating instance without replacement will violate group's"
                " min size constraint."
            )
        return TERMINATE(self, instance_id, should_decrement)


@dataclass
class Cloud:
    """The simulated account."""

    scaling: AutoScalingClient
    ec2: EC2Client
    image: str

    def group(self, name, desired, minimum=0):
        """Make a group; return its instances."""
        self.scaling.create_auto_scaling_group(
            AutoScalingGroupName=name,
            LaunchConfigurationName="gpu",
            MinSize=minimum,
            MaxSize=8,
            DesiredCapacity=desired,
            AvailabilityZones=[f"{REGION}a"],
        )
        return self.instances(name)

    def describe(self, name):
        return self.scaling.describe_auto_scaling_groups(AutoScalingGroupNames=[name])["AutoScalingGroups"][0]

    def instances(self, name):
        return [one["InstanceId"] for one in self.describe(name)["Instances"]]

    def desired(self, name):
        return self.describe(name)["DesiredCapacity"]

    def state(self, instance):
        return self.ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]["State"]["Name"]

    def lone_instance(self):
        return self.ec2.run_instances(ImageId=self.image, MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]

    def set_lifecycle(self, group, instance, lifecycle):
        """moto ends machines in an instant; AWS takes minutes and passes through these."""
        states = get_backend("autoscaling")[ACCOUNT][REGION].autoscaling_groups[group].instance_states
        next(one for one in states if one.instance.id == instance).lifecycle_state = lifecycle

    def set_ec2_state(self, instance, code, name):
        state = get_backend("ec2")[ACCOUNT][REGION].get_instance(instance)._state
        state.code, state.name = code, name


@pytest.fixture(scope="module")
def environment():
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}.items():
            patch.setenv(name, value)
        patch.delenv("AWS_PROFILE", raising=False)
        patch.setattr(AutoScalingBackend, "terminate_instance", as_aws_does)
        yield patch


@pytest.fixture(scope="module")
def cloud(environment):
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    environment.setenv("AWS_ENDPOINT_URL_AUTO_SCALING", url)
    environment.setenv("AWS_ENDPOINT_URL_EC2", url)
    scaling, ec2 = boto3.client("autoscaling", region_name=REGION), boto3.client("ec2", region_name=REGION)
    made = Cloud(scaling, ec2, ec2.describe_images()["Images"][0]["ImageId"])
    made.scaling.create_launch_configuration(
        LaunchConfigurationName="gpu", ImageId=made.image, InstanceType="p5.48xlarge"
    )
    yield made
    made.scaling.close()
    made.ec2.close()
    server.stop()


@pytest.fixture
def group(request):
    """A group name of the test's own."""
    return request.node.name


@pytest.fixture(scope="module")
def provider(cloud):
    made = AWSAutoScalingProvider()
    yield made
    asyncio.run(made.close())


@pytest.fixture
def requests(provider, monkeypatch):
    """Names of the calls that the provider makes."""
    made = []
    real = provider._client

    def watched(region):
        clients = real(region)
        for client in (clients.scaling, clients.ec2):
            client.meta.events.register("before-call", lambda model, **_: made.append(model.name), unique_id="watch")
        return clients

    monkeypatch.setattr(provider, "_client", watched)
    yield made
    for client in (real(REGION).scaling, real(REGION).ec2):
        client.meta.events.unregister("before-call", unique_id="watch")


def make_pool(*groups, min_nodes=0, region=REGION):
    spec = {
        "nodeSelector": {"pool": "a100"},
        "minNodes": min_nodes,
        "awsAutoScaling": {"region": region, "groups": list(groups)},
    }
    return Pool("a100", GPUNodePoolSpec.parse_strict(spec))


def named(instance, zone=f"{REGION}a"):
    return NodeRef("gpu-1", "node-uid", f"aws:///{zone}/{instance}")


# -- release --------------------------------------------------------------------------------------------------


async def test_exactly_the_named_machine_goes_and_the_group_becomes_smaller(cloud, provider, group):
    first, second, third = cloud.group(group, 3)
    await provider.release(make_pool(group), named(second), "op")
    assert cloud.state(second) == "terminated"
    assert cloud.instances(group) == [first, third]
    assert {cloud.state(first), cloud.state(third)} == {"running"}
    assert cloud.desired(group) == 2


async def test_every_request_to_the_cloud_is_counted(cloud, provider, group, requests, requests_made):
    (machine,) = cloud.group(group, 1)
    await provider.instance(make_pool(group), named(machine))
    await provider.release(make_pool(group), named(machine), "op")
    assert requests_made() == {"cloud": len(requests)}


async def test_released_twice_the_group_becomes_smaller_once(cloud, provider, group):
    first, *_ = cloud.group(group, 3)
    await provider.release(make_pool(group), named(first), "op")
    await provider.release(make_pool(group), named(first), "op")
    assert cloud.desired(group) == 2


async def test_a_release_that_has_waited_too_long_is_given_up_because_another_operator_may_lead(
    cloud, provider, group, monkeypatch
):
    first, *_ = cloud.group(group, 3)
    monkeypatch.setattr(module, "_FRESH_SECONDS", -1.0)
    with pytest.raises(Retryable, match="too slow"):
        await provider.release(make_pool(group), named(first), "op")
    assert cloud.desired(group) == 3


async def test_a_machine_on_its_way_out_is_not_asked_again(cloud, provider, group, requests):
    first, *_ = cloud.group(group, 3)
    cloud.set_lifecycle(group, first, "Terminating:Wait")
    await provider.release(make_pool(group), named(first), "op")
    assert requests == ["DescribeAutoScalingInstances"]
    assert cloud.desired(group) == 3


async def test_a_machine_that_aws_has_forgotten_is_released(cloud, provider, group):
    cloud.group(group, 1)
    await provider.release(make_pool(group), named("i-0123456789abcdef0"), "op")
    assert cloud.desired(group) == 1


async def test_a_machine_of_another_group_is_refused(cloud, provider, group):
    cloud.group(group, 1)
    foreign, *_ = cloud.group(f"{group}-other", 2)
    with pytest.raises(Refused, match=f"{foreign} is in none of the groups of GPUNodePool a100"):
        await provider.release(make_pool(group), named(foreign), "op")
    assert cloud.state(foreign) == "running"


async def test_a_machine_of_no_group_is_refused(cloud, provider, group):
    cloud.group(group, 1)
    lone = cloud.lone_instance()
    with pytest.raises(Refused, match="in none of the groups"):
        await provider.release(make_pool(group), named(lone), "op")
    assert cloud.state(lone) == "running"


@pytest.mark.parametrize(
    ("provider_id", "why"),
    [
        pytest.param("kind://docker/kind/worker", "it is not an EC2 instance", id="another cloud's"),
        pytest.param("", "it is not an EC2 instance", id="empty"),
        pytest.param(
            "aws:///us-east-1a/i-0123456789abcdef0/../x", "it is not an EC2 instance", id="with more behind it"
        ),
        pytest.param(
            "aws:///eu-west-1a/i-0123456789abcdef0",
            "is not in region us-east-1",
            id="another region's, where AWS would say: gone",
        ),
    ],
)
@pytest.mark.parametrize("ask", ["instance", "at_minimum", "release"])
async def test_a_provider_id_that_cannot_be_the_pools_is_refused_unasked(provider, requests, ask, provider_id, why):
    asked = make_pool("gpu"), NodeRef("gpu-1", "node-uid", provider_id), *(["op"] if ask == "release" else [])
    with pytest.raises(Refused, match=why):
        await getattr(provider, ask)(*asked)
    assert requests == []


# -- the minimum ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("desired", "minimum", "min_nodes", "expected"),
    [
        pytest.param(2, 0, 0, False, id="above both"),
        pytest.param(2, 2, 0, True, id="at the group's minimum"),
        pytest.param(2, 1, 0, False, id="one above the group's minimum"),
        pytest.param(2, 0, 2, True, id="at the pool's minimum"),
        pytest.param(2, 0, 1, False, id="one above the pool's minimum"),
    ],
)
async def test_a_pool_at_its_minimum_keeps_the_machine(cloud, provider, group, desired, minimum, min_nodes, expected):
    first, *_ = cloud.group(group, desired, minimum)
    pool = make_pool(group, min_nodes=min_nodes)
    assert await provider.at_minimum(pool, named(first)) is expected
    if expected:
        with pytest.raises(Refused, match="at its minimum"):
            await provider.release(pool, named(first), "op")
    else:
        await provider.release(pool, named(first), "op")
    assert cloud.desired(group) == (desired if expected else desired - 1)


async def test_the_pools_minimum_is_over_all_of_its_groups(cloud, provider, group):
    first, *_ = cloud.group(group, 1)
    cloud.group(f"{group}-b", 2)
    assert not await provider.at_minimum(make_pool(group, f"{group}-b", min_nodes=2), named(first))
    assert await provider.at_minimum(make_pool(group, f"{group}-b", min_nodes=3), named(first))


async def test_two_releases_at_once_leave_the_minimum(cloud, provider, group):
    first, second = cloud.group(group, 2, minimum=1)
    pool = make_pool(group)
    answers = await asyncio.gather(
        *(provider.release(pool, named(one), "op") for one in (first, second)), return_exceptions=True
    )
    assert sorted(str(answer)[:20] for answer in answers) == ["GPUNodePool a100 is ", "None"]
    assert cloud.desired(group) == 1
    assert len(cloud.instances(group)) == 1


@pytest.mark.parametrize(
    ("machines", "min_nodes", "left"),
    [pytest.param(2, 1, 1, id="two of two, one stays"), pytest.param(3, 2, 2, id="three of three, two stay"), pytest.param(2, 0, 0, id="no minimum")],
)  # fmt: skip
async def test_releases_at_once_leave_the_pools_minimum(cloud, provider, group, monkeypatch, machines, min_nodes, left):
    """Each call has read the sizes before any other terminates, unless they wait for each other."""
    barrier, real = threading.Barrier(machines), module._would_violate

    def together(*asked):
        answer = real(*asked)
        with contextlib.suppress(threading.BrokenBarrierError):
            barrier.wait(timeout=0.5)
        return answer

    monkeypatch.setattr(module, "_would_violate", together)
    instances = cloud.group(group, machines)
    pool = make_pool(group, min_nodes=min_nodes)
    answers = await asyncio.gather(
        *(provider.release(pool, named(one), "op") for one in instances), return_exceptions=True
    )
    assert sum(isinstance(answer, Refused) for answer in answers) == left
    assert (cloud.desired(group), len(cloud.instances(group))) == (left, left)


async def test_releases_at_once_of_pools_that_share_a_group_leave_the_minimum(cloud, provider, group, monkeypatch):
    barrier, real = threading.Barrier(2), module._would_violate

    def together(*asked):
        answer = real(*asked)
        with contextlib.suppress(threading.BrokenBarrierError):
            barrier.wait(timeout=0.5)
        return answer

    monkeypatch.setattr(module, "_would_violate", together)
    first, second = cloud.group(group, 2)
    pools = make_pool(group, min_nodes=1), replace(make_pool(group, min_nodes=1), name="b100")
    await asyncio.gather(
        *(provider.release(pool, named(one), "op") for pool, one in zip(pools, (first, second), strict=True)),
        return_exceptions=True,
    )
    assert cloud.desired(group) == 1


async def test_another_operators_release_counts_for_this_one(cloud, provider, group):
    first, second = cloud.group(group, 2)
    pool, other = make_pool(group, min_nodes=1), AWSAutoScalingProvider()
    try:
        await other.release(pool, named(first), "op")
        with pytest.raises(Refused, match="at its minimum"):
            await provider.release(pool, named(second), "op")
    finally:
        await other.close()
    assert cloud.desired(group) == 1


@pytest.mark.parametrize(
    ("min_nodes", "kept"), [pytest.param(1, True, id="at the minimum"), pytest.param(0, False, id="above it")]
)
@pytest.mark.parametrize("lifecycle", ["Terminating", "Terminating:Wait", "Terminating:Proceed", "Terminated"])
async def test_a_machine_that_goes_and_is_to_be_replaced_is_no_node_of_the_minimum(
    cloud, provider, group, lifecycle, min_nodes, kept
):
    first, second = cloud.group(group, 2)
    cloud.set_lifecycle(group, first, lifecycle)
    pool = make_pool(group, min_nodes=min_nodes)
    assert await provider.at_minimum(pool, named(second)) is kept


async def test_a_termination_that_aws_does_not_show_yet_counts(cloud, provider, group, monkeypatch):
    first, second = cloud.group(group, 2)
    pool, real = make_pool(group, min_nodes=1), provider._client
    stale = real(REGION).scaling.describe_auto_scaling_groups(AutoScalingGroupNames=[group])["AutoScalingGroups"]
    await provider.release(pool, named(first), "op")
    monkeypatch.setattr(module, "_groups", lambda *_: stale)
    assert not await provider.at_minimum(pool, named(first)), "It is on its way out."
    with pytest.raises(Refused, match="at its minimum"):
        await provider.release(pool, named(second), "op")
    monkeypatch.setattr(module, "_BELIEVED_SECONDS", 0)
    assert not await provider.at_minimum(pool, named(second)), "What AWS shows counts again."


async def test_a_group_that_was_deleted_is_named_with_its_pool(cloud, provider, group, monkeypatch):
    (first,) = cloud.group(group, 1)
    cloud.group(f"{group}-b", 1)
    pool, real = make_pool(group, f"{group}-b"), module._groups

    def without(*asked):
        return [one for one in real(*asked) if one["AutoScalingGroupName"] != group]

    monkeypatch.setattr(module, "_groups", without)
    for ask in (provider.at_minimum(pool, named(first)), provider.release(pool, named(first), "op")):
        with pytest.raises(Refused) as caught:
            await ask
        said = f"AWS Auto Scaling in {REGION} has no group {group}, which GPUNodePool a100 names, though the instance {first} is in it"
        assert said in str(caught.value)
        assert "Create it again, or correct spec.awsAutoScaling.groups." in str(caught.value)
    assert cloud.state(first) == "running"


async def test_a_group_that_was_deleted_with_its_machines_is_a_refusal_or_an_answer(cloud, provider, group):
    (first,) = cloud.group(group, 1)
    cloud.scaling.delete_auto_scaling_group(AutoScalingGroupName=group, ForceDelete=True)
    pool = make_pool(group)
    assert await provider.instance(pool, named(first)) is Instance.GONE
    assert not await provider.at_minimum(pool, named(first))
    await provider.release(pool, named(first), "op")


async def test_a_machine_that_its_deleted_group_left_behind_is_refused(cloud, provider, group):
    (first,) = cloud.group(group, 1)
    cloud.scaling.detach_instances(InstanceIds=[first], AutoScalingGroupName=group, ShouldDecrementDesiredCapacity=True)
    cloud.scaling.delete_auto_scaling_group(AutoScalingGroupName=group)
    for ask in (provider.at_minimum, provider.release):
        with pytest.raises(Refused, match=f"{first} is in none of the groups of GPUNodePool a100"):
            await ask(make_pool(group), named(first), *(["op"] if ask == provider.release else []))


@pytest.mark.parametrize(
    ("call", "answer", "lacks"),
    [
        pytest.param("DescribeAutoScalingInstances", {"AutoScalingInstances": [{}]}, "AutoScalingGroupName", id="an instance without its group"),
        pytest.param("DescribeAutoScalingInstances", {}, "AutoScalingInstances", id="no list of instances"),
        pytest.param("DescribeAutoScalingGroups", {}, "AutoScalingGroups", id="no list of groups"),
        pytest.param("DescribeAutoScalingGroups", {"AutoScalingGroups": [{"AutoScalingGroupName": "GROUP"}]}, "DesiredCapacity", id="a group without its size"),
    ],
)  # fmt: skip
async def test_an_answer_that_lacks_something_is_told_with_machine_and_pool(
    cloud, provider, group, call, answer, lacks
):
    (first,) = cloud.group(group, 1)
    events = provider._client(REGION).scaling.meta.events
    if "AutoScalingGroups" in answer:
        answer = {"AutoScalingGroups": [{**one, "AutoScalingGroupName": group} for one in answer["AutoScalingGroups"]]}

    def short(parsed, **_):
        parsed.clear()
        parsed.update(answer)

    events.register(f"after-call.autoscaling.{call}", short, unique_id="short")
    try:
        for ask in (
            provider.at_minimum(make_pool(group), named(first)),
            provider.release(make_pool(group), named(first), "op"),
        ):
            with pytest.raises(Retryable) as caught:
                await ask
            assert f"the instance {first} of GPUNodePool a100 without '{lacks}'." in str(caught.value)
    finally:
        events.unregister(f"after-call.autoscaling.{call}", unique_id="short")
    assert cloud.state(first) == "running"


async def test_a_machine_that_is_gone_does_not_count(cloud, provider, group):
    first, *_ = cloud.group(group, 1)
    await provider.release(make_pool(group), named(first), "op")
    assert not await provider.at_minimum(make_pool(group), named(first))


# -- how a machine is -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lifecycle", "state", "expected"),
    [
        pytest.param("InService", (16, "running"), Instance.RUNNING, id="in service"),
        pytest.param("Pending", (0, "pending"), Instance.RUNNING, id="still starting"),
        pytest.param("Standby", (80, "stopped"), Instance.RUNNING, id="stopped, and so not given back"),
        pytest.param("Terminating:Wait", (16, "running"), Instance.TERMINATING, id="held by a lifecycle hook"),
        pytest.param("Terminating", (32, "shutting-down"), Instance.TERMINATING, id="shutting down"),
        pytest.param("InService", (48, "terminated"), Instance.GONE, id="gone before its group has noticed"),
    ],
)
async def test_a_machine_is(cloud, provider, group, lifecycle, state, expected):
    first, *_ = cloud.group(group, 1)
    cloud.set_lifecycle(group, first, lifecycle)
    cloud.set_ec2_state(first, *state)
    assert await provider.instance(make_pool(group), named(first)) is expected


async def test_a_released_machine_is_gone(cloud, provider, group):
    first, *_ = cloud.group(group, 1)
    pool = make_pool(group)
    assert await provider.instance(pool, named(first)) is Instance.RUNNING
    await provider.release(pool, named(first), "op")
    assert await provider.instance(pool, named(first)) is Instance.GONE


async def test_a_machine_that_left_its_group_and_runs_on_is_not_gone(cloud, provider, group):
    first, *_ = cloud.group(group, 1)
    cloud.scaling.detach_instances(InstanceIds=[first], AutoScalingGroupName=group, ShouldDecrementDesiredCapacity=True)
    assert await provider.instance(make_pool(group), named(first)) is Instance.RUNNING


async def test_a_machine_that_aws_has_forgotten_is_gone(cloud, provider, group):
    cloud.group(group, 1)
    assert await provider.instance(make_pool(group), named("i-0123456789abcdef0")) is Instance.GONE


async def test_an_account_that_knows_neither_machine_nor_group_says_nothing_about_it(provider, cloud):
    with pytest.raises(Refused, match="is it the right account"):
        await provider.instance(make_pool("elsewhere"), named("i-0123456789abcdef0"))


# -- a cloud in trouble ---------------------------------------------------------------------------------------


@dataclass
class Trouble:
    """A cloud that answers every call the same way."""

    status: int = 503
    code: str = ""
    message: str = "secret-of-the-cloud"
    asked: list[str] = field(default_factory=list)

    async def answer(self, request):
        self.asked.append(str((await request.post())["Action"]))
        error = f"<Error><Code>{self.code}</Code><Message>{self.message}</Message></Error>"
        scaling = "/autoscaling/" in request.headers["Authorization"]
        body = (
            f"<ErrorResponse>{error}</ErrorResponse>" if scaling else f"<Response><Errors>{error}</Errors></Response>"
        )
        return web.Response(status=self.status, text=body, content_type="text/xml")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def troubled(environment):
    trouble = Trouble()
    app = web.Application()
    app.router.add_post("/", trouble.answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    provider = AWSAutoScalingProvider()
    with pytest.MonkeyPatch.context() as patch:
        for service in ("AUTO_SCALING", "EC2"):
            patch.setenv(f"AWS_ENDPOINT_URL_{service}", f"http://127.0.0.1:{runner.addresses[0][1]}")
        provider._client(REGION)
    yield provider, trouble
    await provider.close()
    await runner.cleanup()


@pytest.fixture
def broken(troubled):
    """Sets what the cloud in trouble answers; returns its provider and the calls that it is asked for."""
    provider, trouble = troubled

    def start(status, code, message="secret-of-the-cloud"):
        trouble.status, trouble.code, trouble.message = status, code, message
        trouble.asked.clear()
        return provider, trouble.asked

    return start


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        pytest.param(400, "ScalingActivityInProgress", Retryable, id="an activity in progress"),
        pytest.param(500, "ResourceContention", Retryable, id="contention"),
        pytest.param(400, "Throttling", Retryable, id="throttled"),
        pytest.param(400, "ThrottlingException", Retryable, id="throttled in other words"),
        pytest.param(503, "RequestLimitExceeded", Retryable, id="too many requests"),
        pytest.param(502, "", Retryable, id="a gateway in between"),
        pytest.param(403, "AccessDenied", Denied, id="denied by Auto Scaling"),
        pytest.param(403, "UnauthorizedOperation", Denied, id="denied by EC2"),
        pytest.param(403, "InvalidClientTokenId", Denied, id="credentials of nobody"),
        pytest.param(400, "ValidationError", Refused, id="a request that is wrong"),
    ],
)
async def test_a_refusal_is_told_apart_and_not_quoted(broken, status, code, expected):
    provider, asked = broken(status, code)
    with pytest.raises(expected) as caught:
        await provider.release(make_pool("gpu"), named("i-0123456789abcdef0"), "op")
    assert code in str(caught.value)
    assert "secret-of-the-cloud" not in str(caught.value)
    assert asked == ["DescribeAutoScalingInstances"], "botocore must not try again by itself"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        pytest.param(
            "Currently, desiredSize equals minSize (1). Terminating instance without replacement",
            Refused,
            id="below the minimum",
        ),
        pytest.param(
            "Instance Id not found - No managed instance found for instance ID i-0",
            Retryable,
            id="left between two calls",
        ),
    ],
)
async def test_a_validation_error_is_read(broken, message, expected):
    provider, _ = broken(400, "ValidationError", message)
    with pytest.raises(expected):
        await provider.release(make_pool("gpu"), named("i-0123456789abcdef0"), "op")


async def test_a_machine_cannot_be_asked_for_while_the_cloud_is_in_trouble(broken):
    provider, _ = broken(503, "ServiceUnavailable")
    with pytest.raises(Retryable, match="ServiceUnavailable"):
        await provider.instance(make_pool("gpu"), named("i-0123456789abcdef0"))


async def test_a_machine_that_may_not_be_asked_for_is_not_called_unknown(broken):
    provider, _ = broken(403, "UnauthorizedOperation")
    with pytest.raises(Denied, match="DescribeInstances"):
        await provider.instance(make_pool("gpu"), named("i-0123456789abcdef0"))


async def test_a_machine_cannot_be_asked_for_where_nothing_listens(environment, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_AUTO_SCALING", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_EC2", "http://127.0.0.1:1")
    provider = AWSAutoScalingProvider()
    try:
        asked = make_pool("gpu"), named("i-0123456789abcdef0")
        for answer in (provider.instance(*asked), provider.at_minimum(*asked), provider.release(*asked, "op")):
            with pytest.raises(Retryable):
                await answer
    finally:
        await provider.close()


async def test_an_operator_without_credentials_says_so(environment, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    provider = AWSAutoScalingProvider()
    try:
        with pytest.raises(Denied, match="give its ServiceAccount a role"):
            await provider.release(make_pool("gpu"), named("i-0123456789abcdef0"), "op")
    finally:
        await provider.close()
