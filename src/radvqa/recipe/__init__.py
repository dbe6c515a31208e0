"""Recipes: everything a run or a synthesis does, as one validated, frozen value. Read and checked without torch."""

from radvqa.recipe.experiment import Cell, Experiment, Transfer, Trend
from radvqa.recipe.loading import (
    cell_recipe,
    load_experiment,
    load_recipe,
    load_synth_recipe,
    parse_experiment,
    parse_recipe,
    parse_synth_recipe,
    parse_yaml,
)
from radvqa.recipe.sections import Dataset, Splits, StoredRecipe
from radvqa.recipe.synthesis import Generator, Screens, SynthRecipe
from radvqa.recipe.training import (
    BUILT_IN_CHECKPOINTS,
    Anneal,
    Aspect,
    Evaluate,
    Explain,
    Layout,
    Lora,
    Model,
    PartName,
    Recipe,
    Source,
    Stage,
    Watch,
)

__all__ = [
    "BUILT_IN_CHECKPOINTS",
    "Anneal",
    "Aspect",
    "Cell",
    "Dataset",
    "Evaluate",
    "Experiment",
    "Explain",
    "Generator",
    "Layout",
    "Lora",
    "Model",
    "PartName",
    "Recipe",
    "Screens",
    "Source",
    "Splits",
    "Stage",
    "StoredRecipe",
    "SynthRecipe",
    "Transfer",
    "Trend",
    "Watch",
    "cell_recipe",
    "load_experiment",
    "load_recipe",
    "load_synth_recipe",
    "parse_experiment",
    "parse_recipe",
    "parse_synth_recipe",
    "parse_yaml",
]
