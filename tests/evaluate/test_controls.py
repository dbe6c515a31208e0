"""How much the answers depend on the picture."""

from dataclasses import replace

import pytest

from radvqa.errors import DataError
from radvqa.evaluate.controls import reliance
from radvqa.sample import Prediction


def answer(number: int, text: str, answer_type: str = "closed") -> Prediction:
    return Prediction(
        sample_id=f"s{number}",
        group_id=f"g{number // 2}",
        image_id="i",
        question="Is it?",
        references=("Yes",),
        answer_type=answer_type,  # type: ignore[arg-type]
        text=text,
        prompt_id="p",
        finished=True,
        token_ids=(),
        logprob=None,
    )


REAL = [answer(0, "Yes"), answer(1, "yes."), answer(2, "Yes"), answer(3, "No", "open")]


def test_a_model_that_never_looks_relies_on_nothing() -> None:
    found = reliance(REAL, [replace(one, text=one.text.upper()) for one in REAL], name="shuffled")
    score = found["overall"]["score"]
    assert score["mean"] == 0.0
    assert score["low"] == -score["high"] < 0.0  # other groups may differ
    assert found["overall"]["changed"]["mean"] == 0.0


def test_score_and_changes_by_hand() -> None:
    other = [answer(0, "No"), answer(1, "Yes"), answer(2, "No"), answer(3, "lung", "open")]
    found = reliance(REAL, other, name="shuffled")
    assert found["control"] == "shuffled"
    assert found["overall"]["score"]["mean"] == pytest.approx(3 / 4 - 1 / 4)
    assert found["overall"]["changed"]["mean"] == pytest.approx(3 / 4)
    assert found["by_answer_type"]["closed"]["score"]["mean"] == pytest.approx(2 / 3)
    assert found["by_answer_type"]["open"]["score"]["mean"] == 0.0
    assert found["by_answer_type"]["open"]["changed"]["mean"] == 1.0
    assert (found["overall"]["samples"], found["overall"]["groups"]) == (4, 2)


def test_other_samples_are_refused() -> None:
    with pytest.raises(DataError, match="the samples that the model answers"):
        reliance(REAL, REAL[::-1], name="blank")
