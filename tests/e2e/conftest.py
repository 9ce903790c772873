"""What every test on the cluster has: the ground, a namespace of its own, and its turn."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from e2e.api import Api
from e2e.bucket import Bucket
from e2e.cloud import Cloud
from e2e.faults import S3Proxy
from e2e.ground import Ground, NoGroundError
from e2e.runs import Space, remove_namespaces, unique
from e2e.scheduling import together_with

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

CLEAN_UP_SECONDS = 20
HERE = Path(__file__).parent
FIRST = (
    "gpu_nodes",
    "test_load",
    "stage",
    "own_operator",
    "leaver",
    "test_api_trouble",
    "test_plugin",
    "test_effects",
    "test_disruptions",
    "own_release",
    "test_frozen_operator",
    "test_docs",
    "test_s3_away",
    "test_crash",
    "test_ways_out",
)
"""The longest first, by the fixture that they share (`scheduling.TOGETHER`) or by file: what is short fills the gaps."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put these tests in the order in which they take the least time; others keep their places."""
    places = [place for place, item in enumerate(items) if item.path.is_relative_to(HERE)]
    ordered = sorted((items[place] for place in places), key=_rank)
    for place, item in zip(places, ordered, strict=True):
        items[place] = item


def _rank(item: pytest.Item) -> int:
    name = together_with(item.nodeid) or item.path.stem
    return FIRST.index(name) - len(FIRST) if name in FIRST else 0


@pytest.fixture(scope="session")
def ground() -> Ground:
    try:
        return Ground.find()
    except NoGroundError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def api(ground: Ground) -> Api:
    return Api(ground.kubeconfig)


@pytest.fixture(scope="session")
def bucket(ground: Ground) -> Iterator[Bucket]:
    bucket = Bucket.of(ground)
    yield bucket
    bucket.client.close()


@pytest.fixture(scope="session")
def cloud(ground: Ground) -> Iterator[Cloud]:
    cloud = Cloud.of(ground)
    yield cloud
    cloud.scaling.close()
    cloud.ec2.close()


@pytest.fixture(scope="session")
def _spaces() -> Iterator[list[Space]]:
    spaces: list[Space] = []
    yield spaces
    remove_namespaces(spaces, CLEAN_UP_SECONDS)


@contextlib.contextmanager
def turn(ground: Ground, name: str, *, alone: bool) -> Iterator[None]:
    """Hold a lock that test processes share, or hold it alone; each gets it in its turn."""
    # Who wants it alone waits in the door: those who share it cannot go on taking it one after the other.
    how = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    with _locked(ground, f"{name}-door", fcntl.LOCK_EX) as door, _locked(ground, name, how):
        fcntl.flock(door, fcntl.LOCK_UN)
        yield


@contextlib.contextmanager
def _locked(ground: Ground, name: str, how: int) -> Iterator[int]:
    file = os.open(ground.locks / f"e2e-{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, how)
        yield file
    finally:
        os.close(file)


@pytest.fixture
def steady_operator(ground: Ground) -> Iterator[None]:
    """Nobody takes the operator away meanwhile. For what is measured in seconds: everything else must come through that."""
    with turn(ground, "operator", alone=False):
        yield


@pytest.fixture
def own_operator(ground: Ground) -> Iterator[None]:
    """This test may take the operator away."""
    with turn(ground, "operator", alone=True):
        yield


@pytest.fixture
def own_release(ground: Ground) -> Iterator[None]:
    """This test may install a release beside the installed one; there is one ServiceAccount for it."""
    with turn(ground, "release", alone=True):
        yield


@pytest.fixture
def gpu_nodes(ground: Ground) -> Iterator[None]:
    """No other test uses GPU nodes: the operator keeps a machine for whatever pod waits for one like it, and a test reads what the group does."""
    with turn(ground, "gpu", alone=True):
        yield


@pytest.fixture
def space(
    ground: Ground,
    api: Api,
    bucket: Bucket,
    cloud: Cloud,
    tmp_path: Path,
    _spaces: list[Space],
) -> Iterator[Space]:
    space = Space(ground, api, bucket, cloud, unique("e2e"), tmp_path)
    space.open()
    _spaces.append(space)
    yield space
    space.close()


@pytest.fixture
def elsewhere(space: Space, _spaces: list[Space]) -> Iterator[Space]:
    """Another namespace, of somebody else."""
    folder = space.folder / "elsewhere"
    folder.mkdir()
    other = Space(space.ground, space.api, space.bucket, space.cloud, unique("e2e"), folder)
    other.open()
    _spaces.append(other)
    yield other
    other.close()


@pytest.fixture
def s3_proxy(space: Space) -> S3Proxy:
    return S3Proxy.open(space)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure comes with everything that explains it."""
    report = yield
    space = getattr(item, "funcargs", {}).get("space")
    if report.failed and report.when == "call" and isinstance(space, Space):
        try:
            report.sections.append(("the cluster", space.dump()))
        except Exception as error:  # noqa: BLE001 - the failure itself must be shown, whatever the cluster answers
            report.sections.append(("the cluster", f"could not be read: {error!r}"))
    return report
