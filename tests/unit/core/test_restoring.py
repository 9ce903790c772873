"""`spec.checkpoint.restoreFrom`: what a run may start from, said before a request is made."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from builders import BASE, NAME, NAMESPACE, RUN_UID, checkpoint_spec, make_commit, make_observed, make_run
from pydantic import ValidationError

from trainingrun_operator.api.run import TrainingRunSpec
from trainingrun_operator.checkpoints.documents import Checkpoint, RankManifest
from trainingrun_operator.core import acceptance, manifests, restoring
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.defaults import Defaults
from trainingrun_operator.core.destinations import destinations_of
from trainingrun_operator.core.effects import CreateWorkload
from trainingrun_operator.core.facts.run import Problem
from trainingrun_operator.core.restoring import Origin

UID = "6f2a1c9e-0000-4000-8000-00000000000b"
MINIO = "https://minio.storage.svc:9000"
GRANT = {"restoreFrom": ["vision-*"]}
GENERATION = "r0/i2-g0007-bert-1-x7k2p"


def wanting(endpoint: str = "", **restore_from):
    s3 = {"credentialsSecretName": "s3-credentials", "endpointURL": endpoint, "region": "eu-west-1"}
    return make_run(spec={"checkpoint": checkpoint_spec(s3=s3, restoreFrom=restore_from)})


def another(namespace: str = NAMESPACE, name: str = "bert-1", **checkpoint):
    run = make_run(spec={"checkpoint": checkpoint_spec(**checkpoint)})
    return replace(run, namespace=namespace, name=name, uid=UID)


def folder(namespace: str = NAMESPACE, bucket: str = "bucket", prefix: str = "runs") -> str:
    return f"s3://{bucket}/{prefix}/{namespace}/bert-1/{UID}"


def found(run, *listed, other=None) -> Origin | Problem | None:
    """What acceptance says, then what the lookup says."""
    list_ = destinations_of(listed)
    return restoring.complaint(run, list_) or restoring.resolved(run, other, list_)


# -- what is accepted -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "listed", "other", "origin"),
    [
        pytest.param(wanting(run="bert-1"), [], another(), Origin(NAMESPACE, "bert-1", UID, "s3://bucket/runs"), id="a run of its own namespace"),
        pytest.param(wanting(run="bert-1", namespace=NAMESPACE), [], another(), Origin(NAMESPACE, "bert-1", UID, "s3://bucket/runs"), id="its own namespace by name"),
        pytest.param(wanting(run="bert-1"), [], another(destination="s3://elsewhere"), Origin(NAMESPACE, "bert-1", UID, "s3://elsewhere"), id="without a list any bucket of AWS"),
        pytest.param(wanting(run=NAME, namespace="vision-a"), [GRANT], another("vision-a", NAME), Origin("vision-a", NAME, UID, "s3://bucket/runs"), id="a namespace that is granted, a run of its own name"),
        pytest.param(wanting(run="bert-1", namespace="vision-a"), [{}, {"prefix": "runs/vision-a", **GRANT}], another("vision-a"), Origin("vision-a", "bert-1", UID, "s3://bucket/runs"), id="the granted place alone"),
        pytest.param(wanting(run="bert-1"), [{"expectedBucketOwner": "123456789012"}], another(), Origin(NAMESPACE, "bert-1", UID, "s3://bucket/runs", expected_bucket_owner="123456789012"), id="of a bucket with an owner"),
        pytest.param(wanting(uri=folder()), [], None, Origin(NAMESPACE, "bert-1", UID, "s3://bucket/runs", region="eu-west-1"), id="a folder of its own namespace"),
        pytest.param(wanting(uri=f"{folder(prefix='a/b')}/"), [], None, Origin(NAMESPACE, "bert-1", UID, "s3://bucket/a/b", region="eu-west-1"), id="with a slash at its end"),
        pytest.param(wanting(uri=f"s3://bucket/{NAMESPACE}/bert-1/{UID}"), [], None, Origin(NAMESPACE, "bert-1", UID, "s3://bucket", region="eu-west-1"), id="without a prefix"),
        pytest.param(wanting(uri=folder("vision-a")), [GRANT], None, Origin("vision-a", "bert-1", UID, "s3://bucket/runs", region="eu-west-1"), id="a folder of a granted namespace"),
        pytest.param(wanting(uri=f"{folder()}/{GENERATION}/checkpoint-1200/"), [], None, Origin(NAMESPACE, "bert-1", UID, "s3://bucket/runs", region="eu-west-1", generation=GENERATION), id="one checkpoint, as its status names it"),
        pytest.param(wanting(uri=f"{folder()}/{GENERATION}"), [], None, Origin(NAMESPACE, "bert-1", UID, "s3://bucket/runs", region="eu-west-1", generation=GENERATION), id="one generation"),
        pytest.param(wanting(MINIO, uri=folder()), [{"endpoint": MINIO}], None, Origin(NAMESPACE, "bert-1", UID, "s3://bucket/runs", MINIO, "eu-west-1"), id="a folder on the run's own server"),
    ],
)  # fmt: skip
def test_a_run_starts_from(run, listed, other, origin):
    assert found(run, *listed, other=other) == origin


def test_a_run_without_the_field_starts_from_no_other():
    assert found(make_run()) is None
    assert restoring.named(make_run()) is None
    assert not restoring.is_wanted(make_run())


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "listed", "words"),
    [
        pytest.param(wanting(run=NAME), [], f"restoreFrom.run is '{NAME}', which is this run", id="itself"),
        pytest.param(wanting(run=NAME, namespace=NAMESPACE), [], "which is this run", id="itself with its namespace"),
        pytest.param(wanting(uri=f"s3://bucket/{BASE}"), [], "which is this run", id="its own folder"),
        pytest.param(wanting(run="bert-1", namespace="vision-a"), [], "may not start from checkpoints of namespace vision-a", id="another namespace without a list"),
        pytest.param(wanting(run="bert-1", namespace="vision-a"), [{}], "to restoreFrom of an item of allowedDestinations", id="another namespace that no item grants"),
        pytest.param(wanting(run="bert-1", namespace="audio"), [GRANT], "of namespace audio", id="a namespace that is not the granted one"),
        pytest.param(wanting(run="bert-1", namespace="vision-a"), [{"namespaces": ["audio"], **GRANT}], "of namespace vision-a", id="a grant for other runs"),
        pytest.param(wanting(uri=folder("vision-a")), [{}], "of namespace vision-a", id="the folder of a namespace that no item grants"),
        pytest.param(wanting(uri=folder("vision-a")), [{}, {"bucket": "other", **GRANT}], "may not read there. They may read: s3://other at AWS. No request was made", id="another bucket than the granted one"),
        pytest.param(wanting(uri=folder("vision-a")), [{"prefix": "runs"}, {"prefix": "run", **GRANT}], "may not read there", id="a prefix that only begins alike"),
        pytest.param(wanting(uri=folder(bucket="foreign")), [{"bucket": "bucket"}], "may not read there. They may read: s3://bucket at AWS", id="a foreign bucket"),
        pytest.param(wanting(uri=folder(prefix="foreign")), [{"prefix": "runs"}], "may not read there", id="a foreign prefix"),
        pytest.param(wanting(MINIO, uri=folder()), [{"endpoint": MINIO, "prefix": "other"}], "may not read there", id="a foreign prefix of a server of its own"),
        pytest.param(wanting("https://x.example", uri=folder()), [{"endpoint": f"https://{name}.example"} for name in "abcdef"], "and 2 more. No request", id="a server that is none of many"),
        pytest.param(wanting("http://user@x", uri=folder()), [], "may not read there", id="no server at all"),
        pytest.param(wanting(uri="s3://bucket/model"), [], "does not have the form s3://bucket/prefix/namespace/run/uid", id="no folder of a run"),
        pytest.param(wanting(uri=f"s3://bucket/runs/../{NAMESPACE}/bert-1/{UID}"), [], "has an empty, '.' or '..' segment", id="a way out by dots"),
        *(
            pytest.param(wanting(uri=folder(prefix=prefix)), [], words, id=f"a prefix of {prefix!r}")
            for prefix, words in (
                (".", "has an empty, '.' or '..' segment: remove it"),
                ("a/../b", "has an empty, '.' or '..' segment: remove it"),
                ("%2e%2e", "has '%' in its prefix: use letters, digits"),
                ("a\\..", r"has '\\' in its prefix: use letters, digits"),
                ("a\x00", r"has '\x00' in its prefix: use letters, digits"),
                ("\uff0e\uff0e", "has '\uff0e' in its prefix: use letters, digits"),
                ("a//b", "uri is 's3://bucket/a//b/"),
            )
        ),
        *(
            pytest.param(wanting(uri=f"{folder()}{tail}"), [], "does not have the form s3://bucket/prefix/namespace/run/uid", id=f"with {tail!r} behind it")
            for tail in ("/..", "/../x", "//", "/%2e%2e", "\\", "\x00", "/r\u0661/i1-g0001-x", "?versionId=1")
        ),
        pytest.param(wanting(uri=f"{folder()}/../vision/resnet/{UID}"), [], "has an empty, '.' or '..' segment: remove it", id="a way out by dots, into another folder"),
        pytest.param(wanting(uri=folder(bucket="runs--usw2-az1--x-s3")), [], "is the name of a directory bucket", id="a directory bucket"),
        pytest.param(wanting(uri=f"s3://bucket/runs/{NAMESPACE}/bert-1/{UID}/commits/i1-g0001.json"), [], "uri is", id="a commit's address"),
    ],
)  # fmt: skip
def test_a_run_is_refused_before_anything_is_asked(run, listed, words):
    problem = restoring.complaint(run, destinations_of(listed))
    assert isinstance(problem, Problem)
    assert words in problem.message
    assert problem.message.startswith("spec.checkpoint.restoreFrom")
    assert problem.permanent


@pytest.mark.parametrize(
    ("other", "listed", "words", "permanent"),
    [
        pytest.param(None, [], "there is no such TrainingRun", False, id="no such run"),
        pytest.param(another(mode="Disabled"), [], "saves no checkpoints", True, id="it saves nothing"),
        pytest.param(another(destination="s3://bucket/a//b"), [], "is not valid", False, id="its destination is not valid"),
        pytest.param(another(destination="s3://runs--usw2-az1--x-s3"), [], "is not valid", False, id="it saves to a directory bucket"),
        pytest.param(another(destination="s3://foreign/runs"), [{"bucket": "bucket"}], "may not read there", True, id="it saves to a foreign bucket"),
        pytest.param(another(s3={"endpointURL": MINIO, "credentialsSecretName": "x"}), [], "may not read there", True, id="it saves to a foreign server"),
    ],
)  # fmt: skip
def test_a_run_that_cannot_be_started_from_is_named_with_the_reason(other, listed, words, permanent):
    problem = found(wanting(run="bert-1"), *listed, other=other)
    assert isinstance(problem, Problem)
    assert words in problem.message
    assert "'bert-1' of namespace ml" in problem.message
    assert problem.permanent is permanent


PROVES = {"bucket": "bucket", "prefix": "runs", "identity": "operator"}


def without_secret(**restore_from):
    return make_run(spec={"checkpoint": checkpoint_spec(s3={"credentialsSecretName": ""}, restoreFrom=restore_from)})


@pytest.mark.parametrize(
    ("run", "listed", "other"),
    [
        pytest.param(without_secret(uri=folder(bucket="foreign")), [PROVES, {}], None, id="a bucket that an item allows only with a Secret"),
        pytest.param(without_secret(uri=folder(prefix="other")), [PROVES, {"bucket": "bucket"}], None, id="a prefix that an item allows only with a Secret"),
        pytest.param(without_secret(run="bert-1"), [PROVES, {"endpoint": MINIO}], another(s3={"endpointURL": MINIO, "credentialsSecretName": "x"}), id="the other run's own server"),
        pytest.param(without_secret(run="bert-1"), [PROVES, {"endpoint": "https://*.storage.svc:*"}], another(s3={"endpointURL": MINIO, "credentialsSecretName": "x"}), id="a server whose name a tenant may own"),
        pytest.param(without_secret(uri=folder("vision-a")), [PROVES, GRANT], None, id="a namespace that an item grants only with a Secret"),
    ],
)  # fmt: skip
def test_without_a_secret_the_operator_reads_another_run_only_where_the_list_lets_its_identity(run, listed, other):
    problem = found(run, *listed, other=other)
    assert isinstance(problem, Problem)
    assert problem.reason == "RestoreNotAllowed"
    assert "with its own identity. No request was made" in problem.message
    with_secret = make_run(spec={"checkpoint": checkpoint_spec(restoreFrom=run.spec.checkpoint.restore_from.dump())})
    assert isinstance(found(with_secret, *listed, other=other), Origin)


def test_without_a_secret_the_owner_is_that_of_the_item_that_lets_the_operators_identity():
    listed = [{"expectedBucketOwner": "111111111111"}, PROVES | {"expectedBucketOwner": "222222222222"}]
    origin = found(without_secret(run="bert-1"), *listed, other=another())
    assert isinstance(origin, Origin)
    assert origin.expected_bucket_owner == "222222222222"


def test_acceptance_refuses_it_with_the_same_words():
    run = wanting(run="bert-1", namespace="vision-a")
    problem = acceptance.complaint(run, (), Defaults())
    assert problem == restoring.complaint(run, ())
    assert problem is not None
    assert problem.reason == "RestoreNotAllowed"


@pytest.mark.parametrize(
    "written",
    [{"namespace": ""}, {"run": ""}, {"run": "a/b"}, {"uri": "http://bucket/x"}, {"uri": "s3://bucket"}],
    ids=str,
)
def test_a_field_that_cannot_be_meant_is_no_spec(written):
    spec = {"template": {}, "checkpoint": checkpoint_spec(restoreFrom=written)}
    with pytest.raises(ValidationError, match="restoreFrom"):
        TrainingRunSpec.parse(spec)


# -- what the Job gets ----------------------------------------------------------------------------------------------

ORIGIN = Origin("vision-a", "bert-1", UID, "s3://bucket/runs", MINIO, "eu-west-1", GENERATION, "123456789012")


def test_restore_and_agent_get_the_origin():
    job = manifests.job(wanting(run="bert-1"), Defaults(), ORIGIN)
    for container in job["spec"]["template"]["spec"]["initContainers"][:2]:
        (config,) = (one["value"] for one in container["env"] if one["name"] == "TRAININGRUN_AGENT_CONFIG")
        assert json.loads(config)["restoreFrom"] == {
            "destination": "s3://bucket/runs",
            "namespace": "vision-a",
            "run": "bert-1",
            "runUid": UID,
            "folder": f"runs/vision-a/bert-1/{UID}/{GENERATION}/",
            "endpointUrl": MINIO,
            "requesterPays": False,
            "region": "eu-west-1",
            "expectedBucketOwner": "123456789012",
        }


def test_no_job_is_created_before_the_origin_is_known():
    seen = make_observed(run=wanting(run="bert-1"), workload=None, pods=(), agent=None)
    assert not [one for one in decide(seen).effects if isinstance(one, CreateWorkload)]
    (made,) = (one for one in decide(replace(seen, origin=ORIGIN)).effects if isinstance(one, CreateWorkload))
    assert made.manifest == manifests.job(seen.run, seen.defaults, ORIGIN)


@pytest.mark.parametrize(
    ("commit", "does"),
    [
        pytest.param({}, True, id="a whole checkpoint"),
        pytest.param({"checkpoint": None}, False, id="no checkpoint"),
        pytest.param({"checkpoint": Checkpoint(dir="c", complete=False, evidence="")}, False, id="half a checkpoint"),
        pytest.param({"total_files": 0}, False, id="no file"),
    ],
)
def test_a_commit_will_do(commit, does):
    assert replace(ORIGIN, generation="").will_do(make_commit(**commit)) is does


def test_only_the_named_generation_will_do():
    named = RankManifest(rank=0, incarnation=2, key=f"{ORIGIN.folder.rstrip('/')}.manifest.json", sha256="0")
    assert ORIGIN.will_do(make_commit(ranks=(named,)))
    assert not ORIGIN.will_do(make_commit(ranks=(named.model_copy(update={"key": "other"}),)))


@pytest.mark.parametrize(
    ("generation", "why", "words"),
    [
        pytest.param("", "", "there is no commit of a complete checkpoint", id="none"),
        pytest.param(
            GENERATION, "", f"{GENERATION}/, and there is no commit of that checkpoint", id="not the named one"
        ),
        pytest.param(
            "", "its checkpoints do not verify: x", "and its checkpoints do not verify: x", id="none that verifies"
        ),
    ],
)
def test_a_place_without_a_checkpoint_is_named_and_looked_at_again(generation, why, words):
    problem = restoring.nothing_there(wanting(run="bert-1"), replace(ORIGIN, generation=generation), why)
    assert words in problem.message
    assert (problem.reason, problem.permanent) == ("NothingToRestore", False)
    assert RUN_UID not in problem.message
