"""Every PromQL of a dashboard, found as Grafana finds it."""

from __future__ import annotations

from typing import Any, NamedTuple


class Query(NamedTuple):
    """One of them, and where it stands."""

    place: str
    expr: str


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    """All but rows, those in folded rows included."""
    found = [*board["panels"], *(inner for panel in board["panels"] for inner in panel.get("panels") or ())]
    return [panel for panel in found if panel["type"] != "row"]


def every_query(board: dict[str, Any]) -> list[Query]:
    """Of panels, annotations, and of the variables' values."""
    shown = [
        Query(f"{board['title']}: {panel['title']} ({target.get('legendFormat') or target['refId']})", target["expr"])
        for panel in panels(board)
        for target in panel["targets"]
    ]
    marks = [Query(f"{board['title']}: mark {mark['name']}", mark["expr"]) for mark in board["annotations"]["list"]]
    choices = [
        Query(f"{board['title']}: choice of {variable['name']}", variable["query"]["query"])
        for variable in board["templating"]["list"]
    ]
    return shown + marks + choices
