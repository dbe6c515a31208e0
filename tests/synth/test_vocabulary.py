"""The vocabulary is sound as data, and its terms are found in text as captions write them."""

import hashlib
from collections import defaultdict
from importlib import resources
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radvqa.synth import vocabulary
from radvqa.synth.vocabulary import (
    CATEGORIES,
    REGIONS,
    Category,
    Term,
    alike,
    answers_finding,
    broader,
    find_terms,
    is_asked,
    is_generic,
    names_within,
    organs_of,
    term_named,
    terms,
    vocabulary_digest,
    whole_organ,
)

ALL = tuple(term for category in CATEGORIES for term in terms(category))
NAMES = {term.name for term in ALL}
ONLY_NAMED = {
    "AP",
    "PA",
    "lateral",
    "frontal",
    "longitudinal",
    "oblique",
    "occlusal",
    "subcostal",
    "craniocaudal",
    "transverse",
}


def names(text: str, category: Category | None = None) -> list[str]:
    return [found.term.name for found in find_terms(text) if category is None or found.term.category == category]


def named(name: str) -> Term:
    term = term_named(name)
    assert term is not None, name
    return term


@pytest.mark.parametrize(("category", "least"), [("organ", 150), ("finding", 200), ("modality", 50), ("plane", 10)])
def test_it_is_broad(category: Category, least: int) -> None:
    assert len(terms(category)) >= least


def test_what_a_term_refers_to_exists() -> None:
    assert {name for term in ALL for name in term.implies} <= NAMES
    assert {name for term in ALL for name in term.modalities} <= {term.name for term in terms("modality")}
    assert {region for term in ALL for region in term.regions} <= REGIONS
    lists = vocabulary._vocabulary()
    assert {name for group in lists.alike for name in group} <= NAMES
    assert {name for group in lists.ranks.values() for name in group} <= NAMES


def test_no_name_belongs_to_two_terms() -> None:
    owners = defaultdict(set)
    for term in ALL:
        for name in (term.name, *term.synonyms):
            words = vocabulary._words(name)
            key = tuple(one.exact if vocabulary._is_acronym(one.exact) else one.normal for one in words)
            owners[key].add(term.name)
    assert {key: owner for key, owner in owners.items() if len(owner) > 1} == {}


def test_nothing_implies_itself_through_another() -> None:
    for term in ALL:
        assert all(term.name not in broader(named(name)) for name in term.implies), term.name


def test_a_term_is_found_by_each_of_its_names() -> None:
    assert {name for term in ALL for name in (term.name, *term.synonyms) if term_named(name) != term} == set()


def test_each_name_is_found_in_a_sentence() -> None:
    for term in ALL:
        for name in (term.name, *term.synonyms):
            if name not in ONLY_NAMED:
                (found,) = find_terms(f"Qqq {name}, zzz.")
                assert (found.term, found.text, found.start) == (term, name, 4)


@pytest.mark.parametrize("name", sorted(ONLY_NAMED))
def test_views_are_found_as_views_only(name: str) -> None:
    assert find_terms(f"the {name} part") == ()
    assert named(name).category == "plane"


@given(st.text(max_size=200))
def test_any_text_can_be_searched(text: str) -> None:
    found = find_terms(text)
    assert all(text[one.start : one.end] == one.text for one in found)
    assert all(one.end <= other.start for one, other in pairwise(found))
    assert {one.term.name for one in found} <= names_within(text)


