"""VQA-RAD in its official layout: clinicians' questions about CT, MR and X-ray pictures of MedPix.

Layout of the folder::

    VQA_RAD Dataset Public.json     a list of rows; a value that is missing is the text "NULL"
    VQA_RAD Image Folder/           synpic54610.jpg, ...

``flaviagiammarino/vqa-rad`` on the Hugging Face hub is read too: Parquet files with the columns image, question and
answer. There, text was lower-cased, rows reordered and a few duplicates removed; ids, types, links and framed questions
are gone.

Three row counts of this data set go around. The file has 2,248 rows (1,797 to train, 451 to test). 1,267 of them carry
a second wording of the question in a fixed frame; counted as questions of their own they make 3,515. Training sets of
3,064 rows are the 1,797 training rows and all 1,267 framed questions, **those of the test rows among them**; this
reader never makes that set: with ``framed`` a framed question stays in the split of its row.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, final

from radvqa.data.adapter import DatasetAdapter, Item
from radvqa.data.answers import collapsed
from radvqa.data.hub_layout import hub_question, parquet_splits
from radvqa.data.tables import Row, RowError, image_inside, items_of, read_json, read_json_list, read_parquet, shown
from radvqa.errors import DataError, RecipeError
from radvqa.sample import SPLITS, AnswerType, Defect, Reject, Split, VqaSample

_TABLE = "VQA_RAD Dataset Public.json"
_IMAGES = "VQA_RAD Image Folder"
_HUB_COLUMNS = frozenset({"image", "question", "answer"})
_MISSING = "NULL"
_PHRASE_TYPES: Mapping[str, Split] = {
    "freeform": "train",
    "para": "train",
    "test_freeform": "test",
    "test_para": "test",
}
_ANSWER_TYPES: Mapping[str, AnswerType] = {"CLOSED": "closed", "OPEN": "open"}
_QUESTION_TYPES = frozenset(
    ("PRES", "POS", "ABN", "OTHER", "MODALITY", "SIZE", "PLANE", "ATTRIB", "ORGAN", "COLOR", "COUNT")
)
_OPTIONAL = ("evaluation", "question_rephrase", "question_relation", "question_frame")


@final
class VqaRadDataset(DatasetAdapter):
    """VQA-RAD (Lau et al., Scientific Data 2018).

    * The sample id is ``vqarad-<qid>``, the image id the picture's MedPix name (``synpic54610``).
    * ``phrase_type`` holds the split: its prefix ``test`` means test, all else train. There is no validation split.
      A row of another split than the one asked for becomes a reject ``other_split``.
    * **The published split is by question, not by image**: nearly every test picture is in training too. The group is
      therefore the set of rows, over the whole file, that hang together by picture, case or link. It is named after the
      first picture in it by name. Split by it to get a validation set of unseen pictures.
    * ``link_id`` ties a question to its paraphrases. Some of those are inverted or ask for more, so linked questions
      may have different answers; never copy an answer along a link.
    * ``framed``: a row's framed question becomes a sample of its own, ``vqarad-<qid>-framed``, with the same link.
    * Answers that are numbers become text, white space in questions and answers is collapsed, and blanks after an
      answer type are dropped; each is reported as a defect.
    * Tags never reach the model: ``organ`` and ``question_type`` give answers away.
    """

    licence: ClassVar[str] = (
        "CC0 1.0 for the questions; the pictures are from MedPix, whose contributors keep copyright"
    )
    citation: ClassVar[str] = (
        "J. J. Lau, S. Gayen, A. Ben Abacha, D. Demner-Fushman. A dataset of clinically generated visual questions and "
        "answers about radiology images. Scientific Data 5, 180251, 2018. doi:10.1038/sdata.2018.251"
    )
    homepage: ClassVar[str] = "https://osf.io/89kps/"

    def __init__(self, root: str, *, framed: bool = False) -> None:
        """Open the folder ``root``; with ``framed`` the framed questions are samples of their own.

        Raises:
            RecipeError: framed questions are asked of Parquet files, which have none.
            DataError: the folder, its table or its image folder are missing.
        """
        self.root = Path(root).expanduser()
        self.framed = framed
        self._hub_files = parquet_splits(self.root, columns=_HUB_COLUMNS)
        if not self._hub_files:
            _require_layout(self.root)
        elif framed:
            raise RecipeError(
                "these Parquet files of VQA-RAD have no framed questions",
                where=str(self.root),
                expected=f"the official folder with {_TABLE}",
                fix=f"fetch it from {self.homepage}, or leave framed out",
            )

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """A folder with the official table, or Parquet files of the hub in a place that is named after VQA-RAD.

        Their columns alone could be anyone's.
        """
        if (root / _TABLE).is_file():
            return True
        named = any(name in root.name.lower() for name in ("vqa-rad", "vqa_rad"))
        return named and bool(parquet_splits(root, columns=_HUB_COLUMNS))

    def splits(self) -> tuple[Split, ...]:
        """The splits that have rows."""
        if self._hub_files:
            return tuple(self._hub_files)
        found = {_PHRASE_TYPES.get(str(row.get("phrase_type"))) for row in self._objects}
        return tuple(split for split in SPLITS if split in found)

    def rows(self, split: Split) -> Iterator[Item]:
        """One split in file order: samples, their defects, and a reject for every other row of the file.

        Raises:
            DataError: the split is not there; the file is no JSON list.
        """
        if split not in self.splits():
            raise DataError(
                f"VQA-RAD has no rows of the split {split!r} here",
                where=str(self.root),
                expected=" or ".join(self.splits()) or "rows with a phrase_type",
                fix="choose one of these splits, or make a validation split by group",
            )
        if self._hub_files:
            for file in self._hub_files[split]:
                yield from items_of(read_parquet(file), lambda row: hub_question(row, split, dataset="vqarad"))
        else:
            yield from items_of(read_json(self._table), lambda row: self._items(row, split))

    def sources(self) -> tuple[Path, ...]:
        """The JSON table, or the Parquet files."""
        if self._hub_files:
            return tuple(file for files in self._hub_files.values() for file in files)
        return (self._table,)

    def defects(self) -> Iterator[Defect]:
        """Files in the image folder that no row of the table uses."""
        if self._hub_files:
            return
        used = {str(row.get("image_name")) for row in self._objects}
        for file in sorted((self.root / _IMAGES).iterdir()):
            if file.is_file() and file.name not in used:
                detail = f"no row of {_TABLE} uses this file"
                yield Defect(subject=file.stem, reason="unused_image", where=str(file), detail=detail)

    def _items(self, row: Row, split: Split) -> Iterator[Item]:
        qid = _qid(row)
        sample_id = f"vqarad-{qid}"
        where = f"{row.where}, qid {qid}"
        phrase_type = row.one_of("phrase_type", _PHRASE_TYPES)
        image_name = row.text("image_name")
        image = self._image_path(image_name)
        row.text("image_case_url")
        link = row.text("qid_linked_id")
        question, answer = collapsed(row.text("question")), collapsed(_answer(row))
        framed = collapsed(row.optional_text("question_frame"))
        answer_type = _answer_type(row)
        tags = {
            "organ": row.text("image_organ").strip(),
            "question_type": row.text("question_type").strip(),
            "phrase_type": phrase_type,
            "question_relation": row.optional_text("question_relation").strip(),
        }
        row.optional_text("evaluation"), row.optional_text("question_rephrase")
        if _MISSING in (question, answer):
            raise RowError("empty_value", f"question or answer is {_MISSING}")
        own_split = _PHRASE_TYPES[phrase_type]
        if own_split != split:
            detail = f"the row belongs to the split {own_split!r}, {split!r} was asked for"
            yield Reject(sample_id=sample_id, reason="other_split", where=where, detail=detail)
            return
        yield from _mended(row, sample_id, where)
        wordings = {sample_id: question}
        if self.framed and framed not in ("", _MISSING):
            wordings[f"{sample_id}-framed"] = framed
        for wording_id, wording in wordings.items():
            yield VqaSample(
                sample_id=wording_id,
                image_id=Path(image_name).stem,
                image=image,
                question=wording,
                answers=(answer,),
                answer_type=answer_type,
                group_id=self._groups[image_name],
                split=split,
                link_id="" if link == _MISSING else link,
                tags={name: value for name, value in tags.items() if value not in ("", _MISSING)},
            )

    def _image_path(self, name: str) -> Path:
        if "/" in name or "\\" in name:
            raise RowError("wrong_image", f"image_name should be a file in {_IMAGES}, got {shown(name)}")
        return image_inside(self.root, f"{_IMAGES}/{name}", key="image_name")

    @property
    def _table(self) -> Path:
        return self.root / _TABLE

    @cached_property
    def _objects(self) -> tuple[dict[str, Any], ...]:
        return tuple(row for row in read_json_list(self._table) if isinstance(row, dict))

    @cached_property
    def _groups(self) -> Mapping[str, str]:
        """Image file name → name of its connected component over pictures, cases and links."""
        parent: dict[tuple[str, str], tuple[str, str]] = {}

        def representative(node: tuple[str, str]) -> tuple[str, str]:
            parent.setdefault(node, node)
            while parent[node] != node:
                parent[node] = parent[parent[node]]
                node = parent[node]
            return node

        for row in self._objects:
            if not isinstance(row.get("image_name"), str):
                continue
            picture = ("picture", row["image_name"])
            representative(picture)
            for key in ("image_case_url", "qid_linked_id"):
                if isinstance(row.get(key), str) and row[key] != _MISSING:
                    parent[representative((key, row[key]))] = representative(picture)
        pictures = sorted(name for kind, name in parent if kind == "picture")
        names: dict[tuple[str, str], str] = {}
        return {name: names.setdefault(representative(("picture", name)), Path(name).stem) for name in pictures}


ADAPTER = VqaRadDataset


def _qid(row: Row) -> int:
    """The question number, which one published row has as text."""
    value = row.values.get("qid")
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        return int(value)
    return row.whole_number("qid")


def _answer(row: Row) -> str:
    """The answer as text; five published ones are numbers."""
    value = row.values.get("answer")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(row.whole_number("answer"))
    return row.text("answer")


def _answer_type(row: Row) -> AnswerType:
    value = row.text("answer_type").strip()
    if value not in _ANSWER_TYPES:
        detail = f"answer_type should be {' or '.join(_ANSWER_TYPES)}, got {shown(row.text('answer_type'))}"
        raise RowError("unknown_value", detail)
    return _ANSWER_TYPES[value]


def _mended(row: Row, sample_id: str, where: str) -> Iterator[Defect]:
    """What was not as it should be in a row that is used all the same."""

    def defect(reason: str, detail: str) -> Defect:
        return Defect(subject=sample_id, reason=reason, where=where, detail=detail)

    if isinstance(row.values["qid"], str):
        yield defect("text_qid", f"qid is the text {row.values['qid']!r}; it was read as a number")
    if isinstance(row.values["answer"], int):
        yield defect("integer_answer", f"the answer is the number {row.values['answer']}; it was read as text")
    if row.values["answer_type"] not in _ANSWER_TYPES:
        yield defect("space_in_answer_type", f"answer_type is {row.values['answer_type']!r}; the blanks were dropped")
    for key in _OPTIONAL:
        if key not in row.values:
            yield defect("missing_key", f"there is no {key!r}; it was read as {_MISSING}")
    texts = {key: str(row.values[key]) for key in ("question", "answer")}
    if any("\t" in text for text in texts.values()):
        found = " and ".join(key for key, text in texts.items() if "\t" in text)
        yield defect("tab_in_text", f"tabs in {found} were replaced by a blank")
    for key, text in texts.items():
        if "\t" not in text and text != collapsed(text):
            yield defect(f"white_space_in_{key}", f"white space around or inside the {key} {text!r} was collapsed")
    kinds = {kind.strip() for kind in row.values["question_type"].split(",")}
    if not kinds <= _QUESTION_TYPES:
        yield defect("unknown_question_type", f"question_type {row.values['question_type']!r} is none of the published")


def _require_layout(root: Path) -> None:
    got: str | None = None
    fix = f"point root at the folder with {_TABLE}, or fetch it from {VqaRadDataset.homepage}"
    if not root.is_dir():
        got = "a file" if root.exists() else "no such folder"
    elif not (root / _TABLE).is_file():
        entries = sorted(entry.name for entry in root.iterdir())
        got = f"no {_TABLE}, but {', '.join(entries[:5])}" if entries else "an empty folder"
    elif not (root / _IMAGES).is_dir():
        packed = f"{_IMAGES}.zip"
        got = f"{packed}, still packed" if (root / packed).is_file() else f"no folder {_IMAGES}/"
        fix = f"fetch {packed} from {VqaRadDataset.homepage} if it is not there, and unzip it in {root}"
    if got is not None:
        raise DataError(
            "VQA-RAD is not at this place",
            where=str(root),
            expected=f"a folder with {_TABLE} and {_IMAGES}/, or Parquet files of the hub",
            got=got,
            fix=fix,
        )
