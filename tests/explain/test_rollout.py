import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from radvqa.errors import RecipeError
from radvqa.explain.rollout import (
    contrast,
    discard,
    each_against_the_rest,
    fuse,
    mean_over_layers,
    raw_attention,
    relative_attention,
    rollout,
    row_shares,
)

LENGTH = 11
ONES = torch.ones(LENGTH, dtype=torch.float64)


def attention(seed, *, layers=5, n=LENGTH, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(layers, n, n, generator=generator, dtype=dtype).mul(2).softmax(dim=-1)


def heads_of(seed, *, layers=3, heads=4, n=LENGTH):
    return attention(seed, layers=layers * heads, n=n).reshape(layers, heads, n, n)


def causal(seed, *, layers=3, n=LENGTH, prefix=7):
    """Rows as in a prefix-LM: the prefix sees itself, later tokens see what came before."""
    seen = torch.ones(n, n).tril().bool()
    seen[:prefix, :prefix] = True
    return row_shares(attention(seed, layers=layers, n=n).masked_fill(~seen, 0.0))


def product(fused, alpha):
    """Rollout as Abnar and Zuidema write it: mix with the identity, then multiply, newest layer on the left.

    ``alpha`` may be a number for every layer and position, on the diagonal.
    """
    identity = torch.eye(fused.shape[-1], dtype=fused.dtype)
    result = identity
    for number, layer in enumerate(fused):
        kept = alpha * identity if isinstance(alpha, float) else torch.diag(alpha[number])
        result = ((identity - kept) @ layer + kept) @ result
    return result


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), alpha=st.floats(0, 1), layers=st.integers(1, 18))
def test_row_form_equals_the_full_product(seed, alpha, layers):
    fused = attention(seed, layers=layers)
    expected = product(fused, alpha)
    result = rollout(fused, slice(4, 9), alpha=alpha)
    torch.testing.assert_close(result, expected[4:9], atol=1e-12, rtol=0)
    torch.testing.assert_close(rollout(fused, [10, 2], alpha=alpha), expected[[10, 2]], atol=1e-12, rtol=0)
    torch.testing.assert_close(result.sum(dim=-1), ONES[:5], atol=1e-12, rtol=0)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), layers=st.integers(1, 18))
def test_row_form_equals_the_full_product_with_an_alpha_for_every_position(seed, layers):
    fused = attention(seed, layers=layers)
    alpha = torch.rand(layers, LENGTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    result = rollout(fused, slice(4, 9), alpha=alpha)
    torch.testing.assert_close(result, product(fused, alpha)[4:9], atol=1e-12, rtol=0)
    torch.testing.assert_close(result.sum(dim=-1), ONES[:5], atol=1e-12, rtol=0)


def naive_rollout(weights, target, *, alpha, fusion, start, stop):
    """Head fusion, mixing and product entry by entry, for one target."""
    layers, heads, n, _ = weights.shape
    row = [float(j == target) for j in range(n)]
    for layer in reversed(range(layers)[start:stop]):
        mixed = []
        for i in range(n):
            entries = [[float(weights[layer, h, i, j]) for h in range(heads)] for j in range(n)]
            fused = [{"mean": sum(e) / heads, "max": max(e), "min": min(e)}[fusion] for e in entries]
            mixed.append([(1 - alpha) * one / sum(fused) + alpha * (i == j) for j, one in enumerate(fused)])
        row = [sum(row[i] * mixed[i][j] for i in range(n)) for j in range(n)]
    return row


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
@pytest.mark.parametrize(("start", "stop"), [(0, 3), (1, 3), (0, 1)])
def test_every_fusion_and_layer_range_equals_a_naive_implementation(fusion, start, stop):
    weights = heads_of(2)
    fused = fuse(weights, fusion)[start:stop]
    expected = torch.tensor(naive_rollout(weights, 8, alpha=0.3, fusion=fusion, start=start, stop=stop))
    torch.testing.assert_close(rollout(fused, [8], alpha=0.3)[0].float(), expected, atol=1e-6, rtol=0)


def test_fusion_of_chosen_heads():
    weights = heads_of(3)
    torch.testing.assert_close(fuse(weights, heads=[1]), weights[:, 1])
    torch.testing.assert_close(fuse(weights, "max", heads=[2]), weights[:, 2])
    assert (fuse(weights, "max") - fuse(weights, "mean")).abs().max() > 0.01
    with pytest.raises(RecipeError, match="no such head"):
        fuse(weights, heads=[4])


def test_a_known_path_is_found():
    """Token 5 looks at 3 in the last layer, 3 at cell 1 before it: the map is cell 1, though raw attention is not."""
    steps = torch.eye(6).repeat(2, 1, 1)
    steps[1, 5], steps[0, 3] = torch.eye(6)[3], torch.eye(6)[1]
    torch.testing.assert_close(rollout(steps, [5], alpha=0.0)[0], torch.eye(6)[1])
    torch.testing.assert_close(rollout(steps, [5], alpha=0.5)[0], torch.tensor([0, 0.25, 0, 0.25, 0, 0.5]))
    torch.testing.assert_close(rollout(steps.flip(0), [5], alpha=0.0)[0], torch.eye(6)[3])
    kept = torch.zeros(2, 6)
    kept[0, 3] = 1.0  # position 3 carries nothing of what it looks at
    torch.testing.assert_close(rollout(steps, [5], alpha=kept)[0], torch.eye(6)[3])


def test_layer_order_matters_and_is_first_to_last():
    fused = attention(0, layers=2)
    assert (rollout(fused, slice(0, LENGTH)) - product(fused.flip(0), 0.5)).abs().max() > 1e-3


def test_alpha_extremes():
    fused = attention(1, layers=1)
    torch.testing.assert_close(rollout(fused, [7], alpha=0.0), fused[0, 7:8])
    torch.testing.assert_close(rollout(fused, [7], alpha=1.0), torch.eye(LENGTH, dtype=torch.float64)[7:8])
    for bad in (1.5, math.nan, torch.full((1, LENGTH), -0.1)):
        with pytest.raises(RecipeError, match="alpha"):
            rollout(fused, [7], alpha=bad)
    with pytest.raises(ValueError, match="zip"):
        rollout(fused, [7], alpha=torch.zeros(2, LENGTH))


def test_half_precision_matrices_are_multiplied_in_fp32():
    fused = attention(3)
    result = rollout(fused.half(), slice(4, 9))
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.double(), rollout(fused, slice(4, 9)), atol=2e-3, rtol=0)


