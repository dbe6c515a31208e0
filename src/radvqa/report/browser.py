"""The answers of a folder as a list that a reader can filter: picture by picture, bounded in size."""

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final

from markupsafe import Markup

from radvqa.evaluate.metrics import HEADLINE, Scored, score_answer
from radvqa.html import Picture, thumbnail
from radvqa.sample import Prediction

ANSWERS: Final = 3000
"""Answers on the page at most, some 600 bytes each."""

PICTURES: Final = 300
"""Pictures on the page at most, some 6 kB each."""

SIDE: Final = 176
NO_MODALITY: Final = "(not stated)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """The one script of a page, and the hash by which the page's security policy allows it and no other."""

    text: Markup
    allowed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer as the list shows it. ``read``: what was scored, where that is not the whole text."""

    question: str
    references: tuple[str, ...]
    text: str
    read: str
    right: bool
    answer_type: str
    modality: str
    state: str
    facts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A picture with the answers to the questions about it."""

    image_id: str
    picture: Picture
    wrong: int
    answers: tuple[Answer, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Browser:
    """What the page lists, the choices of its filters with counts, and how many are not on it."""

    cases: tuple[Case, ...]
    filters: tuple[tuple[str, str, tuple[tuple[str, int], ...]], ...]
    answers: int
    answers_left_out: int
    pictures_left_out: int


def browse(predictions: Sequence[Prediction], images: Mapping[str, Path]) -> Browser:
    """The answers by picture, pictures with most wrong answers first.

    ``images``: picture file by sample id; a sample that is not in it gets a note in place of its picture.
    """
    by_image: dict[str, list[tuple[Prediction, Scored]]] = {}
    for prediction in predictions:
        by_image.setdefault(prediction.image_id, []).append((prediction, score_answer(prediction)))
    order = sorted(by_image, key=lambda image_id: -sum(not _right(scored) for _, scored in by_image[image_id]))
    cases: list[Case] = []
    listed = 0
    for image_id in order:
        members = by_image[image_id][: ANSWERS - listed]
        if not members:
            break
        listed += len(members)
        cases.append(
            Case(
                image_id=image_id,
                picture=_picture(members[0][0], images, embedded=len(cases) < PICTURES),
                wrong=sum(not _right(scored) for _, scored in members),
                answers=tuple(_answer(prediction, scored) for prediction, scored in members),
            )
        )
    shown = [answer for case in cases for answer in case.answers]
    return Browser(
        cases=tuple(cases),
        filters=(
            ("type", "Answer type", _choices(answer.answer_type for answer in shown)),
            ("modality", "Modality", _choices(answer.modality for answer in shown)),
            ("state", "State", _choices(answer.state for answer in shown)),
        ),
        answers=len(predictions),
        answers_left_out=len(predictions) - listed,
        pictures_left_out=max(0, len(cases) - PICTURES),
    )


def browser_script() -> Script:
    """The script that filters the list."""
    text = files("radvqa.report").joinpath("browser.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    # Not escaped: it is our own file, and no text of the data is in it.
    return Script(text=Markup(text), allowed=f"sha256-{digest}")


def _right(scored: Scored) -> bool:
    return scored.scores[HEADLINE] == 1.0


def _answer(prediction: Prediction, scored: Scored) -> Answer:
    modality = prediction.tags.get("modality", NO_MODALITY)
    facts = [prediction.answer_type, modality, prediction.tags.get("content_type", ""), scored.state.replace("_", " ")]
    facts += [flag.replace("_", " ") for flag in scored.flags]
    if not prediction.finished:
        facts.append("cut at the token limit")
    read = scored.verdict or scored.answer
    return Answer(
        question=prediction.question,
        references=prediction.references,
        text=prediction.text,
        read="" if read.strip().lower() == prediction.text.strip().lower() else read,
        right=_right(scored),
        answer_type=prediction.answer_type,
        modality=modality,
        state=scored.state,
        facts=tuple(dict.fromkeys(fact for fact in [*facts, prediction.sample_id] if fact and fact != NO_MODALITY)),
    )


def _picture(prediction: Prediction, images: Mapping[str, Path], *, embedded: bool) -> Picture:
    image = images.get(prediction.sample_id)
    if image is None:
        return Picture(note="no picture file known")
    return thumbnail(image, side=SIDE) if embedded else Picture(note="not embedded")


def _choices(values: Iterable[str]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(Counter(values).items()))
