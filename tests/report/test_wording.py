import math
from dataclasses import replace

import pytest

from radvqa.report.contents import Differences, Estimate, RunSummary, Scores, Slice
from radvqa.report.wording import points, verdict

ANY = Slice(samples=100, groups=20, empty=0, unfinished=0, metrics={"accuracy": Estimate(mean=0.6, low=0.5, high=0.7)})
GAIN, NONE, LOSS, NO_INTERVAL = (0.1, 0.05, 0.15), (0.01, -0.03, 0.05), (-0.1, -0.15, -0.05), (0.1, None, None)


def summary_with(layout="per_question", split="test", **differences):
    scores = Scores(level=0.95, overall=ANY, by_answer_type={}, by_tag={})
    return RunSummary(
        split=split,
        dataset="slake",
        condition="model",
        layout=layout,
        conditions={"model": scores},
        comparisons={
            name: Differences(
                level=0.95,
                samples=100,
                groups=20,
                overall={"accuracy": Estimate(mean=mean, low=low, high=high)},
                by_answer_type={},
            )
            for name, (mean, low, high) in differences.items()
        },
    )


@pytest.mark.parametrize(
    ("difference", "sentence"),
    [
        (
            GAIN,
            "It beats the question-only floor, which never sees an image, by 10.0 points (95 % interval +5.0 "
            "to +15.0).",
        ),
        (NONE, "It does not differ clearly from the question-only floor"),
        (LOSS, "It falls behind the question-only floor"),
        (NO_INTERVAL, "Whether it beats the question-only floor cannot be told"),
    ],
)
def test_the_verdict_on_the_floor_follows_the_interval(difference, sentence):
    assert verdict(summary_with(question_only=difference))[1].startswith(sentence)


@pytest.mark.parametrize(
    ("blank", "shuffled", "sentence"),
    [
        (GAIN, GAIN, "It uses the image: real images are worth +10.0 points over blank images"),
        (GAIN, NONE, "The evidence that it uses the image is mixed"),
        (NONE, LOSS, "There is no clear sign that it uses the image"),
        (GAIN, NO_INTERVAL, "Whether it uses the image cannot be told"),
    ],
)
def test_the_verdict_on_the_image_needs_both_controls(blank, shuffled, sentence):
    assert verdict(summary_with(blank=blank, shuffled=shuffled))[2].startswith(sentence)


def test_the_verdict_names_a_missing_control():
    assert verdict(summary_with(blank=GAIN))[2].endswith("Shuffled images were not tested.")


def test_the_verdict_names_the_layout():
    shared = verdict(summary_with(layout="shared_image"), trained={"shared_image"})[3]
    assert "shared-image layout" in shared
    assert "differs from PaliGemma's own mask" in shared
    own = verdict(summary_with(), trained={"per_question"})[3]
    assert own == "Trained and evaluated in the per-question layout, which is PaliGemma's own prefix-LM mask."
    assert "do not fit" in verdict(summary_with(), trained={"shared_image"})[3]


def test_the_verdict_tells_what_weakens_it():
    assert "training questions" in verdict(summary_with(split="train"))[-1]
    for split in ("val", "test"):
        assert "not an untouched test" in verdict(summary_with(split=split), trained={"per_question"}, watched=True)[-1]
    scores = replace(summary_with().reference, overall=replace(ANY, empty=3, unfinished=2))
    weak = replace(summary_with(), conditions={"model": scores})
    assert "Empty answers: 3; cut at the token limit: 2" in verdict(weak)[-1]


@pytest.mark.parametrize(
    ("value", "shown"), [(0.1234, "+12.3"), (-0.1234, "−12.3"), (-0.0001, "0.0"), (None, "n/a"), (math.nan, "n/a")]
)
def test_differences_have_a_sign(value, shown):
    assert points(value) == shown


def test_answers_of_which_none_is_usable_are_all_counted():
    scores = Scores(level=0.95, overall=replace(ANY, empty=100, states={"empty": 100}), by_answer_type={}, by_tag={})
    told = " ".join(verdict(replace(summary_with(), conditions={"model": scores})))
    assert "Without a usable answer: 100 (empty 100)" in told


def test_scores_of_an_earlier_version_claim_nothing():
    old = Scores(level=0.95, overall=replace(ANY, metrics={"exact_match": ANY.metrics["accuracy"]}), by_answer_type={},
                 by_tag={})  # fmt: skip
    told = " ".join(verdict(replace(summary_with(blank=GAIN, shuffled=GAIN), conditions={"model": old})))
    assert "scored by an earlier version" in told
    assert "%" not in told
