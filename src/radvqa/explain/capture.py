"""Attention of a PaliGemma language model, recorded during one teacher-forced forward.

The hook is the public one of transformers: an attention function and a mask builder registered under our own name.
The layer's output still comes from the sdpa forward; beside it, the recorder computes the weights of one layer at a
time and keeps only what the maps need, so the (layers, heads, n, n) tensor never exists.

Axes: L layers, H query heads, n positions (image, prompt, answer), t recorded rows, v vocabulary.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from peft import PeftModel
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PaliGemmaForConditionalGeneration
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from radvqa.errors import ModelError

ATTENTION_NAME = "radvqa_capture"

FULL_PRECISION_POSITIONS = 512
"""Up to this length attention is kept in fp32, beyond it in fp16 (n = 1064, 18 layers: 39 instead of 78 MiB)."""

_QUERY_CHUNK = 256


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttentionTrace:
    """What one forward leaves behind, on the network's device.

    ``rows``: weights of the recorded rows, per layer and head. ``fused``: all rows, mean over heads, for rollout.
    ``image_tokens`` and ``positions``: where the image columns and the recorded rows lie in the sequence.
    ``logits``: of the recorded rows, unless the inputs asked for others with ``logits_to_keep``.
    """

    rows: Float[Tensor, "L H t n"]
    fused: Float[Tensor, "L n n"]
    image_tokens: slice
    positions: slice
    logits: Float[Tensor, "t v"]


def trace_attention(
    network: nn.Module, inputs: Mapping[str, Any], *, image_tokens: slice, rows: slice
) -> AttentionTrace:
    """The language model's attention in one forward of ``network(**inputs)``, without gradients and in eval mode.

    Row q predicts token q + 1: to explain the answer tokens at positions s₀ … s₁−1, pass ``rows=slice(s₀−1, s₁−1)``.
    One teacher-forced forward gives the rows that generation would have met, for any answer, the reference included.
    Modes and attention implementation are put back afterwards, also after an error.

    Args:
        network: a ``PaliGemmaForConditionalGeneration``, bare or wrapped by PEFT.
        inputs: what the model's forward takes, batch of 1: ``input_ids``, ``attention_mask`` (2-D, or a 4-D tensor:
            bool with True = may attend, or additive float), ``token_type_ids`` (0 prefix, 1 answer; may be left out
            with a 4-D mask), ``pixel_values`` or ``mm_encoder_outputs``, and so on.
        image_tokens: positions of the image tokens.
        rows: positions whose rows are wanted.

    Raises:
        ModelError: another kind of model or soft-capped attention; inputs without image, token types or batch of 1;
            positions out of range; nothing captured; a row that sees later tokens; weights that are not finite.
    """
    base = _paligemma(network)
    positions = _check_inputs(inputs, image_tokens=image_tokens, rows=rows)
    attention_layers = [layer.self_attn for layer in base.model.language_model.layers]
    recorder = _Recorder(attention_layers, positions)
    kept = {"logits_to_keep": torch.tensor(positions, device=inputs["input_ids"].device)}
    with torch.no_grad(), _eval_mode(network), _attention(base, ATTENTION_NAME), _recording(recorder):
        output = network(**{**kept, **inputs, "use_cache": False})
    logits = output.logits[0] if output.logits.ndim == 3 else output.logits
    captured_rows, fused = recorder.stacked()
    _check_causal(captured_rows, positions)
    return AttentionTrace(rows=captured_rows, fused=fused, image_tokens=image_tokens, positions=rows, logits=logits)


class _Recorder:
    """Collects, layer by layer, the wanted rows and the head mean of one forward."""

    def __init__(self, attention_layers: list[nn.Module], positions: range) -> None:
        self.layer_of = {id(module): layer for layer, module in enumerate(attention_layers)}
        self.positions = positions
        self.rows: dict[int, Tensor] = {}
        self.fused: dict[int, Tensor] = {}

    def record(
        self, module: nn.Module, query: Tensor, *, key: Tensor, mask: Tensor | None, scaling: float | None
    ) -> None:
        layer = self.layer_of.get(id(module))
        if layer is None:
            return
        if mask is None:
            raise ModelError(
                "the language model ran without an attention mask, so every token saw the answer",
                expected="token_type_ids with 0 for image and prompt and 1 for the answer, or a 4-D attention_mask",
                fix="build the batch with radvqa's own collator",
            )
        dtype = torch.float32 if key.shape[2] <= FULL_PRECISION_POSITIONS else torch.float16
        wanted = slice(self.positions.start, self.positions.stop)
        self.rows[layer] = attention_rows(query, key, mask=mask, scaling=scaling, queries=wanted)[0].to(dtype)
        chunks = []
        for start in range(0, query.shape[2], _QUERY_CHUNK):
            chunk = slice(start, start + _QUERY_CHUNK)
            weights = attention_rows(query, key, mask=mask, scaling=scaling, queries=chunk)
            chunks.append(weights[0].mean(dim=0).to(dtype))
        self.fused[layer] = torch.cat(chunks)

    def stacked(self) -> tuple[Float[Tensor, "L H t n"], Float[Tensor, "L n n"]]:
        layers = range(len(self.layer_of))
        missing = [layer for layer in layers if layer not in self.rows]
        if missing or not self.layer_of:
            raise ModelError(
                "attention was not captured" if not self.rows else "attention was captured in some layers only",
                expected=f"{len(self.layer_of)} language model layers that call transformers' AttentionInterface",
                got=f"nothing from layers {missing}",
                fix="use an uncompiled, unpatched PaliGemma of the supported transformers version",
            )
        rows = torch.stack([self.rows[layer] for layer in layers])
        fused = torch.stack([self.fused[layer] for layer in layers])
        if not (rows.isfinite().all() and fused.isfinite().all()):
            raise ModelError(
                "attention weights are not finite",
                expected="numbers between 0 and 1",
                got="NaN or infinity",
                fix="load the checkpoint in float32 or bfloat16, and check its weights",
            )
        return rows, fused


def attention_rows(
    query: Float[Tensor, "b H q d"],
    key: Float[Tensor, "b K n d"],
    *,
    mask: Tensor,
    scaling: float | None,
    queries: slice,
) -> Float[Tensor, "b H t n"]:
    """Softmax attention weights of the chosen query positions, in fp32; hidden columns are exactly 0.

    Grouped-query attention is done by reshaping the query to (K, H/K), never by repeating the key. A row without any
    visible column is all zeros. ``mask`` is bool (True = may attend) or additive, broadcastable to (b, 1, n, n).
    """
    batch, heads, _, width = query.shape
    key_heads, columns = key.shape[1], key.shape[2]
    scale = width**-0.5 if scaling is None else scaling
    grouped = query[:, :, queries].float().reshape(batch, key_heads, heads // key_heads, -1, width)
    scores = (grouped @ key.float().unsqueeze(2).transpose(-1, -2)) * scale
    mask = mask[:, :, queries, :columns].unsqueeze(2)
    if mask.dtype == torch.bool:
        visible = mask
    else:
        visible = mask > torch.finfo(mask.dtype).min / 2
        scores = scores + mask.float()
    scores = scores.masked_fill(~visible, torch.finfo(torch.float32).min)
    weights = scores.softmax(dim=-1).masked_fill(~visible, 0.0)
    return weights.reshape(batch, heads, -1, columns)


_RECORDER: ContextVar[_Recorder | None] = ContextVar("radvqa_attention_recorder", default=None)


def _recording_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    recorder = _RECORDER.get()
    if recorder is not None:
        recorder.record(module, query, key=key, mask=attention_mask, scaling=scaling)
    output: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )
    return output


AttentionInterface.register(ATTENTION_NAME, _recording_attention)
# Without an entry of its own the layer would get no mask at all and see the future.
AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)


@contextmanager
def _recording(recorder: _Recorder) -> Iterator[None]:
    token = _RECORDER.set(recorder)
    try:
        yield
    finally:
        _RECORDER.reset(token)


@contextmanager
def _attention(base: Any, name: str) -> Iterator[None]:
    """The language model runs with attention ``name`` inside the block; the vision encoder keeps its own."""
    before = base.config.text_config._attn_implementation
    base.set_attn_implementation({"text_config": name})
    try:
        yield
    finally:
        base.set_attn_implementation({"text_config": before})


@contextmanager
def _eval_mode(network: nn.Module) -> Iterator[None]:
    """Eval mode inside the block; each module's own mode after it (a frozen tower may be in eval while LoRA trains)."""
    before = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def _paligemma(network: nn.Module) -> Any:
    base = network.get_base_model() if isinstance(network, PeftModel) else network
    if not isinstance(base, PaliGemmaForConditionalGeneration):
        raise ModelError(
            "attention capture knows PaliGemma only",
            expected="PaliGemmaForConditionalGeneration, bare or wrapped by PEFT",
            got=type(base).__name__,
        )
    text_config: Any = base.config.text_config
    if getattr(text_config, "attn_logit_softcapping", None) is not None:
        raise ModelError(
            "attention capture runs on sdpa, which has no soft-capping",
            expected="a PaliGemma 1 checkpoint",
            got=f"text model {text_config.model_type} with attn_logit_softcapping",
            fix="explain a PaliGemma 1 checkpoint",
        )
    return base


