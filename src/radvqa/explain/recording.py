"""The hook into attention: queries, keys, values and outputs of every layer, handed to a recorder during a forward.

The hook is the public one of transformers: an attention function and a mask builder registered under our own name.
The layer's output comes from the fused kernel that the model runs on; with soft-capped scores (PaliGemma 2), which no
fused kernel of torch knows, from plain products in chunks of queries.

Axes: b rows of a batch, H query heads, K key and value heads, n positions, q queries, d width of a head.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float
from peft import PeftModel
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PaliGemmaForConditionalGeneration
from transformers.masking_utils import sdpa_mask

from radvqa.errors import ModelError
from radvqa.models.attention import PRODUCTS

ATTENTION_NAME = "radvqa_capture"

QUERY_CHUNK = 64
"""Queries whose weights exist at one time: 2 MiB of fp32 with 8 heads at 448 px, in a few copies."""


class Recorder(Protocol):
    """What is told of every attention layer, in the order of the forward.

    ``query`` [b H q d] and ``key`` [b K n d] carry their rotary positions, ``value`` is [b K n d]; keys and values are
    not repeated. ``mask`` is bool (True = may attend) or additive, broadcastable to [b 1 q n], or None. ``output``
    [b q H d] is the very tensor that the layer goes on with, before its output projection, so gradients reach it.
    """

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
        """Take what is wanted. ``module`` is the attention layer."""


Part = Literal["language_model", "vision_encoder"]

_SECTION: Mapping[Part, str] = {"language_model": "text_config", "vision_encoder": "vision_config"}

_RECORDER: ContextVar[Recorder | None] = ContextVar("radvqa_attention_recorder", default=None)


@contextmanager
def recording(base: Any, recorder: Recorder, *, part: Part = "language_model") -> Iterator[None]:
    """Inside the block every attention layer of ``part`` is told to ``recorder``, in eval mode.

    The other part keeps its own attention. Modes and attention implementation are put back afterwards, also after an
    error. Gradients are left as they are: wrap the block in ``torch.no_grad()`` where none are wanted.

    Args:
        base: the ``PaliGemmaForConditionalGeneration`` itself (``Vlm.base``), with or without adapters inside.
        recorder: see ``Recorder``.
        part: whose attention.
    """
    section = _SECTION[part]
    before = getattr(base.config, section)._attn_implementation
    modes = [(module, module.training) for module in base.modules()]
    base.set_attn_implementation({section: ATTENTION_NAME})
    token = _RECORDER.set(recorder)
    base.eval()
    try:
        yield
    finally:
        # A frozen tower may be in eval mode while the rest learns: each module gets its own mode back.
        for module, training in modes:
            module.training = training
        _RECORDER.reset(token)
        base.set_attn_implementation({section: before})


def paligemma(network: nn.Module) -> Any:
    """The PaliGemma itself, taken out of a PEFT wrapper. Raises ``ModelError`` for any other model."""
    base = network.get_base_model() if isinstance(network, PeftModel) else network
    if not isinstance(base, PaliGemmaForConditionalGeneration):
        raise ModelError(
            "attention capture knows PaliGemma only",
            expected="PaliGemmaForConditionalGeneration, bare or wrapped by PEFT",
            got=type(base).__name__,
        )
    return base


def soft_cap(module: nn.Module) -> float | None:
    """The bound of a Gemma 2 layer's scores, None for a layer without."""
    return getattr(module, "attn_logit_softcapping", None)


def attention_rows(
    query: Float[Tensor, "b H q d"],
    key: Float[Tensor, "b K n d"],
    *,
    mask: Tensor | None,
    scaling: float | None,
    queries: slice,
    softcap: float | None = None,
) -> Float[Tensor, "b H t n"]:
    """Softmax attention weights of the chosen query positions, in fp32; hidden columns are exactly 0.

    Grouped-query attention is done by reshaping the query to (K, H/K), never by repeating the key. With ``softcap`` c
    scores s become c·tanh(s/c) before the mask (Gemma 2). A row without any visible column is all zeros. ``mask`` is
    bool (True = may attend) or additive, broadcastable to (b, 1, n, n); None lets everything be seen.
    """
    batch, heads, _, width = query.shape
    key_heads, columns = key.shape[1], key.shape[2]
    scale = width**-0.5 if scaling is None else scaling
    grouped = query[:, :, queries].reshape(batch * key_heads, -1, width)
    scores = _products(grouped, key.flatten(0, 1)).mul_(scale).view(batch, heads, -1, columns)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is None:
        return scores.softmax(dim=-1)
    # In place: every copy of the scores costs as much as a third of their product.
    lowest = torch.finfo(torch.float32).min
    added = _additive(mask[:, :, queries, :columns], lowest)
    weights = scores.add_(added).softmax(dim=-1)
    empty = (added == lowest).all(dim=-1, keepdim=True)
    return weights.masked_fill(empty, 0.0) if bool(empty.any()) else weights


def _products(grouped: Float[Tensor, "g q d"], key: Float[Tensor, "g n d"]) -> Float[Tensor, "g q n"]:
    """Unscaled scores in fp32. Queries and keys that are bfloat16 already lose nothing in the units for bfloat16."""
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings.fp32_precision
    settings.fp32_precision = "bf16" if grouped.dtype == torch.bfloat16 else before
    try:
        # An outer autocast would round the products; in here they are fp32.
        with torch.autocast(grouped.device.type, enabled=False):
            return torch.bmm(grouped.float(), key.float().transpose(1, 2))
    finally:
        settings.fp32_precision = before


def _additive(mask: Tensor, lowest: float) -> Float[Tensor, "b 1 q n"]:
    """What is added to scores in fp32: ``lowest`` at hidden columns, whose weights then are exactly 0."""
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, lowest)
    return mask.float().masked_fill(mask <= torch.finfo(mask.dtype).min / 2, lowest)


def _soft_capped(
    query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None, scaling: float | None, softcap: float
) -> Float[Tensor, "b q H d"]:
    """The output of soft-capped attention, as eager attention computes it, a chunk of queries at a time."""
    batch, heads, length, width = query.shape
    values = value.float()
    chunks = []
    for start in range(0, length, QUERY_CHUNK):
        queries = slice(start, start + QUERY_CHUNK)
        weights = attention_rows(query, key, mask=mask, scaling=scaling, queries=queries, softcap=softcap)
        grouped = weights.reshape(batch, value.shape[1], -1, value.shape[2])
        with torch.autocast(query.device.type, enabled=False):
            chunks.append((grouped @ values).view(batch, heads, -1, width))
    return torch.cat(chunks, dim=2).transpose(1, 2).to(query.dtype).contiguous()


def _recorded(  # noqa: PLR0917 - as transformers calls it
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **others: Any,
) -> tuple[Tensor, None]:
    recorder = _RECORDER.get()
    if recorder is None:
        raise ModelError(
            f"attention {ATTENTION_NAME} runs inside its recording only",
            fix="set the model's attention to sdpa, and call recording()",
        )
    softcap = soft_cap(module)
    if softcap is None:
        output = AttentionInterface()[PRODUCTS](
            module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **others
        )[0]
    else:
        output = _soft_capped(query, key, value, mask=attention_mask, scaling=scaling, softcap=softcap)
    recorder.record(module, query, key, value, attention_mask, scaling, output)
    return output, None


AttentionInterface.register(ATTENTION_NAME, _recorded)
# Without an entry of its own the layer would get no mask at all and see the future.
AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)
