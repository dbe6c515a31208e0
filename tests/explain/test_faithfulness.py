import numpy as np
import pytest
import torch

from radvqa.errors import RecipeError
from radvqa.explain.asked import answer_ids, answer_logprobs, ask
from radvqa.explain.faithfulness import RANDOM_ORDERS, faithfulness, faithfulness_of

GRID = (4, 5)
CELLS = 20
CELL = 13


def planted(left):
    """2 nats hang on one cell."""
    return 2.0 * left[:, CELL] - 3.0


def map_of(**values):
    grid = np.zeros(CELLS)
    for name, value in values.items():
        grid[int(name.removeprefix("c"))] = value
    return grid.reshape(GRID)


def measured(maps, left=planted, **settings):
    return faithfulness_of(left, maps, grid=GRID, steps=CELLS, **settings)


def test_a_map_of_the_one_cell_that_counts_is_perfect():
    found = measured({"right": map_of(c13=1.0), "wrong": -map_of(c13=1.0)})
    right, wrong = found["right"], found["wrong"]
    assert right["deletion"] == pytest.approx(0.5 / CELLS)
    assert right["insertion"] == pytest.approx(1 - 0.5 / CELLS)
    assert right["gap"] == pytest.approx(2 * (1 - 1 / CELLS))
    assert wrong["gap"] == pytest.approx(-right["gap"])
    assert right["gap_over_random"] == pytest.approx(right["gap"] - found["random"]["gap"])
    assert abs(found["random"]["gap"]) < right["gap"]
    for k in (1, 5, 10, 20, 50):
        assert (right[f"comprehensiveness@{k}"], right[f"sufficiency@{k}"]) == (2.0, 0.0)
        assert (wrong[f"comprehensiveness@{k}"], wrong[f"sufficiency@{k}"]) == (0.0, 2.0)
    assert found["answer"] == {"all": -1.0, "none": -3.0}


def test_the_raster_order_is_row_by_row():
    raster = measured({})["raster"]
    rest = CELLS - 1 - CELL
    assert raster["deletion"] == pytest.approx((CELL + 0.5) / CELLS)
    assert raster["insertion"] == pytest.approx((rest + 0.5) / CELLS)
    assert (raster["comprehensiveness@50"], raster["sufficiency@50"]) == (0.0, 2.0)


def test_insertion_is_deletion_from_the_other_end():
    chance = np.random.default_rng(1)
    weights, values = chance.random(CELLS), chance.random(CELLS)
    found = measured(
        {"there": values.reshape(GRID), "back": -values.reshape(GRID)}, left=lambda left: (left * weights).sum(1) ** 2
    )
    assert found["there"]["insertion"] == pytest.approx(found["back"]["deletion"])
    assert found["there"]["deletion"] == pytest.approx(found["back"]["insertion"])


def test_the_order_of_true_worth_has_the_largest_gap():
    weights = np.random.default_rng(2).random(CELLS)
    maps = {f"m{seed}": np.random.default_rng(seed).random(GRID) for seed in range(100, 120)}
    found = measured({"true": weights.reshape(GRID), **maps}, left=lambda left: left @ weights)
    assert all(found["true"]["gap"] > found[name]["gap"] for name in maps)


def test_a_constant_map_orders_nothing():
    found = measured({"flat": np.full(GRID, 0.3), "right": map_of(c13=1.0)})
    assert found["flat"] == {}
    assert found["right"]


def test_ties_are_not_broken_from_the_top_left_corner():
    """The lowest cells first in the map; all others are equal, and raster order would delete cell 0 second."""
    left = lambda left: 1.0 * left[:, 0]  # noqa: E731
    found = [measured({"map": map_of(c19=1.0)}, left=left, seed=seed)["map"]["deletion"] for seed in range(5)]
    assert len(set(found)) > 1
    assert np.mean(found) > 0.2


def test_where_the_image_hardly_matters_there_are_no_normalised_areas():
    for worth in (0.04, -2.0):
        found = measured({"right": map_of(c13=1.0)}, left=lambda left, worth=worth: worth * left[:, CELL])
        assert not {"deletion", "insertion"} & {key for one in found.values() for key in one}
        assert found["right"]["gap"] == pytest.approx(worth * (1 - 1 / CELLS))


def test_every_set_is_asked_for_once_and_seeds_repeat():
    asked = []

    def left(cells):
        asked.append(cells)
        return planted(cells)

    maps = {"right": map_of(c13=1.0), "same": map_of(c13=5.0)}
    found = measured(maps, left=left, seed=4)
    assert len(asked) == 1
    assert len(np.unique(asked[0], axis=0)) == len(asked[0])
    assert found["right"] == found["same"]
    assert measured(maps, seed=4) == found
    assert measured(maps, seed=5)["random"] != found["random"]
    assert RANDOM_ORDERS > 1


@pytest.mark.parametrize(
    ("values", "steps", "message"),
    [
        (np.zeros((3, 3)), 4, "cannot order"),
        (np.full(GRID, np.nan), 4, "cannot order"),
        (np.zeros(GRID), 0, "no steps"),
        (np.zeros(GRID), 21, "no steps"),
    ],
)
def test_maps_and_steps_that_do_not_fit_are_refused(values, steps, message):
    with pytest.raises(RecipeError, match=message):
        faithfulness_of(planted, {"map": values}, grid=GRID, steps=steps)


@pytest.mark.parametrize("how", [{}, {"hidden_from": "everything"}, {"mode": "pixel", "fill": "mean"}])
def test_f_of_a_model_is_the_mean_log_probability_of_the_answer(vlm, samples, store, how):
    ids = answer_ids(vlm, "left", where="here")
    asked = ask(vlm, samples[0], ids, torch.from_numpy(store.pixels(samples[0].image)))
    grid = np.arange(16.0).reshape(4, 4)
    found = faithfulness(asked, {"map": grid}, steps=4, **how)
    assert found["answer"]["all"] == pytest.approx(float(answer_logprobs(asked).mean()), abs=1e-5)
    if "mode" not in how:
        none = answer_logprobs(asked, hidden=torch.ones(1, 16, dtype=torch.bool))
        assert found["answer"]["none"] == pytest.approx(float(none.mean()), abs=1e-5)
    assert set(found) == {"map", "random", "raster", "answer"}
    # Backwards raster order.
    assert found["map"]["gap"] == pytest.approx(-found["raster"]["gap"], abs=1e-4)
