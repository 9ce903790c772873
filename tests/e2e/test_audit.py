"""The API server's own record of the operator: it asked for nothing that it may not do, may nothing that it never did, and deleted once."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
from e2e.api import seconds_of
from e2e.audit import OPERATOR_USER, requests
from e2e.ground import OPERATOR, OPERATOR_NAMESPACE

pytestmark = [pytest.mark.audit, pytest.mark.timeout(600)]


@pytest.fixture
def rolled_out(api) -> float:
    """Since when the operator that is installed now is the one that asks."""
    sets = api.list(
        f"/apis/apps/v1/namespaces/{OPERATOR_NAMESPACE}/replicasets",
        labelSelector=f"app.kubernetes.io/instance={OPERATOR}",
    )
    return max(seconds_of(one["metadata"]["creationTimestamp"]) for one in sets)


@pytest.fixture
def granted(api):
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    everywhere = api.get(f"{rbac}/clusterroles/{OPERATOR}")
    at_home = api.get(f"{rbac}/namespaces/{OPERATOR_NAMESPACE}/roles/{OPERATOR}")
    return {
        (group, resource, verb)
        for rule in (*everywhere["rules"], *at_home["rules"])
        for group in rule.get("apiGroups", ())
        for resource in rule.get("resources", ())
        for verb in rule["verbs"]
    }


def asked(ground, since):
    return list(requests(ground.audit_log, f'"username":"{OPERATOR_USER}"', since=since))


def test_nothing_is_granted_that_was_never_used(ground, granted, rolled_out):
    unused = granted - {one.right for one in asked(ground, rolled_out) if one.allowed}
    assert not unused, f"The role grants what the operator never used: {sorted(unused)}"


def test_nothing_was_forbidden(ground, rolled_out):
    refused = Counter(one.right for one in asked(ground, rolled_out) if not one.allowed and not _lease_of_a_test(one))
    assert not refused, f"The operator asked for what its role does not grant: {refused}"


def _lease_of_a_test(one):
    """What a test's own operator may is granted by the test, for its Lease, and taken back while its process may still live a second."""
    return one.resource == "leases" and one.namespace != OPERATOR_NAMESPACE


def test_every_pod_and_node_was_deleted_once(ground, rolled_out):
    deleted = defaultdict(list)
    for one in asked(ground, rolled_out):
        if one.verb == "delete" and one.resource in ("pods", "nodes", "jobs") and one.code < 300:
            uid = (one.body.get("preconditions") or {}).get("uid")
            assert uid, f"A {one.resource} was deleted without its uid as precondition: {one}"
            deleted[one.resource, uid].append(one)
    twice = {key: times for key, times in deleted.items() if len(times) > 1 and key[0] != "nodes"}
    assert not twice, f"Deleted more than once: {twice}"


def test_every_write_of_a_stop_is_a_compare_and_swap(ground, rolled_out):
    for one in asked(ground, rolled_out):
        if (one.verb, one.resource) != ("patch", "trainingruns/status") or not isinstance(one.body, list):
            continue
        tests = {operation["path"] for operation in one.body if operation["op"] == "test"}
        assert "/metadata/uid" in tests, f"Written without looking whose it is: {one}"
        assert tests & {"/metadata/resourceVersion", "/status/termination/phase"}, f"Written blindly: {one}"
