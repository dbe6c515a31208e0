"""One exchange with an OpenAI-compatible chat completions endpoint: what is sent, and what an answer may be."""

import asyncio
import ipaddress
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import httpx2

from radvqa.errors import ModelError, RecipeError
from radvqa.llm import FailureReason, Request, Sampling
from radvqa.llm.retry import retry_after_seconds

JsonSchema = Literal["auto", "require", "off"]

_CONNECT_SECONDS = 10.0
_PROBE_SECONDS = 5.0
_PROBE_BYTES = 1 << 20
_BYTES_PER_TOKEN = 64
_BYTES_BESIDE_TEXT = 64 << 10
_DETAIL_CHARACTERS = 300
_SHORTEST_SECRET = 8
"""Characters; shorter keys are the "none" and "EMPTY" that local servers ask for, and hiding them would damage text."""

_FORMATS = ("json_schema", "json_object", "none")
_ABOUT_FORMAT = re.compile(r"response_?format|schema|grammar|guided|structured.?output|unsupported", re.IGNORECASE)
_FIXES = {
    401: "give the API key that this endpoint wants",
    402: "see the account that the API key belongs to: it may not ask for more",
    403: "give an API key that may use this model, or ask who runs the endpoint",
    404: "see that the URL ends like http://host:8000/v1 and that the endpoint serves this model",
    405: "see that the URL ends like http://host:8000/v1",
}
_WAIT_STATUS: Mapping[int, FailureReason] = {408: "timeout", 425: "server_error", 429: "rate_limited"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A reply as the endpoint gave it."""

    text: str
    finished: bool
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why an attempt brought no answer. ``about_format``: the endpoint seems to refuse ``response_format``."""

    reason: FailureReason
    detail: str
    retry_after: float | None = None
    about_format: bool = False


class Chat:
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

    def may_ask_for_less(self, form: int, problem: Problem) -> bool:
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

    async def ask(self, client: httpx2.AsyncClient, request: Request, form: int) -> Answer | Problem:
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
            return Problem(reason=_reason(error), detail=self._shown(f"{type(error).__name__} {error}"))
        if not complete:
            return Problem(
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

    def _out_of_time(self, received: bytearray) -> Problem:
        # Some gateways send blanks while the model works; only what is no blank is output.
        if received.strip():
            detail = f"the output did not end in {self._timeout_seconds:g} s: {self._shown(received)}"
            return Problem(reason="endless_output", detail=detail)
        return Problem(reason="timeout", detail=f"no answer in {self._timeout_seconds:g} s")

    def _refused(self, response: httpx2.Response, received: bytearray) -> Problem:
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
            return Problem(reason=_WAIT_STATUS[status], detail=detail, retry_after=retry_after)
        if status >= 500 and status != 501:
            return Problem(reason="server_error", detail=detail, retry_after=retry_after)
        about_format = status in (400, 422, 501) and _ABOUT_FORMAT.search(detail) is not None
        return Problem(reason="refused_request", detail=detail, about_format=about_format)

    def _parsed(self, received: bytes) -> Answer | Problem:
        try:
            body = json.loads(received)
            choice = body["choices"][0]
            text = _text(choice["message"]["content"])
            text.encode()
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            return Problem(
                reason="malformed_response",
                detail=f"no chat completion ({type(error).__name__}): {self._shown(received)}",
            )
        if not text.strip():
            return Problem(reason="empty_reply", detail=f"the reply has no text: {self._shown(received)}")
        usage = body.get("usage")
        return Answer(
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


def checked_url(text: str) -> httpx2.URL:
    """The base address, without a slash at its end. Raises ``RecipeError`` if it is none; then it is not shown."""
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
        fix="correct generator.url; the address is not shown here, since it may hold a password",
    )


def checked_key(key: str | None) -> str | None:
    """The key without blanks around it, None for an empty one. Raises ``RecipeError`` if no header could hold it."""
    key = (key or "").strip()
    if not all("!" <= character <= "~" for character in key):
        raise RecipeError(
            "the API key holds blanks or characters that are not ASCII",
            where="api_key",
            fix="copy it again; it is not shown here",
        )
    return key or None


def _is_this_machine(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
