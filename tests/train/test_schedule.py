from itertools import pairwise

import pytest

from radvqa.train.schedule import learning_rate_factor


def factors(updates, warmup):
    return [learning_rate_factor(update, updates=updates, warmup=warmup) for update in range(1, updates + 1)]


def test_it_rises_linearly_then_falls():
    found = factors(19, 0.2)
    assert found[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert all(earlier > later for earlier, later in pairwise(found[3:]))
    assert found[11] == pytest.approx(0.5)  # halfway down the cosine
    assert 0 < found[-1] < 0.02


def test_without_warm_up_it_only_falls():
    found = factors(10, 0.0)
    assert found[0] == pytest.approx(0.97975, abs=1e-4)
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.99])
@pytest.mark.parametrize("updates", [1, 2, 3, 100])
def test_every_update_learns(updates, warmup):
    assert all(0 < factor <= 1 for factor in factors(updates, warmup))
