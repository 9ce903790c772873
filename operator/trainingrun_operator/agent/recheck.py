"""Check the volume before the last commit, after the training has ended: by content, and whether every file can be read.

While it trains, a file of the same size and modification time counts as unchanged. That is not enough for the last commit: a memory-mapped file can
change without either. In memory (tmpfs) only the first write of a page moves the time, on a disk only the first one since the page was written back.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from trainingrun_operator.agent.cargo import PreemptedError, Tally, UnreadableError
from trainingrun_operator.agent.volume.look import open_inside
from trainingrun_operator.agent.volume.scan import Entry, Kind
from trainingrun_operator.checkpoints.bucket import crc_of_file, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trainingrun_operator.agent.cargo import Sent
    from trainingrun_operator.agent.ledger import Ledger
    from trainingrun_operator.agent.plan import Wish
    from trainingrun_operator.agent.report import Board
    from trainingrun_operator.agent.volume.scan import Scan

log = logging.getLogger(__name__)

THREADS = 4
"""The checksum takes a tenth of a core for each GB/s; the rest is waiting for the disk."""


class Recheck:
    """Reads each covered file once, so that a later try to commit does not read it again. Used by one thread."""

    def __init__(self, root: str, ledger: Ledger, board: Board, halted: Callable[[], bool]) -> None:
        self._root = root
        self._ledger = ledger
        self._board = board
        self._halted = halted
        self._same: dict[str, tuple[Entry, Sent]] = {}
        self._unreadable: str | None = None

    def failed(self, unreadable: UnreadableError) -> None:
        """Note that a file could not be read: it is tried before all others are sent again."""
        self._unreadable = unreadable.path

    def check(self, scan: Scan, wish: Wish) -> None:
        """Make the ledger forget each file that has other bytes than the bucket, so that it is sent.

        Raises:
            UnreadableError: a file or folder still cannot be read. On SIGTERM, what can be read is shipped all the same.
            PreemptedError: ``halted`` returned True.
        """
        if wish.reason != "sigterm":
            self._check_readable(scan)
        if wish.afresh:
            return
        tally = Tally()
        self._board.shipping(tally)
        try:
            changed = self._changed(scan.everything, tally)
        finally:
            self._board.shipping(None)
        for path in changed:
            self._ledger.forget(path)
        if changed:
            log.info("%d files have changed, though not their size and time, such as %s.", len(changed), changed[0])

    def _check_readable(self, scan: Scan) -> None:
        if scan.unread:
            raise UnreadableError(*scan.unread)
        path, self._unreadable = self._unreadable, None
        if path is None or path not in scan.everything:
            return
        try:
            with open_inside(self._root, path):
                return
        except OSError as failure:
            raise UnreadableError(path, failure.strerror or "cannot be read") from failure

    def _changed(self, entries: Mapping[str, Entry], tally: Tally) -> list[str]:
        """Return the covered files whose content is not what the bucket holds."""
        covered = {
            path: (entry, sent)
            for path, entry in sorted(entries.items())
            if entry.kind is Kind.FILE and (sent := self._ledger.earlier(path, entry))
        }
        due = [path for path, known in covered.items() if self._same.get(path) != known]
        with ThreadPoolExecutor(THREADS, thread_name_prefix="recheck") as pool:
            same = list(pool.map(lambda path: self._is_same(path, covered[path][1], tally), due))
        self._same |= {path: covered[path] for path, is_same in zip(due, same, strict=True) if is_same}
        return [path for path, is_same in zip(due, same, strict=True) if not is_same]

    def _is_same(self, path: str, sent: Sent, tally: Tally) -> bool:
        def counted(size: int) -> None:
            tally.hashed(size)
            if self._halted():
                raise PreemptedError

        try:
            with open_inside(self._root, path) as file:
                return encode(crc_of_file(file, counted=counted)) == sent.crc
        except OSError:
            return False  # the shipment says why
