import json
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from radvqa.errors import DataError
from radvqa.evaluate.floors import constant, cross_fitted, majority, question_only, words
from radvqa.evaluate.metrics import exact_match
from radvqa.evaluate.normalise import normalise_answer
from radvqa.records import read_records, write_records
from radvqa.sample import Prediction, VqaSample

SLAKE = Path(__file__).resolve().parents[3] / "shared" / "data" / "slake" / "Slake1.0"


def asked(question, answer, answer_type="open", number=0):
    return VqaSample(
        sample_id=f"s{number}",
        image_id=f"i{number}",
        image=Path(f"i{number}.png"),
        question=question,
        answers=(answer,),
        answer_type=answer_type,
        group_id=f"g{number}",
        split="train",
        tags={"modality": "CT"},
    )


TRAIN = [
    asked("Which organ is this?", "Lung"),
    asked("which organ is this", "lung"),
    asked("Which organ is this?", "lung"),
    asked("Which organ is this?", "Liver"),
    asked("Is the lung healthy?", "Yes", "closed"),
    asked("Is the lung abnormal?", "No", "closed"),
    asked("Is the liver abnormal?", "No", "closed"),
    asked("Which organs are these?", "Liver, Kidney"),
    asked("Which organs are these?", "Kidney, Liver"),
    asked("Which organs are these?", "Spleen"),
]


def texts(predictions):
    return [prediction.text for prediction in predictions]


def test_majority_answers_by_type_in_the_first_spelling():
    samples = [asked("?", "x", "open"), asked("?", "x", "closed")]
    assert texts(majority(TRAIN, samples)) == ["Lung", "No"]


def test_majority_of_a_type_without_training_is_the_majority_of_all():
    closed_only = [sample for sample in TRAIN if sample.answer_type == "closed"]
    assert texts(majority(closed_only, [asked("?", "x", "open")])) == ["No"]


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Which organ is this?", "Lung"),  # spellings counted together: 3 against 1, in the first spelling
        ("WHICH ORGAN IS THIS", "Lung"),
        ("Which organs are these?", "Liver, Kidney"),  # three answers of one vote each: the first seen
        ("Is the spleen healthy?", "Yes"),  # nearest: "Is the lung healthy?"
        ("Is the heart abnormal?", "No"),  # two equally near questions
        ("Is the lung?", "Yes"),  # equally near: one "Yes", one "No"; "Yes" is first in the file
        ("Which organ was this?", "Lung"),  # the nearest row, not the most frequent answer to its question
        ("Wo?", "Lung"),  # no known word: the first row
    ],
)
def test_question_only(question, answer):
    assert texts(question_only(TRAIN, [asked(question, "x")])) == [answer]


def test_of_equal_counts_the_first_seen_wins():
    train = [asked("What is it?", "mass"), asked("What is it?", "Cyst"), asked("What is it?", "edema")]
    assert texts(question_only(train, [asked("What is it?", "x")])) == ["mass"]
    assert texts(question_only(train[::-1], [asked("What is it?", "x")])) == ["edema"]
    assert texts(majority(train[1:], [asked("Other?", "x")])) == ["Cyst"]


@pytest.mark.parametrize("floor", [majority, question_only])
def test_floors_do_not_depend_on_the_references(floor):
    samples = [asked("Is the heart normal?", "x", "closed"), asked("Which organ?", "x")]
    blinded = [asked(sample.question, "other", sample.answer_type) for sample in samples]
    assert texts(floor(TRAIN, blinded)) == texts(floor(TRAIN, samples))


def test_questions_in_other_scripts_are_told_apart():
    train = [asked("这是什么器官?", "肺"), asked("图像是什么模态?", "CT")]
    assert texts(question_only(train, [asked("图像是什么模态", "x")])) == ["CT"]


def test_constant_answers():
    (found,) = constant([asked("Is it?", "No", "closed")], "Yes")
    assert (found.text, found.prompt_id) == ("Yes", "floor:always_yes")


def test_a_cross_fitted_floor_never_learns_from_the_own_group():
    samples = [replace(asked("Same?", f"answer {n % 10}", number=n), group_id=f"g{n % 10}") for n in range(40)]
    found = cross_fitted(question_only, samples, seed=3)
    assert [one.sample_id for one in found] == [one.sample_id for one in samples]
    # Each group has an answer of its own, so whoever learned from it would be right.
    assert not any(one.text == sample.answers[0] for one, sample in zip(found, samples, strict=True))
    with pytest.raises(DataError, match="two groups"):
        cross_fitted(question_only, samples[:1])


