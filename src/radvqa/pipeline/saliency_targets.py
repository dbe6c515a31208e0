"""The questions whose answer depends on a known region of the picture, and what the priors learn from."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Literal

import numpy as np

from radvqa.data import DatasetAdapter
from radvqa.data.imaging import open_image
from radvqa.errors import DataError
from radvqa.explain.overlay import grid_frame
from radvqa.explain.priors import PriorCase, Priors, fit_priors
from radvqa.explain.targets import (
    Grid,
    Target,
    asked_regions,
    grid_coverage,
    is_finding,
    regions_by_label,
    target_size,
)
from radvqa.models.vlm import Vlm
from radvqa.recipe import Aspect
from radvqa.sample import Region, VqaSample

Kind = Literal["finding", "organ"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Aimed:
    """A question with the regions it is about, and how much of each cell of the grid they cover together."""

    sample: VqaSample
    targets: tuple[Target, ...]
    coverage: Grid

    @property
    def labels(self) -> tuple[str, ...]:
        """What the regions are called."""
        return tuple(target.label for target in self.targets)

    @property
    def kind(self) -> Kind:
        """A finding where one of the regions is one."""
        return "finding" if any(map(is_finding, self.labels)) else "organ"

    @property
    def strata(self) -> dict[str, str]:
        """What the table is broken down by, answers apart."""
        found = {"target": " and ".join(self.labels), "target size": target_size(self.coverage)}
        found["kind of target"] = self.kind
        found["answer type"] = self.sample.answer_type
        found["label named in"] = next(
            (where for where in ("answer", "finding") if any(one.named_in == where for one in self.targets)), "question"
        )
        return found | {name: self.sample.tags[name] for name in ("modality",) if name in self.sample.tags}


class Regions:
    """The regions of a data set's images on a model's grid; each image is read once.

    ``unreadable``: image id → why its regions cannot be used; its questions are left out.
    """

    def __init__(self, adapter: DatasetAdapter, vlm: Vlm, *, aspect: Aspect) -> None:
        self._adapter = adapter
        self._grid, self._size, self._aspect = vlm.image_grid, vlm.image_size, aspect
        self._regions: dict[str, tuple[Region, ...]] = {}
        self._sizes: dict[Path, tuple[int, int]] = {}
        self.unreadable: dict[str, str] = {}

    def of(self, sample: VqaSample) -> tuple[Region, ...]:
        """All regions of the sample's image."""
        if sample.image_id not in self._regions:
            self._regions[sample.image_id] = self._adapter.regions(sample.image_id)
        return self._regions[sample.image_id]

    def coverage(self, sample: VqaSample, regions: Sequence[Region]) -> Grid:
        """How much of each cell these regions of the sample's image cover."""
        if sample.image not in self._sizes:
            self._sizes[sample.image] = open_image(sample.image).size
        size = self._sizes[sample.image]
        frame = grid_frame(size, self._size, aspect=self._aspect)
        return grid_coverage(regions, size, grid=self._grid, frame=frame)

    def aimed(self, samples: Sequence[VqaSample]) -> list[Aimed]:
        """The English questions that are about a region of their image."""
        found = []
        for sample in samples:
            if sample.language != "en" or sample.image_id in self.unreadable:
                continue
            try:
                targets = asked_regions(sample, self.of(sample))
                if targets:
                    regions = [region for target in targets for region in target.regions]
                    found.append(Aimed(sample=sample, targets=targets, coverage=self.coverage(sample, regions)))
            except DataError as error:
                self.unreadable[sample.image_id] = str(error)
        return [one for one in found if one.sample.image_id not in self.unreadable]

    def priors(self, samples: Sequence[VqaSample]) -> tuple[Priors, int]:
        """The priors of every label of every image of these samples, and how many such targets there are."""
        cases: list[PriorCase] = []
        for sample in {sample.image_id: sample for sample in samples}.values():
            if sample.image_id in self.unreadable:
                continue
            try:
                cases += [
                    PriorCase(
                        image_id=sample.image_id,
                        body_part=body_part(sample),
                        modality=modality(sample),
                        label=label,
                        coverage=self.coverage(sample, regions),
                    )
                    for label, regions in regions_by_label(self.of(sample)).items()
                ]
            except DataError as error:
                self.unreadable[sample.image_id] = str(error)
        return fit_priors(cases), len(cases)


def body_part(sample: VqaSample) -> str:
    """As its data set tags it."""
    return sample.tags.get("location", "")


def modality(sample: VqaSample) -> str:
    """As its data set tags it."""
    return sample.tags.get("modality", "")


def spread(aimed: Sequence[Aimed], limit: int | None, *, seed: int) -> list[Aimed]:
    """Up to ``limit`` questions, an image in turn each in a random order, so that few questions see many images.

    A larger limit takes the same questions and more.
    """
    by_image: dict[str, list[Aimed]] = defaultdict(list)
    rng = np.random.default_rng(seed)
    for place in rng.permutation(len(aimed)):
        by_image[aimed[int(place)].sample.image_id].append(aimed[int(place)])
    turns = [one for turn in zip_longest(*by_image.values()) for one in turn if one is not None]
    return turns[:limit]


def stranger(one: Aimed, others: Sequence[Aimed]) -> tuple[str, VqaSample] | None:
    """A question about other regions, of the same image where there is one, and a sample of another image.

    None where all questions are about the same regions, or about one image.
    """
    image = one.sample.image_id
    questions = [
        other
        for other in others
        if not set(other.labels) & set(one.labels) and other.sample.question != one.sample.question
    ]
    same_image = [other for other in questions if other.sample.image_id == image]
    images = [other.sample for other in others if other.sample.image_id != image]
    if not questions or not images:
        return None
    return (same_image or questions)[0].sample.question, images[0]
