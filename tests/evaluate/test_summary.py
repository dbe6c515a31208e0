import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radvqa.errors import DataError
from radvqa.evaluate.comparison import compare_conditions
from radvqa.evaluate.metrics import METRICS
from radvqa.evaluate.statistics import cluster_interval
from radvqa.evaluate.summary import NOT_STATED, summarise
from radvqa.sample import Prediction


def answered(number, text, reference, *, answer_type="closed", group="a", finished=True, **tags):
    return Prediction(
        sample_id=f"s{number}",
        group_id=group,
        image_id=group,
        question="?",
        references=(reference,),
        answer_type=answer_type,
        text=text,
        prompt_id="p",
        finished=finished,
        token_ids=(5, 1),
        logprob=-1.0,
        tags=tags,
    )


PREDICTIONS = [
    answered(0, "Yes", "yes", group="a", modality="CT"),
    answered(1, "no", "Yes", group="a", modality="CT"),
    answered(2, "left lung", "lung", answer_type="open", group="b", modality="MRI"),
    answered(3, "", "lung", answer_type="open", group="b"),
    answered(4, " . ", "No", group="c", finished=False, modality="CT"),
    answered(5, "No", "No", group="c", modality="MRI"),
]


def means(part, *names):
    return {name: estimate["mean"] for name, estimate in part["metrics"].items() if name in (names or METRICS)}


def test_hand_computed_summary():
    summary = summarise(PREDICTIONS)
    overall = summary["overall"]
    assert (overall["samples"], overall["groups"], overall["empty"], overall["unfinished"]) == (6, 3, 2, 1)
    assert overall["states"] == {"answered": 4, "empty": 2}
    assert means(overall, "accuracy", "exact_match", "token_f1") == pytest.approx(
        {"accuracy": 2 / 6, "exact_match": 2 / 6, "token_f1": (1 + 2 / 3 + 1) / 6}
    )
    by_type = summary["by_answer_type"]
    assert list(by_type) == ["closed", "open"]
    assert (by_type["closed"]["samples"], by_type["closed"]["groups"]) == (4, 2)
    assert means(by_type["closed"], "accuracy", "token_f1") == {"accuracy": 0.5, "token_f1": 0.5}
    assert means(by_type["open"], "accuracy", "token_f1") == pytest.approx({"accuracy": 0.0, "token_f1": 1 / 3})
    assert by_type["open"]["states"] == {"answered": 1, "empty": 1}
    # One group: a mean, but no limits.
    assert by_type["open"]["metrics"]["token_f1"]["low"] is None
    assert by_type["open"]["metrics"]["token_f1"]["high"] is None


