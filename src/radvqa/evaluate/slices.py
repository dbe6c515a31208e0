"""Slices of the answers against the rest: where a model is worse than elsewhere, and whether chance explains it."""

import math
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from radvqa.evaluate.multiplicity import holm
from radvqa.evaluate.summary import NOT_STATED, rows_by, tag_value
from radvqa.sample import Prediction

SLICES = ("modality", "content_type")
FEWEST_ANSWERS = 10
"""In a slice and in the rest; smaller slices are not compared."""

_FEWEST_GROUPS = 2


class SliceContrast(TypedDict):
    """The headline metric of a slice against all other answers. ``p`` tests that both are alike.

    ``p_holm`` is adjusted for the number of slices; see ``slice_contrasts``.
    """

    tag: str
    value: str
    samples: int
    groups: int
    mean: float
    rest: float
    difference: float
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None


def slice_contrasts(
    predictions: Sequence[Prediction],
    values: Float[np.ndarray, " samples"],
    groups: Int[np.ndarray, " samples"],
    *,
    slices: Sequence[str] = SLICES,
    level: float = 0.95,
) -> list[SliceContrast]:
    """Each slice against all other answers, worst difference first; slices below 10 answers are left out.

    The difference d of two means that share groups is a sum of a_i (s_i - mean), a_i = 1/n in the slice and -1/m in
    the rest. p is from the score test d / sqrt(G/(G-1) sum over groups of (sum of a_i (s_i - mean))^2), whose residuals
    are those under "no difference", so that a slice without any spread is not taken for certain (Rao, 1948; with
    clusters Boos, Am. Statistician 1992). The interval takes the residuals from the two means instead. Both use
    Student's t with as many degrees of freedom as the side with fewer groups has, less one. p is adjusted over all
    slices after Holm.
    """
    found: list[SliceContrast] = []
    kinds = {"answer_type": lambda prediction: prediction.answer_type, **{tag: tag_value(tag) for tag in slices}}
    for tag, key in kinds.items():
        by_value = rows_by(predictions, key)
        contrasts = []
        for value, rows in by_value:
            if value != NOT_STATED and min(len(rows), len(predictions) - len(rows)) >= FEWEST_ANSWERS:
                inside = np.zeros(len(predictions), dtype=bool)
                inside[rows] = True
                contrasts.append(_contrast(tag, value, values, groups, inside, level=level))
        # Of two values each is the rest of the other: one comparison, told for the worse one.
        found += [min(contrasts, key=_difference)] if contrasts and len(by_value) == 2 else contrasts
    tested = [one for one in found if one["p"] is not None]
    for one, adjusted in zip(tested, holm([one["p"] or 0.0 for one in tested]), strict=True):
        one["p_holm"] = adjusted
    return sorted(found, key=_difference)


def _difference(one: SliceContrast) -> float:
    return one["difference"]


def _contrast(
    tag: str,
    value: str,
    values: Float[np.ndarray, " samples"],
    groups: Int[np.ndarray, " samples"],
    inside: Bool[np.ndarray, " samples"],
    *,
    level: float,
) -> SliceContrast:
    mean, rest = float(values[inside].mean()), float(values[~inside].mean())
    weights = np.where(inside, 1 / inside.sum(), -1 / (~inside).sum())
    sides = [int(np.unique(groups[side]).size) for side in (inside, ~inside)]
    found = SliceContrast(
        tag=tag, value=value, samples=int(inside.sum()), groups=sides[0], mean=mean, rest=rest,
        difference=mean - rest, low=None, high=None, p=None, p_holm=None,
    )  # fmt: skip
    if min(sides) < _FEWEST_GROUPS:
        return found
    factor = (total := int(np.unique(groups).size)) / (total - 1)
    under_null, apart = (
        math.sqrt(factor * float(np.square(np.bincount(groups, weights=weights * residuals)).sum()))
        for residuals in (values - values.mean(), values - np.where(inside, mean, rest))
    )
    df = min(sides) - 1
    half = float(stats.t.ppf(0.5 + level / 2, df)) * apart
    found["low"], found["high"] = max(-1.0, mean - rest - half), min(1.0, mean - rest + half)
    found["p"] = float(2 * stats.t.sf(abs(mean - rest) / under_null, df)) if under_null > 0 else 1.0
    return found
