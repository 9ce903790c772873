"""The strict reader of commits and manifests for agent, operator and plugin.

A complaint says what is wrong and where. It quotes names, never bodies.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from pydantic import ValidationError

from trainingrun_operator.checkpoints import names
from trainingrun_operator.checkpoints.documents import (
    COMMIT_MAX_BYTES,
    MANIFEST_MAX_BYTES,
    SCHEMA,
    WHOLE,
    Commit,
    Manifest,
    ManifestHead,
)
from trainingrun_operator.checkpoints.keys import Order

if TYPE_CHECKING:
    from trainingrun_operator.checkpoints.documents import Answer, FileEntry, RankManifest, Skipped
    from trainingrun_operator.checkpoints.keys import Layout

Document = TypeVar("Document", Commit, Manifest, ManifestHead)
Head = TypeVar("Head", bound=ManifestHead)

_SAID_MAX = 200


class BadCommitError(Exception):
    """A commit, a manifest or an object is invalid. The message is the complaint."""


class IncurableError(BadCommitError):
    """Another upload of the same files would not be proven either."""


class Found(NamedTuple):
    """An object's size and checksum in the store."""

    size: int
    crc64nvme: str
    """Of the full object, in base64; empty if the store keeps none."""


class Reads(Protocol):
    """A bucket to read small objects from."""

    def get(self, key: str, limit: int) -> bytes | None:
        """Return the first ``limit`` + 1 bytes of an object; None if there is none."""


@dataclass(frozen=True)
class ReadCommit:
    """A commit, with its key and digest."""

    key: str
    digest: str
    """SHA-256 of the commit's bytes, hex."""
    commit: Commit
    size: int = 0
    """In bytes, of the JSON."""


def said(text: str) -> str:
    """Quote a name from the bucket for a message. Shorten it if needed."""
    return repr(text if len(text) <= _SAID_MAX else f"{text[:_SAID_MAX]}…")


def check_owned(layout: Layout, key: str) -> None:
    """Check that a key is one of this run's, before a request for it.

    Raises:
        BadCommitError: it is not.
    """
    if not layout.owns(key):
        raise BadCommitError(f"it names {said(key)}, which is outside this run's prefix {layout.uri(layout.base)}")


def checked_commit(layout: Layout, key: str, body: bytes) -> ReadCommit:
    """Parse and check a commit.

    Raises:
        BadCommitError: it does not parse, is of another run, contradicts its key, or lacks a rank.
    """
    commit = parsed_document(Commit, body, "it")
    if commit.schema_ != SCHEMA:
        raise BadCommitError(f"its schema is {commit.schema_}, this version reads {SCHEMA}")
    run = commit.run
    if layout.base.rstrip("/").split("/")[-3:] != [run.namespace, run.name, run.uid]:
        raise BadCommitError(
            f"it belongs to the run {said(f'{run.namespace}/{run.name}')} with uid {said(run.uid)}, not to this one"
        )
    if key != layout.commit(commit.order):
        raise BadCommitError(
            f"its content contradicts its key: incarnation {commit.incarnation}, generation {commit.generation}"
        )
    ranks = sorted(entry.rank for entry in commit.ranks)
    # Compare lengths first: an untrusted world size may be huge, the list of ranks is bounded by the commit's size.
    if not ranks or len(ranks) != commit.world_size or ranks != list(range(commit.world_size)):
        raise BadCommitError(
            f"it has {len(ranks)} manifests for {commit.world_size} ranks ({', '.join(map(str, ranks[:8])) or 'none'})"
        )
    return ReadCommit(key, hashlib.sha256(body).hexdigest(), commit, len(body))


def checked_manifest(layout: Layout, commit: Commit, entry: RankManifest, body: bytes) -> Manifest:
    """Parse one rank's manifest, and check it against the commit that names it.

    Raises:
        BadCommitError: its hash, run, rank, incarnation, key, checkpoint or answer differs from the commit.
    """
    check_digest(entry, hashlib.sha256(body).hexdigest())
    manifest = read_manifest(body, f"the manifest of rank {entry.rank}")
    check_manifest(layout, commit, entry, manifest, len(manifest.files))
    return manifest


