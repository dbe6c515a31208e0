"""Pictures that lie in no file of their own (inside Parquet, or converted from DICOM), kept once by their content."""

import hashlib
import os
from pathlib import Path

from platformdirs import user_cache_path

from radvqa.data.dicom_codes import is_dicom
from radvqa.data.tables import Row, RowError, shown
from radvqa.errors import DataError
from radvqa.records import unwritable

_SUFFIXES = ((b"\x89PNG\r\n\x1a\n", ".png"), (b"\xff\xd8\xff", ".jpg"), (b"II*\0", ".tif"), (b"MM\0*", ".tif"))


def image_cache() -> Path:
    """The folder under which pictures are kept, in the user's cache folder."""
    return user_cache_path("radvqa") / "images"


def make_private(folder: Path) -> None:
    """Nothing; afterwards the folder is there, and what had to be created is open to the user alone.

    Raises:
        OSError: it cannot be created.
    """
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)


def kept_image(content: bytes, *, cache: Path | None = None) -> Path:
    """The file that holds exactly these bytes, written now unless it is there. Its stem is their SHA-256.

    DICOM is never kept, as its header names the patient: ``radvqa.data.dicom.converted_content`` keeps its picture.

    Raises:
        DataError: the bytes are DICOM.
        RunError: the cache folder is full or not writable.
    """
    if is_dicom(content):
        raise DataError(
            "DICOM is not kept in the image cache",
            expected="a picture such as PNG or JPEG",
            got="DICOM, whose header may name the patient",
            fix="convert it to PNG first, or read it with the adapter own",
        )
    digest = hashlib.sha256(content).hexdigest()
    suffix = next((suffix for magic, suffix in _SUFFIXES if content.startswith(magic)), ".bin")
    path = (cache or image_cache()) / digest[:2] / f"{digest}{suffix}"
    if path.is_file() and path.stat().st_size == len(content):
        return path
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        make_private(path.parent)
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise unwritable(path, error) from error
    return path


def embedded_image(row: Row, key: str) -> Path:
    """The kept file of the picture inside a row: bytes, or the mapping ``{"bytes", "path"}`` of Hugging Face.

    Raises:
        RowError: there is no such key, no bytes under it, or DICOM.
        RunError: like ``kept_image``.
    """
    if row.broken is not None:
        raise row.broken
    if key not in row.values:
        raise RowError("missing_key", f"there is no {key!r}, only {shown(list(row.values))}")
    value = row.values[key]
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes) or not content:
        raise RowError("no_picture", f"{key} should hold the bytes of a picture, got {shown(value)}")
    if is_dicom(content):
        raise RowError("dicom_inside", f"{key} holds DICOM, which is read by the adapter own only")
    return kept_image(content)
