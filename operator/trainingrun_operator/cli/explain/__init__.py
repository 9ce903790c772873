"""Explain why a run has, or has not, stopped: from its spec and status, without a further request."""

from trainingrun_operator.cli.explain.explain import explain
from trainingrun_operator.cli.explain.facts import Explanation

__all__ = ["Explanation", "explain"]
