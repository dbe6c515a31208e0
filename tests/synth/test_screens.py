from collections.abc import Mapping
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radvqa.synth.pair import Candidate, Slot, Source, Verdict
from radvqa.synth.screens import (
    PAIR_SCREENS,
    SCREEN_NAMES,
    SET_SCREENS,
    ScreenSettings,
    caption_problem,
    reason_of,
    screen_pair,
    wrong_kind,
)
from radvqa.synth.set_screens import screen_statistics

SETTINGS = ScreenSettings()


def candidate(question: str, answer: str, **changes: Any) -> Candidate:
    low = answer.lower().strip(".")
    slot: Slot = "yes" if low == "yes" else "no" if low == "no" else "open"
    return Candidate(**{"question": question, "answer": answer, "slot": slot, **changes})


def source(text: str, **facts: str) -> Source:
    return Source(caption_id="c", text=text, facts=facts)


def failed(caption: str, question: str, answer: str, *, facts: Mapping[str, str] | None = None, **changes: Any) -> str:
    """The screens that the pair fails but for the licence, which has a table of its own."""
    verdicts = screen_pair(candidate(question, answer, **changes), source(caption, **(facts or {})), SETTINGS)
    return " ".join(one.screen for one in verdicts if not one.passed and one.screen != "answer_not_licensed")


CHEST = "Frontal chest radiograph with a large left pleural effusion and two nodules in the right upper lobe."
BRAIN = "Axial T2-weighted MRI of the brain shows a hyperintense lesion in the left frontal lobe at its third gyrus."
KNEE = "Sagittal MRI of the knee after 3 weeks of pain, with a 12 mm tear of the medial meniscus."

