"""MultiMedEval, MedVInT, token F1 and inspect_evals on hand-made answers."""

import difflib
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from radvqa.evaluate.protocols import PROTOCOLS
from radvqa.evaluate.protocols.medvint import Labels
from radvqa.sample import Prediction

OURS = ("medevalkit_slake", "medevalkit_vqa_rad", "multimedeval", "medvint", "medgemma_token_f1", "inspect_evals")


def said(text: str, gold: str, answer_type: str = "open") -> Prediction:
    return Prediction(
        sample_id="1",
        group_id="1",
        image_id="1",
        question="?",
        references=(gold,),
        answer_type=answer_type,
        text=text,
        prompt_id="",
        finished=True,
        token_ids=(),
        logprob=None,
    )


def value(protocol: str, metric: str, *rows: Prediction) -> float | None:
    return PROTOCOLS[protocol].score(rows)[metric].value


def test_multimedeval_by_hand() -> None:
    assert value("multimedeval", "closed_accuracy", said("I am not sure", "No", "open")) == 100
    assert value("multimedeval", "closed_accuracy", said("I know", "No", "open")) == 0
    assert value("multimedeval", "closed_accuracy", said("yes or no", "Yes"), said("yes or no", "no")) == 100
    assert value("multimedeval", "open_accuracy", said("right upper lobe", "the right upper lung lobe")) == 100
    assert value("multimedeval", "open_accuracy", said("right lobe", "right upper lobe")) == 0
    assert value("multimedeval", "open_recall", said("right lobe", "right upper lobe")) == pytest.approx(200 / 3)
    # Distinct words 1 of 1 and 1 of 2; with repetition 1 of 3 words are right.
    row = said("lung lung lung", "left lung")
    assert value("multimedeval", "f1", row) == pytest.approx(200 / 3, abs=1e-5)
    assert value("multimedeval", "bleu_1", row) == pytest.approx(100 / 3)
    assert value("multimedeval", "bleu_1", said("lung", "left lung")) == pytest.approx(100 * 2.718281828**-1)
    assert value("multimedeval", "recall", said("", "")) == 0


def test_token_f1_by_hand() -> None:
    assert value("medgemma_token_f1", "token_f1", said("the Left lung, left", "left lung")) == pytest.approx(80)
    assert value("medgemma_token_f1", "token_f1", said("", "the")) == 100
    assert value("medgemma_token_f1", "closed_accuracy", said("Perhaps no, yes", "No.", "open")) == 100
    assert value("medgemma_token_f1", "closed_accuracy", said("normal", "no", "closed")) == 0
    assert value("medgemma_token_f1", "open_recall", said("lung", "left lung")) == 50
    assert value("medgemma_token_f1", "open_recall", said("lung", "left lung", "closed")) is None


@pytest.mark.parametrize(
    ("text", "hit"),
    [
        ("ANSWER: yes", 1),
        ("I think so.\nanswer :  YES \n\n", 1),
        ("ANSWER:\nyes", 1),
        ("ANSWER: yes.", 0),
        ("yes", 0),
        ("ANSWER: yes\nas I said", 0),
        ("ANSWER: no\nANSWER: yes", 1),
        ("ANSWER: no, ANSWER: yes", 0),
        ("ANSWER:  ", 0),
        ("", 0),
    ],
)
def test_inspect_evals_reads_the_last_line(text: str, hit: int) -> None:
    assert PROTOCOLS["inspect_evals"].score([said(text, "Yes"), said(text, "lung")])["closed_accuracy"].items == (
        hit,
        None,
    )


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="answer: \n.\tANSWER:yes\r\x0b"))
@example("answer: \x1c\n")
def test_inspect_evals_equals_its_pattern(text: str) -> None:
    match = re.search(r"ANSWER\s*:\s*([^\n]+)\s*\Z", text, re.IGNORECASE)
    for gold in ("yes", "no"):
        wanted = match is not None and match[1].strip().lower() == gold
        assert PROTOCOLS["inspect_evals"].score([said(text, gold)])["closed_accuracy"].items == (wanted,)


LABELS = st.lists(st.text(alphabet="abc LR.", max_size=12), min_size=1, max_size=12)


@settings(max_examples=300, deadline=None)
@given(LABELS, st.text(alphabet="abc LR.x", max_size=14) | st.text(alphabet="abc", min_size=200, max_size=230))
@example(["ab", "ba"], "")
@example(["Yes", "yes"], "YES")
def test_nearest_label_equals_trying_all_of_them(labels: list[str], text: str) -> None:
    best, highest = None, 0.0
    for label in sorted(set(labels)):
        ratio = difflib.SequenceMatcher(None, label, text).ratio()
        if ratio > highest:
            best, highest = label, ratio
    known = Labels(labels)
    assert [label for label in sorted(set(labels)) if known.is_nearest(label, text)] == (
        [best] if best is not None else []
    )


def test_medvint_takes_its_labels_from_the_questions_of_the_same_type() -> None:
    # "Lun" is nearest to "Lung", but among closed labels only "Yes" is there, which shares no letter.
    rows = [said("Lun", "Lung"), said("Lun", "Yes", "closed"), said("liver", "Liver")]
    found = PROTOCOLS["medvint"].score(rows)
    assert found["open_accuracy"].items == (1, None, 1)
    assert found["closed_accuracy"].items == (None, 0, None)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.text(), st.text(), st.sampled_from(["open", "closed"])), max_size=4))
def test_no_text_crashes_them(texts: list[tuple[str, str, str]]) -> None:
    predictions = [said(*row) for row in texts]
    for name in OURS:
        for metric in PROTOCOLS[name].score(predictions).values():
            assert len(metric.items) == len(predictions)
            assert metric.value is None or 0 <= metric.value <= 100 + 1e-6


@pytest.mark.parametrize("name", OURS)
def test_cards_are_complete(name: str) -> None:
    protocol = PROTOCOLS[name]
    found = protocol.score([said("yes", "yes", "closed"), said("lung", "lung")])
    assert set(protocol.headline) <= set(found)
    assert protocol.name == name
    assert protocol.closed and protocol.open and protocol.source
    assert all(defect.endswith(".") for defect in protocol.defects)
    assert len(protocol.defects) >= 3
