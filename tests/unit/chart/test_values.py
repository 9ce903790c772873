"""Each value that cannot be meant is refused by its name, with what was expected: by the schema, or in a sentence of templates/_check.tpl."""

from __future__ import annotations

import re

import pytest

BY_SCHEMA = [
    ("timming.holdAfterSeconds=5", "at '': additional properties 'timming' not allowed", "a misspelt section"),
    ("timing.holdAfterSecond=5", "at '/timing': additional properties 'holdAfterSecond' not allowed", "a misspelt value"),
    ("image.pullSecrets[0].name=x", "at '/image': additional properties 'pullSecrets' not allowed", "a value under the wrong section"),
    ("timing.statusSeconds=0", "at '/timing/statusSeconds': minimum: got 0, want 1", "an interval of nothing"),
    ("timing.leaseSeconds=2", "at '/timing/leaseSeconds': minimum: got 2, want 3", "a Lease too short to renew"),
    ("replicas=-1", "at '/replicas': minimum: got -1, want 0", "less than no replica"),
    ("timing.statusSeconds=1.5", "at '/timing/statusSeconds': got string, want integer", "a fraction of a second"),
    ("timing.statusSeconds=null", "at '/timing': missing property 'statusSeconds'", "a value taken away"),
    ("crds.enabled=yes", "at '/crds/enabled': got string, want boolean", "a yes"),
    ("crds=false", "at '/crds': got boolean, want object", "a section switched off"),
    ("nodeRelease=false", "at '/nodeRelease': got boolean, want object", "node release switched off in short"),
    ("watchNamespaces=vision", "at '/watchNamespaces': got string, want array", "one namespace, not as a list"),
    ("watchNamespaces={a,b,a}", "at '/watchNamespaces': items at 0 and 2 are equal", "a namespace twice"),
    ("defaults.autoStopAction=stop", "at '/defaults/autoStopAction': value must be one of 'Shadow', 'Stop'", "an action that does not exist"),
    ("defaults.autoStopLoss=low", "at '/defaults/autoStopLoss': got string, want number", "a loss that is no number"),
    ("image.pullPolicy=Sometimes", "at '/image/pullPolicy': value must be one of 'Always', 'IfNotPresent', 'Never'", "a pull policy that does not exist"),
    ("logLevel=loud", "at '/logLevel': value must be one of 'debug', 'info', 'warning', 'error'", "a log level that does not exist"),
    ("serviceMonitor.renderMode=maybe", "at '/serviceMonitor/renderMode': value must be one of 'skipIfMissing', 'failIfMissing', 'alwaysRender'", "a render mode"),
    ("tolerations[0].effect=NoGo", "at '/tolerations/0/effect': value must be one of 'NoSchedule', 'PreferNoSchedule', 'NoExecute'", "an effect of a taint"),
    ("allowedDestinations[0].buckets=b", "at '/allowedDestinations/0': additional properties 'buckets' not allowed", "a destination with a misspelt key"),
    ("allowedDestinations[0].expectedBucketOwner=123456789012", "at '/allowedDestinations/0/expectedBucketOwner': got number, want string", "an account without quotes"),
    ("allowedDestinations[0].identity=agent", "at '/allowedDestinations/0/identity': value must be 'operator'", "an identity that does not exist"),
    ("admissionPolicies.jobControllers=null", "at '/admissionPolicies': missing property 'jobControllers'", "nobody who makes pods"),
    ("notifications.webhook.events={run.ended}", "at '/notifications/webhook/events/0': value must be one of 'dev.trainingrun.run.ended',", "an event that does not exist"),
    ("podLabels.team=7", "at '/podLabels/team': got number, want string", "a label that is a number"),
    ("extraEnv[0].value=x", "at '/extraEnv/0': missing property 'name'", "a variable without a name"),
    ("extraObjects[0]=7", "at '/extraObjects/0': got number, want string or object", "an object that is none"),
    ("topologySpreadConstraints[0].maxSkew=1", "at '/topologySpreadConstraints/0': missing properties 'topologyKey', 'whenUnsatisfiable'", "half a constraint"),
    ("networkPolicy.runs.ports={70000}", "at '/networkPolicy/runs/ports/0': maximum: got 70,000, want 65,535", "a port that no pod has"),
    ("networkPolicy.egress.extra=443", "at '/networkPolicy/egress/extra': got number, want array", "a port for a rule"),
]  # fmt: skip
BY_SENTENCE = [
    ("fullnameOverride=Second_One", 'fullnameOverride is "Second_One": expected small letters, digits and hyphens, beginning with a letter', "a name with capitals"),
    ("image.repository=host/operator:1", 'image.repository is "host/operator:1": expected registry and name alone, for one registry.example.com/team/trainingrun-operator; tag and digest have values of their own', "a repository with a tag"),
    ("image.repository=host/operator@sha256:ab", 'image.repository is "host/operator@sha256:ab": expected registry and name alone', "a repository with a digest"),
    ("image.tag=sha256:ab", 'image.tag is "sha256:ab": expected letters, digits, dots, hyphens and underscores; a digest goes into image.digest', "a digest for a tag"),
    ("image.digest=sha256:abc", 'image.digest is "sha256:abc": expected sha256: and 64 digits of 0-9 and a-f', "half a digest"),
    ("watchNamespaces={team-*}", 'watchNamespaces has "team-*": expected the name of a namespace; there are no patterns, since a Role is made in each', "a pattern of namespaces"),
    ("networkPolicy.runs.namespaces={team-*}", 'networkPolicy.runs.namespaces has "team-*": expected the name of a namespace; there are no patterns, since a policy is made in each', "a pattern of namespaces with runs"),
    ("runSelector=team = vision and x", 'runSelector is "team = vision and x": expected a label selector as kubectl takes it, for one team=vision or team in (vision\\, nlp)', "a selector in words"),
    ("gpuExporter.url=https://dcgm:9400/metrics", 'gpuExporter.url is "https://dcgm:9400/metrics": expected the address of a page, http://host:port/path', "an exporter with TLS"),
    ("notifications.webhook.url=ops.example", 'notifications.webhook.url is "ops.example": expected https://host', "a webhook without a scheme"),
    ("notifications.webhook.url=https://ops.example", "notifications.webhook.secretName is needed where notifications.webhook.url is set: events are signed", "a webhook that nothing is signed for"),
    ("serviceAccount.create=false", "serviceAccount.name is needed where serviceAccount.create is false", "an account that is nobody's"),
    ("allowedDestinations[0].endpoint=minio:9000", 'allowedDestinations[0].endpoint is "minio:9000": expected https://host, with a port and a path where it has them', "a server without a scheme"),
    ("allowedDestinations[1].bucket=b,allowedDestinations[0].expectedBucketOwner=acme", 'allowedDestinations[0].expectedBucketOwner is "acme": expected the 12 digits of an AWS account, in quotes', "an account by its name"),
    ("allowedDestinations[0].identity=operator,allowedDestinations[0].endpoint=https://*.storage.svc", 'allowedDestinations[0].identity is "operator" and endpoint is "https://*.storage.svc": the operator signs with its own identity for named servers only, so write the endpoint without *', "an identity for servers that others may name"),
    ("agent.resources.requests.memory=512mb", 'agent.resources.requests.memory is "512mb": expected a quantity as Kubernetes writes it, for one 250m or 512Mi', "a quantity with a wrong unit"),
    ("resources.limits.cpu=two", 'resources.limits.cpu is "two": expected a quantity as Kubernetes writes it', "a quantity in words"),
    ("serviceMonitor.interval=half a minute", 'serviceMonitor.interval is "half a minute": expected a time as Prometheus writes it, for one 30s', "a time in words"),
    ("serviceMonitor.enabled=true,serviceMonitor.renderMode=failIfMissing", "this cluster knows no ServiceMonitor (monitoring.coreos.com/v1): install Prometheus Operator first, or set serviceMonitor.renderMode to skipIfMissing", "a ServiceMonitor that nobody would read"),
]  # fmt: skip


