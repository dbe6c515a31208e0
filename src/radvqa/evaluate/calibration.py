"""Whether a model knows when it is wrong: confidence against correctness.

``confidence`` is a probability from 0 to 1 that the answer is right, such as the probability of the generated answer;
``correct`` is 1 or 0, or a score between. Answers of equal confidence are never told apart, so nothing here depends on
the order of the samples.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from radvqa.evaluate.statistics import Groups, Interval, Scores, group_numbers

_MANY, _DRAWS_OF_MANY = 20_000, 200

Values = npt.NDArray[np.float64]
_Number = TypeVar("_Number", np.float64, np.intp)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Answers of like confidence: how many, their mean confidence and their accuracy."""

    samples: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """All figures with cluster-bootstrap intervals.

    ``ece`` cannot be negative and grows with chance alone: its draws lie above the value in small samples, so read the
    interval as an upper guide. ``aurc_random`` is the AURC of a confidence that knows nothing (the error rate),
    ``aurc_best`` of one that puts all right answers first. ``selective_accuracy``: by coverage, of the most confident
    answers. ``curve``: coverage and risk, at most 100 points.
    """

    samples: int
    groups: int
    ece: Interval
    brier: Interval
    aurc: Interval
    aurc_random: float
    aurc_best: float
    selective_accuracy: dict[float, Interval]
    bins: tuple[Bin, ...]
    curve: tuple[tuple[float, float], ...]


def calibration(
    confidence: Scores,
    correct: Scores,
    group_ids: Groups,
    *,
    bins: int = 10,
    coverages: tuple[float, ...] = (0.5, 0.8, 0.9),
    level: float = 0.95,
    resamples: int = 1000,
    seed: int,
) -> Calibration:
    """Calibration and selective prediction of one set of answers; see the single functions for the definitions.

    Intervals are percentiles over draws of whole groups with replacement: over ``resamples`` of them, at most 200 for
    more than 20,000 answers, and NaN where all draws are equal.

    Raises:
        ValueError: no samples, different lengths, or a value outside 0 to 1.
    """
    ranking = _Ranking(confidence, correct)
    index, groups = group_numbers(group_ids)
    if index.size != ranking.samples:
        raise ValueError(f"one group id per sample: {ranking.samples} samples, {index.size} group ids")

    def figures(copies: npt.NDArray[np.intp]) -> list[float]:
        counted = ranking.counted(copies)
        return [
            counted.calibration_error(bins),
            counted.brier,
            counted.area(),
            *(1 - float(counted.risks(_kept(coverage, counted.total))) for coverage in coverages),
        ]

    values = figures(np.ones(index.size, dtype=np.intp))
    limits = np.full((2, len(values)), np.nan)
    if groups > 1:
        rng = np.random.default_rng(seed)
        resamples = min(resamples, _DRAWS_OF_MANY) if index.size > _MANY else resamples
        times = (np.bincount(rng.integers(0, groups, groups), minlength=groups) for _ in range(resamples))
        draws = np.array([figures(drawn[index]) for drawn in times])
        limits = np.quantile(draws, ((1 - level) / 2, (1 + level) / 2), axis=0)
        # Equal draws, as where no answer is right, tell nothing of other groups.
        limits[:, np.ptp(limits, axis=0) <= 1e-12] = np.nan
    intervals = [
        Interval(value, float(low), float(high), groups, index.size)
        for value, low, high in zip(values, *limits, strict=True)
    ]
    return Calibration(
        samples=index.size,
        groups=groups,
        ece=intervals[0],
        brier=intervals[1],
        aurc=intervals[2],
        aurc_random=float(ranking.wrong.mean()),
        aurc_best=aurc(correct, correct),
        selective_accuracy=dict(zip(coverages, intervals[3:], strict=True)),
        bins=reliability(confidence, correct, bins=bins),
        curve=risk_coverage(confidence, correct),
    )


def expected_calibration_error(confidence: Scores, correct: Scores, *, bins: int = 10) -> float:
    """Mean over samples of |accuracy - mean confidence| of their bin; bins hold as nearly as many samples each.

    Equal-mass bins after Nguyen and O'Connor, EMNLP 2015; the measure is that of Naeini et al., AAAI 2015. Samples of
    equal confidence share a bin, so bins may be uneven or empty.

    Raises:
        ValueError: no samples, different lengths, a value outside 0 to 1, or fewer than one bin.
    """
    return _Ranking(confidence, correct).counted().calibration_error(bins)


def brier(confidence: Scores, correct: Scores) -> float:
    """Mean squared difference of confidence and correctness (Brier, Mon. Weather Rev. 1950); 0 is best.

    Raises:
        ValueError: no samples, different lengths, or a value outside 0 to 1.
    """
    return _Ranking(confidence, correct).counted().brier


def aurc(confidence: Scores, correct: Scores) -> float:
    """Area under the risk-coverage curve (Geifman et al., ICLR 2019): the mean risk over k = 1 to n samples kept.

    The risk at k is the expected error rate of the k most confident answers, ties in random order. 0 is best.

    Raises:
        ValueError: no samples, different lengths, or a value outside 0 to 1.
    """
    return _Ranking(confidence, correct).counted().area()


def selective_accuracy(confidence: Scores, correct: Scores, coverage: float) -> float:
    """Accuracy of the most confident answers, a share ``coverage`` of all (rounded up), ties in random order.

    Raises:
        ValueError: no samples, different lengths, a value outside 0 to 1, or a coverage of 0.
    """
    counted = _Ranking(confidence, correct).counted()
    return 1 - float(counted.risks(_kept(coverage, counted.total)))


