"""Open answers: the reading is found without a look at the reference, and unknown words are never taken away."""

from pathlib import Path

import pytest
import yaml
from replies import reply

from radvqa.evaluate.metrics import score_answer

ORGAN = "Which organ is abnormal?"
MODALITY = "What modality is used to take this image?"
WEIGHTING = "What is the mr weighting in this image?"
KIDNEYS = "How many kidneys in this image?"

WRONG = [
    (ORGAN, "Liver as well", "Liver"),
    (ORGAN, "Liver. Kidney. Spleen.", "Liver"),
    (ORGAN, "Liver\nKidney", "Liver"),
    (ORGAN, "Liver. I am not certain at all about it.", "Liver"),
    (ORGAN, "Liver. I am really not certain of that at all.", "Liver"),
    (ORGAN, "Liver. This is wrong, kidney is right.", "Liver"),
    (ORGAN, "Liver. The kidney is abnormal.", "Liver"),
    (ORGAN, "Liver. The spleen is a candidate too.", "Liver"),
    (ORGAN, "Liver. The pancreas is shown in the image.", "Liver"),
    (ORGAN, "Liver? The image shows a large organ.", "Liver"),
    (ORGAN, "Is it the liver?", "Liver"),
    *((ORGAN, f"Liver ({word})", "Liver") for word in ("unlikely", "excluded", "false", "uncertain", "kidney")),
    (ORGAN, "The kidney is the liver", "Liver"),
    (ORGAN, "liver or kidney", "Liver"),
    (ORGAN, "not the liver", "Liver"),
    (ORGAN, "Anything but Liver", "Liver"),
    (ORGAN, "Above the liver", "Liver"),
    (ORGAN, "Liver, not visible", "Liver"),
    (ORGAN, "Liver because it is enlarged, but the kidney is worse", "Liver"),
    (ORGAN, "Liver\nExplanation: not certain, it may be the kidney.", "Liver"),
    ("Which organ is not abnormal?", "The liver is abnormal.", "Liver"),
    ("What organ is on the left of the liver?", "The liver is on the left of the kidney.", "Kidney"),
    ("Is the plane axial or coronal?", "axial is coronal", "Coronal Plane"),
    ("Is the plane axial or coronal?", "axial is coronal", "Axial"),
    ("Which lobe is abnormal, left or right?", "The right is the left", "Left"),
    ("Which lobe is abnormal, left or right?", "The right is the left", "Right"),
    (MODALITY, "MRI (CT)", "MRI"),
    *((MODALITY, text, "MRI") for text in ("Anything except MRI", "rather than MRI", "lacks MRI features")),
    *((MODALITY, text, "MRI") for text in ("MRI is excluded", "MRI, not an MRI", "Other than MRI")),
    (WEIGHTING, "opposite of T2", "T2"),
    (WEIGHTING, "Unlike a T2 image", "T2"),
    *((KIDNEYS, text, "2") for text in ("More than 2", "At least 2", "less than two", "half of two", "twenty-two")),
    *((KIDNEYS, text, "2") for text in ("-2", "There are -2 kidneys", "2 cm", "slice 3", "< 2 kidneys", "2/3", "2+")),
    *((KIDNEYS, text, "3") for text in ("slice 3", "There are up to 3 kidneys")),
    *((KIDNEYS, text, "1") for text in ("One would need a CT", "All but one", "one liver")),
    ("Which diagnosis is least likely?", "The most likely is pneumonia", "Pneumonia"),
    ("Which diagnosis is least likely?", "Most likely pneumonia", "Pneumonia"),
]
RIGHT = [
    (ORGAN, "It appears that the liver is abnormal.", "Liver"),
    (ORGAN, "In this image, the liver is abnormal.", "Liver"),
    (ORGAN, "Based on the image, the abnormal organ is the liver.", "Liver"),
    (ORGAN, "The liver appears to be abnormal.", "Liver"),
    (ORGAN, "The organ that is abnormal is the liver.", "Liver"),
    (ORGAN, "Liver, as seen in the image", "Liver"),
    (ORGAN, "Answer: Liver\nExplanation: hypodense lesion.", "Liver"),
    (ORGAN, '{"answer":"Liver","confidence":0.9}', "Liver"),
    (ORGAN, "Liver. It is enlarged and shows a hypodense lesion.", "Liver"),
    (ORGAN, "Liver (abnormal)", "Liver"),
    ("What is the diagnosis?", "Probably pneumonia", "Pneumonia"),
    ("What is the diagnosis?", "most likely pneumonia", "Pneumonia"),
    ("Which diagnosis is least likely?", "The least likely diagnosis is pneumonia", "Pneumonia"),
    ("Which diagnosis is least likely?", "It is pneumonia", "Pneumonia"),
    (MODALITY, "This is an MRI, not a CT.", "MRI"),
    (MODALITY, "This is a chest X-ray.", "Chest X-ray"),
    (MODALITY, "This is a chest X-ray.", "X-ray"),
    ("Which lung is abnormal?", "It is the left lung.", "Left lung"),
    ("Which lung is abnormal?", "It is the left lung.", "Left"),
    (KIDNEYS, "Two kidneys", "2"),
    (KIDNEYS, "Kidneys: 2", "2"),
    (KIDNEYS, "There are two.", "2"),
    ("What organ is on the left of the liver?", "The organ on the left of the liver is the kidney.", "Kidney"),
    ("Which organs are shown?", "Liver, spleen, and kidney", "Liver, Kidney, Spleen"),
    ("Which organs are shown?", "both the liver and the spleen", "Spleen, Liver"),
    ("Which organs are shown?", "The image shows the liver and the spleen.", "Spleen, Liver"),
    ("Which organs are shown?", "1. Liver\n2. Spleen", "Spleen, Liver"),
]

HELD_OUT = yaml.safe_load(Path(__file__).with_name("held_out_open_answers.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("question", "text", "reference"), WRONG)
def test_what_is_not_the_answer_never_counts(question, text, reference):
    found = score_answer(reply(text, reference, question=question))
    assert found.scores["accuracy"] == 0.0, found


@pytest.mark.parametrize(("question", "text", "reference"), RIGHT)
def test_what_only_repeats_the_question_does_no_harm(question, text, reference):
    found = score_answer(reply(text, reference, question=question))
    assert found.scores["accuracy"] == 1.0, found


@pytest.mark.parametrize(("question", "text", "_reference"), RIGHT + WRONG)
def test_the_reading_does_not_depend_on_a_wrong_reference(question, text, _reference):
    one, other = (score_answer(reply(text, wrong, question=question)) for wrong in ("Femur", "Skin, Hair"))
    assert (one.state, one.rule, one.span) == (other.state, other.rule, other.span)


def test_held_out_answers():
    """No wrong one counts; the right ones that are missed are known."""
    counted = [
        (text, right)
        for question, text, reference, right in HELD_OUT
        if score_answer(reply(text, reference, question=question)).scores["accuracy"]
    ]
    assert [text for text, right in counted if not right] == []
    missed = [text for _, text, _, right in HELD_OUT if right and (text, right) not in counted]
    assert len(missed) <= 3, missed
