"""The keys of the objects in the bucket, and their order.

::

    <prefix>/<namespace>/<run>/<uid>/r<rank>/incarnations/2.json                  claim: the pod that writes for this rank
    <prefix>/<namespace>/<run>/<uid>/r<rank>/i2-g0007-<pod>/checkpoint-1200/model.safetensors
    <prefix>/<namespace>/<run>/<uid>/r<rank>/i2-g0007-<pod>.manifest.json         manifest: this rank's files
    <prefix>/<namespace>/<run>/<uid>/commits/i2-g0007.json                        commit: rank 0 writes it last

An *incarnation* is one writer of one rank (a pod's agent), claimed by a conditional put. A newer claim fences the older
incarnations of the same rank only. A *generation* counts the writes of one incarnation. Manifests of a rank are ordered by that
rank's ``(incarnation, generation)``, commits by rank 0's, both compared as numbers. No key is written twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from trainingrun_operator.checkpoints import bucket_names

KEY_MAX_BYTES: Final = 1024
ROOM_BYTES: Final = 160
"""Of a key, for what follows ``base``: rank, generation, pod, and the name that a file gets whose own is too long (`names.to_key`)."""
LISTED_MAX: Final = 1000
"""Keys of one page of a list."""

_COMMIT = re.compile(r"commits/i(\d+)-g(\d+)\.json\Z")
_NAME = re.compile(r"i(\d{1,18})-g(\d{1,18})\Z")
_CLAIM = re.compile(r"/r\d+/incarnations/(\d+)\.json\Z")
_RANK = re.compile(r"r(\d+)/")
_FOLDER = re.compile(r"r\d+/i(\d+)-g(\d+)-[^/]+/")
_MANIFEST = re.compile(r"/r\d+/i(\d+)-g(\d+)-[^/]+\.manifest\.json\Z")
_LOG = re.compile(r"log(?:-([1-9]\d{0,5}))?\.txt\.gz")
_DESTINATION = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>.*))?\Z", re.DOTALL)
_FOREIGN = re.compile(r"[^A-Za-z0-9!_.*'()/-]")
"""Characters that S3 or its clients treat in different ways."""


class Order(NamedTuple):
    """Orders the documents of one rank: by the writer's incarnation, then by generation."""

    incarnation: int
    generation: int


@dataclass(frozen=True)
class Layout:
    """The keys of one run. ``base`` ends with a slash; every key of the run starts with it."""

    bucket: str
    base: str

    @classmethod
    def of(cls, destination: str, namespace: str, run: str, run_uid: str) -> Layout:
        """Return the layout of a run.

        Raises:
            ValueError: the destination does not have the form ``s3://bucket[/prefix]``, or its bucket is of a kind that cannot be used.
        """
        match = _DESTINATION.match(destination)
        if match is None:
            message = f"destination {destination!r} does not have the form s3://bucket/prefix"
            raise ValueError(message)
        if complaint := bucket_names.complaint(match["bucket"]):
            message = f"destination {destination!r}: {complaint}"
            raise ValueError(message)
        prefix = (match["prefix"] or "").strip("/")
        if any(part in ("", ".", "..") for part in prefix.split("/")) and prefix:
            message = f"destination {destination!r} has an empty, '.' or '..' segment: remove it"
            raise ValueError(message)
        if foreign := _FOREIGN.search(prefix):
            message = (
                f"destination {destination!r} has {foreign[0]!r} in its prefix: use letters, digits and !_.*'()/- only"
            )
            raise ValueError(message)
        return cls(bucket=match["bucket"], base="/".join(filter(None, (prefix, namespace, run, run_uid))) + "/")

    @property
    def of_run(self) -> str:
        """Key prefix, ending with a slash, of all runs of this name: a training knows it before its run has a uid."""
        return self.base.rsplit("/", 2)[0] + "/"

    def rank(self, rank: int) -> str:
        """Key prefix, ending with a slash, of all that one rank writes except commits."""
        return f"{self.base}r{rank}/"

    def folder(self, rank: int, order: Order, pod: str) -> str:
        """Key prefix, ending with a slash, of one rank's files in one generation."""
        return f"{self.rank(rank)}i{order.incarnation}-g{order.generation:04d}-{pod}/"

    def manifest(self, rank: int, order: Order, pod: str) -> str:
        """Key of one rank's manifest."""
        return self.folder(rank, order, pod).removesuffix("/") + ".manifest.json"

    def manifests(self, rank: int, incarnation: int) -> str:
        """Key prefix of all manifests of one incarnation, and of its folders."""
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

    @property
    def story(self) -> str:
        """Key of the run's story, written after its end."""
        return f"{self.base}run.json"

    @property
    def curve(self) -> str:
        """Key of its loss curve."""
        return f"{self.base}curve.json"

    def log(self, rank: int = 0) -> str:
        """Key of the end of one rank's log, compressed."""
        return f"{self.base}log-{rank}.txt.gz" if rank else f"{self.base}log.txt.gz"

    @property
    def logs(self) -> str:
        """Key prefix of the logs of all ranks, and of no other object."""
        return f"{self.base}log"

    def rank_of_log(self, key: str) -> int | None:
        """Return the rank of a log's key; None for any other key."""
        match = _LOG.fullmatch(key, len(self.base)) if self.owns(key) else None
        return int(match[1] or 0) if match else None

    def folder_of(self, key: str) -> str:
        """Key prefix of the generation that a file's key belongs to, ending with a slash; empty: it is no file of a generation."""
        match = _FOLDER.match(key, len(self.base)) if self.owns(key) else None
        return key[: match.end()] if match else ""

    def order_of_file(self, key: str) -> Order | None:
        """Order of the generation that a file's key belongs to; None: it is no file of a generation."""
        match = _FOLDER.match(key, len(self.base)) if self.owns(key) else None
        return Order(int(match[1]), int(match[2])) if match else None

    def rank_of(self, key: str) -> int | None:
        """Rank that wrote a key; None: it is a commit's, or of another run."""
        match = _RANK.match(key, len(self.base)) if self.owns(key) else None
        return int(match[1]) if match else None

    def uri(self, key: str) -> str:
        """The URI of a key or key prefix, as ``aws s3 sync`` takes it."""
        return f"s3://{self.bucket}/{key}"

    def owns(self, key: str) -> bool:
        """Whether a key is one of this run's. Check every key read from the bucket before a request for it."""
        return key.startswith(self.base) and len(key.encode()) <= KEY_MAX_BYTES and ".." not in key.split("/")


def order_of_commit(key: str) -> Order | None:
    """Return the order in a commit's key; None for any other key."""
    match = _COMMIT.search(key)
    return Order(int(match[1]), int(match[2])) if match else None


def order_of_name(name: str) -> Order | None:
    """Return the order in the name of a generation, such as ``i1-g0003``; None for any other text."""
    match = _NAME.match(name)
    return Order(int(match[1]), int(match[2])) if match else None


def order_of_manifest(key: str) -> Order | None:
    """Return the order in a manifest's key; None for any other key."""
    match = _MANIFEST.search(key)
    return Order(int(match[1]), int(match[2])) if match else None


def incarnation_of_claim(key: str) -> int | None:
    """Return the incarnation in a claim's key; None for any other key."""
    match = _CLAIM.search(key)
    return int(match[1]) if match else None
