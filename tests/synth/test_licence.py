from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from radvqa.synth.licence import content_stems, statement, stem, unlicensed
from radvqa.synth.pair import Candidate, Slot, Source
from radvqa.synth.vocabulary import broader, terms


def reason(caption: str, question: str, answer: str, *, basis: str = "model", subject: str = "", **facts: str) -> str:
    """Why the pair is not licensed; ``""`` if it is."""
    low = answer.lower()
    slot: Slot = "yes" if low == "yes" else "no" if low == "no" else "open"
    one = Candidate(question=question, answer=answer, slot=slot, basis=basis, subject=subject)
    return unlicensed(one, Source(caption_id="c", text=caption, facts=facts)) or ""


CHEST = "Frontal chest radiograph: large left pleural effusion, nodules in the right upper lobe. No pneumothorax."
DOUBT = "Axial CT of the abdomen. A possible abscess lies beside the liver; the spleen is normal."
PAST = "CT after a history of pancreatitis shows a pseudocyst of the pancreas."

LICENSED: list[tuple[str, str, str]] = [
    (CHEST, "Where is the pleural effusion?", "On the left"),
    (CHEST, "What abnormality is seen on the left?", "A pleural effusion"),
    (CHEST, "What abnormality is seen on the left?", "Effusion"),
    (CHEST, "Which modality is shown?", "X-ray"),
    (CHEST, "Which modality is shown?", "Chest X-ray"),
    (CHEST, "How large is the effusion?", "Large"),
    (CHEST, "Which lobe has nodules?", "The right upper lobe"),
    (CHEST, "Is there a pleural effusion?", "Yes"),
    (CHEST, "Is there a left pleural effusion?", "Yes"),
    (CHEST, "Is there a pneumothorax?", "No"),
    (CHEST, "Is the lung free of pneumothorax?", "Yes"),
    (CHEST, "Is there no pneumothorax?", "Yes"),
    (CHEST, "Is there no pleural effusion?", "No"),
    (CHEST, "Is a pleural effusion absent?", "No"),
    (CHEST, "Is this a CT scan?", "No"),
    (CHEST, "Is there a right pleural effusion?", "No"),
    (CHEST, "Are there nodules and a pleural effusion?", "Yes"),
    (CHEST, "Are there nodules in the left upper lobe?", "No"),
    (DOUBT, "What lies beside the liver?", "An abscess"),
    (DOUBT, "Which organ is normal?", "The spleen"),
    (PAST, "Which organ is abnormal?", "The pancreas"),
    ("Hydronephrosis of the left kidney on ultrasound.", "Which modality is shown?", "Sonography"),
    ("Hepatic cyst in segment IV on CT.", "Which organ has the cyst?", "Liver"),
    ("The aortic wall is calcified on CT.", "What is seen in the aortic wall?", "Calcification"),
    ("Calcifications of the aortic wall on CT.", "Is the aortic wall calcified?", "Yes"),
    ("T2-weighted MRI shows a lesion of the pons.", "Where is the lesion?", "Brainstem"),
    ("Bilateral pleural effusions on CT.", "Is there a left pleural effusion?", "Yes"),
    ("CT without fracture or bleeding.", "What is found?", "No fracture"),
    ("Normal CT of the head.", "What abnormality is seen?", "None"),
]  # fmt: skip

UNLICENSED: list[tuple[str, str, str]] = [
    (CHEST, "Where is the pleural effusion?", "On the right"),
    (CHEST, "What abnormality is seen on the left?", "Pneumonia"),
    (CHEST, "What abnormality is seen?", "A pneumothorax"),
    (CHEST, "What abnormality is seen on the left?", "A pericardial effusion"),
    (CHEST, "Which modality is shown?", "CT"),
    (CHEST, "Which lobe has nodules?", "The left upper lobe"),
    (CHEST, "Which lobe has nodules?", "The right lower lobe"),
    (CHEST, "How large is the effusion?", "Small"),
    (CHEST, "How severe is the effusion?", "Severe"),
    (CHEST, "Where is the fracture?", "On the left"),
    (CHEST, "Where is the pneumothorax?", "On the left"),
    (CHEST, "What does the MRI show on the left?", "Effusion"),
    (CHEST, "What is wrong with the left kidney?", "Effusion"),
    (CHEST, "Is there a pneumothorax?", "Yes"),
    (CHEST, "Is there a fracture?", "Yes"),
    (CHEST, "Is there a fracture?", "No"),
    (CHEST, "Is there a pleural effusion?", "No"),
    (CHEST, "Is there a right pleural effusion?", "Yes"),
    (CHEST, "Is there a left pleural effusion?", "No"),
    (CHEST, "Is there no pneumothorax?", "No"),
    (CHEST, "Is there no pleural effusion?", "Yes"),
    (CHEST, "Is a pleural effusion absent?", "Yes"),
    (CHEST, "Is this a CT scan?", "Yes"),
    (CHEST, "Is this a radiograph?", "No"),
    (CHEST, "Are there nodules and a pneumothorax?", "Yes"),
    (CHEST, "Is there a pneumothorax or a fracture?", "No"),
    (CHEST, "Is the abnormality visible?", "Yes"),
    (DOUBT, "Is there an abscess?", "Yes"),
    (DOUBT, "Is there an abscess?", "No"),
    (DOUBT, "Which organ is normal?", "The liver and the kidney"),
    (PAST, "Is there pancreatitis?", "Yes"),
    (PAST, "What abnormality is seen?", "Pancreatitis"),
    ("Left lung mass. The right kidney is normal.", "Where is the mass?", "In the right lung"),
    ("Left lung mass. The right kidney is normal.", "Is there a mass in the right lung?", "Yes"),
    ("Left lung mass. The right kidney is normal.", "Which side is affected?", "Right"),
    ("CT without fracture or bleeding.", "What is found?", "A fracture"),
    ("Fracture of the femur on radiograph.", "What abnormality is seen?", "None"),
    ("Fracture of the femur on radiograph.", "What is found?", "No fracture"),
    ("Fracture of the femur on radiograph.", "Which bone is broken?", "The tibia"),
]  # fmt: skip


