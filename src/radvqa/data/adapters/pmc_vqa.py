"""PMC-VQA: multiple-choice questions about figures of open-access articles, written by a language model.

Layout of the folder, ``xmcmic/PMC-VQA`` on the Hugging Face hub::

    train.csv  test.csv  test_clean.csv    version 1: Figure_path, Question, Answer, Choice A...D, Answer_label
    train_2.csv  test_2.csv                version 2: index, Figure_path, Caption, Question, Choice A...D,
                                           Answer (a letter), split
    images/ or figures/                    PMC1064097_F1.jpg, ..., from images.zip or images_2.zip

Copies as Parquet with the columns image, question, answer, choice a...d and answer label, such as
``mdwiratathya/PMC-VQA_small``, are read too.
"""

import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, final

from radvqa.data.adapter import DatasetAdapter, Item
from radvqa.data.answers import collapsed
from radvqa.data.hub_layout import parquet_splits
from radvqa.data.image_cache import embedded_image
from radvqa.data.paths import path_inside
from radvqa.data.tables import Row, RowError, image_inside, items_of, read_csv, read_parquet, shown
from radvqa.errors import DataError, RecipeError
from radvqa.sample import Defect, Split, VqaSample

LETTERS = "ABCD"

_TABLES: Mapping[int, Mapping[Split, str]] = {
    1: {"train": "train.csv", "test": "test.csv"},
    2: {"train": "train_2.csv", "test": "test_2.csv"},
}
_CLEAN = "test_clean.csv"
_IMAGES: Mapping[int, tuple[str, ...]] = {1: ("images", "figures"), 2: ("figures", "images_2", "images")}
_COLUMNS = frozenset({"Figure_path", "Question", "Answer", *(f"Choice {letter}" for letter in LETTERS)})
_HUB_COLUMNS = frozenset({"image", "question", "answer", "answer label", *(f"choice {one.lower()}" for one in LETTERS)})
_ARTICLE = re.compile(r"PMC[0-9]+")
_LABELLED = re.compile(r"\s*([A-D])\s*:(.*)", re.DOTALL)


