from itertools import combinations

import pytest

from radvqa.evaluate.normalise import normalise_answer
from radvqa.evaluate.similarity import guarded_similarity
from radvqa.evaluate.synonyms import canonical, canonical_parts, table

SIDES = {"left", "right", "upper", "lower", "anterior", "posterior"}
NEGATIONS = ("no", "not", "without", "absent")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("MRI", "magnetic resonance imaging"),
        ("MRI", "MR"),
        ("an MRI scan", "Magnetic Resonance Image"),
        ("CT", "computed tomography"),
        ("X-ray", "radiograph"),
        ("x ray", "plain film"),
        ("US", "ultrasound"),
        ("Transverse  Plane", "axial"),
        ("coronal section", "Coronal Plane"),
        ("T2", "T2-weighted"),
        ("left lower lobe", "LLL"),
        ("Lower Left Lung", "left lower lungs"),
        ("both", "bilateral"),
        ("center", "centre"),
        ("brain tumour", "Brain Tumor"),
        ("two", "2"),
        ("cardiomegaly", "enlarged heart"),
        ("PA", "posterior-anterior"),
    ],
)
def test_names_of_one_thing(one, other):
    assert canonical(normalise_answer(one)) == canonical(normalise_answer(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("left", "right"),
        ("left lower lobe", "right lower lobe"),
        ("LLL", "LUL"),
        ("both lungs", "left lung"),
        ("MRI", "CT"),
        ("axial", "coronal"),
        ("T1", "T2"),
        ("transverse colon", "axial colon"),
        ("hyperdense", "hypodense"),
        ("none", "0"),
        ("no", "none"),
        ("no mass", "mass"),
        ("one", "two"),
        ("PE", "pulmonary embolism"),
        ("colon", "large bowel"),
        ("lung cancer", "liver cancer"),
        ("AP", "PA"),
        ("inferior vena cava", "superior vena cava"),
    ],
)
def test_names_of_different_things(one, other):
    assert canonical(normalise_answer(one)) != canonical(normalise_answer(other))


def names():
    return [(group, name) for group in table().groups for name in group.names]


def test_no_two_groups_share_a_name_and_every_name_is_in_normal_form():
    seen = {}
    for group, name in names():
        assert normalise_answer(name) == name
        assert seen.setdefault(name, group) is group, name
        # What stands for a group is not replaced again.
        assert canonical(name) == canonical(group.names[0]) == group.names[0]


def test_no_group_joins_sides_numbers_or_negations():
    lobes = {"lul": "left upper", "lll": "left lower", "rul": "right upper", "rml": "right", "rll": "right lower"}
    lobes |= {
        "luq": "left upper",
        "llq": "left lower",
        "ruq": "right upper",
        "rlq": "right lower",
        "l": "left",
        "r": "right",
    }
    same = {
        "both": "left right",
        "bilateral": "left right",
        "bilaterally": "left right",
        "top": "upper",
        "bottom": "lower",
    }
    spelled = (
        lobes | same | {"pa": "posterior anterior", "ap": "anterior posterior", "posteroanterior": "posterior anterior"}
    )
    spelled |= {"anteroposterior": "anterior posterior", "postero": "posterior", "antero": "anterior"}
    spelled |= {"posterioranterior": "posterior anterior", "anterioposterior": "anterior posterior"}
    digits = dict(
        zip(
            ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"],
            map(str, range(11)),
            strict=True,
        )
    )
    for group in table().groups:
        found = set()
        for name in group.names:
            words = " ".join(spelled.get(word, word) for word in name.split()).split()
            sides = [word for word in words if word in SIDES]
            order = tuple(sides) if group.kind == "projection" else tuple(sorted(set(sides)))
            numbers = tuple(digits.get(word, word) for word in words if word in digits or word.isdigit())
            negations = tuple(word for word in words if word in NEGATIONS)
            found.add((order, numbers, negations))
        assert len(found) == 1, (group.names, found)


@pytest.mark.parametrize(
    "group", [group for group in table().groups if group.kind != "side"], ids=lambda group: group.names[0]
)
def test_a_synonym_keeps_side_and_negation_around_it(group):
    for name in group.names:
        texts = [f"left {name}", f"right {name}", f"no {name}", f"no left {name}"]
        assert all(canonical(one) != canonical(other) for one, other in combinations(texts, 2))


def test_every_group_has_a_source():
    assert {group.source for group in table().groups} <= {
        "dicom",
        "radlex",
        "fleischner",
        "spelling",
        "plural",
        "usage",
    }


def test_lists():
    assert canonical_parts("Liver and kidneys") == canonical_parts("kidney, liver") == canonical_parts("Kidney; Liver")
    assert canonical_parts("left lung, right") != canonical_parts("right lung, left")
    assert canonical_parts("lung, lung") != canonical_parts("lung")


@pytest.mark.parametrize(
    ("one", "other", "guard"),
    [
        ("left pleural effusion", "right pleural effusion", "side"),
        ("upper lobe", "lower lobe", "side"),
        ("3.5 cm mass", "3.6 cm mass", "number"),
        ("two masses", "three masses", "number"),
        ("no pleural effusion", "pleural effusion", "negation"),
        ("the mass isn't visible", "the mass is visible", "negation"),
        ("hyperdense lesion", "hypodense lesion", "opposite"),
        ("normal heart", "abnormal heart", "opposite"),
        ("yes", "no", "negation"),
        ("", "lung", "empty"),
    ],
)
def test_likeness_is_refused_where_it_would_mislead(one, other, guard):
    assert guarded_similarity(one, other) == guarded_similarity(other, one) == (0.0, guard)


def test_likeness():
    assert guarded_similarity("Magnetic resonance imaging", "MRI") == (1.0, None)
    close, far = (guarded_similarity("pleural effusion", other).value for other in ("pleural effusions seen", "mass"))
    assert 0.6 < close < 1.0
    assert far < 0.2
