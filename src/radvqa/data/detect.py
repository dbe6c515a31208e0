"""Which adapter reads what lies at a path: for commands that are given a folder and no recipe."""

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from radvqa.data import DATASETS, adapter_class, adapter_names, open_dataset
from radvqa.data.adapter import DatasetAdapter
from radvqa.errors import DataError, RadvqaError, RecipeError
from radvqa.recipe import parse_yaml

logger = logging.getLogger(__name__)

EXPORTED, OWN = "exported", "own"
"""Adapters of no data set in particular: one knows its own folders for sure, the other takes what nobody knows."""


def open_path(
    spec: str, *, options: Mapping[str, Any] = {}, for_audit: bool = False
) -> tuple[str, str, DatasetAdapter]:
    """A label for messages and pages, the adapter's name, and the adapter opened.

    The label is the adapter's name, or the name of the folder where that says nothing about the data.

    Args:
        spec: ``PATH``, where every known adapter is asked whether it recognises the layout; or ``NAME=PATH``, where
            NAME is one of ``adapter_names()`` or the dotted name of a module; or ``NAME`` for data that are made.
        options: constructor options beside the path. One written ``NAME.option`` is for the adapter NAME alone; those
            of other adapters are passed over.
        for_audit: also give the options with which the class wants to be audited; ``options`` win over them.

    Raises:
        DataError: nothing is there, no adapter recognises it, or several do.
        RecipeError: there is no adapter of this name, or it does not take these options.
    """
    name, path = _split(spec)
    if name is None:
        name = recognised(Path(path))
    where = f"the data set {spec!r}"
    factory = adapter_class(name, where=where)
    own = {option: value for option, value in options.items() if "." not in option}
    addressed = {
        option.removeprefix(f"{name}."): value for option, value in options.items() if option.startswith(f"{name}.")
    }
    given: dict[str, Any] = {**(factory.audit_options if for_audit else {}), **own, **addressed}
    if path:
        given[_path_option(factory)] = path
    label = name.rpartition(".")[2]
    if name in (EXPORTED, OWN) and path:
        label = Path(path).resolve().name or label
    return label, name, open_dataset(name, given, name=label)


def recognised(path: Path) -> str:
    """The name of the one adapter that recognises the layout of ``path``.

    ``own`` is asked only where no other knows it.

    Raises:
        DataError: nothing is there, no adapter recognises it, or several do.
    """
    if not _is_there(path):
        raise DataError(
            "there is no such folder or file",
            where=str(path),
            expected="the folder of a data set, or NAME=PATH with the name of its adapter",
            got="nothing there",
            fix="correct the path; `radvqa list datasets` shows the names",
        )
    broken: dict[str, str] = {}
    classes = dict(_classes(broken))
    for name, problem in broken.items():
        logger.warning("the data set adapter %s cannot be loaded and was not asked: %s", name, problem)
    if EXPORTED in classes and _recognises(classes[EXPORTED], path):
        return EXPORTED
    found = [name for name, one in classes.items() if name not in (EXPORTED, OWN) and _recognises(one, path)]
    if len(found) > 1:
        raise DataError(
            "several data sets have this layout",
            where=str(path),
            expected="the layout of one data set",
            got=", ".join(found),
            fix=f"say which one it is, such as {found[0]}={path}",
        )
    if not found and OWN in classes and _recognises(classes[OWN], path):
        return OWN
    if not found:
        raise DataError(
            "no data set is laid out like this",
            where=str(path),
            expected="the layout of one of " + ", ".join(classes),
            got=_contents(path),
            fix=f"name the adapter as NAME={path}, or write one: docs/add_a_dataset.md",
        )
    return found[0]


def path_of(spec: str) -> Path | None:
    """The folder or file that ``open_path`` opens for ``spec``; None for data that are made."""
    _, path = _split(spec)
    return Path(path) if path else None


def parse_options(changes: Sequence[str]) -> dict[str, Any]:
    """Constructor options from ``option=value``, where the value is YAML as in a recipe.

    Raises:
        RecipeError: one has no ``=``, or its value is no YAML.
    """
    options: dict[str, Any] = {}
    for change in changes:
        name, separator, text = change.partition("=")
        if not separator or not name:
            raise RecipeError(
                "--set needs option=value",
                where=f"--set {change}",
                expected="for example --set language=en",
                got=change,
                fix="write the option, an equals sign and its value",
            )
        options[name] = parse_yaml(text, where=f"--set {change}")
    return options


def _split(spec: str) -> tuple[str | None, str]:
    """Adapter name or None, and path or ``""``. A path that is there is never taken for NAME=PATH."""
    if _is_there(Path(spec)):
        return None, spec
    name, separator, path = spec.partition("=")
    if separator and all(part.isidentifier() for part in name.replace("-", "_").split(".")):
        return name, path
    if not separator and spec in adapter_names():
        return spec, ""
    return None, spec


def _classes(broken: dict[str, str]) -> Iterator[tuple[str, type[DatasetAdapter]]]:
    """Every adapter that needs no dotted name; a package that cannot be imported is noted in ``broken``."""
    for name in adapter_names():
        try:
            yield name, adapter_class(name, where="installed packages")
        except RadvqaError as error:
            if name in DATASETS:
                raise
            broken[name] = error.got or error.what


def _recognises(factory: type[DatasetAdapter], path: Path) -> bool:
    try:
        return factory.recognises(path)
    except (OSError, ValueError):  # no right to look, or no possible name
        return False


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _path_option(factory: type[DatasetAdapter]) -> str:
    """``root``, or what the adapter calls its first argument."""
    known = list(inspect.signature(factory).parameters)
    return "root" if "root" in known or not known else known[0]


def _contents(path: Path) -> str:
    if not path.is_dir():
        return f"the file {path.name}"
    try:
        entries = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        return error.strerror or str(error)
    return ", ".join(entries[:8]) + (", ..." if len(entries) > 8 else "") if entries else "an empty folder"
