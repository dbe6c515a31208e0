"""SLAKE in its official layout: bilingual questions about CT, MRI and X-ray images with organ masks and boxes.

Layout of the folder, ``Slake1.0/`` upstream (``validation.json`` and ``imgs/imgs/`` as in ``BoKelvin/SLAKE`` on the
Hugging Face hub)::

    train.json  validate.json  test.json       lists of rows, both languages mixed
    mask.txt                                   lines "gray value:label"; some copies lack it
    imgs/xmlabN/source.jpg                     the only picture that is ever given to the model
    imgs/xmlabN/mask.png                       CT, MRI: label map. X-ray: the picture with its answer printed on it
    imgs/xmlabN/detection.json                 [{"Liver": [x, y, width, height]}, ...], may be []
    imgs/xmlabN/question.json                  never read: it ignores the splits

``mdwiratathya/SLAKE-vqa-english`` on the hub is read too: Parquet files with the columns image, question and answer,
English only, without ids, types and regions.
"""

import re
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import numpy.typing as npt
from PIL import Image

from radvqa.data.adapter import DatasetAdapter, Item
from radvqa.data.hub_layout import hub_question, parquet_splits
from radvqa.data.imaging import open_image, open_unconverted
from radvqa.data.paths import path_inside
from radvqa.data.tables import Row, RowError, image_inside, items_of, read_json, read_json_list, read_parquet, shown
from radvqa.errors import DataError, RecipeError
from radvqa.sample import SPLITS, AnswerType, Defect, Region, Reject, Split, VqaSample

LANGUAGES: tuple[str, ...] = ("en", "zh", "all")
MAX_MASK_VALUES = 40
"""More gray values than this in one ``mask.png`` mean a picture; the label maps of SLAKE examined have at most 9."""

_TABLES: Mapping[Split, tuple[str, ...]] = {
    "train": ("train.json",),
    "val": ("validate.json", "validation.json"),
    "test": ("test.json",),
}
_ANSWER_TYPES: Mapping[str, AnswerType] = {"CLOSED": "closed", "OPEN": "open"}
_TAGS = ("modality", "location", "content_type", "base_type")
_PUBLISHED_WITHOUT_ANSWER = frozenset({(1622, "xmlab281/source.jpg", "Does the picture contain liver?")})
_HUB_COLUMNS = frozenset({"image", "question", "answer"})
_IMAGE_ID = re.compile(r"xmlab[0-9]+")
_BOX_OUTSIDE = "box is empty or leaves the image"
_RESTORE = "fetch the file again from the data set's source, or correct it"


