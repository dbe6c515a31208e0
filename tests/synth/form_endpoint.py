"""A chat completions endpoint that fills in the form it is asked for, and counts what it was asked."""

import json
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


class FormEndpoint:
    """Replies hang on the caption alone. ``asked`` counts requests by caption, ``answered`` the replies sent."""

    def __init__(self, *, latency: float = 0.0) -> None:
        self.latency = latency
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.fail: set[str] = set()
        self._lock = threading.Lock()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                status, reply = endpoint.reply(body)
                content = json.dumps(reply).encode()
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except OSError:
                    return
                if status == 200:
                    endpoint.sent(body)

            def do_GET(self) -> None:
                self.send_response(404)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *_: Any) -> None:
                """A killed client resets its connections; that is no error here."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def reply(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        caption = caption_of(body)
        with self._lock:
            self.asked[caption] += 1
        time.sleep(self.latency)
        if caption in self.fail:
            return 500, {"error": {"message": "out of order"}}
        schema = body["response_format"]["json_schema"]["schema"]
        form = {name: value_of(one, caption) for name, one in schema["properties"].items()}
        message = {"role": "assistant", "content": json.dumps(form)}
        usage = {"prompt_tokens": 100, "completion_tokens": 20}
        return 200, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage}

    def sent(self, body: dict[str, Any]) -> None:
        with self._lock:
            self.answered[caption_of(body)] += 1


def caption_of(body: dict[str, Any]) -> str:
    return str(re.findall(r'Caption: "(.*)"', body["messages"][-1]["content"])[-1])


def value_of(schema: dict[str, Any], caption: str) -> Any:
    if "const" in schema:
        return schema["const"]
    if schema.get("type") == "object":
        return {name: value_of(one, caption) for name, one in schema["properties"].items()} | (
            {"question": f"What is told by {caption.rsplit(maxsplit=1)[-1].strip('.')}?"}
            if "question" in schema["properties"]
            else {}
        )
    return " ".join(caption.split()[:3]).strip(".")
