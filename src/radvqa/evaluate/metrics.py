"""One verdict and a few numbers per answer: what every summary reports."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import chain
from types import MappingProxyType
from typing import Literal, NamedTuple

from radvqa.errors import DataError
from radvqa.evaluate.extraction import Reading, State, answer_region, answer_state, narrower_readings
from radvqa.evaluate.normalise import answer_parts, normalise_answer
from radvqa.evaluate.synonyms import canonical, canonical_parts
from radvqa.evaluate.verdict import offers_alternatives, read_verdict
from radvqa.sample import Prediction

HEADLINE = "accuracy"

METRICS: Mapping[str, str] = MappingProxyType(
    {
        "accuracy": "1 if the extracted answer is right: the same verdict, or the same words or set under synonyms",
        "exact_match": "1 if the whole text equals a reference after normalisation, list members in any order",
        "token_f1": "harmonic mean of token precision and recall of the extracted answer, tokens with multiplicity",
        "recall": "share of the reference's tokens that the extracted answer has",
        "bleu_1": "clipped unigram precision of the extracted answer times BLEU's brevity penalty, no smoothing",
        "rouge_l": "F measure of the longest common token subsequence of the extracted answer and a reference",
    }
)
"""Metric name to its meaning in one line, in the order of the tables; the first is the headline."""

_NO_SCORES: Mapping[str, float] = MappingProxyType(dict.fromkeys(METRICS, 0.0))


class Scored(NamedTuple):
    """What the scorer made of one answer.

    ``answer`` is ``text[span[0]:span[1]]``: what counts as the answer, or what shows that there is none (a refusal).
    ``rule`` names the rules that led there, joined by "+" (``docs/scorer.md`` explains each). ``verdict`` is what the
    answer says to a yes/no question; None where it says nothing or the reference is neither.
    ``flags``: ``unfinished`` (cut at the token limit), ``degenerate`` (see ``is_degenerate``).
    ``scores``: from 0 to 1, by metric; all 0 unless the state is ``answered``.
    """

    state: State
    rule: str
    answer: str
    span: tuple[int, int] | None
    verdict: Literal["yes", "no"] | None
    flags: tuple[str, ...]
    scores: Mapping[str, float]


def score_answer(prediction: Prediction) -> Scored:
    """Every metric of one prediction, with the state of the answer and the rule that found it.

    Raises:
        DataError: no reference has anything to compare with.
    """
    _references(prediction)
    return _score(
        prediction.text, prediction.question, tuple(prediction.references), prediction.missing, prediction.finished
    )


def accuracy(prediction: Prediction) -> float:
    """1.0 if the extracted answer is right, else 0.0 (see ``score_answer``)."""
    return score_answer(prediction).scores["accuracy"]


def token_f1(prediction: Prediction) -> float:
    """Token F1 of the extracted answer, from 0.0 to 1.0 (see ``score_answer``)."""
    return score_answer(prediction).scores["token_f1"]


def exact_match(prediction: Prediction) -> float:
    """1.0 if the normalised raw text equals a reference, else 0.0.

    Comma lists are compared without order (see ``answer_parts``). A missing or empty answer is wrong: 0.0.

    Raises:
        DataError: no reference has anything to compare with.
    """
    references = _references(prediction)
    return 0.0 if prediction.missing else float(_equals(prediction.text, references))


@lru_cache(maxsize=4096)
def _score(text: str, question: str, references: tuple[str, ...], missing: bool, finished: bool) -> Scored:
    flags = _flags(text, finished=finished)
    if missing:
        return Scored("missing", "missing", "", None, None, flags, _NO_SCORES)
    accepted = [one for one in map(_reference, references) if one.normal]
    reading, state, verdict, right = _decide(text, question, accepted)
    answer = text[slice(*reading.span)]
    if state != "answered":
        return Scored(state, reading.rule, answer, reading.span, verdict, flags, _NO_SCORES)
    scores = _text_scores(_normal(answer).split(), accepted) | {
        "accuracy": float(right),
        "exact_match": float(_equals(text, accepted)),
    }
    in_order = MappingProxyType({name: scores[name] for name in METRICS})
    return Scored(state, reading.rule, answer, reading.span, verdict, flags, in_order)


_normal = lru_cache(maxsize=256)(normalise_answer)
"""One answer is asked for several times in a row."""


class _Reference(NamedTuple):
    normal: str
    tokens: tuple[str, ...]
    counts: Counter[str]
    members: tuple[str, ...]
    whole: str
    parts: tuple[str, ...]
    is_verdict: bool


@lru_cache(maxsize=8192)
def _reference(text: str) -> _Reference:
    normal = normalise_answer(text)
    return _Reference(
        normal=normal,
        tokens=tuple(normal.split()),
        counts=Counter(normal.split()),
        members=answer_parts(text),
        whole=canonical(normal),
        parts=canonical_parts(text),
        is_verdict=normal in {"yes", "no"},
    )


def _decide(
    text: str, question: str, references: Sequence[_Reference]
) -> tuple[Reading, State, Literal["yes", "no"] | None, bool]:
    """The reading that counts, the state, the verdict, and whether it is right.

    The readings do not depend on the references. One that equals a reference counts, whatever it says ("unknown" may
    be the reference); else, where the reference is a verdict, the region; else the narrowest reading.
    """
    region = answer_region(text, question)
    verdicts = [reference for reference in references if reference.is_verdict]
    others = [reference for reference in references if not reference.is_verdict]
    narrowest = region
    if others:
        for narrowest in chain((region,), narrower_readings(text, region, question)):
            if _matches(text[slice(*narrowest.span)], others):
                return narrowest, "answered", None, True
    state, evidence = answer_state(text, region, question)
    said = text[slice(*region.span)]
    found = read_verdict(said, question=question) if verdicts and state != "empty" else None
    # "Yes. A small effusion cannot be ruled out." has answered before it doubts.
    if state != "answered" and (found is None or found.rule not in {"opening", "corrected"}):
        return evidence, state, None, False
    if found is None or (others and found.verdict is None):
        offered = offers_alternatives(text[slice(*narrowest.span)])
        return narrowest, "ambiguous" if offered else "answered", None, False
    right = any(reference.whole == found.verdict for reference in verdicts)
    return region.refined(found.rule, region.span), found.state, found.verdict, right


def _matches(text: str, references: Sequence[_Reference]) -> bool:
    whole = canonical(_normal(text))
    if any(whole == reference.whole for reference in references):
        return bool(whole)
    lists = [one.parts for one in references if len(one.parts) > 1 and _of_similar_length(text, one)]
    return bool(lists) and canonical_parts(text) in lists


def _equals(text: str, references: Sequence[_Reference]) -> bool:
    normal = _normal(text)
    if not normal:
        return False
    if any(normal == reference.normal for reference in references):
        return True
    # Only a list can equal a list in another order.
    lists = [one.members for one in references if len(one.members) > 1 and _of_similar_length(text, one)]
    return bool(lists) and answer_parts(text) in lists


def _of_similar_length(text: str, reference: _Reference) -> bool:
    """False where no synonym could make the texts equal; saves the reading of long texts as lists."""
    return len(_normal(text)) <= 20 * len(reference.normal) + 200


def _flags(text: str, *, finished: bool) -> tuple[str, ...]:
    flags = () if finished else ("unfinished",)
    return (*flags, "degenerate") if is_degenerate(text) else flags


def is_degenerate(text: str) -> bool:
    """Whether the text, or at least its second half, is one run of words again and again, four times or more.

    Also one character twenty times in a row. Found by the border of every suffix (Knuth, Morris and Pratt, 1977), in
    time linear in the text.
    """
    if _SAME_CHARACTER.search(text) is not None:
        return True
    words = _WORD.findall(text.lower())[::-1]
    if len(words) < 4:
        return False
    borders = [0] * len(words)
    for at in range(1, len(words)):
        border = borders[at - 1]
        while border and words[at] != words[border]:
            border = borders[border - 1]
        borders[at] = border + (words[at] == words[border])
    return any(
        2 * length >= len(words) and length >= 4 * (length - border)
        for length, border in enumerate(borders, start=1)
        if length >= 4
    )


_SAME_CHARACTER = re.compile(r"([^\s\d._\-*=#])\1{19}")
_WORD = re.compile(r"\w+")


def _text_scores(tokens: Sequence[str], references: Sequence[_Reference]) -> dict[str, float]:
    """The text metrics of an answer; the best over the references, except BLEU, which takes all of them together."""
    counts = Counter(tokens)
    best = dict.fromkeys(("token_f1", "recall", "rouge_l"), 0.0)
    for reference in references:
        shared = sum(min(count, reference.counts[token]) for token, count in counts.items())
        if shared == 0:
            continue
        common = _common_subsequence(tokens, reference.tokens)
        # 2PR / (P + R) without the division by zero.
        both = len(tokens) + len(reference.tokens)
        best["token_f1"] = max(best["token_f1"], 2.0 * shared / both)
        best["recall"] = max(best["recall"], shared / len(reference.tokens))
        best["rouge_l"] = max(best["rouge_l"], 2.0 * common / both)
    return best | {"bleu_1": _bleu_1(counts, len(tokens), references) if best["token_f1"] else 0.0}


def _bleu_1(counts: Mapping[str, int], length: int, references: Sequence[_Reference]) -> float:
    """Papineni et al., ACL 2002: clipped by the largest count in a reference; of two closest lengths the shorter."""
    clipped = sum(min(count, max(one.counts[token] for one in references)) for token, count in counts.items())
    closest = min((len(one.tokens) for one in references), key=lambda other: (abs(other - length), other))
    return clipped / length * (1.0 if length >= closest else math.exp(1.0 - closest / length))


def _common_subsequence(tokens: Sequence[str], reference: Sequence[str]) -> int:
    """Length of the longest common subsequence, bit-parallel over the reference (Hyyrö, 2004)."""
    places: dict[str, int] = {}
    for at, token in enumerate(reference):
        places[token] = places.get(token, 0) | (1 << at)
    all_ones = (1 << len(reference)) - 1
    row = all_ones
    for token in tokens:
        matched = row & places.get(token, 0)
        row = ((row + matched) | (row - matched)) & all_ones
    return len(reference) - row.bit_count()


def _references(prediction: Prediction) -> list[_Reference]:
    """The references that normalise to something; there is at least one."""
    usable = [one for one in map(_reference, prediction.references) if one.normal]
    if not usable:
        raise DataError(
            "the reference answer is empty, so no answer could be right",
            where=f"sample {prediction.sample_id!r}, question {prediction.question!r}",
            expected="at least one reference with a letter or digit",
            got=repr(prediction.references),
            fix="correct the answer in the data set or leave the row out",
        )
    return usable
