import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from radvqa.data.imaging import fit
from radvqa.errors import DataError, ModelError, RunError
from radvqa.explain import overlay as module
from radvqa.explain.overlay import cell_at, cell_box, grid_frame, overlay, padding_share, save_panel, strength
from radvqa.explain.saliency_map import SaliencyMap
from radvqa.sample import Region

sizes = st.tuples(st.integers(40, 900), st.integers(40, 900))
grids = st.tuples(st.integers(1, 32), st.integers(1, 32))


def saliency(grid, **changes):
    values = {
        "grid": grid,
        "method": "rollout",
        "target": "left",
        "image_mass": float(grid.sum()),
        "sink_mass": 0.3,
        "sink_position": 16,
        "self_mass": 0.1,
        "entropy": 0.5,
        "specificity": 0.02,
        "grid_specificity": math.nan,
    }
    return SaliencyMap(**{**values, **changes})


@given(grid_shape=grids, image_size=sizes, data=st.data())
def test_cells_and_pixels_round_trip(grid_shape, image_size, data):
    row = data.draw(st.integers(0, grid_shape[0] - 1))
    col = data.draw(st.integers(0, grid_shape[1] - 1))
    x, y, width, height = cell_box(row, col, grid_shape=grid_shape, image_size=image_size)
    assert cell_at(x + width / 2, y + height / 2, grid_shape=grid_shape, image_size=image_size) == (row, col)
    assert x + width <= image_size[0] + 1e-9
    assert y + height <= image_size[1] + 1e-9


@given(grid_shape=grids, image_size=sizes, data=st.data())
def test_a_pixel_lies_in_the_box_of_its_cell(grid_shape, image_size, data):
    x = data.draw(st.integers(0, image_size[0] - 1)) + 0.5
    y = data.draw(st.integers(0, image_size[1] - 1)) + 0.5
    row, col = cell_at(x, y, grid_shape=grid_shape, image_size=image_size)
    left, top, width, height = cell_box(row, col, grid_shape=grid_shape, image_size=image_size)
    assert left - 1e-9 <= x <= left + width + 1e-9
    assert top - 1e-9 <= y <= top + height + 1e-9


def test_outside_is_refused():
    with pytest.raises(ValueError, match="no cell"):
        cell_box(4, 0, grid_shape=(4, 4), image_size=(10, 10))
    with pytest.raises(ValueError, match="outside"):
        cell_at(10, 0, grid_shape=(4, 4), image_size=(10, 10))


@given(image_size=sizes, size=st.integers(1, 300))
def test_the_frame_of_a_squashed_image_is_the_image(image_size, size):
    assert grid_frame(image_size, size, aspect="squash") == (0, 0, *image_size)


@given(grid_shape=grids, image_size=sizes, size=st.integers(1, 300), data=st.data())
def test_every_point_of_a_padded_image_lies_in_the_box_of_its_cell(grid_shape, image_size, size, data):
    frame = grid_frame(image_size, size, aspect="pad")
    where = {"grid_shape": grid_shape, "image_size": image_size, "frame": frame}
    x = data.draw(st.integers(0, image_size[0] - 1)) + 0.5
    y = data.draw(st.integers(0, image_size[1] - 1)) + 0.5
    left, top, width, height = cell_box(*cell_at(x, y, **where), **where)
    near = 1e-9 * max(frame[2:])
    assert left - near <= x <= left + width + near
    assert top - near <= y <= top + height + near


