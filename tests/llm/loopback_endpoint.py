"""A chat completions endpoint on this machine that behaves as it is told, well or badly.

In tests it runs in a thread; as a script in a process of its own, so that its work is not the client's:

    python loopback_endpoint.py [--latency 0.05] [--capacity 16] [--mix [--no-pauses]] [--seed 0]

prints its port and serves until its standard input ends. It speaks HTTP/1.1 on bare asyncio protocols, because a server
that costs more than the client measures itself.
"""

import argparse
import asyncio
import json
import random
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from types import TracebackType
from typing import Any

REPLY = "The liver is enlarged."

Behaviour = str
"""The name of a method of ``_Connection`` without its underscore, with an argument after a colon: ``status:500``."""

Choice = Callable[[int, dict[str, Any]], Behaviour]
"""From the number of the request (from 0) and its body."""

MIX = {
    "status:500": 0.04,
    "closed": 0.03,
    "truncated": 0.03,
    "html": 0.02,
    "empty": 0.01,
    "retry_after:0.1": 0.004,
}
"""Shares of the misbehaving mix; the rest are answered well."""


def always(behaviour: Behaviour) -> Choice:
    return lambda number, body: behaviour


def mixed(shares: dict[Behaviour, float], *, seed: int) -> Choice:
    """Draws by number, so that the sequence is the same for every client."""
    names, weights = [*shares, "well"], [*shares.values(), 1 - sum(shares.values())]

    def choose(number: int, body: dict[str, Any]) -> Behaviour:
        return random.Random(f"{seed} {number}").choices(names, weights)[0]

    return choose


def completion(text: Any, *, finish: str = "stop", usage: Any = ..., **message: Any) -> dict[str, Any]:
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "tiny",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish},
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18} if usage is ... else usage,
    }
    if usage is None:
        del body["usage"]
    return body


class LoopbackEndpoint:
    """A running server. ``choose`` may be set while it runs."""

    def __init__(self, choose: Choice | Behaviour = "well", *, latency: float = 0.0, capacity: int = 1000) -> None:
        self.choose = always(choose) if isinstance(choose, str) else choose
        self.latency, self.capacity = latency, capacity
        self.models: Any = {"object": "list", "data": [{"id": "tiny", "object": "model", "owned_by": "tests"}]}
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.times: list[float] = []
        self.behaviours: Counter[str] = Counter()
        self.active = self.most_active = 0
        self.opened = 0
        self.connections: set[_Connection] = set()
        self.waiting: deque[Callable[[], None]] = deque()
        self.keep = True

    def __enter__(self) -> "LoopbackEndpoint":
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(started),))
        self._thread.start()
        started.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def open_connections(self, *, within: float = 2.0) -> int:
        """Connections still open; those that are closing get a moment."""
        until = time.monotonic() + within
        while self.connections and time.monotonic() < until:
            time.sleep(0.005)
        return len(self.connections)

    async def listen(self) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Connection(self, loop), "127.0.0.1", 0, backlog=1024)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, started: threading.Event) -> None:
        self._stop = asyncio.Event()
        server = await self.listen()
        started.set()
        await self._stop.wait()
        server.close()
        for connection in tuple(self.connections):
            connection.transport.abort()
        while self.connections:
            await asyncio.sleep(0)


