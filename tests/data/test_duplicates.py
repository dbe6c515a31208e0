import numpy as np
import pytest
from scipy import ndimage

from radvqa.data import duplicates
from radvqa.data.duplicates import ALIKE, Thumbnails, alike_pairs


def pictures(count: int, *, seed: int = 0) -> Thumbnails:
    """Smooth, unrelated gray pictures."""
    rng = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(rng.standard_normal((count, 48, 48)), (0, 5, 5))
    low, high = smooth.min(axis=(1, 2), keepdims=True), smooth.max(axis=(1, 2), keepdims=True)
    return (255 * (smooth - low) / (high - low)).astype(np.uint8)


def with_copies(count: int, *, every: int, noise: float = 4.0) -> tuple[Thumbnails, set[tuple[int, int]]]:
    """Unrelated pictures of which some are followed by a noisy copy, darker and of less contrast; and those pairs."""
    rng = np.random.default_rng(1)
    made = pictures(count)
    pairs = set()
    for place in range(every, count, every):
        copy = 0.7 * made[place - 1] + 10 + rng.normal(0, noise, (48, 48))
        made[place] = np.clip(copy, 0, 255).astype(np.uint8)
        pairs.add((place - 1, place))
    return made, pairs


def places(thumbnails: Thumbnails, *, seed: int = 0) -> set[tuple[int, int]]:
    return {(pair.first, pair.second) for pair in alike_pairs(thumbnails, seed=seed)}


def test_copies_are_found_whatever_their_brightness_and_contrast() -> None:
    made, pairs = with_copies(300, every=10)
    assert places(made) == pairs


@pytest.mark.parametrize("seed", [0, 1])
def test_hashing_finds_what_comparing_all_pairs_finds(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    # So noisy that some copies fall below the threshold, and others are just above it.
    made, pairs = with_copies(2000, every=10, noise=6)
    exact = places(made)
    assert 100 < len(exact) < len(pairs)
    monkeypatch.setattr(duplicates, "ALL_PAIRS_UP_TO", 0)
    assert places(made, seed=seed) == exact


def test_every_pair_tells_its_correlation() -> None:
    made, _ = with_copies(40, every=10)
    for pair in alike_pairs(made):
        first, second = (made[place].astype(float).ravel() for place in (pair.first, pair.second))
        assert pair.correlation == pytest.approx(np.corrcoef(first, second)[0, 1], abs=1e-5)
        assert pair.correlation > ALIKE


def test_even_pictures_are_like_nothing() -> None:
    even = np.full((3, 48, 48), 9, dtype=np.uint8)
    assert alike_pairs(even) == []
    assert alike_pairs(even[:1]) == []
    assert alike_pairs(even[:0]) == []


def test_among_hundreds_of_near_copies_every_one_of_a_side_meets_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "ALL_PAIRS_UP_TO", 0)
    rng = np.random.default_rng(5)
    one = pictures(1)[0].astype(float)
    copies = [np.clip(one + rng.normal(0, 3, (48, 48)), 0, 255) for _ in range(400)]
    made = np.concatenate([np.array(copies).astype(np.uint8), pictures(1000, seed=3)])
    pairs = places(made)
    met = {second for first, second in pairs if first < 200 <= second}
    assert met == set(range(200, 400))
    assert len(pairs) <= 400 * 8 * 32
    assert max(second for _, second in pairs) < 400