def check_digest(entry: RankManifest, digest: str) -> None:
    """Check the SHA-256 of a manifest's bytes, hex.

    Raises:
        BadCommitError: it is not the one that the commit names.
    """
    if digest != entry.sha256:
        raise BadCommitError(f"the manifest {said(entry.key)} is not the one that the commit names (SHA-256 differs)")


def check_manifest(layout: Layout, commit: Commit, entry: RankManifest, manifest: ManifestHead, listed: int) -> None:
    """Check one rank's manifest, which lists this many files, against the commit that names it.

    Raises:
        BadCommitError: its run, rank, incarnation, key, checkpoint, answer or number of files contradicts the commit or itself.
    """
    where = f"the manifest of rank {entry.rank}"
    if manifest.schema_ != SCHEMA:
        raise BadCommitError(f"{where} has schema {manifest.schema_}, this version reads {SCHEMA}")
    if manifest.run != commit.run:
        raise BadCommitError(f"{where} belongs to another run, with uid {said(manifest.run.uid)}")
    pod, order = manifest.pod, Order(manifest.incarnation, manifest.generation)
    if (pod.rank, pod.world_size) != (entry.rank, commit.world_size):
        raise BadCommitError(f"{where} of {commit.world_size} was written by rank {pod.rank} of {pod.world_size}")
    if manifest.incarnation != entry.incarnation:
        raise BadCommitError(
            f"{where} is of incarnation {manifest.incarnation}, the commit names incarnation {entry.incarnation}"
        )
    if entry.key != layout.manifest(pod.rank, order, pod.name):
        raise BadCommitError(
            f"{where} has another key than its pod's for incarnation {order.incarnation}, generation {order.generation}"
        )
    if _identity(manifest) != _identity(commit):
        raise BadCommitError(f"{where} is about {_about(manifest)}, the commit about {_about(commit)}")
    # A run of one rank names any earlier manifest again, so only its commit says what is answered.
    asked = commit.termination_id is not None or commit.final
    if commit.world_size > 1 and asked and manifest.answer != commit.answer:
        raise BadCommitError(f"{where} {_for(manifest.answer)}, the commit {_for(commit.answer)}")
    if (manifest.total_files > 0) != bool(listed):
        raise BadCommitError(f"{where} counts {manifest.total_files} files and lists {listed}")


def read_manifest(body: bytes, where: str) -> Manifest:
    """Parse a manifest. ``where`` is its name in complaints.

    Raises:
        BadCommitError: it does not parse, or has another schema.
    """
    return _of_this_schema(parsed_document(Manifest, body, where), where)


def read_head(body: bytes, where: str) -> ManifestHead:
    """Parse a manifest without its files. ``where`` is its name in complaints.

    Raises:
        BadCommitError: it does not parse, or has another schema.
    """
    return _of_this_schema(parsed_document(ManifestHead, body, where), where)


def _of_this_schema(manifest: Head, where: str) -> Head:
    if manifest.schema_ != SCHEMA:
        raise BadCommitError(f"{where} has schema {manifest.schema_}, this version reads {SCHEMA}")
    return manifest


def check_whole(manifest: Manifest) -> None:
    """Check that no regular file was skipped.

    Raises:
        IncurableError: a file was skipped; names the file and the reason. The agent has tried before it skips a file.
    """
    check_not_skipped(next((one for one in manifest.skipped if one.regular), None))


def check_not_skipped(skipped: Skipped | None) -> None:
    """Refuse the first regular file that was skipped, if there is one.

    Raises:
        IncurableError: names the file and the reason. The agent has tried before it skips a file.
    """
    if skipped is not None:
        raise IncurableError(f"the file {said(skipped.path)} was skipped: {said(skipped.reason)}")


def load_commit(bucket: Reads, layout: Layout, key: str) -> ReadCommit:
    """Read and check a commit.

    Raises:
        BadCommitError: it is missing, too large, or `checked_commit` refuses it.
        ClientError, BotoCoreError: a call to the bucket failed.
    """
    return checked_commit(layout, key, _loaded(bucket, layout, key, COMMIT_MAX_BYTES))


