"""Folders of DICOM files: which slices make a series, in which order, and which files are of one patient.

Identifiers serve for comparing only. They are hashed as soon as they are read and appear in no result, message or repr.
"""

import hashlib
import os
import stat
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
    """One DICOM image; ``patient``, ``study`` and ``series`` are hashes that say which images belong together.

    ``patient`` and ``study`` are ``""`` where the header does not say.
    """

    path: Path
    patient: str = field(repr=False)
    study: str = field(repr=False)
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


def read_slice(path: Path, *, content: bytes | None = None) -> Slice:
    """Where one image belongs. Only the header is read, from ``content`` where it lies in no file of its own.

    One without series is a series by itself.

    Raises:
        DataError: there is no DICOM image.
    """
    header, _ = read_header(path if content is None else content, path, more=_KEYWORDS)
    values = {keyword: quiet_value(header, keyword) for keyword in _KEYWORDS}
    return Slice(
        path=path,
        patient=_hashed(values["PatientID"]),
        study=_hashed(values["StudyInstanceUID"]),
        series=_hashed(values["SeriesInstanceUID"]) or _hashed(path),
        position=_position(values["ImagePositionPatient"], values["ImageOrientationPatient"]),
        number=_whole(values["InstanceNumber"]),
    )


class Patients:
    """Which images are of one patient: those of one identifier; without one, those of the same study.

    An image without identifier joins the patient of its study. Patients are numbered in the order of the images given.
    """

    def __init__(self, slices: Iterable[Slice]) -> None:
        """Number the patients of these images."""
        self._joined: dict[str, str] = {}
        self._numbers: dict[str, int] = {}
        members = [(one.patient, one.study) for one in slices if one.patient or one.study]
        bare_studies = {study for patient, study in members if not patient}
        for patient, study in members:
            if patient and study in bare_studies:
                self._join(f"patient {patient}", f"study {study}")
        for patient, study in members:
            self._numbers.setdefault(self._root(_node(patient, study)), len(self._numbers) + 1)

    def number(self, one: Slice) -> int | None:
        """The number of an image's patient, from 1; None if its header names neither patient nor study."""
        if not one.patient and not one.study:
            return None
        return self._numbers.get(self._root(_node(one.patient, one.study)))

    def _join(self, first: str, second: str) -> None:
        first, second = self._root(first), self._root(second)
        if first != second:
            self._joined[second] = first

    def _root(self, node: str) -> str:
        while node in self._joined:
            node = self._joined[node]
        return node


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
    """Every file below ``root`` that is not hidden, in order of paths; links to folders are not followed.

    Named pipes, sockets and devices are left out: reading them would wait, or never end.
    """
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder) / name
            if not name.startswith(".") and not _is_special(path):
                yield path


def _is_special(path: Path) -> bool:
    try:
        return not stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):  # a link that leads nowhere: whoever reads it hears of it
        return False


def _node(patient: str, study: str) -> str:
    return f"patient {patient}" if patient else f"study {study}"


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
    value = "" if value is None else str(value).strip()
    if not value:
        return ""
    return hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()
