"""Fetching a published data set: licence, room on the disk, files, checksums, unpacking, manifest.

State of a folder while it is filled::

    .manifest.partial.json     what is finished so far; becomes manifest.json at the very end
    NAME.partial               a file that is coming, and NAME.partial.json: of which version it is a part
    .FOLDER.unpacking/         an archive that is being unpacked

A file gets its name when it is complete and verified, a folder when its archive is unpacked whole, so the process can
be killed at any moment and the same command goes on.
"""

import fcntl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import final

from radvqa.data.download.archive import Unpacked, free_bytes, is_archive, unpack, without_suffix
from radvqa.data.download.catalogue import Entry, Unpack
from radvqa.data.download.manifest import (
    MANIFEST_FILE,
    UNFINISHED_FILE,
    Acceptance,
    FetchedFile,
    Manifest,
    UnpackedFile,
    file_sha256,
    now,
    read_manifest,
    write_manifest,
)
from radvqa.data.download.sources import Addresses, Listing, list_source
from radvqa.data.download.transfer import RemoteFile, Web, checksum, partial_path, settle_file, unwritable
from radvqa.errors import DataError, RunError
from radvqa.run.progress import Progress

SPARE_BYTES = 100_000_000
"""Room that is left on the disk beside the data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A data set in its folder. ``root`` is what its adapter opens; ``fresh`` is False if all was there before."""

    entry: Entry
    folder: Path
    root: Path
    manifest: Manifest
    fresh: bool

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(size for size, _ in self.manifest.contents().values())


def get(
    entry: Entry,
    folder: Path,
    *,
    acceptance: Acceptance,
    revision: str | None = None,
    pinned: Manifest | None = None,
    progress: Progress | None = None,
    web: Web | None = None,
    addresses: Addresses | None = None,
) -> Fetched:
    """Fetch ``entry`` into ``folder``, or finish what an earlier call began; files that are finished stay.

    Files of a publisher who states checksums are held to those. The others are believed the first time and noted in the
    manifest; ``pinned``, a manifest of an earlier download, holds everything to that one.

    Args:
        entry: what to fetch, from the catalogue.
        folder: where to; made if need be.
        acceptance: that the licence was shown and accepted.
        revision: a commit, branch or tag; that of ``pinned`` or of the folder's own manifest, or the newest, if None.
        pinned: every file must be there with the size and sha256 of this manifest, and no other.
        progress: told of the bytes that come.
        web: the network, with another patience.
        addresses: where the services are.

    Raises:
        DataError: the source does not give its files, or gives others than published or pinned; an archive is unsafe;
            the folder holds something else or another revision.
        RunError: there is too little room, the folder cannot be written, or another process fetches into it.
    """
    progress = progress or Progress(quiet=True)
    if pinned is not None:
        _require_same(pinned.name, entry.name, what="the manifest is of another data set", where="--manifest")
        revision = _pinned_revision(pinned, revision)
    with _locked(folder):
        earlier = _read_if_there(folder / MANIFEST_FILE)
        if earlier is not None:
            return _again(entry, folder, earlier, revision=revision, pinned=pinned, progress=progress)
        with web or Web(say=progress.say) as opened:
            return _Download(entry, folder, acceptance=acceptance, pinned=pinned, progress=progress, web=opened).run(
                revision, addresses
            )


def accepted_before(entry: Entry, folder: Path) -> Acceptance | None:
    """The acceptance that an earlier call noted in ``folder``, if it was of the same terms.

    Raises:
        DataError: the folder's manifest cannot be read.
    """
    for name in (MANIFEST_FILE, UNFINISHED_FILE):
        earlier = _read_if_there(folder / name)
        if earlier is not None and earlier.name == entry.name and earlier.licence.text == entry.terms:
            return earlier.licence
    return None