# Caption, question, answer, and the screens that must fail.
PAIRS: list[tuple[str, str, str, str]] = [
    # Nothing is wrong with these.
    (CHEST, "Which imaging modality is shown?", "Radiograph", ""),
    (CHEST, "Where is the pleural effusion?", "On the left", ""),
    (CHEST, "What abnormality is seen in the right upper lobe?", "Nodules", ""),
    (CHEST, "How many nodules are there?", "Two", ""),
    (CHEST, "How many nodules are there?", "2", ""),
    (CHEST, "Is there a pleural effusion?", "Yes", ""),
    (CHEST, "Is the effusion on the left or on the right?", "On the left", ""),
    (CHEST, "Name the imaging modality.", "X-ray", ""),
    (CHEST, "State whether there is a pleural effusion.", "yes", ""),
    (CHEST, "Can you name the lobe with the nodules?", "The right upper lobe", ""),
    (CHEST, "How severe is the effusion?", "Large", ""),
    (BRAIN, "What is the signal of the lesion on T2?", "Hyperintense", ""),
    (BRAIN, "Which lobe is affected?", "The left frontal lobe", ""),
    (BRAIN, "In which plane is this image?", "Axial", ""),
    (BRAIN, "Does the 2D image show the brain?", "Yes", ""),
    (BRAIN, "Is the circle of Willis shown?", "No", ""),
    ("There is marked enhancement of the wall of the abscess.", "How strong is the enhancement?", "Marked", ""),
    ("The vertebra L4 is displaced against L5 on CT.", "Which vertebra is displaced?", "L4", ""),
    ("Old healed fracture of the left clavicle on radiograph.", "Is there an old fracture?", "Yes", ""),
    ("Surgical clips are seen beside the gallbladder fossa.", "What lies beside the gallbladder fossa?", "Clips", ""),
    ("The mass causes compression of the trachea in the neck.", "What structure is compressed?", "The trachea", ""),
    ("Volume loss of the right lung with a shift of the trachea.", "Which lung has lost volume?", "Right", ""),
    ("An encapsulated mass surrounds the aorta at this level.", "What does the mass surround?", "The aorta", ""),
    ("Ménière disease with hydrops on delayed MRI of the ear.", "Which organ is shown?", "The inner ear", ""),
    ("A mass of the sella, typical of a macroadenoma.", "Where is the mass?", "In the sella", ""),
    ("The angle θ is drawn on this view of the hip.", "Which angle is drawn?", "θ", ""),
    # The caption has nothing to ask about.
    ("Replace this - DESCRIPTION OF THE IMAGE OR FINDINGS.", "Where is the mass?", "Lung", "placeholder_caption"),
    ("no caption for this picture", "Where is the mass?", "Lung", "placeholder_caption"),
    ("Lorem ipsum dolor sit amet", "Is there a mass?", "Yes", "placeholder_caption"),
    ("Axial FLAIR", "Is there a mass?", "No", "short_caption"),
    ("Sarcoidosis", "Which disease is it?", "Sarcoidosis", "short_caption"),
    ("N/A", "Is there a mass?", "No", "placeholder_caption short_caption"),
    # Malformed questions.
    (CHEST, "Effusion", "Left", "malformed_question"),
    (CHEST, "", "Left", "malformed_question"),
    (CHEST, "A pleural effusion on the left.", "Nodules", "malformed_question"),
    (CHEST, "What is this?", "A radiograph", "malformed_question"),
    (CHEST, "What is seen in this image?", "Nodules", "malformed_question"),
    (CHEST, "What is shown?", "Nodules", "malformed_question"),
    (CHEST, "What does the image show?", "Nodules", "malformed_question"),
    (CHEST, "What do you see?", "Nodules", "malformed_question"),
    (CHEST, "Describe the image.", "Nodules", "malformed_question"),
    (CHEST, "Where is the effusion? Is it large?", "Left", "malformed_question"),
    (CHEST, "Where is the effusion, and which lobe is it in?", "Left", "malformed_question"),
    (CHEST, "Is there an effusion and is it on the left?", "Yes", "malformed_question"),
    (CHEST, "Is there a pleural effusion?", "Left", "malformed_question"),
    (CHEST, "Where is the pleural effusion?", "Yes", "malformed_question"),
    (CHEST, "Where is the pleural effusion?", "-", "malformed_question"),
    (CHEST, "Q3: Where is the pleural effusion?", "Left", "malformed_question"),
    (CHEST, "1. Where is the pleural effusion?", "Left", "malformed_question"),
    (CHEST, "Where is the pleural effusion?", "A: left", "malformed_question needs_other_images"),
    # Languages.
    (CHEST, "Où est l'épanchement dans le thorax?", "Left", "malformed_question wrong_language"),
    (CHEST, "Where is the effusion?", "dans le poumon gauche", "wrong_language"),
    (CHEST, "Where is the effusion?", "in der linken Lunge auf dem Bild", "wrong_language"),
    (CHEST, "Where is the effusion?", "en el pulmón izquierdo", "wrong_language"),
    (CHEST, "Where is the effusion?", "nel polmone sinistro con versamento", "wrong_language"),
    (CHEST, "Where is the effusion?", "in de linker long van het beeld", "wrong_language"),
    (CHEST, "Where is the effusion?", "左肺", "wrong_language"),
    (CHEST, "Where is the effusion?", "слева", "wrong_language"),
    (CHEST, "Where is the effusion?", "αριστερά", "wrong_language"),
    # The text that the pair was made from.
    (CHEST, "What does the caption say of the lobe?", "Nodules", "mentions_source"),
    (CHEST, "According to the radiologist, where is the effusion?", "Left", "mentions_source"),
    (CHEST, "Where is the effusion described in the report?", "Left", "mentions_source"),
    (CHEST, "What abnormality of the lobe is mentioned?", "Nodules mentioned above", "mentions_source"),
    (CHEST, "What is found in this case?", "Nodules", "mentions_source"),
    (CHEST, "Which side does the text name?", "Left", "mentions_source"),
    (CHEST, "Which side do the authors name?", "Left", "mentions_source"),
    (CHEST, "Based on the information provided, where is the effusion?", "Left", "mentions_source"),
    # What no single picture shows.
    (CHEST, "How old is the patient?", "Elderly", "needs_history"),
    (CHEST, "What is the age of the patient?", "Unclear", "needs_history speculation"),
    (CHEST, "What is the sex of the patient?", "Female", "needs_history"),
    (CHEST, "Which lung is affected in this 60-year-old?", "Left", "needs_history invented_number"),
    (CHEST, "What symptoms does the patient have?", "Cough", "needs_history"),
    (CHEST, "How is the effusion treated?", "Drainage", "needs_history"),
    (CHEST, "What is the prognosis of the effusion?", "Good", "needs_history"),
    (CHEST, "What is the cause of the effusion?", "Cancer", "needs_history"),
    (CHEST, "Why is there an effusion?", "Heart failure", "needs_history"),
    (CHEST, "What is causing the effusion?", "Heart failure", "needs_history"),
    (CHEST, "What did the biopsy of the nodules show?", "Cancer", "needs_history"),
    (CHEST, "What are the risk factors of nodules?", "Smoking", "needs_history"),
    (CHEST, "What is the most common site of nodules?", "Lung", "needs_history"),
    (CHEST, "Which laboratory value is raised?", "CRP", "needs_history"),
    (CHEST, "Where is the effusion after surgery?", "Left", "needs_history"),
    (CHEST, "What is the etiology of the nodules?", "Tuberculosis", "needs_history"),
    (CHEST, "What should be done at follow-up?", "Another film", "needs_history"),
    (KNEE, "What is torn after 3 weeks of pain?", "The medial meniscus", "needs_history"),
    (CHEST, "What is the significance of the nodules?", "Spread", "needs_history"),
    # Other pictures.
    (CHEST, "How has the effusion changed since the last film?", "Grown", "needs_other_images"),
    (CHEST, "Is the effusion larger than on the previous radiograph?", "Yes", "needs_other_images"),
    (CHEST, "What is seen in figure 2b of the lung?", "Nodules", "needs_other_images"),
    (CHEST, "What is seen of the lung in panel A?", "Nodules", "needs_other_images"),
    (CHEST, "Where are the nodules (A, B)?", "Right upper lobe", "needs_other_images"),
    (CHEST, "Are the nodules seen on both images?", "Yes", "needs_other_images"),
    (CHEST, "On which of the two sequences are the nodules seen?", "T1", "needs_other_images"),
    (CHEST, "Which side is worse on multiple scans?", "Left", "needs_other_images"),
    (CHEST, "How large a part is opaque compared with the prior exam?", "More", "needs_other_images measurement"),
    (CHEST, "Where are the nodules?", "Right upper lobe, unchanged", "needs_other_images"),
    (CHEST, "Has the effusion progressed?", "Yes", "needs_other_images"),
    # Marks.
    (CHEST, "What does the arrow point at?", "Nodules", "text_overlay"),
    (CHEST, "What do the arrowheads show?", "Nodules", "text_overlay"),
    (CHEST, "What is marked with an asterisk?", "Effusion", "text_overlay"),
    (CHEST, "What lies inside the red circle?", "Nodules", "text_overlay"),
    (CHEST, "Where are the nodules?", "Right upper lobe (arrows)", "text_overlay"),
    (CHEST, "Which structure is labeled with a letter?", "The trachea", "text_overlay"),
    (CHEST, "What is outlined in the left lung?", "Effusion", "text_overlay"),
    (CHEST, "What lies between the calipers?", "Nodules", "text_overlay"),
    (CHEST, "Where are the nodules?", "Right upper lobe (*)", "text_overlay"),
    # Measures and numbers.
    (KNEE, "How large is the tear?", "12 mm", "measurement"),
    (KNEE, "What is the size of the tear?", "Small", "measurement"),
    (KNEE, "What is torn?", "The medial meniscus, over 12 mm", "measurement"),
    (KNEE, "What is torn over 12 mm?", "The medial meniscus", "measurement"),
    (KNEE, "What is the diameter of the tear?", "Twelve", "measurement"),
    (KNEE, "What is torn?", "The medial meniscus over 1.2 x 1.5 cm", "measurement invented_number"),
    (CHEST, "How many nodules are there?", "Three", "invented_number"),
    (CHEST, "How many nodules are there?", "3", "invented_number"),
    (CHEST, "Where are the 4 nodules?", "Right upper lobe", "invented_number"),
    (CHEST, "Which rib is broken?", "The 5th rib", "invented_number"),
    (BRAIN, "Which gyrus is affected?", "The 3rd", ""),
    (BRAIN, "Which gyrus is affected?", "The fourth", "invented_number"),
    # Guesses and refusals.
    (CHEST, "What is the most likely diagnosis of the lobe?", "Metastases", "speculation"),
    (CHEST, "What might the nodules be?", "Metastases", "speculation"),
    (CHEST, "What are the nodules?", "Probably metastases", "speculation"),
    (CHEST, "What are the nodules?", "Possible metastases", "speculation"),
    (CHEST, "What are the nodules?", "It cannot be determined", "speculation"),
    (CHEST, "What are the nodules?", "Not stated", "speculation"),
    (CHEST, "What are the nodules?", "Unknown", "speculation"),
    (CHEST, "What are the nodules?", "As an AI I cannot say", "speculation"),
    (CHEST, "What are the nodules?", "I'm sorry, please give the image", "speculation"),
    (CHEST, "What are the nodules?", "They may be metastases", "speculation"),
    (CHEST, "What are the nodules?", "They could represent metastases", "speculation"),
    (CHEST, "What is the differential of the nodules?", "Metastases", "speculation"),
    # Length.
    (CHEST, "Where is the effusion?", "on " + "the very " * 5 + "left side", "long_answer"),
    (CHEST, "Where is the effusion?", "on " + "the very " * 5 + "left", ""),
    # The answer in the question.
    (CHEST, "Which side is the left pleural effusion on?", "left", "answer_in_question"),
    (CHEST, "Where are the nodules of the right upper lobe?", "In the right upper lobe", "answer_in_question"),
    (CHEST, "What is the pleural effusion called?", "An effusion of the pleural kind", "answer_in_question"),
    (CHEST, "In which lung is the effusion?", "The left lung", ""),
    (CHEST, "What of a pneumothorax is seen?", "No pneumothorax", ""),
    (CHEST, "Is it an effusion or a nodule?", "an effusion", ""),
    (CHEST, "How large is the effusion?", "Large", "measurement"),
    ("There is severe stenosis of the spinal canal on MRI.", "How severe is the stenosis?", "Severe", ""),
    ("There is severe stenosis of the spinal canal on MRI.", "What is severe?", "It is severe", "answer_in_question"),
    (CHEST, "Is there a left effusion?", "Yes", ""),
    (CHEST, "How much fluid is there?", "much", ""),
]  # fmt: skip


