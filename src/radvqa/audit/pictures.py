"""Findings about pictures: unreadable, tiny or even ones, and the same or nearly the same picture in two places."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np

from radvqa.audit.contents import Contents
from radvqa.audit.finding import Evidence, Finding, number_of_rows
from radvqa.data.duplicates import ALIKE, AlikePair, Thumbnails, alike_pairs
from radvqa.data.fingerprint import Unreadable, fingerprint
from radvqa.data.imaging import THUMBNAIL_SIZE
from radvqa.run.engine import Engine
from radvqa.sample import Split

T = TypeVar("T")

VERY_ALIKE = 0.99
SMALLEST_SIDE = 64
"""Pixels; below it a picture is a thumbnail or a fragment."""

EVEN = 1.0
"""Standard deviation of the gray values of a thumbnail, below which a picture shows nothing."""


@dataclass(slots=True)
class Picture:
    """One picture file of one data set: how many rows of each split and language show it, and its group."""

    dataset: str
    path: Path
    image_id: str
    group_id: str
    rows: Counter[tuple[Split, str]] = field(default_factory=Counter)
    pixels_sha256: str = ""
    width: int = 0
    height: int = 0
    mode: str = ""


@dataclass(frozen=True, slots=True)
class Pictures:
    """Every readable picture of all data sets with its thumbnails, in one order, and those that cannot be read."""

    seen: list[Picture]
    whole: Thumbnails
    body: Thumbnails
    unreadable: list[tuple[Picture, Unreadable]]


def look_at_pictures(all_contents: Sequence[Contents], engine: Engine, *, done: Callable[[int], None]) -> Pictures:
    """Fingerprint every picture of every data set, each file once; ``done`` is called with 1 after each."""
    pictures: dict[tuple[str, Path], Picture] = {}
    for contents in all_contents:
        for record in contents.records():
            if record.image in contents.missing:
                continue
            picture = pictures.setdefault(
                (contents.label, record.image),
                Picture(contents.label, record.image, record.image_id, record.group_id),
            )
            picture.rows[record.split, record.language] += 1
    everything = list(pictures.values())
    whole = np.empty((len(everything), THUMBNAIL_SIZE, THUMBNAIL_SIZE), dtype=np.uint8)
    body = np.empty_like(whole)
    seen: list[Picture] = []
    unreadable: list[tuple[Picture, Unreadable]] = []
    found = engine.map(fingerprint, (str(picture.path) for picture in everything))
    for picture, result in zip(everything, found, strict=True):
        if isinstance(result, Unreadable):
            unreadable.append((picture, result))
        else:
            for thumbnails, content in ((whole, result.thumbnail), (body, result.body)):
                thumbnails[len(seen)] = np.frombuffer(content, dtype=np.uint8).reshape(thumbnails.shape[1:])
            picture.pixels_sha256 = result.pixels_sha256
            picture.width, picture.height, picture.mode = result.width, result.height, result.mode
            seen.append(picture)
        done(1)
    return Pictures(seen=seen, whole=whole[: len(seen)], body=body[: len(seen)], unreadable=unreadable)


def picture_findings(pictures: Pictures) -> Iterator[Finding]:
    """Findings about single pictures, then about equal and alike ones inside and across data sets."""
    yield from _unreadable(pictures)
    yield from _small(pictures)
    yield from _even(pictures)
    equal = _equal_pairs(pictures)
    yield from _pair_findings(pictures, equal, kind="equal")
    known = {(pair.first, pair.second) for pair in equal}
    alike = [pair for pair in _alike(pictures) if (pair.first, pair.second) not in known]
    yield from _pair_findings(pictures, alike, kind="alike")
    yield from _seen_in_training(pictures, [*equal, *alike])


def _unreadable(pictures: Pictures) -> Iterator[Finding]:
    for dataset, found in _by_dataset(pictures.unreadable, lambda pair: pair[0].dataset).items():
        yield Finding(
            check="unreadable_image",
            severity="layout",
            dataset=dataset,
            title="images that cannot be read",
            count=len(found),
            unit="images",
            advice="fetch these files again, or remove their rows: a run refuses them",
            evidence=tuple(
                Evidence(subjects=(picture.image_id,), where=str(picture.path), detail=problem.detail)
                for picture, problem in found
            ),
            facts={"rows": sum(picture.rows.total() for picture, _ in found)},
        )


def _small(pictures: Pictures) -> Iterator[Finding]:
    small = [one for one in pictures.seen if min(one.width, one.height) < SMALLEST_SIDE]
    for dataset, found in _by_dataset(small, lambda one: one.dataset).items():
        yield Finding(
            check="small_image",
            severity="layout",
            dataset=dataset,
            title=f"images of less than {SMALLEST_SIDE} pixels on one side",
            count=len(found),
            unit="images",
            advice="check whether these are previews; find the originals or leave them out",
            evidence=tuple(
                Evidence(subjects=(one.image_id,), detail=f"{one.width} × {one.height}", pictures=(one.path,))
                for one in found
            ),
        )


def _even(pictures: Pictures) -> Iterator[Finding]:
    spread = np.array([thumbnail.std() for thumbnail in pictures.whole])
    even = [pictures.seen[place] for place in np.flatnonzero(spread < EVEN)]
    for dataset, found in _by_dataset(even, lambda one: one.dataset).items():
        yield Finding(
            check="even_image",
            severity="label",
            dataset=dataset,
            title="images of one colour",
            count=len(found),
            unit="images",
            advice="leave them out: nothing can be seen in them",
            evidence=tuple(Evidence(subjects=(one.image_id,), detail=str(one.path)) for one in found),
        )


def _equal_pairs(pictures: Pictures) -> list[AlikePair]:
    """The first picture with certain pixels, paired with each later one."""
    places: dict[str, int] = {}
    pairs = []
    for place, picture in enumerate(pictures.seen):
        first = places.setdefault(picture.pixels_sha256, place)
        if first != place:
            pairs.append(AlikePair(first=first, second=place, correlation=1.0))
    return pairs


def _alike(pictures: Pictures) -> list[AlikePair]:
    """Pairs alike as a whole, or in the largest bright part, which finds the same picture with another crop."""
    best: dict[tuple[int, int], AlikePair] = {}
    for thumbnails in (pictures.whole, pictures.body):
        for pair in alike_pairs(thumbnails):
            known = best.get((pair.first, pair.second))
            if known is None or known.correlation < pair.correlation:
                best[pair.first, pair.second] = pair
    return [best[key] for key in sorted(best)]


def _pair_findings(pictures: Pictures, pairs: Sequence[AlikePair], *, kind: str) -> Iterator[Finding]:
    inside: dict[str, list[AlikePair]] = defaultdict(list)
    across: dict[tuple[str, str], list[AlikePair]] = defaultdict(list)
    for pair in pairs:
        first, second = pictures.seen[pair.first], pictures.seen[pair.second]
        if first.dataset != second.dataset:
            across[first.dataset, second.dataset].append(pair)
        elif first.image_id != second.image_id:
            inside[first.dataset].append(pair)
    words = "with equal pixels" if kind == "equal" else f"that are nearly the same (correlation above {ALIKE})"
    for dataset, found in inside.items():
        other_group = [pair for pair in found if _group(pictures, pair.first) != _group(pictures, pair.second)]
        if other_group:
            yield Finding(
                check=f"{kind}_images_in_other_groups",
                severity="cosmetic",
                dataset=dataset,
                title=f"pairs of images {words} under different group ids",
                count=len(other_group),
                unit="pairs",
                advice="one patient may stand behind both: join their groups before you make splits of your own",
                evidence=tuple(_pair_evidence(pictures, pair) for pair in _nearest_first(other_group)),
                facts={
                    **_above(other_group),
                    "pairs inside one group": len(found) - len(other_group),
                    "pairs inside one split": sum(bool(_common_splits(pictures, pair)) for pair in other_group),
                },
            )
    for (one, other), found in across.items():
        yield Finding(
            check=f"{kind}_images_across_datasets",
            severity="leak",
            dataset=f"{one} × {other}",
            title=f"images {words} in two data sets",
            count=len({pair.first for pair in found}),
            unit="images",
            advice="train on one and evaluate on the other only without these: evaluate.seen_pictures: drop",
            evidence=tuple(_pair_evidence(pictures, pair) for pair in _nearest_first(found)),
            facts={
                **_above(found),
                f"rows of {one}": _rows(pictures, {pair.first for pair in found}),
                f"rows of {other}": _rows(pictures, {pair.second for pair in found}),
            },
        )


def _seen_in_training(pictures: Pictures, pairs: Sequence[AlikePair]) -> Iterator[Finding]:
    """Per data set and language: evaluated images that are, or are alike to, a training image."""
    sides: dict[tuple[str, str, Split], set[int]] = defaultdict(set)
    for place, picture in enumerate(pictures.seen):
        for split, language in picture.rows:
            sides[picture.dataset, language, split].add(place)
    neighbours: dict[int, list[tuple[int, AlikePair]]] = defaultdict(list)
    for pair in pairs:
        if pictures.seen[pair.first].dataset == pictures.seen[pair.second].dataset:
            neighbours[pair.first].append((pair.second, pair))
            neighbours[pair.second].append((pair.first, pair))
    for (dataset, language, split), evaluated in sorted(sides.items()):
        trained = sides.get((dataset, language, "train"), set())
        if split == "train" or not trained:
            continue
        best: dict[int, tuple[int, AlikePair]] = {}
        for place in evaluated:
            itself = [(place, AlikePair(first=place, second=place, correlation=1.0))]
            near = [found for found in [*itself, *neighbours[place]] if found[0] in trained]
            if near:
                best[place] = max(near, key=lambda found: found[1].correlation)
        if best:
            rows = sum(pictures.seen[place].rows[split, language] for place in best)
            yield Finding(
                check="image_seen_in_training",
                severity="leak",
                dataset=dataset,
                title=f"{split} images ({language}) that are equal or nearly the same as a training image",
                count=len(best),
                unit="images",
                advice="report scores with and without them (evaluate.seen_pictures: drop takes them out of training)",
                evidence=tuple(
                    _pair_evidence(pictures, pair)
                    for _, pair in sorted(best.values(), key=lambda found: -found[1].correlation)
                ),
                facts={
                    f"above {VERY_ALIKE}": sum(pair.correlation > VERY_ALIKE for _, pair in best.values()),
                    f"{split} images in all": len(evaluated),
                    f"{split} rows on them": rows,
                },
            )


def _by_dataset(items: Sequence[T], dataset_of: Callable[[T], str]) -> dict[str, list[T]]:
    found: dict[str, list[T]] = defaultdict(list)
    for item in items:
        found[dataset_of(item)].append(item)
    return found


def _group(pictures: Pictures, place: int) -> str:
    return pictures.seen[place].group_id


def _common_splits(pictures: Pictures, pair: AlikePair) -> set[Split]:
    first, second = ({split for split, _ in pictures.seen[place].rows} for place in (pair.first, pair.second))
    return first & second


def _rows(pictures: Pictures, places: set[int]) -> int:
    return sum(pictures.seen[place].rows.total() for place in places)


def _above(pairs: Sequence[AlikePair]) -> dict[str, int]:
    return {f"pairs above {VERY_ALIKE}": sum(pair.correlation > VERY_ALIKE for pair in pairs)}


def _nearest_first(pairs: Sequence[AlikePair]) -> list[AlikePair]:
    return sorted(pairs, key=lambda pair: -pair.correlation)


def _pair_evidence(pictures: Pictures, pair: AlikePair) -> Evidence:
    first, second = pictures.seen[pair.first], pictures.seen[pair.second]
    places = "; ".join(f"{one.dataset} {one.image_id}: {_places(one)}" for one in (first, second))
    return Evidence(
        subjects=(first.image_id, second.image_id),
        detail=f"correlation {pair.correlation:.3f}; {places}",
        pictures=(first.path, second.path),
    )


def _places(picture: Picture) -> str:
    return ", ".join(
        f"{number_of_rows(number)} in {split} ({language})"
        for (split, language), number in sorted(picture.rows.items())
    )
