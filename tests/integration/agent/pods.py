"""A training pod as folders and processes: volume, control, podinfo, and a real agent or restore beside them."""

from __future__ import annotations

import functools
import itertools
import json
import os
import signal
import time
import urllib.request
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
import read_only
import rights
from botocore.compat import get_current_datetime
from botocore.config import Config
from botocore.crt import auth
from integration.agent.processes import Process
from ports import free_port
from waiting import eventually

from trainingrun_operator.agent import config
from trainingrun_operator.api import exchange, names
from trainingrun_operator.api.exchange import AgentConfig, AgentReport
from trainingrun_operator.api.restored import Restored
from trainingrun_operator.checkpoints.documents import Commit, Manifest
from trainingrun_operator.checkpoints.keys import Layout, order_of_commit

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_s3 import S3Client
    from s3server import S3Server

T = TypeVar("T")

BUCKET = "runs"
CLOCK = "clock"
"""File in the control folder: by how many seconds the clock of a process is wrong."""
SOON_SECONDS = 45
"""For anything that an agent should do soon; generous, because a busy machine may let it wait."""
_uids = itertools.count()


def run_agent(podinfo: Path, control: Path) -> int:
    """Be the agent, in a process of its own."""
    from trainingrun_operator.agent import main  # noqa: PLC0415 - the test process has no use for it

    return main.run(config.Paths(podinfo, control), config.Pace(scan=0.2, backoff_max=1.0, fence=0.5, ranks_max=1.0))


def run_agent_of_a_user(podinfo: Path, control: Path) -> int:
    """Likewise, with the rights of a user, also if the test runs as root."""
    with rights.of_a_user():
        return run_agent(podinfo, control)


def _with_a_read_only_volume() -> None:
    """Mount the volume read-only, unless it is so already."""
    volume = Path(json.loads(os.environ[exchange.AGENT_CONFIG_ENV])["path"])
    if not os.statvfs(volume).f_flag & os.ST_RDONLY:
        read_only.mount(volume)


def run_agent_on_a_read_only_volume(podinfo: Path, control: Path) -> int:
    """Be the agent of a pod that mounts its volume read-only."""
    _with_a_read_only_volume()
    return run_agent(podinfo, control)


def run_restore_on_a_read_only_volume(podinfo: Path, control: Path) -> int:
    """Likewise, the restore."""
    _with_a_read_only_volume()
    return run_restore(podinfo, control)


class _Clock:
    """The time of a process whose clock is wrong by the seconds in a file."""

    def __init__(self, file: Path) -> None:
        self.off = lambda: float(file.read_text())

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def time(self) -> float:
        return time.time() + self.off()


def run_agent_with_a_clock(podinfo: Path, control: Path) -> int:
    """Likewise, with a clock of its own, by which requests are signed."""
    from trainingrun_operator.checkpoints import signing  # noqa: PLC0415 - likewise

    clock = _Clock(control / CLOCK)
    vars(signing)["time"] = clock
    vars(auth)["get_current_datetime"] = lambda **how: get_current_datetime(**how) + timedelta(seconds=clock.off())
    return run_agent(podinfo, control)


def run_restore(podinfo: Path, control: Path) -> int:
    """Likewise, before a training starts."""
    from trainingrun_operator.agent import restore  # noqa: PLC0415 - likewise

    paths = config.Paths(podinfo, control, control / "termination-log")
    return restore.run(paths, limit_seconds=30, retry_seconds=0.3)


def wait_for(look: Callable[[], T | None], seconds: float = SOON_SECONDS) -> T:
    return eventually(look, "what the test waits for", seconds, every=0.02)


def quote(value: str) -> str:
    """Go's strconv.Quote, for what JSON can hold."""
    return json.dumps(value)


@functools.cache
def client(server: S3Server) -> S3Client:
    return boto3.client(
        "s3",
        endpoint_url=server.endpoint_url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name=server.region,
        config=Config(s3={"addressing_style": "path"}),
    )


@dataclass
class Store:
    """One run's objects, read by the test with a client of its own."""

    server: S3Server
    uid: str = field(default_factory=lambda: f"uid-{os.getpid()}-{next(_uids)}")

    def __post_init__(self) -> None:
        self.layout = Layout.of(f"s3://{BUCKET}/prefix", "team", "llm", self.uid)
        self.s3 = client(self.server)

    def keys(self, prefix: str = "") -> list[str]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=self.layout.base + prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", ())]

    def etags(self) -> dict[str, str]:
        pages = self.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=self.layout.base)
        return {item["Key"]: item["ETag"] for page in pages for item in page.get("Contents", ())}

    def read(self, key: str) -> bytes:
        return self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def commits(self) -> list[Commit]:
        keys = [key for key in self.keys("commits/") if order_of_commit(key)]
        commits = [Commit.model_validate_json(self.read(key), by_alias=True, by_name=False) for key in keys]
        return sorted(commits, key=lambda commit: commit.order)

    def manifest(self, commit: Commit, rank: int = 0) -> Manifest:
        return Manifest.model_validate_json(self.read(commit.ranks[rank].key), by_alias=True, by_name=False)

    def content(self, commit: Commit, rank: int = 0) -> dict[str, bytes]:
        files = self.manifest(commit, rank).files
        return {file.path: self.read(file.key) for file in files if file.link_target is None}


