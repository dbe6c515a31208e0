"""What a trained run learned, written for others: an adapter repository or a complete checkpoint, and checked."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from radvqa.errors import RunError
from radvqa.models.opening import open_vlm
from radvqa.models.vlm import Vlm
from radvqa.publish.loader_check import LoaderCheck, require_loadable, take_probe
from radvqa.publish.manifest import Kind, kind_of_run
from radvqa.publish.merging import merged_network, stored_dtype, what_was_learned
from radvqa.publish.repository import building, require_empty, write_about, write_learned
from radvqa.records import write_text
from radvqa.run.folder import RunFolder
from radvqa.train.weights import load_weights

ExportDtype = Literal["base", "float32", "bfloat16"]
_SMALL_FILES = 64 << 20
"""Bytes allowed for tokenizer, processor, card and manifest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A finished export; ``check`` is None where it was not wanted."""

    folder: Path
    kind: Kind
    dtype: str
    bytes: int
    check: LoaderCheck | None


def export(
    run: RunFolder,
    folder: Path,
    *,
    merge: bool,
    dtype: ExportDtype = "base",
    check: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> Exported:
    """Write what a trained run learned into ``folder``, whole or not at all.

    Args:
        run: all of its stages are trained.
        folder: new or empty.
        merge: write a complete checkpoint, with everything learned added to the base in float32; otherwise the adapter
            (or projector) alone. Runs in which whole parts learned always give a checkpoint.
        dtype: of the weights of a checkpoint; ``base`` is that of the base.
        check: load the result in a process without radvqa and compare logits; see ``require_loadable``.
        say: told what goes on.

    Raises:
        RunError: the folder holds something, the disk has no room, or weights of the run are missing.
        ModelError: the base cannot be loaded, or the result does not give the model's logits.
    """
    kind: Kind = "checkpoint" if merge else kind_of_run(run.recipe)
    if dtype != "base" and kind != "checkpoint":
        raise RunError(
            "an adapter has no dtype to choose: what learned is float32",
            got=f"dtype {dtype}",
            fix="add --merge to write a complete checkpoint, or leave --dtype out",
        )
    require_empty(folder)
    vlm = adapted_vlm(run, say=say)
    name, revision = vlm.name, vlm.revision
    stored = torch.float32 if kind != "checkpoint" else _wanted_dtype(dtype, name, revision)
    _require_room(folder, _bytes_of(vlm, kind, stored))
    probe = take_probe(vlm) if check else None
    with building(folder) as unfinished:
        if kind == "checkpoint":
            write_about(run, vlm, unfinished, kind=kind)
            learned = what_was_learned(vlm, full=[part for stage in run.recipe.stages for part in stage.full])
            del vlm  # the base is loaded a second time, in the dtype that is written
            say(f"merging what was learned into {name}, {str(stored).removeprefix('torch.')}")
            merged_network(name, revision, learned, dtype=stored).save_pretrained(unfinished)
        else:
            write_learned(vlm, unfinished)
            write_about(run, vlm, unfinished, kind=kind)
            del vlm
            if kind == "adapter" and revision is None:
                _forget_base_folder(unfinished)
        found = None
        if probe is not None:
            say("checking that it loads in plain transformers")
            found = require_loadable(unfinished, probe, kind=kind, base=name, revision=revision, stored=stored)
    return Exported(
        folder=folder,
        kind=kind,
        dtype=str(stored).removeprefix("torch."),
        bytes=sum(path.stat().st_size for path in folder.iterdir()),
        check=found,
    )


def adapted_vlm(run: RunFolder, *, say: Callable[[str], None]) -> Vlm:
    """The model of a trained run, from its files alone; the data are not needed. Its base is not quantised.

    Raises:
        ModelError: the base cannot be loaded.
        TrainError: weights of a stage are missing or damaged.
    """
    recipe = run.recipe
    vlm = open_vlm(recipe.model.model_copy(update={"quantise": "none"}), say=say)
    for index, stage in enumerate(recipe.stages):
        load_weights(vlm, stage, run.file(f"train/{stage.name}"), seed=recipe.seed + index)
    return vlm


def _wanted_dtype(dtype: ExportDtype, name: str, revision: str | None) -> torch.dtype:
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    return stored_dtype(name, revision) if dtype == "base" else named[dtype]


def _bytes_of(vlm: Vlm, kind: Kind, stored: torch.dtype) -> int:
    if kind == "checkpoint":
        # Without adapters, which merge into weights that are there.
        numbers = sum(value.numel() for name, value in vlm.network.named_parameters() if ".lora_" not in name)
    else:
        numbers = sum(value.numel() for value in vlm.network.parameters() if value.requires_grad)
    return int(numbers) * stored.itemsize + _SMALL_FILES


def _require_room(folder: Path, needed: int) -> None:
    place = next(parent for parent in folder.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(place).free
    if free < needed:
        raise RunError(
            "the disk has no room for the export",
            where=str(place),
            expected=f"{needed / 1e9:.2f} GB free",
            got=f"{free / 1e9:.2f} GB",
            fix="free some space, or name a folder on another disk",
        )


def _forget_base_folder(folder: Path) -> None:
    """Take the folder of a local base out of the adapter's configuration: it means nothing on another machine."""
    path = folder / "adapter_config.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    write_text(path, json.dumps({**config, "base_model_name_or_path": None}, indent=2, sort_keys=True) + "\n")
