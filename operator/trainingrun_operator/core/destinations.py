"""Allowed checkpoint destinations: the administrator's list (`allowedDestinations` of the chart).

The operator calls buckets from its own place in the network. Without this list, any user who may create a run could make it send requests to
any address that it can reach.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Final, Self

from pydantic import Field, ValidationError

from trainingrun_operator.api.base import Model
from trainingrun_operator.checkpoints.addresses import Address, is_metadata
from trainingrun_operator.checkpoints.keys import KEY_MAX_BYTES, ROOM_BYTES, Layout
from trainingrun_operator.core.facts.run import Problem

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from trainingrun_operator.core.facts.run import Run

SHOWN: Final = 4
"""Entries of the list in the message of a refusal."""


class _Entry(Model):
    """One item of the list, as the administrator writes it."""

    namespaces: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)] = ("*",)
    endpoint: str = ""
    bucket: Annotated[str, Field(min_length=1)] = "*"
    prefix: str = ""
    expected_bucket_owner: Annotated[str, Field(pattern=r"^(\d{12})?$")] = ""
    identity: Annotated[str, Field(pattern=r"^(operator)?$")] = ""
    restore_from: tuple[Annotated[str, Field(min_length=1)], ...] = ()


@dataclass(frozen=True)
class Destination:
    """A destination that runs of some namespaces may write to."""

    namespaces: tuple[str, ...] = ("*",)
    """Names, in which ``*`` stands for anything."""
    address: Address | None = None
    """None: AWS itself."""
    bucket: str = "*"
    segments: tuple[str, ...] = ()
    """The prefix, by segments."""
    expected_bucket_owner: str = ""
    """AWS account that must own the bucket; empty: any."""
    operator_proves: bool = False
    """Whether the operator may prove with its own identity, for runs that name no Secret."""
    restore_from: tuple[str, ...] = ()
    """Other namespaces, as in `namespaces`, from whose checkpoints in this destination the runs may start."""
    words: str = field(default="", compare=False)
    """For messages."""

    @classmethod
    def of(cls, written: Mapping[str, Any]) -> Self:
        """Read one item of the list.

        Raises:
            ValueError: an unknown key or an invalid value.
        """
        try:
            entry = _Entry.parse_strict(written)
        except ValidationError as error:
            first = error.errors()[0]
            message = f"{'.'.join(map(str, first['loc'])) or 'an item'} is {first['input']!r}: {first['msg'].lower()}"
            raise ValueError(message) from error
        address = Address.of(entry.endpoint) if entry.endpoint else None
        if address is not None:
            _check(entry.endpoint, address)
            _check_identity(entry, address)
        segments = tuple(filter(None, entry.prefix.split("/")))
        bucket = f"s3://{entry.bucket}/{'/'.join(segments)}".rstrip("/") if entry.bucket != "*" else "any bucket"
        return cls(
            namespaces=entry.namespaces,
            address=address,
            bucket=entry.bucket,
            segments=segments,
            expected_bucket_owner=entry.expected_bucket_owner,
            operator_proves=entry.identity == "operator",
            restore_from=entry.restore_from,
            words=f"{bucket} at {entry.endpoint or 'AWS'}",
        )

    def holds_for(self, namespace: str) -> bool:
        """Whether runs of a namespace may use this destination."""
        return any(fnmatchcase(namespace, pattern) for pattern in self.namespaces)

    def opens(self, own: str, other: str) -> bool:
        """Whether runs of one namespace may start from checkpoints of another."""
        return self.holds_for(own) and (
            own == other or any(fnmatchcase(other, pattern) for pattern in self.restore_from)
        )

    def reaches(self, address: Address | None) -> bool:
        """Whether a run's server is the server of this destination."""
        if address is None or self.address is None:
            return address is self.address
        return self.address.covers(address)

    def covers(self, address: Address | None, layout: Layout) -> bool:
        """Whether a run's server, bucket and keys are within this destination."""
        within = tuple(layout.base.split("/"))[: len(self.segments)] == self.segments
        return self.reaches(address) and self.bucket in ("*", layout.bucket) and within


def _check(endpoint: str, address: Address) -> None:
    """Refuse an endpoint that is certainly a mistake."""
    stars = address.host.count("*")
    if stars and (stars > 1 or not address.host.startswith("*.") or address.host.count(".") < 2):  # noqa: PLR2004 - *.name.domain
        message = f"endpoint is {endpoint!r}: a * stands for the whole first part of a name with at least two more, as in https://*.s3.svc"
        raise ValueError(message)
    if is_metadata(address.host):
        message = f"endpoint is {endpoint!r}: the cloud serves credentials at this address, so no run may use it"
        raise ValueError(message)


