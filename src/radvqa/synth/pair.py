"""The records of synthesis: what a pair is made from, the pair while it is screened, and the pair as it is kept."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from radvqa.recipe.synthesis import SLOTS, Slot
from radvqa.sample import VqaSample


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """All that a generator may know of an image: its caption, and facts the data set states beside it.

    ``facts``: by slot, such as ``{"modality": "CT", "plane": "Axial"}``; never title, diagnosis or history.
    """

    caption_id: str
    text: str
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A question and its answer before screening.

    ``slot``: what is asked for; yes/no questions are ``yes`` or ``no`` after their answer.
    ``style``: of the wording, ``""`` where a model worded the question.
    ``basis``: what the answer rests on: ``model``, ``fact`` (stated beside the caption), ``caption`` (its words),
    ``negated`` (the caption denies it) or ``absent`` (the caption does not mention it).
    ``subject``: the canonical name of the finding, organ or value asked for, where one is known.
    ``dialogue``: 0 for a question that stands alone, else the number of the chain; ``turn`` then counts from 1.
    """

    question: str
    answer: str
    slot: Slot
    style: str = ""
    basis: str = "model"
    subject: str = ""
    dialogue: int = 0
    turn: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What one screen found; ``detail`` says why a pair did not pass."""

    screen: str
    passed: bool
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a generated pair comes from, complete enough to make it again.

    ``prompt`` is ``id@version``; ``reply`` is the raw text of the model, ``""`` for rules. ``model_digest`` is the
    SHA-256 of the weights, or of the vocabulary for rules.
    """

    caption_id: str
    caption_sha256: str
    facts: Mapping[str, str]
    prompt: str
    prompt_sha256: str
    backend: str
    model: str
    model_digest: str
    sampling: Mapping[str, float]
    reply: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticPair:
    """One generated pair with all that is known of it. ``reason`` is ``""`` if it was kept, else why it was not."""

    sample: VqaSample
    slot: Slot
    style: str
    basis: str
    subject: str
    origin: Origin
    verdicts: tuple[Verdict, ...]
    reason: str = ""


__all__ = ["SLOTS", "Candidate", "Origin", "Slot", "Source", "SyntheticPair", "Verdict"]
