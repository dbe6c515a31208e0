import pytest
import torch
from torch.nn import functional

from radvqa.models.attention import attention
from radvqa.models.opening import open_vlm
from radvqa.recipe import Model
from radvqa.train.pictures import StoredPictures


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
@pytest.mark.parametrize("masked", ["additive", "boolean", "none"])
def test_outputs_and_gradients_are_those_of_attention(heads, groups, queries, keys, masked):
    query, key, value, mask = inputs(heads=heads, groups=groups, queries=queries, keys=keys)
    mask = {"additive": mask, "boolean": mask == 0, "none": None}[masked]
    found, expected = (of(query, key, value, mask, 0.3) for of in (attention, reference))
    assert torch.allclose(found, expected, atol=1e-12)
    gradient = torch.randn(expected.shape, dtype=torch.float64)
    for one, other in zip(
        *(torch.autograd.grad(some, (query, key, value), gradient) for some in (found, expected)), strict=True
    ):
        assert torch.allclose(one, other, atol=1e-12)


def test_masked_keys_do_not_count():
    query, key, value, mask = inputs(heads=4, groups=2, queries=5, keys=5)
    with torch.no_grad():
        before = attention(query, key, value, mask, 0.3)
        key[:, :, -2:] += 100
        value[:, :, -2:] += 100
        assert torch.equal(attention(query, key, value, mask, 0.3), before)


@pytest.mark.parametrize("spread", [1, 8, 32])
def test_in_bfloat16_gradients_are_as_exact_as_those_of_the_fused_kernel(spread):
    """``spread``: standard deviation of the scores; large ones come from heads that look at one place."""
    exact = inputs(heads=6, groups=2, queries=40, keys=40)
    scale = spread / 8**0.5
    rounded = [one.detach().bfloat16() for one in exact[:3]]
    gradient = torch.randn(2, 6, 40, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def gradients(of, dtype):
        some = [one.to(dtype).requires_grad_(True) for one in rounded]
        return torch.autograd.grad(of(*some, exact[3].to(dtype), scale), some, gradient.to(dtype))

    expected = gradients(reference, torch.float64)
    for ours, theirs, right in zip(
        gradients(attention, torch.bfloat16), gradients(reference, torch.bfloat16), expected, strict=True
    ):
        errors = [float((one.double() - right).norm() / right.norm()) for one in (ours, theirs)]
        assert errors[0] < 1.5 * errors[1] + 5e-4
    assert torch.backends.mkldnn.matmul.fp32_precision != "bf16"


def test_float32_inputs_under_autocast():
    """As weights that all learn give them: rotated queries and keys stay float32, values are rounded."""
    query, key, value, mask = (one.detach().float() for one in inputs(heads=4, groups=2, queries=6, keys=6))
    some = [query.requires_grad_(True), key.requires_grad_(True), value.bfloat16().requires_grad_(True)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = attention(*some, mask, 0.3)
    gradients = torch.autograd.grad(found.float().sum(), some)
    assert [one.dtype for one in gradients] == [torch.float32, torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layout", ["per_question", "shared_image"])
def test_losses_have_the_bits_of_sdpa_and_gradients_nearly(tiny_folder, samples, store, layout, dtype):
    found = {}
    for name in ("sdpa", "products"):
        vlm = open_vlm(Model(checkpoint="tiny", layout=layout, dtype=dtype, attention=name), say=lambda _: None)
        vlm.projector.requires_grad_(True)
        batch = vlm.batch(vlm.rows(samples[:6], answers=True))
        logits = vlm.supervised_logits(batch, StoredPictures(store).vision(batch.rows, update=1))
        logits.logsumexp(-1).sum().backward()
        answers = vlm.answer(vlm.batch(vlm.rows(samples[:6], answers=False)),
                             StoredPictures(store).vision(batch.rows, update=1), max_new_tokens=4)  # fmt: skip
        found[name] = logits.detach(), vlm.projector.linear.weight.grad, answers
    assert torch.equal(found["sdpa"][0], found["products"][0])
    assert found["sdpa"][2] == found["products"][2]
    one, other = found["sdpa"][1], found["products"][1]
    assert float((one - other).norm() / one.norm()) < (1e-5 if dtype == "float32" else 0.03)
