"""The vision tower's own attention: how image tokens mix the patches before the language model sees them.

Axes: L layers of the tower, H heads, i image tokens.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.models.siglip.modeling_siglip import SiglipAttention

from radvqa.errors import ModelError
from radvqa.explain.asked import Asked
from radvqa.explain.capture import FULL_PRECISION_POSITIONS
from radvqa.explain.recording import QUERY_CHUNK, attention_rows, recording


def trace_vision(asked: Asked) -> Float[Tensor, "L i i"]:
    """Attention of every layer of the tower on the asked picture, mean over heads; first layer first.

    Rows are queries and sum to 1. Kept in fp32 up to 512 image tokens and in fp16 beyond (54 MiB at 448 px; with all
    heads it would be 1.7 GiB in fp32). SigLIP has no class token and no registers: token p is patch p. PaliGemma reads
    the last layer behind its norm and not the pooling head, so all layers count.

    Raises:
        ModelError: the tower is no SigLIP, or attention was not captured, or is not finite.
    """
    tower = asked.vlm.vision_encoder
    layers = [module for module in tower.modules() if isinstance(module, SiglipAttention)]
    recorder = _HeadMeans(layers)
    with torch.no_grad(), recording(asked.vlm.base, recorder, part="vision_encoder"):
        asked.vlm.see(asked.pixels)
    return recorder.whole()


class _HeadMeans:
    def __init__(self, layers: list[SiglipAttention]) -> None:
        self.layer_of = {id(module): number for number, module in enumerate(layers)}
        self.seen: set[int] = set()
        self.means = torch.empty(0)

    def record(  # noqa: PLR0917
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        scaling: float | None,
        output: Tensor,
    ) -> None:
        layer, size = self.layer_of[id(module)], query.shape[2]
        if not self.seen:
            dtype = torch.float32 if size <= FULL_PRECISION_POSITIONS else torch.float16
            self.means = torch.zeros(len(self.layer_of), size, size, dtype=dtype, device=query.device)
        for start in range(0, size, QUERY_CHUNK):
            queries = slice(start, start + QUERY_CHUNK)
            weights = attention_rows(query, key, mask=mask, scaling=scaling, queries=queries)
            self.means[layer, queries] = weights[0].mean(dim=0).to(self.means.dtype)
        self.seen.add(layer)

    def whole(self) -> Float[Tensor, "L i i"]:
        missing = sorted(set(self.layer_of.values()) - self.seen)
        if missing or not self.layer_of:
            raise ModelError(
                "the vision tower's attention was not captured",
                expected="a SigLIP whose layers call transformers' AttentionInterface",
                got=f"nothing from {'layers ' + str(missing) if missing else 'any layer'}",
                fix="use an uncompiled, unpatched PaliGemma of the supported transformers version",
            )
        if not all(bool(layer.sum(dim=-1, dtype=torch.float32).isfinite().all()) for layer in self.means):
            raise ModelError(
                "attention weights are not finite",
                where="vision tower",
                expected="numbers between 0 and 1",
                got="NaN or infinity",
                fix="load the checkpoint in float32 or bfloat16, and check its weights",
            )
        return self.means
