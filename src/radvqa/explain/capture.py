"""Attention of a PaliGemma language model, captured during one teacher-forced forward.

Beside the layer's own output the weights of one layer are computed a few queries at a time, and only what the maps
need is kept, so the (layers, heads, n, n) tensor never exists.

Axes: L layers, H query heads, n positions (image, prompt, answer), i image tokens, p prompt tokens (bos included),
t answer tokens, T = p + t text tokens, v vocabulary.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from radvqa.errors import ModelError
from radvqa.explain.asked import Asked
from radvqa.explain.norms import residual_shares, value_norms
from radvqa.explain.recording import QUERY_CHUNK, attention_rows, paligemma, recording, soft_cap

FULL_PRECISION_POSITIONS = 512
"""Up to this length attention is kept in fp32, beyond it in fp16 (n = 1064, 18 layers: 39 instead of 78 MiB)."""

Fusion = Literal["mean", "max", "min"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Keep:
    """What a trace keeps beside the rows of the answer; see ``Trace``."""

    text_rows: bool = False
    image_rows: bool = False
    fused: Fusion | None = None
    value_norms: bool = False
    residual: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """What one forward leaves behind, on the network's device.

    Attributes:
        image_tokens: positions of the image columns.
        positions: positions of ``rows``. Row q predicts token q + 1.
        logits: of ``positions``.
        rows: weights of the rows that predict the answer's tokens.
        text_rows: weights of the rows that predict each text token, bos first. ``rows`` are the last t of them.
        image_rows: weights of image positions on the prompt. The answer is hidden from them, and in the shared-image
            layout so is the question: only bos is left.
        fused: all rows, heads fused by mean, max or min. Rows of a mean sum to 1, of a maximum to more, of a minimum
            to less.
        value_rows: the answer's rows weighted by values: Σ_h A_h,ij · ‖W_O^h v_j‖, each row scaled to sum 1.
        value_fused: the same of all rows.
        residual: ‖x‖ / (‖x‖ + ‖what attention adds to x‖) of every position, x the residual stream before the layer.

    Value norms: Kobayashi et al., "Attention is Not Only a Weight", EMNLP 2020, who take the norm after the sum over
    heads; here it is taken of every head, which needs no n² vectors. Residual: in the manner of Kobayashi et al.,
    "Incorporating Residual and Normalization Layers", EMNLP 2021, by norms alone.
    """

    image_tokens: slice
    positions: slice
    logits: Float[Tensor, "t v"]
    rows: Float[Tensor, "L H t n"]
    text_rows: Float[Tensor, "L H T n"] | None = None
    image_rows: Float[Tensor, "L H i p"] | None = None
    fused: Float[Tensor, "L n n"] | None = None
    value_rows: Float[Tensor, "L t n"] | None = None
    value_fused: Float[Tensor, "L n n"] | None = None
    residual: Float[Tensor, "L n"] | None = None


def trace(asked: Asked, keep: Keep) -> Trace:
    """The attention under which the answer's tokens were predicted, in one pass. Raises like ``trace_attention``."""
    with torch.no_grad(), asked.vlm.autocast():
        return trace_attention(asked.vlm.network, asked.inputs(), image_tokens=asked.image, rows=asked.rows, keep=keep)


def trace_attention(
    network: nn.Module, inputs: Mapping[str, Any], *, image_tokens: slice, rows: slice, keep: Keep = Keep(fused="mean")
) -> Trace:
    """The language model's attention in one forward of ``network(**inputs)``, without gradients and in eval mode.

    Row q predicts token q + 1: to explain the answer tokens at positions s₀ … s₁−1, pass ``rows=slice(s₀−1, s₁−1)``;
    what lies between image and answer is the prompt. One teacher-forced forward gives the rows that generation would
    have met, for any answer, the reference included.

    Args:
        network: a ``PaliGemmaForConditionalGeneration``, bare or wrapped by PEFT; PaliGemma 2 with its soft-capping
            and sliding window is one.
        inputs: what the model's forward takes, batch of 1: ``input_ids``, ``attention_mask`` (2-D, or a 4-D tensor:
            bool with True = may attend, or additive float), ``token_type_ids`` (0 prefix, 1 answer; may be left out
            with a 4-D mask), ``pixel_values`` or ``mm_encoder_outputs``, and so on.
        image_tokens: positions of the image tokens.
        rows: positions whose rows are wanted.
        keep: what else.

    Raises:
        ModelError: another kind of model; inputs without image, token types or batch of 1; positions out of range;
            nothing captured; a prefix that sees the answer, or a row that sees later tokens; weights that are not
            finite.
    """
    base = paligemma(network)
    _check_inputs(inputs, image_tokens=image_tokens, rows=rows)
    spans = _Spans(image_tokens, rows, inputs["input_ids"].shape[1])
    layers = list(base.model.language_model.layers)
    recorder = _Capture(layers, spans, keep)
    kept = {"logits_to_keep": torch.arange(rows.start, rows.stop, device=inputs["input_ids"].device)}
    with torch.no_grad(), recording(base, recorder), residual_shares(layers if keep.residual else ()) as shares:
        output = network(**{**kept, **inputs, "use_cache": False})
    recorder.require_whole()
    return Trace(
        image_tokens=image_tokens,
        positions=rows,
        logits=output.logits[0] if output.logits.ndim == 3 else output.logits,
        residual=torch.stack([shares[layer] for layer in range(len(layers))]) if keep.residual else None,
        **recorder.found(),
    )


