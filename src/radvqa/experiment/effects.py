"""What cells differ in, and how sure that is: over the images alone, and over images and training seeds together.

Two things would come out otherwise in a repetition: the images asked about, and the seed of the training. For "these
trained models", images are the only source of variance: a clustered paired t test of the scores, averaged over seeds.
For the recipe as such, seeds count as well: the model of Obuchowski and Rockette (1995) with the degrees of freedom of
Hillis (2007), in which seeds take the place of readers and images that of cases; never surer than over images alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from radvqa.evaluate.mrmc import MrmcAnalysis, obuchowski_rockette
from radvqa.evaluate.multiplicity import holm
from radvqa.evaluate.paired import equivalence, paired_t
from radvqa.evaluate.power import minimal_detectable_effect, power
from radvqa.evaluate.statistics import score_interval, without_spread
from radvqa.experiment.estimates import (
    ALPHA,
    FEWEST_GROUPS,
    Difference,
    Effect,
    Level,
    Reliance,
    Slope,
    Withheld,
)
from radvqa.experiment.measured import PARTS, Column, Measured

POWER = 0.8


def levels(measured: Measured, cells: Sequence[str], *, condition: str = "model") -> list[Level]:
    """Accuracy of every cell that has an answer under ``condition``, in every part that has a question."""
    found = []
    for cell in cells:
        seeds = [seed for seed in measured.seeds(cell) if condition in measured.scores[cell, seed]]
        for part in PARTS:
            rows = measured.rows(part)
            if not seeds or not rows.any():
                continue
            columns = np.stack([measured.scores[cell, seed][condition][rows] for seed in seeds])
            groups = _groups(measured, rows)
            interval = score_interval(columns.mean(axis=0), groups)
            low, high = interval.low, interval.high
            if len(seeds) > 1 and interval.groups > 1:
                both = _analysed(columns, groups).means[0]
                # Never narrower than over images alone, whose limits hold at 0 and 1 as well.
                low, high = max(min(both.low, low), 0.0), min(max(both.high, high), 1.0)
            by_seed = {seed: float(column.mean()) for seed, column in zip(seeds, columns, strict=True)}
            found.append(
                Level(
                    cell=cell, part=part, mean=interval.mean, low=low, high=high, by_seed=by_seed,
                    questions=interval.samples, groups=interval.groups,
                )
            )  # fmt: skip
    return found


def effects(
    tables: Sequence[Measured],
    cells: Sequence[str],
    *,
    reference: str,
    seeds: Sequence[int],
    splits: int,
    margin: float | None = None,
) -> list[Effect]:
    """Every cell against the reference on every split and part.

    p is adjusted over all comparisons of a part that are planned, finished or not, so it does not grow with the next
    run. ``seeds`` and ``splits``: how many are planned; with less, an effect is interim.
    """
    found = []
    for part in PARTS:
        # A split that nobody has answered yet is taken to have the part.
        asked = sum(bool(table.rows(part).any()) for table in tables) + splits - len(tables)
        comparisons = asked * (len(cells) - 1)
        some = [
            effect
            for table in tables
            for cell in cells
            if cell != reference
            and (effect := _effect(table, (cell, reference), part, planned=seeds, family=comparisons, margin=margin))
            is not None
        ]
        # One that is unfinished, or has a single group, counts as a p of 1.
        p = [1.0 if math.isnan(one.decisive.p) else one.decisive.p for one in some]
        adjusted = holm([*p, *[1.0] * (comparisons - len(p))])
        found += [replace(one, adjusted_p=value) for one, value in zip(some, adjusted, strict=False)]
    return found


def slopes(measured: Measured, at: Mapping[str, float], *, seeds: Sequence[int]) -> list[Slope]:
    """The straight line through the measured cells of a trend, in every part, over the seeds that all of them have.

    Empty where fewer than two cells, or no common seed, are there yet.
    """
    cells = sorted((cell for cell in at if measured.seeds(cell)), key=lambda cell: at[cell])
    x = np.array([at[cell] for cell in cells])
    if len(set(x.tolist())) < 2:
        return []
    # Least squares: the slope is a fixed combination of the cells' means, so each question has a slope of its own.
    weights = (x - x.mean()) / np.square(x - x.mean()).sum() * np.ptp(x)
    common = [seed for seed in measured.seeds(cells[0]) if all((cell, seed) in measured.scores for cell in cells)]
    unfinished = tuple(cell for cell in at if not set(seeds) <= set(measured.seeds(cell)))
    found = []
    for part in PARTS:
        rows = measured.rows(part)
        if rows.any() and common:
            by_seed = {
                seed: weights @ np.stack([measured.scores[cell, seed]["model"][rows] for cell in cells])
                for seed in common
            }
            groups = _groups(measured, rows)
            found.append(
                Slope(
                    where=measured.where, part=part, **_estimated(by_seed, groups, seeds, unfinished=bool(unfinished)),
                    first=cells[0], last=cells[-1], unfinished=unfinished,
                )
            )  # fmt: skip
    return found


def reliance(
    measured: Measured, cell: str, control: str, part: str = "all", *, seeds: Sequence[int]
) -> Reliance | None:
    """How much better a cell is than under a control; None where no seed has both. ``seeds``: those planned."""
    rows = measured.rows(part)
    columns = {
        seed: measured.scores[cell, seed]["model"][rows] - measured.scores[cell, seed][control][rows]
        for seed in measured.seeds(cell)
        if control in measured.scores[cell, seed]
    }
    if not columns or not rows.any():
        return None
    groups = _groups(measured, rows)
    gain = _these(np.stack(list(columns.values())), groups)
    return Reliance(seeds=tuple(columns), gain=gain, withheld=_withheld(gain, groups, set(columns) >= set(seeds)))


def _effect(
    measured: Measured, cells: tuple[str, str], part: str, *, planned: Sequence[int], family: int, margin: float | None
) -> Effect | None:
    (cell, reference), rows = cells, measured.rows(part)
    seeds = [seed for seed in measured.seeds(reference) if (cell, seed) in measured.scores]
    if not seeds or not rows.any():
        return None
    groups = _groups(measured, rows)
    differences = {
        seed: measured.scores[cell, seed]["model"][rows] - measured.scores[reference, seed]["model"][rows]
        for seed in seeds
    }
    found = Effect(
        cell=cell,
        reference=reference,
        where=measured.where,
        part=part,
        questions=int(rows.sum()),
        comparisons=family,
        **_estimated(differences, groups, planned),
        adjusted_p=math.nan,
        detectable=math.nan,
        power=None,
        within_margin=None,
    )
    one = found.decisive
    if _withheld(found.for_these_models, groups, finished=True):
        return found
    alpha = ALPHA / family
    found = replace(
        found,
        detectable=minimal_detectable_effect(one.standard_error, power=POWER, df=one.df, level=1 - alpha),
    )
    if margin is None:
        return found
    return replace(
        found,
        power=power(margin, one.standard_error, df=one.df, level=1 - alpha),
        within_margin=equivalence(one.difference, one.standard_error, one.df, margin, alpha=alpha).equivalent,
    )


def _estimated(
    differences: Mapping[int, Column], groups: Sequence[str], planned: Sequence[int], *, unfinished: bool = False
) -> dict[str, Any]:
    """The fields of ``Estimated`` that follow from the differences of each seed."""
    stacked = np.stack(list(differences.values()))
    narrow = _these(stacked, groups)
    return {
        "groups": len(set(groups)),
        "by_seed": {seed: float(one.mean()) for seed, one in differences.items()},
        "for_these_models": narrow,
        "for_the_recipe": _over_seeds(stacked, groups, narrow),
        "withheld": _withheld(narrow, groups, not unfinished and set(differences) >= set(planned)),
    }


def _withheld(narrow: Difference, groups: Sequence[str], finished: bool) -> Withheld | None:
    if not finished:
        return "interim"
    if len(set(groups)) < FEWEST_GROUPS:
        return "groups"
    if without_spread(narrow.standard_error, narrow.difference):
        return "spread"
    return None


def _over_seeds(differences: npt.NDArray[np.float64], groups: Sequence[str], narrow: Difference) -> Difference | None:
    """Mean of differences (seeds, questions), with seeds and images at random; None with one seed or one image.

    A few seeds may look alike by chance, so p, error and limits are never smaller than those over images alone.
    """
    if len(differences) < 2 or len(set(groups)) < 2:
        return None
    # A paired difference is the two-test analysis of the difference itself against zero.
    found = _analysed(differences, groups).differences[0]
    wider = found if found.standard_error > narrow.standard_error else narrow
    return Difference(
        found.difference,
        wider.standard_error,
        min(found.df, narrow.df),
        max(found.p, narrow.p),
        min(found.low, narrow.low),
        max(found.high, narrow.high),
    )


def _analysed(values: npt.NDArray[np.float64], groups: Sequence[str]) -> MrmcAnalysis:
    """Values (seeds, questions) against zero, with an error of at least what images bring."""
    return obuchowski_rockette(np.stack([values, np.zeros_like(values)]), groups, floor_at_cases=True)


def _these(differences: npt.NDArray[np.float64], groups: Sequence[str]) -> Difference:
    """The mean over seeds, with images as the only source of variance."""
    mean = differences.mean(axis=0)
    found = paired_t(mean, np.zeros_like(mean), groups)
    return Difference(found.difference, found.standard_error, found.df, found.p, found.low, found.high)


def _groups(measured: Measured, rows: npt.NDArray[np.bool_]) -> list[str]:
    return [group for group, kept in zip(measured.groups, rows, strict=True) if kept]
