import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from slake_floors import SLAKE, floors
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

from radvqa.evaluate.multiplicity import benjamini_hochberg, holm
from radvqa.evaluate.paired import equivalence, mcnemar, paired_bootstrap, paired_t, sign_flip_test
from radvqa.evaluate.statistics import clopper_pearson, cluster_interval, standard_error


def pairs(only_a, only_b, both=0, neither=0):
    a = [1.0] * only_a + [0.0] * only_b + [1.0] * both + [0.0] * neither
    b = [0.0] * only_a + [1.0] * only_b + [1.0] * both + [0.0] * neither
    return a, b


def some_pairs(seed, groups=40, samples=300):
    rng = np.random.default_rng(seed)
    index = rng.integers(0, groups, samples)
    a = (rng.random(samples) < rng.beta(3, 2, groups)[index]).astype(float)
    return a, (rng.random(samples) < 0.5).astype(float), index


def test_paired_t_is_the_interval_of_the_differences():
    a, b, groups = some_pairs(0)
    found, interval = paired_t(a, b, groups, level=0.9), cluster_interval(a - b, groups, level=0.9)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-12)
    assert (found.groups, found.samples, found.df) == (40, 300, 39)
    # The interval at level 1 - p ends at 0.
    edge = cluster_interval(a - b, groups, level=1 - found.p)
    assert min(abs(edge.low), abs(edge.high)) == pytest.approx(0, abs=1e-9)


def test_paired_t_of_single_answers_is_the_ordinary_paired_t_test():
    a, b, _ = some_pairs(1)
    ordinary = stats.ttest_rel(a, b)
    found = paired_t(a, b, np.arange(300))
    assert (found.t, found.p, found.df) == pytest.approx((ordinary.statistic, ordinary.pvalue, 299), rel=1e-12)


def test_paired_t_without_spread():
    same, ones = [1.0, 0.0, 1.0], [0.1 + 0.2, 0.1, 0.3]
    equal = paired_t(same, same, ["a", "b", "c"])
    assert equal.p == 1.0
    # Three groups that agree leave room for 1 - 0.025^(1/3) of all groups to differ.
    assert (equal.low, equal.high) == (pytest.approx(-0.7075982), pytest.approx(0.7075982))
    shifted = paired_t([value + 0.1 for value in ones], ones, ["a", "b", "c"])
    assert math.isnan(shifted.t)
    assert shifted.p == 0.25  # as sign_flip_test: three signs
    assert shifted.low < 0 < shifted.difference < shifted.high
    whole = paired_t([1.0] * 6, [0.0] * 6, list("abcdef"))
    assert (whole.p, whole.high) == (2**-5, pytest.approx(1.0))
    assert whole.low == pytest.approx(2 * 0.025 ** (1 / 6) - 1)
    alone = paired_t([1.0, 0.0], [0.0, 0.0], ["a", "a"])
    assert alone.difference == 0.5
    assert all(math.isnan(value) for value in (alone.p, alone.low, alone.high, alone.standard_error))


@pytest.mark.parametrize(
    ("only_a", "only_b", "exact", "mid_p"),
    [(163, 69, 6.0030e-10, 4.2466e-10), (81, 43, 0.00082026, 0.00061806)],
)
def test_mcnemar_reference_values(only_a, only_b, exact, mid_p):
    found = mcnemar(*pairs(only_a, only_b, both=20, neither=7))
    assert (found.only_a, found.only_b) == (only_a, only_b)
    assert (found.exact, found.mid_p) == (pytest.approx(exact, rel=2e-5), pytest.approx(mid_p, rel=2e-5))


def test_mcnemar_corrected_reference_value():
    assert mcnemar(*pairs(81, 43)).corrected == pytest.approx(0.00089151, rel=2e-5)


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_that_of_statsmodels(only_a, only_b):
    found = mcnemar(*pairs(only_a, only_b, both=3))
    assert 0 < found.mid_p <= found.exact <= 1
    if only_a + only_b:
        table = [[3, only_a], [only_b, 0]]
        assert found.exact == pytest.approx(min(statsmodels_mcnemar(table, exact=True).pvalue, 1.0), abs=1e-12)
        if only_a != only_b:  # statsmodels corrects a difference of 0 to -1
            assert found.corrected == pytest.approx(statsmodels_mcnemar(table, exact=False).pvalue, abs=1e-12)
        flipped = mcnemar(*pairs(only_b, only_a))
        assert (flipped.exact, flipped.mid_p) == pytest.approx((found.exact, found.mid_p), rel=1e-9)


