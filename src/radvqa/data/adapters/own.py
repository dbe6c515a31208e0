"""Your own images: a table, a folder of pictures with text files, or DICOM studies.

Read are, whichever is there:

* a table (CSV, TSV, JSON, JSON Lines, Parquet) with a column for the image and question and answer, or a caption;
  tables may be split by name or folder (``train.csv``, ``val/metadata.jsonl``, ``data/train-00000-of-00002.parquet``);
* the ImageFolder layout of Hugging Face (``metadata.csv`` with ``file_name``), and pictures inside Parquet;
* no table: pictures with a ``.txt`` of the same name as caption, in folders ``train``, ``val``, ``test`` or none;
* DICOM in place of any picture; a folder of DICOM files stands for the middle slice of its largest series.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, final

import pyarrow as pa
import pyarrow.parquet as pq

from radvqa.data.adapter import DatasetAdapter, Item
from radvqa.data.answers import inferred_answer_type
from radvqa.data.columns import check_roles, columns_of, roles_of
from radvqa.data.dicom import REMARKS, Rendering, converted, rendering_of
from radvqa.data.dicom_codes import DICOM_SUFFIXES, Frame, Window, check_window, is_dicom
from radvqa.data.dicom_series import Series, dicom_files, files_below, largest, read_slice, series_of
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
_QUIET_REMARKS = ("unlisted_code",)
_SHARD = re.compile(r"\d+-of-\d+$")
_RECOGNISED_WITHIN = 500


class _Table(NamedTuple):
    """A table with the columns of its roles; ``split`` is None where only a column or nothing says it."""

    path: Path
    split: Split | None
    roles: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Picture:
    """An image file to give to the model, and what is known of it beside its row."""

    path: Path
    image_id: str
    group: str
    tags: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


@final
class OwnDataset(DatasetAdapter):
    """Your own images with questions, or with captions.

    * Sample ids are ``own-`` and the id column, or ``own-<table>:<row>``, or the path of the picture; image ids are
      paths relative to the folder.
    * The group is the column ``group``, ``patient`` or ``case``, the first that is there and filled; else for DICOM the
      patient, numbered in order of paths and never by name or number of the hospital; else the image.
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
        self._tables = _tables(given, table, columns or {})
        self._converted: dict[tuple[Path, bool], tuple[Path, Rendering]] = {}
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
                yield from items_of(read_table(table.path), partial(self._items, table=table, split=split, told=told))

    def sources(self) -> tuple[Path, ...]:
        """The tables; without one, the text files of the captions."""
        if self._tables:
            return tuple(table.path for table in self._tables)
        return tuple(path for path in files_below(self.root) if path.suffix.lower() == ".txt")

    # --- tables ------------------------------------------------------------------------------------------------------

    def _items(self, row: Row, *, table: _Table, split: Split, told: set[str]) -> Iterator[Item]:
        read = _RowReader(row, table.roles)
        key = read.text("id") or f"{table.path.relative_to(self.root).as_posix()}:{row.name.rsplit(':', 1)[-1]}"
        sample_id = f"own-{key}"
        if (stated := self._stated_split(read, table)) != split:
            detail = f"the row is in the split {stated!r}, {split!r} was asked for"
            yield Reject(sample_id=sample_id, reason="other_split", where=row.where, detail=detail)
            return
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
        group = next((f"own-{value}" for role in ("group", "patient", "case") if (value := read.text(role))), "")
        yield from self._remarks(picture, row.where, told)
        for reason, detail in read.mended(stated_type, answers, choices):
            yield Defect(subject=sample_id, reason=reason, where=f"{row.where}, id {key}", detail=detail)
        common: dict[str, Any] = {
            "sample_id": sample_id,
            "image_id": picture.image_id,
            "image": picture.path,
            "group_id": group or picture.group,
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
        value = read.raw("image")
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, dict) and not value.get("bytes"):
            value = value.get("path")
        content = value.get("bytes") if isinstance(value, dict) else value
        if isinstance(content, bytes) and content:
            kept = kept_image(content)
            image_id = read.text("image_id") or f"own-{kept.stem[:16]}"
            if is_dicom(kept):
                return self._dicom_picture(kept, image_id, group=image_id)
            return _Picture(path=kept, image_id=image_id, group=image_id)
        if not isinstance(value, str) or not value.strip():
            raise RowError("no_picture", f"the image should be a path or the bytes of a picture, got {shown(value)}")
        path = self._named(value.strip(), table)
        image_id = read.text("image_id") or path.relative_to(self.root).as_posix()
        if path.is_dir():
            return self._series_picture(path, image_id)
        if is_dicom(path) or (path.suffix.lower() in DICOM_SUFFIXES and path.is_file()):
            return self._dicom_picture(path, image_id, group=self._patients.get(path, image_id))
        return _Picture(path=path, image_id=image_id, group=image_id)

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

    # --- DICOM -------------------------------------------------------------------------------------------------------

    def _dicom_picture(
        self, path: Path, image_id: str, *, group: str, slice_tag: str = "", whole: bool = False
    ) -> _Picture:
        if (path, whole) not in self._converted:
            # In a series the option frame chose the slice; the file's own frames then count from its middle.
            frame: Frame = "middle" if whole else self._frame
            png = converted(path, window=self._window, frame=frame, stored_window=self._stored_window)
            self._converted[path, whole] = (png, rendering_of(png))
        png, rendering = self._converted[path, whole]
        tags = {_FACT_TAGS[fact]: value for fact, value in rendering.facts.items() if fact in _FACT_TAGS}
        tags["window"] = _window_tag(rendering)
        if rendering.frames > 1:
            tags["frame"] = f"{rendering.frame + 1} of {rendering.frames}"
        if slice_tag:
            tags["slice"] = slice_tag
        remarks = tuple(remark for remark in rendering.remarks if remark not in _QUIET_REMARKS)
        return _Picture(path=png, image_id=image_id, group=group, tags=tags, remarks=remarks)

    def _series_picture(self, folder: Path, image_id: str) -> _Picture:
        if folder not in self._chosen:
            below = [one for path, one in self._slices.items() if path.is_relative_to(folder)]
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
            group=self._patients[path],
            slice_tag=f"{place + 1} of {count}" if count > 1 else "",
            whole=count > 1,
        )

    @cached_property
    def _slices(self) -> Mapping[Path, Any]:
        """Every DICOM image below the folder with its series and patient."""
        found = {}
        for path in dicom_files(self.root):
            try:
                path_inside(self.root, path.relative_to(self.root).as_posix())
                found[path] = read_slice(path)
            except DataError:
                continue  # whoever names this file hears why
        return found

    @cached_property
    def _patients(self) -> Mapping[Path, str]:
        """DICOM file → ``own-patient-0001`` and so on, numbered in order of paths."""
        numbers: dict[str, int] = {}
        return {
            path: f"own-patient-{numbers.setdefault(one.patient, len(numbers) + 1):04d}"
            for path, one in self._slices.items()
        }

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
        yield from self._remarks(picture, str(path), told)
        yield CaptionedImage(
            sample_id=sample_id,
            image_id=picture.image_id,
            image=picture.path,
            text=text,
            group_id=picture.group,
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
            return _Picture(path=path, image_id=relative, group=relative), text
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


def _tables(given: Path, name: str, columns: Mapping[str, str]) -> tuple[_Table, ...]:
    """The tables to read; none where pictures with text files or DICOM are read instead."""
    if given.is_file():
        return (_Table(given, None, roles_of(columns_of(given), given, given=columns)),)
    if name:
        path = path_inside(given, name)
        if not path.is_file():
            raise DataError(
                "the table is not there", where=str(path), expected="a table file inside root", got="no such file",
                fix="correct table",
            )  # fmt: skip
        return (_Table(path, _split_in_name(path, given), roles_of(columns_of(path), path, given=columns)),)
    found, unclear = [], []
    for path in _table_files(given):
        try:
            found.append(_Table(path, _split_in_name(path, given), roles_of(columns_of(path), path, given=columns)))
        except DataError as error:
            unclear.append(error)
    if not found and unclear and (columns or not _holds_pictures(given)):
        raise unclear[0]
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
    return tuple(found)


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
    """The text in a file; ``""`` if there is none. Raises ``DataError`` if it is outside ``root``, or no UTF-8."""
    if not path.is_file():
        return ""
    path_inside(root, path.relative_to(root).as_posix())
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except (OSError, ValueError) as error:
        raise DataError("the text file cannot be read as UTF-8", where=str(path), got=path.name) from error


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
