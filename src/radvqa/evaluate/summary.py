"""Tables from predictions: scores with intervals, overall and by slice, and differences between conditions.

Everything returned is made of dicts, strings and numbers and can be written as strict JSON: an undefined number is
``None``, never NaN.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict

from radvqa.errors import DataError
from radvqa.evaluate.metrics import METRICS
from radvqa.evaluate.normalise import normalise_answer
from radvqa.evaluate.statistics import Interval, paired_difference, score_interval
from radvqa.sample import Prediction

NOT_STATED = "(not stated)"
"""The slice of samples that lack a tag which others have."""


class Estimate(TypedDict):
    """A mean with its cluster-robust confidence limits; ``None`` where undefined (fewer than two groups)."""

    mean: float | None
    low: float | None
    high: float | None


class SliceSummary(TypedDict):
    """Counts and scores of some predictions. Empty and unfinished answers are included in every score.

    ``empty``: answers without a letter or digit. ``unfinished``: answers cut at the token limit.
    """

    samples: int
    groups: int
    empty: int
    unfinished: int
    metrics: dict[str, Estimate]


class Summary(TypedDict):
    """All predictions, those of each answer type, and those of each value of each tag."""

    level: float
    overall: SliceSummary
    by_answer_type: dict[str, SliceSummary]
    by_tag: dict[str, dict[str, SliceSummary]]


class Comparison(TypedDict):
    """Paired differences, reference minus condition, by metric; over all samples and by answer type."""

    reference: str
    condition: str
    level: float
    samples: int
    groups: int
    overall: dict[str, Estimate]
    by_answer_type: dict[str, dict[str, Estimate]]


def summarise(
    predictions: Sequence[Prediction], *, slices: Sequence[str] = ("modality", "content_type"), level: float = 0.95
) -> Summary:
    """Every metric with its interval and counts: overall, by answer type and by the tags named in ``slices``.

    No sample leaves a denominator. Samples without a tag that others have make up the slice ``"(not stated)"``; a tag
    that no sample has is left out. Slices are in alphabetical order.

    Raises:
        DataError: no predictions, a sample that occurs twice, or one without a reference to compare with.
    """
    _check_unique(predictions, where="the predictions")
    scores = _score(predictions)

    def table(key: Callable[[Prediction], str]) -> dict[str, SliceSummary]:
        return {
            name: _summarise_slice(predictions, scores, rows, level=level) for name, rows in _rows_by(predictions, key)
        }

    tags = [tag for tag in dict.fromkeys(slices) if any(tag in prediction.tags for prediction in predictions)]
    return Summary(
        level=level,
        overall=_summarise_slice(predictions, scores, range(len(predictions)), level=level),
        by_answer_type=table(lambda prediction: prediction.answer_type),
        by_tag={tag: table(_tag_value(tag)) for tag in tags},
    )


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
    _check_unique(ours, where=f"condition {reference!r}")
    our_scores = _score(ours)
    comparisons = {}
    for name, predictions in predictions_by_name.items():
        if name != reference:
            theirs = _aligned(predictions, ours, name=name, reference=reference)
            comparisons[name] = _compare(ours, our_scores, _score(theirs), names=(reference, name), level=level)
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
            metric: _estimate(
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
            name: differences(rows) for name, rows in _rows_by(ours, lambda prediction: prediction.answer_type)
        },
    )


def _score(predictions: Sequence[Prediction]) -> dict[str, list[float]]:
    return {name: [metric(prediction) for prediction in predictions] for name, metric in METRICS.items()}


def _summarise_slice(
    predictions: Sequence[Prediction], scores: Mapping[str, list[float]], rows: Sequence[int], *, level: float
) -> SliceSummary:
    members = [predictions[row] for row in rows]
    groups = [prediction.group_id for prediction in members]
    return SliceSummary(
        samples=len(members),
        groups=len(set(groups)),
        empty=sum(not normalise_answer(prediction.text) for prediction in members),
        unfinished=sum(not prediction.finished for prediction in members),
        metrics={
            name: _estimate(score_interval([values[row] for row in rows], groups, level=level))
            for name, values in scores.items()
        },
    )


def _estimate(interval: Interval) -> Estimate:
    return Estimate(mean=_or_none(interval.mean), low=_or_none(interval.low), high=_or_none(interval.high))


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _tag_value(tag: str) -> Callable[[Prediction], str]:
    return lambda prediction: prediction.tags.get(tag, NOT_STATED)


def _rows_by(predictions: Sequence[Prediction], key: Callable[[Prediction], str]) -> list[tuple[str, list[int]]]:
    """Row numbers by key, keys in alphabetical order."""
    rows: dict[str, list[int]] = defaultdict(list)
    for number, prediction in enumerate(predictions):
        rows[key(prediction)].append(number)
    return sorted(rows.items())


def _check_unique(predictions: Sequence[Prediction], *, where: str) -> None:
    if not predictions:
        raise DataError("there are no predictions to score", where=where, fix="run the evaluation step first")
    sample_id, count = Counter(prediction.sample_id for prediction in predictions).most_common(1)[0]
    if count > 1:
        raise DataError(
            "a sample was predicted more than once",
            where=f"{where}, sample {sample_id!r}",
            expected="one prediction per sample",
            got=str(count),
            fix="give every sample its own id, or keep one prediction of each",
        )


def _aligned(
    predictions: Sequence[Prediction], ours: Sequence[Prediction], *, name: str, reference: str
) -> list[Prediction]:
    """``predictions`` in the order of ``ours``, after checking that both answer the same samples."""
    where = f"condition {name!r}"
    _check_unique(predictions, where=where)
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
