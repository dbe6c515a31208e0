"""From recorded attention to one row per answer token: raw attention, rollout, contrast and relative attention.

Pure functions on tensors. Axes: L layers, H heads, n positions, t rows, i image cells.
A row is a distribution over the n positions and sums to 1. fp64 stays fp64, everything else is computed in fp32.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from radvqa.errors import RecipeError

Fusion = Literal["mean", "max", "min"]
Chosen = slice | Sequence[int]


def choose(weights: Tensor, chosen: Chosen, *, axis: int, kind: str) -> Tensor:
    """The chosen layers or heads of an array; a slice is not copied.

    Raises:
        RecipeError: nothing is chosen, or something that is not there.
    """
    count = weights.shape[axis]
    picked = list(range(count))[chosen] if isinstance(chosen, slice) else list(chosen)
    known = all(0 <= one < count for one in picked)
    if not picked or not known:
        raise RecipeError(
            f"there is no such {kind}" if picked else f"the {kind} selection is empty",
            expected=f"some of 0 … {count - 1}",
            got=str(chosen),
        )
    index: list[slice | list[int]] = [slice(None)] * axis
    return weights[(*index, chosen if isinstance(chosen, slice) else picked)]


def raw_attention(
    rows: Float[Tensor, "L H t n"], *, layers: Chosen = slice(None), heads: Chosen = slice(None)
) -> Float[Tensor, "t n"]:
    """Attention of each recorded row, mean over ``layers`` and ``heads`` (default: all of them).

    No layer is singled out by default: picking the layer that looks best needs a data split of its own.

    Raises:
        RecipeError: a selection is empty or names what the model does not have.
    """
    return _computable(choose(choose(rows, layers, axis=0, kind="layer"), heads, axis=1, kind="head")).mean((0, 1))


def mean_over_layers(rows: Float[Tensor, "L t n"], *, layers: Chosen = slice(None)) -> Float[Tensor, "t n"]:
    """Value-weighted raw attention: rows whose heads are fused already, mean over ``layers``. Raises as above."""
    return _computable(choose(rows, layers, axis=0, kind="layer")).mean(0)


def fuse(
    attention: Float[Tensor, "L H n n"], fusion: Fusion = "mean", *, heads: Chosen = slice(None)
) -> Float[Tensor, "L n n"]:
    """One matrix per layer: mean, maximum or minimum over ``heads``; rows sum to 1 again after the last two."""
    chosen = _computable(choose(attention, heads, axis=1, kind="head"))
    if fusion == "mean":
        return chosen.mean(1)
    return row_shares(chosen.amax(1) if fusion == "max" else chosen.amin(1))


def row_shares(weights: Float[Tensor, "*k n"]) -> Float[Tensor, "*k n"]:
    """Rows scaled to sum 1; a row of zeros stays one."""
    weights = _computable(weights)
    total = weights.sum(-1, keepdim=True)
    return torch.where(total > 0, weights / total.where(total > 0, torch.ones_like(total)), torch.zeros_like(weights))


def rollout(
    fused: Float[Tensor, "L n n"], rows: Chosen, *, alpha: float | Float[Tensor, "L n"] = 0.5
) -> Float[Tensor, "t n"]:
    """Attention rollout of the chosen rows: how each target mixes the input positions after all layers.

    Row form of the product R = Ã_L … Ã_1 with Ã_l = (1−α)·A_l + α·I: start from one-hot rows and go from the last
    layer to the first, r ← (1−α)·(r A_l) + α·r. Equal to the full product, at t·n² instead of n³ per layer. Pass
    ``fused[start:stop]`` to use some layers only.

    Source: Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, where α = 0.5. In deep models
    α = 0.5 gives almost the same row to every token: read it together with ``SaliencyMap.specificity``. An α for
    every layer and position, from the norms of what the residual connection and the attention add, follows Modarressi
    and others, "GlobEnc", NAACL 2022; we leave out the feed-forward part and the layer norms.

    Args:
        fused: attention of each layer, first layer first, heads fused; rows sum to 1.
        rows: target positions.
        alpha: share of the residual connection, 0 (attention only) to 1 (identity); one number, or one for every
            layer and position.

    Raises:
        RecipeError: ``alpha`` is outside 0 … 1.
    """
    dtype = torch.float64 if fused.dtype == torch.float64 else torch.float32
    target = torch.eye(fused.shape[-1], dtype=dtype, device=fused.device)[_indices(rows)]
    for attention, kept in zip(reversed(fused.unbind(0)), reversed(_alphas(alpha, len(fused))), strict=True):
        share = kept.to(target) if isinstance(kept, Tensor) else kept
        target = (target * (1.0 - share)) @ attention.to(dtype) + target * share
    return target


def discard(fused: Float[Tensor, "L n n"], ratio: float, *, kept: Bool[Tensor, " n"]) -> Float[Tensor, "L n n"]:
    """Every row without the smallest ``ratio`` of its visible entries, scaled to sum 1 again.

    Counted per row and layer. A row's own position and the columns in ``kept``, such as sinks, are neither counted nor
    removed. After J. Gildenblat's discard ratio, which flattens the matrix and so empties some rows completely.

    Raises:
        RecipeError: ``ratio`` is outside 0 … 1, or 1.
    """
    if not 0.0 <= ratio < 1.0:
        raise RecipeError("the discard ratio is a share of each row", expected="0 <= ratio < 1", got=str(ratio))
    if ratio == 0.0:
        return fused
    weights = _computable(fused)
    own = torch.eye(fused.shape[-1], dtype=torch.bool, device=fused.device)
    spared = (own | kept.to(fused.device)) | (weights == 0)
    count = ((~spared).sum(-1, keepdim=True) * ratio).floor()
    rank = weights.masked_fill(spared, torch.inf).argsort(dim=-1, stable=True).argsort(dim=-1)
    return row_shares(weights.masked_fill((rank < count) & ~spared, 0.0))


def contrast(rows: Float[Tensor, "t n"], others: Float[Tensor, "k n"]) -> Float[Tensor, "t n"]:
    """Where rows have more weight than the mean of ``others``: "left" against "right", a token against the rest.

    The positive part of the difference, scaled to sum 1; all zeros where a row has more weight nowhere.
    """
    return row_shares((_computable(rows) - _computable(others).mean(0)).clamp_min(0.0))


def each_against_the_rest(rows: Float[Tensor, "t n"]) -> Float[Tensor, "t n"]:
    """The contrast of every row to the mean of all the others; needs two rows or more."""
    return torch.cat(
        [contrast(rows[one : one + 1], torch.cat([rows[:one], rows[one + 1 :]])) for one in range(len(rows))]
    )


def relative_attention(
    cells: Float[Tensor, "t i"], generic: Float[Tensor, "t i"], *, floor: float = 0.01
) -> Float[Tensor, "t i"]:
    """Weight of each image cell divided by its weight under a generic prompt: 1 = unchanged by the question.

    A cell whose generic weight is below ``floor`` times the mean cell is divided by that, so that rounding of tiny
    weights does not decide the map. Source: Zhang and others, "MLLMs Know Where to Look", ICLR 2025; there for one
    chosen layer.
    """
    below = _computable(generic)
    return _computable(cells) / below.clamp_min(floor * below.mean(-1, keepdim=True)).clamp_min(
        torch.finfo(below.dtype).tiny
    )


def _alphas(alpha: float | Tensor, layers: int) -> Sequence[float | Tensor]:
    lowest, highest = (alpha, alpha) if isinstance(alpha, float | int) else (float(alpha.min()), float(alpha.max()))
    if not (lowest >= 0.0 and highest <= 1.0):
        raise RecipeError("rollout's alpha is a share", expected="0 <= alpha <= 1", got=f"{lowest} … {highest}")
    return [alpha] * layers if isinstance(alpha, float | int) else list(alpha.unbind(0))


def _computable(weights: Tensor) -> Tensor:
    return weights if weights.dtype == torch.float64 else weights.float()


def _indices(chosen: Chosen) -> slice | list[int]:
    return chosen if isinstance(chosen, slice) else list(chosen)
