import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radvqa.evaluate.statistics import (
    bootstrap_means,
    clopper_pearson,
    cluster_bootstrap,
    cluster_interval,
    design_effect,
    group_sums,
    paired_difference,
    percentile_limits,
    score_interval,
    standard_error,
    wilson,
)


def names(numbers):
    return [f"image{number}" for number in numbers]


def width(interval):
    return interval.high - interval.low


def test_hand_computed_interval():
    # Residual sums per group 1, -1, 0; variance 3/2 * 2 / 6^2 = 1/12; t(0.975, 2) = 0.95 sqrt(2 / 0.0975).
    interval = cluster_interval([1, 1, 0, 0, 1, 0], names([0, 0, 1, 1, 2, 2]))
    assert (interval.mean, interval.groups, interval.samples) == (0.5, 3, 6)
    assert interval.high - 0.5 == pytest.approx(0.95 * math.sqrt(2 / 0.0975 / 12), rel=1e-12)
    assert 0.5 - interval.low == pytest.approx(interval.high - 0.5)


def test_groups_of_one_give_the_ordinary_t_interval():
    # Sample standard deviation of 1, 2, 3, 4 is sqrt(5/3); t(0.975, 3) = 3.182446.
    interval = cluster_interval([1, 2, 3, 4], names(range(4)))
    assert width(interval) / 2 == pytest.approx(3.182446305284263 * math.sqrt(5 / 3) / 2, rel=1e-12)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_agrees_with_statsmodels(level):
    statsmodels = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(3)
    groups = rng.integers(0, 40, size=400)
    scores = (rng.random(400) < rng.random(40)[groups]).astype(float)
    fit = statsmodels.OLS(scores, np.ones(400)).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "df_correction": True}, use_t=True
    )
    interval = cluster_interval(scores, names(groups), level=level)
    assert [interval.low, interval.high] == pytest.approx(list(fit.conf_int(1 - level)[0]), abs=1e-12)


@pytest.mark.parametrize(
    "estimate",
    [cluster_interval, lambda scores, groups: cluster_bootstrap(scores, groups, resamples=4000, seed=1)],
    ids=["sandwich", "bootstrap"],
)
def test_ten_equal_questions_per_image_widen_the_interval_by_root_ten(estimate):
    per_image = np.random.default_rng(0).integers(0, 2, size=100).astype(float)
    scores, images = np.repeat(per_image, 10), np.repeat(np.arange(100), 10)
    clustered = estimate(scores, names(images))
    as_if_independent = estimate(scores, names(range(1000)))
    assert (clustered.groups, clustered.samples) == (100, 1000)
    assert width(clustered) / width(as_if_independent) == pytest.approx(math.sqrt(10), rel=0.06)
    # Ten copies of an answer hold as much information as one.
    assert width(clustered) == pytest.approx(width(estimate(per_image, names(range(100)))), rel=0.06)


def test_groups_of_unlike_questions_narrow_the_interval():
    # Every image has one right and one wrong answer: the mean is 0.5 whichever images are drawn.
    interval = cluster_bootstrap([1, 0] * 20, names(np.repeat(range(20), 2)), resamples=200, seed=0)
    assert interval[:3] == (0.5, 0.5, 0.5)


def test_bootstrap_weighs_groups_by_their_size():
    # Two groups of sizes 3 and 1: draws AA, AB, BA, BB give means 1, 3/4, 3/4, 0.
    interval = cluster_bootstrap([1, 1, 1, 0], names([0, 0, 0, 1]), resamples=500, seed=0)
    assert interval[:3] == (0.75, 0.0, 1.0)


def test_bootstrap_agrees_with_the_sandwich_and_repeats_by_seed():
    rng = np.random.default_rng(5)
    groups = rng.integers(0, 96, size=1000)
    scores = (rng.random(1000) < rng.beta(3, 2, size=96)[groups]).astype(float)
    robust = cluster_interval(scores, names(groups))
    drawn = cluster_bootstrap(scores, names(groups), seed=7)
    assert [drawn.low, drawn.high] == pytest.approx([robust.low, robust.high], abs=0.006)
    assert drawn == cluster_bootstrap(scores, names(groups), seed=7)
    assert drawn != cluster_bootstrap(scores, names(groups), seed=8)


