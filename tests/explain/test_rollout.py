import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from radvqa.errors import ModelError, RecipeError
from radvqa.explain.capture import AttentionTrace
from radvqa.explain.rollout import image_map, image_maps, raw_attention, rollout

IMAGE = slice(0, 6)
GRID = (2, 3)
LENGTH = 11


def attention(seed, *, layers=5, n=LENGTH, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(layers, n, n, generator=generator, dtype=dtype).mul(2).softmax(dim=-1)


def product(fused, alpha):
    """Rollout as Abnar and Zuidema write it: mix with the identity, then multiply, newest layer on the left."""
    result = torch.eye(fused.shape[-1], dtype=fused.dtype)
    for layer in fused:
        result = ((1 - alpha) * layer + alpha * torch.eye(fused.shape[-1], dtype=fused.dtype)) @ result
    return result


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), alpha=st.floats(0, 1), layers=st.integers(1, 18))
def test_row_form_equals_the_full_product(seed, alpha, layers):
    fused = attention(seed, layers=layers)
    expected = product(fused, alpha)
    result = rollout(fused, slice(4, 9), alpha=alpha)
    torch.testing.assert_close(result, expected[4:9], atol=1e-12, rtol=0)
    torch.testing.assert_close(rollout(fused, [10, 2], alpha=alpha), expected[[10, 2]], atol=1e-12, rtol=0)
    torch.testing.assert_close(result.sum(dim=-1), torch.ones(5, dtype=torch.float64), atol=1e-12, rtol=0)


def test_layer_order_matters_and_is_first_to_last():
    fused = attention(0, layers=2)
    assert (rollout(fused, slice(0, LENGTH)) - product(fused.flip(0), 0.5)).abs().max() > 1e-3


def test_alpha_extremes():
    fused = attention(1, layers=1)
    torch.testing.assert_close(rollout(fused, [7], alpha=0.0), fused[0, 7:8])
    torch.testing.assert_close(rollout(fused, [7], alpha=1.0), torch.eye(LENGTH, dtype=torch.float64)[7:8])
    with pytest.raises(RecipeError, match="alpha"):
        rollout(fused, [7], alpha=1.5)


def test_half_precision_matrices_are_multiplied_in_fp32():
    fused = attention(3)
    result = rollout(fused.half(), slice(4, 9))
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), rollout(fused, slice(4, 9)), atol=2e-3, rtol=0)


def trace_of(rows):
    return AttentionTrace(
        rows=rows, fused=rows.mean(dim=1), image_tokens=IMAGE, positions=slice(8, 10), logits=torch.zeros(2, 4)
    )


def test_raw_attention_is_the_mean_over_heads_and_chosen_layers():
    rows = attention(4, layers=3 * 4 * 2, n=LENGTH, dtype=torch.float32)[:, 0].reshape(3, 4, 2, LENGTH)
    trace = trace_of(rows)
    torch.testing.assert_close(raw_attention(trace), rows.mean(dim=(0, 1)))
    torch.testing.assert_close(raw_attention(trace, layers=slice(1, None)), rows[1:].mean(dim=(0, 1)))
    torch.testing.assert_close(raw_attention(trace, layers=[2]), rows[2].mean(dim=0))
    with pytest.raises(RecipeError, match="empty"):
        raw_attention(trace, layers=slice(3, None))


def a_map(row, *, others=(), position=9):
    return image_map(
        torch.tensor(row),
        IMAGE,
        grid_shape=GRID,
        position=position,
        others=torch.tensor(others).reshape(-1, LENGTH),
        method="rollout",
        target="yes",
    )


ROW = [0.2, 0.0, 0.2, 0.0, 0.0, 0.0, 0.3, 0.05, 0.05, 0.2, 0.0]


def test_the_numbers_of_a_map():
    other = [0.0, 0.2, 0.2, 0.0, 0.0, 0.0, 0.5, 0.05, 0.05, 0.0, 0.0]
    result = a_map(ROW, others=[other])
    np.testing.assert_allclose(result.grid, [[0.2, 0.0, 0.2], [0.0, 0.0, 0.0]], atol=1e-7)
    assert result.image_mass == pytest.approx(0.4)
    assert (result.sink_mass, result.sink_position) == (pytest.approx(0.3), 6)
    assert result.self_mass == pytest.approx(0.2)
    assert result.entropy == pytest.approx(math.log(2) / math.log(6))
    assert result.specificity == pytest.approx(0.4)
    assert result.grid_specificity == pytest.approx(0.5)


def test_own_position_and_image_are_no_sink():
    row = [0.5, 0, 0, 0, 0, 0, 0.1, 0, 0, 0.4, 0.0]
    assert a_map(row).sink_position == 6


def test_one_token_has_no_specificity():
    assert math.isnan(a_map(ROW).specificity)
    assert math.isnan(a_map(ROW).grid_specificity)


def test_no_image_mass_has_no_entropy():
    result = a_map([0.0] * 6 + [0.5, 0.5, 0, 0, 0], others=[ROW])
    assert result.image_mass == 0.0
    assert math.isnan(result.entropy)
    assert math.isnan(result.grid_specificity)


def test_flat_and_one_hot_entropy():
    assert a_map([1 / 6] * 6 + [0.0] * 5).entropy == pytest.approx(1.0)
    assert a_map([1.0] + [0.0] * 10).entropy == pytest.approx(0.0)


def test_maps_of_all_rows_are_compared_with_each_other():
    rows = torch.tensor([ROW, ROW, [0.0] * 6 + [1.0, 0, 0, 0, 0]])
    maps = image_maps(
        rows, IMAGE, grid_shape=GRID, positions=slice(8, 11), method="raw attention", targets=["a", "b", "c"]
    )
    assert [m.target for m in maps] == ["a", "b", "c"]
    assert [m.self_mass for m in maps] == pytest.approx([0.05, 0.2, 0.0])
    assert maps[0].specificity == pytest.approx((0.0 + 0.7) / 2)
    with pytest.raises(ValueError, match="zip"):
        image_maps(rows, IMAGE, grid_shape=GRID, positions=slice(8, 11), method="raw attention", targets=["a"])


def test_a_wrong_grid_is_refused():
    with pytest.raises(ModelError, match="fill the image grid"):
        image_map(
            torch.tensor(ROW), IMAGE, grid_shape=(4, 4), position=9, others=torch.empty(0, LENGTH), method="", target=""
        )
