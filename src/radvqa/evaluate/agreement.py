"""How far readers agree about the same items: people with people, judges with people, a model with itself.

Two readers are compared by the table of their verdicts; more readers, with gaps, by ``ratings[readers, items]``, which
holds numbers (codes of categories, see ``codes``) and NaN for a missing rating. No coefficient says it all: where one
category prevails kappa is low however well readers agree (Feinstein and Cicchetti, J. Clin. Epidemiol. 1990), so give
AC1 and the plain agreement beside it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from jaxtyping import Float
from scipy import stats

from radvqa.evaluate.statistics import Groups, group_numbers

Ratings = Float[np.ndarray, "readers items"]
Counts = Float[np.ndarray, "items categories"]
Table = Sequence[Sequence[int]]

_NO_PAIR = "no item was judged by both readers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficient:
    """A coefficient of agreement with its interval; None where it is undefined, and ``note`` then says why."""

    value: float | None
    low: float | None
    high: float | None
    note: str = ""


def codes(ratings: Sequence[Sequence[str | None]]) -> Ratings:
    """Labels of each reader as numbers, in the order of the alphabet; None is a missing rating."""
    numbers = {label: n for n, label in enumerate(sorted({one for row in ratings for one in row if one is not None}))}
    return np.array([[math.nan if one is None else numbers[one] for one in row] for row in ratings], dtype=np.float64)


def rating_counts(ratings: Ratings, categories: Sequence[float] | None = None) -> Counts:
    """How many readers put each item into each category; by default the categories that occur, in order.

    Raises:
        ValueError: a rating that is not among the categories.
    """
    known = np.unique(ratings[~np.isnan(ratings)]) if categories is None else np.asarray(categories, dtype=np.float64)
    if not np.isin(ratings[~np.isnan(ratings)], known).all():
        raise ValueError(f"ratings must be among the categories {known.tolist()}")
    counts: Counts = (ratings[:, :, None] == known).sum(axis=0).astype(np.float64)
    return counts


def cohen_kappa(
    table: Table, *, weights: Literal["none", "linear", "quadratic"] = "none", level: float = 0.95
) -> Coefficient:
    """Kappa of Cohen, Educ. Psychol. Meas. 1960 and (weighted) Psychol. Bull. 1968, for two readers.

    ``table[i][j]`` counts the items that the first reader put into category i and the second into j. Weighted kappa is
    for ordered categories: agreement falls linearly or by the square of the distance. The interval is the large-sample
    one of Fleiss, Cohen and Everitt, Psychol. Bull. 1969. Undefined where both readers gave only one verdict.
    """
    shares, items = _shares(table)
    if not items:
        return _nothing(_NO_PAIR)
    steps = np.arange(len(shares))
    distance = np.abs(steps[:, None] - steps[None, :]) / max(len(shares) - 1, 1)
    weight = {"none": (distance == 0).astype(np.float64), "linear": 1 - distance, "quadratic": 1 - distance**2}[weights]
    first, second = shares.sum(axis=1), shares.sum(axis=0)
    chance = float(first @ weight @ second)
    if chance >= 1.0:
        return _nothing("both readers gave one and the same verdict to all items, which leaves chance no room")
    kappa = (float((shares * weight).sum()) - chance) / (1 - chance)
    # Per cell, as in the paper: the agreement it counts for, less what the margins make of it.
    margins = (weight @ second)[:, None] + (first @ weight)[None, :]
    spread = float((shares * (weight - margins * (1 - kappa)) ** 2).sum()) - (kappa - chance * (1 - kappa)) ** 2
    half = float(stats.norm.ppf((1 + level) / 2))
    return _coefficient(kappa, spread / ((1 - chance) ** 2 * items), half)


def two_reader_ac1(table: Table, *, level: float = 0.95) -> Coefficient:
    """AC1 of Gwet, Br. J. Math. Stat. Psychol. 2008, 61:29-48, with its large-sample interval for two readers.

    As kappa, but chance agreement is sum(pi (1 - pi)) / (categories - 1) with pi the mean share of a category over both
    readers, so that it stays small where one verdict prevails. Categories that never occur count.
    """
    cells = np.asarray(table, dtype=np.float64)
    items = float(cells.sum())
    if not items:
        return _nothing(_NO_PAIR)
    one = np.eye(len(cells))
    value, terms = _ac1((one[:, None] + one[None, :]).reshape(cells.size, len(cells)), cells.ravel())
    variance = float((cells.ravel() * (terms - value) ** 2).sum()) / items**2
    return _coefficient(value, variance, float(stats.norm.ppf((1 + level) / 2)))


def gwet_ac1(counts: Counts, *, level: float = 0.95) -> Coefficient:
    """AC1 of Gwet for any number of readers with gaps; ``counts`` as from ``rating_counts``.

    An item with one rating still tells how frequent the categories are. Value, variance (of one linearised term per
    item) and t interval are those of Gwet, Handbook of Inter-Rater Reliability, 4th ed., 2014, sampling of items alone.
    """
    return _of_items(counts, _ac1, level)


def fleiss_kappa(counts: Counts, *, level: float = 0.95) -> Coefficient:
    """Kappa of Fleiss, Psychol. Bull. 1971, for any number of readers (other ones per item, gaps); interval as AC1.

    Chance agreement is sum(pi^2) with pi the mean share of a category. Undefined where only one category occurs.
    """
    return _of_items(counts, _fleiss, level)


def brennan_prediger(counts: Counts, *, level: float = 0.95) -> Coefficient:
    """Agreement against a chance of 1 / categories (Brennan and Prediger, 1981); interval as AC1.

    With the same number of readers per item it is the free-marginal kappa of Randolph, 2005.
    """
    return _of_items(counts, _brennan_prediger, level)


def conger_kappa(ratings: Ratings) -> float:
    """Kappa of Conger, Psychol. Bull. 1980: chance from each reader's own shares; Cohen's kappa for two readers.

    NaN where undefined. ``bootstrap_interval`` gives limits.
    """
    counts = rating_counts(ratings)
    agreed, _ = _agreed(counts, np.ones(len(counts)))
    known = np.unique(ratings[~np.isnan(ratings)])
    given = (ratings[:, :, None] == known).sum(axis=1)
    readers = len(ratings)
    if readers < 2 or not given.sum(axis=1).all():
        return math.nan
    shares = given / given.sum(axis=1, keepdims=True)
    # The mean over pairs of different readers of the chance that both name one category.
    chance = float(((shares.sum(axis=0) ** 2).sum() - (shares**2).sum()) / (readers * (readers - 1)))
    return (agreed - chance) / (1 - chance) if chance < 1 else math.nan


def krippendorff_alpha(
    ratings: Ratings, scale: Literal["nominal", "ordinal", "interval", "ratio"] = "nominal"
) -> float:
    """Alpha of Krippendorff, Content Analysis, 4th ed., 2019: 1 - observed / expected disagreement, gaps allowed.

    ``scale`` says what a difference of two values weighs: nominal 1; interval (c - k)^2; ratio ((c - k) / (c + k))^2;
    ordinal the square of the number of ratings from c to k, those at the ends counted half. NaN where no item has two
    ratings or only one value occurs. ``bootstrap_interval`` gives limits.

    Raises:
        ValueError: negative values on a ratio scale.
    """
    values = np.unique(ratings[~np.isnan(ratings)])
    if scale == "ratio" and (values < 0).any():
        raise ValueError("a ratio scale has no negative values")
    counts = rating_counts(ratings)
    counts = counts[counts.sum(axis=1) >= 2]
    pairs = counts.sum(axis=1, keepdims=True) - 1
    # A rating paired with itself is counted too; its distance is 0.
    coincidences = (counts / pairs).T @ counts
    frequency = counts.sum(axis=0)
    if scale == "nominal":
        distance = 1 - np.eye(values.size)
    elif scale == "interval":
        distance = (values[:, None] - values[None, :]) ** 2
    elif scale == "ratio":
        sums = values[:, None] + values[None, :]
        distance = ((values[:, None] - values[None, :]) / np.where(sums == 0, 1, sums)) ** 2
    else:
        middle = np.cumsum(frequency) - frequency / 2
        distance = (middle[:, None] - middle[None, :]) ** 2
    expected = float(frequency @ distance @ frequency)
    if not expected > 0:
        return math.nan
    return 1 - (float(frequency.sum()) - 1) * float((coincidences * distance).sum()) / expected


def bootstrap_interval(
    coefficient: Callable[[Ratings], float],
    ratings: Ratings,
    group_ids: Groups | None = None,
    *,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int,
) -> Coefficient:
    """Any coefficient with its percentile interval from drawing items, or whole groups of items, with replacement.

    Draws that leave the coefficient undefined are left out; ``note`` counts them. With more than 1 in 20 there is no
    interval.

    Raises:
        ValueError: a number of group ids other than that of the items.
    """
    items = ratings.shape[1]
    index, groups = group_numbers(np.arange(items) if group_ids is None else group_ids)
    if index.size != items:
        raise ValueError(f"one group id per item: {items} items, {index.size} group ids")
    value = coefficient(ratings)
    if math.isnan(value):
        return _nothing("the coefficient is undefined for these ratings")
    members = [np.flatnonzero(index == group) for group in range(groups)]
    rng = np.random.default_rng(seed)
    draws = np.array(
        [
            coefficient(ratings[:, np.concatenate([members[group] for group in rng.integers(0, groups, groups)])])
            for _ in range(resamples)
        ]
    )
    undefined = int(np.isnan(draws).sum())
    note = f"{undefined} of {resamples} draws left it undefined" if undefined else ""
    if groups < 2 or undefined > resamples / 20:
        return Coefficient(value=value, low=None, high=None, note=note or "one group gives no interval")
    low, high = np.quantile(draws[~np.isnan(draws)], ((1 - level) / 2, (1 + level) / 2))
    return Coefficient(value=value, low=float(low), high=float(high), note=note)


def _of_items(
    counts: Counts,
    terms_of: Callable[[Counts, npt.NDArray[np.float64]], tuple[float, npt.NDArray[np.float64]]],
    level: float,
) -> Coefficient:
    rated = counts[counts.sum(axis=1) > 0]
    items = len(rated)
    if not (rated.sum(axis=1) >= 2).any():
        return _nothing("no item has two ratings")
    if rated.shape[1] < 2:
        return _nothing("only one category occurs; name all categories that could have been given")
    value, terms = terms_of(rated, np.ones(items))
    if math.isnan(value):
        return _nothing("only one category occurs, which leaves chance no room")
    if items < 2:
        return Coefficient(value=value, low=None, high=None, note="one item gives no interval")
    variance = float(((terms - value) ** 2).sum()) / (items * (items - 1))
    return _coefficient(value, variance, float(stats.t.ppf((1 + level) / 2, items - 1)))


def _agreed(counts: Counts, times: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
    """Share of agreeing pairs of ratings, the mean over items that have a pair, and each item's share (else 0)."""
    ratings = counts.sum(axis=1)
    pairs = ratings * (ratings - 1)
    share = np.where(pairs > 0, (counts * (counts - 1)).sum(axis=1) / np.where(pairs > 0, pairs, 1), 0.0)
    paired = float(times[pairs > 0].sum())
    return float((times * share).sum()) / paired if paired else math.nan, share


