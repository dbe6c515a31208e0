"""Bundles on disk: written whole or not at all, read array by array, damaged or moved ones refused.

Nothing here loads torch or a model. Names of files and folders are made of hash digits, never of texts of a data set.
"""

import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from radvqa.errors import RunError
from radvqa.explain.bundle import SCHEMA, CaseLine, Manifest
from radvqa.records import read_json, read_records, unwritable, write_bytes, write_records, write_text

MANIFEST_FILE, ARRAYS_FILE, IMAGE_FILE = "manifest.json", "arrays.safetensors", "image.png"
CASES_FILE, CASES_FOLDER = "cases.jsonl", "cases"

PIXELS = "image/pixels"
"""The picture among the arrays, uint8 (y, x) or (y, x, 3); on disk it is ``image.png``, which loses nothing."""

VALUES = "image/values"
"""What the source held, float32 (y, x), in the unit that the manifest's picture names."""

_KEY = re.compile(r"[a-z0-9-]{1,40}")
_ARRAY_AXES = {"attention": "TLHrc", "attention_scale": "TLH", "image_mass": "TLH", "image_to_prompt": "Lrcp"}
_AGAIN = "explain the case again"


def case_key(sample_id: str) -> str:
    """The name of a case in addresses and folders: 16 hex digits, whatever the sample is called."""
    return hashlib.sha256(sample_id.encode("utf-8", errors="backslashreplace")).hexdigest()[:16]


def case_folder(explained: Path, key: str) -> Path:
    """Where the bundle of a case lies in a folder with ``cases.jsonl``.

    Raises:
        RunError: the key could lead out of that folder.
    """
    if _KEY.fullmatch(key) is None:
        raise RunError(
            "this is no name of a case",
            where=str(explained),
            expected="lower-case letters, digits and hyphens, at most 40",
            got=repr(key)[:80],
            fix="take a key of cases.jsonl",
        )
    return explained / CASES_FOLDER / key


def write_bundle(folder: Path, manifest: Manifest, arrays: Mapping[str, np.ndarray]) -> Manifest:
    """Write a case in one step, in place of an older one; returns the manifest with the SHA-256 of every file.

    Args:
        folder: its name is the manifest's key.
        manifest: ``files`` is filled in here.
        arrays: see ``radvqa.explain.bundle``, and ``PIXELS``.

    Raises:
        RunError: the folder's name is not the key, an array has another shape than the manifest says, or the disk is
            full or read-only. An older bundle stays.
    """
    _require_name(folder, manifest.key)
    for name, array in arrays.items():
        _require_shape(manifest, name, array.shape, where=folder)
    numbers = {name: np.ascontiguousarray(array) for name, array in arrays.items() if name != PIXELS}
    contents = {ARRAYS_FILE: save(numbers)}
    if PIXELS in arrays:
        contents[IMAGE_FILE] = _png(arrays[PIXELS])
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    manifest = replace(manifest, files=digests)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    older = folder.with_name(f".{folder.name}.{os.getpid()}.older")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        for name, content in contents.items():
            write_bytes(partial / name, content)
        # Browsers read no NaN: an undefined number is None.
        write_text(partial / MANIFEST_FILE, json.dumps(asdict(manifest), ensure_ascii=False, indent=1, allow_nan=False))
        if folder.exists():
            folder.rename(older)
        partial.rename(folder)
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if not folder.exists() and older.exists():
            older.rename(folder)
        shutil.rmtree(older, ignore_errors=True)
    return manifest


