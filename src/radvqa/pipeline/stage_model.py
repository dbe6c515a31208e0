"""The model of a run as it was before its first stage, after one of them, or finished."""

from pathlib import Path
from typing import Final

from radvqa.errors import RecipeError
from radvqa.explain.cases import ExplainedModel
from radvqa.explain.mask_check import require_prefix_mask
from radvqa.models.opening import open_vlm
from radvqa.models.vlm import Vlm
from radvqa.recipe import Recipe
from radvqa.run.folder import RunFolder
from radvqa.run.progress import Progress
from radvqa.run.provenance import digest_files
from radvqa.train.weights import load_weights

BASE: Final = "base"
"""The stage before the first: the checkpoint as it was opened."""


def stage_number(recipe: Recipe, stage: str) -> int:
    """How many stages' weights the model of a stage has; all of them for ``""``.

    Raises:
        RecipeError: the recipe has no such stage.
    """
    names = [one.name for one in recipe.stages]
    if stage == "":
        return len(names)
    if stage == BASE:
        return 0
    if stage not in names:
        raise RecipeError(
            "the run has no such stage", where="--stage", expected=", ".join((BASE, *names)), got=repr(stage)
        )
    return names.index(stage) + 1


def is_finished_model(recipe: Recipe, stage: str) -> bool:
    """Whether this stage is the last one. Raises ``RecipeError`` like ``stage_number``."""
    return stage_number(recipe, stage) == len(recipe.stages)


def open_stage(folder: RunFolder, number: int, *, progress: Progress) -> Vlm:
    """The model as it was after the first ``number`` stages. Raises ``TrainError`` where one of them is not trained."""
    recipe = folder.recipe
    vlm = open_vlm(recipe.model, say=progress.say)
    for index, stage in enumerate(recipe.stages[:number]):
        load_weights(vlm, stage, folder.file(f"train/{stage.name}"), seed=recipe.seed + index)
    return vlm


def stage_weights(folder: RunFolder, vlm: Vlm, number: int) -> str:
    """The base and what the first stages have left, as ``radvqa.pipeline.subject.run_weights`` says it of all."""
    learnt = [
        path
        for stage in folder.recipe.stages[:number]
        for path in sorted(folder.file(f"train/{stage.name}").rglob("*.safetensors"))
        if "state" not in path.relative_to(folder.path).parts
    ]
    return ", ".join([vlm.digest, *(f"sha256 {one}" for one in digest_files(learnt).values())])


def explained_model(folder: RunFolder, vlm: Vlm, number: int) -> ExplainedModel:
    """What a case says of the run's model after its first ``number`` stages, whose mask is tested here.

    Raises:
        ModelError: its attention does not have the prefix mask of its layout, so no map of it would be right.
    """
    require_prefix_mask(vlm)
    recipe = folder.recipe
    return ExplainedModel(
        # Cases are shown and passed on: a folder is named without its place.
        name=recipe.model.checkpoint if vlm.revision else Path(recipe.model.checkpoint).name,
        weights=stage_weights(folder, vlm, number),
        run=folder.path.resolve().name,
        stage="" if number == len(recipe.stages) else (BASE, *(one.name for one in recipe.stages))[number],
        decoding=f"greedy, at most {recipe.evaluate.max_new_tokens} new tokens",
    )