def table(rows):
    return [pytest.param(option, said, id=what) for option, said, what in rows]


@pytest.mark.parametrize(("option", "said"), table(BY_SCHEMA))
def test_a_value_of_the_wrong_kind_is_refused_by_its_name(helm, option, said):
    assert said in helm.refusal("--set", option)


@pytest.mark.parametrize(("option", "said"), table(BY_SENTENCE))
def test_a_value_of_the_wrong_form_is_refused_in_a_sentence(helm, option, said):
    assert said.replace("\\,", ",") in helm.refusal("--set", option)


def test_all_that_is_wrong_is_said_at_once(helm):
    said = helm.refusal("--set", "image.tag=a b", "--set", "resources.limits.memory=1GB")
    assert re.search(
        r'values that cannot be meant:\n- image\.tag is "a b": .*\n- resources\.limits\.memory is "1GB": ', said
    )


@pytest.mark.parametrize(
    "option",
    [
        "image.repository=localhost:5000/team/operator",
        "runSelector=team=",
        "runSelector=!trainingrun.dev/shard",
        "runSelector=team in (vision\\, nlp)\\,!old\\, x/y != z",
        "allowedDestinations[0].endpoint=https://*.storage.svc:*",
        "allowedDestinations[0].identity=operator",
        "agent.resources.limits.cpu=2",
        "agent.resources.limits.cpu=0.5",
        "agent.resources.limits.memory=1e9",
        "serviceMonitor.interval=1m30s",
        "watchNamespaces={a}",
    ],
)
def test_what_can_be_meant_is_accepted(helm, option):
    assert helm.render("--set", option)
