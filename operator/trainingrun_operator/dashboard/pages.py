"""HTML from templates: whole pages, and the parts that are updated live."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from trainingrun_operator.core import asking
from trainingrun_operator.core.words import size
from trainingrun_operator.dashboard import actions, words
from trainingrun_operator.dashboard.fleet import SORTS, FleetPage, Query, Row

if TYPE_CHECKING:
    from trainingrun_operator.dashboard.run_view import RunView

HERE: Final = Path(__file__).parent
STATIC: Final = HERE / "static"
RUN_PARTS: Final = (
    "head",
    "outcome",
    "actions",
    "numbers",
    "stop",
    "decision",
    "checkpoint",
    "nodes",
    "conditions",
    "consequence",
)
"""Parts of the run page, `templates/run/NAME.html` each."""


def _static(name: str) -> str:
    """URL of an asset; it changes with the content."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]
    return f"/static/{name}?v={digest}"


_templates: Final = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.globals |= {
    "static": {
        name: _static(name)
        for name in (
            "app.css",
            "live.js",
            "run.js",
            "icon.svg",
            "vendor/uplot/uPlot.iife.min.js",
            "vendor/uplot/uPlot.min.css",
        )
    },
}
_templates.filters |= {"duration": words.duration, "size": size, "count": words.count}


def render(template: str, **said: Any) -> str:
    """Render a whole page."""
    return _templates.get_template(template).render(**said)


# -- the fleet ----------------------------------------------------------------------------------------------


def fleet_said(page: FleetPage, query: Query) -> dict[str, Any]:
    """Variables of the fleet templates."""
    return {"page": page, "query": query, "sorts": SORTS}


def fleet_parts(page: FleetPage, query: Query) -> dict[str, str]:
    """The live parts of the fleet page except its rows."""
    said = fleet_said(page, query)
    return {name: render(f"fleet/{name}.html", **said) for name in ("counts", "pager")}


def row_part(row: Row) -> str:
    """One row of the fleet's table."""
    return render("fleet/row.html", row=row)


# -- one run --------------------------------------------------------------------------------------------------


def run_said(view: RunView, *, may_patch: bool, user: str) -> dict[str, Any]:
    """Variables of the run templates."""
    return {
        "run": view,
        "may_patch": may_patch,
        "user": user,
        "signature": asking.signature(user),
        "now": datetime.now(UTC),
        "categories": tuple(actions.Category),
        "modes": tuple(
            (mode.value, title, about.format(grace=words.duration(view.spec.shutdown.grace_seconds)))
            for mode, title, about in actions.MODES
        ),
        "stop_command": actions.command(view.namespace, view.name, actions.Stop(mode=view.spec.stop_mode).patch(user)),
        "suspend_command": actions.command(view.namespace, view.name, asking.SUSPEND),
        "resume_command": actions.command(view.namespace, view.name, asking.RESUME),
        "proceed_command": actions.command(view.namespace, view.name, asking.PROCEED),
        "abandon_command": actions.command(view.namespace, view.name, asking.ABANDON),
    }


def run_parts(said: dict[str, Any]) -> dict[str, str]:
    """The live parts of the run page."""
    return {name: render(f"run/{name}.html", **said) for name in RUN_PARTS}
