"""Who may connect to what: the chart's NetworkPolicies, evaluated as Kubernetes defines them."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from trainingrun_operator.api import names

RELEASE = "trainingrun-system"
AGENT = names.AGENT_PORT
RUN = {names.RUN_UID_LABEL: "0a1b", "job-name": "bert"}
OPERATOR = {"app.kubernetes.io/name": "trainingrun-operator", "app.kubernetes.io/instance": "trainingrun-operator"}
TEST = {"app.kubernetes.io/name": "trainingrun-operator-test", "app.kubernetes.io/instance": "trainingrun-operator"}
DASHBOARD = {
    "app.kubernetes.io/name": "trainingrun-operator-dashboard",
    "app.kubernetes.io/instance": "trainingrun-operator",
}
NAMED_PORTS = {"operator": {"http": 8080}, "dashboard": {"http": 8081}, "run": {}}


@dataclass(frozen=True)
class Pod:
    """A pod, in a namespace that has its name as a label, as every namespace does."""

    namespace: str
    labels: dict[str, str] = field(default_factory=dict)


THE_OPERATOR = Pod(RELEASE, OPERATOR)
STRANGER = Pod("elsewhere", {"app": "x"})
PROMETHEUS = Pod("monitoring", {"app.kubernetes.io/name": "prometheus"})


def fits(selector, labels):
    if selector is None:
        return True
    expressions = selector.get("matchExpressions", [])
    assert all(one["operator"] == "Exists" for one in expressions)
    equal = all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
    return equal and all(one["key"] in labels for one in expressions)


def is_peer(peer, policy_namespace, pod):
    namespaces = peer.get("namespaceSelector")
    if namespaces is None:
        return pod.namespace == policy_namespace and fits(peer.get("podSelector"), pod.labels)
    own = {"kubernetes.io/metadata.name": pod.namespace}
    return fits(namespaces, own) and fits(peer.get("podSelector"), pod.labels)


def has_port(rule, protocol, port, named):
    if "ports" not in rule:
        return True
    for one in rule["ports"]:
        if one.get("protocol", "TCP") != protocol:
            continue
        first = named.get(one.get("port"), one.get("port"))
        if first is None or first <= port <= one.get("endPort", first):
            return True
    return False


def connects(policies, source, target, port, protocol="TCP", kind="run"):
    """Whether a connection is allowed: no policy selects the pod, or a rule of one that does allows it."""
    selecting = [
        policy
        for policy in policies
        if policy["metadata"]["namespace"] == target.namespace
        and fits(policy["spec"]["podSelector"], target.labels)
        and "Ingress" in policy["spec"]["policyTypes"]
    ]
    return not selecting or any(
        has_port(rule, protocol, port, NAMED_PORTS[kind])
        and ("from" not in rule or any(is_peer(peer, target.namespace, source) for peer in rule["from"]))
        for policy in selecting
        for rule in policy["spec"].get("ingress", [])
    )


@pytest.fixture(scope="module")
def policies(helm):
    """The policies of some values, rendered once."""
    rendered = {}

    def of(*options):
        if options not in rendered:
            settings = [word for option in options for word in ("--set-json", option)]
            rendered[options] = helm.render(*settings, "--set", "crds.enabled=false").of("NetworkPolicy")
        return rendered[options]

    return of


# -- the operator ---------------------------------------------------------------------------------------------

MONITORED = ('serviceMonitor={"enabled": true, "namespace": "monitoring"}',)


@pytest.mark.parametrize(
    ("options", "source", "allowed"),
    [
        pytest.param((), STRANGER, True, id="everybody, where nothing says who scrapes"),
        pytest.param(MONITORED, PROMETHEUS, True, id="the ServiceMonitor's namespace"),
        pytest.param(MONITORED, STRANGER, False, id="another namespace"),
        pytest.param(MONITORED, Pod(RELEASE, TEST), True, id="helm test"),
        pytest.param(MONITORED, Pod(RELEASE, DASHBOARD), False, id="another pod beside the operator"),
        pytest.param(
            ('serviceMonitor={"enabled": true, "namespace": ""}',), PROMETHEUS, True, id="a ServiceMonitor of the release's own namespace"
        ),
        pytest.param(
            (*MONITORED, 'networkPolicy.metricsFrom=[{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "elsewhere"}}}]'),
            STRANGER,
            True,
            id="whom the administrator names",
        ),
        pytest.param(
            (*MONITORED, 'networkPolicy.metricsFrom=[{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "elsewhere"}}}]'),
            PROMETHEUS,
            False,
            id="and then nobody else",
        ),
        pytest.param((*MONITORED, "networkPolicy.enabled=false"), STRANGER, True, id="switched off"),
    ],
)  # fmt: skip
def test_who_reads_the_operators_metrics(policies, options, source, allowed):
    assert connects(policies(*options), source, THE_OPERATOR, 8080, kind="operator") is allowed


def test_no_other_port_of_the_operator_is_open(policies):
    assert not connects(policies(), STRANGER, THE_OPERATOR, 8081, kind="operator")


# -- the dashboard --------------------------------------------------------------------------------------------

SHOWN = "dashboard.enabled=true"
BEHIND = (
    'networkPolicy.dashboardFrom=[{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress"}}}]'
)


@pytest.mark.parametrize(
    ("options", "source", "port", "allowed"),
    [
        pytest.param((SHOWN,), STRANGER, 8081, True, id="everybody"),
        pytest.param((SHOWN,), STRANGER, 8080, False, id="no other port"),
        pytest.param((SHOWN, BEHIND), Pod("ingress"), 8081, True, id="the ingress"),
        pytest.param((SHOWN, BEHIND), STRANGER, 8081, False, id="another namespace, past the ingress"),
    ],
)
def test_who_opens_the_dashboard(policies, options, source, port, allowed):
    assert connects(policies(*options), source, Pod(RELEASE, DASHBOARD), port, kind="dashboard") is allowed


def test_without_a_dashboard_there_is_no_policy_for_one(policies):
    assert len(policies()) == 1


# -- runs -----------------------------------------------------------------------------------------------------

THERE = 'networkPolicy.runs.namespaces=["vision"]'
METRICS = "networkPolicy.runs.ports=[9400, 8000, 9400]"
SCRAPED = (
    'networkPolicy.runs.from=[{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]'
)
RANK = Pod("vision", RUN)


@pytest.mark.parametrize(
    ("options", "source", "port", "allowed"),
    [
        pytest.param((THERE,), THE_OPERATOR, AGENT, True, id="the operator asks the agent"),
        pytest.param((THERE,), STRANGER, AGENT, False, id="a pod of another namespace asks the agent"),
        pytest.param((THERE,), RANK, AGENT, False, id="another run asks the agent"),
        pytest.param(
            (THERE,), Pod("elsewhere", OPERATOR), AGENT, False, id="a pod with the operator's labels elsewhere"
        ),
        pytest.param((THERE,), Pod(RELEASE, DASHBOARD), AGENT, False, id="the dashboard asks the agent"),
        pytest.param((THERE,), STRANGER, 9400, True, id="a metrics port that is not named stays open"),
        pytest.param((THERE, METRICS), STRANGER, 9400, False, id="a metrics port that is named"),
        pytest.param((THERE, METRICS), STRANGER, 8000, False, id="another that is named"),
        pytest.param((THERE, METRICS), THE_OPERATOR, 9400, True, id="the operator reads the metrics"),
        pytest.param((THERE, METRICS, SCRAPED), PROMETHEUS, 9400, True, id="a Prometheus that is named"),
        pytest.param((), STRANGER, AGENT, True, id="a namespace that is not named"),
    ],
)
def test_who_connects_to_a_run(policies, options, source, port, allowed):
    assert connects(policies(*options), source, RANK, port) is allowed


@pytest.mark.parametrize(
    "ports", [[], [9400], [1, 65535], [18789, 18791], [1, 2, 3], [AGENT], [65534, 65535], [9400, 9400, 8000]]
)
def test_every_other_port_of_a_run_stays_open_to_everybody(policies, ports):
    """Traffic between ranks, of any kind and from anywhere: a policy that selects a pod closes what it does not name."""
    rendered = policies(THERE, f"networkPolicy.runs.ports={ports}")
    closed = {port for port in range(1, 65536) if not connects(rendered, STRANGER, RANK, port)}
    assert closed == {AGENT, *ports}
    for protocol in ("UDP", "SCTP"):
        assert all(connects(rendered, STRANGER, RANK, port, protocol) for port in (1, AGENT, 4791, 65535))


def test_other_pods_of_a_namespace_with_runs_are_not_concerned(policies):
    assert connects(policies(THERE), STRANGER, Pod("vision", {"app": "web"}), AGENT)


def test_where_others_limit_the_pods_already_nothing_is_opened_but_the_agents_port(policies):
    rendered = policies(THERE, "networkPolicy.runs.otherPortsOpen=false")
    assert connects(rendered, THE_OPERATOR, RANK, AGENT)
    assert not any(connects(rendered, STRANGER, RANK, port) for port in (1, 29500, AGENT, 65535))
