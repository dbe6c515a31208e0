"""A language model behind an OpenAI-compatible chat completions endpoint: vLLM, llama.cpp, Ollama, LM Studio, ..."""

import asyncio
import ipaddress
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Any, Literal, NoReturn, final

import httpx2

from radvqa.errors import ModelError, RecipeError
from radvqa.llm import Failure, FailureReason, ModelIdentity, Outcome, Reply, Request, Sampling
from radvqa.llm.retry import Backoff, Throttle, retry_after_seconds

JsonSchema = Literal["auto", "require", "off"]

_CONNECT_SECONDS = 10.0
_AHEAD = 4
"""Requests handed over for each that may be under way: those that wait for their next attempt leave their place."""
_PROBE_SECONDS = 5.0
_PROBE_BYTES = 1 << 20
_BYTES_PER_TOKEN = 64
_BYTES_BESIDE_TEXT = 64 << 10
_DETAIL_CHARACTERS = 300
_SHORTEST_SECRET = 8
"""Characters; shorter keys are the "none" and "EMPTY" that local servers ask for, and hiding them would damage text."""

_FORMATS = ("json_schema", "json_object", "none")
_ABOUT_FORMAT = re.compile(r"response_?format|schema|grammar|guided|structured.?output|unsupported", re.IGNORECASE)
_ATTEMPTS: Mapping[FailureReason, int] = {"refused_request": 1, "endless_output": 1, "empty_reply": 2}
"""How often a request may fail in one way, where that is less than ``attempts``."""

