"""The samples of a run: read once from the data sets, checked for leaks, kept in the run folder."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from radvqa.data import DatasetAdapter, open_entry
from radvqa.data.adapter import Reading
from radvqa.data.seen import seen_pictures
from radvqa.data.splits import RegroupedDataset, splits_digest
from radvqa.errors import DataError, RunError
from radvqa.evaluate.scorable import without_unscorable
from radvqa.recipe import Recipe
from radvqa.records import RecordFile, write_json, write_records
from radvqa.run.engine import LocalEngine
from radvqa.run.folder import RunFolder
from radvqa.run.progress import Progress
from radvqa.run.provenance import digest_files
from radvqa.sample import Reject, Split, VqaSample

Samples = dict[tuple[str, Split], RecordFile[VqaSample]]
"""The records of every split that a run needs, by data set and split."""


def read_samples(folder: RunFolder, *, progress: Progress) -> Samples:
    """Every split the recipe needs, by data set and split; samples and rejects are written into the run once.

    Raises:
        DataError: data are missing or malformed, a split has no usable sample, or evaluation groups are trained on.
        RunError: the data are not those that the run has read before.
    """
    recipe = folder.recipe
    evaluated = recipe.evaluated
    trained: dict[tuple[str, Split], None] = {(name, "train"): None for name in recipe.trained_on}
    if evaluated in trained:
        raise DataError(
            "the evaluated split is trained on",
            where=f"{evaluated[0]}, {evaluated[1]}",
            expected="a split that no stage trains on",
            got="the train split of a data set under stages",
            fix="set evaluate.split to val or test",
        )
    needed = {**trained, **dict.fromkeys(recipe.watched), evaluated: None}
    files = {key: folder.file(f"samples/{key[0]}-{key[1]}.jsonl") for key in needed}
    adapters = adapters_of(recipe)
    sources = _source_digests(adapters)
    if folder.is_done("samples", sources):
        return {key: RecordFile(path, VqaSample) for key, path in files.items()}
    _require_unchanged(folder, sources)
    readings: dict[tuple[str, Split], Reading] = {}
    for name, split in needed:
        progress.say(f"data: reading {name}, {split}")
        reading = without_unscorable(adapters[name].read(split), where=f"{name}, {split}")
        progress.say(f"  {_told(_counts(reading))}")
        # Before anything is refused, so that the user finds the rows.
        write_records(folder.file(f"samples/{name}-{split}.rejects.jsonl"), reading.rejects)
        reading.require_sound(name, split, most_malformed=recipe.most_malformed)
        readings[name, split] = reading
    samples = {key: reading.samples for key, reading in readings.items()}
    if recipe.evaluate.seen_pictures != "drop":
        _require_disjoint(samples, evaluated)
    if recipe.evaluate.seen_pictures != "allow":
        readings = _without_seen(readings, evaluated, drop=recipe.evaluate.seen_pictures == "drop", progress=progress)
    for (name, split), reading in readings.items():
        write_records(files[name, split], reading.samples)
        write_records(folder.file(f"samples/{name}-{split}.rejects.jsonl"), reading.rejects)
        write_records(folder.file(f"samples/{name}-{split}.defects.jsonl"), reading.defects)
    write_json(
        folder.file("samples/splits.json"),
        {
            name: {"sha256": splits_digest(adapter.split_of_group), "split_of_group": adapter.split_of_group}
            for name, adapter in adapters.items()
            if isinstance(adapter, RegroupedDataset)
        },
    )
    index = {f"{name}-{split}": _counts(reading) for (name, split), reading in readings.items()}
    write_json(folder.file("samples/index.json"), index)
    folder.mark_done("samples", sources)
    return {key: RecordFile(path, VqaSample) for key, path in files.items()}


def adapters_of(recipe: Recipe) -> dict[str, DatasetAdapter]:
    """The data sets that the run uses, by name."""
    used = {recipe.evaluate.dataset, *recipe.trained_on, *(name for name, _ in recipe.watched)}
    return {name: open_entry(entry, name=name) for name, entry in recipe.datasets.items() if name in used}


def _source_digests(adapters: Mapping[str, DatasetAdapter]) -> dict[str, str]:
    """SHA-256 of every table, by data set and place below the folder that all of its tables share: it may move."""
    found: dict[str, str] = {}
    for name, adapter in adapters.items():
        tables = adapter.sources()
        top = Path(os.path.commonpath([table.absolute().parent for table in tables])) if tables else Path()
        for path, digest in digest_files(tables).items():
            found[f"{name}/{Path(path).absolute().relative_to(top).as_posix()}"] = digest
    return found


def _require_unchanged(folder: RunFolder, sources: Mapping[str, str]) -> None:
    """Refuse data that are not those which the run has read; a run that knows none yet takes any."""
    before = folder.inputs_of("samples")
    for name in sorted({*before, *sources} if before else ()):
        if sources.get(name) != before.get(name):
            raise RunError(
                "a data file has changed since this run read it",
                where=name,
                expected=f"sha256 {before[name]}" if name in before else "no such file",
                got=f"sha256 {sources[name]}" if name in sources else "no such file",
                fix="put the files back as they were, or start a run of its own for the new data with --set output=DIR",
            )


def _counts(reading: Reading) -> dict[str, Any]:
    return {
        "samples": len(reading.samples),
        "images": len({sample.image_id for sample in reading.samples}),
        "groups": len({sample.group_id for sample in reading.samples}),
        "rejects": reading.reasons(),
        "defects": dict(Counter(defect.reason for defect in reading.defects)),
    }


def _told(counts: Mapping[str, Any]) -> str:
    rejects = ", ".join(f"{count} {reason}" for reason, count in counts["rejects"].items()) or "none"
    return f"{counts['samples']:,} questions on {counts['images']:,} images; left out: {rejects}"


def _require_disjoint(samples: Mapping[tuple[str, Split], Sequence[VqaSample]], evaluated: tuple[str, Split]) -> None:
    groups = {one.group_id for one in samples[evaluated]}
    for key, some in samples.items():
        if key != evaluated and (shared := groups & {one.group_id for one in some}):
            raise DataError(
                "the evaluated split shares groups with a training split",
                where=f"{evaluated[0]}, {evaluated[1]} and {key[0]}, {key[1]}",
                expected="no patient, case or image in both",
                got=f"{len(shared)} shared, e.g. {min(shared)}",
                fix="evaluate another split, or set evaluate.seen_pictures to drop to leave them out of training",
            )


def _without_seen(
    readings: Mapping[tuple[str, Split], Reading], evaluated: tuple[str, Split], *, drop: bool, progress: Progress
) -> dict[tuple[str, Split], Reading]:
    """The readings, without training groups that are evaluated, or of which a picture is; those become rejects.

    Raises:
        DataError: there are such pictures and ``drop`` is False, or nothing is left to train on.
    """
    asked = readings[evaluated].samples
    result = dict(readings)
    for key, reading in readings.items():
        if key == evaluated:
            continue
        images = len({sample.image for sample in (*reading.samples, *asked)})
        with progress.track(f"comparing images of {key[0]}", images, unit="images") as tick:
            seen = seen_pictures(reading.samples, asked, LocalEngine(), done=tick)
        if seen and not drop:
            raise DataError(
                f"{len(seen)} training images are evaluated ones",
                where=f"{evaluated[0]}, {evaluated[1]} and {key[0]}, {key[1]}",
                expected="no evaluated picture in training, as evaluate.seen_pictures: refuse demands",
                got="; ".join(f"{one.trained.image_id} and {one.evaluated.image_id}: {one.how}" for one in seen[:5]),
                fix="set evaluate.seen_pictures to drop to leave them out of training, or train on other data",
            )
        shown = {one.trained.image: f"{one.trained.image_id} is evaluated: {one.how}" for one in seen}
        how = {one.group_id: "the group is evaluated" for one in asked}
        # One picture may stand under several groups, and each of them goes.
        how |= {sample.group_id: shown[sample.image] for sample in reading.samples if sample.image in shown}
        kept = tuple(sample for sample in reading.samples if sample.group_id not in how)
        dropped = tuple(
            Reject(
                sample_id=sample.sample_id,
                reason="seen_in_evaluation",
                where=f"{key[0]}, {key[1]}",
                detail=how[sample.group_id],
            )
            for sample in reading.samples
            if sample.group_id in how
        )
        progress.say(f"  {len(dropped):,} questions left out of {key[0]}, {key[1]}: their images are evaluated")
        result[key] = replace(reading, samples=kept, rejects=(*reading.rejects, *dropped))
        result[key].require_sound(*key, most_malformed=1.0)
    return result
