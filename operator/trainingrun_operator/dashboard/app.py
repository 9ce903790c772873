"""The pages, their event streams and the buttons: thin handlers that read the cluster with the viewer's rights."""

from __future__ import annotations

import json
import logging
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlencode

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import (
    HTMLResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from trainingrun_operator.core import asking
from trainingrun_operator.dashboard import actions, error_pages, feeds, live, pages
from trainingrun_operator.dashboard.cluster import default_namespace
from trainingrun_operator.dashboard.error_pages import NEWER, not_found, not_understood
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
from trainingrun_operator.dashboard.limits import Requests, Streams
from trainingrun_operator.dashboard.replies import not_live, nothing_to_do, reply
from trainingrun_operator.dashboard.run_view import RunView
from trainingrun_operator.dashboard.stream import merged
from trainingrun_operator.dashboard.words import trouble
from trainingrun_operator.edge.apiserver.connection import service_account_token
from trainingrun_operator.edge.apiserver.transport import KubeError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable
    from contextlib import AbstractAsyncContextManager
    from os import PathLike

    from starlette.requests import Request
    from starlette.types import Scope

    from trainingrun_operator.dashboard.cluster import Cluster, Person
    from trainingrun_operator.dashboard.fleet import Row
    from trainingrun_operator.settings import DashboardSettings

log = logging.getLogger(__name__)

_UNAUTHORIZED, _FORBIDDEN = 401, 403
_DONE: Final = {
    "stop": "Stopping…",
    "suspend": "Suspending…",
    "resume": "Resuming…",
    "proceed": "The hold is ended. The stop continues with the data saved so far.",
    "abandon": "The nodes are kept.",
}


_PATCHES: Final = {
    "suspend": asking.SUSPEND,
    "resume": asking.RESUME,
    "proceed": asking.PROCEED,
    "abandon": asking.ABANDON,
}
"""Patch by button, the same for every person; a stop also records the person."""


@dataclass(frozen=True)
class Viewer:
    """The person behind a request."""

    person: Person
    token: str
    """Empty for an anonymous viewer, who reads with the dashboard's own rights."""

    async def name(self) -> str:
        """The user name; empty for an anonymous viewer."""
        return await self.person.name() if self.token else ""

    async def may_patch(self, namespace: str, name: str) -> bool:
        """Whether this person may patch the run; always false for an anonymous viewer, whatever rights the dashboard has."""
        return bool(self.token) and await self.person.may_patch(namespace, name)


class _Assets(StaticFiles):
    """Static files; their URLs contain a digest, so browsers may cache them."""

    def file_response(
        self, full_path: str | PathLike[str], stat_result: Any, scope: Scope, status_code: int = 200
    ) -> Response:
        answer = super().file_response(full_path, stat_result, scope, status_code)
        answer.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return answer


class Dashboard:
    """The request handlers."""

    def __init__(self, cluster: Cluster, settings: DashboardSettings) -> None:
        self._cluster, self._settings = cluster, settings
        self._feeds, self._streams = feeds.Feeds(), Streams()

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
            middleware=[Middleware(Guard, origins=Origins.of(self._settings.origins)), Middleware(Requests)],
            exception_handlers={404: not_found, KubeError: self.call_failed, ValidationError: not_understood},  # type: ignore[dict-item] # each takes the error that it is for
        )

    def _viewer(self, request: Request) -> Viewer | None:
        if token := token_of(request):
            return Viewer(self._cluster.person(token), token)
        return Viewer(self._cluster.person(service_account_token()), "") if self._settings.anonymous else None

    def _reader(self, viewer: Viewer) -> feeds.Reader:
        if viewer.token:
            return feeds.Reader(lambda: viewer.person)
        return feeds.Reader(lambda: self._cluster.person(service_account_token()), shared=True)

    async def health(self, _: Request) -> Response:
        """Liveness."""
        return PlainTextResponse("ok\n")

    # -- login ------------------------------------------------------------------------------------------------

    def _to_login(self, request: Request) -> Response:
        """Redirect to the login form. A cross-site link arrives without the cookie; a page that reloads itself sends it."""
        if (
            request.headers.get("sec-fetch-site") in {"cross-site", "same-site"}
            and request.headers.get("sec-fetch-mode") == "navigate"
        ):
            return HTMLResponse(pages.render("again.html"))
        wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/login?{urlencode({'next': wanted})}" if wanted != "/" else "/login", 303)

    async def login_page(self, request: Request) -> Response:
        """The login form."""
        return self._login_form(_local(request.query_params.get("next", "/")))

    def _login_form(self, then: str, problem: str = "", status: int = 200) -> Response:
        return HTMLResponse(
            pages.render("login.html", then=then, problem=problem, anonymous=self._settings.anonymous), status
        )

    async def login(self, request: Request) -> Response:
        """Check a token with the API server and store it in a cookie that scripts cannot read."""
        form = {name: values[0] for name, values in parse_qs((await request.body()).decode(errors="replace")).items()}
        then, token = _local(form.get("next", "/")), as_token(form.get("token", ""))
        if not token:
            return self._login_form(
                then,
                "This is not a token: it is empty, too long, or contains characters that tokens do not contain.",
                400,
            )
        try:
            await self._cluster.person(token).name()
        except KubeError as error:
            unknown = "The API server rejects this token: it is expired or incomplete."
            said = unknown if error.status == _UNAUTHORIZED else trouble(error, "log in")
            return self._login_form(then, said, _UNAUTHORIZED if error.status == _UNAUTHORIZED else 502)
        answer = RedirectResponse(then, 303)
        answer.set_cookie(
            cookie_name(request), token, path="/", httponly=True, samesite="strict", secure=secure(request)
        )
        return answer

    async def logout(self, request: Request) -> Response:
        """Delete the cookie."""
        form = parse_qs((await request.body()).decode(errors="replace"))
        if not csrf_fits(token_of(request), form.get("csrf", [""])[0]):
            return PlainTextResponse("Invalid CSRF token. Reload the page.\n", _FORBIDDEN)
        answer = RedirectResponse("/login", 303)
        answer.delete_cookie(cookie_name(request), path="/", httponly=True, samesite="strict", secure=secure(request))
        return answer

    async def call_failed(self, request: Request, error: KubeError) -> Response:
        """The API server refused a call: a login that is no longer valid leads to the form, anything else to an error page."""
        if error.status != _UNAUTHORIZED:
            return error_pages.call_failed(error)
        answer = self._login_form(_local(request.url.path), "Your login has expired. Log in again.", _UNAUTHORIZED)
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
            rows = await self._rows(viewer, query.namespace)
        except KubeError as error:
            if error.status != _FORBIDDEN:
                raise
            if not query.namespace and (own := default_namespace(viewer.token)):
                return RedirectResponse(f"/?{urlencode({'namespace': own})}", 303)
            return HTMLResponse(pages.render("namespace.html", namespace=query.namespace, **said), _FORBIDDEN)
        page = page_of(rows, query)
        events = f"/events{query.address(page=page.page)}"
        return HTMLResponse(pages.render("fleet.html", events=events, **pages.fleet_said(page, query), **said))

    async def _rows(self, viewer: Viewer, namespace: str) -> Iterable[Row]:
        """List the runs. Anonymous viewers get the list that is there for all of them."""
        if viewer.token:
            listed = await viewer.person.runs(namespace)
            return [row_of(listed.columns, one) for one in listed.rows]
        async with self._fleet(self._reader(viewer), namespace) as feed:
            await feed.wait(0)
            if feed.state.rows is not None:
                return tuple(feed.state.rows.values())
            why = feed.state.error or KubeError(0, "Unreachable", "the list of runs could not be read")
            raise KubeError(why.status, why.reason, why.message)

    async def fleet_events(self, request: Request) -> Response:
        """Changes of the fleet page."""
        if (viewer := self._viewer(request)) is None:
            return PlainTextResponse("Log in first.\n", _UNAUTHORIZED)
        query, reader = Query.of(request.query_params), self._reader(viewer)
        try:
            user = await viewer.name()
        except KubeError as error:
            return not_live(error)

        async def events() -> AsyncGenerator[bytes, None]:
            async with (
                self._fleet(reader, query.namespace) as feed,
                aclosing(merged([live.fleet(feed, query)])) as pieces,
            ):
                async for piece in pieces:
                    yield piece

        return self._streams.of(user, events)

    def _fleet(self, reader: feeds.Reader, namespace: str) -> AbstractAsyncContextManager[feeds.Feed[feeds.Fleet]]:
        return self._feeds.follow(("fleet", namespace), lambda: feeds.fleet(reader, namespace), shared=reader.shared)

    # -- one run ----------------------------------------------------------------------------------------------

    async def run(self, request: Request) -> Response:
        """The page of one run."""
        if (viewer := self._viewer(request)) is None:
            return self._to_login(request)
        namespace, name = request.path_params["namespace"], request.path_params["name"]
        view = RunView.of(await viewer.person.run(namespace, name))
        said = pages.run_said(view, may_patch=await viewer.may_patch(namespace, name), user=await viewer.name())
        return HTMLResponse(
            pages.render("run.html", events=f"{request.url.path}/events", csrf=csrf_of(viewer.token), **said)
        )

    async def run_events(self, request: Request) -> Response:
        """Changes of the run page: state, curve and log."""
        if (viewer := self._viewer(request)) is None:
            return PlainTextResponse("Log in first.\n", _UNAUTHORIZED)
        namespace, name = request.path_params["namespace"], request.path_params["name"]
        reader = self._reader(viewer)
        try:
            user, may_patch = await viewer.name(), await viewer.may_patch(namespace, name)
        except KubeError as error:
            return not_live(error)

        async def events() -> AsyncGenerator[bytes, None]:
            make = partial(feeds.one_run, reader, namespace, name)
            async with self._feeds.follow(("run", namespace, name), make, shared=reader.shared) as feed:
                seen = live.Watched(feed, viewer.person, user, may_patch)
                # An anonymous viewer reads no logs: logs may contain secrets.
                sources = [seen.states(), seen.curves(), *([seen.logs()] if viewer.token else [])]
                async with aclosing(merged(sources)) as pieces:
                    async for piece in pieces:
                        yield piece

        return self._streams.of(user, events)

    async def act(self, request: Request) -> Response:
        """Handle a button: stop, suspend, resume, proceed or abandon. The API server authorizes the person."""
        token, action = token_of(request), request.url.path.rpartition("/")[2]
        if not token:
            return reply("You are not logged in. Log in first.", _UNAUTHORIZED)
        if not csrf_fits(token, request.headers.get("x-csrf-token")):
            return reply("Invalid CSRF token. Reload the page.", _FORBIDDEN)
        person, namespace, name = (
            self._cluster.person(token),
            request.path_params["namespace"],
            request.path_params["name"],
        )
        try:
            said = json.loads(await request.body())
            view = RunView.of(await person.run(namespace, name))
            if view.uid != str(said["uid"]):
                return reply("This run was deleted, and a new run has the same name. Reload the page.", 409)
            if (nothing := nothing_to_do(action, view)) is not None:
                return nothing
            patch = _PATCHES[action] if action in _PATCHES else actions.Stop.of(said).patch(await person.name())
            await person.patch_run(namespace, name, asking.of_uid(view.uid, patch))
        except (KeyError, TypeError, ValueError) as error:
            return reply(
                NEWER
                if isinstance(error, ValidationError)
                else "Invalid request: this dashboard's pages do not send it.",
                400,
            )
        except actions.BadRequestError as error:
            return reply(str(error), 422)
        except KubeError as error:
            return reply(trouble(error, f"{action} this run"), error.status or 502)
        log.info("requested: %s of %s/%s", action, namespace, name)
        return reply(_DONE[action])


def _local(address: str) -> str:
    """The address if it is a path of this dashboard, else `/`."""
    return (
        address if address.startswith("/") and not address.startswith(("//", "/\\")) and address.isprintable() else "/"
    )


def make(cluster: Cluster, settings: DashboardSettings) -> Starlette:
    """Build the application."""
    return Dashboard(cluster, settings).app()
