"""A run that cannot be acted on is refused with the offending value and what to do, before anything is created."""

from __future__ import annotations

import pytest
from builders import (
    checkpoint_spec,
    make_observed,
    make_pool,
    make_run,
    pending_pod,
    stopping_at,
    template,
)

from trainingrun_operator.api import names
from trainingrun_operator.api.status import Phase
from trainingrun_operator.checkpoints.keys import Layout, Order
from trainingrun_operator.checkpoints.names import to_key
from trainingrun_operator.core.acceptance import complaint
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.defaults import Defaults
from trainingrun_operator.core.destinations import destinations_of
from trainingrun_operator.core.facts.run import Problem
from trainingrun_operator.core.status import render

DEFAULTS = Defaults()
POOLS = (make_pool("a100"), make_pool("h100"))
TRAIN = {"name": "train", "image": "acme/bert"}
SIGNAL = {"shutdown": {"signal": "SIGUSR1"}}


def of(**pod):
    return {"template": {"spec": {"containers": [TRAIN], **pod}}}


def container(**fields):
    return of(containers=[{**TRAIN, **fields}])


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({}, id="the least that works"),
        pytest.param({"nodePool": {"ref": "h100"}}, id="a pool that exists"),
        pytest.param({"checkpoint": {"mode": "Disabled"}}, id="nothing saved, so no destination and no credentials"),
        pytest.param({"checkpoint": checkpoint_spec(destination="s3://bucket")}, id="a bucket without a prefix"),
        pytest.param({"metrics": {"container": "train"}}, id="a container that exists"),
        pytest.param(of(volumes=None, initContainers=None, terminationGracePeriodSeconds=None, securityContext=None), id="keys without a value"),
        pytest.param(container(env=None, volumeMounts=None, resources=None, securityContext=None), id="keys of a container without a value"),
        pytest.param({"template": {**template(), "metadata": None}}, id="metadata without a value"),
        pytest.param(of(activeDeadlineSeconds=None), id="no deadline"),
        pytest.param({**of(securityContext={"runAsUser": 1000}), **SIGNAL}, id="a signal for the pod's user"),
        pytest.param({**container(securityContext={"runAsUser": 0}), **SIGNAL}, id="a signal for the container's user, be it root"),
        pytest.param(of(shareProcessNamespace=False), id="processes apart, without a signal"),
    ],
)  # fmt: skip
def test_accepted(spec):
    run = make_run(spec=spec)
    assert complaint(run, POOLS, DEFAULTS) is None
    assert decide(make_observed(run=run, workload=None, pods=(), agent=None, pools=POOLS)).effects


SIGNAL_USER = (
    "spec.shutdown.signal is SIGUSR1, but the template does not say as which user 'train' runs: set securityContext.runAsUser, of the pod or of this"
    " container, so that the agent runs as the same user and may signal it."
)
SIGNAL_APART = "spec.template.spec.shareProcessNamespace is false, but spec.shutdown.signal is SIGUSR1: the agent could not see the training. Remove one."
EMPTY = "spec.template.spec.containers is empty: give it at least one container with a name and an image, as in a Job."


