"""Your own images: a table, a folder of pictures with text files, or DICOM studies.

Read are, whichever is there:

* a table (CSV, TSV, JSON, JSON Lines, Parquet) with a column for the image and question and answer, or a caption;
  tables may be split by name or folder (``train.csv``, ``val/metadata.jsonl``, ``data/train-00000-of-00002.parquet``);
* the ImageFolder layout of Hugging Face (``metadata.csv`` with ``file_name``), and pictures inside Parquet;
* no table: pictures with a ``.txt`` of the same name as caption, in folders ``train``, ``val``, ``test`` or none;
* DICOM in place of any picture; a folder of DICOM files stands for the middle slice of its largest series.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, final

import pyarrow as pa
import pyarrow.parquet as pq

from radvqa.data.adapter import DatasetAdapter, Item
from radvqa.data.answers import inferred_answer_type
from radvqa.data.columns import check_roles, columns_of, roles_of
from radvqa.data.dicom import REMARKS, Rendering, converted, converted_content, rendering_of
from radvqa.data.dicom_codes import DICOM_SUFFIXES, Frame, Window, check_window, is_dicom
from radvqa.data.dicom_series import (
    Patients,
    Series,
    Slice,
    dicom_files,
    files_below,
    largest,
    read_slice,
    series_of,
)
from radvqa.data.hub_layout import split_named
from radvqa.data.image_cache import kept_image
from radvqa.data.paths import path_inside
from radvqa.data.tables import TABLE_SUFFIXES, Row, RowError, items_of, read_table, shown
from radvqa.errors import DataError, RecipeError
from radvqa.sample import SPLITS, AnswerType, CaptionedImage, Defect, Reject, Split, VqaSample

PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp")
ARCHIVE_SUFFIXES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")
VOLUME_SUFFIXES = (".nii", ".mha", ".mhd", ".nrrd", ".npy", ".npz", ".pdf")

_ANSWER_TYPES: Mapping[str, AnswerType] = {"closed": "closed", "open": "open"}
_TAGS = ("modality", "organ", "location", "plane", "content_type", "question_type")
_FACT_TAGS = {
    "Modality": "modality",
    "BodyPartExamined": "location",
    "Plane": "plane",
    "ViewPosition": "view",
    "ImageLaterality": "laterality",
    "Laterality": "laterality",
}
_GROUP_ROLES = ("group", "patient", "case")
_QUIET_REMARKS = ("unlisted_code",)
_WHOLE_ROLES = ("id", "image_id", *_GROUP_ROLES)
_INTEGRAL = re.compile(r"^(-?\d+)\.0+$")
_SHARD = re.compile(r"\d+-of-\d+$")
_RECOGNISED_WITHIN = 500


class _Table(NamedTuple):
    """A table with the columns of its roles; ``split`` is None where only a column or nothing says it."""

    path: Path
    split: Split | None
    roles: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Picture:
    """An image file to give to the model, and what is known of it beside its row; ``slice`` where it was DICOM."""

    path: Path
    image_id: str
    slice: Slice | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


@final
class OwnDataset(DatasetAdapter):
    """Your own images with questions, or with captions.

    * Sample ids are ``own-`` and the id column, or ``own-<table>:<row>``, or the path of the picture; image ids are
      paths relative to the folder.
    * The group is the column ``group``, ``patient`` or ``case``, the first that is there and filled, written as
      ``own-patient:7``; a row with a case only is of the patient that another row names for this case. Else it is for
      DICOM the patient, numbered in order of paths and never by name or number of the hospital; else the image. These
      two bear the name of the folder, such as ``own-<folder>-patient:0001``, so those of two data sets never meet.
    * A row with a question is a question; its caption, if there is one too, is not used. Without one it is a caption.
    * DICOM is converted to PNG in the image cache; tags tell modality, body part, plane, window and slice.
    """

    licence: ClassVar[str] = "as the owner of the data says"
    citation: ClassVar[str] = "own data, not published with radvqa"
    homepage: ClassVar[str] = ""

    def __init__(
        self,
        root: str,
        *,
        table: str = "",
        columns: Mapping[str, str] | None = None,
        split_if_absent: Split = "train",
        language: str = "en",
        window: Window = "stored",
        frame: Frame = "middle",
        stored_window: int = 0,
    ) -> None:
        """Open a folder, or a table file with images beside it.

        Args:
            root: the folder, or the table.
            table: the table inside the folder, where several would fit.
            columns: role → name of your column, where the names are not found by themselves; the roles are those of
                ``radvqa.data.columns.ROLES``.
            split_if_absent: the split of everything that says none.
            language: of rows that say none.
            window: for DICOM: "stored", "percentile", a preset such as "lung", or [centre, width].
            frame: of a DICOM image with several frames, or slice of a folder of DICOM: "first", "middle", "last" or a
                number from 0.
            stored_window: which of several windows of a DICOM header, from 0.

        Raises:
            RecipeError: an option is impossible.
            DataError: there is nothing at ``root`` that can be read, or it is not clear which table or columns to use.
        """
        check_window(window)
        check_roles(columns or {})
        if split_if_absent not in SPLITS or stored_window < 0 or (isinstance(frame, int) and frame < 0):
            raise RecipeError(
                "an option of own data is impossible",
                expected=f"split_if_absent among {', '.join(SPLITS)}; frame and stored_window not negative",
                got=f"split_if_absent {split_if_absent!r}, frame {frame!r}, stored_window {stored_window}",
                fix="correct it under datasets",
            )
        given = Path(root).expanduser()
        _require_readable(given)
        self.root = given.parent if given.is_file() else given
        self.split_if_absent, self.language = split_if_absent, language
        self._window, self._frame, self._stored_window = window, frame, stored_window
        self._name = self.root.resolve().name or "root"
        self._tables, self._skipped = _tables(given, table, columns or {})
        self._converted: dict[tuple[Path | str, bool], tuple[Path, Rendering]] = {}
        self._read: dict[Path | str, Slice | None] = {}
        self._chosen: dict[Path, Series | None] = {}

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """A table whose columns are clear, a folder with one, pictures with text files, or DICOM."""
        try:
            if root.is_file():
                return root.suffix.lower() in TABLE_SUFFIXES and _is_usable(root)
            return root.is_dir() and (
                any(_is_usable(path) for path in _table_files(root)[:20]) or _holds_pictures(root)
            )
        except (DataError, OSError, ValueError, RecursionError):
            return False

    def splits(self) -> tuple[Split, ...]:
        """The splits that names of tables, a column or folders say; else the one of ``split_if_absent``."""
        return tuple(split for split in SPLITS if split in self._splits_found)

    def rows(self, split: Split) -> Iterator[Item]:
        """One split in order of tables and rows, or of paths where there is no table.

        Raises:
            DataError: there is no such split, or a table cannot be read.
        """
        if split not in self._splits_found:
            raise DataError(
                f"own data have no split {split!r}",
                where=str(self.root),
                expected=", ".join(self.splits()),
                fix="name the split in a column, in the name of the table or folder, or in split_if_absent",
            )
        told: set[str] = set()
        if not self._tables:
            yield from self._file_items(split, told)
        for table in self._tables:
            if "split" in table.roles or (table.split or self.split_if_absent) == split:
                rows = self._rows_to_tell(table, split)
                yield from items_of(rows, partial(self._items, table=table, split=split, told=told))

    def sources(self) -> tuple[Path, ...]:
        """The tables; without one, the text files of the captions."""
        if self._tables:
            return tuple(table.path for table in self._tables)
        return tuple(path for path in files_below(self.root) if path.suffix.lower() == ".txt")

    def defects(self) -> Iterator[Defect]:
        """Tables that were left out because their columns are not clear, and whether pictures are their own group."""
        for error in self._skipped:
            subject = Path(error.where or "").name
            detail = "; ".join(filter(None, (error.what, error.got)))
            yield Defect(subject=subject, reason="table_skipped", where=error.where or "", detail=detail)
        if where := self._first_own_group():
            detail = (
                "no column group, patient or case, nor DICOM, tells whose images these are: each is its own group, "
                "and a patient may lie on both sides of a split"
            )
            yield Defect(subject="own", reason="group_is_image", where=where, detail=detail)

    def _first_own_group(self) -> str:
        """The first row or file whose group is its picture, and that is no DICOM; ``""`` if there is none."""
        if not self._tables:
            pictures = (one for one in files_below(self.root) if one.suffix.lower() in PICTURE_SUFFIXES)
            return next((str(one) for one in pictures if one not in self._slices and _is_text(one)), "")
        for table in self._tables:
            for row in _rows_with(table, ("image", *_GROUP_ROLES)):
                read = _RowReader(row, table.roles)
                try:
                    if not read.keys() and not self._names_dicom(read, table):
                        return row.where
                except RowError:
                    continue  # a reject of its split
        return ""

    # --- tables ------------------------------------------------------------------------------------------------------

    def _rows_to_tell(self, table: _Table, split: Split) -> Iterator[Row]:
        """The rows of a table; those whose split cannot be known only for the first split, to be told once."""
        first = split == self.splits()[0]
        for row in read_table(table.path):
            if first or "split" not in table.roles or self._has_known_split(row, table):
                yield row

    def _has_known_split(self, row: Row, table: _Table) -> bool:
        try:
            self._stated_split(_RowReader(row, table.roles), table)
        except RowError:
            return False
        return row.broken is None

    def _items(self, row: Row, *, table: _Table, split: Split, told: set[str]) -> Iterator[Item]:
        read = _RowReader(row, table.roles)
        place = f"{table.path.relative_to(self.root).as_posix()}:{row.name.rsplit(':', 1)[-1]}"
        if (stated := self._stated_split(read, table)) != split:
            detail = f"the row is in the split {stated!r}, {split!r} was asked for"
            sample_id = f"own-{read.text_or_none('id') or place}"
            yield Reject(sample_id=sample_id, reason="other_split", where=row.where, detail=detail)
            return
        key = read.text("id") or place
        sample_id = f"own-{key}"
        language = read.text("language") or self.language
        question, caption = read.text("question"), read.text("caption")
        answers, choices = (read.answers(), read.choices()) if question else ((), ())
        if not question and not caption:
            raise RowError("empty_value", "the row has neither a question nor a caption")
        if question and not answers:
            raise RowError("empty_answer", "the question has no answer")
        stated_type = read.text("answer_type")
        try:
            picture = self._picture(read, table)
        except DataError as error:
            detail = "; ".join(filter(None, (error.what, error.got)))
            yield Reject(sample_id=sample_id, reason="unreadable_image", where=row.where, detail=detail)
            return
        tags = {**picture.tags, **{role: value for role in _TAGS if (value := read.text(role))}}
        group = self._group_of_keys(read.keys())
        if not group:
            group, known = self._group_of_picture(picture)
            if not known:
                yield from self._patient_unknown(picture, row.where, told)
        yield from self._remarks(picture, row.where, told)
        for reason, detail in read.mended(stated_type, answers, choices):
            yield Defect(subject=sample_id, reason=reason, where=f"{row.where}, id {key}", detail=detail)
        common: dict[str, Any] = {
            "sample_id": sample_id,
            "image_id": picture.image_id,
            "image": picture.path,
            "group_id": group,
            "split": split,
            "language": language,
            "tags": tags,
        }
        if not question:
            yield CaptionedImage(text=caption, **common)
            return
        answer_type = _ANSWER_TYPES.get(stated_type.lower())
        yield VqaSample(
            question=question,
            answers=answers,
            answer_type=answer_type or ("closed" if choices else inferred_answer_type(answers[0])),
            answer_type_stated=answer_type is not None,
            choices=choices,
            **common,
        )

    def _stated_split(self, read: "_RowReader", table: _Table) -> Split:
        text = read.text("split")
        if not text:
            return table.split or self.split_if_absent
        if (split := split_named(text)) is None:
            raise RowError("unknown_split", f"the split should be train, val or test, got {shown(text)}")
        return split

    def _picture(self, read: "_RowReader", table: _Table) -> _Picture:
        """Raises ``RowError`` where the row names no picture, ``DataError`` where DICOM cannot be shown."""
        value = read.image()
        if isinstance(value, bytes):
            image_id = read.text("image_id") or f"own-{hashlib.sha256(value).hexdigest()[:16]}"
            if is_dicom(value):
                return self._dicom_picture(table.path, image_id, content=value)
            return _Picture(path=kept_image(value), image_id=image_id)
        path = self._named(value, table)
        image_id = read.text("image_id") or path.relative_to(self.root).as_posix()
        if path.is_dir():
            return self._series_picture(path, image_id)
        if _is_dicom_file(path):
            return self._dicom_picture(path, image_id)
        return _Picture(path=path, image_id=image_id)

    def _named(self, name: str, table: _Table) -> Path:
        """The file or folder a row names: beside the table, in the data folder, or in its folder ``images``."""
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name):
            raise RowError("image_is_a_link", f"the image should be a path, not an address: {shown(name)}")
        suffix = Path(name).suffix.lower()
        if suffix in (*ARCHIVE_SUFFIXES, *VOLUME_SUFFIXES):
            kind = "an archive: unpack it" if suffix in ARCHIVE_SUFFIXES else "no picture: export it as PNG or DICOM"
            raise RowError("unsupported_image", f"{shown(name)} is {kind} first")
        name = name.replace("\\", "/")
        beside = table.path.parent.relative_to(self.root).as_posix()
        candidates = []
        for folder in dict.fromkeys((beside, ".", "images")):
            try:
                candidates.append(path_inside(self.root, name if folder == "." else f"{folder}/{name}"))
                present = candidates[-1].exists()
            except (DataError, OSError, ValueError) as error:
                got = error.got if isinstance(error, DataError) else str(error)
                raise RowError("path_leaves_folder", f"the image path {shown(name)} leads nowhere: {got}") from error
            if present:
                return candidates[-1]
        return candidates[0]

    # --- groups ------------------------------------------------------------------------------------------------------

    def _group_of_keys(self, keys: Sequence[str]) -> str:
        """The group that columns tell, or ``""``: the first key, or the higher one that another row names beside it."""
        if not keys:
            return ""
        key = keys[0]
        while key in self._higher_keys:
            key = self._higher_keys[key]
        return f"own-{key}"

    @cached_property
    def _higher_keys(self) -> Mapping[str, str]:
        """Patient or case → the group or patient that the first row with both names beside it."""
        found: dict[str, str] = {}
        for table in self._tables:
            if sum(role in table.roles for role in _GROUP_ROLES) < 2:
                continue
            for row in _rows_with(table, _GROUP_ROLES):
                try:
                    keys = _RowReader(row, table.roles).keys()
                except RowError:
                    continue  # a reject of its split
                for key in keys[1:]:
                    found.setdefault(key, keys[0])
        return found

    def _group_of_picture(self, picture: _Picture) -> tuple[str, bool]:
        """The patient of a DICOM image, else the picture; and whether that is the best there can be."""
        number = None if picture.slice is None else self._patients.number(picture.slice)
        if number is not None:
            return f"own-{self._name}-patient:{number:04d}", True
        return f"own-{self._name}-image:{picture.image_id.removeprefix('own-')}", picture.slice is None

    @cached_property
    def _patients(self) -> Patients:
        """The patients of all DICOM images: those below the folder, then those that only a table names or holds.

        All are looked at before the first number is given, so that numbers do not depend on what is read first.
        """
        slices = list(self._slices.values())
        for table in self._tables:
            for row in _rows_with(table, ("image",)):
                try:
                    slices += self._slices_in(_RowReader(row, table.roles), table)
                except RowError:
                    continue  # a reject of its split
        return Patients(slices)

    def _slices_in(self, read: "_RowReader", table: _Table) -> list[Slice]:
        """The DICOM images that a row names or holds. Raises ``RowError`` like ``_named``."""
        value = read.image()
        if isinstance(value, bytes):
            found = [self._slice(table.path, content=value)] if is_dicom(value) else []
        else:
            path = self._named(value, table)
            if path.is_dir():
                return self._slices_below(path)
            found = [self._slice(path)] if _is_dicom_file(path) else []
        return [one for one in found if one is not None]

    def _names_dicom(self, read: "_RowReader", table: _Table) -> bool:
        value = read.image()
        if isinstance(value, bytes):
            return is_dicom(value)
        path = self._named(value, table)
        return path.is_dir() or _is_dicom_file(path)

    def _patient_unknown(self, picture: _Picture, where: str, told: set[str]) -> Iterator[Defect]:
        """Once per image: its header names no patient, so the image had to be the group."""
        if picture.image_id not in told:
            detail = "the header names neither patient nor study, so the image is its own group"
            yield Defect(subject=picture.image_id, reason="patient_unknown", where=where, detail=detail)

    # --- DICOM -------------------------------------------------------------------------------------------------------

    def _dicom_picture(
        self, path: Path, image_id: str, *, content: bytes | None = None, slice_tag: str = "", whole: bool = False
    ) -> _Picture:
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
        return _Picture(
            path=png, image_id=image_id, slice=self._slice(path, content=content), tags=tags, remarks=remarks
        )

    def _series_picture(self, folder: Path, image_id: str) -> _Picture:
        if folder not in self._chosen:
            below = self._slices_below(folder)
            self._chosen[folder] = largest(series_of(below)) if below else None
        series = self._chosen[folder]
        if series is None:
            raise RowError("no_dicom_in_folder", f"the folder {shown(image_id)} holds no DICOM image")
        return self._slice_picture(series, image_id)

    def _slice_picture(self, series: Series, image_id: str) -> _Picture:
        count = len(series.slices)
        place = series.chosen(self._frame) if count > 1 else 0
        path = series.slices[place].path
        return self._dicom_picture(
            path,
            image_id,
            slice_tag=f"{place + 1} of {count}" if count > 1 else "",
            whole=count > 1,
        )

    @cached_property
    def _slices(self) -> Mapping[Path, Slice]:
        """Every DICOM image below the folder with its series and patient."""
        return {one.path: one for one in self._slices_below(self.root)}

    def _slices_below(self, folder: Path) -> list[Slice]:
        return [one for path in dicom_files(folder) if (one := self._slice(path)) is not None]

    def _slice(self, path: Path, *, content: bytes | None = None) -> Slice | None:
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

    def _remarks(self, picture: _Picture, where: str, told: set[str]) -> Iterator[Defect]:
        """What the conversion remarked, once per image."""
        if picture.image_id not in told:
            told.add(picture.image_id)
            for remark in picture.remarks:
                yield Defect(subject=picture.image_id, reason=remark, where=where, detail=REMARKS[remark])

    # --- files without a table ---------------------------------------------------------------------------------------

    @cached_property
    def _splits_found(self) -> frozenset[Split]:
        found: set[Split] = set()
        for table in self._tables:
            if "split" in table.roles:
                found |= self._splits_of_column(table)
            else:
                found.add(table.split or self.split_if_absent)
        if not self._tables:
            found = {self._folder_split(path) for path in files_below(self.root)}
        return frozenset(found) or frozenset({self.split_if_absent})

    def _splits_of_column(self, table: _Table) -> set[Split]:
        column, rest = table.roles["split"], table.split or self.split_if_absent
        if table.path.suffix.lower() == ".parquet":
            try:  # only this column, since pictures may lie in the others
                values = pq.read_table(table.path, columns=[column]).column(0).unique().to_pylist()
            except (pa.ArrowException, OSError, ValueError):
                values = []
        else:
            values = [row.values.get(column) for row in read_table(table.path)]
        found: set[Split] = set()
        for value in values:
            split = split_named(value) if isinstance(value, str) and value.strip() else rest
            if split is not None:
                found.add(split)
        return found

    def _folder_split(self, path: Path) -> Split:
        parts = path.relative_to(self.root).parts
        return (split_named(parts[0]) if len(parts) > 1 else None) or self.split_if_absent

    def _file_items(self, split: Split, told: set[str]) -> Iterator[Item]:
        """A caption for every picture and DICOM series that has a text file, and a reject for everything else."""
        used: set[Path] = set()
        starts = {min(one.path for one in series.slices): series for series in series_of(self._slices.values())}
        texts = []
        for path in files_below(self.root):
            if self._folder_split(path) != split:
                continue
            if path.suffix.lower() == ".txt":
                texts.append(path)
            elif path in starts:
                yield from self._captioned(path, starts[path], split, used, told)
            elif path not in self._slices:
                yield from self._captioned(path, None, split, used, told)
        for path in texts:
            if path not in used:
                detail = "no picture or DICOM series has the name of this text file"
                yield Reject(sample_id=self._file_id(path), reason="text_without_image", where=str(path), detail=detail)

    def _captioned(
        self, path: Path, series: Series | None, split: Split, used: set[Path], told: set[str]
    ) -> Iterator[Item]:
        sample_id = self._file_id(path)
        try:
            picture, text = self._file_picture(path, series, used)
        except RowError as error:
            yield Reject(sample_id=sample_id, reason=error.reason, where=str(path), detail=error.detail)
            return
        except DataError as error:
            detail = "; ".join(filter(None, (error.what, error.got)))
            reason = "path_leaves_folder" if error.what.startswith("path leaves") else "unreadable_image"
            yield Reject(sample_id=sample_id, reason=reason, where=str(path), detail=detail)
            return
        group, known = self._group_of_picture(picture)
        if not known:
            yield from self._patient_unknown(picture, str(path), told)
        yield from self._remarks(picture, str(path), told)
        yield CaptionedImage(
            sample_id=sample_id,
            image_id=picture.image_id,
            image=picture.path,
            text=text,
            group_id=group,
            split=split,
            language=self.language,
            tags=picture.tags,
        )

    def _file_picture(self, path: Path, series: Series | None, used: set[Path]) -> tuple[_Picture, str]:
        """A picture or the chosen slice of a series, with its text. Raises ``RowError`` where it has none."""
        relative = path.relative_to(self.root).as_posix()
        path_inside(self.root, relative)
        if series is None and path.suffix.lower() not in PICTURE_SUFFIXES:
            raise _unsupported(path)
        places = _text_places(path, series, self.root)
        used.update(place for place in places if place.is_file())
        text = next((text for place in places if (text := _text_of(place, self.root))), "")
        if not text:
            raise RowError("no_text", f"there is no text in {places[0].name}")
        if series is None:
            return _Picture(path=path, image_id=relative), text
        return self._slice_picture(series, relative), text

    def _file_id(self, path: Path) -> str:
        return f"own-{path.relative_to(self.root).as_posix()}"


ADAPTER = OwnDataset


class _RowReader:
    """One row by roles instead of columns; remembers what it had to mend."""

    def __init__(self, row: Row, roles: Mapping[str, str]) -> None:
        self._row, self._roles = row, roles
        self._mended: list[tuple[str, str]] = []

    def raw(self, role: str) -> Any:
        return self._row.values.get(self._roles[role])

    def text(self, role: str) -> str:
        """The stripped text of a role; ``""`` where it is absent, null or blank. Numbers become text."""
        if role not in self._roles:
            return ""
        return self._as_text(self.raw(role), role)

    def text_or_none(self, role: str) -> str:
        """``text``, or ``""`` where that is not usable."""
        try:
            return self.text(role)
        except RowError:
            return ""

    def keys(self) -> list[str]:
        """What the columns of groups say, from the largest unit to the smallest, such as ``patient:7``.

        A number means the same whether a table stores it as 7 or, beside empty cells, as 7.0.
        """
        texts = ((role, _INTEGRAL.sub(r"\1", self.text(role))) for role in _GROUP_ROLES)
        return [f"{role}:{text}" for role, text in texts if text]

    def image(self) -> bytes | str:
        """The picture itself, or the name of its file. Raises ``RowError`` where there is neither."""
        value = self.raw("image")
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes) and value:
            return value
        if not isinstance(value, str) or not value.strip():
            raise RowError("no_picture", f"the image should be a path or the bytes of a picture, got {shown(value)}")
        return value.strip()

    def answers(self) -> tuple[str, ...]:
        """The accepted answers, white space collapsed, each once."""
        found = []
        for role in ("answer", "answers"):
            if role in self._roles:
                for text in self._several(role, separator="|" if role == "answers" else None):
                    collapsed = " ".join(text.split())
                    if collapsed != text:
                        self._mended.append(
                            ("white_space_in_answer", f"white space inside the answer {text!r:.160} was collapsed")
                        )
                    found.append(collapsed)
        return tuple(dict.fromkeys(filter(None, found)))

    def choices(self) -> tuple[str, ...]:
        """The offered answers, white space collapsed."""
        if "choices" not in self._roles:
            return ()
        return tuple(filter(None, (" ".join(text.split()) for text in self._several("choices", separator="|"))))

    def mended(self, stated_type: str, answers: tuple[str, ...], choices: tuple[str, ...]) -> list[tuple[str, str]]:
        """Reason and sentence of everything that is not as it should be but was used."""
        found = list(dict.fromkeys(self._mended))
        if stated_type and stated_type.lower() not in _ANSWER_TYPES:
            found.append(("unknown_answer_type", f"the answer type {shown(stated_type)} is neither closed nor open"))
        if choices and answers and answers[0] not in choices:
            found.append(("answer_not_a_choice", f"the answer {shown(answers[0])} is none of the choices"))
        return found

    def _several(self, role: str, *, separator: str | None) -> list[str]:
        value = self.raw(role)
        if isinstance(value, str) and value.lstrip().startswith("["):
            try:
                listed = json.loads(value)
            except (ValueError, RecursionError):
                listed = None
            value = listed if isinstance(listed, list) else value
        if isinstance(value, list | tuple):
            return [self._as_text(one, role) for one in value]
        text = self._as_text(value, role)
        return [part.strip() for part in text.split(separator)] if separator else [text]

    def _as_text(self, value: Any, role: str) -> str:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ""
        if isinstance(value, int | float) and not isinstance(value, bool):
            if role in ("answer", "answers", "question"):
                self._mended.append((f"number_as_{role.rstrip('s')}", f"the {role} {value!r} was a number"))
            if role in _WHOLE_ROLES and isinstance(value, float) and value.is_integer():
                return str(int(value))
            return str(value)
        return Row(self._row.where, self._row.name, {role: value}).text(role, may_be_empty=True).strip()


def _require_readable(root: Path) -> None:
    got = ""
    if not root.exists():
        got = "nothing there"
    elif root.is_file() and root.suffix.lower() in ARCHIVE_SUFFIXES:
        raise DataError(
            "own data lie in an archive", where=str(root), expected="a folder, or a table file", got=root.suffix,
            fix="unpack it first and point root at the folder",
        )  # fmt: skip
    elif root.is_file() and root.suffix.lower() not in TABLE_SUFFIXES:
        got = f"a file ending in {root.suffix or 'nothing'}"
    elif root.is_dir() and next(files_below(root), None) is None:
        got = "an empty folder"
    if got:
        raise DataError(
            "own data are not at this place",
            where=str(root),
            expected=f"a folder, or a table ending in {', '.join(TABLE_SUFFIXES)}",
            got=got,
            fix="correct root; docs/own_data.md shows how to lay out own images",
        )


def _tables(given: Path, name: str, columns: Mapping[str, str]) -> tuple[tuple[_Table, ...], tuple[DataError, ...]]:
    """The tables to read, and why others are not; none where pictures with text files or DICOM are read instead."""
    if given.is_file():
        split = _split_in_name(given, given.parent)
        return (_Table(given, split, roles_of(columns_of(given), given, given=columns)),), ()
    if name:
        path = path_inside(given, name)
        if not path.is_file():
            raise DataError(
                "the table is not there", where=str(path), expected="a table file inside root", got="no such file",
                fix="correct table",
            )  # fmt: skip
        return (_Table(path, _split_in_name(path, given), roles_of(columns_of(path), path, given=columns)),), ()
    found: list[_Table] = []
    unclear: dict[Path, DataError] = {}
    for path in _table_files(given):
        try:
            found.append(_Table(path, _split_in_name(path, given), roles_of(columns_of(path), path, given=columns)))
        except DataError as error:
            unclear[path] = error
    if not found and unclear and (columns or not _holds_pictures(given)):
        raise next(iter(unclear.values()))
    if not found and not unclear and not _holds_pictures(given):
        _require_no_archive(given)
        raise DataError(
            "there are no own data in this folder",
            where=str(given),
            expected="a table, pictures with a .txt beside each, or DICOM files",
            got=", ".join(path.name for path in _some_files(given)[:5]),
            fix="lay them out as docs/own_data.md shows",
        )
    _require_one_per_split(found, given)
    for path, reason in unclear.items():
        if _is_of_a_split(path, found, given):
            raise reason
    return tuple(found), tuple(unclear.values())


def _is_of_a_split(path: Path, found: list[_Table], root: Path) -> bool:
    """Whether a table that cannot be read belongs to a split by its name, or by a folder that has no other table.

    A file of the name of a picture tells something about that picture and is no table of a split.
    """
    if any(path.with_suffix(suffix).is_file() for suffix in (*PICTURE_SUFFIXES, *DICOM_SUFFIXES)):
        return False
    if _split_in_name(path, path.parent) is not None:
        return True
    return (
        bool(found)
        and _split_in_name(path, root) is not None
        and all(table.path.parent != path.parent for table in found)
    )


def _require_no_archive(root: Path) -> None:
    for path in _some_files(root):
        if path.suffix.lower() in ARCHIVE_SUFFIXES:
            raise DataError(
                "own data lie in an archive", where=str(path), expected="plain files", got=path.suffix,
                fix="unpack it first",
            )  # fmt: skip


def _require_one_per_split(tables: list[_Table], root: Path) -> None:
    """Several tables are read only if their names tell them apart; else rows would be read twice."""
    by_split: dict[Split | None, list[Path]] = {}
    for table in tables:
        by_split.setdefault(table.split, []).append(table.path)
    repeated = any(len(paths) > 1 and not all(_SHARD.search(one.stem) for one in paths) for paths in by_split.values())
    if repeated or (None in by_split and len(by_split) > 1):
        names = [table.path.relative_to(root).as_posix() for table in tables]
        raise DataError(
            "it is not clear which table to read",
            where=str(root),
            expected="one table, or one for each split with train, val or test in its name or folder",
            got=", ".join(names)[:400],
            fix="name one with the option table, or move the others away",
        )


def _split_in_name(path: Path, root: Path) -> Split | None:
    words = re.split(r"[^A-Za-z]+", path.stem)
    folder = [path.parent.name] if path.parent != root else []
    return next((split for word in (*reversed(words), *folder) if (split := split_named(word)) is not None), None)


def _table_files(root: Path) -> list[Path]:
    files = sorted([*root.glob("*"), *root.glob("*/*")])
    return [path for path in files if path.suffix.lower() in TABLE_SUFFIXES and _is_plain(path)]


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and not path.parent.name.startswith(".")


def _is_dicom_file(path: Path) -> bool:
    return is_dicom(path) or (path.suffix.lower() in DICOM_SUFFIXES and path.is_file())


def _is_text(picture: Path) -> bool:
    return picture.with_suffix(".txt").is_file()


def _rows_with(table: _Table, roles: Iterable[str]) -> Iterator[Row]:
    """The rows of a table with the columns of some roles at least; of Parquet only these are read.

    Rows that are broken are left out: they are rejects of their split. Raises ``DataError`` if it cannot be read.
    """
    columns = [table.roles[role] for role in roles if role in table.roles]
    if table.path.suffix.lower() == ".parquet":
        yield from _parquet_rows(table.path, columns)
    else:
        yield from (row for row in read_table(table.path) if row.broken is None)


def _parquet_rows(path: Path, columns: list[str]) -> Iterator[Row]:
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=256, columns=columns):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"{path}, row {number}", f"{path.name}:{number}", values)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(
            "Parquet file cannot be read",
            where=f"{path}, after row {number}",
            expected="a whole Parquet file",
            got=" ".join(str(error).split())[:300],
            fix="fetch or export it again",
        ) from error


def _is_usable(path: Path) -> bool:
    try:
        roles_of(columns_of(path), path, given={})
    except DataError:
        return False
    return True


def _some_files(root: Path) -> list[Path]:
    return [path for path, _ in zip(files_below(root), range(_RECOGNISED_WITHIN), strict=False)]


def _holds_pictures(root: Path) -> bool:
    """Whether there is DICOM, or a picture with its text, among the first files."""
    files = _some_files(root)
    texts = {path.with_suffix("") for path in files if path.suffix.lower() == ".txt"}
    pictured = (path.suffix.lower() in PICTURE_SUFFIXES and path.with_suffix("") in texts for path in files)
    return any(pictured) or any(is_dicom(path) for path in files)


def _text_places(path: Path, series: Series | None, root: Path) -> list[Path]:
    """Where the caption of a picture or series may stand, in the order they are looked at."""
    if series is None:
        return [path.with_suffix(".txt")]
    slices = [one.path for one in series.slices]
    places = [one.with_suffix(".txt") for one in sorted(slices)]
    folder = path.parent
    if all(one.parent == folder for one in slices):
        places += [folder / name for name in (f"{folder.name}.txt", "caption.txt", "report.txt")]
        places += [folder.with_name(f"{folder.name}.txt")] if folder != root else []
    return places


def _text_of(path: Path, root: Path) -> str:
    """The text in a file; ``""`` if there is none.

    Raises ``DataError`` if it is outside ``root``, ``RowError`` if it is no UTF-8.
    """
    if not path.is_file():
        return ""
    path_inside(root, path.relative_to(root).as_posix())
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except (OSError, ValueError) as error:
        raise RowError("unreadable_text", f"the text file {path.name} cannot be read as UTF-8: {error}") from error


def _unsupported(path: Path) -> RowError:
    if path.suffix.lower() in ARCHIVE_SUFFIXES:
        return RowError("archive", "the file is an archive: unpack it first")
    if is_dicom(path) or path.suffix.lower() in DICOM_SUFFIXES:
        detail = "the DICOM file holds no readable picture: a report, plan, directory or label map, or damaged"
        return RowError("no_dicom_image", detail)
    return RowError("unsupported_file", f"files ending in {path.suffix or 'nothing'} are not read as pictures")


def _window_tag(rendering: Rendering) -> str:
    words = [rendering.origin, rendering.preset, rendering.function]
    if rendering.centre is not None and rendering.width is not None:
        words.append(f"{rendering.centre:g}/{rendering.width:g}")
    return " ".join(filter(None, words))
