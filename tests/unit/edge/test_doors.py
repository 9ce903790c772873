"""What another package brings is found by its entry points, used as what is built in, and never ends the operator."""

from __future__ import annotations

import importlib
import logging
import subprocess
import sys
import zipfile
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from builders import MACHINE, OPERATION, RUN_UID, WALL, make_node, make_pod, make_pool, make_run, make_stop
from fakes import (
    NODE,
    RUN,
    FakeStore,
    Plain,
    api_server,
    pod_pages,
    served,
    stored_job,
    stored_node,
    stored_pod,
    stored_run,
)

from trainingrun_operator.api import names
from trainingrun_operator.api.status import NodePhase, Phase, RefusalKind
from trainingrun_operator.core.acceptance import complaint
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.defaults import Defaults
from trainingrun_operator.core.facts.nodes import Instance, Refusal
from trainingrun_operator.core.facts.reading import Failure
from trainingrun_operator.core.memory import Memory, remember_effects
from trainingrun_operator.edge.cache import Cache
from trainingrun_operator.edge.doors import opened
from trainingrun_operator.edge.execute import Executor
from trainingrun_operator.edge.gather.observer import Observer
from trainingrun_operator.edge.gather.pages import PodPages
from trainingrun_operator.edge.kube import Kube
from trainingrun_operator.edge.metrics import prometheus, source
from trainingrun_operator.edge.metrics.registry import GROUP as SOURCES
from trainingrun_operator.edge.metrics.registry import Sources
from trainingrun_operator.edge.nodes import provider, registry
from trainingrun_operator.edge.nodes.provider import Refused
from trainingrun_operator.edge.nodes.registry import GROUP as PROVIDERS
from trainingrun_operator.edge.nodes.registry import Registry

PACKAGE = Path(__file__).parents[2] / "third_party"


