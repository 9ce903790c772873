"""The provider of EC2 Auto Scaling and EKS managed node groups: terminates the instance and lowers the desired capacity in one call.

With a lower capacity alone, AWS would choose the instance; after `ec2:TerminateInstances` alone, the group would replace it.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

import boto3
from botocore import exceptions
from botocore.config import Config

from trainingrun_operator.core.facts.nodes import Instance
from trainingrun_operator.edge import calls
from trainingrun_operator.edge.calls import Api
from trainingrun_operator.edge.nodes.provider import Denied, ProviderError, Refused, Retryable

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_autoscaling import AutoScalingClient
    from mypy_boto3_autoscaling.type_defs import AutoScalingGroupTypeDef
    from mypy_boto3_ec2 import EC2Client

    from trainingrun_operator.api.pool import AWSAutoScaling
    from trainingrun_operator.core.facts.nodes import NodeRef, Pool

T = TypeVar("T")

_THREADS: Final = 8
_PROVIDER_ID: Final = re.compile(r"aws:///(?P<zone>[a-z0-9-]+)/(?P<instance>i-[0-9a-f]{8,17})\Z")
_LEAVING: Final = ("Terminating", "Terminated")
_DENIED: Final = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "OptInRequired",
        "SignatureDoesNotMatch",
        "UnauthorizedOperation",
        "UnrecognizedClientException",
    }
)
_BUSY: Final = frozenset(
    {
        "EC2ThrottledException",
        "InternalError",
        "InternalFailure",
        "RequestLimitExceeded",
        "RequestThrottled",
        "ResourceContention",
        "ResourceInUse",
        "ScalingActivityInProgress",
        "ServiceUnavailable",
        "SlowDown",
        "Unavailable",
    }
)
_SERVER_ERROR: Final = 500
_FRESH_SECONDS: Final = 90.0
"""Time from a release's request to the termination; with the request's own timeout it stays below `patient.CALL_SECONDS`."""
_BELIEVED_SECONDS: Final = 60.0
"""Time after an accepted termination in which the instance counts as leaving, whatever AWS still shows: its answers may be that old."""


@dataclass(frozen=True)
class _Clients:
    """The clients of one region."""

    scaling: AutoScalingClient
    ec2: EC2Client
    releasing: threading.Lock = field(default_factory=threading.Lock)
    """Held from the check of the minimum to the termination: pools may share groups, and a call that has timed out still runs in its thread."""
    terminated: dict[str, float] = field(default_factory=dict)
    """By instance, when its termination was accepted: seconds on the monotonic clock."""

    def asked(self, instance: str) -> bool:
        """Whether the instance was terminated just now."""
        return time.monotonic() - self.terminated.get(instance, float("-inf")) < _BELIEVED_SECONDS

    def note(self, instance: str) -> None:
        """Record an accepted termination, and drop old ones."""
        for old in [one for one in self.terminated if not self.asked(one)]:
            del self.terminated[old]
        self.terminated[instance] = time.monotonic()


@dataclass(frozen=True)
class _Machine:
    """One instance, from its providerID and pool."""

    pool: str
    cloud: AWSAutoScaling
    min_nodes: int
    id: str


@dataclass(frozen=True)
class _Membership:
    group: str
    lifecycle: str

    @property
    def leaving(self) -> bool:
        """Whether the instance is already leaving the group."""
        return self.lifecycle.startswith(_LEAVING)


class AWSAutoScalingProvider:
    """Implements `Provider`. botocore finds endpoints, credentials and proxies: environment, profile, workload identity."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="aws")
        self._session: boto3.session.Session | None = None
        self._clients: dict[str, _Clients] = {}
        self._lock = threading.Lock()

    async def close(self) -> None:
        """Finish running calls and drop waiting ones."""
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)
        for clients in self._clients.values():
            clients.scaling.close()
            clients.ec2.close()

    async def instance(self, pool: Pool, node: NodeRef) -> Instance:
        """See `Provider`."""
        return await self._run(_instance, _machine(pool, node))

    async def at_minimum(self, pool: Pool, node: NodeRef) -> bool:
        """See `Provider`."""
        return await self._run(_at_minimum, _machine(pool, node))

    async def release(self, pool: Pool, node: NodeRef, operation: str) -> None:  # noqa: ARG002 - terminating an instance is idempotent
        """See `Provider`."""
        asked = time.monotonic()
        await self._run(lambda clients, machine: _release(clients, machine, asked), _machine(pool, node))

    async def _run(self, call: Callable[[_Clients, _Machine], T], machine: _Machine) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._blocking, call, machine)

    def _blocking(self, call: Callable[[_Clients, _Machine], T], machine: _Machine) -> T:
        try:
            return call(self._client(machine.cloud.region), machine)
        except (exceptions.ClientError, exceptions.BotoCoreError, OSError, ValueError) as error:
            raise _translated(error, machine) from error
        except KeyError as error:
            raise Retryable(
                f"AWS Auto Scaling in {machine.cloud.region} answers about the instance {machine.id} of GPUNodePool {machine.pool} without {error}."
            ) from error

    def _client(self, region: str) -> _Clients:
        with self._lock:
            if region not in self._clients:
                self._session = self._session or boto3.session.Session()
                # One attempt: after a lost answer, the state of the instance must be read before the next request.
                config = Config(
                    connect_timeout=3, read_timeout=20, retries={"mode": "standard", "total_max_attempts": 1}
                )
                self._clients[region] = made = _Clients(
                    self._session.client("autoscaling", region_name=region, config=config),
                    self._session.client("ec2", region_name=region, config=config),
                )
                for client in (made.scaling, made.ec2):
                    calls.count_all(client.meta.events, Api.CLOUD)
            return self._clients[region]