def risk_coverage(confidence: Scores, correct: Scores, *, points: int = 100) -> tuple[tuple[float, float], ...]:
    """Coverage and risk of the most confident answers, from few to all of them, at ``points`` even steps at most.

    Raises:
        ValueError: no samples, different lengths, or a value outside 0 to 1.
    """
    counted = _Ranking(confidence, correct).counted()
    kept = np.unique(np.ceil(np.linspace(0, counted.total, points + 1)[1:]).astype(np.intp))
    return tuple((int(k) / counted.total, float(risk)) for k, risk in zip(kept, counted.risks(kept), strict=True))


def reliability(confidence: Scores, correct: Scores, *, bins: int = 10) -> tuple[Bin, ...]:
    """The bins of ``expected_calibration_error`` that hold samples, from the least confident one on.

    Raises:
        ValueError: no samples, different lengths, a value outside 0 to 1, or fewer than one bin.
    """
    ranking = _Ranking(confidence, correct)
    counted = ranking.counted()
    place = np.repeat(counted.places(bins), counted.sizes)
    return tuple(
        Bin(
            samples=int((place == one).sum()),
            confidence=float(ranking.sure[place == one].mean()),
            accuracy=1 - float(ranking.wrong[place == one].mean()),
        )
        for one in np.unique(place)
    )


class _Ranking:
    """Answers from the most confident one on, those of equal confidence as one tie."""

    def __init__(self, confidence: Scores, correct: Scores) -> None:
        sure, right = _checked(confidence, correct)
        self._order = np.argsort(-sure, kind="stable")
        self.samples = sure.size
        self.sure, self.wrong = sure[self._order], 1 - right[self._order]
        self.ties = np.flatnonzero(np.concatenate(([True], self.sure[1:] != self.sure[:-1])))
        self.gap = 1 - self.wrong - self.sure
        self._harmonic = np.zeros(1)

    def counted(self, copies: npt.NDArray[np.intp] | None = None) -> "_Counted":
        """The answers, each as often as ``copies`` says (in the order they were given in)."""
        return _Counted(self, np.ones(self.samples, dtype=np.intp) if copies is None else copies[self._order])

    def by_tie(self, values: npt.NDArray[_Number]) -> npt.NDArray[_Number]:
        """Sums over the answers of each tie."""
        if self.ties.size == self.samples:
            return values
        sums: npt.NDArray[_Number] = np.add.reduceat(values, self.ties)
        return sums

    def harmonic(self, most: int) -> Values:
        """The sums 1 + 1/2 + ... + 1/k for k from 0 to ``most`` or more."""
        if most >= self._harmonic.size:
            self._harmonic = np.concatenate(([0.0], np.cumsum(1 / np.arange(1, most + most // 8 + 2))))
        return self._harmonic


class _Counted:
    """Sums over each tie: ``sizes`` counts answers, ``errors`` the wrong ones of them."""

    def __init__(self, ranking: _Ranking, copies: npt.NDArray[np.intp]) -> None:
        self._ranking = ranking
        errors, self._gaps = ranking.by_tie(copies * ranking.wrong), ranking.by_tie(copies * ranking.gap)
        self.sizes = ranking.by_tie(copies)
        self._kept, self._errors = np.cumsum(self.sizes), np.cumsum(errors)
        self._rate = errors / np.maximum(self.sizes, 1)
        self._kept_before, self._errors_before = self._kept - self.sizes, self._errors - errors
        self.total = int(self._kept[-1])
        self.brier = float(copies @ np.square(ranking.gap)) / self.total

    def places(self, bins: int) -> npt.NDArray[np.intp]:
        """The bin of each tie: that in which its least confident answer falls, counted from below."""
        if bins < 1:
            raise ValueError("bins must be at least 1")
        places: npt.NDArray[np.intp] = (self.total - self._kept) * bins // self.total
        return places

    def calibration_error(self, bins: int) -> float:
        # Copies of nothing at the low end would fall into a bin of their own; their gap is 0.
        gaps = np.bincount(self.places(bins), weights=self._gaps, minlength=bins)
        return float(np.abs(gaps).sum()) / self.total

    def risks(self, kept: int | npt.NDArray[np.intp]) -> Values:
        """Expected error rates of the ``kept`` most confident answers; within a tie every answer bears its mean."""
        tie = np.searchsorted(self._kept, kept)
        risks: Values = (self._errors_before[tie] + self._rate[tie] * (kept - self._kept_before[tie])) / kept
        return risks

    def area(self) -> float:
        """The mean of the risks of 1, 2, ... answers.

        Within a tie of rate e after E errors in N answers the risk at N + j is e + (E - e N) / (N + j), so that its sum
        over j needs only differences of harmonic numbers.
        """
        harmonic = self._ranking.harmonic(self.total)
        rest = self._errors_before - self._rate * self._kept_before
        inside = rest @ (harmonic[self._kept] - harmonic[self._kept_before])
        return float(self._errors[-1] + inside) / self.total


def _kept(coverage: float, samples: int) -> int:
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage must lie above 0 and not above 1, not {coverage}")
    return int(np.ceil(coverage * samples - 1e-9))


def _checked(confidence: Scores, correct: Scores) -> tuple[Values, Values]:
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if sure.ndim != 1 or sure.shape != right.shape or not sure.size:
        raise ValueError(f"one confidence per answer: {sure.size} and {right.size}")
    if not ((sure >= 0) & (sure <= 1)).all() or not ((right >= 0) & (right <= 1)).all():
        raise ValueError("confidence and correctness must lie between 0 and 1")
    return sure, right
