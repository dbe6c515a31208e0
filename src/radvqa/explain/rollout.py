"""From recorded attention to one map per answer token: raw attention and attention rollout.

Pure functions on tensors. Axes: L layers, n positions, t rows, r and c rows and columns of the image grid.
A row is a distribution over the n positions and sums to 1; the image part of it is the map.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from radvqa.errors import ModelError, RecipeError
from radvqa.explain.capture import AttentionTrace


def raw_attention(trace: AttentionTrace, *, layers: slice | Sequence[int] = slice(None)) -> Float[Tensor, "t n"]:
    """Attention of each recorded row, mean over all heads and over ``layers`` (default: all of them).

    No layer is singled out by default: picking the layer that looks best needs a data split of its own.

    Raises:
        RecipeError: ``layers`` selects nothing.
    """
    chosen = trace.rows[layers if isinstance(layers, slice) else list(layers)]
    if chosen.shape[0] == 0:
        raise RecipeError(
            "the layer selection is empty", expected=f"some of the {trace.rows.shape[0]} layers", got=str(layers)
        )
    return chosen.float().mean(dim=(0, 1))


def rollout(fused: Float[Tensor, "L n n"], rows: slice | Sequence[int], *, alpha: float = 0.5) -> Float[Tensor, "t n"]:
    """Attention rollout of the chosen rows: how each target mixes the input positions after all layers.

    Row form of the product R = Ã_L … Ã_1 with Ã_l = (1−α)·A_l + α·I: start from one-hot rows and go from the last
    layer to the first, r ← (1−α)·(r A_l) + α·r. Equal to the full product, at t·n² instead of n³ per layer. Pass
    ``fused[start:stop]`` to use some layers only. fp64 stays fp64, everything else is computed in fp32.

    Source: Abnar and Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020, where α = 0.5. Heads are fused
    by their mean, so no re-normalisation is needed. In deep models α = 0.5 gives almost the same row to every token:
    read it together with ``SaliencyMap.specificity``.

    Args:
        fused: attention of each layer, first layer first, mean over heads; rows sum to 1.
        rows: target positions.
        alpha: share of the residual connection, 0 (attention only) to 1 (identity).

    Raises:
        RecipeError: ``alpha`` is outside 0 … 1.
    """
    if not 0.0 <= alpha <= 1.0:
        raise RecipeError("rollout's alpha is a share", expected="0 <= alpha <= 1", got=str(alpha))
    dtype = torch.float64 if fused.dtype == torch.float64 else torch.float32
    identity = torch.eye(fused.shape[-1], dtype=dtype, device=fused.device)
    target = identity[rows if isinstance(rows, slice) else list(rows)]
    for attention in reversed(fused.unbind(0)):
        target = (1.0 - alpha) * (target @ attention.to(dtype)) + alpha * target
    return target


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SaliencyMap:
    """One map on the image grid and the numbers that say how far to trust it.

    All masses are shares of the row (which sums to 1), so they can be compared between maps.

    Attributes:
        grid: attention weight per image cell, not rescaled; sums to ``image_mass``.
        method: how it was made, for example ``rollout`` or ``raw attention``.
        target: what it explains, usually the answer token's text.
        image_mass: share of the row on image tokens.
        sink_mass: largest share on one single position that is neither image nor the row's own position; a text
            position that swallows the row, such as ``<bos>``. NaN where there is no such position.
        sink_position: where that is; -1 where there is none.
        self_mass: share on the row's own position.
        entropy: of the image part scaled to sum 1, divided by log(cells): 0 = one cell, 1 = flat. NaN without
            image mass.
        specificity: mean total variation distance (0 … 1) of the whole row to the rows of the other answer tokens.
            NaN when there is one token.
        grid_specificity: the same on the image part scaled to sum 1. Rows also differ in their text part, so this is
            the number for "the picture is the same for every word". NaN when undefined.
    """

    grid: Float[np.ndarray, "r c"]
    method: str
    target: str
    image_mass: float
    sink_mass: float
    sink_position: int
    self_mass: float
    entropy: float
    specificity: float
    grid_specificity: float


def image_maps(
    rows: Float[Tensor, "t n"],
    image_tokens: slice,
    *,
    grid_shape: tuple[int, int],
    positions: slice,
    method: str,
    targets: Sequence[str],
) -> tuple[SaliencyMap, ...]:
    """One map per row; every row's specificity is measured against all the others.

    Args:
        rows: one distribution over positions per answer token.
        image_tokens: positions of the image tokens, row by row of the grid.
        grid_shape: rows and columns of the image grid.
        positions: where the rows stand in the sequence, as in ``AttentionTrace.positions``.
        method: name of the method.
        targets: text of the token each row explains.
    """
    return tuple(
        image_map(
            row,
            image_tokens,
            grid_shape=grid_shape,
            position=positions.start + index,
            others=torch.cat([rows[:index], rows[index + 1 :]]),
            method=method,
            target=target,
        )
        for index, (row, target) in enumerate(zip(rows, targets, strict=True))
    )


def image_map(
    row: Float[Tensor, " n"],
    image_tokens: slice,
    *,
    grid_shape: tuple[int, int],
    position: int,
    others: Float[Tensor, "k n"],
    method: str,
    target: str,
) -> SaliencyMap:
    """The map of one row. ``position``: the row's own place in the sequence; ``others``: rows of the other tokens.

    Raises:
        ModelError: the image tokens do not fill the grid.
    """
    whole = row.detach().double().cpu().numpy()
    rest = others.detach().double().cpu().numpy()
    cells = whole[image_tokens]
    if cells.size != math.prod(grid_shape):
        raise ModelError(
            "the image tokens do not fill the image grid",
            expected=f"{grid_shape[0]} x {grid_shape[1]} = {math.prod(grid_shape)} image tokens",
            got=str(cells.size),
            fix="pass the grid of this checkpoint's resolution",
        )
    text = whole.copy()
    text[image_tokens] = -1.0
    text[position] = -1.0
    sink = int(text.argmax())
    has_sink = text[sink] >= 0.0
    return SaliencyMap(
        grid=cells.reshape(grid_shape),
        method=method,
        target=target,
        image_mass=float(cells.sum()),
        sink_mass=float(text[sink]) if has_sink else math.nan,
        sink_position=sink if has_sink else -1,
        self_mass=float(whole[position]),
        entropy=_relative_entropy(cells),
        specificity=_mean_total_variation(whole, rest),
        grid_specificity=_mean_total_variation(_scaled(cells), np.array([_scaled(r[image_tokens]) for r in rest])),
    )


def _scaled(weights: Float[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    total = float(weights.sum())
    return weights / total if total > 0.0 else np.full_like(weights, math.nan)


def _relative_entropy(cells: Float[np.ndarray, " k"]) -> float:
    if cells.size < 2 or float(cells.sum()) <= 0.0:
        return math.nan
    share = _scaled(cells)
    seen = share[share > 0.0]
    return float(-(seen * np.log(seen)).sum() / math.log(cells.size))


def _mean_total_variation(row: Float[np.ndarray, " k"], others: Float[np.ndarray, "m k"]) -> float:
    if len(others) == 0:
        return math.nan
    return float(np.abs(others - row).sum(axis=1).mean() / 2.0)