def test_paired_difference_is_narrower_than_two_intervals_of_alike_runs():
    rng = np.random.default_rng(2)
    groups = names(np.repeat(range(50), 4))
    base = (rng.random(200) < 0.5).astype(float)
    better = base.copy()
    better[::10] = 1.0
    difference = paired_difference(better, base, groups)
    assert difference.mean == pytest.approx(better.mean() - base.mean())
    assert difference.low > 0
    assert width(difference) < width(cluster_interval(better, groups)) / 2
    assert difference == cluster_interval(better - base, groups)
    assert paired_difference(base, base, groups)[:3] == (0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    "estimate", [cluster_interval, score_interval, lambda s, g: cluster_bootstrap(s, g, resamples=10, seed=0)]
)
def test_limits_of_fewer_than_two_groups_are_undefined(estimate):
    one = estimate([1.0, 0.0], ["a", "a"])
    assert (one.mean, one.groups, one.samples) == (0.5, 1, 2)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    none = estimate([], [])
    assert all(math.isnan(value) for value in none[:3])
    assert none[3:] == (0, 0)


def test_a_perfect_score_is_not_certain():
    # Five groups: P(all right) = p^5 = 0.025 at p = 0.478176, the Clopper-Pearson limit of 5 out of 5.
    groups = names(np.repeat(range(5), 3))
    assert score_interval([1.0] * 15, groups)[:3] == pytest.approx((1.0, 0.4781762498950185, 1.0))
    assert score_interval([0.0] * 15, groups)[:3] == pytest.approx((0.0, 0.0, 0.5218237501049815))


@pytest.mark.parametrize("wrong", [1, 2, 5])
def test_a_few_errors_do_not_claim_more_than_none(wrong):
    scores, groups = np.ones(1056), np.repeat(np.arange(96), 11)
    perfect = score_interval(scores, groups)
    scores[: 11 * wrong : 11] = 0.0
    found, mirrored = score_interval(scores, groups), score_interval(1 - scores, groups)
    assert found.low == pytest.approx(perfect.low)
    assert found.low < wilson(1056 - wrong, 1056)[0]
    assert mirrored.high == pytest.approx(1 - found.low)
    # Ordinary scores keep the interval of the clustered t.
    scores[::3] = 0.0
    assert score_interval(scores, groups) == cluster_interval(scores, groups)


def test_score_interval_stays_in_range():
    assert score_interval([1, 1, 1, 0], names(range(4))).high == 1.0
    assert score_interval([0, 0, 0, 1], names(range(4))).low == 0.0
    with pytest.raises(ValueError, match="between 0 and 1"):
        score_interval([1.5, 0.0], ["a", "b"])


@pytest.mark.parametrize(
    ("scores", "groups", "level", "message"),
    [
        ([1.0], ["a", "b"], 0.95, "one group id per score"),
        ([1.0, math.nan], ["a", "b"], 0.95, "finite"),
        ([1.0, 0.0], ["a", "b"], 95, "level"),
    ],
)
def test_misuse_is_an_error(scores, groups, level, message):
    with pytest.raises(ValueError, match=message):
        cluster_interval(scores, groups, level=level)
    with pytest.raises(ValueError, match=message):
        cluster_bootstrap(scores, groups, level=level, seed=0)


def test_pairs_need_equal_lengths_and_a_bootstrap_needs_resamples():
    with pytest.raises(ValueError, match="same samples"):
        paired_difference([1.0], [1.0, 0.0], ["a"])
    with pytest.raises(ValueError, match="resamples"):
        cluster_bootstrap([1.0, 0.0], ["a", "b"], resamples=0, seed=0)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (329, 416, 0.749211, 0.827197),
        (346, 416, 0.792782, 0.864609),
        (79, 100, 0.700200, 0.858343),
        (82, 200, 0.344157, 0.479235),
        (590, 1061, 0.526034, 0.585719),
        (612, 1053, 0.551155, 0.610648),
    ],
)
def test_wilson_reference_values(hits, n, low, high):
    assert wilson(hits, n) == pytest.approx((low, high), abs=5.1e-7)


def test_clopper_pearson_reference_value():
    assert clopper_pearson(590, 1061) == pytest.approx((0.525591, 0.586255), abs=5.1e-7)
    assert wilson(590, 1061, level=0.99)[0] < wilson(590, 1061)[0]


def test_standard_errors_by_hand():
    # Variance of 1, 1, 0, 0 with n - 1 is 1/3. Residual sums of the two groups are 1 and -1: sqrt(2 * 2) / 4.
    assert standard_error([1, 1, 0, 0]) == pytest.approx(math.sqrt(1 / 12))
    assert standard_error([1, 1, 0, 0], ["a", "a", "b", "b"]) == pytest.approx(0.5)
    assert design_effect([1, 1, 0, 0], ["a", "a", "b", "b"]) == pytest.approx(3)
    assert design_effect([1, 0, 1, 0], ["a", "a", "b", "b"]) == 0
    assert math.isnan(design_effect([1, 1], ["a", "b"]))
    assert math.isnan(standard_error([1, 1], ["a", "a"]))


