"""Which regions a question is about, and how much of each cell of the patch grid they cover.

**Rule of matching.** Texts and labels are split into words without case, hyphens and plural endings ("kidneys" is
"kidney", "teeth" is "tooth", "tumour" is "tumor").

1. A label is named where its words stand in a row. A longer label takes its words away from a shorter one: "liver
   cancer" does not name the liver.
2. "Left" and "right" in a label are a condition, not words to be found: "lung" and "both lungs" name Left Lung and
   Right Lung, "left lung", "left upper lung" and "left and right lung" those that they say.
3. Of findings with an organ in their label the finding alone will do: "edema" names Brain Edema.
4. Both the question and the accepted answers can name a label.
5. Where they name none and the question is about an abnormality, a disease or a lesion, the regions labelled as
   findings are meant, unless the answer denies that there are any.
6. Labels ``lesion in the <organ>`` (phantoms) are meant by the word "lesion" in the question: those in the organs and
   on the sides that the question limits itself to. The answer depends on these, so they stand alone; the organ asked
   about is the target only when it holds no lesion.

The counts of SLAKE that are often quoted use a simpler rule, the whole label somewhere in the text without regard to
case: it takes "liver" out of "liver cancer", and does not see plurals or a lung without its side.

**Coverage.** The grid spans ``frame``, (x, y, width, height) in pixels of the original image, as of
``radvqa.explain.overlay.grid_frame``: the image unless it was padded. Boxes are rectangles in continuous coordinates,
masks are unions of unit squares; areas are exact for both.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from radvqa.data.imaging import open_unconverted
from radvqa.errors import DataError
from radvqa.sample import Region, VqaSample

Box = tuple[float, float, float, float]
Grid = Float[np.ndarray, "r c"]
NamedIn = Literal["question", "answer", "finding"]
TargetSize = Literal["below half a cell", "small", "medium", "large"]

TARGET_SIZES: tuple[TargetSize, ...] = ("below half a cell", "small", "medium", "large")
"""Small targets cover less than 1 % of the grid, medium ones less than 5 %."""

FINDINGS = frozenset(
    {
        "atelectasis", "cancer", "cardiomegaly", "edema", "effusion", "infiltrate", "lesion", "mass", "nodule",
        "pneumonia", "pneumothorax", "tumor",
    }
)  # fmt: skip
"""Last words of labels that name a finding, not an organ."""

GRAY_VALUES = {
    40: "Larynx", 45: "Right Femoral Head", 50: "Left Femoral Head", 55: "Brain Stem", 60: "Duodenum", 65: "Tooth",
    70: "Liver", 75: "Trachea", 80: "Left Eye", 90: "Right Eye", 95: "Brain Edema", 105: "Rectum", 110: "Esophagus",
    120: "Left Ear", 125: "Bladder", 130: "Right Ear", 135: "Left Kidney", 140: "Brain Non-enhancing Tumor",
    145: "Spinal Cord", 155: "Right Kidney", 160: "Left Temporal Lobe", 165: "Stomach", 170: "Right Temporal Lobe",
    175: "Liver Cancer", 180: "Heart", 185: "Brain Enhancing Tumor", 200: "Left Mandible", 205: "Small Bowel",
    210: "Right Mandible", 215: "Left Lung", 225: "Right Lung", 230: "Spleen", 235: "Colon", 240: "Left Parotid",
    245: "Lung Cancer", 250: "Right Parotid",
}  # fmt: skip
"""SLAKE's gray values, found by matching boxes to mask components. For copies without ``mask.txt``, whose adapter can
only call a mask region ``value_<gray value>``."""

_LESION = "lesion in the "
_SIDES = frozenset({"left", "right"})
_BETWEEN = frozenset({"upper", "lower", "middle", "mid"})
_ALIASES = {"teeth": "tooth", "tumour": "tumor", "oedema": "edema", "infiltration": "infiltrate"}
_PLACES = {"right half of the brain": "right hemisphere", "left half of the brain": "left hemisphere"}
_ASKS_FOR_FINDING = re.compile(r"\b(abnormal|disease|lesion|unhealthy)", re.IGNORECASE)
_PATIENT_SIDE = re.compile(r"\bpatient's (left|right) side\b", re.IGNORECASE)
_DENIED = frozenset({"no", "none", "0", "not", "normal", "healthy"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """All regions of one label that a question is about. ``named_in`` is ``finding`` by rules 5 and 6 of the module."""

    label: str
    regions: tuple[Region, ...]
    named_in: NamedIn


def regions_by_label(
    regions: Iterable[Region], *, prefer: Literal["mask", "box"] = "mask"
) -> dict[str, tuple[Region, ...]]:
    """The regions of each label in the order met: its masks where it has any, its boxes otherwise (or the reverse).

    Labels that differ in case only are one; a mask region called ``value_<gray value>`` gets its label of
    ``GRAY_VALUES``. Masks whose value has no name are left out: no question can name them.
    """
    found: dict[str, list[Region]] = {}
    spelling: dict[str, str] = {}
    for region in sorted(regions, key=lambda one: one.box is None):
        label = _label(region)
        if label is not None:
            found.setdefault(spelling.setdefault(label.lower(), label), []).append(region)
    return {label: _preferred(group, prefer) for label, group in found.items()}


def asked_regions(
    sample: VqaSample, regions: Iterable[Region], *, prefer: Literal["mask", "box"] = "mask"
) -> tuple[Target, ...]:
    """The targets of a question, by the rule of the module; empty where it is about no region of its image.

    Their union is what a map of the whole answer is compared with. English texts only.
    """
    labelled = regions_by_label(regions, prefer=prefer)
    lesions = {label: group for label, group in labelled.items() if label.startswith(_LESION)}
    organs = [label for label in labelled if label not in lesions]
    question = _with_places(sample.question)
    asked = named_labels(question, organs)
    if lesions and "lesion" in words(question):
        meant = _lesions_meant(question, asked, list(lesions))
        if meant:
            return tuple(Target(label=label, regions=lesions[label], named_in="finding") for label in meant)
        return tuple(Target(label=label, regions=labelled[label], named_in="question") for label in asked)
    targets = [Target(label=label, regions=labelled[label], named_in="question") for label in asked]
    answered = named_labels(" . ".join(sample.answers), organs)
    targets += [
        Target(label=label, regions=labelled[label], named_in="answer") for label in answered if label not in asked
    ]
    if not targets and _ASKS_FOR_FINDING.search(question) and not _DENIED & set(words(" ".join(sample.answers))):
        targets = [
            Target(label=label, regions=labelled[label], named_in="finding") for label in organs if is_finding(label)
        ]
    return tuple(targets)


def question_labels(question: str, labels: Sequence[str], *, here: Sequence[str]) -> list[str]:
    """The labels that a question alone gives away, by the rules of the module without image and answers.

    Args:
        question: its text.
        labels: all labels there are.
        here: those of them that pictures of this kind have; they are all meant where the question names none.
    """
    question = _with_places(question)
    named = named_labels(question, [label for label in labels if not label.startswith(_LESION)])
    lesions = [label for label in here if label.startswith(_LESION)]
    if lesions and "lesion" in words(question):
        return _lesions_meant(question, named, lesions) or named or lesions
    if named:
        return named
    findings = [label for label in here if is_finding(label)] if _ASKS_FOR_FINDING.search(question) else []
    return findings or list(here)


def is_finding(label: str) -> bool:
    """Whether a label is a finding (Liver Cancer, Effusion), not an organ."""
    return label.startswith(_LESION) or words(label)[-1] in FINDINGS


def words(text: str) -> list[str]:
    """The words of a text in lower case, in the singular, with one spelling each."""
    return [_singular(word) for word in re.findall(r"[a-z0-9]+|[.;,]", text.lower())]


def named_labels(text: str, labels: Sequence[str]) -> list[str]:
    """The labels that a text names, in their order, by rules 1 to 3 of the module."""
    said = words(text)
    free = [True] * len(said)
    forms = {form for label in labels for form in _forms(label)}
    named: set[str] = set()
    for form in sorted(forms, key=lambda one: (-len(one), one)):
        for start in range(len(said) - len(form) + 1):
            place = slice(start, start + len(form))
            if tuple(said[place]) != form or not all(free[place]):
                continue
            free[place] = [False] * len(form)
            sides = _sides_before(said, start)
            for label in labels:
                own = _SIDES & set(words(label))
                if form in _forms(label) and (not own or not sides or own <= sides):
                    named.add(label)
    return [label for label in labels if label in named]


def grid_coverage(
    regions: Iterable[Region], image_size: tuple[int, int], *, grid: tuple[int, int], frame: Box | None = None
) -> Grid:
    """The share of each cell's area that the union of the regions covers; what a cell has of padding counts as empty.

    ``image_size`` is (width, height), ``grid`` is (rows, columns). A region with a mask is its mask, another its box.

    Raises:
        DataError: a region has neither, or a mask has another size than the image or cannot be read.
    """
    x, y, across, down = frame or (0.0, 0.0, *map(float, image_size))
    boxes, masks = [], []
    for region in regions:
        if region.mask is not None:
            masks.append(_mask_pixels(region, image_size))
        elif region.box is not None:
            boxes.append(region.box)
        else:
            raise DataError("a region has neither box nor mask", where=region.label)
    masks = [mask for mask in masks if mask.pixels.any()]
    columns = _edges([(box[0], box[0] + box[2]) for box in boxes], [(mask.x, mask.pixels.shape[1]) for mask in masks])
    rows = _edges([(box[1], box[1] + box[3]) for box in boxes], [(mask.y, mask.pixels.shape[0]) for mask in masks])
    if len(rows) < 2 or len(columns) < 2:
        return np.zeros(grid)
    inside = np.zeros((len(rows) - 1, len(columns) - 1), dtype=bool)
    for left, top, width, height in boxes:
        inside[_span(rows, top, top + height), _span(columns, left, left + width)] = True
    for mask in masks:
        height, width = mask.pixels.shape
        place = (_span(rows, mask.y, mask.y + height), _span(columns, mask.x, mask.x + width))
        pixel_rows = (rows[:-1][place[0]] - mask.y).astype(int)
        pixel_columns = (columns[:-1][place[1]] - mask.x).astype(int)
        inside[place] |= mask.pixels[np.ix_(pixel_rows, pixel_columns)]
    down_share = _shares((rows - y) / down, grid[0])
    across_share = _shares((columns - x) / across, grid[1])
    covered: Grid = np.clip(down_share @ inside @ across_share.T, 0.0, 1.0)
    return covered


def target_size(coverage: Grid) -> TargetSize:
    """The size stratum of a target."""
    if not (coverage > 0.5).any():
        return "below half a cell"
    area = float(coverage.mean())
    return "small" if area < 0.01 else "medium" if area < 0.05 else "large"


class _Mask(NamedTuple):
    """The bounding box of a mask: its corner and its pixels."""

    x: int
    y: int
    pixels: npt.NDArray[np.bool_]


def _label(region: Region) -> str | None:
    gray = re.fullmatch(r"value_([0-9]+)", region.label)
    return region.label if gray is None else GRAY_VALUES.get(int(gray[1]))


def _preferred(group: Sequence[Region], prefer: Literal["mask", "box"]) -> tuple[Region, ...]:
    """Regions of the preferred kind. A region that is both is left as it is for masks, and loses its mask for boxes."""
    if prefer == "mask":
        return tuple(region for region in group if region.mask is not None) or tuple(group)
    boxes = tuple(Region(label=region.label, box=region.box) for region in group if region.box is not None)
    return boxes or tuple(group)


def _singular(word: str) -> str:
    if word.endswith("sses"):
        word = word[:-2]
    elif len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        word = word[:-1]
    return _ALIASES.get(word, word)


def _forms(label: str) -> list[tuple[str, ...]]:
    """What names a label in a text: its words without the side, and of a finding the finding alone."""
    whole = tuple(word for word in words(label) if word not in _SIDES)
    return [whole, whole[-1:]] if whole[-1:] and whole[-1] in FINDINGS and len(whole) > 1 else [whole]


def _sides_before(said: Sequence[str], start: int) -> set[str]:
    """The sides that the words before a name give it: {"left"} in "left lung" or "left upper lung"."""
    place = start - 1
    while place >= 0 and said[place] in _BETWEEN:
        place -= 1
    if place < 0 or said[place] not in _SIDES:
        return set()
    sides = {said[place]}
    if place >= 2 and said[place - 1] in ("and", "or") and said[place - 2] in _SIDES:
        sides.add(said[place - 2])
    return sides


def _with_places(question: str) -> str:
    for phrase, label in _PLACES.items():
        question = question.replace(phrase, label)
    return question


def _lesions_meant(question: str, asked: Sequence[str], lesions: Sequence[str]) -> list[str]:
    """The lesions in the organs that the question names, on the side that it names; all where it names none."""
    meant = [label for label in lesions if not asked or label.removeprefix(_LESION) in asked]
    side = _PATIENT_SIDE.search(question)
    if side is None:
        return meant
    other = ({"left", "right"} - {side[1].lower()}).pop()
    return [label for label in meant if other not in words(label)]


@lru_cache(maxsize=4)
def _gray_values(path: Path) -> npt.NDArray[Any]:
    picture = open_unconverted(path)
    values = np.asarray(picture.convert("RGBA") if picture.mode in ("P", "PA") else picture)
    return np.ascontiguousarray(values if values.ndim == 2 else values[..., 0])


def _mask_pixels(region: Region, image_size: tuple[int, int]) -> _Mask:
    assert region.mask is not None
    values = _gray_values(region.mask)
    if values.shape != image_size[::-1]:
        raise DataError(
            "mask and image differ in size",
            where=str(region.mask),
            expected="{} x {} pixels".format(*image_size),
            got=f"{values.shape[1]} x {values.shape[0]}",
        )
    inside = values > 0 if region.mask_value is None else values == region.mask_value
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not len(rows):
        return _Mask(0, 0, inside[:0, :0])
    return _Mask(int(columns[0]), int(rows[0]), inside[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def _edges(spans: Iterable[tuple[float, float]], pixels: Iterable[tuple[int, int]]) -> Float[np.ndarray, " e"]:
    """All coordinates at which something may begin or end along one axis, ascending."""
    found = [np.array(span, dtype=np.float64) for span in spans]
    found += [start + np.arange(count + 1, dtype=np.float64) for start, count in pixels]
    return np.unique(np.concatenate(found)) if found else np.zeros(0)


def _span(edges: Float[np.ndarray, " e"], first: float, last: float) -> slice:
    return slice(int(np.searchsorted(edges, first)), int(np.searchsorted(edges, last)))


def _shares(edges: Float[np.ndarray, " e"], cells: int) -> Float[np.ndarray, "cells intervals"]:
    """The share of each of ``cells`` equal parts of 0 … 1 that lies in each interval between neighbouring edges."""
    borders = np.arange(cells + 1) / cells
    inside = np.clip(edges[None, :], borders[:-1, None], borders[1:, None])
    shares: Float[np.ndarray, "cells intervals"] = np.diff(inside, axis=1) * cells
    return shares
