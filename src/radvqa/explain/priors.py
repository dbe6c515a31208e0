"""Maps that never see the picture: what a saliency map must beat before its scores mean anything.

A prior is a map like any other and is scored by ``radvqa.explain.localisation``. Two rows are scored in their own way:
chance as the average over maps without aim, and the hit of the centre, where the cells around the middle of an even
grid count as one place (each alone would add a half-cell shift to one side).

``label_prior`` looks for what the question alone names (``radvqa.explain.targets.question_labels``), so what only the
reference answer or the image tells stays unknown to it. ``label_oracle`` is told the labels of the target.

The fitted priors are means of training targets (coverage per label and image). Where nothing was learned for a key they
fall back to a wider one: body part and modality → modality → all targets; label and modality → label → body part and
modality. A leave-one-out prior leaves out all targets of the image that it is asked for.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from radvqa.errors import DataError
from radvqa.explain.localisation import Localisation, chance_scores, localisation_scores

Grid = Float[np.ndarray, "r c"]
Key = tuple[str, ...]

PRIORS: Mapping[str, str] = {
    "chance": "a point anywhere in the picture",
    "centre": "the middle of the picture",
    "body_part_prior": "where regions lie in training pictures of this body part and modality; sees no question",
    "label_prior": "where what the question names lies in training pictures of this modality; sees no picture",
    "label_oracle": "the same for the label of the target itself, which it is told; sees no picture",
}
"""Name of each reference row and what it is, in plain words."""

CENTRE_WIDTH = 0.25
"""Standard deviation of the centre map, in widths and heights of the grid."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PriorCase:
    """One target: all regions of one label in one picture, as coverage of the grid."""

    image_id: str
    body_part: str
    modality: str
    label: str
    coverage: Grid


class Priors:
    """Reference maps on one grid, fitted by ``fit_priors``."""

    def __init__(self, grid: tuple[int, int], sums: "Mapping[Key, _Sum]") -> None:
        self.grid = grid
        self._sums = sums

    def map(
        self, name: str, *, body_part: str, modality: str, labels: Sequence[str], without: str | None = None
    ) -> Grid:
        """The map of one row of ``PRIORS``; that of several labels is the mean of theirs.

        Args:
            name: which row; ``chance`` is a constant map.
            body_part: of the picture, as in the cases fitted on.
            modality: likewise.
            labels: what ``label_prior`` and ``label_oracle`` look for; the others do not use them.
            without: an image whose targets are left out (leave-one-out).

        Raises:
            DataError: there is no such prior, or it was fitted on nothing but this image.
        """
        if name == "chance":
            return np.ones(self.grid)
        if name == "centre":
            return centre_map(self.grid)
        area = ("body_part", body_part.lower(), modality.lower())
        wider: tuple[Key, ...] = (area, ("modality", modality.lower()), ("all",))
        if name == "body_part_prior":
            return self._first(wider, without)
        if name in ("label_prior", "label_oracle") and labels:
            named = [(("label", label.lower(), modality.lower()), ("label", label.lower()), *wider) for label in labels]
            maps: Grid = np.mean([self._first(keys, without) for keys in named], axis=0)
            return maps
        raise DataError("no such prior", expected=", ".join(PRIORS), got=f"{name} for {len(labels)} labels")

    def labels(self, *, body_part: str | None = None, modality: str = "") -> list[str]:
        """The labels fitted on, in lower case: all, or those met in this body part and modality (all if none were)."""
        if body_part is not None:
            area = ("place", body_part.lower(), modality.lower())
            if here := [key[3] for key in self._sums if key[:3] == area]:
                return here
        return [key[1] for key in self._sums if key[0] == "label" and len(key) == 2]

    def scores(
        self,
        name: str,
        coverage: Grid,
        *,
        body_part: str,
        modality: str,
        labels: Sequence[str],
        threshold: float | None = None,
        without: str | None = None,
    ) -> Localisation:
        """The scores of one row of ``PRIORS`` against a target; arguments as in ``map`` and ``localisation_scores``."""
        if name == "chance":
            return chance_scores(coverage)
        found = localisation_scores(
            self.map(name, body_part=body_part, modality=modality, labels=labels, without=without),
            coverage,
            threshold=threshold,
        )
        if name == "centre" and found.excluded is None:
            return replace(found, scores={**found.scores, "hit": centre_hit(coverage)})
        return found

    def _first(self, keys: Iterable[Key], without: str | None) -> Grid:
        for key in keys:
            mean = self._sums[key].mean(without) if key in self._sums else None
            if mean is not None:
                return mean
        raise DataError("a prior has no picture to learn from", got=f"only {without}", fix="fit it on more pictures")


def fit_priors(cases: Iterable[PriorCase]) -> Priors:
    """Priors of training targets; never give it targets of the cases to be judged, but for leave-one-out.

    Raises:
        DataError: there are no cases, or their grids differ.
    """
    sums: dict[Key, _Sum] = defaultdict(_Sum)
    grid: tuple[int, int] | None = None
    for case in cases:
        shape = (case.coverage.shape[0], case.coverage.shape[1])
        if grid is not None and shape != grid:
            raise DataError("targets lie on different grids", where=case.image_id, expected=str(grid), got=str(shape))
        grid = shape
        for key in _keys(case):
            sums[key].add(case.image_id, case.coverage)
    if grid is None:
        raise DataError("priors need labelled regions", got="none", fix="choose a data set with masks or boxes")
    return Priors(grid, dict(sums))


def centre_map(grid: tuple[int, int]) -> Grid:
    """A Gaussian around the middle, 1 at its peak; an even grid has four highest cells."""
    down, across = (np.exp(-(_offsets(cells) ** 2) / (2 * CENTRE_WIDTH**2)) for cells in grid)
    peaked: Grid = np.outer(down, across)
    return np.asarray(peaked / peaked.max(), dtype=np.float64)


def centre_hit(coverage: Grid) -> float:
    """1 where more than half of the middle is covered: one cell of an odd grid, two by two of an even one; 0 else."""
    rows, columns = coverage.shape
    middle = coverage[(rows - 1) // 2 : rows // 2 + 1, (columns - 1) // 2 : columns // 2 + 1]
    return float(middle.mean() > 0.5)


class _Sum:
    """The sum of targets, in all and by image, so that one image can be left out."""

    def __init__(self) -> None:
        self._total: Grid | None = None
        self._count = 0
        self._by_image: dict[str, tuple[Grid, int]] = {}

    def add(self, image_id: str, coverage: Grid) -> None:
        self._total = coverage if self._total is None else self._total + coverage
        self._count += 1
        own, count = self._by_image.get(image_id, (np.zeros_like(coverage), 0))
        self._by_image[image_id] = own + coverage, count + 1

    def mean(self, without: str | None) -> Grid | None:
        """The mean target of the other images; None where there is none, or none of them reaches the grid."""
        own, count = self._by_image.get(without, (0.0, 0)) if without is not None else (0.0, 0)
        if self._total is None or self._count == count:
            return None
        # Both sums were made in the same order: exactly 0 where the others are empty, and never below.
        left: Grid = (self._total - own) / (self._count - count)
        return left if left.any() else None


def _keys(case: PriorCase) -> Iterator[Key]:
    body_part, modality, label = case.body_part.lower(), case.modality.lower(), case.label.lower()
    yield ("body_part", body_part, modality)
    yield ("modality", modality)
    yield ("all",)
    yield ("label", label, modality)
    yield ("label", label)
    yield ("place", body_part, modality, label)


def _offsets(cells: int) -> Float[np.ndarray, " k"]:
    return (np.arange(cells) + 0.5) / cells - 0.5
