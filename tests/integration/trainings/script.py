"""A training script of the docs, run as a pod would: on the real libraries, by the page's own user, with a network of its own."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import documented
import yaml
from waiting import eventually

from trainingrun_operator.agent.volume.look import View, Watcher
from trainingrun_operator.api.exchange import AgentConfig
from trainingrun_operator.api.run import Metrics, Shutdown
from trainingrun_operator.core.facts.reading import Reading
from trainingrun_operator.edge.metrics import prometheus

if TYPE_CHECKING:
    from collections.abc import Iterator

GUIDE: Final = documented.ROOT / "docs" / "training"
QUIET_SECONDS: Final = 1.0
"""Of `timing.agentSettleSeconds`, instead of 10: nothing else of what is decided changes with it."""
START_SECONDS: Final = 90
"""For importing the libraries, on a busy machine."""
_CLONE_NEWNET: Final = 0x40000000
# Mounts that nobody else sees, and that go with the process. `exec` all the way: the process id is the training's.
_IN_ITS_POD: Final = """set -eu
ip link set lo up
mount --rbind /proc "$ROOT/proc"
mount --rbind /dev "$ROOT/dev"
mount -t tmpfs -o mode=1777 tmpfs "$ROOT/tmp"
mount --bind "$SCRIPT" "$ROOT/training"
mount --bind "$FOLDER" "$ROOT/checkpoints"
exec chroot --userspec="$AS" "$ROOT" /usr/bin/env --ignore-environment --chdir=/training PATH=/usr/bin:/bin "$@"
"""


def script_of(page: str) -> str:
    (block,) = [one for one in documented.blocks(GUIDE / f"{page}.md") if one.title == "train.py"]
    return block.text


def pod_of(page: str) -> dict[str, Any]:
    """The pod's template in the page's own TrainingRun."""
    (block,) = [one for one in documented.blocks(GUIDE / f"{page}.md") if one.title == f"{page}.yaml"]
    template: dict[str, Any] = yaml.safe_load(block.text)["spec"]["template"]["spec"]
    return template


class Training:
    """One folder of checkpoints, and the processes that train in it, one after the other."""

    def __init__(self, root: Path, work: Path, page: str, script: str = "") -> None:
        self.page = page
        pod = pod_of(page)
        (container,) = pod["containers"]
        self._user = pod["securityContext"]["runAsUser"]
        self._command = container["command"]
        self._environment = {one["name"]: one["value"] for one in container.get("env", ())}
        self._root, self._work = root, work
        self.folder, self._source = work / "checkpoints", work / "training"
        for folder in (self.folder, self._source):
            folder.mkdir()
            os.chown(folder, self._user, self._user)
        (self._source / "train.py").write_text(script or script_of(page))
        self._stop_file = Shutdown().file
        self._watcher: Watcher | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._network: ThreadPoolExecutor | None = None

    # -- the process ------------------------------------------------------------------------------------------------

    @property
    def log(self) -> Path:
        return self._work / "log"

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """A process that trains; killed if it is still there at the end."""
        config = AgentConfig(
            namespace="ml",
            run="docs",
            run_uid="1",
            path=str(self.folder),
            destination="",
            quiet_seconds=QUIET_SECONDS,
        )
        self._watcher = Watcher(config, self._stop_file)
        # One thread: on a busy machine more of them wait for each other.
        variables = self._environment | {"TRAININGRUN_CHECKPOINT_DIR": "/checkpoints", "OMP_NUM_THREADS": "1"}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                ["unshare", "--net", "--mount", "sh", "-c", _IN_ITS_POD, "training"]
                + [f"{name}={value}" for name, value in variables.items()]
                + self._command,
                env={
                    "PATH": os.environ["PATH"],
                    "ROOT": str(self._root),
                    "SCRIPT": str(self._source),
                    "FOLDER": str(self.folder),
                    "AS": f"{self._user}:{self._user}",
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            eventually(self._has_a_network, "it has a network of its own", START_SECONDS, every=0.05)
            with ThreadPoolExecutor(1, initializer=self._enter_network) as self._network:
                yield
        except BaseException as error:
            error.add_note(self.log.read_text()[-4000:])
            raise
        finally:
            self._process.kill()
            self._process.wait()

    def _has_a_network(self) -> bool:
        assert self._process
        return not Path(f"/proc/{self._process.pid}/ns/net").samefile("/proc/self/ns/net")

    def _enter_network(self) -> None:
        """Of the thread that scrapes alone, for as long as it lives."""
        assert self._process
        with Path(f"/proc/{self._process.pid}/ns/net").open() as network:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(network.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")

    @contextlib.contextmanager
    def slowed(self, share: float) -> Iterator[None]:
        """Let it run for a share of the time only: the pages' trainings are small and would end before anybody has looked."""
        process, over = self._process, threading.Event()
        assert process

        def slow() -> None:
            while not over.wait(0.1 * share):
                process.send_signal(signal.SIGSTOP)
                over.wait(0.1 * (1 - share))
                process.send_signal(signal.SIGCONT)

        slowing = threading.Thread(target=slow)
        slowing.start()
        try:
            yield
        finally:
            over.set()
            slowing.join()

    def ask_to_stop(self) -> None:
        """As the agent does."""
        (self.folder / self._stop_file).touch()

    def sigterm(self) -> None:
        """As an eviction does, or the agent where it is asked to."""
        assert self._process
        self._process.send_signal(signal.SIGTERM)

    def exit_code(self) -> int:
        """Wait for its end, for no longer than a run's grace.

        Raises:
            subprocess.TimeoutExpired: it has not left by then.
        """
        assert self._process
        return self._process.wait(Shutdown().grace_seconds)

    # -- what the operator and the agent see ------------------------------------------------------------------------

    def sample(self) -> Reading | None:
        """What the operator reads from its page; None while there is no page, or no step yet."""
        assert self._process
        assert self._network
        assert self._process.poll() is None, "it has ended"
        read = self._network.submit(lambda: asyncio.run(_scrape())).result()
        return read if isinstance(read, Reading) and read.step else None

    def look(self, *, ended: bool = False) -> View:
        """What the agent sees of the folder."""
        assert self._watcher
        return self._watcher.look(ended=ended)


async def _scrape() -> Reading | object:
    where = Metrics()
    async with prometheus.make_session() as session:
        return await prometheus.scrape(session, f"http://127.0.0.1:{where.port}{where.path}", where.names)
