import threading
import time
from contextlib import closing

import pytest

from radvqa.train.prefetch import ahead


def workers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("radvqa-ahead")]


@pytest.mark.parametrize("depth", [1, 2, 50])
def test_items_come_in_order_whatever_they_take(depth: int) -> None:
    def make(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number * number

    assert list(ahead(make, range(12), depth=depth)) == [number * number for number in range(12)]
    assert list(ahead(make, [], depth=depth)) == []
    assert workers() == []


def test_just_so_many_are_made_ahead_in_one_other_thread() -> None:
    made: list[int] = []
    by: set[str] = set()

    def make(number: int) -> int:
        made.append(number)
        by.add(threading.current_thread().name)
        return number

    with closing(ahead(make, range(100), depth=3)) as items:
        for expected in range(20):
            assert next(items) == expected
            deadline = time.monotonic() + 5
            while len(made) < expected + 4 and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.002)
            assert made == list(range(expected + 4))
    assert len(by) == 1
    assert threading.current_thread().name not in by


def test_nothing_is_made_before_the_first_is_asked_for() -> None:
    items = ahead(lambda _: pytest.fail("made too early"), range(3))
    time.sleep(0.01)
    items.close()
    assert workers() == []


def test_an_error_is_raised_at_its_place() -> None:
    def make(number: int) -> int:
        if number == 4:
            raise LookupError("picture 4")
        return number

    got = []
    with pytest.raises(LookupError, match="picture 4"):
        for item in ahead(make, range(100), depth=3):
            got.append(item)
    assert got == [0, 1, 2, 3]
    assert workers() == []


def test_an_error_of_an_item_that_is_not_asked_for_is_not_raised() -> None:
    def make(number: int) -> int:
        if number == 2:
            raise LookupError
        return number

    with closing(ahead(make, range(100))) as items:
        assert next(items) == 0
        time.sleep(0.01)
    assert workers() == []


def test_the_thread_ends_with_a_consumer_that_stops_early() -> None:
    made: list[int] = []

    def make(number: int) -> int:
        time.sleep(0.02)
        made.append(number)
        return number

    items = ahead(make, range(100), depth=10)
    assert next(items) == 0
    assert len(workers()) == 1
    began = time.monotonic()
    items.close()
    # It waits for the item at work and not for those that were asked for ahead.
    assert time.monotonic() - began < 0.15
    assert workers() == []
    assert len(made) <= 3
    time.sleep(0.05)
    assert len(made) <= 3


def test_an_error_of_the_consumer_ends_the_thread() -> None:
    def consume() -> None:
        with closing(ahead(lambda number: number, range(100))) as items:
            for item in items:
                if item == 3:
                    raise RuntimeError("the step failed")

    with pytest.raises(RuntimeError, match="the step failed"):
        consume()
    assert workers() == []


def test_the_next_items_are_made_while_one_is_used() -> None:
    """Making and using take 20 ms each: together hardly more than one of them."""

    def make(number: int) -> int:
        time.sleep(0.02)
        return number

    began = time.monotonic()
    for _ in ahead(make, range(15)):
        time.sleep(0.02)
    assert time.monotonic() - began < 0.8 * 15 * 0.04


def test_a_depth_of_none_is_refused() -> None:
    with pytest.raises(ValueError, match="depth"):
        next(ahead(lambda number: number, range(3), depth=0))
