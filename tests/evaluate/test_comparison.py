import math
import random
from dataclasses import replace

import pytest

from radvqa.errors import DataError
from radvqa.evaluate.comparison import compare_conditions
from radvqa.evaluate.model_comparison import compare_models
from radvqa.evaluate.multiplicity import holm
from radvqa.evaluate.paired import mcnemar, paired_t, sign_flip_test
from radvqa.sample import Prediction

WORDS = ("Liver", "Lung", "Brain", "Heart")
FEW = 400  # draws, for tests that do not look at them


def answers(name, share, *, images=60, each=4, closed_gain=0.0):
    """Answers of which about this share is right; closed questions more often by the gain."""
    choose = random.Random(name)
    found = []
    for image in range(images):
        for number in range(each):
            closed = number % 2 == 0
            gold = ("Yes", "No")[image % 2] if closed else WORDS[image % 4]
            wrong = {"Yes": "No", "No": "Yes"}.get(gold, "Spine")
            right = choose.random() < share + (closed_gain if closed else 0.0)
            found.append(
                Prediction(
                    sample_id=f"q{image}-{number}", group_id=f"g{image}", image_id=f"i{image}",
                    question=f"Is it there {number}?" if closed else f"What is it {number}?", references=(gold,),
                    answer_type="closed" if closed else "open", text=gold if right else wrong, prompt_id="p",
                    finished=True, token_ids=(), logprob=None, tags={"modality": ("CT", "MRI")[image % 2]},
                )
            )  # fmt: skip
    return found


A, B = answers("a", 0.5), answers("b", 0.8)


def compare(others=None, **options):
    sets = {"a": A, **(others or {"b": B})}
    return compare_models(sets, reference="a", **{"resamples": FEW, **options})


def right(predictions):
    return [float(one.text == one.references[0]) for one in predictions]


def test_the_numbers_are_those_of_the_single_tests():
    one = compare()["models"]["b"]["parts"]["all"]
    groups = [prediction.group_id for prediction in A]
    test = paired_t(right(B), right(A), groups)
    assert (one["samples"], one["groups"]) == (240, 60)
    assert one["difference"] == pytest.approx(one["model"] - one["reference"]) == pytest.approx(test.difference)
    assert (one["clustered_t"]["low"], one["clustered_t"]["high"]) == pytest.approx((test.low, test.high))
    counts = mcnemar(right(A), right(B))
    assert one["mcnemar"] == {
        "only_reference": counts.only_a, "only_model": counts.only_b, "exact": counts.exact, "mid_p": counts.mid_p,
    }  # fmt: skip
    assert one["p_t"] == pytest.approx(test.p)
    assert one["p_randomisation"] == sign_flip_test(right(B), right(A), groups, draws=FEW, seed=17)
    assert one["p"] == max(one["p_t"], one["p_randomisation"]) == one["adjusted_p"]
    assert one["bootstrap"]["low"] == pytest.approx(test.low, abs=0.02)
    assert 0 < one["detectable"] < 0.2
    assert one["verdict"] == "better"


def test_the_difference_is_model_minus_reference():
    found = compare_models({"a": A, "b": B}, reference="b", resamples=FEW)["models"]["a"]["parts"]["all"]
    assert found["difference"] == -compare()["models"]["b"]["parts"]["all"]["difference"]
    assert found["verdict"] == "worse"


def test_parts_and_slices_split_the_questions():
    model = compare()["models"]["b"]
    assert set(model["parts"]) == {"all", "closed", "open"}
    assert model["parts"]["closed"]["samples"] + model["parts"]["open"]["samples"] == 240
    assert {value: one["samples"] for value, one in model["slices"]["modality"].items()} == {"CT": 120, "MRI": 120}
    rows = [row for row, one in enumerate(A) if one.tags["modality"] == "CT"]
    ours, theirs = right(A), right(B)
    difference = sum(theirs[row] - ours[row] for row in rows) / len(rows)
    assert model["slices"]["modality"]["CT"]["difference"] == pytest.approx(difference)
    assert model["slices"]["modality"]["CT"]["adjusted_p"] >= model["slices"]["modality"]["CT"]["p"]
    assert "organ" not in model["slices"]


