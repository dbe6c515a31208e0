"""A small page for readers, served from this machine: one pair at a time, judged with the keyboard.

What is served is private (pictures of data sets with their own terms), so the server listens on the loopback address;
anywhere else it asks for a token. Needs the optional packages of ``pip install radvqa[serve]``.
"""

import hmac
import ipaddress
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import Any, final
from urllib.parse import urlsplit

from pydantic import ConfigDict, TypeAdapter, ValidationError

from radvqa.data.imaging import open_image
from radvqa.errors import DataError, RadvqaError, RecipeError, RunError
from radvqa.synth.review import Review
from radvqa.synth.review.decisions import FAULTS, Choice, Decision, Fault, decision_fault, reader_name, standing
from radvqa.synth.review.queue import QueueItem

try:
    import uvicorn
    from starlette.applications import Starlette
except ImportError as error:
    raise RunError(
        "the packages that serve the review are not installed",
        expected="the optional extra `serve`",
        got=str(error),
        fix="pip install 'radvqa[serve]'",
    ) from error
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LONGEST_BODY = 64 * 1024
LONGEST_SIDE = 2048
"""Pictures of more pixels a side are shrunk for the page."""
PICTURES_KEPT = 32
"""Converted pictures that stay in memory, so that going back and forth is quick."""

