"""What was fetched from where under which licence: ``manifest.json`` in the folder of a fetched data set."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from radvqa.errors import DataError, RunError
from radvqa.records import write_json

MANIFEST_FILE = "manifest.json"
UNFINISHED_FILE = ".manifest.partial.json"

_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """The licence as it was shown, and how and when it was accepted. ``how`` is an option or an answer."""

    text: str
    sha256: str
    how: str
    accepted_at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchedFile:
    """One file as it came over the network. Paths are relative to the folder, with ``/``.

    ``published`` is the checksum that the publisher states, such as ``md5:...``, or ``""``.
    ``etag`` is what the server called this version of the file, or ``""``.
    ``unpacked_to`` is the folder an archive became; the archive itself is not kept then.
    """

    path: str
    bytes: int
    sha256: str
    url: str
    published: str
    etag: str
    fetched_at: str
    unpacked_to: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpackedFile:
    """One file that came out of ``archive``. Both paths are relative to the folder, with ``/``."""

    path: str
    bytes: int
    sha256: str
    archive: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything known about one fetched data set.

    ``revision`` is the commit or record that was fetched, ``""`` where the source has none.
    ``requested`` is the revision that was asked for, such as a branch, ``""`` if none was.
    ``stated_licence`` is what the source itself stated at that moment, ``""`` if nothing.
    """

    format: int = 1
    name: str
    source: str
    revision: str
    licence: Acceptance
    stated_licence: str
    version: str
    requested: str = ""
    finished_at: str = ""
    files: dict[str, FetchedFile] = field(default_factory=dict)
    unpacked: dict[str, UnpackedFile] = field(default_factory=dict)

    def contents(self) -> dict[str, tuple[int, str]]:
        """Bytes and sha256 of every file that the folder holds when all is done, by its path."""
        archives = {one.archive for one in self.unpacked.values()}
        archives |= {path for path, one in self.files.items() if one.unpacked_to}
        everything: dict[str, FetchedFile | UnpackedFile] = {**self.files, **self.unpacked}
        return {path: (one.bytes, one.sha256) for path, one in everything.items() if path not in archives}


def accept(text: str, *, how: str) -> Acceptance:
    """The record that ``text`` was accepted now."""
    return Acceptance(text=text, sha256=hashlib.sha256(text.encode()).hexdigest(), how=how, accepted_at=now())


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_manifest(path: Path) -> Manifest:
    """The manifest in a file.

    Raises:
        DataError: there is no such file, or it is no manifest.
    """
    fix = f"give the {MANIFEST_FILE} that `radvqa data get` wrote"
    try:
        return TypeAdapter(Manifest).validate_json(path.read_bytes())
    except OSError as error:
        raise DataError("manifest not found", where=str(path), got=error.strerror, fix=fix) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(
            "not a manifest of a fetched data set",
            where=f"{path}, field {'.'.join(map(str, first['loc'])) or '(whole file)'}",
            expected=first["msg"],
            got=repr(first["input"])[:200],
            fix=fix,
        ) from error


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write the manifest in one atomic step.

    Raises:
        RunError: the folder is full or not writable.
    """
    try:
        write_json(path, asdict(manifest))
    except RunError as error:
        raise RunError(
            "cannot write to the data folder",
            where=str(path),
            expected="a writable folder with free space",
            got=error.got,
            fix="free some space or choose another folder with --to, and run the same command again; what was fetched "
            "is kept",
        ) from error


def file_sha256(path: Path, *, advance: Callable[[int], None] = lambda _: None) -> str:
    """The sha256 of a file, in hexadecimal. ``advance`` is called with the number of bytes read since."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            advance(len(chunk))
    return digest.hexdigest()