_FIXES = {
    401: "give the API key that this endpoint wants",
    402: "see the account that the API key belongs to: it may not ask for more",
    403: "give an API key that may use this model, or ask who runs the endpoint",
    404: "see that the URL ends like http://host:8000/v1 and that the endpoint serves this model",
    405: "see that the URL ends like http://host:8000/v1",
}
_WAIT_STATUS: Mapping[int, FailureReason] = {408: "timeout", 425: "server_error", 429: "rate_limited"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """A reply as the endpoint gave it."""

    text: str
    finished: bool
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    """Why an attempt brought no answer. ``about_format``: the endpoint seems to refuse ``response_format``."""

    reason: FailureReason
    detail: str
    retry_after: float | None = None
    about_format: bool = False


@final
class EndpointModel:
    """Answers requests through an OpenAI-compatible chat completions endpoint.

    ``url``: the base, such as ``http://host:8000/v1``, or the address of chat completions itself. ``model``: the name
    under which the endpoint serves it. ``concurrency``: requests under way at most. ``timeout_seconds``: for one
    attempt as a whole, from connecting to the last byte. ``attempts``: for one request. ``json_schema``: whether
    replies are held to ``Request.schema``; ``auto`` goes on with less where the endpoint refuses that, says so and
    notes it in ``identity``; ``require`` raises instead; ``off`` never asks for it. ``max_backoff_seconds`` bounds
    every wait, also those that the endpoint asks for. ``breaker_failures``: after so many failed attempts with no
    answer between them the endpoint is given up. ``say`` is called in the thread that takes the outcomes.

    Waits are exponential with full jitter and seeded by ``sampling.seed``. Redirects are not followed. Proxies of the
    environment are used, but not for addresses of this machine. ``Reply.seconds`` is the time of all attempts without
    the waits between them. A reply whose usage the endpoint does not tell has 0 tokens.

    Raises:
        RecipeError: a setting is impossible.
    """

    def __init__(
        self,
        *,
        url: str,
        model: str,
        sampling: Sampling,
        say: Callable[[str], None],
        api_key: str | None = None,
        concurrency: int = 8,
        timeout_seconds: float = 120,
        attempts: int = 5,
        json_schema: JsonSchema = "auto",
        max_backoff_seconds: float = 60,
        breaker_failures: int = 20,
    ) -> None:
        _require_at_least("concurrency", concurrency, 1)
        _require_at_least("timeout_seconds", timeout_seconds, 0.001)
        _require_at_least("attempts", attempts, 1)
        _require_at_least("max_backoff_seconds", max_backoff_seconds, 0)
        _require_at_least("breaker_failures", breaker_failures, 1)
        self._chat = _Chat(
            base=_checked_url(url),
            model=model,
            sampling=sampling,
            api_key=_checked_key(api_key),
            timeout_seconds=timeout_seconds,
            json_schema=json_schema,
        )
        self._say = say
        self._concurrency = concurrency
        self._attempts = attempts
        self._max_backoff_seconds = max_backoff_seconds
        self._breaker_failures = breaker_failures
        self._closed = False
        self._sessions: set[_Session] = set()

    @property
    def identity(self) -> ModelIdentity:
        """Which model this is, with what the endpoint says of itself; the first look asks it, for 5 s at most."""
        self._chat.look()
        return ModelIdentity(
            backend="endpoint",
            name=self._chat.model,
            digest="",
            sampling=self._chat.sampling,
            facts=dict(self._chat.facts),
        )

    def complete(self, requests: Iterable[Request]) -> Generator[Outcome, None, None]:
        """One outcome for every request, in any order.

        Requests are drawn in the calling thread, at most four times ``concurrency`` ahead of the outcomes taken.
        Closing the iterator ends all that is under way.

        Raises:
            ModelError: the endpoint refuses every request (key, model, address), or ``breaker_failures`` attempts in a
                row failed, or it refuses a schema that ``json_schema="require"`` asks for, or the model is closed.
        """
        if self._closed:
            raise ModelError("the endpoint was closed", where=str(self._chat.base), fix="open it again")
        self._chat.look()
        backoff = Backoff(longest_seconds=self._max_backoff_seconds, seed=self._chat.sampling.seed)
        throttle = Throttle(width=self._concurrency, failures_to_give_up=self._breaker_failures, backoff=backoff)
        session = _Session(self._chat, throttle, backoff, attempts=self._attempts, say=self._say)
        self._sessions.add(session)
        try:
            yield from session.outcomes(requests, ahead=_AHEAD * self._concurrency)
        finally:
            session.stop()
            self._sessions.discard(session)

    def close(self) -> None:
        """End all that is under way. Nothing can be asked afterwards."""
        self._closed = True
        for session in tuple(self._sessions):
            session.stop()


class _Session:
    """One call of ``complete``: an event loop in a thread of its own, which sends what the caller hands over."""

    def __init__(
        self, chat: "_Chat", throttle: Throttle, backoff: Backoff, *, attempts: int, say: Callable[[str], None]
    ) -> None:
        self._chat, self._throttle, self._backoff = chat, throttle, backoff
        self._attempts = attempts
        self._say = say
        self._refused_at_first = 0
        self._answers = 0
        self._over = False
        self._news: SimpleQueue[Outcome | BaseException | str] = SimpleQueue()
        self._tasks: set[asyncio.Task[Outcome]] = set()
        self._client = chat.client()
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        self._stopped = asyncio.Event()
        # A daemon, so that an iterator which somebody keeps and never closes cannot hold up the end of the process.
        self._thread = threading.Thread(target=self._run, name="radvqa-endpoint", daemon=True)
        self._thread.start()

    def outcomes(self, requests: Iterable[Request], *, ahead: int) -> Iterator[Outcome]:
        """Hand over requests while there is room, and yield what comes back."""
        waiting, open_requests = iter(requests), 0
        more = True
        while True:
            while more and open_requests < ahead and not self._over:
                request = next(waiting, None)
                more = request is not None
                if request is not None:
                    self._loop.call_soon_threadsafe(self._begin, request)
                    open_requests += 1
            if not open_requests:
                return
            yield self._take()
            open_requests -= 1

    def stop(self) -> None:
        """Cancel what is under way, close the connections and end the thread."""
        if self._thread.is_alive():
            self._fail(ModelError("the endpoint was closed while requests were under way", where=str(self._chat.base)))
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join()

    def _take(self) -> Outcome:
        while True:
            news = self._news.get()
            if isinstance(news, str):
                self._say(news)
            elif isinstance(news, BaseException):
                raise news
            else:
                return news

    def _run(self) -> None:
        with self._runner:
            self._runner.run(self._serve())

    async def _serve(self) -> None:
        async with self._client:
            await self._stopped.wait()
            self._cancel_all()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, request: Request) -> None:
        if not self._over:
            task = self._loop.create_task(self._answer(request))
            self._tasks.add(task)
            task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[Outcome]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._news.put(task.result())
        else:
            self._fail(error)
            self._cancel_all()

    def _fail(self, error: BaseException) -> None:
        if not self._over:
            self._over = True
            self._news.put(error)

    def _cancel_all(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _answer(self, request: Request) -> Outcome:
        """Ask until there is an answer or no use in asking once more."""
        sent, seconds = 0, 0.0
        failures: Counter[FailureReason] = Counter()
        form = self._chat.first_format(request)
        while True:
            attempt = await self._throttle.enter()
            form = max(form, self._chat.first_format(request))
            start = time.perf_counter()
            result = await self._chat.ask(self._client, request, form)
            seconds += time.perf_counter() - start
            sent += 1
            if isinstance(result, _Answer):
                self._note_answer(form, request)
                return Reply(
                    key=request.key,
                    text=result.text,
                    finished=result.finished,
                    prompt_tokens=result.prompt_tokens,
                    completion_tokens=result.completion_tokens,
                    seconds=seconds,
                    attempts=sent,
                )
            if result.about_format and self._chat.may_ask_for_less(form, result):
                self._throttle.leave()
                form += 1
                continue
            self._note_problem(attempt, result)
            failures[result.reason] += 1
            last_chance = min(self._attempts, _ATTEMPTS.get(result.reason, self._attempts))
            if failures[result.reason] >= last_chance or failures.total() >= self._attempts:
                return Failure(
                    key=request.key,
                    reason=result.reason,
                    detail=result.detail,
                    attempts=sent,
                    seconds=seconds,
                    again=result.reason not in ("refused_request", "endless_output"),
                )
            await asyncio.sleep(self._backoff.seconds(failures.total()))

    def _note_answer(self, form: int, request: Request) -> None:
        self._answers += 1
        if self._throttle.answered():
            self._news.put("the endpoint answers again")
        if request.schema is not None and self._chat.settle_format(form):
            self._news.put(self._chat.facts["structured_output"])

    def _note_problem(self, attempt: int, problem: _Problem) -> None:
        if problem.reason == "refused_request":
            # One request may be too long; but where all are refused from the start, the settings are wrong.
            self._throttle.leave()
            self._refused_at_first += 1
            if not self._answers and self._refused_at_first >= self._throttle.failures_to_give_up:
                self._give_up(self._refused_at_first, problem)
            return
        too_many = problem.reason == "rate_limited"
        if self._throttle.failed(attempt, too_many=too_many, retry_after=problem.retry_after):
            self._news.put(
                f"the endpoint failed {self._throttle.failures_in_a_row} times in a row, last with {problem.reason}: "
                f"{problem.detail}; it is asked one request at a time until it answers"
            )
        if self._throttle.hopeless:
            self._give_up(self._throttle.failures_in_a_row, problem)

    def _give_up(self, failures: int, problem: _Problem) -> NoReturn:
        raise ModelError(
            f"the endpoint was given up after {failures} failed requests in a row",
            where=str(self._chat.base),
            expected="an answer to one of them",
            got=f"last {problem.reason}: {problem.detail}",
            fix="see that the endpoint runs and what its log says, then start again: finished replies are kept",
        )


class _Chat:
    """The chat completions protocol, spoken with one endpoint, and what is known of that endpoint."""

    def __init__(
        self,
        *,
        base: httpx2.URL,
        model: str,
        sampling: Sampling,
        api_key: str | None,
        timeout_seconds: float,
        json_schema: JsonSchema,
    ) -> None:
        self.base, self.model, self.sampling = base, model, sampling
        self.facts = {"url": str(base)}
        self._local = _is_this_machine(base.host)
        # Loading the certificates takes 50 ms. Without a proxy, http to this machine has no use for them.
        self._verify = base.scheme == "https" or not self._local
        self._api_key = api_key
        self._timeout_seconds = timeout_seconds
        self._json_schema = json_schema
        # Places in _FORMATS: what requests start with, and what was told.
        self._format = _FORMATS.index("none" if json_schema == "off" else "json_schema")
        self._refusal = ""
        self._looked = False
        self._url = httpx2.URL(f"{base}/chat/completions")
        self._headers = httpx2.Headers(
            {
                "Host": base.netloc.decode("ascii"),
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "Content-Type": "application/json",
                "User-Agent": "radvqa",
            }
        )
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._most_bytes = _BYTES_PER_TOKEN * sampling.max_tokens + _BYTES_BESIDE_TEXT

    def client(self) -> httpx2.AsyncClient:
        """A client for one event loop. How many requests are under way is not its business."""
        # One timeout covers an attempt as a whole; the client's own would begin anew with every byte that comes.
        timeout = httpx2.Timeout(None, connect=min(_CONNECT_SECONDS, self._timeout_seconds))
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        return httpx2.AsyncClient(timeout=timeout, limits=limits, trust_env=not self._local, verify=self._verify)

    def first_format(self, request: Request) -> int:
        """The place in ``_FORMATS`` to start with."""
        return _FORMATS.index("none") if request.schema is None else self._format

    def may_ask_for_less(self, form: int, problem: _Problem) -> bool:
        """Whether the request may be sent once more with a smaller demand on the form of the reply.

        Raises:
            ModelError: the schema is required.
        """
        if _FORMATS[form] == "none":
            return False
        if self._json_schema == "require":
            raise ModelError(
                "the endpoint does not hold replies to a JSON schema",
                where=str(self.base),
                expected='an answer to a request with response_format "json_schema"',
                got=problem.detail,
                fix="serve the model with structured output, or set json_schema to auto or off",
            )
        self._refusal = problem.detail
        return True

    def settle_format(self, form: int) -> bool:
        """Note which form of reply was answered. True where it is less than was asked for so far.

        Only an answer settles it: a request that is refused in every form was refused for another reason.
        """
        if form <= self._format:
            self.facts.setdefault("structured_output", _FORMATS[form])
            return False
        self._format = form
        self.facts["structured_output"] = (
            f"{_FORMATS[form]}: the endpoint refuses {' and '.join(_FORMATS[:form])}, so that replies are not held to "
            f"the schema ({self._refusal})"
        )
        return True

    async def ask(self, client: httpx2.AsyncClient, request: Request, form: int) -> _Answer | _Problem:
        """Send one request once.

        Raises:
            ModelError: the endpoint would refuse every request.
        """
        sent = httpx2.Request("POST", self._url, headers=self._headers, content=self._body(request, form))
        received = bytearray()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                response = await client.send(sent, stream=True, follow_redirects=False)
                try:
                    complete = await self._read(response, received)
                finally:
                    await response.aclose()
        except TimeoutError:
            return self._out_of_time(received)
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            return _Problem(reason=_reason(error), detail=self._shown(f"{type(error).__name__} {error}"))
        if not complete:
            return _Problem(
                reason="endless_output",
                detail=f"more than {self._most_bytes:,} bytes, which {self.sampling.max_tokens} tokens cannot fill",
            )
        if not response.is_success:
            return self._refused(response, received)
        return self._parsed(bytes(received))

    def look(self) -> None:
        """Ask the endpoint once which models it serves, for ``facts``. That it does not tell is a fact as well."""
        if self._looked:
            return
        self._looked = True
        timeout = min(_PROBE_SECONDS, self._timeout_seconds)
        until = time.monotonic() + timeout
        received = bytearray()
        try:
            with (
                httpx2.Client(timeout=timeout, trust_env=not self._local, verify=self._verify) as client,
                client.stream("GET", f"{self.base}/models", headers=self._headers) as response,
            ):
                for chunk in response.iter_bytes():
                    received += chunk
                    if len(received) > _PROBE_BYTES or time.monotonic() > until:
                        raise ValueError("its list of models does not end")
            self.facts["server"] = self._shown(response.headers.get("Server", "not told"))
            if not response.is_success:
                raise ValueError(f"status {response.status_code}")
            self._note_models(json.loads(bytes(received)))
        except (httpx2.RequestError, ValueError, RecursionError) as error:
            self.facts["models"] = self._shown(f"not told: {type(error).__name__} {error}")

    def _note_models(self, body: Any) -> None:
        """llama.cpp puts a list of its own, ``models``, beside the standard one."""
        lists = [body.get(name) for name in ("models", "data")] if isinstance(body, dict) else []
        entries = [entry for one in lists if isinstance(one, list) for entry in one if isinstance(entry, dict)]
        names = sorted({str(entry.get("id") or entry.get("name")) for entry in entries})
        if self.model not in names:
            self.facts["models"] = self._shown(f"{self.model} is not among them: {', '.join(names) or 'none'}")
            return
        self.facts["models"] = f"{self.model} is among them"
        for entry in entries:
            if self.model in (entry.get("id"), entry.get("name")):
                for fact in ("owned_by", "root", "digest", "created", "max_model_len"):
                    if isinstance(entry.get(fact), str | int) and entry[fact]:
                        self.facts[fact] = self._shown(str(entry[fact]))

    def _body(self, request: Request, form: int) -> bytes:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "seed": self.sampling.seed,
            "max_tokens": self.sampling.max_tokens,
            "stream": False,
        }
        if _FORMATS[form] == "json_schema":
            schema = {"name": "reply", "schema": request.schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif _FORMATS[form] == "json_object":
            body["response_format"] = {"type": "json_object"}
        return json.dumps(body).encode("ascii")

    async def _read(self, response: httpx2.Response, received: bytearray) -> bool:
        """Read the body. False where it is longer than a reply can be."""
        async for chunk in response.aiter_bytes():
            received += chunk
            if len(received) > self._most_bytes:
                return False
        return True

    def _out_of_time(self, received: bytearray) -> _Problem:
        # Some gateways send blanks while the model works; only what is no blank is output.
        if received.strip():
            detail = f"the output did not end in {self._timeout_seconds:g} s: {self._shown(received)}"
            return _Problem(reason="endless_output", detail=detail)
        return _Problem(reason="timeout", detail=f"no answer in {self._timeout_seconds:g} s")

    def _refused(self, response: httpx2.Response, received: bytearray) -> _Problem:
        status = response.status_code
        detail = f"status {status} {response.reason_phrase}: {self._shown(received)}"
        if status in _FIXES or response.is_redirect:
            raise ModelError(
                "the endpoint refuses all requests",
                where=str(self._url),
                expected="status 200",
                got=detail
                + (f" to {self._shown(response.headers['Location'])}" if response.has_redirect_location else ""),
                fix=_FIXES.get(status, "redirects are not followed: give the address that answers itself")
                + (f"; {self.facts['models']}" if status == 404 and "models" in self.facts else ""),
            )
        retry_after = retry_after_seconds(response.headers.get("Retry-After"), now=datetime.now(UTC))
        if status in _WAIT_STATUS:
            return _Problem(reason=_WAIT_STATUS[status], detail=detail, retry_after=retry_after)
        if status >= 500 and status != 501:
            return _Problem(reason="server_error", detail=detail, retry_after=retry_after)
        about_format = status in (400, 422, 501) and _ABOUT_FORMAT.search(detail) is not None
        return _Problem(reason="refused_request", detail=detail, about_format=about_format)

    def _parsed(self, received: bytes) -> _Answer | _Problem:
        try:
            body = json.loads(received)
            choice = body["choices"][0]
            text = _text(choice["message"]["content"])
            text.encode()
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            return _Problem(
                reason="malformed_response",
                detail=f"no chat completion ({type(error).__name__}): {self._shown(received)}",
            )
        if not text.strip():
            return _Problem(reason="empty_reply", detail=f"the reply has no text: {self._shown(received)}")
        usage = body.get("usage")
        return _Answer(
            text=self._hide_key(text),
            finished=choice.get("finish_reason") != "length",
            prompt_tokens=_count(usage, "prompt_tokens"),
            completion_tokens=_count(usage, "completion_tokens"),
        )

    def _shown(self, text: str | bytes | bytearray) -> str:
        """One short line without the API key. Hidden before it is cut, so that no part of the key is left."""
        if not isinstance(text, str):
            text = text.decode("utf-8", errors="replace")
        return " ".join(self._hide_key(text).split())[:_DETAIL_CHARACTERS] or "nothing"

    def _hide_key(self, text: str) -> str:
        key = self._api_key
        if key is None or len(key) < _SHORTEST_SECRET:
            return text
        for written in (key, key.replace("/", "\\/"), json.dumps(key)[1:-1]):
            text = text.replace(written, "[API key]")
        return text


def _reason(error: httpx2.RequestError) -> FailureReason:
    if isinstance(error, httpx2.TimeoutException):
        return "timeout"
    return "malformed_response" if isinstance(error, httpx2.DecodingError) else "connection"


def _text(content: Any) -> str:
    """The text of a reply: as it is, or joined from its parts. What a model thought aloud beside it is left out."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def _count(usage: Any, name: str) -> int:
    number = usage.get(name) if isinstance(usage, dict) else None
    return number if isinstance(number, int) and not isinstance(number, bool) and number > 0 else 0


def _checked_url(text: str) -> httpx2.URL:
    """The base address, without a slash at its end."""
    try:
        url = httpx2.URL(text.strip().removesuffix("/").removesuffix("/chat/completions").removesuffix("/"))
    except httpx2.InvalidURL as error:
        raise _bad_url("it cannot be read") from error
    if url.scheme not in ("http", "https"):
        raise _bad_url("it begins with neither http:// nor https://")
    if not url.host:
        raise _bad_url("it names no host")
    if url.port is not None and not 0 < url.port < 1 << 16:
        raise _bad_url("there is no such port")
    if url.userinfo:
        raise _bad_url("it holds a user name or password, which would get into logs; give an API key instead")
    if url.query or url.fragment:
        raise _bad_url("it holds a query or fragment")
    return url


def _bad_url(why: str) -> RecipeError:
    # What was given is not shown: it may hold a password.
    return RecipeError(
        f"the URL of the endpoint is impossible: {why}",
        where="url",
        expected="the base of an OpenAI-compatible API, such as http://host:8000/v1",
    )


def _checked_key(key: str | None) -> str | None:
    key = (key or "").strip()
    if not all("!" <= character <= "~" for character in key):
        raise RecipeError(
            "the API key holds blanks or characters that are not ASCII",
            where="api_key",
            fix="copy it again; it is not shown here",
        )
    return key or None


def _require_at_least(name: str, value: float, least: float) -> None:
    if not least <= value < float("inf"):
        raise RecipeError(f"{name} is impossible", expected=f"{least:g} or more", got=str(value))


def _is_this_machine(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
