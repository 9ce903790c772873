"""Whose credentials agent and operator use for a run's bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.core.bounds import clipped
from trainingrun_operator.core.destinations import allowed
from trainingrun_operator.core.facts.bucket import Unreachable
from trainingrun_operator.core.facts.run import Problem

if TYPE_CHECKING:
    from trainingrun_operator.core.destinations import Destination
    from trainingrun_operator.core.facts.run import Run
    from trainingrun_operator.core.observed import Observed

CODE: Final = "NoCredentials"
"""Code of a side that has no credentials, in reports of agents and answers of the bucket."""
NAME_MAX: Final = 253


def missing(run: Run, destination: Destination) -> Problem | None:
    """Return the problem of a run for whose bucket the operator has no credentials; None: it has."""
    if run.spec.checkpoint.s3.credentials_secret_name or destination.operator_proves:
        return None
    return Problem(
        "NoCredentials",
        f"spec.checkpoint.s3.credentialsSecretName is empty, so the agent would use the identity of the pod's ServiceAccount ({_account(run)}), but"
        " allowedDestinations does not let the operator prove checkpoints there with its own. Ask the operator's administrator to set identity:"
        " operator for this destination, or name a Secret of this namespace with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (kubectl create secret"
        " generic s3-credentials --from-literal=...).",
    )


def sentence(run: Run, listed: tuple[Destination, ...]) -> str:
    """Return which identity each side uses; empty: the run saves nothing, or its destination is not allowed."""
    if run.spec.checkpoint.mode is CheckpointMode.DISABLED:
        return ""
    destination = allowed(run, listed)
    if isinstance(destination, Problem):
        return ""
    if secret := run.spec.checkpoint.s3.credentials_secret_name:
        return f"Agent and operator use the keys in Secret {secret}."
    if (problem := missing(run, destination)) is not None:
        return problem.message
    return f"The agent uses the identity of ServiceAccount {_account(run)}, and the operator proves with its own, which allowedDestinations lets it."


def troubles(seen: Observed) -> tuple[str, ...]:
    """Return what the agents and the bucket say now about missing credentials."""
    errors = [rank.report.error for rank in seen.ranks if rank.report is not None]
    agents = [f"The agent has no credentials: {error.message}." for error in errors if error and error.code == CODE]
    operator = [seen.answer.message] if isinstance(seen.answer, Unreachable) and seen.answer.code == CODE else []
    return (*agents[:1], *operator)


def _account(run: Run) -> str:
    return clipped(run.spec.template.service_account, NAME_MAX)
