"""What stands before every local page: it answers only its own address, its own page and those who have the token."""

import hmac
import ipaddress
import secrets
import socket
from collections.abc import Mapping
from typing import final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from radvqa.web.answers import problem

LONGEST_BODY = 64 * 1024

_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
    "form-action": "'none'",
}
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def token_for(host: str, given: str | None) -> str:
    """The token to ask for: the given one, or a new one where others can reach the address; ``""`` for none."""
    if given is not None:
        return given
    return "" if is_loopback(host) else secrets.token_urlsafe(24)


@final
class Guard:
    """Refuses what does not come from the page itself, and adds the headers that keep the page to itself.

    A response is not stored by the browser unless it says otherwise in ``Cache-Control``.

    Args:
        app: what is guarded.
        host: the address the server listens on; its name is known.
        token: asked for unless ``""``. ``/?token=`` leads to ``/`` and gives the cookie that all else needs: a secret
            of this guard, which ends with it, not the token.
        cookie: the name of that cookie, before the port: browsers give the cookies of one port to all others.
        policy: directives of the content security policy that differ from the strictest.
    """

    def __init__(
        self, app: ASGIApp, *, host: str, token: str, cookie: str, policy: Mapping[str, str] | None = None
    ) -> None:
        self._app = app
        self._token, self._cookie = token, cookie
        self._session = secrets.token_urlsafe(24)
        self._local = is_loopback(host)
        self._names = {*_LOCAL_NAMES, host.lower()}
        if not self._local:
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        directives = {**_POLICY, **(policy or {})}
        self._headers = {
            "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in directives.items()),
            **_HEADERS,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers.update(self._headers)
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        answer = self._refusal(request) or self._stranger(request) or self._app
        try:
            await answer(scope, receive, send_guarded)
        except Exception:
            if not started:  # an answer from outside this guard would go without its headers
                await problem("a fault of this server; its terminal says which", status=500)(
                    scope, receive, send_guarded
                )
            raise

    def _refusal(self, request: Request) -> Response | None:
        if not self._knows(request.headers.get("host", "")):
            # Another name that was made to point here: DNS rebinding.
            return PlainTextResponse("This server is not known by that name.", status_code=421)
        if request.method in ("GET", "HEAD"):
            return None
        if request.method != "POST":
            return PlainTextResponse("Only GET and POST.", status_code=405)
        return _post_refusal(request.headers)

    def _stranger(self, request: Request) -> Response | None:
        """What those get who are not inside yet; None for all others."""
        if not self._token:
            return None
        name = f"{self._cookie}_{_port(request.headers.get('host', '')) or 80}"
        if request.url.path == "/" and _equal(request.query_params.get("token", ""), self._token):
            # The token does not stay in the address. Lax: of a link in another site's page, browsers hold back a
            # strict cookie from the page that is led to. Nothing is changed by a GET, and a POST needs its own origin.
            response = RedirectResponse("/", status_code=303)
            response.headers["Set-Cookie"] = f"{name}={self._session}; HttpOnly; SameSite=Lax; Path=/"
            return response
        return None if _equal(request.cookies.get(name, ""), self._session) else _no_token(request)

    def _knows(self, host: str) -> bool:
        """Any port, since the page may come through a tunnel. Addresses in digits cannot be rebound."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
            _port(host)
        except ValueError:
            return False
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self._local


def _port(host: str) -> int | None:
    """The port in a ``Host`` header. Raises ``ValueError`` if it is no number of a port."""
    return urlsplit(f"//{host}").port


def _no_token(request: Request) -> Response:
    refusal = "Open the address that the server printed: it holds the token."
    if request.url.path.startswith("/api/"):
        return problem(refusal, status=401)
    return PlainTextResponse(refusal, status_code=401)


def _post_refusal(headers: Headers) -> Response | None:
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return problem("JSON only", status=415)
    if not _same_origin(headers):
        return problem("not sent by the page of this server", status=403)
    if "transfer-encoding" in headers or not headers.get("content-length", "").isdecimal():
        return problem("the length must be told before", status=411)
    if int(headers["content-length"]) > LONGEST_BODY:
        return problem(f"at most {LONGEST_BODY} bytes", status=413)
    return None


def _same_origin(headers: Headers) -> bool:
    origin = urlsplit(headers.get("origin", ""))
    site = headers.get("sec-fetch-site", "same-origin")
    return bool(origin.netloc) and origin.netloc.lower() == headers.get("host", "").lower() and site == "same-origin"


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())
