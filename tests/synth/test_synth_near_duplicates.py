import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radvqa.synth.near_duplicates import (
    SetPair,
    alike_questions,
    contradictions,
    duplicates,
    guards,
    likeness,
    opposite,
)


def pair(number: int, question: str, answer: str = "yes", **changes: Any) -> SetPair:
    return SetPair(
        **{
            "sample_id": f"s{number}",
            "image_id": "i",
            "group_id": "g",
            "question": question,
            "answer": answer,
            **changes,
        }
    )


def ids(found: Sequence[tuple[SetPair, SetPair]]) -> list[tuple[str, str]]:
    return [(first.sample_id, later.sample_id) for first, later in found]


def test_the_same_question_is_kept_once_for_each_image() -> None:
    pairs = [
        pair(2, "Is there a fracture?"),
        pair(1, "is there  a FRACTURE"),
        pair(3, "Is there a fracture?", image_id="j"),
        pair(4, "Is there an effusion?"),
    ]
    assert duplicates(pairs) == {"s2": "the same question as s1"}
    assert contradictions(pairs) == {}


def test_all_of_a_contradiction_go() -> None:
    pairs = [
        pair(1, "Where is it?", "left"),
        pair(2, "Where is it?", "right"),
        pair(3, "where is it", "Left."),
        pair(4, "Where is it?", "right", image_id="j"),
    ]
    assert set(contradictions(pairs)) == {"s1", "s2", "s3"}
    # A list has no order.
    assert contradictions([pair(1, "Which?", "liver, spleen"), pair(2, "Which?", "Spleen, Liver")]) == {}


SAME = [
    ("Which modality is shown?", "What imaging technique was used?"),
    ("What modality is this?", "Which imaging modality is displayed?"),
    ("Is there a pleural effusion?", "Does the image show a pleural effusion?"),
    ("Is there a pleural effusion in the image?", "Can pleural effusion be seen?"),
    ("Where is the mass?", "Where is the mass located?"),
    ("In which plane is this image?", "Which imaging plane is shown?"),
    ("What abnormality is seen in the liver?", "What abnormality is visible in the liver?"),
]
OTHER = [
    ("Is there a mass in the left lung?", "Is there a mass in the right lung?"),
    ("Is there a fracture at L4?", "Is there a fracture at L5?"),
    ("Are there 2 nodules in the lung?", "Are there 3 nodules in the lung?"),
    ("Is there a pleural effusion?", "Is there no pleural effusion?"),
    ("Is the lesion bright on T1?", "Is the lesion bright on T2?"),
    ("Is this a CT of the chest?", "Is this an MRI of the chest?"),
    ("Is this an axial view?", "Is this a coronal view?"),
    ("Is there a pleural effusion?", "Is there a pericardial effusion?"),
    ("Is the upper lobe affected?", "Is the lower lobe affected?"),
    ("Is the anterior horn torn?", "Is the posterior horn torn?"),
    ("Is the cyst in the liver?", "Is the cyst in the kidney?"),
    ("Is there a benign tumor?", "Is there a malignant tumor?"),
    ("Is the lesion enhanced?", "Is the lesion unenhanced?"),
    ("Which modality is shown?", "Which plane is shown?"),
    ("Where is the mass?", "What is the mass?"),
    ("How severe is the stenosis?", "Where is the stenosis?"),
    ("Is there mild edema?", "Is there severe edema?"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_other_words_for_the_same(one: str, other: str) -> None:
    assert guards(one) == guards(other)
    assert likeness(one, other) == 1
    assert ids(list(alike_questions([pair(2, other), pair(1, one)], 0.9))) == [("s1", "s2")]


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_guards_keep_apart_what_words_and_embeddings_do_not(one: str, other: str) -> None:
    def all_alike(texts: Sequence[str]) -> Any:
        return np.tile(np.float32([1, 0]), (len(texts), 1))

    assert guards(one) != guards(other)
    assert list(alike_questions([pair(1, one), pair(2, other)], 0.1, embed=all_alike)) == []


def test_embeddings_find_what_words_do_not() -> None:
    one, other = "What anomaly catches attention?", "What irregularity stands out?"
    asked: list[str] = []

    def embed(texts: Sequence[str]) -> Any:
        asked.extend(texts)
        return np.float32([[1, 0] if "attention" in text else [0.96, 0.28] for text in texts])

    pairs = [pair(1, one, "cyst"), pair(2, other, "cyst"), pair(3, "Alone?", image_id="j")]
    assert list(alike_questions(pairs, 0.9)) == []
    assert ids(list(alike_questions(pairs, 0.9, embed=embed))) == [("s1", "s2")]
    assert list(alike_questions(pairs, 0.97, embed=embed)) == []
    assert set(asked) == {one, other}


def test_an_open_and_a_closed_question_are_never_the_same() -> None:
    assert list(alike_questions([pair(1, "Is it a mass?", "yes"), pair(2, "Is it a mass?", "a mass")], 0.9)) == []


def test_opposite_answers() -> None:
    assert opposite(pair(1, "Is it?", "yes"), pair(2, "Is it?", "No."))
    assert not opposite(pair(1, "Is it?", "yes"), pair(2, "Is it?", "Yes."))
    assert not opposite(pair(1, "Is it?", "yes"), pair(2, "What is it?", "liver"))


QUESTIONS = st.sampled_from([question for row in (*SAME, *OTHER) for question in row])
SETS = st.lists(
    st.builds(
        lambda number, image, question, answer: pair(number, question, answer, image_id=image),
        st.integers(0, 10**6),
        st.sampled_from("ij"),
        QUESTIONS,
        st.sampled_from(["yes", "no"]),
    ),
    max_size=20,
    unique_by=lambda one: one.sample_id,
)


@given(SETS, st.randoms(use_true_random=False))
def test_neither_order_nor_a_second_time_changes_anything(pairs: list[SetPair], chance: random.Random) -> None:
    mixed = pairs.copy()
    chance.shuffle(mixed)
    assert contradictions(pairs) == contradictions(mixed)
    assert duplicates(pairs) == duplicates(mixed)
    assert ids(list(alike_questions(pairs, 0.9))) == ids(list(alike_questions(mixed, 0.9)))
    left = [one for one in pairs if one.sample_id not in contradictions(pairs)]
    left = [one for one in left if one.sample_id not in duplicates(left)]
    assert duplicates(left) == contradictions(left) == {}
    later = {other.sample_id for _, other in alike_questions(left, 0.9)}
    assert list(alike_questions([one for one in left if one.sample_id not in later], 0.9)) == []
