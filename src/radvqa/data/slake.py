"""SLAKE in its official layout: bilingual questions about CT, MRI and X-ray images with organ masks and boxes.

Layout of the folder, ``Slake1.0/`` upstream (``validation.json`` and ``imgs/imgs/`` as on the Hugging Face hub)::

    train.json  validate.json  test.json       lists of rows, both languages mixed
    mask.txt                                   lines "gray value:label"; some copies lack it
    imgs/xmlabN/source.jpg                     the only picture that is ever given to the model
    imgs/xmlabN/mask.png                       CT, MRI: label map. X-ray: the picture with its answer printed on it
    imgs/xmlabN/detection.json                 [{"Liver": [x, y, width, height]}, ...], may be []
    imgs/xmlabN/question.json                  never read: it ignores the splits
"""

import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import numpy.typing as npt

from radvqa.data.adapter import DatasetAdapter, Reading
from radvqa.data.imaging import open_image, open_unconverted, path_inside
from radvqa.errors import DataError, RecipeError
from radvqa.sample import AnswerType, Region, Reject, Split, VqaSample

LANGUAGES: tuple[str, ...] = ("en", "zh")
MAX_MASK_VALUES = 40
"""More gray values than this in one ``mask.png`` mean a picture; the label maps of SLAKE examined have at most 9."""

_TABLES: Mapping[Split, tuple[str, ...]] = {
    "train": ("train.json",),
    "val": ("validate.json", "validation.json"),
    "test": ("test.json",),
}
_ANSWER_TYPES: Mapping[str, AnswerType] = {"CLOSED": "closed", "OPEN": "open"}
_TAGS = ("modality", "location", "content_type", "base_type")
_TEXT_KEYS = ("img_name", "question", "answer", "q_lang", "answer_type", *_TAGS)
_PUBLISHED_WITHOUT_ANSWER = frozenset({(1622, "xmlab281/source.jpg", "Does the picture contain liver?")})
_NUMBER_KEYS = ("qid", "img_id")
_IMAGE_ID = re.compile(r"xmlab[0-9]+")
_RESTORE = "fetch the file again from the data set's source, or correct it"


