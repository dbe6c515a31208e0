"""LLaVA-Med's three ways of scoring: ``run_eval``, the same before a fix, and the batch script."""

import math
import operator
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache

from radvqa.evaluate.protocols.answer_types import only
from radvqa.evaluate.protocols.protocol import Metric, Protocol, mean_metric
from radvqa.evaluate.protocols.vqav2 import normalise_llava_med
from radvqa.sample import Prediction

_OPEN_METRICS = (
    "open_recall", "open_precision", "open_f1", "open_exact_match", "open_bleu", "open_bleu_1", "open_bleu_2",
    "open_bleu_3",
)  # fmt: skip
_BLEU_WEIGHTS = ((0.25, 0.25, 0.25, 0.25), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0))

_LOG_OF_NO_MATCH = math.log(sys.float_info.min)


def _score_run_eval(predictions: Sequence[Prediction]) -> dict[str, Metric]:
    return {
        "closed_accuracy": mean_metric(list(_closed_items(predictions, _says_yes_or_no_and_gold))),
        **_open(predictions),
    }


def _score_pre_fix(predictions: Sequence[Prediction]) -> dict[str, Metric]:
    items = tuple(_closed_items(predictions, _left_out_unless_gold))
    closed = mean_metric(items)
    if closed.counted == 0 and any(prediction.answer_type == "closed" for prediction in predictions):
        closed = Metric(value=0.0, items=items)
    return {"closed_accuracy": closed, **_open(predictions)}


def _score_batch(predictions: Sequence[Prediction]) -> dict[str, Metric]:
    found: list[float | None] = [
        float(normalise_llava_med(one.references[0]) in normalise_llava_med(one.text)) for one in predictions
    ]
    return {
        "closed_accuracy": mean_metric(only("closed", predictions, found)),
        "closed_recall": mean_metric([_closed_recall(one) for one in predictions]),
        "open_accuracy": mean_metric(only("open", predictions, found)),
        **_open(predictions),
    }


def _closed_recall(prediction: Prediction) -> float | None:
    if prediction.answer_type != "closed":
        return None
    texts = (normalise_llava_med(text) for text in (prediction.text, prediction.references[0]))
    return _word_scores(*(normalise_llava_med(text).split() for text in texts))[0]


def _closed_items(predictions: Sequence[Prediction], hit: Callable[[str, str], float | None]) -> Iterator[float | None]:
    for prediction in predictions:
        if prediction.answer_type == "closed":
            yield hit(normalise_llava_med(prediction.text), normalise_llava_med(prediction.references[0]))
        else:
            yield None


def _says_yes_or_no_and_gold(answer: str, gold: str) -> float:
    return float(("yes" in answer or "no" in answer) and gold in answer)


def _left_out_unless_gold(answer: str, gold: str) -> float | None:
    if "yes" in answer or "no" in answer:
        return 1.0 if gold in answer else None
    return 0.0


def _open(predictions: Sequence[Prediction]) -> dict[str, Metric]:
    rows = [_open_scores(one.text, one.references[0]) if one.answer_type == "open" else None for one in predictions]
    return {
        name: mean_metric([None if row is None else row[column] for row in rows])
        for column, name in enumerate(_OPEN_METRICS)
    }


@lru_cache(maxsize=1 << 17)
def _open_scores(text: str, reference: str) -> tuple[float, ...]:
    """In the order of ``_OPEN_METRICS``. All but BLEU normalise what is normalised already."""
    answer, gold = normalise_llava_med(text), normalise_llava_med(reference)
    answer_words, gold_words = normalise_llava_med(answer).split(), normalise_llava_med(gold).split()
    exact = len(set(gold_words) & set(answer_words)) / len(answer_words) if answer_words else 0.0
    return (*_word_scores(answer_words, gold_words), exact, *_bleu(answer.split(), gold.split()))


def _word_scores(answer: list[str], gold: list[str]) -> tuple[float, float, float]:
    """Recall, precision and F1. A shared word counts as often as the answer has it, in all three."""
    known, found = set(gold), set(answer)
    shared = sum(word in known for word in answer)
    if not shared:
        return 0.0, 0.0, 0.0
    precision = shared / len(answer)
    recall = shared / (shared + sum(word not in found for word in gold))
    return recall, precision, 2 * precision * recall / (precision + recall)


def _bleu(answer: list[str], gold: list[str]) -> tuple[float, ...]:
    """NLTK's sentence BLEU without smoothing at each of ``_BLEU_WEIGHTS``.

    An order without a match has the precision 2e-308; without a shared word all are 0. Source: Papineni et al., BLEU,
    ACL 2002.
    """
    precisions = _precisions(answer, gold)
    if not precisions:
        return (0.0,) * len(_BLEU_WEIGHTS)
    logs = [math.log(precision) for precision in precisions] + [_LOG_OF_NO_MATCH] * (4 - len(precisions))
    brevity = min(1.0, math.exp(1 - len(gold) / len(answer)))
    return tuple(brevity * math.exp(math.fsum(map(operator.mul, weights, logs))) for weights in _BLEU_WEIGHTS)


