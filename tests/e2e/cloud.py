"""The simulated cloud as its owner's console shows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from e2e.ground import POOL

if TYPE_CHECKING:
    from e2e.ground import Ground
    from mypy_boto3_autoscaling import AutoScalingClient
    from mypy_boto3_ec2 import EC2Client


@dataclass(frozen=True)
class Cloud:
    """Looks only."""

    scaling: AutoScalingClient
    ec2: EC2Client

    @classmethod
    def of(cls, ground: Ground) -> Cloud:
        session = boto3.session.Session("simulated", "simulated", region_name=ground["AWS_REGION"])
        endpoint, config = ground["TRAININGRUN_CLOUD_ENDPOINT"], Config(connect_timeout=5, read_timeout=20)
        return cls(
            session.client("autoscaling", endpoint_url=endpoint, config=config),
            session.client("ec2", endpoint_url=endpoint, config=config),
        )

    @property
    def desired(self) -> int:
        """Desired capacity of the group."""
        (group,) = self.scaling.describe_auto_scaling_groups(AutoScalingGroupNames=[POOL])["AutoScalingGroups"]
        return group["DesiredCapacity"]

    def states(self) -> dict[str, str]:
        """Every instance that the cloud still speaks of, with its state."""
        answer = self.ec2.describe_instances()
        return {i["InstanceId"]: i["State"]["Name"] for r in answer["Reservations"] for i in r["Instances"]}

    def running(self) -> set[str]:
        return {instance for instance, state in self.states().items() if state in {"pending", "running"}}
