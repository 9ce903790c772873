"""What kubectl says when it fails, as sentences that say what to do."""

from __future__ import annotations

import pytest

from trainingrun_operator.cli.trouble import Exit, kubectl_failed

FORBIDDEN = (
    'Error from server (Forbidden): trainingruns.trainingrun.dev "bert" is forbidden: User "eve" cannot patch resource "trainingruns"'
    ' in API group "trainingrun.dev" in the namespace "ml"'
)
POLICY = (
    "Error from server (Forbidden): trainingruns.trainingrun.dev \"bert\" is forbidden: ValidatingAdmissionPolicy 'trainingrun-operator-runs' with binding"
    " 'trainingrun-operator-runs' denied request: spec.stoppedBy is ada, but you are eve: write your own name, or leave it out."
)
INVALID = 'The TrainingRun "bert" is invalid: spec: Invalid value: "object": spec.stop is final: a stopped run does not restart'


@pytest.mark.parametrize(
    ("said", "exit_code", "sentence"),
    [
        pytest.param(
            FORBIDDEN,
            Exit.FORBIDDEN,
            "You (eve) may not patch trainingruns in namespace ml: ask for the verb patch on trainingruns.trainingrun.dev there (the ClusterRole edit has it).",
            id="a right in a namespace",
        ),
        pytest.param(
            'Error from server (Forbidden): trainingruns.trainingrun.dev is forbidden: User "eve" cannot list resource "trainingruns" in API group "trainingrun.dev" at the cluster scope',
            Exit.FORBIDDEN,
            "You (eve) may not list trainingruns in all namespaces: ask for the verb list on trainingruns.trainingrun.dev there (the ClusterRole view has it).",
            id="a right in all namespaces",
        ),
        pytest.param(
            'Error from server (Forbidden): pods "bert-x" is forbidden: User "eve" cannot get resource "pods/log" in API group "" in the namespace "ml"',
            Exit.FORBIDDEN,
            "You (eve) may not get pods/log in namespace ml: ask for the verb get on pods/log there (the ClusterRole view has it).",
            id="a right on another kind",
        ),
        pytest.param(
            POLICY,
            Exit.FORBIDDEN,
            "spec.stoppedBy is ada, but you are eve: write your own name, or leave it out.",
            id="an admission policy",
        ),
        pytest.param(
            'The TrainingRun "bert" is invalid: metadata.uid: Invalid value: "u": field is immutable',
            Exit.FAILED,
            "Another run has taken this name since the read: nothing was changed.",
            id="another run of that name",
        ),
        pytest.param(
            INVALID, Exit.FAILED, "spec.stop is final: a stopped run does not restart.", id="a rule of the schema"
        ),
        pytest.param(
            'error: the server doesn\'t have a resource type "trainingruns"',
            Exit.NO_CLUSTER,
            "the operator is not installed there",
            id="no such kind",
        ),
        pytest.param(
            "The connection to the server localhost:8080 was refused - did you specify the right host or port?",
            Exit.NO_CLUSTER,
            "The cluster does not answer: The connection to the server localhost:8080 was refused",
            id="nobody listens",
        ),
        pytest.param(
            "Unable to connect to the server: dial tcp: lookup nowhere.test: no such host",
            Exit.NO_CLUSTER,
            "The cluster does not answer:",
            id="no such host",
        ),
        pytest.param(
            'error: context "prod" does not exist',
            Exit.NO_CLUSTER,
            'context "prod" does not exist. kubectl config get-contexts',
            id="no such context",
        ),
        pytest.param(
            "Error in configuration: context was not found for specified context: prod",
            Exit.NO_CLUSTER,
            "context was not found for specified context: prod. kubectl config get-contexts",
            id="no such context, as newer ones say it",
        ),
        pytest.param(
            "error: stat /nowhere: no such file or directory",
            Exit.NO_CLUSTER,
            "The kubeconfig is not readable: stat /nowhere: no such file or directory.",
            id="no such kubeconfig",
        ),
        pytest.param(
            'E1122 09:20:18.674816    2506 memcache.go:265] "Unhandled Error" err="couldn\'t get current server API group list: x"\n'
            "The connection to the server localhost:8080 was refused - did you specify the right host or port?\n",
            Exit.NO_CLUSTER,
            "The cluster does not answer: The connection to the server localhost:8080 was refused - did you specify the right host or port?",
            id="a log beside what is said",
        ),
        pytest.param(
            "error: Missing or incomplete configuration info.  Please point to an existing, complete config file:",
            Exit.NO_CLUSTER,
            "kubectl has no cluster: set KUBECONFIG",
            id="no kubeconfig",
        ),
        pytest.param(
            "error: You must be logged in to the server (Unauthorized)",
            Exit.FORBIDDEN,
            "does not accept your login",
            id="an expired login",
        ),
        pytest.param(
            'Error from server (NotFound): configmaps "bert-curve" not found',
            Exit.NO_SUCH_RUN,
            'configmaps "bert-curve" not found.',
            id="not found",
        ),
        pytest.param(
            "Error from server: etcdserver: request timed out",
            Exit.FAILED,
            "etcdserver: request timed out.",
            id="anything else",
        ),
        pytest.param("", Exit.FAILED, "without a message", id="nothing"),
    ],
)
def test_a_failure_is_a_sentence_with_an_exit_code(said, exit_code, sentence):
    error = kubectl_failed(said)
    assert sentence in str(error)
    assert error.exit_code is exit_code
    assert str(error).endswith((".", "?"))
