"""One map on the image grid, and the numbers that say how far to trust it.

Axes: n positions, t rows (one per answer token), i image cells, r and c rows and columns of the image grid.
A row is a distribution over the n positions and sums to 1; the image part of it is the map.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from radvqa.errors import ModelError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SaliencyMap:
    """One map on the image grid and the numbers that say how far to trust it.

    All masses are shares of the row (which sums to 1), so they can be compared between maps. They are NaN for methods
    that have no row, such as occlusion.

    Attributes:
        grid: weight per image cell, not rescaled; sums to ``image_mass`` where there is one. Occlusion can be
            negative: hiding the cell makes the answer more probable.
        method: how it was made, for example ``rollout`` or ``raw``.
        target: what it explains: the text of an answer token or of the whole answer.
        image_mass: share of the row on image tokens.
        sink_mass: largest share on one single position that is neither image nor the row's own position; a text
            position that swallows the row, such as ``<bos>``. NaN where there is no such position.
        sink_position: where that is; -1 where there is none.
        self_mass: share on the row's own position; for a whole answer, on the positions of all its rows.
        entropy: of the image part scaled to sum 1, divided by log(cells): 0 = one cell, 1 = flat. NaN without
            image mass. Negative cells count as 0.
        specificity: mean total variation distance (0 … 1) of the whole row to the rows of the other answer tokens;
            for a whole answer, the mean over its tokens. NaN when there is one token.
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
        positions: where the rows stand in the sequence, as in ``Asked.rows``.
        method: name of the method.
        targets: text of the token each row explains.
    """
    whole = _numbers(rows)
    differences = _specificities(whole)
    picture_differences = _specificities(_scaled(whole[:, image_tokens]))
    return tuple(
        _of_row(
            row,
            image_tokens,
            grid_shape=grid_shape,
            own=slice(positions.start + index, positions.start + index + 1),
            method=method,
            target=target,
            specificity=float(differences[index]),
            grid_specificity=float(picture_differences[index]),
        )
        for index, (row, target) in enumerate(zip(whole, targets, strict=True))
    )


def answer_map(
    row: Float[Tensor, " n"],
    image_tokens: slice,
    *,
    tokens: Float[Tensor, "t n"] | None,
    grid_shape: tuple[int, int],
    positions: slice,
    method: str,
    target: str,
) -> SaliencyMap:
    """The map of a whole answer.

    Args:
        row: the answer's own distribution over positions; for attention the mean of its tokens' rows.
        image_tokens: positions of the image tokens, row by row of the grid.
        tokens: rows of the single tokens, to say how much they differ; None where they were not made.
        grid_shape: rows and columns of the image grid.
        positions: where the answer's rows stand in the sequence.
        method: name of the method.
        target: the answer's text.
    """
    single = np.empty((0, len(row))) if tokens is None else _numbers(tokens)
    return _of_row(
        _numbers(row),
        image_tokens,
        grid_shape=grid_shape,
        own=positions,
        method=method,
        target=target,
        specificity=_mean(_specificities(single)),
        grid_specificity=_mean(_specificities(_scaled(single[:, image_tokens]))),
    )


def grid_maps(
    cells: Float[Tensor, "t i"], *, grid_shape: tuple[int, int], method: str, targets: Sequence[str]
) -> tuple[SaliencyMap, ...]:
    """Maps of a method that weighs image cells only, such as occlusion: no masses, specificity of the picture alone."""
    whole = _numbers(cells)
    differences = _specificities(_scaled(whole))
    return tuple(
        _of_cells(row, grid_shape=grid_shape, method=method, target=target, grid_specificity=float(differences[index]))
        for index, (row, target) in enumerate(zip(whole, targets, strict=True))
    )


def answer_grid_map(
    cells: Float[Tensor, " i"],
    *,
    tokens: Float[Tensor, "t i"] | None,
    grid_shape: tuple[int, int],
    method: str,
    target: str,
) -> SaliencyMap:
    """The map of a whole answer by a method that weighs image cells only. Arguments as in ``answer_map``."""
    single = np.empty((0, len(cells))) if tokens is None else _numbers(tokens)
    return _of_cells(
        _numbers(cells),
        grid_shape=grid_shape,
        method=method,
        target=target,
        grid_specificity=_mean(_specificities(_scaled(single))),
    )


def _of_row(
    whole: Float[np.ndarray, " n"],
    image_tokens: slice,
    *,
    grid_shape: tuple[int, int],
    own: slice,
    method: str,
    target: str,
    specificity: float,
    grid_specificity: float,
) -> SaliencyMap:
    cells = whole[image_tokens]
    text = whole.copy()
    text[image_tokens] = -1.0
    text[own] = -1.0
    sink = int(text.argmax())
    has_sink = text[sink] >= 0.0
    return SaliencyMap(
        grid=_on_grid(cells, grid_shape),
        method=method,
        target=target,
        image_mass=float(cells.sum()),
        sink_mass=float(text[sink]) if has_sink else math.nan,
        sink_position=sink if has_sink else -1,
        self_mass=float(whole[own].sum()),
        entropy=_relative_entropy(cells),
        specificity=specificity,
        grid_specificity=grid_specificity,
    )


def _of_cells(
    cells: Float[np.ndarray, " i"], *, grid_shape: tuple[int, int], method: str, target: str, grid_specificity: float
) -> SaliencyMap:
    return SaliencyMap(
        grid=_on_grid(cells, grid_shape),
        method=method,
        target=target,
        image_mass=math.nan,
        sink_mass=math.nan,
        sink_position=-1,
        self_mass=math.nan,
        entropy=_relative_entropy(cells),
        specificity=math.nan,
        grid_specificity=grid_specificity,
    )


def _numbers(weights: Tensor) -> Float[np.ndarray, "..."]:
    return np.asarray(weights.detach().cpu(), dtype=np.float64)


def _on_grid(cells: Float[np.ndarray, " i"], grid_shape: tuple[int, int]) -> Float[np.ndarray, "r c"]:
    if cells.size != math.prod(grid_shape):
        raise ModelError(
            "the image tokens do not fill the image grid",
            expected=f"{grid_shape[0]} x {grid_shape[1]} = {math.prod(grid_shape)} image tokens",
            got=str(cells.size),
            fix="pass the grid of this checkpoint's resolution",
        )
    return np.reshape(cells, grid_shape)


def _scaled(weights: Float[np.ndarray, "*k i"]) -> Float[np.ndarray, "*k i"]:
    """The positive part, scaled to sum 1; NaN where there is none."""
    positive = np.maximum(weights, 0.0)
    total = positive.sum(axis=-1, keepdims=True)
    share: Float[np.ndarray, "*k i"] = np.full_like(positive, math.nan)
    np.divide(positive, total, out=share, where=total > 0.0)
    return share


def _relative_entropy(cells: Float[np.ndarray, " i"]) -> float:
    share = _scaled(cells)
    if cells.size < 2 or bool(np.isnan(share).any()):
        return math.nan
    seen = share[share > 0.0]
    return float(-(seen * np.log(seen)).sum() / math.log(cells.size))


def _specificities(rows: Float[np.ndarray, "t n"]) -> Float[np.ndarray, " t"]:
    """Mean total variation distance of each row to all the others; NaN when it is alone."""
    if len(rows) < 2:
        return np.full(len(rows), math.nan)
    return np.array([np.abs(rows - row).sum() / 2.0 / (len(rows) - 1) for row in rows])


def _mean(values: Float[np.ndarray, " t"]) -> float:
    return float(values.mean()) if values.size else math.nan
