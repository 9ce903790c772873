"""`make chaos`: a seeded campaign of terminations under faults, and what it lost, did twice, or never finished.

The first story is that of the seed itself, so that any story is repeated, with its log, by `make chaos N=1 SEED=<its seed>`.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import logging
import multiprocessing
import sys
import time
from typing import Final

from chaos.on_cluster import on_cluster
from chaos.scenario import drawn
from chaos.story import Account, Story
from chaos.tally import Tally

PROGRESS_SECONDS: Final = 5.0
SHOWN_MAX: Final = 20
"""Bad stories that are told about; the others are only counted."""


def story_seed(seed: int, number: int) -> int:
    """The seed of one story of a campaign: of the first, the campaign's own."""
    return seed if number == 0 else int(hashlib.sha256(f"{seed}/{number}".encode()).hexdigest()[:8], 16)


def told(seed: int) -> tuple[int, Account]:
    """Tell the story of a seed."""
    return seed, Story(drawn(seed)).tell()


def prepare() -> None:
    """Make a process ready for many stories."""
    # In a campaign most looks end in trouble, as they should.
    logging.getLogger("trainingrun_operator").setLevel(logging.CRITICAL)
    # What is imported stays, and a story leaves little: looking for garbage as often as usual takes a sixth of the time.
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


def in_memory(runs: int, seed: int, jobs: int) -> Tally:
    """Tell so many stories, on so many processors."""
    seeds = [story_seed(seed, number) for number in range(runs)]
    tally, bad, last = Tally(), 0, time.monotonic()
    with multiprocessing.Pool(jobs, prepare) as pool:
        for its_seed, account in pool.imap_unordered(told, seeds, chunksize=10):
            tally = tally.plus(account)
            if not account.good:
                bad += 1
                if bad <= SHOWN_MAX:
                    explain(its_seed, account)
            if time.monotonic() - last > PROGRESS_SECONDS:
                last = time.monotonic()
                print(f"chaos: {tally.runs} of {runs} in memory, {tally.faults} faults, {bad} bad", flush=True)
    return tally


def aloud(seed: int) -> Tally:
    """Tell one story with everything that is done in it."""
    scenario = drawn(seed)
    print(scenario)
    account = Story(scenario, say=print).tell()
    if not account.good:
        explain(seed, account)
    return Tally().plus(account)


def explain(seed: int, account: Account) -> None:
    """Say what was bad about a story, and how to see it again."""
    counts = {name: getattr(account, name) for name in ("lost_bytes", "double_deletes", "double_releases")}
    said = [f"{name}={count}" for name, count in counts.items() if count]
    print(f"chaos: bad story {seed}: {' '.join(said)}", *account.complaints, sep="\n  ")
    print(f"  again: make chaos N=1 SEED={seed} CHAOS_CLUSTER=0", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="terminations in memory")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count(), help="processors to use")
    parser.add_argument("--cluster", type=int, default=0, help="real terminations on the cluster that is up")
    asked = parser.parse_args()
    tally = aloud(asked.seed) if asked.runs == 1 else in_memory(asked.runs, asked.seed, asked.jobs)
    if asked.cluster:
        print(f"chaos: {asked.cluster} on the cluster", flush=True)
        tally = tally.and_of(on_cluster(asked.cluster, asked.seed))
    print(tally.line(asked.seed))
    return 0 if tally.good else 1


if __name__ == "__main__":
    sys.exit(main())
