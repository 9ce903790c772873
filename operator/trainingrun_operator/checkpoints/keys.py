"""The keys of the objects in the bucket, and their order.

::

    <prefix>/<namespace>/<run>/<uid>/r<rank>/e2-g0007-<pod>/checkpoint-1200/model.safetensors
    <prefix>/<namespace>/<run>/<uid>/r<rank>/e2-g0007-<pod>.manifest.json
    <prefix>/<namespace>/<run>/<uid>/commits/e2-g0007.json        written last, once
    <prefix>/<namespace>/<run>/<uid>/epochs/2.json                who writes now

An *epoch* is one writer (a pod's agent), claimed by a conditional put; a *generation* counts its commits. Order is
``(epoch, generation)``, compared as numbers. No key is ever written twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

KEY_MAX_BYTES: Final = 1024

_COMMIT = re.compile(r"commits/e(\d+)-g(\d+)\.json\Z")
_EPOCH = re.compile(r"epochs/(\d+)\.json\Z")
_DESTINATION = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>[A-Za-z0-9!_.*'()/-]*))?\Z")


class Order(NamedTuple):
    """Which of two commits is the newer: the writer's epoch first, then its generation."""

    epoch: int
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

    def folder(self, rank: int, order: Order, pod: str) -> str:
        """Key prefix, ending with a slash, of one rank's files of one generation."""
        return f"{self.base}r{rank}/e{order.epoch}-g{order.generation:04d}-{pod}/"

    def manifest(self, rank: int, order: Order, pod: str) -> str:
        """Key of one rank's manifest."""
        return self.folder(rank, order, pod).removesuffix("/") + ".manifest.json"

    @property
    def commits(self) -> str:
        """Key prefix of all commits."""
        return f"{self.base}commits/"

    def commit(self, order: Order) -> str:
        """Key of one commit."""
        return f"{self.commits}e{order.epoch}-g{order.generation:04d}.json"

    @property
    def epochs(self) -> str:
        """Key prefix of all claims."""
        return f"{self.base}epochs/"

    def epoch(self, number: int) -> str:
        """Key of one claim."""
        return f"{self.epochs}{number}.json"

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


def epoch_of_claim(key: str) -> int | None:
    """The epoch that a claim's key speaks of; None for any other key."""
    match = _EPOCH.search(key)
    return int(match[1]) if match else None
