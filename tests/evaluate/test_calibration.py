import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radvqa.evaluate.calibration import (
    aurc,
    brier,
    calibration,
    expected_calibration_error,
    reliability,
    risk_coverage,
    selective_accuracy,
)

SURE, RIGHT = [0.9, 0.8, 0.6, 0.5], [1, 0, 1, 0]


def test_by_hand():
    # Two bins of two: confidence 0.85 and 0.55, accuracy 1/2 each.
    assert expected_calibration_error(SURE, RIGHT, bins=2) == pytest.approx((0.35 + 0.05) / 2)
    assert brier(SURE, RIGHT) == pytest.approx((0.01 + 0.64 + 0.16 + 0.25) / 4)
    # Risks of the first 1, 2, 3, 4 answers: 0, 1/2, 1/3, 1/2.
    assert aurc(SURE, RIGHT) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    coverage, risk = zip(*risk_coverage(SURE, RIGHT), strict=True)
    assert (coverage, risk) == ((0.25, 0.5, 0.75, 1), pytest.approx((0, 1 / 2, 1 / 3, 1 / 2)))
    assert [selective_accuracy(SURE, RIGHT, coverage) for coverage in (0.25, 0.5, 0.6, 1)] == pytest.approx(
        [1, 1 / 2, 2 / 3, 1 / 2]
    )


def test_bins_of_equal_mass():
    bins = reliability([0.1, 0.2, 0.3, 0.4, 0.9, 0.95], [0, 0, 1, 0, 1, 1], bins=3)
    assert [one.samples for one in bins] == [2, 2, 2]
    assert [one.accuracy for one in bins] == [0, 0.5, 1]
    assert [one.confidence for one in bins] == pytest.approx([0.15, 0.35, 0.925])


def test_answers_of_equal_confidence_stay_together():
    assert reliability([0.5] * 7, [1, 0, 1, 0, 1, 0, 1], bins=3)[0].samples == 7
    # All tied: every order of 1, 0 is as likely, so the risk is 1/2 at any coverage.
    assert aurc([0.7, 0.7], [1, 0]) == 0.5
    assert selective_accuracy([0.7, 0.7], [1, 0], 0.5) == 0.5


def risks_in_order(right):
    return np.cumsum(1 - right) / np.arange(1, right.size + 1)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 1)), min_size=1, max_size=30), st.integers(0, 9))
def test_ties_are_the_mean_over_their_orders(rows, seed):
    sure, right = np.array([row[0] / 5 for row in rows]), np.array([row[1] for row in rows], dtype=float)
    rng = np.random.default_rng(seed)
    means = []
    for _ in range(400):
        order = rng.permutation(sure.size)
        order = order[np.argsort(-sure[order], kind="stable")]
        means.append(risks_in_order(right[order]).mean())
    assert aurc(sure, right) == pytest.approx(np.mean(means), abs=5 * np.std(means) / 20 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=40),
    st.randoms(use_true_random=False),
)
def test_order_does_not_matter_and_figures_stay_in_range(rows, random):
    shuffled = random.sample(rows, len(rows))
    (sure, right), (sure_2, right_2) = (zip(*part, strict=True) for part in (rows, shuffled))
    for figure in (expected_calibration_error, brier, aurc):
        value = figure(sure, right)
        assert value == pytest.approx(figure(sure_2, right_2), abs=1e-12)
        assert -1e-12 <= value <= 1 + 1e-12
    assert aurc(right, right) <= aurc(sure, right) + 1e-12
    assert risk_coverage(sure, right)[-1] == pytest.approx((1, 1 - np.mean(right)))
    # Twice the same answers are as well calibrated.
    assert brier(sure * 2, right * 2) == pytest.approx(brier(sure, right))
    assert expected_calibration_error(sure, right, bins=1) == pytest.approx(abs(np.mean(sure) - np.mean(right)))


