"""Several readers, several tests, the same cases (MRMC): differences that hold for other readers and other cases.

The analysis is that of Obuchowski and Rockette, Commun. Stat. Simul. Comput. 1995, with the degrees of freedom of
Hillis, Stat. Med. 2007. Readers may be people with and without help, or models trained with several seeds; tests are
the conditions compared; cases are images.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Shaped
from scipy import stats

from radvqa.evaluate.statistics import Groups, group_numbers


@dataclass(frozen=True, slots=True, kw_only=True)
class TestMean:
    """The mean of one test over its readers, from its own readers and covariances only."""

    __test__ = False  # not a test case for pytest

    mean: float
    standard_error: float
    df: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TestDifference:
    """Mean of test ``first`` minus that of ``second`` (numbers from 0), with its two-sided p value.

    Where neither readers nor cases differ the standard error is 0, the limits have no width and p is 0 or 1: that is no
    evidence, only too little data to see any spread.
    """

    __test__ = False

    first: int
    second: int
    difference: float
    standard_error: float
    df: float
    p: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MrmcAnalysis:
    """Readers and cases both random.

    ``estimates``: the metric of each reader in each test. ``ms_test``, ``ms_reader``, ``ms_interaction``: mean squares
    of these. ``variance`` is the mean error variance of an estimate over cases; covariances: ``cov1`` of one reader in
    two tests, ``cov2`` of two readers in one test, ``cov3`` of two readers in two tests. ``f`` with ``df1`` and ``df2``
    tests whether all tests are alike. The p values of ``differences`` are not adjusted for their number.
    """

    estimates: tuple[tuple[float, ...], ...]
    ms_test: float
    ms_reader: float
    ms_interaction: float
    variance: float
    cov1: float
    cov2: float
    cov3: float
    f: float
    df1: int
    df2: float
    p: float
    means: tuple[TestMean, ...]
    differences: tuple[TestDifference, ...]


def obuchowski_rockette(
    scores: Float[np.ndarray, "tests readers samples"],
    group_ids: Groups | None = None,
    *,
    level: float = 0.95,
    floor_at_cases: bool = False,
) -> MrmcAnalysis:
    """MRMC analysis of mean scores, such as accuracy: ``scores[t, r, i]`` of reader r in test t on sample i.

    ``group_ids`` name the case (image) of each sample; samples of one case may differ in number and the metric stays
    the mean over samples. Without them each sample is a case. Covariances are jackknifed over cases. With fewer than
    five readers set ``floor_at_cases`` (see ``analyse``).

    Raises:
        ValueError: fewer than two tests, readers or cases, shapes that do not fit, or a score that is not finite.
    """
    _check(scores, "scores")
    index, cases = group_numbers(np.arange(scores.shape[2]) if group_ids is None else group_ids)
    if index.size != scores.shape[2]:
        raise ValueError(f"one group id per sample: {scores.shape[2]} samples, {index.size} group ids")
    if cases < 2:
        raise ValueError("the jackknife needs at least two cases")
    sizes = np.bincount(index, minlength=cases)
    sums = np.zeros((*scores.shape[:2], cases))
    for place in np.ndindex(*scores.shape[:2]):
        sums[place] = np.bincount(index, weights=scores[place], minlength=cases)
    left_out = (sums.sum(axis=2, keepdims=True) - sums) / (index.size - sizes)
    return analyse(scores.mean(axis=2), jackknife_covariance(left_out), level=level, floor_at_cases=floor_at_cases)


def auc_study(
    ratings: Float[np.ndarray, "tests readers cases"],
    diseased: Sequence[bool] | Shaped[np.ndarray, " cases"],
    *,
    method: Literal["jackknife", "delong"] = "jackknife",
    level: float = 0.95,
) -> MrmcAnalysis:
    """MRMC analysis of the empirical area under the ROC curve; a higher rating means rather diseased.

    ``method`` names the covariances: the jackknife over all cases, or those of DeLong et al., Biometrics 1988.

    Raises:
        ValueError: fewer than two tests, readers, or cases of either kind; or a rating that is not finite.
    """
    _check(ratings, "ratings")
    truth = np.asarray(diseased, dtype=bool)
    if truth.shape != ratings.shape[2:]:
        raise ValueError(f"one truth per case: {ratings.shape[2]} cases, {truth.size} truths")
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if min(positives, negatives) < 2:
        raise ValueError("the area under the curve needs at least two cases with and two without disease")
    above = np.empty((*ratings.shape[:2], positives))  # of each diseased case: share of the others it is rated above
    below = np.empty((*ratings.shape[:2], negatives))
    for place in np.ndindex(*ratings.shape[:2]):
        signs = np.sign(ratings[place][truth][:, None] - ratings[place][~truth][None, :])
        wins = (signs + 1) / 2
        above[place], below[place] = wins.mean(axis=1), wins.mean(axis=0)
    areas = above.mean(axis=2)
    if method == "delong":
        covariance = _covariance(above) / positives + _covariance(below) / negatives
    else:
        # Without one diseased case the area is the mean of the other diseased cases' shares; likewise for the healthy.
        left_out = np.concatenate(
            [
                (positives * areas[..., None] - above) / (positives - 1),
                (negatives * areas[..., None] - below) / (negatives - 1),
            ],
            axis=2,
        )
        covariance = jackknife_covariance(left_out)
    return analyse(areas, covariance, level=level)


def jackknife_covariance(
    left_out: Float[np.ndarray, "tests readers cases"],
) -> Float[np.ndarray, "tests readers tests readers"]:
    """Covariances of estimates from their values with one case left out: (n - 1)^2 / n times the sample covariance."""
    cases = left_out.shape[2]
    covariance = _covariance(left_out)
    covariance *= (cases - 1) ** 2 / cases
    return covariance


def analyse(
    estimates: Float[np.ndarray, "tests readers"],
    covariance: Float[np.ndarray, "tests readers tests readers"],
    *,
    level: float = 0.95,
    floor_at_cases: bool = False,
) -> MrmcAnalysis:
    """The analysis of any metric from each reader's estimates and their covariances over cases.

    The denominator of F is MS(TR) + max(r (Cov2 - Cov3), 0), and df2 is its square over MS(TR)^2 / ((t - 1)(r - 1)).
    Means of single tests follow Hillis, Stat. Med. 2014, with variance (MS(R) + max(r Cov2, 0)) / r within the test.

    Mean squares of two or three readers may come out far too small by chance. ``floor_at_cases`` takes MS(TR) as at
    least Var - Cov1 - Cov2 + Cov3 (and MS(R) within a test as at least Var - Cov2), what cases alone must bring: no
    error is then below that for these very readers. This is ours and no part of the published analysis. Two readers
    stay too few for a claim about others: see the false alarms in docs/statistics.md.

    Raises:
        ValueError: fewer than two tests or readers, or covariances of another shape.
    """
    tests, readers = estimates.shape
    if tests < 2 or readers < 2:
        raise ValueError(f"needs at least two tests and two readers, not {tests} and {readers}")
    if covariance.shape != (tests, readers, tests, readers):
        raise ValueError(f"covariance must be {(tests, readers, tests, readers)}, not {covariance.shape}")
    by_test, by_reader, grand = estimates.mean(axis=1), estimates.mean(axis=0), estimates.mean()
    ms_test = readers * float(((by_test - grand) ** 2).sum()) / (tests - 1)
    ms_reader = tests * float(((by_reader - grand) ** 2).sum()) / (readers - 1)
    free = (tests - 1) * (readers - 1)
    residual = estimates - by_test[:, None] - by_reader[None, :] + grand
    ms_interaction = float((residual**2).sum()) / free

    same_test = np.eye(tests, dtype=bool)[:, None, :, None]
    same_reader = np.eye(readers, dtype=bool)[None, :, None, :]

    def mean_of(chosen: Shaped[np.ndarray, "..."]) -> float:
        return float(covariance[np.broadcast_to(chosen, covariance.shape)].mean())

    variance, cov1 = mean_of(same_test & same_reader), mean_of(~same_test & same_reader)
    cov2, cov3 = mean_of(same_test & ~same_reader), mean_of(~same_test & ~same_reader)
    spread = max(ms_interaction, variance - cov1 - cov2 + cov3) if floor_at_cases else ms_interaction
    error = spread + max(readers * (cov2 - cov3), 0.0)
    df2 = _hillis(error, spread, free)
    f = ms_test / error if error > 0 else (math.inf if ms_test > 0 else math.nan)
    return MrmcAnalysis(
        estimates=tuple(tuple(float(value) for value in row) for row in estimates),
        ms_test=ms_test,
        ms_reader=ms_reader,
        ms_interaction=ms_interaction,
        variance=variance,
        cov1=cov1,
        cov2=cov2,
        cov3=cov3,
        f=f,
        df1=tests - 1,
        df2=df2,
        p=f_test(f, tests - 1, df2),
        means=tuple(_mean(row, covariance[i, :, i, :], level, floor_at_cases) for i, row in enumerate(estimates)),
        differences=tuple(
            _difference((i, j), float(by_test[i] - by_test[j]), math.sqrt(2 * error / readers), df2, level)
            for i, j in itertools.combinations(range(tests), 2)
        ),
    )


def f_test(f: float, df1: float, df2: float) -> float:
    """The p value of F with ``df1`` and ``df2`` degrees of freedom; 1 where F is NaN (nothing differs at all)."""
    if math.isnan(f):
        return 1.0
    return float(stats.chi2.sf(f * df1, df1) if math.isinf(df2) else stats.f.sf(f, df1, df2))


def _check(values: Float[np.ndarray, "tests readers samples"], name: str) -> None:
    if values.ndim != 3 or min(values.shape[:2]) < 2:
        raise ValueError(f"{name} must be [tests, readers, samples] with two tests and readers or more: {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} must be finite: every reader must have judged every sample in every test")


def _covariance(values: Float[np.ndarray, "tests readers cases"]) -> Float[np.ndarray, "tests readers tests readers"]:
    tests, readers, cases = values.shape
    covariance: Float[np.ndarray, "estimates estimates"] = np.cov(values.reshape(tests * readers, cases))
    return covariance.reshape(tests, readers, tests, readers)


def _hillis(error: float, mean_square: float, free: int) -> float:
    return error**2 / (mean_square**2 / free) if mean_square > 0 else math.inf


def _mean(
    estimates: Float[np.ndarray, " readers"],
    covariance: Float[np.ndarray, "readers readers"],
    level: float,
    floor_at_cases: bool,
) -> TestMean:
    readers = estimates.size
    mean, mean_square = float(estimates.mean()), float(estimates.var(ddof=1))
    cov2 = float(covariance[~np.eye(readers, dtype=bool)].mean())
    if floor_at_cases:
        mean_square = max(mean_square, float(np.diag(covariance).mean()) - cov2)
    error = mean_square + max(readers * cov2, 0.0)
    df, deviation = _hillis(error, mean_square, readers - 1), math.sqrt(error / readers)
    half = float(stats.t.ppf((1 + level) / 2, df)) * deviation
    return TestMean(mean=mean, standard_error=deviation, df=df, low=mean - half, high=mean + half)


def _difference(tests: tuple[int, int], difference: float, deviation: float, df: float, level: float) -> TestDifference:
    half = float(stats.t.ppf((1 + level) / 2, df)) * deviation
    return TestDifference(
        first=tests[0],
        second=tests[1],
        difference=difference,
        standard_error=deviation,
        df=df,
        p=float(2 * stats.t.sf(abs(difference) / deviation, df)) if deviation > 0 else float(difference == 0),
        low=difference - half,
        high=difference + half,
    )
