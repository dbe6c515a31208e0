"""DICOM among own data: converted pictures with what is known of them, series, and where each image belongs."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import final

from radvqa.data.dicom import Rendering, converted, converted_content, rendering_of
from radvqa.data.dicom_codes import DICOM_SUFFIXES, Frame, Window, is_dicom
from radvqa.data.dicom_series import Series, Slice, dicom_files, largest, read_slice, series_of
from radvqa.data.paths import path_inside
from radvqa.data.tables import RowError, shown
from radvqa.errors import DataError

_FACT_TAGS = {
    "Modality": "modality",
    "BodyPartExamined": "location",
    "Plane": "plane",
    "ViewPosition": "view",
    "ImageLaterality": "laterality",
    "Laterality": "laterality",
}
_QUIET_REMARKS = ("unlisted_code",)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnPicture:
    """An image file to give to the model, and what is known of it beside its row; ``slice`` where it was DICOM."""

    path: Path
    image_id: str
    slice: Slice | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


@final
class OwnDicom:
    """The DICOM files of one folder; every header is read once and every picture converted once.

    Args:
        root: the folder that no path may leave.
        window: as ``radvqa.data.dicom.converted`` takes it.
        frame: of an image with several, or slice of a folder.
        stored_window: which of several windows of a header.
    """

    def __init__(self, root: Path, *, window: Window, frame: Frame, stored_window: int) -> None:
        self.root = root
        self._window, self._frame, self._stored_window = window, frame, stored_window
        self._converted: dict[tuple[Path | str, bool], tuple[Path, Rendering]] = {}
        self._read: dict[Path | str, Slice | None] = {}
        self._chosen: dict[Path, Series | None] = {}

    def picture(
        self, path: Path, image_id: str, *, content: bytes | None = None, slice_tag: str = "", whole: bool = False
    ) -> OwnPicture:
        """The PNG of a file, or of ``content`` without writing that anywhere. Raises ``DataError``."""
        key = (path if content is None else hashlib.sha256(content).hexdigest(), whole)
        if key not in self._converted:
            # In a series the option frame chose the slice; the file's own frames then count from its middle.
            frame: Frame = "middle" if whole else self._frame
            if content is None:
                png = converted(path, window=self._window, frame=frame, stored_window=self._stored_window)
            else:
                png = converted_content(
                    content, path, window=self._window, frame=frame, stored_window=self._stored_window
                )
            self._converted[key] = (png, rendering_of(png))
        png, rendering = self._converted[key]
        tags = {_FACT_TAGS[fact]: value for fact, value in rendering.facts.items() if fact in _FACT_TAGS}
        tags["window"] = _window_tag(rendering)
        if rendering.frames > 1:
            tags["frame"] = f"{rendering.frame + 1} of {rendering.frames}"
        if slice_tag:
            tags["slice"] = slice_tag
        remarks = tuple(remark for remark in rendering.remarks if remark not in _QUIET_REMARKS)
        return OwnPicture(
            path=png, image_id=image_id, slice=self.slice_of(path, content=content), tags=tags, remarks=remarks
        )

    def series_picture(self, folder: Path, image_id: str) -> OwnPicture:
        """The chosen slice of the largest series in a folder. Raises ``RowError`` where there is none."""
        if folder not in self._chosen:
            below = self.slices_below(folder)
            self._chosen[folder] = largest(series_of(below)) if below else None
        series = self._chosen[folder]
        if series is None:
            raise RowError("no_dicom_in_folder", f"the folder {shown(image_id)} holds no DICOM image")
        return self.slice_picture(series, image_id)

    def slice_picture(self, series: Series, image_id: str) -> OwnPicture:
        """The slice of a series that the option ``frame`` chooses. Raises ``DataError`` like ``picture``."""
        count = len(series.slices)
        place = series.chosen(self._frame) if count > 1 else 0
        path = series.slices[place].path
        return self.picture(
            path,
            image_id,
            slice_tag=f"{place + 1} of {count}" if count > 1 else "",
            whole=count > 1,
        )

    @cached_property
    def slices(self) -> Mapping[Path, Slice]:
        """Every DICOM image below the folder with its series and patient."""
        return {one.path: one for one in self.slices_below(self.root)}

    def slices_below(self, folder: Path) -> list[Slice]:
        """Every DICOM image below a folder, in order of paths."""
        return [one for path in dicom_files(folder) if (one := self.slice_of(path)) is not None]

    def slice_of(self, path: Path, *, content: bytes | None = None) -> Slice | None:
        """Where a DICOM image belongs, its header read once; None where there is none, or it lies outside."""
        key: Path | str = path if content is None else hashlib.sha256(content).hexdigest()
        try:
            if content is None:
                path_inside(self.root, path.relative_to(self.root).as_posix())
                key = path.resolve()
            if key not in self._read:
                self._read[key] = None
                self._read[key] = read_slice(path, content=content)
        except (DataError, OSError):
            return None  # whoever names this file hears why
        one = self._read[key]
        return None if one is None else replace(one, path=path)


def is_dicom_file(path: Path) -> bool:
    """Whether a file is DICOM by its content, or calls itself so."""
    return is_dicom(path) or (path.suffix.lower() in DICOM_SUFFIXES and path.is_file())


def _window_tag(rendering: Rendering) -> str:
    words = [rendering.origin, rendering.preset, rendering.function]
    if rendering.centre is not None and rendering.width is not None:
        words.append(f"{rendering.centre:g}/{rendering.width:g}")
    return " ".join(filter(None, words))
