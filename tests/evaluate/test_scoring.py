import difflib
import json
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from radvqa.errors import DataError, RecipeError
from radvqa.evaluate.consistency import consistency
from radvqa.evaluate.metrics import METRICS, score_answer
from radvqa.evaluate.protocols import PROTOCOLS
from radvqa.evaluate.protocols.medvint import Labels
from radvqa.evaluate.scoring import score_predictions
from radvqa.evaluate.slices import slice_contrasts
from radvqa.evaluate.statistics import cluster_interval, design_effect, wilson
from radvqa.sample import Prediction


def answered(number, text, reference, *, question="Is it?", group="a", missing=False, link_id="", logprob=None, **tags):
    return Prediction(
        sample_id=f"s{number}", group_id=group, image_id=group, question=question, references=(reference,),
        answer_type="closed" if reference in ("Yes", "No") else "open", text=text, prompt_id="p",
        finished=number % 7 != 3, token_ids=(), logprob=logprob, missing=missing, link_id=link_id, tags=tags,
    )  # fmt: skip


def many(n=120, seed=0):
    rng = np.random.default_rng(seed)
    texts = ["Yes", "No", "", "yes or no", "I am not sure.", "the left lung"]
    golds = ["Yes", "No", "Left Lung"]
    return [
        answered(
            k, texts[rng.integers(len(texts))], golds[rng.integers(3)], group=f"i{k // 6}", missing=k % 40 == 5,
            logprob=-float(rng.random()) if k % 3 else None, modality=["CT", "MRI", "X-Ray"][k % 3],
        )
        for k in range(n)
    ]  # fmt: skip


def scored(predictions, **options):
    return score_predictions(predictions, resamples=200, **options)


@pytest.fixture(scope="module")
def scores():
    return scored(many())


def test_everything_is_there_as_strict_json(scores):
    assert list(scores) == [
        "counts", "summary", "intervals", "protocols", "calibration", "consistency", "worst_slices",
    ]  # fmt: skip
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    assert list(scores["intervals"]) == ["overall", "closed", "open"]
    assert all(list(part) == list(METRICS) for part in scores["intervals"].values())
    one = scored(many(1))
    assert json.loads(json.dumps(one, allow_nan=False)) == one
    assert one["intervals"]["overall"]["accuracy"]["bootstrap"]["low"] is None


def test_nothing_leaves_a_denominator(scores):
    counts = scores["counts"]
    assert counts["samples"] == 120 == sum(counts["states"].values())
    assert counts["groups"] == 20
    assert counts["states"]["missing"] == 3
    assert {"answered", "missing", "empty", "unsure", "ambiguous"} <= set(counts["states"])
    assert counts["flags"]["unfinished"] == 17
    by_type = scores["summary"]["by_answer_type"]
    assert sum(part["samples"] for part in by_type.values()) == 120
    for part in [scores["summary"]["overall"], *by_type.values(), *scores["summary"]["by_tag"]["modality"].values()]:
        assert sum(part["states"].values()) == part["samples"]
    # Only right answers among all 120 questions count: the mean is a multiple of 1/120.
    right = scores["intervals"]["overall"]["accuracy"]["clustered_t"]["mean"] * 120
    assert right == pytest.approx(round(right))
    assert 0 < right < counts["states"]["answered"]


