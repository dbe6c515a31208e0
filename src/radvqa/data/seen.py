"""Pictures of an evaluation that training would see: equal, nearly equal, or published under the same id."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, combinations_with_replacement
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
    """The training pictures that are evaluated ones, each with the first reason found and one sample of either side.

    Equal means equal decoded pixels. Nearly equal is what ``duplicates.alike_pairs`` finds, on the whole picture or on
    its largest bright part. A picture that cannot be read is compared by its id alone: decoding it will stop the run.
    ``done`` is called with 1 after each picture.
    """
    first_trained = _first_of_each_image(trained)
    first_evaluated = _first_of_each_image(evaluated)
    paths = list(dict.fromkeys([*first_trained, *first_evaluated]))
    prints: dict[Path, Fingerprint] = {}
    for path, result in zip(paths, engine.map(fingerprint, map(str, paths)), strict=True):
        if isinstance(result, Fingerprint):
            prints[path] = result
        done(1)
    found: dict[Path, SeenPicture] = {}
    for one, other, how in chain(
        _same_id({**first_trained, **first_evaluated}), _same_pixels(prints), _nearly_same(prints)
    ):
        for train, asked in ((one, other), (other, one)):
            if train in first_trained and asked in first_evaluated:
                found.setdefault(
                    train, SeenPicture(trained=first_trained[train], evaluated=first_evaluated[asked], how=how)
                )
    return [found[path] for path in first_trained if path in found]


Match = tuple[Path, Path, str]
"""Two pictures, and how they are the same."""


def _same_id(samples: Mapping[Path, VqaSample]) -> Iterator[Match]:
    paths: dict[str, list[Path]] = defaultdict(list)
    for path, sample in samples.items():
        for name in set(PUBLIC_ID.findall(sample.image_id)):
            paths[name].append(path)
    for name, same in paths.items():
        yield from ((one, other, f"both are {name}") for one, other in combinations(same, 2))


def _same_pixels(prints: Mapping[Path, Fingerprint]) -> Iterator[Match]:
    paths: dict[str, list[Path]] = defaultdict(list)
    for path, known in prints.items():
        paths[known.pixels_sha256].append(path)
    for same in paths.values():
        yield from ((one, other, "their pixels are equal") for one, other in combinations_with_replacement(same, 2))


def _nearly_same(prints: Mapping[Path, Fingerprint]) -> Iterator[Match]:
    paths = list(prints)
    for thumbnails in ([one.thumbnail for one in prints.values()], [one.body for one in prints.values()]):
        stacked = np.frombuffer(b"".join(thumbnails), dtype=np.uint8).reshape(-1, THUMBNAIL_SIZE, THUMBNAIL_SIZE)
        for pair in alike_pairs(stacked):
            how = f"their thumbnails correlate at {pair.correlation:.3f}"
            yield paths[pair.first], paths[pair.second], how


def _first_of_each_image(samples: Sequence[VqaSample]) -> dict[Path, VqaSample]:
    first: dict[Path, VqaSample] = {}
    for sample in samples:
        first.setdefault(sample.image, sample)
    return first
