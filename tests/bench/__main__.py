"""`make bench`: measures, beside a named peer in the same run, and prints; nothing here passes or fails by the clock."""

from __future__ import annotations

import argparse
import asyncio

from bench import hostile, metrics_page, mix


def main() -> None:
    """Run every bench."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000, help="how many runs are exported (default: %(default)s)")
    parser.add_argument("--watched", type=int, default=2000, help="how many runs are watched (default: %(default)s)")
    parser.add_argument(
        "--hostile", type=int, default=50, help="how many of them are hostile in each way (default: %(default)s)"
    )
    wanted = parser.parse_args()
    asyncio.run(metrics_page.bench(wanted.runs))
    hostile.bench()
    mix.bench(wanted.watched, wanted.hostile)


if __name__ == "__main__":
    main()