@dataclass(frozen=True, slots=True)
class _Spans:
    """Where image, prompt and answer lie; ``rows`` are one before the answer's tokens."""

    image: slice
    rows: slice
    length: int

    @property
    def prompt(self) -> slice:
        return slice(self.image.stop, self.rows.start + 1)

    @property
    def text_rows(self) -> slice:
        return slice(self.image.stop - 1, self.rows.stop)


class _Capture:
    """Fills, layer by layer, what is kept of one forward."""

    def __init__(self, layers: list[Any], spans: _Spans, keep: Keep) -> None:
        self.layer_of = {id(layer.self_attn): number for number, layer in enumerate(layers)}
        self.spans, self.keep = spans, keep
        self.seen: set[int] = set()
        self.arrays: dict[str, Tensor] = {}

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
        layer = self.layer_of.get(id(module))
        if layer is None:
            return
        _check_mask(mask, self.spans)
        assert mask is not None
        if not self.arrays:
            self._allocate(query)
        norms = value_norms(module, value) if self.keep.value_norms else None
        key = key.float()
        for queries in self._chunks():
            weights = attention_rows(query, key, mask=mask, scaling=scaling, queries=queries, softcap=soft_cap(module))[
                0
            ]
            self._keep(layer, weights, queries)
            if norms is not None:
                weighted = torch.einsum("hqn,hn->qn", weights, norms)
                weighted = weighted / weighted.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
                self.arrays["value_fused"][layer, queries] = weighted.to(self.arrays["value_fused"].dtype)
                self._put("value_rows", layer, weighted, queries, self.spans.rows)
        self.seen.add(layer)

    def _allocate(self, query: Tensor) -> None:
        """Whole arrays at the first layer: collecting layers and stacking them would need the memory twice."""
        layers, heads, n = len(self.layer_of), query.shape[1], self.spans.length
        rows, image, prompt = self.spans.rows, self.spans.image, self.spans.prompt
        shapes: dict[str, tuple[int, ...]] = {}
        kept_rows = self.spans.text_rows if self.keep.text_rows else rows
        shapes["text_rows" if self.keep.text_rows else "rows"] = (layers, heads, _size(kept_rows), n)
        if self.keep.image_rows:
            shapes["image_rows"] = (layers, heads, _size(image), _size(prompt))
        if self.keep.fused is not None:
            shapes["fused"] = (layers, n, n)
        if self.keep.value_norms:
            shapes["value_rows"] = (layers, _size(rows), n)
            shapes["value_fused"] = (layers, n, n)
        dtype = torch.float32 if n <= FULL_PRECISION_POSITIONS else torch.float16
        self.arrays = {name: torch.zeros(shape, dtype=dtype, device=query.device) for name, shape in shapes.items()}

    def _chunks(self) -> Iterator[slice]:
        """The queries whose weights are needed: all of them, or text and image rows alone."""
        everything = self.keep.fused is not None or self.keep.value_norms
        first = self.spans.text_rows if self.keep.text_rows else self.spans.rows
        wanted = slice(0, self.spans.length) if everything else first
        if self.keep.image_rows and not everything:
            wanted = slice(self.spans.image.start, wanted.stop)
        for start in range(wanted.start, wanted.stop, QUERY_CHUNK):
            yield slice(start, min(start + QUERY_CHUNK, wanted.stop))

    def _keep(self, layer: int, weights: Float[Tensor, "H q n"], queries: slice) -> None:
        spans = self.spans
        if self.keep.text_rows:
            self._put("text_rows", layer, weights, queries, spans.text_rows)
        else:
            self._put("rows", layer, weights, queries, spans.rows)
        if self.keep.image_rows:
            self._put("image_rows", layer, weights[..., spans.prompt], queries, spans.image)
        if self.keep.fused == "mean":
            self.arrays["fused"][layer, queries] = weights.mean(dim=0).to(self.arrays["fused"].dtype)
        elif self.keep.fused is not None:
            extreme = weights.amax(dim=0) if self.keep.fused == "max" else weights.amin(dim=0)
            self.arrays["fused"][layer, queries] = extreme.to(self.arrays["fused"].dtype)

    def _put(self, name: str, layer: int, weights: Float[Tensor, "*H q n"], queries: slice, wanted: slice) -> None:
        """The part of a chunk of queries that belongs to the wanted rows."""
        start, stop = max(queries.start, wanted.start), min(queries.stop, wanted.stop)
        if start < stop:
            into = self.arrays[name][layer][..., start - wanted.start : stop - wanted.start, :]
            into.copy_(weights[..., start - queries.start : stop - queries.start, :])

    def require_whole(self) -> None:
        """Refuse an incomplete or broken capture."""
        missing = sorted(set(self.layer_of.values()) - self.seen)
        if missing or not self.layer_of:
            raise ModelError(
                "attention was not captured" if not self.seen else "attention was captured in some layers only",
                expected=f"{len(self.layer_of)} language model layers that call transformers' AttentionInterface",
                got=f"nothing from layers {missing}",
                fix="use an uncompiled, unpatched PaliGemma of the supported transformers version",
            )
        for name, values in self.arrays.items():
            # A NaN or infinity spreads into the sum of its row; one layer at a time, since sums in fp32 copy fp16.
            if not all(bool(layer.sum(dim=-1, dtype=torch.float32).isfinite().all()) for layer in values):
                raise ModelError(
                    "attention weights are not finite",
                    where=name,
                    expected="numbers between 0 and 1",
                    got="NaN or infinity",
                    fix="load the checkpoint in float32 or bfloat16, and check its weights",
                )

    def found(self) -> dict[str, Tensor]:
        """The fields of a ``Trace``. The answer's rows are a view of all text rows."""
        found = dict(self.arrays)
        if self.keep.text_rows:
            found["rows"] = found["text_rows"][:, :, -_size(self.spans.rows) :]
        return found


