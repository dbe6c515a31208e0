"""MedEvalKit's rules on hand-made answers and on the gold answers of SLAKE."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radvqa.evaluate.protocols import PROTOCOLS
from radvqa.sample import Prediction

SLAKE, VQA_RAD = PROTOCOLS["medevalkit_slake"], PROTOCOLS["medevalkit_vqa_rad"]
REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "slake" / "Slake1.0" / "validate.json"


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


def open_value(metric: str, text: str, gold: str) -> float | None:
    return SLAKE.score([said(text, gold)])[metric].value


@pytest.mark.parametrize(
    ("text", "gold", "hit"),
    [
        ("Yes", "Yes", 1),
        ("yes.\n", "Yes", 1),
        ("Yes, it is", "Yes", 0),
        ("Yes, it is", "yes", 1),  # only golds in lower case get the looser rule
        ("It is normal", "no", 1),
        ("I know it", "no", 1),
        ("yes or no", "no", 0),
        ("The answer is Yes.", "Yes", 0),  # the blank after the marker stays
        ("The answer is:Yes.", "Yes", 0),
        ("Answer:Yes.", "Yes", 1),
        ("a \\boxed{T1} b \\boxed{ {T2} }", "{T2}", 1),
        ("\\boxed{T2", "T2", 0),
        ("<answer>left</answer> x <answer>lung</answer>", "left lung", 1),
        ("<answer>lung", "<answer>lung", 1),
        ("**answer**answer**", "answer**", 1),  # markers are split off from the left
        ("No boxed region", "none", 0),  # the word boxed alone leaves "None", with a capital
    ],
)
def test_closed_rule_of_slake(text: str, gold: str, hit: int) -> None:
    metric = SLAKE.score([said(text, gold, "closed"), said("a", "a")])["closed_accuracy"]
    assert metric.items == (hit, None)
    assert metric.value == 100 * hit


def test_vqa_rad_calls_closed_what_has_a_yes_or_no_gold() -> None:
    rows = [said("Normal.", "No", "open"), said("lung.", "Lung ", "closed"), said(" LUNG ", "Lung", "closed")]
    found = VQA_RAD.score(rows)
    assert found["closed_accuracy"].items == (1, None, None)
    assert found["open_em"].items == (None, 0, 1)
    assert found["overall_accuracy"].items == (1, 0, 1)
    assert found["overall_accuracy"].value == pytest.approx(200 / 3)


def test_the_columns_of_f1_precision_and_recall_are_swapped() -> None:
    # Set precision 2/4, recall 2/3, F1 4/7.
    text, gold = "left lung is white", "left upper lung"
    assert open_value("open_f1", text, gold) == pytest.approx(100 * 2 / 3)
    assert open_value("open_recall", text, gold) == pytest.approx(100 * 2 / 4)
    assert open_value("open_precision", text, gold) == pytest.approx(100 * 4 / 7)


def test_bleu_and_rouge_by_hand() -> None:
    text, gold = "the left lung.", "left lung"
    # Words "the left lung .": 2 of 4 match, 1 of 3 pairs.
    assert open_value("open_bleu_1", text, gold) == pytest.approx(50)
    assert open_value("open_bleu_2", text, gold) == pytest.approx(100 * math.sqrt(1 / 2 * 1 / 3))
    assert 0 < open_value("open_bleu_3", text, gold) < 1e-90
    assert open_value("open_bleu_1", "left", gold) == pytest.approx(100 * math.exp(-1))
    assert open_value("open_rouge_1", text, gold) == pytest.approx(80)
    assert open_value("open_rouge_2", text, gold) == pytest.approx(200 / 3)
    assert open_value("open_rouge_1", "ct ct ct", "ct") == pytest.approx(100)
    # Of the common subsequences of "b a" and "a b" one has "b" alone: 1 word of 2 on each side.
    assert open_value("open_rouge_l", "a b", "b a") == pytest.approx(50)
    # "a a" is met before "a b", which is as long: 1 distinct word of 2.
    assert open_value("open_rouge_l", "a a b", "a b a") == pytest.approx(50)
    assert open_value("open_rouge_l", "a b a", "a a b") == pytest.approx(100)
    # Sentences add their words up: "left" from the first, "lung" from the second.
    assert open_value("open_rouge_l", "left. lung", gold) == pytest.approx(100)


@pytest.mark.parametrize("text", ["", "  ", ".", "...", "<answer> </answer>", "answer:"])
def test_an_empty_open_answer_ends_the_peers_program(text: str) -> None:
    crashes = text != "<answer> </answer>"  # here the tags themselves are what is left
    found = SLAKE.score([said(text, "lung"), said("lung", "lung"), said("", "Yes", "closed")])
    for name in ("open_em", "open_bleu_4", "overall_accuracy", "open_acc"):
        assert found[name].crashed == crashes
        assert (found[name].value is None) == crashes
        assert found[name].items[1] == 1 or name == "open_bleu_4"
    assert found["closed_accuracy"].value == 0
    assert found["closed_accuracy"].crashed == 0


def test_open_acc_is_divided_twice() -> None:
    found = SLAKE.score([said("a", "a"), said("b", "b"), said("c", "d"), said("e", "e")])
    assert found["open_acc"].value == pytest.approx(75 / 4)


@settings(max_examples=200, deadline=None)
@given(
    st.text() | st.text(alphabet="ab .\n<>/{}\\boxedanswer:is"),
    st.text(min_size=1),
    st.sampled_from(["open", "closed"]),
)
def test_no_text_crashes_it(text: str, gold: str, answer_type: str) -> None:
    for protocol in (SLAKE, VQA_RAD):
        for metric in protocol.score([said(text, gold, answer_type)]).values():
            assert all(item is None or 0 <= item <= 1 + 1e-9 for item in metric.items)
        assert protocol.score([])["closed_accuracy"].value is None


@pytest.mark.skipif(not REAL.is_file(), reason="the published data are not beside the checkout")
def test_values_on_slake_beyond_the_shared_table() -> None:
    golds = [row["answer"] for row in json.loads(REAL.read_text()) if row["q_lang"] == "en"]
    types = [row["answer_type"] for row in json.loads(REAL.read_text()) if row["q_lang"] == "en"]
    perfect = SLAKE.score([said(gold, gold, kind.lower()) for gold, kind in zip(golds, types, strict=True)])
    assert perfect["open_em"].counted == 631
    assert perfect["overall_accuracy"].value == 100
    assert perfect["open_acc"].value == pytest.approx(100 / 631)
    assert round(perfect["open_bleu_4"].value, 2) == 8.40
