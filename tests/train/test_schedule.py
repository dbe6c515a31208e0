import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from radvqa.train.schedule import learning_rate_factor

SHAPES = ("cosine", "linear", "constant", "wsd")


def factors(updates, warmup_updates, shape="cosine", decay=0.2):
    return [
        learning_rate_factor(update, updates=updates, warmup_updates=warmup_updates, shape=shape, decay=decay)
        for update in range(1, updates + 1)
    ]


def test_it_rises_linearly_then_falls():
    found = factors(19, 4)
    assert found[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert all(earlier > later for earlier, later in pairwise(found[3:]))
    assert found[11] == pytest.approx(0.5)  # halfway down the cosine
    assert 0 < found[-1] < 0.02


def test_without_warm_up_it_only_falls():
    found = factors(10, 0)
    assert found[0] == pytest.approx(0.97975, abs=1e-4)
    assert found == sorted(found, reverse=True)


def test_the_cosine_is_the_one_runs_had_before():
    expected = [update / 5 for update in range(1, 6)]
    expected += [0.5 * (1 + math.cos(math.pi * ((update - 5) / 96))) for update in range(6, 101)]
    assert factors(100, 5) == expected


def test_linear_falls_in_equal_steps():
    assert factors(5, 1, "linear") == pytest.approx([1, 0.8, 0.6, 0.4, 0.2])


def test_constant_stays():
    assert factors(5, 2, "constant") == [0.5, 1, 1, 1, 1]


def test_wsd_is_stable_then_decays_over_the_last_share():
    found = factors(100, 10, "wsd", decay=0.2)
    assert found[:10] == pytest.approx([0.1 * update for update in range(1, 11)])
    assert found[10:80] == [1.0] * 70
    assert found[80:] == pytest.approx([(21 - place) / 21 for place in range(1, 21)])


@pytest.mark.parametrize(("updates", "decay", "falling"), [(10, 0.25, 3), (100, 0.07, 7), (10, 1.0, 10), (3, 0.01, 1)])
def test_the_share_of_the_decay_is_rounded_up(updates, decay, falling):
    assert sum(factor < 1 for factor in factors(updates, 0, "wsd", decay)) == falling


def test_a_decay_that_reaches_into_the_warm_up_begins_after_it():
    assert factors(10, 4, "wsd", decay=0.9) == factors(10, 4, "linear")


@settings(deadline=None)
@given(
    updates=st.integers(1, 300),
    warmup=st.floats(0, 1.5),
    shape=st.sampled_from(SHAPES),
    decay=st.floats(0, 1, exclude_min=True),
)
def test_every_update_learns_and_the_rate_has_one_peak(updates, warmup, shape, decay):
    found = factors(updates, math.floor(warmup * updates), shape, decay)
    assert all(0 < factor <= 1 for factor in found)
    peak = found.index(max(found))
    assert found[: peak + 1] == sorted(found[: peak + 1])
    assert found[peak:] == sorted(found[peak:], reverse=True)
