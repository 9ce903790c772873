"""When all GPUs of a training count as idle, for how long they have been, and what a restarted operator knows of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import inf, nan
from typing import Any

import pytest
from builders import (
    POD_UID,
    exited_pod,
    make_agent,
    make_pod,
    make_run,
    make_status,
    make_stop,
    make_workload,
    pending_pod,
)

from trainingrun_operator.api.status import Phase
from trainingrun_operator.core.decide import decide
from trainingrun_operator.core.defaults import Defaults
from trainingrun_operator.core.effects import Begin, RecordEvent
from trainingrun_operator.core.facts.gathered import Facts
from trainingrun_operator.core.facts.gpus import Gpu, Gpus
from trainingrun_operator.core.facts.reading import LOSS, Failure, Reading
from trainingrun_operator.core.idle import digest
from trainingrun_operator.core.memory import Memory, remember
from trainingrun_operator.core.rules import chain
from trainingrun_operator.core.rules.idle import idle
from trainingrun_operator.core.status import render
from trainingrun_operator.exporter.series import series_of

START = datetime(2026, 1, 2, 3, 0, tzinfo=UTC)
READS = Defaults(gpu_exporter="http://dcgm-exporters.gpu-operator.svc:9400/metrics")
IDLE, WORKS = Gpu(0.0, 61.5), Gpu(97.0, 640.0)
LOST = Failure("Timeout", "The exporter does not answer.")
STOP = {"idleDetection": {"action": "Stop"}}
SOON = {"idleDetection": {"forSeconds": 60}}


def wall(now):
    return (START + timedelta(seconds=now)).strftime("%Y-%m-%dT%H:%M:%SZ")


def template(gpus):
    resources = {"limits": {"nvidia.com/gpu": gpus}} if gpus else {}
    return {"spec": {"containers": [{"name": "train", "image": "acme/bert", "resources": resources}]}}


class Training:
    """A run that is looked at; its status is stored after each look. It makes a step at every look."""

    def __init__(self, spec=None, *, world_size=1, gpus=1, defaults=READS):
        self.spec, self.defaults, self.world_size = {"template": template(gpus)} | (spec or {}), defaults, world_size
        self.status: Any = make_status()
        self.memory = Memory()
        self.pods = tuple(
            make_pod(rank=rank, name=f"bert-{rank}", uid=f"{POD_UID}-{rank}") for rank in range(world_size)
        )

    def look(self, now, *shown, read_at=None, pods=None, restart=False):
        if restart:
            self.memory = Memory()
        # The clock of a process begins anywhere.
        clock = now + (50_000 if restart else 0)
        at = clock if read_at is None else read_at
        read = {
            rank: one if isinstance(one, Failure) else Gpus(at, (one,) if isinstance(one, Gpu) else one)
            for rank, one in enumerate(shown)
            if one is not None
        }
        facts = Facts(
            make_run(spec=self.spec, status=self.status),
            wall(now),
            defaults=self.defaults,
            workload=make_workload(world_size=self.world_size),
            pods=self.pods if pods is None else pods,
            reports={0: make_agent()},
            readings={0: Reading(now, values={LOSS: 1.0})},
            gpus=read,
        )
        self.memory, seen = remember(self.memory, facts, clock)
        self.status = render(seen)
        return seen

    def rest(self, until, *shown, since=0, every=30):
        """Look at a training whose GPUs are as shown; by default idle."""
        seen = None
        for now in range(since, until + 1, every):
            seen = self.look(now, *(shown or (IDLE,)))
        return seen


def reason(seen):
    found = idle(seen)
    return found and found.reason


def fired(seen):
    """What the rule says, which applies."""
    found = idle(seen)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("spec", "until", "expected"),
    [
        pytest.param({}, 1770, "IdleNow", id="just before it is long enough"),
        pytest.param({}, 1800, "IdleGPUs", id="long enough"),
        pytest.param(SOON, 60, "IdleGPUs", id="a shorter time of the spec"),
        pytest.param({"idleDetection": {"forSeconds": 7200}}, 1800, "IdleNow", id="a longer time of the spec"),
        pytest.param({"idleDetection": {"forSeconds": 0}}, 1800, None, id="off"),
    ],
)
def test_all_gpus_are_idle_for_long_enough(spec, until, expected):
    assert reason(Training(spec).rest(until)) == expected


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        pytest.param((IDLE, WORKS), "Busy", id="one of two works"),
        pytest.param((IDLE, Gpu(5.0, 60)), "Busy", id="utilization is at the floor"),
        pytest.param((IDLE, Gpu(0.0, 150.0)), "Busy", id="power is at the floor"),
        pytest.param((IDLE, Gpu(0.0, 400.0)), "Busy", id="no utilization is shown of what draws power"),
        pytest.param((IDLE, Gpu(nan, 60)), "Busy", id="utilization is not a number"),
        pytest.param((IDLE, Gpu(0.0, inf)), "Busy", id="power is infinite"),
        pytest.param((IDLE, Gpu(None, 60)), "NoUtilization", id="no utilization"),
        pytest.param((IDLE, Gpu(0.0, None)), "NoPower", id="no power"),
        pytest.param((IDLE,), "FewerGPUs", id="only one of two is shown"),
        pytest.param((IDLE, Gpu(4.9, 149.9)), "IdleGPUs", id="both are just below"),
        pytest.param((IDLE, IDLE, IDLE), "IdleGPUs", id="more are shown than the pod requests"),
        pytest.param(LOST, "Timeout", id="the exporter does not answer"),
        pytest.param(None, "NotRead", id="nothing was read of it"),
    ],
)
def test_what_is_not_known_to_be_idle_counts_as_busy(shown, expected):
    one = Training(SOON, gpus=2, world_size=2)
    seen = one.rest(120, (IDLE, IDLE), shown)
    assert reason(seen) == expected
    assert fired(seen).fires == (expected == "IdleGPUs")


def test_power_is_not_looked_at_with_a_floor_of_0():
    spec = {"idleDetection": {"forSeconds": 60, "powerBelowWatts": 0}}
    seen = Training(spec).rest(60, Gpu(0.0, None))
    assert reason(seen) == "IdleGPUs"
    assert [one.what for one in fired(seen).evidence] == ["gpuUtilizationPercent", "idleSeconds"]
    assert reason(Training(spec).rest(60, Gpu(0.0, 600.0))) == "IdleGPUs"


@pytest.mark.parametrize("between", [WORKS, LOST, Gpu(), Gpu(nan, nan), Gpu(0.0, None)], ids=repr)
def test_one_reading_that_is_not_idle_begins_the_time_again(between):
    one = Training(SOON)
    one.rest(30)
    one.look(45, between)
    assert reason(one.look(104, IDLE)) == "IdleNow"
    assert reason(one.look(105, IDLE)) == "IdleGPUs"


def test_the_same_page_at_several_looks_counts_once():
    one = Training(SOON)
    one.look(0, IDLE)
    seen = [one.look(now, IDLE, read_at=0) for now in (10, 30, 60, 90)]
    assert {(reason(each), each.idle.seconds) for each in seen} == {("IdleNow", 0)}


def test_a_look_that_reads_no_gpu_changes_nothing():
    one = Training(SOON)
    one.rest(30)
    assert one.look(45).idle.seconds == 30
    assert reason(one.look(60, IDLE)) == "IdleGPUs"


def test_readings_that_are_far_apart_do_not_say_what_was_between():
    one = Training(SOON)
    one.look(0, IDLE)
    assert one.look(300, IDLE).idle.seconds == 300
    assert one.look(601, IDLE).idle.seconds == 0


def test_a_new_pod_begins_the_time_again():
    one = Training(SOON)
    one.rest(60)
    seen = one.look(90, IDLE, pods=(make_pod(name="bert-x", uid="another"),))
    assert (reason(seen), seen.idle.seconds) == ("IdleNow", 0)


def test_every_rank_has_to_be_idle():
    one = Training(SOON, world_size=2)
    assert reason(one.rest(60, IDLE, WORKS)) == "Busy"
    assert reason(one.rest(180, IDLE, IDLE, since=90)) == "IdleGPUs"
    # A rank whose training has exited uses no GPU; one that has not started may load its data.
    ended = (one.pods[0], exited_pod(0, rank=1, name="bert-1", uid=f"{POD_UID}-1"))
    assert reason(one.look(210, IDLE, pods=ended)) == "IdleGPUs"
    waiting = (one.pods[0], pending_pod(rank=1, name="bert-1", uid=f"{POD_UID}-1"))
    assert reason(one.look(240, IDLE, pods=waiting)) == "NotStarted"
    assert reason(one.look(270, IDLE, pods=one.pods[:1])) == "NotStarted"


@pytest.mark.parametrize(
    ("defaults", "spec", "gpus", "expected"),
    [
        pytest.param(Defaults(), {}, 1, None, id="the installation names no exporter"),
        pytest.param(Defaults(), STOP, 1, "NoExporter", id="but the run asks for it"),
        pytest.param(READS, {}, 0, None, id="the run has no GPU"),
        pytest.param(READS, STOP, 0, "NoGPUs", id="the run has no GPU, but asks for it"),
        pytest.param(READS, {"pollIntervalSeconds": 301}, 1, None, id="it is polled too seldom"),
        pytest.param(READS, STOP | {"pollIntervalSeconds": 301}, 1, "ReadTooSeldom", id="too seldom, but asks for it"),
        pytest.param(READS, STOP | {"pollIntervalSeconds": 300}, 1, "IdleGPUs", id="polled just often enough"),
    ],
)
def test_where_it_does_not_apply_only_a_run_that_asks_for_it_hears_so(defaults, spec, gpus, expected):
    one = Training(spec, gpus=gpus, defaults=defaults)
    assert reason(one.rest(1800)) == expected
    if not defaults.gpu_exporter or not gpus:
        assert one.status.idle is None


def test_it_applies_only_while_a_training_runs_and_something_was_read():
    one = Training(SOON)
    assert idle(one.look(0)) is None
    one.rest(60)
    assert idle(one.look(70, pods=(exited_pod(0, uid=one.pods[0].uid),))) is None
    assert idle(replace(one.look(80, IDLE), idle=None)) is None


def test_a_run_that_looks_complete_is_not_idle():
    seen = replace(Training(SOON).rest(60), candidate_seconds=20)
    assert reason(seen) == "Completes"


# -- over a restart ----------------------------------------------------------------------------------------


def test_a_restarted_operator_goes_on():
    one = Training(SOON)
    one.rest(30)
    stored = one.status.idle
    assert (stored.since, stored.until, stored.what) == (wall(0), wall(30), "Start")
    assert stored.pods == digest(one.pods)
    seen = one.look(60, IDLE, restart=True)
    assert (reason(seen), seen.idle.seconds, one.status.idle.since) == ("IdleGPUs", 60, wall(0))


def test_a_restart_before_the_first_reading_forgets_nothing():
    one = Training(SOON)
    one.rest(30)
    before = one.status.idle
    one.look(40, restart=True)
    assert one.status.idle == before


def test_a_restart_that_took_long_begins_again():
    one = Training(SOON)
    one.rest(30)
    assert one.look(331, IDLE, restart=True).idle.seconds == 0


@pytest.mark.parametrize(
    "changed",
    [
        {"since": "yesterday"},
        {"until": "soon"},
        {"until": wall(9999)},
        {"since": wall(31)},
        {"pods": "others"},
    ],
    ids=str,
)
def test_what_is_stored_and_cannot_be_begins_again(changed):
    one = Training(SOON)
    one.rest(30)
    one.status = one.status.model_copy(update={"idle": one.status.idle.model_copy(update=changed)})
    assert one.look(60, IDLE, restart=True).idle.seconds == 0


def test_without_a_valid_time_of_the_look_nothing_is_resumed():
    one = Training(SOON)
    one.rest(30)
    facts = Facts(
        make_run(spec=one.spec, status=one.status), "now", defaults=READS, workload=make_workload(), pods=one.pods,
        gpus={0: Gpus(60, (IDLE,))},
    )  # fmt: skip
    known = remember(Memory(), facts, 60)[0].idle
    assert known is not None
    assert known.seconds == 0


# -- what it does ------------------------------------------------------------------------------------------


def events(seen):
    return [one for one in decide(seen).effects if isinstance(one, RecordEvent) and one.reason == "Idle"]


def test_notify_says_so_once_and_ends_nothing():
    one = Training()
    one.rest(1770)
    seen = one.look(1800, IDLE)
    (event,) = events(seen)
    assert event.warning
    assert event.message == (
        "All GPUs have been idle (now at most 0 % utilization and 62 W) for 1800 s: a GPU is idle below 5 % utilization and 150 W (idleDetection)."
        " It goes on: idleDetection.action is Notify."
    )
    assert not [effect for effect in decide(seen).effects if isinstance(effect, Begin)]
    assert one.status.idle.warned_at == wall(1800)
    assert events(one.look(1830, IDLE)) == []
    condition = one.status.condition("Idle")
    assert (condition.status, condition.reason) == ("True", "IdleGPUs")
    assert [shadow.rule for shadow in one.status.shadow] == ["idle"]
    gauges = series_of("ml", "bert", seen.run.spec, one.status).gauges
    assert gauges["trainingrun_idle_since_timestamp_seconds"] == START.timestamp()

    one.look(1860, WORKS)
    assert one.status.condition("Idle").status == "False"
    assert one.status.idle.warned_at is None
    assert "trainingrun_idle_since_timestamp_seconds" not in series_of("ml", "bert", seen.run.spec, one.status).gauges
    again = [event for now in range(1890, 5400, 30) for event in events(one.look(now, IDLE))]
    assert len(again) == 1, "The next time it is told again."


def test_a_run_whose_gpus_were_never_idle_has_no_such_condition():
    one = Training()
    one.rest(300)
    assert one.status.condition("Idle") is None


def test_stop_ends_the_run_as_idle():
    one = Training(STOP)
    seen = one.rest(1800)
    (begin,) = [effect for effect in decide(seen).effects if isinstance(effect, Begin)]
    stop = begin.termination
    assert (stop.status, stop.rule, stop.actor) == ("idle", "idle", "idle")
    assert [(one.what, one.value) for one in stop.evidence] == [
        ("gpuUtilizationPercent", "0"),
        ("gpuPowerWatts", "62"),
        ("idleSeconds", "1800"),
    ]
    assert events(seen) == []
    assert one.status.shadow == ()


def test_a_stop_takes_the_condition_back():
    one = Training(STOP)
    seen = one.rest(1800)
    stopping = replace(
        seen, run=replace(seen.run, status=one.status.model_copy(update={"termination": make_stop(Phase.DRAINING)}))
    )
    rendered: Any = render(stopping)
    assert rendered.condition("Idle").status == "False"
    assert rendered.idle.warned_at is None


def test_people_come_first():
    found = chain.why_end(Training({**STOP, "stop": True}).rest(1800))
    assert found is not None
    assert found.status == "user_stop"


def test_how_busy_gpus_are_is_said_only_if_it_is_known():
    one = Training(SOON)
    one.rest(30)
    seen = one.look(40, restart=True)
    known = replace(one.look(50, IDLE).idle, utilization=None, power=None)
    assert fired(replace(seen, idle=known)).message.startswith("All GPUs have been idle for 50 of 60 s")
