"""`TrainingRun.status.workload` and `.pods`: what runs the training."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from trainingrun_operator.api.base import Model, ObjectName, Text, Word


class WorkloadRef(Model):
    """The object that runs the pods."""

    api_version: Word
    """API version of the object: batch/v1."""
    kind: Word
    """Kind of the object: Job."""
    name: ObjectName
    """Name of the object."""
    uid: Word
    """UID of the object."""


class PodStatus(Model):
    """One pod of the run."""

    name: ObjectName
    """Name of the pod."""
    uid: Word
    """UID of the pod."""
    rank: Annotated[int, Field(ge=0, le=65_535)] = 0
    """Rank of the pod in the training, from 0."""
    node: ObjectName = ""
    """Name of the Node."""
    phase: Word = ""
    """Pending, Running, Exited (training ended, the pod is kept until its checkpoint is proven), Succeeded or Failed."""
    exit_code: Annotated[int | None, Field(ge=-(2**31), le=2**31 - 1)] = None
    """Exit code of the training, once it has ended."""
    exit_reason: Text = ""
    """The kubelet's words for it, if they say more than the code: OOMKilled, StartError and its message, …"""
    told_to_leave: Text = ""
    """Why the pod ends whatever its training does, such as an eviction with its message: its exit code counts for nothing, and it is replaced."""
    waiting: Word = ""
    """Why the training does not start, as a reason of Kubernetes: ImagePullBackOff, Unschedulable, …"""
    waiting_message: Text = ""
    """Kubernetes' message for this reason."""
