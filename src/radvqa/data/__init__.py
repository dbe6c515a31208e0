"""Data sets, one per file of ``radvqa.data.adapters``, or brought by other packages and the user's own modules."""

import inspect
import json
import pkgutil
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from radvqa.data.adapter import DatasetAdapter
from radvqa.data.splits import RegroupedDataset
from radvqa.errors import DataError, RadvqaError, RecipeError
from radvqa.recipe import Dataset

ENTRY_POINTS = "radvqa.datasets"
"""Group under which an installed package names its adapters: ``my_set = "my_package.my_set:MyDataset"``."""

DATASETS: tuple[str, ...] = tuple(
    sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parent / "adapters")]))
)
"""The built-in data sets: the modules of ``radvqa.data.adapters``."""


def open_dataset(adapter: str, options: Mapping[str, Any], *, name: str | None = None) -> DatasetAdapter:
    """The adapter called ``adapter``, made with ``options`` (its constructor's keyword arguments).

    Args:
        adapter: a name in ``DATASETS``, one that an installed package registers under ``ENTRY_POINTS``, or the dotted
            name of a module with ``ADAPTER = <class>``.
        options: plain values as a recipe holds them; each must fit the annotation of its argument.
        name: of the entry under ``datasets``, for messages.

    Raises:
        RecipeError: there is no such adapter, or it does not take these options.
        DataError: the data folder is missing or empty.
    """
    where = f"datasets.{name or 'NAME'}"
    factory = adapter_class(adapter, where=where)
    known = inspect.signature(factory).parameters
    if unknown := [option for option in options if option not in known]:
        raise RecipeError(
            f"the data set {adapter!r} has no option {unknown[0]!r}",
            where=where,
            expected=f"one of {', '.join(known)}",
            got=f"{unknown[0]}: {options[unknown[0]]!r}",
            fix="correct this entry of the recipe; see `radvqa list datasets`",
        )
    missing = [
        option
        for option, parameter in known.items()
        if parameter.default is inspect.Parameter.empty and option not in options
    ]
    if missing:
        raise RecipeError(
            f"the data set {adapter!r} needs the option {missing[0]!r}",
            where=where,
            expected=f"a value for {', '.join(missing)}",
            got=f"only {', '.join(options)}" if options else "no options",
            fix=f"add it there, or give it as --set {where}.{missing[0]}=VALUE",
        )
    hints = get_type_hints(factory.__init__)
    values = {
        option: _converted(value, hints.get(option, Any), adapter=adapter, where=f"{where}.{option}")
        for option, value in options.items()
    }
    try:
        return factory(**values)
    except RadvqaError as error:
        if error.where is not None:
            raise
        # An adapter does not know under which name the recipe has it.
        raise type(error)(error.what, where=where, expected=error.expected, got=error.got, fix=error.fix) from error


def open_entry(entry: Dataset, *, name: str) -> DatasetAdapter:
    """The data set of one entry of a recipe, with its new splits where it asks for some. Raises like ``open_dataset``.

    Raises:
        DataError: also where the new splits do not fit the published ones.
    """
    adapter = open_dataset(entry.adapter, entry.options, name=name)
    if entry.splits is None:
        return adapter
    return RegroupedDataset(
        adapter,
        pool=entry.splits.pool,
        fractions=entry.splits.fractions,
        seed=entry.splits.seed,
        stratify_by=entry.splits.stratify_by,
        where=f"datasets.{name}.splits",
    )


def adapter_names() -> tuple[str, ...]:
    """Names of all adapters that need no dotted name: built in, then those of installed packages."""
    foreign = sorted({point.name for point in entry_points(group=ENTRY_POINTS)} - set(DATASETS))
    return (*DATASETS, *foreign)


def adapter_class(adapter: str, *, where: str) -> type[DatasetAdapter]:
    """The class called ``adapter``, as ``open_dataset`` finds it; a built-in name wins over one of a package.

    Raises:
        RecipeError: there is no such adapter; ``where`` is named in the message.
    """
    if adapter in DATASETS:
        return _checked(_imported(f"radvqa.data.adapters.{adapter}", where), adapter, where)
    for point in entry_points(group=ENTRY_POINTS):
        if point.name == adapter:
            module_name, _, attribute = point.value.partition(":")
            module = _imported(module_name, where)
            return _checked(module, adapter, where, attribute=attribute or "ADAPTER")
    if "." in adapter and all(part.isidentifier() for part in adapter.split(".")):
        return _checked(_imported(adapter, where), adapter, where)
    raise RecipeError(
        f"no data set adapter is called {adapter!r}",
        where=where,
        expected=f"one of {', '.join(adapter_names())}, or the dotted name of your own module with ADAPTER = <class>",
        got=repr(adapter)[:100],
        fix="see `radvqa list datasets`",
    )


def _imported(module_name: str, where: str) -> Any:
    try:
        return import_module(module_name)
    except (ImportError, SyntaxError) as error:
        raise RecipeError(
            f"the adapter module {module_name!r} cannot be imported",
            where=where,
            got=str(error),
            fix="check the dotted name; the module must be on PYTHONPATH",
        ) from error


def _checked(module: Any, adapter: str, where: str, *, attribute: str = "ADAPTER") -> type[DatasetAdapter]:
    factory = getattr(module, attribute, None)
    if not (isinstance(factory, type) and issubclass(factory, DatasetAdapter)):
        raise RecipeError(
            f"the module {module.__name__!r} is no data set adapter",
            where=where,
            expected=f"{attribute} = <class>, a subclass of radvqa.DatasetAdapter",
            got=f"no {attribute}" if factory is None else f"{attribute} = {factory!r:.100}",
            fix="add this line to the module, or correct the dotted name",
        )
    return factory


def _converted(value: Any, annotation: Any, *, adapter: str, where: str) -> Any:
    """The value as its annotation wants it: lists may become tuples and text a path, but never text a number."""
    try:
        # In JSON mode, since the strict mode for Python objects would refuse even text for a path.
        return TypeAdapter(annotation).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise RecipeError(
            f"an option of the data set {adapter!r} has a wrong value",
            where=".".join([where, *map(str, first["loc"])]),
            expected=first["msg"].removeprefix("Input should be "),
            got=repr(first["input"])[:200],
            fix="correct this key of the recipe; see `radvqa list datasets`",
        ) from error


__all__ = ["DATASETS", "DataError", "DatasetAdapter", "adapter_class", "adapter_names", "open_dataset", "open_entry"]
