"""How well a map agrees with the regions a question is about: scores on the patch grid, never on an up-sampled one.

The target is ``coverage``, the share of each cell that the regions cover (``radvqa.explain.targets``). Three scores and
the choice of M need whole cells: M are the cells more than half covered. The others weigh each cell by its coverage,
so they are exact in area. With S the map, S⁺ its positive part and c the coverage:

==============  =======================================================================================================
``hit``         pointing game: the share of the cells tied for the maximum of S that lie in M
``hit@1``,      the same with M grown by one or two cells in all eight directions
``hit@2``
``energy``      Σ c·S⁺ / ΣS⁺, the share of the relevance that lies on the target
``area``        the mean of c: what ``energy`` is for a map without any aim
``enrichment``  energy / area
``rra``         relevance rank accuracy: the share of the top-|M| cells that lies in M
``auprc``       area under precision and recall of the cells' ranking, each cell c parts positive; by chance it depends
                on the map's own pattern: see ``auprc_elsewhere``
``iou_otsu``    intersection over union, in area, with the cells above Otsu's threshold of S⁺
``iou_area``    the same with the top-|M| cells
``iou_tuned``   the same with the cells of at least ``threshold`` times the maximum of S⁺ (``fit_threshold``)
``clipped``     not a score: Σ|S⁻| / Σ|S|, how much of the map the scores that use S⁺ do not see
==============  =======================================================================================================

Scaling a map by a positive factor changes no score. ``hit``, ``rra``, ``auprc`` and ``iou_area`` depend on the order of
the cells alone, so negative values need no clipping there. Ties at a cut count in equal shares. For a map that is its
target, of whole cells, all scores are 1 (``enrichment``: 1 / area); for the complement of a target of at most half the
grid they are 0, but for the neighbourhoods and for ``auprc``, which is ``area`` then.

Sources: pointing game: Zhang et al., IJCV 2018 (there one maximum; 15 pixels of tolerance); energy: Wang et al.,
Score-CAM, CVPR workshops 2020; rank accuracy: Arras et al., Information Fusion 2022; area under precision and recall as
the step-wise sum, without interpolation.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import binary_dilation
from skimage.filters import threshold_otsu

from radvqa.errors import DataError, ModelError

Grid = Float[np.ndarray, "r c"]
Exclusion = Literal["no_target", "constant_map", "target_below_half_a_cell"]

EXCLUSIONS: Mapping[Exclusion, str] = {
    "no_target": "no region of what the question is about lies on the grid",
    "constant_map": "the map is the same everywhere: it points nowhere (degenerate)",
    "target_below_half_a_cell": "no cell is more than half covered by the target: no map can hit it",
}
"""Why a case has no pointing score, in plain words."""

SCORES = (
    "hit", "hit@1", "hit@2", "energy", "area", "enrichment", "rra", "auprc", "iou_otsu", "iou_area", "iou_tuned",
)  # fmt: skip

THRESHOLDS: tuple[float, ...] = tuple(round(0.2 + 0.05 * step, 2) for step in range(13))
"""0.2 … 0.8 of a map's maximum: what ``fit_threshold`` tries."""

SHIFTS = 256
"""Of a map, for ``auprc_elsewhere``: all of a grid of 16 by 16 cells."""

