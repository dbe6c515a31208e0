"""Agreement of measurements: the intraclass correlations."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy import stats

from radvqa.evaluate.agreement import Coefficient


class IntraclassCorrelations(NamedTuple):
    """The six coefficients of Shrout and Fleiss, 1979, in the names of McGraw and Wong, 1996.

    ``one_way``: every item has other readers. ``agreement``: readers drawn at random, their levels count.
    ``consistency``: these readers, their levels do not count. ``_single`` is about one rating, ``_average`` about the
    mean of all: (1,1), (A,1), (C,1), (1,k), (A,k), (C,k).
    """

    one_way_single: Coefficient
    agreement_single: Coefficient
    consistency_single: Coefficient
    one_way_average: Coefficient
    agreement_average: Coefficient
    consistency_average: Coefficient


def intraclass_correlations(
    ratings: Float[np.ndarray, "readers items"], *, level: float = 0.95
) -> IntraclassCorrelations:
    """All six intraclass correlations with their F intervals; every reader measures every item.

    Source: McGraw and Wong, Psychol. Methods 1996, table 4 for the values and table 7 for the limits. Undefined where
    nothing varies, and for the mean of all ratings where these differ no more between items than by chance (the
    denominator is not positive). Estimates may lie below -1.

    Raises:
        ValueError: fewer than two readers or items, or a rating that is missing.
    """
    if ratings.ndim != 2 or min(ratings.shape) < 2 or not np.isfinite(ratings).all():
        raise ValueError(f"intraclass correlations need a full table of two readers and items or more: {ratings.shape}")
    k, n = ratings.shape
    grand, items, readers = ratings.mean(), ratings.mean(axis=0), ratings.mean(axis=1)
    ms_item = k * float(((items - grand) ** 2).sum()) / (n - 1)
    ms_reader = n * float(((readers - grand) ** 2).sum()) / (k - 1)
    ms_error = float(((ratings - items - readers[:, None] + grand) ** 2).sum()) / ((n - 1) * (k - 1))
    ms_within = float(((ratings - items) ** 2).sum()) / (n * (k - 1))
    # Of equal means only their rounding is left.
    rounding = 1e-12 * max(ms_item, ms_reader, ms_error, ms_within)
    ms_item, ms_reader, ms_error, ms_within = (
        0.0 if one <= rounding else one for one in (ms_item, ms_reader, ms_error, ms_within)
    )
    tail = (1 + level) / 2

    def one_way(within: float, df: int) -> tuple[float, float, float]:
        """The single-rating coefficient and its limits; these compare the items' mean square with that within."""
        if not within > 0:
            return (1.0, math.nan, math.nan) if ms_item > 0 else (math.nan,) * 3
        ratios = (
            ms_item / within,
            ms_item / within / float(stats.f.ppf(tail, n - 1, df)),
            ms_item / within * float(stats.f.ppf(tail, df, n - 1)),
        )
        value, low, high = ((ratio - 1) / (ratio + k - 1) for ratio in ratios)
        return value, low, high

    def agreement() -> tuple[float, float, float]:
        total = ms_item + (k - 1) * ms_error + k * (ms_reader - ms_error) / n
        if not total > 0:
            return (math.nan,) * 3
        value = (ms_item - ms_error) / total
        if value >= 1:
            return value, math.nan, math.nan
        a, b = k * value / (n * (1 - value)), 1 + k * value * (n - 1) / (n * (1 - value))
        parts = (a * ms_reader) ** 2 / (k - 1) + (b * ms_error) ** 2 / ((n - 1) * (k - 1))
        if not parts > 0:
            return value, math.nan, math.nan
        df = (a * ms_reader + b * ms_error) ** 2 / parts
        noise = k * ms_reader + (k * n - k - n) * ms_error
        below, above = float(stats.f.ppf(tail, n - 1, df)), float(stats.f.ppf(tail, df, n - 1))
        low = n * (ms_item - below * ms_error) / (below * noise + n * ms_item)
        high = n * (above * ms_item - ms_error) / (noise + n * above * ms_item)
        return value, low, high

    single = (one_way(ms_within, n * (k - 1)), agreement(), one_way(ms_error, (n - 1) * (k - 1)))
    average = tuple(_coefficient(*(_of_mean(rho, k) for rho in found)) for found in single)
    return IntraclassCorrelations(*(_coefficient(*found) for found in single), *average)


def _of_mean(rho: float, k: int) -> float:
    """Of the mean of ``k`` ratings, by Spearman and Brown; NaN where the variance of that mean is not positive.

    The denominator is, up to a positive factor, that of table 4: the mean square of items for (1,k) and (C,k), that
    plus (readers - error) / items for (A,k).
    """
    denominator = 1 + (k - 1) * rho
    return k * rho / denominator if denominator > 1e-12 else math.nan


def _coefficient(value: float, low: float, high: float) -> Coefficient:
    if math.isnan(value):
        return Coefficient(value=None, low=None, high=None, note="items do not vary, or no more than by chance")
    note = "below -1: items differ less than by chance" if value < -1 else ""
    if math.isnan(low) or math.isnan(high):
        return Coefficient(value=value, low=None, high=None, note=note or "there is no interval: no error was seen, or "
                           "items differ too little")  # fmt: skip
    return Coefficient(value=value, low=low, high=high, note=note)
