"""Pictures as the model gets them: safe opening, 8-bit RGB, a fixed square, each decoded once for all questions.

Nothing here augments or mirrors: in radiology left and right are part of the answer. Normalisation is the model's.
"""

import hashlib
import json
import logging
import os
import struct
import threading
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path, PureWindowsPath
from typing import NamedTuple, final

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image, ImageOps

from radvqa.errors import DataError, RunError
from radvqa.records import write_bytes

logger = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]

RESAMPLE = Image.Resampling.BICUBIC
WINDOW_PERCENTILES = (0.5, 99.5)
"""The gray values of a 16- or 32-bit picture that become 0 and 255."""

_STORE_LAYOUT = 1
_WIDE_GREY_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I", "F"})
# What Pillow's decoders raise for bytes that are not a whole, sound picture.
_DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    zlib.error,
)


def path_inside(root: Path, relative: str) -> Path:
    """The path ``root / relative``, which is sure to lie inside ``root`` even after following symbolic links.

    The file need not exist. Both slash and backslash count as separators, so a table written on Windows cannot
    smuggle a ``..`` past this check.

    Raises:
        DataError: ``relative`` is empty or absolute, contains ``..``, or leaves ``root`` through a symbolic link.
    """
    foreign = PureWindowsPath(relative)  # knows drives, and both separators
    if not relative.strip() or "\0" in relative:
        raise _outside(root, relative, "an empty path" if "\0" not in relative else "a path with a null character")
    if foreign.drive or foreign.root:
        raise _outside(root, relative, "an absolute path")
    if ".." in foreign.parts:
        raise _outside(root, relative, "a path with '..'")
    path = root / relative
    _require_inside(path, root)
    return path


def open_image(path: Path, *, root: Path | None = None) -> Image.Image:
    """The first frame of a picture as 8-bit RGB, turned upright by its EXIF orientation.

    Gray, palette, CMYK and 1-bit pictures are converted; an alpha channel is dropped, not blended. Gray pictures of
    more than 8 bits go through ``window_to_8_bit``, because Pillow's own conversion clips them at 255.

    Args:
        path: the picture file.
        root: if given, the file must lie inside this folder after following symbolic links.

    Raises:
        DataError: the file is missing, outside ``root``, truncated, undecodable or larger than Pillow's limit
            against decompression bombs.
    """
    if root is not None:
        _require_inside(path, root)
    return _to_rgb(_decode(_read_bytes(path), path), path)


def open_unconverted(path: Path) -> Image.Image:
    """The first frame of a picture with its stored mode and values, for label masks. Raises like ``open_image``."""
    return _decode(_read_bytes(path), path)


def window_to_8_bit(values: npt.NDArray[np.generic]) -> Pixels:
    """Gray values (any shape) mapped linearly to 0…255 between their own 0.5th and 99.5th percentiles.

    Values outside the window are clipped; results are rounded. If the two percentiles coincide (a tiny object on an
    even ground) the window is minimum to maximum; an even picture becomes 0 everywhere. The window is the picture's
    own: it shows the content whatever the bit depth, but absolute units (Hounsfield) are not preserved.
    """
    gray = values.astype(np.float64)
    low, high = np.percentile(gray, WINDOW_PERCENTILES)
    if high <= low:
        low, high = gray.min(), gray.max()
    if high <= low:
        return np.zeros(gray.shape, dtype=np.uint8)
    scaled: npt.NDArray[np.float64] = np.clip((gray - low) / (high - low), 0.0, 1.0) * 255.0
    return np.rint(scaled).astype(np.uint8)


def squash(image: Image.Image, size: int) -> Pixels:
    """The picture as ``(size, size, 3)`` uint8, resized to a square; **the aspect ratio is not kept**.

    This is what PaliGemma was trained with (Beyer et al., arXiv 2407.07726, 2024). Pillow's bicubic filter, which is
    anti-aliased when it shrinks, gives the bytes of the stock ``SiglipImageProcessor`` with Pillow backend.
    Scaling to [-1, 1] is left to the model.
    """
    return np.array(image.convert("RGB").resize((size, size), resample=RESAMPLE), dtype=np.uint8)