@final
class SlakeDataset(DatasetAdapter):
    """SLAKE (Liu et al., ISBI 2021), one language at a time.

    * The sample id is ``slake-<qid>``, the image id ``xmlabN``; the group is the image, because SLAKE names no patient.
    * A row whose ``source.jpg`` is absent becomes a reject ``missing_image``.
    * A row in another language becomes a reject ``other_language``: with both languages in one file they are about
      half of all rows. One language is read at a time because the two have different splits: merged, they share images
      between training and test. Training on "zh" and testing on "en" shares them too. "all" is there for the audit.
    * The answer is the raw answer with white space collapsed; nothing else is normalised here.
    * One row was published without an answer (training qid 1622): it becomes a reject ``empty_answer``.
    * Tags never reach the model: ``modality`` and ``location`` answer many questions outright.
    """

    licence: ClassVar[str] = "CC BY 4.0 (one repository once said CC BY-NC-SA 4.0: treat it as for research)"
    citation: ClassVar[str] = (
        "B. Liu, L.-M. Zhan, L. Xu, L. Ma, Y. Yang, X.-M. Wu. SLAKE: A Semantically-Labeled Knowledge-Enhanced "
        "Dataset for Medical Visual Question Answering. IEEE ISBI 2021. arXiv:2102.09542"
    )
    homepage: ClassVar[str] = "https://www.med-vqa.com/slake/"
    audit_options: ClassVar[Mapping[str, Any]] = {"language": "all"}

    def __init__(self, root: str, *, language: str = "en") -> None:
        """Open the folder ``root`` for questions in ``language``: "en", "zh", or "all", which leaks between splits.

        Raises:
            RecipeError: there is no such language.
            DataError: the folder, its tables or its image folder are missing.
        """
        if language not in LANGUAGES:
            raise RecipeError(
                f"SLAKE has no questions in the language {language!r}",
                expected=f"one of {', '.join(LANGUAGES)}",
                fix="correct language under datasets",
            )
        self.root = Path(root).expanduser()
        self.language = language
        self._hub_files = parquet_splits(self.root, columns=_HUB_COLUMNS)
        if not self._hub_files:
            _require_layout(self.root)
        nested = self.root / "imgs" / "imgs"
        self._images = "imgs/imgs" if nested.is_dir() else "imgs"

    @classmethod
    def recognises(cls, root: Path) -> bool:
        """A folder with one of the JSON tables and ``imgs/``."""
        return (root / "imgs").is_dir() and any((root / name).is_file() for names in _TABLES.values() for name in names)

    def splits(self) -> tuple[Split, ...]:
        """The splits that have a table."""
        if self._hub_files:
            return tuple(self._hub_files)
        return tuple(split for split, names in _TABLES.items() if any((self.root / name).is_file() for name in names))

    def rows(self, split: Split) -> Iterator[Item]:
        """One split in file order: samples of the chosen language, and a reject for every other row.

        Raises:
            DataError: the split or its file does not exist; the file is no JSON list.
        """
        if self._hub_files:
            for file in self._files(split):
                yield from items_of(read_parquet(file), lambda row: hub_question(row, split, dataset="slake"))
        else:
            yield from items_of(read_json(self._table(split)), lambda row: self._items(row, split))

    def regions(self, image_id: str) -> tuple[Region, ...]:
        """The labels of the image's mask in order of their gray value, then its boxes in file order.

        A mask region has ``mask`` and ``mask_value`` (0 is background); its label comes from ``mask.txt``, or is
        ``value_<gray value>`` where that file does not name the value or is absent. A box region has ``box``.
        The same organ may be there as both. An absent mask or box file gives no regions of its kind, and so does a
        ``mask.png`` that is no label map but an annotated picture, as with all X-ray images.

        Raises:
            DataError: there is no such image, or its mask, boxes or ``mask.txt`` are malformed.
        """
        if self._hub_files:
            return ()
        if not _IMAGE_ID.fullmatch(image_id):
            raise DataError(
                "not a SLAKE image id", where=repr(image_id), expected="xmlab and a number", fix="correct the image id"
            )
        size = open_image(self._inside(image_id, "source.jpg"), root=self.root).size
        mask, boxes = self._inside(image_id, "mask.png"), self._inside(image_id, "detection.json")
        return (
            *(
                Region(label=self._mask_labels.get(value, f"value_{value}"), mask=mask, mask_value=value)
                for value in (_mask_values(mask, size) if mask.exists() else ())
            ),
            *(_box_regions(boxes, size) if boxes.exists() else ()),
        )

    def defects(self) -> Iterator[Defect]:
        """Per image: no mask, a mask that is no mask, no boxes, a box outside, or a file that cannot be read.

        And per image that only Chinese training and validation rows show: of those, English test rows may ask.
        """
        if self._hub_files:
            return
        for image_id in sorted(
            (entry.name for entry in (self.root / self._images).iterdir() if _IMAGE_ID.fullmatch(entry.name)),
            key=lambda name: int(name.removeprefix("xmlab")),
        ):
            yield from self._image_defects(image_id)
        yield from self._only_chinese()

    def sources(self) -> tuple[Path, ...]:
        """The tables that are there, in the order train, val, test."""
        if self._hub_files:
            return tuple(file for files in self._hub_files.values() for file in files)
        tables = (self.root / name for names in _TABLES.values() for name in names)
        return tuple(table for table in tables if table.is_file())

    def _items(self, row: Row, split: Split) -> Iterator[Item]:
        qid = row.whole_number("qid")
        sample_id = f"slake-{qid}"
        where = f"{row.where}, qid {qid}"
        image_id = f"xmlab{row.whole_number('img_id')}"
        image = self._image_path(row.text("img_name"), image_id)
        language = row.text("q_lang")
        answer_type = _ANSWER_TYPES[row.one_of("answer_type", _ANSWER_TYPES)]
        question = row.text("question").strip()
        published_empty = (qid, row.text("img_name"), row.text("question")) in _PUBLISHED_WITHOUT_ANSWER
        raw_answer = row.text("answer", may_be_empty=published_empty)
        answer = " ".join(raw_answer.split())
        tags = {name: row.text(name) for name in _TAGS}
        if self.language not in (language, "all"):
            detail = f"the question is in {language!r}, {self.language!r} was asked for"
            yield Reject(sample_id=sample_id, reason="other_language", where=where, detail=detail)
            return
        if not answer:
            detail = "the row was published without an answer"
            yield Reject(sample_id=sample_id, reason="empty_answer", where=where, detail=detail)
            return
        if answer != raw_answer.strip():
            yield _white_space(sample_id, raw_answer, where)
        yield VqaSample(
            sample_id=sample_id,
            image_id=image_id,
            image=image,
            question=question,
            answers=(answer,),
            answer_type=answer_type,
            group_id=image_id,
            split=split,
            language=language,
            tags=tags,
        )

    def _image_path(self, name: str, image_id: str) -> Path:
        """The path of a row's picture, which must be the source.jpg of its image and nothing else."""
        path = image_inside(self.root, f"{self._images}/{name}", key="img_name")
        if name != f"{image_id}/source.jpg":
            detail = f"img_name should be {image_id}/source.jpg, as img_id says, got {shown(name)}"
            raise RowError("wrong_image", f"{detail}; only source.jpg is an image, masks show the answer")
        return path

    def _inside(self, image_id: str, name: str) -> Path:
        return path_inside(self.root, f"{self._images}/{image_id}/{name}")

    def _files(self, split: Split) -> tuple[Path, ...]:
        if split not in self._hub_files:
            raise _no_split(self.root, split, expected=", ".join(self._hub_files))
        return self._hub_files[split]

    def _table(self, split: Split) -> Path:
        names = _TABLES.get(split, ())
        found = [self.root / name for name in names if (self.root / name).is_file()]
        if len(found) != 1:
            got = " and ".join(table.name for table in found) or "none"
            raise _no_split(self.root, split, expected=" or ".join(names) or ", ".join(SPLITS), got=got)
        return found[0]

    def _image_defects(self, image_id: str) -> Iterator[Defect]:
        where = f"{self.root / self._images / image_id}"
        try:
            mask, boxes = self._inside(image_id, "mask.png"), self._inside(image_id, "detection.json")
            size = open_image(self._inside(image_id, "source.jpg"), root=self.root).size
            if not mask.exists():
                yield Defect(subject=image_id, reason="no_mask", where=where, detail="there is no mask.png")
            elif _is_picture(_open_mask(mask)):
                detail = "mask.png is a picture, not a label map: it shows the disease, so never use it as an image"
                yield Defect(subject=image_id, reason="mask_is_no_mask", where=str(mask), detail=detail)
            else:
                _mask_values(mask, size)
            if not boxes.exists():
                yield Defect(subject=image_id, reason="no_boxes", where=where, detail="there is no detection.json")
            elif not _box_regions(boxes, size):
                yield Defect(subject=image_id, reason="no_boxes", where=str(boxes), detail="the list of boxes is empty")
        except DataError as error:
            outside = error.what == _BOX_OUTSIDE
            yield Defect(
                subject=image_id,
                reason="box_outside" if outside else "unreadable_regions",
                where=error.where or where,
                detail=f"{error.what}; expected {error.expected}, got {error.got}",
            )

    def _only_chinese(self) -> Iterator[Defect]:
        rows: dict[str, dict[str, int]] = {}
        for split in ("train", "val"):
            if split in self.splits():
                for raw in read_json_list(self._table(split)):
                    # Other rows are rejects, whatever else they hold.
                    if isinstance(raw, dict) and isinstance(raw.get("img_id"), int):
                        of_image = rows.setdefault(f"xmlab{raw['img_id']}", {})
                        of_image[str(raw.get("q_lang"))] = of_image.get(str(raw.get("q_lang")), 0) + 1
        for image_id, count in rows.items():
            if set(count) == {"zh"}:
                detail = (
                    f"{count['zh']} Chinese rows ask about an image that no English training or validation row shows; "
                    "it may be an English test image"
                )
                yield Defect(subject=image_id, reason="image_only_in_chinese", where=str(self.root), detail=detail)

    @cached_property
    def _mask_labels(self) -> Mapping[int, str]:
        path = self.root / "mask.txt"
        return _read_mask_labels(path) if path.exists() else {}


