"""Data sets, one per file, found by convention: ``radvqa.data.<name>`` or a dotted name of the user's own module."""

import inspect
import json
from collections.abc import Mapping
from importlib import import_module
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from radvqa.data.adapter import DatasetAdapter
from radvqa.errors import DataError, RecipeError

DATASETS: tuple[str, ...] = ("phantom", "slake")


def open_dataset(adapter: str, options: Mapping[str, Any], *, name: str | None = None) -> DatasetAdapter:
    """The adapter called ``adapter``, made with ``options`` (its constructor's keyword arguments).

    Args:
        adapter: a name in ``DATASETS``, or the dotted name of a module with ``ADAPTER = <class>``.
        options: plain values as a recipe holds them; each must fit the annotation of its argument.
        name: of the entry under ``datasets``, for messages.

    Raises:
        RecipeError: there is no such adapter, or it does not take these options.
        DataError: the data folder is missing or empty.
    """
    where = f"datasets.{name or 'NAME'}"
    factory = _adapter_class(adapter, where)
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
    return factory(**values)


def _adapter_class(adapter: str, where: str) -> type[DatasetAdapter]:
    own = "." in adapter
    if adapter not in DATASETS and not (own and all(part.isidentifier() for part in adapter.split("."))):
        raise RecipeError(
            f"no data set adapter is called {adapter!r}",
            where=where,
            expected=f"one of {', '.join(DATASETS)}, or the dotted name of your own module with ADAPTER = <class>",
            got=repr(adapter)[:100],
            fix="see `radvqa list datasets`",
        )
    module_name = adapter if own else f"radvqa.data.{adapter}"
    try:
        module = import_module(module_name)
    except (ImportError, SyntaxError) as error:
        raise RecipeError(
            f"the adapter module {module_name!r} cannot be imported",
            where=where,
            got=str(error),
            fix="check the dotted name; the module must be on PYTHONPATH",
        ) from error
    factory = getattr(module, "ADAPTER", None)
    if not (isinstance(factory, type) and issubclass(factory, DatasetAdapter)):
        raise RecipeError(
            f"the module {module_name!r} is no data set adapter",
            where=where,
            expected="ADAPTER = <class>, a subclass of radvqa.DatasetAdapter",
            got="no ADAPTER" if factory is None else f"ADAPTER = {factory!r:.100}",
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


__all__ = ["DATASETS", "DataError", "DatasetAdapter", "open_dataset"]