class _Entry(NamedTuple):
    """One picture of a store: its path as given, the sha256 of its bytes, its row in the array."""

    path: str
    sha256: str
    row: int


@final
class ImageStore:
    """Every distinct picture of a data set, decoded and squashed once, in one memory-mapped array.

    On disk: ``images-<key>.npy``, uint8 ``(pictures, size, size, 3)``, and ``images-<key>.json`` that says which
    path is which row. Files with equal bytes share a row. The key covers everything the pixels depend on, so a
    changed picture, size or Pillow version gives another store and never stale pixels.
    """

    def __init__(self, key: str, pixels: npt.NDArray[np.uint8], entries: Sequence[_Entry]) -> None:
        self.key = key
        self._pixels = pixels
        self._entries = {entry.path: entry for entry in entries}

    @staticmethod
    def build(
        paths: Sequence[Path],
        *,
        size: int,
        cache: Path,
        progress: Callable[[int, int], None] | None = None,
        workers: int = 2,
    ) -> "ImageStore":
        """The store of ``paths``: opened if ``cache`` holds it intact, otherwise built.

        A reader never sees half a store: the array is written beside its place and renamed, the index last. A damaged
        store (wrong length or checksum, index that does not fit) is built again, with a logged warning.

        Args:
            paths: picture files; repeated paths count once.
            size: side of the square in pixels.
            cache: folder of the store; made if needed.
            progress: called with (pictures done, pictures in all) in the calling thread.
            workers: decoding threads; Pillow releases the interpreter lock while it decodes and resizes.

        Raises:
            DataError: there are no paths, or some pictures cannot be read: all are tried, then reported in one error.
            RunError: ``cache`` is full or not writable.
        """
        if size < 1 or workers < 1:
            raise ValueError(f"size and workers must be at least 1, got {size} and {workers}")
        names = sorted({str(path) for path in paths})
        if not names:
            raise DataError(
                "there are no pictures to store",
                expected="at least one image path",
                fix="check that the data set's images are in place: its samples may all have been rejected",
            )
        with ThreadPoolExecutor(workers) as pool:
            digests = list(pool.map(_digest, names))
            failures = {name: got for name, got in zip(names, digests, strict=True) if isinstance(got, DataError)}
            readable = [(name, got) for name, got in zip(names, digests, strict=True) if isinstance(got, str)]
            entries = _number_rows(readable)
            key = _store_key(entries, size)
            files = _StoreFiles(cache / f"images-{key[:32]}.npy", cache / f"images-{key[:32]}.json", key)
            if not failures:
                store = files.open(entries, size)
                if store is None:
                    files.write(entries, size, pool, progress)
                    store = ImageStore(key, np.load(files.array, mmap_mode="r"), entries)
                elif progress is not None:
                    progress(len(store), len(store))
                return store
            # The store cannot be built, but the user should hear of every bad picture at once.
            pictures = pool.map(partial(_try_picture, size=size), _first_of_each_row(entries))
            bad_rows = {row: got for row, got in enumerate(pictures) if isinstance(got, DataError)}
            failures |= _failures_by_path(bad_rows, entries)
        raise _unreadable(failures, len(names))

    def __len__(self) -> int:
        """The number of distinct pictures (rows)."""
        return len(self._pixels)

    def pixels(self, path: Path) -> Pixels:
        """The squashed picture of ``path``: an own, writable copy, uint8 ``(size, size, 3)``.

        Raises:
            KeyError: ``path`` was not among the paths the store was built from.
        """
        return np.array(self._pixels[self._entries[str(path)].row])

    def sha256(self, path: Path) -> str:
        """The hexadecimal SHA-256 of the picture file's bytes. Raises ``KeyError`` like ``pixels``."""
        return self._entries[str(path)].sha256

    def digest(self, paths: Sequence[Path]) -> str:
        """One SHA-256 over these picture files' bytes in this order, wherever they lie."""
        return hashlib.sha256("".join(map(self.sha256, paths)).encode("ascii")).hexdigest()


