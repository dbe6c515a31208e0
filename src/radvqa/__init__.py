"""Adapt a lightweight vision-language model to radiology VQA, evaluate it honestly, see what it looks at.

Research tool, not for clinical use. The public names below are imported at first use, so that ``import radvqa`` and
the light command-line verbs stay fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from radvqa.data import DatasetAdapter, open_dataset
    from radvqa.data.adapter import Reading
    from radvqa.errors import DataError, ModelError, RadvqaError, RecipeError, RunError, TrainError
    from radvqa.recipe import Recipe, load_recipe
    from radvqa.records import read_records, write_records
    from radvqa.run.folder import RunFolder
    from radvqa.sample import Prediction, Region, Reject, VqaSample

_MODULE_OF = {
    "DataError": "radvqa.errors",
    "DatasetAdapter": "radvqa.data",
    "ModelError": "radvqa.errors",
    "Prediction": "radvqa.sample",
    "RadvqaError": "radvqa.errors",
    "Reading": "radvqa.data.adapter",
    "Recipe": "radvqa.recipe",
    "RecipeError": "radvqa.errors",
    "Region": "radvqa.sample",
    "Reject": "radvqa.sample",
    "RunError": "radvqa.errors",
    "RunFolder": "radvqa.run.folder",
    "TrainError": "radvqa.errors",
    "VqaSample": "radvqa.sample",
    "load_recipe": "radvqa.recipe",
    "open_dataset": "radvqa.data",
    "read_records": "radvqa.records",
    "write_records": "radvqa.records",
}

__all__ = [
    "DataError",
    "DatasetAdapter",
    "ModelError",
    "Prediction",
    "RadvqaError",
    "Reading",
    "Recipe",
    "RecipeError",
    "Region",
    "Reject",
    "RunError",
    "RunFolder",
    "TrainError",
    "VqaSample",
    "load_recipe",
    "open_dataset",
    "read_records",
    "write_records",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("radvqa")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'radvqa' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