def test_sign_flips_are_all_tried_where_they_are_few():
    # Sums by group 1, 1, 1, 1, -1 and a group without difference: |3| or more in 12 of 32 swaps.
    a, b = [1, 1, 1, 1, 0, 1], [0, 0, 0, 0, 1, 1]
    groups = list("abcdef")
    assert sign_flip_test(a, b, groups, seed=0) == 12 / 32
    assert sign_flip_test(a, a, groups, seed=0) == 1.0
    # One group of all answers has one sign.
    assert sign_flip_test(a, b, ["a"] * 6, seed=0) == 1.0
    drawn = sign_flip_test(a, b, groups, draws=31, seed=0)
    assert drawn == sign_flip_test(a, b, groups, draws=31, seed=0)


def test_drawn_sign_flips_agree_with_all_of_them():
    a, b, groups = some_pairs(5, groups=13, samples=80)
    exact = sign_flip_test(a, b, groups, draws=2**13, seed=0)
    assert 0.01 < exact < 0.99
    assert sign_flip_test(a, b, groups, draws=2**13 - 1, seed=1) == pytest.approx(exact, abs=0.02)


def test_tests_of_one_difference_agree():
    a, b, groups = some_pairs(2, groups=90, samples=1000)
    found, drawn = paired_t(a, b, groups), paired_bootstrap(a, b, groups, seed=0)
    assert (drawn.low, drawn.high) == pytest.approx((found.low, found.high), abs=0.005)
    weaker = a.copy()
    weaker[:33] = 0
    flips = sign_flip_test(a, weaker, groups, seed=0)
    assert flips == pytest.approx(paired_t(a, weaker, groups).p, abs=0.01)
    assert 0 < flips < 0.01
    assert sign_flip_test(weaker, a, groups, seed=0) == flips


def test_equivalence_is_that_of_statsmodels():
    a, b, _ = some_pairs(3)
    differences = a - b
    error = standard_error(differences)
    found = equivalence(float(differences.mean()), error, 299, 0.12)
    p, below, above = DescrStatsW(differences).ttost_mean(-0.12, 0.12)
    assert (found.p, found.p_not_worse, found.p_not_better) == pytest.approx((p, below[1], above[1]), rel=1e-9)


@given(
    st.floats(-0.2, 0.2),
    st.floats(0.001, 0.1),
    st.floats(2, 200),
    st.floats(0.01, 0.2),
    st.sampled_from([None, 9, 400]),
)
def test_equivalence_is_an_interval_within_the_margin(difference, error, df, margin, groups):
    found = equivalence(difference, error, df, margin, groups=groups)
    if min(abs(found.low + margin), abs(found.high - margin)) > 1e-9:
        assert found.equivalent == (-margin < found.low and found.high < margin)
        assert found.not_worse == (-margin < found.low)


def test_equivalence_without_spread_needs_the_number_of_groups():
    unknown = equivalence(0.0, 0.0, 95, 0.02)
    assert (unknown.p, unknown.equivalent, unknown.not_worse) == (1.0, False, False)
    assert math.isnan(unknown.low)
    # 1 - 0.05^(1/148) is 2.004 %, 1 - 0.05^(1/149) is 1.990 %.
    assert not equivalence(0.0, 0.0, 147, 0.02, groups=148).equivalent
    found = equivalence(0.0, 0.0, 148, 0.02, groups=149)
    assert found.equivalent
    assert found.p == pytest.approx(0.98**149)
    assert (-found.low, found.high) == pytest.approx((1 - 0.05 ** (1 / 149),) * 2)
    assert equivalence(0.05, 0.0, 999, 0.02, groups=1000)[-2:] == (True, False)


