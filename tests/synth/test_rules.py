"""The rules ask what a caption licenses, nothing else, and weigh "no" against "yes"."""

import random
from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radvqa.errors import RecipeError
from radvqa.synth.pair import SLOTS, Candidate, Slot, Source
from radvqa.synth.rules import balanced_negatives, positive_candidates
from radvqa.synth.vocabulary import alike, broader, find_terms, names_within, term_named, terms
from radvqa.synth.wording import STYLES

ALL_SLOTS: Mapping[Slot, int] = dict.fromkeys(SLOTS, 9)
CT = {"modality": "CT", "plane": "Axial"}


def source(text: str, *, name: str = "c1", **facts: str) -> Source:
    return Source(caption_id=name, text=text, facts=facts)


def ask(text: str, *, seed: int = 0, **facts: str) -> tuple[Candidate, ...]:
    return positive_candidates(source(text, **facts), ALL_SLOTS, STYLES, seed)


def answers(text: str, slot: Slot, **facts: str) -> list[str]:
    found = [one for one in positive_candidates(source(text, **facts), ALL_SLOTS, STYLES, 0) if one.slot == slot]
    return sorted(one.subject if slot in ("yes", "no") else one.answer for one in found)


@pytest.mark.parametrize(
    ("slot", "text", "expected"),
    [
        ("modality", "Axial T2 weighted image of the brain", "MRI"),
        ("modality", "Chest radiograph", "X-ray"),
        ("modality", "CT angiogram of the neck", "CT angiography"),
        ("modality", "CT and MRI of the brain", None),
        ("plane", "Coronal CT", "coronal"),
        ("plane", "Axial and coronal CT", None),
        ("organ", "Mass in the right hepatic lobe, near the caudate lobe", "liver"),
        ("organ", "Mass in the liver and a cyst in the kidney", None),
        ("organ", "CT of the abdomen", None),
        ("organ", "Tear of the medial meniscus near the patella", None),
        ("organ", "Renal cyst", "kidney"),
        ("organ", "Mass in the muscle", None),
        ("organ", "Mass in the muscle of the shoulder", "shoulder"),
        ("organ", "No abnormality of the liver; the spleen is not seen", None),
        ("finding", "Subdural hematoma: hemorrhage over the brain", "subdural hematoma"),
        ("finding", "Renal mass with calcification", "renal mass"),
        ("finding", "Renal mass and pleural effusion", None),
        ("finding", "Renal mass, possibly an abscess", None),
        ("finding", "No fracture", None),
        ("finding", "The kidney is enlarged", None),
        ("location", "Consolidation in the right lower lobe", "right lower lobe"),
        ("location", "Large left renal cyst", "left side"),
        ("location", "Left adrenal hematoma", "left adrenal gland"),
        ("location", "There is a mass in the inferior left frontal lobe", "inferior left frontal lobe"),
        ("location", "Infarct of the right thalamus and left pons", None),
        ("location", "Mass in the liver", None),
        ("location", "Cyst in the left lung and two in the right lung", None),
        ("location", "Mass in the left kidney. Another mass in the spleen", None),
        ("severity", "Moderate left hydronephrosis", "moderate"),
        ("severity", "Markedly severe swelling; hydronephrosis", None),
        ("severity", "Large hydronephrosis", None),
        ("severity", "Mild to moderate hydronephrosis", "mild to moderate"),
        ("severity", "Mild hydronephrosis on the left, severe hydronephrosis on the right", None),
    ],
)
def test_what_is_asked(slot: Slot, text: str, expected: str | None) -> None:
    assert answers(text, slot) == ([] if expected is None else [expected])


def test_facts_go_before_words_and_are_named_as_the_basis() -> None:
    (pair,) = [one for one in ask("A liver cyst", modality="MR") if one.slot == "modality"]
    assert (pair.answer, pair.basis) == ("MRI", "fact")
    (pair,) = [one for one in ask("CT of a liver cyst") if one.slot == "modality"]
    assert (pair.answer, pair.basis) == ("CT", "caption")


@pytest.mark.parametrize(
    ("text", "facts", "slot"),
    [
        ("MRI of the brain", {"modality": "CT"}, "modality"),
        ("Axial and coronal images", {"plane": "Axial"}, "plane"),
        ("A cyst", {"plane": "Multiple or Montage"}, "plane"),
        ("A cyst", {"modality": "Drawing"}, "modality"),
    ],
)
def test_where_facts_and_words_differ_nothing_is_asked(text: str, facts: dict[str, str], slot: Slot) -> None:
    assert answers(text, slot, **facts) == []


def test_yes_is_asked_of_what_is_certain_only() -> None:
    text = "A cyst, no ascites. Possible abscess. History of lymphoma. Hydronephrosis is not seen."
    assert answers(text, "yes") == ["cyst"]


