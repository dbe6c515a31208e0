import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats import inter_rater

from radvqa.evaluate.agreement import (
    bootstrap_interval,
    brennan_prediger,
    codes,
    cohen_kappa,
    conger_kappa,
    fleiss_kappa,
    gwet_ac1,
    krippendorff_alpha,
    rating_counts,
    two_reader_ac1,
)
from radvqa.evaluate.intraclass import intraclass_correlations


def numbers(text):
    return np.array([[math.nan if one == "." else float(one) for one in row.split()] for row in text.split("/")])


# 10 items x 5 categories, 14 readers.
FLEISS = numbers(
    "0 0 0 0 14 / 0 2 6 4 2 / 0 0 3 5 6 / 0 3 9 2 0 / 2 2 8 1 1 / "
    "7 7 0 0 0 / 3 2 6 3 0 / 2 5 3 2 2 / 6 5 2 1 0 / 0 2 2 3 7"
)
# 4 readers x 12 items.
KRIPPENDORFF = numbers(
    "1 2 3 3 2 1 4 1 2 . . . / 1 2 3 3 2 2 4 1 2 5 . 3 / . 3 3 3 2 3 4 2 2 5 1 . / 1 2 3 3 2 4 4 1 2 5 1 ."
)
# Shrout and Fleiss: 6 items x 4 readers.
SHROUT_FLEISS = numbers("9 2 5 8 / 6 1 3 2 / 8 4 6 8 / 7 1 2 6 / 10 5 6 9 / 6 2 4 7").T
MILLIONTH = {"abs": 1e-6}


def test_fleiss_and_randolph_reference_values():
    assert fleiss_kappa(FLEISS).value == pytest.approx(0.209931, **MILLIONTH)
    assert fleiss_kappa(FLEISS).value == pytest.approx(inter_rater.fleiss_kappa(FLEISS), abs=1e-12)
    assert brennan_prediger(FLEISS).value == pytest.approx(0.222527, **MILLIONTH)
    assert brennan_prediger(FLEISS).value == pytest.approx(inter_rater.fleiss_kappa(FLEISS, "randolph"), abs=1e-12)


@pytest.mark.parametrize(
    ("scale", "value"),
    [("nominal", 0.743421), ("ordinal", 0.815388), ("interval", 0.849107), ("ratio", 0.797403)],
)
def test_krippendorff_reference_values(scale, value):
    assert krippendorff_alpha(KRIPPENDORFF, scale) == pytest.approx(value, **MILLIONTH)


def test_reference_values_with_gaps():
    counts = rating_counts(KRIPPENDORFF)
    ac1 = gwet_ac1(counts)
    assert ac1.value == pytest.approx(0.77544, abs=5.1e-6)
    assert (ac1.low, ac1.high) == (pytest.approx(0.46081, abs=5.1e-6), 1.0)
    assert fleiss_kappa(counts).value == pytest.approx(0.76117, abs=5.1e-6)
    assert brennan_prediger(counts).value == pytest.approx(0.77273, abs=5.1e-6)
    assert conger_kappa(KRIPPENDORFF) == pytest.approx(0.76207, abs=5.1e-6)


def test_intraclass_reference_values():
    found = intraclass_correlations(SHROUT_FLEISS)
    values = [one.value for one in found]
    assert values == pytest.approx([0.165742, 0.289764, 0.714841, 0.442797, 0.620051, 0.909316], **MILLIONTH)
    # Limits as published for this table to two digits.
    limits = [(round(one.low, 2), round(one.high, 2)) for one in found]
    assert limits == [(-0.13, 0.72), (0.02, 0.76), (0.34, 0.95), (-0.88, 0.91), (0.07, 0.93), (0.68, 0.99)]


