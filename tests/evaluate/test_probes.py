from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from radvqa.data.adapters.synthetic import history
from radvqa.evaluate.probes import PROBES
from radvqa.evaluate.probes.absent import INVENTED
from radvqa.evaluate.probes.contradiction import opposite
from radvqa.evaluate.probes.mirror import swap_sides
from radvqa.evaluate.probes.order import options
from radvqa.evaluate.probes.result import EXAMPLES, spread
from radvqa.sample import Prediction, VqaSample


def asked(number: int, question: str, answer: str, *, image: str = "a", **more) -> VqaSample:
    return VqaSample(
        sample_id=f"s{number}",
        image_id=image,
        image=Path("x.png"),
        question=question,
        answers=(answer,),
        answer_type="closed",
        group_id=image,
        split="val",
        **more,
    )


def said(sample: VqaSample, text: str) -> Prediction:
    return Prediction(
        sample_id=sample.sample_id,
        group_id=sample.group_id,
        image_id=sample.image_id,
        question=sample.question,
        references=sample.answers,
        answer_type=sample.answer_type,
        text=text,
        prompt_id="p",
        finished=True,
        token_ids=(),
        logprob=None,
    )


def run(name: str, samples: Sequence[VqaSample], answer) -> tuple[dict, list[VqaSample]]:
    """The result of a probe for a model that is the function ``answer(sample, mirrored)``, and what it was asked."""
    heard: list[VqaSample] = []

    def ask(more: Sequence[VqaSample], mirrored: bool) -> list[Prediction]:
        heard.extend(more)
        return [said(sample, answer(sample, mirrored)) for sample in more]

    return PROBES[name](samples, [said(sample, answer(sample, False)) for sample in samples], ask), heard


def shares(result: dict) -> dict[str, float | None]:
    return {name: estimate["mean"] for name, estimate in result["metrics"].items()}


@pytest.mark.parametrize(
    ("question", "made"),
    [
        ("Is there a pleural effusion?", "Is a pleural effusion absent?"),
        ("Are there rib fractures present?", "Are rib fractures absent?"),
        ("Is there evidence of pneumothorax in this image?", "Is pneumothorax absent in this image?"),
        ("Is cardiomegaly present?", "Is cardiomegaly absent?"),
        ("Does the picture contain liver?", "Is liver absent from the picture?"),
        ("Does the trachea exist in this picture?", "Is the trachea absent from this picture?"),
        ("Can mass be observed on the left lung in this picture?", "Is mass absent on the left lung in this picture?"),
        ("Is the lung healthy?", "Is the lung unhealthy?"),
        ("Does this image look Abnormal?", "Does this image look normal?"),
        ("Is there no pneumothorax?", None),
        ("Are there >8 ribs shown in this image?", None),
        ("Is the heart larger than normal?", None),
        ("Is the heart contour a mirror image of normal?", None),
        ("Are there normal number of kidneys?", None),
        ("Is there more than one lesion present?", None),
        ("Are there air-fluid levels present on this film?", "Are air-fluid levels absent on this film?"),
        ("Is this a CT or an MRI?", None),
        ("Is the trachea midline?", None),
        ("", None),
    ],
)
def test_opposites(question: str, made: str | None) -> None:
    assert opposite(question) == made


PRESENCE = [
    asked(0, "Is there a mass?", "Yes", image="a"),
    asked(1, "Does the picture contain liver?", "No", image="b"),
    asked(2, "Is the lung normal?", "yes", image="c"),
    asked(3, "What is this?", "Lung", image="c"),
]


def test_contradiction_wants_both_right() -> None:
    result, heard = run("contradiction", PRESENCE, lambda sample, _: sample.answers[0])
    assert shares(result) == {
        "both_right": 1, "question_right": 1, "opposite_right": 1, "opposed": 1, "both_yes": 0, "both_no": 0,
    }  # fmt: skip
    assert [(sample.question, sample.answers[0]) for sample in heard] == [
        ("Is a mass absent?", "No"),
        ("Is liver absent from the picture?", "Yes"),
        ("Is the lung abnormal?", "No"),
    ]
    assert result["left_out"] == {"answer_not_yes_or_no": 1}


