"""The agent beside the training: watches the volume, ships checkpoints, passes on the stop, reports.

The main thread reads annotations and signals and does nothing that could block; looking, shipping and serving have a
thread each. A thread that dies ends the process, and the kubelet starts it again.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING

from trainingrun_operator.agent import podinfo, process, serve, stop
from trainingrun_operator.agent.config import Pace, Paths, PodMemory, Task
from trainingrun_operator.agent.ledger import Ledger
from trainingrun_operator.agent.report import Board
from trainingrun_operator.agent.ship import NoShipper, Shipper
from trainingrun_operator.agent.signals import Signaller
from trainingrun_operator.agent.volume.look import Watcher
from trainingrun_operator.checkpoints import bucket

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

SCAN_SHARE = 10
"""Looking takes at most one part in so many of a core."""


class Agent:
    """One pod's agent, from its start to its exit code."""

    def __init__(self, task: Task, paths: Paths, pace: Pace) -> None:
        memory = PodMemory(paths.control, task.pod.uid)
        since_ns = int(memory.started_at * 1e9)
        self._task = task
        self._paths = paths
        self._pace = pace
        self._since = memory.started_at
        self._stop_file = stop.StopFile(task.root, paths.control, task.config.stop_file, self._since)
        if memory.first_start:
            self._stop_file.clear_stale()
        self._markers = tuple(stop.inside(name) for name in task.config.marker_files)
        self._signaller = Signaller(task, memory)
        self._watcher = Watcher(task.config, stop.inside(task.config.stop_file))
        self._board = Board(task.pod, since_ns)
        self._shipper = self._make_shipper(memory, since_ns) if task.config.destination else NoShipper()
        self._sigterm = False
        self._dead = False
        self._complained: tuple[str, ...] = ()

    def _make_shipper(self, memory: PodMemory, since_ns: int) -> Shipper:
        store = bucket.Bucket(bucket.client(self._task.config), self._task.layout.bucket)
        ledger = Ledger(store, self._task, memory)
        shipper = Shipper(self._task, store, ledger, self._watcher, self._board, self._pace)
        shipper.since_ns = since_ns
        return shipper

    def run(self) -> int:
        """Work until released, or until the last commit after SIGTERM is written."""
        # Handlers only set a flag: the main thread may hold any lock when they run.
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._on_signal)
        serve.start(self._task.config.port, self._page)
        self._start("watch", self._watch)
        self._start("ship", self._shipper.run)
        config = self._task.config
        log.info(
            "Watching %s for %s/%s, to %s.",
            config.path,
            config.namespace,
            config.run,
            config.destination or "nowhere: nothing is saved",
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
        """Read what is asked, pass it on; returns the exit code once there is one."""
        asked = self._asked()
        if asked.released:
            # Not before the kubelet says so: a sidecar that leaves while the gate still closes is started again.
            return 0 if self._sigterm else None
        if asked.stop:
            self._stop_file.write(asked.stop.id)
            self._signaller.ask(asked.stop)
        self._shipper.ask(asked.save, asked.stop.id if asked.stop else None)
        if self._sigterm:
            self._shipper.terminate()
        return 1 if self._dead else self._shipper.outcome

    def _asked(self) -> podinfo.Asked:
        try:
            text = self._paths.annotations.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return podinfo.Asked()  # not projected yet
        asked = podinfo.asked(text)
        if asked.unreadable != self._complained:
            self._complained = asked.unreadable
            for name in asked.unreadable:
                log.warning("Annotation %s does not parse; passed over.", name)
        return asked

    def _page(self) -> str:
        """`GET /progress`. What was said by files is looked at now: a training that says it may leave at once."""
        markers = stop.markers(self._task.root, self._markers, self._since, time.time())
        return self._board.report(markers, foreign=self._stop_file.is_foreign()).model_dump_json(by_alias=True)

    def _watch(self) -> None:
        while True:
            view = self._watcher.look()
            if view.scan.too_many:
                self._trouble("TooManyFiles", f"more than the supported number of files under {self._task.root}")
            elif view.error:
                self._trouble("Unreadable", view.error)
            else:
                self._board.works("volume")
            self._board.looked(view)
            self._shipper.looked(view)
            why = self._signaller.look(view)
            if self._board.not_signalled(why) and why:
                log.warning("%s not sent: %s.", self._task.config.stop_signal, why)
            time.sleep(max(self._pace.scan, view.scan.seconds * SCAN_SHARE))

    def _trouble(self, code: str, message: str) -> None:
        if self._board.failed("volume", code, message):
            log.warning("%s: %s.", code, message)

    def _start(self, name: str, work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                work()
            except Exception:
                log.exception("The %s thread died; the agent starts anew.", name)
                self._dead = True

        threading.Thread(target=guarded, name=name, daemon=True).start()


def run(paths: Paths | None = None, pace: Pace | None = None) -> int:
    """Be the agent. Ends the process instead of returning: requests on their way are not waited for."""
    process.set_up()
    code = Agent(Task.from_env(), paths or Paths(), pace or Pace()).run()
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)