@pytest.mark.parametrize(
    ("spec", "reason", "message"),
    [
        pytest.param({"template": {}}, "InvalidTemplate", EMPTY, id="an empty template"),
        pytest.param(SIGNAL, "InvalidTemplate", SIGNAL_USER, id="a signal for nobody in particular"),
        pytest.param(
            {**of(securityContext=None), **SIGNAL},
            "InvalidTemplate",
            SIGNAL_USER,
            id="a signal, and no word about the user",
        ),
        pytest.param(
            {**of(shareProcessNamespace=False), **SIGNAL},
            "InvalidTemplate",
            SIGNAL_APART,
            id="a signal for processes apart",
        ),
        pytest.param({"template": {"spec": []}}, "InvalidTemplate", EMPTY, id="a pod spec that is none"),
        pytest.param(
            {"template": {"x": "y" * 300_000}},
            "InvalidTemplate",
            "spec.template has 300008 bytes as JSON, more than 262144: put scripts and data into the image, a ConfigMap or a volume.",
            id="a template that is too large",
        ),
        pytest.param(
            {"metrics": {"source": "Mine"}},
            "UnknownMetricSource",
            "spec.metrics.source is 'Mine', which this operator does not have (it has Prometheus). Use one of them, or ask the operator's administrator to install"
            " the package that provides it.",
            id="a metric source of no installed package",
        ),
        pytest.param(of(containers=[]), "InvalidTemplate", EMPTY, id="no container"),
        pytest.param(
            of(containers=[{"image": "acme/bert"}]),
            "InvalidTemplate",
            "spec.template.spec.containers.0.name is {'image': 'acme/bert'}: field required, as in a Job.",
            id="a container without a name",
        ),
        pytest.param(
            of(containers=["train"]),
            "InvalidTemplate",
            "spec.template.spec.containers.0 is 'train': input should be a valid dictionary, as in a Job.",
            id="a container that is none",
        ),
        pytest.param(
            of(containers={"train": {}}),
            "InvalidTemplate",
            "spec.template.spec.containers is {'train': {}}: input should be a valid list, as in a Job.",
            id="containers by name",
        ),
        pytest.param(
            of(terminationGracePeriodSeconds="5m"),
            "InvalidTemplate",
            "spec.template.spec.terminationGracePeriodSeconds is '5m': input should be a valid integer, as in a Job.",
            id="a grace with a unit",
        ),
        pytest.param(
            container(volumeMounts=[{"name": "data"}]),
            "InvalidTemplate",
            "spec.template.spec.containers.0.volumeMounts.0.mountPath is {'name': 'data'}: field required, as in a Job.",
            id="a mount without a path",
        ),
        pytest.param(
            container(env={"LR": "0.1"}),
            "InvalidTemplate",
            "spec.template.spec.containers.0.env is {'LR': '0.1'}: input should be a valid list, as in a Job.",
            id="variables by name",
        ),
        pytest.param(
            {"template": {**template(), "metadata": {"labels": {"tier": 1}}}},
            "InvalidTemplate",
            "spec.template.metadata.labels.tier is 1: input should be a valid string, as in a Job.",
            id="a label that is a number",
        ),
        pytest.param(
            of(activeDeadlineSeconds=3600),
            "InvalidTemplate",
            "spec.template.spec.activeDeadlineSeconds is 3600: it would end the pod before its checkpoint is saved. Remove it.",
            id="a deadline",
        ),
        pytest.param(
            of(containers=[TRAIN, {"name": "checkpoint-gate"}]),
            "InvalidTemplate",
            "spec.template.spec.containers: the name 'checkpoint-gate' is reserved for the operator. Choose another.",
            id="a container named like the operator's own",
        ),
        pytest.param(
            of(initContainers=[{"name": "prepare"}, {"name": "checkpoint-restore"}]),
            "InvalidTemplate",
            "spec.template.spec.initContainers: the name 'checkpoint-restore' is reserved for the operator. Choose another.",
            id="an init container named like the operator's own",
        ),
        pytest.param(
            {"template": {**template(), "metadata": {"annotations": {"a": "b", "trainingrun.dev/released": ""}}}},
            "InvalidTemplate",
            "spec.template.metadata.annotations has 'trainingrun.dev/released': annotations of trainingrun.dev are reserved for the operator. Remove it.",
            id="an annotation by which the operator speaks to its agent",
        ),
        pytest.param(
            {"metrics": {"container": "trainer"}},
            "InvalidTemplate",
            "spec.metrics.container is 'trainer', but the template has only train.",
            id="a container that is not in the template",
        ),
        pytest.param(
            {"checkpoint": checkpoint_spec(destination=None)},
            "InvalidDestination",
            "spec.checkpoint: destination '' does not have the form s3://bucket/prefix.",
            id="no destination",
        ),
        pytest.param(
            {"checkpoint": checkpoint_spec(destination="s3://bucket/a//b")},
            "InvalidDestination",
            "spec.checkpoint: destination 's3://bucket/a//b' has an empty, '.' or '..' segment: remove it.",
            id="a destination with an empty segment",
        ),
        pytest.param(
            {"checkpoint": checkpoint_spec(destination="s3://runs--usw2-az1--x-s3/a")},
            "InvalidDestination",
            "spec.checkpoint: destination 's3://runs--usw2-az1--x-s3/a': 'runs--usw2-az1--x-s3' is the name of a directory bucket (S3 Express One"
            " Zone), which lists whole folders only and in no order, and takes requests within a session only: use a general purpose bucket.",
            id="a directory bucket",
        ),
        pytest.param(
            {"checkpoint": checkpoint_spec(s3={})},
            "NoCredentials",
            "spec.checkpoint.s3.credentialsSecretName is empty, so the agent would use the identity of the pod's ServiceAccount (default), but"
            " allowedDestinations does not let the operator prove checkpoints there with its own. Ask the operator's administrator to set identity:"
            " operator for this destination, or name a Secret of this namespace with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (kubectl create secret"
            " generic s3-credentials --from-literal=...).",
            id="no credentials",
        ),
        pytest.param(
            {"nodePool": {"ref": "b200"}},
            "UnknownNodePool",
            "spec.nodePool.ref is 'b200', but there is no such GPUNodePool (there is: a100, h100). kubectl get gnp lists them.",
            id="a pool that does not exist",
        ),
    ],
)
def test_refused(spec, reason, message):
    run = make_run(spec=spec)
    problem = complaint(run, POOLS, DEFAULTS)
    assert problem is not None
    assert (problem.reason, problem.message) == (reason, message)
    decision = decide(make_observed(run=run, workload=None, pods=(), agent=None, pools=POOLS))
    assert (decision.effects, decision.note) == ((), message)


