"""VQA-Med of ImageCLEF 2019, 2020 and 2021 in the official layouts: questions about MedPix pictures.

The tables are told by their names and may lie up to four folders below the root, as the archives unpack them; with
several editions in one folder all are read, so point root at the edition you want::

    2019  train  All_QA_Pairs_train.txt     id|question|answer, pictures in Train_images/
          val    All_QA_Pairs_val.txt       id|question|answer, pictures in Val_images/
          test   VQAMed2019_Test_Questions_w_Ref_Answers.txt
                                            id|category|question|answer, pictures in VQAMed2019_Test_Images/
          QAPairsByCategory/C1_Modality_train.txt and the like: the lines of train and val by category
    2020  train  VQAnswering_2020_Train_QA_pairs.txt, pictures in VQAnswering_2020_Train_images/
          val    VQAnswering_2020_Val_QA_Pairs.txt, pictures in VQAnswering_2020_Val_images/
          test   VQAMed2020-Task1-VQAnswering-Test-Questions.txt            id|question
                 VQAMed2020-Task1-VQAnswering-Test-ReferenceAnswers.txt     id|answer|answer...
                 pictures in Task1-2020-VQAnswering-Test-Images/
    2021  val    VQA-Med-2021-VQAnswering-Task1-New-ValidationSet.txt
                 pictures in ImageCLEF-2021-VQA-Med-New-Validation-Images/
          test   Task1-VQA-2021-TestSet-Questions.txt and Task1-VQA-2021-TestSet-ReferenceAnswers.txt as in 2020, or,
                 where one is missing, ..._mscoco_format_vqa.json of the evaluation code; pictures in VQA-500-Images/

The training set of 2021 is that of 2020. Question generation (``id|question|question...``) is not read: its questions
have no answers.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import scandir
from pathlib import Path
from typing import Any, ClassVar, Literal, final

from radvqa.data.adapter import DatasetAdapter, Item
from radvqa.data.answers import inferred_answer_type
from radvqa.data.tables import Row, RowError, image_inside, items_of, read_lines, shown
from radvqa.errors import DataError
from radvqa.sample import SPLITS, Defect, Reject, Split, VqaSample

DEEPEST_FOLDER = 4
"""Levels below the root at which tables and image folders are looked for."""


@dataclass(frozen=True, slots=True)
class _Part:
    """One split of one edition: its table, the folder of its pictures, and the form of its lines."""

    edition: str
    split: Split
    table: str
    images: str
    form: Literal["pairs", "categories", "references", "annotations"] = "pairs"
    questions: str = ""


_PARTS = (
    _Part("2019", "train", "All_QA_Pairs_train.txt", "Train_images"),
    _Part("2019", "val", "All_QA_Pairs_val.txt", "Val_images"),
    _Part("2019", "test", "VQAMed2019_Test_Questions_w_Ref_Answers.txt", "VQAMed2019_Test_Images", "categories"),
    _Part("2020", "train", "VQAnswering_2020_Train_QA_pairs.txt", "VQAnswering_2020_Train_images"),
    _Part("2020", "val", "VQAnswering_2020_Val_QA_Pairs.txt", "VQAnswering_2020_Val_images"),
    _Part(
        "2020",
        "test",
        "VQAMed2020-Task1-VQAnswering-Test-ReferenceAnswers.txt",
        "Task1-2020-VQAnswering-Test-Images",
        "references",
        "VQAMed2020-Task1-VQAnswering-Test-Questions.txt",
    ),
    _Part(
        "2021",
        "val",
        "VQA-Med-2021-VQAnswering-Task1-New-ValidationSet.txt",
        "ImageCLEF-2021-VQA-Med-New-Validation-Images",
    ),
    _Part(
        "2021",
        "test",
        "Task1-VQA-2021-TestSet-ReferenceAnswers.txt",
        "VQA-500-Images",
        "references",
        "Task1-VQA-2021-TestSet-Questions.txt",
    ),
    _Part(
        "2021",
        "test",
        "Task1-VQAnswering2021-Test-ReferenceAnswers_mscoco_format_vqa.json",
        "VQA-500-Images",
        "annotations",
    ),
)
_IMAGE_FOLDERS = frozenset(part.images.lower() for part in _PARTS)
_TABLE_NAMES = frozenset(name.lower() for part in _PARTS for name in (part.table, part.questions) if name)
_CATEGORY_FILE = re.compile(r"c[1-4]_(modality|plane|organ|abnormality)_(train|val)\.txt")
_IMAGE_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
_OPTIONAL = re.compile(r"\([^()]*\)")
_RESTORE = "fetch the file again from the data set's source, or correct it"


@final
class VqaMedDataset(DatasetAdapter):
    """VQA-Med (Ben Abacha et al., CLEF 2019, 2020 and 2021).

    * The sample id is ``vqamed<edition>-<split>-<image id>-<number>``; the number counts the questions of the image.
      The image id is the picture's MedPix name (``synpic54082``), and the group is the image: no case is named.
      The same pictures are in VQA-RAD and MedPix 2.0, and editions share some.
    * Reference answers of the 2019 test set use two marks, and only there: ``#`` stands between alternatives, and a
      part in brackets may be left out. An answer with such parts is accepted as it stands, without the brackets, and
      without the parts. Training answers with brackets (``ct w/contrast (iv)``) stay as they are.
    * From 2020 on, ``|`` stands between alternatives.
    * The answer type is stated nowhere: yes and no count as closed.
    * Tags: ``edition``, and ``content_type`` (modality, plane, organ, abnormality) where a file states it.
    """

    licence: ClassVar[str] = "CC BY 4.0 (2019); none stated (2020, 2021); pictures from MedPix"
    citation: ClassVar[str] = (
        "A. Ben Abacha, S. A. Hasan, V. V. Datla, J. Liu, D. Demner-Fushman, H. Müller. VQA-Med: Overview of the "
        "Medical Visual Question Answering Task at ImageCLEF 2019. CLEF 2019 Working Notes, CEUR-WS 2380. "
        "A. Ben Abacha et al. Overview of the VQA-Med Task at ImageCLEF 2020, and 2021. CLEF Working Notes"
    )
    homepage: ClassVar[str] = "https://www.imageclef.org/2019/medical/vqa/"

    def __init__(self, root: str) -> None:
        """Open the folder ``root`` with one or more editions, as unpacked.

        Raises:
            DataError: the folder is missing, has no table of VQA-Med, or has one twice.
        """
        self.root = Path(root).expanduser()
        self._tables, self._folders = _look_through(self.root, levels=DEEPEST_FOLDER)
        self._parts = _parts(self._tables)
        if not self._parts:
            raise DataError(
                "VQA-Med is not at this place",
                where=str(self.root),
                expected=f"a table such as {_PARTS[0].table} or {_PARTS[2].table}, with its image folder beside it",
                got=_seen(self.root),
                fix=f"point root at the unpacked archives, or fetch them from {self.homepage}",
            )
        for part in self._parts:
            self._only(part.table)

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """A folder with a table or image folder of VQA-Med in it, or at most two levels below."""
        tables, folders = _look_through(root, levels=2)
        return bool(_TABLE_NAMES & tables.keys() or folders)

    def splits(self) -> tuple[Split, ...]:
        """The splits of which some edition is there."""
        return tuple(split for split in SPLITS if any(part.split == split for part in self._parts))

    def rows(self, split: Split) -> Iterator[Item]:
        """One split, edition by edition and in file order: a sample, or a reject, for every line.

        Raises:
            DataError: the split is not there; a table cannot be read, or its image folder is missing.
        """
        parts = [part for part in self._parts if part.split == split]
        if not parts:
            raise DataError(
                f"VQA-Med has no table of the split {split!r} here",
                where=str(self.root),
                expected=", ".join(sorted(part.table for part in _PARTS if part.split == split)) or ", ".join(SPLITS),
                got=", ".join(part.table for part in self._parts),
                fix="fetch the file, or choose a split that is there",
            )
        for part in parts:
            yield from self._part_items(part)

    def sources(self) -> tuple[Path, ...]:
        """The tables that are read, files by category included."""
        return tuple(
            path
            for part in self._parts
            for path in (
                self._only(part.table),
                *([self._only(part.questions)] if part.questions else ()),
                *self._category_files(part).values(),
            )
        )

    def _part_items(self, part: _Part) -> Iterator[Item]:
        table, images = self._only(part.table), self._images(part)
        numbers: Counter[str] = Counter()

        def make(row: Row) -> Iterator[Item]:
            return self._items(row, part, images, numbers)

        if part.form == "annotations":
            yield from items_of(_annotations(table), make)
        elif part.form == "references":
            references = _References(table)
            yield from references.rejects
            yield from items_of(references.joined(self._only(part.questions)), make)
            yield from references.left_over()
        else:
            yield from items_of(_pairs(table, part, self._categories(part)), make)

    def _items(self, row: Row, part: _Part, images: Path, numbers: Counter[str]) -> Iterator[Item]:
        image_id = row.text("image_id").strip()
        if not _IMAGE_ID.fullmatch(image_id):
            raise RowError("wrong_image", f"the image id should be the name of a picture, got {shown(image_id)}")
        image = image_inside(
            self.root, (images / f"{image_id}.jpg").relative_to(self.root).as_posix(), key="the picture"
        )
        question = " ".join(row.text("question").split())
        category = row.optional_text("category").strip()
        answers, mended = _answers(row, marked=part.form == "categories")
        numbers[image_id] += 1
        sample_id = f"vqamed{part.edition}-{part.split}-{image_id}-{numbers[image_id]}"
        for reason, detail in mended:
            yield Defect(subject=sample_id, reason=reason, where=row.where, detail=detail)
        yield VqaSample(
            sample_id=sample_id,
            image_id=image_id,
            image=image,
            question=question,
            answers=answers,
            answer_type=inferred_answer_type(answers[0]),
            answer_type_stated=False,
            group_id=image_id,
            split=part.split,
            tags={"edition": part.edition, **({"content_type": category} if category else {})},
        )

    def _only(self, name: str) -> Path:
        found = self._tables.get(name.lower(), [])
        if len(found) != 1:
            raise DataError(
                f"VQA-Med needs the file {name} once",
                where=str(self.root),
                expected="one such file",
                got=" and ".join(map(str, found)) or "none",
                fix="remove the outdated one, or point root deeper" if found else "fetch the file",
            )
        return found[0]

    def _images(self, part: _Part) -> Path:
        found = self._folders.get(part.images.lower(), [])
        if len(found) != 1:
            raise DataError(
                f"VQA-Med needs the image folder {part.images} once",
                where=str(self.root),
                expected=f"one folder {part.images}",
                got=" and ".join(map(str, found)) or "none",
                fix="remove the other one, or point root deeper" if found else f"unzip {part.images}.zip there",
            )
        return found[0]

    def _category_files(self, part: _Part) -> Mapping[str, Path]:
        """Category → its file, for the tables that do not state it."""
        found: dict[str, Path] = {}
        if part.edition == "2019" and part.form == "pairs":
            for name in sorted(self._tables):
                match = _CATEGORY_FILE.fullmatch(name)
                if match is not None and match[2] == part.split:
                    found[match[1]] = self._only(name)
        return found

    def _categories(self, part: _Part) -> Mapping[str, str]:
        """Line of the table → category."""
        return {
            line.strip(): category
            for category, path in self._category_files(part).items()
            for _, line in read_lines(path)
        }


ADAPTER = VqaMedDataset


class _References:
    """The reference answers of a table ``id|answer|answer...``, and the questions of another with the same ids."""

    def __init__(self, table: Path) -> None:
        self.rejects: list[Reject] = []
        self._rows: dict[str, Row] = {}
        for number, line in read_lines(table):
            image_id, *answers = _fields(line)
            row = Row(f"{table}, line {number}", f"{table.name}:{number}", {"answers": answers})
            if not answers:
                self._reject(row, "wrong_columns", f"the line should be id|answer, got {shown(line)}")
            elif image_id in self._rows:
                self._reject(row, "repeated_id", f"an earlier line has answers for {shown(image_id)}")
            else:
                self._rows[image_id] = row

    def joined(self, table: Path) -> Iterator[Row]:
        """The questions in file order, each with its answers; one without answers is a broken row."""
        for number, line in read_lines(table):
            where, name = f"{table}, line {number}", f"{table.name}:{number}"
            fields = _fields(line)
            if len(fields) != 2:
                broken = RowError("wrong_columns", f"the line should be id|question, got {shown(line)}")
            elif (reference := self._rows.pop(fields[0], None)) is None:
                broken = RowError(
                    "no_answer", f"no line, or an earlier question, has the answers for {shown(fields[0])}"
                )
            else:
                image_id, question = fields
                yield Row(where, name, {"image_id": image_id, "question": question, **reference.values})
                continue
            yield Row(where, name, broken=broken)

    def left_over(self) -> Iterator[Reject]:
        """Answers to which no question belongs. Ask for them after ``joined``."""
        self.rejects = []
        for image_id, row in self._rows.items():
            self._reject(row, "no_question", f"no question is about {shown(image_id)}")
        yield from self.rejects

    def _reject(self, row: Row, reason: str, detail: str) -> None:
        self.rejects.append(Reject(sample_id=row.name, reason=reason, where=row.where, detail=detail, malformed=True))


def _pairs(table: Path, part: _Part, categories: Mapping[str, str]) -> Iterator[Row]:
    """The lines ``id|question|answer``, or with the category in the second place."""
    before = 3 if part.form == "categories" else 2
    form = "id|category|question|answer" if part.form == "categories" else "id|question|answer"
    for number, line in read_lines(table):
        where, name = f"{table}, line {number}", f"{table.name}:{number}"
        fields = _fields(line)
        answers = fields[before:]
        if not answers or (part.edition == "2019" and len(answers) > 1):
            yield Row(where, name, broken=RowError("wrong_columns", f"the line should be {form}, got {shown(line)}"))
            continue
        values: dict[str, Any] = {"image_id": fields[0], "question": fields[before - 1], "answers": answers}
        values["category"] = fields[1] if part.form == "categories" else categories.get(line.strip())
        yield Row(where, name, values)


def _annotations(path: Path) -> Iterator[Row]:
    """The annotations of the evaluation code, which carry question and answers together."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            "file is not valid JSON", where=str(path), expected="a JSON object", got=str(error), fix=_RESTORE
        ) from error
    entries = document.get("annotations") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        raise DataError(
            "file has no annotations",
            where=str(path),
            expected='{"annotations": [...]}',
            got=shown(document),
            fix=_RESTORE,
        )
    for number, entry in enumerate(entries, start=1):
        where, name = f"{path}, annotation {number}", f"{path.name}:{number}"
        if isinstance(entry, dict):
            yield Row(where, name, {**entry, "category": entry.get("question_type")})
        else:
            broken = RowError("not_an_object", f"the annotation should be an object, got {shown(entry)}")
            yield Row(where, name, broken=broken)


