"""Everything there is to say about one set of predictions: counts, metrics, intervals, protocols, calibration, slices.

All of it is made of dicts, lists, strings and numbers and can be written as strict JSON: an undefined number is None.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, get_args

import numpy as np
from jaxtyping import Bool, Float, Int

from radvqa.errors import RecipeError
from radvqa.evaluate.calibration import calibration
from radvqa.evaluate.consistency import Consistency, consistency
from radvqa.evaluate.extraction import State
from radvqa.evaluate.metrics import HEADLINE, Scored, score_answer
from radvqa.evaluate.protocols import PROTOCOLS, Metric
from radvqa.evaluate.slices import SLICES, SliceContrast, slice_contrasts
from radvqa.evaluate.statistics import (
    bootstrap_means,
    design_effect,
    group_numbers,
    group_sums,
    percentile_limits,
    score_interval,
    wilson,
    without_spread,
)
from radvqa.evaluate.summary import (
    Estimate,
    Summary,
    check_unique,
    estimate,
    score_columns,
    summarise,
)
from radvqa.sample import Prediction

_HITS = ("accuracy", "exact_match")  # 0 or 1 for each answer, so that there are trials and hits
_CALIBRATION_DRAWS = 1_000


class Counts(TypedDict):
    """``states`` and ``flags``: how many answers are in each; only those that occur."""

    samples: int
    groups: int
    states: dict[str, int]
    flags: dict[str, int]


class Intervals(TypedDict):
    """The same mean with three intervals, and how much the groups widen its variance.

    ``wilson`` takes questions as independent and exists for metrics of hits only. ``clustered_t`` and ``bootstrap``
    take the groups as the unit. None where undefined: for fewer than two groups, and for a bootstrap of equal draws.
    """

    wilson: Estimate | None
    clustered_t: Estimate
    bootstrap: Estimate
    design_effect: float | None


class ProtocolMetric(TypedDict):
    """As ``radvqa.evaluate.protocols.Metric``: what the peer's program would print, in percent."""

    value: float | None
    counted: int
    crashed: int


class ProtocolScores(TypedDict):
    """``headline`` names the metrics that papers quote."""

    title: str
    metrics: dict[str, ProtocolMetric]
    headline: list[str]


class BinScores(TypedDict):
    """As ``radvqa.evaluate.calibration.Bin``."""

    samples: int
    confidence: float
    accuracy: float


class CalibrationScores(TypedDict):
    """As ``radvqa.evaluate.calibration.Calibration``; the confidence is the probability of the generated answer.

    ``without_probability``: answers of which it is not known, which are not part of it. ``selective_accuracy``: by
    coverage ("0.8"). ``curve``: pairs of coverage and risk.
    """

    samples: int
    groups: int
    without_probability: int
    ece: Estimate
    brier: Estimate
    aurc: Estimate
    aurc_random: float
    aurc_best: float
    selective_accuracy: dict[str, Estimate]
    bins: list[BinScores]
    curve: list[list[float]]


class _Required(TypedDict):
    counts: Counts
    summary: Summary
    intervals: dict[str, dict[str, Intervals]]
    protocols: dict[str, ProtocolScores]
    calibration: CalibrationScores | None
    consistency: Consistency | None
    worst_slices: list[SliceContrast]


class Scores(_Required, total=False):
    """What ``score_predictions`` returns. ``items``: one object per answer, in their order, if asked for."""

    items: list[dict[str, Any]]


def score_predictions(
    predictions: Sequence[Prediction],
    *,
    slices: Sequence[str] = SLICES,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    protocols: Sequence[str] | None = None,
    items: bool = False,
) -> Scores:
    """Score predictions with our metrics and under every published protocol (or those named).

    Nothing leaves a denominator of ours: missing, empty, refused and undecidable answers are counted and wrong. The
    order of the predictions does not matter, except to protocols that depend on it.

    Raises:
        DataError: no predictions, a sample that occurs twice, or one without a reference to compare with.
        RecipeError: a protocol that does not exist.
    """
    check_unique(predictions, where="the predictions")
    check_protocols(protocols)
    scored = [score_answer(prediction) for prediction in predictions]
    values = score_columns(scored)
    groups, count = group_numbers([prediction.group_id for prediction in predictions])
    by_protocol = {
        name: protocol.score(predictions)
        for name, protocol in PROTOCOLS.items()
        if protocols is None or name in protocols
    }
    scores = Scores(
        counts=_counts(scored, count),
        summary=summarise(predictions, slices=slices, level=level, scored=scored),
        intervals=_intervals(_parts(predictions), values, groups, level=level, resamples=resamples, seed=seed),
        protocols={name: _protocol(name, metrics) for name, metrics in by_protocol.items()},
        calibration=_calibration(predictions, values[HEADLINE], groups, level=level, resamples=resamples, seed=seed),
        consistency=consistency(predictions, scored, level=level),
        worst_slices=slice_contrasts(predictions, values[HEADLINE], groups, slices=slices, level=level),
    )
    if items:
        scores["items"] = _items(predictions, scored, by_protocol)
    return scores