def some_answers(samples=800, images=96, seed=0):
    rng = np.random.default_rng(seed)
    sure = rng.random(samples).round(2)
    return sure, (rng.random(samples) < sure).astype(float), rng.integers(0, images, samples)


def test_all_figures_at_once():
    sure, right, images = some_answers()
    found = calibration(sure, right, images, seed=0, resamples=500)
    assert (found.samples, found.groups) == (800, 96)
    assert found.ece.mean == pytest.approx(expected_calibration_error(sure, right))
    assert found.brier.mean == pytest.approx(brier(sure, right))
    assert found.aurc.mean == pytest.approx(aurc(sure, right))
    assert found.selective_accuracy[0.8].mean == pytest.approx(selective_accuracy(sure, right, 0.8))
    assert found.aurc_best < found.aurc.low < found.aurc.high < found.aurc_random == pytest.approx(1 - right.mean())
    assert found.ece.mean < 0.05
    assert found.bins == reliability(sure, right)
    assert len(found.curve) == 100
    assert found == calibration(sure, right, images, seed=0, resamples=500)
    assert found != calibration(sure, right, images, seed=1, resamples=500)


def test_a_draw_is_the_figure_of_the_drawn_answers():
    sure, right, images = some_answers(samples=60, images=7)
    found = calibration(sure, right, images, seed=4, resamples=20, coverages=(0.3,), bins=4)
    rng = np.random.default_rng(4)
    draws = []
    for _ in range(20):
        rows = np.concatenate([np.flatnonzero(images == image) for image in rng.integers(0, 7, 7)])
        one, two = sure[rows], right[rows]
        draws.append(
            (
                expected_calibration_error(one, two, bins=4),
                brier(one, two),
                aurc(one, two),
                selective_accuracy(one, two, 0.3),
            )
        )
    expected = np.quantile(draws, (0.025, 0.975), axis=0)
    intervals = (found.ece, found.brier, found.aurc, found.selective_accuracy[0.3])
    assert [interval.low for interval in intervals] == pytest.approx(list(expected[0]), abs=1e-12)
    assert [interval.high for interval in intervals] == pytest.approx(list(expected[1]), abs=1e-12)


def test_equal_questions_of_an_image_widen_the_intervals():
    sure, right, _ = some_answers(samples=100)
    images = np.repeat(np.arange(100), 9)
    copies = np.repeat(sure, 9), np.repeat(right, 9)
    clustered = calibration(*copies, images, seed=0, resamples=1000).brier
    alone = calibration(*copies, np.arange(900), seed=0, resamples=1000).brier
    assert (clustered.high - clustered.low) / (alone.high - alone.low) == pytest.approx(3, rel=0.1)


def test_one_image_gives_no_interval():
    found = calibration(SURE, RIGHT, ["a"] * 4, seed=0)
    assert found.ece.mean == expected_calibration_error(SURE, RIGHT)
    assert math.isnan(found.ece.low)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: aurc([], []), "one confidence per answer"),
        (lambda: brier([1.2], [1]), "between 0 and 1"),
        (lambda: brier([math.nan], [1]), "between 0 and 1"),
        (lambda: expected_calibration_error([0.5], [1], bins=0), "bins"),
        (lambda: selective_accuracy([0.5], [1], 0.0), "coverage"),
        (lambda: calibration([0.5], [1], ["a", "b"], seed=0), "group id"),
    ],
)
def test_misuse_of_calibration_is_an_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_many_answers_are_drawn_less_often(monkeypatch):
    rng = np.random.default_rng(0)
    sure, groups = rng.random(300), rng.integers(0, 30, 300)
    right = (rng.random(300) < sure).astype(float)
    whole = calibration(sure, right, groups, resamples=1000, seed=0)
    monkeypatch.setattr("radvqa.evaluate.calibration._MANY", 299)
    assert calibration(sure, right, groups, resamples=1000, seed=0) == calibration(
        sure, right, groups, resamples=200, seed=0
    )
    assert calibration(sure, right, groups, resamples=1000, seed=0) != whole