@final
class SlakeDataset(DatasetAdapter):
    """SLAKE (Liu et al., ISBI 2021), one language at a time.

    * The sample id is ``slake-<qid>``, the image id ``xmlabN``; the group is the image, because SLAKE names no patient.
    * A row whose ``source.jpg`` is absent becomes a reject ``missing_image``.
    * A row in another language becomes a reject ``other_language``: with both languages in one file they are about
      half of all rows, so leave this reason out of any limit on the share of rejects. One language is read at a
      time because the two have different splits: merged, they share images between training and test.
      Training on "zh" and testing on "en" shares them too.
    * The answer is the raw answer with white space collapsed; nothing else is normalised here.
    * An empty answer is an error, but for the one row that was published so (training qid 1622): it becomes a reject
      ``empty_answer``.
    * Tags never reach the model: ``modality`` and ``location`` answer many questions outright.
    """

    licence: ClassVar[str] = "CC BY 4.0"
    citation: ClassVar[str] = (
        "B. Liu, L.-M. Zhan, L. Xu, L. Ma, Y. Yang, X.-M. Wu. SLAKE: A Semantically-Labeled Knowledge-Enhanced "
        "Dataset for Medical Visual Question Answering. IEEE ISBI 2021. arXiv:2102.09542"
    )
    homepage: ClassVar[str] = "https://www.med-vqa.com/slake/"

    def __init__(self, root: str, *, language: str = "en") -> None:
        """Open the folder ``root`` (the one with ``train.json``) for questions in ``language``, "en" or "zh".

        Raises:
            RecipeError: the language is neither.
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
        _require_layout(self.root)
        nested = self.root / "imgs" / "imgs"
        self._images = "imgs/imgs" if nested.is_dir() else "imgs"

    def read(self, split: Split) -> Reading:
        """One split in file order: samples of the chosen language, and a reject for every other row.

        Raises:
            DataError: the split or its file does not exist; the file is no JSON list; a row lacks a key, has a value
                of the wrong type, an empty question or answer, an unknown answer type, a repeated qid or an image
                path outside the data folder. Rows of the other language are checked as well.
        """
        table = self._table(split)
        samples: list[VqaSample] = []
        rejects: list[Reject] = []
        row_of_qid: dict[int, int] = {}
        images: dict[str, Path] = {}
        present: dict[str, bool] = {}
        for number, raw in enumerate(_json_list(table), start=1):
            where = f"{table}, row {number}"
            row = _checked_row(raw, where)
            where_qid = f"{where}, qid {row['qid']}"
            if row["qid"] in row_of_qid:
                raise DataError(
                    "the qid is used twice",
                    where=where_qid,
                    expected="every qid once",
                    got=f"row {row_of_qid[row['qid']]} has it as well",
                    fix="remove the repeated row",
                )
            row_of_qid[row["qid"]] = number
            image_id = self._image_id(row, where_qid)
            if image_id not in images:
                images[image_id] = self._image_path(row["img_name"], where_qid)
                present[image_id] = images[image_id].is_file()
            sample = _sample(row, split, image_id=image_id, image=images[image_id])
            if sample.language != self.language:
                detail = f"the question is in {sample.language!r}, {self.language!r} was asked for"
                rejects.append(_reject(sample, "other_language", where, detail))
            elif not present[image_id]:
                rejects.append(_reject(sample, "missing_image", where, f"there is no file {sample.image}"))
            elif sample.answers == ("",):
                rejects.append(_reject(sample, "empty_answer", where, "the row was published without an answer"))
            else:
                samples.append(sample)
        return Reading(samples=tuple(samples), rejects=tuple(rejects))

    def regions(self, image_id: str) -> tuple[Region, ...]:
        """The labels of the image's mask in order of their gray value, then its boxes in file order.

        A mask region has ``mask`` and ``mask_value`` (0 is background); its label comes from ``mask.txt``, or is
        ``value_<gray value>`` where that file does not name the value or is absent. A box region has ``box``.
        The same organ may be there as both. An absent mask or box file gives no regions of its kind, and so does a
        ``mask.png`` that is no label map but an annotated picture, as with all X-ray images.

        Raises:
            DataError: there is no such image, or its mask, boxes or ``mask.txt`` are malformed.
        """
        if not _IMAGE_ID.fullmatch(image_id):
            raise DataError(
                "not a SLAKE image id", where=repr(image_id), expected="xmlab and a number", fix="correct the image id"
            )
        folder = f"{self._images}/{image_id}"
        width, height = open_image(path_inside(self.root, f"{folder}/source.jpg"), root=self.root).size
        mask = path_inside(self.root, f"{folder}/mask.png")
        boxes = path_inside(self.root, f"{folder}/detection.json")
        return (
            *(
                Region(label=self._mask_labels.get(value, f"value_{value}"), mask=mask, mask_value=value)
                for value in (_mask_values(mask, (width, height)) if mask.exists() else ())
            ),
            *(_box_regions(boxes, (width, height)) if boxes.exists() else ()),
        )

    def sources(self) -> tuple[Path, ...]:
        """The JSON tables that are there, in the order train, val, test."""
        tables = (self.root / name for names in _TABLES.values() for name in names)
        return tuple(table for table in tables if table.is_file())

    def _table(self, split: Split) -> Path:
        if split not in _TABLES:
            raise DataError(
                f"SLAKE has no split {split!r}", expected=f"one of {', '.join(_TABLES)}", fix="correct the split"
            )
        names = _TABLES[split]
        found = [self.root / name for name in names if (self.root / name).is_file()]
        if len(found) != 1:
            raise DataError(
                f"SLAKE needs one table for the split {split!r}",
                where=str(self.root),
                expected=" or ".join(names),
                got=" and ".join(table.name for table in found) or "none",
                fix="remove the outdated one" if found else "fetch the file, or choose a split that is there",
            )
        return found[0]

    def _image_id(self, row: Mapping[str, Any], where: str) -> str:
        """The image id of a row whose ``img_name`` is the source.jpg of that image and nothing else."""
        name, image_id = row["img_name"], f"xmlab{row['img_id']}"
        if name != f"{image_id}/source.jpg":
            try:
                path_inside(self.root / self._images, name)
            except DataError as error:
                raise _leaves_folder(name, where, error) from error
            raise DataError(
                "img_name and img_id do not agree",
                where=where,
                expected=f"img_name {image_id}/source.jpg",
                got=repr(name),
                fix="correct the row: only source.jpg is an image, masks show the answer",
            )
        return image_id

    def _image_path(self, name: str, where: str) -> Path:
        try:
            return path_inside(self.root, f"{self._images}/{name}")
        except DataError as error:
            raise _leaves_folder(name, where, error) from error

    @cached_property
    def _mask_labels(self) -> Mapping[int, str]:
        path = self.root / "mask.txt"
        return _read_mask_labels(path) if path.exists() else {}


ADAPTER = SlakeDataset


def _require_layout(root: Path) -> None:
    expected = "a folder with train.json, validate.json or test.json, and imgs/"
    got: str | None = None
    if not root.is_dir():
        got = "a file" if root.exists() else "no such folder"
    elif not any((root / name).is_file() for names in _TABLES.values() for name in names):
        entries = sorted(entry.name for entry in root.iterdir())
        got = f"none of the three tables, but {', '.join(entries[:5])}" if entries else "an empty folder"
    elif not (root / "imgs").is_dir():
        got = "no folder imgs/"
    if got is not None:
        raise DataError(
            "SLAKE is not at this place",
            where=str(root),
            expected=expected,
            got=got,
            fix=f"point root at the unpacked folder Slake1.0, or fetch it from {SlakeDataset.homepage}",
        )


def _json_list(path: Path) -> list[Any]:
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError("file cannot be read", where=str(path), got=error.strerror, fix="check its rights") from error
    except (ValueError, RecursionError) as error:
        raise DataError(
            "file is not valid JSON", where=str(path), expected="a JSON list", got=str(error), fix=_RESTORE
        ) from error
    if not isinstance(value, list):
        raise DataError(
            "file is not a JSON list", where=str(path), expected="[...]", got=type(value).__name__, fix=_RESTORE
        )
    return value


def _checked_row(raw: Any, where: str) -> dict[str, Any]:
    """The row itself, once every key that is used has a value of the right type."""
    if not isinstance(raw, dict):
        raise DataError("row is not an object", where=where, expected="{...}", got=_shown(raw), fix=_RESTORE)
    qid = raw.get("qid")
    where = f"{where}, qid {qid!r}"
    for key in (*_NUMBER_KEYS, *_TEXT_KEYS):
        if key not in raw:
            raise DataError(
                f"row lacks the key {key!r}", where=where, expected=key, got=", ".join(map(str, raw)), fix=_RESTORE
            )
    for key in _NUMBER_KEYS:
        value = raw[key]
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise DataError(f"bad {key}", where=where, expected="an integer from 0", got=_shown(value), fix=_RESTORE)
    for key in _TEXT_KEYS:
        value = raw[key]
        may_be_empty = key == "answer" and (qid, raw["img_name"], raw["question"]) in _PUBLISHED_WITHOUT_ANSWER
        if not isinstance(value, str) or not _is_unicode(value) or not (value.strip() or may_be_empty):
            raise DataError(f"bad {key}", where=where, expected="text, not empty", got=_shown(value), fix=_RESTORE)
    if raw["answer_type"] not in _ANSWER_TYPES:
        raise DataError(
            "unknown answer_type",
            where=where,
            expected=" or ".join(_ANSWER_TYPES),
            got=_shown(raw["answer_type"]),
            fix=_RESTORE,
        )
    return raw


def _sample(row: Mapping[str, Any], split: Split, *, image_id: str, image: Path) -> VqaSample:
    return VqaSample(
        sample_id=f"slake-{row['qid']}",
        image_id=image_id,
        image=image,
        question=row["question"].strip(),
        answers=(" ".join(row["answer"].split()),),
        answer_type=_ANSWER_TYPES[row["answer_type"]],
        group_id=image_id,
        split=split,
        language=row["q_lang"],
        tags={name: row[name] for name in _TAGS},
    )


def _leaves_folder(name: str, where: str, error: DataError) -> DataError:
    return DataError(
        "img_name leaves the data folder",
        where=where,
        expected="a path such as xmlab1/source.jpg, inside the data folder",
        got=f"{name!r}: {error.got}",
        fix="correct img_name, or copy the image into the data folder instead of linking it",
    )


def _is_unicode(text: str) -> bool:
    """False for half a surrogate pair, which JSON can spell but no file can hold."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _shown(value: Any) -> str:
    return f"{value!r} ({type(value).__name__})"[:200]


