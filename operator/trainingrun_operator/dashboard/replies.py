"""Replies to buttons, and to pages that cannot be live: short texts that the pages show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, PlainTextResponse, Response

from trainingrun_operator.dashboard.words import trouble

if TYPE_CHECKING:
    from trainingrun_operator.dashboard.run_view import RunView
    from trainingrun_operator.edge.apiserver.transport import KubeError

_UNAUTHORIZED = 401


def reply(message: str, status: int = 200) -> Response:
    """Reply to a button."""
    return JSONResponse({"message": message}, status)


def not_live(error: KubeError) -> Response:
    """Say why a page is not live, in words for the page. An invalid token takes no place of a live page."""
    return PlainTextResponse(f"{trouble(error, 'see this')}\n", _UNAUTHORIZED if error.status == _UNAUTHORIZED else 502)


def nothing_to_do(action: str, view: RunView) -> Response | None:
    """Answer a button that is pressed twice or too late; None if there is something to do."""
    if action == "stop" and view.finished:
        return reply(f"The run has already ended ({view.look.words}).", 409)
    if action == "stop" and view.ending:
        return reply("The run is already stopping.")
    if action == "suspend" and not view.can_suspend:
        asleep = view.spec.suspend and not view.ending
        late = "The run is ending or has ended and cannot be suspended."
        return reply("The run is already suspended.") if asleep else reply(late, 409)
    if action == "resume" and not view.can_resume:
        over = view.ending or view.finished
        return (
            reply("The run is ending or has ended and cannot be resumed.", 409)
            if over
            else reply("The run is not suspended.")
        )
    if action == "proceed" and not view.can_proceed:
        return reply("The run is not held.", 409)
    if action == "abandon" and not view.can_abandon:
        return reply("The run is not waiting for a node.", 409)
    return None
