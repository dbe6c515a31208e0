"""How alike two answers are written: a diagnostic for error lists, never a score.

Likeness is blind to what matters most in radiology: "left effusion" and "right effusion" share almost every letter. So
nothing is compared where sides, numbers, negations or opposites differ, and no metric or table is made of the rest.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from radvqa.evaluate.normalise import normalise_answer
from radvqa.evaluate.synonyms import canonical

Guard = Literal["empty", "side", "number", "negation", "opposite"]

_SIDES = frozenset(
    (
        *("left", "right", "both", "bilateral", "unilateral", "upper", "lower", "top", "bottom", "middle", "center"),
        *(
            "anterior",
            "posterior",
            "superior",
            "inferior",
            "medial",
            "lateral",
            "proximal",
            "distal",
            "apical",
            "basal",
        ),
    )
)
_NUMBER_WORDS = frozenset(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"])
_NEGATIONS = frozenset(
    (
        *("no", "not", "none", "never", "neither", "nor", "without", "absent", "absence", "negative", "non"),
        *("nothing", "free", "cannot", "excluded", "unlikely"),
    )
)
_CONTRACTION = re.compile(r"(?:is|are|was|were|do|does|did|ca|could|has|have|had|wo|would|should)nt$")
_OPPOSITES = tuple(
    frozenset(pair)
    for pair in (
        ("normal", "abnormal"),
        ("healthy", "unhealthy"),
        ("benign", "malignant"),
        ("acute", "chronic"),
        ("increased", "decreased"),
        ("present", "absent"),
        ("large", "small"),
        ("enlarged", "reduced"),
        ("open", "closed"),
        ("male", "female"),
        ("dilated", "constricted"),
        ("symmetric", "asymmetric"),
        ("typical", "atypical"),
        ("yes", "no"),
        ("displaced", "undisplaced"),
        ("positive", "negative"),
        ("stable", "unstable"),
        ("visible", "invisible"),
        ("primary", "secondary"),
    )
)
_PREFIXES = ("hyper", "hypo", "macro", "micro", "tachy", "brady", "iso", "endo", "exo", "intra", "extra")


class Similarity(NamedTuple):
    """``value`` from 0 to 1; 0 where a guard refused the comparison, which ``refused`` names."""

    value: float
    refused: Guard | None


def guarded_similarity(answer: str, reference: str) -> Similarity:
    """Dice coefficient of the letter trigrams of two texts in canonical form, unless a guard refuses.

    Sources: Dice, Ecology 1945; Adamson and Boreham, Information Storage and Retrieval 1974, for letter n-grams.

    >>> guarded_similarity("left effusion", "right effusion").refused
    'side'
    """
    one, other = (canonical(normalise_answer(text)) for text in (answer, reference))
    refused = _refused(one.split(), other.split())
    if refused is not None:
        return Similarity(0.0, refused)
    ours, theirs = _trigrams(one), _trigrams(other)
    return Similarity(2.0 * (ours & theirs).total() / (ours.total() + theirs.total()), None)


def _refused(one: list[str], other: list[str]) -> Guard | None:
    if not one or not other:
        return "empty"
    for guard, marks in _GUARDS.items():
        if marks(one) != marks(other):
            return guard
    words, others = set(one), set(other)
    for pair in _OPPOSITES:
        if words & pair != others & pair:
            return "opposite"
    return None


def _sides(words: list[str]) -> list[str]:
    return sorted(word for word in words if word in _SIDES)


def _numbers(words: list[str]) -> list[str]:
    return sorted(word for word in words if word in _NUMBER_WORDS or any(letter.isdigit() for letter in word))


def _negations(words: list[str]) -> list[str]:
    return ["not" for word in words if word in _NEGATIONS or _CONTRACTION.match(word) is not None]


def _prefixes(words: list[str]) -> list[str]:
    return sorted(prefix for word in words for prefix in _PREFIXES if word.startswith(prefix))


_GUARDS: Mapping[Guard, Callable[[list[str]], list[str]]] = {
    "side": _sides,
    "number": _numbers,
    "negation": _negations,
    "opposite": _prefixes,
}


def _trigrams(text: str) -> Counter[str]:
    padded = f"  {text}  "
    return Counter(padded[at : at + 3] for at in range(len(padded) - 2))
