"""One file over HTTPS: resumed where it broke off, repeated with patience, under its name only when it is verified.

``huggingface_hub`` has a loader of its own, but that one starts a file anew in every process, and the files of this
field have up to 19 GB.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from importlib.metadata import version
from pathlib import Path
from typing import Any, final

import httpx2

from radvqa.data.download.manifest import file_sha256
from radvqa.errors import DataError, RunError

MOST_REDIRECTS = 10
_CHUNK = 1 << 20
WAIT_STATUS = (408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to wait and how often to try.

    ``attempts`` counts tries in a row that brought nothing. Waits double from ``first_wait_seconds`` up to
    ``longest_wait_seconds``, which also caps what a server asks for with Retry-After.
    """

    attempts: int = 6
    first_wait_seconds: float = 1.0
    longest_wait_seconds: float = 120.0
    connect_seconds: float = 20.0
    read_seconds: float = 60.0

    def wait_seconds(self, failures: int, response: httpx2.Response | None = None) -> float:
        """How long to wait after this many failures in a row, or as long as the server asks for."""
        doubled = self.first_wait_seconds * 2.0 ** (failures - 1)
        asked = _retry_after_seconds(response) if response is not None else None
        return min(doubled if asked is None else asked, self.longest_wait_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteFile:
    """A file to fetch.

    ``path``: where it belongs below the data folder, with ``/``.
    ``bytes``: its size as published; None if unknown.
    ``published``: its checksum as published: ``sha256:``, ``md5:`` or ``git-sha1:`` and hexadecimal digits, or ``""``.
    ``headers``: sent to the first host only.
    """

    path: str
    url: str
    bytes: int | None = None
    published: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transferred:
    """What came: size, sha256, and the server's name for this version (``""`` if it has none)."""

    bytes: int
    sha256: str
    etag: str


class BrokenError(Exception):
    """A try that brought no whole file but may be repeated."""

    def __init__(self, what: str, response: httpx2.Response | None = None) -> None:
        self.response = response
        super().__init__(what)


@final
class Web:
    """The network, for one run of ``radvqa data get``. Close it, or use it in a ``with`` statement."""

    def __init__(
        self,
        patience: Patience | None = None,
        *,
        say: Callable[[str], None] = lambda _: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Take the patience of this run, where to tell of waits, and how to wait."""
        self.patience = patience or Patience()
        self._say, self._sleep = say, sleep
        self._client = httpx2.Client(
            timeout=httpx2.Timeout(self.patience.read_seconds, connect=self.patience.connect_seconds),
            headers={"User-Agent": f"radvqa/{version('radvqa')}", "Accept-Encoding": "identity"},
            follow_redirects=False,
        )

    def __enter__(self) -> "Web":
        """Give the network."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close all connections."""
        self._client.close()

    def json(self, url: str, *, expected: str) -> Any:
        """What the address answers as JSON; ``expected`` says in messages what that should be.

        Raises:
            DataError: the address is wrong, refuses, or fails for good; the answer is no JSON.
        """

        def read(_: int) -> bytes:
            with self._answer(url, {"Accept": "application/json"}) as response:
                _require_success(response, url)
                return response.read()

        content = self.patiently(read, what=expected, where=url)
        try:
            return json.loads(content)
        except ValueError as error:
            raise DataError(
                "the server's answer is not JSON",
                where=url,
                expected=expected,
                got=repr(content[:200]),
                fix="try again later; if it stays, the publisher changed its addresses: fetch the files by hand",
            ) from error

    def patiently(self, attempt: Callable[[int], Any], *, what: str, where: str) -> Any:
        """What ``attempt`` returns, repeated while the network fails; it is given the number of failures so far.

        Raises:
            DataError: too many tries in a row failed.
        """
        failures = 0
        while True:
            try:
                return attempt(failures)
            except _ProgressedError as error:
                failures, cause = 1, error.cause
            except (httpx2.TransportError, BrokenError) as error:
                failures, cause = failures + 1, error
            if failures >= self.patience.attempts:
                raise DataError(
                    f"{what}: the transfer failed {failures} times in a row",
                    where=where,
                    got=_shown(cause),
                    fix="check the network and try again later; the same command goes on where it stopped",
                ) from cause
            response = cause.response if isinstance(cause, BrokenError) else None
            seconds = self.patience.wait_seconds(failures, response)
            self._say(f"{what}: {_shown(cause)}; trying again in {seconds:.0f} s")
            self._sleep(seconds)

    def fetch(
        self, file: RemoteFile, destination: Path, *, advance: Callable[[int], None] = lambda _: None
    ) -> Transferred:
        """Fetch ``file`` to ``NAME.partial`` beside ``destination`` and verify it; the caller gives it its name.

        What an earlier, interrupted call left is taken up if the server still has the same version. ``advance`` is
        called with the bytes that are there since, less than zero if they have to be fetched again.

        Raises:
            DataError: the server refuses, has no such file or fails for good; size or checksum are not as published.
            RunError: the folder is full or not writable; the part that came is kept.
        """
        part = _Part(destination, file, advance)
        try:
            destination.parent.mkdir(parents=True, exist_ok=True)
            part.take_up()
            if file.bytes is None or part.size != file.bytes:
                self.patiently(lambda _: self._continue(file, part), what=file.path, where=file.url)
            return part.verified()
        except OSError as error:
            raise unwritable(destination, error) from error

    def _continue(self, file: RemoteFile, part: "_Part") -> None:
        before = part.size
        try:
            with self._answer(file.url, {**file.headers, **part.range_headers()}) as response:
                if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    if _total(response) == part.size > 0:
                        return
                    part.start_over()
                    raise BrokenError("the server does not have the rest of the part that is here")
                _require_success(response, file.url)
                part.begin(response)
                # In pieces as they come: pieces of a fixed size would be lost where the connection breaks.
                for chunk in response.iter_raw():
                    part.append(chunk)
            part.require_whole()
        except (httpx2.TransportError, BrokenError) as error:
            if part.size > before:
                raise _ProgressedError(error) from error
            raise

    @contextlib.contextmanager
    def _answer(self, url: str, headers: Mapping[str, str]) -> Iterator[httpx2.Response]:
        """The final answer after redirects: https only, and credentials for the first host only."""
        target = require_encrypted(url)
        first, headers = target, dict(headers)
        for _ in range(MOST_REDIRECTS):
            with self._client.stream("GET", target, headers=headers) as response:
                if not response.has_redirect_location:
                    yield response
                    return
                target = _checked_url(target.join(response.headers["Location"]), came_from=target)
            if (target.scheme, target.host, target.port) != (first.scheme, first.host, first.port):
                headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
        raise DataError(
            "the address leads in a circle",
            where=url,
            got=f"more than {MOST_REDIRECTS} redirects",
            fix="try again later; if it stays, fetch the file by hand",
        )


class _ProgressedError(Exception):
    """A try that broke off after it had brought something: patience begins anew."""

    def __init__(self, cause: httpx2.TransportError | BrokenError) -> None:
        self.cause = cause
        super().__init__(str(cause))


class _Part:
    """The part of a file that is here, and a note beside it of which version it is a part of."""

    def __init__(self, destination: Path, file: RemoteFile, advance: Callable[[int], None]) -> None:
        self.size = 0
        self._file, self._advance = file, advance
        self._path = partial_path(destination)
        self._note_path = self._path.with_name(self._path.name + ".json")
        self._note: dict[str, str] = {}
        self._stated: int | None = None

    def take_up(self) -> None:
        """Count what an earlier call left."""
        if not self._path.exists():
            return
        try:
            note = json.loads(self._note_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            note = None
        known = isinstance(note, dict) and all(isinstance(value, str) for value in note.values())
        size = self._path.stat().st_size
        same = known and note.get("url") == self._file.url and note.get("published") == self._file.published
        if not same or (self._file.bytes is not None and size > self._file.bytes):
            self._remove()
            return
        self._note = note
        self.size = size
        self._advance(size)

    def range_headers(self) -> dict[str, str]:
        """What to ask for so that only the rest comes, and only of the same version."""
        if not self.size:
            return {}
        etag, modified = self._note.get("etag", ""), self._note.get("modified", "")
        ranged = {"Range": f"bytes={self.size}-"}
        # Only a strong name of a version may stand in If-Range (RFC 9110, 13.1.5).
        if validator := etag if etag and not etag.startswith("W/") else modified:
            return {**ranged, "If-Range": validator}
        if self._file.published:
            return ranged
        self.start_over()
        return {}

    def begin(self, response: httpx2.Response) -> None:
        """Take the head of an answer: the rest if that was sent, else everything anew."""
        continues = response.status_code == HTTPStatus.PARTIAL_CONTENT
        if continues and _range_start(response) != self.size:
            self.start_over()
            raise BrokenError(f"the server sent another range: {response.headers.get('Content-Range')!r}")
        if not continues:
            self.start_over()
        if (encoding := response.headers.get("Content-Encoding", "identity")) != "identity":
            raise _differs(self._file, "content encoding", "the file as it is", encoding)
        total = _total(response)
        if None not in (total, self._file.bytes) and total != self._file.bytes:
            self._remove()
            raise _differs(self._file, "size", f"{self._file.bytes:,} bytes", f"{total:,} bytes")
        self._stated = total
        if not self._note:
            self._note = {
                "url": self._file.url,
                "published": self._file.published,
                "etag": response.headers.get("ETag", ""),
                "modified": response.headers.get("Last-Modified", ""),
            }
            # Before the first byte, and not in two steps: a part without its note is thrown away.
            self._note_path.write_text(json.dumps(self._note), encoding="utf-8")

    def append(self, chunk: bytes) -> None:
        """Put more at the end."""
        with self._path.open("ab") as file:
            file.write(chunk)
        self.size += len(chunk)
        self._advance(len(chunk))
        if self._file.bytes is not None and self.size > self._file.bytes:
            self._remove()
            raise _differs(self._file, "size", f"{self._file.bytes:,} bytes", f"{self.size:,} bytes or more")

    def require_whole(self) -> None:
        """Raise the error that leads to another try if something lacks."""
        if not self._path.exists():
            self._path.touch()
        expected = self._file.bytes if self._file.bytes is not None else self._stated
        if expected is not None and self.size < expected:
            raise BrokenError(f"it broke off after {self.size:,} of {expected:,} bytes")

    def start_over(self) -> None:
        """Forget what is here."""
        if self.size:
            self._advance(-self.size)
        self._remove()
        self.size, self._note = 0, {}

    def verified(self) -> Transferred:
        """What came, if it is what was published; else it is removed."""
        sha256 = file_sha256(self._path)
        kind, _, expected = self._file.published.partition(":")
        found = sha256 if kind == "sha256" else checksum(self._path, kind) if kind else ""
        if found != expected.lower():
            self.start_over()
            raise _differs(self._file, f"{kind} checksum", expected, found)
        with self._path.open("rb") as file:
            os.fsync(file.fileno())
        return Transferred(bytes=self.size, sha256=sha256, etag=self._note.get("etag", ""))

    def _remove(self) -> None:
        self._path.unlink(missing_ok=True)
        self._note_path.unlink(missing_ok=True)


def partial_path(destination: Path) -> Path:
    """Where a file lies while it comes."""
    return destination.with_name(destination.name + ".partial")


def settle_file(destination: Path) -> None:
    """Give a fetched and verified file its name.

    Raises:
        RunError: the folder is not writable.
    """
    part = partial_path(destination)
    try:
        part.replace(destination)
        part.with_name(part.name + ".json").unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(destination, error) from error


def checksum(path: Path, kind: str) -> str:
    """The checksum of a file in hexadecimal: ``sha256``, ``md5``, or ``git-sha1``, as git names a file's content."""
    if kind == "sha256":
        return file_sha256(path)
    digest = hashlib.md5(usedforsecurity=False) if kind == "md5" else hashlib.sha1(usedforsecurity=False)
    if kind == "git-sha1":
        digest.update(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def unwritable(path: Path, error: OSError) -> RunError:
    """The message for a data folder that is full, read-only or no folder."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return RunError(
        "the disk is full" if full else "cannot write to the data folder",
        where=str(path),
        expected="a writable folder with free space",
        got=error.strerror or str(error),
        fix=("free some space" if full else "change the rights of the folder")
        + " or choose another folder with --to, and run the same command again; what was fetched is kept",
    )


def require_encrypted(url: str) -> httpx2.URL:
    """The address, if it is https or on this machine.

    Raises:
        DataError: it is neither.
    """
    return _checked_url(httpx2.URL(url), came_from=None)


def _checked_url(url: httpx2.URL, *, came_from: httpx2.URL | None) -> httpx2.URL:
    # A server on this machine may be plain http, but no server elsewhere may send anyone there.
    local = url.host in _LOOPBACK and (came_from is None or came_from.host in _LOOPBACK)
    if url.scheme == "https" or (url.scheme == "http" and local):
        return url
    raise DataError(
        "an unencrypted address was refused",
        where=str(url if came_from is None else came_from),
        expected="an https address",
        got=f"{'' if came_from is None else 'a redirect to '}{url}",
        fix="data that anyone on the way can change is not fetched; set HF_ENDPOINT to an https address if you use it, "
        "else fetch the files by hand from the data set's home page",
    )


def _require_success(response: httpx2.Response, url: str) -> None:
    status = response.status_code
    if status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        return
    if status in WAIT_STATUS:
        raise BrokenError(f"the server answered {_status(status)}", response)
    used_up = status == HTTPStatus.FORBIDDEN and response.headers.get("X-RateLimit-Remaining") == "0"
    fixes = {
        401: "log in: `hf auth login` for the Hugging Face hub, with an account that may read this data set",
        403: "open the data set's page in a browser, log in, accept its terms, then `hf auth login` and try again",
        404: "the publisher moved or removed it: see the data set's home page, and fetch the files by hand",
        410: "the publisher removed it: see the data set's home page",
        451: "it is withheld for legal reasons where you are",
    }
    fix = "try again later; if it stays, fetch the files by hand from the data set's home page"
    raise DataError(
        "the server refuses the file" if status in (401, 403) else "the server does not give the file",
        where=url,
        expected="200 OK",
        got=_status(status),
        fix="too many requests from this address: try again in an hour" if used_up else fixes.get(status, fix),
    )


def _differs(file: RemoteFile, what: str, expected: str, got: str) -> DataError:
    return DataError(
        f"the file that came is not the one that was published: another {what}",
        where=f"{file.path} from {file.url}",
        expected=expected,
        got=got,
        fix="what came was removed; try again, and if it stays, report it to the publisher and do not use the file",
    )


def _total(response: httpx2.Response) -> int | None:
    """The size of the whole file as an answer states it."""
    if match := re.search(r"/\s*([0-9]+)\s*$", response.headers.get("Content-Range", "")):
        return int(match[1])
    length = response.headers.get("Content-Length", "")
    return int(length) if response.status_code == HTTPStatus.OK and length.isascii() and length.isdigit() else None


def _range_start(response: httpx2.Response) -> int | None:
    match = re.match(r"bytes\s+([0-9]+)-", response.headers.get("Content-Range", ""))
    return int(match[1]) if match else None


def _retry_after_seconds(response: httpx2.Response) -> float | None:
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _status(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _shown(error: Exception) -> str:
    return str(error) or type(error).__name__
