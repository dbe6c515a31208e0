"""Does taking away what a map marks take the answer away? Deletion, insertion, comprehensiveness and sufficiency.

f(S) is the mean log-probability (nats per token) of the fixed answer's tokens when only the cells S of the image grid
are left. Cells go in the order of a map, most relevant first (MoRF) or least relevant first (LeRF).

=====================  ================================================================================================
``deletion``           area under f against the share of cells taken away, most relevant first: low is good
``insertion``          area under f against the share of cells put into an empty picture, most relevant first: high is
                       good. With one way of taking cells away this is the LeRF curve read backwards
``gap``                insertion − deletion = LeRF − MoRF, the area between the two curves (Blücher et al.,
                       "Decoupling Pixel Flipping and Occlusion Strategy", TMLR 2024): above 0 where the map knows more
                       than chance
``gap_over_random``    gap − mean gap of random orders of the same picture
``comprehensiveness``  f(all) − f(without the top k %) (DeYoung et al., ERASER, ACL 2020): high is good
``sufficiency``        f(all) − f(only the top k %): low is good
=====================  ================================================================================================

``deletion`` and ``insertion`` are normalised, (f − f(none)) / (f(all) − f(none)), and left out where the image hardly
matters or makes the answer less probable; the others are in nats. A raw area mostly reflects the model, so every result
also holds random orders and the raster order.

Axes: k variants, i image cells, r and c rows and columns of the grid, p points of a curve.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from radvqa.errors import RecipeError
from radvqa.explain.asked import Asked
from radvqa.explain.occlusion import Fill, HiddenFrom, Kind, scorer

Grid = Float[np.ndarray, "r c"]
Left = Callable[[Bool[np.ndarray, "k i"]], Float[np.ndarray, " k"]]
"""f of k sets of cells, True = the cell is left."""

STEPS = 16
PERCENT = (1, 5, 10, 20, 50)
RANDOM_ORDERS = 3
SMALLEST_RANGE = 0.05
"""Nats per token that the whole image must be worth, or normalised areas divide noise by noise."""

RANDOM, RASTER, ANSWER = "random", "raster", "answer"


def faithfulness(
    asked: Asked,
    order_maps: Mapping[str, Grid],
    *,
    steps: int = STEPS,
    seed: int = 0,
    mode: Kind = "token",
    hidden_from: HiddenFrom = "text",
    fill: Fill = "blur",
) -> dict[str, dict[str, float]]:
    """All numbers of the module for each map, for ``random`` and ``raster`` order, and f itself under ``answer``.

    Keys of a map: ``deletion``, ``insertion``, ``gap``, ``gap_over_random``, ``comprehensiveness@k``, ``sufficiency@k``
    with k per cent of cells; ``random`` has means over ``RANDOM_ORDERS`` orders. A key whose number is undefined is
    left out, and a constant map, which orders nothing, has none at all. ``answer`` holds ``all`` and ``none``.

    Args:
        asked: question and answer; the answer stays fixed.
        order_maps: maps on the image grid, by name.
        steps: points of a curve after the first.
        seed: of the random orders, which also break ties.
        mode: how cells are taken away, see ``occlusion_map``.
        hidden_from: see there.
        fill: see there.

    Raises:
        RecipeError: no steps, or a map that does not fit the image grid or has NaN.
    """
    score = scorer(asked, kind=mode, hidden_from=hidden_from, fill=fill)

    def left(cells: Bool[np.ndarray, "k i"]) -> Float[np.ndarray, " k"]:
        found: Tensor = score(torch.from_numpy(~cells).to(asked.vlm.device)).mean(1)
        return found.double().cpu().numpy()

    return faithfulness_of(left, order_maps, grid=asked.vlm.image_grid, steps=steps, seed=seed)


def faithfulness_of(
    left: Left, order_maps: Mapping[str, Grid], *, grid: tuple[int, int], steps: int = STEPS, seed: int = 0
) -> dict[str, dict[str, float]]:
    """``faithfulness`` of any function of the cells that are left; every set of cells is asked for once."""
    cells = math.prod(grid)
    if not 1 <= steps <= cells:
        raise RecipeError("the curves have no steps", expected=f"1 ... {cells} steps", got=str(steps))
    chance = np.random.default_rng(seed)
    randoms = [chance.permutation(cells) for _ in range(RANDOM_ORDERS)]
    orders = {name: order_of(values, grid, ties=randoms[0], name=name) for name, values in order_maps.items()}
    constant = [name for name, order in orders.items() if order is None]
    named = [(name, order) for name, order in orders.items() if order is not None]
    named += [(RASTER, np.arange(cells)), *((RANDOM, order) for order in randoms)]
    sets = _Sets(cells)
    plans = [_plan(sets, order, steps) for _, order in named]
    every, nothing = sets.number(np.ones(cells, dtype=bool)), sets.number(np.zeros(cells, dtype=bool))
    f = left(sets.masks())
    measured: dict[str, list[dict[str, float]]] = {}
    for (name, _), plan in zip(named, plans, strict=True):
        measured.setdefault(name, []).append(_measures(plan, f, every=f[every], nothing=f[nothing]))
    chance_gap = float(np.mean([one["gap"] for one in measured[RANDOM]]))
    found: dict[str, dict[str, float]] = {name: {} for name in constant}
    for name, several in measured.items():
        means = {key: float(np.mean([one[key] for one in several])) for key in several[0]}
        found[name] = {**means, "gap_over_random": means["gap"] - chance_gap}
    found[ANSWER] = {"all": float(f[every]), "none": float(f[nothing])}
    return found


def order_of(
    values: Grid, grid: tuple[int, int], *, ties: Int[np.ndarray, " i"], name: str
) -> Int[np.ndarray, " i"] | None:
    """Cells from the most relevant to the least, equal ones in the order of ``ties``; None for a constant map.

    Raises:
        RecipeError: the map does not fit the grid, or has NaN.
    """
    if values.shape != grid or not np.isfinite(values).all():
        raise RecipeError(
            "a map cannot order the cells of the image",
            where=name,
            expected=f"finite numbers on {grid[0]} x {grid[1]} cells",
            got=f"shape {values.shape}" if values.shape != grid else "NaN or infinity",
        )
    flat = values.ravel()
    if flat.max() == flat.min():
        return None
    return ties[np.argsort(-flat[ties], kind="stable")]


class _Plan(NamedTuple):
    """Numbers of the sets that one order needs, and the shares of cells at the points of its curves."""

    shares: Float[np.ndarray, " p"]
    deletion: list[int]
    insertion: list[int]
    tops: dict[int, tuple[int, int]]


class _Sets:
    """Distinct sets of cells, numbered."""

    def __init__(self, cells: int) -> None:
        self._cells = cells
        self._numbers: dict[bytes, int] = {}

    def number(self, mask: Bool[np.ndarray, " i"]) -> int:
        return self._numbers.setdefault(mask.tobytes(), len(self._numbers))

    def masks(self) -> Bool[np.ndarray, "k i"]:
        return np.frombuffer(b"".join(self._numbers), dtype=bool).reshape(-1, self._cells).copy()


def _plan(sets: _Sets, order: Int[np.ndarray, " i"], steps: int) -> _Plan:
    cells = len(order)

    def top(count: int) -> Bool[np.ndarray, " i"]:
        mask = np.zeros(cells, dtype=bool)
        mask[order[:count]] = True
        return mask

    counts = np.linspace(0, cells, steps + 1).round().astype(int)
    tops = {k: max(1, round(cells * k / 100)) for k in PERCENT}
    return _Plan(
        counts / cells,
        [sets.number(~top(count)) for count in counts],
        [sets.number(top(count)) for count in counts],
        {k: (sets.number(~top(count)), sets.number(top(count))) for k, count in tops.items()},
    )


def _measures(plan: _Plan, f: Float[np.ndarray, " k"], *, every: float, nothing: float) -> dict[str, float]:
    deletion, insertion = (float(np.trapezoid(f[sets], plan.shares)) for sets in (plan.deletion, plan.insertion))
    found = {"gap": insertion - deletion}
    if every - nothing >= SMALLEST_RANGE:
        found["deletion"] = (deletion - nothing) / (every - nothing)
        found["insertion"] = (insertion - nothing) / (every - nothing)
    for k, (without, only) in plan.tops.items():
        found[f"comprehensiveness@{k}"] = float(every - f[without])
        found[f"sufficiency@{k}"] = float(every - f[only])
    return found