MINE = make_pool("a100", namespaceSelector={"matchLabels": {"team": "ml"}})
OTHERS = make_pool("h100", namespaceSelector={"matchLabels": {"team": "vision"}})
ML = {"team": "ml"}


def test_a_pool_that_allows_the_namespace_is_accepted():
    assert complaint(make_run(spec={"nodePool": {"ref": "a100"}}), (MINE, OTHERS), DEFAULTS, ML) is None


def test_a_pool_that_does_not_allow_the_namespace_is_refused_until_it_does():
    run = make_run(spec={"nodePool": {"ref": "h100"}})
    problem = complaint(run, (MINE, OTHERS), DEFAULTS, ML)
    assert problem == Problem(
        "NodePoolNotAllowed",
        "spec.nodePool.ref is 'h100', which does not allow runs of namespace ml (these do: a100). Use another, or ask"
        " the administrator of the pools to change its spec.namespaceSelector.",
        permanent=False,
    )
    seen = make_observed(run=run, workload=None, pods=(), agent=None, pools=(MINE, OTHERS), namespace_labels=ML)
    assert (decide(seen).effects, decide(seen).note) == ((), problem.message)


def test_a_pool_is_refused_where_nodes_are_nobodys_business():
    run, mine = make_run(spec={"nodePool": {"ref": "a100"}}), Defaults(release_nodes=False)
    problem = complaint(run, (), mine)
    assert problem == Problem(
        "NodesNotReleased",
        "spec.nodePool.ref is 'a100', but the operator of this namespace releases no nodes (nodeRelease.enabled of its chart): remove it, or"
        " ask the operator's administrator.",
        permanent=False,
    )
    seen = make_observed(run=run, workload=None, pods=(), agent=None, pools=(), defaults=mine)
    assert (decide(seen).effects, decide(seen).note) == ((), problem.message)


def test_pools_of_others_are_not_told():
    problem = complaint(make_run(spec={"nodePool": {"ref": "b200"}}), (MINE, OTHERS), DEFAULTS, ML)
    assert problem is not None
    assert "(there is: a100)" in problem.message


def test_a_destination_that_is_not_listed_is_refused():
    run = make_run()
    elsewhere = destinations_of([{"bucket": "elsewhere"}])
    problem = complaint(run, POOLS, Defaults(allowed_destinations=elsewhere))
    assert problem is not None
    assert problem.reason == "DestinationNotAllowed"
    seen = make_observed(run=run, workload=None, pods=(), agent=None, defaults=Defaults(allowed_destinations=elsewhere))
    assert decide(seen).effects == ()


@pytest.mark.parametrize("prefix", ["..", "a/../b", "a/..", ".", "./a", "a/./b", "a//b", "a///b", "a/..//", "../"])
def test_a_destination_with_a_segment_that_leads_elsewhere_is_refused(prefix):
    run = make_run(spec={"checkpoint": checkpoint_spec(destination=f"s3://bucket/{prefix}")})
    problem = complaint(run, POOLS, DEFAULTS)
    assert problem is not None
    assert problem.reason == "InvalidDestination"
    assert problem.message == (
        f"spec.checkpoint: destination 's3://bucket/{prefix}' has an empty, '.' or '..' segment: remove it."
    )