def _answers(row: Row, *, marked: bool) -> tuple[tuple[str, ...], list[tuple[str, str]]]:
    """The accepted answers of a row, each once, and what was mended. Raises ``RowError`` if there are none."""
    values = row.values.get("answers")
    if not isinstance(values, list):
        raise RowError("missing_key" if values is None else "wrong_type", f"answers should be a list: {shown(values)}")
    accepted: list[str] = []
    mended: list[tuple[str, str]] = []
    for value in values:
        holder = value if isinstance(value, dict) else {"answer": value}
        text = Row(row.where, row.name, holder).text("answer", may_be_empty=True)
        alternatives = text.split("#") if marked else [text]
        for alternative in alternatives:
            answer = " ".join(alternative.split())
            if not answer:
                mended.append(("empty_reference", f"an empty alternative in {text!r} was left out"))
                continue
            if answer != alternative.strip():
                mended.append(("white_space_in_answer", f"white space inside the answer {text!r} was collapsed"))
            variants = _with_and_without(answer) if marked else [answer]
            accepted.extend(variant for one in variants if (variant := " ".join(one.split())))
    if not accepted:
        raise RowError("empty_value", "there is no answer")
    return tuple(dict.fromkeys(accepted)), mended


def _with_and_without(answer: str) -> Iterator[str]:
    """An answer as it stands, without the brackets of its optional parts, and without those parts."""
    yield answer
    if _OPTIONAL.search(answer):
        yield _OPTIONAL.sub(lambda part: part[0][1:-1], answer)
        yield _OPTIONAL.sub(" ", answer)


