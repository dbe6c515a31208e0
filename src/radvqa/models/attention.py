"""Attention whose backward pass is made of matrix products, for bfloat16 on a CPU.

There the backward pass of torch's fused kernel takes 30 % of a training step; plain products take less than half of
that. The forward pass stays the fused kernel, so answers and losses have the very bits of ``sdpa``; the weights are
computed again for the gradients and never kept. Every query head reads its shared key head in place.

Axes: b rows, h query heads, g key and value heads, n queries, m keys, d width of a head.
"""

from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PRODUCTS = "radvqa_products"
"""The name under which transformers knows it."""


def attention(
    query: Float[Tensor, "b h n d"],
    key: Float[Tensor, "b g m d"],
    value: Float[Tensor, "b g m d"],
    mask: Float[Tensor, "b 1 n m"] | Bool[Tensor, "b 1 n m"] | None,
    scale: float,
) -> Float[Tensor, "b h n d"]:
    """``softmax(scale · query · keyᵀ + mask) · value``; h is a multiple of g, and True in a mask is "may attend".

    No gradient reaches the mask.
    """
    return cast(Tensor, _Attention.apply(query, key, value, mask, scale))  # type: ignore[no-untyped-call]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes them by place
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, mask)
        ctx.scale = scale
        shared = query.shape[1] // key.shape[1]
        return functional.scaled_dot_product_attention(
            query,
            key.repeat_interleave(shared, 1) if shared > 1 else key,
            value.repeat_interleave(shared, 1) if shared > 1 else value,
            attn_mask=mask,
            scale=scale,
        )

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask = ctx.saved_tensors
        b, h, n, d = query.shape
        g, m = key.shape[1:3]
        together = (b * g, h // g * n, d)
        queries = (query * ctx.scale).reshape(together)
        keys, values = key.reshape(b * g, m, d), value.reshape(b * g, m, d)
        scores = torch.bmm(queries, keys.transpose(1, 2))
        if mask is not None and mask.dtype == torch.bool:
            scores.view(b, h, n, m).masked_fill_(~mask, torch.finfo(scores.dtype).min)
        elif mask is not None:
            scores.view(b, h, n, m).add_(mask)
        weights = torch.softmax(scores, -1)
        of_output = gradients[0].to(weights.dtype).reshape(together)
        of_weights = torch.bmm(of_output, values.transpose(1, 2))
        of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        of_query = torch.bmm(of_scores, keys).mul_(ctx.scale)
        of_key = torch.bmm(of_scores.transpose(1, 2), queries)
        of_value = torch.bmm(weights.transpose(1, 2), of_output)
        return of_query.view(query.shape), of_key.view(key.shape), of_value.view(value.shape), None, None


def _forward(  # noqa: PLR0917 - as transformers calls it
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, None]:
    """The output is (b, n, h, d), and no weights."""
    learns = torch.is_grad_enabled() and any(one.requires_grad for one in (query, key, value))
    causal = attention_mask is None and getattr(module, "is_causal", False) and query.shape[2] > 1
    if dropout or causal or not learns:
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **others
        )
        return found
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return attention(query, key, value, attention_mask, scale).transpose(1, 2).contiguous(), None


AttentionInterface.register(PRODUCTS, _forward)
AttentionMaskInterface.register(PRODUCTS, sdpa_mask)
