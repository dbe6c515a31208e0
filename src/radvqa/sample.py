"""The records that flow between layers: samples, captions, regions, rejects, defects, predictions.

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

    ``answers``: accepted references; the first one is trained on.
    ``answer_type``: as the data set states it; where it states none, ``answer_type_stated`` is False and yes/no
    answers and multiple choice count as closed.
    ``choices``: the offered answers of a multiple-choice question, in their order.
    ``group_id``: patient, case or image; the unit of splits and of the bootstrap.
    ``link_id``: questions that ask the same in other words share it; ``""`` where the data set links none.
    ``dialogue_id``: questions of one chain about one image share it, ``turn`` is the place in it, from 1; ``""`` and 0
    for a question that stands alone. A later turn may need the earlier ones to be understood.
    ``synthetic``: a program or language model wrote the pair.
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
    answer_type_stated: bool = True
    choices: tuple[str, ...] = ()
    link_id: str = ""
    dialogue_id: str = ""
    turn: int = 0
    synthetic: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionedImage:
    """One image with the text published beside it.

    ``sample_id``: of the pair; a data set may give one image several captions.
    ``withheld``: what is known of the case and gives answers away (title, diagnosis, findings, history): kept for the
    audit, never an input of the model or of synthesis. ``tags`` and ``group_id`` are as in ``VqaSample``.
    """

    sample_id: str
    image_id: str
    image: Path
    text: str
    group_id: str
    split: Split
    language: str = "en"
    tags: Mapping[str, str] = field(default_factory=dict)
    withheld: Mapping[str, str] = field(default_factory=dict)


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
    ``malformed``: the row breaks the layout of its data set; otherwise it is sound but was left out, because its image
    is missing or something else was asked for.
    """

    sample_id: str
    reason: str
    where: str
    detail: str
    malformed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Defect:
    """Something that is not as its layout promises, in a row that is used all the same or in a file beside the table.

    ``subject`` is a sample or image id, ``reason`` a short machine name (``integer_answer``), ``where`` a file and row,
    ``detail`` a sentence that says what was found and what was made of it.
    """

    subject: str
    reason: str
    where: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """One generated answer beside its references.

    ``finished`` is False when the answer hit the token limit before its end token.
    ``token_ids`` are the generated tokens, end token included, and ``logprob`` is the sum of their log-probabilities;
    empty and None where no model answered.
    ``missing``: there is no answer at all to this question; ``text`` is then ``""``.
    ``link_id``, ``dialogue_id`` and ``turn`` are those of the question (see ``VqaSample``).
    ``decoding``, ``dtype`` and ``image_hash`` (SHA-256 of the picture's file) say how and from what the answer was
    generated; ``""`` where not known.
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
    missing: bool = False
    link_id: str = ""
    dialogue_id: str = ""
    turn: int = 0
    decoding: str = ""
    dtype: str = ""
    image_hash: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
