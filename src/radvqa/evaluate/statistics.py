"""Means with honest intervals when answers about one image, case or patient are alike.

Questions about one image share its difficulty, so they are not independent: 1,000 questions about 100 images say little
more than 100 questions do. Every interval here therefore treats the *group* as the unit of sampling.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import stats

Scores = Sequence[float] | npt.NDArray[np.float64]

_BOOTSTRAP_CELLS = 5_000_000  # draws held in memory at once (groups x resamples): some 40 MB per array


class Interval(NamedTuple):
    """A mean over samples with its confidence limits; limits are NaN where fewer than two groups leave them undefined.

    ``groups`` and ``samples`` are counts. The mean of no samples is NaN.
    """

    mean: float
    low: float
    high: float
    groups: int
    samples: int


def cluster_interval(scores: Scores, group_ids: Sequence[str], *, level: float = 0.95) -> Interval:
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
    mean = float(values.mean())
    residual_sums = np.bincount(index, weights=values - mean, minlength=groups)
    standard_error = float(np.sqrt(groups / (groups - 1) * np.square(residual_sums).sum())) / values.size
    half_width = float(stats.t.ppf(0.5 + level / 2, groups - 1)) * standard_error
    return Interval(mean, mean - half_width, mean + half_width, groups, values.size)


def score_interval(scores: Scores, group_ids: Sequence[str], *, level: float = 0.95) -> Interval:
    """``cluster_interval`` for scores from 0 to 1: cut to that range, and never of zero width at a perfect score.

    When all scores are 1 (or all 0) the sandwich sees no variance and would claim certainty. The limit is then
    ((1 - level) / 2)^(1 / groups) (or one minus that): the exact limit of Clopper and Pearson, Biometrika 1934, with
    the groups as trials. For groups of equal size it holds however alike their answers are, since a group is all right
    at most as often as one of its answers is.

    Raises:
        ValueError: as ``cluster_interval``, or a score outside 0 to 1.
    """
    interval = cluster_interval(scores, group_ids, level=level)
    if interval.samples and (min(scores) < 0.0 or max(scores) > 1.0):
        raise ValueError("scores must lie between 0 and 1")
    if interval.groups < 2:
        return interval
    exact = float(((1 - level) / 2) ** (1 / interval.groups))
    if min(scores) == 1.0:
        return interval._replace(low=exact, high=1.0)
    if max(scores) == 0.0:
        return interval._replace(low=0.0, high=1.0 - exact)
    return interval._replace(low=max(interval.low, 0.0), high=min(interval.high, 1.0))


def cluster_bootstrap(
    scores: Scores, group_ids: Sequence[str], *, level: float = 0.95, resamples: int = 10_000, seed: int
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
    sums = np.bincount(index, weights=values, minlength=groups)
    sizes = np.bincount(index, minlength=groups).astype(np.float64)
    result = stats.bootstrap(
        (sums, sizes),
        _ratio,
        paired=True,  # a group's sum and its size are drawn together
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, min(resamples, _BOOTSTRAP_CELLS // groups)),
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    low, high = result.confidence_interval
    return Interval(float(values.mean()), float(low), float(high), groups, values.size)


def paired_difference(a: Scores, b: Scores, group_ids: Sequence[str], *, level: float = 0.95) -> Interval:
    """Mean of ``a - b`` over the same samples with its cluster-robust t interval.

    Pairing removes the difficulty that both share, so it sees differences that two separate intervals hide. Where all
    differences are equal (two identical runs) the interval has zero width.

    Raises:
        ValueError: different lengths, a score that is not finite, or a level outside (0, 1).
    """
    if len(a) != len(b):
        raise ValueError(f"paired scores need the same samples: {len(a)} and {len(b)}")
    return cluster_interval(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64), group_ids, level=level)


def _checked(
    scores: Scores, group_ids: Sequence[str], level: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.intp], int]:
    """The scores, the group number of each, and how many groups there are."""
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != (len(group_ids),):
        raise ValueError(f"one group id per score: {values.shape} scores, {len(group_ids)} group ids")
    if not np.isfinite(values).all():
        raise ValueError("scores must be finite; count undefined ones before and leave them out")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    unique, index = np.unique(np.asarray(group_ids, dtype=str), return_inverse=True)
    return values, index, unique.size


def _undefined(values: npt.NDArray[np.float64], groups: int) -> Interval:
    mean = float(values.mean()) if values.size else float("nan")
    return Interval(mean, float("nan"), float("nan"), groups, values.size)


def _ratio(sums: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64], axis: int) -> npt.NDArray[np.float64]:
    ratio: npt.NDArray[np.float64] = sums.sum(axis=axis) / sizes.sum(axis=axis)
    return ratio
