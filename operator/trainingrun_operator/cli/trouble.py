"""Errors of the plugin: a message for people, an exit code for scripts."""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Final

from trainingrun_operator.api import names


class Exit(IntEnum):
    """Exit codes. `--help` and the README document them."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    NO_SUCH_RUN = 3
    FORBIDDEN = 4
    NO_CLUSTER = 5
    NOT_PROVEN = 6
    TIMEOUT = 7
    INTERRUPTED = 130


MEANINGS: Final = {
    Exit.DONE: "done",
    Exit.FAILED: "the cluster refused it, or another failure",
    Exit.USAGE: "wrong usage",
    Exit.NO_SUCH_RUN: "there is no such run, checkpoint or log",
    Exit.FORBIDDEN: "you lack a right, in the cluster or on the bucket",
    Exit.NO_CLUSTER: "the cluster or the bucket cannot be reached",
    Exit.NOT_PROVEN: "a checkpoint does not match its checksums, or a run ended without a proven one",
    Exit.TIMEOUT: "it did not happen within --timeout",
    Exit.INTERRUPTED: "interrupted",
}

_LOGGED: Final = re.compile(r"^[EIWF]\d{4} [\d:.]+ +\d+ \S+\] .*\n?", re.MULTILINE)
"""Log lines that kubectl prints before its error message."""
_FROM_SERVER: Final = re.compile(r"^(?:Error from server(?: \((?P<reason>\w+)\))?|error): ", re.MULTILINE)
_LACKS: Final = re.compile(
    r'User "(?P<user>[^"]+)" cannot (?P<verb>\w+) resource "(?P<resource>[^"]+)" in API group "(?P<group>[^"]*)"'
    r'(?: in the namespace "(?P<namespace>[^"]+)")?'
)
_POLICY: Final = re.compile(
    r"ValidatingAdmissionPolicy '[^']*' with binding '[^']*' denied request: (?P<why>.*)", re.DOTALL
)
_INVALID: Final = re.compile(r'^The TrainingRun "[^"]*" is invalid: ?(?P<why>.*)', re.DOTALL)
_CAUSE: Final = re.compile(r'^\**\s*<?[\w.<>\[\]]+>?: Invalid value: (?:"(?:[^"\\]|\\.)*"|\S+): ', re.MULTILINE)
_ELSEWHERE: Final = (
    "no configuration has been provided",
    "Missing or incomplete configuration",
    "current-context is not set",
)
_UNREACHABLE: Final = (
    "Unable to connect to the server",
    "The connection to the server",
    "dial tcp",
    "i/o timeout",
    "context deadline exceeded",
    "TLS handshake",
    "x509:",
    "couldn't get current server API group list",
)
_NO_SUCH_KIND: Final = (
    "the server doesn't have a resource type",
    "no matches for kind",
    "could not find the requested resource",
)


class TroubleError(Exception):
    """A failure, with a message that says what to do."""

    def __init__(self, sentence: str, exit_code: Exit = Exit.FAILED, reason: str = "") -> None:
        super().__init__(sentence)
        self.exit_code = exit_code
        self.reason = reason
        """The API server's reason, such as `NotFound` or `Forbidden`; empty for other failures."""


def kubectl_failed(said: str) -> TroubleError:
    """Turn kubectl's stderr into an error that says what is wrong: a missing right, an unreachable cluster, an invalid object."""
    said = _LOGGED.sub("", said).strip()
    found = _FROM_SERVER.search(said)
    reason = (found["reason"] or "") if found else ""
    text = said[found.end() :].strip() if found else said
    code = {"NotFound": Exit.NO_SUCH_RUN, "Forbidden": Exit.FORBIDDEN}.get(reason, Exit.FAILED)
    return (
        _refused(text)
        or _not_found(said, text)
        or _not_answered(said)
        or TroubleError(_sentence(text) or "kubectl failed without a message.", code, reason)
    )


def _refused(text: str) -> TroubleError | None:
    """Return the error if the API server refused the request."""
    if lacks := _LACKS.search(text):
        return TroubleError(_forbidden(lacks), Exit.FORBIDDEN, "Forbidden")
    if policy := _POLICY.search(text):
        return TroubleError(_sentence(policy["why"]), Exit.FORBIDDEN, "Forbidden")
    if "metadata.uid" in text or "UID in precondition" in text:
        again = "Another run has taken this name since the read: nothing was changed."
        return TroubleError(again, Exit.FAILED, "Conflict")
    if invalid := _INVALID.search(text):
        return TroubleError(_sentence(_CAUSE.sub("", invalid["why"].strip())), Exit.FAILED, "Invalid")
    return None


def _not_found(said: str, text: str) -> TroubleError | None:
    """Return the error if the cluster has no TrainingRuns, or kubectl has no cluster."""
    if any(part in said for part in _NO_SUCH_KIND):
        return TroubleError(
            f"This cluster has no TrainingRuns ({names.GROUP}): the operator is not installed there. Check that this is the right"
            " cluster (kubectl config current-context).",
            Exit.NO_CLUSTER,
        )
    if any(part in said for part in _ELSEWHERE):
        return TroubleError(
            "kubectl has no cluster: set KUBECONFIG, or give --kubeconfig or --context.", Exit.NO_CLUSTER
        )
    if "context was not found" in said or ("context" in said and "does not exist" in said):
        return TroubleError(
            f"{_sentence(text)} kubectl config get-contexts lists the existing contexts.", Exit.NO_CLUSTER
        )
    if text.startswith(("stat ", "open ")):
        return TroubleError(f"The kubeconfig is not readable: {_sentence(text)}", Exit.NO_CLUSTER)
    return None


def _not_answered(said: str) -> TroubleError | None:
    """Return the error if the cluster does not accept the login, or does not answer."""
    if "(Unauthorized)" in said or "provide credentials" in said:
        return TroubleError(
            "The cluster does not accept your login, which may have expired. Log in again until kubectl auth whoami works.",
            Exit.FORBIDDEN,
        )
    if any(part in said for part in _UNREACHABLE):
        return TroubleError(f"The cluster does not answer: {_sentence(said)}", Exit.NO_CLUSTER)
    return None


def _forbidden(lacks: re.Match[str]) -> str:
    where = f" in namespace {lacks['namespace']}" if lacks["namespace"] else " in all namespaces"
    what = f"{lacks['resource']}.{lacks['group']}" if lacks["group"] else lacks["resource"]
    role = _role(lacks["verb"], lacks["resource"])
    return f"You ({lacks['user']}) may not {lacks['verb']} {lacks['resource']}{where}: ask for the verb {lacks['verb']} on {what} there{role}."


def _role(verb: str, resource: str) -> str:
    """Name the default ClusterRole with the right, if one is certain to have it."""
    reads = verb in ("get", "list", "watch")
    if resource.partition("/")[0] not in (names.RUN_PLURAL, "pods", "configmaps"):
        return ""
    return f" (the ClusterRole {'view' if reads else 'edit'} has it)"


def _sentence(text: str) -> str:
    """Join the text to one paragraph that ends with a full stop."""
    text = " ".join(text.split())
    return text if not text or text.endswith((".", "?", "!")) else f"{text}."
