import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replies import reply

from radvqa.evaluate.extraction import answer_region, answer_state, narrower_readings
from radvqa.evaluate.metrics import score_answer


@pytest.mark.parametrize(
    ("text", "region", "rule"),
    [
        ("Lung", "Lung", "whole"),
        ("<think>left or right</think>Lung", "Lung", "reasoning_removed"),
        ("<THINK>a</THINK> <reasoning>b</reasoning> Lung", " Lung", "reasoning_removed"),
        ("so it is left</think>Lung", "Lung", "reasoning_removed"),
        ("Lung<think>it was the lung</think>", "Lung", "reasoning_removed"),
        ("<think>left <answer>Lung", "Lung", "reasoning_removed+answer_tag"),
        ("<think>left</think><answer>Lung</answer>", "Lung", "reasoning_removed+answer_tag"),
        ("<think>left</think><answer>Lung", "Lung", "reasoning_removed+answer_tag"),
        ("<answer>Liver</answer> no: <answer>Lung</answer> <answer>", "Lung", "answer_tag"),
        ("Lung</answer>", "Lung", "answer_tag"),
        ("<|begin_of_box|>Lung<|end_of_box|>", "Lung", "answer_tag"),
        (r"So \boxed{Liver}, no \boxed{Lung}.", "Lung", "boxed"),
        (r"\boxed{\text{Lung}}", "Lung", "boxed"),
        (r"\boxed{a{b}c", "a{b}c", "boxed"),
        ("<|im_start|>Lung<|im_end|><pad><pad>", "Lung", "special_tokens"),
        ("Lung</s>", "Lung", "special_tokens"),
        ("Assistant: Lung", "Lung", "speaker"),
        ("Which organ is it? Lung", " Lung"[1:], "question_removed"),
        ("Final answer: Lung", "Lung", "final_answer_marker"),
        ("**Answer:** Lung", " Lung"[1:], "final_answer_marker"),
        ("The answer is liver. Wait. The correct answer is Lung", "Lung", "final_answer_marker"),
        ('{"answer": "Lung"}', '"Lung"}', "final_answer_marker"),
        ("[THINK]Liver[/THINK]Lung", "Lung", "reasoning_removed"),
        ("◁think▷Liver◁/think▷Lung", "Lung", "reasoning_removed"),
        ("<answer>Liver</answer> or <answer>Lung</answer>", "Liver</answer> or <answer>Lung", "several_answers"),
        (r"\boxed{Liver} \boxed{Lung}", r"Liver} \boxed{Lung", "several_answers"),
        (r"\boxed{Lung} \boxed{lung}", "lung", "boxed"),
        ("Answer: Lung. I doubt the answer is liver.", "Lung. I doubt the answer is liver.", "final_answer_marker"),
        ("Answer: yes. Answer: no.", "yes. Answer: no.", "several_answers"),
        ("Answer: yes. Final answer: no.", "no.", "final_answer_marker"),
        ("Answer (yes/no): yes", "yes", "final_answer_marker"),
        ("A) Yes B) No Answer: B", "No", "final_answer_marker"),
        ("Lung\nQuestion: What is the plane?\nAnswer: axial", "Lung", "whole"),
        ("I cannot provide the answer: unclear", "I cannot provide the answer: unclear", "whole"),
    ],
)
def test_region(text, region, rule):
    found = answer_region(text, "Which organ is it?")
    assert text[slice(*found.span)].strip("* ?") == region.strip("* ?")
    assert found.rule == rule


