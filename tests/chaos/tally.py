"""What a campaign counts."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chaos.story import Account


@dataclass(frozen=True)
class Tally:
    """Sums over its stories, in memory and on the cluster alike."""

    runs: int = 0
    faults: int = 0
    lost_bytes: int = 0
    double_deletes: int = 0
    double_releases: int = 0
    unconverged: int = 0

    def plus(self, account: Account) -> Tally:
        return Tally(
            self.runs + 1,
            self.faults + account.faults,
            self.lost_bytes + account.lost_bytes,
            self.double_deletes + account.double_deletes,
            self.double_releases + account.double_releases,
            self.unconverged + bool(account.complaints),
        )

    def and_of(self, other: Tally) -> Tally:
        return Tally(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))

    @property
    def good(self) -> bool:
        return not (self.lost_bytes or self.double_deletes or self.double_releases or self.unconverged)

    def line(self, seed: int) -> str:
        """The last line of a campaign."""
        return (
            f"chaos: runs={self.runs} faults={self.faults} lost_bytes={self.lost_bytes} double_deletes={self.double_deletes}"
            f" double_releases={self.double_releases} unconverged={self.unconverged} seed={seed}"
        )