@final
class _Download:
    """One run of ``get`` in a folder whose manifest is not written yet."""

    def __init__(
        self,
        entry: Entry,
        folder: Path,
        *,
        acceptance: Acceptance,
        pinned: Manifest | None,
        progress: Progress,
        web: Web,
    ) -> None:
        self._entry, self._folder = entry, folder
        self._acceptance, self._pinned = acceptance, pinned
        self._progress, self._web = progress, web
        self._manifest: Manifest

    def run(self, revision: str | None, addresses: Addresses | None) -> Fetched:
        """List, check, fetch, unpack, note."""
        begun = _read_if_there(self._folder / UNFINISHED_FILE)
        requested = revision or ""
        if begun is not None and revision in (None, begun.requested):
            # Where it began: a branch may have moved on meanwhile.
            revision, requested = begun.revision or revision, begun.requested
        listing = list_source(self._entry.source, self._web, revision=revision, addresses=addresses)
        self._manifest = replace(self._begin(begun, listing), requested=requested)
        if self._pinned is not None:
            _require_pinned_listing(self._pinned, listing, where=self._entry.source.address)
        waiting = [file for file in listing.files if not self._is_done(file)]
        _require_room(self._entry, self._folder, waiting)
        self._note()
        self._fetch(listing.files)
        self._unpack()
        if self._pinned is not None:
            _require_contents(self._manifest.contents(), self._pinned.contents())
        self._manifest = replace(self._manifest, finished_at=now())
        write_manifest(self._folder / MANIFEST_FILE, self._manifest)
        _unlink(self._folder / UNFINISHED_FILE)
        return _fetched(self._entry, self._folder, self._manifest, fresh=True)

    def _begin(self, begun: Manifest | None, listing: Listing) -> Manifest:
        if begun is not None:
            where = str(self._folder)
            _require_same(begun.name, self._entry.name, what="the folder holds the beginning of another", where=where)
            _require_same(begun.revision, listing.revision, what="the folder holds another revision", where=where)
            return replace(begun, stated_licence=listing.licence)
        return Manifest(
            name=self._entry.name,
            source=self._entry.source.address,
            revision=listing.revision,
            licence=self._acceptance,
            stated_licence=listing.licence,
            version=version("radvqa"),
        )

    def _note(self) -> None:
        write_manifest(self._folder / UNFINISHED_FILE, self._manifest)

    def _is_done(self, file: RemoteFile) -> bool:
        """Whether a file was finished by an earlier call and is still there, itself or unpacked."""
        known = self._manifest.files.get(file.path)
        if known is None or known.published != file.published:
            return False
        path = self._folder / file.path
        if path.is_file() and path.stat().st_size == known.bytes:
            return True
        return bool(known.unpacked_to) and (self._folder / known.unpacked_to).is_dir()

    def _fetch(self, files: Sequence[RemoteFile]) -> None:
        done = sum(self._manifest.files[file.path].bytes for file in files if self._is_done(file))
        total = sum(file.bytes or 0 for file in files)
        with _bytes_tracked(self._progress, f"fetching {self._entry.name}", max(total, done), done=done) as advance:
            for file in files:
                if not self._is_done(file):
                    self._fetch_one(file, advance)

    def _fetch_one(self, file: RemoteFile, advance: Callable[[int], None]) -> None:
        path = self._folder / file.path
        if path.exists():
            came = self._adopted(file, path, advance)
        else:
            came = self._noted_partial(file, path, advance) or self._transferred(file, path, advance)
        self._require_pinned(file, came)
        # Noted first: a file under its name that is not noted would look like one that somebody else put there.
        self._manifest.files[file.path] = came
        self._note()
        if not path.exists():
            settle_file(path)

    def _transferred(self, file: RemoteFile, path: Path, advance: Callable[[int], None]) -> FetchedFile:
        came = self._web.fetch(file, path, advance=advance)
        return FetchedFile(
            path=file.path,
            bytes=came.bytes,
            sha256=came.sha256,
            url=file.url,
            published=file.published,
            etag=came.etag,
            fetched_at=now(),
        )

    def _noted_partial(self, file: RemoteFile, path: Path, advance: Callable[[int], None]) -> FetchedFile | None:
        """The note of a file that was verified when the process was killed just before it gave it its name."""
        known, part = self._manifest.files.get(file.path), partial_path(path)
        if known is None or not part.is_file() or part.stat().st_size != known.bytes:
            return None
        if file_sha256(part, advance=advance) == known.sha256 and known.published == file.published:
            return known
        advance(-known.bytes)
        return None

    def _adopted(self, file: RemoteFile, path: Path, advance: Callable[[int], None]) -> FetchedFile:
        """The note of a file that somebody else put here, if it is exactly the published one."""
        kind, _, expected = file.published.partition(":")
        found = checksum(path, kind) if kind and path.is_file() else ""
        if not kind or found != expected:
            raise DataError(
                "another file is in the way",
                where=str(path),
                expected=f"no file, or the published one ({file.published or 'which states no checksum'})",
                got=f"{kind}:{found}" if found else "a file of unknown origin" if path.is_file() else "a folder",
                fix="move it away, or choose another folder with --to",
            )
        size = path.stat().st_size
        advance(size)
        return FetchedFile(
            path=file.path,
            bytes=size,
            sha256=file_sha256(path),
            url=file.url,
            published=file.published,
            etag="",
            fetched_at=now(),
        )

    def _require_pinned(self, file: RemoteFile, came: FetchedFile) -> None:
        if self._pinned is None:
            return
        expected = self._pinned.files[file.path]
        if (came.bytes, came.sha256) != (expected.bytes, expected.sha256):
            _unlink(partial_path(self._folder / file.path))
            raise _not_as_pinned(file.path, (expected.bytes, expected.sha256), (came.bytes, came.sha256))

    def _unpack(self) -> None:
        for rule in self._entry.unpack:
            present = [*self._manifest.files, *self._manifest.unpacked]
            archives = sorted(one for one in present if is_archive(one) and fnmatchcase(one, rule.pattern))
            for archive in archives:
                self._unpack_one(archive, _destination(archive, rule))

    def _unpack_one(self, archive: str, into: str) -> None:
        path, folder = self._folder / archive, self._folder / into
        if folder.exists():
            if not any(one.archive == archive for one in self._manifest.unpacked.values()):
                raise DataError(
                    "another folder is in the way",
                    where=str(folder),
                    expected=f"no folder, since {archive} is unpacked there",
                    fix="move it away, or choose another folder with --to",
                )
            _unlink(path)
            return
        limit = free_bytes(self._folder) - SPARE_BYTES
        with _bytes_tracked(self._progress, f"unpacking {archive}", path.stat().st_size) as advance:
            unpack(
                path,
                folder,
                limit_bytes=limit,
                advance=advance,
                before_settling=lambda found: self._note_unpacked(archive, into, found),
            )
        _unlink(path)

    def _note_unpacked(self, archive: str, into: str, found: list[Unpacked]) -> None:
        for path in [path for path, one in self._manifest.unpacked.items() if one.archive == archive]:
            del self._manifest.unpacked[path]
        for one in found:
            path = f"{into}/{one.path}"
            self._manifest.unpacked[path] = UnpackedFile(path=path, bytes=one.bytes, sha256=one.sha256, archive=archive)
        if archive in self._manifest.files:
            self._manifest.files[archive] = replace(self._manifest.files[archive], unpacked_to=into)
        self._note()


