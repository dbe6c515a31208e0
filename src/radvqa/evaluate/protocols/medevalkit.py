"""MedEvalKit's rules for SLAKE and for VQA-RAD, without its judge."""

import functools
import math
import sys
from collections import Counter
from collections.abc import Sequence

from radvqa.evaluate.protocols.protocol import Metric, Protocol, mean_metric
from radvqa.sample import Prediction

_SOURCE = (
    "alibaba-damo-academy/MedEvalKit, commit 9b12e3b; Lingshu, arXiv 2506.07044. BLEU as in nltk 3.10 (sentence_bleu, "
    "no smoothing), ROUGE as in rouge 1.0.1, boxed answers as in mathruler 0.1.0"
)
_MARKERS = (
    "**answer**:", "**answer**", "*answer*:", "**answer:**", "answer is", "answer:", "答案:", "final answer",
    "final answer is",
)  # fmt: skip
_PRECISIONS = 4
_TINY = 1e-8
"""What rouge adds to a denominator."""

_OPEN_METRICS = (
    "open_em", "open_f1", "open_recall", "open_precision", "open_bleu_1", "open_bleu_2", "open_bleu_3", "open_bleu_4",
    "open_rouge_1", "open_rouge_2", "open_rouge_l",
)  # fmt: skip

_OPEN_RULE = (
    "em: equality in lower case of what is left after tags and markers, white space and full stops included; f1, "
    "precision and recall over sets of words; BLEU-1 to 4; ROUGE-1, 2, L"
)
_OPEN_DEFECTS = (
    "f1, precision and recall come back in another order than they are read: open_f1 holds recall, open_precision "
    "holds F1, open_recall holds precision.",
    "An open answer that is empty, blank or full stops only ends the whole program, so that it prints nothing: such "
    "items are counted as crashed and the open and overall numbers are then not given (the items are).",
    "open_acc is divided by the number of open questions twice.",
    "After a marker such as 'answer is' the blank that follows stays, and a full stop is never taken away: 'The answer "
    "is lung' and 'lung.' fail as em.",
    "Any answer with the word 'boxed' in it but no \\boxed{} becomes the text 'None'.",
    "ROUGE counts each word once, so repeating it costs nothing.",
    "BLEU-n of an answer shorter than n words is about 0, however right it is.",
    "An open answer of about a thousand words or more ends the peer's program, which looks for common words by "
    "recursion; it is scored here.",
)


def _slake(predictions: Sequence[Prediction]) -> dict[str, Metric]:
    closed: list[float | None] = []
    open_rows: list[tuple[float, ...] | None] = []
    for prediction in predictions:
        gold, response = prediction.references[0], _unwrapped(prediction.text)
        is_open = prediction.answer_type == "open"
        open_rows.append(_open_scores(gold, response) if is_open else None)
        if is_open:
            closed.append(None)
        elif gold in ("yes", "no"):
            closed.append(_holds_verdict(gold, response))
        else:
            closed.append(_is_equal(gold, response))
    return _metrics(closed, open_rows)


def _vqa_rad(predictions: Sequence[Prediction]) -> dict[str, Metric]:
    closed: list[float | None] = []
    open_rows: list[tuple[float, ...] | None] = []
    for prediction in predictions:
        gold = prediction.references[0].lower().strip()
        response = _unwrapped(prediction.text).lower().strip()
        is_closed = gold in ("yes", "no")
        closed.append(_holds_verdict(gold, response) if is_closed else None)
        open_rows.append(None if is_closed else _open_scores(gold, response))
    return _metrics(closed, open_rows)


def _metrics(closed: Sequence[float | None], open_rows: Sequence[tuple[float, ...] | None]) -> dict[str, Metric]:
    """All numbers. A row is None for a closed question, empty where the peer's program would stop."""
    crashed = sum(row == () for row in open_rows)
    columns = {name: [row[place] if row else None for row in open_rows] for place, name in enumerate(_OPEN_METRICS)}
    found = {"closed_accuracy": mean_metric(closed)}
    found |= {name: _printed(items, crashed) for name, items in columns.items()}
    exact = found["open_em"]
    asked = exact.counted
    found["open_acc"] = Metric(
        value=None if exact.value is None else exact.value / asked, items=exact.items, crashed=crashed
    )
    both = [first if first is not None else second for first, second in zip(closed, exact.items, strict=True)]
    found["overall_accuracy"] = _printed(both, crashed)
    return found


