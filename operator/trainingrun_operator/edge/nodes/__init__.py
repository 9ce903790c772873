"""Releasing the GPU node: one Protocol, one module per cloud."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from trainingrun_operator.edge.nodes.aws_auto_scaling import AWSAutoScalingProvider
from trainingrun_operator.edge.nodes.provider import Denied, Provider, ProviderError, Refused, Retryable

if TYPE_CHECKING:
    from trainingrun_operator.core.facts.nodes import Pool

__all__ = ["Denied", "Provider", "ProviderError", "Refused", "Retryable", "provider_for"]


def provider_for(pool: Pool) -> Provider:
    """Return who releases the pool's nodes.

    Raises:
        Refused: the pool names no provider that this version knows.
    """
    if pool.spec.aws_auto_scaling is not None:
        return _aws_auto_scaling()
    raise Refused(f"GPUNodePool {pool.name} names no provider that this operator knows: write spec.awsAutoScaling.")


@cache
def _aws_auto_scaling() -> AWSAutoScalingProvider:
    # One for all pools: it keeps a client per region.
    return AWSAutoScalingProvider()
