"""Generated questions on MedPix: MEDPIX-ShortQA and MEDPIX-ClinQA of ``adishourya`` on the Hugging Face hub.

Two layouts are read:

* Parquet files of the hub, one or more per split, with the pictures inside: under ``image_id`` in ShortQA, under
  ``image`` in ClinQA, whose ``image_id`` is text;
* the table ``dataset_sa.csv`` of ShortQA: all splits in one file, ``image_id`` a path such as
  ``sample/MPX1009_synpic46283.png`` that names a picture of MedPix 2.0.

The published split is a random one by case. It crosses the official split of MedPix 2.0: cases that are official
validation or test cases stand in its training part.
"""

import csv
import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path, PureWindowsPath
from typing import ClassVar, final

from radvqa.data.adapter import DatasetAdapter, Item
from radvqa.data.adapters.medpix import read_uid_list, shown_id
from radvqa.data.answers import inferred_answer_type
from radvqa.data.hub_layout import parquet_splits, split_named
from radvqa.data.image_cache import embedded_image
from radvqa.data.tables import Row, RowError, image_inside, items_of, parquet_columns, read_csv, read_parquet, shown
from radvqa.errors import DataError, RecipeError
from radvqa.sample import SPLITS, Defect, Reject, Split, VqaSample

_COLUMNS = frozenset({"image_id", "case_id", "question", "answer", "mode"})
_CSV_COLUMNS = _COLUMNS | {"split"}
_PREFIXES = {"question": re.compile(r"Q\d+:\s*"), "answer": re.compile(r"A\d+:\s*")}


