"""Pictures as the model gets them, each decoded once for all questions, runs and data sets."""

import hashlib
import json
import logging
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple, final

import numpy as np
import PIL

from radvqa.data.imaging import (
    CONVERSION,
    RESAMPLE,
    WINDOW_PERCENTILES,
    Pixels,
    as_rgb,
    fit_channels,
    open_content,
    read_picture_file,
)
from radvqa.errors import DataError, RunError
from radvqa.recipe import Aspect
from radvqa.run.engine import Engine, LocalEngine

logger = logging.getLogger(__name__)

_LAYOUT = 2
_PICTURES_PER_SEGMENT = 64
_ABANDONED_SECONDS = 24 * 3600


class _Row(NamedTuple):
    """Where the pixels of one picture lie, of 1 channel (gray) or 3, and their checksum."""

    segment: str
    offset: int
    channels: int
    crc32: int


class _Place(NamedTuple):
    """One picture file as it was read: its path as given, the sha256 of its bytes, where its pixels lie."""

    path: str
    sha256: str
    row: _Row


@final
class ImageStore:
    """Pictures decoded and brought to the model's square, on disk, by the content of their files.

    On disk: a folder for each size, aspect policy, Pillow version and version of the conversion, so that stale pixels
    are never met. In it segments of up to 64 pictures, each written once: ``<name>.pixels`` holds their pixels one
    after the other, uint8 ``(size, size, 3)``, or ``(size, size)`` where all channels are equal; ``<name>.json``,
    written last, lists the sha256 of each picture file, its number of channels and the CRC-32 of its pixels. Equal
    files share a row, and so do data sets.

    Rows are read from the file one at a time, so memory hardly grows with the corpus.
    """

    def __init__(self, segments: "_Segments", places: Iterable[_Place]) -> None:
        self._segments = segments
        self._places = {place.path: place for place in places}

    @staticmethod
    def build(
        paths: Sequence[Path],
        *,
        size: int,
        cache: Path,
        aspect: Aspect = "squash",
        engine: Engine | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> "ImageStore":
        """The store of ``paths``. Every file is read once; pictures that ``cache`` does not hold are added to it.

        A reader never sees half a segment. What an interrupted build has finished is used by the next one. A damaged
        segment is left out with a logged warning, and its pictures are decoded again.

        Args:
            paths: picture files; repeated paths count once.
            size: side of the square in pixels.
            cache: folder of the store; made if needed.
            aspect: how pictures that are no squares become some; see ``radvqa.data.imaging.fit``.
            engine: where to decode; worker processes on this machine, if None.
            progress: called with (pictures done, pictures in all) in the calling thread.

        Raises:
            DataError: there are no paths, or some pictures cannot be read: all are tried, then reported in one error.
            RunError: ``cache`` is full or not writable, or a worker died.
        """
        if size < 1:
            raise ValueError(f"size must be at least 1, got {size}")
        names = sorted({str(path) for path in paths})
        if not names:
            raise DataError(
                "there are no pictures to store",
                expected="at least one image path",
                fix="check that the data set's images are in place: its samples may all have been rejected",
            )
        segments = _Segments(cache, size, aspect)
        segments.make_folder()
        ingest = _Ingest(segments, build=uuid.uuid4().hex)
        rows: dict[str, _Row] = {}
        places: list[_Place] = []
        failures: dict[str, DataError] = {}
        done = 0
        for some in (engine or LocalEngine()).map(ingest, _chunks(names), group=1):
            for name, found in some:
                if isinstance(found, DataError):
                    failures[name] = found
                else:
                    # Two workers may have decoded equal files at the same time.
                    places.append(found._replace(row=rows.setdefault(found.sha256, found.row)))
            done += len(some)
            if progress is not None:
                progress(done, len(names))
        if failures:
            raise _unreadable(failures, len(names))
        return ImageStore(segments, places)

    def __len__(self) -> int:
        """The number of distinct pictures."""
        return len({place.row for place in self._places.values()})

    @property
    def size(self) -> int:
        """Side of the square in pixels."""
        return self._segments.size

    @property
    def aspect(self) -> Aspect:
        """How pictures that are no squares became some."""
        return self._segments.aspect

    @property
    def variant(self) -> Mapping[str, object]:
        """All that the pixels depend on, beside the bytes of the picture file."""
        return self._segments.variant

    def part(self, paths: Sequence[Path]) -> "ImageStore":
        """The same store knowing these paths only: small enough to send to a worker. Raises ``KeyError``."""
        return ImageStore(self._segments, [self._places[str(path)] for path in paths])

    def pixels(self, path: Path) -> Pixels:
        """The picture of ``path`` as the model gets it: an own, writable array, uint8 ``(size, size, 3)``.

        A row that is gone or whose checksum is wrong is decoded again from ``path`` and mended, with a logged warning.

        Raises:
            KeyError: ``path`` was not among the paths the store was built from.
            DataError: the row is damaged, and the file is gone or was changed.
        """
        place = self._places[str(path)]
        stored = self._segments.read(place.row)
        if stored is not None:
            return stored
        logger.warning("the stored picture of %s is damaged; decoding it again", path)
        return np.array(self._segments.mend(place))

    def sha256(self, path: Path) -> str:
        """The hexadecimal SHA-256 of the picture file's bytes. Raises ``KeyError`` like ``pixels``."""
        return self._places[str(path)].sha256

    def digest(self, paths: Sequence[Path]) -> str:
        """One SHA-256 over these picture files' bytes in this order, wherever they lie."""
        return hashlib.sha256("".join(map(self.sha256, paths)).encode("ascii")).hexdigest()


@dataclass(frozen=True, slots=True)
class _Segments:
    """The files of one size, aspect policy and conversion."""

    cache: Path
    size: int
    aspect: Aspect

    @property
    def folder(self) -> Path:
        digest = hashlib.sha256(json.dumps(self.variant, sort_keys=True).encode("ascii")).hexdigest()
        return self.cache / f"{self.size}px-{self.aspect}-{digest[:16]}"

    @property
    def variant(self) -> dict[str, object]:
        """All that the pixels depend on, beside the bytes of the picture file."""
        return {
            "layout": _LAYOUT,
            "size": self.size,
            "aspect": self.aspect,
            "resample": RESAMPLE.name,
            "window_percentiles": list(WINDOW_PERCENTILES),
            "conversion": CONVERSION,
            "pillow": PIL.__version__,
        }

    def make_folder(self) -> None:
        """Make the folder, and remove what killed processes have left unfinished in it long ago."""
        with self.writing():
            self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob(".*.partial"):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    path.unlink()

    def catalogue(self) -> dict[str, _Row]:
        """The row of every stored picture by the sha256 of its file. Damaged segments are removed, with a warning."""
        rows: dict[str, _Row] = {}
        for index in sorted(self.folder.glob("*.json")):
            try:
                listed = self._listed(index)
            except (OSError, ValueError) as error:
                logger.warning("segment %s of the image store is damaged (%s); leaving it out", index, error)
                for path in (index, index.with_suffix(".pixels")):
                    with suppress(OSError):
                        path.unlink()
                continue
            for sha256, row in listed.items():
                rows.setdefault(sha256, row)
        return rows

    def _listed(self, index: Path) -> dict[str, _Row]:
        """The rows of one segment. Raises ``ValueError`` or ``OSError`` for damaged files."""
        content = json.loads(index.read_bytes())
        if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
            raise ValueError("the index lists no rows")
        if content.get("variant") != self.variant or content.get("checksum") != _checksum(content["rows"]):
            raise ValueError("the checksum of the index is wrong, or it is of other pixels")
        rows: dict[str, _Row] = {}
        offset = 0
        for sha256, channels, crc32 in content["rows"]:
            rows[sha256] = _Row(index.stem, offset, channels, crc32)
            offset += self.size * self.size * channels
        actual = index.with_suffix(".pixels").stat().st_size
        if actual != offset:
            raise ValueError(f"{actual} bytes of pixels instead of {offset}")
        return rows

    def read(self, row: _Row) -> Pixels | None:
        """The pixels of one row, or None if they are not what was written."""
        content = bytearray(self.size * self.size * row.channels)
        try:
            # Not through a memory map: a broken disk is then an error and not a killed process.
            with (self.folder / f"{row.segment}.pixels").open("rb", buffering=0) as file:
                file.seek(row.offset)
                length = file.readinto(content)
        except OSError:
            return None
        if length != len(content) or zlib.crc32(content) != row.crc32:
            return None
        shape = (self.size, self.size) if row.channels == 1 else (self.size, self.size, row.channels)
        return as_rgb(np.frombuffer(content, dtype=np.uint8).reshape(shape))

    def mend(self, place: _Place) -> Pixels:
        """The pixels of one picture, decoded again and put into their row."""
        path = Path(place.path)
        content = read_picture_file(path)
        if hashlib.sha256(content).hexdigest() != place.sha256:
            raise DataError(
                "the image file was changed while it was in use",
                where=str(path),
                expected=f"sha256 {place.sha256}",
                fix="put the file back, or start again for the new one",
            )
        pixels = self.decoded(content, path)
        # Every process would write the same bytes here. If none can be written, the next read decodes once more.
        with suppress(OSError), (self.folder / f"{place.row.segment}.pixels").open("r+b") as file:
            file.seek(place.row.offset)
            file.write(pixels.data)
        return as_rgb(pixels)

    def decoded(self, content: bytes, path: Path) -> Pixels:
        """The picture in a file's bytes, brought to the square: one channel if it is gray, also when coded as RGB."""
        image, _ = open_content(content, path, keep_gray=True)
        pixels = fit_channels(image, self.size, aspect=self.aspect)
        return np.ascontiguousarray(pixels[..., 0]) if pixels.ndim == 3 and _is_gray(pixels) else pixels

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn a failure to write into the error that says what to do."""
        try:
            yield
        except OSError as error:
            raise RunError(
                "cannot write the image store",
                where=str(self.folder),
                expected=f"a writable folder with {3 * self.size**2 / 2**20:.2g} MiB of free space for each picture",
                got=error.strerror or str(error),
                fix="free some space or choose another cache folder; the store is completed at the next start",
            ) from error


@final
class _NewSegment:
    """A segment that is being written. Its files are made when the first row comes."""

    def __init__(self, segments: _Segments) -> None:
        self.name = uuid.uuid4().hex
        self._segments = segments
        self._file: BinaryIO | None = None
        self._rows: list[tuple[str, int, int]] = []
        self._bytes = 0

    def add(self, sha256: str, pixels: Pixels) -> _Row:
        """Write one row."""
        with self._segments.writing():
            if self._file is None:
                self._file = self._unfinished(".pixels").open("wb")
            self._file.write(pixels.data)
        row = _Row(self.name, self._bytes, 1 if pixels.ndim == 2 else 3, zlib.crc32(pixels.data))
        self._rows.append((sha256, row.channels, row.crc32))
        self._bytes += pixels.nbytes
        return row

    def finish(self) -> None:
        """Put both files into their places, the index last.

        Nothing waits for the disk: what a power failure leaves unwritten is found by its checksum and decoded again.
        """
        if self._file is None:
            return
        with self._segments.writing():
            self._file.close()
            index = {"variant": self._segments.variant, "checksum": _checksum(self._rows), "rows": self._rows}
            self._unfinished(".json").write_text(json.dumps(index), encoding="ascii")
            for suffix in (".pixels", ".json"):
                self._unfinished(suffix).replace(self._segments.folder / f"{self.name}{suffix}")

    def discard(self) -> None:
        """Remove what is unfinished."""
        if self._file is not None:
            for suffix in (".pixels", ".json"):
                with suppress(OSError):  # the folder is the problem that is reported already
                    self._file.close()
                    self._unfinished(suffix).unlink(missing_ok=True)

    def _unfinished(self, suffix: str) -> Path:
        return self._segments.folder / f".{self.name}{suffix}.partial"


@dataclass(frozen=True, slots=True)
class _Ingest:
    """Brings some pictures into the store: what a worker does. ``build`` names the build it belongs to."""

    segments: _Segments
    build: str

    def __call__(self, names: list[str]) -> list[tuple[str, _Place | DataError]]:
        """Where each picture lies, or what is wrong with its file, so that one bad file does not hide the others."""
        stored = _stored(self.segments, self.build)
        new = _NewSegment(self.segments)
        try:
            fresh: dict[str, _Row] = {}
            found = [(name, self._place(name, stored, fresh, new)) for name in names]
            new.finish()
        finally:
            new.discard()
        return found

    def _place(
        self, name: str, stored: Mapping[str, _Row], fresh: dict[str, _Row], new: _NewSegment
    ) -> _Place | DataError:
        path = Path(name)
        try:
            content = read_picture_file(path)
            sha256 = hashlib.sha256(content).hexdigest()
            row = stored.get(sha256) or fresh.get(sha256)
            if row is None:
                row = fresh[sha256] = new.add(sha256, self.segments.decoded(content, path))
        except DataError as error:
            return error
        return _Place(name, sha256, row)


@lru_cache(maxsize=1)
def _stored(segments: _Segments, build: str) -> Mapping[str, _Row]:
    """The catalogue at the start of one build: every process reads it once."""
    return segments.catalogue()


def _is_gray(pixels: Pixels) -> bool:
    """Whether the channels are equal. The first look at few pixels is enough for most pictures in colour."""
    return all(
        np.array_equal(some[..., 0], some[..., other]) for some in (pixels[::16, ::16], pixels) for other in (1, 2)
    )


def _checksum(rows: Sequence[Sequence[object]]) -> int:
    return zlib.crc32(json.dumps(rows).encode("ascii"))


def _chunks(names: Sequence[str]) -> Iterator[list[str]]:
    rest = iter(names)
    while some := list(islice(rest, _PICTURES_PER_SEGMENT)):
        yield some


def _unreadable(failures: Mapping[str, DataError], total: int) -> DataError:
    if len(failures) == 1:
        return next(iter(failures.values()))
    named = [f"{name} ({error.what})" for name, error in sorted(failures.items())[:5]]
    more = f" and {len(failures) - 5} more" if len(failures) > 5 else ""
    return DataError(
        f"{len(failures)} of {total} image files cannot be read",
        where="; ".join(named) + more,
        expected="whole image files in a format Pillow reads",
        fix="fetch these files again from the data set's source, or remove their rows",
    )