@final
class Bundle:
    """One case on disk. Arrays are read when they are asked for; every file is checked at its first use.

    ``array_names`` are all but the picture, which is ``pixels`` as an array and ``picture`` as the PNG's bytes.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.manifest = manifest

    def __contains__(self, name: str) -> bool:
        return name in self.array_names

    @cached_property
    def array_names(self) -> tuple[str, ...]:
        """Names of the arrays. Raises ``RunError`` like ``array``."""
        return tuple(sorted(self._opened.keys()))

    def array(self, name: str) -> np.ndarray:
        """One array.

        Raises:
            RunError: there is no such array, the file is not the one that was written, or the shape is not that of
                the manifest.
        """
        if name not in self.array_names:
            raise RunError(
                "the bundle has no such array",
                where=str(self.folder),
                expected=", ".join(self.array_names),
                got=repr(name)[:80],
                fix=_AGAIN,
            )
        found: np.ndarray = self._opened.get_tensor(name)
        _require_shape(self.manifest, name, found.shape, where=self.folder)
        return found

    @cached_property
    def picture(self) -> bytes:
        """The PNG. Raises ``RunError`` if it is missing or not the one that was written."""
        return _checked(self.folder, self.manifest, IMAGE_FILE)

    @property
    def pixels(self) -> np.ndarray:
        """The picture, uint8 (y, x) or (y, x, 3)."""
        with Image.open(io.BytesIO(self.picture)) as image:
            return np.asarray(image)

    @cached_property
    def _opened(self) -> Any:
        _checked(self.folder, self.manifest, ARRAYS_FILE)
        try:
            return safe_open(self.folder / ARRAYS_FILE, framework="np")
        except SafetensorError as error:
            raise RunError(
                "the arrays of this case cannot be read", where=str(self.folder), got=str(error), fix=_AGAIN
            ) from error


def read_bundle(folder: Path) -> Bundle:
    """Open a case; its arrays are read later.

    Raises:
        RunError: there is none, it is damaged or of another version, or it lies under another name than its own.
    """
    path = folder / MANIFEST_FILE
    manifest = read_json(path, Manifest)
    if manifest is None:
        raise RunError(
            "there is no such case", where=str(folder), expected=f"a folder with {MANIFEST_FILE}", fix=_AGAIN
        )
    if manifest.schema != SCHEMA:
        raise RunError(
            "the case was written by another version",
            where=str(path),
            expected=f"schema {SCHEMA}",
            got=str(manifest.schema),
            fix=_AGAIN,
        )
    _require_name(folder, manifest.key)
    if unknown := sorted(manifest.files.keys() - {ARRAYS_FILE, IMAGE_FILE}):
        raise RunError(
            "the manifest names files that a case does not have", where=str(path), got=repr(unknown[0])[:80], fix=_AGAIN
        )
    return Bundle(folder, manifest)


def is_whole(bundle: Bundle) -> bool:
    """Whether picture and arrays are there, and are the ones that were written."""
    try:
        return bool(bundle.array_names and bundle.picture)
    except RunError:
        return False


def write_cases(explained: Path, lines: Sequence[CaseLine]) -> None:
    """Replace the list of cases in one step. Raises ``RunError`` if it cannot be written."""
    write_records(explained / CASES_FILE, lines)


def read_cases(explained: Path) -> list[CaseLine]:
    """The list of cases of a folder; empty where there is none.

    Raises:
        DataError: a line is not valid.
        RunError: a line leads to anywhere but its own folder.
    """
    path = explained / CASES_FILE
    lines = read_records(path, CaseLine) if path.is_file() else []
    for line in lines:
        if case_folder(explained, line.key) != explained / line.folder:
            raise RunError(
                "a line of the list leads to another folder than its own",
                where=f"{path}, key {line.key}",
                expected=f"{CASES_FOLDER}/{line.key}",
                got=repr(line.folder)[:80],
                fix=_AGAIN,
            )
    return lines


def _require_name(folder: Path, key: str) -> None:
    if _KEY.fullmatch(key) is None or folder.name != key:
        raise RunError(
            "a case lies in the folder that its key names",
            where=str(folder),
            expected=repr(folder.name),
            got=repr(key)[:80],
            fix=_AGAIN,
        )


def _require_shape(manifest: Manifest, name: str, shape: tuple[int, ...], *, where: Path) -> None:
    expected = _expected_shape(manifest, name)
    if (shape[:2] if name == PIXELS and shape[2:] in ((), (3,)) else shape) != expected:
        raise RunError(
            "an array does not fit the manifest of its case",
            where=f"{where}, {name[:80]!r}",
            expected="no such array" if expected is None else " x ".join(map(str, expected)),
            got=" x ".join(map(str, shape)),
            fix=_AGAIN,
        )


def _expected_shape(manifest: Manifest, name: str) -> tuple[int, ...] | None:
    """What the manifest says of an array's shape (of the picture: its height and width); None where there is none."""
    picture = manifest.picture
    if name in (PIXELS, VALUES):
        return (picture.height, picture.width)
    view_name, _, rest = name.partition("/")
    view = manifest.views.get(view_name)
    if view is None:
        return None
    rows, columns = manifest.grid
    answer = sum(token.part == "answer" for token in view.tokens)
    if rest.startswith("maps/"):
        known = {record.method for record in view.maps}
        return (answer + 1, rows, columns) if rest.removeprefix("maps/") in known else None
    if rest not in _ARRAY_AXES:
        return None
    sizes = {
        "T": len(view.tokens),
        "L": int(manifest.model["layers"]),
        "H": int(manifest.model["heads"]),
        "r": rows,
        "c": columns,
        "p": len(view.tokens) - answer,
    }
    return tuple(sizes[axis] for axis in _ARRAY_AXES[rest])


def _checked(folder: Path, manifest: Manifest, name: str) -> bytes:
    path = folder / name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RunError(
            "a file of this case cannot be read", where=str(path), got=error.strerror or str(error), fix=_AGAIN
        ) from error
    found, expected = hashlib.sha256(content).hexdigest(), manifest.files.get(name)
    if found != expected:
        raise RunError(
            "a file of this case is not the one that was written",
            where=str(path),
            expected=f"sha256 {expected}",
            got=f"sha256 {found}",
            fix=_AGAIN,
        )
    return content


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
