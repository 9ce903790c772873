"""A real S3 server for tests: versitygw over a folder, on loopback, one process per call."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config
from ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_s3 import S3Client

ACCESS_KEY = "test-access"
SECRET_KEY = "test-secret"
REGION = "us-east-1"
START_SECONDS = 15


@dataclass(frozen=True)
class S3Server:
    """A running server; its one account may do everything."""

    endpoint_url: str
    folder: Path
    """Holds one folder per bucket, and in it the objects as files."""
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY
    region: str = REGION

    @property
    def port(self) -> int:
        return int(self.endpoint_url.rpartition(":")[2])

    def client(self) -> S3Client:
        """A client of its account; it sends only the checksums that are asked for."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=self.region,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
        )


def find_binary() -> Path:
    """$TRAININGRUN_VERSITYGW, then PATH, then the newest one that `make cluster` has built.

    Raises:
        RuntimeError: there is none; says how to get it. A test that needs it must fail, not skip.
    """
    if named := os.environ.get("TRAININGRUN_VERSITYGW"):
        return Path(named)
    if on_path := shutil.which("versitygw"):
        return Path(on_path)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trainingrun"
    # Not all of the cache: the engine's layers in it come and go while one looks.
    tools = cache / "bin"
    built = sorted((path for path in tools.rglob("versitygw") if path.is_file()), key=lambda path: path.stat().st_mtime)
    if built:
        return built[-1]
    raise RuntimeError(
        "These tests need the S3 server versitygw: run `make cluster` once, or `go install github.com/versity/versitygw/cmd/versitygw@latest`"
        f" and put it on PATH, or name it in TRAININGRUN_VERSITYGW. Looked on PATH and under {tools}."
    )


@contextlib.contextmanager
def running(
    folder: Path,
    *,
    port: int = 0,
    secret_key: str = SECRET_KEY,
    cert: Path | None = None,
    key: Path | None = None,
    versions: Path | None = None,
) -> Iterator[S3Server]:
    """Run a server over a folder, on a free port unless one is named; with certificate and key it speaks TLS; with a folder for versions, buckets may keep them.
    Its log is ``server.log`` beside the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    command = [
        str(find_binary()),
        "--access",
        ACCESS_KEY,
        "--secret",
        secret_key,
        "--region",
        REGION,
        "--port",
        f"127.0.0.1:{port}",
    ]
    if cert and key:
        command += ["--cert", str(cert), "--key", str(key)]
    keeps = []
    if versions is not None:
        versions.mkdir(parents=True, exist_ok=True)
        keeps = ["--versioning-dir", str(versions)]
    log = folder.parent / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "posix", *keeps, str(folder)], stdout=output, stderr=subprocess.STDOUT)
    try:
        _wait(process, port, log)
        yield S3Server(f"{'https' if cert else 'http'}://127.0.0.1:{port}", folder, secret_key=secret_key)
    finally:
        process.terminate()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.2):
            return
        time.sleep(0.02)
    raise RuntimeError(f"versitygw does not listen on port {port}. Its log:\n{log.read_text(errors='replace')}")
