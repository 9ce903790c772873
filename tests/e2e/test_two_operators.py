"""Two replicas: one acts, and when it is gone the other goes on where it was."""

from __future__ import annotations

import contextlib
import sys
import time

import pytest
from e2e.audit import OPERATOR_USER
from e2e.faults import scale, signal_container
from e2e.ground import OPERATOR, OPERATOR_NAMESPACE, OUTPUTS
from e2e.runs import WAIT_SECONDS
from waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

LONG = ("--epochs", "200", "--step-seconds", "0.05")
PODS = f"/api/v1/namespaces/{OPERATOR_NAMESPACE}/pods"
LEASES = f"/apis/coordination.k8s.io/v1/namespaces/{OPERATOR_NAMESPACE}/leases"
SLACK_SECONDS = 120
"""Beyond what it should take: many tests share two cores."""


@contextlib.contextmanager
def two_operators(api):
    """Inside, two are ready; after it there is one again, and it leads."""
    try:
        scale(api, 2)
        yield
    finally:
        scale(api, 1)
        wait_leader(api)


def wait_leader(api):
    """Until one of the operators that stay leads. Returns the Lease."""
    return api.wait(
        LEASES, lambda lease: holder(lease) in operators(api), "an operator leads", WAIT_SECONDS, name=OPERATOR
    )


def operators(api):
    """The ready operators' pods, by name."""
    found = api.list(PODS, labelSelector=f"app.kubernetes.io/instance={OPERATOR}")
    return {pod["metadata"]["name"]: pod for pod in found if "deletionTimestamp" not in pod["metadata"]}


def holder(lease):
    """Name of the pod that holds it; empty: nobody does."""
    return ((lease or {}).get("spec", {}).get("holderIdentity") or "").rpartition("_")[0]


def page(api, pod, path):
    """What an operator serves."""
    return api.call("GET", f"{PODS}/{pod}:8080/proxy/{path}")


def told_to_leave(space, pod):
    """As by a drain: it may tidy up."""
    space.api.delete(f"{PODS}/{pod['metadata']['name']}")


def gone_without_a_word(space, pod):
    """As when its node is gone: it can do nothing any more, and its pod does not come back."""
    signal_container(space, pod, "operator", "SIGSTOP")
    space.api.delete(f"{PODS}/{pod['metadata']['name']}", gracePeriodSeconds=0)


@pytest.mark.parametrize("leave", [told_to_leave, gone_without_a_word])
def test_a_second_replica_takes_over(own_operator, space, capsys, leave):
    run = space.run("x", *LONG, "--deaf", shutdown={"graceSeconds": 6})
    run.wait_training()
    run.wait_commits()
    with two_operators(space.api):
        lease = wait_leader(space.api)
        first = holder(lease)
        pods = operators(space.api)
        (second,) = pods.keys() - {first}
        eventually(lambda: "leading" in page(space.api, first, "readyz"), "the holder says that it leads")
        standby = f"standby: the Lease is held by {first}"
        eventually(lambda: standby in page(space.api, second, "readyz"), "the other says who leads")
        mine = f'trainingrun_info{{namespace="{space.name}",name="x"}} 1'
        eventually(lambda: mine in page(space.api, first, "metrics"), "the leader exports the run")
        assert "trainingrun_leader 1.0" in page(space.api, first, "metrics")
        eventually(lambda: "trainingrun_leader 0.0" in page(space.api, second, "metrics"), "the other exports it too")
        assert "trainingrun_info{" not in page(space.api, second, "metrics"), "A standby exports no run."

        run.merge({"spec": {"stop": True}})
        begun = run.wait(lambda s: s.get("termination"), "the stop is written down")["termination"]
        since, held = time.monotonic(), space.api.request("GET", f"{LEASES}/{OPERATOR}")["metadata"]["resourceVersion"]
        leave(space, pods[first])
        if leave is told_to_leave:
            nobodys = "it is given back, not waited for"
            space.api.wait(LEASES, lambda one: not holder(one), nobodys, WAIT_SECONDS, name=OPERATOR, since=held)
        taken = space.api.wait(
            LEASES,
            lambda stored: holder(stored) not in ("", first),
            "another holds the Lease",
            lease["spec"]["leaseDurationSeconds"] + SLACK_SECONDS,
            name=OPERATOR,
        )
        seconds = time.monotonic() - since
        assert taken["spec"]["leaseTransitions"] == lease["spec"]["leaseTransitions"] + 1
        status = run.wait_finished()

    words = f"{leave.__name__}: another operator holds the Lease after {seconds:.1f} s"
    with capsys.disabled():
        sys.stderr.write(f"\n{words}; the Lease is for {lease['spec']['leaseDurationSeconds']} s\n")
    OUTPUTS.mkdir(parents=True, exist_ok=True)
    (OUTPUTS / f"takeover-{leave.__name__}.txt").write_text(words + "\n")

    kept = ("id", "status", "message", "requestedAt")
    assert [status["termination"][key] for key in kept] == [begun[key] for key in kept], "It is the same stop."
    assert status["terminationStatus"] == "user_stop"
    run.assert_checkpoint_proven(status)
    begins = [
        one
        for one in space.audit("patch", "trainingruns/status")
        if one.user == OPERATOR_USER
        and isinstance(one.body, list)
        and any(operation.get("path") == "/status/terminationStatus" for operation in one.body)
    ]
    assert len(begins) == 1, "It was decided once."
    run.assert_ended_once()


def test_a_lease_that_somebody_deletes_is_made_again_by_its_holder(steady_operator, api):
    before = wait_leader(api)
    api.delete(f"{LEASES}/{OPERATOR}")
    again = api.wait(LEASES, lambda lease: lease is not None, "there is a Lease again", WAIT_SECONDS, name=OPERATOR)
    assert again["metadata"]["uid"] != before["metadata"]["uid"]
    assert again["spec"]["holderIdentity"] == before["spec"]["holderIdentity"]
