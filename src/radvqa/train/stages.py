"""A stage of the recipe made real: which parts learn, on which rows, and what it leaves behind."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from radvqa.data.image_store import ImageStore
from radvqa.errors import RunError
from radvqa.models.features import FeaturesDoNotFit, FeatureStore
from radvqa.models.layout import Row
from radvqa.models.lora import adapted_modules
from radvqa.models.rows import SampleRows
from radvqa.models.vlm import Vlm, trainable_counts
from radvqa.recipe import Source, Stage
from radvqa.records import read_json, write_json
from radvqa.run.progress import Progress
from radvqa.train.feed import Feed
from radvqa.train.history import History
from radvqa.train.loop import Watch, train
from radvqa.train.memory import fitting_micro_batch, free_bytes, peak_of
from radvqa.train.mixture import Plan, draws_allowed, share_of, shares
from radvqa.train.parallel import ALONE, Processes
from radvqa.train.parts import prepare
from radvqa.train.pictures import AugmentedPictures, FrozenFeatures, Pictures, StoredPictures
from radvqa.train.step import Settings
from radvqa.train.weights import save_weights


def run_stage(
    vlm: Vlm,
    stage: Stage,
    sources: Mapping[str, SampleRows],
    store: ImageStore,
    *,
    folder: Path,
    seed: int,
    progress: Progress,
    watch: Watch,
    features: "Features",
    sharding: Literal["none", "fsdp2"] = "none",
    trackers: tuple[str, ...] = (),
    processes: Processes = ALONE,
) -> None:
    """Train one stage to its end (or from its checkpoint) and write ``stage.json`` and its weights into ``folder``.

    Args:
        vlm: the model; weights change in place.
        stage: what to do.
        sources: the rows to train on, by name of their source.
        store: pictures of all rows.
        folder: of the stage.
        seed: all random choices follow from it.
        progress: told what goes on.
        watch: looks at generated answers.
        features: where outputs of a frozen tower are kept.
        sharding: how several processes hold the weights.
        trackers: accelerate's names.
        processes: that train together.

    Raises:
        ModelError: the adapters reach other modules than they should.
        TrainError: nothing learns, the memory is full, or loss or gradients are out of bounds.
        RunError: an earlier start of this stage had other pictures or another base; or the folder cannot be written.
        Stopped: SIGTERM came.
    """
    images = list(dict.fromkeys(image for rows in sources.values() for image in rows.images))
    if processes.leads:
        _require_same_start(folder, {"base": vlm.digest, "pictures": store.digest(images)})
    prepare(vlm, stage, seed=seed)
    counts = trainable_counts(vlm.network)
    feed = Feed(sources, plan_of(stage, sources, seed=seed), seed=seed, questions_per_row=stage.questions_per_image)
    updates = feed.plan.updates
    learning = ", ".join(f"{part} {count:,}" for part, count in counts.items() if count)
    rows = ", ".join(f"{len(some):,} of {name}" for name, some in sources.items())
    progress.say(f"{stage.name}: rows: {rows}; {updates:,} updates of {stage.batch_size}; trainable: {learning}")
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    pictures = _pictures(
        vlm, stage, images, store, seed=seed, progress=progress, features=features, processes=processes
    )
    vlm.checkpoint_gradients(on=stage.gradient_checkpointing)
    micro = _micro_batch_size(vlm, stage, sources, pictures, folder, progress=progress, processes=processes)
    history = train(
        vlm,
        feed,
        pictures,
        _settings(stage, updates=updates, micro=micro, seed=seed, sharding=sharding, trackers=trackers),
        folder=folder,
        progress=progress,
        watch=watch,
        processes=processes,
    )
    save_weights(vlm, folder, processes=processes)
    if processes.leads:
        summary = _summary(stage, history, feed, planned=updates)
        write_json(
            folder / "stage.json",
            {
                **summary,
                "seconds_of_last_start": time.perf_counter() - began,
                "trainable": counts,
                "adapter_modules": adapted_modules(vlm),
                "layout": vlm.layout,
                "micro_batch_size": micro,
                "processes": processes.size,
            },
        )


def plan_of(stage: Stage, sources: Mapping[str, SampleRows], *, seed: int) -> Plan:
    """Which source every place of every update draws from.

    Raises:
        TrainError: the sources are used up before the stage ends.
    """
    updates = stage.length_in_updates(sum(len(rows) for rows in sources.values()))
    stated = [stage.mixture.get(name, Source()) for name in sources]
    sizes = [len(rows) for rows in sources.values()]
    return Plan(
        shares([share_of(source) for source in stated], updates),
        sizes=sizes,
        most=[draws_allowed(size, source.epochs) for size, source in zip(sizes, stated, strict=True)],
        batch_size=stage.batch_size,
        seed=seed,
        names=list(sources),
    )


def _settings(
    stage: Stage, *, updates: int, micro: int, seed: int, sharding: Literal["none", "fsdp2"], trackers: tuple[str, ...]
) -> Settings:
    watch = stage.watch
    warmup = math.ceil(stage.warmup * updates) if stage.warmup_updates is None else stage.warmup_updates
    return Settings(
        updates=updates,
        micro_batch_size=micro,
        projector_rate=stage.learning_rate,
        language_rate=stage.lora_learning_rate or stage.learning_rate,
        vision_rate=stage.vision_learning_rate or stage.lora_learning_rate or stage.learning_rate,
        schedule=stage.schedule,
        warmup_updates=min(warmup, updates),
        decay=stage.decay,
        weight_decay=stage.weight_decay,
        betas=stage.betas,
        max_grad_norm=stage.max_grad_norm,
        stop_grad_norm=stage.stop_grad_norm,
        loss_norm=stage.loss_norm,
        checkpoint_every=stage.checkpoint_every,
        keep_checkpoints=stage.keep_checkpoints,
        watch_every=watch.every if watch else 0,
        keep=watch.keep if watch else "last",
        patience=watch.patience if watch else None,
        gradient_checkpointing=stage.gradient_checkpointing,
        sharding=sharding,
        trackers=trackers,
        seed=seed,
    )


def _summary(stage: Stage, history: History, feed: Feed, *, planned: int) -> dict[str, object]:
    last = len(history.updates)
    return {
        "stage": stage.name,
        "updates": last,
        "planned_updates": planned,
        "best_look": history.best(),
        "kept": "best look" if stage.watch is not None and stage.watch.keep == "best" else "last update",
        "questions": sum(record.questions for record in history.updates),
        "seconds": sum(record.seconds for record in history.updates),
        "lowest_loss": min(record.loss for record in history.updates),
        "sources": {
            name: {"rows": len(feed.rows_of(name)), "seen": int(feed.plan.drawn(last)[s]), "passes": passes}
            for s, (name, passes) in enumerate(feed.passes(last).items())
        },
    }


def _micro_batch_size(
    vlm: Vlm,
    stage: Stage,
    sources: Mapping[str, SampleRows],
    pictures: Pictures,
    folder: Path,
    *,
    progress: Progress,
    processes: Processes,
) -> int:
    """As stated, or as many rows as the memory holds: measured once, because a resumed stage must compute the same."""
    rows = stage.batch_size // processes.size
    if stage.micro_batch_size != "auto":
        return min(stage.micro_batch_size or rows, rows)
    noted = folder / "micro_batch.json"
    if processes.leads and not noted.is_file():
        # AdamW keeps two float32 moments of all that learns, from the first update on.
        free = free_bytes(vlm.device) - 8 * sum(trainable_counts(vlm.network).values())
        size = fitting_micro_batch(partial(_peak_of_rows, vlm, stage, sources, pictures), rows, free)
        progress.say(f"{stage.name}: micro-batches of {size} rows fit into {free / 2**30:.1f} GiB of free memory")
        write_json(noted, size)
    processes.wait()
    measured = read_json(noted, int)
    assert measured is not None
    return measured


def _peak_of_rows(vlm: Vlm, stage: Stage, sources: Mapping[str, SampleRows], pictures: Pictures, count: int) -> int:
    """Bytes that forward and backward of the longest rows take at most beside what is there already."""
    longest = [rows[index] for rows in sources.values() for index in rows.longest(count)]
    longest.sort(key=lambda row: -sum(len(question.prompt) + len(question.answer) for question in row.questions))
    some = (longest * count)[:count]
    limit = stage.questions_per_image
    some = [Row(row.image, row.questions[:limit]) for row in some]

    def step() -> None:
        vlm.network.train()
        logits = vlm.supervised_logits(vlm.batch(some), pictures.vision(some, update=1))
        torch.autograd.backward(logits.logsumexp(-1).sum())

    try:
        return peak_of(step, vlm.device)
    finally:
        vlm.network.zero_grad()
        vlm.network.eval()


def _require_same_start(folder: Path, inputs: Mapping[str, str]) -> None:
    """Note what a stage is trained from, or refuse to go on when an earlier start noted something else."""
    noted = folder / "made_from.json"
    if not noted.is_file():
        write_json(noted, dict(inputs))
        return
    before = json.loads(noted.read_text(encoding="utf-8"))
    for name, digest in inputs.items():
        if before.get(name) != digest:
            raise RunError(
                f"the {name} of this stage changed since its training began",
                where=str(folder),
                expected=str(before.get(name)),
                got=digest,
                fix="put the old files back, or start a run of its own with --set output=DIR",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Where outputs of frozen towers are kept, and how many bytes they may take in all."""

    cache: Path
    most_bytes: int


def _pictures(
    vlm: Vlm,
    stage: Stage,
    images: Sequence[Path],
    store: ImageStore,
    *,
    seed: int,
    progress: Progress,
    features: Features,
    processes: Processes,
) -> Pictures:
    if stage.augment:
        return AugmentedPictures(store, seed=seed)
    learns = any(parameter.requires_grad for parameter in vlm.vision_encoder.parameters())
    if learns or stage.features == "computed":
        return StoredPictures(store)
    with progress.track(f"{stage.name}: features of the frozen tower", len(images), unit="images") as tick:
        if not processes.leads:
            processes.wait()
        stored = FeatureStore.build(vlm, store, images, cache=features.cache, most_bytes=features.most_bytes, seen=tick)
        if processes.leads:
            processes.wait()
    if isinstance(stored, FeaturesDoNotFit):
        progress.say(
            f"{stage.name}: features of all pictures take {stored.needed_bytes / 2**30:.1f} GiB, more than "
            f"feature_cache_gib allows ({stored.most_bytes / 2**30:.1f}): they are computed at every use"
        )
        return StoredPictures(store)
    return FrozenFeatures(stored)
