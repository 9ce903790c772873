"""The pages, their streams, and the buttons: thin handlers over the cluster as the viewer sees it."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlencode

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from trainingrun_operator.core import asking
from trainingrun_operator.dashboard import actions, live, pages
from trainingrun_operator.dashboard.cluster import default_namespace
from trainingrun_operator.dashboard.fleet import Query, page_of, row_of
from trainingrun_operator.dashboard.guard import (
    HEALTH,
    Guard,
    Origins,
    as_token,
    cookie_name,
    csrf_fits,
    csrf_of,
    secure,
    token_of,
)
from trainingrun_operator.dashboard.run_view import RunView
from trainingrun_operator.dashboard.stream import HEADERS as STREAM
from trainingrun_operator.dashboard.stream import merged
from trainingrun_operator.dashboard.words import trouble
from trainingrun_operator.edge.apiserver.connection import service_account_token
from trainingrun_operator.edge.apiserver.transport import KubeError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from os import PathLike

    from starlette.requests import Request
    from starlette.types import Scope

    from trainingrun_operator.dashboard.cluster import Cluster, Person
    from trainingrun_operator.dashboard.stream import Event
    from trainingrun_operator.settings import DashboardSettings

log = logging.getLogger(__name__)

_UNAUTHORIZED, _FORBIDDEN = 401, 403
_NEWER: Final = "It was written by an operator that is newer than this dashboard: upgrade the dashboard."
_DONE: Final = {
    "stop": "Stopping…",
    "suspend": "Suspending…",
    "resume": "Resuming…",
    "proceed": "It goes on now, with what could be saved.",
    "abandon": "The nodes are kept as they are.",
}


_PATCHES: Final = {
    "suspend": asking.SUSPEND,
    "resume": asking.RESUME,
    "proceed": asking.PROCEED,
    "abandon": asking.ABANDON,
}
"""What a button writes, whoever presses it; a stop is written in somebody's name."""


@dataclass(frozen=True)
class Viewer:
    """Who looks."""

    person: Person
    token: str
    """Empty for an anonymous viewer, who reads with the dashboard's own rights."""

    async def name(self) -> str:
        """Their user name; empty for an anonymous viewer."""
        return await self.person.name() if self.token else ""

    async def may_patch(self, namespace: str, name: str) -> bool:
        """Nobody who is anonymous, whatever rights the dashboard has."""
        return bool(self.token) and await self.person.may_patch(namespace, name)


class _Assets(StaticFiles):
    """Their addresses carry their digest, so that they may be kept."""

    def file_response(
        self, full_path: str | PathLike[str], stat_result: Any, scope: Scope, status_code: int = 200
    ) -> Response:
        answer = super().file_response(full_path, stat_result, scope, status_code)
        answer.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return answer


