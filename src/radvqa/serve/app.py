"""The application of the expert's page: HTML for people, JSON and bytes for the page's own script."""

import functools
import hashlib
import mimetypes
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, final

from pydantic import ValidationError

from radvqa.errors import DataError, RadvqaError
from radvqa.web import missing_packages

try:
    from starlette.applications import Starlette
except ImportError as error:
    raise missing_packages(error) from error
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from radvqa.explain.failures import POINTS_TO, SIGNATURES, value_of
from radvqa.explain.methods import METHODS
from radvqa.html import page_environment
from radvqa.serve import case_bytes
from radvqa.serve.cases import Cases, Opened
from radvqa.serve.listing import GROUPS, SORTS, Place, Wanted, counts, entries_of, shown, times
from radvqa.serve.live import ASKED, BusyError, Live, Opening
from radvqa.serve.pictures import Thumbnails, picture
from radvqa.serve.series import Series, open_series
from radvqa.serve.trail import list_query, pair_trail, queue_query
from radvqa.web.answers import problem, told
from radvqa.web.guard import Guard, token_for

COOKIE = "radvqa_page"
VIEW_NAMES = {"model": "The model's answer", "reference": "The reference answer", "typed": "The typed answer"}

_POLICY = {"img-src": "'self' blob:", "form-action": "'self'"}
_REVALIDATED, _FIXED = "private, no-cache", "private, max-age=31536000, immutable"
_SIGNATURE_WORDS = {name: name.replace("_", " ") for name in SIGNATURES}

# Some systems know other types, and a browser runs no module that is not called JavaScript.
for _suffix, _type in ((".js", "text/javascript"), (".mjs", "text/javascript"), (".css", "text/css")):
    mimetypes.add_type(_type, _suffix)


def create_app(
    sources: Sequence[Path], *, host: str = "127.0.0.1", token: str | None = None, live: Opening | None = None
) -> Starlette:
    """The application that shows the explained cases of runs.

    Args:
        sources: run folders, or folders of bundles; each gives one series or several.
        host: the address the server will listen on. On another than the loopback one every request needs the token.
        token: asked for in any case if given; made if needed and not given. It is ``app.state.token``, ``""`` if none.
        live: loads the model of a series for new questions; None: none can be asked.

    Raises:
        RunError: a source has no explained cases, or they are damaged.
        DataError: a list of cases is not valid.
    """
    token = token_for(host, token)
    pages = _Pages(Cases(open_series(sources), Live(live)))
    static = resources.files("radvqa.serve").joinpath("static")
    case = "/{series}/{key}"
    routes = [
        Route("/", pages.list),
        Route("/failures", pages.failures),
        Route(f"/case{case}", pages.case),
        Route("/compare", pages.compare),
        Route("/help", pages.help),
        Route("/api/cases", pages.api_cases),
        Route(f"/api/case{case}", pages.api_case),
        Route(f"/api/case{case}/{{view}}/{{part}}", pages.api_part),
        Route("/api/live", pages.api_live),
        Route("/api/ask", pages.api_ask, methods=["POST"]),
        Route(f"/image{case}.png", pages.image),
        Route(f"/thumbnail{case}.jpg", pages.thumbnail),
        Route("/favicon.ico", lambda _request: Response(status_code=204)),
        Mount("/static", _Static(directory=str(static))),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, host=host, token=token, cookie=COOKIE, policy=_POLICY)],
        exception_handlers={HTTPException: pages.refused, RadvqaError: pages.failed},
    )
    app.router.redirect_slashes = False
    app.state.token, app.state.cases = token, pages.cases
    return app


@final
class _Static(StaticFiles):
    """Files of the package; the browser keeps them and asks each time whether they are still the same."""

    def file_response(self, *args: Any, **settings: Any) -> Response:
        """The file, or that it is unchanged."""
        response = super().file_response(*args, **settings)
        response.headers["Cache-Control"] = _REVALIDATED
        return response


