"""The command `inspect`: what the agent makes of a folder, on any machine and without a cluster."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trainingrun_operator.api import names
from trainingrun_operator.cli.screen import Column, Screen, note
from trainingrun_operator.cli.trouble import TroubleError
from trainingrun_operator.core.words import size

if TYPE_CHECKING:
    from trainingrun_operator.agent.volume.inspection import Inspected

COLUMNS = (
    Column(""),
    Column("CHECKPOINT"),
    Column("STEP", drop=3),
    Column("EPOCH", drop=2),
    Column("FILES", drop=6),
    Column("SIZE", drop=5),
    Column("LAYOUT", drop=4),
    Column("COMPLETE"),
    Column("WHY", drop=1),
)
NAMED = 10
"""Ignored files and folders that the table names."""


@click.command(short_help="Show which checkpoints the agent finds in a folder.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--ended", is_flag=True, help="As if the training had ended: nothing is being written any more.")
@click.option("-o", "--output", type=click.Choice(["json"]), help="json: everything, for programs.")
def inspect(folder: Path, output: str | None, *, ended: bool) -> None:
    """Show which checkpoints the agent finds in DIR, which are complete and why, and which is the newest.

    Needs no cluster: the folder may be on your machine or in the training container. There, $TRAININGRUN_CONTROL/saved counts as well.
    """
    from trainingrun_operator.agent.volume import inspection, saved  # noqa: PLC0415 - no other command needs the agent

    control = os.environ.get(names.CONTROL_ENV)
    try:
        found = inspection.inspect(
            folder.resolve(), ended=ended, saved_file=Path(control, saved.NAME) if control else None
        )
    except OSError as failure:
        raise TroubleError(f"{folder} cannot be inspected: {failure}.") from failure
    if output == "json":
        click.echo(json.dumps(found, indent=2))
        return
    if not found["checkpoints"]:
        note(f"There is no checkpoint in {folder}.")
    else:
        Screen().table(COLUMNS, [_cells(one, found["newest"]) for one in reversed(found["checkpoints"])])
    for one in found["ignored"][:NAMED]:
        note(f"Ignored: {one['path']!r}: {one['why']}.")
    if (more := len(found["ignored"]) - NAMED) > 0:
        note(f"Ignored: {more} more; --output json lists them.")


def _cells(one: Inspected, newest: str | None) -> list[str]:
    return [
        "→" if one["name"] == newest else "",
        one["name"],
        "" if one["step"] is None else str(one["step"]),
        "" if one["epoch"] is None else str(one["epoch"]),
        str(one["files"]),
        size(one["bytes"]),
        one["layout"],
        "yes" if one["complete"] else "no",
        one["why"],
    ]