def test_raw_attention_is_the_mean_over_chosen_heads_and_layers():
    rows = attention(4, layers=3 * 4 * 2, dtype=torch.float32)[:, 0].reshape(3, 4, 2, LENGTH)
    torch.testing.assert_close(raw_attention(rows), rows.mean(dim=(0, 1)))
    torch.testing.assert_close(raw_attention(rows, layers=slice(1, None)), rows[1:].mean(dim=(0, 1)))
    torch.testing.assert_close(raw_attention(rows, layers=[2]), rows[2].mean(dim=0))
    torch.testing.assert_close(raw_attention(rows, layers=[0, 2], heads=[3]), rows[[0, 2], 3].mean(dim=0))
    torch.testing.assert_close(mean_over_layers(rows[:, 0], layers=[1]), rows[1, 0])
    assert raw_attention(rows.half()).dtype == torch.float32
    with pytest.raises(RecipeError, match="empty"):
        raw_attention(rows, layers=slice(3, None))
    with pytest.raises(RecipeError, match="no such head"):
        raw_attention(rows, heads=[1, 4])


def test_row_shares():
    shares = row_shares(torch.tensor([[1.0, 3.0], [0.0, 0.0]]))
    torch.testing.assert_close(shares, torch.tensor([[0.25, 0.75], [0.0, 0.0]]))


@pytest.mark.parametrize("ratio", [0.3, 0.9])
def test_discarding_works_per_row_and_spares_self_and_sinks(ratio):
    fused = causal(5)
    kept = torch.zeros(LENGTH, dtype=torch.bool)
    kept[6] = True
    result = discard(fused, ratio, kept=kept)
    for layer in range(len(fused)):
        for i in range(LENGTH):
            spared = {i, 6}
            seen = [j for j in range(LENGTH) if fused[layer, i, j] > 0 and j not in spared]
            gone = sorted(seen, key=lambda j: fused[layer, i, j])[: int(ratio * len(seen))]
            expected = fused[layer, i].clone()
            expected[gone] = 0
            torch.testing.assert_close(result[layer, i], expected / expected.sum(), atol=1e-12, rtol=0)
    torch.testing.assert_close(result.sum(-1), ONES.expand(3, -1), atol=1e-12, rtol=0)
    assert discard(fused, 0.0, kept=kept) is fused
    for bad in (-0.1, 1.0):
        with pytest.raises(RecipeError, match="discard"):
            discard(fused, bad, kept=kept)


def test_contrast_keeps_what_the_others_do_not_look_at():
    left, right = torch.tensor([0.5, 0.1, 0.4]), torch.tensor([0.1, 0.5, 0.4])
    torch.testing.assert_close(contrast(left[None], right[None]), torch.tensor([[1.0, 0.0, 0.0]]))
    torch.testing.assert_close(contrast(right[None], left[None]), torch.tensor([[0.0, 1.0, 0.0]]))
    assert not contrast(left[None], left[None]).any()
    rows = torch.stack([left, right, left])
    found = each_against_the_rest(rows)
    torch.testing.assert_close(found[1], torch.tensor([0.0, 1.0, 0.0]))
    torch.testing.assert_close(found[0], torch.tensor([1.0, 0.0, 0.0]))


def test_relative_attention_is_a_ratio_and_rounding_does_not_blow_it_up():
    generic = torch.tensor([[0.1, 0.2, 0.1, 0.0]])
    found = relative_attention(torch.tensor([[0.2, 0.2, 0.05, 1e-7]]), generic)
    torch.testing.assert_close(found, torch.tensor([[2.0, 1.0, 0.5, 1e-4]]), atol=1e-6, rtol=1e-5)
    assert not relative_attention(torch.zeros(1, 4), torch.zeros(1, 4)).isnan().any()
