"""The simulated cloud: moto's EC2 and Auto Scaling API with the bounds and errors of AWS, holding one GPU group.

moto keeps no minimum or maximum, and answers a repeated terminate with HTTP 500; the three functions below say what AWS says.
State is in memory: a restart forgets every instance, and the machine room then ends the machines nobody knows.
"""

from __future__ import annotations

import os
import signal
from typing import Any

import boto3
from moto.autoscaling.exceptions import ValidationError
from moto.autoscaling.models import AutoScalingBackend
from moto.server import ThreadedMotoServer

PORT = int(os.environ.get("PORT", "5000"))
REGION = os.environ.get("AWS_REGION", "us-east-1")
GROUP = os.environ.get("GROUP", "gpu")
MAX_SIZE = int(os.environ.get("MAX_SIZE", "4"))
INSTANCE_TYPE = "p5.48xlarge"

moto_terminate = AutoScalingBackend.terminate_instance
moto_set_desired = AutoScalingBackend.set_desired_capacity


def terminate_instance(self: AutoScalingBackend, instance_id: str, should_decrement: bool) -> Any:  # noqa: FBT001  moto's signature
    """As AWS does: an unknown instance and a shrink below the minimum are ValidationErrors."""
    groups = self.autoscaling_groups.values()
    group = next((g for g in groups if any(s.instance.id == instance_id for s in g.instance_states)), None)
    if group is None:
        raise ValidationError(f"Instance Id not found - No managed instance found for instance ID {instance_id}")
    if should_decrement and (group.desired_capacity or 0) - 1 < group.min_size:
        raise ValidationError(
            f"Currently, desiredSize equals minSize ({group.min_size}). Terminating instance without replacement will "
            "violate group's min size constraint. Either set shouldDecrementDesiredCapacity flag to false or lower group's min size."
        )
    return moto_terminate(self, instance_id, should_decrement)


def set_desired_capacity(self: AutoScalingBackend, group_name: str, desired_capacity: int) -> None:
    """As AWS does: the new value must lie between the group's minimum and maximum."""
    group = self.autoscaling_groups.get(group_name)
    if group is None:
        raise ValidationError("AutoScalingGroup name not found - null")
    if desired_capacity > group.max_size:
        raise ValidationError(
            f"New SetDesiredCapacity value {desired_capacity} is above max value {group.max_size} for the AutoScalingGroup."
        )
    if desired_capacity < group.min_size:
        raise ValidationError(
            f"New SetDesiredCapacity value {desired_capacity} is below min value {group.min_size} for the AutoScalingGroup."
        )
    moto_set_desired(self, group_name, desired_capacity)


def make_group() -> None:
    """One group of GPU machines, empty, in the region's first zone."""
    endpoint = {"endpoint_url": f"http://127.0.0.1:{PORT}", "region_name": REGION}
    keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
    image = boto3.client("ec2", **endpoint, **keys).describe_images()["Images"][0]["ImageId"]
    scaling = boto3.client("autoscaling", **endpoint, **keys)
    scaling.create_launch_configuration(LaunchConfigurationName=GROUP, ImageId=image, InstanceType=INSTANCE_TYPE)
    scaling.create_auto_scaling_group(
        AutoScalingGroupName=GROUP,
        LaunchConfigurationName=GROUP,
        MinSize=0,
        MaxSize=MAX_SIZE,
        DesiredCapacity=0,
        AvailabilityZones=[f"{REGION}a"],
    )


AutoScalingBackend.terminate_instance = terminate_instance
AutoScalingBackend.set_desired_capacity = set_desired_capacity

if __name__ == "__main__":
    server = ThreadedMotoServer(ip_address="0.0.0.0", port=PORT)  # noqa: S104  a pod's own address
    server.start()
    make_group()
    print(f"group {GROUP} of 0 to {MAX_SIZE} machines in {REGION}", flush=True)
    signal.pause()
