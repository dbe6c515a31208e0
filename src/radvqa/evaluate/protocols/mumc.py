"""Equality after normalisation as in M2I2 and MUMC, and MUMC's released program, which also takes parts of the gold."""

from collections.abc import Sequence

from radvqa.evaluate.protocols.answer_types import by_answer_type
from radvqa.evaluate.protocols.protocol import Metric, Protocol
from radvqa.evaluate.protocols.vqav2 import mumc_answer, normalise_mumc
from radvqa.sample import Prediction


def _score(predictions: Sequence[Prediction]) -> dict[str, Metric]:
    items = [float(normalise_mumc(one.text) == normalise_mumc(one.references[0])) for one in predictions]
    return by_answer_type(predictions, items)


def _score_released(predictions: Sequence[Prediction]) -> dict[str, Metric]:
    items = [float(mumc_answer(one.text) in mumc_answer(one.references[0])) for one in predictions]
    return by_answer_type(predictions, items)


_AUTHORS = "Li et al., M2I2, ISBI 2023, and MUMC, MICCAI 2023"
_ANSWER_LIST = (
    "Made for models that rank a given answer list: the list decides what can be right (M2I2, issue 14). A generated "
    "answer is scored as it stands.",
    "Every epoch is scored on the test file, so a table may hold the best of 40.",
)

MUMC = Protocol(
    name="mumc",
    title="M2I2 / MUMC (VQA v2 equality)",
    source=f"{_AUTHORS}; github.com/pengfeiliHEU/M2I2, vqaTools/vqaEval.py (52655d0), after MUMC's answer preparation",
    closed="Equality of prediction and gold after MUMC's answer preparation and the VQA v2 normaliser.",
    open="The same. Closed and open are as the data set labels them.",
    defects=(
        "The decimal point is deleted: '3.5' equals '35'.",
        "None equals 0, and the letter of 'vitamin A' is dropped as an article.",
        "A sentence, a tag or any further word makes a right answer wrong.",
        "The released programs split the rule: M2I2's has the normaliser alone, MUMC's the preparation alone (see "
        "mumc_released).",
        *_ANSWER_LIST,
    ),
    headline=("closed_accuracy", "open_accuracy", "overall_accuracy"),
    score=_score,
)

MUMC_RELEASED = Protocol(
    name="mumc_released",
    title="MUMC, released program",
    source="Li et al., MUMC, MICCAI 2023; github.com/pengfeiliHEU/MUMC, vqaTools/vqaEval.py (3f8a5b3)",
    closed="A hit if the prediction is a part of the gold, letter for letter, after MUMC's answer preparation alone.",
    open="The same. Closed and open are as the data set labels them.",
    defects=(
        "An empty prediction is a part of every gold: 100 %.",
        "Letters count, not words: 'n' is right for 'No' and 'lung' for 'left lung'.",
        "The decimal point is deleted: '3.5' equals '35'.",
        *_ANSWER_LIST,
    ),
    headline=("closed_accuracy", "open_accuracy", "overall_accuracy"),
    score=_score_released,
)
