"""What is known of a level, a difference or a slope, and what may be claimed of it."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

ALPHA = 0.05
FEWEST_SEEDS = 3
"""Common seeds that a claim about a recipe needs; with two, false alarms are up to 13 % (docs/statistics.md)."""
FEWEST_GROUPS = 6
"""Groups that any claim needs."""

Withheld = Literal["interim", "groups", "spread"]
"""Why nothing is claimed: runs are missing, the groups are too few, or the groups do not differ."""


class Difference(NamedTuple):
    """A difference, its standard error with degrees of freedom, two-sided p and 95 % limits."""

    difference: float
    standard_error: float
    df: float
    p: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether p is below 5 % and the interval excludes zero."""
        return self.p < ALPHA and (self.low > 0 or self.high < 0)


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
class Estimated:
    """A difference in one part of a split, over the seeds that all of its cells have.

    ``for_these_models`` is over images alone; ``for_the_recipe`` over images and seeds, None with one seed. Where
    something is ``withheld``, numbers are shown and nothing is claimed.
    """

    where: str
    part: str
    groups: int
    by_seed: dict[int, float]
    for_these_models: Difference
    for_the_recipe: Difference | None
    withheld: Withheld | None

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that all of its cells have."""
        return tuple(self.by_seed)

    @property
    def about_the_recipe(self) -> bool:
        """Whether there are seeds enough for a claim about the recipe, not only about these trained models."""
        return len(self.by_seed) >= FEWEST_SEEDS

    @property
    def decisive(self) -> Difference:
        """What claims rest on: over images and seeds where the seeds suffice, else over images alone."""
        return self.for_the_recipe if self.for_the_recipe and self.about_the_recipe else self.for_these_models


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect(Estimated):
    """Accuracy of a cell minus that of the reference.

    ``adjusted_p`` is Holm's, over the ``comparisons`` of the same part that the experiment plans. ``detectable`` is the
    true effect that would have been found with 80 % power, ``power`` that of finding one as large as the margin, both
    at 5 % / ``comparisons``. ``within_margin``: the effect is shown to be smaller than the margin (two one-sided tests
    at that level). NaN or None where not known.
    """

    cell: str
    reference: str
    questions: int
    comparisons: int
    adjusted_p: float
    detectable: float
    power: float | None
    within_margin: bool | None

    @property
    def shown(self) -> bool:
        """Whether an effect is there: nothing is withheld, the interval excludes zero, and adjusted p is below 5 %."""
        return self.withheld is None and self.adjusted_p < ALPHA and self.decisive.clear


@dataclass(frozen=True, slots=True, kw_only=True)
class Slope(Estimated):
    """A straight line through the cells of the trend: change of accuracy from its lowest to its highest number.

    ``first`` and ``last`` are the cells at its ends, ``unfinished`` those of the trend that the line leaves out or that
    lack a seed.
    """

    first: str
    last: str
    unfinished: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliance:
    """Accuracy of a cell minus that under a control, over images alone, mean of the seeds that have both."""

    seeds: tuple[int, ...]
    gain: Difference
    withheld: Withheld | None
