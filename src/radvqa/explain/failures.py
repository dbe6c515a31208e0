"""Suspicious cases among the explained ones: what is wrong with each, in words, and what it points to.

The signatures are those of the adaptation study: an organ misidentified points to the alignment stage, a confident
wrong conclusion drawn at the right place to the adaptation data, an irrelevant region to a visual shortcut. Thresholds
come from the cases themselves where they can; see ``Thresholds``.
"""

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypedDict

from radvqa.evaluate.normalise import normalise_answer
from radvqa.explain.bundle import CaseLine
from radvqa.explain.measured import NEAR_ZERO_NATS

Signature = Literal[
    "wrong_and_confident",
    "right_without_image",
    "off_target",
    "organ_misidentified",
    "confident_wrong_logic",
    "irrelevant_region",
]

SIGNATURES: Final[Mapping[Signature, str]] = {
    "wrong_and_confident": "the answer is wrong and the model is as sure of it as of its right ones",
    "right_without_image": "the answer is right and hardly depends on the image",
    "off_target": "the maps weigh the region asked about less than the rest of the picture",
    "organ_misidentified": "another organ or place is named than the right one",
    "confident_wrong_logic": "it uses the image, does not look elsewhere, is sure, and concludes wrongly",
    "irrelevant_region": "the answer is right and uses the image, but not the region asked about",
}

POINTS_TO: Final[Mapping[Signature, str]] = {
    "wrong_and_confident": "calibration: do not read confidence as reliability here",
    "right_without_image": "answers that the question gives away: compare the blank-image control",
    "off_target": "the map or the model: see how well this method finds targets at all",
    "organ_misidentified": "the alignment stage",
    "confident_wrong_logic": "the adaptation data",
    "irrelevant_region": "a visual shortcut",
}

GROUPS: Final = ("modality", "organ", "content_type")

_SURE_AT_LEAST = 0.5

NOT_TOLD = "not told"
"""The value of a group where the data set does not tell it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One suspicious case under one signature. ``score`` sorts: higher is more suspicious, within its signature."""

    key: str
    signature: Signature
    score: float
    reason: str
    points_to: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """What counts as sure, as not using the image, and as off the target.

    ``sure``: the median confidence of the right answers, 0.5 at least; of all answers where none is right.
    ``basis``: where it comes from, in words.
    ``reliance``: nats; less means that the image changes the probability of the answer by less than a tenth.
    ``enrichment``: 1 is what a map without any preference has.
    """

    sure: float
    reliance: float = NEAR_ZERO_NATS
    enrichment: float = 1.0
    basis: str = ""


class GroupCount(TypedDict):
    """How many cases of a group there are, how many are wrong, and how many show each signature."""

    cases: int
    wrong: int
    signatures: dict[str, int]


def thresholds_of(lines: Sequence[CaseLine]) -> Thresholds:
    """The thresholds that fit these cases."""
    right = [line.confidence for line in lines if line.correct]
    middle = statistics.median(right or [line.confidence for line in lines] or [0.0])
    whose = "the right answers are" if right else "all answers, none of which is right, are"
    if middle < _SURE_AT_LEAST:
        return Thresholds(
            sure=_SURE_AT_LEAST,
            basis=f"{_SURE_AT_LEAST:.0%} count as sure, though half of {whose} {middle:.0%} sure or less",
        )
    return Thresholds(sure=middle, basis=f"half of {whose} {middle:.0%} sure or less")


def find_failures(lines: Sequence[CaseLine], *, thresholds: Thresholds | None = None) -> list[Failure]:
    """All suspicious cases, signature by signature in the order of ``SIGNATURES``, the most suspicious first.

    A case may show several signatures. ``thresholds`` are those of the cases unless given.
    """
    limits = thresholds or thresholds_of(lines)
    places = _places(lines)
    found = [failure for line in lines for failure in _failures_of(line, limits, places)]
    order = list(SIGNATURES)
    return sorted(found, key=lambda one: (order.index(one.signature), -one.score, one.key))


def count_by_group(lines: Sequence[CaseLine], failures: Sequence[Failure]) -> dict[str, dict[str, GroupCount]]:
    """Modality, organ and question type → value → counts, the largest groups first."""
    signatures: dict[str, list[Signature]] = defaultdict(list)
    for failure in failures:
        signatures[failure.key].append(failure.signature)
    found: dict[str, dict[str, GroupCount]] = {}
    for group in GROUPS:
        values: dict[str, GroupCount] = {}
        for line in lines:
            value = value_of(line, group)
            count = values.setdefault(value, {"cases": 0, "wrong": 0, "signatures": dict.fromkeys(SIGNATURES, 0)})
            count["cases"] += 1
            count["wrong"] += line.correct is False
            for signature in signatures[line.key]:
                count["signatures"][signature] += 1
        found[group] = dict(sorted(values.items(), key=lambda item: (-item[1]["cases"], item[0])))
    return found