def load_manifest(bucket: Reads, layout: Layout, commit: Commit, entry: RankManifest) -> Manifest:
    """Read and check one rank's manifest.

    Raises:
        BadCommitError: it is missing, too large, or `checked_manifest` refuses it.
        ClientError, BotoCoreError: a call to the bucket failed.
    """
    return checked_manifest(layout, commit, entry, _loaded(bucket, layout, entry.key, MANIFEST_MAX_BYTES))


def _loaded(bucket: Reads, layout: Layout, key: str, limit: int) -> bytes:
    check_owned(layout, key)
    body = bucket.get(key, limit)
    if body is None:
        raise BadCommitError(f"{said(key)} is not in the bucket")
    if len(body) > limit:
        raise BadCommitError(f"{said(key)} is larger than {limit} bytes")
    return body


def is_full_object(crc64nvme: str) -> bool:
    """Whether a store's checksum is of the full object: that of a multipart upload's parts ends with their number."""
    return bool(crc64nvme) and "-" not in crc64nvme


def check_object(file: FileEntry, found: Found | None) -> None:
    """Check one object against its manifest entry.

    Raises:
        BadCommitError: it is missing or differs.
        IncurableError: manifest or store have no checksum of it.
    """
    if complaint := complaint_about(file, found):
        proves = bool(file.crc64nvme) and (found is None or is_full_object(found.crc64nvme))
        raise (BadCommitError if proves else IncurableError)(complaint)


def complaint_about(file: FileEntry, found: Found | None) -> str:
    """Return how one object differs from its manifest entry; empty if it does not."""
    name = said(file.path)
    if found is None:
        return f"{name} is not in the bucket (key {said(file.key)})"
    if found.size != file.size:
        return f"{name} has {found.size} bytes in the bucket, the manifest says {file.size}"
    if not file.crc64nvme:
        return f"the manifest has no CRC64NVME of {name}, so the file cannot be proven"
    if not is_full_object(found.crc64nvme):
        return f"the store has no CRC64NVME of {name}, so the file cannot be proven: use a store that keeps full-object checksums"
    if found.crc64nvme != file.crc64nvme:
        return f"{name} has other bytes in the bucket than on the volume (CRC64NVME differs)"
    return ""


def uri_of(layout: Layout, manifest: ManifestHead) -> str:
    """Return the URI of the checkpoint's folder, for ``aws s3 sync``, or of its only object; empty without a checkpoint.

    Raises:
        BadCommitError: the folder is not one of this rank's.
    """
    if manifest.checkpoint is None:
        return ""
    check_owned(layout, manifest.folder)
    if not manifest.folder.startswith(layout.rank(manifest.pod.rank)) or not manifest.folder.endswith("/"):
        raise BadCommitError(f"the folder {said(manifest.folder)} does not belong to rank {manifest.pod.rank}")
    inside = manifest.checkpoint.dir.strip("/")
    if manifest.checkpoint.file:
        key = names.to_key(manifest.folder, names.from_text(inside))
        check_owned(layout, key)
        return layout.uri(key)
    return layout.uri(manifest.folder if inside in ("", WHOLE) else f"{manifest.folder}{inside}/")


def _identity(document: Commit | ManifestHead) -> tuple[str, int | None, int | None, bool] | None:
    return None if document.checkpoint is None else document.checkpoint.identity


def _about(document: Commit | ManifestHead) -> str:
    one = document.checkpoint
    if one is None:
        return "no checkpoint"
    moment = f"step {one.step}" if one.epoch is None else f"step {one.step}, epoch {one.epoch}"
    return f"{'' if one.complete else 'the unfinished '}{said(one.dir)} at {moment}"


def _for(answer: Answer) -> str:
    what = "answers no request" if answer.id is None else f"answers {said(answer.id)}, attempt {answer.attempt}"
    return f"{what}, {'after' if answer.final else 'before'} the training's end"


def parsed_document(model: type[Document], body: bytes, what: str) -> Document:
    """Parse a commit or a manifest. ``what`` is its name in complaints.

    Raises:
        BadCommitError: it does not parse; names the first field that is invalid.
    """
    try:
        return model.model_validate_json(body, by_alias=True, by_name=False)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "its JSON"
        raise BadCommitError(f"{what} does not parse: {place} is invalid ({first['type']})") from None