def test_contradiction_finds_a_model_that_always_says_yes() -> None:
    result, _ = run("contradiction", PRESENCE, lambda *_: "Yes")
    found = shares(result)
    assert found["both_right"] == 0
    assert found["both_yes"] == 1
    assert found["opposed"] == 0
    assert found["question_right"] == pytest.approx(2 / 3)
    assert not any(example["held"] for example in result["examples"])


SIDES = [
    asked(0, "Where is the mass?", "Left lung", image="a"),
    asked(1, "Is the right kidney normal?", "No", image="b"),
    asked(2, "Which lobe is abnormal, left or right?", "Right", image="c"),
    asked(3, "Is the left atrium enlarged?", "No", image="c"),
    asked(4, "What is this?", "Lung", image="c"),
]


def test_mirror_swaps_sides_in_question_and_reference() -> None:
    result, heard = run("mirror", SIDES, lambda sample, _: sample.answers[0])
    assert [(sample.question, sample.answers[0]) for sample in heard] == [
        ("Where is the mass?", "Right lung"),
        ("Is the left kidney normal?", "No"),
        ("Which lobe is abnormal, left or right?", "Left"),
    ]
    assert result["left_out"] == {"no_side": 1, "side_is_part_of_a_name": 1}
    assert shares(result) == {"both_right": 1, "right": 1, "right_mirrored": 1, "followed": 1, "unmoved": 0}


def test_a_question_that_names_both_sides_without_offering_them_is_swapped() -> None:
    samples = [
        asked(0, "Is the right hemidiaphragm higher than the left?", "Yes", image="a"),
        asked(1, "Where is the left kidney, right or lower right?", "Lower Right", image="b"),
        asked(2, "Is the mass in the left or right side?", "Left", image="c"),
        asked(3, "Is the right lobe of the liver enlarged?", "Yes", image="c"),
    ]
    result, heard = run("mirror", samples, lambda sample, _: sample.answers[0])
    assert [(sample.question, sample.answers[0]) for sample in heard] == [
        ("Is the left hemidiaphragm higher than the right?", "Yes"),
        ("Where is the right kidney, left or lower left?", "Lower Left"),
        ("Is the mass in the left or right side?", "Right"),
    ]
    assert result["left_out"] == {"side_is_part_of_a_name": 1}


def test_mirror_finds_a_model_that_does_not_look() -> None:
    truth = {sample.sample_id: sample.answers[0] for sample in SIDES}
    found = shares(run("mirror", SIDES, lambda sample, _: truth[sample.sample_id])[0])
    assert found["unmoved"] == 1
    assert found["right"] == 1
    assert found["both_right"] == pytest.approx(1 / 3)  # the yes/no question, whose sides were exchanged


def test_swapping_sides_twice_changes_nothing() -> None:
    text = "LEFT lung, Right-sided effusion, RUL and llq, a bright spot, leftover"
    assert swap_sides(text) == "RIGHT lung, Left-sided effusion, LUL and rlq, a bright spot, leftover"
    assert swap_sides(swap_sides(text)) == text


def test_absent_tells_a_yes_sayer_from_a_careful_model() -> None:
    result, heard = run("absent", PRESENCE, lambda *_: "Yes")
    assert shares(result) == {"yes_to_invented": 1, "yes_to_absent": 1, "yes_to_present": 1}
    assert len(heard) == 3  # one per image
    assert all(any(name in sample.question for name in INVENTED) for sample in heard)
    careful = shares(run("absent", PRESENCE, lambda sample, _: sample.answers[0])[0])
    assert careful == {"yes_to_invented": 0, "yes_to_absent": 0, "yes_to_present": 1}


