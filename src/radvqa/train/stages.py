"""A stage of the recipe made real: which parts learn, on which rows, and what it leaves behind."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from radvqa.data.image_store import ImageStore
from radvqa.errors import RunError, TrainError
from radvqa.models.layout import Row
from radvqa.models.lora import adapted_modules, attach_lora, target_pattern
from radvqa.models.vlm import Vlm, trainable_counts
from radvqa.recipe import Lora, Stage
from radvqa.records import write_bytes, write_json
from radvqa.run.progress import Progress
from radvqa.train.feed import Feed
from radvqa.train.loop import Settings, Watch, train
from radvqa.train.pictures import AugmentedPictures, FrozenFeatures, Pictures, StoredPictures

PROJECTOR_FILE = "projector.safetensors"


def run_stage(
    vlm: Vlm,
    stage: Stage,
    rows: Sequence[Row],
    store: ImageStore,
    *,
    folder: Path,
    seed: int,
    progress: Progress,
    watch: Watch,
) -> None:
    """Train one stage to its end (or from its checkpoint) and write ``stage.json`` and its weights into ``folder``.

    Raises:
        ModelError: the adapters reach other modules than they should.
        TrainError: nothing learns or the loss is not finite.
        RunError: an earlier start of this stage had other pictures or another base.
    """
    _require_same_start(folder, {"base": vlm.digest, "pictures": store.digest([row.image for row in rows])})
    prepare(vlm, stage.lora, projector=stage.projector, seed=seed)
    counts = trainable_counts(vlm.network)
    feed = Feed(rows, batch_size=stage.batch_size, seed=seed, questions_per_row=stage.questions_per_image)
    updates = stage.length_in_updates(len(rows))
    learning = ", ".join(f"{part} {count:,}" for part, count in counts.items() if count)
    progress.say(f"{stage.name}: {len(rows):,} rows, {updates:,} updates of {stage.batch_size}; trainable: {learning}")
    settings = Settings(
        updates=updates,
        micro_batch_size=stage.micro_batch_size or stage.batch_size,
        projector_rate=stage.learning_rate,
        language_rate=stage.lora_learning_rate or stage.learning_rate,
        vision_rate=stage.vision_learning_rate or stage.lora_learning_rate or stage.learning_rate,
        warmup=stage.warmup,
        weight_decay=stage.weight_decay,
        max_grad_norm=stage.max_grad_norm,
        loss_norm=stage.loss_norm,
        checkpoint_every=stage.checkpoint_every,
        watch_every=stage.watch_every,
        seed=seed,
    )
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    pictures = _pictures(vlm, stage, rows, store, seed=seed, progress=progress)
    records = train(vlm, feed, pictures, settings, folder=folder, progress=progress, watch=watch)
    save_weights(vlm, folder)
    write_json(
        folder / "stage.json",
        {
            "stage": stage.name,
            "updates": updates,
            "questions": sum(record.questions for record in records),
            "seconds": sum(record.seconds for record in records),
            "seconds_of_last_start": time.perf_counter() - began,
            "trainable": counts,
            "adapter_modules": adapted_modules(vlm),
            "layout": vlm.layout,
            "lowest_loss": min(record.loss for record in records),
        },
    )


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


def prepare(vlm: Vlm, lora: Lora | None, *, projector: bool, seed: int) -> None:
    """Freeze everything but the adapters and, where wanted, the projector; attach adapters that are not there yet.

    Raises:
        TrainError: adapters of another shape are attached already, or a stage without adapters follows one with them.
    """
    attached = vlm.network.peft_config["default"] if hasattr(vlm.network, "peft_config") else None
    if lora is None:
        if attached is not None:
            raise TrainError(
                "a stage without lora follows one with it", fix="repeat the lora section, or put this stage first"
            )
        vlm.network.requires_grad_(False)
        vlm.projector.requires_grad_(projector)
        return
    if attached is None:
        attach_lora(
            vlm,
            rank=lora.rank,
            alpha=lora.alpha,
            dropout=lora.dropout,
            targets=lora.targets,
            parts=lora.parts,
            base_name=vlm.name,
            revision=vlm.revision,
            seed=seed,
        )
    else:
        wanted = (lora.rank, lora.alpha, lora.dropout, target_pattern(lora.parts, lora.targets))
        there = (attached.r, attached.lora_alpha, attached.lora_dropout, attached.target_modules)
        if wanted != there:
            raise TrainError(
                "the adapters of the stage before have another shape",
                expected="rank {}, alpha {}, dropout {}, modules {}".format(*there),
                got="rank {}, alpha {}, dropout {}, modules {}".format(*wanted),
                fix="give all stages with lora the same section",
            )
    for name, parameter in vlm.network.named_parameters():
        if "multi_modal_projector" in name:
            parameter.requires_grad_(projector and "modules_to_save" in name)


def save_weights(vlm: Vlm, folder: Path) -> None:
    """Write what was learned: a PEFT adapter with the projector, or the projector alone when there are no adapters."""
    if hasattr(vlm.network, "peft_config"):
        vlm.network.save_pretrained(folder / "adapter")
    else:
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in vlm.projector.state_dict().items()}
        write_bytes(folder / PROJECTOR_FILE, save(state))


def load_weights(vlm: Vlm, stage: Stage, folder: Path, *, seed: int) -> None:
    """Put what a finished stage left into the model.

    Raises:
        TrainError: the stage's weights are not there, damaged, or not of this model.
    """
    prepare(vlm, stage.lora, projector=stage.projector, seed=seed)
    file = folder / ("adapter/adapter_model.safetensors" if stage.lora else PROJECTOR_FILE)
    if not file.is_file():
        raise TrainError(
            "the weights of a finished stage are missing", where=str(file), fix="delete the run and repeat it"
        )
    try:
        state = load_file(file)
    except SafetensorError as error:
        raise TrainError(
            "the weights of a finished stage are damaged",
            where=str(file),
            got=str(error),
            fix="delete the run and repeat it",
        ) from error
    if stage.lora is None:
        vlm.projector.load_state_dict(state)
        return
    _load_adapter(vlm, state, file)


def _load_adapter(vlm: Vlm, state: Mapping[str, torch.Tensor], file: Path) -> None:
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    again = "delete the run and repeat it"
    wanted = get_peft_model_state_dict(vlm.network)
    if unknown := sorted(state.keys() - wanted.keys()):
        raise TrainError(
            "the adapter has weights this model has no place for",
            where=str(file),
            got=f"{len(unknown)} of them, e.g. {unknown[0]}",
            fix=again,
        )
    if missing := sorted(wanted.keys() - state.keys()):
        raise TrainError(
            "the adapter lacks weights of this stage",
            where=str(file),
            expected=f"{len(wanted)} tensors",
            got=f"{len(state)}; missing is {missing[0]}",
            fix=again,
        )
    if other := [name for name in sorted(wanted) if state[name].shape != wanted[name].shape]:
        raise TrainError(
            "the adapter has weights of another shape than this model",
            where=f"{file}, {other[0]}",
            expected=str(tuple(wanted[other[0]].shape)),
            got=str(tuple(state[other[0]].shape)),
            fix=again,
        )
    set_peft_model_state_dict(vlm.network, dict(state))


def _pictures(
    vlm: Vlm, stage: Stage, rows: Sequence[Row], store: ImageStore, *, seed: int, progress: Progress
) -> Pictures:
    if stage.augment:
        return AugmentedPictures(store, seed=seed)
    if any(parameter.requires_grad for parameter in vlm.vision_encoder.parameters()):
        return StoredPictures(store)
    paths = list(dict.fromkeys(row.image for row in rows))
    with progress.track(f"{stage.name}: features of the frozen tower", len(paths), unit="images") as tick:
        return FrozenFeatures(vlm, store, paths, seen=tick)
