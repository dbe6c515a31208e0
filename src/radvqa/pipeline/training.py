"""Training the stages of a run, in this process or together with others, and what a stage is given for it."""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from platformdirs import user_cache_path

from radvqa.data.image_store import ImageStore
from radvqa.errors import RunError
from radvqa.evaluate.metrics import exact_match
from radvqa.evaluate.predict import Condition, predict
from radvqa.models.opening import open_vlm
from radvqa.models.vlm import Vlm
from radvqa.pipeline.samples import Samples, adapters_of, read_samples
from radvqa.pipeline.selection import stage_rows
from radvqa.publish.manifest import kind_of_run
from radvqa.publish.repository import write_adapter_repository
from radvqa.recipe import Recipe, Stage
from radvqa.records import write_json
from radvqa.run.folder import RunFolder
from radvqa.run.progress import Progress
from radvqa.run.provenance import collect_provenance, process_start
from radvqa.sample import VqaSample
from radvqa.train.parallel import Processes
from radvqa.train.stages import Features, run_stage
from radvqa.train.weights import load_weights

T = TypeVar("T")


def train(folder: RunFolder, *, progress: Progress, processes: Processes | None = None) -> Vlm:
    """Train every stage that is not done yet, and return the adapted model.

    Started by torchrun or ``accelerate launch``, all processes train together; the leader alone writes.
    """
    processes = processes or Processes.join()
    if processes.leads:
        folder.lock()
    else:
        progress = Progress(quiet=True)
    recipe = folder.recipe
    last_to_do = max((i for i, stage in enumerate(recipe.stages) if not is_trained(folder, stage)), default=-1)
    if last_to_do >= 0:
        folder.require_same_version()
    process_start()
    samples = _leader_first(processes, partial(read_samples, folder, progress=progress))
    vlm = _leader_first(processes, partial(open_vlm, recipe.model, say=progress.say))
    if last_to_do >= 0 and processes.leads:
        write_provenance(folder, vlm, progress=progress)
    folder_of = {stage.name: folder.file(f"train/{stage.name}") for stage in recipe.stages}
    for index, stage in enumerate(recipe.stages):
        # A learned projector is part of what the next stage starts from, even when that stage is done as well.
        if is_trained(folder, stage):
            load_weights(vlm, stage, folder_of[stage.name], seed=recipe.seed + index)
        elif index <= last_to_do:
            _run(folder, vlm, stage, samples, seed=recipe.seed + index, progress=progress, processes=processes)
            if recipe.sharding != "none" and processes.size > 1:
                # Layers that are spread over processes can neither answer in one of them nor get adapters.
                vlm = open_vlm(recipe.model, say=lambda _: None)
                for number, done in enumerate(recipe.stages[: index + 1]):
                    load_weights(vlm, done, folder_of[done.name], seed=recipe.seed + number)
    if processes.leads:
        adapter = folder.file("adapter")
        if kind_of_run(recipe) != "checkpoint" and not adapter.is_dir():
            write_adapter_repository(folder, vlm, adapter)
    return vlm


def _run(
    folder: RunFolder,
    vlm: Vlm,
    stage: Stage,
    samples: Samples,
    *,
    seed: int,
    progress: Progress,
    processes: Processes,
) -> None:
    recipe, own = folder.recipe, folder.file(f"train/{stage.name}")
    sources, watched = stage_rows(recipe, vlm, stage, samples, folder=own if processes.leads else None)
    shown = [image for rows in sources.values() for image in rows.images] + [one.image for one in watched]
    store = _leader_first(processes, partial(pictures, recipe, vlm, shown, progress=progress))
    run_stage(
        vlm,
        stage,
        sources,
        store,
        folder=own,
        seed=seed,
        progress=progress,
        watch=partial(_look, vlm, watched, store, recipe),
        features=Features(
            cache=user_cache_path("radvqa") / "features", most_bytes=round(recipe.feature_cache_gib * 2**30)
        ),
        sharding=recipe.sharding,
        trackers=recipe.trackers,
        processes=processes,
    )
    if processes.leads:
        folder.mark_done(f"train/{stage.name}", {})
        shutil.rmtree(own / "state", ignore_errors=True)
    processes.wait()


def _leader_first(processes: Processes, make: Callable[[], T]) -> T:
    """Made by the leader, who may fill caches, and then by the others, who find them filled."""
    if not processes.leads:
        processes.wait()
    made = make()
    if processes.leads:
        processes.wait()
    return made


def require_trained(folder: RunFolder) -> None:
    """Refuse a run with stages left to train, which would take hours where minutes were expected.

    Raises:
        RunError: names the first of them.
    """
    for stage in folder.recipe.stages:
        if not is_trained(folder, stage):
            raise RunError(
                "this run is not trained yet",
                where=str(folder.path),
                expected="every stage of its recipe",
                got=f"stage {stage.name} is not finished",
                fix=f"radvqa train {folder.path}",
            )


def pictures(recipe: Recipe, vlm: Vlm, paths: Sequence[Path], *, progress: Progress) -> ImageStore:
    """These pictures as the model gets them."""
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


def is_trained(folder: RunFolder, stage: Stage) -> bool:
    """Whether a stage has ended."""
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


def write_provenance(folder: RunFolder, vlm: Vlm, *, progress: Progress) -> None:
    """Write ``provenance.json`` for this process; what earlier ones were stays in it under ``earlier_starts``."""
    recipe, path = folder.recipe, folder.file("provenance.json")
    sources = [path for adapter in adapters_of(recipe).values() for path in adapter.sources() if path.is_file()]
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
