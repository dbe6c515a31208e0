"""Paired comparisons of predictions for the same questions: the conditions of one run (model, floors, controls)."""

import math
from collections.abc import Mapping, Sequence
from typing import TypedDict

from radvqa.errors import DataError
from radvqa.evaluate.multiplicity import holm
from radvqa.evaluate.normalise import normalise_answer
from radvqa.evaluate.paired import paired_t
from radvqa.evaluate.statistics import Interval
from radvqa.evaluate.summary import Estimate, check_unique, estimate, rows_by, score
from radvqa.sample import Prediction


class PValue(TypedDict):
    """Two-sided p of the clustered t test, and adjusted by Holm over the conditions; None where undefined."""

    p: float | None
    adjusted: float | None


class Comparison(TypedDict):
    """Paired differences, reference minus condition, by metric; over all samples and by answer type.

    ``p``: of the differences over all samples, by metric.
    """

    reference: str
    condition: str
    level: float
    samples: int
    groups: int
    overall: dict[str, Estimate]
    by_answer_type: dict[str, dict[str, Estimate]]
    p: dict[str, PValue]


def compare_conditions(
    predictions_by_name: Mapping[str, Sequence[Prediction]], *, reference: str, level: float = 0.95
) -> dict[str, Comparison]:
    """For each condition but the reference: how much better the reference scores on the same samples.

    Conditions are floors, blank or shuffled images and other runs. Samples are paired by ``sample_id``, whatever their
    order; groups are those of the reference.

    Raises:
        DataError: the reference is not among the conditions, or a condition has other samples, the same sample twice,
            or other reference answers.
    """
    ours = reference_of(predictions_by_name, reference)
    our_scores = score(ours)
    comparisons = {}
    for name, predictions in predictions_by_name.items():
        if name != reference:
            theirs = aligned(predictions, ours, name=name, reference=reference)
            comparisons[name] = _compare(ours, our_scores, score(theirs), names=(reference, name), level=level)
    for metric in our_scores:
        p_values = [one["p"][metric] for one in comparisons.values()]
        for value, adjusted in zip(p_values, adjust_by_holm([one["p"] for one in p_values]), strict=True):
            value["adjusted"] = adjusted
    return comparisons


def reference_of(predictions_by_name: Mapping[str, Sequence[Prediction]], reference: str) -> Sequence[Prediction]:
    """The predictions that the others are compared with. Raises ``DataError`` if there are none, or a sample twice."""
    if reference not in predictions_by_name:
        raise DataError(
            f"there are no predictions named {reference!r} to compare with",
            expected=f"one of {', '.join(predictions_by_name) or '(none)'}",
            fix="name one of these as the reference",
        )
    check_unique(predictions_by_name[reference], where=f"condition {reference!r}")
    return predictions_by_name[reference]


def aligned(
    predictions: Sequence[Prediction], ours: Sequence[Prediction], *, name: str, reference: str
) -> list[Prediction]:
    """``predictions`` in the order of ``ours``, after checking that both answer the same samples.

    Raises:
        DataError: other samples, a sample twice, or references or questions (where both state one) that differ in more
            than spelling.
    """
    where = f"condition {name!r}"
    check_unique(predictions, where=where)
    by_id = {prediction.sample_id: prediction for prediction in predictions}
    our_ids = {prediction.sample_id for prediction in ours}
    missing, extra = sorted(our_ids - by_id.keys()), sorted(by_id.keys() - our_ids)
    if missing or extra:
        raise DataError(
            "conditions can be compared on the same samples only",
            where=where,
            expected=f"the {len(our_ids)} samples of {reference!r}",
            got=f"{len(missing)} missing {missing[:3]}, {len(extra)} others {extra[:3]}",
            fix="evaluate both on the same split with the same limits, or compare what both have (--common)",
        )
    for prediction in ours:
        other = by_id[prediction.sample_id]
        if _spelt(other) != _spelt(prediction):
            raise DataError(
                "the same sample has different reference answers",
                where=f"{where}, sample {prediction.sample_id!r}",
                expected=repr(prediction.references),
                got=repr(other.references),
                fix="evaluate both on the same version of the data set",
            )
    other_questions = [one.sample_id for one in ours if _asked_otherwise(one, by_id[one.sample_id])]
    if other_questions:
        first = other_questions[0]
        raise DataError(
            "the same sample id stands for different questions",
            where=f"{where}, {len(other_questions)} samples: {', '.join(map(repr, other_questions[:3]))}",
            expected=repr(next(one.question for one in ours if one.sample_id == first)),
            got=repr(by_id[first].question),
            fix="give both the ids of the same data set; row numbers of different files do not pair",
        )
    return [by_id[prediction.sample_id] for prediction in ours]


def coarsest_groups(sets: Mapping[str, Sequence[Prediction]]) -> tuple[str, dict[str, int]]:
    """The first of those whose groups are fewest, and the number of groups of those that split them further.

    Raises:
        DataError: groups that cut across each other.
    """
    ids = {name: [one.group_id for one in members] for name, members in sets.items()}
    counts = {name: len(set(found)) for name, found in ids.items()}
    coarse = min(counts, key=lambda name: counts[name])
    for name, found in ids.items():
        group_of: dict[str, str] = {}
        for fine, wide, one in zip(found, ids[coarse], sets[name], strict=True):
            if group_of.setdefault(fine, wide) != wide:
                raise DataError(
                    "the groups (images, cases or patients) of the answers do not fit together",
                    where=f"{name!r}, group {fine!r}, sample {one.sample_id!r}",
                    expected=f"groups that lie within those of {coarse!r}: {group_of[fine]!r}",
                    got=repr(wide),
                    fix="give all answers the same group ids",
                )
    return coarse, {name: count for name, count in counts.items() if count > counts[coarse]}


def adjust_by_holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's adjusted p values in the order given; undefined ones stay undefined and do not count."""
    adjusted = iter(holm([p for p in p_values if p is not None]))
    return [None if p is None else next(adjusted) for p in p_values]


def _compare(
    ours: Sequence[Prediction],
    our_scores: Mapping[str, list[float]],
    their_scores: Mapping[str, list[float]],
    *,
    names: tuple[str, str],
    level: float,
) -> Comparison:
    def differences(rows: Sequence[int]) -> dict[str, tuple[Estimate, float]]:
        groups = [ours[row].group_id for row in rows]
        found = {}
        for metric, scores in our_scores.items():
            test = paired_t(
                [scores[row] for row in rows], [their_scores[metric][row] for row in rows], groups, level=level
            )
            interval = Interval(test.difference, test.low, test.high, test.groups, test.samples)
            found[metric] = estimate(interval), test.p
        return found

    overall = differences(range(len(ours)))
    return Comparison(
        reference=names[0],
        condition=names[1],
        level=level,
        samples=len(ours),
        groups=len({prediction.group_id for prediction in ours}),
        overall={metric: one for metric, (one, _) in overall.items()},
        by_answer_type={
            name: {metric: one for metric, (one, _) in differences(rows).items()}
            for name, rows in rows_by(ours, lambda prediction: prediction.answer_type)
        },
        p={metric: PValue(p=None if math.isnan(p) else p, adjusted=None) for metric, (_, p) in overall.items()},
    )


def _asked_otherwise(one: Prediction, other: Prediction) -> bool:
    if not one.question.strip() or not other.question.strip() or one.question == other.question:
        return False
    return normalise_answer(one.question) != normalise_answer(other.question)


def _spelt(prediction: Prediction) -> tuple[str, ...]:
    return tuple(normalise_answer(reference) or reference for reference in prediction.references)
