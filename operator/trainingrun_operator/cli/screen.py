"""Terminal output: colours and wrapping on a terminal, plain lines elsewhere; control characters in foreign text are removed."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trainingrun_operator.cli.words import clean

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trainingrun_operator.cli.explain import Explanation

GAP: Final = 2
COMMAND: Final = "$ "
PHASE_STYLES: Final = {
    "Succeeded": "green",
    "Stopped": "yellow",
    "Failed": "red",
    "Held": "bold red",
    "Stopping": "yellow",
    "Suspended": "blue",
    "Running": "cyan",
}


@dataclass(frozen=True)
class Column:
    """A table column; if the table is too wide, columns with the highest `drop` are left out first, 0 never."""

    title: str
    drop: int = 0


class Output(Console):
    """Standard output."""

    def on_broken_pipe(self) -> None:
        """Raise instead of exiting; `main` handles it."""
        raise BrokenPipeError


@dataclass
class Screen:
    """The output device."""

    console: Console = field(
        default_factory=lambda: Output(highlight=False, markup=False, emoji=False, soft_wrap=False)
    )

    @property
    def is_terminal(self) -> bool:
        """Whether output goes to a terminal."""
        return self.console.is_terminal

    @property
    def width(self) -> int:
        """Line width in characters; without a terminal, the width of plots."""
        return self.console.width if self.is_terminal else shutil.get_terminal_size().columns

    @property
    def plain(self) -> bool:
        """Whether the encoding is not UTF, so only ASCII is drawn."""
        return not self.console.encoding.lower().startswith("utf")

    def say(self, text: str = "", style: str = "") -> None:
        """Print a sentence: wrapped on a terminal, one line elsewhere."""
        self.console.print(Text(clean(text), style=style), soft_wrap=not self.is_terminal)

    def command(self, text: str) -> None:
        """Print a command to copy, never wrapped."""
        self.console.print(Text(clean(text), style="bold"), soft_wrap=True)

    def raw(self, line: Text) -> None:
        """Print a line unchanged."""
        self.console.print(line, soft_wrap=True)

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
        """Print a table in kubectl's format; on a terminal, columns that do not fit are left out."""
        for line in table(columns, rows, self.width if self.is_terminal else None):
            self.raw(line)

    def explanation(self, told: Explanation) -> None:
        """Print the answer, its reasons, and what to do."""
        for text in explained(told):
            if text.plain.lstrip().startswith(COMMAND) or not self.is_terminal:
                self.raw(text)
            elif text.plain.startswith("- "):
                self.console.print(_hanging(text))
            else:
                self.console.print(text)


def _hanging(text: Text) -> Table:
    """A list item with hanging indent."""
    grid = Table.grid(padding=0)
    grid.add_column(width=2)
    grid.add_column()
    grid.add_row(text[:2], text[2:])
    return grid


def explained(told: Explanation) -> list[Text]:
    """An explanation as lines: one per item or command."""
    lines = [Text(clean(told.answer), style="bold")]
    lines += [Text(f"- {clean(one)}") for one in told.because if one]
    for one in told.todo:
        before, dollar, command = clean(one).partition(COMMAND)
        if before:
            lines.append(Text(before.rstrip()))
        if dollar:
            lines.append(Text(f"    {COMMAND}{command}", style="green"))
    return lines


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int | None) -> list[Text]:
    """Lines of a table, without empty columns and columns that do not fit into `width`."""
    cleaned = [[clean(cell) for cell in row] for row in rows]
    kept = [i for i, column in enumerate(columns) if not column.drop or any(row[i] for row in cleaned)]
    widths = {i: max([cell_len(columns[i].title), *(cell_len(row[i]) for row in cleaned)]) for i in kept}
    while width is not None and sum(widths[i] + GAP for i in kept) - GAP > width:
        droppable = [i for i in kept if columns[i].drop]
        if not droppable:
            break
        kept.remove(max(droppable, key=lambda i: columns[i].drop))
    lines = [_line([columns[i].title for i in kept], [widths[i] for i in kept], style="bold")]
    for row in cleaned:
        lines.append(_line([row[i] for i in kept], [widths[i] for i in kept]))
        at = 0
        for i in kept:
            if columns[i].title == "PHASE" and (style := PHASE_STYLES.get(row[i])):
                lines[-1].stylize(style, at, at + len(row[i]))
            at += widths[i] + GAP
    if width is not None:
        for line in lines:
            line.truncate(width, overflow="ellipsis")
    return lines


def _line(cells: Sequence[str], widths: Sequence[int], style: str = "") -> Text:
    padded = (cell + " " * (width + GAP - cell_len(cell)) for cell, width in zip(cells, widths, strict=True))
    return Text("".join(padded).rstrip(), style=style)


def complain(sentence: str) -> None:
    """Print an error to stderr, in kubectl's format."""
    sys.stderr.write(f"error: {clean(sentence)}\n")


def note(sentence: str) -> None:
    """Print a note to stderr."""
    sys.stderr.write(f"{clean(sentence)}\n")