@final
class PmcVqaDataset(DatasetAdapter):
    """PMC-VQA (Zhang et al., 2023): a question, four choices and the letter of the right one.

    * The sample id is ``pmcvqa-<table>:<row>``: the rows have no id of their own that is kept between versions. The
      image id is the figure's file name without its ending.
    * The group is the article, whose number (``PMC1064097``) begins the file name; else the image.
    * ``choices`` are the four texts in their order without their letters; the answer is the text of the right one.
      Multiple choice counts as closed, though the data set does not say so.
    * The letter decides. Where ``Answer`` holds the text of another choice, the row contradicts itself and becomes a
      reject ``conflicting_answer``; where it holds none of them, that is a defect.
    * ``test_clean.csv`` is a part of ``test.csv`` that was checked by hand; ``clean`` reads it instead.
    * ``Caption`` is not read: the questions were made from it. Many can be answered without the picture, so compare
      with a blind model.
    """

    licence: ClassVar[str] = "CC BY-SA; each figure under the licence of its article"
    citation: ClassVar[str] = (
        "X. Zhang, C. Wu, Z. Zhao, W. Lin, Y. Zhang, Y. Wang, W. Xie. PMC-VQA: Visual Instruction Tuning for Medical "
        "Visual Question Answering. 2023. arXiv:2305.10415"
    )
    homepage: ClassVar[str] = "https://huggingface.co/datasets/xmcmic/PMC-VQA"

    def __init__(self, root: str, *, version: int | None = None, clean: bool = False) -> None:
        """Open the folder ``root``.

        Args:
            root: the folder with the tables, or Parquet files.
            version: 1 or 2; None takes version 1 where it is there, else version 2.
            clean: the test split is ``test_clean.csv``, which only version 1 has.

        Raises:
            RecipeError: there is no such version, or it has no checked test split.
            DataError: the folder, its tables or its image folder are missing; a table has other columns.
        """
        if version not in (None, *_TABLES):
            raise RecipeError(
                f"PMC-VQA has no version {version}", expected="1 or 2", fix="correct version under datasets"
            )
        self.root = Path(root).expanduser()
        self._hub_files = parquet_splits(self.root, columns=_HUB_COLUMNS)
        if clean and (version == 2 or self._hub_files):
            raise RecipeError(
                "this form of PMC-VQA has no checked test split",
                where=str(self.root),
                expected=f"version 1 with {_CLEAN}",
                fix="leave clean out, or point root at the CSV files of version 1",
            )
        self._tables: dict[Split, Path] = {}
        self._images = ""
        if not self._hub_files:
            self._open_tables(version, clean=clean)

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """A folder with one of the CSV files and its columns, or Parquet files with those of the copies."""
        names = [name for tables in _TABLES.values() for name in tables.values()]
        return any(_header(root / name) >= _COLUMNS for name in [*names, _CLEAN]) or bool(
            parquet_splits(root, columns=_HUB_COLUMNS)
        )

    def splits(self) -> tuple[Split, ...]:
        """The splits that have a table."""
        return tuple(self._hub_files or self._tables)

    def rows(self, split: Split) -> Iterator[Item]:
        """One split in file order.

        Raises:
            DataError: the split is not there, or its table cannot be read.
        """
        if split not in self.splits():
            raise DataError(
                f"PMC-VQA has no table of the split {split!r} here",
                where=str(self.root),
                expected=" or ".join(self.splits()),
                fix="choose one of these splits, or fetch the file",
            )
        if self._hub_files:
            for file in self._hub_files[split]:
                yield from items_of(read_parquet(file), lambda row: _hub_items(row, split))
        else:
            yield from items_of(read_csv(self._tables[split]), lambda row: self._items(row, split))

    def sources(self) -> tuple[Path, ...]:
        """The tables that are read."""
        if self._hub_files:
            return tuple(file for files in self._hub_files.values() for file in files)
        return tuple(self._tables.values())

    def _items(self, row: Row, split: Split) -> Iterator[Item]:
        figure = row.text("Figure_path").strip()
        image = image_inside(self.root / self._images, figure, key="Figure_path")
        yield from _records(row, split, image=image, image_id=image.stem)

    def _open_tables(self, version: int | None, *, clean: bool) -> None:
        versions = (version,) if version is not None else tuple(_TABLES)
        for one in versions:
            names = {**_TABLES[one], "test": _CLEAN} if clean else _TABLES[one]
            tables = {split: self.root / name for split, name in names.items() if (self.root / name).is_file()}
            if tables:
                break
        else:
            expected = ", ".join(name for one in versions for name in _TABLES[one].values())
            raise self._not_here(expected=f"{expected} and images/ or figures/, or Parquet files", got=_seen(self.root))
        for table in tables.values():
            if missing := _COLUMNS - _header(table):
                raise self._not_here(
                    expected=f"the columns {', '.join(sorted(_COLUMNS))}",
                    got=f"{table.name} without {', '.join(sorted(missing))}",
                )
        folders = [name for name in _IMAGES[one] if (self.root / name).is_dir()]
        if not folders:
            packed = "images.zip" if one == 1 else "images_2.zip"
            raise self._not_here(
                expected=f"the image folder {' or '.join(_IMAGES[one])}",
                got=f"{packed}, still packed" if (self.root / packed).is_file() else "no image folder",
                fix=f"fetch {packed} from {self.homepage} if it is not there, and unzip it in {self.root}",
            )
        path_inside(self.root, folders[0])  # which refuses a link out of the folder
        self._tables, self._images = tables, folders[0]

    def _not_here(self, *, expected: str, got: str, fix: str | None = None) -> DataError:
        return DataError(
            "PMC-VQA is not at this place",
            where=str(self.root),
            expected=expected,
            got=got,
            fix=fix or f"point root at the folder with the tables, or fetch it from {self.homepage}",
        )


ADAPTER = PmcVqaDataset


