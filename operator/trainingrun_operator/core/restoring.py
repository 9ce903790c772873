"""The checkpoint that a run starts from while it has none of its own: `spec.checkpoint.restoreFrom`.

Everything is checked before a request: a run may read what its own destination allows, and another namespace's checkpoints only where the
administrator's list grants them (`restoreFrom` of an item of `allowedDestinations`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from trainingrun_operator.api.exchange import RestoreSource
from trainingrun_operator.api.run import CheckpointMode
from trainingrun_operator.checkpoints.keys import Layout
from trainingrun_operator.core.destinations import AWS, SHOWN, address_of, layout_of
from trainingrun_operator.core.facts.run import Problem

if TYPE_CHECKING:
    from trainingrun_operator.api.run import RestoreFrom
    from trainingrun_operator.checkpoints.documents import Commit
    from trainingrun_operator.core.destinations import Destination
    from trainingrun_operator.core.facts.run import Run

FIELD: Final = "spec.checkpoint.restoreFrom"
NOT_ALLOWED: Final = "RestoreNotAllowed"
_ASK: Final = "Change it, or ask the operator's administrator to"
_URI: Final = re.compile(
    r"(?P<destination>s3://[^/]+(?:/[^/]+)*?)/(?P<namespace>[a-z0-9-]+)/(?P<run>[a-z0-9-]+)/(?P<uid>[A-Za-z0-9-]+)"
    r"(?:/(?P<generation>r\d+/i\d+-g\d+-[^/]+)(?:/.*)?)?/?\Z",
    re.DOTALL | re.ASCII,
)


@dataclass(frozen=True)
class Origin:
    """Another run's checkpoints in a bucket."""

    namespace: str
    name: str
    uid: str
    destination: str
    endpoint_url: str = ""
    region: str = ""
    generation: str = ""
    """Rank, generation and pod, as in a key: only this checkpoint will do. Empty: the furthest one."""
    expected_bucket_owner: str = ""
    requester_pays: bool = False

    @property
    def layout(self) -> Layout:
        """The keys of the other run.

        Raises:
            ValueError: the destination is not valid.
        """
        return Layout.of(self.destination, self.namespace, self.name, self.uid)

    @property
    def folder(self) -> str:
        """Key prefix of the generation; empty: any."""
        return f"{self.layout.base}{self.generation}/" if self.generation else ""

    @property
    def commit(self) -> str | None:
        """Key of the commit that rank 0 wrote with the generation; None: any generation will do."""
        order = self.layout.order_of_file(self.folder)
        return self.layout.commit(order) if order is not None else None

    @property
    def source(self) -> RestoreSource:
        """The origin as the restore container takes it."""
        return RestoreSource(
            destination=self.destination,
            namespace=self.namespace,
            run=self.name,
            run_uid=self.uid,
            folder=self.folder,
            endpoint_url=self.endpoint_url,
            region=self.region,
            expected_bucket_owner=self.expected_bucket_owner,
            requester_pays=self.requester_pays,
        )

    def will_do(self, commit: Commit) -> bool:
        """Whether a run can start from a commit."""
        whole = commit.checkpoint is not None and commit.checkpoint.complete and commit.total_files > 0
        return whole and commit.is_of(self.folder)


def complaint(run: Run, listed: tuple[Destination, ...]) -> Problem | None:
    """Return the problem that the spec alone shows; None: there is none, or the run starts from no other."""
    wanted = _wanted(run)
    if wanted is None:
        return None
    if wanted.uri is not None:
        origin = _of_uri(run, wanted.uri)
        return origin if isinstance(origin, Problem) else _refusal(run, origin, wanted, listed)
    namespace = wanted.namespace or run.namespace
    if (namespace, wanted.run) == (run.namespace, run.name):
        return Problem("InvalidRestoreFrom", f"{FIELD}.run is {wanted.run!r}, which is this run: name another one.")
    if not any(each.opens(run.namespace, namespace) for each in listed or (AWS,)):
        return _not_granted(run, namespace, f"{FIELD}.namespace is {namespace!r}")
    return None


def named(run: Run) -> tuple[str, str] | None:
    """Return namespace and name of the TrainingRun that a run starts from; None: it names none."""
    wanted = _wanted(run)
    return (wanted.namespace or run.namespace, wanted.run) if wanted is not None and wanted.run is not None else None


def resolved(run: Run, other: Run | None, listed: tuple[Destination, ...]) -> Origin | Problem | None:
    """Return where a run starts from. None: from no other run.

    Args:
        run: the new one, about which `complaint` has nothing to say.
        other: the TrainingRun that it names; None: it names none, or there is none.
        listed: the administrator's list.
    """
    wanted = _wanted(run)
    if wanted is None:
        return None
    origin = _of_uri(run, wanted.uri) if wanted.uri is not None else _of_run(run, other)
    if isinstance(origin, Problem):
        return origin
    return _refusal(run, origin, wanted, listed) or replace(
        origin, expected_bucket_owner=_granting(run, origin, listed)[0].expected_bucket_owner
    )


def is_wanted(run: Run) -> bool:
    """Whether a run starts from another one."""
    return _wanted(run) is not None


def _wanted(run: Run) -> RestoreFrom | None:
    checkpoint = run.spec.checkpoint
    return None if checkpoint.mode is CheckpointMode.DISABLED else checkpoint.restore_from


