"""Servers on the loopback address: files with ETag and Range, faults on request, and the listings of hub and Zenodo."""

import hashlib
import json
import threading
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Fault:
    """What one answer does wrong: another status, or a body that stops after ``cut`` bytes.

    ``short``: the stated length is that of the cut body, as if it were whole.
    """

    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    short: bool = False


class Site(ThreadingHTTPServer):
    """Serves ``files`` by path. ``faults`` are used up answer by answer; ``seen`` are the requests, in order."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), SiteRequest)
        self.files: dict[str, bytes] = {}
        self.faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self.always: dict[str, Fault] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.ranges = True
        self.etags = True
        self.chunked: set[str] = set()
        self.slow: threading.Event | None = None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def asked(self, path: str) -> list[dict[str, str]]:
        """The headers of every request for a path."""
        return [headers for one, headers in self.seen if one == path]

    def add_json(self, path: str, value: object) -> None:
        self.files[path] = json.dumps(value).encode()

    def add_hub(
        self, repository: str, files: Mapping[str, bytes], *, lfs: tuple[str, ...] = (".zip", ".parquet")
    ) -> None:
        """A data set repository with one commit; what ends in ``lfs`` is stored as large files are."""
        siblings = []
        for name, content in files.items():
            git = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            entry: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": git}
            if name.endswith(lfs):
                sha256 = hashlib.sha256(content).hexdigest()
                entry |= {"lfs": {"size": len(content), "sha256": sha256, "pointerSize": 130}}
            siblings.append(entry)
            self.files[f"/datasets/{repository}/resolve/{COMMIT}/{name}"] = content
        listing = {
            "id": repository, "sha": COMMIT, "siblings": siblings, "cardData": {"license": "cc-by-4.0"},
            "private": False, "disabled": False, "downloads": 0, "likes": 0, "tags": [],
        }  # fmt: skip
        for path in (
            f"/api/datasets/{repository}",
            *(f"/api/datasets/{repository}/revision/{one}" for one in ("main", COMMIT)),
        ):
            self.add_json(path, listing)

    def add_zenodo(self, record: int, files: Mapping[str, bytes], *, md5: Mapping[str, str] | None = None) -> None:
        """A record; ``md5`` replaces the right checksum of a file."""
        listed = []
        for name, content in files.items():
            path = f"/api/records/{record}/files/{name}/content"
            self.files[path] = content
            checksum = (md5 or {}).get(name, hashlib.md5(content).hexdigest())
            listed.append(
                {
                    "key": name,
                    "size": len(content),
                    "checksum": f"md5:{checksum}",
                    "links": {"self": self.address + path},
                }
            )
        self.add_json(f"/api/records/{record}", {"files": listed, "metadata": {"license": {"id": "cc-by-4.0"}}})

    def add_github(self, repository: str, files: Mapping[str, bytes], *, branch: str = "main") -> None:
        tree = []
        for name, content in files.items():
            git = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            tree.append({"path": name, "type": "blob", "mode": "100644", "sha": git, "size": len(content)})
            self.files[f"/{repository}/{COMMIT}/{name}"] = content
        for revision in (branch, COMMIT):
            self.add_json(f"/repos/{repository}/commits/{revision}", {"sha": COMMIT})
        self.add_json(f"/repos/{repository}/git/trees/{COMMIT}", {"tree": tree, "truncated": False})
        self.add_json(f"/repos/{repository}", {"license": None})


class SiteRequest(BaseHTTPRequestHandler):
    server: Site
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Be quiet."""

    def do_GET(self) -> None:
        path = unquote(self.path.split("?")[0])
        self.server.seen.append((path, {name.title(): value for name, value in self.headers.items()}))
        queue = self.server.faults[path]
        fault = queue.popleft() if queue else self.server.always.get(path, Fault())
        if fault.status:
            self._head(fault.status, {"Content-Length": "0", **fault.headers})
        elif path not in self.server.files:
            self._head(404, {"Content-Length": "0"})
        else:
            self._send(path, self.server.files[path], fault)

    def _send(self, path: str, content: bytes, fault: Fault) -> None:
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        headers = {"ETag": etag} if self.server.etags else {}
        body, status = content, 200
        ranged = self.headers.get("Range", "")
        if self.server.ranges and ranged and self.headers.get("If-Range", etag) == etag:
            start = int(ranged.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self._head(416, {"Content-Range": f"bytes */{len(content)}", "Content-Length": "0"})
                return
            body, status = content[start:], 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if path in self.server.chunked:
            self._head(status, {**headers, "Transfer-Encoding": "chunked"})
            self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
            return
        sent = body if fault.cut is None else body[: fault.cut]
        self._head(status, {**headers, "Content-Length": str(len(sent if fault.short else body))})
        half = len(sent) // 2
        self.wfile.write(sent[:half])
        self.wfile.flush()
        if self.server.slow is not None and path.endswith(".zip"):
            self.server.slow.wait(20)
        self.wfile.write(sent[half:])
        if fault.cut is not None and not fault.short:
            self.wfile.flush()
            self.close_connection = True

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


@contextmanager
def serving() -> Iterator[Site]:
    with Site() as site:
        thread = threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield site
        finally:
            if site.slow is not None:
                site.slow.set()
            site.shutdown()
            thread.join()
