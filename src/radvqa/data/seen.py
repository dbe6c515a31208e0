"""Pictures of an evaluation that training would see: equal, nearly equal, or published under the same id."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from radvqa.data.duplicates import alike_pairs
from radvqa.data.fingerprint import Fingerprint, fingerprint
from radvqa.data.imaging import THUMBNAIL_SIZE
from radvqa.run.engine import Engine
from radvqa.sample import VqaSample

PUBLIC_ID = re.compile(r"synpic\d+|PMC\d{4,}|ROCO_\d+|ROCOv2_\d{4}_[a-z]+_\d+")
"""Ids of pictures or articles that several data sets carry in their image ids: MedPix, PubMed Central, ROCO."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenPicture:
    """A training picture that shows what an evaluated picture shows. ``how`` is a sentence fragment."""

    trained: VqaSample
    evaluated: VqaSample
    how: str


def seen_pictures(
    trained: Sequence[VqaSample],
    evaluated: Sequence[VqaSample],
    engine: Engine,
    *,
    done: Callable[[int], None] = lambda _: None,
) -> list[SeenPicture]:
    """The training pictures that are evaluated ones, each with the first evaluated one and the first reason found.

    See ``shared_pictures``.
    """
    found: dict[Path, SeenPicture] = {}
    for one in shared_pictures(trained, evaluated, engine, done=done):
        found.setdefault(one.trained.image, one)
    return [found[path] for path in _first_of_each_image(trained) if path in found]


def shared_pictures(
    trained: Sequence[VqaSample],
    evaluated: Sequence[VqaSample],
    engine: Engine,
    *,
    done: Callable[[int], None] = lambda _: None,
) -> list[SeenPicture]:
    """Every pair of a training and an evaluated picture that are the same, with the first reason found.

    Either side is the first sample of its picture. Equal means equal decoded pixels. Nearly equal is what
    ``duplicates.alike_pairs`` finds, on the whole picture or on its largest bright part. A picture that cannot be read
    is compared by its id alone: decoding it will stop the run. ``done`` is called with 1 after each picture.
    """
    first_trained = _first_of_each_image(trained)
    first_evaluated = _first_of_each_image(evaluated)
    paths = list(dict.fromkeys([*first_trained, *first_evaluated]))
    prints: dict[Path, Fingerprint] = {}
    for path, result in zip(paths, engine.map(fingerprint, map(str, paths)), strict=True):
        if isinstance(result, Fingerprint):
            prints[path] = result
        done(1)
    found: dict[tuple[Path, Path], SeenPicture] = {}
    matches = chain(
        _same_id(first_trained, first_evaluated),
        _same_pixels(prints, first_trained, first_evaluated),
        _nearly_same(prints, first_trained, first_evaluated),
    )
    for train, asked, how in matches:
        if (train, asked) not in found:
            found[train, asked] = SeenPicture(trained=first_trained[train], evaluated=first_evaluated[asked], how=how)
    return list(found.values())


Samples = Mapping[Path, VqaSample]
Match = tuple[Path, Path, str]
"""A training picture, an evaluated one, and how they are the same."""


def _same_id(trained: Samples, evaluated: Samples) -> Iterator[Match]:
    asked: dict[str, list[Path]] = defaultdict(list)
    for path, sample in evaluated.items():
        for name in PUBLIC_ID.findall(sample.image_id):
            asked[name].append(path)
    for path, sample in trained.items():
        for name in PUBLIC_ID.findall(sample.image_id):
            yield from ((path, other, f"both are {name}") for other in asked.get(name, ()))


def _same_pixels(prints: Mapping[Path, Fingerprint], trained: Samples, evaluated: Samples) -> Iterator[Match]:
    for places in _classes(prints):
        yield from _matches(places, places, trained, evaluated, how="their pixels are equal")


def _nearly_same(prints: Mapping[Path, Fingerprint], trained: Samples, evaluated: Samples) -> Iterator[Match]:
    classes = _classes(prints)
    first = [prints[places[0]] for places in classes]
    for thumbnails in ([one.thumbnail for one in first], [one.body for one in first]):
        stacked = np.frombuffer(b"".join(thumbnails), dtype=np.uint8).reshape(-1, THUMBNAIL_SIZE, THUMBNAIL_SIZE)
        for pair in alike_pairs(stacked):
            how = f"their thumbnails correlate at {pair.correlation:.3f}"
            for one, other in ((pair.first, pair.second), (pair.second, pair.first)):
                yield from _matches(classes[one], classes[other], trained, evaluated, how=how)


def _classes(prints: Mapping[Path, Fingerprint]) -> list[list[Path]]:
    """The pictures with equal pixels together."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path, known in prints.items():
        found[known.pixels_sha256].append(path)
    return list(found.values())


def _matches(
    ones: Sequence[Path], others: Sequence[Path], trained: Samples, evaluated: Samples, *, how: str
) -> Iterator[Match]:
    """Every training picture among ``ones`` with every evaluated one among ``others``."""
    asked = [path for path in others if path in evaluated]
    yield from ((path, other, how) for path in ones if path in trained for other in asked)


def _first_of_each_image(samples: Sequence[VqaSample]) -> dict[Path, VqaSample]:
    first: dict[Path, VqaSample] = {}
    for sample in samples:
        first.setdefault(sample.image, sample)
    return first