def _of_uri(run: Run, uri: str) -> Origin | Problem:
    match, s3 = _URI.match(uri), run.spec.checkpoint.s3
    if match is not None:
        origin = Origin(
            match["namespace"],
            match["run"],
            match["uid"],
            match["destination"],
            s3.endpoint_url,
            s3.region,
            match["generation"] or "",
            requester_pays=s3.requester_pays,
        )
        try:
            base = origin.layout.base
        except ValueError as error:
            return Problem("InvalidRestoreFrom", f"{FIELD}.uri: {error}.")
        if base == layout_of(run).base:
            return Problem("InvalidRestoreFrom", f"{FIELD}.uri is {uri!r}, which is this run: name another one.")
        return origin
    return Problem(
        "InvalidRestoreFrom",
        f"{FIELD}.uri is {uri!r}, which does not have the form s3://bucket/prefix/namespace/run/uid of a run's folder, or that of a"
        " status.checkpoint.uri. kubectl get trun RUN -o jsonpath='{.status.checkpoint.uri}' shows it.",
    )


def _of_run(run: Run, other: Run | None) -> Origin | Problem:
    namespace, name = named(run) or ("", "")
    words = f"{FIELD} names run {name!r} of namespace {namespace}"
    if other is None:
        return Problem(
            "NothingToRestore",
            f"{words}, and there is no such TrainingRun. Correct the name, or set uri to its folder in the bucket:"
            " s3://bucket/prefix/namespace/run/uid.",
            permanent=False,
        )
    checkpoint = other.spec.checkpoint
    if checkpoint.mode is CheckpointMode.DISABLED:
        return Problem(
            "NothingToRestore", f"{words}, which saves no checkpoints: its spec.checkpoint.mode is Disabled."
        )
    origin = Origin(
        other.namespace,
        other.name,
        other.uid,
        checkpoint.destination or "",
        checkpoint.s3.endpoint_url,
        checkpoint.s3.region,
        requester_pays=checkpoint.s3.requester_pays,
    )
    try:
        origin.layout  # noqa: B018 - raises for an invalid destination
    except ValueError:
        return Problem("NothingToRestore", f"{words}, whose spec.checkpoint.destination is not valid.", permanent=False)
    return origin


def _granting(run: Run, origin: Origin, listed: tuple[Destination, ...]) -> list[Destination]:
    """Return the items of the list that let a run start from another.

    Of a run without a Secret, the operator reads the other run's checkpoints with its own identity: only where the list lets it.
    """
    own_identity = not run.spec.checkpoint.s3.credentials_secret_name
    return [each for each in _covering(run, origin, listed) if each.operator_proves or not own_identity]


def _covering(run: Run, origin: Origin, listed: tuple[Destination, ...]) -> list[Destination]:
    """Return the items of the list that hold the other run's checkpoints and are open to this run, whatever its credentials."""
    address, valid = address_of(origin.endpoint_url)
    opened = [each for each in listed or (AWS,) if each.opens(run.namespace, origin.namespace)]
    return [each for each in opened if valid and each.covers(address, origin.layout)]


def _refusal(run: Run, origin: Origin, wanted: RestoreFrom, listed: tuple[Destination, ...]) -> Problem | None:
    if _granting(run, origin, listed):
        return None
    written = (
        f"{FIELD}.uri is {wanted.uri!r}"
        if wanted.uri is not None
        else f"{FIELD} names run {origin.name!r} of namespace {origin.namespace}"
    )
    opened = [each for each in listed or (AWS,) if each.opens(run.namespace, origin.namespace)]
    if not opened:
        return _not_granted(run, origin.namespace, written)
    if _covering(run, origin, listed):
        return Problem(
            NOT_ALLOWED,
            f"{written}, and this run names no Secret: allowedDestinations does not let the operator read there with its own identity. No request was"
            " made. Name a Secret in spec.checkpoint.s3.credentialsSecretName, or ask the operator's administrator to set identity: operator for this"
            " destination.",
        )
    words = "; ".join(each.words for each in opened[:SHOWN])
    more = f" and {len(opened) - SHOWN} more" if len(opened) > SHOWN else ""
    return Problem(
        NOT_ALLOWED,
        f"{written}: runs of namespace {run.namespace} may not read there. They may read: {words}{more}. No request was made."
        f" {_ASK} add it to allowedDestinations.",
    )


def _not_granted(run: Run, namespace: str, written: str) -> Problem:
    return Problem(
        NOT_ALLOWED,
        f"{written}: runs of namespace {run.namespace} may not start from checkpoints of namespace {namespace}. No request was made."
        f" {_ASK} add {namespace!r} to restoreFrom of an item of allowedDestinations.",
    )


def nothing_there(run: Run, origin: Origin, why: str = "", *, depth: int = 0) -> Problem:
    """Return the problem of a run that starts from another one without a checkpoint that will do.

    Args:
        run: the new one.
        origin: the other one.
        why: what is wrong with what is there.
        depth: number of the newest commits that were read; 0: none was.
    """
    what = "that checkpoint" if origin.generation else "a complete checkpoint"
    said = why or f"there is no commit of {what}{f' (the newest {depth} commits are read)' if depth else ''}"
    where = origin.layout.uri(origin.folder or origin.layout.base)
    return Problem(
        "NothingToRestore",
        f"{FIELD} of {run.name} leads to {where}, and {said}. The run starts once there is one, or create it without restoreFrom.",
        permanent=False,
    )
