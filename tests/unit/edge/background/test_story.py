"""Stories of many runs at once: a bucket or a log that does not answer delays no other run's story. The clock is the test's."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError
from builders import checkpoint_spec, exited_pod, make_observed, make_run, make_saved, make_status, make_stop
from retaining import Events, Reader

from trainingrun_operator.api.status import Phase
from trainingrun_operator.checkpoints.s3 import Access
from trainingrun_operator.core.facts.rank import Rank
from trainingrun_operator.edge.background import loop
from trainingrun_operator.edge.background.story import AT_ONCE, CURVE_SECONDS, TURN_SECONDS, Story
from trainingrun_operator.edge.kube import KubeError

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.looptime

LINES = b"step 1\n"


@dataclass
class Bucket:
    """All buckets. Calls for a run in `dead` never return, those for a run in `failing` fail."""

    dead: set[str] = field(default_factory=set)
    failing: set[str] = field(default_factory=set)
    objects: dict[str, list[str]] = field(default_factory=dict)
    refusing: str = "-"
    """End of the keys that may not be put."""
    waiting: int = 0
    most_waiting: int = 0

    async def call(self, access: Any, made: Any) -> bool:
        layout, key = made.args[0], made.args[1]
        *_, name, _uid, _ = layout.base.split("/")
        there = self.objects.setdefault(name, [])
        if name in self.dead:
            self.waiting += 1
            self.most_waiting = max(self.most_waiting, self.waiting)
            try:
                await asyncio.Event().wait()
            finally:
                self.waiting -= 1
        if name in self.failing:
            raise ClientError({"Error": {"Code": "SlowDown"}}, "PutObject")
        if len(made.args) > 2 and key.endswith(self.refusing):
            raise ClientError({"Error": {"Code": "AccessDenied"}}, "PutObject")
        had = (short := key.removeprefix(layout.base)) in there
        if len(made.args) == 2:
            return had
        there.extend([] if had else [short])
        return not had


@dataclass
class Kube(Events):
    """The API server. Logs of pods in `dead` never come, those of pods in `broken` fail."""

    dead: set[str] = field(default_factory=set)
    broken: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    async def log_end(self, namespace: str, name: str, container: str, *, most_bytes: int) -> bytes:
        self.asked.append(name)
        if name in self.dead:
            await asyncio.Event().wait()
        if name in self.broken:
            raise KubeError(self.broken[name], "No", "no")
        return LINES

    async def config_map(self, namespace: str, name: str) -> None:
        return None


class World:
    """Some runs that have ended, and the operator that writes their stories."""

    def __init__(self) -> None:
        self.bucket, self.kube = Bucket(), Kube()
        clock = asyncio.get_running_loop().time
        self.story = Story(self.kube, self.bucket, Reader(Access()), lambda: True, clock)  # type: ignore[arg-type]
        self.working = asyncio.create_task(self.story.run())

    def ends(self, name: str, namespace: str = "ml", *, ranks: int = 0) -> None:
        """A run has ended; of so many ranks, the pods are still there."""
        status = make_status(termination=make_stop(Phase.DONE, saved=make_saved()), phase="Succeeded")
        spec = {"checkpoint": checkpoint_spec(destination="s3://bucket/team")}
        run = make_run(spec=spec, status=status, namespace=namespace, name=name, uid=f"uid-{name}")
        pods = [exited_pod(name=f"{name}-{rank}", rank=rank) for rank in range(ranks)]
        known = tuple(Rank.of(rank, [pod]) for rank, pod in enumerate(pods)) or (Rank(),)
        self.story.note(make_observed(run=run, ranks=known), status)

    def has(self, name: str) -> list[str]:
        return sorted(self.bucket.objects.get(name, ()))

    async def until(self, there: Callable[[], bool]) -> None:
        """Let time pass, for at most two hours."""
        for _ in range(720):
            if there():
                return
            await asyncio.sleep(10)

    async def close(self) -> None:
        self.working.cancel()
        await asyncio.gather(self.working, return_exceptions=True)


@pytest.fixture
async def world(monkeypatch):
    monkeypatch.setattr(loop, "LOOK_SECONDS", 5.0)
    made = World()
    yield made
    await made.close()


async def test_a_bucket_that_does_not_answer_delays_no_other_story(world):
    world.bucket.dead = {"stuck"}
    for name in ("stuck", "one", "two", "three"):
        world.ends(name)
    await asyncio.sleep(CURVE_SECONDS + 6)
    assert [world.has(name) for name in ("stuck", "one", "two", "three")] == [[], *[["run.json"]] * 3]


@pytest.mark.parametrize("namespaces", [1, 2, 3, 5])
async def test_many_such_buckets_delay_another_namespace_by_one_turn_at_most(world, namespaces):
    world.bucket.dead = {f"stuck-{number}" for number in range(100)}
    for number, name in enumerate(sorted(world.bucket.dead)):
        world.ends(name, f"team-{number % namespaces}")
    await asyncio.sleep(CURVE_SECONDS + 6)
    world.ends("one", "ml")
    await asyncio.sleep(CURVE_SECONDS + 6)
    assert (world.has("one") == ["run.json"]) == (namespaces == 1), "one namespace never holds all places"
    await asyncio.sleep(TURN_SECONDS)
    assert world.has("one") == ["run.json"]
    assert world.bucket.most_waiting <= AT_ONCE


async def test_a_story_that_has_failed_waits_for_those_that_have_not(world):
    world.bucket.failing = {f"failing-{number}" for number in range(20)}
    for name in [*sorted(world.bucket.failing), "one"]:
        world.ends(name)
    await asyncio.sleep(CURVE_SECONDS + 6)
    assert world.has("one") == ["run.json"]


async def test_a_bucket_that_never_answers_is_given_up_and_said(world):
    world.bucket.dead = {"stuck"}
    world.ends("stuck")
    await world.until(lambda: bool(world.kube.told))
    assert [reason for reason, _ in world.kube.told] == ["StoryNotKept"]
    assert "Timeout" in world.kube.told[0][1]
    assert world.bucket.waiting == 0


async def test_a_log_that_does_not_come_delays_no_other_rank_and_not_the_rest_for_ever(world):
    world.kube.dead = {"one-1"}
    world.ends("one", ranks=4)
    await asyncio.sleep(2 * TURN_SECONDS + 10)
    assert world.has("one") == ["log-2.txt.gz", "log-3.txt.gz", "log.txt.gz"]
    await world.until(lambda: "run.json" in world.has("one"))
    assert world.has("one") == ["log-2.txt.gz", "log-3.txt.gz", "log.txt.gz", "run.json"]
    assert world.kube.told == []


@pytest.mark.parametrize(
    ("status", "kept", "asked"),
    [
        pytest.param(500, ["log-2.txt.gz", "log.txt.gz", "run.json"], {"one-0": 1, "one-2": 1}, id="fails"),
        pytest.param(404, ["log-2.txt.gz", "log.txt.gz", "run.json"], {"one-0": 1, "one-1": 1, "one-2": 1}, id="is gone"),
        pytest.param(400, ["log-2.txt.gz", "log.txt.gz", "run.json"], {"one-0": 1, "one-1": 1, "one-2": 1}, id="has none"),
        pytest.param(403, ["log.txt.gz", "run.json"], {"one-0": 1, "one-1": 1, "one-2": 0}, id="may not be read"),
    ],
)  # fmt: skip
async def test_without_one_log_the_others_and_the_rest_are_kept(world, status, kept, asked):
    world.kube.broken = {"one-1": status}
    world.ends("one", ranks=3)
    await world.until(lambda: "run.json" in world.has("one"))
    assert world.has("one") == kept
    assert {pod: world.kube.asked.count(pod) for pod in asked} == asked
    assert world.kube.told == []


@pytest.mark.parametrize(
    ("refusing", "kept", "told"),
    [
        pytest.param("/log-1.txt.gz", ["log.txt.gz", "run.json"], [], id="a policy for rank 0 alone"),
        pytest.param(".gz", ["run.json"], [], id="no logs"),
        pytest.param("/run.json", ["log-1.txt.gz", "log-2.txt.gz", "log.txt.gz"], ["StoryNotKept"], id="logs alone"),
        pytest.param("", [], ["StoryNotKept"], id="nothing"),
    ],
)
async def test_what_the_bucket_takes_is_kept_though_it_refuses_the_rest(world, refusing, kept, told):
    world.bucket.refusing = refusing
    world.ends("one", ranks=3)
    await world.until(lambda: world.story._tales == {})
    assert world.has("one") == kept
    assert [reason for reason, _ in world.kube.told] == told


async def test_a_run_of_many_ranks_goes_on_where_its_turn_ended(world, monkeypatch):
    monkeypatch.setattr(world.kube, "log_end", slow := Slow())
    world.ends("one", ranks=64)
    await world.until(lambda: "run.json" in world.has("one"))
    assert len(world.has("one")) == 65
    assert slow.asked <= 64 + 64 / 3 + 1, "only what a turn has cut off is read again"


class Slow:
    """An API server that needs a quarter of a turn for each log."""

    seconds = TURN_SECONDS / 4 + 1
    asked = 0

    async def __call__(self, namespace: str, name: str, container: str, *, most_bytes: int) -> bytes:
        self.asked += 1
        await asyncio.sleep(self.seconds)
        return LINES


async def test_a_run_whose_story_is_written_costs_nothing_until_it_is_gone(world):
    world.ends("one", ranks=1)
    await asyncio.sleep(60)
    asked = list(world.kube.asked)
    world.ends("one", ranks=1)
    assert world.story._tales == {}
    await asyncio.sleep(60)
    assert world.kube.asked == asked
    world.story.forget("uid-one")
    assert world.story._over == set()
