"""Who may read the page: a browser on this machine that was given the token, and nobody by way of another site.

Each run draws its secrets anew. The token stands in the address that the command prints, after the #, so that no
server, log or Referer header sees it; the page's own script hands it over once and gets a cookie instead. Cookies know
no ports: this one is bound to a path that only this run has, so that no other server of this machine is sent it.

Every request must be a GET for a name of this machine: another site's name that resolves to 127.0.0.1 (DNS rebinding)
is refused before anything is looked up. Every answer forbids the browser to load, run, frame or submit anything from
elsewhere, and to run any script that is not a file of this package.

    access = Access.draw()
    app = Guard(application, access)
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field
from typing import Final, Self

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE: Final = "blockfl_page"
_HOSTS: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS: Final = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}
"""What every answer says, refusals included."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """The secrets of one run.

    Attributes:
        token: Proves that a reader was given the printed address.
        session: The cookie's value.
        base: The path that everything but the entrance stands under; not secret, but never the same.
    """

    token: str = field(repr=False)
    session: str = field(repr=False)
    base: str

    @classmethod
    def draw(cls) -> Self:
        """Draw new ones."""
        return cls(token=secrets.token_urlsafe(32), session=secrets.token_urlsafe(32), base=f"/{secrets.token_hex(8)}")

    def has_token(self, request: Request) -> bool:
        """Whether a request shows the token: ``Authorization: Bearer …``."""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and _is_equal(given.strip(), self.token)

    def has_session(self, request: Request) -> bool:
        """Whether a request carries the cookie."""
        return _is_equal(request.cookies.get(COOKIE, ""), self.session)

    def let_in(self) -> Response:
        """Return what tells a browser with the token where everything is, and gives it the cookie."""
        response = JSONResponse({"base": f"{self.base}/"})
        response.set_cookie(COOKIE, self.session, path=self.base, httponly=True, samesite="strict")
        return response


class AccessGuard:
    """Lets nothing through to an application but what the module's text says.

    Args:
        app: The application.
        access: The run's secrets.
    """

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            raise RuntimeError(f"expected an HTTP request, got {scope['type']}")

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
            await send(message)

        refusal = self._check(Request(scope))
        await (refusal or self._app)(scope, receive, send_guarded)

    def _check(self, request: Request) -> Response | None:
        """Return why a request is not answered, None if it is."""
        if request.method != "GET":
            return PlainTextResponse("this page is read-only: expected GET\n", 405, {"Allow": "GET"})
        if not _is_own_host(request.headers.getlist("host")):
            return PlainTextResponse("expected 127.0.0.1, [::1] or localhost as the host\n", 421)
        path = request.url.path
        is_inside = path == self._access.base or path.startswith(f"{self._access.base}/")
        if is_inside and not (self._access.has_session(request) or self._access.has_token(request)):
            return PlainTextResponse("open the address that `blockfl audit serve` printed\n", 401)
        return None


def _is_own_host(hosts: list[str]) -> bool:
    """Whether there is one Host header, naming this machine with any port (a tunnel has another)."""
    if len(hosts) != 1:
        return False
    name, colon, port = hosts[0].rpartition(":")
    if not colon or hosts[0].endswith("]"):
        return hosts[0].lower() in _HOSTS
    return name.lower() in _HOSTS and port.isascii() and port.isdigit()


def _is_equal(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())
