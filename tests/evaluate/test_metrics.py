import math
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from replies import reply

from radvqa.errors import DataError
from radvqa.evaluate.metrics import (
    HEADLINE,
    METRICS,
    accuracy,
    exact_match,
    is_degenerate,
    score_answer,
    token_f1,
)


@pytest.mark.parametrize(
    ("text", "references", "match", "right", "f1"),
    [
        ("Lung", ("lung",), 1.0, 1.0, 1.0),
        ("the lung.", ("Lung",), 1.0, 1.0, 1.0),
        ("Kidney, Liver", ("Liver, Kidney",), 1.0, 1.0, 1.0),
        ("kidneys and liver", ("Liver, Kidney",), 0.0, 1.0, 2 / 5),
        ("Kidney, Liver, Liver", ("Liver, Kidney",), 0.0, 0.0, 0.8),
        ("right lung upper left", ("Right Lung, Upper Left",), 1.0, 1.0, 1.0),
        ("Right Lung, Left", ("Left Lung, Right",), 0.0, 0.0, 1.0),
        ("left lung", ("lung",), 0.0, 0.0, 2 / 3),
        ("lung", ("liver", "left lung", "Lung"), 1.0, 1.0, 1.0),
        ("lung", ("liver", "left lung"), 0.0, 0.0, 2 / 3),
        ("lung lung lung lung lung", ("lung",), 0.0, 0.0, 1 / 3),
        ("lung lung", ("lung lung heart",), 0.0, 0.0, 0.8),
        ("liver", ("lung",), 0.0, 0.0, 0.0),
        ("magnetic resonance imaging", ("MRI",), 0.0, 1.0, 0.0),
        ("The answer is Lung.", ("lung",), 0.0, 1.0, 1.0),
        ("3.5", ("35",), 0.0, 0.0, 0.0),
        ("50 HU", ("-50 HU",), 0.0, 0.0, 0.5),
        ("yes or no", ("Yes",), 0.0, 0.0, 0.0),
        ("normal", ("No",), 0.0, 0.0, 0.0),
        ("I am not sure.", ("No",), 0.0, 0.0, 0.0),
        ("I am not sure.", ("not sure",), 0.0, 0.0, 0.0),
        ("not sure", ("Not sure.",), 1.0, 1.0, 1.0),
        ("", ("No",), 0.0, 0.0, 0.0),
        (" . ", ("No",), 0.0, 0.0, 0.0),
        ("", ("?", "No"), 0.0, 0.0, 0.0),
        ("No", ("Yes", "No"), 1.0, 1.0, 1.0),
        ("Lung", ("Yes", "lung"), 1.0, 1.0, 1.0),
        ("Yes, it is.", ("Yes", "lung"), 0.0, 1.0, 0.5),
    ],
)
def test_hand_computed_scores(text, references, match, right, f1):
    prediction = reply(text, *references)
    assert exact_match(prediction) == match
    assert accuracy(prediction) == right
    assert token_f1(prediction) == pytest.approx(f1, abs=1e-12)
    scores = score_answer(prediction).scores
    assert tuple(scores) == tuple(METRICS)
    assert (scores["accuracy"], scores["exact_match"]) == (right, match)


@pytest.mark.parametrize(
    ("text", "references", "recall", "bleu_1", "rouge_l"),
    [
        ("upper left lung", ("left lung",), 1.0, 2 / 3, 4 / 5),
        ("lung left", ("left lung",), 1.0, 1.0, 1 / 2),
        ("lung", ("left lung",), 1 / 2, math.exp(-1), 2 / 3),
        ("lung lung lung", ("lung",), 1.0, 1 / 3, 1 / 2),
        # BLEU clips by the largest count of any reference and takes the closest length, the shorter of two.
        ("mass nodule", ("mass", "nodule cyst cyst"), 1.0, 1.0, 2 / 3),
        ("g b c d e f", ("g c x e", "f b c d"), 1.0, 1.0, 6 / 10),
        ("heart", ("lung",), 0.0, 0.0, 0.0),
    ],
)
def test_hand_computed_text_metrics(text, references, recall, bleu_1, rouge_l):
    scores = score_answer(reply(text, *references, question="What?")).scores
    assert scores["recall"] == pytest.approx(recall)
    assert scores["bleu_1"] == pytest.approx(bleu_1)
    assert scores["rouge_l"] == pytest.approx(rouge_l)


def test_the_headline_comes_first():
    assert next(iter(METRICS)) == HEADLINE == "accuracy"
    assert all("\n" not in meaning for meaning in METRICS.values())


@pytest.mark.parametrize("metric", [accuracy, exact_match, token_f1, score_answer])
@pytest.mark.parametrize("references", [(), ("",), (" ?", "The")])
def test_empty_references_are_an_error_even_for_an_empty_answer(metric, references):
    with pytest.raises(DataError, match="'s1'"):
        metric(reply("", *references))