def test_p_is_adjusted_over_the_models():
    found = compare({name: answers(name, share) for name, share in (("b", 0.6), ("c", 0.62), ("d", 0.5))})["models"]
    for part in ("all", "closed", "open"):
        raw = [model["parts"][part]["p"] for model in found.values()]
        assert [model["parts"][part]["adjusted_p"] for model in found.values()] == holm(raw)
        assert raw != holm(raw)


def test_order_of_the_rows_does_not_matter():
    shuffled = random.Random(1).sample(B, len(B))
    assert compare({"b": shuffled}) == compare({"b": B})


def test_no_difference_is_no_proof_of_sameness():
    few = compare({"b": [replace(one) for one in A]})["models"]["b"]["parts"]["all"]
    assert (few["difference"], few["p"], few["detectable"]) == (0.0, 1.0, None)
    assert few["verdict"] == "unclear"  # 60 groups without a difference leave room for 5 %
    many = answers("a", 0.5, images=200, each=1)
    same = compare_models({"a": many, "b": many}, reference="a", resamples=FEW)["models"]["b"]
    assert same["parts"]["all"]["verdict"] == "same"
    assert same["other_texts"] == 0


def test_the_margin_decides_on_sameness():
    ours = answers("a", 0.5, images=300)
    theirs = [replace(one, text="wrong") if number % 100 == 0 else one for number, one in enumerate(ours)]
    options = {"reference": "a", "resamples": FEW}
    wide, narrow = (
        compare_models({"a": ours, "b": theirs}, margin=margin, **options)["models"]["b"]["parts"]["all"]
        for margin in (0.05, 0.0001)
    )
    assert wide["equivalence"]["equivalent"]
    assert not narrow["equivalence"]["equivalent"]


def test_other_metrics_have_no_mcnemar():
    assert compare(metric="token_f1")["models"]["b"]["parts"]["all"]["mcnemar"] is None
    with pytest.raises(ValueError, match="no metric"):
        compare(metric="beauty")


def test_one_group_can_not_be_tested():
    ours, theirs = ([replace(one, group_id="g") for one in members] for members in (A, B))
    one = compare_models({"a": ours, "b": theirs}, reference="a", resamples=FEW)["models"]["b"]["parts"]["all"]
    assert one["verdict"] == "undefined"
    assert (one["p"], one["adjusted_p"], one["bootstrap"]["low"], one["clustered_t"]["low"]) == (None,) * 4
    assert one["difference"] == pytest.approx(sum(right(B)) / 240 - sum(right(A)) / 240)


def test_other_questions_are_refused_and_counted_when_asked_for():
    with pytest.raises(DataError, match="same samples only") as caught:
        compare({"b": B[10:]})
    assert "10 missing" in str(caught.value)
    assert "--common" in str(caught.value)
    extra = replace(B[0], sample_id="other")
    found = compare({"b": [*B[10:], extra]}, common=True)
    assert (found["samples"], found["models"]["b"]["only_reference"], found["models"]["b"]["only_model"]) == (
        230,
        10,
        1,
    )
    three = compare({"b": B[10:], "c": B[:-5]}, common=True)
    assert three["samples"] == three["models"]["c"]["parts"]["all"]["samples"] == 225


def test_other_questions_under_equal_ids_are_refused():
    moved = [replace(one, question=f"{one.question} Really") if row in (3, 5) else one for row, one in enumerate(B)]
    with pytest.raises(DataError, match="different questions") as caught:
        compare({"b": moved})
    assert "2 samples: 'q0-3', 'q1-1'" in str(caught.value)
    spelt = [replace(B[0], question=B[0].question.upper()), replace(B[1], question=""), *B[2:]]
    assert compare({"b": spelt})["samples"] == 240


def regrouped(predictions, group_of):
    return [replace(one, group_id=group_of(int(one.image_id[1:]), one)) for one in predictions]


def test_the_coarser_groups_are_used_and_told():
    patients = regrouped(B, lambda image, _: f"patient{image // 2}")
    for sets in ({"a": A, "b": patients}, {"a": patients, "b": A}):
        found = compare_models(sets, reference="a", resamples=FEW)
        finer = "a" if sets["b"] is patients else "b"
        assert found["groups"] == found["models"]["b"]["parts"]["all"]["groups"] == 30
        assert (found["groups_of"], found["finer_groups"]) == ("ab".replace(finer, ""), {finer: 60})
    renamed = compare({"b": regrouped(B, lambda image, _: f"other{image}")})
    assert (renamed["groups"], renamed["groups_of"], renamed["finer_groups"]) == (60, "a", {})
    crossed = regrouped(B, lambda image, one: f"x{(image + int(one.sample_id[-1])) % 60}")
    with pytest.raises(DataError, match="do not fit together"):
        compare({"b": crossed})