@dataclass
class Pod:
    """One pod of the run."""

    folder: Path
    store: Store
    name: str = "llm-0"
    endpoint: str = ""
    rank: int | None = None
    """Of an Indexed Job's pod."""
    options: dict[str, Any] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)
    """More variables, as a webhook adds them to the container."""
    read_only: bool = False
    """Whether its processes have the volume mounted read-only."""

    def __post_init__(self) -> None:
        self.volume = self.folder / "checkpoints"
        self.control = self.folder / f"{self.name}-control"
        self.podinfo = self.folder / f"{self.name}-podinfo"
        self.secret = self.folder / f"{self.name}-secret"
        for one in (self.volume, self.control, self.podinfo, self.secret):
            one.mkdir(parents=True, exist_ok=True)
        self.keys(self.store.server.secret_key)
        self.port = free_port()
        self.annotations: dict[str, str] = {}
        self.log = self.folder / f"{self.name}.log"
        self.process: Process | None = None

    def keys(self, secret_key: str) -> None:
        """Put them where the kubelet would."""
        (self.secret / names.ACCESS_KEY).write_text(self.store.server.access_key)
        (self.secret / names.SECRET_KEY).write_text(secret_key)

    def environment(self) -> dict[str, str]:
        options: dict[str, Any] = {"quiet_seconds": 0.5, "secret_dir": str(self.secret)} | self.options
        agent = AgentConfig(
            namespace="team",
            run="llm",
            run_uid=self.store.uid,
            path=str(self.volume),
            destination=f"s3://{BUCKET}/prefix",
            endpoint_url=self.endpoint or self.store.server.endpoint_url,
            region=self.store.server.region,
            port=self.port,
            **options,
        )
        pod = {"POD_NAME": self.name, "POD_UID": f"{self.store.uid}-{self.name}", "NODE_NAME": "gpu-7"}
        given = {exchange.AGENT_CONFIG_ENV: json.dumps(agent.dump())}
        if self.rank is not None:
            given[names.RANK_ENV] = str(self.rank)
        return os.environ | pod | given | self.environ

    def _spawn(self, run: Callable[..., int]) -> Process:
        return Process(run, (self.podinfo, self.control), self.environment(), self.log)

    def start(self, *, of_a_user: bool = False, has_clock: bool = False) -> Pod:
        on_volume = run_agent_on_a_read_only_volume if self.read_only else run_agent
        run = run_agent_with_a_clock if has_clock else run_agent_of_a_user if of_a_user else on_volume
        self.process = self._spawn(run)
        return self

    def set_clock(self, seconds: float) -> None:
        """By how much the clock of a process that has one is wrong."""
        fresh = self.control / "fresh-clock"
        fresh.write_text(str(seconds))
        fresh.replace(self.control / CLOCK)

    def start_restore(self) -> Process:
        (self.control / "termination-log").write_bytes(b"")
        return self._spawn(run_restore_on_a_read_only_volume if self.read_only else run_restore)

    def restore(self) -> int:
        return self.start_restore().wait(timeout=20)

    def said(self) -> str:
        """The restore's termination message."""
        return (self.control / "termination-log").read_text()

    def restored(self) -> Restored:
        return Restored.model_validate_json(self.said(), by_alias=True, by_name=False)

    def resume_from(self) -> str:
        return (self.control / "resume_from").read_text().strip()

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self, seconds: float = SOON_SECONDS) -> int:
        assert self.process is not None
        return self.process.wait(timeout=seconds)

    def annotate(self, **requests: Any) -> None:
        """``stop``, ``save`` or ``released``, swapped in as the kubelet does."""
        for name, request in requests.items():
            self.annotations[f"{names.GROUP}/{name}"] = (
                request if isinstance(request, str) else json.dumps(request.dump())
            )
        text = "".join(f"{key}={quote(value)}\n" for key, value in sorted(self.annotations.items()))
        fresh = self.podinfo / "..annotations"
        fresh.write_text(text)
        fresh.replace(self.podinfo / "annotations")

    def report(self) -> AgentReport | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/progress", timeout=2) as answer:
                return AgentReport.model_validate_json(answer.read(), by_alias=True, by_name=False)
        except OSError:
            return None

    def reports(self, fits: Callable[[AgentReport], Any], seconds: float = SOON_SECONDS) -> AgentReport:
        """Wait until the agent's page fits."""
        last: AgentReport | None = None

        def look() -> AgentReport | None:
            nonlocal last
            last = self.report() or last
            return last if last and fits(last) else None

        try:
            return wait_for(look, seconds)
        except AssertionError as none:
            raise AssertionError(f"last report: {last}\nlog:\n{self.log.read_text()}") from none
