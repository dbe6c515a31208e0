"""Questions about one image that were asked before: contradictions, duplicates, the same question in other words."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from radvqa.data.answers import is_yes_no
from radvqa.evaluate.normalise import answer_parts, normalise_answer
from radvqa.synth.licence import content_stems, stem
from radvqa.synth.vocabulary import find_terms

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts to one row of length 1 each, so that the product of two rows is their cosine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetPair:
    """What the screens over the whole set look at. ``subject`` may be ``""``."""

    sample_id: str
    image_id: str
    group_id: str
    question: str
    answer: str
    subject: str = ""


def contradictions(pairs: Iterable[SetPair]) -> dict[str, str]:
    """Why each pair contradicts another: the same question about the same image has another answer. None is kept."""
    found: dict[str, str] = {}
    for group in _same_questions(pairs):
        answers = {answer_parts(one.answer) for one in group}
        if len(answers) > 1:
            told = " and ".join(sorted({repr(one.answer) for one in group})[:3])
            found |= {one.sample_id: f"the same question about this image has the answers {told}" for one in group}
    return found


def duplicates(pairs: Iterable[SetPair]) -> dict[str, str]:
    """Why a pair is left out as a duplicate: the same question about the same image is kept, the first by its id."""
    return {
        one.sample_id: f"the same question as {group[0].sample_id}"
        for group in _same_questions(pairs)
        for one in group[1:]
    }


def alike_questions(
    pairs: Iterable[SetPair], threshold: float, *, embed: Embed | None = None
) -> Iterator[tuple[SetPair, SetPair]]:
    """Each pair that asks what another one about the same image does, after the first one that does, in order of ids.

    Two questions are the same from ``threshold`` on, of the Jaccard similarity of their content words or, with
    ``embed``, of the cosine of their sentence embeddings; but never where ``guards`` differ.
    """
    by_image: dict[str, list[SetPair]] = defaultdict(list)
    for one in pairs:
        by_image[one.image_id].append(one)
    groups = [sorted(group, key=_order) for _, group in sorted(by_image.items()) if len(group) > 1]
    vectors = _vectors(groups, embed) if embed is not None else None
    for group in groups:
        kept: list[SetPair] = []
        for one in group:
            first = next((other for other in kept if _same(other, one, threshold, vectors)), None)
            if first is None:
                kept.append(one)
            else:
                yield first, one


def opposite(one: SetPair, other: SetPair) -> bool:
    """Whether one is answered yes and the other no."""
    closed = is_yes_no(one.answer) and is_yes_no(other.answer)
    return closed and normalise_answer(one.answer) != normalise_answer(other.answer)


_KINDS = {
    "count": re.compile(r"\bhow many\b|\bnumber of\b"),
    "place": re.compile(r"\bwhere\b|\blocat\w+|\bwhich (?:side|lobe|part|region|area|level)\b|\bsites?\b"),
    "modality": re.compile(
        r"\bmodalit\w+|\btechniques?\b|\b(?:kind|type|sort) of (?:image|imaging|scan|study|exam\w*)\b"
    ),
    "plane": re.compile(r"\bplanes?\b|\bview\b|\bprojection\b|\borientation\b"),
    "degree": re.compile(r"\bsever\w+|\bdegree\b|\bextent\b|\bhow (?:marked|large|big|advanced)\b"),
    "organ": re.compile(r"\borgans?\b|\bbody part\b|\bpart of the body\b|\bstructures?\b|\banatom\w+"),
    "manner": re.compile(r"\bhow\b"),
    "reason": re.compile(r"\bwhy\b"),
}
_COMPLETE_KINDS = frozenset({"place", "modality", "plane", "organ"})
_OPPOSED = frozenset(
    stem(word)
    for word in [
        "upper",
        "lower",
        "left",
        "right",
        "anterior",
        "posterior",
        "superior",
        "inferior",
        "medial",
        "lateral",
        "proximal",
        "distal",
        "central",
        "peripheral",
        "internal",
        "external",
        "inner",
        "outer",
        "cranial",
        "caudal",
        "dorsal",
        "ventral",
        "apical",
        "basal",
        "first",
        "second",
        "third",
        "fourth",
        "fifth",
        "increase",
        "decrease",
        "increased",
        "decreased",
        "large",
        "small",
        "high",
        "low",
        "thick",
        "thin",
        "bright",
        "dark",
        "hyper",
        "hypo",
        "benign",
        "malignant",
        "acute",
        "chronic",
        "mild",
        "moderate",
        "severe",
        "solid",
        "cystic",
        "single",
        "multiple",
        "unilateral",
        "bilateral",
        "before",
        "after",
        "with",
        "without",
        "enhanced",
        "unenhanced",
        "intact",
        "torn",
        "male",
        "female",
        "normal",
    ]
)
_MEASURED = re.compile(r"\b[^\W\d_]{0,3}\d+(?:\.\d+)?[^\W\d_]*\b")
_DENIES = re.compile(r"\b(?:no|not|non|without|absent|absence|lack\w*|free of|neither|nor|n't)\b")


def guards(question: str) -> frozenset[str]:
    """What must be equal for two questions to be the same, however alike their words are.

    Sides, numbers and levels, negation, modality and sequence, plane, organs, findings, what is asked for, and words
    that have an opposite. In all-MiniLM-L6-v2 "right lung" and "left lung" have a cosine of .92, and T1 and T2 one
    of .83.
    """
    lower = question.casefold()
    words = re.findall(r"[^\W_]+", lower)
    mentions = find_terms(question)
    denies = bool(_DENIES.search(lower)) or any(one.negated for one in mentions)
    found = {f"term {one.term.name}" for one in mentions}
    found |= {f"word {stem(word)}" for word in words if stem(word) in _OPPOSED}
    found |= {f"number {number}" for number in _MEASURED.findall(lower)}
    found.add(f"denies {denies}")
    found.add(f"asks {_kind(lower)}")
    return frozenset(found)


def _kind(question: str) -> str:
    return next((kind for kind, pattern in _KINDS.items() if pattern.search(question)), "what")


def likeness(one: str, other: str) -> float:
    """How alike the words of two questions with equal guards are, 0 to 1.

    The Jaccard similarity of their content words. Two questions without one, such as "Which modality is shown?" and
    "What imaging technique was used?", are the same where their kind says all; else all their words are compared.
    """
    first, second = content_stems(one), content_stems(other)
    if not first and not second:
        if _kind(one.casefold()) in _COMPLETE_KINDS:
            return 1.0
        first, second = (frozenset(map(stem, normalise_answer(text).split())) for text in (one, other))
    union = first | second
    return len(first & second) / len(union) if union else 1.0


def _same(one: SetPair, other: SetPair, threshold: float, vectors: Mapping[str, NDArray[np.float32]] | None) -> bool:
    if is_yes_no(one.answer) != is_yes_no(other.answer) or guards(one.question) != guards(other.question):
        return False
    if likeness(one.question, other.question) >= threshold:
        return True
    return vectors is not None and float(vectors[one.question] @ vectors[other.question]) >= threshold


def _vectors(groups: Iterable[Sequence[SetPair]], embed: Embed) -> dict[str, NDArray[np.float32]]:
    questions = sorted({one.question for group in groups for one in group})
    return dict(zip(questions, embed(questions), strict=True)) if questions else {}


def _same_questions(pairs: Iterable[SetPair]) -> Iterator[list[SetPair]]:
    """Pairs about one image whose questions are equal when normalised, sorted by id; only groups of several."""
    groups: dict[tuple[str, str], list[SetPair]] = defaultdict(list)
    for one in pairs:
        groups[one.image_id, normalise_answer(one.question) or one.question].append(one)
    for _, group in sorted(groups.items()):
        if len(group) > 1:
            yield sorted(group, key=_order)


def _order(pair: SetPair) -> str:
    return pair.sample_id