def _hub_items(row: Row, split: Split) -> Iterator[Item]:
    names = {"question": "Question", "answer": "Answer", "answer label": "Answer_label"}
    names |= {f"choice {letter.lower()}": f"Choice {letter}" for letter in LETTERS}
    renamed = Row(row.where, row.name, {names.get(key, key): value for key, value in row.values.items()})
    image = embedded_image(row, "image")
    yield from _records(renamed, split, image=image, image_id=f"pmcvqa-{image.stem[:16]}")


def _records(row: Row, split: Split, *, image: Path, image_id: str) -> Iterator[Item]:
    sample_id = f"pmcvqa-{row.name}"
    question = " ".join(row.text("Question").split())
    offered, mended = _choices(row)
    letter, doubt = _right_letter(row, offered)
    if not offered[letter]:
        raise RowError("empty_value", f"the right choice, {letter}, is empty")
    for reason, detail in (*mended, *doubt):
        yield Defect(subject=sample_id, reason=reason, where=row.where, detail=detail)
    article = _ARTICLE.match(image_id)
    yield VqaSample(
        sample_id=sample_id,
        image_id=image_id,
        image=image,
        question=question,
        answers=(offered[letter],),
        answer_type="closed",
        answer_type_stated=False,
        choices=tuple(text for text in offered.values() if text),
        group_id=article[0] if article is not None else image_id,
        split=split,
    )


def _choices(row: Row) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Letter → text of the offered answers, empty ones included, and what was mended."""
    offered: dict[str, str] = {}
    mended: list[tuple[str, str]] = []
    for letter in LETTERS:
        raw = row.text(f"Choice {letter}", may_be_empty=True)
        labelled = _LABELLED.fullmatch(raw)
        if labelled is not None and labelled[1] == letter:
            offered[letter] = collapsed(labelled[2])
        else:
            offered[letter] = collapsed(raw)
            if offered[letter]:
                mended.append(
                    ("choice_without_letter", f"Choice {letter} does not begin with its letter: {raw!r:.100}")
                )
        if not offered[letter]:
            mended.append(("empty_choice", f"Choice {letter} is empty; it was left out"))
    texts = [text.casefold() for text in offered.values() if text]
    if len(set(texts)) < len(texts):
        mended.append(("repeated_choice", "two choices have the same text"))
    return offered, mended


def _right_letter(row: Row, offered: Mapping[str, str]) -> tuple[str, list[tuple[str, str]]]:
    """The letter of the right choice, and what speaks against it.

    Raises:
        RowError: no letter is stated, or the stated text is that of another choice.
    """
    answer = collapsed(row.text("Answer"))
    labelled = _LABELLED.fullmatch(answer)
    if "Answer_label" in row.values:
        letter, text = row.text("Answer_label").strip(), answer
    elif answer in offered:
        return answer, []
    elif labelled is not None:
        letter, text = labelled[1], answer
    else:
        raise RowError("unknown_value", f"Answer should be a letter or begin with one, got {shown(answer)}")
    if letter not in offered:
        raise RowError("unknown_value", f"Answer_label should be one of {', '.join(offered)}, got {shown(letter)}")
    readings = {text.casefold(), collapsed(labelled[2]).casefold() if labelled is not None else text.casefold()}
    if offered[letter].casefold() in readings or text == letter:
        return letter, []
    others = [other for other in offered if (offered[other] and offered[other].casefold() in readings) or other == text]
    if others:
        detail = f"the label is {letter}, but Answer {text!r:.100} is choice {others[0]}"
        raise RowError("conflicting_answer", detail)
    detail = f"Answer {text!r:.100} is none of the choices; choice {letter}, {offered[letter]!r:.100}, was taken"
    return letter, [("answer_is_no_choice", detail)]


def _header(path: Path) -> frozenset[str]:
    """The columns in the first line of a CSV file; none if it cannot be read."""
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            return frozenset(name.strip() for name in next(csv.reader([file.readline(10_000)]), []))
    except (OSError, ValueError, csv.Error):
        return frozenset()


def _seen(root: Path) -> str:
    if not root.is_dir():
        return "a file" if root.exists() else "no such folder"
    entries = sorted(entry.name for entry in root.iterdir())
    return ", ".join(entries[:5]) if entries else "an empty folder"