def _precisions(answer: list[str], gold: list[str]) -> list[float]:
    """Share of the answer's n-grams found in the gold, from single words to the last order up to 4 with any."""
    found: list[float] = []
    for order in range(1, 5):
        wanted = Counter(_grams(gold, order))
        shared = Counter(filter(wanted.__contains__, _grams(answer, order)))
        if not shared:
            break
        matches = sum(min(count, wanted[gram]) for gram, count in shared.items())
        found.append(matches / (len(answer) - order + 1))
    return found


def _grams(words: list[str], order: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(order)), strict=False)


_PAPER = "Li et al., LLaVA-Med, NeurIPS 2023; github.com/microsoft/LLaVA-Med"
_COUNTS_AS_CLOSED = "Closed are the questions that the data set labels CLOSED."
_OPEN_RULE = (
    "Questions labelled OPEN: recall, precision and F1 on bags of words, an 'exact match' and sentence BLEU (all four "
    "orders, and orders 1, 2 and 3 alone). The open accuracy of the script is not here: it needs the list of training "
    "answers, which was never released."
)
_OPEN_DEFECTS = (
    "True positives are counted with the prediction's multiplicity: 'lung' five times has recall, precision and F1 of "
    "100 % against 'lung'.",
    "'Exact match' is the number of distinct gold words found over the number of words predicted, so a gold answer "
    "that repeats a word does not reach 100 % itself.",
    "BLEU is not smoothed, so an answer of one word has about 1e-231; 'BLEU-2' and 'BLEU-3' are the single orders.",
    "Texts are normalised once for the closed rule and for BLEU, and twice for all else; None becomes 0, and the "
    "letter of 'vitamin A' is dropped as an article.",
    "A missing answer makes the script stop (it asserts the same order and number); here it is scored as empty.",
)


def _protocol(
    name: str,
    title: str,
    *,
    source: str,
    closed: str,
    defects: tuple[str, ...],
    score: Callable[[Sequence[Prediction]], Mapping[str, Metric]],
    open_rule: str = _OPEN_RULE,
) -> Protocol:
    return Protocol(
        name=name,
        title=title,
        source=f"{_PAPER}, {source}",
        closed=f"{closed} {_COUNTS_AS_CLOSED}",
        open=open_rule,
        defects=(*defects, *_OPEN_DEFECTS),
        headline=("closed_accuracy", "open_recall"),
        score=score,
    )


LLAVA_MED_RUN_EVAL = _protocol(
    "llava_med_run_eval",
    "LLaVA-Med run_eval",
    source="llava/eval/run_eval.py, after fix 35 (8faf5ec, December 2023)",
    closed="A hit if the letters 'yes' or 'no' and the gold are anywhere in the prediction, both texts normalised.",
    defects=(
        "Letters count, not words: 'normal', 'not' and 'know' contain 'no', so 'I am not sure.' is right wherever the "
        "gold is No.",
        "A gold such as 'Lung' is only hit by a prediction that happens to contain 'yes' or 'no': gold answers "
        "themselves do not reach 100 %.",
        "'yes or no' is right for every yes/no question.",
        "The numbers of open and closed questions are printed under each other's name.",
    ),
    score=_score_run_eval,
)

LLAVA_MED_PRE_FIX = _protocol(
    "llava_med_pre_fix",
    "LLaVA-Med run_eval before fix 35",
    source="llava/eval/run_eval.py, before fix 35 (8faf5ec, December 2023)",
    closed=(
        "A prediction without the letters 'yes' or 'no' is wrong; one that has them is a hit if it contains the gold, "
        "and is left out of the denominator if it does not."
    ),
    defects=(
        "A wrong verdict is not counted as wrong: only answers without 'yes' or 'no' lower the score.",
        "Letters count, not words, so 'I am not sure.' and 'yes or no' reach 100 % of what is counted.",
        "The script for PathVQA never got the fix.",
    ),
    score=_score_pre_fix,
)

LLAVA_MED_BATCH = _protocol(
    "llava_med_batch",
    "LLaVA-Med batch script",
    source="llava/eval/run_eval_batch.py (by its comments the source of the paper's tables)",
    closed=(
        "A hit if the normalised gold is anywhere in the normalised prediction; beside it the recall of the gold's "
        "words ('closed_recall')."
    ),
    open_rule=_OPEN_RULE.replace(
        "The open accuracy of the script is not here: it needs the list of training answers, which was never released.",
        "Its open accuracy is a hit if the gold is anywhere in the prediction.",
    ),
    defects=(
        "Letters count, not words: 'I am not sure.' contains 'no', and an answer that names every choice hits.",
        "A gold that normalises to nothing ('the') is part of every prediction.",
        "A file of predictions at which the script fails is skipped with a printed line.",
    ),
    score=_score_batch,
)