def _linearised(
    counts: Counts, times: npt.NDArray[np.float64], chance: float, own_chance: npt.NDArray[np.float64] | float
) -> tuple[float, npt.NDArray[np.float64]]:
    """A chance-corrected coefficient, and per item the term whose spread over items is that of the coefficient.

    ``times``: how often each item occurs. ``own_chance``: chance agreement as this item alone would have it.
    """
    agreed, share = _agreed(counts, times)
    if chance >= 1:
        return math.nan, share
    value = (agreed - chance) / (1 - chance)
    paired = counts.sum(axis=1) >= 2
    inflation = float(times.sum() / times[paired].sum())
    own = inflation * (share - chance * paired) / (1 - chance)
    return value, own - 2 * (1 - value) * (own_chance - chance) / (1 - chance)


def _prevalence(counts: Counts, times: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shares: npt.NDArray[np.float64] = (times / times.sum()) @ (counts / counts.sum(axis=1, keepdims=True))
    return shares


def _ac1(counts: Counts, times: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
    share, others = _prevalence(counts, times), counts.shape[1] - 1
    own = counts @ (1 - share) / counts.sum(axis=1) / others
    return _linearised(counts, times, float((share * (1 - share)).sum()) / others, own)


def _fleiss(counts: Counts, times: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
    share = _prevalence(counts, times)
    return _linearised(counts, times, float((share**2).sum()), counts @ share / counts.sum(axis=1))


def _brennan_prediger(counts: Counts, times: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
    chance = 1 / counts.shape[1]
    return _linearised(counts, times, chance, chance)


def _shares(table: Table) -> tuple[npt.NDArray[np.float64], int]:
    counts = np.asarray(table, dtype=np.float64)
    items = int(counts.sum())
    return counts / max(items, 1), items


def _coefficient(value: float, variance: float, quantile: float) -> Coefficient:
    if variance <= 1e-15:  # rounding may leave a trace of either sign
        return Coefficient(value=value, low=None, high=None, note="no spread was seen, so there is no interval")
    half = quantile * math.sqrt(variance)
    return Coefficient(value=value, low=max(value - half, -1.0), high=min(value + half, 1.0))


def _nothing(note: str) -> Coefficient:
    return Coefficient(value=None, low=None, high=None, note=note)