def check_protocols(names: Sequence[str] | None) -> None:
    """Nothing, if all are protocols. Raises ``RecipeError`` for one that is none."""
    for name in names or ():
        if name not in PROTOCOLS:
            raise RecipeError(
                f"there is no protocol {name!r}",
                expected=f"one of {', '.join(PROTOCOLS)}",
            )


def _counts(scored: Sequence[Scored], groups: int) -> Counts:
    states, flags = Counter(one.state for one in scored), Counter(flag for one in scored for flag in one.flags)
    return Counts(
        samples=len(scored),
        groups=groups,
        states={state: states[state] for state in get_args(State) if states[state]},
        flags=dict(sorted(flags.items())),
    )


def _parts(predictions: Sequence[Prediction]) -> dict[str, Bool[np.ndarray, " samples"]]:
    """Overall and each answer type that occurs: which predictions belong to it."""
    types = np.array([prediction.answer_type for prediction in predictions])
    parts = {"overall": np.ones(len(predictions), dtype=bool)}
    return parts | {name: types == name for name in ("closed", "open") if (types == name).any()}


def _intervals(
    parts: Mapping[str, Bool[np.ndarray, " samples"]],
    values: Mapping[str, Float[np.ndarray, " samples"]],
    groups: Int[np.ndarray, " samples"],
    *,
    level: float,
    resamples: int,
    seed: int,
) -> dict[str, dict[str, Intervals]]:
    cells = [(part, metric) for part in parts for metric in values]
    # All columns see the same draws of groups; NaN keeps an answer out of the parts it does not belong to.
    columns = np.stack([np.where(parts[part], values[metric], np.nan) for part, metric in cells], axis=1)
    sums, sizes = group_sums(columns, groups)
    lows, highs = percentile_limits(bootstrap_means(sums, sizes, resamples=resamples, seed=seed), level=level)
    found: dict[str, dict[str, Intervals]] = {part: {} for part in parts}
    for (part, metric), low, high in zip(cells, lows, highs, strict=True):
        inside, members = values[metric][parts[part]], groups[parts[part]]
        mean = float(inside.mean())
        clustered = score_interval(inside, members, level=level)
        # Groups that are all alike give equal draws, which tell nothing of other groups.
        drawn = (low, high) if clustered.groups > 1 and not without_spread(high - low, mean) else (math.nan, math.nan)
        found[part][metric] = Intervals(
            wilson=_estimate(mean, *wilson(round(inside.sum()), inside.size, level=level)) if metric in _HITS else None,
            clustered_t=estimate(clustered),
            bootstrap=_estimate(mean, *drawn),
            design_effect=_finite(design_effect(inside, members)),
        )
    return found


def _protocol(name: str, metrics: Mapping[str, Metric]) -> ProtocolScores:
    return ProtocolScores(
        title=PROTOCOLS[name].title,
        metrics={
            metric: ProtocolMetric(value=_finite(one.value), counted=one.counted, crashed=one.crashed)
            for metric, one in metrics.items()
        },
        headline=list(PROTOCOLS[name].headline),
    )


def _calibration(
    predictions: Sequence[Prediction],
    right: Float[np.ndarray, " samples"],
    groups: Int[np.ndarray, " samples"],
    *,
    level: float,
    resamples: int,
    seed: int,
) -> CalibrationScores | None:
    """Of the answers whose probability is known; None if there are none."""
    known = [row for row, prediction in enumerate(predictions) if prediction.logprob is not None]
    if not known:
        return None
    confidence = np.exp([predictions[row].logprob or 0.0 for row in known])
    found = calibration(
        confidence, right[known], groups[known], level=level, resamples=min(resamples, _CALIBRATION_DRAWS), seed=seed
    )
    return CalibrationScores(
        samples=found.samples,
        groups=found.groups,
        without_probability=len(predictions) - len(known),
        ece=estimate(found.ece),
        brier=estimate(found.brier),
        aurc=estimate(found.aurc),
        aurc_random=found.aurc_random,
        aurc_best=found.aurc_best,
        selective_accuracy={str(coverage): estimate(one) for coverage, one in found.selective_accuracy.items()},
        bins=[BinScores(samples=one.samples, confidence=one.confidence, accuracy=one.accuracy) for one in found.bins],
        curve=[list(point) for point in found.curve],
    )


def _items(
    predictions: Sequence[Prediction], scored: Sequence[Scored], by_protocol: Mapping[str, Mapping[str, Metric]]
) -> list[dict[str, Any]]:
    return [
        {
            "sample_id": prediction.sample_id,
            "group_id": prediction.group_id,
            "answer_type": prediction.answer_type,
            "question": prediction.question,
            "references": list(prediction.references),
            "text": prediction.text,
            "state": one.state,
            "rule": one.rule,
            "answer": one.answer,
            "span": None if one.span is None else list(one.span),
            "verdict": one.verdict,
            "flags": list(one.flags),
            "scores": dict(one.scores),
            "protocols": {
                name: {metric: found.items[row] for metric, found in metrics.items()}
                for name, metrics in by_protocol.items()
            },
        }
        for row, (prediction, one) in enumerate(zip(predictions, scored, strict=True))
    ]


def _estimate(mean: float, low: float, high: float) -> Estimate:
    return Estimate(mean=_finite(mean), low=_finite(low), high=_finite(high))


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