def _machine(pool: Pool, node: NodeRef) -> _Machine:
    cloud, match = pool.spec.aws_auto_scaling, _PROVIDER_ID.match(node.provider_id)
    if cloud is None:
        raise Refused(f"GPUNodePool {pool.name} has no spec.awsAutoScaling.")
    if match is None:
        raise Refused(
            f"The node's providerID {node.provider_id!r} is not of the form aws:///zone/i-…: it is not an EC2 instance."
        )
    if not match["zone"].startswith(cloud.region):
        # In another region AWS does not know the instance; that must not count as gone.
        raise Refused(
            f"The node's providerID {node.provider_id!r} is not in region {cloud.region}: correct spec.awsAutoScaling.region of GPUNodePool {pool.name}."
        )
    return _Machine(pool.name, cloud, pool.spec.min_nodes, match["instance"])


def _instance(clients: _Clients, machine: _Machine) -> Instance:
    match _ec2_state(clients, machine):
        case None:
            # AWS drops an instance about an hour after its end. With another account's credentials the answer is the same.
            if not _groups(clients, machine):
                groups = ", ".join(machine.cloud.groups)
                raise Refused(
                    f"AWS knows neither the instance {machine.id} nor any group of GPUNodePool {machine.pool} ({groups}): is it the right account?"
                )
            return Instance.GONE
        case "terminated":
            return Instance.GONE
        case "shutting-down":
            return Instance.TERMINATING
        case _:
            membership = _membership(clients, machine)
            return Instance.TERMINATING if membership is not None and membership.leaving else Instance.RUNNING


def _at_minimum(clients: _Clients, machine: _Machine) -> bool:
    membership = _staying(clients, machine)
    return membership is not None and _would_violate(clients, machine, membership.group)


def _would_violate(clients: _Clients, machine: _Machine, group: str) -> bool:
    """Return whether one node less violates the group's minimum, or the pool's minimum over all its groups.

    For the pool, instances that are leaving do not count, even if AWS is to replace them.
    """
    groups = {one["AutoScalingGroupName"]: one for one in _groups(clients, machine)}
    if group not in groups:
        raise Refused(
            f"AWS Auto Scaling in {machine.cloud.region} has no group {group}, which GPUNodePool {machine.pool} names, though the instance {machine.id} is"
            " in it: the group was deleted. Create it again, or correct spec.awsAutoScaling.groups."
        )
    kept = sum(min(one["DesiredCapacity"], _count_staying(clients, one)) for one in groups.values())
    return groups[group]["DesiredCapacity"] - 1 < groups[group]["MinSize"] or kept - 1 < machine.min_nodes


def _count_staying(clients: _Clients, group: AutoScalingGroupTypeDef) -> int:
    instances = group.get("Instances", [])
    return sum(
        not one["LifecycleState"].startswith(_LEAVING) and not clients.asked(one["InstanceId"]) for one in instances
    )