@final
class _Pages:
    """The endpoints. None sends a path of this machine."""

    def __init__(self, cases: Cases) -> None:
        self.cases = cases
        self._thumbnails = Thumbnails()
        self._templates = page_environment("serve/pages")

    async def list(self, request: Request) -> Response:
        wanted = Wanted.of(request.query_params)
        found = await run_in_threadpool(lambda: shown(entries_of(self.cases.series), wanted))
        return self._page(
            "list",
            wanted=wanted,
            found=found,
            groups=GROUPS,
            sorts=SORTS,
            value_of=value_of,
            many=len(self.cases.series) > 1,
            query=list_query(wanted),
            times=times,
            stamp=_stamp,
        )

    async def failures(self, request: Request) -> Response:
        wanted = Wanted.of(request.query_params)
        series = self.cases.series_of(wanted.series) or self.cases.series[0]
        listing = await run_in_threadpool(series.listing)
        kept = [one for one in listing.failures if wanted.signature in ("", one.signature)]
        place = Place.of(wanted.page, len(kept))
        entries = entries_of([series])
        return self._page(
            "failures",
            wanted=wanted,
            series=series,
            listing=listing,
            totals={name: sum(one.signature == name for one in listing.failures) for name in SIGNATURES},
            queue=[(one, listing.lines[listing.places[one.key]]) for one in place.of_list(kept)],
            found=len(kept),
            page_number=place.page,
            pages=place.pages,
            groups={group: (title, counts(entries, group)) for group, title in GROUPS.items()},
            list_of=lambda **filters: Wanted().but(**filters),
            points_to=POINTS_TO,
            query=queue_query(series, wanted.signature),
            stamp=_stamp,
        )

    async def case(self, request: Request) -> Response:
        opened = await self._opened(request.path_params)
        facts = await run_in_threadpool(self.cases.facts, opened, request.query_params)
        return self._page("case", case=facts, series=opened.series.facts())

    async def compare(self, request: Request) -> Response:
        sides: dict[str, Any] = {}
        both: list[Opened] = []
        for side in ("a", "b"):
            series, _, key = request.query_params.get(side, "").partition("/")
            opened = await self._opened({"series": series, "key": key})
            sides[side] = await run_in_threadpool(self.cases.facts, opened, request.query_params)
            both.append(opened)
        _require_one_picture(sides["a"], sides["b"])
        a, b = both
        moves = await run_in_threadpool(
            pair_trail, request.query_params, self.cases.series, a.series, b.series, a.key if a.key == b.key else ""
        )
        return self._page("compare", moves=moves, **sides)

    async def help(self, _request: Request) -> Response:
        return self._page("help", methods=METHODS, points_to=POINTS_TO)

    async def api_cases(self, request: Request) -> Response:
        content, etag = await run_in_threadpool(self.cases.all_facts)
        packed = "gzip" in request.headers.get("accept-encoding", "")
        return _kept(
            request,
            lambda: content[packed],
            etag=f"{etag}-{packed:d}",
            media_type="application/json",
            headers={"Vary": "Accept-Encoding"} | ({"Content-Encoding": "gzip"} if packed else {}),
        )

    async def api_case(self, request: Request) -> Response:
        opened = await self._opened(request.path_params)
        return JSONResponse(await run_in_threadpool(self.cases.facts, opened, request.query_params))

    async def api_part(self, request: Request) -> Response:
        opened = await self._opened(request.path_params)
        view, part = request.path_params["view"], request.path_params["part"]
        if view not in opened.case.manifest.views or part not in case_bytes.PARTS:
            raise HTTPException(404, "the case has no such view or part")
        return await self._bytes(
            request, opened, lambda: case_bytes.PARTS[part](opened.case, view), what=f"{view}/{part}"
        )

    async def image(self, request: Request) -> Response:
        opened = await self._opened(request.path_params)
        query = request.query_params
        content, what = picture(opened.case, center=query.get("center"), width=query.get("width"))
        return await self._bytes(request, opened, content, what=what, media_type="image/png")

    async def thumbnail(self, request: Request) -> Response:
        series, key = request.path_params["series"], request.path_params["key"]
        found = self.cases.series_of(series)
        stamp = "" if found is None else await run_in_threadpool(_stamp, found, key)
        if not stamp:
            await self._opened(request.path_params)
        return await run_in_threadpool(
            functools.partial(
                _kept,
                request,
                lambda: self._thumbnails.of((series, key, stamp), lambda: self._open(series, key).case),
                etag=f"{series}/{key}/{stamp}/thumbnail",
                media_type="image/jpeg",
                fixed=bool(stamp) and request.query_params.get("v") == stamp,
            )
        )

    async def api_live(self, _request: Request) -> Response:
        return JSONResponse(self.cases.live.state())

    async def api_ask(self, request: Request) -> Response:
        if not self.cases.live.on:
            return problem(self.cases.live.state()["words"], status=503)
        try:
            asked = ASKED.validate_json(await request.body())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the whole message"
            return problem(f"{where}: {first['msg']}", status=422)
        opened = await self._opened({"series": asked.series, "key": asked.key})
        try:
            key = await run_in_threadpool(self.cases.live.ask, opened.series, opened.case, asked.question, asked.answer)
        except BusyError as error:
            return problem(told(error), status=503)
        except RadvqaError as error:
            return problem(_without_paths(error), status=422 if isinstance(error, DataError) else 503)
        answered = await self._opened({"series": asked.series, "key": key})
        facts = await run_in_threadpool(self.cases.facts, answered, request.query_params)
        return JSONResponse(facts, status_code=201)

    async def refused(self, request: Request, error: Exception) -> Response:
        """What is not there, in words."""
        assert isinstance(error, HTTPException)
        return self._problem(request, error.detail, error.status_code, error.headers)

    async def failed(self, request: Request, error: Exception) -> Response:
        """A damaged file or a model that cannot answer: told without paths."""
        assert isinstance(error, RadvqaError)
        return self._problem(request, _without_paths(error), 500)

    def _problem(self, request: Request, words: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
        if request.url.path.startswith(("/api/", "/static/", "/image/", "/thumbnail/")):
            return JSONResponse({"error": words}, status_code=status, headers=headers)
        return self._page("problem", status=status, words=words, headers=headers)

    async def _opened(self, named: Mapping[str, str]) -> Opened:
        return await run_in_threadpool(self._open, named["series"], named["key"])

    def _open(self, series: str, key: str) -> Opened:
        opened = self.cases.open(series, key)
        if opened is None:
            gone = key.startswith("ask-")
            raise HTTPException(
                404, "this question is no longer kept; ask it again" if gone else "there is no such case"
            )
        return opened

    async def _bytes(
        self,
        request: Request,
        opened: Opened,
        content: Callable[[], bytes],
        *,
        what: str,
        media_type: str = "application/octet-stream",
    ) -> Response:
        fixed = request.query_params.get("v") == opened.version
        return await run_in_threadpool(
            functools.partial(
                _kept, request, content, etag=f"{opened.version}/{what}", media_type=media_type, fixed=fixed
            )
        )

    def _page(
        self, name: str, *, status: int = 200, headers: Mapping[str, str] | None = None, **facts: Any
    ) -> Response:
        text = self._templates.get_template(f"{name}.html").render(
            page=name,
            status=status,
            names=self.cases.names,
            all_series=[one.facts() for one in self.cases.series],
            view_names=VIEW_NAMES,
            signatures=SIGNATURES,
            signature_words=_SIGNATURE_WORDS,
            **facts,
        )
        return HTMLResponse(text.encode("utf-8", errors="replace"), status_code=status, headers=headers)


def _kept(
    request: Request,
    content: Callable[[], bytes],
    *,
    etag: str,
    media_type: str,
    fixed: bool = False,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Bytes that the browser may keep for itself; not sent again while they are the same."""
    tag = f'"{hashlib.sha256(etag.encode()).hexdigest()[:32]}"'
    kept = {"ETag": tag, "Cache-Control": _FIXED if fixed else _REVALIDATED, **(headers or {})}
    given = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
    if tag in given:
        kept.pop("Content-Encoding", None)
        return Response(status_code=304, headers=kept)
    return Response(content(), media_type=media_type, headers=kept)


def _stamp(series: Series, key: str) -> str:
    """A name that changes with the files of a case, for addresses; ``""`` for a case that is not listed."""
    stamp = series.stamp(key)
    return hashlib.sha256(stamp.encode()).hexdigest()[:12] if stamp else ""


def _require_one_picture(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Raises ``HTTPException`` if the sides of a comparison show different pictures."""
    sizes = [(one["picture"]["width"], one["picture"]["height"]) for one in (a, b)]
    if a["image_id"] != b["image_id"] or sizes[0] != sizes[1]:
        raise HTTPException(
            422, "The two cases show different pictures, so their maps cannot be compared. Open them one by one."
        )


def _without_paths(error: RadvqaError) -> str:
    parts = (error.what, error.expected and f"expected {error.expected}", error.got and f"got {error.got}", error.fix)
    return "; ".join(part for part in parts if part and "/" not in part and "\\" not in part)