def _size(span: slice) -> int:
    return int(span.stop - span.start)


def _check_inputs(inputs: Mapping[str, Any], *, image_tokens: slice, rows: slice) -> None:
    """The checks without which a wrong map would come out and no error."""
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
    if rows.start < image_tokens.stop:
        raise ModelError(
            "rows begin inside the image", expected=f"rows from {image_tokens.stop} on", got=str(rows.start)
        )


def _check_span(name: str, span: slice, length: int) -> None:
    start, stop = span.start, span.stop
    if span.step not in (None, 1) or start is None or stop is None or not 0 <= start < stop <= length:
        raise ModelError(
            f"{name} is not a span of the sequence",
            expected=f"slice(start, stop) with 0 <= start < stop <= {length}",
            got=repr(span),
            fix="an empty answer has no rows to explain: leave the sample out and count it",
        )


def _check_mask(mask: Tensor | None, spans: _Spans) -> None:
    """Refuse a mask under which the answer leaks into what predicts it, or under which a row sees nothing."""
    if mask is None:
        raise ModelError(
            "the language model ran without an attention mask, so every token saw the answer",
            expected="token_type_ids with 0 for image and prompt and 1 for the answer, or a 4-D attention_mask",
            fix="build the inputs with radvqa.models.layout",
        )
    seen = mask[0, 0] if mask.dtype == torch.bool else mask[0, 0] > torch.finfo(mask.dtype).min / 2
    rows = seen[spans.rows]
    later = rows.triu(diagonal=spans.rows.start + 1)
    prefix = seen[spans.image.start : spans.rows.start + 1, spans.rows.start + 1 :]
    if bool(later.any()) or bool(prefix.any()):
        raise ModelError(
            "a row attends to later tokens, so the answer leaks into its own explanation",
            expected="an answer whose tokens see nothing after themselves, and a prefix that sees no answer",
            got=f"{int(later.sum())} such pairs in the answer's rows, {int(prefix.sum())} in the prefix's",
            fix="give answer tokens the token type 1, and pass the rows of answer tokens only (s - 1 for position s)",
        )
    if not bool(rows.any(dim=-1).all()):
        raise ModelError(
            "a traced row sees no token at all",
            expected="rows of real tokens",
            got="a row that the attention mask hides completely",
            fix="do not ask for rows of padding",
        )
