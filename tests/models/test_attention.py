import pytest
import torch
from torch.nn import functional

from radvqa.models.attention import products


def inputs(*, heads, groups, queries, keys, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def some(count, length):
        return torch.randn(2, count, length, 8, generator=generator).to(dtype).requires_grad_(True)

    mask = torch.zeros(2, 1, queries, keys, dtype=dtype)
    mask[:, :, :, -2:] = torch.finfo(dtype).min
    mask[0, :, 0, 0] = torch.finfo(dtype).min
    return some(heads, queries), some(groups, keys), some(groups, keys), mask


def reference(query, key, value, mask, scale):
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale, enable_gqa=True)


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (8, 1)])
@pytest.mark.parametrize(("queries", "keys"), [(7, 7), (1, 9), (3, 5)])
@pytest.mark.parametrize("masked", [True, False])
def test_products_are_attention_and_so_are_their_gradients(heads, groups, queries, keys, masked):
    query, key, value, mask = inputs(heads=heads, groups=groups, queries=queries, keys=keys)
    mask = mask if masked else None
    found, expected = (of(query, key, value, mask, 0.3) for of in (products, reference))
    assert torch.allclose(found, expected, atol=1e-12)
    gradient = torch.randn(expected.shape, dtype=torch.float64)
    for one, other in zip(
        *(torch.autograd.grad(some, (query, key, value), gradient) for some in (found, expected)), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-12)


def test_masked_keys_do_not_count(monkeypatch):
    query, key, value, mask = inputs(heads=4, groups=2, queries=5, keys=5)
    with torch.no_grad():
        before = products(query, key, value, mask, 0.3)
        key[:, :, -2:] += 100
        value[:, :, -2:] += 100
        assert torch.equal(products(query, key, value, mask, 0.3), before)


def test_in_bfloat16_it_is_as_exact_as_the_fused_kernel():
    exact = inputs(heads=6, groups=2, queries=40, keys=40)
    rounded = [one.detach().bfloat16() for one in exact]
    expected = reference(*[one.double() for one in rounded[:3]], exact[3], 0.3)
    errors = [float((of(*rounded, 0.3).double() - expected).norm() / expected.norm()) for of in (products, reference)]
    assert errors[0] < 2 * errors[1] + 1e-3
    assert errors[0] < 0.01
