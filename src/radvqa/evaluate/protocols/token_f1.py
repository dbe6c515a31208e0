"""Token F1 over all questions, as Med-PaLM M and MedGemma report it; our reading of their texts."""

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from radvqa.evaluate.protocols.protocol import Metric, Protocol, mean_metric
from radvqa.sample import Prediction

_TOKEN = re.compile(r"[^\W_]+")
_ARTICLES = frozenset({"a", "an", "the"})


@lru_cache(maxsize=1 << 16)
def _tokens(text: str) -> tuple[str, ...]:
    return tuple(token for token in _TOKEN.findall(text.lower()) if token not in _ARTICLES)


def _f1(answer: Sequence[str], gold: Sequence[str]) -> float:
    if not answer and not gold:
        return 1.0
    return 2 * (Counter(answer) & Counter(gold)).total() / (len(answer) + len(gold))


def _recall(answer: Sequence[str], gold: Sequence[str]) -> float:
    if not gold:
        return float(not answer)
    return (Counter(answer) & Counter(gold)).total() / len(gold)


def _score(predictions: Sequence[Prediction]) -> dict[str, Metric]:
    f1: list[float | None] = []
    closed: list[float | None] = []
    recall: list[float | None] = []
    for prediction in predictions:
        gold, answer = _tokens(prediction.references[0]), _tokens(prediction.text)
        f1.append(_f1(answer, gold))
        verdict = next((token for token in answer if token in ("yes", "no")), None)
        closed.append(float((verdict,) == gold) if gold in (("yes",), ("no",)) else None)
        recall.append(_recall(answer, gold) if prediction.answer_type == "open" else None)
    return {
        "token_f1": mean_metric(f1),
        "closed_accuracy": mean_metric(closed),
        "open_recall": mean_metric(recall),
    }


MEDGEMMA_TOKEN_F1 = Protocol(
    name="medgemma_token_f1",
    title="Token F1 (MedGemma, Med-PaLM M)",
    source=(
        "MedGemma technical report, arXiv 2507.05201, Table 9, and model card; Med-PaLM M, arXiv 2307.14334, Tables 2 "
        "and 3; F1 after Rajpurkar et al., SQuAD, EMNLP 2016. Neither published its scorer or prompt: this is our "
        "restatement of the texts, not their code"
    ),
    closed="questions whose gold is yes or no: the first word of the answer that is yes or no must be the gold",
    open=(
        "token_f1 over all questions, closed ones too: words in lower case without a, an and the, counted with "
        "repetition, both sides empty count as 1; open_recall: the share of the gold's words in the answer, over "
        "questions the data set calls open"
    ),
    defects=(
        "'yes or no' is right wherever the gold is yes, and reasoning that names a verdict before the answer decides.",
        "token_f1 mixes yes/no questions, where it is all or nothing, with long answers.",
        "open_recall costs nothing for whatever else is said.",
        "The report and the model card differ for the same model (Gemma 3 4B: 53.0 and 62.0), so the rule cannot be "
        "checked against them.",
        "MedGemma's VQA-RAD numbers are for a balanced split without duplicates of its own, not for the published one.",
    ),
    headline=("token_f1", "closed_accuracy", "open_recall"),
    score=_score,
)
