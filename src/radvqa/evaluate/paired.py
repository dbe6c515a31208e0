"""Two sets of answers to the same questions: how far apart, and could chance have done it.

Pairing removes the difficulty that both share. As everywhere, the group (image, case, patient) is the unit of sampling;
``mcnemar`` alone takes questions as independent and serves as the reference that other papers print.
"""

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

from radvqa.evaluate.statistics import (
    Groups,
    Interval,
    Scores,
    cluster_bootstrap,
    group_numbers,
    least_share_alike,
    standard_error,
    without_spread,
)

_CELLS = 2_000_000  # groups x draws held in memory at once


class PairedT(NamedTuple):
    """Mean of a - b, its cluster-robust standard error, t with ``df`` = groups - 1, two-sided p and the interval.

    Where the groups do not differ there is no spread to test with, and ``t`` is NaN. p is then that of flipping signs
    by group: 1 where there is no difference, else 2^(1 - groups). The limits let the groups that may be otherwise all
    the same (see ``score_interval``) differ by 1, either way. With fewer than two groups all but the difference is NaN.
    """

    difference: float
    standard_error: float
    t: float
    df: int
    p: float
    low: float
    high: float
    groups: int
    samples: int


class McNemar(NamedTuple):
    """Answers that only one side got right, and two-sided p values: exact, mid-p, corrected chi-square."""

    only_a: int
    only_b: int
    exact: float
    mid_p: float
    corrected: float


class Equivalence(NamedTuple):
    """Two one-sided tests against a margin, and the interval that decides them, 1 - 2 alpha wide.

    ``p_not_worse`` tests "worse by the margin or more", ``p_not_better`` the other side; ``p`` is the larger one.
    ``not_worse`` and ``equivalent`` say whether ``p_not_worse`` and ``p`` are below alpha. The limits are NaN where
    they are not known.
    """

    p_not_worse: float
    p_not_better: float
    p: float
    low: float
    high: float
    not_worse: bool
    equivalent: bool


def paired_t(a: Scores, b: Scores, group_ids: Groups, *, level: float = 0.95) -> PairedT:
    """The clustered paired t test and interval of ``a - b``; the standard error is that of ``cluster_interval``.

    Scores go from 0 to 1, so the limits are cut to -1 and 1.

    Raises:
        ValueError: different lengths, a score that is not finite, or a level outside (0, 1).
    """
    differences = paired_scores(a, b)
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    _, groups = group_numbers(group_ids)
    error = standard_error(differences, group_ids)
    mean = float(differences.mean()) if differences.size else math.nan
    df = groups - 1
    if groups < 2:
        return PairedT(mean, error, math.nan, df, math.nan, math.nan, math.nan, groups, differences.size)
    if without_spread(error, mean):
        alike = least_share_alike(groups, level=level)
        p = 1.0 if mean == 0 else 2.0 ** (1 - groups)
        low, high = alike * mean - (1 - alike), alike * mean + (1 - alike)
        return PairedT(mean, error, math.nan, df, p, low, high, groups, differences.size)
    half = float(special.stdtrit(df, (1 + level) / 2)) * error
    t = mean / error
    p = float(2 * special.stdtr(df, -abs(t)))
    reach = 1.0 if np.abs(differences).max() <= 1.0 else math.inf
    low, high = max(mean - half, -reach), min(mean + half, reach)
    return PairedT(mean, error, t, df, p, low, high, groups, differences.size)


