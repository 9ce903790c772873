"""The metrics page that an agent reads for the operator, to answer with its report and the page at once.

The operator asks for the page of the run's spec, and the agent has the page of the spec that its pod was built from. Both names are made here, because the agent
compares them: it reads no other page, and then the operator asks the training itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainingrun_operator.api import names
from trainingrun_operator.core.facts.reading import AUTO, PROMETHEUS

if TYPE_CHECKING:
    from trainingrun_operator.api.run import Metrics


def page(metrics: Metrics) -> str:
    """Return the page as `exchange.PAGE_HEADER` names it; empty: no agent reads it."""
    # A client resolves the dots of a URL; an agent asks for the path as it is.
    if "/." in metrics.path or metrics.port == names.AGENT_PORT:
        return ""
    return f"{metrics.port}{metrics.path}"


def configured(metrics: Metrics, *, host_network: bool) -> str | None:
    """Return the page for the configuration of an agent; None: it reads none.

    Args:
        metrics: of the spec that the pod is built from.
        host_network: whether the pod has its node's addresses, at which the node serves pages too.
    """
    if host_network or metrics.source not in (None, PROMETHEUS, AUTO):
        return None
    return page(metrics) or None
