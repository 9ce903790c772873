"""`make bench`: measures, beside a named peer in the same run, and prints; nothing here passes or fails by the clock."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Final

from bench import results
from rich.console import Console

RESULTS: Final = Path(__file__).parents[2] / ".bench" / "results.json"
EXPORTER: Final = "exporter"
HOSTILE: Final = "hostile"
PARSE_LOGS: Final = "parse/logs"
PARSE_PROMETHEUS: Final = "parse/prometheus"
PARSE_EVENTS: Final = "parse/events"
SCALE: Final = "scale"
RUNS: Final = (200, 1000, 3000, 10_000)
"""Of the rows of `SCALE`."""


def matching(only: str, names: list[str]) -> list[str]:
    """Return the parts to run: those that a word of ``only`` names or is the beginning of, up to a slash; without a word, all.

    Raises:
        ValueError: a word fits none.
    """
    words = only.replace(",", " ").split()
    for word in words:
        if not any(_fits(word, name) for name in names):
            raise ValueError(f"ONLY={word} names no part of the bench; its parts are {', '.join(names)}")
    return [name for name in names if not words or any(_fits(word, name) for word in words)]


def _fits(word: str, name: str) -> bool:
    return f"{name}/".startswith(f"{word.rstrip('/')}/")


def transfers(names: list[str], rounds: int) -> None:
    """Measure uploads and restores, and keep the results."""
    from bench.transfers.moving import Ground, tasks  # noqa: PLC0415  # boto3 and all: not for the other parts

    console = Console()
    with Ground.open() as ground:
        for task in tasks():
            if task.name in names:
                row = ground.measure(task, rounds)
                console.print(row.table())
                results.keep(RESULTS, [row])
    console.print(f"kept in {RESULTS}")


def scales(names: list[str]) -> None:
    """Measure an operator among so many runs as the names of the rows say, and keep the results."""
    from bench import scale  # noqa: PLC0415

    for runs in RUNS:
        if f"{SCALE}/{runs}" in names:
            row = scale.row(f"{SCALE}/{runs}", runs)
            Console().print(row.table())
            results.keep(RESULTS, [row])


def main() -> None:
    """Run the parts that are asked for."""
    from bench.transfers.moving import tasks  # noqa: PLC0415

    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--only", default="", help="parts, such as upload, upload/small or exporter (default: all)")
    parser.add_argument("--runs", type=int, default=10_000, help="how many runs are exported (default: %(default)s)")
    parser.add_argument("--watched", type=int, default=2000, help="how many runs are watched (default: %(default)s)")
    parser.add_argument(
        "--hostile", type=int, default=50, help="how many of them are hostile in each way (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of each transfer (default: %(default)s)")
    asked = parser.parse_args()
    moves = [task.name for task in tasks()]
    try:
        others = [EXPORTER, HOSTILE, PARSE_LOGS, PARSE_PROMETHEUS, PARSE_EVENTS]
        parts = matching(asked.only, [*others, *moves, *(f"{SCALE}/{runs}" for runs in RUNS)])
    except ValueError as unknown:
        parser.error(str(unknown))
    if moved := [name for name in parts if name in moves]:
        transfers(moved, asked.rounds)
    if PARSE_LOGS in parts:
        from bench import parse  # noqa: PLC0415

        results.keep(RESULTS, [parse.bench(asked.rounds)])
    if PARSE_PROMETHEUS in parts:
        from bench import pages  # noqa: PLC0415

        results.keep(RESULTS, [pages.bench(asked.rounds)])
    if PARSE_EVENTS in parts:
        from bench import scalars  # noqa: PLC0415

        results.keep(RESULTS, [scalars.bench(asked.rounds)])
    if EXPORTER in parts:
        from bench import metrics_page  # noqa: PLC0415

        asyncio.run(metrics_page.bench(asked.runs))
    if HOSTILE in parts:
        from bench import hostile, mix  # noqa: PLC0415

        hostile.bench()
        mix.bench(asked.watched, asked.hostile)
    scales(parts)


if __name__ == "__main__":
    main()