def test_the_table_is_long_enough_and_names_every_word_screen() -> None:
    assert len(PAIRS) >= 120
    assert {name for *_, names in PAIRS for name in names.split()} == set(PAIR_SCREENS) - {
        "answer_not_licensed",
        "wrong_kind",
    }


@pytest.mark.parametrize(("caption", "question", "answer", "expected"), PAIRS)
def test_pairs(caption: str, question: str, answer: str, expected: str) -> None:
    assert failed(caption, question, answer) == expected


def test_facts_hold_numbers_and_need_no_caption() -> None:
    assert failed("Two", "Which modality is shown?", "CT", facts={"modality": "CT"}, basis="fact") == ""
    assert failed("Two", "Which modality is shown?", "CT", facts={"modality": "CT"}) == "short_caption"
    assert failed(CHEST, "Which rib is broken?", "Rib 7", facts={"location": "rib 7"}) == ""


def test_every_screen_gives_a_verdict_in_order_and_none_stops_the_others() -> None:
    verdicts = screen_pair(candidate("What does the arrow of the caption show?", "Unknown"), source("N/A"), SETTINGS)
    assert tuple(one.screen for one in verdicts) == tuple(PAIR_SCREENS)
    wrong = {one.screen for one in verdicts if not one.passed}
    assert {"placeholder_caption", "mentions_source", "text_overlay", "speculation", "answer_not_licensed"} <= wrong
    assert reason_of(verdicts) == "placeholder_caption"
    assert all(bool(one.detail) != one.passed for one in verdicts)


