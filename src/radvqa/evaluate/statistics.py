"""Means with honest intervals when answers about one image, case or patient are alike.

Questions about one image share its difficulty, so they are not independent: 1,000 questions about 100 images say little
more than 100 questions do. Every interval here therefore treats the *group* as the unit of sampling.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Float
from scipy import special, stats

Scores = Sequence[float] | npt.NDArray[np.float64]
Groups = Sequence[str] | npt.NDArray[np.integer]
"""The group of each sample: names, or whole numbers (faster for many samples)."""

_BOOTSTRAP_CELLS = 2_000_000  # groups x draws held in memory at once: 16 MB per array


class Interval(NamedTuple):
    """A mean over samples with its confidence limits; limits are NaN where fewer than two groups leave them undefined.

    ``groups`` and ``samples`` are counts. The mean of no samples is NaN.
    """

    mean: float
    low: float
    high: float
    groups: int
    samples: int


def cluster_interval(scores: Scores, group_ids: Groups, *, level: float = 0.95) -> Interval:
    """Mean and cluster-robust t interval; each sample weighs the same, whatever the size of its group.

    With residuals e = score - mean, n samples and G groups the standard error is
    sqrt(G / (G - 1) * sum over groups of (sum of e in the group)^2) / n, and the interval is mean +- t(G - 1) times it.
    This is the sandwich of Liang and Zeger, Biometrika 1986, for a mean under working independence, with the
    small-sample factor G / (G - 1) (known as CR1) and the G - 1 degrees of freedom that Cameron and Miller, J. Human
    Resources 2015, recommend.

    The limits may leave the range of the scores; ``score_interval`` is for scores from 0 to 1.

    Raises:
        ValueError: different lengths, a score that is not finite, or a level outside (0, 1).
    """
    values, index, groups = _checked(scores, group_ids, level)
    if groups < 2:
        return _undefined(values, groups)
    mean, standard_error = float(values.mean()), _standard_error(values, index, groups)
    half_width = float(special.stdtrit(groups - 1, 0.5 + level / 2)) * standard_error
    return Interval(mean, mean - half_width, mean + half_width, groups, values.size)


def score_interval(scores: Scores, group_ids: Groups, *, level: float = 0.95) -> Interval:
    """``cluster_interval`` for scores from 0 to 1: cut to that range, and honest near its ends.

    Where groups do not differ (all scores are 1, or every group has the same mean) the sandwich sees no variance and
    would claim certainty. All groups like those seen are then ((1 - level) / 2)^(1 / groups) of all at least: the exact
    limit of Clopper and Pearson, Biometrika 1934, with the groups as trials. The limits let the others be all wrong,
    or all right. For groups of equal size this holds however alike their answers are, since a group is all right at
    most as often as one of its answers is.

    With a few errors the sandwich sees too little variance. No score therefore claims more than a perfect one: the
    lower limit is at most that of all right, the upper one at least that of all wrong.

    Raises:
        ValueError: as ``cluster_interval``, or a score outside 0 to 1.
    """
    interval = cluster_interval(scores, group_ids, level=level)
    if interval.samples and (np.min(scores) < 0.0 or np.max(scores) > 1.0):
        raise ValueError("scores must lie between 0 and 1")
    if interval.groups < 2:
        return interval
    alike = least_share_alike(interval.groups, level=level)
    if without_spread(interval.high - interval.low, interval.mean):
        return interval._replace(low=alike * interval.mean, high=1.0 - alike * (1.0 - interval.mean))
    return interval._replace(low=min(max(interval.low, 0.0), alike), high=max(min(interval.high, 1.0), 1.0 - alike))


def without_spread(width: float, mean: float) -> bool:
    """Whether a width is nothing but the rounding of a mean."""
    return width <= 1e-12 * max(abs(mean), 1e-300)


def least_share_alike(groups: int, *, level: float) -> float:
    """The lower limit of the share of groups like those seen, all of which are alike (see ``score_interval``)."""
    return float(((1 - level) / 2) ** (1 / groups))


def cluster_bootstrap(
    scores: Scores, group_ids: Groups, *, level: float = 0.95, resamples: int = 10_000, seed: int
) -> Interval:
    """Mean and percentile interval from drawing whole groups with replacement.

    Each draw takes as many groups as there are and keeps all samples of a drawn group; its mean is over samples, so
    groups of different size weigh by their size. This is the cluster bootstrap of Field and Welsh, JRSS B 2007
    ("randomised cluster"), with the percentile limits of Efron and Tibshirani, 1993, chapter 13. It assumes no normal
    mean and serves as the check on ``cluster_interval``; with few groups it is somewhat too narrow.

    Raises:
        ValueError: as ``cluster_interval``, or fewer than one resample.
    """
    values, index, groups = _checked(scores, group_ids, level)
    if resamples < 1:
        raise ValueError("resamples must be at least 1")
    if groups < 2:
        return _undefined(values, groups)
    draws = bootstrap_means(
        np.bincount(index, weights=values, minlength=groups)[:, None],
        np.bincount(index, minlength=groups).astype(np.float64),
        resamples=resamples,
        seed=seed,
    )
    (low,), (high,) = percentile_limits(draws, level=level)
    return Interval(float(values.mean()), float(low), float(high), groups, values.size)


def bootstrap_means(
    sums: Float[np.ndarray, "groups columns"],
    sizes: Float[np.ndarray, " groups"] | Float[np.ndarray, "groups columns"],
    *,
    resamples: int = 10_000,
    seed: int,
) -> Float[np.ndarray, "resamples columns"]:
    """Means of many columns (metrics, slices, models) over the same draws of whole groups with replacement.

    ``sums``: the sum of the scores of each group; ``sizes``: how many scores these are, one size for all columns or
    one per column where a column is a slice. Since all columns see the same draws, differences of columns are paired
    bootstrap draws. A draw that holds no score of a column gives NaN there. See ``group_sums`` and
    ``percentile_limits``.

    Raises:
        ValueError: shapes that do not fit, no groups, or fewer than one resample.
    """
    if sums.ndim != 2 or not sums.size or sizes.shape not in (sums.shape, sums.shape[:1]):
        raise ValueError(f"sums must be [groups, columns] and sizes fit to them, not {sums.shape} and {sizes.shape}")
    if resamples < 1:
        raise ValueError("resamples must be at least 1")
    groups, columns = sums.shape
    # Slices often come with several metrics: each distinct column of sizes is summed once.
    distinct, which = np.unique(sizes.reshape(groups, -1), axis=1, return_inverse=True)
    both = np.ascontiguousarray(np.hstack([sums, distinct]), dtype=np.float64)
    rng = np.random.default_rng(seed)
    draws = np.empty((resamples, columns))
    batch = max(1, _BOOTSTRAP_CELLS // groups)
    for start in range(0, resamples, batch):
        part = draws[start : start + batch]
        drawn = rng.integers(0, groups, size=(len(part), groups), dtype=np.uint32)
        # Drawing a group twice is counting it twice: the sums over a draw are a matrix product with the counts.
        counts = np.stack([np.bincount(row, minlength=groups) for row in drawn]).astype(np.float64)
        totals = counts @ both
        with np.errstate(invalid="ignore"):
            np.divide(totals[:, :columns], totals[:, columns:][:, which], out=part)
    return draws


def percentile_limits(
    draws: Float[np.ndarray, "resamples columns"], *, level: float = 0.95
) -> tuple[Float[np.ndarray, " columns"], Float[np.ndarray, " columns"]]:
    """The percentile interval of each column (Efron and Tibshirani, 1993, chapter 13); NaN draws are left out.

    A column is NaN where every draw is.
    """
    quantiles = ((1 - level) / 2, (1 + level) / 2)
    defined = ~np.isnan(draws)
    limits = np.full((2, draws.shape[1]), np.nan)
    whole = defined.all(axis=0)
    limits[:, whole] = np.quantile(draws[:, whole], quantiles, axis=0)
    for column in np.flatnonzero(~whole & defined.any(axis=0)):
        limits[:, column] = np.quantile(draws[defined[:, column], column], quantiles)
    return limits[0], limits[1]


def group_sums(
    scores: Float[np.ndarray, "samples columns"], group_ids: Groups
) -> tuple[Float[np.ndarray, "groups columns"], Float[np.ndarray, "groups columns"]]:
    """Sum and number of the scores of each group in each column, as ``bootstrap_means`` takes them.

    NaN marks a sample that is not part of a column (another slice). Groups are in alphabetical order.

    Raises:
        ValueError: different lengths, or an infinite score.
    """
    index, groups = group_numbers(group_ids)
    if scores.ndim != 2 or len(scores) != index.size or np.isinf(scores).any():
        raise ValueError(f"scores must be [samples, columns] and finite or NaN: {scores.shape}, {index.size} group ids")
    sums, sizes = np.empty((groups, scores.shape[1])), np.empty((groups, scores.shape[1]))
    for column, values in enumerate(scores.T):
        counted = ~np.isnan(values)
        sums[:, column] = np.bincount(index[counted], weights=values[counted], minlength=groups)
        sizes[:, column] = np.bincount(index[counted], minlength=groups)
    return sums, sizes


def standard_error(scores: Scores, group_ids: Groups | None = None) -> float:
    """The standard error of the mean: cluster-robust (see ``cluster_interval``), or as of independent samples.

    Without groups it is sqrt(variance / n), variance with n - 1. NaN for fewer than two groups or samples.

    Raises:
        ValueError: different lengths, or a score that is not finite.
    """
    ids = np.arange(len(scores)) if group_ids is None else group_ids
    values, index, groups = _checked(scores, ids, 0.5)
    return _standard_error(values, index, groups) if groups > 1 else float("nan")


def design_effect(scores: Scores, group_ids: Groups) -> float:
    """How much the groups widen the variance of the mean: clustered over unclustered variance (Kish, 1965).

    Below 1 the questions of a group are less alike than those of different groups. NaN where either is undefined or
    where all scores are equal.
    """
    alone = standard_error(scores)
    return (standard_error(scores, group_ids) / alone) ** 2 if alone > 0 else float("nan")


def wilson(hits: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """The limits of Wilson, J. Am. Stat. Assoc. 1927, for ``hits`` of ``n`` independent trials.

    Raises:
        ValueError: fewer than one trial, or hits outside 0 to n.
    """
    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"hits must lie between 0 and the number of trials (1 or more), not {hits} of {n}")
    z2 = float(special.ndtri((1 + level) / 2)) ** 2
    middle, half = hits + z2 / 2, math.sqrt(z2 * (hits * (n - hits) / n + z2 / 4))
    return (middle - half) / (n + z2) if hits else 0.0, (middle + half) / (n + z2) if hits < n else 1.0


def clopper_pearson(hits: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """The exact limits of Clopper and Pearson, Biometrika 1934, for ``hits`` of ``n`` independent trials.

    Raises:
        ValueError: fewer than one trial, or hits outside 0 to n.
    """
    limits = stats.binomtest(hits, n).proportion_ci(confidence_level=level, method="exact")
    return float(limits.low), float(limits.high)


def paired_difference(a: Scores, b: Scores, group_ids: Groups, *, level: float = 0.95) -> Interval:
    """Mean of ``a - b`` over the same samples with its cluster-robust t interval.

    Pairing removes the difficulty that both share, so it sees differences that two separate intervals hide. Where all
    differences are equal (two identical runs) the interval has zero width.

    Raises:
        ValueError: different lengths, a score that is not finite, or a level outside (0, 1).
    """
    if len(a) != len(b):
        raise ValueError(f"paired scores need the same samples: {len(a)} and {len(b)}")
    return cluster_interval(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64), group_ids, level=level)


def group_numbers(group_ids: Groups) -> tuple[npt.NDArray[np.intp], int]:
    """The number of each sample's group, from 0 in sorted order, and how many groups there are."""
    ids = np.asarray(group_ids)
    names, index = np.unique(ids if ids.dtype.kind in "iu" else ids.astype(str), return_inverse=True)
    return index, names.size


def _checked(
    scores: Scores, group_ids: Groups, level: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp], int]:
    """The scores, the group number of each, and how many groups there are."""
    values = np.asarray(scores, dtype=np.float64)
    index, groups = group_numbers(group_ids)
    if values.shape != index.shape:
        raise ValueError(f"one group id per score: {values.shape} scores, {index.size} group ids")
    if not np.isfinite(values).all():
        raise ValueError("scores must be finite; count undefined ones before and leave them out")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    return values, index, groups


def _standard_error(values: npt.NDArray[np.float64], index: npt.NDArray[np.intp], groups: int) -> float:
    residual_sums = np.bincount(index, weights=values - values.mean(), minlength=groups)
    return float(np.sqrt(groups / (groups - 1) * np.square(residual_sums).sum())) / values.size


def _undefined(values: npt.NDArray[np.float64], groups: int) -> Interval:
    mean = float(values.mean()) if values.size else float("nan")
    return Interval(mean, float("nan"), float("nan"), groups, values.size)
