"""What cells differ in, and how sure that is: over the images alone, and over images and training seeds together.

Two things would come out otherwise in a repetition: the images asked about, and the seed of the training. For "these
trained models", images are the only source of variance: a clustered paired t test of the scores, averaged over seeds.
For the recipe as such, seeds count as well: the model of Obuchowski and Rockette (1995) with the degrees of freedom of
Hillis (2007), in which seeds take the place of readers and images that of cases.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from radvqa.evaluate.mrmc import MrmcAnalysis, obuchowski_rockette
from radvqa.evaluate.multiplicity import holm
from radvqa.evaluate.paired import equivalence, paired_t
from radvqa.evaluate.power import minimal_detectable_effect, power
from radvqa.evaluate.statistics import score_interval
from radvqa.experiment.measured import PARTS, Measured

POWER = 0.8


class Difference(NamedTuple):
    """A difference, its standard error with degrees of freedom, two-sided p and 95 % limits."""

    difference: float
    standard_error: float
    df: float
    p: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Accuracy of one cell in one part, with 95 % limits over images and seeds; with one seed, over images alone."""

    cell: str
    part: str
    mean: float
    low: float
    high: float
    by_seed: dict[int, float]
    questions: int
    groups: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """Accuracy of a cell minus that of the reference, over the seeds that both have.

    ``for_these_models`` is over images alone; ``for_the_recipe`` over images and seeds, None with one seed.
    ``adjusted_p`` is Holm's, over all comparisons of the same part. ``detectable`` is the true effect that would have
    been found with 80 % power; ``power`` that of finding one as large as the margin. ``within_margin``: the effect is
    shown to be smaller than the margin (two one-sided tests at 5 %). NaN or None where not known.
    """

    cell: str
    reference: str
    where: str
    part: str
    seeds: tuple[int, ...]
    questions: int
    groups: int
    by_seed: dict[int, float]
    for_these_models: Difference
    for_the_recipe: Difference | None
    adjusted_p: float
    detectable: float
    power: float | None
    within_margin: bool | None

    @property
    def decisive(self) -> Difference:
        """The wider of both where there is one: the effect that conclusions rest on."""
        return self.for_the_recipe or self.for_these_models

    @property
    def shown(self) -> bool:
        """Whether an effect is there: its interval excludes zero and its adjusted p is below 5 %."""
        return self.adjusted_p < 0.05 and (self.decisive.low > 0 or self.decisive.high < 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slope:
    """A straight line through the cells of the trend: change of accuracy from its lowest to its highest number."""

    where: str
    part: str
    seeds: tuple[int, ...]
    change: Difference
    for_these_models: bool


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
    tables: Sequence[Measured], cells: Sequence[str], *, reference: str, margin: float | None = None
) -> list[Effect]:
    """Every cell against the reference on every split and part, with p adjusted over those of the same part."""
    found = [
        effect
        for measured in tables
        for part in PARTS
        for cell in cells
        if cell != reference and (effect := _effect(measured, cell, reference, part, margin)) is not None
    ]
    for part in PARTS:
        places = [place for place, one in enumerate(found) if one.part == part and not math.isnan(one.decisive.p)]
        for place, adjusted in zip(places, holm([found[place].decisive.p for place in places]), strict=True):
            found[place] = replace(found[place], adjusted_p=adjusted)
    return found


def slopes(measured: Measured, at: dict[str, float]) -> list[Slope]:
    """The straight line through the cells of a trend, in every part, over the seeds that all of them have."""
    cells = [cell for cell in at if measured.seeds(cell)]
    every = measured.seeds(cells[0]) if cells else ()
    seeds = [seed for seed in every if all((cell, seed) in measured.scores for cell in cells)]
    x = np.array([at[cell] for cell in cells])
    if len(set(x.tolist())) < 2 or not seeds:
        return []
    # Least squares: the slope is a fixed combination of the cells' means, so each question has a slope of its own.
    weights = (x - x.mean()) / np.square(x - x.mean()).sum() * np.ptp(x)
    found = []
    for part in PARTS:
        rows = measured.rows(part)
        if rows.any():
            by_seed = np.stack(
                [weights @ np.stack([measured.scores[cell, seed]["model"][rows] for cell in cells]) for seed in seeds]
            )
            change = _over_seeds(by_seed, _groups(measured, rows)) or _these(by_seed, _groups(measured, rows))
            found.append(
                Slope(
                    where=measured.where, part=part, seeds=tuple(seeds), change=change,
                    for_these_models=len(seeds) < 2,
                )
            )  # fmt: skip
    return found


