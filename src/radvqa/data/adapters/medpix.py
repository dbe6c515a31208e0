"""MedPix 2.0 in its official layout: CT and MR images with captions, and the clinical cases they belong to.

Layout of the folder, ``MedPix-2-0/`` upstream::

    images/<image>.png                                  the pictures; tables name them without the ending
    splitted_dataset/descriptions_{train,dev,test}.jsonl  one image and its caption per line
    splitted_dataset/data_{train,dev,test}.jsonl          one case per line: title, history, findings, diagnosis, ...
    splitted_dataset/uid_list.json                      the cases of each split
    Descriptions.json  Case_topic.json                  all splits in one list; only Descriptions.json is opened, by
                                                        ``defects``, for the names of the images
    images_overview.csv                                 an older list of images that does not match; never joined on

The training tables exist whole and in two halves, ``*_train_1`` and ``*_train_2``: the halves are read only where the
whole is absent, so no row is read twice.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, final

from radvqa.data.adapter import DatasetAdapter, Item
from radvqa.data.hub_layout import split_named
from radvqa.data.tables import Row, RowError, image_inside, items_of, read_csv, read_json, read_json_lines, shown
from radvqa.errors import DataError
from radvqa.sample import SPLITS, CaptionedImage, Defect, Reject, Split

_FILE_NAMES: Mapping[Split, str] = {"train": "train", "val": "dev", "test": "test"}
_TYPES = ("CT", "MR")
_CASE_FIELDS: Mapping[str, Mapping[str, str]] = {
    "Case": {
        "Title": "title",
        "History": "history",
        "Exam": "exam",
        "Findings": "findings",
        "Differential Diagnosis": "differential_diagnosis",
        "Case Diagnosis": "diagnosis",
        "Diagnosis By": "diagnosis_by",
        "Treatment & Follow Up": "treatment_and_follow_up",
        "Discussion": "discussion",
    },
    "Topic": {
        "Title": "topic_title",
        "Disease Discussion": "disease_discussion",
        "Category": "topic_category",
        "Keywords": "topic_keywords",
        "Reference": "topic_reference",
    },
}
_NOT_AVAILABLE = "N/A"
_RESTORE = "fetch the file again from the data set's source, or correct it"


@dataclass(frozen=True, slots=True, kw_only=True)
class MedPixCase:
    """One clinical case.

    ``image_ids``: of its CT images, then of its MR images, as the case lists them.
    ``fields``: what is written of the case and its disease, by the names that ``CaptionedImage.withheld`` uses; fields
    that are absent, empty or "N/A" are left out.
    """

    case_id: str
    split: Split
    image_ids: tuple[str, ...]
    fields: Mapping[str, str]


@final
class MedPixDataset(DatasetAdapter):
    """MedPix 2.0 (Siragusa et al., Data Science and Engineering 2025) in its official split, which is by case.

    * The sample id is ``medpix-<image>``, the image id the name of the image, the group the case (``U_id``).
    * The text is the caption as published, stripped at its ends. Nearly half of the images share their caption with
      others of the case, and a few captions are a placeholder of the upload form: these are rows like any other.
    * Tags: ``modality`` (CT or MR), ``modality_detail`` (contrast, sequence), ``plane``, ``location``,
      ``location_category``.
    * ``withheld`` holds the fields of the case, which name the diagnosis. Age and sex are in no record.
    """

    licence: ClassVar[str] = "none stated; the contributors hold the copyright"
    citation: ClassVar[str] = (
        "I. Siragusa, S. Contino, M. La Ciura, R. Alicata, R. Pirrone. MedPix 2.0: A Comprehensive Multimodal "
        "Biomedical Data set for Advanced AI Applications with Retrieval Augmented Generation and Knowledge Graphs. "
        "Data Science and Engineering 2025. arXiv:2407.02994"
    )
    homepage: ClassVar[str] = "https://github.com/CHILab1/MedPix-2.0"

    def __init__(self, root: str) -> None:
        """Open the folder ``root``.

        Raises:
            DataError: the folder, its tables or its image folder are missing.
        """
        self.root = Path(root).expanduser()
        _require_layout(self.root)

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """A folder with ``images/`` and a table of descriptions in ``splitted_dataset/``."""
        return (root / "images").is_dir() and any(_tables(root, "descriptions", split) for split in SPLITS)

    def splits(self) -> tuple[Split, ...]:
        """The splits that have a table of descriptions."""
        return tuple(split for split in SPLITS if _tables(self.root, "descriptions", split))

    def sources(self) -> tuple[Path, ...]:
        """The tables of descriptions and of cases that are read, in the order train, val, test."""
        return tuple(
            table for split in self.splits() for kind in ("descriptions", "data") for table in self._tables(kind, split)
        )

    def rows(self, split: Split) -> Iterator[Item]:
        """One split in file order: a record or a reject for every described image.

        Raises:
            DataError: the split has no table, or one of its tables cannot be read.
        """
        tables = self._descriptions(split)
        cases: dict[str, MedPixCase] = {}
        for case in self.cases(split):
            if isinstance(case, MedPixCase):
                cases[case.case_id] = case
            else:
                yield Defect(subject=case.sample_id, reason="broken_case", where=case.where, detail=case.detail)
        if not self._tables("data", split):
            detail = "no table of cases is here: nothing is withheld, and captions with the diagnosis cannot be found"
            yield Defect(subject="medpix", reason="no_cases", where=str(self.root / "splitted_dataset"), detail=detail)
        for table in tables:
            yield from items_of(read_json_lines(table), lambda row: self._items(row, split, cases=cases))

    def cases(self, split: Split) -> Iterator[MedPixCase | Reject]:
        """The cases of one split in file order, and a reject for every row that is none; nothing without a table.

        Raises:
            DataError: a table of cases cannot be read.
        """
        seen: set[str] = set()
        for table in self._tables("data", split):
            for row in read_json_lines(table):
                try:
                    case = _case(row, split)
                    if case.case_id in seen:
                        raise RowError("repeated_id", f"the case {case.case_id} is in an earlier row")
                except RowError as error:
                    yield Reject(
                        sample_id=row.name, reason=error.reason, where=row.where, detail=error.detail, malformed=True
                    )
                else:
                    seen.add(case.case_id)
                    yield case

    def defects(self) -> Iterator[Defect]:
        """Disagreement between the tables: cases or images in several splits, names without picture or description."""
        for check in (self._split_defects, self._half_defects, self._overview_defects, self._image_defects):
            try:
                yield from check()
            except DataError as error:
                detail = f"{error.what}: {error.got}"
                yield Defect(subject="medpix", reason="unreadable_file", where=error.where or "", detail=detail)

    def _items(self, row: Row, split: Split, *, cases: Mapping[str, MedPixCase]) -> Iterator[Item]:
        image_id = row.text("image")
        where = f"{row.where}, image {shown_id(image_id)}"
        image = image_inside(self.root, f"images/{image_id}.png", key="image")
        sample_id, case_id = f"medpix-{image_id}", row.text("U_id")
        description = _nested(row, "Description")
        modality = row.one_of("Type", _TYPES)
        tags = {
            "modality": modality,
            "modality_detail": description.optional_text("Modality"),
            "plane": description.optional_text("Plane"),
            "location": row.optional_text("Location"),
            "location_category": row.optional_text("Location Category"),
        }
        case = cases.get(case_id)
        record = CaptionedImage(
            sample_id=sample_id,
            image_id=image_id,
            image=image,
            text=description.text("Caption").strip(),
            group_id=case_id,
            split=split,
            tags={key: value.strip() for key, value in tags.items() if value.strip() not in ("", _NOT_AVAILABLE)},
            withheld=case.fields if case is not None else {},
        )
        if case is None and cases:
            detail = f"the table of cases has no usable row for {shown_id(case_id)}: nothing is withheld"
            yield Defect(subject=sample_id, reason="no_case", where=where, detail=detail)
        if not image_id.startswith(f"{case_id}_"):
            detail = f"U_id is {shown_id(case_id)}, but the name of the image begins with another case"
            yield Defect(subject=sample_id, reason="image_of_other_case", where=where, detail=detail)
        stated = re.match(r"(CT|MR)", tags["modality_detail"].strip())
        if stated is not None and stated[1] != modality:
            detail = f"Type is {modality}, Modality is {tags['modality_detail']!r}; Type was kept"
            yield Defect(subject=sample_id, reason="modality_conflict", where=where, detail=detail)
        yield record

    def _tables(self, kind: str, split: Split) -> tuple[Path, ...]:
        return _tables(self.root, kind, split)

    def _descriptions(self, split: Split) -> tuple[Path, ...]:
        tables = self._tables("descriptions", split)
        if not tables:
            raise DataError(
                f"MedPix 2.0 has no table for the split {split!r}",
                where=str(self.root / "splitted_dataset"),
                expected=f"one of the splits {', '.join(self.splits())}",
                got=repr(split),
                fix=f"fetch descriptions_{_FILE_NAMES.get(split, split)}.jsonl, or choose a split that is there",
            )
        return tables

    def _split_defects(self) -> Iterator[Defect]:
        path = self.root / "splitted_dataset" / "uid_list.json"
        listed = read_uid_list(path) if path.is_file() else {}
        for case_id, splits in _in_several({split: set(cases) for split, cases in listed.items()}):
            detail = f"the list of cases has it in {' and '.join(splits)}"
            yield Defect(subject=case_id, reason="case_in_several_splits", where=str(path), detail=detail)
        tables = str(self.root / "splitted_dataset")
        described = {split: {case for case, _ in named} for split, named in self._described.items()}
        for case_id, splits in _in_several(described):
            detail = f"its images are described in {' and '.join(splits)}"
            yield Defect(subject=case_id, reason="case_in_several_splits", where=tables, detail=detail)
        for image_id, splits in _in_several(
            {split: {image for _, image in named} for split, named in self._described.items()}
        ):
            detail = f"the image is described in {' and '.join(splits)}"
            yield Defect(subject=image_id, reason="image_in_several_splits", where=tables, detail=detail)
        for split, cases in described.items():
            for case_id in sorted(cases - listed[split] if split in listed else ()):
                detail = f"its images are described in {split}, where the list of cases does not have it"
                yield Defect(subject=case_id, reason="case_not_in_list", where=str(path), detail=detail)

    def _half_defects(self) -> Iterator[Defect]:
        whole, halves = (
            [self.root / "splitted_dataset" / f"descriptions_{name}.jsonl" for name in names]
            for names in (("train",), ("train_1", "train_2"))
        )
        if not all(table.is_file() for table in (*whole, *halves)):
            return
        named, in_halves = _named(whole), _named(halves)
        if named != in_halves:
            detail = (
                f"{len(named - in_halves)} images of train are in neither half, {len(in_halves - named)} images of the "
                "halves are not in train; train was read"
            )
            yield Defect(subject="medpix", reason="halves_differ_from_train", where=str(whole[0]), detail=detail)

    def _overview_defects(self) -> Iterator[Defect]:
        path = self.root / "images_overview.csv"
        if not path.is_file():
            return
        ids = set(_texts(read_csv(path), "ID_Image"))
        if foreign := sorted(ids - self._known_images):
            detail = (
                f"{len(foreign):,} of its {len(ids):,} images are described nowhere, such as {shown_id(foreign[0])}; "
                "the file is not used"
            )
            yield Defect(subject="medpix", reason="overview_does_not_match", where=str(path), detail=detail)

    def _image_defects(self) -> Iterator[Defect]:
        folder = self.root / "images"
        try:
            present = sorted(path.stem for path in folder.iterdir() if path.suffix == ".png")
        except OSError as error:
            raise DataError("folder cannot be read", where=str(folder), got=error.strerror, fix=_RESTORE) from error
        for image_id in present:
            if image_id not in self._known_images:
                yield Defect(
                    subject=image_id.encode("utf-8", "backslashreplace").decode(),
                    reason="image_without_description",
                    where=str(folder),
                    detail="no table describes the picture; it is in no record",
                )

    @cached_property
    def _described(self) -> Mapping[Split, frozenset[tuple[str, str]]]:
        """Case and name of every described image, per split."""
        return {split: frozenset(_named(self._descriptions(split))) for split in self.splits()}

    @cached_property
    def _known_images(self) -> frozenset[str]:
        known = {image for named in self._described.values() for _, image in named}
        path = self.root / "Descriptions.json"
        if path.is_file():
            known.update(_texts(read_json(path), "image"))
        return frozenset(known)


ADAPTER = MedPixDataset


def read_uid_list(path: Path) -> Mapping[Split, frozenset[str]]:
    """The cases of each official split, from ``splitted_dataset/uid_list.json``; the halves count as train.

    Raises:
        DataError: the file cannot be read, or is no object of lists of case ids.
    """
    got, value = "", None
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        got = error.strerror or str(error)
    except (ValueError, RecursionError) as error:
        got = f"no JSON: {error}"
    found: dict[Split, set[str]] = {}
    if isinstance(value, dict):
        for name, cases in value.items():
            split = split_named(re.sub(r"_[12]$", "", name))
            if split is not None and isinstance(cases, list) and all(isinstance(case, str) for case in cases):
                found.setdefault(split, set()).update(cases)
            else:
                got = f"{name}: {shown(cases)}"
    if got or not found:
        raise DataError(
            "not the list of MedPix cases",
            where=str(path),
            expected='{"train": [case ids], "dev": [case ids], ...}',
            got=got or shown(value),
            fix="point to splitted_dataset/uid_list.json of MedPix 2.0, or fetch it again",
        )
    return {split: frozenset(found[split]) for split in SPLITS if split in found}


def shown_id(text: str) -> str:
    """An id as messages show it: cut, since it is part of a row that may be damaged."""
    return text if len(text) <= 80 else f"{text[:80]}..."


def _tables(root: Path, kind: str, split: Split) -> tuple[Path, ...]:
    """The table of one kind for a split: the whole, else both halves of train, else nothing."""
    folder = root / "splitted_dataset"
    name = _FILE_NAMES.get(split)
    candidates = [[f"{kind}_{name}.jsonl"], [f"{kind}_{name}_1.jsonl", f"{kind}_{name}_2.jsonl"]]
    for names in candidates:
        tables = tuple(folder / one for one in names)
        if all(table.is_file() for table in tables):
            return tables
    return ()


def _case(row: Row, split: Split) -> MedPixCase:
    fields = {}
    for section, names in _CASE_FIELDS.items():
        part = _nested(row, section)
        values = {name: part.optional_text(key).strip() for key, name in names.items()}
        fields.update({name: value for name, value in values.items() if value not in ("", _NOT_AVAILABLE)})
    image_ids = tuple(image for key in ("TAC", "MRI") for image in _names(row, key))
    return MedPixCase(case_id=row.text("U_id"), split=split, image_ids=image_ids, fields=fields)


def _nested(row: Row, key: str) -> Row:
    """The object under ``key`` as a row of its own. Raises ``RowError`` if there is none."""
    value = _value(row, key)
    if not isinstance(value, dict):
        raise RowError("wrong_type", f"{key} should be an object, got {shown(value)}")
    return Row(row.where, row.name, value)


def _names(row: Row, key: str) -> list[str]:
    value = _value(row, key)
    if not isinstance(value, list):
        raise RowError("wrong_type", f"{key} should be a list of image names, got {shown(value)}")
    return [Row(row.where, row.name, {key: name}).text(key) for name in value]


def _value(row: Row, key: str) -> Any:
    if row.broken is not None:
        raise row.broken
    if key not in row.values:
        raise RowError("missing_key", f"there is no {key!r}, only {shown(list(row.values))}")
    return row.values[key]


def _named(tables: Iterable[Path]) -> set[tuple[str, str]]:
    """Case and image of every row that has both; ``rows`` rejects the others."""
    found = set()
    for table in tables:
        for row in read_json_lines(table):
            with suppress(RowError):
                found.add((row.text("U_id"), row.text("image")))
    return found


def _texts(rows: Iterable[Row], key: str) -> Iterator[str]:
    for row in rows:
        with suppress(RowError):
            yield row.text(key)


def _in_several(by_split: Mapping[Split, set[str]]) -> Iterator[tuple[str, tuple[Split, ...]]]:
    """What is in more than one split, and in which."""
    splits: dict[str, tuple[Split, ...]] = {}
    for split, names in by_split.items():
        for name in names:
            splits[name] = (*splits.get(name, ()), split)
    yield from sorted((name, of_name) for name, of_name in splits.items() if len(of_name) > 1)


def _require_layout(root: Path) -> None:
    if not root.is_dir():
        got = "a file" if root.exists() else "no such folder"
    elif not any(_tables(root, "descriptions", split) for split in SPLITS):
        got = "no table splitted_dataset/descriptions_*.jsonl"
    elif not (root / "images").is_dir():
        got = "no folder images/"
    else:
        return
    raise DataError(
        "MedPix 2.0 is not at this place",
        where=str(root),
        expected="a folder with splitted_dataset/descriptions_train.jsonl (or dev, test) and images/",
        got=got,
        fix=f"point root at the unpacked folder MedPix-2-0, or fetch it from {MedPixDataset.homepage}",
    )