def test_what_is_said_and_denied_is_not_asked() -> None:
    assert answers("A hepatic cyst. No pleural effusion. Pleural effusion on the left.", "yes") == ["hepatic cyst"]
    assert answers("A hepatic cyst. No pleural effusion. Pleural effusion on the left.", "no") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("No fracture.", ["fracture"]),
        ("No evidence of pneumothorax, consolidation or fracture.", ["consolidation", "fracture", "pneumothorax"]),
        ("No large pleural effusion.", []),
        ("No other mass.", []),
        ("No fracture of the rib.", []),
        ("No fracture is seen in the femur.", []),
        ("The left kidney has no hydronephrosis.", []),
        ("No change of the fracture.", []),
        ("No tumor. There is a liver metastasis.", []),
        ("No lesion.", []),
        ("Fracture cannot be excluded.", []),
    ],
)
def test_no_is_asked_of_what_is_denied_as_such(text: str, expected: list[str]) -> None:
    assert answers(text, "no") == expected
    assert all(one.basis == "negated" for one in ask(text) if one.slot == "no")


def test_counts_bound_each_slot_and_slots_without_a_count_are_not_asked() -> None:
    text = "CT with fracture, pneumothorax, hemothorax, and no aneurysm"
    some = positive_candidates(source(text), {"yes": 2, "modality": 0}, STYLES, 1)
    assert [one.slot for one in some] == ["yes", "yes"]


def test_the_same_is_asked_again_and_another_seed_asks_otherwise() -> None:
    text = "Coronal CT: cyst of the left kidney"
    assert ask(text, seed=1) == ask(text, seed=1)
    assert len({tuple(one.question for one in ask(text, seed=seed)) for seed in range(5)}) > 1


def test_an_unknown_style_is_refused() -> None:
    with pytest.raises(RecipeError, match="style"):
        positive_candidates(source("CT of the liver"), ALL_SLOTS, ["poetic"], 0)


FINDINGS = sorted(term.name for term in terms("finding"))
CLAUSES = [
    "{}",
    "no {}",
    "possible {}",
    "history of {}",
    "large left {}",
    "{} in the right lower lobe",
    "{} is not seen",
]


@given(
    st.lists(st.tuples(st.sampled_from(CLAUSES), st.sampled_from(FINDINGS)), min_size=1, max_size=5), st.integers(0, 9)
)
def test_no_yes_is_asked_of_what_is_only_denied_uncertain_or_past(parts: list[tuple[str, str]], seed: int) -> None:
    text = ". ".join(clause.format(finding) for clause, finding in parts)
    sure = {
        name
        for one in find_terms(text)
        if not (one.negated or one.uncertain or one.historical)
        for name in broader(one.term)
    }
    for pair in ask(text, seed=seed, modality="CT"):
        if pair.slot in ("yes", "finding") and pair.basis == "caption" and term_named(pair.subject) in terms("finding"):
            assert pair.subject in sure
        if pair.slot == "no":
            assert pair.subject not in sure


# Negatives over many captions.


def captions(number: int, seed: int) -> list[Source]:
    """Made-up captions of chest and abdomen, some with several findings, some with denials."""
    draw = random.Random(seed)
    organs = ["lung", "liver", "left kidney", "right lower lobe", "heart"]
    findings = ["pneumothorax", "consolidation", "fracture", "ascites", "hydronephrosis", "cyst", "aneurysm", "no mass"]
    facts: tuple[dict[str, str], ...] = (CT, {"modality": "MR", "plane": "Coronal"}, {})
    return [
        source(
            f"{draw.choice(['CT', 'MRI', ''])} {draw.choice(organs)}: "
            f"{'; '.join(draw.sample(findings, draw.randint(0, 3)))}.",
            name=f"c{place}",
            **draw.choice(facts),
        )
        for place in range(number)
    ]


def negatives(
    sources: list[Source],
    yes: Mapping[str, int],
    *,
    no: Mapping[str, int] | None = None,
    per_caption: int = 3,
    seed: int = 0,
) -> dict[str, tuple[Candidate, ...]]:
    return balanced_negatives(sources, yes, already_no=no or {}, per_caption=per_caption, styles=STYLES, seed=seed)


def counted(pairs: Mapping[str, tuple[Candidate, ...]]) -> Counter[str]:
    return Counter(one.subject for several in pairs.values() for one in several)


ASKED = st.dictionaries(
    st.sampled_from(["pneumothorax", "fracture", "ascites", "aneurysm", "cyst"]), st.integers(0, 12)
)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), ASKED, ASKED, st.integers(1, 3))
def test_no_never_exceeds_yes_and_meets_it_where_there_is_room(
    seed: int, yes: dict[str, int], no: dict[str, int], per_caption: int
) -> None:
    sources = captions(60, seed)
    pairs = negatives(sources, yes, no=no, per_caption=per_caption)
    numbers = counted(pairs)
    full = {caption for caption, several in pairs.items() if len(several) == per_caption}
    assert all(len(several) <= per_caption for several in pairs.values())
    for name, asked in yes.items():
        missing = max(0, asked - no.get(name, 0))
        assert numbers[name] <= missing
        if numbers[name] < missing:
            alone = negatives(sources, {name: 10_000})
            assert all(caption in full or name in {one.subject for one in pairs[caption]} for caption in alone)
    assert set(numbers) <= set(yes)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99))
