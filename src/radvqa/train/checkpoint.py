"""Training state on disk: everything an interrupted stage needs to go on as if nothing had happened.

One safetensors file per checkpoint: trainable tensors and the optimiser's moments, with update and checksum in its
metadata. Random choices need no state, since data order and dropout follow from seed and update.
"""

import contextlib
import os
import re
import zlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from radvqa.errors import TrainError
from radvqa.records import unwritable
from radvqa.train.parallel import Processes, like, whole

BEST = "best-*.safetensors"
_UPDATES = "update-*.safetensors"


def trainable_parameters(network: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by full name."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def save_state(
    folder: Path,
    update: int,
    parameters: Mapping[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
    *,
    keep: int = 2,
    processes: Processes | None = None,
) -> None:
    """Write the checkpoint of this update atomically, then drop all but the newest ``keep``.

    Every process of the training calls it; the leader writes.

    Raises:
        RunError: the folder is full or not writable; older checkpoints stay.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in parameters.items():
        tensors[f"parameter/{name}"] = _on_cpu(parameter)
        for key, value in optimiser.state[parameter].items():
            tensors[f"optimiser/{key}/{name}"] = _on_cpu(value)
    if processes is None or processes.leads:
        _write(folder / f"update-{update:08d}.safetensors", tensors, update)
        for old in sorted(folder.glob(_UPDATES))[:-keep]:
            old.unlink()


def load_newest_state(
    folder: Path,
    parameters: Mapping[str, nn.Parameter],
    optimiser: torch.optim.Optimizer,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> int:
    """Put the newest whole checkpoint into parameters and optimiser and return its update; 0 when there is none.

    A damaged checkpoint is left out, which ``say`` is told, for the one before.

    Raises:
        TrainError: the checkpoint holds other parameters.
    """
    for file in sorted(folder.glob(_UPDATES), reverse=True):
        found = _read(file, say)
        if found is None:
            continue
        stored = {key.removeprefix("parameter/") for key in found if key.startswith("parameter/")}
        _require_same(stored, set(parameters), file)
        states: dict[str, dict[str, Any]] = {name: {} for name in parameters}
        with torch.no_grad():
            for key, tensor in found.items():
                kind, _, rest = key.partition("/")
                if kind == "parameter":
                    parameters[rest].copy_(like(tensor, parameters[rest]))
                else:
                    field, _, name = rest.partition("/")
                    states[name][field] = like(tensor, parameters[name]) if tensor.ndim else tensor
        for name, parameter in parameters.items():
            optimiser.state[parameter] = states[name]
        return _update_of(file)
    return 0


def save_best(
    folder: Path, update: int, parameters: Mapping[str, nn.Parameter], *, processes: Processes | None = None
) -> None:
    """Keep the weights of the best look so far. Raises ``RunError`` like ``save_state``."""
    tensors = {name: _on_cpu(parameter) for name, parameter in parameters.items()}
    if processes is None or processes.leads:
        _write(folder / BEST.replace("*", f"{update:08d}"), tensors, update)


def load_best(folder: Path, update: int, parameters: Mapping[str, nn.Parameter]) -> None:
    """Put the weights that ``save_best`` kept for this update into the parameters.

    Raises:
        TrainError: they are damaged or not there.
    """
    file = folder / BEST.replace("*", f"{update:08d}")
    reasons: list[str] = []
    found = _read(file, reasons.append) if file.is_file() else None
    if found is None:
        raise TrainError(
            "the weights of the best look are damaged or not there",
            where=str(file),
            got=reasons[0] if reasons else "no such file",
            fix="delete the run folder and start again",
        )
    _require_same(set(found), set(parameters), file)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(like(found[name], parameter))


def drop_best_but(folder: Path, updates: Collection[int | None]) -> None:
    """Remove kept weights of looks that are not among these."""
    for file in folder.glob(BEST):
        if _update_of(file) not in updates:
            file.unlink()


def checkpoints(folder: Path) -> list[int]:
    """The updates of the checkpoints that are there, in order."""
    return sorted(map(_update_of, folder.glob(_UPDATES)))


def put_aside_damaged(folder: Path, *, say: Callable[[str], None]) -> None:
    """Rename damaged checkpoints that are newer than the newest whole one, and tell: before others read them."""
    for file in sorted(folder.glob(_UPDATES), reverse=True):
        if _read(file, say) is not None:
            return


def _on_cpu(value: Any) -> Tensor:
    tensor = whole(value.detach())
    return tensor.cpu().contiguous()


def _write(path: Path, tensors: Mapping[str, Tensor], update: int) -> None:
    """One file, atomically, tensor by tensor and not through a copy of all in memory."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(dict(tensors), partial, metadata={"update": str(update), "crc32": str(_crc32(tensors))})
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise unwritable(path, _as_os_error(error)) from error


def _as_os_error(error: OSError | SafetensorError) -> OSError:
    """The system's error inside one of safetensors, whose library names it by number in words."""
    if isinstance(error, OSError):
        return error
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(str(error))


def _read(file: Path, say: Callable[[str], None]) -> dict[str, Tensor] | None:
    """The tensors of a checkpoint; None, with a word about it, for a damaged one, which is put aside."""
    try:
        with safe_open(file, framework="pt") as stored:
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 - no mapping
            expected = (stored.metadata() or {}).get("crc32")
        problem = None if expected == str(_crc32(tensors)) else "its checksum is wrong"
    except SafetensorError as error:
        problem = str(error)
    if problem is None:
        return tensors
    say(f"the checkpoint {file} is damaged ({problem}); it is put aside as .damaged, and the one before is taken")
    file.replace(file.with_suffix(".damaged"))
    return None


def _crc32(tensors: Mapping[str, Tensor]) -> int:
    """One checksum over names, shapes and bytes."""
    value = 0
    for name in sorted(tensors):
        value = zlib.crc32(f"{name}{tuple(tensors[name].shape)}".encode(), value)
        value = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, value)
    return value


def _require_same(stored: set[str], expected: set[str], file: Path) -> None:
    if stored != expected:
        raise TrainError(
            "a checkpoint holds other parameters than this stage trains",
            where=str(file),
            expected=f"{len(expected)} tensors",
            got=f"{len(stored)} tensors, {len(stored & expected)} of them known",
            fix="delete the run folder and start again",
        )


def _update_of(file: Path) -> int:
    match = re.search(r"-(\d+)\.safetensors$", file.name)
    assert match is not None
    return int(match.group(1))