@contextmanager
def on_the_path(folder):
    """As long as it lasts, what is in the folder is installed."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        importlib.invalidate_caches()
        for name in set(sys.modules) - before:
            if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
                del sys.modules[name]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The package as its own build makes it, unpacked as an installer does."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=PACKAGE, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


@pytest.fixture
def installed(site):
    with on_the_path(site):
        yield


@pytest.fixture
async def http():
    async with prometheus.make_session() as session:
        yield session


def sources(http):
    return Sources.of(source.Tools(http, NO_LOGS))


NO_API: Any = None
NO_LOGS: Any = None
"""Neither of the providers here asks the API server."""


class Clock:
    now = 1000.0

    def monotonic(self):
        return self.now

    def wall(self):
        return WALL


# -- found ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("installed")
async def test_an_installed_package_is_found_by_its_entry_points(http):
    assert sources(http).names == ("Auto", "Files", "JSONLines", "Logs", "Prometheus", "Push")
    async with Registry.of(provider.Tools(NO_API, http)) as providers:
        assert providers(EXAMPLE) is not providers(make_pool())
        assert providers(EXAMPLE) is providers(make_pool("b", **IN_EXAMPLE_CLOUD)), "one for all pools"


async def test_without_it_there_is_what_is_built_in(http):
    assert sources(http).names == ("Auto", "Files", "Logs", "Prometheus", "Push")
    async with Registry.of(provider.Tools(NO_API, http)) as providers:
        with pytest.raises(
            Refused,
            match=r"names the provider 'ExampleCloud', which this operator does not have \(it has AWSAutoScaling\)",
        ):
            providers(EXAMPLE)


@pytest.mark.usefixtures("installed")
async def test_an_installation_that_releases_no_nodes_makes_no_providers(http):
    async with Registry.of(provider.Tools(NO_API, http), release_nodes=False) as providers:
        for pool in (EXAMPLE, make_pool()):
            with pytest.raises(Refused):
                providers(pool)


def test_a_pool_without_a_provider_is_refused_in_words():
    with pytest.raises(
        Refused, match=r"GPUNodePool bare names no provider: set spec\.awsAutoScaling or spec\.external"
    ):
        Registry({})(make_pool("bare", awsAutoScaling=None))


# -- a metric source, used ------------------------------------------------------------------------------------------

JSON_LINES: dict[str, Any] = {
    "autoStopLoss": 0.5,
    "pollIntervalSeconds": 10,
    "metrics": {"source": "JSONLines", "path": "/log.jsonl"},
}


@pytest.mark.parametrize(
    ("known", "reason"), [(("JSONLines", "Logs", "Prometheus", "Push"), None), (("Prometheus",), "UnknownMetricSource")]
)
def test_a_run_may_name_a_source_that_the_operator_has(known, reason):
    problem = complaint(make_run(spec=JSON_LINES), (), Defaults(metric_sources=known))
    assert (problem.reason if problem else None) == reason
    if problem:
        assert problem.message == (
            "spec.metrics.source is 'JSONLines', which this operator does not have (it has Prometheus). Use one of them, or ask the operator's"
            " administrator to install the package that provides it."
        )


@pytest.mark.usefixtures("installed")
async def test_a_run_ends_by_the_loss_that_its_own_source_reads(http):
    async with pod_pages() as pages:
        metrics = JSON_LINES["metrics"] | {"port": pages.port}
        spec = JSON_LINES | {"metrics": metrics, "checkpoint": {"mode": "Disabled"}}
        stored = stored_run(spec=spec, status={"startTime": "2026-01-02T03:00:00Z"})
        async with api_server(stored, stored_job(), stored_pod(), stored_node()) as api, Kube(Plain(api.url)) as kube:
            found, clock, memory, cache = sources(http), Clock(), Memory(), Cache()
            cache.pools["a100"], cache.pools_at = make_pool(), clock.now
            observer = Observer(
                kube, FakeStore(), PodPages(http, found, agent_port=pages.port), cache, Defaults(metric_sources=found.names),
                providers=Registry({}), recheck_seconds=30, relist_seconds=300, clock=clock,
            )  # fmt: skip
            executor = Executor(kube, cache, lambda: True, Registry({}))
            ended = []
            for step, loss in ((100, 2.0), (200, 0.4), (300, 0.29)):
                pages.metrics = f'{{"step": 1, "train/loss": 9}}\n{{"step": {step}, "train/loss": {loss}}}\n'
                for _ in range(4):
                    memory, seen = await observer.observe(api.objects[RUN], memory)
                    outcome = await executor.execute(seen, decide(seen).effects)
                    memory = remember_effects(memory, outcome.learned)
                ended.append(api.objects[RUN]["status"].get("terminationStatus"))
                clock.now += 10
    assert [(o.step, o.loss) for o in memory.rank(0).track.observations] == [(200, 0.4), (300, 0.29)]
    assert ended == [None, None, "auto_low_loss"]
    assert "/log.jsonl" in pages.asked
    assert "/metrics" not in pages.asked


@pytest.mark.usefixtures("installed")
async def test_what_a_source_cannot_read_is_a_failure_in_its_own_words(http):
    async with pod_pages() as pages:
        spec = {"metrics": {"source": "JSONLines", "port": pages.port}}
        target = source.Target(make_run(spec=spec), make_pod(ip="127.0.0.1"))
        reading = await sources(http).read(target)
    assert isinstance(reading, Failure)
    assert reading.reason == "NoSuchMetric"


# -- a node provider, used ------------------------------------------------------------------------------------------


class Cloud:
    """The API of the example's cloud, with one machine."""

    def __init__(self):
        self.state, self.asked, self.answers = "running", [], []
        self.url, self.lacks = "", set[str]()

    async def handle(self, request):
        self.asked.append((request.method, request.path, request.headers.get("Idempotency-Key", "")))
        if request.method == "DELETE":
            if self.answers:
                return self.answers.pop(0)
            self.state = "deleting"
        machine = {"state": self.state, "group": "gpu", "group_size": 3}
        return web.json_response({key: value for key, value in machine.items() if key not in self.lacks})

    @property
    def deletes(self):
        return [key for method, _, key in self.asked if method == "DELETE"]