def test_five_groups_or_fewer_can_show_no_difference():
    ours, theirs = answers("a", 1.0, images=5), answers("b", 0.0, images=5)
    ours[0] = replace(ours[0], text="wrong")
    few = compare_models({"a": ours, "b": theirs}, reference="a", resamples=FEW)["models"]["b"]["parts"]["all"]
    assert few["clustered_t"]["high"] < 0
    assert (few["p_randomisation"], few["least_p"]) == (2**-4, 2**-4)
    assert (few["verdict"], few["detectable"]) == ("too_few", None)
    # Seven groups show it between two models, but not among four.
    ours, theirs = answers("a", 1.0, images=7), answers("b", 0.0, images=7)
    ours[0] = replace(ours[0], text="wrong")
    for names, verdict, known in (("b", "worse", True), ("bcde", "too_few", False)):
        found = compare_models({"a": ours, **dict.fromkeys(names, theirs)}, reference="a", resamples=FEW, slices=())
        one = found["models"]["b"]["parts"]["all"]
        assert one["least_p"] == len(names) * 2**-6
        assert (one["verdict"], one["detectable"] is not None) == (verdict, known)


def test_one_differing_answer_is_no_more_the_same_than_none():
    ours = answers("a", 1.0, images=96, each=5)
    other = [replace(ours[0], text="wrong"), *ours[1:]]
    for theirs in (ours, other):
        one = compare_models({"a": ours, "b": theirs}, reference="a", resamples=FEW)["models"]["b"]["parts"]["all"]
        assert one["verdict"] == "unclear"
        assert one["equivalence"]["p"] > 0.05


def test_nothing_in_common_is_refused():
    strange = [replace(one, sample_id=f"x{one.sample_id}") for one in B]
    for common in (True, False):
        with pytest.raises(DataError, match="no question in common"):
            compare({"b": strange}, common=common)
    with pytest.raises(DataError, match="nothing to compare"):
        compare_models({"a": A}, reference="a")


def test_other_references_are_refused_but_not_other_spelling():
    with pytest.raises(DataError, match="different reference answers"):
        compare({"b": [replace(B[0], references=("Kidney",)), *B[1:]]})
    spelt = [replace(B[0], references=(f"{B[0].references[0].upper()}.",)), *B[1:]]
    assert compare({"b": spelt})["samples"] == 240


def test_missing_answers_are_wrong_and_counted():
    found = compare({"b": [replace(one, text="", missing=True) for one in B]})["models"]["b"]
    assert found["unanswered"] == 240
    assert found["parts"]["all"]["model"] == 0.0


def test_few_questions_seldom_look_different():
    """The claim "differs" for equal models errs in about 5 % of test sets at most."""
    claims = 0
    for number in range(80):
        sets = {name: answers(f"{name}{number}", 0.6, images=25, each=2) for name in "ab"}
        one = compare_models(sets, reference="a", resamples=200, slices=())["models"]["b"]["parts"]["all"]
        claims += one["verdict"] in ("better", "worse")
    assert claims <= 10


def test_conditions_have_adjusted_p_values():
    found = compare_conditions({"model": B, "blank": A, "floor": answers("f", 0.75)}, reference="model")
    raw = [one["p"]["accuracy"]["p"] for one in found.values()]
    assert [one["p"]["accuracy"]["adjusted"] for one in found.values()] == holm(raw)
    test = paired_t(right(B), right(A), [one.group_id for one in A])
    assert found["blank"]["p"]["accuracy"]["p"] == pytest.approx(test.p)
    assert found["blank"]["overall"]["accuracy"]["low"] == pytest.approx(test.low)
    lonely = [replace(one, group_id="g") for one in A]
    one = compare_conditions({"model": lonely, "same": lonely}, reference="model")["same"]
    assert one["p"]["accuracy"] == {"p": None, "adjusted": None}
    assert not any(isinstance(value, float) and math.isnan(value) for value in one["overall"]["accuracy"].values())