@final
class MedPixQaDataset(DatasetAdapter):
    """MEDPIX-ShortQA and MEDPIX-ClinQA (adishourya, 2024): answers written by a language model, not by radiologists.

    * There are no ids: the sample id is ``medpix_qa-<file>:<row number>``, so it holds for one version of a file.
      The image id is the name of the MedPix picture where the row tells it, else made of the picture's SHA-256. The
      group is the case.
    * With the option ``official`` the split is that of MedPix 2.0, and a row whose published split disagrees has a
      defect ``foreign_split``. A row of another split is a reject ``other_split``, a row whose case the list does not
      have a reject ``case_in_no_split``. Without it the published split is used, and every split read has a defect
      ``crosses_official_split``.
    * Numbers in front of questions and answers ("Q1:", "A1:") are taken off with a defect ``prefix_in_text``, blanks
      around a question with a defect ``white_space_in_question``.
    * Many questions ask what no picture shows (history, laboratory values): audit before use.
    """

    licence: ClassVar[str] = "MIT (repository); the text derives from MedPix and a Llama 3.1 model"
    citation: ClassVar[str] = "adishourya. MEDPIX-ShortQA and MEDPIX-ClinQA (project MedM). Hugging Face Hub, 2024"
    homepage: ClassVar[str] = "https://huggingface.co/datasets/adishourya/MEDPIX-ShortQA"

    def __init__(self, root: str, *, images: str | None = None, official: str | None = None) -> None:
        """Open the table or folder ``root``.

        Args:
            root: a Parquet or CSV file, or a folder with Parquet files or with one such CSV file.
            images: the folder of the MedPix pictures, ``MedPix-2-0/images``; a CSV needs it.
            official: ``splitted_dataset/uid_list.json`` of MedPix 2.0, whose split is then used.

        Raises:
            RecipeError: ``root`` is a CSV and no images are given, or the reverse.
            DataError: there is no such table, no folder of images, or the list of cases cannot be used.
        """
        self.root = Path(root).expanduser()
        self._hub_files = parquet_splits(self.root, columns=_COLUMNS)
        self._csv = None if self._hub_files else _csv_table(self.root)
        if not self._hub_files and self._csv is None:
            raise _not_here(self.root)
        if (self._csv is None) != (images is None):
            raise _images_option(self._csv, images)
        self._images = Path(images).expanduser() if images is not None else None
        if self._images is not None and not self._images.is_dir():
            raise DataError(
                "the folder of the MedPix pictures is not there",
                where=str(self._images),
                expected="a folder with MPX..._synpic....png",
                got="a file" if self._images.exists() else "no such folder",
                fix="point the option images at MedPix-2-0/images",
            )
        self._official = _official_splits(Path(official).expanduser()) if official is not None else None

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """A Parquet or CSV file with the columns of these sets, or a folder that holds some."""
        return bool(parquet_splits(root, columns=_COLUMNS)) or _csv_table(root) is not None

    def splits(self) -> tuple[Split, ...]:
        """The splits of the official list where it is given, else those that files or the split column name."""
        if self._official is not None:
            found = set(self._official.values())
        elif self._csv is not None:
            found = self._published_splits
        else:
            found = set(self._hub_files)
        return tuple(split for split in SPLITS if split in found)

    def sources(self) -> tuple[Path, ...]:
        """All tables, the official list not among them."""
        if self._csv is not None:
            return (self._csv,)
        return tuple(file for files in self._hub_files.values() for file in files)

    def rows(self, split: Split) -> Iterator[Item]:
        """One split in file order; every row of another split in the same files is a reject.

        With ``official`` the files of all published splits are read, since each may hold rows of the split asked for.

        Raises:
            DataError: the split is not there, or a file cannot be read.
        """
        if split not in self.splits():
            raise DataError(
                f"the generated questions on MedPix have no split {split!r}",
                where=str(self.root),
                expected=f"one of {', '.join(self.splits())}",
                got=repr(split),
                fix="choose a split that is there",
            )
        if self._official is None:
            detail = (
                "the published split is random by case and crosses the official split of MedPix 2.0: never evaluate "
                "on MedPix after training on it; give the option official to use the official split"
            )
            yield Defect(subject="medpix_qa", reason="crosses_official_split", where=str(self.root), detail=detail)
        if self._csv is not None:
            yield from items_of(read_csv(self._csv), lambda row: self._items(row, split, published=None))
            return
        for published, files in self._hub_files.items():
            for file in files if self._official is not None or published == split else ():
                yield from self._hub_items(file, split, published=published)

    def _hub_items(self, file: Path, split: Split, *, published: Split) -> Iterator[Item]:
        yield from items_of(read_parquet(file), lambda row: self._items(row, split, published=published))

    def _items(self, row: Row, split: Split, *, published: Split | None) -> Iterator[Item]:
        sample_id, case_id = f"medpix_qa-{row.name}", row.text("case_id").strip()
        where = f"{row.where}, case {shown_id(case_id)}"
        stated = _stated_split(row) if published is None or "split" in row.values else published
        actual = self._official.get(case_id) if self._official is not None else published or stated
        if actual is None:
            detail = f"the official list of cases does not have {shown_id(case_id)}, so its split is unknown"
            yield Reject(sample_id=sample_id, reason="case_in_no_split", where=where, detail=detail)
            return
        if actual != split:
            detail = f"the row is of the split {actual}, {split} was asked for"
            yield Reject(sample_id=sample_id, reason="other_split", where=where, detail=detail)
            return
        image_id, image = self._picture(row)
        question, answer = row.text("question"), row.text("answer")
        mended = {"question": _without_prefix(question, "question"), "answer": _without_prefix(answer, "answer")}
        sample = VqaSample(
            sample_id=sample_id,
            image_id=image_id,
            image=image,
            question=mended["question"],
            answers=(mended["answer"],),
            answer_type=inferred_answer_type(mended["answer"]),
            answer_type_stated=False,
            group_id=case_id,
            split=split,
            tags={"mode": row.text("mode")},
        )
        if stated != actual:
            detail = f"the published split is {stated}, the {'official' if self._official else 'file'} one {actual}"
            yield Defect(subject=sample_id, reason="foreign_split", where=where, detail=f"{detail}, which was kept")
        if image_id.startswith("MPX") and not image_id.startswith(f"{case_id}_"):
            detail = f"case_id is {shown_id(case_id)}, but the picture is {shown_id(image_id)}"
            yield Defect(subject=sample_id, reason="image_of_other_case", where=where, detail=detail)
        for reason, detail in _mendings(question, answer):
            yield Defect(subject=sample_id, reason=reason, where=where, detail=detail)
        yield sample

    def _picture(self, row: Row) -> tuple[str, Path]:
        """Id and file of a row's picture. Raises ``RowError`` if the row has none."""
        if self._images is not None:
            published = row.text("image_id")
            # The folder in front ("sample/") is one of the authors' machine.
            image_id = PureWindowsPath(published).stem
            if not image_id:
                raise RowError("empty_value", f"image_id {shown(published)} names no picture")
            return image_id, image_inside(self._images, f"{image_id}.png", key="image_id")
        inside = "image" if "image" in row.values else "image_id"
        picture = embedded_image(row, inside)
        value = row.values[inside]
        name = value.get("path") if isinstance(value, dict) else None
        if inside == "image" and isinstance(row.values.get("image_id"), str):
            name = row.text("image_id")
        stem = "" if name is None else PureWindowsPath(Row(row.where, row.name, {"path": name}).text("path")).stem
        return stem or f"medpix_qa-{picture.stem[:16]}", picture

    @cached_property
    def _published_splits(self) -> set[Split]:
        rows = read_csv(self._csv) if self._csv is not None else iter(())
        return {split for row in rows if (split := split_named(str(row.values.get("split", "")))) is not None}