@pytest.mark.parametrize(
    ("prefix", "shown"),
    [
        ("%2e%2e/a", "'%'"),
        ("a/%2E%2E", "'%'"),
        ("a%2fb", "'%'"),
        ("a\\..\\b", r"'\\'"),
        ("a\x00b", r"'\x00'"),
        ("a b", "' '"),
        ("a?versionId=1", "'?'"),
        ("a#b", "'#'"),
        ("a/\u2025/b", "'\u2025'"),
        ("a/\uff0e\uff0e/b", "'\uff0e'"),
        ("modèle", "'è'"),
        ("a\u202e", r"'\u202e'"),
        ("{namespace}", "'{'"),
    ],
)
def test_a_destination_with_a_character_that_clients_read_in_two_ways_is_refused(prefix, shown):
    run = make_run(spec={"checkpoint": checkpoint_spec(destination=f"s3://bucket/{prefix}")})
    problem = complaint(run, POOLS, DEFAULTS)
    assert problem is not None
    assert problem.reason == "InvalidDestination"
    assert problem.message.startswith(
        f"spec.checkpoint: destination {f's3://bucket/{prefix}'!r} has {shown} in its prefix"
    )
    assert problem.message.endswith("use letters, digits and !_.*'()/- only.")
    assert problem.message.isprintable()


@pytest.mark.parametrize(
    "prefix", ["", "/", "a", "a/", "a//", "/a", "...", "a/...b", "..a", "a..", ".a/b.", "!_.*'()-"]
)
def test_slashes_around_a_prefix_and_dots_in_a_name_are_fine(prefix):
    run = make_run(spec={"checkpoint": checkpoint_spec(destination=f"s3://bucket/{prefix}")})
    assert complaint(run, POOLS, DEFAULTS) is None


@pytest.mark.parametrize("over", [0, 1, 40])
def test_a_destination_that_leaves_no_room_for_the_names_of_files_is_refused(over):
    namespace, name, uid = "n" * 63, "r" * 52, "u" * 36
    destination = f"s3://bucket/{'p' * (864 - len(f'/{namespace}/{name}/{uid}/') + over)}"
    spec = {"checkpoint": checkpoint_spec(destination=destination)}
    run = make_run(spec=spec, namespace=namespace, name=name, uid=uid)
    problem = complaint(run, POOLS, DEFAULTS)
    assert (problem is None) == (over == 0)
    if problem is not None:
        assert problem.reason == "InvalidDestination"
        assert destination in problem.message
        assert problem.message.endswith(
            f": the keys of this run begin with {864 + over} bytes, and at most 864 of the 1024 of a key leave room for the names of files."
            f" Shorten it by {over}."
        )


def test_the_longest_destination_leaves_room_for_every_file():
    layout = Layout("bucket", "p" * (1024 - 160 - 1) + "/")
    folder = layout.folder(1023, Order(9999, 99_999), "p" * 63)
    assert len(to_key(folder, "x" * 2000).encode()) <= 1024
    assert len(layout.manifest(1023, Order(9999, 99_999), "p" * 63).encode()) <= 1024


def test_what_is_not_uploaded_needs_no_destination_that_is_allowed():
    run = make_run(spec={"checkpoint": {"mode": "Disabled"}})
    assert complaint(run, POOLS, Defaults(allowed_destinations=destinations_of([{"bucket": "elsewhere"}]))) is None


def test_a_pool_is_looked_for_again():
    run = make_run(spec={"nodePool": {"ref": "b200"}})
    problem = complaint(run, (), DEFAULTS)
    assert problem is not None
    assert "(there is: none)" in problem.message
    assert decide(make_observed(run=run, workload=None, pods=(), agent=None, pools=())).again_seconds == 10


@pytest.mark.parametrize(
    ("permanent", "again"),
    [
        pytest.param(True, None, id="what only the person can change waits for the person"),
        pytest.param(False, 10, id="what may pass by itself is looked at again"),
    ],
)
def test_a_problem_found_on_the_way_creates_nothing(permanent, again):
    problem = Problem("SecretNotFound", "There is no such Secret.", permanent)
    decision = decide(make_observed(workload=None, pods=(), agent=None, problem=problem))
    assert (decision.effects, decision.again_seconds, decision.note) == ((), again, problem.message)


