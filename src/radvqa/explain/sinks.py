"""Positions that draw attention whatever is asked: found by evidence, marked or taken out of the rows.

Axes: q rows, n positions, i image cells.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from radvqa.errors import DataError
from radvqa.explain.rollout import row_shares

FACTOR = 10.0
"""k of the rule median + k·MAD."""

SHARE_OF_ROWS = 0.8

FEWEST_ROWS = 3
"""A position that fewer rows can see is never called a sink: two rows that agree are no evidence."""


def find_sinks(
    rows: Float[Tensor, "q n"], *, positions: slice, image: slice, factor: float = FACTOR, share: float = SHARE_OF_ROWS
) -> Bool[Tensor, " n"]:
    """Which positions are sinks: their mean weight is above median + ``factor``·MAD, and so in ``share`` of the rows.

    Image cells are compared with image cells and text positions with text positions, since a text position usually
    has many times the weight of a cell. Only rows that see a position count for it, its own row does not. Use the
    rows of all text positions, not of the answer alone: an answer that looks at one place would make it a sink.

    The rule needs no list of known positions; visual sinks: Kang and others, "See What You Are Told", ICLR 2025,
    who find them by massive activations instead.

    Args:
        rows: attention of the rows, mean over layers and heads; 0 = not visible.
        positions: where the rows stand in the sequence.
        image: where the image tokens are.
        factor: how many median absolute deviations above the median.
        share: of the rows that see the position, how many must agree.

    Raises:
        DataError: rows and positions differ in number.
    """
    if positions.stop - positions.start != len(rows):
        raise DataError("rows and their positions differ in number", expected=str(positions), got=f"{len(rows)} rows")
    weights = rows.double()
    own = torch.zeros_like(weights, dtype=torch.bool)
    own[torch.arange(len(rows)), torch.arange(positions.start, positions.stop)] = True
    weights = weights.masked_fill((weights == 0) | own, math.nan)
    is_image = torch.zeros(weights.shape[1], dtype=torch.bool, device=weights.device)
    is_image[image] = True
    found = torch.zeros_like(is_image)
    for group in (is_image, ~is_image):
        found[group] = _stand_out(weights[:, group], factor=factor, share=share)
    return found


def without_sinks(
    weights: Float[Tensor, "*k q n"], sinks: Bool[Tensor, " n"], *, positions: slice
) -> Float[Tensor, "*k q n"]:
    """Rows whose weight on sinks is shared out among the other positions; a row's own position is never touched.

    ``positions``: where the rows stand in the sequence. A row that looks at sinks only becomes all zeros.
    """
    hidden = sinks.to(weights.device).expand(positions.stop - positions.start, -1).clone()
    rows = torch.arange(len(hidden), device=weights.device)
    hidden[rows, rows + positions.start] = False
    return row_shares(weights.masked_fill(hidden, 0.0))


def _stand_out(weights: Float[Tensor, "q k"], *, factor: float, share: float) -> Bool[Tensor, " k"]:
    if not weights.shape[1]:
        return torch.zeros(0, dtype=torch.bool, device=weights.device)
    seen = (~weights.isnan()).sum(0)
    mean = weights.nanmean(0)
    agreeing = (weights > _limit(weights, factor)).sum(0)
    return (mean > _limit(mean[None], factor)[0]) & (agreeing >= share * seen) & (seen >= FEWEST_ROWS)


def _limit(weights: Float[Tensor, "q k"], factor: float) -> Float[Tensor, "q 1"]:
    """Median + factor·MAD of each row's visible entries."""
    median = weights.nanmedian(-1, keepdim=True).values
    deviation = (weights - median).abs().nanmedian(-1, keepdim=True).values
    return median + factor * deviation
