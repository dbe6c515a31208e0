"""A small page for readers, served from this machine: one pair at a time, judged with the keyboard.

What is served is private (pictures of data sets with their own terms), so the server listens on the loopback address;
anywhere else it asks for a token. Needs the optional packages of ``pip install radvqa[serve]``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, final

from pydantic import ConfigDict, TypeAdapter, ValidationError

from radvqa.errors import DataError, RadvqaError, RecipeError
from radvqa.synth.review import Review
from radvqa.synth.review.decisions import FAULTS, Choice, Decision, Fault, decision_fault, reader_name, standing
from radvqa.synth.review.queue import QueueItem
from radvqa.web import missing_packages

try:
    from starlette.applications import Starlette
except ImportError as error:
    raise missing_packages(error) from error
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from radvqa.web import serving
from radvqa.web.answers import as_png, problem, told
from radvqa.web.guard import Guard, is_loopback, token_for

__all__ = ["Posted", "create_app", "is_loopback", "serve"]

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
    token = token_for(host, token)
    pages = _Pages(review, fixed)
    routes = [Route(path, _file_endpoint(*file)) for path, file in _PAGE_FILES.items()]
    routes += [
        Route("/api/session", pages.session),
        Route("/api/review", pages.review),
        Route("/api/decisions", pages.decide, methods=["POST"]),
        Route("/image/{key}", pages.image),
        Route("/favicon.ico", lambda _request: Response(status_code=204)),
    ]
    app = Starlette(routes=routes, middleware=[Middleware(Guard, host=host, token=token, cookie="radvqa_review")])
    app.state.token, app.state.review = token, review
    return app


def serve(app: Starlette, *, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve until Ctrl-C. The address is said first; port 0 takes a free one.

    Raises:
        RunError: the address is not free or not one of this machine.
    """
    notes = ["Ctrl-C stops; every decision is saved as it is made"]
    if app.state.token:
        notes.insert(0, "whoever has this address may see the pictures and decide; it is sent unencrypted")
    serving.serve(app, host=host, port=port, name="review", say=say, notes=notes)
    decisions = len(app.state.review.decisions.read().decisions)
    say(f"stopped; {app.state.review.decisions.path} holds {decisions} decisions")


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
            return problem(told(error), status=422)
        except RadvqaError as error:
            return problem(told(error), status=507)
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
            return problem(f"{where}: {first['msg']}", status=422)
        except RecipeError as error:
            return problem(told(error), status=422)
        item = self._items.get(posted.key)
        if item is None:
            return problem("no such item in the queue", status=404)
        decision = self._decision(posted, reader, item)
        if fault := self._fault(decision):
            return problem(fault, status=422)
        try:
            written = await run_in_threadpool(self._review.decisions.append, decision)
        except RadvqaError as error:
            # A full disk or a damaged file, which can be mended: the page keeps the decision and tries again.
            return problem(told(error), status=507)
        return JSONResponse({"sequence": written.sequence}, status_code=201)

    async def image(self, request: Request) -> Response:
        item = self._items.get(request.path_params["key"])
        if item is None:
            return problem("no such picture in the queue", status=404)
        try:
            path = self._review.pairs[item.sample_id].sample.image
            content = await run_in_threadpool(as_png, path)
        except DataError as error:
            # Without the whole message, which holds a path.
            return problem(error.what, status=410)
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


_POSTED = TypeAdapter(Posted)


def _file_endpoint(name: str, media_type: str) -> Callable[[Request], Response]:
    content = resources.files("radvqa.synth.review").joinpath(name).read_text(encoding="utf-8")
    return lambda _request: Response(content, media_type=media_type)
