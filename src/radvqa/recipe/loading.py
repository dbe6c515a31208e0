"""Recipes from YAML files: overrides from the command line, and messages that name every wrong key."""

import copy
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from radvqa.errors import RecipeError
from radvqa.recipe.experiment import Experiment
from radvqa.recipe.sections import Section, did_you_mean
from radvqa.recipe.synthesis import SynthRecipe
from radvqa.recipe.training import Recipe

R = TypeVar("R", Recipe, SynthRecipe, Experiment)


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a YAML file with `key=value` overrides put on top.

    Args:
        path: YAML file.
        overrides: dotted keys and YAML values, e.g. ``stages.0.epochs=2``.

    Raises:
        RecipeError: the file is missing or no mapping, or keys or values are wrong; all problems are named together.
    """
    return _validated(_values(path, overrides), Recipe, where=str(path))


def load_synth_recipe(path: Path, overrides: Sequence[str] = ()) -> SynthRecipe:
    """The recipe of a synthesis. Takes and raises what ``load_recipe`` does."""
    return _validated(_values(path, overrides), SynthRecipe, where=str(path))


def parse_recipe(values: Mapping[str, Any], *, where: str) -> Recipe:
    """A recipe from plain values. Raises ``RecipeError`` naming every wrong key and value."""
    return _validated(values, Recipe, where=where)


def parse_synth_recipe(values: Mapping[str, Any], *, where: str) -> SynthRecipe:
    """A recipe of a synthesis from plain values. Raises ``RecipeError`` like ``parse_recipe``."""
    return _validated(values, SynthRecipe, where=where)


def load_experiment(path: Path, overrides: Sequence[str] = ()) -> Experiment:
    """An experiment from a YAML file; every cell's recipe is checked. Takes and raises what ``load_recipe`` does."""
    return parse_experiment(_values(path, overrides), where=str(path))


def parse_experiment(values: Mapping[str, Any], *, where: str) -> Experiment:
    """An experiment from plain values. Raises ``RecipeError`` like ``parse_recipe``, for its cells as well."""
    experiment = _validated(values, Experiment, where=where)
    folders: dict[str, str] = {}
    for cell in experiment.cells:
        recipe = cell_recipe(experiment, cell, experiment.seeds[0], where=where)
        twin = folders.setdefault(recipe.model_copy(update={"name": "same"}).digest(), cell)
        if twin != cell:
            raise RecipeError(
                "two cells have the same recipe",
                where=f"{where}, cells {twin} and {cell}",
                fix="change what one of them sets or drops, or take it away",
            )
        for further in experiment.evaluate_on:
            if (further.dataset, further.split) == recipe.evaluated:
                raise RecipeError(
                    "a split is evaluated twice", where=f"{where}, evaluate_on and cell {cell}", got=str(further)
                )
    return experiment


def cell_recipe(experiment: Experiment, cell: str, seed: int, *, where: str = "experiment") -> Recipe:
    """The recipe of one run: the base recipe without the dropped stages, then changed as by ``--set``.

    Raises:
        RecipeError: the cell drops a stage or changes a key that is not there, or its recipe has mistakes.
    """
    place = f"{where}, cell {cell}"
    changes = experiment.cells[cell]
    values: dict[str, Any] = copy.deepcopy({**experiment.recipe, "name": f"{experiment.name}-{cell}", "seed": seed})
    stated = values.get("stages")
    stages: list[Any] = stated if isinstance(stated, list) else []
    names = [stage.get("name") for stage in stages if isinstance(stage, dict)]
    for name in changes.drop:
        if name not in names:
            raise RecipeError(
                "a cell drops a stage that is not there",
                where=place,
                expected=f"one of {', '.join(map(str, names))}",
                got=name,
            )
    if changes.drop:
        values["stages"] = [stage for stage in stages if stage.get("name") not in changes.drop]
    for key, value in changes.set.items():
        _put_at(values, key, copy.deepcopy(value), where=f"{place}, set")
    return _validated(values, Recipe, where=place)