def _reject(sample: VqaSample, reason: str, where: str, detail: str) -> Reject:
    return Reject(sample_id=sample.sample_id, reason=reason, where=where, detail=detail)


def _mask_values(path: Path, size: tuple[int, int]) -> tuple[int, ...]:
    """The gray values above 0 of a label map, ascending; ``()`` if the file is an annotated picture."""
    mask = open_unconverted(path)
    if mask.mode not in ("L", "LA", "P", "RGB", "RGBA"):
        raise DataError(
            "mask has an unknown pixel type", where=str(path), expected="8-bit gray or RGB", got=mask.mode, fix=_RESTORE
        )
    channels: npt.NDArray[np.uint8] = np.asarray(mask.convert("RGBA"))[..., :3]
    values = np.unique(channels[..., 0])
    if (channels != channels[..., :1]).any() or len(values) > MAX_MASK_VALUES:
        return ()
    if mask.size != size:
        raise DataError(
            "mask and image differ in size",
            where=str(path),
            expected="{} x {} pixels".format(*size),
            got="{} x {}".format(*mask.size),
            fix=_RESTORE,
        )
    return tuple(int(value) for value in values if value > 0)


def _box_regions(path: Path, size: tuple[int, int]) -> list[Region]:
    regions = []
    for number, entry in enumerate(_json_list(path), start=1):
        where = f"{path}, entry {number}"
        if not isinstance(entry, dict) or len(entry) != 1:
            raise DataError(
                "malformed box",
                where=where,
                expected='{"label": [x, y, width, height]}',
                got=_shown(entry),
                fix=_RESTORE,
            )
        ((label, box),) = entry.items()
        if not label.strip() or not _is_box(box):
            raise DataError(
                "malformed box",
                where=where,
                expected='{"label": [x, y, width, height]} with four finite numbers',
                got=_shown(entry),
                fix=_RESTORE,
            )
        x, y, width, height = map(float, box)
        if not (0 <= x < x + width <= size[0] and 0 <= y < y + height <= size[1]):
            raise DataError(
                "box is empty or leaves the image",
                where=where,
                expected="a box inside the image of {} x {} pixels".format(*size),
                got=_shown(entry),
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