@pytest.mark.parametrize(
    ("question", "answer", "turned"),
    [
        ("Which is bigger in this image, kidney or liver?", "Liver", "Which is bigger in this image, liver or kidney?"),
        ("Which lobe is abnormal,left or right?", "Left", "Which lobe is abnormal, right or left?"),
        ("Which modality is shown, MRI, CT or X-Ray?", "CT", "Which modality is shown, X-Ray, CT or MRI?"),
        (
            "Which is the biggest in this image,lung,liver or heart?",
            "Lung",
            "Which is the biggest in this image, heart, liver or lung?",
        ),
        ("Is the abnormality focal or diffuse?", "Diffuse", "Is the abnormality diffuse or focal?"),
        ("Is this a T1 weighted or T2 weighted MRI?", "T2", "Is this a T2 weighted or T1 weighted MRI?"),
        ("Are these white or grey matter lesions?", "Grey", "Are these grey or white matter lesions?"),
        ("Is the brain atrophied or shrunk?", "No", None),
        ("Is this an abscess or cancer?", "Abscess", None),
    ],
)
def test_alternatives(question: str, answer: str, turned: str | None) -> None:
    found = options(question, answer)
    assert (found.turned if found else None) == turned


def test_order_finds_a_model_that_takes_what_is_named_first() -> None:
    samples = [
        asked(0, "Which is bigger, liver or spleen?", "Liver", image="a"),
        asked(1, "Which is bigger, heart or lung?", "Lung", image="b"),
        asked(2, "What is this?", "Lung", image="c"),
    ]
    result, _ = run("order", samples, lambda sample, _: sample.question.split(", ")[-1].split(" ")[0])
    assert shares(result) == {
        "same_answer": 0, "right": 0.5, "right_turned": 0.5, "took_first": 1, "took_first_turned": 1,
    }  # fmt: skip
    assert result["left_out"] == {"no_clear_alternatives": 1}


def test_dialogue_carries_own_errors_on() -> None:
    right = [("What is this?", "CT"), ("Which organ?", "Liver"), ("Where?", "Left")]
    samples = [
        asked(
            number,
            history([q for q, _ in right[:number]], [a for _, a in right[:number]]) + question,
            answer,
            image=image,
            dialogue_id=image,
            turn=number + 1,
        )
        for image in ("a", "b")
        for number, (question, answer) in enumerate(right)
    ]
    samples.append(asked(9, "Alone?", "Yes", image="z"))

    def answer(sample: VqaSample, _: bool) -> str:
        """Right where the history in front is right, wrong in the first turn of image b."""
        if sample.turn <= 1:
            return "MRI" if sample.image_id == "b" else sample.answers[0]
        return sample.answers[0] if "What is this? CT. " in sample.question else "no idea"

    result, heard = run("dialogue", samples, answer)
    found = shares(result)
    assert found["first_turn"] == 0.5
    assert found["later_after_right_answers"] == 1
    assert found["later_after_own_answers"] == 0.5
    assert found["later_alone"] == 0
    assert found["lost"] == 0.5
    assert result["left_out"] == {"no_dialogue": 1}
    assert result["metrics"]["lost"]["low"] < 0.5
    bare = [replace(sample, question=right[sample.turn - 1][0]) for sample in samples[:6]]
    assert shares(run("dialogue", bare, answer)[0]) == {**found}  # the data set need not write the history in front
    assert run("dialogue", bare[1:], answer)[0]["left_out"] == {"earlier_turn_missing": 2}
    own = [sample.question for sample in heard if sample.image_id == "b" and "MRI" in sample.question]
    assert own == ["What is this? MRI. Which organ?", "What is this? MRI. Which organ? no idea. Where?"]
    assert "Which organ?" in [sample.question for sample in heard]


@pytest.mark.parametrize("name", sorted(PROBES))
def test_nothing_to_ask_is_no_error(name: str) -> None:
    result, _ = run(name, [], lambda *_: "Yes")
    assert result["questions"] == 0
    assert all(estimate["mean"] is None for estimate in result["metrics"].values())


def test_examples_show_both_kinds() -> None:
    one = run("contradiction", PRESENCE[:1], lambda *_: "Yes")[0]["examples"][0]
    many = [replace_held(one, held=number < 50) for number in range(100)]
    shown = spread(many)
    assert len(shown) == EXAMPLES
    assert 0 < sum(example["held"] for example in shown) < EXAMPLES
    assert len(spread(many[:50])) == EXAMPLES


def replace_held(example: dict, *, held: bool) -> dict:
    return {**example, "held": held}


def test_samples_stay_what_they_were() -> None:
    before = [replace(sample) for sample in PRESENCE]
    run("contradiction", PRESENCE, lambda *_: "Yes")
    assert before == PRESENCE
