"""The agent: watches the volume, ships checkpoints, asks the training to stop, reports progress.

The main thread reads annotations and signals and never blocks. Watching, shipping and serving have a thread each. If a
thread dies, the process exits and the kubelet restarts the container.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

from trainingrun_operator.agent import podinfo, process, relay, serve, stop
from trainingrun_operator.agent.config import Pace, Paths, PodMemory, Task, began_ns
from trainingrun_operator.agent.ledger import Ledger
from trainingrun_operator.agent.measure.files import Measures
from trainingrun_operator.agent.measure.push import Pushed, write_token
from trainingrun_operator.agent.report import Board
from trainingrun_operator.agent.ship import NoShipper, Shipper
from trainingrun_operator.agent.signals import Signaller
from trainingrun_operator.agent.volume import root, saved
from trainingrun_operator.agent.volume.look import Watcher
from trainingrun_operator.checkpoints import bucket

if TYPE_CHECKING:
    from collections.abc import Callable

    from trainingrun_operator.agent.volume.look import View

log = logging.getLogger(__name__)

LEAVE_SECONDS = 15.0
"""Time without progress after which a released agent leaves although it could not save what was written since."""
SCAN_SHARE = 10
"""Scans use at most one tenth of a core."""


class Agent:
    """The agent of one pod."""

    def __init__(self, task: Task, paths: Paths, pace: Pace) -> None:
        memory = PodMemory(paths.control, task.pod.uid)
        since_ns = began_ns(task.config, memory)
        self._task = task
        self._paths = paths
        self._pace = pace
        self._since = memory.started_at
        self._stop_file = stop.StopFile(task.root, paths.control, task.config.stop_file, self._since)
        # A rescue leaves the volume as it is, and stops no training.
        if memory.first_start and not task.config.rescues:
            self._stop_file.clear_stale()
        self._markers = tuple(stop.inside(name) for name in task.config.marker_files)
        self._signaller = Signaller(task, memory)
        self._watcher = Watcher(task.config, stop.inside(task.config.stop_file), paths.control / saved.NAME)
        self._board = Board(task.pod, since_ns)
        self._pushed = Pushed()
        self._measures = Measures(str(task.root), task.pod.uid, since_ns, self._pushed)
        self._shipper = self._make_shipper(memory, since_ns) if task.config.destination else NoShipper()
        self._sigterm = False
        self._dead = False
        self._leaving: tuple[tuple[int, int], float] | None = None
        """Since the release and SIGTERM: the newest progress, and its `time.monotonic`."""
        self._complained: tuple[str, ...] = ()

    def _make_shipper(self, memory: PodMemory, since_ns: int) -> Shipper:
        store = bucket.Bucket(bucket.client(self._task.config), self._task.layout.bucket)
        ledger = Ledger(store, self._task, memory)
        shipper = Shipper(self._task, store, ledger, self._watcher, self._board, self._pace)
        shipper.since_ns = since_ns
        return shipper

    def run(self) -> int:
        """Run until SIGTERM, and after it until the last commit is written. Return the exit code."""
        # The handlers only set a flag: the main thread may hold any lock when they run.
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._on_signal)
        write_token(self._paths.control)
        config = self._task.config
        serve.start(config.port, self._page, self._measures.page, self._pushed.take, relay.page(config.metrics_page))
        self._start("watch", self._watch)
        self._start("ship", self._shipper.run)
        log.info(
            "Watching %s of run %s/%s. Destination: %s.",
            config.path,
            config.namespace,
            config.run,
            config.destination or "none, nothing is saved",
        )
        while True:
            code = self._poll()
            if code is not None:
                self._shipper.close()
                return code
            time.sleep(self._pace.poll)

    def _on_signal(self, *_: object) -> None:
        self._sigterm = True

    def _poll(self) -> int | None:
        """Read the requests and pass them on. Return the exit code once there is one."""
        asked = self._asked()
        if asked.released:
            # Exit only on SIGTERM: the kubelet restarts a sidecar that exits before the pod's other containers.
            return self._leave() if self._sigterm else None
        if asked.stop:
            self._stop_file.write(asked.stop.id)
            self._signaller.ask(asked.stop)
        self._shipper.ask(asked.save, asked.stop.id if asked.stop else None)
        if self._sigterm:
            self._shipper.terminate()
        return 1 if self._dead else self._shipper.outcome

    def _leave(self) -> int | None:
        """Save what other containers have written since the pod was released. Return the exit code once that is done, or is not getting on."""
        self._shipper.terminate(released=True)
        progress = self._board.progress()
        if self._leaving is None or self._leaving[0] != progress:
            self._leaving = progress, time.monotonic()
        if self._dead or self._shipper.outcome is not None:
            return 0
        if time.monotonic() - self._leaving[1] < LEAVE_SECONDS:
            return None
        log.warning("Leaving, %g s without progress: files written after the last commit may be lost.", LEAVE_SECONDS)
        return 0

    def _asked(self) -> podinfo.Asked:
        try:
            text = self._paths.annotations.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return podinfo.Asked()  # not projected yet
        asked = podinfo.asked(text)
        if asked.unreadable != self._complained:
            self._complained = asked.unreadable
            for name in asked.unreadable:
                log.warning("Ignoring annotation %s: its value does not parse.", name)
        return asked

    def _page(self) -> str:
        """Return the body of `GET /progress`. Marker files are read now: a training may write one and exit at once."""
        markers = stop.markers(self._task.root, self._markers, self._since, time.time())
        return self._board.report(markers, foreign=self._stop_file.is_foreign()).model_dump_json(by_alias=True)

    def _watch(self) -> None:
        while True:
            before = time.thread_time()
            view = self._watcher.look()
            spent = max(view.scan.seconds, time.thread_time() - before)
            if (trouble := self._volume_trouble(view)) is not None:
                self._trouble(*trouble)
            else:
                self._board.works("volume")
            self._tell_of_changes(view)
            self._board.looked(view)
            self._measures.looked(view.scan.entries)
            self._shipper.looked(view)
            why = self._signaller.look(view)
            if self._board.not_signalled(why) and why:
                log.warning("Cannot send %s: %s.", self._task.config.stop_signal, why)
            time.sleep(max(self._pace.scan, spent * SCAN_SHARE))

    def _volume_trouble(self, view: View) -> tuple[str, str] | None:
        """Return code and message of what keeps checkpoints from being written or read; None: nothing."""
        path = self._task.config.path
        if view.scan.too_many:
            return "TooManyFiles", f"{path} has more files than supported"
        if view.error:
            return "Unreadable", view.error
        if not view.scan.everything and not self._task.config.rescues and root.is_read_only(path):
            return "ReadOnly", f"{path}: {root.READ_ONLY}"
        return None

    def _tell_of_changes(self, view: View) -> None:
        if not view.changing:
            self._board.works("pauses")
            return
        quiet = self._task.config.quiet_seconds
        message = (
            f"{self._task.root}/{view.changing} is written anew more often than every {quiet:g} s, and no moment was found at which all files"
            " are known to be whole: write to a new name, or exclude the file with spec.checkpoint.exclude"
        )
        if self._board.failed("pauses", "KeepsChanging", message):
            log.warning("KeepsChanging: %s.", message)

    def _trouble(self, code: str, message: str) -> None:
        if self._board.failed("volume", code, message):
            log.warning("%s: %s.", code, message)

    def _start(self, name: str, work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                work()
            except Exception:
                log.exception("The %s thread died; the agent restarts.", name)
                self._dead = True

        threading.Thread(target=guarded, name=name, daemon=True).start()


def run(paths: Paths | None = None, pace: Pace | None = None) -> int:
    """Run the agent. Ends the process instead of returning, so that requests in flight do not delay the exit."""
    process.set_up()
    code = Agent(Task.from_env(), paths or Paths(), pace or Pace()).run()
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)