IN_EXAMPLE_CLOUD: dict[str, Any] = {
    "awsAutoScaling": None,
    "external": {"provider": "ExampleCloud", "config": {"endpoint": "http://127.0.0.1:1", "group": "gpu"}},
}
EXAMPLE = make_pool(**IN_EXAMPLE_CLOUD)
OURS = {"key": names.RELEASING_TAINT, "value": RUN_UID, "effect": "NoSchedule"}
RELEASING = {
    "startTime": "2026-01-02T03:00:00Z",
    "termination": make_stop(Phase.RELEASING).dump(),
    "terminationStatus": make_stop(Phase.RELEASING).status,
    "nodes": [make_node(NodePhase.RELEASING).dump()],
}


@pytest.fixture
async def place(installed, http):
    """A run whose node is on its way back to the example's cloud, and looks at it."""
    cloud, clock = Cloud(), Clock()
    stored = stored_run(status=RELEASING)
    async with (
        api_server(stored, stored_job(), stored_node(spec={"taints": [OURS]})) as api,
        served(cloud.handle) as cloud.url,
        Kube(Plain(api.url)) as kube,
        registry.make_session() as session,
    ):
        pool = make_pool(
            awsAutoScaling=None,
            external={"provider": "ExampleCloud", "config": {"endpoint": cloud.url, "group": "gpu"}},
        )
        found = opened(PROVIDERS, {}, provider.Tools(kube, session), provider.Provider)
        cache, providers = Cache(), Registry(found, clock.monotonic)
        cache.pools[pool.name], cache.pools_at = pool, clock.now
        observer = Observer(
            kube, FakeStore(), PodPages(http, Sources({})), cache, Defaults(),
            providers=providers, recheck_seconds=30, relist_seconds=1e9, clock=clock,
        )  # fmt: skip
        executor = Executor(kube, cache, lambda: True, providers)
        place = SimpleNamespace(api=api, cloud=cloud, clock=clock, pool=pool, providers=providers, memory=Memory())

        async def look(seconds=1):
            """One turn of the loop; returns the node as the status has it after that."""
            clock.now += seconds
            place.memory, seen = await observer.observe(api.objects[RUN], place.memory)
            outcome = await executor.execute(seen, decide(seen).effects)
            assert outcome.stopped is None
            place.memory = remember_effects(place.memory, outcome.learned)
            return api.objects[RUN]["status"]["nodes"][0]

        place.look = look
        yield place


async def test_a_node_goes_back_through_a_provider_of_another_package(place):
    node = await place.look()
    assert (node["phase"], place.cloud.deletes) == ("Releasing", [OPERATION])
    assert (await place.look())["phase"] == "Verifying"
    place.cloud.state = "deleted"
    del place.api.objects[NODE]
    node = await place.look()
    assert (node["phase"], node["message"]) == ("Released", "Machine and Node are gone.")
    assert place.cloud.deletes == [OPERATION], "It is asked once, under the id of the operation."


async def test_who_is_told_to_come_back_later_does(place):
    place.cloud.answers.append(web.Response(status=429, headers={"Retry-After": "30"}))
    await place.look()
    node = await place.look()
    assert (node["phase"], node["message"], node["refusal"]) == ("Releasing", "The cloud is busy.", "Retryable")
    for _ in range(7):
        await place.look(4)
    assert len(place.cloud.deletes) == 1, "29 s are not 30"
    await place.look(1)
    await place.look()
    assert place.cloud.deletes == [OPERATION, OPERATION]
    node = await place.look()
    assert (node["phase"], node.get("refusal")) == ("Verifying", None)


async def test_what_a_person_must_change_is_told_apart(place):
    place.cloud.answers += [web.Response(status=403)] * 9
    await place.look()
    node = await place.look()
    assert (node["phase"], node["refusal"]) == ("Releasing", "Denied")
    assert node["message"] == "The operator's key may not delete machines."


