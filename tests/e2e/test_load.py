"""Two hundred runs, ninety of them in trouble: the others are polled, stopped and proven as if there were no trouble (I7), and memory stays bounded.

All but four runs are simulated (`e2e.crowd`): their pods exist in the API server alone, and one process in the operator's pod answers for them. Everything that is
measured is the operator's: when it polls, when it asks to stop, when a run is Finished, what memory it takes.
"""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
from e2e.crowd import SILENT_PORT, Crowd
from e2e.outputs import tell
from e2e.runs import WAIT_SECONDS
from waiting import eventually

from trainingrun_operator.controller.scheduler import NEW_SECONDS, SLOTS

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

EVERY_SECONDS = 5
"""The healthy are polled so often; the troubled every second, so that they are always being looked at."""
WINDOW_SECONDS = 20
STUB = ("stub-training", "--epochs", "100", "--step-seconds", "0.2", "--save-every", "20")

STEADY, NEIGHBOURS, REAL = 100, 6, 4
"""Healthy runs: simulated in a namespace with little trouble, simulated in the one with most of it, and real."""
HANGING, SILENT, REFUSING = 40, 28, 4
"""In the troubled namespace: endpoints that hang; buckets that take a connection and never answer, and such that take none."""
BIG, SILENT_TOO = 8, 10
"""In the other: pages of 10 MB, and buckets that never answer."""
TROUBLED = HANGING + SILENT + REFUSING + BIG + SILENT_TOO
STOPPED, STOPPED_NEIGHBOURS = 8, 2
"""Of the simulated; the real are stopped all."""

# A machine that runs many tests side by side is slow by itself. Were it for the trouble, it would be by timeouts in a row: 3 s of a scrape, 20 s of a bucket.
LATE_SECONDS, LATE_P99_SECONDS = 1, 5
BESIDE_SECONDS = 2
"""Healthy runs in the namespace with most of the trouble may wait for its share."""
STOP_SECONDS = 10
PROOF_SECONDS = 6
FINISHED_SECONDS = 90
MIB = 2**20
MEMORY_MIB = 256
"""What the chart asks for."""
GROWTH_MIB = 96
"""By all the trouble."""


class Stop(NamedTuple):
    """How long one took."""

    asked: float
    """Until waiting for the training to exit, in seconds after the patch."""
    finished: float
    proof: float
    """Of that, reading the checkpoint back from S3; 0 where there is none."""


def stop(run):
    """Returns when the patch was sent, and when the run was Finished."""
    patched = time.time()
    run.merge({"spec": {"stop": True}})
    run.wait_finished()
    return patched, time.time()


def stop_all(own, runs):
    """Stop them at once; by name, how long it took."""
    with ThreadPoolExecutor(len(runs)) as pool:
        times = dict(zip([run.name for run in runs], pool.map(stop, runs), strict=True))
    at = {(one["run"], one["effect"]): one["at"] for one in own.state()["effects"]}
    return {
        name: Stop(
            at[name, "annotate stop"] - patched,
            finished - patched,
            at[name, "advance Deleting"] - at.get((name, "advance Verifying"), at[name, "advance Deleting"]),
        )
        for name, (patched, finished) in times.items()
    }


def make_trouble(crowd):
    """Returns when half of all slots wait for what hangs, and all big pages were asked for."""
    assert HANGING + SILENT > SLOTS, "More looks of one namespace would hang at once than there are slots."
    crowd.add("troubled", "hangs", HANGING, every=1)
    crowd.add("calm", "big", BIG, every=1)
    ports = [SILENT_PORT + number for number in range(SILENT + SILENT_TOO + REFUSING)]
    crowd.add_dead_buckets("troubled", "silent", ports[:SILENT], every=1)
    crowd.add_dead_buckets("calm", "silent", ports[SILENT:-REFUSING], every=1)
    crowd.add_dead_buckets("troubled", "refusing", ports[-REFUSING:], every=1)

    def is_on():
        counts = crowd.counts()
        return counts.get("big") == BIG and counts["holding"] >= SLOTS // 2

    eventually(is_on, "the trouble is on", WAIT_SECONDS)


def lateness(record, runs, since, until):
    """By how much longer than the interval each of these waited for its next poll; also for the one that has not come yet."""
    polls = {one["run"]: one["polls"] for one in record["members"]}
    late = []
    for run in runs:
        times = [at for at in polls[run.name] if since - EVERY_SECONDS <= at <= until]
        assert times, f"{run.name} was not polled at all"
        late += [max(0.0, b - a - EVERY_SECONDS) for a, b in zip(times, [*times[1:], until], strict=True)]
    return late


