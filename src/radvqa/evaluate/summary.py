"""Tables from predictions: scores with intervals, overall and by slice.

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
from radvqa.evaluate.statistics import Interval, score_interval
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


def summarise(
    predictions: Sequence[Prediction], *, slices: Sequence[str] = ("modality", "content_type"), level: float = 0.95
) -> Summary:
    """Every metric with its interval and counts: overall, by answer type and by the tags named in ``slices``.

    No sample leaves a denominator. Samples without a tag that others have make up the slice ``"(not stated)"``; a tag
    that no sample has is left out. Slices are in alphabetical order.

    Raises:
        DataError: no predictions, a sample that occurs twice, or one without a reference to compare with.
    """
    check_unique(predictions, where="the predictions")
    scores = score(predictions)

    def table(key: Callable[[Prediction], str]) -> dict[str, SliceSummary]:
        return {
            name: _summarise_slice(predictions, scores, rows, level=level) for name, rows in rows_by(predictions, key)
        }

    tags = [tag for tag in dict.fromkeys(slices) if any(tag in prediction.tags for prediction in predictions)]
    return Summary(
        level=level,
        overall=_summarise_slice(predictions, scores, range(len(predictions)), level=level),
        by_answer_type=table(lambda prediction: prediction.answer_type),
        by_tag={tag: table(_tag_value(tag)) for tag in tags},
    )


def score(predictions: Sequence[Prediction]) -> dict[str, list[float]]:
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
            name: estimate(score_interval([values[row] for row in rows], groups, level=level))
            for name, values in scores.items()
        },
    )


def estimate(interval: Interval) -> Estimate:
    return Estimate(mean=_or_none(interval.mean), low=_or_none(interval.low), high=_or_none(interval.high))


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _tag_value(tag: str) -> Callable[[Prediction], str]:
    return lambda prediction: prediction.tags.get(tag, NOT_STATED)


def rows_by(predictions: Sequence[Prediction], key: Callable[[Prediction], str]) -> list[tuple[str, list[int]]]:
    """Row numbers by key, keys in alphabetical order."""
    rows: dict[str, list[int]] = defaultdict(list)
    for number, prediction in enumerate(predictions):
        rows[key(prediction)].append(number)
    return sorted(rows.items())


def check_unique(predictions: Sequence[Prediction], *, where: str) -> None:
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
