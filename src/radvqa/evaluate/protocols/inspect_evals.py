"""The closed rule of the VQA-RAD task of inspect_evals."""

import re
from collections.abc import Sequence

from radvqa.evaluate.protocols.protocol import Metric, Protocol, mean_metric
from radvqa.sample import Prediction

_MARKER = re.compile(r"answer\s*:\s*", re.IGNORECASE)


def _last_line_answer(text: str) -> str | None:
    """What follows the first "ANSWER:" after which no line break comes but trailing white space.

    None where there is no such marker, or nothing stands behind it.
    """
    text = text.rstrip()
    last_line = text.rfind("\n") + 1
    found = (marker.end() for marker in _MARKER.finditer(text))
    return next((text[end:] for end in found if last_line <= end < len(text)), None)


def _score(predictions: Sequence[Prediction]) -> dict[str, Metric]:
    closed: list[float | None] = []
    for prediction in predictions:
        gold = prediction.references[0].strip().lower()
        if gold not in ("yes", "no"):
            closed.append(None)
            continue
        answer = _last_line_answer(prediction.text)
        closed.append(float(answer is not None and answer.lower() == gold))
    return {"closed_accuracy": mean_metric(closed)}


INSPECT_EVALS = Protocol(
    name="inspect_evals",
    title="inspect_evals VQA-RAD, closed part",
    source=(
        "UKGovernmentBEIS/inspect_evals 0.28.0, task vqa_rad 3-B, with the end-anchored pattern of inspect_ai 0.3.285; "
        "Lau et al., VQA-RAD, Sci Data 2018"
    ),
    closed=(
        "questions whose gold is yes or no: what follows 'ANSWER:' on the last line equals the gold in lower case; no "
        "such marker is wrong"
    ),
    open=(
        "not scored here: the task asks a language model that grades through a tool call (correct, incorrect, not "
        "attempted = incorrect); `radvqa judge` asks a model too, with another prompt"
    ),
    defects=(
        "A right answer without the marker its prompt asks for is wrong, so a model of another prompt gets 0.",
        "A full stop behind the answer makes it wrong.",
        "Open questions that the grader fails on are left out of the denominator since version 3-B.",
        "The standard error it prints takes all questions as independent.",
    ),
    headline=("closed_accuracy",),
    score=_score,
)
