"""One S3 server for the session; a run of its own, and pods of it, for each test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import s3server
from integration.agent.pods import BUCKET, Pod, Store
from integration.agent.proxy import Proxy, between

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[s3server.S3Server]:
    folder = tmp_path_factory.mktemp("s3")
    with s3server.running(folder / "data") as running:
        Store(running).s3.create_bucket(Bucket=BUCKET)
        yield running


@pytest.fixture
def store(server) -> Store:
    return Store(server)


@pytest.fixture
def proxy(server) -> Iterator[Proxy]:
    with between(server.endpoint_url) as proxy:
        yield proxy


@pytest.fixture
def make_pod(tmp_path: Path, store: Store) -> Iterator[Callable[..., Pod]]:
    pods: list[Pod] = []

    def make(
        name: str = "llm-0",
        folder: str = "node",
        endpoint: str = "",
        store: Store = store,
        rank: int | None = None,
        **options,
    ) -> Pod:
        pods.append(Pod(tmp_path / folder, store, name, endpoint, rank, options))
        return pods[-1]

    yield make
    for pod in pods:
        if pod.process and pod.process.poll() is None:
            pod.process.kill()
            pod.process.wait()