_TIE = 1e-6
"""Values closer than this share of the largest magnitude are equal: the resolution of sums in single precision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Localisation:
    """The scores of one map against one target; NaN where undefined, so that means must leave them out and count them.

    ``excluded`` says why the pointing game and the scores of whole cells are undefined, None where they are defined.
    A target below half a cell leaves ``energy``, ``area``, ``enrichment`` and ``auprc`` defined.
    """

    scores: Mapping[str, float]
    excluded: Exclusion | None


def localisation_scores(grid_map: Grid, coverage: Grid, *, threshold: float | None = None) -> Localisation:
    """All scores of the module's table; ``iou_tuned`` is NaN without a ``threshold``, which is fitted on other cases.

    Raises:
        ModelError: a map with values that are not finite, or of another shape than the target.
        DataError: a coverage outside 0 … 1.
    """
    values = _checked(grid_map, coverage)
    scores = dict.fromkeys((*SCORES, "clipped"), math.nan)
    scores["area"] = area = float(coverage.mean())
    magnitude = float(np.abs(values).sum())
    scores["clipped"] = float(-values[values < 0].sum()) / magnitude if magnitude > 0.0 else 0.0
    excluded = exclusion(values, coverage)
    if excluded in ("no_target", "constant_map"):
        return Localisation(scores=scores, excluded=excluded)
    positive = np.maximum(values, 0.0)
    if positive.any():
        scores["energy"] = float((positive / positive.max() * coverage).sum() / (positive / positive.max()).sum())
        scores["enrichment"] = scores["energy"] / area
    scores["auprc"] = _average_precision(values, coverage)
    target = whole_cells(coverage)
    if excluded is None:
        scores |= _whole_cell_scores(values, coverage, target)
        if positive.any():
            scores["iou_otsu"] = overlap(_above_otsu(positive), coverage)
            if threshold is not None:
                scores["iou_tuned"] = _thresholded(positive, coverage, threshold)
    return Localisation(scores=scores, excluded=excluded)


def exclusion(grid_map: Grid, coverage: Grid) -> Exclusion | None:
    """Why a map and a target have no pointing score; None where they have one."""
    if not coverage.any():
        return "no_target"
    if _ties(grid_map).all():
        return "constant_map"
    return None if whole_cells(coverage).any() else "target_below_half_a_cell"


def whole_cells(coverage: Grid) -> Bool[np.ndarray, "r c"]:
    """M, the cells more than half covered."""
    return coverage > 0.5


def pointing_hit(grid_map: Grid, coverage: Grid, *, radius: int = 0) -> float:
    """The share of the maximum's cells within ``radius`` cells of M. 0 where M is empty: exclude such cases before."""
    chosen = _ties(np.asarray(grid_map, dtype=np.float64))
    return float(_grown(whole_cells(coverage), radius)[chosen].mean())


def chance_scores(coverage: Grid) -> Localisation:
    """What a map without any aim scores on average: ``hit`` of a random point, ranks in random order.

    ``hit`` is the area, as a random point of the picture has it, ``hit@r`` the share of cells within r cells of M.
    Thresholds have no meaning for it, and ``auprc`` depends on the map's pattern (``auprc_elsewhere``).
    """
    excluded = exclusion(np.eye(*coverage.shape), coverage)
    scores = dict.fromkeys((*SCORES, "clipped"), math.nan)
    scores["area"] = area = float(coverage.mean())
    scores["clipped"] = 0.0
    if excluded != "no_target":
        scores |= {"energy": area, "enrichment": 1.0}
    if excluded is None:
        target = whole_cells(coverage)
        share = float(target.mean())
        scores |= {f"hit@{radius}": float(_grown(target, radius).mean()) for radius in (1, 2)}
        scores |= {"hit": area, "rra": share, "iou_area": overlap(np.full(coverage.shape, share), coverage)}
    return Localisation(scores=scores, excluded=excluded)


def auprc_elsewhere(grid_map: Grid, coverage: Grid) -> float:
    """The mean ``auprc`` of the map over its cyclic shifts: what it would score if it lay anywhere else.

    By chance a map scores more than the target's area, a smooth one less so than a rough one, thus each map is its own
    reference. Of a large grid ``SHIFTS`` shifts are taken, always the same ones. NaN where ``auprc`` is undefined.
    """
    values = _checked(grid_map, coverage)
    if exclusion(values, coverage) in ("no_target", "constant_map"):
        return math.nan
    cells = coverage.size
    shifts = np.random.default_rng(0).permutation(cells)[:SHIFTS]
    places = np.arange(cells).reshape(coverage.shape)
    moved = [np.roll(places, np.unravel_index(shift, coverage.shape), axis=(0, 1)).ravel() for shift in shifts]
    _, group = np.unique(-values.ravel(), return_inverse=True)
    order = np.argsort(group, kind="stable")
    last = np.cumsum(np.bincount(group)) - 1
    found = np.cumsum(coverage.ravel()[np.stack(moved)][:, order], axis=1)[:, last]
    precision = found / (last + 1)
    return float(((np.diff(found, axis=1, prepend=0.0) * precision).sum(1) / found[:, -1]).mean())


def overlap(chosen: Grid, coverage: Grid) -> float:
    """Intersection over union in area of chosen cells (1, or a share for ties) and the target."""
    both = float((chosen * coverage).sum())
    return both / (float(chosen.sum()) + float(coverage.sum()) - both)


