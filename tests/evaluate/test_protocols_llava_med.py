"""LLaVA-Med's scores by hand."""

import math
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radvqa.evaluate.protocols import PROTOCOLS
from radvqa.sample import Prediction


def said(text: str, gold: str, answer_type: str = "open") -> Prediction:
    return Prediction(
        sample_id="s",
        group_id="g",
        image_id="i",
        question="?",
        references=(gold, "never looked at"),
        answer_type=answer_type,
        text=text,
        prompt_id="p",
        finished=True,
        token_ids=(),
        logprob=None,
    )


def opened(text: str, gold: str, protocol: str = "llava_med_run_eval") -> dict[str, float | None]:
    return {
        name.removeprefix("open_"): metric.value
        for name, metric in PROTOCOLS[protocol].score([said(text, gold)]).items()
        if name.startswith("open_")
    }


@pytest.mark.parametrize(
    ("text", "gold", "run_eval", "pre_fix", "batch"),
    [
        ("Yes", "Yes", 1, 1, 1),
        ("No", "Yes", 0, None, 0),
        ("Yes or no", "No", 1, 1, 1),
        ("It is normal", "No", 1, 1, 1),
        ("It is normal", "Yes", 0, None, 0),
        ("I am not sure.", "No", 1, 1, 1),
        ("unclear", "No", 0, 0, 0),
        ("Lung", "Lung", 0, 0, 1),
        ("The lung, not the liver", "Lung", 1, 1, 1),
        ("", "No", 0, 0, 0),
        ("None", "No", 0, 0, 0),
        ("liver", "the", 0, 0, 1),
    ],
)
def test_closed_rules(text: str, gold: str, run_eval: int, pre_fix: int | None, batch: int) -> None:
    answers = [said(text, gold, "closed"), said("lung", "lung")]
    for name, hit in (("run_eval", run_eval), ("pre_fix", pre_fix), ("batch", batch)):
        assert PROTOCOLS[f"llava_med_{name}"].score(answers)["closed_accuracy"].items == (hit, None), name


def test_before_the_fix_a_wrong_verdict_leaves_the_denominator() -> None:
    answers = [said("No", "Yes", "closed"), said("Yes", "Yes", "closed"), said("unclear", "Yes", "closed")]
    closed = PROTOCOLS["llava_med_pre_fix"].score(answers)["closed_accuracy"]
    assert (closed.value, closed.counted) == (50, 2)
    assert PROTOCOLS["llava_med_run_eval"].score(answers)["closed_accuracy"].value == pytest.approx(100 / 3)
    # The program prints 0 where all closed answers were left out; without closed questions there is nothing to print.
    assert PROTOCOLS["llava_med_pre_fix"].score(answers[:1])["closed_accuracy"].value == 0
    assert PROTOCOLS["llava_med_pre_fix"].score([said("a", "b")])["closed_accuracy"].value is None


def test_words_count_as_often_as_the_prediction_has_them() -> None:
    scores = opened("lung lung lung lung lung", "Lung")
    assert (scores["recall"], scores["precision"], scores["f1"]) == (100, 100, 100)
    assert scores["exact_match"] == 20
    scores = opened("left left lung heart", "left lung lobe lobe")
    assert scores["recall"] == pytest.approx(100 * 3 / 5)
    assert scores["precision"] == pytest.approx(100 * 3 / 4)
    assert scores["f1"] == pytest.approx(100 * 2 * 0.6 * 0.75 / 1.35)
    assert scores["exact_match"] == pytest.approx(100 * 2 / 4)


def test_a_gold_with_a_repeated_word_is_no_exact_match_of_itself() -> None:
    assert opened("left lung, left heart", "Left Lung, Left Heart")["exact_match"] == 75


@pytest.mark.parametrize(("text", "gold"), [("", "lung"), ("lung", "The"), ("heart", "lung"), ("", "")])
def test_nothing_shared_is_nothing(text: str, gold: str) -> None:
    assert set(opened(text, gold).values()) == {0}


def test_bleu_without_smoothing() -> None:
    tiny = sys.float_info.min
    one = opened("lung", "lung")
    assert one["bleu_1"] == 100
    assert one["bleu"] == pytest.approx(100 * tiny**0.75)
    assert one["bleu"] < 1e-228
    assert one["bleu_2"] == pytest.approx(100 * tiny)
    four = opened("left upper lung lobe", "left upper lung lobe")
    assert [four[name] for name in ("bleu", "bleu_1", "bleu_2", "bleu_3")] == pytest.approx([100] * 4)
    short = opened("upper lung", "left upper lung lobe")
    assert short["bleu_1"] == pytest.approx(100 * math.exp(1 - 4 / 2))
    assert short["bleu_2"] == pytest.approx(100 * math.exp(1 - 4 / 2))
    clipped = opened("lung lung lung", "left lung")
    assert clipped["bleu_1"] == pytest.approx(100 / 3)


WORDS = st.lists(st.sampled_from(["left", "lung", "lobe", "upper"]), min_size=1, max_size=9)


@settings(deadline=None, max_examples=100)
@given(WORDS, WORDS)
def test_bleu_is_the_weighted_mean_of_clipped_precisions(answer: list[str], gold: list[str]) -> None:
    logs = []
    for order in (1, 2, 3, 4):
        grams, known = (
            Counter(" ".join(words[i : i + order]) for i in range(len(words) - order + 1)) for words in (answer, gold)
        )
        matches = sum((grams & known).values())
        logs.append(math.log(matches / sum(grams.values())) if matches else math.log(sys.float_info.min))
    brevity = math.exp(min(0, 1 - len(gold) / len(answer)))
    scores = opened(" ".join(answer), " ".join(gold))
    if set(answer) & set(gold):
        assert scores["bleu"] == pytest.approx(100 * brevity * math.exp(sum(logs) / 4))
        assert scores["bleu_1"] == pytest.approx(100 * brevity * math.exp(logs[0]))
        assert scores["bleu_3"] == pytest.approx(100 * brevity * math.exp(logs[2]))


def test_open_scores_normalise_twice_and_bleu_once() -> None:
    # A period before the 34th stays the first time and goes the second time.
    text = ". " * 33 + "lung."
    assert opened(text, "lung")["recall"] == 100
    assert opened(text, "lung")["bleu_1"] == 0


def test_batch_adds_an_open_hit_and_a_closed_recall() -> None:
    scored = PROTOCOLS["llava_med_batch"].score(
        [
            said("in the left lung", "Left Lung"),
            said("left", "left lung"),
            said("No pleural fluid", "No fluid", "closed"),
        ]
    )
    assert scored["open_accuracy"].items == (1.0, 0.0, None)
    assert scored["closed_recall"].items == (None, None, 1.0)
    assert scored["closed_accuracy"].items == (None, None, 0.0)
