"""A language model behind an OpenAI-compatible chat completions endpoint: vLLM, llama.cpp, Ollama, LM Studio, ..."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from queue import SimpleQueue
from typing import NoReturn, final

from radvqa.errors import ModelError, RecipeError
from radvqa.llm import Failure, FailureReason, ModelIdentity, Outcome, Reply, Request, Sampling
from radvqa.llm.chat import Answer, Chat, JsonSchema, Problem, checked_key, checked_url
from radvqa.llm.retry import Backoff, Throttle

_AHEAD = 4
"""Requests handed over for each that may be under way: those that wait for their next attempt leave their place."""
_ATTEMPTS: Mapping[FailureReason, int] = {"refused_request": 1, "endless_output": 1, "empty_reply": 2}
"""How often a request may fail in one way, where that is less than ``attempts``."""


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
        self._chat = Chat(
            base=checked_url(url),
            model=model,
            sampling=sampling,
            api_key=checked_key(api_key),
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
        session = _Session(
            self._chat, throttle, backoff, attempts=self._attempts, say=self._say, concurrency=self._concurrency
        )
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
        self,
        chat: Chat,
        throttle: Throttle,
        backoff: Backoff,
        *,
        attempts: int,
        say: Callable[[str], None],
        concurrency: int,
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
        # One place for each request that is under way or whose outcome the caller has not dealt with yet, so that a
        # killed process never has more of them to ask for again than ``concurrency``.
        self._places = asyncio.Semaphore(concurrency)
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
            if not self._over:
                self._loop.call_soon_threadsafe(self._places.release)
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
        await self._places.acquire()
        while True:
            attempt = await self._throttle.enter()
            form = max(form, self._chat.first_format(request))
            start = time.perf_counter()
            result = await self._chat.ask(self._client, request, form)
            seconds += time.perf_counter() - start
            sent += 1
            if isinstance(result, Answer):
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
                )
            self._places.release()
            await asyncio.sleep(self._backoff.seconds(failures.total()))
            await self._places.acquire()

    def _note_answer(self, form: int, request: Request) -> None:
        self._answers += 1
        if self._throttle.answered():
            self._news.put("the endpoint answers again")
        if request.schema is not None and self._chat.settle_format(form):
            self._news.put(self._chat.facts["structured_output"])

    def _note_problem(self, attempt: int, problem: Problem) -> None:
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

    def _give_up(self, failures: int, problem: Problem) -> NoReturn:
        raise ModelError(
            f"the endpoint was given up after {failures} failed requests in a row",
            where=str(self._chat.base),
            expected="an answer to one of them",
            got=f"last {problem.reason}: {problem.detail}",
            fix="see that the endpoint runs and what its log says, then start again: finished replies are kept",
        )


def _require_at_least(name: str, value: float, least: float) -> None:
    if not least <= value < float("inf"):
        raise RecipeError(f"{name} is impossible", expected=f"{least:g} or more", got=str(value))
