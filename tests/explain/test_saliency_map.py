import math

import numpy as np
import pytest
import torch

from radvqa.errors import ModelError
from radvqa.explain.saliency_map import answer_grid_map, answer_map, grid_maps, image_maps

IMAGE = slice(0, 6)
GRID = (2, 3)
LENGTH = 11
ROW = [0.2, 0.0, 0.2, 0.0, 0.0, 0.0, 0.3, 0.05, 0.05, 0.2, 0.0]
OTHER = [0.0, 0.2, 0.2, 0.0, 0.0, 0.0, 0.5, 0.05, 0.05, 0.0, 0.0]


def maps(*rows, first=9):
    where = slice(first, first + len(rows))
    words = [str(number) for number in range(len(rows))]
    return image_maps(torch.tensor(rows), IMAGE, grid_shape=GRID, positions=where, method="rollout", targets=words)


def test_the_numbers_of_a_map():
    found = maps(ROW, OTHER)[0]
    np.testing.assert_allclose(found.grid, [[0.2, 0.0, 0.2], [0.0, 0.0, 0.0]], atol=1e-7)
    assert found.image_mass == pytest.approx(0.4)
    assert (found.sink_mass, found.sink_position) == (pytest.approx(0.3), 6)
    assert found.self_mass == pytest.approx(0.2)
    assert found.entropy == pytest.approx(math.log(2) / math.log(6))
    assert found.specificity == pytest.approx(0.4)
    assert found.grid_specificity == pytest.approx(0.5)


def test_own_position_and_image_are_no_sink():
    assert maps([0.5, 0, 0, 0, 0, 0, 0.1, 0, 0, 0.4, 0.0])[0].sink_position == 6


def test_one_token_has_no_specificity():
    assert math.isnan(maps(ROW)[0].specificity)
    assert math.isnan(maps(ROW)[0].grid_specificity)


def test_equal_rows_have_specificity_zero():
    for found in maps(ROW, ROW, ROW, first=8):
        assert found.specificity == found.grid_specificity == 0.0


def test_no_image_mass_has_no_entropy():
    found = maps([0.0] * 6 + [0.5, 0.5, 0, 0, 0], ROW)[0]
    assert found.image_mass == 0.0
    assert math.isnan(found.entropy)
    assert math.isnan(found.grid_specificity)


def test_flat_and_one_hot_entropy():
    assert maps([1 / 6] * 6 + [0.0] * 5)[0].entropy == pytest.approx(1.0)
    assert maps([1.0] + [0.0] * 10)[0].entropy == pytest.approx(0.0)


def test_maps_of_all_rows_are_compared_with_each_other():
    rows = (ROW, ROW, [0.0] * 6 + [1.0, 0, 0, 0, 0])
    found = maps(*rows, first=8)
    assert [one.target for one in found] == ["0", "1", "2"]
    assert [one.self_mass for one in found] == pytest.approx([0.05, 0.2, 0.0])
    assert found[0].specificity == pytest.approx((0.0 + 0.7) / 2)
    with pytest.raises(ValueError, match="zip"):
        image_maps(torch.tensor(rows), IMAGE, grid_shape=GRID, positions=slice(8, 11), method="rollout", targets=["a"])


def test_a_whole_answer_has_the_facts_of_its_row_and_the_specificity_of_its_tokens():
    rows = torch.tensor([ROW, OTHER])
    found = answer_map(
        rows.mean(0), IMAGE, tokens=rows, grid_shape=GRID, positions=slice(9, 11), method="raw", target="left lung"
    )
    np.testing.assert_allclose(found.grid, [[0.1, 0.1, 0.2], [0.0, 0.0, 0.0]], atol=1e-7)
    assert found.image_mass == pytest.approx(0.4)
    assert found.self_mass == pytest.approx(0.1)
    assert found.sink_mass == pytest.approx(0.4)
    assert found.specificity == pytest.approx(0.4)
    assert found.grid_specificity == pytest.approx(0.5)
    alone = answer_map(
        rows[0], IMAGE, tokens=None, grid_shape=GRID, positions=slice(9, 10), method="raw", target="left lung"
    )
    assert math.isnan(alone.specificity)


def test_a_map_without_a_row_has_no_masses_and_may_be_negative():
    cells = torch.tensor([[0.5, 0.5, 0, 0, 0, -2.0], [0, 0, 0, 0, 1.0, 1.0]])
    found = grid_maps(cells, grid_shape=GRID, method="token_occlusion", targets=["a", "b"])
    assert found[0].grid[1, 2] == -2.0
    assert all(math.isnan(one.image_mass + one.sink_mass + one.self_mass + one.specificity) for one in found)
    assert found[0].entropy == pytest.approx(math.log(2) / math.log(6))
    assert found[0].grid_specificity == pytest.approx(1.0)
    whole = answer_grid_map(cells.sum(0), tokens=cells, grid_shape=GRID, method="token_occlusion", target="ab")
    assert whole.grid_specificity == pytest.approx(1.0)
    assert math.isnan(answer_grid_map(-cells[0].abs(), tokens=None, grid_shape=GRID, method="", target="").entropy)


def test_a_wrong_grid_is_refused():
    with pytest.raises(ModelError, match="fill the image grid"):
        grid_maps(torch.zeros(1, 6), grid_shape=(4, 4), method="", targets=[""])