@pytest.mark.parametrize("name", PAIR_SCREENS)
def test_a_screen_switched_off_gives_no_verdict(name: str) -> None:
    off = ScreenSettings(off=(name,))
    one = candidate("What does the arrow of the caption show?", "Unknown")
    kept = [verdict for verdict in screen_pair(one, source("N/A"), SETTINGS) if verdict.screen != name]
    assert list(screen_pair(one, source("N/A"), off)) == kept


def test_thresholds_are_those_of_the_settings() -> None:
    one, caption = candidate("Where is the effusion?", "On the left"), source("Left effusion")
    names = {verdict.screen for verdict in screen_pair(one, caption, SETTINGS) if not verdict.passed}
    assert names == {"short_caption"}
    strict = ScreenSettings(shortest_caption_words=2, longest_answer_words=2)
    names = {verdict.screen for verdict in screen_pair(one, caption, strict) if not verdict.passed}
    assert names == {"long_answer"}


def test_caption_problem_knows_what_is_switched_off() -> None:
    assert caption_problem(source(CHEST), SETTINGS) is None
    short = Verdict(screen="short_caption", passed=False, detail="the caption has 2 words")
    assert caption_problem(source("Axial FLAIR"), SETTINGS) == short
    placeholder = caption_problem(source("lorem ipsum dolor sit"), SETTINGS)
    assert placeholder is not None
    assert placeholder.screen == "placeholder_caption"
    assert caption_problem(source("Axial FLAIR"), ScreenSettings(off=("short_caption",))) is None