def _check_inputs(inputs: Mapping[str, Any], *, image_tokens: slice, rows: slice) -> range:
    """The recorded positions as a range, after the checks that would otherwise give a wrong map without an error."""
    shape = tuple(inputs["input_ids"].shape)
    if len(shape) != 2 or shape[0] != 1:
        raise ModelError(
            "attention is traced one question at a time", expected="input_ids of shape (1, n)", got=str(shape)
        )
    if inputs.get("pixel_values") is None and inputs.get("mm_encoder_outputs") is None:
        raise ModelError(
            "the inputs hold no image", expected="pixel_values or mm_encoder_outputs", got=", ".join(sorted(inputs))
        )
    mask = inputs.get("attention_mask")
    if inputs.get("token_type_ids") is None and (mask is None or mask.ndim != 4):
        raise ModelError(
            "the inputs hold no token types, so the prefix mask would be wrong",
            expected="token_type_ids with 0 for image and prompt and 1 for the answer, or a 4-D attention_mask",
            got=", ".join(sorted(inputs)),
        )
    if inputs.get("past_key_values") is not None:
        raise ModelError("attention is traced in one full forward", expected="no past_key_values")
    _check_span("image_tokens", image_tokens, shape[1])
    _check_span("rows", rows, shape[1])
    return range(rows.start, rows.stop)


def _check_span(name: str, span: slice, length: int) -> None:
    start, stop = span.start, span.stop
    if span.step not in (None, 1) or start is None or stop is None or not 0 <= start < stop <= length:
        raise ModelError(
            f"{name} is not a span of the sequence",
            expected=f"slice(start, stop) with 0 <= start < stop <= {length}",
            got=repr(span),
            fix="an empty answer has no rows to explain: leave the sample out and count it",
        )


def _check_causal(rows: Float[Tensor, "L H t n"], positions: range) -> None:
    later = rows.triu(diagonal=positions.start + 1)
    if bool((later != 0).any()):
        raise ModelError(
            "a traced row attends to later tokens, so the answer leaks into its own explanation",
            expected="rows that see nothing after themselves",
            got=f"up to {float(later.max()):.3g} of a row's weight on later tokens",
            fix="give answer tokens the token type 1, and pass the rows of answer tokens only (s - 1 for position s)",
        )
    if bool((rows.sum(dim=-1) == 0).any()):
        raise ModelError(
            "a traced row sees no token at all",
            expected="rows of real tokens",
            got="a row that the attention mask hides completely",
            fix="do not ask for rows of padding",
        )
