"""Reads a manifest piece by piece: a manifest of 64 MiB takes no more memory than one of a few files.

Manifests come from a bucket that a tenant controls. Parsed as a whole, 60 MiB of `{"path":""},…` take 3.8 GiB and keep every other thread
waiting for seconds. Here each call parses at most `BATCH` files, and no value in the manifest may be longer than `VALUE_MAX_BYTES`.
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Final, NamedTuple

from pydantic import FailFast, TypeAdapter, ValidationError

from trainingrun_operator.checkpoints.documents import (
    FILES_MAX,
    FileEntry,
    Manifest,
    ManifestHead,
    RankManifest,
    Skipped,
)
from trainingrun_operator.checkpoints.proof import BadCommitError, check_digest, parsed_document

BATCH: Final = 256
"""Files parsed at once, without releasing the interpreter's lock: about a millisecond."""
VALUE_MAX_BYTES: Final = 64 * 1024
"""Of one file's entry, and of everything except the lists of files. A path of 4,096 bytes that are not UTF-8 takes 24 KiB, and an entry has two."""

_STRING: Final = rb'"(?:[^"\\]++|\\.)*+"'
_PLAIN: Final = rb'[^"{}\[\]]*+'
_LIST: Final = re.compile(rb'"(files|skipped)"\s*+:\s*+\[')
_EMPTY: Final = re.compile(rb"\s*+\]")
_ENTRY: Final = re.compile(
    rb"\s*+(\{" + _PLAIN + rb"(?:" + _STRING + _PLAIN + rb")*+\})\s*+([,\]])",
    re.DOTALL,
)
_FILES: Final = TypeAdapter(Annotated[list[FileEntry], FailFast()])
_SKIPPED: Final = TypeAdapter(Annotated[list[Skipped], FailFast()])


class Piece(NamedTuple):
    """Consecutive bytes of an object."""

    body: bytes
    last: bool


class _NeedsMoreError(Exception):
    """The pieces read so far end within something."""