def p99(values):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]


def figures(values):
    return f"p50 {statistics.median(values):.2f} s, p99 {p99(values):.2f} s, max {max(values):.2f} s"


def test_trouble_of_many_delays_nobody_else(space, capsys):
    # No status is written for its age meanwhile: a hundred runs of one age would all be due at once.
    # Curves are written as often as the chart has it.
    env = {"TRAININGRUN_STATUS_SECONDS": "600", "TRAININGRUN_CURVE_SECONDS": "30", "TRAININGRUN_LOG_LEVEL": "info"}
    crowd = Crowd.open(space, ["calm", "troubled"], silent=SILENT + SILENT_TOO, env=env)
    own, empty = crowd.own, crowd.own.usage()
    image = {"image": space.ground["TRAININGRUN_IMAGE"]}
    real = [space.run(f"real-{n}", *STUB, container=image, labels=own.labels) for n in range(REAL)]
    others = crowd.add("calm", "steady", STEADY, every=EVERY_SECONDS)
    neighbours = crowd.add("troubled", "steady", NEIGHBOURS, every=EVERY_SECONDS)
    eventually(lambda: crowd.counts().get("steady") == STEADY + NEIGHBOURS, "all are polled", WAIT_SECONDS)
    polled_at = time.time()
    for run in real:
        run.wait_condition("CheckpointSaved")
    # By then it is known that they respond.
    time.sleep(max(0.0, polled_at + NEW_SECONDS + EVERY_SECONDS - time.time()))
    calm_at, calm = time.time(), own.usage()

    make_trouble(crowd)
    since, before = time.time(), own.usage()
    stops = stop_all(own, [*others[:STOPPED], *neighbours[:STOPPED_NEIGHBOURS], *real])
    time.sleep(max(0.0, since + WINDOW_SECONDS - time.time()))
    until, record, usage = time.time(), crowd.record(), own.usage()

    free = lateness(record, others[STOPPED:], calm_at - EVERY_SECONDS, calm_at)
    late = lateness(record, others[STOPPED:], since, until)
    late_beside = lateness(record, neighbours[STOPPED_NEIGHBOURS:], since, until)
    asked = [one.asked for one in stops.values()]
    proofs = [stops[run.name].proof for run in real]
    rates = [(usage[what] - before[what]) / (until - since) for what in ("requests", "cpu_seconds")]
    text = f"""200 runs, {TROUBLED} of them in trouble: {HANGING} endpoints that hang, {SILENT + SILENT_TOO} buckets that never answer, {REFUSING} that refuse, {BIG} pages of 10 MB
  ({STEADY + NEIGHBOURS + HANGING + BIG} pods are simulated, {REAL} are real; {record["most"]} runs hung at once at most)
polls, later than due: {figures(late)} (before the trouble: {figures(free)})
polls of healthy runs in the namespace with most of the trouble: {figures(late_beside)}
patch -> asked to stop: {figures(asked)}
patch -> Finished, simulated: {figures([one.finished for one in stops.values() if not one.proof])}
patch -> Finished, real: {figures([stops[run.name].finished for run in real])}
of that, the checkpoint read back from S3: {figures(proofs)}
memory of the operator: {empty["rss_bytes"] / MIB:.0f} MiB without runs, {calm["rss_bytes"] / MIB:.0f} with the healthy, {usage["rss_bytes"] / MIB:.0f} with all, {usage["peak_bytes"] / MIB:.0f} at most
in {until - since:.0f} s of trouble: {rates[0]:.1f} requests/s to the API server, {rates[1]:.2f} cores; the machine was late itself by {figures(record["beats"])}"""
    tell(capsys, "load-of-trouble", text)

    assert statistics.median(late) < LATE_SECONDS, text
    assert p99(late) < LATE_P99_SECONDS, text
    assert statistics.median(late_beside) < BESIDE_SECONDS, text
    assert statistics.median(asked) < STOP_SECONDS, text
    assert statistics.median(proofs) < PROOF_SECONDS, text
    assert max(one.finished for one in stops.values()) < FINISHED_SECONDS, text
    assert usage["peak_bytes"] < MEMORY_MIB * MIB, text
    assert usage["peak_bytes"] - calm["peak_bytes"] < GROWTH_MIB * MIB, text
    for run in real:
        run.assert_checkpoint_proven(run.status)
