"""What a finished stage leaves on disk, and how it gets back into a model."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from radvqa.errors import TrainError
from radvqa.models.lora import require_adapters
from radvqa.models.vlm import Vlm, part_of
from radvqa.recipe import Lora, Stage
from radvqa.records import write_bytes
from radvqa.train.checkpoint import trainable_parameters
from radvqa.train.parallel import ALONE, Processes, whole
from radvqa.train.parts import prepare

PROJECTOR_FILE = "projector.safetensors"
WEIGHTS_FILE = "weights.safetensors"


def save_weights(vlm: Vlm, folder: Path, *, processes: Processes = ALONE) -> None:
    """Write what was learned: a PEFT adapter with the projector, the projector alone, or all weights that learnt.

    Every process of the training calls it; the leader writes.
    """
    if hasattr(vlm.network, "peft_config"):
        state = {name: whole(tensor) for name, tensor in vlm.network.state_dict().items()}
        if processes.leads:
            _write_adapter(vlm, folder / "adapter", state)
        return
    learnt = {
        name: whole(parameter.detach()).cpu().contiguous()
        for name, parameter in trainable_parameters(vlm.network).items()
    }
    if not processes.leads:
        return
    if all(part_of(name) == "projector" for name in learnt):
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in vlm.projector.state_dict().items()}
        write_bytes(folder / PROJECTOR_FILE, save(state))
    else:
        write_bytes(folder / WEIGHTS_FILE, save(learnt))


def _write_adapter(vlm: Vlm, folder: Path, state: Mapping[str, torch.Tensor]) -> None:
    """The adapter in PEFT's layout, complete on disk before it has its name."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    vlm.network.save_pretrained(partial, state_dict=state)
    for file in partial.iterdir():
        with file.open("rb") as written:
            os.fsync(written.fileno())
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def load_weights(vlm: Vlm, stage: Stage, folder: Path, *, seed: int) -> None:
    """Put what a finished stage left into the model.

    Raises:
        TrainError: the stage's weights are not there, damaged, or not of this model.
    """
    prepare(vlm, stage, seed=seed)
    names = "adapter/adapter_model.safetensors" if stage.lora else WEIGHTS_FILE if stage.full else PROJECTOR_FILE
    file = folder / names
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
    if stage.lora is not None:
        _load_adapter(vlm, stage.lora, state, file)
    elif stage.full:
        _require_places(state, {name: one.data for name, one in trainable_parameters(vlm.network).items()}, file)
        vlm.network.load_state_dict(state, strict=False)
    else:
        vlm.projector.load_state_dict(state)


def _load_adapter(vlm: Vlm, lora: Lora, state: Mapping[str, torch.Tensor], file: Path) -> None:
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    _require_places(state, get_peft_model_state_dict(vlm.network), file)
    set_peft_model_state_dict(vlm.network, dict(state))
    require_adapters(vlm, targets=lora.targets, parts=lora.parts)


def _require_places(state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor], file: Path) -> None:
    """Refuse stored weights that are not exactly those the model has places for."""
    again = "delete the run and repeat it"
    if unknown := sorted(state.keys() - wanted.keys()):
        raise TrainError(
            "the stage's file has weights this model has no place for",
            where=str(file),
            got=f"{len(unknown)} of them, e.g. {unknown[0]}",
            fix=again,
        )
    if missing := sorted(wanted.keys() - state.keys()):
        raise TrainError(
            "the stage's file lacks weights of this stage",
            where=str(file),
            expected=f"{len(wanted)} tensors",
            got=f"{len(state)}; missing is {missing[0]}",
            fix=again,
        )
    if other := [name for name in sorted(wanted) if state[name].shape != wanted[name].shape]:
        raise TrainError(
            "the stage's file has weights of another shape than this model",
            where=f"{file}, {other[0]}",
            expected=str(tuple(wanted[other[0]].shape)),
            got=str(tuple(state[other[0]].shape)),
            fix=again,
        )