ADAPTER = SlakeDataset


def _white_space(sample_id: str, raw_answer: str, where: str) -> Defect:
    detail = f"white space inside the answer {raw_answer!r} was collapsed"
    return Defect(subject=sample_id, reason="white_space_in_answer", where=where, detail=detail)


def _require_layout(root: Path) -> None:
    got: str | None = None
    fix = f"point root at the unpacked folder Slake1.0, or fetch it from {SlakeDataset.homepage}"
    if not root.is_dir():
        got = "a file" if root.exists() else "no such folder"
    elif not any((root / name).is_file() for names in _TABLES.values() for name in names):
        entries = sorted(entry.name for entry in root.iterdir())
        got = f"none of the three tables, but {', '.join(entries[:5])}" if entries else "an empty folder"
    elif not (root / "imgs").is_dir():
        packed = (root / "imgs.zip").is_file()
        got = "imgs.zip, still packed" if packed else "no folder imgs/"
        fix = (
            f"unzip imgs.zip in {root}"
            if packed
            else f"fetch imgs.zip from where the tables came from, and unzip imgs.zip in {root}"
        )
    if got is not None:
        raise DataError(
            "SLAKE is not at this place",
            where=str(root),
            expected="a folder with train.json, validate.json or test.json, and imgs/; or Parquet files of the hub",
            got=got,
            fix=fix,
        )


