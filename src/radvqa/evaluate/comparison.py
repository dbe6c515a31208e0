"""Paired comparisons of predictions for the same questions: conditions, floors, runs."""

from collections.abc import Mapping, Sequence
from typing import TypedDict

from radvqa.errors import DataError
from radvqa.evaluate.statistics import paired_difference
from radvqa.evaluate.summary import Estimate, check_unique, estimate, rows_by, score
from radvqa.sample import Prediction


class Comparison(TypedDict):
    """Paired differences, reference minus condition, by metric; over all samples and by answer type."""

    reference: str
    condition: str
    level: float
    samples: int
    groups: int
    overall: dict[str, Estimate]
    by_answer_type: dict[str, dict[str, Estimate]]


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
    if reference not in predictions_by_name:
        raise DataError(
            f"there are no predictions named {reference!r} to compare with",
            expected=f"one of {', '.join(predictions_by_name) or '(none)'}",
            fix="name one of these as the reference",
        )
    ours = predictions_by_name[reference]
    check_unique(ours, where=f"condition {reference!r}")
    our_scores = score(ours)
    comparisons = {}
    for name, predictions in predictions_by_name.items():
        if name != reference:
            theirs = _aligned(predictions, ours, name=name, reference=reference)
            comparisons[name] = _compare(ours, our_scores, score(theirs), names=(reference, name), level=level)
    return comparisons


def _compare(
    ours: Sequence[Prediction],
    our_scores: Mapping[str, list[float]],
    their_scores: Mapping[str, list[float]],
    *,
    names: tuple[str, str],
    level: float,
) -> Comparison:
    def differences(rows: Sequence[int]) -> dict[str, Estimate]:
        groups = [ours[row].group_id for row in rows]
        return {
            metric: estimate(
                paired_difference(
                    [our_scores[metric][row] for row in rows],
                    [their_scores[metric][row] for row in rows],
                    groups,
                    level=level,
                )
            )
            for metric in our_scores
        }

    return Comparison(
        reference=names[0],
        condition=names[1],
        level=level,
        samples=len(ours),
        groups=len({prediction.group_id for prediction in ours}),
        overall=differences(range(len(ours))),
        by_answer_type={
            name: differences(rows) for name, rows in rows_by(ours, lambda prediction: prediction.answer_type)
        },
    )


def _aligned(
    predictions: Sequence[Prediction], ours: Sequence[Prediction], *, name: str, reference: str
) -> list[Prediction]:
    """``predictions`` in the order of ``ours``, after checking that both answer the same samples."""
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
            fix="evaluate both on the same split with the same limits",
        )
    for prediction in ours:
        other = by_id[prediction.sample_id]
        if other.references != prediction.references:
            raise DataError(
                "the same sample has different reference answers",
                where=f"{where}, sample {prediction.sample_id!r}",
                expected=repr(prediction.references),
                got=repr(other.references),
                fix="evaluate both on the same version of the data set",
            )
    return [by_id[prediction.sample_id] for prediction in ours]