def test_no_reason_where_everything_passed() -> None:
    assert reason_of([]) == ""
    assert reason_of([Verdict(screen="a", passed=True), Verdict(screen="b", passed=False)]) == "b"


def test_names_are_unique() -> None:
    assert len(set(SCREEN_NAMES)) == len(SCREEN_NAMES) == len(PAIR_SCREENS) + len(SET_SCREENS)


def test_statistics_tell_what_a_screen_did_alone() -> None:
    def verdicts(*failing: str) -> list[Verdict]:
        return [Verdict(screen=name, passed=name not in failing) for name in ("long_answer", "measurement")]

    found = screen_statistics([verdicts(), verdicts("measurement"), verdicts("measurement", "long_answer")])
    told = {one.screen: (one.seen, one.failed, one.failed_alone, round(one.share, 2)) for one in found}
    assert told == {"measurement": (3, 2, 1, 0.67), "long_answer": (3, 1, 0, 0.33)}
    assert [one.screen for one in found] == ["measurement", "long_answer"]


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=30), st.sampled_from(get_args(Slot)))
def test_no_text_breaks_a_screen(caption: str, question: str, answer: str, slot: Slot) -> None:
    one = Candidate(question=question, answer=answer, slot=slot)
    verdicts = screen_pair(one, source(caption), SETTINGS)
    assert len(verdicts) == len(PAIR_SCREENS)
    assert verdicts == screen_pair(one, source(caption), SETTINGS)


@pytest.mark.parametrize(
    ("slot", "answer", "passes"),
    [
        ("organ", "liver", True),
        ("organ", "appendicitis", False),
        ("organ", "CT", False),
        ("organ", "zonule of Zinn", True),
        ("plane", "axial", True),
        ("plane", "multiple", False),
        ("plane", "lateral", True),
        ("location", "thickened bowel wall", True),
        ("location", "mural thrombus", False),
        ("finding", "high T2 signal", True),
        ("modality", "T2-weighted MRI", True),
        ("modality", "axial", False),
        ("location", "right lower lobe", True),
        ("location", "noncontrast CT", False),
        ("location", "left", True),
        ("finding", "pleural effusion", True),
        ("finding", "no proximal vessel occlusion", False),
        ("finding", "axial", False),
        ("open", "axial", True),
    ],
)
def test_an_answer_is_of_the_kind_that_is_asked_for(slot: str, answer: str, passes: bool) -> None:
    one = Candidate(question="What is shown?", answer=answer, slot=slot)
    assert (wrong_kind(one, source(CHEST), SETTINGS) is None) is passes
