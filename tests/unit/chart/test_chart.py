"""The chart installs what it says, with no more rights than it names, and refuses values that it does not know."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from trainingrun_operator.api import names
from trainingrun_operator.api.notification import EventType
from trainingrun_operator.core.destinations import destinations_of
from trainingrun_operator.settings import load

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "trainingrun-operator"
CRDS = sorted(path.name for path in (ROOT / "crds").glob("*.yaml"))
POLICIES = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
OPERATOR_USER = "system:serviceaccount:trainingrun-system:trainingrun-operator"
DIGEST = "sha256:" + "a" * 64


def rules(role):
    return [
        (group, resource, set(rule["verbs"]))
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    ]


def lease_role(rendered):
    (role,) = rendered.of("Role")
    return role


def operator_role(rendered):
    (role,) = [each for each in rendered.of("ClusterRole") if "aggregate" not in str(each["metadata"]["labels"])]
    return role


# -- as a whole -----------------------------------------------------------------------------------------------


def test_lint_has_nothing_to_say(helm):
    done = helm.run("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout


def test_the_chart_carries_the_version_of_the_operator():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == project


def test_two_releases_share_no_name_in_the_cluster(helm, default):
    other = helm.render("--set", "fullnameOverride=second")
    cluster_wide = ("ClusterRole", "ClusterRoleBinding", *POLICIES)
    first, second = (
        {each["metadata"]["name"] for kind in cluster_wide for each in rendered.of(kind)}
        for rendered in (default, other)
    )
    assert first
    assert not first & second


def test_every_template_carries_the_labels_that_everything_shall_carry(helm):
    rendered = helm.render("--set", "commonLabels.team=platform", "--set", "replicas=2")
    without = [each for each in rendered.documents if each["metadata"]["labels"].get("team") != "platform"]
    assert [(each["kind"], each["metadata"]["name"]) for each in without] == []
    assert rendered.pod["metadata"]["labels"]["team"] == "platform"


# -- values ---------------------------------------------------------------------------------------------------


def test_the_values_of_the_test_ground_are_accepted(helm):
    env = helm.render("--values", str(ROOT / "tools" / "install-values.yaml")).env
    assert env["TRAININGRUN_HOLD_AFTER_SECONDS"] == "5"


def test_large_waits_stay_whole_numbers(helm):
    assert helm.render("--set", "timing.holdAfterSeconds=31536000").env["TRAININGRUN_HOLD_AFTER_SECONDS"] == "31536000"


@pytest.mark.parametrize(
    ("options", "image"),
    [
        pytest.param([], "registry.example.com/trainingrun-operator:0.1.0", id="the chart's own version"),
        pytest.param(["image.tag=dev"], "registry.example.com/trainingrun-operator:dev", id="a tag"),
        pytest.param(
            ["image.tag=dev", f"image.digest={DIGEST}"],
            f"registry.example.com/trainingrun-operator@{DIGEST}",
            id="a digest decides over a tag",
        ),
    ],
)
def test_operator_and_agent_are_the_same_image(helm, options, image):
    rendered = helm.render(*(part for option in options for part in ("--set", option)))
    assert (rendered.container["image"], rendered.env["TRAININGRUN_AGENT_IMAGE"]) == (image, image)


def test_the_agent_leaves_a_guaranteed_pod_guaranteed(default):
    resources = json.loads(default.env["TRAININGRUN_AGENT_RESOURCES"])
    assert resources["requests"] == resources["limits"]
    assert resources["requests"].keys() == {"cpu", "memory"}


def test_cloud_credentials_and_endpoints_reach_the_operator(helm):
    rendered = helm.render(
        "--set", "cloudCredentialsSecretName=cloud",
        "--set-json", 'extraEnv=[{"name": "AWS_ENDPOINT_URL_EC2", "value": "http://cloud"}]',
    )  # fmt: skip
    assert rendered.container["envFrom"] == [{"secretRef": {"name": "cloud"}}]
    assert rendered.env["AWS_ENDPOINT_URL_EC2"] == "http://cloud"


# -- replicas -------------------------------------------------------------------------------------------------


def source_of(rendered, variable):
    (found,) = [each for each in rendered.container["env"] if each["name"] == variable]
    return found["valueFrom"]["fieldRef"]["fieldPath"]


def test_the_replicas_of_a_release_share_a_lease_of_its_own(helm, default):
    other = helm.render("--set", "fullnameOverride=second", "--set", "timing.leaseSeconds=30")
    assert default.env["TRAININGRUN_LEASE_NAME"] == "trainingrun-operator"
    assert (other.env["TRAININGRUN_LEASE_NAME"], other.env["TRAININGRUN_LEASE_SECONDS"]) == ("second", "30")
    assert lease_role(other)["rules"][0]["resourceNames"] == ["second"]
    assert source_of(default, "TRAININGRUN_LEASE_NAMESPACE") == "metadata.namespace"
    assert source_of(default, "TRAININGRUN_POD_NAME") == "metadata.name"


def test_a_new_operator_stands_by_before_the_old_one_goes(default):
    (deployment,) = default.of("Deployment")
    assert deployment["spec"]["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
    }


def test_one_replica_is_neither_spread_nor_kept_from_leaving(default):
    (deployment,) = default.of("Deployment")
    assert deployment["spec"]["replicas"] == 1
    assert "topologySpreadConstraints" not in default.pod["spec"]
    assert not default.of("PodDisruptionBudget"), "A drain would wait for it for ever."


def test_two_replicas_are_spread_if_possible_and_leave_one_at_a_time(helm):
    rendered = helm.render("--set", "replicas=2")
    (deployment,) = rendered.of("Deployment")
    assert deployment["spec"]["replicas"] == 2
    selector = deployment["spec"]["selector"]["matchLabels"]
    constraints = rendered.pod["spec"]["topologySpreadConstraints"]
    assert {each["topologyKey"] for each in constraints} == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    assert {each["whenUnsatisfiable"] for each in constraints} == {"ScheduleAnyway"}
    assert all(each["labelSelector"]["matchLabels"] == selector for each in constraints)
    (budget,) = rendered.of("PodDisruptionBudget")
    assert (budget["spec"]["maxUnavailable"], budget["spec"]["selector"]["matchLabels"]) == (1, selector)


def test_a_budget_can_be_left_to_others(helm):
    assert not helm.render("--set", "replicas=2", "--set", "podDisruptionBudget.enabled=false").of(
        "PodDisruptionBudget"
    )


# -- security -------------------------------------------------------------------------------------------------


def test_a_release_answers_for_the_runs_of_its_selector(helm, default):
    assert "TRAININGRUN_RUN_SELECTOR" not in default.env
    assert helm.render("--set", "runSelector=team=vision").env["TRAININGRUN_RUN_SELECTOR"] == "team=vision"


def test_the_pod_is_as_restricted_as_kubernetes_knows(default):
    pod, container = default.pod["spec"], default.container
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not pod.keys() & {"hostNetwork", "hostPID", "hostIPC"}
    assert pod["volumes"] == [{"name": "tmp", "emptyDir": {"sizeLimit": "64Mi"}}]


def needed():
    """Verbs and resources, as the calls of the operator say them."""
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "operator").rglob("*.py")]
    return {pair for source in sources for pair in re.findall(r"RBAC: (\w+) ([\w/]+)", source)}


def test_the_operator_may_do_what_each_of_its_calls_says_it_needs(default):
    roles = (operator_role(default), lease_role(default))
    granted = {(verb, resource) for role in roles for _, resource, verbs in rules(role) for verb in verbs}
    assert needed()
    assert not needed() - granted


def test_no_role_has_a_wildcard(helm, default):
    namespaced = helm.render("--set", "watchNamespaces={vision}")
    roles = default.of("ClusterRole") + default.of("Role") + namespaced.of("ClusterRole") + namespaced.of("Role")
    assert roles
    assert "*" not in {part for role in roles for rule in role["rules"] for key in rule for part in rule[key]}


def test_the_operator_cannot_exec_into_pods(default):
    assert not {resource for _, resource, _ in rules(operator_role(default))} & {
        "pods/exec",
        "pods/attach",
        "pods/ephemeralcontainers",
    }


def test_the_operator_may_write_its_own_lease_and_no_other(default):
    role = lease_role(default)
    assert role["metadata"]["namespace"] == "trainingrun-system"
    named, unnamed = role["rules"]
    assert named["resourceNames"] == [default.env["TRAININGRUN_LEASE_NAME"]]
    assert set(named["verbs"]) == {"get", "patch"}
    assert unnamed["verbs"] == ["create"], "Kubernetes cannot limit this one by name."
    (binding,) = default.of("RoleBinding")
    assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) == ("Role", role["metadata"]["name"])
    assert [each["name"] for each in binding["subjects"]] == [default.pod["spec"]["serviceAccountName"]]


def test_the_operator_reads_secrets_only_by_name(default):
    assert [verbs for _, resource, verbs in rules(operator_role(default)) if resource == "secrets"] == [{"get"}]


def test_the_operator_neither_lists_nor_deletes_config_maps(default):
    assert [verbs for _, resource, verbs in rules(operator_role(default)) if resource == "configmaps"] == [
        {"get", "create", "patch"}
    ]


def test_the_operator_reads_only_the_secrets_that_it_was_given(helm):
    role = operator_role(helm.render("--set", "rbac.checkpointSecretNames={s3-credentials}"))
    assert [rule.get("resourceNames") for rule in role["rules"] if "secrets" in rule["resources"]] == [
        ["s3-credentials"]
    ]


def test_the_operator_cannot_change_what_users_write(default):
    allowed = {resource: verbs for _, resource, verbs in rules(operator_role(default))}
    assert not allowed["trainingruns"] & {"create", "update"}
    assert allowed["gpunodepools"] == {"list", "watch"}


def test_kubernetes_own_roles_read_and_write_runs(default):
    (view,), (edit,) = default.of("ClusterRole", "-view"), default.of("ClusterRole", "-edit")
    assert view["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-view"] == "true"
    assert "rbac.authorization.k8s.io/aggregate-to-view" not in edit["metadata"]["labels"]
    assert rules(view) == [("trainingrun.dev", "trainingruns", {"get", "list", "watch"})]
    assert rules(edit) == [("trainingrun.dev", "trainingruns", {"create", "update", "patch", "delete"})]


def test_kubernetes_own_roles_are_left_alone_on_request(helm):
    rendered = helm.render("--set", "rbac.aggregate.enabled=false")
    assert [each["metadata"]["name"] for each in rendered.of("ClusterRole")] == ["trainingrun-operator"]


# -- some namespaces only ---------------------------------------------------------------------------------------

NAMESPACED = ("--set", "watchNamespaces={vision,nlp}")
BEYOND = {"nodes", "gpunodepools", "persistentvolumes"}


def bound(rendered):
    """What each binding gives to the operator's account, by namespace; everywhere is the empty one."""
    given: dict[str, list[tuple[str, str, set[str]]]] = {}
    for binding in rendered.of("ClusterRoleBinding") + rendered.of("RoleBinding"):
        (role,) = rendered.of(binding["roleRef"]["kind"], binding["roleRef"]["name"])[:1]
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": "trainingrun-operator", "namespace": "trainingrun-system"}
        ]
        given.setdefault(binding["metadata"].get("namespace", ""), []).extend(rules(role))
    return given


