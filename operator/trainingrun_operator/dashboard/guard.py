"""Checks that precede every request, and the headers of every response.

Host: under DNS rebinding a foreign page's name resolves to this address; its Host header still carries that name, so it is refused.
Origin: a changing request must come from a page of this dashboard. CSRF: it must carry a value that only such a page knows.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
"""`kubectl port-forward` listens here, on any port."""
BODY_MAX: Final = 16_384
HEALTH: Final = "/healthz"
SAFE: Final = frozenset({"GET", "HEAD"})
TOKEN_MAX: Final = 3800
"""Browsers keep cookies of about 4,000 bytes."""
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]+")
_COOKIE: Final = "trainingrun-token"
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self';"
    " base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types trainingrun",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # Not `no-referrer`: browsers then send `Origin: null` with a form.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


@dataclass(frozen=True)
class Origins:
    """Origins under which people reach the dashboard."""

    named: frozenset[str]

    @classmethod
    def of(cls, origins: Iterable[str]) -> Origins:
        """From `https://host[:port]` entries; loopback is always allowed."""
        return cls(frozenset(origins))

    def of_host(self, host: str) -> str:
        """The origin of a Host header, https if both schemes are allowed; empty for an unknown host."""
        host = host.lower()
        for scheme in ("https", "http"):
            if f"{scheme}://{host}" in self.named:
                return f"{scheme}://{host}"
        try:
            split = urlsplit(f"//{host}")
            loopback = split.hostname in LOOPBACK and split.port != 0 and "@" not in host
        except ValueError:
            return ""
        return f"http://{host}" if loopback and not split.path else ""


class Guard:
    """ASGI middleware in front of the application."""

    def __init__(self, app: ASGIApp, origins: Origins) -> None:
        self._app, self._origins = app, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse or forward a request; both responses carry the headers."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = None if scope["path"] == HEALTH else self._refusal(scope)
        await (refusal or self._app)(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        origin = self._origins.of_host(headers.get("host", ""))
        if not origin:
            said = (
                f"Unknown host {headers.get('host', '')!r}. To allow it, set dashboard.origins in the chart's values.\n"
            )
            return PlainTextResponse(said, 421)
        scope.setdefault("state", {})["origin"] = origin
        if scope["method"] in SAFE:
            return None
        from_own_page = headers.get("origin") == origin or (
            "origin" not in headers and headers.get("sec-fetch-site") == "same-origin"
        )
        if not from_own_page:
            return PlainTextResponse("Request refused: it did not come from a page of this dashboard.\n", 403)
        length = headers.get("content-length", "")
        if not length.isdecimal() or int(length) > BODY_MAX:
            return PlainTextResponse(f"The body must have a Content-Length of at most {BODY_MAX} bytes.\n", 413)
        return None


# -- identity -------------------------------------------------------------------------------------------------


def secure(request: Request) -> bool:
    """Whether the page is served over https."""
    return str(request.state.origin).startswith("https://")


def cookie_name(request: Request) -> str:
    """Cookie name; over https, one that other hosts and insecure pages cannot set."""
    return f"__Host-{_COOKIE}" if secure(request) else _COOKIE


def token_of(request: Request) -> str:
    """The bearer token of the request; empty if there is none."""
    return as_token(request.cookies.get(cookie_name(request), ""))


def as_token(text: str) -> str:
    """Pasted text without whitespace and `Bearer`; empty if it cannot be a token."""
    bare = "".join(text.split()).removeprefix("Bearer")
    return bare if len(bare) <= TOKEN_MAX and _TOKEN.fullmatch(bare) else ""


def csrf_of(token: str) -> str:
    """Derive a page's CSRF value from the token: it cannot be guessed, does not reveal the token, and is the same in every replica."""
    return hmac.new(token.encode(), b"trainingrun dashboard, csrf", hashlib.sha256).hexdigest()


def csrf_fits(token: str, said: Any) -> bool:
    """Whether the request carries this person's CSRF value."""
    return isinstance(said, str) and bool(token) and hmac.compare_digest(csrf_of(token).encode(), said.encode())