def fit_threshold(
    cases: Iterable[tuple[Grid, Grid]],
    *,
    fitted_on: str,
    evaluated_on: str,
    candidates: Sequence[float] = THRESHOLDS,
) -> float:
    """The share of a map's maximum at which the mean IoU over ``cases`` (map, coverage) is highest; the lowest of ties.

    Args:
        cases: maps of one method; those without a pointing score or without positive values are left out.
        fitted_on: the split that the cases are of, for the message.
        evaluated_on: the split that the threshold will be used on, which must be another one.
        candidates: shares of the maximum to try.

    Raises:
        DataError: both splits are the same, or no case can be used.
    """
    if fitted_on == evaluated_on:
        raise DataError(
            "a threshold is never tuned on the cases that it is judged by",
            expected="two different splits",
            got=f"{fitted_on} twice",
            fix="fit it on the training or validation split",
        )
    found = []
    for grid_map, coverage in cases:
        values = _checked(grid_map, coverage)
        positive = np.maximum(values, 0.0)
        if exclusion(values, coverage) is None and positive.any():
            found.append([_thresholded(positive, coverage, share) for share in candidates])
    if not found:
        raise DataError(
            "no case to tune the threshold on",
            where=fitted_on,
            expected="at least one map that is not constant, with a target of half a cell",
            fix="choose a split whose questions name regions",
        )
    return float(candidates[int(np.argmax(np.mean(found, axis=0).round(12)))])


def _checked(grid_map: Grid, coverage: Grid) -> Grid:
    if grid_map.shape != coverage.shape or grid_map.ndim != 2 or not grid_map.size:
        raise ModelError("map and target differ in shape", expected=str(coverage.shape), got=str(grid_map.shape))
    values = np.asarray(grid_map, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ModelError("a map cannot be scored", expected="finite values", got=f"{np.isnan(values).sum()} NaN")
    if not ((coverage >= 0.0) & (coverage <= 1.0)).all():
        got = f"{coverage.min()} to {coverage.max()}"
        raise DataError("a coverage is a share of a cell", expected="values from 0 to 1", got=got)
    return values


def _ties(values: Grid) -> Bool[np.ndarray, "r c"]:
    return np.asarray(values >= values.max() - _TIE * np.abs(values).max(), dtype=np.bool_)


def _grown(target: Bool[np.ndarray, "r c"], radius: int) -> Bool[np.ndarray, "r c"]:
    if radius == 0:
        return target
    side = 2 * radius + 1
    return np.asarray(binary_dilation(target, structure=np.ones((side, side), dtype=bool)), dtype=np.bool_)


def _whole_cell_scores(values: Grid, coverage: Grid, target: Bool[np.ndarray, "r c"]) -> dict[str, float]:
    count = int(target.sum())
    top = _top(values, count)
    return {
        "hit": pointing_hit(values, coverage),
        "hit@1": pointing_hit(values, coverage, radius=1),
        "hit@2": pointing_hit(values, coverage, radius=2),
        "rra": float(top[target].sum()) / count,
        "iou_area": overlap(top, coverage),
    }


def _top(values: Grid, count: int) -> Grid:
    """1 for the ``count`` highest cells; those tied at the cut share the places that are left."""
    cut = np.partition(values.ravel(), -count)[-count]
    above, tied = values > cut, values == cut
    return np.asarray(above + tied * ((count - above.sum()) / tied.sum()), dtype=np.float64)


def _average_precision(values: Grid, coverage: Grid) -> float:
    """Σ (R_k − R_{k−1})·P_k over the distinct values, highest first."""
    _, group = np.unique(-values.ravel(), return_inverse=True)
    found = np.cumsum(np.bincount(group, weights=coverage.ravel()))
    taken = np.cumsum(np.bincount(group))
    return float((np.diff(found, prepend=0.0) * found / taken).sum() / found[-1])


def _above_otsu(positive: Grid) -> Grid:
    """1 above Otsu's threshold over the values themselves, without the bins of a histogram."""
    shares = positive / positive.max()
    levels, counts = np.unique(shares, return_counts=True)
    return np.asarray(shares > threshold_otsu(hist=(counts, levels)), dtype=np.float64)


def _thresholded(positive: Grid, coverage: Grid, share: float) -> float:
    return overlap((positive >= share * positive.max()).astype(np.float64), coverage)