class Dashboard:
    """The handlers."""

    def __init__(self, cluster: Cluster, settings: DashboardSettings) -> None:
        self._cluster, self._settings = cluster, settings

    def app(self) -> Starlette:
        """The application behind its guard."""
        run = "/runs/{namespace}/{name}"
        return Starlette(
            routes=[
                Route(HEALTH, self.health),
                Route("/", self.fleet),
                Route("/events", self.fleet_events),
                Route("/login", self.login_page),
                Route("/login", self.login, methods=["POST"]),
                Route("/logout", self.logout, methods=["POST"]),
                Route(run, self.run),
                Route(f"{run}/events", self.run_events),
                *(Route(f"{run}/{action}", self.act, methods=["POST"], name=action) for action in _DONE),
                Mount("/static", _Assets(directory=pages.STATIC)),
            ],
            middleware=[Middleware(Guard, origins=Origins.of(self._settings.origins))],
            exception_handlers={404: self.not_found, KubeError: self.call_failed, ValidationError: self.not_understood},  # type: ignore[dict-item] # each takes the error that it is for
        )

    def _viewer(self, request: Request) -> Viewer | None:
        if token := token_of(request):
            return Viewer(self._cluster.person(token), token)
        return Viewer(self._cluster.person(service_account_token()), "") if self._settings.anonymous else None

    async def health(self, _: Request) -> Response:
        """It answers."""
        return PlainTextResponse("ok\n")

    # -- login ------------------------------------------------------------------------------------------------

    def _to_login(self, request: Request) -> Response:
        """Ask who it is; but a link from elsewhere comes without the cookie, which a second look from here brings along."""
        if (
            request.headers.get("sec-fetch-site") in {"cross-site", "same-site"}
            and request.headers.get("sec-fetch-mode") == "navigate"
        ):
            return HTMLResponse(pages.render("again.html"))
        wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/login?{urlencode({'next': wanted})}" if wanted != "/" else "/login", 303)

    async def login_page(self, request: Request) -> Response:
        """The form."""
        return self._login_form(_local(request.query_params.get("next", "/")))

    def _login_form(self, then: str, problem: str = "", status: int = 200) -> Response:
        return HTMLResponse(
            pages.render("login.html", then=then, problem=problem, anonymous=self._settings.anonymous), status
        )

    async def login(self, request: Request) -> Response:
        """Take a token that the API server knows, and keep it where no script reaches it."""
        form = {name: values[0] for name, values in parse_qs((await request.body()).decode(errors="replace")).items()}
        then, token = _local(form.get("next", "/")), as_token(form.get("token", ""))
        if not token:
            return self._login_form(
                then, "That is not a token: it is empty, too long, or has characters that no token has.", 400
            )
        try:
            await self._cluster.person(token).name()
        except KubeError as error:
            unknown = "The API server does not know this token: it has expired, or not all of it was copied."
            said = unknown if error.status == _UNAUTHORIZED else trouble(error, "log in")
            return self._login_form(then, said, _UNAUTHORIZED if error.status == _UNAUTHORIZED else 502)
        answer = RedirectResponse(then, 303)
        answer.set_cookie(
            cookie_name(request), token, path="/", httponly=True, samesite="strict", secure=secure(request)
        )
        return answer

    async def logout(self, request: Request) -> Response:
        """Forget the token."""
        form = parse_qs((await request.body()).decode(errors="replace"))
        if not csrf_fits(token_of(request), form.get("csrf", [""])[0]):
            return PlainTextResponse("This was not sent by a page of yours.\n", _FORBIDDEN)
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(cookie_name(request), path="/", httponly=True, samesite="strict", secure=secure(request))
        return answer

    # -- the fleet --------------------------------------------------------------------------------------------

    async def fleet(self, request: Request) -> Response:
        """The table of runs."""
        if (viewer := self._viewer(request)) is None:
            return self._to_login(request)
        query = Query.of(request.query_params)
        user = await viewer.name()
        said = {"user": user, "csrf": csrf_of(viewer.token)}
        try:
            listed = await viewer.person.runs(query.namespace)
        except KubeError as error:
            if error.status != _FORBIDDEN:
                raise
            if not query.namespace and (own := default_namespace(viewer.token)):
                return RedirectResponse(f"/?{urlencode({'namespace': own})}", 303)
            return HTMLResponse(pages.render("namespace.html", namespace=query.namespace, **said), _FORBIDDEN)
        page = page_of((row_of(listed.columns, one) for one in listed.rows), query)
        events = f"/events{query.address(page=page.page)}"
        return HTMLResponse(pages.render("fleet.html", events=events, **pages.fleet_said(page, query), **said))

    async def fleet_events(self, request: Request) -> Response:
        """What changes in it."""
        if (viewer := self._viewer(request)) is None:
            return PlainTextResponse("Log in first.\n", _UNAUTHORIZED)
        return _stream(live.fleet(viewer.person, Query.of(request.query_params)))

    # -- one run ----------------------------------------------------------------------------------------------

    async def run(self, request: Request) -> Response:
        """Its page."""
        if (viewer := self._viewer(request)) is None:
            return self._to_login(request)
        namespace, name = request.path_params["namespace"], request.path_params["name"]
        view = RunView.of(await viewer.person.run(namespace, name))
        said = pages.run_said(view, may_patch=await viewer.may_patch(namespace, name), user=await viewer.name())
        return HTMLResponse(
            pages.render("run.html", events=f"{request.url.path}/events", csrf=csrf_of(viewer.token), **said)
        )

    async def run_events(self, request: Request) -> Response:
        """What happens to it: state, curve and log."""
        if (viewer := self._viewer(request)) is None:
            return PlainTextResponse("Log in first.\n", _UNAUTHORIZED)
        namespace, name = request.path_params["namespace"], request.path_params["name"]
        watched = live.Watched(
            viewer.person, namespace, name, await viewer.name(), await viewer.may_patch(namespace, name)
        )
        # An anonymous viewer reads no logs: people print secrets.
        sources = (watched.states(), watched.curves(), *((watched.logs(),) if viewer.token else ()))
        return _stream(*sources)

    async def act(self, request: Request) -> Response:
        """A button: stop, suspend, resume, proceed or abandon. The API server decides whether this person may."""
        token, action = token_of(request), request.url.path.rpartition("/")[2]
        if not token:
            return _told("Nobody is logged in here: log in first.", _UNAUTHORIZED)
        if not csrf_fits(token, request.headers.get("x-csrf-token")):
            return _told("This was not sent by a page of yours: load it again.", _FORBIDDEN)
        person, namespace, name = (
            self._cluster.person(token),
            request.path_params["namespace"],
            request.path_params["name"],
        )
        try:
            said = json.loads(await request.body())
            view = RunView.of(await person.run(namespace, name))
            if view.uid != str(said["uid"]):
                return _told("This run is gone: another one has its name now. Load the page again.", 409)
            if (nothing := _nothing_to_do(action, view)) is not None:
                return nothing
            patch = _PATCHES[action] if action in _PATCHES else actions.Stop.of(said).patch(await person.name())
            await person.patch_run(namespace, name, asking.of_uid(view.uid, patch))
        except (KeyError, TypeError, ValueError) as error:
            return _told(
                _NEWER
                if isinstance(error, ValidationError)
                else "The request is not what a page of this dashboard sends.",
                400,
            )
        except actions.BadRequestError as error:
            return _told(str(error), 422)
        except KubeError as error:
            return _told(trouble(error, f"{action} this run"), error.status or 502)
        log.info("%s of %s/%s asked for", action, namespace, name)
        return _told(_DONE[action])

    # -- what goes wrong --------------------------------------------------------------------------------------

    async def not_found(self, _: Request, __: Exception) -> Response:
        """No such page."""
        return _error_page("There is no such page", "The address is misspelt, or the page was never there.", 404)

    async def call_failed(self, request: Request, error: KubeError) -> Response:
        """A call that a page needs was refused."""
        if error.status == _UNAUTHORIZED:
            answer = self._login_form(
                _local(request.url.path), "Your login is not valid any more: log in again.", _UNAUTHORIZED
            )
            answer.delete_cookie(
                cookie_name(request), path="/", httponly=True, samesite="strict", secure=secure(request)
            )
            return answer
        title = {_FORBIDDEN: "You may not see this", 404: "There is no such run"}.get(
            error.status, "This could not be shown"
        )
        return _error_page(
            title, trouble(error, "see this"), error.status if error.status in {_FORBIDDEN, 404} else 502
        )

    async def not_understood(self, _: Request, __: ValidationError) -> Response:
        """A run of a newer version."""
        return _error_page("This run cannot be shown", _NEWER, 502)