def test_intraclass_correlations_of_special_tables():
    same = intraclass_correlations(np.array([[1.0, 2, 3], [1, 2, 3]]))
    assert [one.value for one in same] == pytest.approx([1.0] * 6)
    assert same.one_way_single.low is None
    # A constant between readers costs agreement, not consistency.
    shifted = intraclass_correlations(np.array([[1.0, 2, 3], [3, 4, 5]]))
    assert shifted.consistency_single.value == 1.0
    # Mean squares 2 (items), 6 (readers), 0: 2 / (2 + 2 * 6 / 3).
    assert shifted.agreement_single.value == pytest.approx(1 / 3)
    assert intraclass_correlations(np.ones((2, 3))).one_way_single.value is None
    with pytest.raises(ValueError, match="full table"):
        intraclass_correlations(KRIPPENDORFF)


@pytest.mark.parametrize(
    "table", [[[1.0, 2, 3], [3, 2, 1]], [[1, 2, 3], [2, 3, 1], [3, 1, 2]], [[0.1, 0.3], [0.3, 0.1]]]
)
def test_intraclass_correlations_of_equal_item_means(table):
    found = intraclass_correlations(np.array(table))
    k = len(table)
    assert found.one_way_single.value == pytest.approx(-1 / (k - 1))
    # The mean square of items, 0, is the denominator of the forms for the mean.
    for one in (found.one_way_average, found.consistency_average, found.agreement_average):
        assert (one.value, one.low, one.high) == (None, None, None)
        assert "items" in one.note
    assert found.one_way_single.high < 0


def test_intraclass_correlations_below_minus_one_are_named():
    # Mean squares of items 0, readers 0 and error 2: (A,1) is -2 / (2 - 2 * 2 / 3).
    found = intraclass_correlations(np.array([[1.0, 2, 3], [3, 2, 1]])).agreement_single
    assert found.value == pytest.approx(-3)
    assert "below -1" in found.note
    # Items 1/4, within 2: 1 - 8 for the mean of both.
    table = np.array([[0.0, 2.5, 1.0], [2.0, 0.5, 2.0]])
    average = intraclass_correlations(table).one_way_average
    items = 2 * np.var(table.mean(axis=0), ddof=1)
    assert average.value == pytest.approx(1 - np.var(table, axis=0, ddof=1).mean() / items)
    assert "below -1" in average.note


def test_intraclass_interval_holds_the_truth():
    # Variances of items 2, readers 0.5, error 1: (A,1) is 2 / 3.5, (C,1) is 2 / 3.
    rng = np.random.default_rng(0)
    held = []
    for _ in range(400):
        ratings = rng.normal(0, math.sqrt(2), 40) + rng.normal(0, math.sqrt(0.5), (8, 1)) + rng.normal(0, 1, (8, 40))
        found = intraclass_correlations(ratings)
        held.append(
            (
                found.agreement_single.low <= 2 / 3.5 <= found.agreement_single.high,
                found.consistency_single.low <= 2 / 3 <= found.consistency_single.high,
            )
        )
    assert np.mean(held, axis=0) == pytest.approx([0.95, 0.95], abs=0.035)


tables = st.integers(2, 4).flatmap(
    lambda n: st.lists(st.lists(st.integers(0, 30), min_size=n, max_size=n), min_size=n, max_size=n)
)


@settings(max_examples=60, deadline=None)
@given(tables.filter(lambda table: sum(map(sum, table)) > 4), st.sampled_from(["linear", "quadratic"]))
def test_weighted_kappa_is_that_of_statsmodels(table, weights):
    found = cohen_kappa(table, weights=weights)
    if found.value is None:
        return
    with np.errstate(all="ignore"):
        theirs = inter_rater.cohens_kappa(np.asarray(table), wt=weights)
    assert found.value == pytest.approx(theirs.kappa, abs=1e-9)
    if found.low is not None and found.low > -1 and found.high < 1:
        assert (found.low, found.high) == pytest.approx((theirs.kappa_low, theirs.kappa_upp), abs=1e-6)


def ratings_of(table):
    cells = np.asarray(table)
    first, second = np.nonzero(cells)
    times = cells[first, second]
    return np.array([np.repeat(first, times), np.repeat(second, times)], dtype=float)