@pytest.mark.parametrize("image_size", [(400, 100), (100, 400), (200, 150), (96, 96)])
def test_a_spot_is_found_in_the_same_cell_of_the_padded_square_and_of_the_image(image_size):
    frame = grid_frame(image_size, 64, aspect="pad")
    for x, y in ((10, 10), (image_size[0] - 10, 10), (image_size[0] // 2, image_size[1] - 10)):
        pixels = np.zeros((image_size[1], image_size[0]), dtype=np.uint8)
        pixels[y - 8 : y + 8, x - 8 : x + 8] = 255
        square = fit(Image.fromarray(pixels), 64, aspect="pad")[..., 0].astype(float)
        row, column = np.unravel_index(square.reshape(8, 8, 8, 8).sum(axis=(1, 3)).argmax(), (8, 8))
        left, top, width, height = cell_box(row, column, grid_shape=(8, 8), image_size=image_size, frame=frame)
        assert left - 8 <= x <= left + width + 8
        assert top - 8 <= y <= top + height + 8


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_a_map_over_a_padded_image_lands_on_its_patch(interpolation):
    grid = np.zeros((8, 8))
    grid[4, 6] = 0.01
    grey = Image.new("L", (200, 100), 100)
    frame = grid_frame(grey.size, 64, aspect="pad")
    assert frame == (0, -50, 200, 200)
    changed = np.abs(np.asarray(overlay(grey, grid, interpolation=interpolation, frame=frame)).astype(int) - 100)
    changed = changed.sum(axis=-1)
    rows, columns = np.nonzero(changed > 0.9 * changed.max())
    assert (rows.mean(), columns.mean()) == pytest.approx((62, 162), abs=1.0)  # of the box (150, 50, 25, 25)
    if interpolation == "nearest":
        assert np.count_nonzero(changed) == 25 * 25


def test_weight_on_padding_is_told():
    frame = grid_frame((200, 100), 64, aspect="pad")
    share = {"image_size": (200, 100), "frame": frame}
    assert padding_share(np.ones((8, 8)), **share) == pytest.approx(0.5)
    assert padding_share(np.ones((3, 3)), **share) == pytest.approx(0.5)
    top = np.zeros((8, 8))
    top[0] = 1
    assert padding_share(top, **share) == 1.0
    assert padding_share(np.roll(top, 4, axis=0), **share) == 0.0
    assert math.isnan(padding_share(np.zeros((8, 8)), **share))
    assert padding_share(np.ones((8, 8)), image_size=(90, 90), frame=grid_frame((90, 90), 64, aspect="pad")) == 0.0
    assert "50.0 % of the map" in module._numbers(saliency(np.ones((2, 2)) / 4), 0.5)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
@pytest.mark.parametrize("cell", [(0, 0), (1, 3), (3, 2)])
def test_a_one_hot_map_lands_on_its_patch(cell, interpolation):
    """On an image that is not square; nothing outside the patch (nearest) or beyond its neighbours (bilinear)."""
    grid = np.zeros((4, 5))
    grid[cell] = 0.01
    grey = Image.new("L", (200, 120), 100)
    drawn = np.asarray(overlay(grey, grid, interpolation=interpolation)).astype(int)
    changed = np.abs(drawn - 100).sum(axis=-1)
    x, y, width, height = cell_box(*cell, grid_shape=(4, 5), image_size=grey.size)
    inside = np.zeros_like(changed, dtype=bool)
    margin_x, margin_y = (0, 0) if interpolation == "nearest" else (width / 2, height / 2)
    columns = slice(int(max(0, x - margin_x)), int(x + width + margin_x))
    inside[int(max(0, y - margin_y)) : int(y + height + margin_y), columns] = True
    assert (changed[~inside] == 0).all()
    assert changed[int(y + height / 2), int(x + width / 2)] > 50
    if interpolation == "nearest":
        assert (changed[inside] > 50).all()


def test_strength_keeps_zero_and_cuts_at_the_percentile():
    grid = np.arange(101, dtype=float).reshape(1, 101)
    scaled = strength(grid)
    assert scaled[0, 0] == 0.0
    assert scaled[0, 50] == pytest.approx(50 / 99)
    assert scaled[0, 99] == scaled[0, 100] == 1.0
    np.testing.assert_array_equal(strength(np.full((3, 3), 0.2)), np.ones((3, 3)))
    np.testing.assert_array_equal(strength(np.zeros((3, 3))), np.zeros((3, 3)))
    one_hot = np.zeros((20, 20))
    one_hot[5, 5] = 0.3
    assert strength(one_hot)[5, 5] == 1.0
    for bad in (np.array([[-0.1]]), np.array([[np.nan]])):
        with pytest.raises(ModelError):
            strength(bad)


def test_an_empty_map_leaves_the_image_as_it_is():
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    drawn = overlay(Image.fromarray(pixels), np.zeros((4, 4)))
    np.testing.assert_array_equal(np.asarray(drawn), pixels)


def test_scaling_a_map_does_not_change_the_picture():
    grid = np.random.default_rng(1).random((4, 4))
    image = Image.new("RGB", (64, 48), (90, 90, 90))
    np.testing.assert_array_equal(np.asarray(overlay(image, grid)), np.asarray(overlay(image, grid * 1e-3)))


def test_the_panel_is_written_whole_and_reproducibly(tmp_path):
    image = Image.new("L", (96, 64), 80)
    grid = np.random.default_rng(2).random((4, 4)) / 16
    maps = {"Raw attention": saliency(grid), "Rollout, costs $5 or $6": saliency(grid, specificity=math.nan)}
    arguments = {
        "maps": maps,
        "title": "Which side? 哪一侧 " * 12,
        "caption": "Reference: left.\nAnswer: " + "word " * 80,
        "regions": (Region(label="lung", box=(10, 10, 30, 20)), Region(label="mask only")),
    }
    save_panel(tmp_path / "out" / "a.png", image, **arguments)
    save_panel(tmp_path / "b.png", image, **arguments)
    assert (tmp_path / "out" / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.png"]
    with Image.open(tmp_path / "b.png") as written:
        assert written.format == "PNG"
        assert written.width > 700


def test_the_panel_says_what_it_is_not(tmp_path, monkeypatch):
    texts = []
    write = module._Page.write
    monkeypatch.setattr(
        module._Page, "write", lambda self, x, y, text, **style: (texts.append(text), write(self, x, y, text, **style))
    )
    grid = np.full((2, 2), 0.1)
    save_panel(tmp_path / "a.png", Image.new("L", (32, 32)), maps={"Rollout": saliency(grid)}, title="T", caption="C")
    assert "Research use only, not for clinical use." in texts
    numbers = next(text for text in texts if "image mass" in text and "entropy" in text)
    assert "image mass 40.0 %" in numbers
    assert "largest text position 30.0 %" in numbers
    assert "same picture" not in numbers


def test_the_panel_warns_when_every_token_has_the_same_picture():
    grid = np.full((2, 2), 0.1)
    assert "same picture for every token" in module._numbers(saliency(grid, grid_specificity=0.019))
    assert "same picture" not in module._numbers(saliency(grid, grid_specificity=0.021))


def test_errors_of_the_panel(tmp_path):
    grid = np.full((2, 2), 0.1)
    picture = Image.new("L", (32, 32))
    with pytest.raises(DataError):
        save_panel(tmp_path / "a.png", Image.new("L", (0, 3)), maps={}, title="", caption="")
    with pytest.raises(ModelError):
        bad = dataclasses.replace(saliency(grid), grid=-grid)
        save_panel(tmp_path / "a.png", picture, maps={"x": bad}, title="", caption="")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError):
        save_panel(tmp_path / "file" / "a.png", picture, maps={}, title="", caption="")
    assert not (tmp_path / "a.png").exists()
