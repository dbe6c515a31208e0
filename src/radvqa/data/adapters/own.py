"""Your own images: a table, a folder of pictures with text files, or DICOM studies.

Read are, whichever is there:

* a table (CSV, TSV, JSON, JSON Lines, Parquet) with a column for the image and question and answer, or a caption;
  tables may be split by name or folder (``train.csv``, ``val/metadata.jsonl``, ``data/train-00000-of-00002.parquet``);
* the ImageFolder layout of Hugging Face (``metadata.csv`` with ``file_name``), and pictures inside Parquet;
* no table: pictures with a ``.txt`` of the same name as caption, in folders ``train``, ``val``, ``test`` or none;
* DICOM in place of any picture; a folder of DICOM files stands for the middle slice of its largest series.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, final

from radvqa.data.adapter import DatasetAdapter, Item
from radvqa.data.answers import inferred_answer_type
from radvqa.data.columns import check_roles
from radvqa.data.dicom import REMARKS
from radvqa.data.dicom_codes import DICOM_SUFFIXES, Frame, Window, check_window, is_dicom
from radvqa.data.dicom_series import (
    Patients,
    Series,
    Slice,
    files_below,
    series_of,
)
from radvqa.data.hub_layout import split_named
from radvqa.data.image_cache import kept_image
from radvqa.data.own_dicom import OwnDicom, OwnPicture, is_dicom_file
from radvqa.data.own_rows import ANSWER_TYPES, GROUP_ROLES, RowReader
from radvqa.data.own_tables import (
    ARCHIVE_SUFFIXES,
    PICTURE_SUFFIXES,
    OwnTable,
    find_tables,
    holds_pictures,
    is_usable,
    require_readable,
    rows_with,
    table_files,
)
from radvqa.data.paths import path_inside
from radvqa.data.tables import TABLE_SUFFIXES, Row, RowError, items_of, read_table, shown
from radvqa.errors import DataError, RecipeError
from radvqa.sample import SPLITS, CaptionedImage, Defect, Reject, Split, VqaSample

VOLUME_SUFFIXES = (".nii", ".mha", ".mhd", ".nrrd", ".npy", ".npz", ".pdf")

_TAGS = ("modality", "organ", "location", "plane", "content_type", "question_type")


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
        require_readable(given)
        self.root = given.parent if given.is_file() else given
        self.split_if_absent, self.language = split_if_absent, language
        self._dicom = OwnDicom(self.root, window=window, frame=frame, stored_window=stored_window)
        self._name = self.root.resolve().name or "root"
        self._tables, self._skipped = find_tables(given, table, columns or {})

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """A table whose columns are clear, a folder with one, pictures with text files, or DICOM."""
        try:
            if root.is_file():
                return root.suffix.lower() in TABLE_SUFFIXES and is_usable(root)
            return root.is_dir() and (any(is_usable(path) for path in table_files(root)[:20]) or holds_pictures(root))
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
            return next((str(one) for one in pictures if one not in self._dicom.slices and _is_text(one)), "")
        for table in self._tables:
            for row in rows_with(table, ("image", *GROUP_ROLES)):
                read = RowReader(row, table.roles)
                try:
                    if not read.keys() and not self._names_dicom(read, table):
                        return row.where
                except RowError:
                    continue  # a reject of its split
        return ""

    # --- tables ------------------------------------------------------------------------------------------------------

    def _rows_to_tell(self, table: OwnTable, split: Split) -> Iterator[Row]:
        """The rows of a table; those whose split cannot be known only for the first split, to be told once."""
        first = split == self.splits()[0]
        for row in read_table(table.path):
            if first or "split" not in table.roles or self._has_known_split(row, table):
                yield row

    def _has_known_split(self, row: Row, table: OwnTable) -> bool:
        try:
            self._stated_split(RowReader(row, table.roles), table)
        except RowError:
            return False
        return row.broken is None

    def _items(self, row: Row, *, table: OwnTable, split: Split, told: set[str]) -> Iterator[Item]:
        read = RowReader(row, table.roles)
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
        answer_type = ANSWER_TYPES.get(stated_type.lower())
        yield VqaSample(
            question=question,
            answers=answers,
            answer_type=answer_type or ("closed" if choices else inferred_answer_type(answers[0])),
            answer_type_stated=answer_type is not None,
            choices=choices,
            **common,
        )

    def _stated_split(self, read: "RowReader", table: OwnTable) -> Split:
        text = read.text("split")
        if not text:
            return table.split or self.split_if_absent
        if (split := split_named(text)) is None:
            raise RowError("unknown_split", f"the split should be train, val or test, got {shown(text)}")
        return split

    def _picture(self, read: "RowReader", table: OwnTable) -> OwnPicture:
        """Raises ``RowError`` where the row names no picture, ``DataError`` where DICOM cannot be shown."""
        value = read.image()
        if isinstance(value, bytes):
            image_id = read.text("image_id") or f"own-{hashlib.sha256(value).hexdigest()[:16]}"
            if is_dicom(value):
                return self._dicom.picture(table.path, image_id, content=value)
            return OwnPicture(path=kept_image(value), image_id=image_id)
        path = self._named(value, table)
        image_id = read.text("image_id") or path.relative_to(self.root).as_posix()
        if path.is_dir():
            return self._dicom.series_picture(path, image_id)
        if is_dicom_file(path):
            return self._dicom.picture(path, image_id)
        return OwnPicture(path=path, image_id=image_id)

    def _named(self, name: str, table: OwnTable) -> Path:
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
            if sum(role in table.roles for role in GROUP_ROLES) < 2:
                continue
            for row in rows_with(table, GROUP_ROLES):
                try:
                    keys = RowReader(row, table.roles).keys()
                except RowError:
                    continue  # a reject of its split
                for key in keys[1:]:
                    found.setdefault(key, keys[0])
        return found

    def _group_of_picture(self, picture: OwnPicture) -> tuple[str, bool]:
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
        slices = list(self._dicom.slices.values())
        for table in self._tables:
            for row in rows_with(table, ("image",)):
                try:
                    slices += self._slices_in(RowReader(row, table.roles), table)
                except RowError:
                    continue  # a reject of its split
        return Patients(slices)

    def _slices_in(self, read: "RowReader", table: OwnTable) -> list[Slice]:
        """The DICOM images that a row names or holds. Raises ``RowError`` like ``_named``."""
        value = read.image()
        if isinstance(value, bytes):
            found = [self._dicom.slice_of(table.path, content=value)] if is_dicom(value) else []
        else:
            path = self._named(value, table)
            if path.is_dir():
                return self._dicom.slices_below(path)
            found = [self._dicom.slice_of(path)] if is_dicom_file(path) else []
        return [one for one in found if one is not None]

    def _names_dicom(self, read: "RowReader", table: OwnTable) -> bool:
        value = read.image()
        if isinstance(value, bytes):
            return is_dicom(value)
        path = self._named(value, table)
        return path.is_dir() or is_dicom_file(path)

    def _patient_unknown(self, picture: OwnPicture, where: str, told: set[str]) -> Iterator[Defect]:
        """Once per image: its header names no patient, so the image had to be the group."""
        if picture.image_id not in told:
            detail = "the header names neither patient nor study, so the image is its own group"
            yield Defect(subject=picture.image_id, reason="patient_unknown", where=where, detail=detail)

    def _remarks(self, picture: OwnPicture, where: str, told: set[str]) -> Iterator[Defect]:
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

    def _splits_of_column(self, table: OwnTable) -> set[Split]:
        column, rest = table.roles["split"], table.split or self.split_if_absent
        values = {str(row.values.get(column) or "") for row in rows_with(table, ("split",))}
        told = {split_named(value) if value.strip() else rest for value in values}
        return {split for split in told if split is not None}

    def _folder_split(self, path: Path) -> Split:
        parts = path.relative_to(self.root).parts
        return (split_named(parts[0]) if len(parts) > 1 else None) or self.split_if_absent

    def _file_items(self, split: Split, told: set[str]) -> Iterator[Item]:
        """A caption for every picture and DICOM series that has a text file, and a reject for everything else."""
        used: set[Path] = set()
        starts = {min(one.path for one in series.slices): series for series in series_of(self._dicom.slices.values())}
        texts = []
        for path in files_below(self.root):
            if self._folder_split(path) != split:
                continue
            if path.suffix.lower() == ".txt":
                texts.append(path)
            elif path in starts:
                yield from self._captioned(path, starts[path], split, used, told)
            elif path not in self._dicom.slices:
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

    def _file_picture(self, path: Path, series: Series | None, used: set[Path]) -> tuple[OwnPicture, str]:
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
            return OwnPicture(path=path, image_id=relative), text
        return self._dicom.slice_picture(series, relative), text

    def _file_id(self, path: Path) -> str:
        return f"own-{path.relative_to(self.root).as_posix()}"


ADAPTER = OwnDataset


def _is_text(picture: Path) -> bool:
    return picture.with_suffix(".txt").is_file()


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
