"""From the scores of single maps to a table: methods beside chance and priors, with intervals and paired tests.

The image is the unit of sampling: questions about one image share its target and its difficulty.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from radvqa.evaluate.multiplicity import holm
from radvqa.evaluate.paired import paired_t
from radvqa.evaluate.statistics import (
    Interval,
    bootstrap_means,
    group_numbers,
    group_sums,
    least_share_alike,
    percentile_limits,
)
from radvqa.explain.measured import (
    BY_STRATUM,
    CHANCE,
    LABEL_PRIOR,
    METRICS,
    NEAR_ZERO_NATS,
    ORDERS,
    TESTED,
    Difference,
    Estimate,
    Localisation,
    Reliance,
    Row,
    Scored,
)


def localisation_table(
    cases: Sequence[Scored],
    *,
    methods: Sequence[str],
    priors: Sequence[str],
    strata: Sequence[str] = (),
    references: Sequence[str] = (LABEL_PRIOR, CHANCE),
    level: float = 0.95,
    resamples: int = 5_000,
    seed: int = 0,
) -> Localisation:
    """Means and cluster-bootstrap intervals of every row and metric, paired tests against the references, strata.

    Holm's adjustment is over all methods and references within a metric of ``TESTED``; it is made for each metric
    apart, and methods are not compared with each other. A row takes part with the questions it is scored on; a
    difference is taken on those that both rows are scored on. Chance of ``auprc`` is ``auprc_elsewhere`` of the same
    map.

    Args:
        cases: what was measured.
        methods: rows of methods.
        priors: rows that never see the image or never see the question.
        strata: tags to break the table down by.
        references: priors that every method is compared with.
        level: of the intervals and tests.
        resamples: draws of whole images.
        seed: of the draws.
    """
    images = [case.image_id for case in cases]
    columns = {(row, metric): _column(cases, row, metric) for row in (*methods, *priors) for metric in METRICS}
    columns |= {(row, "specificity"): _specificity(cases, row) for row in methods}
    estimates = _estimates(columns, images, level=level, resamples=resamples, seed=seed)
    rows: dict[str, Row] = {}
    for row in (*methods, *priors):
        reasons = Counter(case.excluded[row] for case in cases if row in case.excluded)
        rows[row] = {
            "kind": "method" if row in methods else "prior",
            "questions": sum(row in case.scores for case in cases),
            "metrics": {metric: one for (name, metric), one in estimates.items() if name == row},
            "excluded": dict(reasons.most_common()),
        }
    return {
        "questions": len(cases),
        "images": len(set(images)),
        "level": level,
        "median_area": _known(float(np.median([case.area for case in cases]))) if cases else None,
        "rows": rows,
        "differences": [
            one
            for metric in TESTED
            for one in _differences(columns, images, metric, methods=methods, references=references, level=level)
        ],
        "strata": {
            name: _by_value(cases, name, (*methods, *priors), level=level, resamples=resamples, seed=seed)
            for name in strata
        },
        "faithfulness": _faithfulness(cases, images, methods=methods, level=level, resamples=resamples, seed=seed),
        "reliance": reliance_of([case.reliance for case in cases]),
    }


def reliance_of(values: Iterable[float]) -> Reliance:
    """How many answers hardly depend on the image: less than ``NEAR_ZERO_NATS``, a factor of about 1.1, either way."""
    known = np.array([value for value in values if not math.isnan(value)])
    return {
        "questions": len(known),
        "near_zero": float((np.abs(known) < NEAR_ZERO_NATS).mean()) if len(known) else None,
        "near_zero_nats": NEAR_ZERO_NATS,
        "median": float(np.median(known)) if len(known) else None,
    }


def _column(cases: Sequence[Scored], row: str, metric: str) -> Float[np.ndarray, " n"]:
    """The metric of a row for every question; NaN where it is undefined."""
    found = [case.scores.get(row, {}).get(metric) for case in cases]
    return np.array([math.nan if value is None else value for value in found], dtype=np.float64)


def _specificity(cases: Sequence[Scored], method: str) -> Float[np.ndarray, " n"]:
    found = [case.specificity.get(method) for case in cases]
    return np.array([math.nan if value is None else value for value in found], dtype=np.float64)


def _faithfulness(
    cases: Sequence[Scored], images: Sequence[str], *, methods: Sequence[str], level: float, resamples: int, seed: int
) -> dict[str, dict[str, Estimate]]:
    """What taking cells away and putting them back tells, of the methods and of orders that need no map."""
    measured = dict.fromkeys(row for case in cases for row in case.faithfulness)
    rows = [row for row in methods if row in measured] + [row for row in ORDERS if row in measured]
    columns = {
        (row, name): np.array([case.faithfulness.get(row, {}).get(name, math.nan) for case in cases])
        for row in rows
        for name in dict.fromkeys(name for case in cases for name in case.faithfulness.get(row, {}))
    }
    estimates = _estimates(columns, images, level=level, resamples=resamples, seed=seed)
    return {row: {name: one for (of, name), one in estimates.items() if of == row} for row in rows}


def _estimates(
    columns: Mapping[tuple[str, str], Float[np.ndarray, " n"]],
    images: Sequence[str],
    *,
    level: float,
    resamples: int,
    seed: int,
) -> dict[tuple[str, str], Estimate]:
    """Mean and percentile interval of every column, from the same draws of images.

    As in ``statistics.score_interval``, a column of hits and misses claims no more than all hits (or all misses) on as
    many images could.
    """
    if not images or not columns:
        return {}
    values = np.stack(list(columns.values()), axis=1)
    sums, sizes = group_sums(values, images)
    lows, highs = percentile_limits(bootstrap_means(sums, sizes, resamples=resamples, seed=seed), level=level)
    found: dict[tuple[str, str], Estimate] = {}
    for number, (key, column) in enumerate(columns.items()):
        groups, questions = int((sizes[:, number] > 0).sum()), int(sizes[:, number].sum())
        mean = float(np.nanmean(column)) if questions else math.nan
        low, high = (float(lows[number]), float(highs[number])) if groups > 1 else (math.nan, math.nan)
        if groups > 1 and np.isin(column[~np.isnan(column)], (0.0, 1.0)).all():
            alike = least_share_alike(groups, level=level)
            low, high = min(low, alike), max(high, 1 - alike)
        found[key] = _estimate(Interval(mean, low, high, groups, questions))
    return found


def _differences(
    columns: Mapping[tuple[str, str], Float[np.ndarray, " n"]],
    images: Sequence[str],
    metric: str,
    *,
    methods: Sequence[str],
    references: Sequence[str],
    level: float,
) -> list[Difference]:
    pairs = [(method, reference) for method in methods for reference in references if (reference, metric) in columns]
    tests = []
    for method, reference in pairs:
        a, b = columns[method, metric], columns[reference, metric]
        if (metric, reference) == ("auprc", CHANCE):
            b = columns[method, "auprc_elsewhere"]
        both = ~(np.isnan(a) | np.isnan(b))
        ids = np.asarray(images)[both]
        tests.append((a[both], b[both], ids, paired_t(a[both], b[both], ids.tolist()) if both.any() else None))
    known = [number for number, (*_, test) in enumerate(tests) if test is not None and not math.isnan(test.p)]
    p_values = [tests[number][3].p for number in known]  # type: ignore[union-attr]
    adjusted = dict(zip(known, holm(p_values), strict=True))
    # Holm tests the smallest p at alpha / m, the next one at alpha / (m - 1), and so on until one is no difference: all
    # that are left share the level at which it stopped.
    stopped = sum(p < 1 - level for p in adjusted.values())
    ranked = sorted(known, key=lambda one: tests[one][3].p)  # type: ignore[union-attr]
    step = {number: min(place, stopped) for place, number in enumerate(ranked)}
    found: list[Difference] = []
    for number, ((method, reference), (a, b, ids, test)) in enumerate(zip(pairs, tests, strict=True)):
        low = high = None
        if number in adjusted:
            at = paired_t(a, b, ids.tolist(), level=1 - (1 - level) / (len(known) - step[number]))
            low, high = at.low, at.high
        p = adjusted.get(number)
        different = p is not None and p < 1 - level
        found.append(
            {
                "method": method,
                "reference": reference,
                "metric": metric,
                "difference": float((a - b).mean()) if len(a) else None,
                "low": low,
                "high": high,
                "p": test.p if test is not None and number in adjusted else None,
                "adjusted_p": p,
                "verdict": ("above" if (a - b).mean() > 0 else "below") if different else "",
                "images": group_numbers(ids.tolist())[1],
                "questions": len(a),
            }
        )
    return found


def _by_value(
    cases: Sequence[Scored], stratum: str, rows: Sequence[str], *, level: float, resamples: int, seed: int
) -> dict[str, dict[str, dict[str, Estimate]]]:
    found: dict[str, dict[str, dict[str, Estimate]]] = {}
    counts = Counter(case.tags[stratum] for case in cases if stratum in case.tags)
    for value, _ in counts.most_common():
        some = [case for case in cases if case.tags.get(stratum) == value]
        columns = {(row, metric): _column(some, row, metric) for row in rows for metric in BY_STRATUM}
        estimates = _estimates(columns, [case.image_id for case in some], level=level, resamples=resamples, seed=seed)
        found[value] = {row: {metric: estimates[row, metric] for metric in BY_STRATUM} for row in rows}
    return found


def _estimate(interval: Interval) -> Estimate:
    return {
        "mean": _known(interval.mean),
        "low": _known(interval.low),
        "high": _known(interval.high),
        "images": interval.groups,
        "questions": interval.samples,
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value
