from collections import Counter
from pathlib import Path

import pytest

from radvqa.models.layout import Question, Row
from radvqa.train.feed import Feed


def make_rows(count, *, questions=1):
    return [
        Row(Path(f"{row}.png"), tuple(Question(f"{row}-{number}", (1,), (2,)) for number in range(questions)))
        for row in range(count)
    ]


def feed(count=7, *, batch_size=3, seed=5, questions=1, limit=None):
    return Feed(make_rows(count, questions=questions), batch_size=batch_size, seed=seed, questions_per_row=limit)


def test_any_order_of_asking_gives_the_same_batches():
    forwards = {update: feed(questions=4, limit=2).batch(update) for update in range(1, 20)}
    other = feed(questions=4, limit=2)
    assert {update: other.batch(update) for update in reversed(range(1, 20))} == forwards
    assert other.batch(3) == forwards[3]  # asked again


def test_every_row_comes_once_per_pass():
    images = [row.image for update in range(1, 8) for row in feed().batch(update)]  # 21 rows: three passes
    passes = [images[first : first + 7] for first in (0, 7, 14)]
    for one in passes:
        assert Counter(one) == Counter(row.image for row in make_rows(7))
    assert passes[0] != passes[1] != passes[2]


def test_seeds_give_other_orders():
    assert [feed(seed=1).batch(update) for update in range(1, 5)] != [
        feed(seed=2).batch(update) for update in range(1, 5)
    ]


def test_a_batch_larger_than_the_data_wraps_around():
    assert len(feed(count=2, batch_size=5).batch(1)) == 5


def test_the_question_limit_draws_anew_at_each_pass():
    some = feed(count=1, batch_size=1, questions=6, limit=2)
    drawn = [some.batch(update)[0] for update in range(1, 30)]
    for row in drawn:
        ids = [question.sample_id for question in row.questions]
        assert len(ids) == len(set(ids)) == 2
        assert ids == sorted(ids)  # the order of the row
    assert {question.sample_id for row in drawn for question in row.questions} == {f"0-{number}" for number in range(6)}


@pytest.mark.parametrize("limit", [None, 4, 9])
def test_rows_within_the_limit_stay_whole(limit):
    some = feed(questions=4, limit=limit)
    assert all(row in some.rows for update in range(1, 5) for row in some.batch(update))
