"""The pages of what goes wrong: an unknown address, a refused call, a run of a newer version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from starlette.responses import HTMLResponse, Response

from trainingrun_operator.dashboard import pages
from trainingrun_operator.dashboard.words import trouble

if TYPE_CHECKING:
    from pydantic import ValidationError
    from starlette.requests import Request

    from trainingrun_operator.edge.apiserver.transport import KubeError

NEWER: Final = "A newer operator wrote this run. Upgrade the dashboard."
_TITLES: Final = {403: "Access denied", 404: "There is no such run"}
_OTHERS = 502


async def not_found(_: Request, __: Exception) -> Response:
    """No such page."""
    return _page("Page not found", "This address does not exist. Check its spelling.", 404)


async def not_understood(_: Request, __: ValidationError) -> Response:
    """The run has fields or values of a newer version."""
    return _page("This run cannot be shown", NEWER, _OTHERS)


def call_failed(error: KubeError) -> Response:
    """The API server refused a call."""
    title = _TITLES.get(error.status, "This page cannot be shown")
    return _page(title, trouble(error, "see this"), error.status if error.status in _TITLES else _OTHERS)


def _page(title: str, text: str, status: int) -> Response:
    return HTMLResponse(pages.render("error.html", title=title, text=text), status)