def test_no_is_never_asked_of_what_the_caption_names_or_something_alike(seed: int) -> None:
    sources = {one.caption_id: one for one in captions(60, seed)}
    yes = dict.fromkeys(["pneumothorax", "mass", "cyst", "hemorrhage", "effusion", "pneumonia", "renal cyst"], 50)
    for caption, pairs in negatives(list(sources.values()), yes).items():
        mentioned = [term for name in names_within(sources[caption].text) if (term := term_named(name)) is not None]
        for pair in pairs:
            term = term_named(pair.subject)
            assert term is not None
            for other in mentioned:
                assert term.name not in broader(other)
                assert other.name not in broader(term)
                assert other.category != "finding" or term.name not in alike(other)
            assert (pair.slot, pair.answer, pair.basis) == ("no", "no", "absent")


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.randoms())
def test_the_order_of_the_sources_makes_no_difference(seed: int, draw: random.Random) -> None:
    sources = captions(40, seed)
    yes = {"pneumothorax": 9, "fracture": 9, "ascites": 5, "CT": 9, "coronal": 7}
    expected = negatives(sources, yes, seed=seed)
    draw.shuffle(sources)
    assert negatives(sources, yes, seed=seed) == expected


def test_another_seed_chooses_other_captions() -> None:
    sources = captions(60, 1)
    assert len({frozenset(negatives(sources, {"fracture": 5}, seed=seed)) for seed in range(5)}) > 1


def test_what_was_never_asked_with_yes_is_never_asked_with_no() -> None:
    assert negatives(captions(40, 0), {"fracture": 0}) == {}
    assert negatives(captions(40, 0), {"unicorn": 5}) == {}


def test_synonyms_count_together() -> None:
    sources = captions(60, 0)
    assert counted(negatives(sources, {"fracture": 2, "fractures": 2}, no={"bone fracture": 1})) == {"fracture": 3}


@pytest.mark.parametrize(
    ("finding", "text", "facts"),
    [
        ("meningioma", "CT of the chest with pneumonia", CT),
        ("restricted diffusion", "CT of the brain with meningioma", CT),
        ("pneumothorax", "Fracture", CT),
        ("pneumothorax", "CT of the chest", CT),
        ("pleural effusion", "Lung with hemothorax", CT),
        ("effusion", "Lung with hemothorax", CT),
        ("subdural hematoma", "Hemorrhage of the brain", CT),
        ("pneumonia", "Lung with consolidation", CT),
        ("fracture", "Rib without fracture, hemothorax", CT),
        ("fracture", "Rib with possible fracture, hemothorax", CT),
        ("cyst", "Multiple renal cysts beside an aneurysm", CT),
        ("hyperintensity", "MRI of the spine with scoliosis", {"modality": "MR"}),
    ],
)
def test_where_absence_is_not_certain_or_not_plausible_no_is_not_asked(
    finding: str, text: str, facts: dict[str, str]
) -> None:
    assert negatives([source(text, **facts)], {finding: 5}) == {}


@pytest.mark.parametrize(
    ("subject", "text", "facts", "basis"),
    [
        ("pneumothorax", "Lung with bronchiectasis", CT, "absent"),
        ("subdural hematoma", "CT of the brain with meningioma", {}, "absent"),
        ("MRI", "Liver cyst", CT, "fact"),
        ("coronal", "Axial CT, liver cyst", {}, "caption"),
        ("left", "Consolidation in the right lower lobe", {}, "caption"),
        ("brain", "Liver cyst", CT, "absent"),
    ],
)
def test_plausible_and_contradicted_values_are_asked_with_no(
    subject: str, text: str, facts: dict[str, str], basis: str
) -> None:
    ((pair,),) = negatives([source(text, **facts)], {subject: 1}).values()
    assert (pair.subject, pair.answer, pair.basis) == (subject, "no", basis)


@pytest.mark.parametrize(
    ("subject", "text", "facts"),
    [
        ("CT", "Liver cyst", CT),
        ("CT", "CT, liver cyst", {"modality": "MR"}),
        ("T2-weighted MRI", "Liver cyst", {"modality": "MR"}),
        ("frontal", "AP view of the chest with fracture", {}),
        ("left", "Consolidation in the right lower lobe, effusion on the left", {}),
        ("lung", "Liver cyst", CT),
    ],
)
def test_values_that_may_hold_are_not_asked_with_no(subject: str, text: str, facts: dict[str, str]) -> None:
    assert negatives([source(text, **facts)], {subject: 1}) == {}


def test_a_caller_may_forbid_a_term_for_a_caption() -> None:
    sources = captions(30, 0)
    pairs = balanced_negatives(
        sources,
        {"fracture": 30},
        already_no={},
        per_caption=2,
        styles=STYLES,
        seed=0,
        allowed=lambda one, name: name == "fracture" and one.caption_id == "c3",
    )
    assert set(pairs) <= {"c3"}


def test_yes_and_no_are_worded_alike() -> None:
    asked = source("Lung with bronchiectasis", **CT)
    ((no,),) = negatives([asked], {"pneumothorax": 1}).values()
    (yes,) = positive_candidates(source("Pneumothorax", **CT), {"yes": 1}, STYLES, 0)
    assert yes.question == no.question
