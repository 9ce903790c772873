"""Collections of garbage in an operator. Each test has a process of its own: what is left out of the collections stays so until the process ends."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from trainingrun_operator.controller import garbage
from trainingrun_operator.controller.garbage import KEPT_MAX, THRESHOLDS, Garbage

TESTS = Path(__file__).parents[2]
NEW_MAX = THRESHOLDS[0] * (THRESHOLDS[1] + 1) * (THRESHOLDS[2] + 1)
"""Objects made between two full collections."""
RUNS = 4000
START = """
    import gc, json, sys, time
    from trainingrun_operator.controller.garbage import Garbage
    from trainingrun_operator.edge.gather.store import Store
    store = Store()
    store.warm_up()
"""
FILL = """
    from bench.world import GOOD, Member
    from trainingrun_operator.edge.cache import Cache
    cache = Cache()
    def fill(numbers):
        for number in numbers:
            member = Member(number, GOOD, "http://s3", 1)
            run, _, job, pod = (json.loads(json.dumps(one)) for one in member.objects())
            cache.put_run(run)
            cache.put_child("Job", job, deleted=False)
            cache.put_child("Pod", pod, deleted=False)
"""


def in_a_process(*parts: str, arguments: tuple[str, ...] = ()) -> Any:
    """Run a script; returns what it prints, as JSON."""
    script = "".join(textwrap.dedent(part) for part in parts)
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=TESTS)
    return json.loads(done.stdout)


def test_a_full_collection_leaves_out_what_an_operator_has_at_its_start():
    before, visited, frozen = in_a_process(
        START,
        """
        gc.collect()
        before = len(gc.get_objects())
        Garbage().install()
        print(json.dumps([before, len(gc.get_objects()), gc.get_freeze_count()]))
        """,
    )
    assert frozen > 50_000
    assert visited < before / 10


def test_a_full_collection_visits_few_objects_however_many_runs_there_are():
    """Objects are counted, because the time that they take is that of the machine."""
    visited, kept = in_a_process(
        START,
        FILL,
        f"""
        Garbage().install()
        before, visited = gc.get_freeze_count(), []
        gc.callbacks.append(lambda phase, info: phase == "start" and info["generation"] == 2 and visited.append(len(gc.get_objects())))
        fill(range({RUNS}))
        print(json.dumps([visited, gc.get_freeze_count() - before + len(gc.get_objects())]))
        """,
    )
    assert len(visited) > 1
    assert max(visited) < KEPT_MAX + NEW_MAX
    assert kept > 10 * RUNS, "the runs are in memory"


def test_of_runs_that_are_gone_nothing_stays():
    """Reference counts free what was left out: a cached run is part of no cycle."""
    kept, growth = in_a_process(
        START,
        FILL,
        f"""
        Garbage().install()
        def objects():
            return gc.get_freeze_count() + len(gc.get_objects())
        def churn(first):
            for start in range(first, first + {RUNS}, 200):
                numbers = range(start, start + 200)
                fill(numbers)
                gc.freeze()
                if start == first:
                    churn.kept = objects()
                for number in numbers:
                    cache.forget_run(f"uid-{{number}}")
        churn(0)
        before = objects()
        churn({RUNS})
        print(json.dumps([churn.kept - before, objects() - before]))
        """,
    )
    assert kept > 10 * 200
    assert growth < 100


CHURN = """
    from trainingrun_operator.controller.garbage import SHORT_OF_MEMORY, resident_bytes
    TURNS, SPARE = map(int, sys.argv[1:])
    class Node:
        def __init__(self):
            self.itself, self.payload = self, b"x" * 100_000
    before, most, now = resident_bytes(), 0, [0.0]
    limit = int((before + SPARE * 2**20) / SHORT_OF_MEMORY)
    Garbage(limit=limit, clock=lambda: now[0]).install()
    for _ in range(TURNS):
        now[0] += 30
        cycles, objects = [Node() for _ in range(40)], [[] for _ in range(15_000)]
        most = max(most, resident_bytes() - before)
    print(json.dumps(most / 2**20))
"""


def test_garbage_in_cycles_that_was_left_out_is_freed_before_memory_runs_out():
    """Each turn drops 4 MB in cycles, and has so many objects that full collections leave them out while they live."""
    assert in_a_process(START, CHURN, arguments=("60", "4096")) > 64, "garbage that was left out stays"
    assert in_a_process(START, CHURN, arguments=("400", "64")) < 128


def test_everything_is_visited_again_once_memory_has_grown_or_after_a_long_time():
    """A visit of everything takes a second: one that frees little is not repeated while nothing changes."""
    limit, memory, now = 1000, 0, 0.0
    found = Garbage(limit=limit, resident=lambda: memory, clock=lambda: now)

    def visits(used, at):
        nonlocal memory, now
        memory, now = used, at
        return found._is_short()

    assert not visits(850, 0), "There is enough."
    assert visits(851, 1)
    assert not visits(851, 599)
    assert not visits(900, 600)
    assert visits(901, 600), "It has grown by a twentieth of the limit."
    assert not visits(860, 1199)
    assert visits(860, 1200), "Long after."
    assert not visits(840, 9999)


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        pytest.param({"memory.max": "536870912\n"}, 536_870_912, id="cgroup v2"),
        pytest.param({"memory.max": "max\n"}, None, id="cgroup v2 without a limit"),
        pytest.param({"memory.limit_in_bytes": "268435456\n"}, 268_435_456, id="cgroup v1"),
        pytest.param({"memory.limit_in_bytes": "9223372036854771712\n"}, None, id="cgroup v1 without a limit"),
        pytest.param({}, None, id="no cgroup"),
    ],
)
def test_the_limit_is_the_containers_or_a_gibibyte(tmp_path, monkeypatch, files, limit):
    monkeypatch.setattr(garbage, "LIMITS", (tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"))
    without = garbage.limit_bytes()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert garbage.limit_bytes() == (limit or without)
    assert 2**20 < garbage.resident_bytes() < without <= garbage.UNLIMITED_BYTES