def _nothing_to_do(action: str, view: RunView) -> Response | None:
    """A button that is pressed twice, or too late, changes nothing and says so."""
    if action == "stop" and view.finished:
        return _told(f"Too late to stop it: it has ended already ({view.look.words}).", 409)
    if action == "stop" and view.ending:
        return _told("It is stopping already.")
    if action == "suspend" and not view.can_suspend:
        asleep = view.spec.suspend and not view.ending
        late = "It ends, or has: it cannot be suspended any more."
        return _told("It is suspended already.") if asleep else _told(late, 409)
    if action == "resume" and not view.can_resume:
        over = view.ending or view.finished
        return _told("It ends, or has: it cannot go on.", 409) if over else _told("It is not suspended.")
    if action == "proceed" and not view.can_proceed:
        return _told("It is not held (any more): there is nothing to decide.", 409)
    if action == "abandon" and not view.can_abandon:
        return _told("No node of it is waited for (any more).", 409)
    return None


def _told(message: str, status: int = 200) -> Response:
    return JSONResponse({"message": message}, status)


def _error_page(title: str, text: str, status: int) -> Response:
    return HTMLResponse(pages.render("error.html", title=title, text=text), status)


def _stream(*sources: AsyncIterator[Event]) -> Response:
    return StreamingResponse(merged(sources), headers=STREAM)


def _local(address: str) -> str:
    """A page of this dashboard, and nobody else's."""
    return (
        address if address.startswith("/") and not address.startswith(("//", "/\\")) and address.isprintable() else "/"
    )


def make(cluster: Cluster, settings: DashboardSettings) -> Starlette:
    """Put the application together."""
    return Dashboard(cluster, settings).app()