def _fields(line: str) -> list[str]:
    """The fields of a line; one that a spreadsheet program put in quotation marks loses them."""
    fields = [field.strip() for field in line.split("|")]
    return [
        field[1:-1].replace('""', '"') if len(field) > 2 and field[0] == field[-1] == '"' else field for field in fields
    ]


def _parts(tables: Mapping[str, list[Path]]) -> list[_Part]:
    """The parts whose tables are there; of two forms of one part, the first."""
    found: list[_Part] = []
    for part in _PARTS:
        complete = all(name.lower() in tables for name in (part.table, part.questions) if name)
        if complete and not any((one.edition, one.split) == (part.edition, part.split) for one in found):
            found.append(part)
    return found


def _look_through(root: Path, *, levels: int) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Lower-cased names → paths of the tables and image folders in ``root`` and ``levels`` below; links are left out.

    Image folders are not entered. A folder that cannot be listed has nothing.
    """
    tables: dict[str, list[Path]] = {}
    folders: dict[str, list[Path]] = {}
    unseen = [(root, 0)]
    while unseen:
        folder, level = unseen.pop()
        try:
            with scandir(folder) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    name = entry.name.lower()
                    if entry.is_dir(follow_symlinks=False):
                        if name in _IMAGE_FOLDERS:
                            folders.setdefault(name, []).append(Path(entry.path))
                        elif level < levels:
                            unseen.append((Path(entry.path), level + 1))
                    elif name in _TABLE_NAMES or _CATEGORY_FILE.fullmatch(name):
                        tables.setdefault(name, []).append(Path(entry.path))
        except (OSError, ValueError):  # no folder, no rights, a null character
            continue
    return tables, folders


def _seen(root: Path) -> str:
    if not root.is_dir():
        return "a file" if root.exists() else "no such folder"
    entries = sorted(entry.name for entry in root.iterdir())
    return f"no table of VQA-Med, but {', '.join(entries[:5])}" if entries else "an empty folder"
