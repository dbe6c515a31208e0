"""The failure finder on planted cases: each signature is found where it was planted and nowhere else."""

from typing import Any

import pytest

from radvqa.explain.bundle import CaseLine, MapFacts
from radvqa.explain.failures import (
    GROUPS,
    SIGNATURES,
    Thresholds,
    count_by_group,
    find_failures,
    notes_on,
    thresholds_of,
    value_of,
)

LIMITS = Thresholds(sure=0.8)


def case(key: str, *, enrichment: float | None = 2.0, **changes: Any) -> CaseLine:
    """A right answer, sure, that uses the image and looks at the place asked about."""
    fields: dict[str, Any] = {
        "key": key,
        "folder": f"cases/{key}",
        "sample_id": f"s-{key}",
        "image_id": f"i-{key}",
        "group_id": f"i-{key}",
        "question": "Which organ is bright?",
        "references": ("Liver",),
        "answer": "Liver",
        "answer_type": "open",
        "correct": True,
        "confidence": 0.9,
        "reliance": 1.5,
        "facts": {"raw": MapFacts(low=0.0, high=1.0, enrichment=enrichment)},
        "asked_regions": ("Liver",) if enrichment is not None else (),
        "tags": {"modality": "CT", "content_type": "Organ"},
    }
    return CaseLine(**(fields | changes))


PLANTED = {
    "sound": case("sound"),
    "calibration": case("calibration", correct=False, answer="2", references=("1",), reliance=0.0, tags={}),
    "prior": case("prior", reliance=0.05),
    "image hurts": case("image hurts", reliance=-1.0),
    "elsewhere": case("elsewhere", enrichment=0.4),
    "organ": case("organ", correct=False, answer="Spleen", confidence=0.6),
    "spleen": case("spleen", answer="Spleen", references=("Spleen",), asked_regions=("Spleen",)),
    "logic": case("logic", correct=False, answer="Yes", references=("No",), answer_type="closed"),
    "logic, no region": case("logic, no region", enrichment=None, correct=False, answer="Yes", references=("No",)),
    "unsure": case("unsure", correct=False, answer="Yes", references=("No",), confidence=0.3),
}
EXPECTED = {
    "wrong_and_confident": ["calibration", "logic", "logic, no region"],
    "right_without_image": ["image hurts", "prior"],
    "off_target": ["elsewhere"],
    "organ_misidentified": ["organ"],
    "confident_wrong_logic": ["logic", "logic, no region"],
    "irrelevant_region": ["elsewhere"],
}


@pytest.mark.parametrize("signature", SIGNATURES)
def test_each_signature_is_found_where_it_was_planted(signature: str) -> None:
    found = find_failures(list(PLANTED.values()), thresholds=LIMITS)
    assert [one.key for one in found if one.signature == signature] == EXPECTED[signature]


def test_what_a_finding_points_to_is_said() -> None:
    points = {one.signature: one.points_to for one in find_failures(list(PLANTED.values()), thresholds=LIMITS)}
    assert points["organ_misidentified"] == "the alignment stage"
    assert points["confident_wrong_logic"] == "the adaptation data"
    assert points["irrelevant_region"] == "a visual shortcut"
    (organ,) = [one for one in find_failures([*PLANTED.values()]) if one.signature == "organ_misidentified"]
    assert organ.reason == "says 'Spleen' instead of 'Liver', 60% sure"


def test_the_most_suspicious_comes_first() -> None:
    lines = [case(str(number), correct=False, answer="no", confidence=0.8 + number / 100) for number in range(3)]
    found = find_failures(lines, thresholds=LIMITS)
    assert [one.key for one in found if one.signature == "wrong_and_confident"] == ["2", "1", "0"]


def test_sure_means_as_sure_as_right_answers_are() -> None:
    right = [case(str(number), confidence=confidence) for number, confidence in enumerate((0.7, 0.9, 0.95))]
    wrong = [case("w", correct=False, confidence=0.99)]
    assert thresholds_of([*right, *wrong]).sure == 0.9
    assert thresholds_of([case("a", confidence=0.2)]).sure == 0.5
    assert thresholds_of(wrong).sure == 0.99
    assert thresholds_of([]).sure == 0.5


def test_where_sure_comes_from_is_told() -> None:
    right = [case(str(number), confidence=confidence) for number, confidence in enumerate((0.7, 0.9, 0.95))]
    wrong = [case("w", correct=False, confidence=0.99, answer="no")]
    assert thresholds_of([*right, *wrong]).basis == "half of the right answers are 90% sure or less"
    floor = thresholds_of([case("a", confidence=0.2), *wrong])
    assert floor.basis == "50% count as sure, though half of the right answers are 20% sure or less"
    assert "none of which is right" in thresholds_of(wrong).basis
    reasons = [one.reason for one in find_failures([case("a", confidence=0.2), *wrong])]
    assert f"wrong, 99% sure; {floor.basis}" in reasons


def test_without_a_reference_nothing_is_wrong() -> None:
    unknown = [case(str(number), correct=None, references=(), answer="Spleen", confidence=1.0) for number in range(3)]
    lines = [*unknown, PLANTED["spleen"]]
    found = find_failures(lines, thresholds=LIMITS)
    assert not {one.signature for one in found} & {
        "wrong_and_confident",
        "organ_misidentified",
        "confident_wrong_logic",
    }
    assert count_by_group(lines, found)["modality"]["CT"]["wrong"] == 0


def test_values_of_groups() -> None:
    bare = {"enrichment": None}
    assert value_of(case("x", tags={"organ": "Lung"}), "organ") == "Liver"
    assert value_of(case("x", tags={"organ": "Lung", "location": "Chest"}, **bare), "organ") == "Lung"
    assert value_of(case("x", tags={"organ": "", "location": "Chest"}, **bare), "organ") == "Chest"
    assert {value_of(case("x", tags={"modality": ""}, **bare), group) for group in GROUPS} == {"not told"}


def test_maps_are_judged_by_the_median_of_the_methods() -> None:
    facts = {name: MapFacts(low=0, high=1, enrichment=value) for name, value in (("a", 0.1), ("b", 3.0), ("c", 2.0))}
    assert find_failures([case("x", facts=facts)], thresholds=LIMITS) == []


def test_groups_are_counted() -> None:
    lines = [*PLANTED.values(), case("mri", tags={"modality": "MRI"}, enrichment=None)]
    groups = count_by_group(lines, find_failures(lines, thresholds=LIMITS))
    assert groups["modality"]["CT"]["cases"] == 9
    assert groups["modality"]["CT"]["signatures"]["off_target"] == 1
    assert groups["modality"]["not told"]["wrong"] == 1
    assert groups["modality"]["MRI"]["signatures"] == dict.fromkeys(SIGNATURES, 0)
    assert groups["organ"]["Spleen"]["cases"] == 1
    assert next(iter(groups["content_type"])) == "Organ"


def test_weak_ground_is_named() -> None:
    assert "fewer" not in " ".join(notes_on([case(str(number)) for number in range(40)]))
    assert notes_on([case(str(number)) for number in range(40)]) == []
    off = notes_on([case(str(number), enrichment=0.9) for number in range(40)])
    assert "no more than chance" in off[0]
    few = notes_on([case("x", enrichment=None)])
    assert "nothing can be off target" in few[0]
    assert "Only 1 cases" in few[1]
