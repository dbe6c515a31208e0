"""VLMEvalKit's ways to score a generated answer without a judge."""

from collections.abc import Sequence

from radvqa.evaluate.protocols.answer_types import by_answer_type
from radvqa.evaluate.protocols.protocol import Metric, Protocol, mean_metric
from radvqa.evaluate.protocols.vqav2 import normalise_vlmevalkit
from radvqa.sample import Prediction

_ANLS_THRESHOLD = 0.5
_RELAXED = 0.05


def _score(predictions: Sequence[Prediction]) -> dict[str, Metric]:
    matches = [
        [normalise_vlmevalkit(gold) == normalise_vlmevalkit(one.text) for gold in one.references] for one in predictions
    ]
    return {
        **by_answer_type(predictions, [sum(found) / len(found) for found in matches]),
        "vqa_score": mean_metric([_vqa_score(found) for found in matches]),
        "anls": mean_metric([max(_anls(gold, one.text) for gold in one.references) for one in predictions]),
        "relaxed_accuracy": mean_metric(
            [float(any(_relaxed(gold, one.text.strip()) for gold in one.references)) for one in predictions]
        ),
    }


def _vqa_score(matches: Sequence[bool]) -> float:
    """Mean over the references of min(1, matches among the others / 3): the rule for ten answers to a question."""
    return sum(min(1.0, (sum(matches) - match) / 3) for match in matches) / len(matches)


def _anls(gold: str, answer: str) -> float:
    """1 - edit distance / longer length, in lower case with single blanks; 0 below the threshold."""
    gold, answer = (" ".join(text.lower().split()) for text in (gold, answer))
    longer = max(len(gold), len(answer))
    if gold == answer:
        return 1.0
    # The distance is at least the difference of the lengths, so a long answer costs nothing beside a short gold.
    if 1 - abs(len(gold) - len(answer)) / longer < _ANLS_THRESHOLD:
        return 0.0
    similarity = 1 - _edit_distance(gold, answer) / longer
    return similarity if similarity >= _ANLS_THRESHOLD else 0.0


def _edit_distance(a: str, b: str) -> int:
    """Levenshtein distance; one column per character of ``b``, whose differences are the bits of two integers.

    Source: Myers, J. ACM 1999, as simplified by Hyyrö, Nordic Journal of Computing 2003.
    """
    if not a:
        return len(b)
    places: dict[str, int] = {}
    for i, character in enumerate(a):
        places[character] = places.get(character, 0) | 1 << i
    every, last = (1 << len(a)) - 1, 1 << (len(a) - 1)
    up, down, distance = every, 0, len(a)
    for character in b:
        here = places.get(character, 0)
        diagonal = (((here & up) + up) ^ up) | here
        right_up, right_down = down | ~(diagonal | up), up & diagonal
        distance += bool(right_up & last) - bool(right_down & last)
        right_up, right_down = right_up << 1 | 1, right_down << 1
        up, down = (right_down | ~(here | down | right_up)) & every, right_up & (here | down) & every
    return distance


def _relaxed(gold: str, answer: str) -> bool:
    gold_number, number = _number(gold), _number(answer)
    if number is not None and gold_number:
        return abs(number - gold_number) / abs(gold_number) <= _RELAXED
    return gold.lower() == answer.lower()


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


VLMEVALKIT = Protocol(
    name="vlmevalkit",
    title="VLMEvalKit (no judge)",
    source="Duan et al., VLMEvalKit, ACM MM 2024; github.com/open-compass/VLMEvalKit (e8e78f0), vqa_eval.py",
    closed=(
        "Equality of prediction and gold after the VQA v2 normaliser in the form that keeps a period beside a digit; "
        "with several references the share of them that are equal."
    ),
    open=(
        "The same. VLMEvalKit prints one number for all questions; closed and open are as the data set labels them. "
        "Beside it the numbers that it gives other data sets, over all questions: vqa_score (TextVQA), ANLS (DocVQA; "
        "0 below one half) and relaxed accuracy (ChartQA; numbers within 5 %)."
    ),
    defects=(
        "'T2.' keeps its full stop and is not 'T2': a full stop costs every answer that ends in a digit.",
        "Older releases have VQA v2's misspelt pattern, under which 'T2.' equals 'T2': two releases differ on the same "
        "answers.",
        "Every further accepted reference lowers the score, as an answer equals at most its spellings.",
        "vqa_score compares with the other references only: with one reference it is 0 for every answer.",
        "A sentence or a tag around a right answer makes it wrong; None equals 0.",
        "It has neither SLAKE nor VQA-RAD, and PathVQA is scored by a judge; this is its rule for generated answers in "
        "general.",
    ),
    headline=("closed_accuracy", "open_accuracy", "overall_accuracy"),
    score=_score,
)
