"""Tables from predictions: scores with intervals, overall and by slice.

Everything returned is made of dicts, strings and numbers and can be written as strict JSON: an undefined number is
``None``, never NaN.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TypedDict, get_args

import numpy as np
from jaxtyping import Float, Int

from radvqa.errors import DataError
from radvqa.evaluate.extraction import State
from radvqa.evaluate.metrics import METRICS, Scored, score_answer
from radvqa.evaluate.statistics import Interval, group_numbers, score_interval
from radvqa.sample import Prediction

NOT_STATED = "(not stated)"
"""The slice of samples that lack a tag which others have."""


class Estimate(TypedDict):
    """A mean with its cluster-robust confidence limits; ``None`` where undefined (fewer than two groups)."""

    mean: float | None
    low: float | None
    high: float | None


class SliceSummary(TypedDict):
    """Counts and scores of some predictions. Every answer is included in every score, whatever its state.

    ``empty``: answers without a letter or digit, missing ones too. ``unfinished``: answers cut at the token limit.
    ``states``: state of the answer (see ``radvqa.evaluate.extraction.State``) → how many, only those that occur.
    """

    samples: int
    groups: int
    empty: int
    unfinished: int
    states: dict[str, int]
    metrics: dict[str, Estimate]


class Summary(TypedDict):
    """All predictions, those of each answer type, and those of each value of each tag."""

    level: float
    overall: SliceSummary
    by_answer_type: dict[str, SliceSummary]
    by_tag: dict[str, dict[str, SliceSummary]]


def summarise(
    predictions: Sequence[Prediction],
    *,
    slices: Sequence[str] = ("modality", "content_type"),
    level: float = 0.95,
    scored: Sequence[Scored] | None = None,
) -> Summary:
    """Every metric with its interval and counts: overall, by answer type and by the tags named in ``slices``.

    No sample leaves a denominator. Samples without a tag that others have make up the slice ``"(not stated)"``; a tag
    that no sample has is left out. Slices are in alphabetical order. ``scored``: what ``score_answer`` makes of each
    prediction, where that is known already.

    Raises:
        DataError: no predictions, a sample that occurs twice, or one without a reference to compare with.
    """
    check_unique(predictions, where="the predictions")
    known = [score_answer(prediction) for prediction in predictions] if scored is None else scored
    values = score_columns(known)
    # Whole numbers are grouped many times faster than names.
    groups, _ = group_numbers([prediction.group_id for prediction in predictions])

    def one(rows: Sequence[int]) -> SliceSummary:
        return _summarise_slice(predictions, known, values, groups, rows, level=level)

    def table(key: Callable[[Prediction], str]) -> dict[str, SliceSummary]:
        return {name: one(rows) for name, rows in rows_by(predictions, key)}

    tags = [tag for tag in dict.fromkeys(slices) if any(tag in prediction.tags for prediction in predictions)]
    return Summary(
        level=level,
        overall=one(range(len(predictions))),
        by_answer_type=table(lambda prediction: prediction.answer_type),
        by_tag={tag: table(tag_value(tag)) for tag in tags},
    )


def score(predictions: Sequence[Prediction]) -> dict[str, list[float]]:
    """Metric → its value for each prediction."""
    columns = score_columns([score_answer(prediction) for prediction in predictions])
    return {name: column.tolist() for name, column in columns.items()}


def score_columns(scored: Sequence[Scored]) -> dict[str, Float[np.ndarray, " samples"]]:
    """Metric → its value for each answer."""
    return {name: np.array([one.scores[name] for one in scored], dtype=np.float64) for name in METRICS}


def _summarise_slice(
    predictions: Sequence[Prediction],
    scored: Sequence[Scored],
    values: Mapping[str, Float[np.ndarray, " samples"]],
    groups: Int[np.ndarray, " samples"],
    rows: Sequence[int],
    *,
    level: float,
) -> SliceSummary:
    chosen = np.asarray(rows, dtype=np.intp)
    members = groups[chosen]
    states = Counter(scored[row].state for row in rows)
    return SliceSummary(
        samples=len(rows),
        groups=int(np.unique(members).size),
        empty=states["empty"] + states["missing"],
        unfinished=sum(not predictions[row].finished for row in rows),
        states={state: states[state] for state in get_args(State) if states[state]},
        metrics={
            name: estimate(score_interval(column[chosen], members, level=level)) for name, column in values.items()
        },
    )


def estimate(interval: Interval) -> Estimate:
    """The interval as it is written."""
    return Estimate(mean=_or_none(interval.mean), low=_or_none(interval.low), high=_or_none(interval.high))


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def tag_value(tag: str) -> Callable[[Prediction], str]:
    """What tells the slice of a prediction."""
    return lambda prediction: prediction.tags.get(tag, NOT_STATED)


def rows_by(predictions: Sequence[Prediction], key: Callable[[Prediction], str]) -> list[tuple[str, list[int]]]:
    """Row numbers by key, keys in alphabetical order."""
    rows: dict[str, list[int]] = defaultdict(list)
    for number, prediction in enumerate(predictions):
        rows[key(prediction)].append(number)
    return sorted(rows.items())


def check_unique(predictions: Sequence[Prediction], *, where: str) -> None:
    """Nothing, if every sample has one prediction. Raises ``DataError`` for none at all or two of a sample."""
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