@pytest.mark.parametrize(
    ("question", "text", "reference", "right"),
    [
        ("What modality is used to take this image?", "The modality used to take this image is MRI.", "MRI", True),
        ("What modality is used to take this image?", "This is an MRI image.", "MRI", True),
        ("What modality is used to take this image?", "MRI (magnetic resonance imaging)", "MRI", True),
        ("What modality is used to take this image?", "The image is a chest X-ray.", "X-Ray", True),
        ("What modality is used to take this image?", "This is not an MRI.", "MRI", False),
        ("What modality is used to take this image?", "MRI or CT", "MRI", False),
        ("What modality is used to take this image?", "MRI MRI MRI MRI", "MRI", False),
        ("What organ is the largest in the picture?", "The lung is the largest organ in the picture.", "Lung", True),
        ("What organ is the largest in the picture?", "The liver is the largest, not the lung.", "Lung", False),
        ("Which organ is abnormal, heart or lung?", "The lung is abnormal.", "Lung", True),
        ("Which organ is abnormal, heart or lung?", "The lung is not abnormal.", "Lung", False),
        ("Which organ is abnormal, heart or lung?", "Not the lung.", "Lung", False),
        ("Which organ is not shown, heart or lung?", "The organ not shown is the lung.", "Lung", True),
        ("Which is not abnormal, heart or lung?", "The lung, not heart, is abnormal.", "Lung, not heart,", False),
        ("Which organ is abnormal, heart or lung?", "heart or lung", "Lung", False),
        ("Which is bigger, heart or lung?", "The lung is bigger than the heart.", "Lung", True),
        ("Which is bigger, heart or lung?", "The heart is smaller than the lung.", "Heart", False),
        ("Where is/are the abnormality located?", "The abnormality is located in the left lung.", "Left Lung", True),
        ("Where is/are the abnormality located?", "In the right lung.", "Left Lung", False),
        ("Where is/are the abnormality located?", "lower left, right lung", "Right Lung, Lower Left", True),
        ("Where is/are the abnormality located?", "Left lung, lower right", "Right Lung, Lower Left", False),
        ("How many kidneys in this image?", "There are two kidneys in this image.", "2", True),
        ("How many kidneys in this image?", "There are 3 kidneys, 2 of them normal.", "2", False),
        ("How many kidneys in this image?", "There are not 2 kidneys.", "2", False),
        ("Which hemisphere is abnormal,left or right?", "Left hemisphere", "Left", True),
        ("What is the shape of the lung?", "It has an irregular shape.", "Irregular", True),
        ("What color does the lung show in the picture?", "The lung shows black in the picture.", "Black", True),
        ("What is the main organ?", "Lung. The image shows both lungs with clear borders.", "Lung", True),
        ("What is the main organ?", "Lung. It could also be the liver or the spleen.", "Lung", False),
        ("What is the main organ?", "lung because the image shows it", "Lung", True),
        ("What is the main organ?", "B) Lung", "Lung", True),
        ("What is the main organ?", "liver, lung", "Lung", False),
        ("What is seen?", "Nothing is known of it", "unknown", False),
        ("Is the cause known?", "It is unknown.", "unknown", True),
    ],
)
def test_sentences(question, text, reference, right):
    found = score_answer(reply(text, reference, question=question))
    assert found.scores["accuracy"] == right, found


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        ("...", "empty"),
        ("<think>it could be the lung", "empty"),
        ("<think>it could be the lung</think>", "empty"),
        ("<answer></answer>", "empty"),
        ("I'm sorry, but I cannot answer that.", "refused"),
        ("As an AI model, I can't interpret medical images.", "refused"),
        ("I am unable to view the image.", "refused"),
        ("I'm sorry.", "refused"),
        ("I'd rather not answer.", "refused"),
        ("I don't have the ability to view images.", "refused"),
        ("No comment.", "refused"),
        ("Je ne sais pas.", "unsure"),
        ("Das weiß ich nicht.", "unsure"),
        ("The image is of too poor quality to say.", "unsure"),
        ("It is not possible for me to tell.", "unsure"),
        ("<answer>Liver</answer><answer>Lung</answer>", "ambiguous"),
        ("I'm sorry for the delay, it is the lung.", "answered"),
        ("As an AI model, I can't diagnose. However, the lung is abnormal.", "answered"),
        ("Please consult a radiologist.", "refused"),
        ("I am not sure.", "unsure"),
        ("I don't know", "unsure"),
        ("Unknown", "unsure"),
        ("It is impossible to say from this image.", "unsure"),
        ("The organ cannot be determined.", "unsure"),
        ("Which organ?", "echo"),
        ("which ORGAN which organ", "echo"),
        ("left or right", "ambiguous"),
        ("The lung is not clear.", "answered"),
        ("unclear margins", "answered"),
    ],
)
def test_states(text, state):
    found = score_answer(reply(text, "Kidney"))
    assert found.state == state, found
    assert found.scores["accuracy"] == 0.0
    if state != "answered":
        assert set(found.scores.values()) == {0.0}


def test_a_missing_answer_is_missing():
    found = score_answer(reply("", "Kidney", missing=True))
    assert (found.state, found.span, set(found.scores.values())) == ("missing", None, {0.0})


pieces = st.lists(
    st.sampled_from(
        [
            "<think>",
            "</think>",
            "<answer>",
            "</answer>",
            r"\boxed{",
            "}",
            "The answer is",
            "Answer:",
            "yes",
            "no",
            "lung",
            "not",
            ".",
            "\n",
            " ",
            "is",
            "the",
            "(",
            ")",
            "Which organ is it?",
            "MRI",
            "or",
            "<|im_end|>",
            "A) ",
            "1",
        ]
    ),
    max_size=12,
).map(" ".join)


@settings(deadline=None, max_examples=150)
@given(
    st.one_of(pieces, st.text(st.characters())),
    st.sampled_from(["Which organ is it?", "What modality?", "", "How many?"]),
)
def test_readings_are_spans_ever_narrower(text, question):
    region = answer_region(text, question)
    readings = [region, *narrower_readings(text, region, question)]
    for reading in readings:
        start, end = reading.span
        assert region.span[0] <= start <= end <= region.span[1] <= len(text)
    _state, evidence = answer_state(text, region, question)
    assert 0 <= evidence.span[0] <= evidence.span[1] <= len(text)
    assert evidence.rule
