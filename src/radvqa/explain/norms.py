"""How long what attention reads and writes is: norms of values and of the residual stream.

Axes: L layers, H query heads, K key and value heads, n positions, d width of a head, h width of the stream.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


def value_norms(module: Any, value: Float[Tensor, "1 K n d"]) -> Float[Tensor, "H n"]:
    """‖W_O^h v_j‖ of every head and position: how long what a head writes is, were its weight on that position 1.

    The output projection is asked for its own matrix, so adapters and four-bit weights take part. Norms are those of
    the quadratic form vᵀ(WᵀW)v, in fp32: no (H, n, h) array.
    """
    _, key_heads, _, width = value.shape
    projection = module.o_proj
    weight = next(projection.parameters())
    dtype = weight.dtype if weight.dtype.is_floating_point else value.dtype
    inputs = projection.in_features
    heads = inputs // width
    norms = []
    for head in range(heads):
        unit = torch.zeros(width + 1, inputs, dtype=dtype, device=value.device)
        unit[:width, head * width : (head + 1) * width] = torch.eye(width, dtype=dtype, device=value.device)
        written = projection(unit).float()
        # The last row is that of zeros: a bias, which belongs to no position.
        columns = written[:width] - written[width]
        values = value[0, head * key_heads // heads].float()
        with torch.autocast(value.device.type, enabled=False):
            gram = columns @ columns.T
            norms.append(((values @ gram) * values).sum(dim=-1).clamp_min(0.0).sqrt())
    return torch.stack(norms)


@contextmanager
def residual_shares(layers: Sequence[Any]) -> Iterator[dict[int, Float[Tensor, " n"]]]:
    """Filled by a forward inside the block: ‖x‖ / (‖x‖ + ‖what attention adds to x‖) of every position, by layer.

    x is the residual stream that enters the layer; the forward has a batch of 1.
    """
    shares: dict[int, Tensor] = {}
    handles = []
    for number, layer in enumerate(layers):
        # Gemma 2 normalises what attention gives before it is added; Gemma adds it as it is.
        normalised = hasattr(layer, "pre_feedforward_layernorm")
        adds = layer.post_attention_layernorm if normalised else layer.self_attn
        hooks = _Hooks(number, shares)
        handles += [layer.register_forward_pre_hook(hooks.before), adds.register_forward_hook(hooks.after)]
    try:
        yield shares
    finally:
        for handle in handles:
            handle.remove()


class _Hooks:
    """Takes the norm of one layer's stream, then of what attention adds to it."""

    def __init__(self, number: int, shares: dict[int, Tensor]) -> None:
        self.number, self.shares = number, shares
        self.own = torch.empty(0)

    def before(self, _: Any, inputs: tuple[Any, ...]) -> None:
        self.own = inputs[0][0].float().norm(dim=-1)

    def after(self, _: Any, __: Any, output: Any) -> None:
        added = output[0] if isinstance(output, tuple) else output
        total = self.own + added[0].float().norm(dim=-1)
        self.shares[self.number] = self.own / total.clamp_min(torch.finfo(torch.float32).tiny)