def _release(clients: _Clients, machine: _Machine, asked: float) -> None:
    """Terminate an instance. A call that has waited for long is given up: another operator may lead by now, and relies on that."""
    with clients.releasing:
        membership = _staying(clients, machine)
        if membership is None:
            return
        if _would_violate(clients, machine, membership.group):
            raise _at_its_minimum(machine)
        if time.monotonic() - asked > _FRESH_SECONDS:
            raise Retryable(
                f"AWS Auto Scaling in {machine.cloud.region} was too slow to release the instance {machine.id}: it is asked again."
            )
        clients.scaling.terminate_instance_in_auto_scaling_group(
            InstanceId=machine.id, ShouldDecrementDesiredCapacity=True
        )
        clients.note(machine.id)


def _staying(clients: _Clients, machine: _Machine) -> _Membership | None:
    """Return the membership of an instance that stays; None: it is leaving or gone."""
    if clients.asked(machine.id):
        return None
    membership = _membership(clients, machine)
    if membership is None and _ec2_state(clients, machine) in (None, "terminated", "shutting-down"):
        return None
    membership = _checked(membership, machine)
    return None if membership.leaving else membership


def _checked(membership: _Membership | None, machine: _Machine) -> _Membership:
    if membership is None or membership.group not in machine.cloud.groups:
        raise Refused(
            f"The instance {machine.id} is in none of the groups of GPUNodePool {machine.pool} ({', '.join(machine.cloud.groups)}):"
            " correct spec.nodeSelector or spec.awsAutoScaling.groups."
        )
    return membership


def _membership(clients: _Clients, machine: _Machine) -> _Membership | None:
    found = clients.scaling.describe_auto_scaling_instances(InstanceIds=[machine.id])["AutoScalingInstances"]
    return _Membership(found[0]["AutoScalingGroupName"], found[0]["LifecycleState"]) if found else None


def _groups(clients: _Clients, machine: _Machine) -> list[AutoScalingGroupTypeDef]:
    return clients.scaling.describe_auto_scaling_groups(
        AutoScalingGroupNames=list(machine.cloud.groups), MaxRecords=100
    )["AutoScalingGroups"]


def _ec2_state(clients: _Clients, machine: _Machine) -> str | None:
    """Return the instance's state; None: AWS does not know it."""
    try:
        reservations = clients.ec2.describe_instances(InstanceIds=[machine.id])["Reservations"]
    except exceptions.ClientError as error:
        if error.response.get("Error", {}).get("Code") == "InvalidInstanceID.NotFound":
            return None
        raise
    return next((one["State"]["Name"] for reservation in reservations for one in reservation["Instances"]), None)


def _at_its_minimum(machine: _Machine) -> Refused:
    return Refused(f"GPUNodePool {machine.pool} is at its minimum: the instance {machine.id} is kept.")


def _translated(error: Exception, machine: _Machine) -> ProviderError:
    where = f"AWS Auto Scaling in {machine.cloud.region}"
    if isinstance(error, exceptions.ClientError):
        return _translated_answer(error, machine, where)
    if isinstance(
        error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError | exceptions.CredentialRetrievalError
    ):
        return Denied(f"The operator has no credentials for {where}: give its ServiceAccount a role.")
    return Retryable(f"{where} does not answer ({type(error).__name__}).")


def _translated_answer(error: exceptions.ClientError, machine: _Machine, where: str) -> ProviderError:
    detail, status = (
        error.response.get("Error", {}),
        error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0),
    )
    code, text, call = str(detail.get("Code", "")), str(detail.get("Message", "")), error.operation_name
    if code in _DENIED:
        return Denied(f"{where} denies {call} ({code}): give the operator's role that permission.")
    if code in _BUSY or code.startswith("Throttl") or status >= _SERVER_ERROR:
        return Retryable(f"{where} cannot do {call} now ({code}).")
    if "violate group's min size" in text or "desiredSize equals minSize" in text:
        return _at_its_minimum(machine)
    if "not found" in text.lower():
        # The instance left its group between two calls: the next look reads its state.
        return Retryable(f"{where} no longer knows the instance {machine.id} ({code}).", after=1)
    return Refused(f"{where} refuses {call} for the instance {machine.id} ({code}).")