@settings(max_examples=60, deadline=None)
@given(tables.filter(lambda table: sum(map(sum, table)) > 4))
def test_two_readers_are_a_case_of_many(table):
    ratings, categories = ratings_of(table), range(len(table))
    counts = rating_counts(ratings, categories)
    kappa = cohen_kappa(table)
    if kappa.value is not None:
        assert conger_kappa(ratings) == pytest.approx(kappa.value, abs=1e-9)
    two, many = two_reader_ac1(table), gwet_ac1(counts)
    assert many.value == pytest.approx(two.value, abs=1e-12)
    # The many-reader interval is t with n - 1, so a little wider.
    if two.low is not None and two.low > -1 and two.high < 1 and many.low > -1 and many.high < 1:
        assert many.low <= two.low <= two.high <= many.high
    if len(np.unique(ratings)) > 1:
        # Scott's pi with Krippendorff's correction for small samples.
        size = ratings.size
        fleiss = fleiss_kappa(counts).value
        assert krippendorff_alpha(ratings) == pytest.approx(fleiss + (1 - fleiss) / size, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from([math.nan, 0, 1, 2]), min_size=5, max_size=5), min_size=2, max_size=4))
def test_coefficients_do_not_depend_on_the_order_of_readers_or_items(rows):
    ratings = np.array(rows)
    other = ratings[::-1, ::-1]
    for scale in ("nominal", "ordinal", "interval", "ratio"):
        value = krippendorff_alpha(ratings, scale)
        assert value == pytest.approx(krippendorff_alpha(other, scale), abs=1e-9, nan_ok=True)
        assert math.isnan(value) or value <= 1 + 1e-9
    assert conger_kappa(ratings) == pytest.approx(conger_kappa(other), abs=1e-9, nan_ok=True)
    for coefficient in (gwet_ac1, fleiss_kappa, brennan_prediger):
        one, two = coefficient(rating_counts(ratings, range(3))), coefficient(rating_counts(other, range(3)))
        assert (one.value is None) == (two.value is None)
        if one.value is not None:
            assert one.value == pytest.approx(two.value, abs=1e-9)


def test_prevalence_undoes_kappa_and_not_ac1():
    table = [[90, 5], [5, 0]]
    assert cohen_kappa(table).value < 0
    assert two_reader_ac1(table).value > 0.85


def test_undefined_coefficients_say_why():
    lone = numbers("1 . / . 2")
    assert "two ratings" in gwet_ac1(rating_counts(lone)).note
    assert "one category" in gwet_ac1(rating_counts(np.ones((2, 3)))).note
    assert gwet_ac1(rating_counts(np.ones((2, 3)), [1, 2])).value == 1.0
    assert fleiss_kappa(rating_counts(np.ones((2, 3)), [1, 2])).value is None
    assert math.isnan(krippendorff_alpha(lone))
    assert math.isnan(krippendorff_alpha(np.ones((2, 3))))
    assert bootstrap_interval(krippendorff_alpha, lone, seed=0).note


def test_bootstrap_of_items_and_of_groups():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, 60)
    ratings = np.array([np.where(rng.random(60) < 0.8, truth, rng.integers(0, 3, 60)) for _ in range(3)], dtype=float)
    found = bootstrap_interval(krippendorff_alpha, ratings, seed=0, resamples=400)
    linear = fleiss_kappa(rating_counts(ratings))
    assert found.value == krippendorff_alpha(ratings)
    assert found.high - found.low == pytest.approx(linear.high - linear.low, rel=0.2)
    thrice = np.repeat(ratings, 3, axis=1)
    grouped = bootstrap_interval(krippendorff_alpha, thrice, np.repeat(np.arange(60), 3), seed=0, resamples=400)
    assert grouped.high - grouped.low == pytest.approx(found.high - found.low, rel=0.2)
    assert bootstrap_interval(krippendorff_alpha, thrice, np.zeros(180, dtype=int), seed=0).low is None


def test_labels_become_numbers():
    found = codes([["no", "yes", None], ["yes", "yes", "no"]])
    assert found == pytest.approx(np.array([[0, 1, math.nan], [1, 1, 0]]), nan_ok=True)
    with pytest.raises(ValueError, match="among the categories"):
        rating_counts(found, [0])
    with pytest.raises(ValueError, match="negative"):
        krippendorff_alpha(np.array([[-1.0, 2], [1, 2]]), "ratio")
