"""The keys of the objects in the bucket, and their order.

::

    <prefix>/<namespace>/<run>/<uid>/r<rank>/incarnations/2.json                  who writes for this rank
    <prefix>/<namespace>/<run>/<uid>/r<rank>/i2-g0007-<pod>/checkpoint-1200/model.safetensors
    <prefix>/<namespace>/<run>/<uid>/r<rank>/i2-g0007-<pod>.manifest.json         what this rank holds
    <prefix>/<namespace>/<run>/<uid>/commits/i2-g0007.json                        by rank 0: all ranks hold it; written last, once

An *incarnation* is one writer of one rank (a pod's agent), claimed by a conditional put. A newer claim fences the older incarnations of the
same rank and of no other. A *generation* counts what one incarnation writes. Manifests of a rank are ordered by that rank's
``(incarnation, generation)``, commits by those of rank 0, compared as numbers. No key is ever written twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

KEY_MAX_BYTES: Final = 1024

_COMMIT = re.compile(r"commits/i(\d+)-g(\d+)\.json\Z")
_CLAIM = re.compile(r"/r\d+/incarnations/(\d+)\.json\Z")
_MANIFEST = re.compile(r"/r\d+/i(\d+)-g(\d+)-[^/]+\.manifest\.json\Z")
_DESTINATION = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>[A-Za-z0-9!_.*'()/-]*))?\Z")


class Order(NamedTuple):
    """Which of two documents of one rank is the newer: its writer's incarnation first, then the generation."""

    incarnation: int
    generation: int


@dataclass(frozen=True)
class Layout:
    """Where one run's bytes lie. ``base`` ends with a slash; every key of the run starts with it."""

    bucket: str
    base: str

    @classmethod
    def of(cls, destination: str, namespace: str, run: str, run_uid: str) -> Layout:
        """Raises ValueError, quoting the destination, if it is not ``s3://bucket[/prefix]``."""
        match = _DESTINATION.match(destination)
        if match is None:
            message = f"destination {destination!r} is not of the form s3://bucket/prefix"
            raise ValueError(message)
        prefix = (match["prefix"] or "").strip("/")
        if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
            message = f"destination {destination!r} has an empty, '.' or '..' segment"
            raise ValueError(message)
        return cls(bucket=match["bucket"], base="/".join(filter(None, (prefix, namespace, run, run_uid))) + "/")

    def rank(self, rank: int) -> str:
        """Key prefix, ending with a slash, of everything that one rank writes but its commits."""
        return f"{self.base}r{rank}/"

    def folder(self, rank: int, order: Order, pod: str) -> str:
        """Key prefix, ending with a slash, of one rank's files of one generation."""
        return f"{self.rank(rank)}i{order.incarnation}-g{order.generation:04d}-{pod}/"

    def manifest(self, rank: int, order: Order, pod: str) -> str:
        """Key of one rank's manifest."""
        return self.folder(rank, order, pod).removesuffix("/") + ".manifest.json"

    def manifests(self, rank: int, incarnation: int) -> str:
        """Key prefix of all manifests of one incarnation; its folders lie beside them."""
        return f"{self.rank(rank)}i{incarnation}-g"

    @property
    def commits(self) -> str:
        """Key prefix of all commits."""
        return f"{self.base}commits/"

    def commit(self, order: Order) -> str:
        """Key of one commit."""
        return f"{self.commits}i{order.incarnation}-g{order.generation:04d}.json"

    def claims(self, rank: int) -> str:
        """Key prefix of all claims of one rank."""
        return f"{self.rank(rank)}incarnations/"

    def claim(self, rank: int, incarnation: int) -> str:
        """Key of one claim."""
        return f"{self.claims(rank)}{incarnation}.json"

    def uri(self, key: str) -> str:
        """What a person hands to ``aws s3 sync``."""
        return f"s3://{self.bucket}/{key}"

    def owns(self, key: str) -> bool:
        """Whether a key that came from the bucket may be asked for at all."""
        return key.startswith(self.base) and len(key.encode()) <= KEY_MAX_BYTES and ".." not in key.split("/")


def order_of_commit(key: str) -> Order | None:
    """The order that a commit's key speaks of; None for any other key."""
    match = _COMMIT.search(key)
    return Order(int(match[1]), int(match[2])) if match else None


def order_of_manifest(key: str) -> Order | None:
    """The order that a manifest's key speaks of; None for any other key."""
    match = _MANIFEST.search(key)
    return Order(int(match[1]), int(match[2])) if match else None


def incarnation_of_claim(key: str) -> int | None:
    """The incarnation that a claim's key speaks of; None for any other key."""
    match = _CLAIM.search(key)
    return int(match[1]) if match else None