def value_of(line: CaseLine, group: str) -> str:
    """The modality, organ or question type of a case; the organ is the region asked about, where one is named."""
    if group == "organ":
        named = (*line.asked_regions, line.tags.get("organ", ""), line.tags.get("location", ""))
        return next(filter(None, named), NOT_TOLD)
    return line.tags.get(group) or NOT_TOLD


def median_enrichment(line: CaseLine) -> float | None:
    """The median over the methods of how much a map prefers the region asked about; None where there is none."""
    values = [facts.enrichment for facts in line.facts.values() if facts.enrichment is not None]
    return statistics.median(values) if values else None


def notes_on(lines: Sequence[CaseLine]) -> list[str]:
    """What makes these findings weak, in words."""
    notes = []
    values = [value for value in map(median_enrichment, lines) if value is not None]
    if not values:
        notes.append("No question names a region of its picture, so nothing can be off target.")
    elif statistics.median(values) <= 1:
        notes.append(
            "In half of the cases or more the maps lie on the target no more than chance: off-target cases then tell "
            "more about the maps than about the model. See `radvqa explain evaluate`."
        )
    if len(lines) < 30:
        notes.append(f"Only {len(lines)} cases are explained: rates of so few say little.")
    return notes


def _failures_of(line: CaseLine, limits: Thresholds, places: frozenset[str]) -> list[Failure]:
    sure = line.confidence >= limits.sure
    uses_image = line.reliance >= limits.reliance
    enrichment = median_enrichment(line)
    off = enrichment is not None and enrichment < limits.enrichment
    confidence, reliance = f"{line.confidence:.0%} sure", f"{line.reliance:+.2f} nats with the image"
    asked = " and ".join(line.asked_regions)
    wrong = line.correct is False
    found: list[Failure] = []

    def add(signature: Signature, score: float, reason: str) -> None:
        found.append(
            Failure(key=line.key, signature=signature, score=score, reason=reason, points_to=POINTS_TO[signature])
        )

    if wrong and sure:
        add(
            "wrong_and_confident",
            line.confidence,
            f"wrong, {confidence}; {limits.basis or f'{limits.sure:.0%} count as sure'}",
        )
    if line.correct and line.reliance < limits.reliance:
        add("right_without_image", limits.reliance - line.reliance, f"right, but only {reliance}")
    if enrichment is not None and off:
        add(
            "off_target",
            1 - enrichment / limits.enrichment,
            f"the maps weigh {asked} {enrichment:.2f} times as much as its area",
        )
    misidentified = wrong and _names_another_place(line, places)
    if misidentified:
        add(
            "organ_misidentified",
            line.confidence,
            f"says {line.answer!r} instead of {line.references[0]!r}, {confidence}",
        )
    if wrong and sure and uses_image and not off and not misidentified:
        place = (
            f"the maps weigh {asked} {enrichment:.2f} times its area"
            if enrichment is not None
            else "no region to check"
        )
        add("confident_wrong_logic", line.confidence, f"wrong, {confidence}, {reliance}; {place}")
    if line.correct and uses_image and enrichment is not None and off:
        add(
            "irrelevant_region",
            1 - enrichment / limits.enrichment,
            f"right, {reliance}, but {asked} is weighed only {enrichment:.2f} times its area",
        )
    return found


def _places(lines: Sequence[CaseLine]) -> frozenset[str]:
    """Names of organs and places among these cases: regions asked about, and answers to questions about organs."""
    regions = {normalise_answer(label) for line in lines for label in line.asked_regions}
    answers = {
        normalise_answer(reference)
        for line in lines
        if line.answer_type == "open" and line.tags.get("content_type", "").lower() in ("organ", "position")
        for reference in line.references
    }
    return frozenset(regions | answers) - {""}


def _names_another_place(line: CaseLine, places: frozenset[str]) -> bool:
    """Whether both the answer and the reference are names of places, and not the same one."""
    answer, references = normalise_answer(line.answer), {normalise_answer(one) for one in line.references}
    return answer in places and bool(references & places) and answer not in references
