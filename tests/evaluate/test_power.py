import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.power import TTestPower

from radvqa.evaluate.power import difference_error, items_needed, minimal_detectable_effect, power


def test_reference_values():
    # 3 points at 416 questions, standard deviation 0.33, correlation 0.5.
    error = difference_error(0.33, 416, correlation=0.5)
    assert power(0.03, error) == pytest.approx(0.46, abs=0.005)
    assert minimal_detectable_effect(error) == pytest.approx(0.045, abs=0.0005)
    assert items_needed(0.03, 0.33, correlation=0.5) == 950


def test_power_by_hand():
    # The shift is 2 standard errors: P(Z > 1.96 - 2) + P(Z < -1.96 - 2).
    assert power(-0.1, 0.05) == pytest.approx(stats.norm.cdf(0.0400360) + stats.norm.cdf(-3.9599640), abs=1e-7)
    assert power(0.0, 0.05) == pytest.approx(0.05, abs=1e-12)
    # (1.959964 + 0.841621) standard errors, but for the other side's tail.
    assert minimal_detectable_effect(0.01) == pytest.approx(0.02801585, abs=1e-7)


@pytest.mark.parametrize(("effect", "groups"), [(0.2, 30), (0.4, 96), (0.05, 203)])
def test_power_of_the_t_test_is_that_of_statsmodels(effect, groups):
    theirs = TTestPower().power(effect, groups, 0.05, alternative="two-sided")
    assert power(effect, 1 / math.sqrt(groups), df=groups - 1) == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("df", [1, 1.4, 2, 5, 95, 1000])
def test_power_grows_with_the_effect_at_any_degrees_of_freedom(df):
    reached = [power(effect, 1.0, df=df) for effect in np.arange(0, 40, 0.25)]
    assert reached[0] == pytest.approx(0.05, abs=1e-9)
    assert np.diff(reached).min() > -1e-9
    assert 0.8 < reached[-1] <= 1 + 1e-9
    assert power(minimal_detectable_effect(1.0, df=df), 1.0, df=df) == pytest.approx(0.8, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.001, 0.2), st.floats(0.25, 0.97), st.sampled_from([5, 95, math.inf]), st.floats(0.8, 0.99))
def test_the_smallest_visible_effect_has_that_power(error, wanted, df, level):
    effect = minimal_detectable_effect(error, power=wanted, df=df, level=level)
    assert power(effect, error, df=df, level=level) == pytest.approx(wanted, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.01, 0.3), st.floats(0.1, 0.5), st.floats(0, 0.9), st.floats(0.5, 2))
def test_the_number_of_questions_is_the_smallest_that_suffices(effect, sd, correlation, design_effect):
    items = items_needed(effect, sd, correlation=correlation, design_effect=design_effect)

    def reached(n):
        return power(effect, difference_error(sd, n, correlation=correlation, design_effect=design_effect))

    assert reached(items) >= 0.8 - 1e-9
    assert items == 1 or reached(items - 1) < 0.8 + 1e-9


def test_power_is_how_often_the_test_finds_it():
    rng = np.random.default_rng(0)
    draws = rng.normal(0.1, 1, size=(4000, 400))
    found = stats.ttest_1samp(draws, 0.0, axis=1).pvalue < 0.05
    assert found.mean() == pytest.approx(power(0.1, 0.05, df=399), abs=0.025)


@pytest.mark.parametrize(
    "call",
    [
        lambda: power(0.1, 0.0),
        lambda: power(0.1, 0.1, level=95),
        lambda: minimal_detectable_effect(0.1, power=0.04),
        lambda: difference_error(0.3, 0),
        lambda: items_needed(0.0, 0.3),
    ],
)
def test_misuse_of_power_is_an_error(call):
    with pytest.raises(ValueError, match=r"."):
        call()


@pytest.mark.parametrize("df", [math.inf, 95, 2.4, 1])
def test_the_detectable_effect_is_found_four_times_out_of_five(df: float) -> None:
    shift = minimal_detectable_effect(1.0, df=df)
    rng = np.random.default_rng(7)
    draws = 40_000
    error = np.sqrt(rng.chisquare(df, draws) / df) if math.isfinite(df) else np.ones(draws)
    bound = stats.t.ppf(0.975, df) if math.isfinite(df) else stats.norm.ppf(0.975)
    assert np.mean(abs(shift + rng.standard_normal(draws)) / error > bound) == pytest.approx(0.8, abs=0.01)