def _printed(items: Sequence[float | None], crashed: int) -> Metric:
    metric = mean_metric(items, crashed=crashed)
    return Metric(value=None, items=metric.items, crashed=crashed) if crashed else metric


def _unwrapped(text: str) -> str:
    """Content of the last box, else of all answer tags."""
    boxed = _boxed(text)
    if boxed != "None":
        return boxed
    return _tagged(text) if "<answer>" in text else text


def _boxed(text: str) -> str:
    """``"None"`` where there is none; also where its brace is never closed."""
    start = text.rfind("\\boxed{")
    depth = 0
    if start >= 0:
        content = text[start + len("\\boxed{") :]
        for place, char in enumerate(content):
            depth += (char == "{") - (char == "}")
            if depth < 0:
                return content[:place].strip()
    return "None"


def _tagged(text: str) -> str:
    """What stands in closed answer tags, with a blank between; the text itself where that is nothing."""
    parts, start = [], text.find("<answer>")
    while start >= 0:
        begin = start + len("<answer>")
        end = text.find("</answer>", begin)
        if end < 0:
            break
        parts.append(text[begin:end])
        start = text.find("<answer>", end)
    return " ".join(parts).strip() or text


def _parsed(response: str) -> str:
    """Lower case, unwrapped once more, then what follows the last of each marker in turn."""
    response = response.lower()
    if "boxed" in response:
        response = _boxed(response)
    elif "<answer>" in response:
        response = _tagged(response)
    for marker in _MARKERS:
        response = response.split(marker)[-1]
    return response


def _plain(response: str) -> str:
    return _parsed(response).replace("\n", "").replace(".", "")


def _is_equal(gold: str, response: str) -> float:
    return float(_plain(response) == gold.lower())


def _holds_verdict(gold: str, response: str) -> float:
    plain = _plain(response)
    return float(("yes" in plain) != ("no" in plain) and gold.lower() in plain)


@functools.lru_cache(maxsize=1 << 16)
def _open_scores(gold: str, response: str) -> tuple[float, ...]:
    """In the order of ``_OPEN_METRICS``; empty where the peer's program would stop."""
    gold, response = gold.lower(), _parsed(response)
    # Here parsing may have changed the case back: a lost box is "None".
    answer_words, gold_words = set(response.lower().split()), set(gold.split())
    answer_sentences, gold_sentences = _sentences(response.lower()), _sentences(gold)
    if not (answer_words and gold_words and answer_sentences and gold_sentences):
        return ()
    shared = len(answer_words & gold_words)
    precision, recall = shared / len(answer_words), shared / len(gold_words)
    f1 = 2 * precision * recall / (precision + recall) if shared else 0.0
    return (
        float(response == gold),
        # The columns as they are filled, see the defects: f1 = recall, recall = precision, precision = f1.
        recall,
        precision,
        f1,
        *_bleus(_bleu_tokens(response), _bleu_tokens(gold)),
        _rouge_n(answer_sentences, gold_sentences, 1),
        _rouge_n(answer_sentences, gold_sentences, 2),
        _rouge_l(answer_sentences, gold_sentences),
    )


def _bleu_tokens(text: str) -> list[str]:
    return text.lower().replace(".", " .").split(" ")


def _bleus(answer: list[str], gold: list[str]) -> list[float]:
    """Sentence BLEU with equal weights for orders up to 1, 2, 3, 4, without smoothing.

    An order without a match counts as the smallest float, so that the result is nearly but not quite 0.

    Source: Papineni et al., BLEU, ACL 2002, as implemented in nltk.
    """
    logs = []
    for order in range(1, _PRECISIONS + 1):
        found, wanted = Counter(_ngrams(answer, order)), Counter(_ngrams(gold, order))
        matches, count = (found & wanted).total(), found.total()
        if order == 1 and not matches:
            return [0.0] * _PRECISIONS
        logs.append(math.log(matches / count) if matches else math.log(sys.float_info.min))
    brevity = 1.0 if len(answer) > len(gold) else math.exp(1 - len(gold) / len(answer))
    return [
        brevity * math.exp(math.fsum(1 / order * log for log in logs[:order])) for order in range(1, _PRECISIONS + 1)
    ]


