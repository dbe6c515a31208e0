import doctest
import re
from importlib import resources

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from radvqa.errors import RecipeError
from radvqa.synth import wording
from radvqa.synth.wording import (
    PRESENCE_CATEGORIES,
    STYLES,
    WORDED_SLOTS,
    is_plural,
    presence_question,
    question_for,
    with_article,
)

SEEDS = range(24)


def presences(subject, category, style="plain"):
    return {presence_question(subject, style=style, seed=seed, category=category) for seed in SEEDS}


def questions(slot, style="plain", **about):
    return {question_for(slot, style=style, seed=seed, **about) for seed in SEEDS}


@pytest.mark.parametrize(
    ("phrase", "worded"),
    [
        ("MRI", "an MRI"),
        ("CT", "a CT"),
        ("UTI", "a UTI"),
        ("abscess", "an abscess"),
        ("fracture", "a fracture"),
        ("pneumothorax", "a pneumothorax"),
        ("pleural effusion", "pleural effusion"),
        ("Pleural effusion.", "pleural effusion"),
        ("a mass", "a mass"),
        ("lung nodules", "lung nodules"),
        ("nodules in the right lung", "nodules in the right lung"),
        ("fracture of the ribs", "a fracture of the ribs"),
        ("masses", "masses"),
        ("metastases", "metastases"),
        ("emboli", "emboli"),
        ("ascites", "ascites"),
        ("stenosis", "stenosis"),
        ("thrombus", "a thrombus"),
        ("appendicitis", "appendicitis"),
        ("X-ray", "an X-ray"),
        ("L4 fracture", "an L4 fracture"),
        ("T2 hyperintensity", "a T2 hyperintensity"),
        ("FLAIR hyperintensity", "a FLAIR hyperintensity"),
        ("8 mm nodule", "an 8 mm nodule"),
        ("18 mm nodule", "an 18 mm nodule"),
        ("1 cm nodule", "a 1 cm nodule"),
        ("uterine mass", "a uterine mass"),
        ("unilateral mass", "a unilateral mass"),
        ("unusual mass", "an unusual mass"),
        ("ulcer", "an ulcer"),
        ("Ewing sarcoma", "a Ewing sarcoma"),
        ("Crohn's disease", "Crohn's disease"),
        ("Hodgkin lymphoma", "a Hodgkin lymphoma"),
        ("edema and mass", "edema and a mass"),
        ("hilar and mediastinal lymphadenopathy", "hilar and mediastinal lymphadenopathy"),
        ("mass in the lung and pleura", "a mass in the lung and pleura"),
        ("COPD", "COPD"),
        ("DVT", "a DVT"),
    ],
)
def test_article(phrase, worded):
    assert with_article(phrase) == worded


@pytest.mark.parametrize(
    ("subject", "category", "question"),
    [
        ("pleural effusion", "finding", "Is there pleural effusion in the image?"),
        ("fracture", "finding", "Is there a fracture in the image?"),
        ("lung nodules", "finding", "Are there lung nodules in the image?"),
        ("kidneys", "organ", "Are the kidneys visible in the image?"),
        ("the liver", "organ", "Is the liver visible in the image?"),
        ("MRI", "modality", "Is this an MRI?"),
        ("CT", "modality", "Is this a CT image?"),
        ("magnetic resonance imaging", "modality", "Is this a magnetic resonance image?"),
        ("Axial", "plane", "Is this an axial view?"),
        ("AP", "plane", "Is this an AP view?"),
        ("left", "side", "Is the abnormality on the left side?"),
        ("bilateral", "side", "Is the abnormality bilateral?"),
    ],
)
def test_presence(subject, category, question):
    assert question in presences(subject, category)


def test_verb_agrees_with_the_subject():
    assert "Where are the lung nodules?" in questions("location", subject="lung nodules")
    assert "Where is the mass?" in questions("location", subject="a mass")
    assert "Where are the mass and effusion?" in questions("location", subject="mass and effusion")
    assert "Where is the signal within the caudate and putamen?" in questions(
        "location", subject="signal within the caudate and putamen"
    )
    assert "How severe is the edema?" in questions("severity", subject="edema")


def test_region_is_optional():
    assert "What abnormality is seen in the chest?" in questions("finding", region="in the chest")
    assert "What abnormality is seen?" in questions("finding")


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("slot", WORDED_SLOTS)
def test_every_slot_and_style_has_several_wordings(slot, style):
    assert len(questions(slot, style, subject="mass")) >= 2


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("category", PRESENCE_CATEGORIES)
def test_every_category_and_style_has_several_wordings(category, style):
    assert len(presences("left", category, style)) >= 2


def test_wordings_are_not_shared_between_styles():
    raw = yaml.safe_load(resources.files("radvqa.synth").joinpath("wording.yaml").read_text(encoding="utf-8"))
    for slot in WORDED_SLOTS:
        every = [one for style in STYLES for one in raw["styles"][style][slot]]
        assert len(every) == len(set(every))


def test_unknown_style_slot_and_category():
    with pytest.raises(RecipeError, match="unknown style"):
        question_for("organ", style="flowery", seed=0)
    with pytest.raises(RecipeError, match="no wording for this slot"):
        question_for("yes", style="plain", seed=0)
    with pytest.raises(RecipeError, match="unknown category"):
        presence_question("mass", style="plain", seed=0, category="colour")
    with pytest.raises(RecipeError, match="needs a subject"):
        presence_question(" . ", style="plain", seed=0, category="finding")


SUBJECTS = st.text(max_size=40) | st.text(alphabet="aAuUsS '-.{}0189and", max_size=20)


@example("{0}.", "plain", "location", 1)
@given(SUBJECTS, st.sampled_from(STYLES), st.sampled_from(WORDED_SLOTS), st.integers())
def test_any_subject_makes_one_sentence(subject, style, slot, seed):
    question = question_for(slot, style=style, subject=subject, seed=seed)
    assert question == question_for(slot, style=style, subject=subject, seed=seed)
    assert question == " ".join(question.split())
    assert question[-1] in "?."
    # Braces may come from the subject; the names of placeholders do not.
    assert not re.search(r"\{(?:(?:the_|a_)?subject|an_image|a_view|on_side|be|do|region)\}", question)


@given(SUBJECTS)
def test_article_is_put_once(phrase):
    with_article(phrase)
    assert is_plural(phrase) in (True, False)


def test_examples_in_the_documentation():
    assert doctest.testmod(wording).failed == 0
