"""What the bucket says about a commit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainingrun_operator.checkpoints.documents import Commit


@dataclass(frozen=True)
class Verified:
    """A commit whose manifests and objects were all read back and matched."""

    key: str
    digest: str
    uri: str
    commit: Commit
    passed_over: tuple[Mismatch, ...] = ()
    """Newer commits that did not verify."""


@dataclass(frozen=True)
class Mismatch:
    """A commit that did not verify."""

    key: str
    complaint: str
    id: str | None = None
    attempt: int = 0
    curable: bool = True
    """Whether another upload may verify; False: it would fail alike, as in a store that keeps no checksums."""


@dataclass(frozen=True)
class Unreachable:
    """The bucket could not be read."""

    code: str
    message: str


Answer = Verified | Mismatch | Unreachable
"""The bucket's answer to a save request; None: no commit yet."""