def parse_yaml(text: str, *, where: str) -> Any:
    """The value of a YAML text. Raises ``RecipeError`` if it is no YAML or gives a key twice."""
    try:
        return yaml.load(text, Loader=_Loader)
    # Beside its own errors, PyYAML lets those of int(), date() and the like escape for values such as 2026-13-45.
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        mark = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        problem = (error.problem if isinstance(error, yaml.MarkedYAMLError) else None) or str(error)
        raise RecipeError(
            "not valid YAML",
            where=where if mark is None else f"{where}, line {mark.line + 1}, column {mark.column + 1}",
            expected="YAML with every key once",
            got=" ".join(str(problem).split()),
            fix="correct this place; text with : # [ { or , in it needs quotes",
        ) from error


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML would silently keep the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} is there twice", problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
        return node


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        near = sorted(path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise RecipeError(
            "recipe not found",
            where=str(path),
            expected="a YAML file" + did_you_mean(path.name, [p.name for p in near]),
            fix="see recipes/ or `radvqa list recipes`",
        ) from error
    except (UnicodeDecodeError, OSError) as error:
        raise RecipeError(
            "recipe cannot be read",
            where=str(path),
            expected="a YAML file in UTF-8",
            got=(error.strerror if isinstance(error, OSError) else None) or str(error),
            fix="check the path and its rights, or save the file as UTF-8 text",
        ) from error


def _values(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    values = parse_yaml(_text(path), where=str(path))
    if not isinstance(values, dict):
        raise RecipeError(
            "recipe is not a mapping",
            where=str(path),
            expected="keys and values, such as name: trial",
            got=type(values).__name__,
        )
    for override in overrides:
        _put(values, override)
    return values


def _validated(values: Mapping[str, Any], kind: type[R], *, where: str) -> R:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        errors = error.errors()
        # A bad item also makes its whole list "too short": only the deepest problem is worth telling.
        deepest = [one for one in errors if not any(_is_inside(other["loc"], one["loc"]) for other in errors)]
        problems = [_describe(problem, kind) for problem in deepest]
        raise RecipeError(
            "the recipe has mistakes:\n    " + "\n    ".join(problems),
            where=where,
            fix=f"correct these keys; docs/{kind.page} lists all of them",
        ) from error


def _put(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise RecipeError("--set needs key=value", got=override, expected="for example --set seed=3")
    value = parse_yaml(text, where=f"--set {override}")
    _put_at(values, key, value, where=f"--set {override}")


def _put_at(values: dict[str, Any], key: str, value: Any, *, where: str) -> None:
    *parents, last = key.split(".")
    node: Any = values
    for part in parents:
        place = _place(node, part, key, where)
        node = node.setdefault(place, {}) if isinstance(node, dict) else node[place]
    node[_place(node, last, key, where)] = value


def _place(node: Any, part: str, key: str, where: str) -> str | int:
    """Where ``part`` of a dotted key is in ``node``: a key of a mapping, or the number or name of a list's entry."""
    if isinstance(node, dict):
        return part
    if isinstance(node, list):
        names = [entry.get("name") if isinstance(entry, dict) else None for entry in node]
        if part in names:
            return names.index(part)
        if re.fullmatch("[0-9]{1,9}", part) and int(part) < len(node):
            return int(part)
    raise RecipeError(
        f"{'--set' if where.startswith('--set') else 'set'} cannot reach {key!r}",
        where=where,
        got=f"{part!r} is not a key here",
        fix="docs/recipes.md lists all keys; entries of stages are reached by number or name",
    )


def _describe(problem: Any, kind: type[Section]) -> str:
    location = [part for part in problem["loc"] if part != "function-after"]
    dotted = ".".join(map(str, location))
    if problem["type"] == "extra_forbidden":
        known = list(_section_at(location[:-1], kind).model_fields)
        return f"{dotted}: unknown key{did_you_mean(str(location[-1]), known)}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{dotted}: this key is required"
    shown = "" if problem["type"] == "value_error" else f", got {problem['input']!r:.200}"
    return f"{dotted + ': ' if dotted else ''}{message}{shown}"


def _is_inside(inner: tuple[str | int, ...], outer: tuple[str | int, ...]) -> bool:
    return len(inner) > len(outer) and inner[: len(outer)] == outer


def _section_at(location: Sequence[str | int], kind: type[Section]) -> type[BaseModel]:
    section: Any = kind
    for part in location:
        if isinstance(part, str) and part in section.model_fields:
            section = _inner_model(section.model_fields[part].annotation)
    return section if isinstance(section, type) and issubclass(section, BaseModel) else kind


def _inner_model(annotation: Any) -> Any:
    if get_origin(annotation) is None:
        return annotation
    models = [_inner_model(argument) for argument in get_args(annotation)]
    return next((model for model in models if isinstance(model, type) and issubclass(model, BaseModel)), annotation)