class _Connection(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, server: LoopbackEndpoint, loop: asyncio.AbstractEventLoop) -> None:
        self.server, self.loop = server, loop
        self.buffer = bytearray()
        self.busy = self.gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.server.connections.add(self)
        self.server.opened += 1

    def connection_lost(self, error: Exception | None) -> None:
        self.gone = True
        self.server.connections.discard(self)
        self.done()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.buffer.startswith(b"\x16"):  # TLS
            self.send(b"plain http only", status=400)
            self.transport.close()
            return
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self.buffer[:end].decode("latin-1")
        length = 0
        for line in head.split("\r\n")[1:]:
            name, _, value = line.partition(":")
            if name.lower() == "content-length":
                length = int(value)
        if len(self.buffer) < end + 4 + length:
            return
        body = bytes(self.buffer[end + 4 : end + 4 + length])
        del self.buffer[: end + 4 + length]
        self.requested(head, body)

    def requested(self, head: str, raw: bytes) -> None:
        server = self.server
        if head.startswith("GET "):
            self.send_json(server.models) if server.models is not None else self.send(b"no", status=404)
            return
        body = json.loads(raw)
        number = server.behaviours.total()
        behaviour = server.choose(number, body)
        server.behaviours[behaviour] += 1
        if server.keep:
            server.bodies.append(body)
            server.headers.append(head)
            server.times.append(time.monotonic())
        self.body = body
        if server.active < server.capacity:
            self.start(behaviour)
        else:
            server.waiting.append(lambda: self.start(behaviour))

    def start(self, behaviour: Behaviour) -> None:
        if self.gone:
            return
        self.busy = True
        self.server.active += 1
        self.server.most_active = max(self.server.most_active, self.server.active)
        name, _, argument = behaviour.partition(":")
        answer = getattr(self, f"_{name}")
        latency = self.server.latency + (float(argument) if name == "slow" else 0)
        arguments = (argument,) if argument else ()
        if latency:
            self.loop.call_later(latency, self.answer, answer, arguments)
        else:
            self.answer(answer, arguments)

    def answer(self, answer: Callable[..., None], arguments: tuple[str, ...]) -> None:
        if not self.gone:
            answer(*arguments)

    def done(self) -> None:
        if self.busy:
            self.busy = False
            self.server.active -= 1
            while self.server.waiting and self.server.active < self.server.capacity:
                self.server.waiting.popleft()()

    def send(
        self,
        body: bytes,
        *,
        status: int = 200,
        kind: str = "application/json",
        length: int | None = None,
        more: str = "",
    ) -> None:
        self.done()
        head = f"HTTP/1.1 {status} Told\r\nServer: loopback\r\nContent-Type: {kind}\r\n{more}"
        self.transport.write(f"{head}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body)

    def send_json(self, body: Any, **options: Any) -> None:
        self.send(json.dumps(body).encode(), **options)

    def _well(self) -> None:
        self.send_json(completion(REPLY))

    def _slow(self, seconds: str) -> None:
        self._well()

    def _echo(self) -> None:
        self.send_json(completion(self.body["messages"][-1]["content"]))

    def _status(self, status: str) -> None:
        self.send_json({"error": {"message": "as told"}}, status=int(status))

    def _retry_after(self, value: str) -> None:
        self.send_json({"error": "too many"}, status=429, more=f"Retry-After: {value}\r\n")

    def _busy(self, value: str) -> None:
        self.send_json({"error": "busy"}, status=503, more=f"Retry-After: {value}\r\n")

    def _closed(self) -> None:
        self.transport.abort()

    def _closed_midway(self) -> None:
        self.send(b'{"choices": [', length=500)
        self.transport.close()

    def _truncated(self) -> None:
        self.send(json.dumps(completion(REPLY)).encode()[:60])

    def _html(self) -> None:
        self.send(b"<html><title>Sign in to the network</title></html>", kind="text/html")

    def _no_choices(self) -> None:
        self.send_json({"choices": []})

    def _wrong_types(self) -> None:
        self.send_json({"choices": [{"message": {"content": [1, 2]}}]})

    def _content_number(self) -> None:
        self.send_json(completion(3))

    def _deep(self) -> None:
        self.send(b"[" * 60_000)

    def _surrogate(self) -> None:
        self.send_json(completion("half a character: \ud800"))

    def _not_utf8(self) -> None:
        self.send(b'{"choices": [{"message": {"content": "\xff\xfe"}}]}')

    def _bad_gzip(self) -> None:
        self.send(b"not gzip at all", more="Content-Encoding: gzip\r\n")

    def _event_stream(self) -> None:
        self.send(b'data: {"choices": []}\n\ndata: [DONE]\n\n', kind="text/event-stream")

    def _no_http(self) -> None:
        self.done()
        self.transport.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")

    def _huge_header(self) -> None:
        self.send(b"{}", more=f"X-Filler: {'x' * 300_000}\r\n")

    def _empty(self) -> None:
        self.send_json(completion(""))

    def _null(self) -> None:
        self.send_json(completion(None, reasoning_content="I think so"))

    def _parts(self) -> None:
        self.send_json(completion([{"type": "text", "text": "The liver "}, {"type": "text", "text": "is enlarged."}]))

    def _reasoning(self) -> None:
        self.send_json(completion(REPLY, reasoning_content="It looks large. " * 20))

    def _cut(self) -> None:
        self.send_json(completion("The liver is", finish="length"))

    def _preamble(self) -> None:
        self.send_json(completion('Sure! Here are the pairs:\n```json\n{"pairs": []}\n```'))

    def _wrong_schema(self) -> None:
        self.send_json(completion('{"colour": "blue"}'))

    def _chinese(self) -> None:
        self.send_json(completion("肝脏肿大。"))

    def _no_usage(self) -> None:
        self.send_json(completion(REPLY, usage=None))

    def _odd_usage(self) -> None:
        self.send_json(completion(REPLY, usage={"prompt_tokens": "11", "completion_tokens": True}))

    def _hang(self) -> None:
        pass

    def _endless(self, blanks: str = "") -> None:
        """A chunked body that never ends, as fast as the client reads."""
        self.transport.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.pour(b"2000\r\n" + b"a" * 0x2000 + b"\r\n", 0.0)

    def _drip(self, byte: str) -> None:
        """A chunked body that never ends, a byte at a time."""
        self.transport.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        self.pour(b"1\r\n" + (b" " if byte == "blank" else byte.encode()) + b"\r\n", 0.01)

    def pour(self, chunk: bytes, wait: float) -> None:
        if not self.gone:
            if self.transport.get_write_buffer_size() < 1 << 18:
                self.transport.write(chunk)
            self.loop.call_later(wait, self.pour, chunk, wait)

    def _unauthorized(self) -> None:
        key = next((line for line in self.server.headers[-1].split("\r\n") if line.startswith("Authorization")), "")
        self.send_json({"error": {"message": f"wrong key, you sent {key} and {key!r}"}}, status=401)

    def _redirect(self) -> None:
        self.send(b"", status=307, more="Location: http://127.0.0.1:9/elsewhere\r\n")

    def _no_schema(self, known: str = "none") -> None:
        """Refuses every response_format but ``known``."""
        given = self.body.get("response_format", {"type": "none"})["type"]
        if given in (known, "none"):
            self._echo()
        else:
            self.send_json({"error": f"'response_format.type' must not be {given}"}, status=400)

    def _too_long(self) -> None:
        """Refuses for another reason, but its words name the schema."""
        self.send_json({"error": "prompt and schema have 9000 tokens, the context has 8192"}, status=400)


async def _serve_until_input_ends(endpoint: LoopbackEndpoint) -> None:
    server = await endpoint.listen()
    sys.stdout.write(f"{endpoint.port}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.close()
    for connection in tuple(endpoint.connections):
        connection.transport.abort()
    await asyncio.sleep(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latency", type=float, default=0.05)
    parser.add_argument("--capacity", type=int, default=16)
    parser.add_argument("--mix", action="store_true")
    parser.add_argument("--no-pauses", action="store_true", help="the mix without Retry-After")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    shares = {name: share for name, share in MIX.items() if not (options.no_pauses and name.startswith("retry_after"))}
    choose = mixed(shares, seed=options.seed) if options.mix else always("well")
    endpoint = LoopbackEndpoint(choose, latency=options.latency, capacity=options.capacity)
    endpoint.keep = False
    asyncio.run(_serve_until_input_ends(endpoint))


if __name__ == "__main__":
    main()
