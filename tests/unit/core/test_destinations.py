"""Where runs may send their checkpoints: nothing but what the administrator listed, and never where a cloud hands out credentials."""

from __future__ import annotations

import pytest
from builders import NAMESPACE, checkpoint_spec, make_run

from trainingrun_operator.core.destinations import Destination, allowed, destinations_of
from trainingrun_operator.core.facts.run import Problem

MINIO = "https://minio.storage.svc:9000"


def run_to(destination="s3://bucket/runs", endpoint="", namespace=NAMESPACE):
    s3 = {"credentialsSecretName": "s3-credentials", "endpointURL": endpoint}
    return make_run(spec={"checkpoint": checkpoint_spec(destination=destination, s3=s3)}, namespace=namespace)


def answer(*listed, **run):
    return allowed(run_to(**run), destinations_of(listed))


# -- the list -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listed", "run"),
    [
        pytest.param([], {}, id="without a list any bucket of AWS"),
        pytest.param([{}], {}, id="an item of nothing is any bucket of AWS"),
        pytest.param([{"bucket": "bucket"}], {}, id="the bucket alone"),
        pytest.param([{"prefix": "runs"}], {}, id="the prefix itself"),
        pytest.param([{"prefix": "/runs/vision/"}], {"destination": "s3://bucket/runs/vision/a"}, id="below the prefix"),
        pytest.param([{"namespaces": ["other", NAMESPACE]}], {}, id="one of the namespaces"),
        pytest.param([{"namespaces": ["m*"]}], {}, id="a namespace by its beginning"),
        pytest.param([{"bucket": "other"}, {"bucket": "bucket"}], {}, id="the second item"),
        pytest.param([{"endpoint": MINIO}], {"endpoint": MINIO}, id="the server as it was listed"),
        pytest.param([{"endpoint": MINIO}], {"endpoint": "https://Minio.Storage.svc:9000/"}, id="the server in another spelling"),
        pytest.param([{"endpoint": "https://s3.svc:443"}], {"endpoint": "https://s3.svc"}, id="https has port 443"),
        pytest.param([{"endpoint": "http://s3.svc"}], {"endpoint": "http://s3.svc:80"}, id="http has port 80"),
        pytest.param([{"endpoint": "https://*.storage.svc:*"}], {"endpoint": MINIO}, id="one part of the name and any port"),
        pytest.param([{"endpoint": "https://s3.svc/storage/v1"}], {"endpoint": "https://s3.svc/storage/v1/"}, id="a server with a path"),
        pytest.param([{"endpoint": "https://[fd12::7]:9000"}], {"endpoint": "https://[fd12::7]:9000"}, id="an IPv6 address"),
    ],
)  # fmt: skip
def test_allowed(listed, run):
    found = answer(*listed, **run)
    assert isinstance(found, Destination)


