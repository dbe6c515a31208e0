"""Which samples a stage trains on and which it looks at: by tags of its sources, and by groups that are held out."""

import math
from collections.abc import Sequence
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from radvqa.errors import DataError
from radvqa.models.rows import SampleRows
from radvqa.models.vlm import Vlm
from radvqa.pipeline.samples import Samples
from radvqa.recipe import Recipe, Source, Stage
from radvqa.records import RecordFile, write_json
from radvqa.sample import VqaSample


def stage_rows(
    recipe: Recipe, vlm: Vlm, stage: Stage, samples: Samples, *, folder: Path | None
) -> tuple[dict[str, SampleRows], list[VqaSample]]:
    """The rows of each source of a stage, and the samples that are looked at while it trains.

    How many samples were left out of each source and why is written to ``selection.json`` in ``folder``.

    Raises:
        DataError: a source has no samples left, or there is nothing to look at.
    """
    pools: dict[str, tuple[str, ...]] = {name: (name,) for name in stage.mixture}
    if not pools:
        pools = {" + ".join(stage.datasets): stage.datasets}
    held_out = held_out_groups(recipe, samples)
    rows, apart, selection = {}, [], {}
    for name, members in pools.items():
        files = [samples[one, "train"] for one in members]
        fits = _fitting(files, stage.mixture.get(name, Source()))
        out = _of_groups(files, held_out)
        kept = np.flatnonzero(fits & ~out)
        selection[name] = {
            "samples": len(fits),
            "kept": len(kept),
            "held_out": int((fits & out).sum()),
            "without_wanted_tags": int((~fits).sum()),
        }
        if not len(kept):
            raise DataError(
                "no sample is left to train on",
                where=f"stage {stage.name}, source {name}",
                got=", ".join(f"{count} {reason}" for reason, count in selection[name].items()),
                fix="widen only and at_least of this source, or lower watch.held_out",
            )
        rows[name] = SampleRows(vlm, files, kept=kept)
        apart.append([_at(files, int(place)) for place in np.flatnonzero(fits & out)])
    if folder is not None:
        write_json(folder / "selection.json", selection)
    return rows, _watched(recipe, stage, samples, apart)


def _watched(recipe: Recipe, stage: Stage, samples: Samples, apart: Sequence[Sequence[VqaSample]]) -> list[VqaSample]:
    if stage.watch is None:
        return []
    place = recipe.watched_split(stage.watch)
    chosen = first_images(_in_turns(apart) if place is None else samples[place], stage.watch.images)
    if not chosen:
        raise DataError(
            "there is nothing to look at during training",
            where=f"stage {stage.name}, watch",
            expected="at least one held-out sample that fits the sources",
            got="none",
            fix="raise watch.held_out, widen only and at_least of the sources, or name a split to look at",
        )
    return chosen


def held_out_groups(recipe: Recipe, samples: Samples) -> frozenset[str]:
    """Groups that no stage trains on: the largest share that any stage holds out of all training groups together.

    Drawn once for the run, so that a group is out everywhere, whatever data sets and stages it occurs in.
    """
    share = max((stage.watch.held_out for stage in recipe.stages if stage.watch is not None), default=0.0)
    if not share:
        return frozenset()
    groups = sorted({group for name in recipe.trained_on for group in samples[name, "train"].column("group_id")[0]})
    chosen = np.random.default_rng((recipe.seed, 77)).permutation(len(groups))[: math.ceil(share * len(groups))]
    return frozenset(groups[index] for index in chosen)


def first_images(samples: Sequence[VqaSample], limit: int | None) -> list[VqaSample]:
    """The samples of the first images, all of them without a limit."""
    kept = set(list(dict.fromkeys(sample.image_id for sample in samples))[:limit])
    return [sample for sample in samples if sample.image_id in kept]


def _in_turns(sources: Sequence[Sequence[VqaSample]]) -> list[VqaSample]:
    """The samples of all sources, an image of each in turn, so that the first images are of all of them."""
    by_image: list[list[list[VqaSample]]] = []
    for some in sources:
        images: dict[str, list[VqaSample]] = {}
        for sample in some:
            images.setdefault(sample.image_id, []).append(sample)
        by_image.append(list(images.values()))
    return [sample for turn in zip_longest(*by_image, fillvalue=[]) for sample in chain.from_iterable(turn)]


def _at(files: Sequence[RecordFile[VqaSample]], place: int) -> VqaSample:
    for file in files:
        if place < len(file):
            return file[place]
        place -= len(file)
    raise IndexError(place)


def _fitting(files: Sequence[RecordFile[VqaSample]], source: Source) -> Bool[np.ndarray, " n"]:
    """Which samples have the tags that a source demands."""
    wanted = [*source.only, *source.at_least]
    if not wanted:
        return np.ones(sum(len(file) for file in files), dtype=bool)
    return np.array([source.fits(tags) for file in files for tags in file.texts_in("tags", wanted)], dtype=bool)


def _of_groups(files: Sequence[RecordFile[VqaSample]], groups: frozenset[str]) -> Bool[np.ndarray, " n"]:
    """Which samples belong to these groups."""
    if not groups:
        return np.zeros(sum(len(file) for file in files), dtype=bool)
    columns = [file.column("group_id") for file in files]
    parts = [np.array([name in groups for name in names], dtype=bool)[which] for names, which in columns]
    return np.concatenate(parts)
