"""Which identity agent and operator use, what is missing, and that nobody reads with the operator's who was not let."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import checkpoint_spec, make_agent, make_observed, make_run

from trainingrun_operator.api.exchange import AgentError
from trainingrun_operator.core import identity
from trainingrun_operator.core.acceptance import complaint
from trainingrun_operator.core.defaults import Defaults
from trainingrun_operator.core.destinations import allowed, destinations_of
from trainingrun_operator.core.facts.bucket import Unreachable
from trainingrun_operator.core.facts.rank import Rank
from trainingrun_operator.core.facts.run import Problem
from trainingrun_operator.core.status import render

GRANTED = destinations_of([{"identity": "operator", "expectedBucketOwner": "123456789012"}])


def run_of(secret="", pod=None, **checkpoint):
    template = {"spec": {"containers": [{"name": "train", "image": "train"}]} | (pod or {})}
    s3 = {"credentialsSecretName": secret} if secret else {}
    return make_run(spec={"template": template, "checkpoint": checkpoint_spec(**({"s3": s3} | checkpoint))})


@pytest.mark.parametrize("listed", [(), GRANTED], ids=["without a list", "where the list would let the operator"])
def test_a_secret_is_used_by_both_sides(listed):
    run = run_of("keys")
    assert complaint(run, (), Defaults(allowed_destinations=listed)) is None
    assert identity.sentence(run, listed) == "Agent and operator use the keys in Secret keys."


@pytest.mark.parametrize(
    ("pod", "account"),
    [
        pytest.param({}, "default", id="none named"),
        pytest.param({"serviceAccountName": "trainer"}, "trainer", id="named"),
        pytest.param({"serviceAccount": "older"}, "older", id="by the older field"),
    ],
)
def test_without_a_secret_the_agent_has_the_service_accounts_identity_and_the_operator_its_own(pod, account):
    run = run_of(pod=pod)
    assert complaint(run, (), Defaults(allowed_destinations=GRANTED)) is None
    assert identity.sentence(run, GRANTED) == (
        f"The agent uses the identity of ServiceAccount {account}, and the operator proves with its own, which allowedDestinations lets it."
    )


def test_without_a_secret_and_without_the_lists_word_the_run_is_refused():
    run = run_of(pod={"serviceAccountName": "trainer"})
    listed = destinations_of([{}])
    problem = complaint(run, (), Defaults(allowed_destinations=listed))
    assert problem is not None
    assert problem.reason == "NoCredentials"
    assert "set identity: operator for this destination" in problem.message
    assert "ServiceAccount (trainer)" in problem.message
    assert identity.sentence(run, listed) == problem.message


def test_a_run_that_saves_nothing_or_may_not_go_there_has_no_identity_to_tell():
    assert identity.sentence(run_of(mode="Disabled"), GRANTED) == ""
    elsewhere = destinations_of([{"bucket": "other", "identity": "operator"}])
    assert isinstance(allowed(run_of(), elsewhere), Problem)
    assert identity.sentence(run_of(), elsewhere) == ""


def accepted(seen):
    condition = render(seen).condition("Accepted")
    assert condition is not None
    assert condition.status == "True"
    return condition.message


def test_the_condition_says_who_uses_what_and_what_is_missing():
    seen = make_observed(run=run_of(), defaults=Defaults(allowed_destinations=GRANTED))
    assert "identity of ServiceAccount default" in accepted(seen)
    error = AgentError(code="NoCredentials", message="the pod has no AWS identity of its own: associate a role")
    broken = replace(
        seen,
        ranks=(replace(seen.ranks[0], report=make_agent(error=error)),),
        answer=Unreachable("NoCredentials", "Bucket b cannot be read (NoCredentials)."),
    )
    said = accepted(broken)
    assert "The agent has no credentials: the pod has no AWS identity of its own: associate a role." in said
    assert said.endswith("Bucket b cannot be read (NoCredentials).")


@pytest.mark.parametrize(
    "rank",
    [
        pytest.param(Rank(), id="no report"),
        pytest.param(Rank(report=make_agent()), id="no error"),
        pytest.param(Rank(report=make_agent(error=AgentError(code="SlowDown", message="slow"))), id="another error"),
    ],
)
def test_another_trouble_is_no_missing_identity(rank):
    seen = replace(make_observed(run=run_of("keys")), ranks=(rank,), answer=Unreachable("Timeout", "no answer"))
    assert identity.troubles(seen) == ()