def test_limits_are_clustered_by_group():
    predictions = [answered(n, "yes" if n // 10 % 3 else "no", "yes", group=f"image{n // 10}") for n in range(300)]
    scores = [float(n // 10 % 3 > 0) for n in range(300)]
    expected = cluster_interval(scores, [p.group_id for p in predictions])
    estimate = summarise(predictions)["overall"]["metrics"]["exact_match"]
    assert [estimate["mean"], estimate["low"], estimate["high"]] == pytest.approx(list(expected[:3]))
    # 30 images: 1/3 of them wrong throughout; 2.045 standard errors of 30 independent answers, not of 300.
    assert estimate["high"] - estimate["mean"] == pytest.approx(2.045 * (2 / 9 / 29) ** 0.5, rel=1e-3)


def test_every_state_is_counted_and_scores_nothing():
    predictions = [
        answered(0, "", "yes"),
        replace(answered(1, "", "yes"), missing=True),
        answered(2, "yes or no", "yes"),
        answered(3, "I am not sure.", "yes"),
        answered(4, "yes", "yes", group="b"),
    ]
    overall = summarise(predictions)["overall"]
    assert overall["states"] == {"answered": 1, "missing": 1, "empty": 1, "unsure": 1, "ambiguous": 1}
    assert overall["empty"] == 2
    assert means(overall) == dict.fromkeys(METRICS, 1 / 5)


def test_slices_by_tag_keep_every_sample():
    by_tag = summarise(PREDICTIONS)["by_tag"]
    assert list(by_tag) == ["modality"]  # nobody has a content type
    assert {name: part["samples"] for name, part in by_tag["modality"].items()} == {NOT_STATED: 1, "CT": 3, "MRI": 2}
    assert by_tag["modality"]["CT"]["unfinished"] == 1
    assert by_tag["modality"][NOT_STATED]["empty"] == 1
    assert summarise(PREDICTIONS, slices=())["by_tag"] == {}


def test_summary_and_comparison_are_strict_json():
    summary = summarise(PREDICTIONS)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    comparison = compare_conditions({"model": PREDICTIONS, "same": PREDICTIONS}, reference="model")
    assert json.loads(json.dumps(comparison, allow_nan=False)) == comparison


def test_hand_computed_comparison():
    # Model minus blank: 0 and -1 in group a, 0 and 0 in b, 0 and 1 in c.
    other = [
        PREDICTIONS[0],
        replace(PREDICTIONS[1], text="yes"),
        *PREDICTIONS[2:5],
        replace(PREDICTIONS[5], text="maybe"),
    ]
    sets = {"blank": other[::-1], "model": PREDICTIONS}
    comparison = compare_conditions(sets, reference="model", level=0.9)["blank"]
    assert (comparison["reference"], comparison["condition"]) == ("model", "blank")
    assert (comparison["samples"], comparison["groups"]) == (6, 3)
    estimate = comparison["overall"]["exact_match"]
    assert estimate["mean"] == 0.0
    # Residual sums -1, 0, 1: standard error sqrt(3/2 * 2) / 6, t(0.95, 2) = 0.9 sqrt(2 / 0.19).
    assert estimate["high"] == pytest.approx(0.9 * (2 / 0.19 * 3) ** 0.5 / 6)
    assert comparison["by_answer_type"]["open"]["exact_match"]["mean"] == 0.0
    assert comparison["by_answer_type"]["open"]["exact_match"]["low"] is None


def test_a_better_reference_has_a_positive_difference():
    predictions = [answered(n, "yes", "yes", group=f"g{n}") for n in range(6)]
    worse = [replace(p, text="no") if n < 2 else p for n, p in enumerate(predictions)]
    comparisons = compare_conditions({"model": predictions, "blank": worse, "itself": predictions}, reference="model")
    assert list(comparisons) == ["blank", "itself"]
    assert comparisons["blank"]["overall"]["exact_match"]["mean"] == pytest.approx(1 / 3)
    # Six groups that agree leave room for 1 - 0.025^(1/6) of all groups to differ.
    room = pytest.approx(1 - 0.025 ** (1 / 6))
    found = comparisons["itself"]["overall"]["exact_match"]
    assert (found["mean"], -found["low"], found["high"]) == (0.0, room, room)


def test_conditions_are_paired_by_sample_not_by_row():
    rotated = [*PREDICTIONS[1:], PREDICTIONS[0]]
    comparison = compare_conditions({"model": PREDICTIONS, "rotated": rotated}, reference="model")["rotated"]
    for estimate in comparison["overall"].values():
        assert (estimate["mean"], estimate["low"]) == (0.0, -estimate["high"])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (PREDICTIONS[1:], r"1 missing \['s0'\]"),
        ([*PREDICTIONS, answered(9, "a", "b")], r"1 others \['s9'\]"),
        ([*PREDICTIONS, PREDICTIONS[0]], "more than once"),
        ([], "no predictions"),
        ([replace(PREDICTIONS[0], references=("maybe",)), *PREDICTIONS[1:]], "different reference answers"),
    ],
)
def test_other_samples_cannot_be_compared(other, message):
    with pytest.raises(DataError, match=message) as error:
        compare_conditions({"model": PREDICTIONS, "blank": other}, reference="model")
    assert "'blank'" in str(error.value)


def test_unknown_reference_and_no_or_double_predictions_are_errors():
    with pytest.raises(DataError, match="'model'"):
        compare_conditions({"blank": PREDICTIONS}, reference="model")
    with pytest.raises(DataError, match="no predictions"):
        summarise([])
    with pytest.raises(DataError, match="more than once"):
        summarise([*PREDICTIONS, PREDICTIONS[2]])


@settings(deadline=None, max_examples=30)
@given(st.permutations(PREDICTIONS))
def test_order_of_samples_does_not_matter(shuffled):
    def numbers(summary):
        return {
            (kind, name, metric): estimate["high"] or -1.0
            for kind, parts in {"type": summary["by_answer_type"], **summary["by_tag"]}.items()
            for name, part in parts.items()
            for metric, estimate in part["metrics"].items()
        }

    assert numbers(summarise(shuffled)) == pytest.approx(numbers(summarise(PREDICTIONS)), abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(["Yes", "Liver, Kidney", "3.5"]), st.integers(0, 4)), min_size=1))
def test_perfect_predictions_score_one(rows):
    summary = summarise([answered(n, text, text, group=f"g{group}") for n, (text, group) in enumerate(rows)])
    assert means(summary["overall"]) == dict.fromkeys(METRICS, 1.0)
    assert summary["overall"]["empty"] == 0