@pytest.mark.parametrize("lacks", [{"state"}, {"group"}, {"group_size"}, {"group", "state"}])
async def test_an_answer_that_lacks_something_is_told_and_ends_no_machine(place, lacks):
    place.cloud.lacks = lacks
    await place.look()
    node = await place.look()
    said = f"The cloud answers about the machine of node gpu-1 without {', '.join(sorted(lacks))}."
    assert (node["phase"], node["message"], node["refusal"]) == ("Releasing", said, "Retryable")
    assert place.cloud.deletes == []


async def test_a_pool_that_the_provider_cannot_use_is_refused(place):
    bare = make_pool(awsAutoScaling=None, external={"provider": "ExampleCloud"})
    with pytest.raises(Refused) as caught:
        await place.providers(bare).instance(bare, MACHINE)
    assert caught.value.refusal == Refusal(
        RefusalKind.REFUSED, "GPUNodePool a100: spec.external.config lacks endpoint, group."
    )


async def test_a_machine_of_another_group_is_left_alone(place):
    others = make_pool(
        awsAutoScaling=None,
        external={"provider": "ExampleCloud", "config": {"endpoint": place.cloud.url, "group": "cpu"}},
    )
    with pytest.raises(Refused, match="not of group cpu"):
        await place.providers(others).release(others, MACHINE, OPERATION)
    assert place.cloud.deletes == []
    assert await place.providers(place.pool).instance(place.pool, MACHINE) is Instance.RUNNING
    assert not await place.providers(place.pool).at_minimum(place.pool, MACHINE)


# -- broken ---------------------------------------------------------------------------------------------------------

BROKEN = {
    "raises": ("def made(tools):\n    raise KeyError('no key')\n", "KeyError: 'no key'"),
    "no_module": ("import a_module_that_is_not_there\n", "ModuleNotFoundError"),
    "no_python": ("def made(:\n", "SyntaxError"),
    "no_factory": ("", "AttributeError"),
    "another_kind": ("def made(tools):\n    return object()\n", "does not return a "),
}


def package(folder, group, name, module, text):
    """A package as an installer leaves it, with one entry point."""
    (folder / f"{module}.py").write_text(text)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{name} = {module}:made\n")


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("group", "kind"), [(SOURCES, "MetricSource"), (PROVIDERS, "Provider")])
@pytest.mark.parametrize("broken", BROKEN)
async def test_a_package_that_is_broken_costs_a_sentence_and_nothing_else(http, tmp_path, caplog, group, kind, broken):
    text, said = BROKEN[broken]
    package(tmp_path, group, "Broken", f"broken_{broken}", text)
    with on_the_path(tmp_path), caplog.at_level(logging.ERROR):
        assert sources(http).names == ("Auto", "Files", "JSONLines", "Logs", "Prometheus", "Push")
        async with Registry.of(provider.Tools(NO_API, http)) as providers:
            assert isinstance(providers(EXAMPLE), provider.Provider)
            with pytest.raises(Refused, match=r"it has AWSAutoScaling, ExampleCloud\)"):
                providers(make_pool(awsAutoScaling=None, external={"provider": "Broken"}))
    (record,) = caplog.records
    assert record.getMessage().startswith(f"{group} 'Broken' of broken_{broken} is skipped: ")
    assert said in record.getMessage()
    assert record.exc_info is None
    assert said != "does not return a " or kind in record.getMessage()


async def test_nobody_takes_the_place_of_what_is_built_in(http, tmp_path, caplog):
    package(tmp_path, SOURCES, "Prometheus", "greedy", "def made(tools):\n    raise AssertionError\n")
    with on_the_path(tmp_path):
        assert sources(http).names == ("Auto", "Files", "Logs", "Prometheus", "Push")
    assert Counter(record.getMessage() for record in caplog.records) == {
        f"{SOURCES} 'Prometheus' of greedy is skipped: the name is taken": 1
    }