class ManifestReader:
    """Reads one rank's manifest: `feed` it the next piece whenever it `wants` one, and take `files` until `head` is there."""

    def __init__(self, entry: RankManifest | None, files_max: int = FILES_MAX, *, keeps_skipped: bool = False) -> None:
        """Start a manifest.

        Args:
            entry: how a commit names it; None: no commit does, and its digest is not compared.
            files_max: limit of its files and links, and of the skipped files that are kept.
            keeps_skipped: fill `all_skipped`.
        """
        self._entry, self._files_max, self._keeps_skipped = entry, files_max, keeps_skipped
        self.where = f"the manifest of rank {entry.rank}" if entry is not None else "it"
        """Its name in complaints."""
        self._digest = hashlib.sha256()
        self.bytes_read = 0
        """Size of the pieces read so far."""
        self._ended = False
        self.matches = False
        """Whether it is read to its end, and is the one that the commit names."""
        self._text, self._at = b"", 0
        self._list, self._fresh = "", False
        """The list that is being read: `files`, `skipped`, or empty outside of both; and whether none of its entries is read."""
        self._outside = bytearray()
        """The manifest with both lists empty, as far as it is read."""
        self.wants = True
        """Whether the next piece is needed."""
        self.listed = 0
        """Files and links read so far."""
        self.skipped: Skipped | None = None
        """The first regular file that was skipped."""
        self.all_skipped: list[Skipped] = []
        """Everything that was skipped, if it is kept."""
        self.head: ManifestHead | None = None
        """The manifest without its lists, once they are read."""

    @property
    def digest(self) -> str:
        """SHA-256 of the pieces read so far, hex."""
        return self._digest.hexdigest()

    def feed(self, piece: Piece) -> None:
        """Take the next piece.

        Raises:
            BadCommitError: it is the last one, and the manifest has another digest than the commit says.
        """
        self._digest.update(piece.body)
        self.bytes_read += len(piece.body)
        self._ended = piece.last
        if piece.last and self._entry is not None:
            check_digest(self._entry, self.digest)
            self.matches = True
        self._text, self._at, self.wants = self._text[self._at :] + piece.body, 0, False

    def files(self) -> list[FileEntry]:
        """Parse the next files, links included. Empty: another piece is needed, or the manifest is read.

        Raises:
            BadCommitError: the manifest does not parse, or has too many files.
        """
        try:
            while self.head is None:
                if not self._list:
                    self._seek_list()
                    continue
                name, entries = self._list, self._entries()
                if name == "skipped":
                    self._note_skipped(entries)
                elif entries:
                    return self._parsed_files(entries)
        except _NeedsMoreError:
            self.wants = True
        return []

    def _seek_list(self) -> None:
        """Go to the next list; at the end of the manifest, parse what is outside of the lists."""
        found = _LIST.search(self._text, self._at)
        if found is None:
            self._check_length(len(self._outside) + len(self._text) - self._at)
            if not self._ended:
                raise _NeedsMoreError
            self._finish()
            return
        self._outside += self._text[self._at : found.end()] + b"]"
        self._check_length(len(self._outside))
        self._list, self._fresh, self._at = found[1].decode(), True, found.end()

    def _entries(self) -> list[bytes]:
        """Return the next entries of the list, at most `BATCH`, unparsed. At the list's end, leave it."""
        found: list[bytes] = []
        if self._fresh and (empty := _EMPTY.match(self._text, self._at)) is not None:
            self._list, self._at = "", empty.end()
            return found
        while len(found) < BATCH:
            entry = _ENTRY.match(self._text, self._at)
            if entry is None:
                self._check_length(len(self._text) - self._at)
                if found:
                    break
                if not self._ended:
                    raise _NeedsMoreError
                raise self._bad(f"entry {self.listed + 1} of its files is not a flat object")
            self._check_length(entry.end() - self._at)
            found.append(entry[1])
            self._fresh, self._at = False, entry.end()
            if entry[2] == b"]":
                self._list = ""
                break
        return found

    def _parsed_files(self, entries: list[bytes]) -> list[FileEntry]:
        self.listed += len(entries)
        if self.listed > self._files_max:
            raise BadCommitError(f"it has more than {FILES_MAX} files: exclude some with spec.checkpoint.exclude")
        try:
            return _FILES.validate_json(_array(entries), by_alias=True, by_name=False)
        except ValidationError as error:
            raise self._invalid("files", error) from None

    def _note_skipped(self, entries: list[bytes]) -> None:
        try:
            read = _SKIPPED.validate_json(_array(entries), by_alias=True, by_name=False)
        except ValidationError as error:
            raise self._invalid("skipped", error) from None
        self.skipped = self.skipped or next((one for one in read if one.regular), None)
        if self._keeps_skipped:
            self.all_skipped += read
            if len(self.all_skipped) > self._files_max:
                raise self._bad(f"it has more than {FILES_MAX} skipped files")

    def _finish(self) -> None:
        manifest = parsed_document(Manifest, bytes(self._outside + self._text[self._at :]), self.where)
        if manifest.files or manifest.skipped:
            # JSON can spell the name of a field with escapes, which the search does not know.
            raise self._bad("its lists of files have names with escapes")
        self.head = manifest

    def _check_length(self, length: int) -> None:
        if length > VALUE_MAX_BYTES:
            raise self._bad(f"a value in it, or all of it except its files, is longer than {VALUE_MAX_BYTES} bytes")

    def _invalid(self, name: str, error: ValidationError) -> BadCommitError:
        first = error.errors(include_input=False, include_url=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"][1:])
        return self._bad(f"{name}{'.' if field else ''}{field} is invalid ({first['type']})")

    def _bad(self, why: str) -> BadCommitError:
        return BadCommitError(f"{self.where} does not parse: {why}")


def _array(entries: list[bytes]) -> bytes:
    return b"[" + b",".join(entries) + b"]"