def test_whole_numbers_name_groups_as_well_as_strings():
    scores, groups = [1, 1, 0, 0, 1, 0], np.array([10, 2, 10, 2, 3, 3])
    assert cluster_interval(scores, groups) == pytest.approx(cluster_interval(scores, names(groups)), abs=1e-12)


def test_sums_of_groups_leave_out_what_is_not_in_a_slice():
    scores = np.array([[1.0, np.nan], [0.0, 0.0], [1.0, 1.0]])
    sums, sizes = group_sums(scores, ["b", "a", "b"])
    assert sums.tolist() == [[0, 0], [2, 1]]
    assert sizes.tolist() == [[1, 1], [2, 1]]
    with pytest.raises(ValueError, match="finite or NaN"):
        group_sums(np.array([[np.inf]]), ["a"])


def test_all_columns_see_the_same_draws():
    rng = np.random.default_rng(3)
    groups = rng.integers(0, 60, 500)
    scores = (rng.random((500, 3)) < 0.6).astype(float)
    scores[:, 2] = scores[:, 0] - scores[:, 1]
    scores = np.column_stack([scores, np.where(groups < 30, scores[:, 0], np.nan)])
    sums, sizes = group_sums(scores, groups)
    draws = bootstrap_means(sums, sizes, resamples=3000, seed=5)
    assert draws[:, 0] - draws[:, 1] == pytest.approx(draws[:, 2], abs=1e-12)
    # One column alone gets the same draws, and one size stands for all columns.
    alone = bootstrap_means(sums[:, :1], sizes[:, 0], resamples=3000, seed=5)
    assert alone[:, 0] == pytest.approx(draws[:, 0], abs=1e-12)
    low, high = percentile_limits(draws, level=0.9)
    single = cluster_bootstrap(scores[:, 0], groups, level=0.9, resamples=3000, seed=5)
    assert (low[0], high[0]) == pytest.approx((single.low, single.high), abs=1e-12)
    for column in range(4):
        values = scores[:, column]
        kept = ~np.isnan(values)
        robust = cluster_interval(values[kept], groups[kept], level=0.9)
        assert (low[column], high[column]) == pytest.approx((robust.low, robust.high), abs=0.01)


def test_draws_do_not_depend_on_how_they_are_batched(monkeypatch):
    sums, sizes = np.random.default_rng(0).random((50, 2)), np.ones(50)
    whole = bootstrap_means(sums, sizes, resamples=100, seed=1)
    monkeypatch.setattr("radvqa.evaluate.statistics._BOOTSTRAP_CELLS", 350)
    assert bootstrap_means(sums, sizes, resamples=100, seed=1) == pytest.approx(whole, abs=1e-12)


def test_a_draw_without_the_slice_is_undefined_and_left_out():
    # Of two groups only the first holds the slice; a quarter of the draws lacks it.
    draws = bootstrap_means(np.array([[1.0], [0.0]]), np.array([[2.0], [0.0]]), resamples=4000, seed=0)
    assert np.isnan(draws).mean() == pytest.approx(0.25, abs=0.03)
    assert [float(limit[0]) for limit in percentile_limits(draws)] == [0.5, 0.5]
    assert np.isnan(percentile_limits(np.full((3, 1), np.nan))).all()


def test_shapes_of_a_bootstrap_must_fit():
    with pytest.raises(ValueError, match="sizes fit"):
        bootstrap_means(np.ones((3, 2)), np.ones(2), seed=0)
    with pytest.raises(ValueError, match="resamples"):
        bootstrap_means(np.ones((3, 2)), np.ones(3), resamples=0, seed=0)


grouped_scores = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 9)), min_size=2, max_size=60).filter(
    lambda rows: len({group for _, group in rows}) > 1
)


@settings(deadline=None, max_examples=50)
@given(grouped_scores, st.integers(0, 5))
def test_intervals_contain_the_mean(rows, seed):
    scores, groups = [score for score, _ in rows], names(group for _, group in rows)
    for interval in (
        cluster_interval(scores, groups),
        score_interval(scores, groups),
        cluster_bootstrap(scores, groups, resamples=1000, seed=seed),
    ):
        assert interval.mean == pytest.approx(np.mean(scores))
        assert interval.low - 1e-9 <= interval.mean <= interval.high + 1e-9


@settings(deadline=None)
@given(grouped_scores, st.randoms(use_true_random=False))
def test_order_of_samples_does_not_matter(rows, random):
    shuffled = random.sample(rows, len(rows))
    ours, theirs = (
        cluster_interval([score for score, _ in part], names(group for _, group in part)) for part in (rows, shuffled)
    )
    assert ours == pytest.approx(theirs, abs=1e-9)
