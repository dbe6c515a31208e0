"""Whole models beside each other on the same questions: differences, tests, power and equivalence.

Everything returned is made of dicts, strings and numbers and can be written as strict JSON: an undefined number is
``None``, never NaN.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypedDict

import numpy as np
from jaxtyping import Float

from radvqa.errors import DataError
from radvqa.evaluate.comparison import adjust_by_holm, aligned, coarsest_groups, reference_of
from radvqa.evaluate.metrics import HEADLINE, METRICS, score_answer
from radvqa.evaluate.paired import PairedT, equivalence, mcnemar, paired_t, sign_flip_test
from radvqa.evaluate.power import minimal_detectable_effect
from radvqa.evaluate.statistics import bootstrap_means, group_sums, percentile_limits
from radvqa.evaluate.summary import NOT_STATED, rows_by
from radvqa.sample import Prediction

Verdict = Literal["better", "worse", "same", "not_worse", "unclear", "too_few", "undefined"]
"""What may be claimed: ``same`` and ``not_worse`` are within the margin; ``too_few`` groups could not show a difference
however large; ``undefined`` for fewer than two groups."""

SLICES = ("modality", "organ", "content_type")
_RIGHT_OR_WRONG = ("accuracy", "exact_match")


class Limits(TypedDict):
    """Confidence limits; None where undefined."""

    low: float | None
    high: float | None


class McNemarCounts(TypedDict):
    """Questions that only one side got right, and the exact and mid-p test, which take questions as independent."""

    only_reference: int
    only_model: int
    exact: float
    mid_p: float


class EquivalenceTest(TypedDict):
    """Two one-sided tests against the margin; the limits are those of the interval that decides them."""

    margin: float
    p: float | None
    low: float | None
    high: float | None
    not_worse: bool
    equivalent: bool


class Paired(TypedDict):
    """One model beside the reference on the same questions; ``difference`` is model minus reference, all from 0 to 1.

    ``clustered_t`` and ``bootstrap``: limits of the difference, groups as the unit. ``mcnemar``: None for a metric that
    is not right or wrong. ``p``: the larger one of ``p_t`` (clustered t) and ``p_randomisation`` (signs flipped by
    group), so that a claim needs both; ``adjusted_p`` by Holm. ``least_p``: the smallest ``adjusted_p`` that so few
    groups allow, since flipping G signs gives 2^(1 - G) at best. ``detectable``: the smallest true difference that
    these questions would have shown with 80 % probability. None where undefined (fewer than two groups, no spread, or
    a ``least_p`` that allows no claim).
    """

    samples: int
    groups: int
    reference: float
    model: float
    difference: float
    clustered_t: Limits
    bootstrap: Limits
    mcnemar: McNemarCounts | None
    p_t: float | None
    p_randomisation: float | None
    p: float | None
    adjusted_p: float | None
    least_p: float | None
    detectable: float | None
    equivalence: EquivalenceTest
    verdict: Verdict


class ModelComparison(TypedDict):
    """One model beside the reference. ``parts``: all, closed, open; ``slices``: tag → value.

    ``only_reference`` and ``only_model`` count questions that the other side lacks and that are left out (with
    ``common``); ``unanswered`` counts those compared that the model gave no answer to: they are wrong. ``other_texts``
    counts those to which both said something different, right or wrong.
    """

    only_reference: int
    only_model: int
    unanswered: int
    other_texts: int
    parts: dict[str, Paired]
    slices: dict[str, dict[str, Paired]]


class PairedComparisons(TypedDict):
    """What ``radvqa compare`` tells. Holm's adjustment is over the models in ``parts``, over a model's ``slices``.

    ``groups_of``: whose groups are used, the coarsest; ``finer_groups``: how many groups those have that split them.
    """

    reference: str
    metric: str
    level: float
    margin: float
    samples: int
    groups: int
    groups_of: str
    finer_groups: dict[str, int]
    unanswered: int
    models: dict[str, ModelComparison]


def compare_models(
    predictions_by_name: Mapping[str, Sequence[Prediction]],
    *,
    reference: str,
    common: bool = False,
    metric: str = HEADLINE,
    margin: float = 0.02,
    level: float = 0.95,
    slices: Sequence[str] = SLICES,
    resamples: int = 10_000,
    seed: int = 17,
) -> PairedComparisons:
    """Each model beside the reference on the same questions: differences, intervals, tests, power, equivalence.

    Samples are paired by ``sample_id``; answer types and tags are those of the reference. Groups are those of the
    reference too, or of the one whose groups hold all others' whole.

    Args:
        predictions_by_name: at least two sets of predictions.
        reference: the name of the one that the others are compared with.
        common: compare the questions that all have, and count the rest; otherwise all must have the same.
        metric: one of ``METRICS``.
        margin: differences below it are of no interest, as a share (0.02 is 2 points).
        level: of the intervals; tests and claims use 1 - ``level``.
        slices: tags to break the comparison down by; those that no sample has are left out.
        resamples: draws of the bootstrap and of the randomisation test.
        seed: of both.

    Raises:
        DataError: no such reference, nothing to compare it with, a sample twice, other questions (without ``common``),
            no question in common, other reference answers or question texts, or groups that cut across each other.
        ValueError: an unknown metric, or a margin or level outside (0, 1).
    """
    if metric not in METRICS or not 0 < margin < 1:
        raise ValueError(f"no metric {metric!r}, or a margin outside (0, 1): {margin}")
    ours = reference_of(predictions_by_name, reference)
    others = [name for name in predictions_by_name if name != reference]
    if not others:
        raise DataError("there is nothing to compare with", got=f"only {reference!r}", fix="name two sets of answers")
    ids = {name: {one.sample_id for one in members} for name, members in predictions_by_name.items()}
    shared = set.intersection(*ids.values())
    if not shared:
        raise DataError(
            "the predictions have no question in common",
            expected="the same sample ids on all sides",
            got=", ".join(f"{name}: {min(found)!r} and {len(found) - 1:,} others" for name, found in ids.items()),
            fix="compare answers to the same data set and split",
        )
    kept = [one for one in ours if one.sample_id in shared or not common]
    theirs = {
        name: aligned(
            [one for one in predictions_by_name[name] if one.sample_id in shared or not common],
            kept,
            name=name,
            reference=reference,
        )
        for name in others
    }
    groups_of, finer = coarsest_groups({reference: kept, **theirs})
    groups = [one.group_id for one in (kept if groups_of == reference else theirs[groups_of])]
    parts = [("all", list(range(len(kept)))), *rows_by(kept, lambda one: one.answer_type)]
    tags = [tag for tag in dict.fromkeys(slices) if any(tag in one.tags for one in kept)]
    sliced = [(tag, value, rows) for tag in tags for value, rows in rows_by(kept, _tag_of(tag))]
    found = _paired(
        kept,
        theirs,
        groups,
        [rows for _, rows in parts] + [rows for _, _, rows in sliced],
        metric=metric,
        margin=margin,
        level=level,
        resamples=resamples,
        seed=seed,
    )
    by_part = dict(zip([part for part, _ in parts], found, strict=False))
    by_slice = [(tag, value, one) for (tag, value, _), one in zip(sliced, found[len(parts) :], strict=True)]
    for by_model in by_part.values():
        _judge(list(by_model.values()), level=level)
    for name in others:
        _judge([by_model[name] for _, _, by_model in by_slice], level=level)
    return PairedComparisons(
        reference=reference,
        metric=metric,
        level=level,
        margin=margin,
        samples=len(kept),
        groups=len(set(groups)),
        groups_of=groups_of,
        finer_groups=finer,
        unanswered=sum(one.missing for one in kept),
        models={
            name: ModelComparison(
                only_reference=len(ids[reference] - ids[name]),
                only_model=len(ids[name] - ids[reference]),
                unanswered=sum(one.missing for one in theirs[name]),
                other_texts=sum(ours.text != one.text for ours, one in zip(kept, theirs[name], strict=True)),
                parts={part: by_model[name] for part, by_model in by_part.items()},
                slices={tag: {value: one[name] for of, value, one in by_slice if of == tag} for tag in tags},
            )
            for name in others
        },
    )


def _paired(
    ours: Sequence[Prediction],
    theirs: Mapping[str, Sequence[Prediction]],
    group_ids: Sequence[str],
    slices: Sequence[Sequence[int]],
    *,
    metric: str,
    margin: float,
    level: float,
    resamples: int,
    seed: int,
) -> list[dict[str, Paired]]:
    """Each slice by model. All slices and models share the draws of one bootstrap."""
    groups = np.array(group_ids)
    base = _scores(ours, metric)
    scores = {name: _scores(members, metric) for name, members in theirs.items()}
    columns = np.full((len(ours), len(slices) * len(scores)), np.nan)
    for number, rows in enumerate(slices):
        for place, values in enumerate(scores.values()):
            columns[rows, number * len(scores) + place] = (values - base)[rows]
    sums, sizes = group_sums(columns, groups.tolist())
    lows, highs = percentile_limits(bootstrap_means(sums, sizes, resamples=resamples, seed=seed), level=level)
    found = []
    for number, rows in enumerate(slices):
        by_model = {}
        for place, (name, values) in enumerate(scores.items()):
            column = number * len(scores) + place
            by_model[name] = _one(
                base[rows],
                values[rows],
                groups[rows].tolist(),
                bootstrap=(float(lows[column]), float(highs[column])),
                right_or_wrong=metric in _RIGHT_OR_WRONG,
                margin=margin,
                level=level,
                draws=resamples,
                seed=seed,
            )
        found.append(by_model)
    return found


def _one(
    base: Float[np.ndarray, " samples"],
    values: Float[np.ndarray, " samples"],
    groups: Sequence[str],
    *,
    bootstrap: tuple[float, float],
    right_or_wrong: bool,
    margin: float,
    level: float,
    draws: int,
    seed: int,
) -> Paired:
    test = paired_t(values, base, groups, level=level)
    defined = test.groups > 1
    p_randomisation = sign_flip_test(values, base, groups, draws=draws, seed=seed) if defined else math.nan
    counts = mcnemar(base, values) if right_or_wrong else None
    detectable = None
    if not math.isnan(test.t):
        detectable = minimal_detectable_effect(test.standard_error, level=level, df=test.df)
    return Paired(
        samples=test.samples,
        groups=test.groups,
        reference=float(base.mean()),
        model=float(values.mean()),
        difference=test.difference,
        clustered_t=_limits(test.low, test.high),
        bootstrap=_limits(*bootstrap) if defined else _limits(math.nan, math.nan),
        mcnemar=None
        if counts is None
        else McNemarCounts(
            only_reference=counts.only_a, only_model=counts.only_b, exact=counts.exact, mid_p=counts.mid_p
        ),
        p_t=_or_none(test.p),
        p_randomisation=_or_none(p_randomisation),
        p=max(test.p, p_randomisation) if defined else None,
        adjusted_p=None,
        least_p=None,
        detectable=detectable,
        equivalence=_equivalence(test, margin=margin, alpha=1 - level),
        verdict="undefined",
    )


def _equivalence(test: PairedT, *, margin: float, alpha: float) -> EquivalenceTest:
    """Whether the difference is within the margin."""
    if test.groups < 2:
        return EquivalenceTest(margin=margin, p=None, low=None, high=None, not_worse=False, equivalent=False)
    found = equivalence(test.difference, test.standard_error, test.df, margin, alpha=alpha, groups=test.groups)
    return EquivalenceTest(
        margin=margin,
        p=found.p,
        low=found.low,
        high=found.high,
        not_worse=found.not_worse,
        equivalent=found.equivalent,
    )


def _judge(family: Sequence[Paired], *, level: float) -> None:
    """Adjust the p values of one family of comparisons, and say of each what may be claimed."""
    adjusted = adjust_by_holm([one["p"] for one in family])
    least = adjust_by_holm([None if one["p"] is None else 2.0 ** (1 - one["groups"]) for one in family])
    for one, one["adjusted_p"], one["least_p"] in zip(family, adjusted, least, strict=True):
        if one["least_p"] is None or one["least_p"] >= 1 - level:
            one["detectable"] = None
        one["verdict"] = _verdict(one, alpha=1 - level)


def _verdict(one: Paired, *, alpha: float) -> Verdict:
    if one["adjusted_p"] is None or one["least_p"] is None:
        return "undefined"
    if one["adjusted_p"] < alpha:
        return "better" if one["difference"] > 0 else "worse"
    if one["equivalence"]["equivalent"]:
        return "same"
    if one["equivalence"]["not_worse"]:
        return "not_worse"
    return "too_few" if one["least_p"] >= alpha else "unclear"


def _scores(predictions: Sequence[Prediction], metric: str) -> Float[np.ndarray, " samples"]:
    return np.array([score_answer(one).scores[metric] for one in predictions], dtype=np.float64)


def _tag_of(tag: str) -> Callable[[Prediction], str]:
    return lambda prediction: prediction.tags.get(tag, NOT_STATED)


def _limits(low: float, high: float) -> Limits:
    return Limits(low=_or_none(low), high=_or_none(high))


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