_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; frame-ancestors 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_PAGE_FILES = {
    "/": ("page.html", "text/html"),
    "/review.css": ("review.css", "text/css"),
    "/review.js": ("review.js", "text/javascript"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Posted:
    """A decision as the page sends it; ``key`` names the item, ``withdraw`` takes the verdict back."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    reader: str
    key: str
    verdict: Choice
    reasons: tuple[Fault, ...] = ()
    note: str = ""
    question: str = ""
    answer: str = ""
    seconds: float = 0.0


def create_app(
    review: Review, *, reader: str | None = None, host: str = "127.0.0.1", token: str | None = None
) -> Starlette:
    """The application that shows a review and takes decisions.

    Args:
        review: from ``open_review``.
        reader: the only one who may decide here; if not given, the page asks for a name.
        host: the address the server will listen on. On another than the loopback one every request needs the token.
        token: asked for in any case if given; made if needed and not given. It is ``app.state.token``, ``""`` if none.

    Raises:
        RecipeError: ``reader`` is no name for one.
    """
    fixed = reader_name(reader) if reader is not None else None
    if token is None:
        token = "" if is_loopback(host) else secrets.token_urlsafe(24)
    pages = _Pages(review, fixed)
    routes = [Route(path, _file_endpoint(*file)) for path, file in _PAGE_FILES.items()]
    routes += [
        Route("/api/session", pages.session),
        Route("/api/review", pages.review),
        Route("/api/decisions", pages.decide, methods=["POST"]),
        Route("/image/{key}", pages.image),
        Route("/favicon.ico", lambda _request: Response(status_code=204)),
    ]
    app = Starlette(routes=routes, middleware=[Middleware(_Guard, host=host, token=token)])
    app.state.token, app.state.review = token, review
    return app


def serve(app: Starlette, *, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve until Ctrl-C. The address is said first; port 0 takes a free one.

    Raises:
        RunError: the address is not free or not one of this machine.
    """
    listening = _listen(host, port)
    with listening:
        shown = f"[{host}]" if ":" in host else host
        query = f"/?token={app.state.token}" if app.state.token else "/"
        say(f"review at http://{shown}:{listening.getsockname()[1]}{query}")
        if app.state.token:
            say("whoever has this address may see the pictures and decide; it is sent unencrypted")
        say("Ctrl-C stops; every decision is saved as it is made")
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=3, lifespan="off"
        )
        try:
            uvicorn.Server(config).run(sockets=[listening])
        except KeyboardInterrupt:
            pass  # how uvicorn passes Ctrl-C on after it has finished what was under way
    decisions = len(app.state.review.decisions.read().decisions)
    say(f"stopped; {app.state.review.decisions.path} holds {decisions} decisions")


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@final
class _Pages:
    """The endpoints. They never send what would tell whether the screens kept a pair, nor another's verdicts."""

    def __init__(self, review: Review, fixed: str | None) -> None:
        self._review = review
        self._items = review.items()
        self._fixed = fixed

    async def session(self, _request: Request) -> Response:
        return JSONResponse(
            {"reader": self._fixed, "queue": self._review.queue.digest[:16], "mended": self._review.mended}
        )

    async def review(self, request: Request) -> Response:
        try:
            reader = self._reader(request.query_params.get("reader", ""))
            log = await run_in_threadpool(self._review.decisions.read)
        except RecipeError as error:
            return _problem(_told(error), status=422)
        except RadvqaError as error:
            return _problem(_told(error), status=507)
        found = standing(log.decisions)
        items = [
            self._shown(item, found.get(item.sample_id, {}).get(reader))
            for item in self._review.queue.order_for(reader)
        ]
        return JSONResponse({"reader": reader, "reasons": FAULTS, "items": items})

    async def decide(self, request: Request) -> Response:
        try:
            posted = _POSTED.validate_json(await request.body())
            reader = self._reader(posted.reader)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the whole message"
            return _problem(f"{where}: {first['msg']}", status=422)
        except RecipeError as error:
            return _problem(_told(error), status=422)
        item = self._items.get(posted.key)
        if item is None:
            return _problem("no such item in the queue", status=404)
        decision = self._decision(posted, reader, item)
        if fault := self._fault(decision):
            return _problem(fault, status=422)
        try:
            written = await run_in_threadpool(self._review.decisions.append, decision)
        except RadvqaError as error:
            # A full disk or a damaged file, which can be mended: the page keeps the decision and tries again.
            return _problem(_told(error), status=507)
        return JSONResponse({"sequence": written.sequence}, status_code=201)

    async def image(self, request: Request) -> Response:
        item = self._items.get(request.path_params["key"])
        if item is None:
            return _problem("no such picture in the queue", status=404)
        try:
            path = self._review.pairs[item.sample_id].sample.image
            content = await run_in_threadpool(_as_png, path)
        except DataError as error:
            # Without the whole message, which holds a path.
            return _problem(error.what, status=410)
        return Response(content, media_type="image/png")

    @staticmethod
    def _decision(posted: Posted, reader: str, item: QueueItem) -> Decision:
        return Decision(
            sample_id=item.sample_id,
            reader=reader,
            verdict=posted.verdict,
            reasons=posted.reasons,
            note=posted.note.strip(),
            question=posted.question.strip(),
            answer=posted.answer.strip(),
            seconds=posted.seconds,
        )

    def _fault(self, decision: Decision) -> str:
        pair = self._review.pairs[decision.sample_id].sample
        if (decision.question, decision.answer) == (pair.question, pair.answers[0]):
            return "an edit that changes nothing"
        return decision_fault(decision)

    def _reader(self, given: str) -> str:
        """The valid name. Raises ``RecipeError`` if it is none, or not the one this server is for."""
        name = reader_name(given)
        if self._fixed is not None and name != self._fixed:
            raise RecipeError(
                "this server was started for another reader", where="reader", expected=self._fixed, got=name
            )
        return name

    def _shown(self, item: QueueItem, own: Decision | None) -> Mapping[str, Any]:
        pair = self._review.pairs[item.sample_id]
        earlier = self._review.earlier.get(item.sample_id, ())
        return {
            "key": item.key,
            "question": pair.sample.question,
            "answer": pair.sample.answers[0],
            "slot": pair.slot,
            "caption": self._review.captions[pair.origin.caption_id],
            "earlier": [{"question": one.sample.question, "answer": one.sample.answers[0]} for one in earlier],
            "decision": own
            and {
                "verdict": own.verdict,
                "reasons": own.reasons,
                "note": own.note,
                "question": own.question,
                "answer": own.answer,
            },
        }


@final
class _Guard:
    """Refuses what does not come from the page itself, and adds the headers that keep the page to itself."""

    def __init__(self, app: ASGIApp, *, host: str, token: str) -> None:
        self._app = app
        self._token = token
        self._local = is_loopback(host)
        self._names = {*_LOCAL_NAMES, host.lower()}
        if not self._local:
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)

        brings_token = request.url.path == "/" and _equal(request.query_params.get("token", ""), self._token)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                if brings_token and self._token:
                    headers.append("Set-Cookie", f"{_COOKIE}={self._token}; HttpOnly; SameSite=Strict; Path=/")
            await send(message)

        inside = brings_token or _equal(request.cookies.get(_COOKIE, ""), self._token) or not self._token
        answer = self._refusal(request) or (self._app if inside else _no_token(request))
        await answer(scope, receive, send_guarded)

    def _refusal(self, request: Request) -> Response | None:
        if not self._knows(request.headers.get("host", "")):
            # Another name that was made to point here: DNS rebinding.
            return PlainTextResponse("This server is not known by that name.", status_code=421)
        if request.method in ("GET", "HEAD"):
            return None
        if request.method != "POST":
            return PlainTextResponse("Only GET and POST.", status_code=405)
        return _post_refusal(request.headers)

    def _knows(self, host: str) -> bool:
        """Any port, since the page may come through a tunnel. Addresses in digits cannot be rebound."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self._local


_COOKIE = "radvqa_review"
_POSTED = TypeAdapter(Posted)


def _no_token(request: Request) -> Response:
    refusal = "Open the address that the server printed: it holds the token."
    if request.url.path.startswith("/api/"):
        return _problem(refusal, status=401)
    return PlainTextResponse(refusal, status_code=401)


def _post_refusal(headers: Headers) -> Response | None:
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return _problem("JSON only", status=415)
    if not _same_origin(headers):
        return _problem("not sent by the page of this server", status=403)
    if "transfer-encoding" in headers or not headers.get("content-length", "").isdecimal():
        return _problem("the length must be told before", status=411)
    if int(headers["content-length"]) > LONGEST_BODY:
        return _problem(f"at most {LONGEST_BODY} bytes", status=413)
    return None


def _same_origin(headers: Headers) -> bool:
    origin = urlsplit(headers.get("origin", ""))
    site = headers.get("sec-fetch-site", "same-origin")
    return bool(origin.netloc) and origin.netloc.lower() == headers.get("host", "").lower() and site == "same-origin"


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())


def _file_endpoint(name: str, media_type: str) -> Callable[[Request], Response]:
    content = resources.files("radvqa.synth.review").joinpath(name).read_text(encoding="utf-8")
    return lambda _request: Response(content, media_type=media_type)


@lru_cache(maxsize=PICTURES_KEPT)
def _as_png(path: Path) -> bytes:
    image = open_image(path)
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    buffer = BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _problem(text: str, *, status: int) -> Response:
    return JSONResponse({"error": text}, status_code=status)


def _told(error: RadvqaError) -> str:
    """The error without its place, which is a path of this machine."""
    return "; ".join(part for part in (error.what, error.got, error.fix) if part)


def _listen(host: str, port: int) -> socket.socket:
    try:
        if not 0 <= port <= 65_535:  # the resolver would quietly take the rest of a division
            raise OverflowError("ports are 0 to 65535")
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(128)
        except OSError:
            listening.close()
            raise
    except (OSError, OverflowError) as error:
        raise RunError(
            "cannot serve the review at this address",
            where=f"{host}, port {port}",
            expected="a free port on an address of this machine",
            got=str(error),
            fix="choose another one with --port, or 0 for any that is free",
        ) from error
    return listening