def test_each_interval_is_the_one_of_its_name(scores):
    predictions = [one for one in many() if one.answer_type == "closed"]
    right = [score_answer(one).scores["accuracy"] for one in predictions]
    groups = [one.group_id for one in predictions]
    found = scores["intervals"]["closed"]["accuracy"]
    clustered = cluster_interval(right, groups)
    low, high = wilson(int(sum(right)), len(right))
    assert found["clustered_t"] == pytest.approx({"mean": clustered.mean, "low": clustered.low, "high": clustered.high})
    assert found["wilson"] == pytest.approx({"mean": clustered.mean, "low": low, "high": high})
    assert found["design_effect"] == pytest.approx(design_effect(right, groups))
    bootstrap = score_predictions(many(), protocols=[])["intervals"]["closed"]["accuracy"]["bootstrap"]
    assert bootstrap["low"] == pytest.approx(clustered.low, abs=0.02)
    assert bootstrap["high"] == pytest.approx(clustered.high, abs=0.02)
    assert scores["intervals"]["closed"]["token_f1"]["wilson"] is None
    # Six equal answers an image: only the number of images counts, so both are wider than Wilson by about sqrt(6).
    alike = [answered(n, "Yes" if n // 6 % 3 else "No", "Yes", group=f"i{n // 6}") for n in range(360)]
    one = scored(alike, protocols=[])["intervals"]["overall"]["accuracy"]
    widths = {name: one[name]["high"] - one[name]["low"] for name in ("wilson", "clustered_t", "bootstrap")}
    assert widths["bootstrap"] == pytest.approx(widths["clustered_t"], rel=0.15)
    assert widths["bootstrap"] > 2 * widths["wilson"]
    assert found["clustered_t"] == scores["summary"]["by_answer_type"]["closed"]["metrics"]["accuracy"]


def test_every_protocol_is_asked_or_those_named(scores):
    assert list(scores["protocols"]) == list(PROTOCOLS)
    for name, found in scores["protocols"].items():
        assert found["title"] == PROTOCOLS[name].title
        assert set(found["headline"]) <= set(found["metrics"])
        assert all(0 <= one["counted"] <= 120 for one in found["metrics"].values())
    assert list(scored(many(), protocols=["mumc"])["protocols"]) == ["mumc"]
    with pytest.raises(RecipeError, match="no protocol 'mum'"):
        scored(many(), protocols=["mum"])


def test_items_tell_what_was_made_of_each_answer():
    predictions = many()
    scores = scored(predictions, items=True)
    items = scores["items"]
    assert [one["sample_id"] for one in items] == [one.sample_id for one in predictions]
    assert json.loads(json.dumps(items, allow_nan=False)) == items
    mean = sum(one["scores"]["accuracy"] for one in items) / len(items)
    assert mean == pytest.approx(scores["intervals"]["overall"]["accuracy"]["clustered_t"]["mean"])
    counted = [one["protocols"]["mumc"]["closed_accuracy"] for one in items]
    assert (
        sum(value is not None for value in counted)
        == scores["protocols"]["mumc"]["metrics"]["closed_accuracy"]["counted"]
    )
    for item, prediction in zip(items, predictions, strict=True):
        if item["span"] is not None:
            assert prediction.text[slice(*item["span"])] == item["answer"]


def sentences(count, seed=0):
    """Distinct references, and answers that are others, the same words in another order, or more."""
    rng = np.random.default_rng(seed)
    words = [
        "left",
        "right",
        "upper",
        "lung",
        "liver",
        "opacity",
        "effusion",
        "small",
        "no",
        "mass",
        "shows",
        "with",
        "of",
    ]

    def sentence(least, most):
        return " ".join(rng.choice(words, rng.integers(least, most))).capitalize() + "."

    references = [sentence(6, 20) for _ in range(count)]
    texts = [
        [sentence(20, 50), " ".join(rng.permutation(one.split())), f"{one} {sentence(3, 12)}"][n % 3]
        for n, one in enumerate(references)
    ]
    return references, texts


def test_many_distinct_sentences_take_seconds():
    references, texts = sentences(600)
    predictions = [
        answered(n, text, reference, question=f"What is seen at {n}?", group=f"g{n // 5}", logprob=-0.1)
        for n, (text, reference) in enumerate(zip(texts, references, strict=True))
    ]
    start = time.process_time()
    scores = scored(predictions)
    assert time.process_time() - start < 10
    assert scores["counts"]["samples"] == 600


def test_the_nearest_label_among_sentences_is_that_of_plain_difflib():
    references, texts = sentences(90, seed=1)
    long = [f"{texts[2]} {'effusion and ' * 30}", "ж" * 70, references[0] + "ж"]
    labels = sorted({*references, "ж肺", "肺 lung"})
    known = Labels(labels)

    def nearest(text):
        ratios = [difflib.SequenceMatcher(None, label, text).ratio() for label in labels]
        return labels[ratios.index(max(ratios))] if max(ratios) > 0 else None

    found = {text: nearest(text) for text in [*texts[:6], *long]}
    for text, label in found.items():
        assert [one for one in labels if known.is_nearest(one, text)] == [label] * (label is not None)


@settings(deadline=None, max_examples=5)
@given(st.randoms(use_true_random=False))
def test_the_order_of_answers_does_not_matter(random):
    predictions = many(60)
    shuffled = random.sample(predictions, len(predictions))
    one, other = scored(predictions, protocols=[]), scored(shuffled, protocols=[])
    assert one["counts"] == other["counts"]
    assert flat(one["intervals"]) == pytest.approx(flat(other["intervals"]))
    assert flat(one["worst_slices"]) == pytest.approx(flat(other["worst_slices"]))


def flat(value):
    """All numbers, -1 for None."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for one in value for number in flat(one)]
    return [] if isinstance(value, str) else [-1.0 if value is None else value]


def test_no_or_double_predictions_are_errors():
    with pytest.raises(DataError, match="no predictions"):
        scored([])
    with pytest.raises(DataError, match="more than once"):
        scored([*many(3), many(1)[0]])


def test_calibration_uses_the_probability_of_the_answer(scores):
    found = scores["calibration"]
    assert (found["samples"], found["without_probability"]) == (80, 40)
    sure = [answered(n, "Yes", "Yes", group=f"g{n}", logprob=-1e-9) for n in range(20)]
    perfect = scored(sure, protocols=[])["calibration"]
    assert perfect["ece"]["mean"] == pytest.approx(0, abs=1e-6)
    assert perfect["selective_accuracy"]["0.5"]["mean"] == 1.0
    wrong = scored([replace(one, text="No") for one in sure], protocols=[])["calibration"]
    assert wrong["ece"]["mean"] == pytest.approx(1, abs=1e-6)
    assert scored([replace(one, logprob=None) for one in sure], protocols=[])["calibration"] is None


def test_hand_computed_paraphrases():
    predictions = [
        answered(0, "Yes", "Yes", link_id="a", group="1"), answered(1, "yes, it is", "Yes", link_id="a", group="1"),
        answered(2, "No", "Yes", link_id="b", group="2"), answered(3, "no", "Yes", link_id="b", group="2"),
        answered(4, "Yes", "Yes", link_id="c", group="3"), answered(5, "", "Yes", link_id="c", group="3"),
        answered(6, "", "Yes", link_id="d", group="4"), answered(7, "", "Yes", link_id="d", group="4"),
        answered(8, "Yes", "Yes", link_id="e", group="5"), answered(9, "No", "No", link_id="e", group="5"),
        answered(10, "Yes", "Yes", link_id="f"), answered(11, "Yes", "Yes"), answered(12, "No", "Yes"),
    ]  # fmt: skip
    found = consistency(predictions, [score_answer(one) for one in predictions])
    assert (found["sets"], found["questions"], found["left_out"]) == (4, 8, 1)
    # Two empty answers agree on nothing; "e" is left out, its references differ.
    assert found["same_answer"]["mean"] == 2 / 4
    assert found["all_right"]["mean"] == 1 / 4
    assert found["any_right"]["mean"] == 2 / 4
    assert consistency(predictions[10:], [score_answer(one) for one in predictions[10:]]) is None


def contrasts(values, groups, tags):
    predictions = [
        answered(n, "", "Lung", group=str(group), organ=tag)
        for n, (group, tag) in enumerate(zip(groups, tags, strict=True))
    ]
    numbers = np.unique(groups, return_inverse=True)[1]
    return {
        one["value"]: one for one in slice_contrasts(predictions, np.asarray(values, float), numbers, slices=["organ"])
    }


def test_hand_computed_slice():
    # 10 answers in 10 groups at 0.2, 30 in 30 other groups at 0.6: all groups single, so e_i are plain residuals.
    values = [1] * 2 + [0] * 8 + [1] * 18 + [0] * 12
    found = contrasts(values, range(40), ["brain"] * 10 + ["lung"] * 30)
    assert list(found) == ["brain"]  # of two values one comparison
    one = found["brain"]
    assert (one["mean"], one["rest"], one["samples"], one["groups"]) == (0.2, 0.6, 10, 10)
    null = (40 / 39 * 0.25 * (10 / 10**2 + 30 / 30**2)) ** 0.5  # overall mean 0.5
    assert one["p"] == pytest.approx(2 * stats.t.sf(0.4 / null, 9))
    apart = (40 / 39 * (0.16 / 10 + 0.24 / 30)) ** 0.5
    assert one["high"] == pytest.approx(-0.4 + stats.t.ppf(0.975, 9) * apart)
    assert one["p_holm"] == one["p"]


def test_worst_slices_come_first_and_small_or_certain_ones_claim_nothing():
    tags = ["a"] * 60 + ["b"] * 60 + ["c"] * 60 + ["d"] * 9 + ["e"] * 10
    values = [0, 0, 1] * 20 + [1, 1, 0] * 20 + [1, 1, 1] * 20 + [0] * 9 + [0] * 10
    groups = [*range(189), *[500] * 10]
    found = contrasts(values, groups, tags)
    assert list(found) == ["e", "a", "b", "c"]
    assert found["e"]["p"] is None and found["e"]["p_holm"] is None  # one image
    assert found["a"]["p_holm"] == pytest.approx(min(1, 3 * found["a"]["p"]), rel=1) and found["a"]["p_holm"] < 0.01
    # Three images, all wrong: no spread inside, yet far from certain.
    few = contrasts([0] * 12 + [1, 0] * 50, [1, 2, 3] * 4 + list(range(10, 110)), ["x"] * 12 + ["y"] * 100)
    assert few["x"]["p"] > 0.05


def test_slices_that_do_not_differ_are_rarely_called_different():
    rng = np.random.default_rng(5)
    calls = tests = 0
    for _ in range(300):
        groups = np.repeat(np.arange(50), 6)
        image = rng.random(50)[groups]
        values = (rng.random(300) < 0.3 + 0.4 * image).astype(float)
        tags = [f"t{group % 5}" if n % 2 else "mixed" for n, group in enumerate(groups)]
        found = contrasts(values, groups, tags)
        calls += any(one["p_holm"] < 0.05 for one in found.values())
        tests += 1
    assert calls / tests < 0.08
