from collections import Counter
from pathlib import Path

import pytest

from radvqa.models.layout import Question, Row
from radvqa.train.feed import FedRow, Feed
from radvqa.train.mixture import Plan, Share, shares


def make_rows(count, *, questions=1):
    return [
        Row(Path(f"{row}.png"), tuple(Question(f"{row}-{number}", (1,), (2,)) for number in range(questions)))
        for row in range(count)
    ]


def feed(count=7, *, batch_size=3, seed=5, questions=1, limit=None):
    rows = make_rows(count, questions=questions)
    plan = Plan(shares([None], 40), sizes=[count], most=[None], batch_size=batch_size, seed=seed)
    return Feed({"one": rows}, plan, seed=seed, questions_per_row=limit)


def rows_of(fed):
    return [one.row for one in fed]


def test_any_order_of_asking_gives_the_same_batches():
    forwards = {update: feed(questions=4, limit=2).batch(update) for update in range(1, 20)}
    other = feed(questions=4, limit=2)
    assert {update: other.batch(update) for update in reversed(range(1, 20))} == forwards
    assert other.batch(3) == forwards[3]  # asked again


def test_every_row_comes_once_per_pass():
    images = [row.image for update in range(1, 8) for row in rows_of(feed().batch(update))]  # 21 rows: three passes
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
    drawn = [some.batch(update)[0].row for update in range(1, 30)]
    for row in drawn:
        ids = [question.sample_id for question in row.questions]
        assert len(ids) == len(set(ids)) == 2
        assert ids == sorted(ids)  # the order of the row
    assert {question.sample_id for row in drawn for question in row.questions} == {f"0-{number}" for number in range(6)}


@pytest.mark.parametrize("limit", [None, 4, 9])
def test_rows_within_the_limit_stay_whole(limit):
    some = feed(questions=4, limit=limit)
    assert all(one.row in some.rows_of("one") for update in range(1, 5) for one in some.batch(update))


def test_two_sources_are_told_apart_and_each_is_passed_over_in_its_own_order():
    first, second = make_rows(5), [Row(Path(f"b{row}.png"), (Question(f"b{row}", (1,), (2,)),)) for row in range(9)]
    plan = Plan(shares([None, Share.constant(0.5)], 30), sizes=[5, 9], most=[None, None], batch_size=4, seed=2)
    fed = Feed({"a": first, "b": second}, plan, seed=2)
    drawn = [one for update in range(1, 31) for one in fed.batch(update)]
    assert all(isinstance(one, FedRow) and one.row in (first, second)[one.source] for one in drawn)
    for source, rows in enumerate((first, second)):
        own = [one.row.image for one in drawn if one.source == source]
        whole = len(own) // len(rows) * len(rows)
        assert whole
        for start in range(0, whole, len(rows)):
            assert Counter(own[start : start + len(rows)]) == Counter(row.image for row in rows)
        assert fed.passes(30)[("a", "b")[source]] == pytest.approx(len(own) / len(rows))
