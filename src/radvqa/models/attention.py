"""Attention whose backward pass is made of matrix products, for bfloat16 on a CPU.

There the backward pass of torch's fused kernel takes 30 % of a training step at 224 px. Plain products take 60 % of its
time, with gradients as exact. The forward pass stays the fused kernel, so answers and losses have the very bits of
``sdpa``; the weights are computed again for the gradients and never kept.

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


LONGEST = 640
"""Keys up to which products are faster than the fused backward pass; PaliGemma at 448 px has more than a thousand."""


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
        shared = query.shape[1] // key.shape[1]
        output = functional.scaled_dot_product_attention(
            query,
            key.repeat_interleave(shared, 1) if shared > 1 else key,
            value.repeat_interleave(shared, 1) if shared > 1 else value,
            attn_mask=mask,
            scale=scale,
        )
        # Autocast rounds inputs on their way into the kernel, and it is off while gradients are computed.
        ctx.save_for_backward(*(one.to(output.dtype) for one in (query, key, value)), mask)
        ctx.scale, ctx.dtypes = scale, (query.dtype, key.dtype, value.dtype)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, mask = ctx.saved_tensors
        b, h, n, d = query.shape
        g, m = key.shape[1:3]
        queries = query.reshape(b * g, h // g * n, d)
        keys, values = key.reshape(b * g, m, d), value.reshape(b * g, m, d)
        of_output = gradients[0].to(query.dtype).reshape(queries.shape)
        scores = _scores(queries, keys).mul_(ctx.scale)
        if mask is not None and mask.dtype == torch.bool:
            scores.view(b, h, n, m).masked_fill_(~mask, torch.finfo(scores.dtype).min)
        elif mask is not None:
            scores.view(b, h, n, m).add_(mask)
        weights = torch.softmax(scores, -1).to(query.dtype)
        of_weights = torch.bmm(of_output, values.transpose(1, 2))
        of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
        of_query = torch.bmm(of_scores, keys).mul_(ctx.scale).view(query.shape)
        of_key = torch.bmm(of_scores.transpose(1, 2), queries).mul_(ctx.scale).view(key.shape)
        of_value = torch.bmm(weights.transpose(1, 2), of_output).view(value.shape)
        return *(one.to(kind) for one, kind in zip((of_query, of_key, of_value), ctx.dtypes, strict=True)), None, None


def _scores(queries: Float[Tensor, "b n d"], keys: Float[Tensor, "b m d"]) -> Float[Tensor, "b n m"]:
    """``queries · keysᵀ``, of bfloat16 in float32: rounded scores would spoil their exponentials."""
    if queries.dtype != torch.bfloat16:
        return torch.bmm(queries, keys.transpose(1, 2))
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings.fp32_precision
    # Both factors are bfloat16 already, so the bfloat16 units lose nothing of them; sums and result are float32.
    settings.fp32_precision = "bf16"
    try:
        return torch.bmm(queries.float(), keys.float().transpose(1, 2))
    finally:
        settings.fp32_precision = before


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
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if not (dropout or causal or learns) and query.shape[2] > 1 and query.device.type == "cpu":
        # Kernels of CPUs let query heads share keys and values; transformers repeats these unless there is one query.
        output = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, scale=scale, enable_gqa=True
        )
        return output.transpose(1, 2).contiguous(), None
    if dropout or causal or not learns or key.shape[2] > LONGEST:
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **others
        )
        return found
    return attention(query, key, value, attention_mask, scale).transpose(1, 2).contiguous(), None


AttentionInterface.register(PRODUCTS, _forward)
AttentionMaskInterface.register(PRODUCTS, sdpa_mask)
