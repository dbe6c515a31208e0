"""What a run writes to disk, where, and whether there is room; without torch."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from platformdirs import user_cache_path

from radvqa.cli.check_sizes import StageSize, features_are_cached, learning_of, running_of
from radvqa.cli.finding import Finding
from radvqa.cli.machine import place_of
from radvqa.errors import RunError
from radvqa.models.cost import checkpoint_bytes, download_bytes, feature_bytes, learned_bytes, picture_bytes
from radvqa.models.geometry import Geometry
from radvqa.recipe import Model, Recipe
from radvqa.records import unwritable

GIB = 2**30

PROBE_BYTES = 1 << 20
"""Written to an unnamed file in the output folder, which a full or read-only disk refuses."""


def disk(recipe: Recipe, geometry: Geometry, sizes: Sequence[StageSize], asked_pictures: int) -> list[Finding]:
    """What a run writes and where; a problem where there is too little room.

    ``asked_pictures``: of the splits that are evaluated or looked at.
    """
    cache = user_cache_path("radvqa")
    pictures = sum({name: one.pictures for size in sizes for name, one in size.texts.items()}.values())
    pictures += asked_pictures
    runs: dict[str, float] = {
        "checkpoints": max(
            (checkpoint_bytes(geometry, learning_of(s), kept=s.keep_checkpoints) for s in recipe.stages), default=0
        ),
        "learned weights": sum(learned_bytes(geometry, learning_of(stage)) for stage in recipe.stages),
    }
    caches: dict[str, float] = {"pictures at the model's size": picture_bytes(geometry.vision) * pictures}
    cached = {
        name: one.pictures for size in sizes if features_are_cached(size.stage) for name, one in size.texts.items()
    }
    evicted = 0.0
    if cached:
        most = recipe.feature_cache_gib * GIB
        each = feature_bytes(geometry.vision, running_of(recipe.model, recipe.stages[0]))
        caches["vision features"] = min(most, each * sum(cached.values()))
        # Other features make room once the cache would pass its bound; pictures never do.
        evicted = max(0.0, caches["vision features"] + _folder_bytes(cache / "features") - most)
    needs: list[tuple[str, Path, dict[str, float], float]] = [("output", recipe.output, runs, 0)]
    if pictures:
        needs.append(("caches", cache, caches, evicted))
    if recipe.model.is_hub_name:
        hub = _hub_cache()
        needs.append(
            ("download", hub, {"base weights": download_bytes(geometry)}, _folder_bytes(_place_in(hub, recipe.model)))
        )
    found, taken = [], dict[int, float]()
    for subject, folder, parts, there in needs:
        place, free = place_of(folder)
        need = sum(parts.values())
        # What was downloaded or makes room needs no more of it.
        taken[place] = taken.get(place, 0.0) + max(0.0, need - there)
        told = " and ".join(f"{_size(part)} {what}" for what, part in parts.items())
        fact = f"up to {told} in {folder}; {free / GIB:.1f} GiB free"
        problem = None
        # An output folder that cannot be written at all is told once, as that.
        if taken[place] > free and (subject != "output" or output_folder(folder).problem is None):
            problem = RunError(
                "the disk has too little room for this run",
                where=str(folder),
                expected=f"{taken[place] / GIB:.1f} GiB ({told}{'' if taken[place] <= need else ', and the above'})",
                got=f"{free / GIB:.1f} GiB free",
                fix="make room, or choose another folder: output, XDG_CACHE_HOME for caches, HF_HOME for downloads; "
                "feature_cache_gib and keep_checkpoints bound two of them",
            )
        found.append(Finding(subject=f"disk, {subject}", fact=fact, problem=problem))
    return found


def output_folder(output: Path) -> Finding:
    """Whether the output folder can be written."""
    subject = "output"
    folder = output.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(PROBE_BYTES))
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding(subject=subject, problem=unwritable(output, error))
    return Finding(subject=subject, fact=f"{output}: writable, {free / 2**30:.1f} GiB free")


def _size(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"


def _folder_bytes(folder: Path) -> int:
    return sum(file.lstat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())


def _hub_cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _place_in(hub: Path, model: Model) -> Path:
    return hub / f"models--{model.checkpoint.replace('/', '--')}"