@pytest.mark.parametrize(
    ("listed", "run"),
    [
        pytest.param([], {"endpoint": MINIO}, id="without a list any other server"),
        pytest.param([{}], {"endpoint": MINIO}, id="AWS is listed, the server is not"),
        pytest.param([{"endpoint": MINIO}], {}, id="a server is listed, AWS is not"),
        pytest.param([{"bucket": "other"}], {}, id="another bucket"),
        pytest.param([{"prefix": "runs"}], {"destination": "s3://bucket/runs-of-others"}, id="a prefix that only begins alike"),
        pytest.param([{"prefix": "runs/vision"}], {"destination": "s3://bucket/runs"}, id="above the prefix"),
        pytest.param([{"namespaces": ["vision"]}], {}, id="another tenant's"),
        pytest.param([{"namespaces": ["vision"], "prefix": "vision"}, {"namespaces": ["m*"], "prefix": "ml"}], {"destination": "s3://bucket/vision/ml"}, id="another tenant's prefix"),
        pytest.param([{"endpoint": MINIO, "bucket": "a"}, {"bucket": "bucket"}], {"endpoint": MINIO}, id="the server of one item, the bucket of another"),
        pytest.param([{"endpoint": MINIO}], {"endpoint": "http://minio.storage.svc:9000"}, id="without TLS"),
        pytest.param([{"endpoint": MINIO}], {"endpoint": "https://minio.storage.svc"}, id="another port"),
        pytest.param([{"endpoint": MINIO}], {"endpoint": f"{MINIO}/admin"}, id="a path of that server"),
        pytest.param([{"endpoint": MINIO}], {"endpoint": f"{MINIO}.evil.example"}, id="a name that only begins alike"),
        pytest.param([{"endpoint": MINIO}], {"endpoint": "https://minio.storage.svc:9000@evil.example"}, id="the server as a user's name"),
        pytest.param([{"endpoint": MINIO}], {"endpoint": "https://evil.example#minio.storage.svc:9000"}, id="the server as a fragment"),
        pytest.param([{"endpoint": MINIO}], {"endpoint": "https://evil.example\\@minio.storage.svc:9000"}, id="an address that is read in two ways"),
        pytest.param([{"endpoint": "https://*.storage.svc:*"}], {"endpoint": "https://storage.svc"}, id="nothing for the star"),
        pytest.param([{"endpoint": "https://*.storage.svc:*"}], {"endpoint": "https://a.b.storage.svc"}, id="two parts for the star"),
        pytest.param([{"endpoint": "https://*.storage.svc:*"}], {"endpoint": "https://*.storage.svc:*"}, id="a star of the run's own"),
        pytest.param([{"endpoint": "https://*.storage.svc:*"}], {"endpoint": "https://a.storage.svc:*"}, id="a port of the run's own star"),
    ],
)  # fmt: skip
def test_not_allowed(listed, run):
    found = answer(*listed, **run)
    assert isinstance(found, Problem)
    assert (found.reason, found.permanent) == ("DestinationNotAllowed", True)


@pytest.mark.parametrize(
    ("listed", "run", "message"),
    [
        pytest.param(
            [],
            {"endpoint": "http://169.254.169.254"},
            "spec.checkpoint.s3.endpointURL is 'http://169.254.169.254', which runs of namespace ml may not use. They may use: any bucket at AWS."
            " No request was made. Change it, or ask the operator's administrator to add it to allowedDestinations.",
            id="a server",
        ),
        pytest.param(
            [{"endpoint": MINIO, "bucket": "b", "prefix": "/a/"}],
            {"endpoint": MINIO},
            f"spec.checkpoint.destination is 's3://bucket/runs', which runs of namespace ml may not use. They may use: s3://b/a at {MINIO}."
            " No request was made. Change it, or ask the operator's administrator to add it to allowedDestinations.",
            id="a destination on a server that is allowed",
        ),
        pytest.param(
            [{"endpoint": MINIO}, *({"bucket": f"b{i}"} for i in range(5)), {"namespaces": ["x"], "bucket": "secret"}],
            {},
            "spec.checkpoint.destination is 's3://bucket/runs', which runs of namespace ml may not use. They may use:"
            f" any bucket at {MINIO}; s3://b0 at AWS; s3://b1 at AWS; s3://b2 at AWS and 2 more."
            " No request was made. Change it, or ask the operator's administrator to add it to allowedDestinations.",
            id="a long list is cut, and what is others' is not told",
        ),
        pytest.param(
            [{"namespaces": ["x"]}],
            {},
            "spec.checkpoint.destination is 's3://bucket/runs', which runs of namespace ml may not use. They may use: nothing."
            " No request was made. Change it, or ask the operator's administrator to add it to allowedDestinations.",
            id="nothing at all",
        ),
    ],
)
def test_who_is_refused_is_told_the_value_and_what_to_do(listed, run, message):
    found = answer(*listed, **run)
    assert isinstance(found, Problem)
    assert found.message == message


def test_the_owner_of_the_bucket_comes_with_the_entry():
    found = answer({"expectedBucketOwner": "123456789012"})
    assert isinstance(found, Destination)
    assert found.expected_bucket_owner == "123456789012"