def _no_split(root: Path, split: str, *, expected: str, got: str = "none") -> DataError:
    return DataError(
        f"SLAKE needs one table for the split {split!r}",
        where=str(root),
        expected=expected,
        got=got,
        fix="fetch the file, or choose a split that is there" if got == "none" else "remove the outdated one",
    )


def _mask_values(path: Path, size: tuple[int, int]) -> tuple[int, ...]:
    """The gray values above 0 of a label map, ascending; ``()`` if the file is an annotated picture."""
    mask = _open_mask(path)
    if _is_picture(mask):
        return ()
    if mask.size != size:
        raise DataError(
            "mask and image differ in size",
            where=str(path),
            expected="{} x {} pixels".format(*size),
            got="{} x {}".format(*mask.size),
            fix=_RESTORE,
        )
    return tuple(int(value) for value in np.unique(_channels(mask)[..., 0]) if value > 0)


def _open_mask(path: Path) -> Image.Image:
    mask = open_unconverted(path)
    if mask.mode not in ("L", "LA", "P", "RGB", "RGBA"):
        raise DataError(
            "mask has an unknown pixel type", where=str(path), expected="8-bit gray or RGB", got=mask.mode, fix=_RESTORE
        )
    return mask


def _is_picture(mask: Image.Image) -> bool:
    """Whether a ``mask.png`` is no label map: coloured, or with more gray values than one has."""
    channels = _channels(mask)
    return bool((channels != channels[..., :1]).any()) or len(np.unique(channels[..., 0])) > MAX_MASK_VALUES


def _channels(mask: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(mask.convert("RGBA"))[..., :3]


def _box_regions(path: Path, size: tuple[int, int]) -> list[Region]:
    regions = []
    for number, entry in enumerate(read_json_list(path), start=1):
        where = f"{path}, entry {number}"
        if not isinstance(entry, dict) or len(entry) != 1:
            raise DataError(
                "malformed box",
                where=where,
                expected='{"label": [x, y, width, height]}',
                got=shown(entry),
                fix=_RESTORE,
            )
        ((label, box),) = entry.items()
        if not label.strip() or not _is_box(box):
            raise DataError(
                "malformed box",
                where=where,
                expected='{"label": [x, y, width, height]} with four finite numbers',
                got=shown(entry),
                fix=_RESTORE,
            )
        x, y, width, height = map(float, box)
        if not (0 <= x < x + width <= size[0] and 0 <= y < y + height <= size[1]):
            raise DataError(
                _BOX_OUTSIDE,
                where=where,
                expected="a box inside the image of {} x {} pixels".format(*size),
                got=shown(entry),
                fix=_RESTORE,
            )
        regions.append(Region(label=label.strip(), box=(x, y, width, height)))
    return regions


def _is_box(box: Any) -> bool:
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9 for value in box)
    )


def _read_mask_labels(path: Path) -> Mapping[int, str]:
    """Gray value → label from the lines ``int:label`` of the official mask.txt."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataError("mask.txt cannot be read", where=str(path), got=str(error), fix=_RESTORE) from error
    labels: dict[int, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        match = re.fullmatch(r"\s*([0-9]{1,3})\s*:\s*(\S.*?)\s*", line)
        if match is None or int(match[1]) > 255 or int(match[1]) in labels:
            raise DataError(
                "malformed mask label",
                where=f"{path}, line {number}",
                expected="value:label, each value from 0 to 255 once",
                got=repr(line),
                fix=_RESTORE,
            )
        labels[int(match[1])] = match[2]
    return labels
