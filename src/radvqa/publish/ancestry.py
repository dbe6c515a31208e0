"""What a base and a projector had learned from before a run began, as far as it can be read here. No torch here."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from radvqa.data import adapter_class
from radvqa.errors import RadvqaError
from radvqa.models.geometry import Geometry, geometry_of, read_geometry
from radvqa.recipe import BUILT_IN_CHECKPOINTS, Dataset, Model, Recipe
from radvqa.records import read_json
from radvqa.run.folder import RunFolder

MANIFEST_FILE = "training_manifest.json"

PALIGEMMA = "paligemma"
"""The origin of a local folder with PaliGemma's architecture that is none of radvqa's own bases."""


def base_label(model: Model) -> str:
    """The base without folders of this machine: a hub name, ``embedded``, ``tiny``, or the name of a local folder.

    With another vision encoder, that one's name follows: no hub name leads to such a base.
    """
    checkpoint = model.checkpoint if _is_known(model) else Path(model.checkpoint).resolve().name
    encoder = vision_encoder_label(model)
    return checkpoint if encoder is None else f"{checkpoint} with the vision encoder of {encoder}"


def vision_encoder_label(model: Model) -> str | None:
    """The vision encoder in place of the base's own: ``embedded``, a hub name, or the name of a local folder."""
    if model.vision_encoder is None:
        return None
    folder = Path(model.vision_encoder)
    return folder.resolve().name if folder.is_dir() else model.vision_encoder


def origin_of(model: Model) -> str | None:
    """What a base was made from, which decides its licence: a hub name, ``embedded``, ``tiny`` or ``paligemma``.

    None for a local folder that says nothing of it.
    """
    if _is_known(model):
        return model.checkpoint
    folder = Path(model.checkpoint)
    base = _manifest_in(folder).get("base", {})
    if base:
        return base.get("origin") or (base["checkpoint"] if base.get("revision") else None) or _by_sizes(folder)
    return _by_sizes(folder)


def training_of_base(model: Model) -> dict[str, Any] | None:
    """What a local base learned from: ``run``, ``datasets``, and whether these are ``all``. None for other bases."""
    if _is_known(model):
        return None
    manifest = _manifest_in(Path(model.checkpoint))
    if not manifest:
        return _learned(None, {}, everything=False)
    base, data = manifest.get("base", {}), manifest.get("data", {}).get("datasets", {})
    before = [one for one in (base.get("trained"), base.get("projector")) if one is not None]
    return _learned(manifest.get("run"), data, before=before)


def projector_facts(recipe: Recipe, weights: str) -> dict[str, Any] | None:
    """The projector a run started from: its ``sha256``, and what it learned from as ``training_of_base`` tells it.

    It is looked for in the run that its file lies in, and, since such files are copied, in the runs beside the file
    and in the output folder. ``weights``: what the run noted of the weights it began with.
    """
    path = recipe.model.projector
    if path is None:
        return None
    noted = re.search(r"projector sha256 ([0-9a-f]{64})", weights)
    sha256 = noted[1] if noted else _sha256(path)
    unknown = {"sha256": sha256, **_learned(None, {}, everything=False)}
    for file in _candidates(path, recipe.output):
        if not file.is_file() or _sha256(file) != sha256:
            continue
        try:
            run = RunFolder.open(file.parents[2])
        except RadvqaError:
            continue
        names = [stage.name for stage in run.recipe.stages]
        if file.parent.name not in names:
            continue
        stages = run.recipe.stages[: names.index(file.parent.name) + 1]
        data = {name: dataset_facts(run.recipe.datasets[name]) for stage in stages for name in stage.trained_on}
        noted_there = (read_json(run.file("provenance.json"), dict[str, Any]) or {}).get("weights")
        before = [training_of_base(run.recipe.model), projector_facts(run.recipe, str(noted_there))]
        return {"sha256": sha256, **_learned(run.digest, data, before=[one for one in before if one is not None])}
    return unknown


def dataset_facts(entry: Dataset) -> dict[str, Any]:
    """Adapter, options without paths, splits and licence of a data set."""
    adapter = adapter_class(entry.adapter, where="datasets")
    options = {name: value for name, value in entry.options.items() if name != "root" and not _holds_a_path(value)}
    return {
        "adapter": entry.adapter,
        "options": options,
        "splits": entry.splits.model_dump(mode="json") if entry.splits is not None else None,
        "licence": adapter.licence,
        "citation": adapter.citation,
        "homepage": adapter.homepage,
    }


def _holds_a_path(value: Any) -> bool:
    if isinstance(value, str):
        return "/" in value or "\\" in value
    if isinstance(value, Mapping):
        return any(_holds_a_path(one) for pair in value.items() for one in pair)
    return isinstance(value, list | tuple) and any(map(_holds_a_path, value))


def _learned(
    run: str | None,
    datasets: Mapping[str, Any],
    *,
    before: Sequence[Mapping[str, Any]] = (),
    everything: bool = True,
) -> dict[str, Any]:
    together = {name: facts for one in before for name, facts in one["datasets"].items()}
    return {
        "run": run,
        "datasets": together | dict(datasets),
        "all": everything and all(one["all"] for one in before),
    }


def _is_known(model: Model) -> bool:
    return model.is_hub_name or model.checkpoint in BUILT_IN_CHECKPOINTS


def _manifest_in(folder: Path) -> dict[str, Any]:
    return read_json(folder / MANIFEST_FILE, dict[str, Any]) or {}


def _by_sizes(folder: Path) -> str | None:
    config = read_json(folder / "config.json", dict[str, Any]) or {}
    if config.get("model_type") != PALIGEMMA:
        return None
    sizes = read_geometry(folder / "config.json")
    own: dict[str, list[Geometry | None]] = {
        "embedded": [geometry_of(Model(image_size=112)), geometry_of(Model(image_size=224))],
        "tiny": [geometry_of(Model(checkpoint="tiny"))],
    }
    return next((name for name, known in own.items() if sizes in known), PALIGEMMA)


def _candidates(path: Path, output: Path) -> list[Path]:
    inside = [path.resolve()] if path.resolve().match("*/train/*/*.safetensors") else []
    beside = [
        file for folder in (path.resolve().parent, output) for file in folder.glob("*/train/*/projector.safetensors")
    ]
    return [*inside, *sorted(beside)]


def _sha256(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
