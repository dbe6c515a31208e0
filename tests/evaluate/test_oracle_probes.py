"""The probe strings that every scorer should survive, on the real gold answers of SLAKE validation, English."""

import json
import time
from collections import Counter
from pathlib import Path

import pytest

from radvqa.evaluate.metrics import METRICS, score_answer
from radvqa.sample import Prediction

SLAKE = Path(__file__).resolve().parents[3] / "shared" / "data" / "slake" / "Slake1.0" / "validate.json"

pytestmark = pytest.mark.skipif(not SLAKE.is_file(), reason="the SLAKE data set is not on this machine")


@pytest.fixture(scope="module")
def gold():
    rows = json.loads(SLAKE.read_text(encoding="utf-8"))
    predictions = [
        Prediction(
            sample_id=str(row["qid"]),
            group_id=str(row["img_id"]),
            image_id=row["img_name"],
            question=row["question"],
            references=(str(row["answer"]).strip(),),
            answer_type=row["answer_type"].strip().lower(),
            text=str(row["answer"]).strip(),
            prompt_id="probe",
            finished=True,
            token_ids=(),
            logprob=None,
        )
        for row in rows
        if row["q_lang"] == "en"
    ]
    assert Counter(one.answer_type for one in predictions) == {"closed": 422, "open": 631}
    return predictions


def scored(gold, make):
    from dataclasses import replace

    return [(one, score_answer(replace(one, text=make(one)))) for one in gold]


def share(rows, metric="accuracy", answer_type=None):
    values = [found.scores[metric] for one, found in rows if answer_type in (None, one.answer_type)]
    return 100 * sum(values) / len(values)


def states(rows):
    return Counter(found.state for _, found in rows)


PERFECT = {
    "P1": lambda one: one.text,
    "P2": lambda one: one.text + ".",
    "P2 lower": lambda one: one.text.lower() + ".",
    "P3": lambda one: f"The answer is {one.text}.",
    "P4": lambda one: f"<think>It could be yes or no.</think><answer>{one.text}</answer>",
    "P4 unclosed": lambda one: f"<think>It could be yes or no.</think><answer>{one.text}",
}


@pytest.mark.parametrize("probe", PERFECT)
def test_the_gold_answer_is_right_however_it_is_wrapped(gold, probe):
    rows = scored(gold, PERFECT[probe])
    assert [found for _, found in rows if found.scores["accuracy"] != 1.0] == []
    assert states(rows) == {"answered": 1053}
    # The extracted answer is the gold answer, so the text metrics are perfect, too; exact match reads the raw text.
    for metric in set(METRICS) - {"exact_match", "accuracy"}:
        assert share(rows, metric) == pytest.approx(100)
    assert share(rows, "exact_match") == (100 if probe[:2] in ("P1", "P2") else 0)


def test_p5_repetition_never_helps(gold):
    rows = scored(gold, lambda one: " ".join([one.text] * 5))
    assert all("degenerate" in found.flags for _, found in rows)
    for one, found in rows:
        if one.text not in ("Yes", "No"):
            assert found.scores["accuracy"] == 0.0
        if len(one.text.split()) == 1:
            assert found.scores["token_f1"] == pytest.approx(1 / 3)
    assert share(rows, "token_f1") == pytest.approx(100 / 3, abs=0.1)


@pytest.mark.parametrize(
    ("text", "state"),
    [("yes or no", "ambiguous"), ("I am not sure.", "unsure"), ("", "empty"), ("  \n ", "empty")],
)
def test_p6_to_p8_score_nothing_and_are_counted(gold, text, state):
    rows = scored(gold, lambda one: text)
    assert states(rows) == {state: 1053}
    assert all(share(rows, metric) == 0.0 for metric in METRICS)


def test_p9_flipped(gold):
    flipped = {"Yes": "No, it appears normal.", "No": "Yes, it is abnormal."}
    rows = scored(gold, lambda one: flipped.get(one.text, "unknown"))
    assert share(rows) == 0.0
    assert states(rows) == {"answered": 358, "unsure": 695}
    read = Counter((one.text, found.verdict) for one, found in rows if one.text in flipped)
    assert read == {("Yes", "no"): 182, ("No", "yes"): 176}


@pytest.mark.parametrize(("answer", "right"), [("Yes", 182), ("No", 176)])
def test_p10_a_constant_gets_its_share(gold, answer, right):
    rows = scored(gold, lambda one: answer)
    assert share(rows, answer_type="closed") == pytest.approx(100 * right / 422)
    assert share(rows, answer_type="open") == 0.0


@pytest.mark.parametrize(
    "trap",
    ["It is not known.", "normal", "not", "know", "note", "diagnosis", "nodule", "Note the nodule; the diagnosis."],
)
def test_p11_letters_within_words_are_never_a_no(gold, trap):
    for one, found in scored(gold, lambda one: trap):
        if one.text not in ("Yes", "No"):
            assert found.verdict is None
        elif found.verdict is not None:
            # "normal" does answer "Is the lung abnormal?", by what it says and not by its letters.
            assert trap == "normal", (one.question, found)
            assert found.rule in ("denied", "asserted")


def test_p12_an_echo_of_the_question_is_no_answer(gold):
    rows = scored(gold, lambda one: one.question)
    assert states(rows) == {"echo": 1053}
    assert share(rows) == 0.0


def test_speed(gold):
    """1,053 answers that were never seen in well under a second."""
    start = time.process_time()
    scored(gold, lambda one: f"The image shows {one.text}, a thing.")
    assert time.process_time() - start < 1.5
