"""Maps from gradients: attention times gradient, Chefer's relevancy, and Grad-CAM on the image tokens.

The gradient of a target y for an attention weight needs no n x n matrix: with g the gradient for a head's output and v
the values, dy/dA_ij = g_i · v_j. So the forward pass runs on fused attention, and weights and their gradients are made
afterwards, one layer at a time.

Axes: L layers, H query heads, K key and value heads, n positions, q queries, i image tokens, t answer tokens,
d width of a head, h language width.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from radvqa.errors import ModelError, RecipeError
from radvqa.explain.asked import Asked
from radvqa.explain.recording import QUERY_CHUNK, attention_rows, recording, soft_cap
from radvqa.explain.text_pass import visible
from radvqa.models.layout import additive_mask


def gradient_maps(
    asked: Asked, *, targets: Sequence[int | None] = (None,), foil: tuple[int, ...] | None = None
) -> dict[str, Tensor]:
    """All gradient maps of some targets: one forward pass, and one backward pass for each.

    ``attention_gradient`` [targets n]: attention times its positive gradient in the rows that predict the target, mean
    over heads and layers. ``chefer`` [targets n]: relevancy of all positions, propagated through all layers (Chefer et
    al., "Generic Attention-model Explainability", ICCV 2021, equations 5 and 6, without the target's own start value).
    Both sum to 1 over image and text together, or are zero everywhere when no gradient is positive.
    ``grad_cam`` [targets i]: relu(Σ_c w_c F_pc), F the projector's output, w_c the mean over p of dy/dF_pc (Selvaraju
    et al., ICCV 2017); not scaled.

    Gradients are taken for the image embeddings and attention outputs only: parameters, their ``requires_grad`` and
    ``grad``, modes and attention are left as they were.

    Args:
        asked: question and answer.
        targets: the log-probability of one answer token by its number, or None for the sum over the answer.
        foil: token ids of another answer. The target is then the difference between the log-probabilities of the
            whole answers: what speaks for this one and not for the other. Positions of the foil are left out.

    Raises:
        RecipeError: a target is not an answer token; a single token with a foil; an empty foil, or the answer itself.
        ModelError: nothing was recorded, or gradients are not finite.
    """
    plan = _plan(asked, targets, foil)
    base = asked.vlm.base
    tape = _Tape([layer.self_attn for layer in base.model.language_model.layers])
    embeddings = asked.embeddings.detach().clone()
    with torch.enable_grad(), recording(base, tape), asked.vlm.autocast():
        embeddings.requires_grad_()
        kept = torch.tensor(plan.rows, device=asked.vlm.device)
        logits = asked.vlm.network(**_inputs(asked, embeddings, plan.foil), logits_to_keep=kept, use_cache=False).logits
        ids = torch.tensor([*asked.answer_ids, *plan.foil], device=asked.vlm.device)
        logprobs = logits[0].float().log_softmax(-1).gather(-1, ids[:, None])[:, 0]
    layers = tape.whole()
    found: dict[tuple[float, ...], dict[str, Tensor]] = {}
    for weights in dict.fromkeys(plan.weights):
        of_embeddings, *of_outputs = torch.autograd.grad(
            logprobs,
            [embeddings, *(layer.output for layer in layers)],
            grad_outputs=logprobs.new_tensor(weights),
            retain_graph=True,
        )
        if not all(bool(one.isfinite().all()) for one in (of_embeddings, *of_outputs)):
            raise ModelError(
                "gradients are not finite", where=asked.sample_id, fix="explain it with model.dtype: float32"
            )
        rows = sorted({row for row, weight in zip(plan.rows, weights, strict=True) if weight})
        start = one_hot(rows, length=asked.length + len(plan.foil)).to(embeddings.device)
        relevancies = (weighted_attention(*pair) for pair in zip(reversed(layers), reversed(of_outputs), strict=True))
        found[weights] = {
            **_row_maps(relevancies, start, keep=asked.length),
            "grad_cam": grad_cam(embeddings.detach()[0], of_embeddings[0]),
        }
    each = [found[weights] for weights in plan.weights]
    return {name: torch.stack([maps[name] for maps in each]) for name in each[0]}


class Attended(NamedTuple):
    """One attention layer of one forward pass; ``output`` [1 n H d] belongs to the autograd graph."""

    query: Float[Tensor, "1 H n d"]
    key: Float[Tensor, "1 K n d"]
    value: Float[Tensor, "1 K n d"]
    mask: Tensor
    scaling: float | None
    softcap: float | None
    output: Tensor


def gradient_of_attention(gradient: Float[Tensor, "q H d"], value: Float[Tensor, "K n d"]) -> Float[Tensor, "H q n"]:
    """dy/dA of every head from the gradient for its output: g_i · v_j, in fp32 (fp64 stays fp64)."""
    queries, heads, width = gradient.shape
    dtype = torch.float64 if gradient.dtype == torch.float64 else torch.float32
    grouped = gradient.to(dtype).transpose(0, 1).reshape(len(value), -1, width)
    with torch.autocast(gradient.device.type, enabled=False):
        return (grouped @ value.to(dtype).transpose(-1, -2)).view(heads, queries, -1)


def weighted_attention(layer: Attended, gradient: Float[Tensor, "1 n H d"]) -> Float[Tensor, "n n"]:
    """Attention times its positive gradient, mean over heads: relu(dA ∘ A)."""
    chunks = []
    for start in range(0, gradient.shape[1], QUERY_CHUNK):
        queries = slice(start, start + QUERY_CHUNK)
        weights = attention_rows(
            layer.query,
            layer.key,
            mask=layer.mask,
            scaling=layer.scaling,
            queries=queries,
            softcap=layer.softcap,
        )[0]
        chunks.append(weights.mul_(gradient_of_attention(gradient[0, queries], layer.value[0])).relu_().mean(0))
    return torch.cat(chunks)


def chefer(layers: Iterable[Float[Tensor, "n n"]], start: Float[Tensor, "k n"]) -> Float[Tensor, "k n"]:
    """Rows of Chefer's relevancy product (I + Ā_L) … (I + Ā_1): from the last layer to the first, r ← r + r Ā.

    Args:
        layers: Ā of every layer, the last layer first.
        start: the rows to begin with, one-hot for one position.
    """
    rows = start
    for layer in layers:
        rows = rows + rows @ layer
    return rows


def grad_cam(features: Float[Tensor, "i h"], gradient: Float[Tensor, "i h"]) -> Float[Tensor, " i"]:
    """Relu of the features weighted with the mean gradient of their channel."""
    return (features.float() @ gradient.float().mean(0)).relu()


def one_hot(rows: Sequence[int], *, length: int) -> Float[Tensor, "1 n"]:
    """One row with equal shares on some positions."""
    start = torch.zeros(1, length)
    start[0, list(rows)] = 1.0 / len(rows)
    return start


def shares(row: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """A row without negative numbers, scaled to sum 1; a row of zeros stays one."""
    total = row.sum()
    return row / total if float(total) > 0.0 else torch.zeros_like(row)


def _row_maps(layers: Iterator[Tensor], start: Float[Tensor, "1 n"], *, keep: int) -> dict[str, Tensor]:
    """Both row maps in one walk through the layers, last layer first; the first ``keep`` positions of each."""
    at_start = []

    def watched() -> Iterator[Tensor]:
        for layer in layers:
            at_start.append((start @ layer)[0])
            yield layer

    relevancy = (chefer(watched(), start) - start)[0]
    return {
        "attention_gradient": shares(torch.stack(at_start).mean(0)[:keep]),
        "chefer": shares(relevancy[:keep]),
    }


class _Plan(NamedTuple):
    """Which positions predict the tokens of the answer and then of the foil, and the weight of each in every target."""

    rows: tuple[int, ...]
    weights: tuple[tuple[float, ...], ...]
    foil: tuple[int, ...]


def _plan(asked: Asked, targets: Sequence[int | None], foil: tuple[int, ...] | None) -> _Plan:
    count = len(asked.answer_ids)
    rows = tuple(range(asked.rows.start, asked.rows.stop))
    if foil is not None:
        foil = foil[:-1] if foil and foil[-1] == asked.vlm.tokens.eos_id else foil
        if not foil or foil == asked.answer_ids or any(target is not None for target in targets):
            raise RecipeError(
                "a foil is another answer to the whole question",
                where=asked.sample_id,
                expected="tokens that differ from the answer's, and None as target",
                got=f"foil {foil}, answer {asked.answer_ids}, targets {list(targets)}",
            )
        # The prompt's last row predicts the first token of either answer; the foil's own tokens stand behind.
        rows += (asked.rows.start, *range(asked.length, asked.length + len(foil) - 1))
    weights = []
    for target in targets:
        if target is not None and not 0 <= target < count:
            raise RecipeError("the target is not a token of the answer", expected=f"0 ... {count - 1}", got=str(target))
        of_answer = [float(target is None or target == index) for index in range(count)]
        weights.append((*of_answer, *[-1.0] * len(foil or ())))
    return _Plan(rows, tuple(weights), foil or ())


def _inputs(asked: Asked, embeddings: Tensor, foil: tuple[int, ...]) -> dict[str, Any]:
    """The forward's inputs; with a foil, both answers behind one prompt, and neither sees the other."""
    inputs = asked.inputs(embeddings=embeddings)
    if not foil:
        return inputs
    device, extra, fork = embeddings.device, len(foil), asked.rows.start
    allowed = nn.functional.pad(visible(asked.batch), (0, extra, 0, extra))
    allowed[:, asked.length :, : asked.length] = allowed[:, fork : fork + 1, : asked.length]
    allowed[:, asked.length :, asked.length :] = torch.ones(extra, extra, dtype=torch.bool, device=device).tril()
    positions = asked.batch.position_ids
    behind = positions[:, fork : fork + 1] + torch.arange(1, extra + 1, device=device)
    return {
        "input_ids": torch.cat([asked.batch.input_ids, torch.tensor([foil], device=device)], dim=1),
        "position_ids": torch.cat([positions, behind], dim=1),
        "attention_mask": additive_mask(allowed, asked.vlm.compute_dtype),
        "mm_encoder_outputs": inputs["mm_encoder_outputs"],
    }


class _Tape:
    """Keeps what attention gradients need of every language model layer."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._number = {id(module): number for number, module in enumerate(modules)}
        self._layers: dict[int, Attended] = {}

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
        number = self._number.get(id(module))
        if number is None:
            return
        if mask is None:
            raise ModelError(
                "the language model ran without an attention mask, so every token saw the answer",
                expected="token types or a 4-D mask",
            )
        self._layers[number] = Attended(
            query.detach(), key.detach(), value.detach(), mask, scaling, soft_cap(module), output
        )

    def whole(self) -> list[Attended]:
        missing = [number for number in self._number.values() if number not in self._layers]
        if missing or not self._number:
            raise ModelError(
                "attention was not recorded",
                expected=f"{len(self._number)} language model layers that call transformers' AttentionInterface",
                got=f"nothing from layers {missing}",
            )
        return [self._layers[number] for number in sorted(self._layers)]