def reliance(measured: Measured, cell: str, control: str, part: str = "all") -> Difference | None:
    """Accuracy of a cell minus that under a control, over images, as a mean over the seeds that have both."""
    rows = measured.rows(part)
    columns = [
        measured.scores[cell, seed]["model"][rows] - measured.scores[cell, seed][control][rows]
        for seed in measured.seeds(cell)
        if control in measured.scores[cell, seed]
    ]
    return _these(np.stack(columns), _groups(measured, rows)) if columns and rows.any() else None


def _effect(measured: Measured, cell: str, reference: str, part: str, margin: float | None) -> Effect | None:
    rows = measured.rows(part)
    seeds = [seed for seed in measured.seeds(reference) if (cell, seed) in measured.scores]
    if not seeds or not rows.any():
        return None
    groups = _groups(measured, rows)
    differences = np.stack(
        [measured.scores[cell, seed]["model"][rows] - measured.scores[reference, seed]["model"][rows] for seed in seeds]
    )
    narrow, wide = _these(differences, groups), _over_seeds(differences, groups)
    decisive = wide or narrow
    known = decisive.standard_error > 0 and not math.isnan(decisive.standard_error)
    within = None
    if margin is not None and not math.isnan(decisive.standard_error):
        within = equivalence(decisive.difference, decisive.standard_error, decisive.df, margin).equivalent
    return Effect(
        cell=cell,
        reference=reference,
        where=measured.where,
        part=part,
        seeds=tuple(seeds),
        questions=int(rows.sum()),
        groups=len(set(groups)),
        by_seed={seed: float(one.mean()) for seed, one in zip(seeds, differences, strict=True)},
        for_these_models=narrow,
        for_the_recipe=wide,
        adjusted_p=math.nan,
        detectable=(
            minimal_detectable_effect(decisive.standard_error, power=POWER, df=decisive.df) if known else math.nan
        ),
        power=power(margin, decisive.standard_error, df=decisive.df) if known and margin is not None else None,
        within_margin=within,
    )


def _over_seeds(differences: npt.NDArray[np.float64], groups: Sequence[str]) -> Difference | None:
    """Mean of differences (seeds, questions), with seeds and images at random; None with one seed or one image."""
    if len(differences) < 2 or len(set(groups)) < 2:
        return None
    # A paired difference is the two-test analysis of the difference itself against zero.
    found = _analysed(differences, groups).differences[0]
    return Difference(found.difference, found.standard_error, found.df, found.p, found.low, found.high)


def _analysed(values: npt.NDArray[np.float64], groups: Sequence[str]) -> MrmcAnalysis:
    """Values (seeds, questions) against zero.

    A few seeds may look more alike than seeds are, so the error is at least that over images.
    """
    return obuchowski_rockette(np.stack([values, np.zeros_like(values)]), groups, floor_at_cases=True)


def _these(differences: npt.NDArray[np.float64], groups: Sequence[str]) -> Difference:
    """The mean over seeds, with images as the only source of variance."""
    mean = differences.mean(axis=0)
    found = paired_t(mean, np.zeros_like(mean), groups)
    return Difference(found.difference, found.standard_error, found.df, found.p, found.low, found.high)


def _groups(measured: Measured, rows: npt.NDArray[np.bool_]) -> list[str]:
    return [group for group, kept in zip(measured.groups, rows, strict=True) if kept]
