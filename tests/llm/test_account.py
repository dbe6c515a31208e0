import json
import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from radvqa.errors import RecipeError
from radvqa.llm import Failure, Outcome, Reply
from radvqa.llm.account import Account, LatencySketch


def reply(seconds: float = 1.0, *, prompt: int = 100, completion: int = 20, **changes: object) -> Reply:
    return Reply(
        key="k", text="x", finished=True, prompt_tokens=prompt, completion_tokens=completion, seconds=seconds, **changes
    )  # type: ignore[arg-type]


def failure(reason: str = "timeout", *, attempts: int = 5, seconds: float = 2.0) -> Failure:
    return Failure(key="k", reason=reason, detail="", attempts=attempts, seconds=seconds)  # type: ignore[arg-type]


def test_outcomes_are_added_up() -> None:
    account = Account(
        [reply(), reply(3.0, attempts=2), failure(), failure(), failure("connection", attempts=1)],
        price_per_million_prompt_tokens=2.0,
        price_per_million_completion_tokens=10.0,
    )
    got = account.as_dict(wall_seconds=2.5)
    assert (got["requests"], got["replies"], got["attempts"]) == (5, 2, 14)
    assert got["failures"] == {"connection": 1, "timeout": 2}
    assert (got["prompt_tokens"], got["completion_tokens"]) == (200, 40)
    assert (got["seconds"], got["wall_seconds"], got["requests_per_second"]) == (10.0, 2.5, 2.0)
    assert got["cost"] == pytest.approx((200 * 2 + 40 * 10) / 1e6)
    assert got["latency_seconds"]["p50"] == pytest.approx(1.0, rel=0.0101)
    assert got["usage"] == "complete"
    assert json.loads(json.dumps(got, allow_nan=False)) == got


def test_replies_that_were_cut_are_counted() -> None:
    cut = Reply(key="k", text="x", finished=False, prompt_tokens=1, completion_tokens=1, seconds=1)
    assert Account([cut, reply()]).replies_cut == 1


def test_usage_that_is_not_told_is_unknown() -> None:
    prices = {"price_per_million_prompt_tokens": 1.0, "price_per_million_completion_tokens": 1.0}
    some = Account([reply(), reply(prompt=0, completion=0), reply(completion=0)], **prices).as_dict()
    assert some["usage"] == "unknown for 2 replies"
    assert some["replies_without_usage"] == 2
    assert some["prompt_tokens"] == 200
    assert some["cost"] is not None
    none = Account([reply(prompt=0, completion=0)], **prices).as_dict()
    assert (none["prompt_tokens"], none["completion_tokens"], none["cost"]) == (None, None, None)


def test_what_is_not_known_is_none() -> None:
    empty = Account().as_dict()
    assert empty["latency_seconds"] == {"p50": None, "p90": None, "p99": None}
    assert (empty["wall_seconds"], empty["requests_per_second"], empty["cost"]) == (None, None, None)
    assert Account([reply()], price_per_million_prompt_tokens=1.0).cost is None


def test_what_is_free_costs_nothing() -> None:
    free = Account([reply()], price_per_million_prompt_tokens=0.0, price_per_million_completion_tokens=0.0)
    assert free.cost == 0.0


@pytest.mark.parametrize("price", [-1.0, math.nan, math.inf])
def test_an_impossible_price_is_an_error(price: float) -> None:
    with pytest.raises(RecipeError, match="completion tokens"):
        Account(price_per_million_completion_tokens=price)


OUTCOMES = st.one_of(
    st.builds(
        reply,
        st.floats(0, 1e4),
        prompt=st.integers(0, 10**5),
        completion=st.integers(0, 10**5),
        attempts=st.integers(1, 9),
    ),
    st.builds(
        failure,
        st.sampled_from(["timeout", "connection", "empty_reply"]),
        attempts=st.integers(1, 9),
        seconds=st.floats(0, 1e4),
    ),
)


@given(st.lists(OUTCOMES, max_size=40), st.randoms(use_true_random=False))
def test_the_order_of_outcomes_does_not_matter(outcomes: list[Outcome], draw: random.Random) -> None:
    before = Account(outcomes).as_dict()
    draw.shuffle(outcomes)
    assert Account(outcomes).as_dict() == before


@given(st.lists(st.floats(1e-6, 1e5), min_size=1, max_size=300), st.floats(0, 1))
def test_quantiles_are_near_the_true_ones(values: list[float], level: float) -> None:
    sketch = LatencySketch(accuracy=0.01)
    for value in values:
        sketch.add(value)
    assert sketch.quantile(level) == pytest.approx(np.quantile(values, level, method="lower"), rel=0.0101)


@given(st.lists(st.floats(0, 1e4)), st.lists(st.floats(0, 1e4)), st.floats(0, 1))
def test_sketches_add_up(first: list[float], second: list[float], level: float) -> None:
    both, left, right = LatencySketch(), LatencySketch(), LatencySketch()
    for value in first:
        both.add(value)
        left.add(value)
    for value in second:
        both.add(value)
        right.add(value)
    left.merge(right)
    assert left.quantile(level) == both.quantile(level) or (not first and not second)


def test_a_sketch_stays_small() -> None:
    sketch = LatencySketch()
    draw = random.Random(0)
    for _ in range(20_000):
        sketch.add(10 ** draw.uniform(-7, 5.8))
    assert len(sketch) < 1_400