def test_in_named_namespaces_the_operator_may_do_there_what_it_may_do_everywhere_otherwise(helm, default):
    given = bound(helm.render(*NAMESPACED))
    assert sorted(given) == ["", "nlp", "trainingrun-system", "vision"]
    everywhere = [rule for rule in rules(operator_role(default)) if rule[1] not in BEYOND]
    assert given["vision"] == given["nlp"] == everywhere


def test_beyond_the_named_namespaces_it_may_only_do_what_giving_nodes_back_takes(helm, default):
    beyond = bound(helm.render(*NAMESPACED))[""]
    own = [rule for rule in rules(operator_role(default)) if rule[1] in BEYOND]
    assert beyond == [*own, ("", "pods", {"list"}), ("", "namespaces", {"get"})]


def test_without_giving_nodes_back_it_may_do_nothing_beyond_the_named_namespaces(helm):
    rendered = helm.render(*NAMESPACED, "--set", "nodeRelease.enabled=false", "--set", "rbac.aggregate.enabled=false")
    assert rendered.of("ClusterRole") == rendered.of("ClusterRoleBinding") == []
    assert rendered.env["TRAININGRUN_RELEASE_NODES"] == "false"
    assert load({"TRAININGRUN_WATCH_NAMESPACES": rendered.env["TRAININGRUN_WATCH_NAMESPACES"]}).namespaces == (
        "vision",
        "nlp",
    )


