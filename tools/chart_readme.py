"""The chart's README: README.md.j2 with a table of its values, made of the comments in values.yaml (`# -- …`, as helm-docs reads them).

python tools/chart_readme.py CHART > CHART/README.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jinja2
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

MARK = "# -- "


class Value(NamedTuple):
    """A row of the table."""

    path: str
    default: str
    text: str


def values(chart: Path) -> list[Value]:
    """Return every value that is explained, in order. What lies below an explained one belongs to it.

    Raises:
        SystemExit: a value that nobody explains.
    """
    text = (chart / "values.yaml").read_text(encoding="utf-8")
    node = yaml.compose(text)
    if not isinstance(node, yaml.MappingNode):
        sys.exit("values.yaml: expected names and values")
    return list(_below(node, yaml.safe_load(text), text.splitlines(), ""))


def _below(node: yaml.MappingNode, loaded: dict[str, Any], lines: list[str], prefix: str) -> Iterator[Value]:
    for key, child in node.value:
        path, default = f"{prefix}{key.value}", loaded[key.value]
        if explained := _comment(lines, key.start_mark.line):
            yield Value(path, json.dumps(default), explained)
        elif isinstance(child, yaml.MappingNode) and child.value:
            yield from _below(child, default, lines, f"{path}.")
        else:
            sys.exit(f"values.yaml: {path} has no comment that begins with {MARK!r}")


def _comment(lines: list[str], key_line: int) -> str:
    """The comment right above a key, from its mark on, on one line; empty if there is none."""
    first = key_line
    while first > 0 and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    block = [line.strip() for line in lines[first:key_line]]
    marked = [number for number, line in enumerate(block) if line.startswith(MARK)]
    if not marked:
        return ""
    return " ".join(line.removeprefix(MARK).removeprefix("#").strip() for line in block[marked[-1] :])


def cell(text: str) -> str:
    """For a Markdown table."""
    return text.replace("|", "\\|")


def render(chart: Path) -> str:
    """Return the README."""
    loader = jinja2.FileSystemLoader(chart)
    pages = jinja2.Environment(
        loader=loader,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - Markdown
    )
    pages.filters["cell"] = cell
    about = yaml.safe_load((chart / "Chart.yaml").read_text(encoding="utf-8"))
    return pages.get_template("README.md.j2").render(chart=about, values=values(chart))


if __name__ == "__main__":
    sys.stdout.write(render(Path(sys.argv[1])))