def _destination(archive: str, rule: Unpack) -> str:
    return rule.into or without_suffix(archive)


def _again(
    entry: Entry,
    folder: Path,
    manifest: Manifest,
    *,
    revision: str | None,
    pinned: Manifest | None,
    progress: Progress,
) -> Fetched:
    """The data set that a finished call left: nothing is fetched, but all files are looked at."""
    where = str(folder)
    _require_same(manifest.name, entry.name, what="the folder holds another data set", where=where)
    if revision is not None and revision != manifest.requested and not manifest.revision.startswith(revision):
        _require_same(manifest.revision, revision, what="the folder holds another revision", where=where)
    contents = manifest.contents()
    for path, (size, _) in contents.items():
        found = folder / path
        if not found.is_file() or found.stat().st_size != size:
            raise DataError(
                "a file of the data set was changed or removed",
                where=str(found),
                expected=f"{size:,} bytes",
                got=f"{found.stat().st_size:,} bytes" if found.is_file() else "no file",
                fix="move the folder away and fetch it again",
            )
    if pinned is not None:
        hashed = {}
        with _bytes_tracked(progress, f"checking {entry.name}", sum(size for size, _ in contents.values())) as advance:
            for path, (size, _) in contents.items():
                hashed[path] = (size, file_sha256(folder / path, advance=advance))
        _require_contents(hashed, pinned.contents())
    return _fetched(entry, folder, manifest, fresh=False)


def _fetched(entry: Entry, folder: Path, manifest: Manifest, *, fresh: bool) -> Fetched:
    root = folder / entry.root if entry.root != "." else folder
    return Fetched(entry=entry, folder=folder, root=root, manifest=manifest, fresh=fresh)


def _pinned_revision(pinned: Manifest, revision: str | None) -> str | None:
    known = revision is None or revision == pinned.requested or pinned.revision.startswith(revision)
    if revision is not None and pinned.revision and not known:
        _require_same(revision, pinned.revision, what="--revision is not that of the manifest", where="--manifest")
    return pinned.revision or revision