def mcnemar(a: Scores, b: Scores) -> McNemar:
    """The test of McNemar, Psychometrika 1947, for right or wrong answers (1 or 0): exact and mid-p.

    Only the discordant answers count: of those, as many should be right in ``a`` as in ``b``. It takes questions as
    independent.

    Raises:
        ValueError: different lengths, or a score that is neither 0 nor 1.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    differences = paired_scores(first, second)
    if not (np.isin(first, (0.0, 1.0)).all() and np.isin(second, (0.0, 1.0)).all()):
        raise ValueError("McNemar's test is for answers that are right (1) or wrong (0)")
    only_a, only_b = int((differences > 0).sum()), int((differences < 0).sum())
    discordant = only_a + only_b
    if not discordant:
        return McNemar(0, 0, 1.0, 1.0, 1.0)
    twice = 2 * float(stats.binom.cdf(min(only_a, only_b), discordant, 0.5))
    mid_p = twice - float(stats.binom.pmf(only_a, discordant, 0.5))
    corrected = float(stats.chi2.sf(max(abs(only_a - only_b) - 1, 0) ** 2 / discordant, 1))
    return McNemar(only_a, only_b, min(twice, 1.0), min(mid_p, 1.0), corrected)


def paired_bootstrap(
    a: Scores, b: Scores, group_ids: Groups, *, level: float = 0.95, resamples: int = 10_000, seed: int
) -> Interval:
    """Mean of ``a - b`` and the percentile interval from drawing whole groups (``statistics.cluster_bootstrap``).

    Raises:
        ValueError: as ``paired_t``, or fewer than one resample.
    """
    return cluster_bootstrap(paired_scores(a, b), group_ids, level=level, resamples=resamples, seed=seed)


def sign_flip_test(a: Scores, b: Scores, group_ids: Groups, *, draws: int = 10_000, seed: int) -> float:
    """Two-sided p of the randomisation test that swaps ``a`` and ``b`` in whole groups (Fisher, 1935).

    If both sides are alike, a group's difference is as likely as its negative. All 2^groups swaps are tried if these
    are no more than ``draws``; else p is (1 + swaps at least as extreme) / (1 + draws) of random ones (Phipson and
    Smyth, Stat. Appl. Genet. Mol. Biol. 2010), so it is never 0. NaN without any sample.

    Raises:
        ValueError: different lengths, a score that is not finite, or fewer than one draw.
    """
    differences = paired_scores(a, b)
    if draws < 1:
        raise ValueError("draws must be at least 1")
    index, groups = group_numbers(group_ids)
    if index.size != differences.size:
        raise ValueError(f"one group id per score: {differences.size} scores, {index.size} group ids")
    if not differences.size:
        return math.nan
    sums = np.bincount(index, weights=differences, minlength=groups)
    # Groups without a difference change nothing; signs are flipped by taking their sum away twice.
    sums = sums[sums != 0]
    total, bound = float(sums.sum()), abs(float(sums.sum())) - 1e-9 * float(np.abs(sums).sum())
    if 2**sums.size <= draws:
        flipped = (np.arange(2**sums.size)[:, None] >> np.arange(sums.size)) & 1
        return float((np.abs(total - 2 * (flipped @ sums)) >= bound).mean())
    rng = np.random.default_rng(seed)
    extreme = 0
    batch = max(1, _CELLS // sums.size)
    for start in range(0, draws, batch):
        rows = min(batch, draws - start)
        bits = np.unpackbits(rng.integers(0, 256, size=(rows, -(-sums.size // 8)), dtype=np.uint8), axis=1)
        extreme += int((np.abs(total - 2 * (bits[:, : sums.size].astype(np.float64) @ sums)) >= bound).sum())
    return (1 + extreme) / (1 + draws)


def equivalence(
    difference: float,
    standard_error: float,
    df: float,
    margin: float,
    *,
    alpha: float = 0.05,
    groups: int | None = None,
) -> Equivalence:
    """Whether ``difference`` is smaller than ``margin`` either way: two one-sided tests (Schuirmann, 1987).

    "Not significantly different" is no proof of sameness; this is. Both sides are t tests with ``df`` degrees of
    freedom (infinity for normal ones).

    The t test trusts the spread that was seen, which is too small where few groups differ and 0 where none does. With
    ``groups`` (how many there are; scores from 0 to 1) both limits therefore lie 1 - alpha^(1 / groups) further out:
    so many groups may differ by a whole point though none of those seen does (Clopper and Pearson, Biometrika 1934).
    Without ``groups``, nothing is shown where there is no spread.

    Raises:
        ValueError: a margin that is not positive, a negative standard error, or fewer than one group.
    """
    if not margin > 0 or standard_error < 0 or (groups is not None and groups < 1):
        raise ValueError("the margin must be positive, the standard error not negative, and groups at least 1")
    flat = without_spread(standard_error, difference)
    if groups is None and flat:
        return Equivalence(1.0, 1.0, 1.0, math.nan, math.nan, not_worse=False, equivalent=False)

    def half(log_alpha: float) -> float:
        spread = 0.0 if flat else max(float(stats.t.isf(math.exp(log_alpha), df)), 0.0) * standard_error
        return spread + (0.0 if groups is None else -math.expm1(log_alpha / groups))

    def p_of(room: float) -> float:
        """The level at which a limit comes to lie on the margin, ``room`` away."""
        spread = float(room <= 0) if flat else float(stats.t.sf(room / standard_error, df))
        unseen = 0.0 if groups is None else max(1 - max(room, 0.0), 0.0) ** groups
        # Each of the two parts alone would take the room at its own level, so both together do at a higher one.
        least, most = max(spread, unseen), 1 - 1e-15
        if groups is None or flat or least == 0:
            return least
        if room <= 0 or least >= most or half(math.log(most)) >= room:
            return 1.0
        if half(math.log(least)) <= room:  # But for rounding, one part is all there is.
            return least
        return math.exp(optimize.brentq(lambda x: half(x) - room, math.log(least), math.log(most)))

    not_worse, not_better = p_of(margin + difference), p_of(margin - difference)
    p, width = max(not_worse, not_better), half(math.log(alpha))
    return Equivalence(
        not_worse, not_better, p, difference - width, difference + width, not_worse < alpha, bool(p < alpha)
    )


def paired_scores(a: Scores, b: Scores) -> npt.NDArray[np.float64]:
    """``a - b``.

    Raises:
        ValueError: different lengths.
    """
    if len(a) != len(b):
        raise ValueError(f"paired scores need the same samples: {len(a)} and {len(b)}")
    return np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
