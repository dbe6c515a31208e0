"""The records that flow between layers: samples, regions, rejects, predictions.

All are frozen, keyword-only dataclasses; ``radvqa.records`` writes them as JSON Lines and validates them on reading.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Split = Literal["train", "val", "test"]
AnswerType = Literal["closed", "open"]

SPLITS: tuple[Split, ...] = ("train", "val", "test")


@dataclass(frozen=True, slots=True, kw_only=True)
class VqaSample:
    """One question about one image, with its accepted answers.

    ``answers``: accepted references; the first one is trained on. ``answer_type``: as the data set states it.
    ``group_id``: patient, case or image; the unit of splits and of the bootstrap.
    ``tags``: modality, organ, content type and the like: for slices in reports, never shown to the model.
    """

    sample_id: str
    image_id: str
    image: Path
    question: str
    answers: tuple[str, ...]
    answer_type: AnswerType
    group_id: str
    split: Split
    language: str = "en"
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """One labelled region of an image: a box, a value in a label mask, or both.

    ``box`` is (x, y, width, height) in pixels of the original image, origin top left.
    """

    label: str
    box: tuple[float, float, float, float] | None = None
    mask: Path | None = None
    mask_value: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A row that was left out, and why. Rejects are counted, kept and reported; nothing is dropped silently.

    ``reason`` is a short machine name (``missing_image``), ``where`` a file and row, ``detail`` a sentence.
    """

    sample_id: str
    reason: str
    where: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One generated answer beside its references.

    ``finished`` is False when the answer hit the token limit before its end token.
    ``token_ids`` are the generated tokens, end token included, and ``logprob`` is the sum of their log-probabilities;
    empty and None where no model answered.
    """

    sample_id: str
    group_id: str
    image_id: str
    question: str
    references: tuple[str, ...]
    answer_type: AnswerType
    text: str
    prompt_id: str
    finished: bool
    token_ids: tuple[int, ...]
    logprob: float | None
    tags: Mapping[str, str] = field(default_factory=dict)