def _ngrams(words: list[str], order: int) -> list[tuple[str, ...]]:
    return [tuple(words[start : start + order]) for start in range(len(words) - order + 1)]


def _sentences(text: str) -> list[str]:
    """Parts between full stops, white space collapsed; a part of blanks stays as an empty sentence."""
    return [" ".join(part.split()) for part in text.split(".") if part]


def _rouge_words(sentences: list[str]) -> list[str]:
    return [word for sentence in sentences for word in sentence.split(" ")]


def _rouge_f(shared: float, answer: int, gold: int) -> float:
    precision = shared / answer if answer else 0.0
    recall = shared / gold if gold else 0.0
    return 2 * precision * recall / (precision + recall + _TINY)


def _rouge_n(answer: list[str], gold: list[str], order: int) -> float:
    """F of shared n-grams, each counted once."""
    found, wanted = set(_ngrams(_rouge_words(answer), order)), set(_ngrams(_rouge_words(gold), order))
    return _rouge_f(len(found & wanted), len(found), len(wanted))


def _rouge_l(answer: list[str], gold: list[str]) -> float:
    """F of the words that some longest common subsequence of a gold sentence and an answer sentence holds."""
    union: set[str] = set()
    for gold_sentence in gold:
        for answer_sentence in answer:
            union |= _common_words(gold_sentence.split(" "), answer_sentence.split(" "))
    return _rouge_f(len(union), len(set(_rouge_words(answer))), len(set(_rouge_words(gold))))


def _common_words(first: list[str], second: list[str]) -> set[str]:
    """The words of the longest common subsequence that is met first when going back from both ends.

    Where two are as long, a word of ``second`` is let go before one of ``first``.
    """
    if len(first) == 1 or len(second) == 1:
        return set(first) & set(second)
    lengths = [[0] * (len(second) + 1)]
    for one in first:
        above, row = lengths[-1], [0]
        for place, other in enumerate(second):
            row.append(above[place] + 1 if one == other else max(above[place + 1], row[place]))
        lengths.append(row)
    found, i, j = set(), len(first), len(second)
    while i and j:
        if first[i - 1] == second[j - 1]:
            found.add(first[i - 1])
            i, j = i - 1, j - 1
        elif lengths[i - 1][j] > lengths[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found


MEDEVALKIT_SLAKE = Protocol(
    name="medevalkit_slake",
    title="MedEvalKit, SLAKE rules, no judge",
    source=_SOURCE,
    closed=(
        "questions the data set calls closed: equality in lower case after tags, markers, newlines and full stops are "
        "taken away; golds written exactly 'yes' or 'no' in lower case need only be a substring of an answer that "
        "holds 'yes' or 'no' but not both"
    ),
    open=f"questions the data set calls open: {_OPEN_RULE}",
    defects=(
        "The looser yes/no rule looks for 'yes' and 'no' in lower case, and SLAKE writes 'Yes' and 'No': it is never "
        "used there, and 'Yes, it is.' is wrong.",
        *_OPEN_DEFECTS,
        "English and Chinese questions go into one number; nothing is left out here either.",
        "With its judge on, hits of the judge are added to those of the rule, so that perfect answers get closed "
        "200 %; numbers of papers with the judge cannot be compared with these.",
    ),
    headline=("closed_accuracy", "open_em", "overall_accuracy"),
    score=_slake,
)

MEDEVALKIT_VQA_RAD = Protocol(
    name="medevalkit_vqa_rad",
    title="MedEvalKit, VQA-RAD rules, no judge",
    source=_SOURCE,
    closed=(
        "questions whose gold is yes or no, whatever the data set calls them: hit if exactly one of the substrings "
        "'yes' and 'no' is in the answer, and it is the gold"
    ),
    open=f"all other questions: {_OPEN_RULE}",
    defects=(
        "Substrings, not words: 'normal', 'not', 'know' and 'diagnosis' count as no.",
        *_OPEN_DEFECTS,
        "With its judge on, the overall accuracy counts an open answer twice, once by rule and once by judge.",
    ),
    headline=("closed_accuracy", "open_em", "overall_accuracy"),
    score=_vqa_rad,
)