# -- what an administrator writes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "complaint"),
    [
        pytest.param({"buckets": "b"}, "item 0: buckets is 'b': extra inputs are not permitted", id="a key that does not exist"),
        pytest.param("b", "item 0: an item is 'b': input should be a valid dictionary or instance of _entry", id="an item that is none"),
        pytest.param({"namespaces": []}, "item 0: namespaces is []: tuple should have at least 1 item after validation, not 0", id="no namespace at all"),
        pytest.param({"identity": "agent"}, "item 0: identity is 'agent': string should match pattern '^(operator)?$'", id="an identity that does not exist"),
        pytest.param({"identity": "operator", "endpoint": "https://*.storage.svc"}, "item 0: identity is 'operator' and endpoint is 'https://*.storage.svc': the operator signs with its own identity for named servers only, so write the endpoint without *", id="an identity for servers whose names others choose"),
        pytest.param({"identity": "operator", "endpoint": "https://s3.svc:*"}, "item 0: identity is 'operator' and endpoint is 'https://s3.svc:*': the operator signs with its own identity for named servers only, so write the endpoint without *", id="an identity for servers at any port"),
        pytest.param({"expectedBucketOwner": "me"}, "item 0: expectedBucketOwner is 'me': string should match pattern '^(\\d{12})?$'", id="an owner that is no account"),
        pytest.param({"endpoint": "minio:9000"}, "item 0: 'minio:9000' does not have the form https://host[:port][/path]", id="an endpoint without a scheme"),
        pytest.param({"endpoint": "https://*"}, "item 0: endpoint is 'https://*': a * stands for the whole first part of a name with at least two more, as in https://*.s3.svc", id="every server"),
        pytest.param({"endpoint": "https://*.svc"}, "item 0: endpoint is 'https://*.svc': a * stands for the whole first part of a name with at least two more, as in https://*.s3.svc", id="every server of a domain"),
        pytest.param({"endpoint": "https://s3-*.storage.svc"}, "item 0: endpoint is 'https://s3-*.storage.svc': a * stands for the whole first part of a name with at least two more, as in https://*.s3.svc", id="a part of a part"),
        pytest.param({"endpoint": "https://*.*.storage.svc"}, "item 0: endpoint is 'https://*.*.storage.svc': a * stands for the whole first part of a name with at least two more, as in https://*.s3.svc", id="two stars"),
        pytest.param({"endpoint": "http://169.254.169.254"}, "item 0: endpoint is 'http://169.254.169.254': the cloud serves credentials at this address, so no run may use it", id="a metadata service"),
    ],
)  # fmt: skip
def test_an_item_that_cannot_be_meant_is_refused(item, complaint):
    with pytest.raises(ValueError, match="item 0") as refusal:
        destinations_of([item])
    assert str(refusal.value) == complaint


# -- the operator's own identity ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("secret", "listed", "taken"),
    [
        pytest.param("", [{"identity": "operator"}], 0, id="the item that grants it"),
        pytest.param("", [{}, {"bucket": "bucket", "identity": "operator"}], 1, id="an item that grants it, though an earlier one allows the bucket"),
        pytest.param("", [{}, {"bucket": "other", "identity": "operator"}], 0, id="none grants it for this bucket"),
        pytest.param("", [{}, {"namespaces": ["other"], "identity": "operator"}], 0, id="none grants it for this namespace"),
        pytest.param("keys", [{}, {"identity": "operator"}], 0, id="a run with a Secret takes the first"),
    ],
)  # fmt: skip
def test_a_run_without_a_secret_takes_the_item_that_lets_the_operator_prove(secret, listed, taken):
    s3 = {"credentialsSecretName": secret} if secret else {}
    run = make_run(spec={"checkpoint": checkpoint_spec(s3=s3)})
    known = destinations_of(listed)
    assert allowed(run, known) is known[taken]


def test_without_a_list_nobody_reads_with_the_operators_identity():
    found = allowed(make_run(spec={"checkpoint": checkpoint_spec(s3={})}), ())
    assert isinstance(found, Destination)
    assert not found.operator_proves
