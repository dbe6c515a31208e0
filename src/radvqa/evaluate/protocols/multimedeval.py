"""MultiMedEval's rules for visual question answering."""

import math
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from radvqa.evaluate.protocols.protocol import Metric, Protocol, mean_metric
from radvqa.evaluate.protocols.vqav2 import normalise_llava_med
from radvqa.sample import Prediction

_CLOSED_RECALL = 0.4
_OPEN_RECALL = 0.75
_TINY = 1e-8
"""What is added to the denominator of F1."""


class _Item(NamedTuple):
    is_closed: bool
    hit: float
    recall: float
    f1: float
    bleu: float


@lru_cache(maxsize=1 << 16)
def _item(gold_text: str, text: str) -> _Item:
    gold, answer = normalise_llava_med(gold_text.lower().strip()), normalise_llava_med(text)
    gold_words, words = set(gold.split()), set(answer.split())
    shared = len(words & gold_words)
    precision = shared / len(words) if words else 0.0
    recall = shared / len(gold_words) if gold_words else 0.0
    is_closed = gold in ("yes", "no")
    hit = recall >= _OPEN_RECALL
    if is_closed:
        accepted = gold_words | {"not"} if gold == "no" else gold_words
        hit = len(words & accepted) / len(accepted) >= _CLOSED_RECALL
    f1 = 2 * (precision * recall) / (precision + recall + _TINY)
    return _Item(is_closed, float(hit), recall, f1, _bleu_1(answer.split(), gold.split()))


def _bleu_1(answer: list[str], gold: list[str]) -> float:
    """Share of the answer's words that the gold has, with repetition, times the brevity penalty of BLEU."""
    shared = (Counter(answer) & Counter(gold)).total()
    if not shared:
        return 0.0
    brevity = 1.0 if len(answer) > len(gold) else math.exp(1 - len(gold) / len(answer))
    return brevity * shared / len(answer)


def _score(predictions: Sequence[Prediction]) -> dict[str, Metric]:
    items = [_item(prediction.references[0], prediction.text) for prediction in predictions]
    return {
        "closed_accuracy": mean_metric([item.hit if item.is_closed else None for item in items]),
        "open_accuracy": mean_metric([None if item.is_closed else item.hit for item in items]),
        "open_recall": mean_metric([None if item.is_closed else item.recall for item in items]),
        "recall": mean_metric([item.recall for item in items]),
        "f1": mean_metric([item.f1 for item in items]),
        "bleu_1": mean_metric([item.bleu for item in items]),
    }


MULTIMEDEVAL = Protocol(
    name="multimedeval",
    title="MultiMedEval 1.0",
    source=(
        "corentin-ryr/MultiMedEval, multimedeval/task_families.py and utils.py; Royer et al., MultiMedEval, MIDL 2024. "
        "BLEU-1 as in torchmetrics, which computes in single precision"
    ),
    closed=(
        "questions whose gold is yes or no after normalisation (VQA v2, lower-cased first, commas removed): hit if at "
        "least 0.4 of the set {gold}, for no of the set {no, not}, is among the words of the answer"
    ),
    open=(
        "all other questions: open_accuracy counts answers that hold at least 0.75 of the gold's distinct words, "
        "open_recall is that share; recall, f1 and bleu_1 are over all questions"
    ),
    defects=(
        "'yes or no' is right on every yes/no question.",
        "'not' anywhere counts as no: 'I am not sure.' is right wherever the gold is no.",
        "Words are sets and only the gold's are asked for, so saying everything costs nothing in the accuracies.",
        "'none' becomes 0, never no.",
        "Numbers of closed questions are not those of the data set: closed questions with another gold count as open.",
    ),
    headline=("closed_accuracy", "open_accuracy", "open_recall", "f1", "bleu_1"),
    score=_score,
)