@pytest.mark.parametrize(("caption", "question", "answer"), LICENSED)
def test_licensed(caption: str, question: str, answer: str) -> None:
    assert reason(caption, question, answer) == ""


@pytest.mark.parametrize(("caption", "question", "answer"), UNLICENSED)
def test_unlicensed(caption: str, question: str, answer: str) -> None:
    assert reason(caption, question, answer)


def test_facts_count_like_the_caption() -> None:
    bare = "A mass is seen beside the aorta."
    assert reason(bare, "Which modality is shown?", "CT")
    assert reason(bare, "Which modality is shown?", "CT", modality="CT") == ""
    assert reason(bare, "Is this an MRI?", "No", modality="CT") == ""
    assert reason(bare, "Is this an MRI?", "Yes", modality="CT")
    assert reason(bare, "Is this a coronal view?", "No", plane="axial") == ""
    assert reason(bare, "Is this a coronal view?", "No")
    # What is narrower than a stated modality does not contradict it.
    assert reason(bare, "Is this a T2-weighted MRI?", "No", modality="MRI")


ABSENT = "CT shows a large pleural effusion on the left."


@pytest.mark.parametrize(
    ("question", "subject", "fine"),
    [
        ("Is there a fracture?", "fracture", True),
        ("Is there a fracture?", "", True),
        ("Is there a pleural effusion?", "pleural effusion", False),
        ("Is there an effusion?", "", False),
        ("Is there fluid?", "zorblax", False),
    ],
)
def test_silence_licenses_a_no_only_where_it_is_the_basis(question: str, subject: str, fine: bool) -> None:
    assert (reason(ABSENT, question, "No", basis="absent", subject=subject) == "") == fine
    assert reason(ABSENT, question, "No", subject=subject)


def test_a_denied_or_narrower_term_is_no_silence() -> None:
    assert reason(
        "CT with a liver metastasis of the colon.", "Is there a tumor?", "No", basis="absent", subject="tumor"
    )
    assert reason(
        "CT without any fracture of the hip.", "Is there a fracture?", "No", basis="absent", subject="fracture"
    )


def test_reasons_name_the_word() -> None:
    assert "'Pneumonia'" in reason(CHEST, "What abnormality is seen?", "Pneumonia")
    assert "only suspected" in reason(DOUBT, "Is there an abscess?", "Yes")
    assert "denies" in reason(CHEST, "Is there a pneumothorax?", "Yes")
    assert "not right" in reason(CHEST, "Where is the pleural effusion?", "On the right")
    assert "presupposes" in reason(CHEST, "Where is the fracture?", "On the left")


def test_statement_holds_broader_terms_and_no_denied_words() -> None:
    stated = statement(Source(caption_id="c", text=CHEST, facts={"plane": "frontal"}))
    assert {"pleural effusion", "nodule", "X-ray", "frontal"} <= stated.sure
    assert "pneumothorax" in stated.denied
    assert "pneumothorax" in stated.mentioned
    assert stem("pneumothorax") not in stated.words
    assert stated.sides[stem("effusion")] == {"left"}
    assert stated.sides[stem("nodules")] == {"right"}


def test_stems_join_inflections_and_not_different_words() -> None:
    for one, other in (("calcified", "calcification"), ("masses", "mass"), ("enhancing", "enhancement")):
        assert stem(one) == stem(other)
    assert stem("pneumonia") != stem("pneumothorax")
    assert content_stems("The image shows what is seen here") == frozenset()


FINDINGS = [one for one in terms("finding") if "normal" not in one.name]
finding = st.sampled_from(FINDINGS)


def pair(name: str, question: str, answer: str, **changes: Any) -> str:
    return reason(name, question, answer, **changes)


@given(finding)
def test_a_finding_of_the_caption_is_licensed_and_its_denial_turns_that(term: Any) -> None:
    affirmed, denied = f"Axial CT shows {term.name}.", f"Axial CT shows no evidence of {term.name}."
    question = f"Is there {term.name}?"
    assert reason(affirmed, "What abnormality is seen?", term.name) == ""
    assert reason(affirmed, question, "Yes") == ""
    assert reason(affirmed, question, "No")
    assert reason(denied, "What abnormality is seen?", term.name)
    assert reason(denied, question, "Yes")
    assert reason(denied, question, "No") == ""


@given(finding)
def test_broader_terms_are_licensed(term: Any) -> None:
    for name in sorted(broader(term)):
        assert reason(f"Axial CT shows {term.name}.", "What abnormality is seen?", name) == ""


@given(finding, finding)
def test_nothing_is_both_yes_and_no(one: Any, other: Any) -> None:
    caption, question = f"Axial CT shows {one.name}.", f"Is there {other.name}?"
    assert reason(caption, question, "Yes") or reason(caption, question, "No")
    assert reason(caption, question, "Yes") or reason(caption, question, "No", basis="absent", subject=other.name)