def test_an_operator_that_gives_no_nodes_back_may_not_touch_them(helm, default):
    kept = operator_role(helm.render("--set", "nodeRelease.enabled=false"))
    assert not {resource for _, resource, _ in rules(kept)} & BEYOND
    assert {rule[1] for rule in rules(operator_role(default))} - {rule[1] for rule in rules(kept)} == BEYOND


def test_each_call_says_it_needs_what_some_role_grants_in_every_mode(helm):
    granted = {
        (verb, resource)
        for given in bound(helm.render(*NAMESPACED)).values()
        for _, resource, verbs in given
        for verb in verbs
    }
    assert needed() <= granted


# -- what asks on the operator's behalf -------------------------------------------------------------------------


def test_helm_test_asks_with_the_operators_image_rights_and_scope(helm):
    rendered = helm.render(*NAMESPACED, "--set", "runSelector=team=vision", "--set", "nodeRelease.enabled=false")
    (pod,) = rendered.of("Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    spec, (container,) = pod["spec"], pod["spec"]["containers"]
    assert container["image"] == rendered.container["image"]
    assert container["args"] == ["check", "http://trainingrun-operator.trainingrun-system.svc:8080"]
    assert spec["serviceAccountName"] == rendered.pod["spec"]["serviceAccountName"]
    assert spec["securityContext"] == rendered.pod["spec"]["securityContext"]
    assert container["securityContext"] == rendered.container["securityContext"]
    asked = {each["name"]: each.get("value") for each in container["env"]}
    assert asked.items() <= rendered.env.items()
    assert load({name: value for name, value in asked.items() if value}).namespaces == ("vision", "nlp")


def test_the_service_never_sends_a_request_to_the_test(default):
    (pod,), (service,) = default.of("Pod"), default.of("Service")
    assert not service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()


def test_without_an_operator_there_is_nothing_to_test(helm):
    assert not helm.render("--set", "replicas=0").of("Pod")


SERVED = ("--api-versions", "monitoring.coreos.com/v1/ServiceMonitor")


@pytest.mark.parametrize(
    ("mode", "served", "found"),
    [
        pytest.param("skipIfMissing", (), 0, id="left out where nobody knows it"),
        pytest.param("skipIfMissing", SERVED, 1, id="made where it is known"),
        pytest.param("failIfMissing", SERVED, 1, id="made, where it would fail otherwise"),
        pytest.param("alwaysRender", (), 1, id="made without asking"),
    ],
)
def test_a_service_monitor_is_made_where_somebody_reads_it(helm, mode, served, found):
    options = ("--set", "serviceMonitor.enabled=true", "--set", f"serviceMonitor.renderMode={mode}")
    assert len(helm.render(*options, *served).of("ServiceMonitor")) == found


def test_a_service_monitor_finds_the_service_and_keeps_the_runs_namespaces(helm):
    rendered = helm.render("--set", "serviceMonitor.enabled=true", "--set", "serviceMonitor.renderMode=alwaysRender")
    (monitor,), (service,) = rendered.of("ServiceMonitor"), rendered.of("Service")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["spec"]["namespaceSelector"] == {"matchNames": [service["metadata"]["namespace"]]}
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["honorLabels"] is True


def test_a_network_policy_lets_the_operator_reach_what_it_needs(helm):
    rendered = helm.render(
        "--set", "networkPolicy.egress.enabled=true",
        "--set-json", 'networkPolicy.metricsFrom=[{"podSelector": {}}]',
    )  # fmt: skip
    (policy,), (pod,) = rendered.of("NetworkPolicy"), rendered.of("Pod")
    spec = policy["spec"]
    assert spec["podSelector"]["matchLabels"].items() <= rendered.pod["metadata"]["labels"].items()
    ports = {port["port"] for rule in spec["egress"] if "to" not in rule for port in rule["ports"]}
    assert ports == {53, 443, 6443}
    runs = [rule for rule in spec["egress"] if "podSelector" in rule.get("to", [{}])[0]]
    assert [rule["to"][0]["podSelector"]["matchExpressions"][0]["key"] for rule in runs] == [names.RUN_UID_LABEL]
    assert "ports" not in runs[0], "which port serves a run's metrics is the run's to say"
    (ingress,) = spec["ingress"]
    allowed = [peer["podSelector"].get("matchLabels", {}) for peer in ingress["from"]]
    assert pod["metadata"]["labels"] in allowed, "or `helm test` would fail"


# -- admission policies ---------------------------------------------------------------------------------------


def test_every_policy_is_bound_denies_and_never_lets_pass_what_it_could_not_look_at(default):
    policies, bindings = (default.of(kind) for kind in POLICIES)
    assert policies
    assert {each["spec"]["policyName"] for each in bindings} == {each["metadata"]["name"] for each in policies}
    assert {tuple(each["spec"]["validationActions"]) for each in bindings} == {("Deny",)}
    assert {each["spec"]["failurePolicy"] for each in policies} == {"Fail"}


def test_every_refusal_is_a_sentence(default):
    validations = [each for policy in default.of(POLICIES[0]) for each in policy["spec"]["validations"]]
    assert all(each.get("message") or each.get("messageExpression") for each in validations)
    assert not [each for each in validations if "\n" in each.get("messageExpression", "")]


def test_the_policies_guard_what_the_operator_goes_by(default):
    said = json.dumps([policy["spec"] for policy in default.of(POLICIES[0])])
    for name in (names.FINALIZER, names.RUN_LABEL, names.RUN_UID_LABEL):
        assert f"'{name}'" in said
    ours = (names.STOP_ANNOTATION, names.SAVE_ANNOTATION, names.OPEN_GATE_ANNOTATION, names.NUDGE_ANNOTATION)
    assert all(name.startswith("trainingrun.dev/") for name in ours)
    assert "key.startsWith('trainingrun.dev/')" in said


@pytest.mark.parametrize(
    ("selector", "keys"),
    [
        pytest.param("team=vision", ["team"], id="equal"),
        pytest.param("team!=vision", ["team"], id="not equal"),
        pytest.param("team == vision", ["team"], id="with spaces"),
        pytest.param("acme.example/team in (vision, nlp)", ["acme.example/team"], id="one of several values"),
        pytest.param("team notin (vision,nlp),tier,!canary", ["team", "tier", "canary"], id="all kinds of terms"),
        pytest.param("team!=vision,team!=nlp", ["team"], id="a label twice"),
        pytest.param("in in (a,b)", ["in"], id="a label that is called as an operator"),
    ],
)
def test_the_labels_by_which_a_release_knows_its_runs_do_not_change_while_one_is_in_progress(helm, selector, keys):
    rendered = helm.render("--set-json", f"runSelector={json.dumps(selector)}")
    (policy,) = rendered.of(POLICIES[0], "-runs")
    (validation,) = [one for one in policy["spec"]["validations"] if "labelsBefore" in one["expression"]]
    assert f"{json.dumps(keys, separators=(',', ':'))}.all(key," in validation["expression"]
    assert "!variables.guardedBefore" in validation["expression"]
    assert f"its TrainingRuns by their labels {', '.join(keys)} (runSelector)" in validation["messageExpression"]


def test_without_a_selector_the_labels_of_a_run_are_free(default):
    (policy,) = default.of(POLICIES[0], "-runs")
    assert "labelsBefore" not in json.dumps(policy)


def test_what_becomes_a_pods_metadata_is_guarded_on_every_way_to_it(default):
    guarded = {
        resource
        for policy in default.of(POLICIES[0])
        for rule in policy["spec"]["matchConstraints"]["resourceRules"]
        for resource in rule["resources"]
    }
    assert guarded >= {"pods", "pods/status", "pods/ephemeralcontainers", "pods/resize", "pods/binding", "bindings"}
    (binding,) = default.of(POLICIES[0], "-bindings")
    assert "objectSelector" not in binding["spec"]["matchConstraints"], "A Binding has no labels of its pod."


def test_the_operator_is_known_by_its_account_and_by_whom_the_administrator_names(helm, default):
    assert f'in ["{OPERATOR_USER}"]' in str(default.of(POLICIES[0], "-status"))
    more = helm.render("--set", "admissionPolicies.trustedUsers={ada}", "--set", "serviceAccount.name=other")
    assert 'in ["system:serviceaccount:trainingrun-system:other","ada"]' in str(more.of(POLICIES[0], "-status"))


def test_policies_are_left_out_on_request(helm):
    rendered = helm.render("--set", "admissionPolicies.enabled=false")
    assert not [each for kind in POLICIES for each in rendered.of(kind)]


# -- destinations ---------------------------------------------------------------------------------------------


def test_without_a_list_of_destinations_the_operator_knows_of_none(default):
    assert "TRAININGRUN_ALLOWED_DESTINATIONS" not in default.env


def test_the_list_of_destinations_reaches_the_operator_as_it_reads_it(helm):
    listed = [{"namespaces": ["it's-mine"], "endpoint": "https://s3.svc", "bucket": "b", "prefix": "a/b", "expectedBucketOwner": "123456789012", "identity": "operator"}]  # fmt: skip
    env = helm.render("--set-json", f"allowedDestinations={json.dumps(listed)}").env
    name = "TRAININGRUN_ALLOWED_DESTINATIONS"
    assert load({name: env[name]}).allowed_destinations == destinations_of(listed)


def test_the_destinations_of_the_test_ground_can_be_read(helm):
    env = helm.render("--values", str(ROOT / "tools" / "install-values.yaml")).env
    assert load({key: value for key, value in env.items() if value}).allowed_destinations


# -- notifications --------------------------------------------------------------------------------------------

HOOK = ("--set", "notifications.webhook.url=https://ops.example/events")


def test_without_an_address_nobody_is_told(default):
    assert not [name for name in default.env if "WEBHOOK" in name]


def test_a_webhook_reaches_the_operator_with_its_secret_by_reference(helm):
    rendered = helm.render(*HOOK, "--set", "notifications.webhook.secretName=hook")
    (secret,) = [each for each in rendered.container["env"] if each["name"] == "TRAININGRUN_WEBHOOK_SECRET"]
    assert secret["valueFrom"] == {"secretKeyRef": {"name": "hook", "key": "secret"}}
    assert rendered.env["TRAININGRUN_WEBHOOK_URL"] == "https://ops.example/events"
    settings = load({name: value for name, value in rendered.env.items() if value})
    assert settings.webhook_events.split(",") == list(EventType), "all of them"


# -- custom resource definitions ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CRDS)
def test_a_definition_in_the_chart_is_the_generated_one(default, name):
    generated = (ROOT / "crds" / name).read_text(encoding="utf-8")
    assert (CHART / "files" / "crds" / name).read_text(encoding="utf-8") == generated, "run `make generate`"
    definition = yaml.safe_load(generated)
    (rendered,) = default.of("CustomResourceDefinition", definition["metadata"]["name"])
    assert rendered["spec"] == definition["spec"]


def test_the_chart_has_no_definition_that_is_not_generated():
    assert sorted(path.name for path in (CHART / "files" / "crds").iterdir()) == CRDS


def test_definitions_survive_the_release(default):
    kept = [
        each["metadata"]["annotations"]["helm.sh/resource-policy"] for each in default.of("CustomResourceDefinition")
    ]
    assert kept == ["keep"] * len(CRDS)


def test_definitions_go_with_the_release_on_request(helm):
    definitions = helm.render("--set", "crds.keep=false").of("CustomResourceDefinition")
    assert len(definitions) == len(CRDS)
    assert not [each for each in definitions if "annotations" in each["metadata"]]


def test_definitions_are_left_to_others_on_request(helm):
    assert not helm.render("--set", "crds.enabled=false").of("CustomResourceDefinition")