@pytest.mark.parametrize(("floor", "prompt_id"), [(majority, "floor:majority"), (question_only, "floor:question_only")])
def test_predictions_carry_the_sample_and_survive_a_file(floor, prompt_id, tmp_path):
    sample = asked("Which organ is this?", "Heart", number=7)
    (prediction,) = floor(TRAIN, [sample])
    assert (prediction.sample_id, prediction.group_id, prediction.image_id) == ("s7", "g7", "i7")
    assert (prediction.references, prediction.answer_type, prediction.tags) == (("Heart",), "open", {"modality": "CT"})
    assert (prediction.prompt_id, prediction.finished, prediction.token_ids) == (prompt_id, True, ())
    write_records(tmp_path / "floor.jsonl", [prediction])
    (read,) = read_records(tmp_path / "floor.jsonl", Prediction)
    assert read.logprob is None
    assert (read.text, read.sample_id, read.question) == (prediction.text, "s7", sample.question)


@pytest.mark.parametrize("floor", [majority, question_only])
def test_floors_without_training_samples_are_an_error(floor):
    with pytest.raises(DataError, match="training samples"):
        floor([], [asked("?", "x")])
    assert floor(TRAIN, []) == []


@pytest.fixture(scope="module")
def slake():
    if not (SLAKE / "train.json").is_file() or not (SLAKE / "validate.json").is_file():
        pytest.skip("the SLAKE question files are not here")
    return tuple(
        [
            VqaSample(
                sample_id=str(row["qid"]),
                image_id=row["img_name"],
                image=SLAKE / "imgs" / row["img_name"],
                question=row["question"],
                answers=(str(row["answer"]).strip(),),
                answer_type=row["answer_type"].strip().lower(),
                group_id=str(row["img_id"]),
                split=split,
            )
            for row in json.loads((SLAKE / name).read_text(encoding="utf-8"))
            if row["q_lang"] == "en"
        ]
        for name, split in (("train.json", "train"), ("validate.json", "val"))
    )


def correct(predictions, answer_type=None):
    return sum(exact_match(p) for p in predictions if answer_type in (None, p.answer_type))


def test_slake_published_question_text_floor(slake):
    """596 of 1,053: answer by verbatim question text, else by type; first of ties; equal normal form."""
    train, validation = slake
    by_question, by_type = defaultdict(Counter), defaultdict(Counter)
    for sample in train:
        by_question[sample.question][sample.answers[0]] += 1
        by_type[sample.answer_type][sample.answers[0]] += 1
    right = Counter()
    for sample in validation:
        counts = by_question.get(sample.question) or by_type[sample.answer_type]
        answer = counts.most_common(1)[0][0]
        right[sample.answer_type] += normalise_answer(answer) == normalise_answer(sample.answers[0])
    assert len(validation) == 1053
    assert right == {"open": 324, "closed": 272}


def test_slake_floors_are_those_of_the_notes(slake):
    train, validation = slake
    blind, usual = question_only(train, validation), majority(train, validation)
    same_words = lambda one: words(one.text) == words(one.references[0])  # noqa: E731
    assert [sum(map(same_words, some)) for some in of_types(blind)] == [276, 336, 612]
    assert [sum(map(same_words, some)) for some in of_types(usual)] == [182, 55, 237]
    assert {one.text for one in usual if one.answer_type == "closed"} == {"Yes"}
    assert (correct(constant(validation, "No"), "closed"), correct(constant(validation, "Yes"), "closed")) == (176, 182)
    # Ours holds lists of the same members equal: one open answer more.
    assert [sum(map(exact_match, some)) for some in of_types(blind)] == [276, 337, 613]


def of_types(predictions):
    closed = [one for one in predictions if one.answer_type == "closed"]
    return closed, [one for one in predictions if one.answer_type == "open"], predictions


def test_slake_references_score_one(slake):
    train, validation = slake
    for sample, prediction in zip(validation, majority(train, validation), strict=True):
        gold = {name: getattr(prediction, name) for name in Prediction.__dataclass_fields__}
        assert exact_match(Prediction(**{**gold, "text": sample.answers[0] + "."})) == 1.0
