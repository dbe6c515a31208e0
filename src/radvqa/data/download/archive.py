"""Unpacking archives that strangers made: zip and tar, each member judged before anything is written.

A published archive can be damaged or replaced. Nothing in it may land outside its folder, follow a link, overwrite
another member or fill the disk; the whole archive is refused if one member tries.
"""

import bz2
import gzip
import hashlib
import lzma
import os
import re
import shutil
import stat
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from radvqa.errors import DataError, RunError
from radvqa.records import settle

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2")
MOST_MEMBERS = 2_000_000
"""ROCOv2 has 80,000 pictures and PMC-VQA 149,000; more members than this are a trap for the file system."""
MOST_EXPANSION = 200
"""Times that a member may grow. Pictures grow little, tables about tenfold; only zeros grow a thousandfold."""
EXPANSION_COUNTS_FROM = 100_000_000
"""Bytes; what stays smaller may grow as it likes."""

_LONGEST_HEADER = 16_000_000
_CHUNK = 1 << 20
_JUNK = ("__MACOSX", ".DS_Store")
_FIX = (
    "do not unpack it by hand; fetch it again from the official source, and tell its publisher if it is the same there"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One entry of an archive as its listing states it. ``stored`` is its compressed size, 0 where none is stated.

    ``second_name`` is another name that an entry gives itself, ``""`` if it has but one.
    """

    name: str
    size: int
    stored: int = 0
    kind: str = "file"
    encrypted: bool = False
    second_name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unpacked:
    """One file that was unpacked: its path inside the folder, with ``/``, and what it holds."""

    path: str
    bytes: int
    sha256: str


class _DamagedError(Exception):
    """The archive cannot be read as what it says it is."""


def is_archive(name: str) -> bool:
    """Whether a file name ends like an archive that can be unpacked."""
    return name.lower().endswith(ARCHIVE_SUFFIXES)


def without_suffix(name: str) -> str:
    """The name of an archive without ``.zip``, ``.tar.gz`` and the like; other names stay as they are."""
    suffix = max((one for one in ARCHIVE_SUFFIXES if name.lower().endswith(one)), key=len, default="")
    return name[: len(name) - len(suffix)]


def why_unsafe(name: str) -> str | None:
    """What is wrong with a file name that came from elsewhere, or None if it stays below the folder it is put in."""
    parts = name.removesuffix("/").split("/")
    checks = (
        (not name.strip("/"), "an empty name"),
        (name.startswith("/"), "an absolute path"),
        (bool(re.match(r"[A-Za-z]:", name)), "a path with a drive letter"),
        ("\\" in name, "a backslash, which is a folder separator elsewhere"),
        (any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name), "a control character"),
        (".." in parts, "`..`, a path out of the folder"),
        ("" in parts or "." in parts, "an empty or `.` step in its path"),
        (any(len(part.encode(errors="replace")) > 255 for part in parts), "a name longer than 255 bytes"),
        (len(parts) > 64, "more than 64 nested folders"),
    )
    return next((what for wrong, what in checks if wrong), None)


def members_of(archive: Path) -> list[Member]:
    """Every entry as the listing of a zip or tar archive states it; a tar archive is read through for it.

    Raises:
        DataError: it is missing, damaged, or neither zip nor tar.
    """
    with _readable(archive):
        if archive.name.lower().endswith(".zip"):
            with zipfile.ZipFile(archive) as opened:
                return [_zip_member(info) for info in opened.infolist()]
        with _opened_tar(archive) as tar:
            members: list[Member] = []
            for info in tar:
                if info.isdir() and info.name == ".":
                    continue
                members.append(_tar_member(info))
                # Before the next header is looked for, since that reads through this member.
                _require_growth(archive, members[-1:])
                _require_growth(archive, members)
                if len(members) > MOST_MEMBERS:
                    break
            return members


def check_members(archive: Path, members: Sequence[Member], *, limit_bytes: int, one_case: bool = False) -> None:
    """Judge the listing of an archive.

    Args:
        archive: for messages, and for its size.
        members: as ``members_of`` gives them.
        limit_bytes: the most that all members together may take.
        one_case: the file system cannot hold names apart that differ only in case or in how accents are written.

    Raises:
        DataError: names the first member that leaves the folder, is a link or device, is encrypted, repeats another
            or grows too much; or what is too much in total.
    """
    if len(members) > MOST_MEMBERS:
        raise _refused(archive, "too many members", f"at most {MOST_MEMBERS:,}", f"{len(members):,} or more")
    files: set[str] = set()
    folders: set[str] = set()
    for member in members:
        _check_member(archive, member)
        name = _alike(member.name) if one_case else member.name.removesuffix("/")
        parents = {str(parent) for parent in PurePosixPath(name).parents}
        if name in files or parents & files or (member.kind == "file" and name in folders):
            raise _refused(archive, "a member that overwrites another", "every name once", repr(member.name))
        folders |= parents
        (files if member.kind == "file" else folders).add(name)
    _require_growth(archive, members)
    total = sum(member.size for member in members)
    if total > limit_bytes:
        raise DataError(
            "the archive holds more than there is room for",
            where=str(archive),
            expected=f"at most {limit_bytes:,} bytes",
            got=f"{total:,} bytes",
            fix="free space, or choose another folder with --to; if the publisher states a far smaller size, " + _FIX,
        )


def unpack(
    archive: Path,
    folder: Path,
    *,
    limit_bytes: int,
    advance: Callable[[int], None] = lambda _: None,
    before_settling: Callable[[list[Unpacked]], None] = lambda _: None,
) -> list[Unpacked]:
    """Unpack an archive into ``folder``, which must not exist: it appears when it is complete and never before.

    A single folder that holds everything else is left out, so ``imgs.zip`` with ``imgs/1.jpg`` and one with ``1.jpg``
    give the same ``folder``. Notes that macOS adds (``__MACOSX``, ``.DS_Store``) are not unpacked.

    Args:
        archive: a file whose name ends in one of ``ARCHIVE_SUFFIXES``.
        folder: where to.
        limit_bytes: the most that the members together may take.
        advance: called with the number of bytes that were written since.
        before_settling: called with the result just before ``folder`` appears.

    Returns:
        The files in order of their path.

    Raises:
        DataError: the archive is damaged, or a member is one of those that ``check_members`` refuses.
        RunError: the folder cannot be written. What was begun is removed.
    """
    working = folder.with_name(f".{folder.name}.unpacking")
    with _writable(folder):
        shutil.rmtree(working, ignore_errors=True)
        working.mkdir(parents=True)
    try:
        members = members_of(archive)
        check_members(archive, members, limit_bytes=limit_bytes, one_case=_one_case(working))
        drop = _single_folder(members)
        found = []
        with _readable(archive):
            for name, stream, size in _contents(archive):
                found.append(_write(stream, working, name.removeprefix(drop), size=size, advance=advance))
        found.sort(key=lambda one: one.path)
        before_settling(found)
        with _writable(folder):
            settle(working, folder)
    finally:
        shutil.rmtree(working, ignore_errors=True)
    return found


def _check_member(archive: Path, member: Member) -> None:
    if (what := why_unsafe(member.name)) is not None:
        raise _refused(archive, f"a member with {what}", "paths inside the folder", repr(member.name)[:300])
    if member.second_name:
        got = f"{member.name!r:.150} and {member.second_name!r:.150}"
        raise _refused(archive, "a member with two names", "one name for every member", got)
    if member.kind not in ("file", "folder"):
        raise _refused(archive, f"a member that is a {member.kind}", "files and folders", repr(member.name)[:300])
    if member.encrypted:
        raise _refused(archive, "an encrypted member", "files that need no password", repr(member.name)[:300])
    _require_growth(archive, [member], stored=member.stored)


def _require_growth(archive: Path, members: Sequence[Member], *, stored: int = 0) -> None:
    total = sum(member.size for member in members)
    stored = stored or archive.stat().st_size
    if total > EXPANSION_COUNTS_FROM and total > MOST_EXPANSION * stored:
        what = repr(members[0].name)[:300] if len(members) == 1 else f"{len(members):,} members"
        raise _refused(
            archive,
            "members that grow too much (a decompression bomb)",
            f"at most {MOST_EXPANSION} times their stored size",
            f"{what}: {stored:,} bytes that become {total:,}",
        )


def _refused(archive: Path, what: str, expected: str, got: str) -> DataError:
    return DataError(
        f"the archive was refused: it has {what}", where=str(archive), expected=expected, got=got, fix=_FIX
    )


def _zip_member(info: zipfile.ZipInfo) -> Member:
    mode = info.external_attr >> 16
    kind = _kind_of_mode(mode) if stat.S_IFMT(mode) else "folder" if info.is_dir() else "file"
    return Member(
        # The name as stored: zipfile cuts at a zero byte and turns this system's separators into slashes.
        name=info.orig_filename,
        size=info.file_size,
        stored=max(info.compress_size, 1),
        kind=kind,
        encrypted=bool(info.flag_bits & 0x1),
        # Later versions of zipfile take ``filename`` from an extra field (0x7075), which may say anything.
        second_name=info.filename if info.filename != info.orig_filename else "",
    )


def _kind_of_mode(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "folder"
    return "symbolic link" if stat.S_ISLNK(mode) else "device"


def _tar_member(info: tarfile.TarInfo) -> Member:
    if info.issparse():
        kind = "sparse file"
    elif info.isreg():
        kind = "file"
    elif info.isdir():
        kind = "folder"
    else:
        kind = "symbolic link" if info.issym() else "hard link" if info.islnk() else "device"
    return Member(name=info.name.removeprefix("./"), size=info.size if kind == "file" else 0, kind=kind)


def _contents(archive: Path) -> Iterator[tuple[str, IO[bytes], int]]:
    """Name, content and stated size of every file, in archive order, without the notes of macOS."""
    if archive.name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                name = info.orig_filename  # the one that was judged
                if not info.is_dir() and not _is_junk(name):
                    with opened.open(info) as stream:
                        yield name, stream, info.file_size
        return
    with _opened_tar(archive) as tar:
        for entry in tar:
            name = entry.name.removeprefix("./")
            if entry.isreg() and not _is_junk(name):
                with cast(IO[bytes], tar.extractfile(entry)) as stream:
                    yield name, stream, entry.size


def _write(stream: IO[bytes], root: Path, name: str, *, size: int, advance: Callable[[int], None]) -> Unpacked:
    path = root / name
    if why_unsafe(name) is not None or not path.resolve().is_relative_to(root.resolve()):
        raise _DamagedError(f"{name!r:.300} would lie outside the folder")
    digest, written = hashlib.sha256(), 0
    with _writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("xb")
    with file:
        while chunk := stream.read(_CHUNK):
            written += len(chunk)
            if written > size:
                raise _DamagedError(f"{name} holds more than the {size:,} bytes that the listing states")
            with _writable(path):
                file.write(chunk)
            digest.update(chunk)
            advance(len(chunk))
        with _writable(path):
            file.flush()
    if written != size:
        raise _DamagedError(f"{name} ends after {written:,} of {size:,} bytes")
    return Unpacked(path=name, bytes=written, sha256=digest.hexdigest())


def _single_folder(members: Sequence[Member]) -> str:
    """``name/`` if everything lies in one folder, else ``""``."""
    names = [member.name for member in members if not _is_junk(member.name)]
    tops = {name.partition("/")[0] for name in names}
    files_at_top = any("/" not in member.name and member.kind == "file" for member in members)
    return f"{tops.pop()}/" if len(tops) == 1 and not files_at_top else ""


def _is_junk(name: str) -> bool:
    return name.partition("/")[0] == _JUNK[0] or name.rpartition("/")[2] == _JUNK[1]


def _alike(name: str) -> str:
    return unicodedata.normalize("NFC", name.removesuffix("/")).casefold()


def _one_case(folder: Path) -> bool:
    """Whether the file system takes two names for one that differ in case."""
    with _writable(folder):
        probe = folder / "Case"
        probe.touch()
        try:
            return (folder / "cASE").exists()
        finally:
            probe.unlink()


class _Capped:
    """A stream that never gives much at once: tarfile reads a header of any stated length in one go."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LONGEST_HEADER:
            raise _DamagedError(f"a header states a length of {size:,} bytes")
        return self._stream.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _opened_tar(archive: Path) -> Iterator[tarfile.TarFile]:
    with archive.open("rb") as file:
        start = file.read(6)
    opener: Callable[..., Any] = open
    for magic, one in ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\x00", lzma.open)):
        if start.startswith(magic):
            opener = one
    with opener(archive, "rb") as stream, tarfile.open(fileobj=cast(Any, _Capped(stream)), mode="r:") as tar:
        yield tar


@contextmanager
def _readable(archive: Path) -> Iterator[None]:
    """Turn what damaged archives raise into one message. ``DataError`` and ``RunError`` pass."""
    damaged = (
        zipfile.BadZipFile, zipfile.LargeZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError,
        NotImplementedError, ValueError, OverflowError, RuntimeError, _DamagedError,
    )  # fmt: skip
    try:
        yield
    except damaged as error:
        raise _damage(archive, error) from error
    except OSError as error:
        # The decompressors of gzip and bzip2 raise OSError without a number for damaged data.
        raise _damage(archive, error) from error


def _damage(archive: Path, error: Exception) -> DataError:
    return DataError(
        "the archive cannot be unpacked",
        where=str(archive),
        expected="a sound zip or tar archive",
        got=str(error)[:300] or type(error).__name__,
        fix="delete it and fetch it again",
    )


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            "cannot unpack into the folder",
            where=str(path),
            expected="a writable folder with free space",
            got=error.strerror or str(error),
            fix="free some space or choose another folder with --to, and run the same command again",
        ) from error


def free_bytes(folder: Path) -> int:
    """Bytes that this user may still write where ``folder`` is or will be."""
    existing = next(one for one in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(one))
    return shutil.disk_usage(existing).free