@given(st.lists(st.sampled_from([term.name for term in ALL if term.category in ("organ", "finding")]), max_size=6))
def test_punctuation_parts_terms(chosen: list[str]) -> None:
    assert names("; ".join(chosen)) == chosen


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Oedema of the oesophagus", ["edema", "esophagus"]),
        ("Haemorrhage and a tumour in the caecum", ["hemorrhage", "tumor", "cecum"]),
        ("liver metastases", ["liver metastasis"]),
        ("two vertebrae, three foramina, emboli", ["vertebra", "embolism"]),
        ("ring-enhancing masses", ["ring enhancement", "mass"]),
        ("pleural\neffusions", ["pleural effusion"]),
        ("Hepatic and renal cysts", ["liver", "renal cyst"]),
        ("hepatic artery", ["hepatic artery"]),
        ("right lower lobe consolidation", ["right lower lobe", "consolidation"]),
        ("RLL nodule", ["right lower lobe", "nodule"]),
        ("T2-weighted axial image", ["T2-weighted MRI", "axial"]),
        ("CT of the CHEST", ["CT", "chest"]),
        ("chest x-ray, AP view", ["chest X-ray", "AP"]),
        ("PA and lateral", ["PA"]),
        ("frontal and lateral radiographs", ["lateral"]),
        ("Baker's cyst", ["Baker cyst"]),
        ("dilated bile ducts", ["biliary dilatation"]),
        ("patent arteries", ["artery"]),
        ("bronchi and arches", ["bronchus"]),
    ],
)
def test_terms_are_found_as_captions_write_them(text: str, expected: list[str]) -> None:
    assert names(text) == expected


@pytest.mark.parametrize(
    ("text", "unwanted"),
    [
        ("it shows us the way", "ultrasound"),
        ("3 cm in AP diameter", "AP"),
        ("the PA is dilated", "PA"),
        ("with mass effect", "mass"),
        ("a chest tube", "chest"),
        ("the catheter was left in place", "left"),
        ("lateral ventricle", "lateral"),
        ("frontal lobe", "frontal"),
        ("transverse colon", "axial"),
        ("an extra-axial collection", "axial"),
        ("head of the femur", "head"),
        ("a right-handed man", "right"),
        ("at the T2 vertebra", "T2-weighted MRI"),
        ("ct", "mass"),
        ("liver, artery", "hepatic artery"),
        ("massive", "mass"),
        ("arrow head", "head"),
    ],
)
def test_words_that_mean_something_else_are_passed_over(text: str, unwanted: str) -> None:
    assert unwanted not in names(text)


def test_what_the_sentence_says_of_a_term_is_told() -> None:
    found = {one.term.name: one for one in find_terms("No effusion. Possible mass. History of lymphoma. A cyst.")}
    assert found["effusion"].negated and not found["effusion"].uncertain
    assert found["mass"].uncertain and not found["mass"].negated
    assert found["lymphoma"].historical
    assert not (found["cyst"].negated or found["cyst"].uncertain or found["cyst"].historical)


def test_broader_terms_are_followed_to_the_end() -> None:
    assert {"right lower lobe", "right lung", "lower lobe", "lung", "chest", "right"} == broader(named("RLL"))
    assert {"hematoma", "hemorrhage", "intracranial hemorrhage"} <= broader(named("subdural hematoma"))
    assert "MRI" in broader(named("T2 weighted"))


def test_what_looks_alike_is_known_in_both_directions() -> None:
    assert "pneumonia" in alike(named("consolidation"))
    assert "consolidation" in alike(named("pneumonia"))
    assert "fracture" not in alike(named("pneumonia"))


def test_a_part_names_its_organ_and_a_vessel_itself() -> None:
    assert whole_organ(named("frontal lobe")) == named("brain")
    assert whole_organ(named("left kidney")) == named("kidney")
    assert whole_organ(named("middle cerebral artery")) == named("middle cerebral artery")
    assert whole_organ(named("abdomen")) is None


def test_the_organ_within_a_finding_is_told() -> None:
    assert organs_of("tear of the medial meniscus") == (named("medial meniscus"),)
    assert organs_of("femoral neck fracture") == (named("femoral neck"),)
    assert organs_of("fracture") == ()


def test_findings_are_ranked_as_answers() -> None:
    assert [answers_finding(named(name)) for name in ("fracture", "calcification", "enlargement")] == [2, 1, 0]
    assert [is_asked(named(name)) for name in ("fracture", "calcification", "hyperintensity")] == [True, True, False]
    assert is_generic(named("soft tissue")) and not is_generic(named("liver"))


def test_unknown_names_are_no_terms() -> None:
    assert term_named("unicorn") is None
    assert term_named("") is None
    assert term_named("liver unicorn") is None


def test_the_digest_is_that_of_the_file() -> None:
    content = resources.files("radvqa.synth").joinpath("vocabulary.yaml").read_bytes()
    assert vocabulary_digest() == hashlib.sha256(content).hexdigest()