ADAPTER = MedPixQaDataset


def _stated_split(row: Row) -> Split:
    split = split_named(row.text("split", may_be_empty=True))
    if split is None:
        raise RowError(
            "unknown_value", f"split should be one of Train, Valid, Test, got {shown(row.values.get('split'))}"
        )
    return split


def _without_prefix(text: str, kind: str) -> str:
    """The text without its number in front, white space collapsed. Raises ``RowError`` if nothing is left."""
    left = " ".join(_PREFIXES[kind].sub("", text.strip(), count=1).split())
    if not left:
        raise RowError("empty_value", f"{kind} is empty but for its number: {shown(text)}")
    return left


def _mendings(question: str, answer: str) -> Iterator[tuple[str, str]]:
    for kind, text in (("question", question), ("answer", answer)):
        if prefix := _PREFIXES[kind].match(text.strip()):
            yield "prefix_in_text", f"{kind}: the number {prefix[0].strip()!r} in front of it was taken off"
        inner = " ".join(text.split()) != text.strip()
        if inner or (kind == "question" and text != text.strip()):
            made = "collapsed" if inner else "taken off"
            yield f"white_space_in_{kind}", f"white space of the {kind} {text[:80]!r} was {made}"


def _official_splits(path: Path) -> Mapping[str, Split]:
    """The official split of every listed case. Raises ``DataError`` if a case is in two, or like ``read_uid_list``."""
    splits: dict[str, Split] = {}
    for split, cases in read_uid_list(path).items():
        for case_id in cases:
            if case_id in splits:
                raise DataError(
                    "a case is in two official splits",
                    where=str(path),
                    expected="every case in one split",
                    got=f"{shown_id(case_id)} in {splits[case_id]} and {split}",
                    fix="fetch uid_list.json of MedPix 2.0 again",
                )
            splits[case_id] = split
    return splits


def _csv_table(root: Path) -> Path | None:
    """The one CSV table with these columns: ``root`` itself or a file in it; None if there is none, or several."""
    files = [root] if root.is_file() else sorted(root.glob("*.csv")) if root.is_dir() else []
    found = [file for file in files if file.suffix.lower() == ".csv" and _header(file) >= _CSV_COLUMNS]
    return found[0] if len(found) == 1 else None


def _header(path: Path) -> set[str]:
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            return {name.strip() for name in next(csv.reader([file.readline(10_000)]), [])}
    except (OSError, ValueError, csv.Error):
        return set()


def _images_option(table: Path | None, images: str | None) -> RecipeError:
    if table is None:
        return RecipeError(
            "the option images is for the CSV table; these Parquet files hold their pictures",
            expected="no images",
            got=repr(images),
            fix="remove the option images",
        )
    return RecipeError(
        "the generated questions on MedPix come without pictures here",
        where=str(table),
        expected="the option images: the folder MedPix-2-0/images",
        got="no images",
        fix="add images to this entry under datasets, or use the Parquet files of the hub",
    )


def _not_here(root: Path) -> DataError:
    if root.is_dir():
        names = sorted(entry.name for entry in root.iterdir())
        got = f"a folder with {', '.join(names[:5])}" if names else "an empty folder"
    else:
        columns = sorted(_header(root)) if root.suffix.lower() == ".csv" else parquet_columns(root)
        got = f"a file with the columns {', '.join(columns)[:200]}" if root.is_file() else "nothing"
    return DataError(
        "the generated questions on MedPix are not at this place",
        where=str(root),
        expected=f"Parquet files with the columns {', '.join(sorted(_COLUMNS))}; or one CSV that also has split",
        got=got,
        fix=f"fetch them from {MedPixQaDataset.homepage}",
    )
