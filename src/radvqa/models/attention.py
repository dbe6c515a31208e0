"""Attention by matrix products, for processors whose fused kernel is slow: bfloat16 on a CPU.

There the fused kernel of torch takes 38 % of a training step, twice as long as plain products in bfloat16 (AMX).
The mathematics are the same; every query head reads its shared key head in place, without a copy for each.

Axes: b rows, h query heads, g key and value heads, n queries, m keys, d width of a head.
"""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

PRODUCTS = "radvqa_products"
"""The name under which transformers knows it."""


def products(
    query: Float[Tensor, "b h n d"],
    key: Float[Tensor, "b g m d"],
    value: Float[Tensor, "b g m d"],
    mask: Float[Tensor, "b 1 n m"] | None,
    scale: float,
) -> Float[Tensor, "b h n d"]:
    """``softmax(scale · query · keyᵀ + mask) · value``; h is a multiple of g. No gradient reaches the mask."""
    return cast(Tensor, _Products.apply(query, key, value, mask, scale))  # type: ignore[no-untyped-call]


class _Products(torch.autograd.Function):
    """Keeps the weights for the backward pass, in the dtype of the inputs."""

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes them by place
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
    ) -> Tensor:
        b, h, n, d = query.shape
        g, m = key.shape[1:3]
        queries = (query * scale).reshape(b * g, h // g * n, d)
        keys, values = key.reshape(b * g, m, d), value.reshape(b * g, m, d)
        scores = torch.bmm(queries, keys.transpose(1, 2))
        if mask is not None:
            scores.view(b, h, n, m).add_(mask)
        weights = torch.softmax(scores, -1)
        ctx.save_for_backward(queries, keys, values, weights)
        ctx.scale, ctx.shapes = scale, (query.shape, key.shape)
        return torch.bmm(weights, values).view(b, h, n, d)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, weights = ctx.saved_tensors
        of_query, of_key = ctx.shapes
        output = gradients[0].reshape(queries.shape)
        of_weights = torch.bmm(output, values.transpose(1, 2))
        of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        to_query = torch.bmm(of_scores, keys).mul_(ctx.scale)
        to_key = torch.bmm(of_scores.transpose(1, 2), queries)
        to_value = torch.bmm(weights.transpose(1, 2), output)
        return to_query.view(of_query), to_key.view(of_key), to_value.view(of_key), None, None


def _forward(  # noqa: PLR0917 - as transformers calls it
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """The output is (b, n, h, d), and no weights."""
    if dropout:
        raise NotImplementedError("attention dropout; PaliGemma has none")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    mask = None if attention_mask is None else attention_mask[..., : key.shape[-2]]
    return products(query, key, value, mask, scale).transpose(1, 2).contiguous(), None


AttentionInterface.register(PRODUCTS, _forward)
AttentionMaskInterface.register(PRODUCTS, eager_mask)