@dataclass(frozen=True, slots=True)
class _StoreFiles:
    """The two files of one store. The index is written last: without it there is no store."""

    array: Path
    index: Path
    key: str

    def open(self, entries: Sequence[_Entry], size: int) -> ImageStore | None:
        """The stored pictures, or None (with a logged warning if there is something, but damaged)."""
        if not self.array.exists() and not self.index.exists():
            return None
        damage = self._damage(entries, size)
        if damage is not None:
            logger.warning("image store %s is damaged (%s); building it again", self.array, damage)
            return None
        return ImageStore(self.key, np.load(self.array, mmap_mode="r"), entries)

    def _damage(self, entries: Sequence[_Entry], size: int) -> str | None:
        """What is wrong with the files, or None if they hold exactly ``entries``."""
        try:
            index = json.loads(self.index.read_bytes())
            actual = _file_sha256(self.array)
            length = self.array.stat().st_size
        except (OSError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        if not isinstance(index, dict) or index.get("key") != self.key:
            return "the index does not carry the key of this store"
        if index.get("images") != [entry._asdict() for entry in entries]:
            return "the index does not list these pictures"
        expected = len(_array_header(_rows(entries), size)) + _rows(entries) * size * size * 3
        if length != expected:
            return f"the array file has {length} bytes instead of {expected}"
        if index.get("array_sha256") != actual:
            return "the checksum of the array file is wrong"
        return None

    def write(
        self,
        entries: Sequence[_Entry],
        size: int,
        pool: ThreadPoolExecutor,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        """Decode every row and put both files in their place. Raises like ``ImageStore.build``."""
        sources = _first_of_each_row(entries)
        bad_rows: dict[int, DataError] = {}
        # Plain writes, not a writable memory map: a full disk is then an OSError and not a killed process.
        # The name is unique, so that two runs may build the same store at the same time.
        unfinished = self.array.with_name(f".{self.array.name}.{os.getpid()}-{threading.get_ident()}.partial")
        checksum = hashlib.sha256()
        try:
            self.array.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                header = _array_header(len(sources), size)
                file.write(header)
                checksum.update(header)
                pictures = pool.map(partial(_try_picture, size=size), sources)
                for row, got in enumerate(pictures):
                    if isinstance(got, DataError):
                        bad_rows[row] = got
                    elif not bad_rows:
                        file.write(got.data)
                        checksum.update(got.data)
                    if progress is not None:
                        progress(row + 1, len(sources))
                file.flush()
                os.fsync(file.fileno())
            if bad_rows:
                raise _unreadable(_failures_by_path(bad_rows, entries), len(entries))
            unfinished.replace(self.array)
        except OSError as error:
            raise RunError(
                "cannot write the image store",
                where=str(self.array),
                expected=f"a writable folder with {len(sources) * size * size * 3 / 2**20:.0f} MiB of free space",
                got=error.strerror or str(error),
                fix="free some space or choose another cache folder; the store is built again at the next start",
            ) from error
        finally:
            with suppress(OSError):  # it was renamed, was never made, or the folder is the problem reported above
                unfinished.unlink()
        index = {
            "key": self.key,
            "size": size,
            "resample": RESAMPLE.name,
            "pillow": PIL.__version__,
            "array_sha256": checksum.hexdigest(),
            "images": [entry._asdict() for entry in entries],
        }
        # Escaped to ASCII, because a file name need not be valid Unicode.
        write_bytes(self.index, json.dumps(index, indent=1).encode("ascii"))


def _number_rows(readable: Sequence[tuple[str, str]]) -> list[_Entry]:
    """One entry per path, in path order; equal bytes get the row of their first path."""
    rows: dict[str, int] = {}
    return [_Entry(name, digest, rows.setdefault(digest, len(rows))) for name, digest in readable]


def _rows(entries: Sequence[_Entry]) -> int:
    return len({entry.row for entry in entries})


def _first_of_each_row(entries: Sequence[_Entry]) -> list[_Entry]:
    first: dict[int, _Entry] = {}
    for entry in entries:
        first.setdefault(entry.row, entry)
    return [first[row] for row in sorted(first)]


def _store_key(entries: Sequence[_Entry], size: int) -> str:
    content = {
        "layout": _STORE_LAYOUT,
        "images": [(entry.path, entry.sha256) for entry in entries],
        "size": size,
        "resample": RESAMPLE.name,
        "window_percentiles": WINDOW_PERCENTILES,
        "pillow": PIL.__version__,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("ascii")).hexdigest()


def _array_header(rows: int, size: int) -> bytes:
    """The bytes before the data of an .npy file of shape (rows, size, size, 3) and type uint8."""
    buffer = BytesIO()
    description = {"descr": "|u1", "fortran_order": False, "shape": (rows, size, size, 3)}
    np.lib.format.write_array_header_1_0(buffer, description)
    return buffer.getvalue()


def _digest(name: str) -> str | DataError:
    try:
        return hashlib.sha256(_read_bytes(Path(name))).hexdigest()
    except DataError as error:
        return error


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _try_picture(entry: _Entry, *, size: int) -> Pixels | DataError:
    """The squashed picture, or the error, so that one bad file does not hide the others."""
    path = Path(entry.path)
    try:
        content = _read_bytes(path)
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise DataError("the image file changed while it was read", where=str(path), fix="start again")
        return squash(_to_rgb(_decode(content, path), path), size)
    except DataError as error:
        return error


def _failures_by_path(bad_rows: dict[int, DataError], entries: Sequence[_Entry]) -> dict[str, DataError]:
    return {entry.path: bad_rows[entry.row] for entry in entries if entry.row in bad_rows}


def _unreadable(failures: dict[str, DataError], total: int) -> DataError:
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


def _read_bytes(path: Path) -> bytes:
    try:
        if path.is_file():
            return path.read_bytes()
        got = "a folder or special file" if path.exists() else "nothing there"
    except OSError as error:
        raise DataError(
            "image file cannot be read",
            where=str(path),
            expected="a file you may read",
            got=error.strerror or str(error),
            fix="check the file's permissions and the disk",
        ) from error
    raise DataError(
        "image file not found",
        where=str(path),
        expected="an image file",
        got=got,
        fix="check the path, or fetch the image again from the data set's source",
    )


def _decode(content: bytes, path: Path) -> Image.Image:
    """The first frame, fully decoded, in its stored mode."""
    try:
        with Image.open(BytesIO(content)) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise _bomb(path, f"{image.width} x {image.height} pixels")
            image.load()
            return image.copy()
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise _bomb(path, str(error)) from error
    except _DECODE_ERRORS as error:
        raise _undecodable(path, error) from error


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode in _WIDE_GREY_MODES:
            values = np.asarray(upright)
            if not np.isfinite(values).all():
                raise DataError(
                    "the image holds values that are not numbers",
                    where=str(path),
                    expected="finite gray values",
                    got=f"{int((~np.isfinite(values)).sum())} NaN or infinite pixels",
                    fix="export the picture again, best as 8- or 16-bit PNG",
                )
            return Image.fromarray(window_to_8_bit(values)).convert("RGB")
        if upright.mode == "P" and "transparency" in upright.info:
            upright = upright.convert("RGBA")  # Pillow warns if palette transparency is dropped in one step
        return upright.convert("RGB")
    except _DECODE_ERRORS as error:
        raise _undecodable(path, error) from error


def _undecodable(path: Path, error: Exception) -> DataError:
    return DataError(
        "image file is truncated or cannot be decoded",
        where=str(path),
        expected="a whole image file in a format Pillow reads (JPEG, PNG, TIFF, BMP, ...)",
        got=str(error) or type(error).__name__,
        fix="fetch the file again from the data set's source, or convert it to PNG",
    )


def _bomb(path: Path, got: str) -> DataError:
    return DataError(
        "image is too large to be decoded safely",
        where=str(path),
        expected=f"at most {Image.MAX_IMAGE_PIXELS} pixels",
        got=got,
        fix="check where the file comes from; if it is genuine, shrink it first",
    )


def _require_inside(path: Path, root: Path) -> None:
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name too long, a null character
        raise _outside(root, str(path), str(error)) from error
    if not inside:
        raise _outside(root, str(path), f"a path that leads to {path.resolve()}")


def _outside(root: Path, path: str, got: str) -> DataError:
    return DataError(
        "path leaves the data folder",
        where=repr(path),
        expected=f"a relative path inside {root}, also after following symbolic links",
        got=got,
        fix="correct the path in the table, or copy the file into the data folder instead of linking it",
    )