def test_flags():
    assert score_answer(reply("lung", "lung", finished=False)).flags == ("unfinished",)
    assert score_answer(reply("left lung " * 4, "lung")).flags == ("degenerate",)
    assert score_answer(reply("", "lung", missing=True, finished=False)).flags == ("unfinished",)


@pytest.mark.parametrize(
    ("text", "degenerate"),
    [
        ("lung lung lung lung", True),
        ("The lung. " + "It is. " * 12, True),
        ("a" * 25, True),
        ("lung lung lung", False),
        ("The left lung is larger than the right lung and the heart is larger than the left kidney", False),
        ("-" * 60 + " lung", False),
        ("", False),
    ],
)
def test_degenerate_repetition(text, degenerate):
    assert is_degenerate(text) is degenerate


words = st.lists(st.sampled_from(["lung", "left", "Liver", "x-ray", "2.5", "no"]), min_size=1, max_size=5).map(" ".join)


@settings(deadline=None)
@given(st.lists(words, min_size=1, max_size=3))
def test_the_reference_itself_scores_one(references):
    assert set(score_answer(reply(references[-1], *references)).scores.values()) == {1.0}


@settings(deadline=None)
@given(words, words)
def test_scores_are_bounded_and_one_wherever_exact_match_is(a, b):
    scores = score_answer(reply(a, b)).scores
    assert all(0.0 <= value <= 1.0 for value in scores.values())
    if scores["exact_match"]:
        assert scores["accuracy"] == scores["recall"] == scores["token_f1"] == 1.0


def longest_common_subsequence(one, other):
    rows = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            rows[i + 1][j + 1] = rows[i][j] + 1 if a == b else max(rows[i][j + 1], rows[i + 1][j])
    return rows[-1][-1]


letters = st.lists(st.sampled_from("bcdex"), min_size=1, max_size=12)


@settings(deadline=None)
@given(letters, letters)
def test_rouge_l_is_that_of_the_textbook(one, other):
    scores = score_answer(reply("q " + " ".join(one), "q " + " ".join(other), question="What?")).scores
    common = 1 + longest_common_subsequence(one, other)
    if scores["rouge_l"]:
        assert scores["rouge_l"] == pytest.approx(2 * common / (len(one) + len(other) + 2))


anything = st.one_of(
    st.text(st.characters(codec=None)),
    st.lists(
        st.sampled_from(
            [
                "yes",
                "no",
                "not",
                "<think>",
                "</think>",
                "<answer>",
                "\\boxed{",
                "}",
                "answer:",
                "�",
                "\x00",
                "١",
                "ﬁ",
                "ͅ",
                "There is",
                "effusion",
                ",",
                ".",
                "?",
                "'",
                "’",
                "or",
                "left",
                "İ",
                "ß",
                "(",
                ")",
                "MRI",
                "may",
                "without",
            ]
        ),
        max_size=30,
    ).map(" ".join),
)


@settings(deadline=None, max_examples=200)
@given(anything, anything, st.one_of(st.just("Yes"), st.just("left lung, heart"), anything))
def test_no_text_crashes_the_scorer(text, question, reference):
    found = score_answer(reply(text, reference, "z", question=question, answer_type="closed"))
    assert set(found.scores) == set(METRICS)
    assert all(0.0 <= value <= 1.0 for value in found.scores.values())
    assert (found.verdict is None) or found.state == "answered"
    assert found.state == "answered" or set(found.scores.values()) == {0.0}
    if found.span is not None:
        assert text[slice(*found.span)] == found.answer


HUGE = 100_000
MONSTERS = [
    "The image shows a small effusion on the left, and no pneumothorax. ",
    "answer ",
    "answer: ",
    "the answer is ",
    " ",
    "<",
    "<think>",
    "</think>",
    "<answer>",
    "\\boxed{",
    "yes no ",
    "No. ",
    "not ",
    "lung, ",
    "lung and ",
    ",1",
    "'a",
    "1.",
    "*",
    '"',
    "(",
    "é",
    "\n",
    "<|a",
    "is ",
]


@pytest.mark.parametrize("unit", MONSTERS)
@pytest.mark.parametrize("reference", ["Yes", "Right Lung, Left"])
def test_huge_answers_take_linear_time(unit, reference):
    """100 kB in well under a second of processor time; a quadratic rule would need minutes."""
    text = "answer" + unit * (HUGE // len(unit)) + " x"
    start = time.process_time()
    score_answer(reply(text, reference, question="Is there an effusion on the left?"))
    assert time.process_time() - start < 1.0


def test_a_hundred_thousand_characters_without_recursion():
    deep = "(" * HUGE + "\\boxed{" * 1000 + "{" * HUGE
    assert sys.getrecursionlimit() < HUGE
    assert score_answer(reply(deep, "Yes")).scores["accuracy"] == 0.0
