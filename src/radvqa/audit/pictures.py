"""Findings about pictures: unreadable, tiny or even ones, and the same or nearly the same picture in two places."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    same = _same(pictures)
    yield from _pair_findings(pictures, same.equal, kind="equal")
    yield from _pair_findings(pictures, same.alike, kind="alike")
    yield from _seen_in_training(pictures, same)


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
            evidence=tuple(
                Evidence(subjects=(one.image_id,), detail="one colour", where=str(one.path)) for one in found
            ),
        )


@dataclass(frozen=True, slots=True)
class _Same:
    """Pictures with equal pixels form a class; alike classes are paired.

    ``members`` holds the places of each class, ``near`` the alike classes of each with the correlation. ``equal`` and
    ``alike`` are pairs of places that show them: of members of one class, and of alike classes.
    """

    class_of: list[int]
    members: list[list[int]]
    near: dict[int, dict[int, float]]
    equal: list[AlikePair]
    alike: list[AlikePair]


def _same(pictures: Pictures) -> _Same:
    numbers: dict[str, int] = {}
    class_of = [numbers.setdefault(one.pixels_sha256, len(numbers)) for one in pictures.seen]
    members: list[list[int]] = [[] for _ in numbers]
    for place, number in enumerate(class_of):
        members[number].append(place)
    first = [places[0] for places in members]
    near: dict[int, dict[int, float]] = defaultdict(dict)
    # As a whole, or in the largest bright part, which finds the same picture with another crop.
    for thumbnails in (pictures.whole, pictures.body):
        for pair in alike_pairs(thumbnails[first]):
            correlation = max(pair.correlation, near[pair.first].get(pair.second, 0.0))
            near[pair.first][pair.second] = near[pair.second][pair.first] = correlation
    return _Same(
        class_of=class_of,
        members=members,
        near=near,
        equal=[pair for places in members for pair in _matched(pictures, places, places, correlation=1.0)],
        alike=[
            pair
            for one in sorted(near)
            for other, correlation in sorted(near[one].items())
            if one < other
            for pair in _matched(pictures, members[one], members[other], correlation=correlation)
        ],
    )


def _matched(
    pictures: Pictures, ones: Sequence[int], others: Sequence[int], *, correlation: float
) -> Iterator[AlikePair]:
    """Pairs in which every place of either side occurs, for every two data sets that have some: not all of them."""
    if len(ones) == 1 == len(others):
        if ones[0] != others[0]:
            yield AlikePair(first=min(*ones, *others), second=max(*ones, *others), correlation=correlation)
        return
    by_dataset = [_by_dataset(side, lambda place: pictures.seen[place].dataset) for side in (ones, others)]
    found: set[tuple[int, int]] = set()
    for left in by_dataset[0].values():
        for right in by_dataset[1].values():
            for step in range(max(len(left), len(right))):
                # One further on in the same list, so that nothing is matched with itself.
                one, other = left[step % len(left)], right[(step + (left == right)) % len(right)]
                found.add((min(one, other), max(one, other)))
    for one, other in sorted(found):
        if one != other:
            yield AlikePair(first=one, second=other, correlation=correlation)


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
                severity="layout" if kind == "equal" else "cosmetic",
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


def _seen_in_training(pictures: Pictures, same: _Same) -> Iterator[Finding]:
    """Per data set and language: evaluated images that are, or are alike to, a training image."""
    sides: dict[tuple[str, str, Split], list[int]] = defaultdict(list)
    for place, picture in enumerate(pictures.seen):
        for split, language in picture.rows:
            sides[picture.dataset, language, split].append(place)
    for (dataset, language, split), evaluated in sorted(sides.items()):
        trained: dict[int, int] = {}
        for place in sides.get((dataset, language, "train"), []):
            trained.setdefault(same.class_of[place], place)
        if split == "train" or not trained:
            continue
        best = [pair for place in evaluated if (pair := _nearest(same, place, trained)) is not None]
        if best:
            seen = {pair.second for pair in best}
            yield Finding(
                check="image_seen_in_training",
                severity="leak",
                dataset=dataset,
                title=f"{split} images ({language}) that are equal or nearly the same as a training image",
                count=len(best),
                unit="images",
                advice="report scores with and without them (evaluate.seen_pictures: drop takes them out of training)",
                evidence=tuple(_pair_evidence(pictures, pair) for pair in _nearest_first(best)),
                facts={
                    f"above {VERY_ALIKE}": sum(pair.correlation > VERY_ALIKE for pair in best),
                    f"{split} images in all": len(evaluated),
                    f"{split} rows on them": sum(pictures.seen[place].rows[split, language] for place in seen),
                },
            )


def _nearest(same: _Same, place: int, trained: Mapping[int, int]) -> AlikePair | None:
    """The training picture that is most like the evaluated one, as first of a pair; None if none is alike."""
    own = same.class_of[place]
    if own in trained:
        return AlikePair(first=trained[own], second=place, correlation=1.0)
    near = [(correlation, trained[other]) for other, correlation in same.near[own].items() if other in trained]
    if not near:
        return None
    correlation, first = max(near, key=lambda found: (found[0], -found[1]))
    return AlikePair(first=first, second=place, correlation=correlation)


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
