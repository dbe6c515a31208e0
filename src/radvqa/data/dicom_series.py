"""Folders of DICOM files: which slices make a series, in which order, and which files are of one patient.

Identifiers serve for comparing only. They are hashed as soon as they are read and appear in no result, message or repr.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from radvqa.data.dicom import quiet_value, read_header
from radvqa.data.dicom_codes import Frame, is_dicom
from radvqa.errors import DataError

_KEYWORDS = (
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """One DICOM image file; ``patient`` and ``series`` are hashes that say which files belong together."""

    path: Path
    patient: str = field(repr=False)
    series: str = field(repr=False)
    position: float | None = None
    number: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The image files of one series, in anatomical order."""

    slices: tuple[Slice, ...]

    def chosen(self, frame: Frame) -> int:
        """The place of the slice that ``frame`` means; "middle" is the earlier one of two.

        Raises:
            DataError: the series has no such slice.
        """
        count = len(self.slices)
        if not isinstance(frame, int):
            return {"first": 0, "middle": (count - 1) // 2, "last": count - 1}[frame]
        if not 0 <= frame < count:
            raise DataError(
                "the series has no such slice",
                where=str(self.slices[0].path.parent),
                expected=f"a slice from 0 to {count - 1}",
                got=str(frame),
                fix='correct frame, or use "middle"',
            )
        return frame


def read_slice(path: Path) -> Slice:
    """Where one file belongs. Only its header is read.

    A file without patient is its study's, one without study its own; one without series is a series by itself.

    Raises:
        DataError: the file holds no DICOM image.
    """
    header, _ = read_header(path, path, more=_KEYWORDS)
    values = {keyword: quiet_value(header, keyword) for keyword in _KEYWORDS}
    own = str(path)
    return Slice(
        path=path,
        patient=_hashed(values["PatientID"] or values["StudyInstanceUID"] or own),
        series=_hashed(values["SeriesInstanceUID"] or own),
        position=_position(values["ImagePositionPatient"], values["ImageOrientationPatient"]),
        number=_whole(values["InstanceNumber"]),
    )


def series_of(slices: Iterable[Slice]) -> list[Series]:
    """The series among slices, in the order of their first paths; slices by position, else by number, else by path."""
    found: dict[str, list[Slice]] = {}
    for one in sorted(slices, key=lambda one: one.path):
        found.setdefault(one.series, []).append(one)
    return [Series(slices=tuple(_in_order(members))) for members in found.values()]


def largest(series: list[Series]) -> Series:
    """The series with most slices; of equal ones the first."""
    return max(series, key=lambda one: len(one.slices))


def dicom_files(root: Path) -> Iterator[Path]:
    """Files below ``root`` that look like DICOM, in order of their paths; links are not followed into folders."""
    for path in files_below(root):
        if is_dicom(path):
            yield path


def files_below(root: Path) -> Iterator[Path]:
    """Every file below ``root`` that is not hidden, in order of paths; links to folders are not followed."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith("."):
                yield Path(folder) / name


def _in_order(slices: list[Slice]) -> list[Slice]:
    positions = [one.position for one in slices if one.position is not None]
    if len(set(positions)) == len(slices):
        return sorted(slices, key=lambda one: one.position or 0.0)
    if all(one.number is not None for one in slices):
        return sorted(slices, key=lambda one: (one.number or 0, one.path))
    return slices


def _position(position: Any, orientation: Any) -> float | None:
    """How far along its own normal a slice lies, in millimetres (PS3.3 C.7.6.2.1.1)."""
    try:
        place = np.array([float(value) for value in position])
        directions = np.array([float(value) for value in orientation])
        distance = float(np.dot(place, np.cross(directions[:3], directions[3:6])))
    except (TypeError, ValueError):
        return None
    return distance if np.isfinite(distance) else None


def _whole(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _hashed(value: Any) -> str:
    return hashlib.sha256(str(value).encode("utf-8", "surrogatepass")).hexdigest()
