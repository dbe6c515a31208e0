"""The main path of a run, top to bottom: read data, train stages, predict, score, explain, report.

Every step reads and writes files in the run folder and is skipped when its done mark is there, so a run that was
stopped at any point goes on there when it is started again.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from platformdirs import user_cache_path

from radvqa.data import DatasetAdapter, open_entry
from radvqa.data.adapter import Reading
from radvqa.data.image_store import ImageStore
from radvqa.data.seen import seen_pictures
from radvqa.data.splits import RegroupedDataset, splits_digest
from radvqa.errors import DataError, RunError
from radvqa.evaluate.floors import majority, question_only
from radvqa.evaluate.metrics import exact_match
from radvqa.evaluate.predict import Condition, predict
from radvqa.evaluate.scorable import without_unscorable
from radvqa.evaluate.summary import compare_conditions, summarise
from radvqa.explain.cases import Case, choose, explain_sample
from radvqa.models.layout import PROMPT_ID
from radvqa.models.opening import open_vlm
from radvqa.models.vlm import Vlm
from radvqa.recipe import Recipe, Stage
from radvqa.records import read_records, unwritable, write_json, write_records
from radvqa.report.page import write_report
from radvqa.run.engine import LocalEngine
from radvqa.run.folder import RunFolder
from radvqa.run.progress import Progress
from radvqa.run.provenance import collect_provenance, digest_files, process_start
from radvqa.sample import Prediction, Reject, Split, VqaSample
from radvqa.train.stages import load_weights, run_stage

Until = Literal["train", "evaluate", "explain", "report"]

WATCHED_IMAGES = 16


def run(recipe: Recipe, *, command: str, until: str = "report", progress: Progress) -> RunFolder:
    """Do the whole recipe, or go on where an earlier start of the same recipe stopped, and return its folder.

    Args:
        recipe: what to do.
        command: as typed, kept in the folder.
        until: last step: ``train``, ``evaluate``, ``explain`` or ``report``.
        progress: told what goes on.

    Raises:
        RadvqaError: see the steps; everything finished before stays and is used by the next start.
    """
    folder = RunFolder.create(recipe, command=command)
    vlm = train(folder, progress=progress)
    if until == "train":
        return folder
    if not folder.is_done("evaluate", {}):
        evaluate(folder, vlm=vlm, progress=progress)
    if until == "evaluate":
        return folder
    if not folder.is_done("explain", _explained_from(folder)):
        explain(folder, vlm=vlm, progress=progress)
    if until != "explain":
        report(folder, progress=progress)
    return folder


def train(folder: RunFolder, *, progress: Progress) -> Vlm:
    """Train every stage that is not done yet, and return the adapted model."""
    folder.lock()
    recipe = folder.recipe
    last_to_do = max((i for i, stage in enumerate(recipe.stages) if not _is_trained(folder, stage)), default=-1)
    if last_to_do >= 0:
        folder.require_same_version()
    process_start()
    samples = read_samples(folder, progress=progress)
    vlm = open_vlm(recipe.model, say=progress.say)
    if last_to_do >= 0:
        _write_provenance(folder, vlm, progress=progress)
    folder_of = {stage.name: folder.file(f"train/{stage.name}") for stage in recipe.stages}
    for index, stage in enumerate(recipe.stages):
        # A learned projector is part of what the next stage starts from, even when that stage is done as well.
        if _is_trained(folder, stage):
            load_weights(vlm, stage, folder_of[stage.name], seed=recipe.seed + index)
            continue
        if index <= last_to_do:
            rows = vlm.rows([one for name in stage.datasets for one in samples[name, "train"]], answers=True)
            watched = _first_images(samples[recipe.evaluate.dataset, recipe.evaluate.split], WATCHED_IMAGES)
            shown = [row.image for row in rows] + [one.image for one in watched]
            store = _pictures(recipe, vlm, shown, progress=progress)
            run_stage(
                vlm,
                stage,
                rows,
                store,
                folder=folder_of[stage.name],
                seed=recipe.seed + index,
                progress=progress,
                watch=partial(_look, vlm, watched, store, recipe),
            )
            folder.mark_done(f"train/{stage.name}", {})
            shutil.rmtree(folder_of[stage.name] / "state", ignore_errors=True)
    _publish_weights(folder, vlm, folder_of[recipe.stages[-1].name])
    return vlm


def evaluate(folder: RunFolder, *, vlm: Vlm | None = None, progress: Progress) -> None:
    """Answer the evaluation split under every condition, add the floors, and write ``summary.json``.

    Attention maps of other answers than these are taken out of the run. ``vlm`` is what ``train``
    returned; without it, it is asked for.
    """
    folder.lock()
    recipe = folder.recipe
    settings = recipe.evaluate
    samples = read_samples(folder, progress=progress)
    asked = _first_images(samples[settings.dataset, settings.split], settings.limit)
    seen_in_training = [one for stage in recipe.stages for name in stage.datasets for one in samples[name, "train"]]
    own = samples.get((settings.dataset, "train"), [])
    vlm = vlm or train(folder, progress=progress)
    store = _pictures(recipe, vlm, [one.image for one in asked], progress=progress)
    _write_provenance(folder, vlm, progress=progress)
    # If this is stopped half-way, the mark of an earlier evaluation must not vouch for a mixture of both.
    folder.forget("evaluate")
    conditions: tuple[Condition, ...] = ("model", *settings.controls)
    predictions: dict[str, list[Prediction]] = {}
    for condition in conditions:
        with progress.track(f"answers, {condition} images", len(asked), unit="questions") as tick:
            predictions[condition] = predict(
                vlm,
                asked,
                store,
                condition=condition,
                max_new_tokens=settings.max_new_tokens,
                batch_size=settings.batch_size,
                seed=recipe.seed,
                done=tick,
            )
        write_records(_prediction_file(folder, condition), predictions[condition])
    floor_source = own or seen_in_training
    for name, floor in (("majority", majority), ("question_only", question_only)):
        predictions[name] = floor(floor_source, asked)
        write_records(_prediction_file(folder, name), predictions[name])
    write_json(
        folder.file("summary.json"),
        {
            "dataset": settings.dataset,
            "split": settings.split,
            "limit": settings.limit,
            "layout": vlm.layout,
            "prompt_id": PROMPT_ID,
            "condition": "model",
            "conditions": {name: summarise(found, slices=settings.slices) for name, found in predictions.items()},
            "comparisons": compare_conditions(predictions, reference="model"),
        },
    )
    folder.mark_done("evaluate", {})
    if not folder.is_done("explain", _explained_from(folder)):
        folder.forget("explain")
        _remove(folder.file("explain/index.json"))


def explain(folder: RunFolder, *, sample_ids: Sequence[str] = (), vlm: Vlm | None = None, progress: Progress) -> None:
    """Draw the attention maps of chosen samples and list them in ``explain/index.json``.

    ``vlm`` is what ``train`` returned; without it, it is asked for.

    Raises:
        RunError: the run was not evaluated yet.
        DataError: a sample id is not in the evaluated split.
    """
    folder.lock()
    recipe = folder.recipe
    settings = recipe.explain
    predictions = {one.sample_id: one for one in read_predictions(folder)}
    chosen = list(sample_ids or settings.sample_ids) or choose(list(predictions.values()), settings.samples)
    if unknown := [one for one in chosen if one not in predictions]:
        raise DataError(
            f"no evaluated sample is called {unknown[0]!r}",
            where=str(_prediction_file(folder, "model")),
            fix="take a sample_id of that file",
        )
    folder.forget("explain")
    asked = [predictions[one] for one in chosen]
    cases = _draw_cases(folder, vlm or train(folder, progress=progress), asked, progress=progress) if asked else []
    write_json(folder.file("explain/index.json"), [asdict(case) for case in cases])
    folder.mark_done("explain", _explained_from(folder))


def report(folder: RunFolder, *, progress: Progress) -> Path:
    """Write ``report.html`` from the files of the run folder."""
    folder.lock()
    page = write_report(folder.path)
    progress.say(f"report: {page}")
    return page


def require_trained(folder: RunFolder) -> None:
    """Refuse a run with stages left to train, which would take hours where minutes were expected.

    Raises:
        RunError: names the first of them.
    """
    for stage in folder.recipe.stages:
        if not _is_trained(folder, stage):
            raise RunError(
                "this run is not trained yet",
                where=str(folder.path),
                expected="every stage of its recipe",
                got=f"stage {stage.name} is not finished",
                fix=f"radvqa train {folder.path}",
            )


def read_samples(folder: RunFolder, *, progress: Progress) -> dict[tuple[str, Split], list[VqaSample]]:
    """Every split the recipe needs, by data set and split; samples and rejects are written into the run once.

    Raises:
        DataError: data are missing or malformed, a split has no usable sample, or evaluation groups are trained on.
        RunError: the data are not those that the run has read before.
    """
    recipe = folder.recipe
    evaluated = (recipe.evaluate.dataset, recipe.evaluate.split)
    trained: dict[tuple[str, Split], None] = {
        (name, "train"): None for stage in recipe.stages for name in stage.datasets
    }
    if evaluated in trained:
        raise DataError(
            "the evaluated split is trained on",
            where=f"{evaluated[0]}, {evaluated[1]}",
            expected="a split that no stage trains on",
            got="the train split of a data set under stages",
            fix="set evaluate.split to val or test",
        )
    needed = {**trained, evaluated: None}
    files = {key: folder.file(f"samples/{key[0]}-{key[1]}.jsonl") for key in needed}
    adapters = _adapters(recipe)
    sources = _source_digests(adapters)
    if folder.is_done("samples", sources):
        return {key: read_records(path, VqaSample) for key, path in files.items()}
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
    samples = {key: list(reading.samples) for key, reading in readings.items()}
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
    return {key: list(reading.samples) for key, reading in readings.items()}


def read_predictions(folder: RunFolder, condition: str = "model") -> list[Prediction]:
    """The predictions of one condition. Raises ``RunError`` when the run was not evaluated yet."""
    path = _prediction_file(folder, condition)
    if not path.is_file():
        raise RunError("this run has no predictions yet", where=str(path), fix=f"radvqa evaluate {folder.path}")
    return read_records(path, Prediction)


def _prediction_file(folder: RunFolder, condition: str) -> Path:
    split = folder.recipe.evaluate.split
    return folder.file(
        f"predictions/{split}.jsonl" if condition == "model" else f"predictions/{split}_{condition}.jsonl"
    )


def _adapters(recipe: Recipe) -> dict[str, DatasetAdapter]:
    used = {recipe.evaluate.dataset, *(name for stage in recipe.stages for name in stage.datasets)}
    return {name: open_entry(entry, name=name) for name, entry in recipe.datasets.items() if name in used}


def _draw_cases(folder: RunFolder, vlm: Vlm, asked: Sequence[Prediction], *, progress: Progress) -> list[Case]:
    recipe = folder.recipe
    samples = read_samples(folder, progress=progress)[recipe.evaluate.dataset, recipe.evaluate.split]
    by_id = {sample.sample_id: sample for sample in samples}
    adapter = _adapters(recipe)[recipe.evaluate.dataset]
    store = _pictures(recipe, vlm, [by_id[one.sample_id].image for one in asked], progress=progress)
    cases = []
    with progress.track("attention maps", len(asked), unit="samples") as tick:
        for prediction in asked:
            sample = by_id[prediction.sample_id]
            tick(1)
            if not prediction.text:
                progress.say(f"  {prediction.sample_id}: the answer is empty, there is no token to explain")
                continue
            cases.append(
                explain_sample(
                    vlm,
                    sample,
                    prediction,
                    store,
                    alpha=recipe.explain.alpha,
                    regions=adapter.regions(sample.image_id),
                    folder=folder.file("explain"),
                )
            )
    return cases


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


def _explained_from(folder: RunFolder) -> dict[str, str]:
    """What attention maps are drawn for: the answers. Empty before there are any."""
    predictions = _prediction_file(folder, "model")
    return {"predictions": next(iter(digest_files([predictions]).values()))} if predictions.is_file() else {}


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error


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


def _require_disjoint(samples: Mapping[tuple[str, Split], list[VqaSample]], evaluated: tuple[str, Split]) -> None:
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


def _first_images(samples: Sequence[VqaSample], limit: int | None) -> list[VqaSample]:
    kept = set(list(dict.fromkeys(sample.image_id for sample in samples))[:limit])
    return [sample for sample in samples if sample.image_id in kept]


def _pictures(recipe: Recipe, vlm: Vlm, paths: Sequence[Path], *, progress: Progress) -> ImageStore:
    cache = user_cache_path("radvqa") / "pictures"
    distinct = list(dict.fromkeys(paths))
    with progress.track("decoding images", len(distinct), unit="images") as tick:
        told = 0

        def seen(done: int, _total: int) -> None:
            nonlocal told
            tick(done - told)
            told = done

        aspect = recipe.model.aspect
        return ImageStore.build(distinct, size=vlm.image_size, aspect=aspect, cache=cache, progress=seen)


def _is_trained(folder: RunFolder, stage: Stage) -> bool:
    return folder.is_done(f"train/{stage.name}", {})


def _look(
    vlm: Vlm, samples: Sequence[VqaSample], store: ImageStore, recipe: Recipe, update: int
) -> list[Mapping[str, Any]]:
    lines: list[Mapping[str, Any]] = []
    looks: tuple[tuple[Condition, str], ...] = (("model", "real"), ("blank", "blank"))
    for condition, name in looks:
        found = predict(
            vlm,
            samples,
            store,
            condition=condition,
            max_new_tokens=recipe.evaluate.max_new_tokens,
            batch_size=recipe.evaluate.batch_size,
            seed=recipe.seed,
        )
        scores: dict[str, list[float]] = {}
        for prediction in found:
            scores.setdefault(prediction.tags.get("content_type", "all"), []).append(exact_match(prediction))
        every = [score for some in scores.values() for score in some]
        lines.append(
            {
                "update": update,
                "condition": name,
                "overall": sum(every) / len(every),
                "content_type": {name: sum(some) / len(some) for name, some in sorted(scores.items())},
                "questions": len(every),
            }
        )
    return lines


def _write_provenance(folder: RunFolder, vlm: Vlm, *, progress: Progress) -> None:
    """Write ``provenance.json`` for this process; what earlier ones were stays in it under ``earlier_starts``."""
    recipe, path = folder.recipe, folder.file("provenance.json")
    sources = [path for adapter in _adapters(recipe).values() for path in adapter.sources() if path.is_file()]
    extra = {
        "checkpoint": vlm.name,
        "weights": vlm.digest,
        "device": str(vlm.device),
        "compute_dtype": str(vlm.compute_dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "seed": recipe.seed,
        "layout": vlm.layout,
    }
    now = collect_provenance(files=sources, extra=extra)
    before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    starts = list(before.get("earlier_starts", []))
    if before and any(before.get(name) != value for name, value in process_start().items()):
        starts.append({name: before.get(name) for name in process_start()})
        if before.get("git") != now["git"]:
            progress.say("note: the code of radvqa is not that of the start before; provenance.json tells both")
    write_json(path, {**now, "earlier_starts": starts})


def _publish_weights(folder: RunFolder, vlm: Vlm, last_stage: Path) -> None:
    """Copy the last stage's adapter to ``adapter/``, with the processor beside it."""
    adapter = folder.file("adapter")
    if adapter.is_dir() or not (last_stage / "adapter").is_dir():
        return
    unfinished = adapter.with_name(".adapter.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir()
        for file in (last_stage / "adapter").iterdir():
            shutil.copyfile(file, unfinished / file.name)
        vlm.tokenizer.save_pretrained(unfinished)
        unfinished.rename(adapter)
    except OSError as error:
        raise unwritable(adapter, error) from error