def _require_same(found: str, expected: str, *, what: str, where: str) -> None:
    if found != expected:
        raise DataError(
            what,
            where=where,
            expected=expected or "no revision",
            got=found or "no revision",
            fix="choose another folder with --to" if where != "--manifest" else "give the one that belongs together",
        )


def _require_pinned_listing(pinned: Manifest, listing: Listing, *, where: str) -> None:
    """Refuse before anything is fetched what the listing alone shows to be different."""
    there = {file.path: file for file in listing.files}
    for path in sorted(there.keys() ^ pinned.files.keys()):
        raise DataError(
            "the source has other files than the manifest",
            where=f"{path} at {where}",
            expected="a file" if path in pinned.files else "no such file",
            got="a file" if path in there else "no such file",
            fix="ask for the revision of the manifest, or fetch without --manifest and compare",
        )
    for path, file in there.items():
        expected = pinned.files[path]
        kind, _, digits = file.published.partition(":")
        other_size = file.bytes is not None and file.bytes != expected.bytes
        other_sum = kind == "sha256" and digits != expected.sha256
        if other_size or other_sum:
            got = (expected.bytes if file.bytes is None else file.bytes, digits if kind == "sha256" else "unknown")
            raise _not_as_pinned(path, (expected.bytes, expected.sha256), got)


def _require_contents(found: dict[str, tuple[int, str]], expected: dict[str, tuple[int, str]]) -> None:
    for path in sorted(found.keys() | expected.keys()):
        if found.get(path) != expected.get(path):
            raise _not_as_pinned(path, expected.get(path), found.get(path))


def _not_as_pinned(path: str, expected: tuple[int, str] | None, got: tuple[int, str] | None) -> DataError:
    def shown(one: tuple[int, str] | None) -> str:
        return "no such file" if one is None else f"{one[0]:,} bytes, sha256 {one[1]}"

    return DataError(
        "a file differs from the manifest",
        where=path,
        expected=shown(expected),
        got=shown(got),
        fix="it was changed by the publisher, on the way or here: compare with whoever wrote the manifest; do not mix",
    )


def _require_room(entry: Entry, folder: Path, waiting: Sequence[RemoteFile]) -> None:
    """Refuse what does not fit: the files, and what their archives become."""
    fetched = unpacked = 0
    for file in waiting:
        part = partial_path(folder / file.path)
        size = file.bytes or 0
        fetched += max(0, size - (part.stat().st_size if part.is_file() else 0))
        rule = next(
            (one for one in entry.unpack if is_archive(file.path) and fnmatchcase(file.path, one.pattern)), None
        )
        unpacked += int(size * rule.growth) if rule is not None else 0
    if waiting and all(file.bytes is None for file in waiting):
        growth = max((rule.growth for rule in entry.unpack), default=0.0)
        fetched, unpacked = entry.bytes or 0, int((entry.bytes or 0) * growth)
    needed, free = fetched + unpacked + SPARE_BYTES, free_bytes(folder)
    if waiting and needed > free:
        raise RunError(
            "too little room for the data set",
            where=str(folder),
            expected=f"{readable_bytes(needed)} free: {readable_bytes(fetched)} to fetch, about "
            f"{readable_bytes(unpacked)} unpacked, {readable_bytes(SPARE_BYTES)} spare",
            got=f"{readable_bytes(free)} free",
            fix="free some space, or choose a folder on another disk with --to",
        )


def readable_bytes(count: int) -> str:
    """A size such as ``1.2 GB``."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


@contextmanager
def _bytes_tracked(
    progress: Progress, description: str, total: int, *, done: int = 0
) -> Iterator[Callable[[int], None]]:
    """Counts bytes, and shows them in a unit that people read."""
    size, unit = (1_000_000, "MB") if total >= 10_000_000 else (1_000, "kB")
    count, shown = done, done // size
    with progress.track(description, max(total // size, shown), done=shown, unit=unit) as advance:

        def advance_bytes(more: int) -> None:
            nonlocal count, shown
            count += more
            if count // size != shown:
                advance(count // size - shown)
                shown = count // size

        yield advance_bytes


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep a second process out of the folder; the system frees it when this one ends, however it ends."""
    lock = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = lock.open("ab")
    except OSError as error:
        raise unwritable(folder, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(
                "another process fetches into this folder",
                where=str(folder),
                fix="wait until it is done, or choose another folder with --to",
            ) from error
        yield


def _read_if_there(path: Path) -> Manifest | None:
    return read_manifest(path) if path.exists() else None


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