@pytest.mark.parametrize("groups", [96, 200, 1000])
def test_a_difference_is_never_more_equivalent_than_none(groups):
    highs, ps = [], []
    for differing in range(8):
        a = np.zeros(groups)
        a[:differing] = 1.0
        test = paired_t(a, np.zeros(groups), np.arange(groups))
        found = equivalence(test.difference, test.standard_error, test.df, 0.02, groups=groups)
        highs.append(found.high)
        ps.append(found.p)
        assert (found.p < 0.05) == found.equivalent == (found.high < 0.02)
        # The exact limit for answers that stand alone.
        assert found.high >= clopper_pearson(differing, groups, level=0.9)[1] - 0.1 / groups
    assert highs == sorted(highs)
    assert ps == sorted(ps)


@pytest.mark.parametrize("size", [1, 2, 12])
def test_adjusted_p_values_are_those_of_statsmodels(size):
    p_values = np.random.default_rng(size).random(size) ** 3
    p_values[-1] = p_values[0]
    assert holm(p_values) == pytest.approx(multipletests(p_values, method="holm")[1], abs=1e-12)
    assert benjamini_hochberg(p_values) == pytest.approx(multipletests(p_values, method="fdr_bh")[1], abs=1e-12)


def test_adjusted_p_values_by_hand():
    assert holm([]) == benjamini_hochberg([]) == []
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert benjamini_hochberg([0.04, 0.01, 0.03]) == pytest.approx([0.04, 0.03, 0.04])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_t([1.0], [1.0, 0.0], ["a"]), "same samples"),
        (lambda: paired_t([1.0], [1.0], ["a"], level=95), "level"),
        (lambda: mcnemar([0.5], [1.0]), "right"),
        (lambda: sign_flip_test([1.0], [0.0], ["a", "b"], seed=0), "group id"),
        (lambda: sign_flip_test([1.0], [0.0], ["a"], draws=0, seed=0), "draws"),
        (lambda: equivalence(0.1, 0.1, 5, 0.0), "margin"),
        (lambda: equivalence(0.1, 0.1, 5, 0.1, groups=0), "groups"),
        (lambda: holm([0.1, math.nan]), "between 0 and 1"),
    ],
)
def test_misuse_of_paired_tests_is_an_error(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.skipif(not SLAKE.is_dir(), reason="real SLAKE is not under shared/data")
def test_reference_values_of_the_floors_on_slake_validation():
    found = floors()
    ours, majority, closed, images = found.question_only, found.majority, found.closed, found.images
    assert (len(ours), ours.sum(), ours[closed].sum(), ours[~closed].sum()) == (1053, 612, 276, 336)
    assert (majority[closed].sum(), majority[~closed].sum()) == (182, 55)
    everything = np.ones(1053, dtype=bool)
    for rows, independent, cr0, cr1 in (
        (everything, 0.015211, 0.013538, 0.013609),
        (closed, 0.023183, 0.018671, 0.018769),
        (~closed, 0.019878, 0.018689, 0.018787),
    ):
        assert standard_error(ours[rows]) == pytest.approx(independent, abs=5.1e-7)
        clustered = standard_error(ours[rows], images[rows])
        assert clustered == pytest.approx(cr1, abs=5.1e-7)
        assert clustered * math.sqrt(95 / 96) == pytest.approx(cr0, abs=5.1e-7)
    assert standard_error(majority[closed]) == pytest.approx(0.024137, abs=5.1e-7)
    assert standard_error(majority[closed], images[closed]) == pytest.approx(0.023844, abs=5.1e-7)

    difference = paired_t(ours[closed], majority[closed], images[closed])
    assert difference.difference == pytest.approx(0.222749, abs=5.1e-7)
    assert difference.standard_error == pytest.approx(0.031973, abs=5.1e-7)
    assert (difference.df, difference.p) == (95, pytest.approx(4.2182e-10, rel=2e-5))
    assert standard_error(ours[closed] - majority[closed]) == pytest.approx(0.034467, abs=5.1e-7)
    exact = mcnemar(ours[closed], majority[closed])
    assert exact[:4] == (163, 69, pytest.approx(6.0030e-10, rel=2e-5), pytest.approx(4.2466e-10, rel=2e-5))
    overall = paired_t(ours, majority, images)
    assert overall.difference == pytest.approx(0.356125, abs=5.1e-7)
    assert overall.standard_error == pytest.approx(0.018335, abs=5.1e-7)
    assert mcnemar(ours, majority)[:2] == (463, 88)