def _check_identity(entry: _Entry, address: Address) -> None:
    """Refuse to send the operator's session token to a server whose name others may choose."""
    if entry.identity and "*" in address.host + address.port:
        message = (
            f"identity is {entry.identity!r} and endpoint is {entry.endpoint!r}: the operator signs with its own identity for named servers only,"
            " so write the endpoint without *"
        )
        raise ValueError(message)


AWS: Final = Destination(words="any bucket at AWS")
"""The meaning of an empty list: any bucket at AWS, with the run's own Secret, and no other server."""


def destinations_of(written: Iterable[Mapping[str, Any]]) -> tuple[Destination, ...]:
    """Read the list.

    Raises:
        ValueError: with the item, its value and what was expected.
    """
    found = []
    for place, item in enumerate(written):
        try:
            found.append(Destination.of(item))
        except ValueError as error:
            message = f"item {place}: {error}"
            raise ValueError(message) from error
    return tuple(found)


def layout_of(run: Run) -> Layout:
    """Return the layout of a run's keys in its bucket.

    Raises:
        ValueError: the destination is not valid.
    """
    return Layout.of(run.spec.checkpoint.destination or "", run.namespace, run.name, run.uid)


def valid_layout(run: Run) -> Layout | Problem:
    """Return the layout of a run's keys, or why its destination is not valid."""
    try:
        return layout_of(run)
    except ValueError as error:
        return Problem("InvalidDestination", f"spec.checkpoint: {error}.")


def too_long(run: Run) -> Problem | None:
    """Refuse a valid destination that leaves no room in a key for the names of files."""
    over = len(layout_of(run).base.encode()) + ROOM_BYTES - KEY_MAX_BYTES
    if over <= 0:
        return None
    return Problem(
        "InvalidDestination",
        f"spec.checkpoint.destination is {run.spec.checkpoint.destination!r}: the keys of this run begin with {KEY_MAX_BYTES - ROOM_BYTES + over} bytes, and"
        f" at most {KEY_MAX_BYTES - ROOM_BYTES} of the {KEY_MAX_BYTES} of a key leave room for the names of files. Shorten it by {over}.",
    )


def allowed(run: Run, listed: tuple[Destination, ...]) -> Destination | Problem:
    """Return the entry that allows a run's destination, or the refusal. Call it only for a run that uploads.

    The first entry that allows it, and for a run without a Secret the first of those that let the operator prove with its own identity.
    """
    url, layout = run.spec.checkpoint.s3.endpoint_url, valid_layout(run)
    if isinstance(layout, Problem):
        return layout
    mine = [each for each in listed or (AWS,) if each.holds_for(run.namespace)]
    address, readable = address_of(url)
    fitting = [each for each in mine if readable and each.covers(address, layout)]
    if not fitting:
        return _refused(run, mine, about_bucket=readable and any(each.reaches(address) for each in mine))
    if run.spec.checkpoint.s3.credentials_secret_name:
        return fitting[0]
    return next((each for each in fitting if each.operator_proves), fitting[0])


def address_of(url: str) -> tuple[Address | None, bool]:
    """Return a run's server, None for AWS, and whether the URL is valid. Only the list has patterns: a star in a run's URL is not valid."""
    try:
        address = Address.of(url) if url else None
    except ValueError:
        return None, False
    return address, address is None or "*" not in address.host + address.port


def _refused(run: Run, mine: list[Destination], *, about_bucket: bool) -> Problem:
    checkpoint = run.spec.checkpoint
    wrong = (
        f"spec.checkpoint.destination is {checkpoint.destination!r}"
        if about_bucket or not checkpoint.s3.endpoint_url
        else f"spec.checkpoint.s3.endpointURL is {checkpoint.s3.endpoint_url!r}"
    )
    words = "; ".join(each.words for each in mine[:SHOWN]) or "nothing"
    more = f" and {len(mine) - SHOWN} more" if len(mine) > SHOWN else ""
    return Problem(
        "DestinationNotAllowed",
        f"{wrong}, which runs of namespace {run.namespace} may not use. They may use: {words}{more}. No request was made."
        " Change it, or ask the operator's administrator to add it to allowedDestinations.",
    )
