"""Data sets, one per file, found by convention: ``radvqa.data.<name>`` or a dotted name of the user's own module."""

import inspect
from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

from radvqa.data.adapter import DatasetAdapter
from radvqa.errors import DataError, RecipeError

DATASETS: tuple[str, ...] = ("phantom", "slake")


def open_dataset(adapter: str, options: Mapping[str, Any]) -> DatasetAdapter:
    """The adapter called ``adapter``, made with ``options`` (its constructor's keyword arguments).

    Raises:
        RecipeError: there is no such adapter, or it does not take these options.
        DataError: the data folder is missing or empty.
    """
    module_name = adapter if "." in adapter else f"radvqa.data.{adapter}"
    if "." not in adapter and adapter not in DATASETS:
        raise RecipeError(
            f"no data set adapter is called {adapter!r}",
            expected=f"one of {', '.join(DATASETS)}, or the dotted name of your own module with ADAPTER = <class>",
            fix="see `radvqa list datasets`",
        )
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        raise RecipeError(
            f"the adapter module {module_name!r} cannot be imported", got=str(error), fix="check the dotted name"
        ) from error
    factory = module.ADAPTER
    known = inspect.signature(factory).parameters
    if unknown := [name for name in options if name not in known]:
        raise RecipeError(
            f"the data set {adapter!r} has no option {unknown[0]!r}",
            expected=f"one of {', '.join(known)}",
            fix=f"correct the entry under datasets that uses adapter {adapter!r}",
        )
    missing = [
        name
        for name, parameter in known.items()
        if parameter.default is inspect.Parameter.empty and name not in options
    ]
    if missing:
        raise RecipeError(
            f"the data set {adapter!r} needs the option {missing[0]!r}",
            fix=f"add it under datasets, or give it as --set datasets.NAME.{missing[0]}=VALUE",
        )
    return cast(DatasetAdapter, factory(**options))


__all__ = ["DATASETS", "DataError", "DatasetAdapter", "open_dataset"]
