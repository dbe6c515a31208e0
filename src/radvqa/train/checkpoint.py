"""Training state on disk: everything an interrupted stage needs to go on as if nothing had happened.

One safetensors file per checkpoint: trainable tensors and the optimiser's moments, with the update in its metadata.
Random choices need no state, since data order and dropout follow from seed and update.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from radvqa.errors import TrainError
from radvqa.records import write_bytes

KEPT = 2


def trainable_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by full name."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def save_state(
    folder: Path, update: int, parameters: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer
) -> None:
    """Write the checkpoint of this update atomically, then drop all but the newest ``KEPT``.

    Raises:
        RunError: the folder is full or not writable; older checkpoints stay.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        tensors[f"parameter/{name}"] = parameter.detach().cpu().contiguous()
        for key, value in optimiser.state[parameter].items():
            tensors[f"optimiser/{key}/{name}"] = value.detach().cpu().contiguous()
    write_bytes(_file(folder, update), save(tensors, metadata={"update": str(update)}))
    for old in sorted(folder.glob("update-*.safetensors"))[:-KEPT]:
        old.unlink()


def load_newest_state(folder: Path, parameters: Mapping[str, nn.Parameter], optimiser: torch.optim.Optimizer) -> int:
    """Put the newest checkpoint into parameters and optimiser and return its update; 0 when there is none.

    Raises:
        TrainError: the checkpoint is damaged or holds other parameters.
    """
    files = sorted(folder.glob("update-*.safetensors"))
    if not files:
        return 0
    newest = files[-1]
    try:
        with safe_open(newest, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise TrainError(
            "a checkpoint is damaged",
            where=str(newest),
            got=str(error),
            fix="delete this file; the run then goes on from the checkpoint before it",
        ) from error
    stored = {key.removeprefix("parameter/") for key in tensors if key.startswith("parameter/")}
    if stored != set(parameters):
        raise TrainError(
            "a checkpoint holds other parameters than this stage trains",
            where=str(newest),
            expected=f"{len(parameters)} tensors",
            got=f"{len(stored)} tensors, {len(stored & set(parameters))} of them known",
            fix="delete the run folder and start again",
        )
    states: dict[str, dict[str, Any]] = {name: {} for name in parameters}
    with torch.no_grad():
        for key, tensor in tensors.items():
            kind, _, rest = key.partition("/")
            if kind == "parameter":
                parameters[rest].copy_(tensor)
            else:
                field, _, name = rest.partition("/")
                states[name][field] = tensor.to(parameters[name].device) if tensor.ndim else tensor
    for name, parameter in parameters.items():
        optimiser.state[parameter] = states[name]
    match = re.fullmatch(r"update-(\d+)\.safetensors", newest.name)
    assert match is not None
    return int(match.group(1))


def _file(folder: Path, update: int) -> Path:
    return folder / f"update-{update:08d}.safetensors"