def test_a_job_that_exists_is_not_refused_any_more():
    seen = make_observed(run=make_run(spec={"nodePool": {"ref": "b200"}}), pods=(pending_pod(),))
    assert decide(seen).note == "watching"


# -- the operator's own volumes -------------------------------------------------------------------------------------

KINDS = {"containers": "container", "initContainers": "init container", "ephemeralContainers": "ephemeral container"}
SIDECAR = {"name": "sneaky", "image": "x", "restartPolicy": "Always"}


def with_container(field, added):
    others = [TRAIN] if field == "containers" else []
    return of(**{field: [*others, added]})


@pytest.mark.parametrize("volume", sorted(names.OWN_VOLUMES))
@pytest.mark.parametrize(
    ("uses", "one"),
    [
        pytest.param("volumeMounts", {"mountPath": "/k"}, id="a mount"),
        pytest.param("volumeMounts", {"mountPath": "/checkpoints", "readOnly": True}, id="a mount at the checkpoint path"),
        pytest.param("volumeMounts", {"mountPath": "/k", "subPath": "AWS_SECRET_ACCESS_KEY"}, id="a mount of one file"),
        pytest.param("volumeDevices", {"devicePath": "/dev/x"}, id="a device"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("field", KINDS)
def test_a_container_that_uses_a_volume_of_the_operator_is_refused(field, uses, one, volume):
    own = {"name": "data", "mountPath": "/data", "devicePath": "/dev/data"}
    added = SIDECAR | {uses: [own, {"name": volume, **one}]}
    problem = complaint(make_run(spec=with_container(field, added)), POOLS, DEFAULTS)
    assert problem is not None
    assert (problem.reason, problem.permanent) == ("InvalidTemplate", True)
    said = (
        f"spec.template.spec.{field}: {KINDS[field]} 'sneaky' has {volume!r} in {uses}, a volume that the operator adds"
    )
    assert problem.message.startswith(said)


@pytest.mark.parametrize("volume", sorted(names.OWN_VOLUMES))
def test_a_volume_with_a_name_of_the_operator_is_refused(volume):
    spec = of(volumes=[{"name": "data", "emptyDir": {}}, {"name": volume, "emptyDir": {}}])
    problem = complaint(make_run(spec=spec), POOLS, DEFAULTS)
    said = f"spec.template.spec.volumes: the name {volume!r} is reserved for the operator. Choose another."
    assert problem == Problem("InvalidTemplate", said)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/var/run/trainingrun/s3", id="the Secret's folder"),
        pytest.param("/var/run/trainingrun/s3/x", id="in the Secret's folder"),
        pytest.param("/var/run/trainingrun/control", id="the control folder"),
        pytest.param("/var/run/trainingrun/ours", id="another folder beside them"),
        pytest.param("/var/run/trainingrun", id="around them"),
        pytest.param("/var/run", id="further around them"),
        pytest.param("/var/", id="with a slash at its end"),
        pytest.param("//", id="the root"),
        pytest.param("/run/trainingrun/s3", id="by way of the link /var/run"),
        pytest.param("/run", id="around them, by way of the link"),
        pytest.param("//var//run/trainingrun", id="with slashes"),
        pytest.param("/checkpoints/../var/run/./trainingrun/s3", id="with dots"),
        pytest.param("/..", id="above the root"),
    ],
)
def test_a_checkpoint_path_that_reaches_the_operators_mounts_is_refused(path):
    spec = {"checkpoint": checkpoint_spec(path=path)}
    problem = complaint(make_run(spec=spec), POOLS, DEFAULTS)
    said = f"spec.checkpoint.path is {path!r}: the operator mounts its own volumes in /var/run/trainingrun."
    assert problem is not None
    assert (problem.reason, problem.message) == (
        "InvalidTemplate",
        f"{said} Choose a folder outside of it, such as /checkpoints.",
    )


@pytest.mark.parametrize("at", ["/var", "/var/", "/", "//var/./"])
def test_a_volume_of_the_checkpoints_around_the_operators_mounts_is_refused(at):
    mounts = [{"name": "data", "mountPath": at}]
    spec = {**container(volumeMounts=mounts), "checkpoint": checkpoint_spec(path="/var/checkpoints")}
    problem = complaint(make_run(spec=spec), POOLS, DEFAULTS)
    assert problem is not None
    said = f"spec.template.spec.containers: 'train' mounts the volume of spec.checkpoint.path at {at!r}"
    assert problem.message.startswith(said)


@pytest.mark.parametrize(
    ("path", "mounts"),
    [
        pytest.param("/var/run/trainingrun-of-mine", [], id="a name that only begins alike"),
        pytest.param("/var/runs", [], id="another folder of /var"),
        pytest.param("/runs", [], id="another folder of the root"),
        pytest.param("/data/var/run/trainingrun", [], id="the same names elsewhere"),
        pytest.param("/var/data/x", ["/var", "/var/data"], id="the nearest mount is apart"),
        pytest.param("/data", ["/var"], id="the mount around is not the checkpoints'"),
    ],
)
def test_a_checkpoint_path_beside_the_operators_mounts_is_accepted(path, mounts):
    written = [{"name": f"v{number}", "mountPath": at} for number, at in enumerate(mounts)]
    spec = {**container(volumeMounts=written), "checkpoint": checkpoint_spec(path=path)}
    assert complaint(make_run(spec=spec), POOLS, DEFAULTS) is None


# -- patterns ---------------------------------------------------------------------------------------------------


BROKEN = {"crash": {"fatalLogPatterns": ["CUDA error", "a(?=b)"]}}


@pytest.mark.parametrize(
    "pattern", ["(", "a(?=b)", r"(a)\1", "(?:a?){500}b", r"\pL{200}x", "a{1001}", ".*", "OOM|", "(?i)(cuda)?", "^$"]
)
def test_a_pattern_that_cannot_be_searched_for_is_refused(pattern):
    said = complaint(make_run(spec={"crash": {"fatalLogPatterns": ["CUDA error", pattern]}}), POOLS, DEFAULTS)
    assert said is not None
    assert (said.reason, said.permanent) == ("InvalidPattern", True)
    assert said.message.startswith(f"spec.crash.fatalLogPatterns[1] is {pattern!r}, ")


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        ("loss=(?P<loss>[", "missing"),
        ("loss=([0-9.]+)", "no group named loss or step"),
        ("(?P<accuracy>[0-9.]+)", "no group named loss or step"),
        (r"train (?P<loss>\S+)|ce (?P<loss>\S+)", "more than one group named loss"),
    ],
)
def test_a_pattern_that_takes_no_loss_and_no_step_from_a_log_is_refused(pattern, why):
    written = [r"step (?P<step>\d+)", r"(?P<loss>\S+)", pattern]
    said = complaint(make_run(spec={"metrics": {"logs": {"patterns": written}}}), POOLS, DEFAULTS)
    assert said is not None
    assert (said.reason, said.permanent) == ("InvalidPattern", True)
    assert said.message.startswith(f"spec.metrics.logs.patterns[2] is {pattern!r}, ")
    assert why in said.message


@pytest.mark.parametrize(
    ("pattern", "why"), [("DONE (", "missing )"), ("(?:a?){500}b", "too large"), (".*", "an empty line")]
)
def test_a_pattern_that_tells_no_line_from_others_is_refused(pattern, why):
    said = complaint(make_run(spec={"completion": {"logPatterns": ["^DONE$", pattern]}}), POOLS, DEFAULTS)
    assert said is not None
    assert (said.reason, said.permanent) == ("InvalidPattern", True)
    assert said.message.startswith(f"spec.completion.logPatterns[1] is {pattern!r}, ")
    assert why in said.message


def test_a_run_that_trains_says_that_it_has_been_given_a_wrong_pattern_and_goes_on():
    seen = make_observed(run=make_run(spec=BROKEN))
    accepted = render(seen).condition("Accepted")
    assert accepted is not None
    assert (accepted.status, accepted.reason) == ("False", "InvalidPattern")
    assert decide(seen).note == "watching"


def test_a_run_that_ends_is_not_refused_for_a_pattern():
    accepted = render(stopping_at(Phase.SAVING, spec=BROKEN)).condition("Accepted")
    assert accepted is not None
    assert accepted.status == "True"
