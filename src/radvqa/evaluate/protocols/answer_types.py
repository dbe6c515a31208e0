"""The parts that most protocols report: closed, open and all questions, as the data set labels them."""

from collections.abc import Sequence

from radvqa.evaluate.protocols.protocol import Metric, mean_metric
from radvqa.sample import AnswerType, Prediction


def only(
    answer_type: AnswerType, predictions: Sequence[Prediction], items: Sequence[float | None]
) -> list[float | None]:
    """The items of one answer type; None in place of the others."""
    return [
        item if prediction.answer_type == answer_type else None
        for prediction, item in zip(predictions, items, strict=True)
    ]


def by_answer_type(predictions: Sequence[Prediction], items: Sequence[float | None]) -> dict[str, Metric]:
    """The metrics ``closed_accuracy``, ``open_accuracy`` and ``overall_accuracy`` of one score per prediction."""
    return {
        "closed_accuracy": mean_metric(only("closed", predictions, items)),
        "open_accuracy": mean_metric(only("open", predictions, items)),
        "overall_accuracy": mean_metric(items),
    }
